//! Which algorithms are offered to a backend, and in which order (RFC 4253 §7.1; RFC 8332, RFC 8268, RFC 8731,
//! draft-ietf-sshm-mlkem-hybrid-kex, OpenSSH PROTOCOL §1.5 to 1.10).
//!
//! The names are the configuration's ([`crate::config::algorithms`]); no compression ever.

use std::borrow::Cow;
use std::str::FromStr;

use russh::keys::{Algorithm, EcdsaCurve, HashAlg};
use russh::{Names, Preferred, cipher, compression, kex, mac};

use super::known_hosts::KeyType;
use crate::config::algorithms::Algorithms;

/// Not algorithms, but said in the same list: extensions (RFC 8308), and strict key exchange, the answer to Terrapin
/// (CVE-2023-48795).
const EXTENSIONS: [kex::Name; 2] = [kex::EXTENSION_SUPPORT_AS_CLIENT, kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT];

/// Files are mostly compressed already, and compression tells lengths apart.
const COMPRESSION: &[compression::Name] = &[compression::NONE];

/// The offer to a server that is asked for keys of these types, and for host certificates where an authority is known.
pub(super) fn preferred(algorithms: &Algorithms, key_types: &[KeyType], certificates: bool) -> Preferred {
    let listed: Vec<Algorithm> = algorithms.host_key.iter().filter_map(|name| Algorithm::from_str(name).ok()).collect();
    let of_type = |key_type: &KeyType| {
        let key_type = *key_type;
        listed.iter().filter(move |algorithm| KeyType::of(algorithm) == Some(key_type)).cloned()
    };
    let key: Vec<Algorithm> = key_types.iter().flat_map(of_type).collect();
    let kex = algorithms.kex.iter().filter_map(|name| kex::Name::try_from(*name).ok()).chain(EXTENSIONS).collect();
    Preferred {
        kex: Cow::Owned(kex),
        host_key_certificates: if certificates { Cow::Owned(key.clone()) } else { Cow::Borrowed(&[]) },
        key: Cow::Owned(key),
        cipher: Cow::Owned(algorithms.cipher.iter().filter_map(|name| cipher::Name::try_from(*name).ok()).collect()),
        mac: Cow::Owned(algorithms.mac.iter().filter_map(|name| mac::Name::try_from(*name).ok()).collect()),
        compression: Cow::Borrowed(COMPRESSION),
    }
}

/// The types of host keys that can be asked for, most wanted first.
pub(super) fn key_types(algorithms: &Algorithms) -> Vec<KeyType> {
    let mut key_types = Vec::new();
    for algorithm in algorithms.host_key.iter().filter_map(|name| Algorithm::from_str(name).ok()) {
        key_types.extend(KeyType::of(&algorithm).filter(|key_type| !key_types.contains(key_type)));
    }
    key_types
}

/// Was a signature with this algorithm asked for?
pub(super) fn is_asked_for(algorithms: &Algorithms, algorithm: &Algorithm) -> bool {
    algorithms.host_key.iter().any(|name| Algorithm::from_str(name).is_ok_and(|asked| asked == *algorithm))
}

/// May RSA keys sign with SHA-1?
pub(super) fn allows_sha1(algorithms: &Algorithms) -> bool {
    is_asked_for(algorithms, &Algorithm::Rsa { hash: None })
}

/// Is a signature of this algorithm one to rely on? Not DSA, not RSA with SHA-1.
pub(super) fn is_safe_signature(algorithm: &Algorithm) -> bool {
    matches!(
        algorithm,
        Algorithm::Ed25519
            | Algorithm::Rsa { hash: Some(HashAlg::Sha256 | HashAlg::Sha512) }
            | Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 | EcdsaCurve::NistP384 | EcdsaCurve::NistP521 }
    )
}

/// What was agreed on that Terrapin breaks where key exchange is not strict: ChaCha20-Poly1305, and CBC under
/// encrypt-then-MAC. (CTR under it loses the connection, and nothing silently.)
pub(super) fn broken_by_terrapin(agreed: &Names) -> Option<&'static str> {
    let is_etm = |mac: &mac::Name| mac.as_ref().contains("-etm@");
    if agreed.strict_kex() {
        None
    } else if agreed.cipher == cipher::CHACHA20_POLY1305 {
        Some("chacha20-poly1305@openssh.com")
    } else if agreed.cipher.as_ref().ends_with("-cbc") && (is_etm(&agreed.client_mac) || is_etm(&agreed.server_mac)) {
        Some("CBC with encrypt-then-MAC")
    } else {
        None
    }
}

