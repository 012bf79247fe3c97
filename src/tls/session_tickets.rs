//! Session tickets (RFC 5077, RFC 8446 §4.6.1) under a key that belongs to one control session.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand;
use tokio_rustls::rustls;
use tokio_rustls::rustls::server::{ProducesTickets, StoresServerSessions};
use zeroize::Zeroizing;

/// Lifetime hint in seconds. The key lives as long as its control session; this is the longest RFC 8446 allows.
const LIFETIME_HINT: u32 = 7 * 24 * 60 * 60;

/// Number of the control connection among the issuers of a session's tickets.
const CONTROL: u64 = 0;

/// Data connections whose tickets are remembered as good, the latest: clients keep a handful of tickets (rustls 8).
const REMEMBERED: usize = 128;

/// The ticket key of one control session, and who of its connections issued tickets that may be used.
///
/// A ticket is `issuer || nonce || ciphertext || tag`. It may be used any number of times: FTPS clients replay the one
/// session of their control connection, and early data is off, so a replay gains nothing.
///
/// SECURITY: whoever reaches a passive port gets a handshake, and with a full handshake comes a ticket. Were such a
/// ticket good, a thief who was turned away could come back with it. So the tickets of a data connection count only
/// once it is known to have resumed the session itself.
pub(super) struct SessionTickets {
    key: RandomizedNonceKey,
    /// Contended by the handshakes of one session, which come one after the other.
    issuers: Mutex<Issuers>,
}

#[derive(Default)]
struct Issuers {
    last: u64,
    trusted: VecDeque<u64>,
}

/// One connection of a session, as an issuer of tickets.
pub(super) struct Issuer {
    tickets: Arc<SessionTickets>,
    number: u64,
    issues: bool,
}

impl SessionTickets {
    /// Makes a random key.
    ///
    /// # Errors
    /// When the random source fails.
    pub(super) fn new() -> Result<Arc<Self>, rustls::Error> {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        rand::fill(bytes.as_mut_slice()).map_err(|_| rustls::Error::FailedToGetRandomBytes)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, bytes.as_slice())
            .map_err(|_| rustls::Error::FailedToGetRandomBytes)?;
        Ok(Arc::new(Self { key, issuers: Mutex::default() }))
    }

    /// The control connection: its tickets are good.
    pub(super) fn control(self: &Arc<Self>) -> Issuer {
        Issuer { tickets: Arc::clone(self), number: CONTROL, issues: true }
    }

    /// A new data connection: it takes tickets, and may issue some of its own, which are good after [`Issuer::trust`].
    pub(super) fn data(self: &Arc<Self>, issues: bool) -> Issuer {
        let mut issuers = self.issuers();
        issuers.last += 1;
        Issuer { tickets: Arc::clone(self), number: issuers.last, issues }
    }

    fn is_trusted(&self, issuer: u64) -> bool {
        issuer == CONTROL || self.issuers().trusted.contains(&issuer)
    }

    fn issuers(&self) -> MutexGuard<'_, Issuers> {
        self.issuers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Issuer {
    /// The connection has proved that it belongs to the session.
    pub(super) fn trust(&self) {
        let mut issuers = self.tickets.issuers();
        if issuers.trusted.len() >= REMEMBERED {
            issuers.trusted.pop_front();
        }
        issuers.trusted.push_back(self.number);
    }
}

impl ProducesTickets for Issuer {
    /// Whether tickets are announced and sent; under TLS 1.2 those that come are taken all the same.
    fn enabled(&self) -> bool {
        self.issues
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_HINT
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let issuer = self.number.to_be_bytes();
        let mut sealed = plain.to_vec();
        let nonce = self.tickets.key.seal_in_place_append_tag(Aad::from(issuer), &mut sealed).ok()?;
        let mut ticket = Vec::with_capacity(issuer.len() + NONCE_LEN + sealed.len());
        ticket.extend_from_slice(&issuer);
        ticket.extend_from_slice(nonce.as_ref());
        ticket.append(&mut sealed);
        Some(ticket)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let (issuer, sealed) = cipher.split_first_chunk::<8>()?;
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut opened = sealed.to_vec();
        let length = self.tickets.key.open_in_place(nonce, Aad::from(*issuer), &mut opened).ok()?.len();
        opened.truncate(length);
        self.tickets.is_trusted(u64::from_be_bytes(*issuer)).then_some(opened)
    }
}

