//! ECDSA keys on P-256 whose private scalar begins with a zero byte, one in 256: OpenSSH leaves that byte out, for numbers are
//! written as short as can be (RFC 4251 §5, mpint), and the SSH library takes what is shorter than 32 bytes for a mistake.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use russh::keys::ssh_key::private::KeypairData;
use russh::keys::ssh_key::{Cipher, PrivateKey};
use zeroize::Zeroizing;

const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";

/// What a key in the format of PROTOCOL.key begins with.
const MAGIC: &[u8] = b"openssh-key-v1\0";

const KEY_TYPE: &[u8] = b"ecdsa-sha2-nistp256";

/// Bytes of a scalar.
const SCALAR: usize = 32;

/// The length that what is encrypted is padded to where nothing is encrypted.
const BLOCK: usize = 8;

/// Such a key, written anew with all 32 bytes and without a passphrase; `None` where it is none, or does not open.
pub(super) fn lengthened(text: &str, passphrase: Option<&str>) -> Option<Zeroizing<String>> {
    let body = text.split_once(BEGIN)?.1.split_once(END)?.0;
    let body: Zeroizing<String> = Zeroizing::new(body.split_whitespace().collect());
    let container = Zeroizing::new(STANDARD.decode(body.as_bytes()).ok()?);
    let mut rest = container.strip_prefix(MAGIC)?;
    for _cipher_kdf_and_its_options in 0..3 {
        string(&mut rest)?;
    }
    // One key.
    rest = rest.strip_prefix(&[0, 0, 0, 1])?;
    let public = string(&mut rest)?;
    let private = match passphrase {
        None => Zeroizing::new(string(&mut rest)?.to_vec()),
        Some(passphrase) => decrypted(text, passphrase)?,
    };

    let (check, mut rest) = private.split_at_checked(8)?;
    let (key_type, curve, point) = (string(&mut rest)?, string(&mut rest)?, string(&mut rest)?);
    let (scalar, comment) = (string(&mut rest)?, string(&mut rest)?);
    if key_type != KEY_TYPE || scalar.len() >= SCALAR {
        return None;
    }
    let mut whole = Zeroizing::new([0; SCALAR]);
    whole.get_mut(SCALAR - scalar.len()..)?.copy_from_slice(scalar);
    let mut private = Zeroizing::new(check.to_vec());
    for part in [key_type, curve, point, whole.as_slice(), comment] {
        push(&mut private, part)?;
    }
    for padding in 1_u8.. {
        if private.len().is_multiple_of(BLOCK) {
            break;
        }
        private.push(padding);
    }
    let mut container = Zeroizing::new(MAGIC.to_vec());
    for part in [&b"none"[..], b"none", b""] {
        push(&mut container, part)?;
    }
    container.extend([0, 0, 0, 1]);
    push(&mut container, public)?;
    push(&mut container, &private)?;
    let body = Zeroizing::new(STANDARD.encode(&container));
    let mut text = Zeroizing::new(format!("{BEGIN}\n"));
    let mut left = body.as_str();
    while !left.is_empty() {
        let (line, rest) = left.split_at_checked(70).unwrap_or((left, ""));
        text.push_str(line);
        text.push('\n');
        left = rest;
    }
    text.push_str(END);
    text.push('\n');
    Some(text)
}

/// What is encrypted in a key, where that is by a cipher without a tag, as OpenSSH's own choice is.
fn decrypted(text: &str, passphrase: &str) -> Option<Zeroizing<Vec<u8>>> {
    let key = PrivateKey::from_openssh(text).ok()?;
    let KeypairData::Encrypted(encrypted) = key.key_data() else { return None };
    let mut bytes = Zeroizing::new(encrypted.clone());
    let cipher: Cipher = key.cipher();
    let (secret, iv) = key.kdf().derive_key_and_iv(cipher, passphrase).ok()?;
    cipher.decrypt(&secret, &iv, &mut bytes, None).ok()?;
    Some(bytes)
}

/// Takes a string (RFC 4251 §5).
fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, behind) = rest.split_first_chunk::<4>()?;
    let (string, behind) = behind.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    *rest = behind;
    Some(string)
}

fn push(to: &mut Vec<u8>, string: &[u8]) -> Option<()> {
    to.extend(u32::try_from(string.len()).ok()?.to_be_bytes());
    to.extend(string);
    Some(())
}
