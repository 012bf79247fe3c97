//! Is this the right server? The verdict on a host key, by known_hosts, pinned fingerprints and host certificates
//! (OpenSSH PROTOCOL.certkeys).
//!
//! SECURITY: there is no way to accept just any key, and none to learn one. The verdict falls before authentication
//! begins, so a wrong server is never shown a password.

use std::fmt;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Algorithm, Certificate, HashAlg, PublicKey, PublicKeyOrCertificate};

use super::algorithms;
use super::known_hosts::{KeyType, KnownHosts, KnownHostsError, Line, Marker, glob_matches, lookup_name};
use crate::config::Backend;

/// What makes a host key the right one. At least one source of trust, by construction.
#[derive(Debug, Clone)]
pub struct HostKeyPolicy {
    known_hosts: Option<KnownHosts>,
    pins: Vec<[u8; 32]>,
}

/// Why a policy could not be made.
#[derive(Debug, thiserror::Error)]
pub enum HostKeyPolicyError {
    /// Neither known_hosts nor pins.
    #[error("neither known_hosts nor host_keys is set, so no host key could ever be trusted")]
    NoTrust,
    /// The known_hosts file.
    #[error("known_hosts: {0}")]
    KnownHosts(#[from] KnownHostsError),
}

/// What vouched for a host key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKeyVerdict {
    /// A line of known_hosts lists the key.
    Listed {
        /// Its number.
        line: usize,
    },
    /// Its fingerprint is pinned.
    Pinned,
    /// A valid host certificate, signed by the authority of this line of known_hosts.
    Certified {
        /// Its number.
        line: usize,
    },
}

/// Why a host key is not accepted. Made for the operator: says which key, and which line speaks against it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostKeyError {
    /// Nothing vouches for it.
    #[error("host key of {host} is unknown: {key}")]
    Unknown {
        /// As known_hosts would list it.
        host: String,
        /// What the server showed.
        key: PresentedKey,
    },
    /// known_hosts lists another key of this type.
    #[error("host key of {host} has CHANGED: known_hosts line {line} lists another one than {key}")]
    Changed {
        /// As known_hosts lists it.
        host: String,
        /// What the server showed.
        key: PresentedKey,
        /// The line with the other key.
        line: usize,
    },
    /// A `@revoked` line names it, or the authority that signed its certificate.
    #[error("host key of {host} is revoked by known_hosts line {line}: {key}")]
    Revoked {
        /// As known_hosts lists it.
        host: String,
        /// What the server showed.
        key: PresentedKey,
        /// The line that revokes it.
        line: usize,
    },
    /// The server showed a certificate that does not prove it is this host, and its bare key is not trusted either.
    #[error("host certificate of {host} is not valid: {problem} ({key})")]
    Certificate {
        /// As known_hosts lists it.
        host: String,
        /// What the server showed.
        key: PresentedKey,
        /// What is wrong with the certificate.
        problem: CertificateProblem,
    },
    /// The server proved its key by a SHA-1 signature.
    #[error("{host} signed the key exchange with SHA-1 ({key})")]
    WeakSignature {
        /// As known_hosts lists it.
        host: String,
        /// What the server showed.
        key: PresentedKey,
    },
}

/// What is wrong with a host certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateProblem {
    /// It certifies a user.
    #[error("it is not a host certificate")]
    NotAHost,
    /// No `@cert-authority` line for this host has the key that signed it.
    #[error("no @cert-authority line for this host has the key that signed it")]
    UnknownAuthority,
    /// PROTOCOL.certkeys: a critical option that is not recognised makes the certificate invalid; hosts have none.
    #[error("it has critical options")]
    CriticalOptions,
    /// None of its principals is this host.
    #[error("this host is not among its principals")]
    Principal,
    /// Its validity begins later.
    #[error("it is not valid yet")]
    NotYetValid,
    /// Its validity is over.
    #[error("it has expired")]
    Expired,
    /// Signed with SHA-1 or DSA.
    #[error("it is signed with an algorithm that is no longer safe")]
    WeakSignature,
    /// The signature is not that of the authority.
    #[error("its signature is wrong")]
    Signature,
}

