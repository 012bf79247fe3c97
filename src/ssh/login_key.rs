//! The key that a login of the gateway's is proved with: from a file or in an agent, bare or with an OpenSSH user
//! certificate (OpenSSH PROTOCOL.certkeys).

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use russh::keys::agent::AgentSessionBinding;
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{self, Algorithm, Certificate, HashAlg, PublicKey};

use super::agent::{Agent, AgentError, AgentProblem};
use super::host_key::fingerprint_text;
use super::private_key::{PrivateKey, PrivateKeyError};
use crate::config;

/// Largest file of a public key or certificate: a certificate of RSA keys with many principals takes some 10 KB.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Keys of an agent that are tried where nothing says which: OpenSSH hangs up after six attempts (MaxAuthTries), and
/// one is left for a password.
const MAX_AGENT_KEYS: usize = 5;

/// A key, and who signs with it.
#[derive(Debug, Clone)]
pub struct LoginKey {
    holder: Holder,
    certificate: Option<PathBuf>,
}

#[derive(Debug, Clone)]
enum Holder {
    File(Arc<PrivateKey>),
    Agent { socket: Arc<Path>, public_key: Option<PublicKey> },
}

/// Why a login has no key to be proved with.
#[derive(Debug, thiserror::Error)]
pub enum LoginKeyError {
    /// The private key file.
    #[error(transparent)]
    PrivateKey(#[from] PrivateKeyError),
    /// A file with a public key or a certificate cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file that shall say which key of an agent is meant.
    #[error("{} is neither a public key nor an OpenSSH private key", path.display())]
    NotAPublicKey {
        /// The file.
        path: PathBuf,
    },
    /// The certificate file.
    #[error("certificate {}: {problem}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: UserCertificateProblem,
    },
    /// The agent.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

/// What is wrong with a user certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UserCertificateProblem {
    /// Not a certificate at all.
    #[error("it is not an OpenSSH certificate")]
    NotACertificate,
    /// It certifies a host.
    #[error("it is not a user certificate")]
    NotAUser,
    /// It certifies another key.
    #[error("it is not for this key")]
    OtherKey,
    /// Its validity begins later.
    #[error("it is not valid yet")]
    NotYetValid,
    /// Its validity is over.
    #[error("it has expired")]
    Expired,
}

impl LoginKeyError {
    /// The key of `login` that it is about.
    pub fn key(&self) -> &'static str {
        match self {
            Self::PrivateKey(_) | Self::NotAPublicKey { .. } | Self::Read { .. } => "private_key",
            Self::Certificate { .. } => "certificate",
            Self::Agent(_) => "agent",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::PrivateKey(_) => "an OpenSSH or PEM private key; one with a passphrase needs `login.passphrase`",
            Self::Read { .. } => "let the account that the gateway runs as read it",
            Self::NotAPublicKey { .. } => "beside `agent` it says which of the agent's keys: a .pub file",
            Self::Certificate { problem: UserCertificateProblem::OtherKey, .. } => {
                "`ssh-keygen -lf` shows the key of each; sign the key that is used here"
            }
            Self::Certificate { problem: UserCertificateProblem::Expired, .. } => {
                "have it renewed; the file is read again at each login"
            }
            Self::Certificate { .. } => "`ssh-keygen -s AUTHORITY -I NAME -n USER key.pub` makes key-cert.pub",
            Self::Agent(_) => "`ssh-add -l` with SSH_AUTH_SOCK set to this socket shows what the agent holds",
        }
    }
}

impl LoginKey {
    /// Reads the files of a key. Decryption is slow by design: not for an async task.
    ///
    /// # Errors
    /// When a file is not what it should be. A certificate that is out of date is none of these: it may be renewed.
    pub fn load(key: &config::LoginKey) -> Result<Self, LoginKeyError> {
        let holder = match &key.holder {
            config::KeyHolder::File { path, passphrase } => {
                Holder::File(Arc::new(PrivateKey::load(path, passphrase.as_ref())?))
            }
            config::KeyHolder::Agent { socket, public_key } => {
                let public_key = public_key.as_deref().map(read_public_key).transpose()?;
                Holder::Agent { socket: socket.as_path().into(), public_key }
            }
        };
        let key = Self { holder, certificate: key.certificate.clone() };
        if let Some(path) = &key.certificate {
            key.read_certificate(path)?;
        }
        Ok(key)
    }

    /// A private key alone.
    pub fn of(key: PrivateKey) -> Self {
        Self { holder: Holder::File(Arc::new(key)), certificate: None }
    }

