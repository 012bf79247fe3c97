//! Certificates that clients show (RFC 5246 §7.4.6, RFC 8446 §4.4.2): whose count, and what one says.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use tokio_rustls::rustls;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::crypto::aws_lc_rs as provider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};

use super::certificate::pem_reason;
use super::x509::{self, CertificateNames};

/// Most authorities in a bundle: their names are told to every client in the handshake.
const MOST_AUTHORITIES: usize = 200;

/// The authorities of client certificates, and what they have revoked, as they were loaded.
#[derive(Debug, Clone)]
pub struct ClientAuthorities {
    authorities: RootCertStore,
    revoked: Vec<CertificateRevocationListDer<'static>>,
}

/// Why client certificates cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    /// A file could not be read, or is not PEM.
    #[error("cannot read {}: {}", .path.display(), pem_reason(.source))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// The bundle holds nothing, or too much.
    #[error("{} holds {count} {what}, not 1 to {most}", .path.display())]
    Count {
        /// The file.
        path: PathBuf,
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// One of the certificates is none of an authority.
    #[error("{}: certificate {number} is not usable as an authority: {source}", .path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Its place in the file, from 1.
        number: usize,
        /// Why.
        source: rustls::Error,
    },
    /// A revocation list is broken.
    #[error("the revocation lists are not usable: {0}")]
    Revocation(#[source] VerifierBuilderError),
}

impl AuthoritiesError {
    /// Is it the revocation list, and not the bundle of authorities?
    pub fn is_of_revocation(&self, crl: Option<&Path>) -> bool {
        match self {
            Self::Read { path, .. } | Self::Count { path, .. } => Some(path.as_path()) == crl,
            Self::Authority { .. } => false,
            Self::Revocation(_) => true,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Read { .. } | Self::Count { .. } => {
                "PEM files: CERTIFICATE blocks in `tls.client_ca`, X509 CRL blocks in `tls.client_crl`"
            }
            Self::Authority { .. } => "give the certificates of authorities, not those of clients",
            Self::Revocation(_) => {
                "give the lists as the authorities publish them, in PEM: `openssl crl -in FILE -text`"
            }
        }
    }
}

impl ClientAuthorities {
    /// Reads a bundle of authorities and, where there is one, of revocation lists.
    ///
    /// # Errors
    /// When a file cannot be read, or holds nothing of its kind.
    pub fn load(ca: &Path, crl: Option<&Path>) -> Result<Self, AuthoritiesError> {
        let read = |path: &Path| {
            let path = path.to_owned();
            move |source| AuthoritiesError::Read { path, source }
        };
        let certificates =
            CertificateDer::pem_file_iter(ca).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(read(ca))?;
        let count = |path: &Path, what, count| AuthoritiesError::Count {
            path: path.to_owned(),
            what,
            count,
            most: MOST_AUTHORITIES,
        };
        if !(1..=MOST_AUTHORITIES).contains(&certificates.len()) {
            return Err(count(ca, "certificates", certificates.len()));
        }
        let mut authorities = RootCertStore::empty();
        for (index, certificate) in certificates.into_iter().enumerate() {
            authorities.add(certificate).map_err(|source| AuthoritiesError::Authority {
                path: ca.to_owned(),
                number: index + 1,
                source,
            })?;
        }
        let revoked = match crl {
            None => Vec::new(),
            Some(crl) => {
                let lists = CertificateRevocationListDer::pem_file_iter(crl)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .map_err(read(crl))?;
                if !(1..=MOST_AUTHORITIES).contains(&lists.len()) {
                    return Err(count(crl, "revocation lists", lists.len()));
                }
                lists
            }
        };
        let loaded = Self { authorities, revoked };
        // Whether a list can be used is known when a verifier is made of it.
        loaded.verifier(true)?;
        Ok(loaded)
    }

    /// What checks the certificates of clients; a client without one is let through unless it is `required`.
    ///
    /// SECURITY: a certificate that does not count (expired, revoked, of somebody else's authority, not for clients) ends
    /// the handshake in either case; it is never taken for none. Where there are revocation lists, every authority that a
    /// chain leads over must have one, and none may be out of date: who could hide a new list could bring a revoked
    /// certificate back otherwise.
    ///
    /// # Errors
    /// [`AuthoritiesError::Revocation`].
    pub fn verifier(&self, required: bool) -> Result<Arc<dyn ClientCertVerifier>, AuthoritiesError> {
        let provider = Arc::new(provider::default_provider());
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(self.authorities.clone()), provider)
            .with_crls(self.revoked.iter().cloned())
            .enforce_revocation_expiration();
        if !required {
            builder = builder.allow_unauthenticated();
        }
        builder.build().map(|verifier| verifier as _).map_err(AuthoritiesError::Revocation)
    }
}

/// The certificate of a client whose handshake is complete: somebody in `tls.client_ca` vouches for it.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// SHA-256 of it.
    pub fingerprint: [u8; 32],
    der: CertificateDer<'static>,
    /// What came with it to lead to an authority.
    intermediates: Vec<CertificateDer<'static>>,
}

impl ClientCertificate {
    pub(super) fn of(certificate: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Self {
        let mut fingerprint = [0; 32];
        for (byte, digest) in fingerprint.iter_mut().zip(digest::digest(&digest::SHA256, certificate).as_ref()) {
            *byte = *digest;
        }
        let intermediates = intermediates.iter().map(|certificate| certificate.clone().into_owned()).collect();
        Self { fingerprint, der: certificate.clone().into_owned(), intermediates }
    }

    /// Does it count for this verifier, now?
    pub(super) fn is_good_for(&self, verifier: &dyn ClientCertVerifier) -> bool {
        verifier.verify_client_cert(&self.der, &self.intermediates, UnixTime::now()).is_ok()
    }

    /// The names in it. None where it is not understood.
    pub fn names(&self) -> CertificateNames {
        x509::names(&self.der).unwrap_or_default()
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ClientCertificate").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_are_read_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let authority = rcgen::generate_simple_self_signed(vec!["ca.example".to_owned()]).unwrap();
        std::fs::write(path("ca.pem"), authority.cert.pem()).unwrap();
        std::fs::write(path("empty.pem"), "").unwrap();
        std::fs::write(path("crl.pem"), "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n").unwrap();
        assert!(ClientAuthorities::load(&path("ca.pem"), None).is_ok());
        let load = |ca: &str, crl: Option<&str>| {
            let crl = crl.map(path);
            let error = ClientAuthorities::load(&path(ca), crl.as_deref()).unwrap_err();
            (error.is_of_revocation(crl.as_deref()), error.to_string())
        };
        assert!(!load("missing.pem", None).0);
        assert!(load("empty.pem", None).1.contains("holds 0 certificates"));
        assert!(load("ca.pem", Some("empty.pem")).0);
        assert!(load("ca.pem", Some("crl.pem")).1.contains("not usable"));
    }
}