/// A key shown by a server, for messages: type and SHA-256 fingerprint as `ssh-keygen -l` prints them.
#[derive(Clone, PartialEq, Eq)]
pub struct PresentedKey {
    /// Its type; a certificate's type ends in `-cert-v01@openssh.com`.
    pub key_type: String,
    /// SHA-256 of the (bare) key, the form that can be pinned.
    pub fingerprint: [u8; 32],
}

impl fmt::Display for PresentedKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.key_type, fingerprint_text(&self.fingerprint))
    }
}

impl fmt::Debug for PresentedKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl HostKeyPolicy {
    /// Trusts the lines of `known_hosts` and the keys with the fingerprints `pins`.
    ///
    /// # Errors
    /// When there is neither.
    pub fn new(known_hosts: Option<KnownHosts>, pins: Vec<[u8; 32]>) -> Result<Self, HostKeyPolicyError> {
        if known_hosts.is_none() && pins.is_empty() {
            return Err(HostKeyPolicyError::NoTrust);
        }
        Ok(Self { known_hosts, pins })
    }

    /// Reads the known_hosts file of a backend and takes its pins.
    ///
    /// # Errors
    /// When the file cannot be read or has a bad line, or when the backend names neither file nor pins.
    pub fn for_backend(backend: &Backend) -> Result<Self, HostKeyPolicyError> {
        let known_hosts = backend.known_hosts.as_deref().map(KnownHosts::load).transpose()?;
        Self::new(known_hosts, backend.host_keys.clone())
    }

    /// The verdict on what a server at `host`:`port` showed, at `now` (seconds since 1970).
    ///
    /// The caller has checked that the server holds the private key (russh does, before it asks).
    ///
    /// # Errors
    /// When nothing vouches for the key, or something speaks against it.
    pub fn verify(
        &self,
        host: &str,
        port: u16,
        shown: &PublicKeyOrCertificate,
        now: u64,
    ) -> Result<HostKeyVerdict, HostKeyError> {
        let names = Names::new(host, port);
        let public_key = shown.public_key();
        let blob = key_bytes(public_key.key_data());
        let key = || presented(shown);
        let listed_as = || names.exact.clone();

        let authority = shown.certificate().map(|certificate| key_bytes(certificate.signature_key()));
        let revoked = self
            .lines(Marker::Revoked, names.all())
            .find(|line| *line.blob == *blob || authority.as_ref().is_some_and(|authority| *line.blob == **authority));
        if let Some(line) = revoked {
            return Err(HostKeyError::Revoked { host: listed_as(), key: key(), line: line.number });
        }

        let certificate_problem = match shown.certificate() {
            Some(certificate) => match self.check_certificate(certificate, &names, now) {
                Ok(line) => return Ok(HostKeyVerdict::Certified { line }),
                Err(problem) => Some(problem),
            },
            None => None,
        };

        let listed = |name| self.lines(Marker::HostKey, [name]).find(|line| *line.blob == *blob);
        if let Some(line) = listed(&names.exact) {
            return Ok(HostKeyVerdict::Listed { line: line.number });
        }
        if self.pins.contains(&fingerprint(&blob)) {
            return Ok(HostKeyVerdict::Pinned);
        }
        if let Some(problem) = certificate_problem {
            return Err(HostKeyError::Certificate { host: listed_as(), key: key(), problem });
        }
        let key_type = KeyType::of(&public_key.algorithm());
        if let Some(other) = self.lines(Marker::HostKey, [&names.exact]).find(|line| Some(line.key_type) == key_type) {
            return Err(HostKeyError::Changed { host: listed_as(), key: key(), line: other.number });
        }
        // As ssh(1): a host on another port may be listed without its port.
        if let Some(line) = names.without_port.as_ref().and_then(listed) {
            return Ok(HostKeyVerdict::Listed { line: line.number });
        }
        Err(HostKeyError::Unknown { host: listed_as(), key: key() })
    }

