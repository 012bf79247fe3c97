//! A secret: a byte string that cannot be printed and is wiped when dropped.

use std::fmt;

use aws_lc_rs::rand;
use zeroize::Zeroizing;

/// A password, passphrase or hash.
///
/// SECURITY: `Debug` shows nothing of it, there is no `Display`, and [`Secret::reveal`] is the only way in, so that
/// `grep reveal` lists every place a secret is used.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// The bytes themselves.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text, where they are UTF-8.
    pub fn reveal_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Covers it, to be kept.
    pub fn seal(self) -> Sealed {
        let mut pad = Zeroizing::new(vec![0; self.0.len()]);
        // Without random bytes it stands there as it is; then no TLS handshake and no SSH login works either.
        let _ = rand::fill(&mut pad);
        Sealed { covered: covered(&self.0, &pad), pad }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("<secret>")
    }
}

/// A secret that is kept for when it is needed again: never itself in memory meanwhile, but as two random byte strings,
/// each of which tells nothing. What leaks a piece of memory leaks no password.
#[derive(Clone)]
pub struct Sealed {
    pad: Zeroizing<Vec<u8>>,
    covered: Zeroizing<Vec<u8>>,
}

impl Sealed {
    /// The secret, for as long as the caller keeps it.
    pub fn open(&self) -> Secret {
        Secret(covered(&self.covered, &self.pad))
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("<secret>")
    }
}

fn covered(bytes: &[u8], pad: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(bytes.iter().zip(pad).map(|(byte, pad)| byte ^ pad).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_not_printed() {
        let secret = Secret::new("Zx9!canary");
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "<secret> Some(<secret>)");
        assert_eq!(secret.reveal_text(), Some("Zx9!canary"));
    }

    #[test]
    fn what_is_sealed_is_not_there_until_it_is_opened() {
        let sealed = Secret::new("Zx9!canary").seal();
        assert_eq!(format!("{sealed:?}"), "<secret>");
        assert_ne!(*sealed.covered, b"Zx9!canary");
        assert_ne!(*sealed.pad, b"Zx9!canary");
        assert_eq!(sealed.clone().open().reveal(), b"Zx9!canary");
        assert_ne!(*Secret::new("Zx9!canary").seal().covered, *sealed.covered);
    }
}
