//! Which algorithms are offered to a backend, and in which order (RFC 4253 §7.1; RFC 8332, RFC 8268, RFC 8731,
//! draft-ietf-sshm-mlkem-hybrid-kex, OpenSSH PROTOCOL §1.5 to 1.10).
//!
//! No SHA-1 anywhere, no CBC, no compression.

use std::borrow::Cow;

use russh::keys::{Algorithm, EcdsaCurve, HashAlg};
use russh::{Preferred, cipher, compression, kex, mac};

use super::known_hosts::KeyType;

/// Hybrid post-quantum first, then elliptic curves, then the fixed groups of at least 2048 bits.
const KEY_EXCHANGE: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::ECDH_SHA2_NISTP256,
    kex::ECDH_SHA2_NISTP384,
    kex::ECDH_SHA2_NISTP521,
    kex::DH_G16_SHA512,
    kex::DH_G18_SHA512,
    kex::DH_G14_SHA256,
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    // Strict key exchange: the answer to Terrapin (CVE-2023-48795).
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
];

/// AES-GCM costs half the CPU of ChaCha20-Poly1305 and of CTR with HMAC; 128 bits suffice and are the cheapest.
const CIPHERS: &[cipher::Name] = &[
    cipher::AES_128_GCM,
    cipher::AES_256_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_128_CTR,
    cipher::AES_192_CTR,
    cipher::AES_256_CTR,
];

/// For CTR only: the others authenticate by themselves. Encrypt-then-MAC first.
const MACS: &[mac::Name] = &[mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM, mac::HMAC_SHA256, mac::HMAC_SHA512];

/// Files are mostly compressed already, and compression tells lengths apart.
const COMPRESSION: &[compression::Name] = &[compression::NONE];

/// The offer to a server that is asked for keys of these types, and for host certificates where an authority is known.
pub(super) fn preferred(key_types: &[KeyType], certificates: bool) -> Preferred {
    let key: Vec<Algorithm> = key_types.iter().flat_map(|key_type| signature_algorithms(*key_type)).cloned().collect();
    Preferred {
        kex: Cow::Borrowed(KEY_EXCHANGE),
        host_key_certificates: if certificates { Cow::Owned(key.clone()) } else { Cow::Borrowed(&[]) },
        key: Cow::Owned(key),
        cipher: Cow::Borrowed(CIPHERS),
        mac: Cow::Borrowed(MACS),
        compression: Cow::Borrowed(COMPRESSION),
    }
}

/// Is a signature of this algorithm one to rely on? Not DSA, not RSA with SHA-1.
pub(super) fn is_safe_signature(algorithm: &Algorithm) -> bool {
    KeyType::of(algorithm).is_some_and(|key_type| signature_algorithms(key_type).contains(algorithm))
}

/// The signatures a key of this type can give. RSA without SHA-1 (RFC 8332).
fn signature_algorithms(key_type: KeyType) -> &'static [Algorithm] {
    match key_type {
        KeyType::Ed25519 => &[Algorithm::Ed25519],
        KeyType::EcdsaP256 => &[Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 }],
        KeyType::EcdsaP384 => &[Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 }],
        KeyType::EcdsaP521 => &[Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 }],
        KeyType::Rsa => {
            &[Algorithm::Rsa { hash: Some(HashAlg::Sha512) }, Algorithm::Rsa { hash: Some(HashAlg::Sha256) }]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_no_sha1() {
        let preferred = preferred(&KeyType::ALL, true);
        let mut names: Vec<String> = preferred.key.iter().map(ToString::to_string).collect();
        names.extend(preferred.host_key_certificates.iter().map(Algorithm::to_certificate_type));
        names.extend(preferred.kex.iter().map(|name| name.as_ref().to_owned()));
        names.extend(preferred.mac.iter().map(|name| name.as_ref().to_owned()));
        assert!(names.iter().all(|name| !name.contains("sha1") && name != "ssh-rsa" && name != "ssh-dss"), "{names:?}");
        assert!(names.contains(&"rsa-sha2-512".to_owned()));
        assert!(names.contains(&"rsa-sha2-256-cert-v01@openssh.com".to_owned()));
    }

    #[test]
    fn asks_for_the_first_key_type_first() {
        let preferred = preferred(&[KeyType::Rsa, KeyType::Ed25519], false);
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
}