    /// PROTOCOL.certkeys, as a client checks a host. Gives the line of the authority.
    fn check_certificate(
        &self,
        certificate: &Certificate,
        names: &Names,
        now: u64,
    ) -> Result<usize, CertificateProblem> {
        if certificate.cert_type() != CertType::Host {
            return Err(CertificateProblem::NotAHost);
        }
        let authority = key_bytes(certificate.signature_key());
        let line = self
            .lines(Marker::CertAuthority, names.all())
            .find(|line| *line.blob == *authority)
            .ok_or(CertificateProblem::UnknownAuthority)?;
        if certificate.critical_options().iter().next().is_some() {
            return Err(CertificateProblem::CriticalOptions);
        }
        // SECURITY: a certificate without principals would be one for every host; it is none of ours.
        let is_this_host =
            |principal: &String| glob_matches(principal.to_ascii_lowercase().as_bytes(), names.host.as_bytes());
        if !certificate.valid_principals().iter().any(is_this_host) {
            return Err(CertificateProblem::Principal);
        }
        if now < certificate.valid_after() {
            return Err(CertificateProblem::NotYetValid);
        }
        if now >= certificate.valid_before() {
            return Err(CertificateProblem::Expired);
        }
        if !algorithms::is_safe_signature(&certificate.signature().algorithm()) {
            return Err(CertificateProblem::WeakSignature);
        }
        // SECURITY: checks the signature over every field above, by the key that is in the @cert-authority line.
        let trusted = certificate.signature_key().fingerprint(HashAlg::Sha256);
        certificate.validate_at(now, [&trusted]).map_err(|_| CertificateProblem::Signature)?;
        Ok(line.number)
    }

    /// The key types to ask a server for, out of those that are wanted, most wanted first: those that known_hosts lists for it lead, because a
    /// server with several keys shows the first that is asked for (as ssh(1) does).
    pub(super) fn key_types(&self, host: &str, port: u16, wanted: &[KeyType]) -> Vec<KeyType> {
        let names = Names::new(host, port);
        let listed =
            |name: &String| -> Vec<KeyType> { self.lines(Marker::HostKey, [name]).map(|line| line.key_type).collect() };
        let mut known = listed(&names.exact);
        if known.is_empty() {
            known = names.without_port.as_ref().map(listed).unwrap_or_default();
        }
        let mut key_types = wanted.to_vec();
        key_types.sort_by_key(|key_type| !known.contains(key_type));
        key_types
    }

    /// Is there an authority whose host certificates could vouch for this host?
    pub(super) fn has_authority(&self, host: &str, port: u16) -> bool {
        self.lines(Marker::CertAuthority, Names::new(host, port).all()).next().is_some()
    }

    /// Are there fingerprints that do not tell the type of their key?
    pub(super) fn has_pins(&self) -> bool {
        !self.pins.is_empty()
    }

    fn lines<'a>(
        &'a self,
        marker: Marker,
        names: impl IntoIterator<Item = &'a String> + 'a,
    ) -> impl Iterator<Item = &'a Line> {
        let matching =
            move |name: &'a String| self.known_hosts.iter().flat_map(move |known_hosts| known_hosts.matching(name));
        names.into_iter().flat_map(matching).filter(move |line| line.marker == marker)
    }
}

/// The names one host goes by.
struct Names {
    /// Lower case, no port: what principals are compared with.
    host: String,
    exact: String,
    without_port: Option<String>,
}

impl Names {
    fn new(host: &str, port: u16) -> Self {
        let (host, exact) = (host.to_ascii_lowercase(), lookup_name(host, port));
        let without_port = (host != exact).then(|| host.clone());
        Self { host, exact, without_port }
    }

    fn all(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.exact).chain(&self.without_port)
    }
}

