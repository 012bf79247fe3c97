//! Session tickets (RFC 5077, RFC 8446 §4.6.1) under a key that belongs to one control session.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand;
use tokio_rustls::rustls;
use tokio_rustls::rustls::server::ProducesTickets;
use zeroize::Zeroizing;

/// Lifetime hint in seconds. The key lives as long as its control session; this is the longest RFC 8446 allows.
const LIFETIME_HINT: u32 = 7 * 24 * 60 * 60;

/// Encrypts tickets as `nonce || ciphertext || tag`. A ticket may be used any number of times: FTPS clients replay the
/// one session of their control connection, and early data is off, so a replay gains nothing.
pub(super) struct SessionTickets {
    key: RandomizedNonceKey,
}

impl SessionTickets {
    /// Makes a random key.
    ///
    /// # Errors
    /// When the random source fails.
    pub(super) fn new() -> Result<Self, rustls::Error> {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        rand::fill(bytes.as_mut_slice()).map_err(|_| rustls::Error::FailedToGetRandomBytes)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, bytes.as_slice())
            .map_err(|_| rustls::Error::FailedToGetRandomBytes)?;
        Ok(Self { key })
    }
}

impl ProducesTickets for SessionTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_HINT
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = plain.to_vec();
        let nonce = self.key.seal_in_place_append_tag(Aad::empty(), &mut sealed).ok()?;
        let mut ticket = Vec::with_capacity(NONCE_LEN + sealed.len());
        ticket.extend_from_slice(nonce.as_ref());
        ticket.append(&mut sealed);
        Some(ticket)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = cipher.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut opened = sealed.to_vec();
        let length = self.key.open_in_place(nonce, Aad::empty(), &mut opened).ok()?.len();
        opened.truncate(length);
        Some(opened)
    }
}

impl fmt::Debug for SessionTickets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SessionTickets")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_opens_again_and_again_and_only_under_its_own_key() {
        let ours = SessionTickets::new().unwrap();
        let theirs = SessionTickets::new().unwrap();
        let ticket = ours.encrypt(b"state").unwrap();
        assert_eq!(ours.decrypt(&ticket).as_deref(), Some(&b"state"[..]));
        assert_eq!(ours.decrypt(&ticket).as_deref(), Some(&b"state"[..]));
        assert_eq!(theirs.decrypt(&ticket), None);
    }

    #[test]
    fn garbage_is_no_ticket() {
        let tickets = SessionTickets::new().unwrap();
        for length in 0..64 {
            assert_eq!(tickets.decrypt(&vec![7; length]), None);
        }
    }
}
