//! Server certificates: reading PEM files, and choosing one for a ClientHello (RFC 6066 §3 server names).

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tokio_rustls::rustls;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;

/// Why a certificate and key cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file could not be read, or is not PEM.
    #[error("cannot read {}: {}", .path.display(), pem_reason(.source))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// The chain file has no certificate.
    #[error("{} holds no certificate", .0.display())]
    NoCertificate(PathBuf),
    /// The key is not the leaf's.
    #[error("the key does not belong to the first certificate of the file")]
    Mismatch,
    /// rustls cannot use one of the two.
    #[error("not usable: {0}")]
    Unusable(#[source] rustls::Error),
}

impl CertificateError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Read { source: pem::Error::NoItemsFound, .. } => {
                "the key file must hold one PEM block: PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY, not encrypted"
            }
            Self::Read { .. } => "give a PEM file that this process may read",
            Self::NoCertificate(_) => "give a PEM file that begins with the server's own certificate",
            Self::Mismatch => "put the server's own certificate first in the chain, and check that the key is its key",
            Self::Unusable(_) => "use an ECDSA P-256, P-384, Ed25519 or RSA (2048 bits or more) certificate and key",
        }
    }
}

/// Reads a chain (leaf first) and its key, and checks that they belong together.
///
/// # Errors
/// When a file cannot be read, holds nothing of its kind, or the two do not match.
pub fn load(certificate: &Path, key: &Path) -> Result<CertifiedKey, CertificateError> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| CertificateError::Read { path: certificate.to_owned(), source })?;
    if chain.is_empty() {
        return Err(CertificateError::NoCertificate(certificate.to_owned()));
    }
    let private_key =
        PrivateKeyDer::from_pem_file(key).map_err(|source| CertificateError::Read { path: key.to_owned(), source })?;
    CertifiedKey::from_der(chain, private_key, &aws_lc_rs::default_provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => CertificateError::Mismatch,
        other => CertificateError::Unusable(other),
    })
}

/// The certificates of the front, in the order of the configuration.
#[derive(Debug)]
pub(super) struct Certificates {
    all: Vec<Arc<CertifiedKey>>,
}

impl Certificates {
    pub(super) fn new(certificates: Vec<CertifiedKey>) -> Self {
        Self { all: certificates.into_iter().map(Arc::new).collect() }
    }
}

/// The certificates as one session is shown them.
#[derive(Debug)]
pub(super) struct ForSession {
    pub(super) certificates: Arc<Certificates>,
    /// What the client called this host before its handshake (HOST, RFC 7151 §3).
    pub(super) host: Arc<OnceLock<String>>,
}

impl ResolvesServerCert for ForSession {
    /// By name first, then by what the client can verify, then the first: a client that is strict about names will
    /// refuse by itself, and one that is not is served.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable =
            |certificate: &&Arc<CertifiedKey>| certificate.key.choose_scheme(hello.signature_schemes()).is_some();
        let name = hello.server_name().or(self.host.get().map(String::as_str));
        let named = |certificate: &&Arc<CertifiedKey>| name.is_some_and(|name| is_valid_for(certificate, name));
        let all = &self.certificates.all;
        all.iter().filter(usable).find(named).or_else(|| all.iter().find(usable)).or_else(|| all.first()).cloned()
    }
}

fn is_valid_for(certificate: &CertifiedKey, name: &str) -> bool {
    let Ok(name) = ServerName::try_from(name) else { return false };
    certificate
        .end_entity_cert()
        .and_then(ParsedCertificate::try_from)
        .is_ok_and(|leaf| verify_server_name(&leaf, &name).is_ok())
}

/// What a PEM file is not.
pub(super) fn pem_reason(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => "it holds no PEM block of the expected kind".to_owned(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn a_pair_is_loaded_and_a_foreign_key_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let one = rcgen::generate_simple_self_signed(vec!["one.example".to_owned()]).unwrap();
        let two = rcgen::generate_simple_self_signed(vec!["two.example".to_owned()]).unwrap();
        let certificate = write(directory.path(), "one.crt", &one.cert.pem());
        let key = write(directory.path(), "one.key", &one.signing_key.serialize_pem());
        let foreign = write(directory.path(), "two.key", &two.signing_key.serialize_pem());

        let loaded = load(&certificate, &key).unwrap();
        assert!(is_valid_for(&loaded, "one.example"));
        assert!(!is_valid_for(&loaded, "two.example"));
        assert!(matches!(load(&certificate, &foreign), Err(CertificateError::Mismatch)));
        assert!(matches!(load(&key, &key), Err(CertificateError::NoCertificate(_))));
        assert!(matches!(load(&certificate, &certificate), Err(CertificateError::Read { .. })));
        assert!(matches!(load(Path::new("/nonexistent"), &key), Err(CertificateError::Read { .. })));
    }
}
