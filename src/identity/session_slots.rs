//! How many sessions there may be at once: in all, from one address, and under one name.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Limits;

/// Counts sessions and lets no more begin than there may be. Clones share their counts.
///
/// Its size is bounded by the number of sessions: a count that falls to zero is forgotten.
#[derive(Debug, Clone)]
pub struct SessionSlots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    sessions: usize,
    sessions_per_ip: usize,
    /// Accept loops and ending sessions contend for it, each for one look into a map; nothing waits while it is held.
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    sessions: usize,
    by_address: HashMap<IpAddr, usize>,
    by_user: HashMap<Vec<u8>, usize>,
}

/// Why no further session may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// `limits.sessions`
    #[error("too many sessions")]
    Process,
    /// `limits.sessions_per_ip`
    #[error("too many sessions from this address")]
    Address,
    /// `limits.sessions` of the user.
    #[error("too many sessions of this user")]
    User,
}

/// The place of one connection; dropping it gives the place back.
#[derive(Debug)]
#[must_use = "dropping it gives the place back"]
pub struct ConnectionSlot {
    shared: Arc<Shared>,
    address: IpAddr,
}

/// The place of one logged-in session; dropping it gives the place back.
#[derive(Debug)]
#[must_use = "dropping it gives the place back"]
pub struct UserSlot {
    shared: Arc<Shared>,
    /// `None` where the user has no bound: nothing is counted.
    user: Option<Vec<u8>>,
}

impl SessionSlots {
    /// No session yet.
    pub fn new(limits: &Limits) -> Self {
        Self(Arc::new(Shared {
            sessions: limits.sessions,
            sessions_per_ip: limits.sessions_per_ip,
            counts: Mutex::default(),
        }))
    }

    /// A place for a connection from `address`. An IPv4 address and its IPv6-mapped form (RFC 4291 §2.5.5.2) are one.
    ///
    /// # Errors
    /// [`Full::Process`] or [`Full::Address`].
    pub fn connect(&self, address: IpAddr) -> Result<ConnectionSlot, Full> {
        let address = address.to_canonical();
        let mut counts = self.0.counts();
        if counts.sessions >= self.0.sessions {
            return Err(Full::Process);
        }
        if !take(&mut counts.by_address, address, self.0.sessions_per_ip) {
            return Err(Full::Address);
        }
        counts.sessions += 1;
        Ok(ConnectionSlot { shared: Arc::clone(&self.0), address })
    }

    /// A place under the name that a client logged in with, of which there are `maximum`; `None` is no bound.
    ///
    /// # Errors
    /// [`Full::User`].
    pub fn log_in(&self, user: &[u8], maximum: Option<u32>) -> Result<UserSlot, Full> {
        let shared = Arc::clone(&self.0);
        let Some(maximum) = maximum else { return Ok(UserSlot { shared, user: None }) };
        let maximum = usize::try_from(maximum).unwrap_or(usize::MAX);
        if !take(&mut self.0.counts().by_user, user.to_vec(), maximum) {
            return Err(Full::User);
        }
        Ok(UserSlot { shared, user: Some(user.to_vec()) })
    }

    /// Connections at this moment.
    pub fn sessions(&self) -> usize {
        self.0.counts().sessions
    }
}

impl Shared {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        // No panic is possible between lock and unlock, so a poisoned lock would hold sound counts all the same.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut counts = self.shared.counts();
        counts.sessions = counts.sessions.saturating_sub(1);
        give_back(&mut counts.by_address, &self.address);
    }
}

impl Drop for UserSlot {
    fn drop(&mut self) {
        if let Some(user) = &self.user {
            give_back(&mut self.shared.counts().by_user, user);
        }
    }
}

fn take<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K, maximum: usize) -> bool {
    let taken = counts.get(&key).copied().unwrap_or(0);
    let is_free = taken < maximum;
    if is_free {
        counts.insert(key, taken + 1);
    }
    is_free
}

fn give_back<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    match counts.get_mut(key) {
        Some(taken) if *taken > 1 => *taken -= 1,
        _ => drop(counts.remove(key)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slots(sessions: usize, sessions_per_ip: usize) -> SessionSlots {
        SessionSlots::new(&Limits { sessions, sessions_per_ip, failed_logins_per_session: 3, transfer_window: 4 << 20 })
    }

    fn address(last: u8) -> IpAddr {
        [127, 0, 0, last].into()
    }

    #[test]
    fn the_process_is_full() {
        let slots = slots(2, 2);
        let first = slots.connect(address(1)).unwrap();
        let _second = slots.connect(address(2)).unwrap();
        assert_eq!(slots.connect(address(3)).unwrap_err(), Full::Process);
        drop(first);
        assert!(slots.connect(address(3)).is_ok());
    }

    #[test]
    fn an_address_is_full_in_either_form() {
        let slots = slots(10, 1);
        let first = slots.connect(address(1)).unwrap();
        assert_eq!(slots.connect("::ffff:127.0.0.1".parse().unwrap()).unwrap_err(), Full::Address);
        let _other = slots.connect(address(2)).unwrap();
        drop(first);
        assert!(slots.connect("::ffff:127.0.0.1".parse().unwrap()).is_ok());
    }

    #[test]
    fn a_user_is_full_and_another_is_not() {
        let slots = slots(10, 10);
        let first = slots.log_in(b"acme", Some(1)).unwrap();
        assert_eq!(slots.log_in(b"acme", Some(1)).unwrap_err(), Full::User);
        let _other = slots.log_in(b"Acme", Some(1)).unwrap();
        let _unbounded = slots.log_in(b"acme", None).unwrap();
        drop(first);
        assert!(slots.log_in(b"acme", Some(1)).is_ok());
    }

    proptest! {
        #[test]
        fn counts_follow_the_slots_that_live(steps in prop::collection::vec((0_u8..3, 0_u8..4, 0_usize..8), 0..60)) {
            let slots = slots(6, 3);
            let (mut connections, mut logins) = (Vec::new(), Vec::new());
            for (step, which, index) in steps {
                match step {
                    0 => connections.extend(slots.connect(address(which))),
                    1 => logins.extend(slots.log_in(&[which], Some(2))),
                    _ => {
                        if index < connections.len() { drop(connections.swap_remove(index)); }
                        if index < logins.len() { drop(logins.swap_remove(index)); }
                    }
                }
                prop_assert_eq!(slots.sessions(), connections.len());
                prop_assert!(connections.len() <= 6 && logins.len() <= 8);
                let counts = slots.0.counts();
                prop_assert!(counts.by_address.values().all(|count| (1..=3).contains(count)));
                prop_assert!(counts.by_user.values().all(|count| (1..=2).contains(count)));
                prop_assert_eq!(counts.by_user.values().sum::<usize>(), logins.len());
            }
            drop((connections, logins));
            let counts = slots.0.counts();
            prop_assert!(counts.sessions == 0 && counts.by_address.is_empty() && counts.by_user.is_empty());
        }
    }
}
