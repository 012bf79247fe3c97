//! How many sessions there may be at once: in all, from one address, and under one name; and how many of them may be
//! connections that nobody has logged in on yet.
//!
//! Those wait in a queue of their own. Where it is full, or where they take room that is wanted, the oldest of them goes:
//! whoever opens connections and says nothing (S-9) pushes out himself, and who logs in at once is never the oldest.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::failed_logins::subscriber;
use crate::config::Limits;

/// Connections before login, at most: at a thousand new ones a second each has two seconds, and a login takes a tenth of
/// one. Each is a descriptor and some 60 KiB.
const MOST_PENDING: usize = 2000;

/// Those of one address: an office behind one address whose clients all come back at once has fewer logins under way.
const MOST_PENDING_OF_ADDRESS: usize = 500;

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
    /// Connections before login, by number: the lowest is the oldest.
    pending: BTreeMap<u64, (IpAddr, CancellationToken)>,
    pending_by_address: HashMap<IpAddr, BTreeSet<u64>>,
    /// Connections so far.
    connections: u64,
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
    number: u64,
    /// Its place was given to a newer connection.
    evicted: CancellationToken,
    is_logged_in: bool,
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

    /// A place for a connection from `address`, perhaps that of an older one on which nobody has logged in. An IPv4
    /// address and its IPv6-mapped form (RFC 4291 §2.5.5.2) are one, and so are all of an IPv6 subscriber.
    ///
    /// # Errors
    /// [`Full::Process`] or [`Full::Address`]: sessions that are logged in have all the places.
    pub fn connect(&self, address: IpAddr) -> Result<ConnectionSlot, Full> {
        let address = subscriber(address);
        let mut counts = self.0.counts();
        let pending_here = counts.pending_by_address.get(&address).map_or(0, BTreeSet::len);
        let here = counts.by_address.get(&address).copied().unwrap_or(0);
        if pending_here >= MOST_PENDING_OF_ADDRESS || here >= self.0.sessions_per_ip {
            let oldest = counts.pending_by_address.get(&address).and_then(BTreeSet::first).copied();
            counts.evict(oldest.ok_or(Full::Address)?);
        } else if counts.pending.len() >= MOST_PENDING || counts.sessions >= self.0.sessions {
            let oldest = counts.pending.keys().next().copied();
            counts.evict(oldest.ok_or(Full::Process)?);
        }
        counts.connections += 1;
        let number = counts.connections;
        let evicted = CancellationToken::new();
        counts.pending.insert(number, (address, evicted.clone()));
        counts.pending_by_address.entry(address).or_default().insert(number);
        counts.take(address);
        Ok(ConnectionSlot { shared: Arc::clone(&self.0), address, number, evicted, is_logged_in: false })
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

impl ConnectionSlot {
    /// Completes when its place was given to another; never after the login.
    pub async fn evicted(&self) {
        if self.is_logged_in {
            return std::future::pending().await;
        }
        self.evicted.cancelled().await;
    }

    /// Somebody has logged in on it: it is no longer among those that may be sent away.
    ///
    /// # Errors
    /// Its place went to another while the password was looked at, and there is no other.
    pub fn logged_in(&mut self) -> Result<(), Full> {
        if self.is_logged_in {
            return Ok(());
        }
        let mut counts = self.shared.counts();
        if !counts.forget_pending(self.number) {
            if counts.sessions >= self.shared.sessions {
                return Err(Full::Process);
            }
            if counts.by_address.get(&self.address).is_some_and(|here| *here >= self.shared.sessions_per_ip) {
                return Err(Full::Address);
            }
            counts.take(self.address);
        }
        drop(counts);
        self.is_logged_in = true;
        Ok(())
    }
}

impl Counts {
    fn take(&mut self, address: IpAddr) {
        self.sessions += 1;
        *self.by_address.entry(address).or_default() += 1;
    }

    fn give_back(&mut self, address: IpAddr) {
        self.sessions = self.sessions.saturating_sub(1);
        give_back(&mut self.by_address, &address);
    }

    /// Sends a connection away and gives its place back at once, before it is gone.
    fn evict(&mut self, number: u64) {
        if let Some((address, evicted)) = self.pending.get(&number).cloned() {
            evicted.cancel();
            self.forget_pending(number);
            self.give_back(address);
        }
    }

    /// Was it still among the pending ones?
    fn forget_pending(&mut self, number: u64) -> bool {
        let Some((address, _)) = self.pending.remove(&number) else { return false };
        if let Some(numbers) = self.pending_by_address.get_mut(&address) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.pending_by_address.remove(&address);
            }
        }
        true
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
        // One that was evicted has given its place back already.
        if counts.forget_pending(self.number) || self.is_logged_in {
            counts.give_back(self.address);
        }
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
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    fn slots(sessions: usize, sessions_per_ip: usize) -> SessionSlots {
        SessionSlots::new(&Limits { sessions, sessions_per_ip, ..Limits::default() })
    }

    fn address(last: u8) -> IpAddr {
        [127, 0, 0, last].into()
    }

    fn logged_in(slots: &SessionSlots, last: u8) -> ConnectionSlot {
        let mut slot = slots.connect(address(last)).unwrap();
        slot.logged_in().unwrap();
        slot
    }

    #[test]
    fn the_process_is_full() {
        let slots = slots(2, 2);
        let first = logged_in(&slots, 1);
        let _second = logged_in(&slots, 2);
        assert_eq!(slots.connect(address(3)).unwrap_err(), Full::Process);
        drop(first);
        assert!(slots.connect(address(3)).is_ok());
    }

    #[test]
    fn an_address_is_full_in_either_form() {
        let slots = slots(10, 1);
        let first = logged_in(&slots, 1);
        assert_eq!(slots.connect("::ffff:127.0.0.1".parse().unwrap()).unwrap_err(), Full::Address);
        let _other = slots.connect(address(2)).unwrap();
        drop(first);
        assert!(slots.connect("::ffff:127.0.0.1".parse().unwrap()).is_ok());
    }

    #[test]
    fn an_ipv6_subscriber_is_one_address() {
        let slots = slots(10, 1);
        let mut first = slots.connect("2001:db8::1".parse().unwrap()).unwrap();
        first.logged_in().unwrap();
        assert_eq!(slots.connect("2001:db8::ffff:1".parse().unwrap()).unwrap_err(), Full::Address);
        assert!(slots.connect("2001:db8:0:1::1".parse().unwrap()).is_ok());
    }

    /// S-9: a place on which nobody logs in goes to who comes later, the oldest first, of the own address first.
    #[test]
    fn the_oldest_that_has_not_logged_in_makes_room() {
        let slots = slots(4, 2);
        let session = logged_in(&slots, 1);
        let (one, two) = (slots.connect(address(2)).unwrap(), slots.connect(address(1)).unwrap());
        let is_evicted = |slot: &ConnectionSlot| slot.evicted().now_or_never().is_some();
        // Its address has two.
        let three = slots.connect(address(1)).unwrap();
        assert!(!is_evicted(&one) && is_evicted(&two) && !is_evicted(&three));
        let four = slots.connect(address(3)).unwrap();
        assert_eq!(slots.sessions(), 4);
        // The process has four.
        let five = slots.connect(address(4)).unwrap();
        assert!(is_evicted(&one) && !is_evicted(&three) && !is_evicted(&four) && !is_evicted(&session));
        // It was being looked at, and finds no place but where another has gone.
        let mut two = two;
        assert_eq!(two.logged_in(), Err(Full::Process));
        drop(three);
        two.logged_in().unwrap();
        assert!(!is_evicted(&two));
        assert_eq!(slots.sessions(), 4);
        drop((one, two, four, five));
        assert_eq!(slots.sessions(), 1);
    }

    #[test]
    fn those_before_login_have_bounds_of_their_own() {
        let slots = slots(100_000, 100_000);
        let _crowd: Vec<_> = (0..3 * MOST_PENDING)
            .map(|number| slots.connect([127, 1, 1, u8::try_from(number % 100).unwrap()].into()).unwrap())
            .collect();
        assert_eq!(slots.sessions(), MOST_PENDING);
        let slots = super::tests::slots(100_000, 100_000);
        let _crowd: Vec<_> = (0..MOST_PENDING).map(|_| slots.connect(address(1)).unwrap()).collect();
        assert_eq!(slots.sessions(), MOST_PENDING_OF_ADDRESS);
        let _sessions: Vec<_> = (0..3 * MOST_PENDING).map(|_| logged_in(&slots, 2)).collect();
        assert_eq!(slots.sessions(), MOST_PENDING_OF_ADDRESS + 3 * MOST_PENDING);
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
        fn counts_follow_the_slots_that_live(steps in prop::collection::vec((0_u8..4, 0_u8..4, 0_usize..8), 0..60)) {
            let slots = slots(6, 3);
            let (mut connections, mut logins) = (Vec::new(), Vec::new());
            for (step, which, index) in steps {
                match step {
                    0 => connections.extend(slots.connect(address(which))),
                    1 => logins.extend(slots.log_in(&[which], Some(2))),
                    2 => connections.get_mut(index).into_iter().for_each(|slot| slot.logged_in().unwrap()),
                    _ => {
                        if index < connections.len() { drop(connections.swap_remove(index)); }
                        if index < logins.len() { drop(logins.swap_remove(index)); }
                    }
                }
                connections.retain(|slot| slot.is_logged_in || !slot.evicted.is_cancelled());
                prop_assert_eq!(slots.sessions(), connections.len());
                prop_assert!(connections.len() <= 6 && logins.len() <= 8);
                let counts = slots.0.counts();
                prop_assert!(counts.by_address.values().all(|count| (1..=3).contains(count)));
                prop_assert_eq!(counts.by_address.values().sum::<usize>(), connections.len());
                let pending = connections.iter().filter(|slot| !slot.is_logged_in).count();
                prop_assert_eq!(counts.pending.len(), pending);
                prop_assert_eq!(counts.pending_by_address.values().map(BTreeSet::len).sum::<usize>(), pending);
                prop_assert!(counts.by_user.values().all(|count| (1..=2).contains(count)));
                prop_assert_eq!(counts.by_user.values().sum::<usize>(), logins.len());
            }
            drop((connections, logins));
            let counts = slots.0.counts();
            prop_assert!(counts.sessions == 0 && counts.by_address.is_empty() && counts.by_user.is_empty());
        }
    }
}