    /// What there is to prove a login with now: the certificate is read, the agent is asked.
    pub(super) async fn identities(
        &self,
        binding: Option<&AgentSessionBinding>,
    ) -> Result<(Signer, Vec<Identity>), LoginKeyError> {
        let certificate = self.certificate.as_deref().map(|path| self.valid_certificate(path)).transpose()?;
        let (socket, public_key) = match &self.holder {
            Holder::File(key) => {
                let identity = match certificate {
                    Some(certificate) => Identity::Certificate(Box::new(certificate)),
                    None => Identity::Key(key.key().public_key().clone()),
                };
                return Ok((Signer::File(Arc::clone(key)), vec![identity]));
            }
            Holder::Agent { socket, public_key } => (socket, public_key),
        };
        // Connected anew each time: an agent may have been started again since.
        let mut agent = Agent::connect(socket, binding).await?;
        let identities = match (certificate, public_key) {
            // An agent may hold the key alone, and leave the certificate to us.
            (Some(certificate), _) => vec![Identity::Certificate(Box::new(certificate))],
            (None, public_key) => {
                let mut identities = agent.identities().await?;
                // As ssh(1): a certificate is there to be used.
                identities.sort_by_key(|identity| matches!(identity, Identity::Key(_)));
                if let Some(public_key) = public_key {
                    identities.retain(|identity| identity.key_data() == public_key.key_data());
                    if identities.is_empty() {
                        return Err(agent.error(AgentProblem::LacksKey(fingerprint_of(public_key))).into());
                    }
                }
                if identities.is_empty() {
                    return Err(agent.error(AgentProblem::Empty).into());
                }
                if identities.len() > MAX_AGENT_KEYS {
                    tracing::debug!(
                        agent = %socket.display(),
                        keys = identities.len(),
                        tried = MAX_AGENT_KEYS,
                        "not every key of the agent is tried: `private_key` or `certificate` says which one is meant"
                    );
                    identities.truncate(MAX_AGENT_KEYS);
                }
                identities
            }
        };
        Ok((Signer::Agent(agent), identities))
    }

    fn valid_certificate(&self, path: &Path) -> Result<Certificate, LoginKeyError> {
        let certificate = self.read_certificate(path)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let problem = match () {
            () if now < certificate.valid_after() => UserCertificateProblem::NotYetValid,
            () if now >= certificate.valid_before() => UserCertificateProblem::Expired,
            () => return Ok(certificate),
        };
        Err(LoginKeyError::Certificate { path: path.to_owned(), problem })
    }

    /// A small local file, read where it is: the next moments of the login are spent in cryptography anyway.
    fn read_certificate(&self, path: &Path) -> Result<Certificate, LoginKeyError> {
        let wrong = |problem| LoginKeyError::Certificate { path: path.to_owned(), problem };
        let text = read(path)?;
        let certificate =
            Certificate::from_openssh(text.trim()).map_err(|_| wrong(UserCertificateProblem::NotACertificate))?;
        if certificate.cert_type() != CertType::User {
            return Err(wrong(UserCertificateProblem::NotAUser));
        }
        let key = match &self.holder {
            Holder::File(key) => Some(key.key().public_key().key_data().clone()),
            Holder::Agent { public_key, .. } => public_key.as_ref().map(|key| key.key_data().clone()),
        };
        if key.is_some_and(|key| key != *certificate.public_key()) {
            return Err(wrong(UserCertificateProblem::OtherKey));
        }
        Ok(certificate)
    }
}

/// A key or certificate to log in with.
#[derive(Debug, Clone)]
pub(super) enum Identity {
    Key(PublicKey),
    Certificate(Box<Certificate>),
}

impl Identity {
    pub(super) fn key_data(&self) -> &KeyData {
        match self {
            Self::Key(key) => key.key_data(),
            Self::Certificate(certificate) => certificate.public_key(),
        }
    }

    pub(super) fn is_rsa(&self) -> bool {
        matches!(self.key_data().algorithm(), Algorithm::Rsa { .. })
    }
}

/// Who signs.
pub(super) enum Signer {
    File(Arc<PrivateKey>),
    Agent(Agent),
}

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
pub(super) enum SignError {
    /// The connection to the server is gone.
    #[error("{0}")]
    Lost(#[from] russh::SendError),
    #[error("{0}")]
    Key(#[from] LoginKeyError),
    #[error("{0}")]
    Signature(#[from] keys::ssh_key::Error),
}

impl russh::Signer for Signer {
    type Error = SignError;

    /// RFC 4252 §7: the signature goes behind what is signed.
    async fn auth_sign(
        &mut self,
        identity: &keys::agent::AgentIdentity,
        hash: Option<HashAlg>,
        data: Vec<u8>,
    ) -> Result<Vec<u8>, SignError> {
        match self {
            Self::File(key) => Ok(key.sign_behind(hash, data)?),
            Self::Agent(agent) => Ok(agent.sign(identity, hash, data).await.map_err(LoginKeyError::Agent)?),
        }
    }
}

fn read(path: &Path) -> Result<String, LoginKeyError> {
    let failed = |source| LoginKeyError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// A public key file, or the public half of an OpenSSH private key, which is in clear even where that is encrypted.
fn read_public_key(path: &Path) -> Result<PublicKey, LoginKeyError> {
    let text = read(path)?;
    let text = text.trim();
    PublicKey::from_openssh(text)
        .or_else(|_| keys::PrivateKey::from_openssh(text).map(|key| key.public_key().clone()))
        .map_err(|_| LoginKeyError::NotAPublicKey { path: path.to_owned() })
}

pub(super) fn fingerprint_of(key: &PublicKey) -> String {
    let fingerprint = key.fingerprint(HashAlg::Sha256);
    fingerprint.sha256().map(|bytes| fingerprint_text(&bytes)).unwrap_or_default()
}

impl fmt::Debug for Signer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::File(_) => "<signer with a key file>",
            Self::Agent(_) => "<signer with an agent>",
        })
    }
}
