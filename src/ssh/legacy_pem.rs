//! PEM files that are encrypted as OpenSSL did it before PKCS#8 (RFC 1421 headers): what `openssl rsa -aes256` writes.

use aws_lc_rs::cipher::{
    AES_128, AES_128_KEY_LEN, AES_256, AES_256_KEY_LEN, Algorithm, DecryptionContext, PaddedBlockDecryptingKey,
    UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use zeroize::Zeroizing;

/// Bytes of the initialisation vector, of which the first half salts the key.
const IV: usize = 16;
const SALT: usize = 8;

/// An encrypted block.
pub(super) struct Encrypted<'t> {
    /// `RSA PRIVATE KEY`, `EC PRIVATE KEY`
    label: &'t str,
    cipher: &'t str,
    iv: &'t str,
    content: String,
}

/// Why it cannot be opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// Not a cipher that is known here.
    Cipher(String),
    /// The passphrase is wrong, or the file is broken.
    Passphrase,
}

impl<'t> Encrypted<'t> {
    /// The first private key in a file, if it is encrypted so.
    pub(super) fn find(text: &'t str) -> Option<Self> {
        let mut lines = text.lines().map(str::trim);
        let is_key = |line: &&str| line.starts_with("-----BEGIN ") && line.ends_with(" PRIVATE KEY-----");
        let label = lines.find(is_key)?.strip_prefix("-----BEGIN ")?.strip_suffix("-----")?;
        if lines.next()? != "Proc-Type: 4,ENCRYPTED" {
            return None;
        }
        let (cipher, iv) = lines.next()?.strip_prefix("DEK-Info: ")?.split_once(',')?;
        let content = lines.take_while(|line| !line.starts_with("-----END ")).collect();
        Some(Self { label, cipher, iv, content })
    }

    /// The same file in clear.
    pub(super) fn decrypt(&self, passphrase: &str) -> Result<Zeroizing<String>, Closed> {
        let (algorithm, length): (&'static Algorithm, _) = match self.cipher {
            "AES-128-CBC" => (&AES_128, AES_128_KEY_LEN),
            "AES-256-CBC" => (&AES_256, AES_256_KEY_LEN),
            other => return Err(Closed::Cipher(other.escape_default().to_string())),
        };
        let iv = hexadecimal(self.iv).ok_or(Closed::Passphrase)?;
        let key = key(passphrase, iv.get(..SALT).unwrap_or_default(), length);
        let mut content = Zeroizing::new(STANDARD.decode(&self.content).map_err(|_| Closed::Passphrase)?);
        let key = UnboundCipherKey::new(algorithm, &key).and_then(PaddedBlockDecryptingKey::cbc_pkcs7);
        let key = key.map_err(|_| Closed::Passphrase)?;
        let context = DecryptionContext::Iv128(FixedLength::from(iv));
        let opened = key.decrypt(&mut content, context).map_err(|_| Closed::Passphrase)?;
        let label = self.label;
        let opened = Zeroizing::new(STANDARD.encode(opened));
        Ok(Zeroizing::new(format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", *opened)))
    }
}

/// OpenSSL's EVP_BytesToKey with MD5 and one round: all there is between a passphrase and such a key.
fn key(passphrase: &str, salt: &[u8], length: usize) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(Vec::with_capacity(length + IV));
    let mut block = Zeroizing::new(Vec::new());
    while key.len() < length {
        let digest = Md5::new().chain_update(&*block).chain_update(passphrase).chain_update(salt).finalize();
        *block = digest.to_vec();
        key.extend_from_slice(&block);
    }
    key.truncate(length);
    key
}

fn hexadecimal(text: &str) -> Option<[u8; IV]> {
    let mut bytes = [0; IV];
    if text.len() != 2 * IV || !text.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}