/// For connections that resume nothing (`data_tls_resumption: off`): none are made, and none are taken.
#[derive(Debug)]
pub(super) struct NoTickets;

impl ProducesTickets for NoTickets {
    fn enabled(&self) -> bool {
        false
    }

    fn lifetime(&self) -> u32 {
        0
    }

    fn encrypt(&self, _plain: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn decrypt(&self, _cipher: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

impl fmt::Debug for SessionTickets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SessionTickets")
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Issuer").field("number", &self.number).finish_non_exhaustive()
    }
}

/// The store of TLS 1.2 session identifiers as a data connection has it: it may resume what is there and adds nothing,
/// for the same reason.
#[derive(Debug)]
pub(super) struct ReadOnly(pub(super) Arc<dyn StoresServerSessions>);

impl StoresServerSessions for ReadOnly {
    fn put(&self, _key: Vec<u8>, _value: Vec<u8>) -> bool {
        false
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.take(key)
    }

    fn can_cache(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_opens_again_and_again_and_only_under_its_own_key() {
        let ours = SessionTickets::new().unwrap();
        let theirs = SessionTickets::new().unwrap();
        let ticket = ours.control().encrypt(b"state").unwrap();
        assert_eq!(ours.control().decrypt(&ticket).as_deref(), Some(&b"state"[..]));
        assert_eq!(ours.data(true).decrypt(&ticket).as_deref(), Some(&b"state"[..]));
        assert_eq!(theirs.control().decrypt(&ticket), None);
    }

    #[test]
    fn a_ticket_of_a_data_connection_is_good_once_that_has_proved_itself() {
        let tickets = SessionTickets::new().unwrap();
        let (rightful, thief) = (tickets.data(true), tickets.data(true));
        let [good, bad] = [&rightful, &thief].map(|issuer| issuer.encrypt(b"state").unwrap());
        assert_eq!(tickets.data(true).decrypt(&good), None);
        rightful.trust();
        assert_eq!(tickets.data(true).decrypt(&good).as_deref(), Some(&b"state"[..]));
        assert_eq!(tickets.data(true).decrypt(&bad), None);
        // Nor can it be passed off as another's.
        let forged = [good.split_at(8).0, bad.split_at(8).1].concat();
        assert_eq!(tickets.data(true).decrypt(&forged), None);
    }

    #[test]
    fn who_issues_no_tickets_takes_them_all_the_same() {
        let tickets = SessionTickets::new().unwrap();
        let silent = tickets.data(false);
        assert!(!silent.enabled());
        let ticket = tickets.control().encrypt(b"state").unwrap();
        assert_eq!(silent.decrypt(&ticket).as_deref(), Some(&b"state"[..]));
    }

    #[test]
    fn only_so_many_issuers_are_remembered() {
        let tickets = SessionTickets::new().unwrap();
        for _ in 0..REMEMBERED * 2 {
            tickets.data(true).trust();
        }
        assert_eq!(tickets.issuers().trusted.len(), REMEMBERED);
        let ticket = tickets.control().encrypt(b"state").unwrap();
        assert!(tickets.data(true).decrypt(&ticket).is_some());
    }

    #[test]
    fn garbage_is_no_ticket() {
        let tickets = SessionTickets::new().unwrap();
        for length in 0..64 {
            assert_eq!(tickets.control().decrypt(&vec![0; length]), None);
        }
    }
}