/// The same algorithms without what Terrapin breaks, for servers that have no strict key exchange.
pub(super) fn without_terrapin(algorithms: &Algorithms) -> Algorithms {
    let mut rest = algorithms.clone();
    rest.cipher.retain(|cipher| !cipher.starts_with("chacha20-"));
    if rest.cipher.iter().any(|cipher| cipher.ends_with("-cbc")) {
        rest.mac.retain(|mac| !mac.contains("-etm@"));
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::algorithms::{CIPHER, HOST_KEY, KEX, MAC};

    fn offered(preferred: &Preferred) -> Vec<String> {
        let mut names: Vec<String> = preferred.key.iter().map(ToString::to_string).collect();
        names.extend(preferred.host_key_certificates.iter().map(Algorithm::to_certificate_type));
        names.extend(preferred.kex.iter().map(|name| name.as_ref().to_owned()));
        names.extend(preferred.cipher.iter().map(|name| name.as_ref().to_owned()));
        names.extend(preferred.mac.iter().map(|name| name.as_ref().to_owned()));
        names
    }

    #[test]
    fn every_name_of_the_configuration_is_one_of_the_library() {
        for name in KEX.known() {
            assert_eq!(kex::Name::try_from(name).map(|known| known.as_ref().to_owned()), Ok(name.to_owned()));
        }
        for name in CIPHER.known() {
            assert_eq!(cipher::Name::try_from(name).map(|known| known.as_ref().to_owned()), Ok(name.to_owned()));
        }
        for name in MAC.known() {
            assert_eq!(mac::Name::try_from(name).map(|known| known.as_ref().to_owned()), Ok(name.to_owned()));
        }
        for name in HOST_KEY.known() {
            assert!(Algorithm::from_str(name).is_ok_and(|known| KeyType::of(&known).is_some()), "{name}");
        }
    }

    #[test]
    fn modern_offers_no_sha1_and_what_is_new_first() {
        let preferred = preferred(&Algorithms::modern(), &KeyType::ALL, true);
        let names = offered(&preferred);
        assert!(names.iter().all(|name| !name.contains("sha1") && name != "ssh-rsa" && name != "ssh-dss"), "{names:?}");
        assert!(names.contains(&"rsa-sha2-512".to_owned()));
        assert!(names.contains(&"rsa-sha2-256-cert-v01@openssh.com".to_owned()));
        // Hybrid post-quantum first, and S-28: strict key exchange.
        assert_eq!(preferred.kex.first(), Some(&kex::MLKEM768X25519_SHA256));
        assert!(names.contains(&"kex-strict-c-v00@openssh.com".to_owned()));
        assert_eq!(key_types(&Algorithms::modern()), KeyType::ALL);
        assert!(!allows_sha1(&Algorithms::modern()) && allows_sha1(&Algorithms::legacy()));
    }

    #[test]
    fn asks_for_the_first_key_type_first() {
        let preferred = preferred(&Algorithms::modern(), &[KeyType::Rsa, KeyType::Ed25519], false);
        let names: Vec<String> = preferred.key.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["rsa-sha2-512", "rsa-sha2-256", "ssh-ed25519"]);
        assert!(preferred.host_key_certificates.is_empty());
    }

    #[test]
    fn sha1_signatures_are_not_safe() {
        assert!(!is_safe_signature(&Algorithm::Rsa { hash: None }));
        assert!(!is_safe_signature(&Algorithm::Dsa));
        assert!(is_safe_signature(&Algorithm::Rsa { hash: Some(HashAlg::Sha256) }));
        assert!(is_safe_signature(&Algorithm::Ed25519));
    }

    #[test]
    fn what_terrapin_breaks_is_left_out() {
        let rest = without_terrapin(&Algorithms::legacy());
        assert!(rest.cipher.contains(&"aes128-ctr") && rest.cipher.contains(&"aes128-cbc"));
        assert!(!rest.cipher.contains(&"chacha20-poly1305@openssh.com"));
        assert_eq!(rest.mac, ["hmac-sha2-256", "hmac-sha2-512", "hmac-sha1"]);
        assert!(without_terrapin(&Algorithms::modern()).mac.contains(&"hmac-sha2-256-etm@openssh.com"));
    }
}
