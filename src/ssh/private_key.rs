//! Private key files: OpenSSH (PROTOCOL.key), and PEM of PKCS#8, PKCS#1 and SEC1, encrypted or not.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::keys::signature::Signer;
use russh::keys::ssh_encoding::Encode;
use russh::keys::ssh_key::private::KeypairData;
use russh::keys::{self, HashAlg};
use zeroize::Zeroizing;

use super::host_key::fingerprint_text;
use super::legacy_pem;
use super::short_scalar;
use crate::config::secret::Secret;

/// Largest key file: RSA of 16384 bits takes 13 KB.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// A private key to log in with, decrypted.
#[derive(Clone)]
pub struct PrivateKey(Arc<keys::PrivateKey>);

/// Why a private key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateKeyError {
    /// The file cannot be read.
    #[error("cannot read private key {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not a key in any form we know.
    #[error("{} is not an OpenSSH or PEM private key", path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        source: Option<keys::Error>,
    },
    /// The key is encrypted and no passphrase was given.
    #[error("private key {} is encrypted and needs a passphrase", path.display())]
    NeedsPassphrase {
        /// The file.
        path: PathBuf,
    },
    /// The passphrase does not open the key.
    #[error("the passphrase does not open private key {}", path.display())]
    WrongPassphrase {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        source: keys::Error,
    },
    /// The key is encrypted in a way we do not know.
    #[error("private key {} is encrypted with {cipher}, which is not supported; `ssh-keygen -p -f` writes it anew", path.display())]
    Cipher {
        /// The file.
        path: PathBuf,
        /// As the file names it.
        cipher: String,
    },
    /// The key does not sign.
    #[error("the private key does not sign")]
    Sign {
        /// What the library said.
        source: keys::ssh_key::Error,
    },
    /// A key type we cannot sign with.
    #[error("private key {} is of type {key_type}, which is not supported", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Its type.
        key_type: String,
    },
}

impl PrivateKey {
    /// Reads and, where needed, decrypts a key file. Decryption is slow by design: not for an async task.
    ///
    /// # Errors
    /// When the file is not a private key that can be used with this passphrase.
    pub fn load(path: &Path, passphrase: Option<&Secret>) -> Result<Self, PrivateKeyError> {
        let path = || path.to_owned();
        let read_error = |source| PrivateKeyError::Read { path: path(), source };
        let file = std::fs::File::open(path()).map_err(read_error)?;
        let mut content = Zeroizing::new(Vec::new());
        file.take(MAX_FILE_BYTES).read_to_end(&mut content).map_err(read_error)?;
        let text =
            std::str::from_utf8(&content).map_err(|_| PrivateKeyError::NotAKey { path: path(), source: None })?;
        let passphrase = passphrase.map(|secret| secret.reveal_text().unwrap_or_default());
        let encrypted = is_encrypted(text);
        if encrypted && passphrase.is_none() {
            return Err(PrivateKeyError::NeedsPassphrase { path: path() });
        }
        // A passphrase for a key that has none is no mistake worth refusing.
        let passphrase = passphrase.filter(|_| encrypted);
        let decoded = match (legacy_pem::Encrypted::find(text), passphrase) {
            (Some(pem), Some(passphrase)) => match pem.decrypt(passphrase) {
                Ok(opened) => keys::decode_secret_key(&opened, None),
                Err(legacy_pem::Closed::Cipher(cipher)) => {
                    return Err(PrivateKeyError::Cipher { path: path(), cipher });
                }
                Err(legacy_pem::Closed::Passphrase) => Err(keys::Error::CouldNotReadKey),
            },
            (_, passphrase) => keys::decode_secret_key(text, passphrase),
        };
        let decoded = decoded.or_else(|error| match short_scalar::lengthened(text, passphrase) {
            Some(text) => keys::decode_secret_key(&text, None),
            None => Err(error),
        });
        let key = decoded.map_err(|source| {
            if encrypted {
                PrivateKeyError::WrongPassphrase { path: path(), source }
            } else {
                PrivateKeyError::NotAKey { path: path(), source: Some(source) }
            }
        })?;
        match key.key_data() {
            KeypairData::Ed25519(_) | KeypairData::Ecdsa(_) | KeypairData::Rsa(_) => Ok(Self(Arc::new(key))),
            _ => Err(PrivateKeyError::Unsupported { path: path(), key_type: key.algorithm().to_string() }),
        }
    }

    /// `SHA256:…` of the public key, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        let fingerprint = self.0.fingerprint(HashAlg::Sha256);
        fingerprint.sha256().map(|bytes| fingerprint_text(&bytes)).unwrap_or_default()
    }

    pub(super) fn key(&self) -> Arc<keys::PrivateKey> {
        Arc::clone(&self.0)
    }

    /// `data` with a signature of it behind (RFC 4252 §7). The hash is for RSA keys; `None` is SHA-1 there.
    pub(super) fn sign_behind(
        &self,
        hash: Option<HashAlg>,
        mut data: Vec<u8>,
    ) -> Result<Vec<u8>, keys::ssh_key::Error> {
        let signature = match self.0.key_data() {
            KeypairData::Rsa(key) => (key, hash).try_sign(&data)?,
            key => key.try_sign(&data)?,
        };
        let mut blob = Vec::new();
        signature.encode(&mut blob)?;
        blob.as_slice().encode(&mut data)?;
        Ok(data)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "<private key {}>", self.fingerprint())
    }
}

/// Does this file need a passphrase? PKCS#8 and PKCS#1 say so in clear; an OpenSSH file names its cipher inside.
fn is_encrypted(text: &str) -> bool {
    if text.contains("-----BEGIN OPENSSH PRIVATE KEY-----") {
        return keys::PrivateKey::from_openssh(text.trim()).is_ok_and(|key| key.is_encrypted());
    }
    let in_ppk = || text.lines().any(|line| line.starts_with("Encryption:") && line.trim() != "Encryption: none");
    text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED") || in_ppk()
}