/// Type and fingerprint of what a server showed.
pub(super) fn presented(shown: &PublicKeyOrCertificate) -> PresentedKey {
    let public_key = shown.public_key();
    let algorithm = public_key.algorithm();
    let key_type = match shown.certificate() {
        Some(_) => algorithm.to_certificate_type(),
        // A key is called ssh-rsa whatever hash signs with it.
        None if matches!(algorithm, Algorithm::Rsa { .. }) => KeyType::Rsa.name().to_owned(),
        None => algorithm.to_string(),
    };
    PresentedKey { key_type, fingerprint: fingerprint(&key_bytes(public_key.key_data())) }
}

/// `SHA256:` and base64 without padding, as `ssh-keygen -l` prints it and `host_keys` takes it.
pub fn fingerprint_text(fingerprint: &[u8; 32]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(fingerprint))
}

/// SHA-256 of a key as RFC 4253 §6.6 encodes it.
fn fingerprint(blob: &[u8]) -> [u8; 32] {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest::digest(&digest::SHA256, blob).as_ref());
    fingerprint
}

/// The key as RFC 4253 §6.6 encodes it. What cannot be encoded (it never is: it was decoded) is equal to no key.
fn key_bytes(key: &KeyData) -> Vec<u8> {
    PublicKey::new(key.clone(), "").to_bytes().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use russh::keys::PrivateKey;
    use russh::keys::key::safe_rng;
    use russh::keys::ssh_key::certificate::Builder;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn new_key(algorithm: Algorithm) -> PrivateKey {
        PrivateKey::random(&mut safe_rng(), algorithm).unwrap()
    }

    fn ed25519() -> PrivateKey {
        new_key(Algorithm::Ed25519)
    }

    fn line(prefix: &str, key: &PrivateKey) -> String {
        format!("{prefix} {}\n", key.public_key().to_openssh().unwrap())
    }

    fn policy(known_hosts: &str) -> HostKeyPolicy {
        HostKeyPolicy::new(Some(KnownHosts::parse(known_hosts.as_bytes()).unwrap()), Vec::new()).unwrap()
    }

    fn bare(key: &PrivateKey) -> PublicKeyOrCertificate {
        key.public_key().clone().into()
    }

    fn certificate(
        host_key: &PrivateKey,
        authority: &PrivateKey,
        change: impl FnOnce(&mut Builder),
    ) -> PublicKeyOrCertificate {
        let mut builder =
            Builder::new_with_random_nonce(&mut safe_rng(), host_key.public_key(), NOW - 10, NOW + 10).unwrap();
        change(&mut builder);
        builder.sign(authority).unwrap().into()
    }

    fn for_host(builder: &mut Builder) {
        builder.cert_type(CertType::Host).unwrap();
        builder.valid_principal("sftp.example.com").unwrap();
    }

    fn problem(result: Result<HostKeyVerdict, HostKeyError>) -> CertificateProblem {
        match result {
            Err(HostKeyError::Certificate { problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_any_source_of_trust_there_is_no_policy() {
        assert!(matches!(HostKeyPolicy::new(None, Vec::new()), Err(HostKeyPolicyError::NoTrust)));
    }

    #[test]
    fn an_empty_file_trusts_nobody() {
        let error = policy("").verify("sftp.example.com", 22, &bare(&ed25519()), NOW).unwrap_err();
        assert!(matches!(error, HostKeyError::Unknown { .. }), "{error}");
    }

    #[test]
    fn accepts_a_listed_key_and_tells_a_changed_one() {
        let (key, other) = (ed25519(), ed25519());
        let policy = policy(&format!("# mine\n{}", line("sftp.example.com", &key)));
        assert_eq!(policy.verify("sftp.example.com", 22, &bare(&key), NOW), Ok(HostKeyVerdict::Listed { line: 2 }));
        let error = policy.verify("sftp.example.com", 22, &bare(&other), NOW).unwrap_err();
        assert!(matches!(error, HostKeyError::Changed { line: 2, .. }), "{error}");
        assert!(error.to_string().contains(&fingerprint_text(&presented(&bare(&other)).fingerprint)), "{error}");
    }

    #[test]
    fn a_key_of_another_type_is_unknown_rather_than_changed() {
        let policy = policy(&line("sftp.example.com", &ed25519()));
        let key = new_key(Algorithm::Ecdsa { curve: russh::keys::EcdsaCurve::NistP256 });
        let error = policy.verify("sftp.example.com", 22, &bare(&key), NOW).unwrap_err();
        assert!(matches!(error, HostKeyError::Unknown { .. }), "{error}");
    }

    #[test]
    fn several_keys_of_one_type_are_all_accepted() {
        let (old, new) = (ed25519(), ed25519());
        let policy = policy(&format!("{}{}", line("h", &old), line("h", &new)));
        assert!(policy.verify("h", 22, &bare(&old), NOW).is_ok());
        assert!(policy.verify("h", 22, &bare(&new), NOW).is_ok());
    }

    #[test]
    fn another_port_falls_back_to_the_bare_name_unless_it_is_listed_itself() {
        let (bare_name, with_port) = (ed25519(), ed25519());
        let fallback = policy(&line("h", &bare_name));
        assert!(fallback.verify("h", 2222, &bare(&bare_name), NOW).is_ok());
        let listed = policy(&format!("{}{}", line("h", &bare_name), line("[h]:2222", &with_port)));
        assert!(listed.verify("h", 2222, &bare(&with_port), NOW).is_ok());
        assert!(matches!(listed.verify("h", 2222, &bare(&bare_name), NOW), Err(HostKeyError::Changed { line: 2, .. })));
    }

    #[test]
    fn a_revoked_key_is_refused_whatever_else_vouches_for_it() {
        let key = ed25519();
        let text = format!("{}{}", line("h", &key), line("@revoked *", &key));
        let known_hosts = KnownHosts::parse(text.as_bytes()).unwrap();
        let pin = presented(&bare(&key)).fingerprint;
        let policy = HostKeyPolicy::new(Some(known_hosts), vec![pin]).unwrap();
        for port in [22, 2222] {
            assert!(matches!(policy.verify("h", port, &bare(&key), NOW), Err(HostKeyError::Revoked { line: 2, .. })));
        }
    }

    #[test]
    fn accepts_a_pinned_key_only() {
        let (key, other) = (ed25519(), ed25519());
        let policy = HostKeyPolicy::new(None, vec![presented(&bare(&key)).fingerprint]).unwrap();
        assert_eq!(policy.verify("h", 22, &bare(&key), NOW), Ok(HostKeyVerdict::Pinned));
        assert!(matches!(policy.verify("h", 22, &bare(&other), NOW), Err(HostKeyError::Unknown { .. })));
    }

    #[test]
    fn an_authority_line_does_not_make_its_key_a_host_key() {
        let authority = ed25519();
        let policy = policy(&line("@cert-authority *", &authority));
        assert!(matches!(policy.verify("h", 22, &bare(&authority), NOW), Err(HostKeyError::Unknown { .. })));
    }

    #[test]
    fn accepts_a_certificate_of_the_authority() {
        let (authority, key) = (ed25519(), ed25519());
        let policy = policy(&line("@cert-authority *.example.com", &authority));
        let shown = certificate(&key, &authority, for_host);
        assert_eq!(policy.verify("SFTP.example.com", 22, &shown, NOW), Ok(HostKeyVerdict::Certified { line: 1 }));
        assert!(policy.verify("sftp.example.com", 2222, &shown, NOW).is_ok());
        assert_eq!(problem(policy.verify("sftp.example.org", 22, &shown, NOW)), CertificateProblem::UnknownAuthority);
        assert!(policy.has_authority("sftp.example.com", 2222));
        assert!(!policy.has_authority("sftp.example.org", 22));
    }

    #[test]
    fn refuses_certificates_that_do_not_prove_this_host() {
        let (authority, key) = (ed25519(), ed25519());
        let policy = policy(&line("@cert-authority *", &authority));
        let check = |shown: &PublicKeyOrCertificate, now| problem(policy.verify("sftp.example.com", 22, shown, now));

        let good = certificate(&key, &authority, for_host);
        assert_eq!(check(&good, NOW - 11), CertificateProblem::NotYetValid);
        assert_eq!(check(&good, NOW + 10), CertificateProblem::Expired);
        let other_host = certificate(&key, &authority, |builder| {
            builder.cert_type(CertType::Host).unwrap().valid_principal("sftp.example.org").unwrap();
        });
        assert_eq!(check(&other_host, NOW), CertificateProblem::Principal);
        let every_host = certificate(&key, &authority, |builder| {
            builder.cert_type(CertType::Host).unwrap().all_principals_valid().unwrap();
        });
        assert_eq!(check(&every_host, NOW), CertificateProblem::Principal);
        let user = certificate(&key, &authority, |builder| {
            builder.valid_principal("sftp.example.com").unwrap();
        });
        assert_eq!(check(&user, NOW), CertificateProblem::NotAHost);
        let options = certificate(&key, &authority, |builder| {
            for_host(builder);
            builder.critical_option("force-command", "x").unwrap();
        });
        assert_eq!(check(&options, NOW), CertificateProblem::CriticalOptions);
        let stranger = certificate(&key, &ed25519(), for_host);
        assert_eq!(check(&stranger, NOW), CertificateProblem::UnknownAuthority);
    }

    #[test]
    fn refuses_a_certificate_that_only_names_the_authority() {
        let (authority, key) = (ed25519(), ed25519());
        let policy = policy(&line("@cert-authority *", &authority));
        let PublicKeyOrCertificate::Certificate(good) = certificate(&key, &authority, for_host) else { panic!() };
        // The same certificate for another key: every field but the certified key is the authority's own.
        let stolen = ed25519();
        let mut bytes = good.to_bytes().unwrap();
        let (from, to) = (&key.public_key().to_bytes().unwrap()[19..], &stolen.public_key().to_bytes().unwrap()[19..]);
        let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to);
        let forged = PublicKeyOrCertificate::Certificate(Certificate::from_bytes(&bytes).unwrap());
        assert_eq!(problem(policy.verify("sftp.example.com", 22, &forged, NOW)), CertificateProblem::Signature);
    }

    #[test]
    fn a_revoked_authority_vouches_for_nobody() {
        let (authority, key) = (ed25519(), ed25519());
        let text = format!("{}{}", line("@cert-authority *", &authority), line("@revoked *", &authority));
        let shown = certificate(&key, &authority, for_host);
        assert!(matches!(
            policy(&text).verify("sftp.example.com", 22, &shown, NOW),
            Err(HostKeyError::Revoked { line: 2, .. })
        ));
    }

    #[test]
    fn the_bare_key_of_a_bad_certificate_counts_where_it_is_listed_itself() {
        let (authority, key) = (ed25519(), ed25519());
        let text = format!("{}{}", line("@cert-authority *", &authority), line("sftp.example.com", &key));
        let shown = certificate(&key, &authority, for_host);
        assert_eq!(
            policy(&text).verify("sftp.example.com", 22, &shown, NOW + 100),
            Ok(HostKeyVerdict::Listed { line: 2 })
        );
    }

    #[test]
    fn asks_for_the_listed_key_types_first() {
        let key = new_key(Algorithm::Ecdsa { curve: russh::keys::EcdsaCurve::NistP384 });
        let policy = policy(&line("h", &key));
        assert_eq!(policy.key_types("h", 22, &KeyType::ALL)[0], KeyType::EcdsaP384);
        assert_eq!(policy.key_types("h", 2222, &KeyType::ALL)[0], KeyType::EcdsaP384);
        assert_eq!(policy.key_types("other", 22, &KeyType::ALL), KeyType::ALL);
    }
}
