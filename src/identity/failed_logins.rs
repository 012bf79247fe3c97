//! Failed logins counted over all sessions, by address and by name, and who is refused because of them.
//!
//! The rules, for `limits.failed_logins`:
//!
//! - An address (of IPv6 the /64 that one subscriber has) from which `per_ip` logins failed within `window` is banned for
//!   `ban`; so is a name under which `per_user` failed, wherever they came from.
//! - Who has logged in under a name from an address before is *known* there, and no ban of either touches it: neither a
//!   guesser of the name elsewhere, nor a neighbour behind the same address translator, locks a partner out of its own
//!   address. What is known has a bound of its own, `per_user` failures of this name from this address within `window`;
//!   beyond it, it is known no more.
//! - A banned name is refused from addresses that failed under it. An address that never tried it has one try, and there
//!   are `per_user` such tries in a ban: one guesser cannot lock out an address that he does not have, and a thousand
//!   cannot guess a thousand times.
//! - What is refused was not looked at: no hash is made, no backend asked, so that no account there is locked either. It
//!   counts for nothing, so that a ban ends however often somebody comes meanwhile.
//! - Tries under way count as if they had failed: what is more than the bound waits for its turn. Those of an honest crowd
//!   are quickly over; those of a hundred connections that guess at once are not a hundred guesses.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::bounded_map::BoundedMap;
use crate::config;

/// Addresses and names whose failures are remembered, and pairs of the two that failed: 1.5 MiB each. An attacker with
/// more addresses than that makes us forget the oldest, and has one failed login with each.
const MOST_COUNTED: usize = 8192;

/// Pairs of name and address that have logged in: 6 MiB. Only a login makes one.
const MOST_KNOWN: usize = 32_768;

/// Who waits for its turn looks again after so long, should its turn have been forgotten with its entry.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The reply to a failed login is put off by one step more for each failure of the address before it, up to this many.
const MOST_STEPS: u32 = 3;

/// Bits of an IPv6 address that tell subscribers apart (RFC 6177): the rest is theirs to choose.
const SUBSCRIBER_BITS: u32 = 64;

/// Counts failed logins.
#[derive(Debug)]
pub struct FailedLogins {
    bounds: config::FailedLogins,
    /// Under which names are hashed, so that what strangers send is not kept: a password may have been typed as a name.
    hasher: RandomState,
    /// Contended by logins, each for a few looks into maps; nothing waits while it is held.
    tables: Mutex<Tables>,
}

#[derive(Debug)]
struct Tables {
    addresses: BoundedMap<IpAddr, Count>,
    names: BoundedMap<Name, Count>,
    known: BoundedMap<(Name, IpAddr), Count>,
    /// When a login under this name failed from this address last.
    failed: BoundedMap<(Name, IpAddr), Option<Instant>>,
}

/// The hash of a name.
type Name = u64;

#[derive(Debug, Default)]
struct Count {
    failures: u32,
    /// When the first of them was.
    since: Option<Instant>,
    banned_until: Option<Instant>,
    /// Logins that are being looked at.
    under_way: u32,
    /// Tries that addresses without a past had while this name was banned.
    spared: u32,
    /// For who waits because of those under way.
    turn: Arc<Notify>,
}

/// Why a login is refused without a look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Banned {
    /// Too many failed from this address.
    #[error("too many logins have failed from this address (limits.failed_logins.per_ip)")]
    Address,
    /// Too many failed under this name.
    #[error("too many logins have failed under this name (limits.failed_logins.per_user)")]
    Name,
}

/// A login that may be looked at. It ends with [`Attempt::succeeded`] or [`Attempt::failed`]; dropped, it was neither.
#[derive(Debug)]
#[must_use = "it says how the login ended"]
pub struct Attempt<'a> {
    failed_logins: &'a FailedLogins,
    name: Name,
    address: IpAddr,
    is_known: bool,
}

impl FailedLogins {
    /// Nobody has failed yet.
    pub fn new(bounds: &config::FailedLogins) -> Self {
        let tables = Tables {
            addresses: BoundedMap::new(MOST_COUNTED),
            names: BoundedMap::new(MOST_COUNTED),
            known: BoundedMap::new(MOST_KNOWN),
            failed: BoundedMap::new(MOST_COUNTED),
        };
        Self { bounds: bounds.clone(), hasher: RandomState::new(), tables: Mutex::new(tables) }
    }

    /// May this login be looked at? Waits while as many are under way as may fail.
    ///
    /// SECURITY: asked before the password is hashed and before the backend is.
    ///
    /// # Errors
    /// [`Banned`]: it is to be refused like a wrong password.
    pub async fn attempt(&self, name: &[u8], address: IpAddr) -> Result<Attempt<'_>, Banned> {
        let (name, address) = (self.hasher.hash_one(name), subscriber(address));
        loop {
            let turn = match self.admit(name, address, Instant::now())? {
                Admitted::Now { is_known } => return Ok(Attempt { failed_logins: self, name, address, is_known }),
                Admitted::After(turn) => turn,
            };
            let _ = timeout(LOOK_AGAIN, turn.notified()).await;
        }
    }

    fn admit(&self, name: Name, address: IpAddr, now: Instant) -> Result<Admitted, Banned> {
        let bounds = &self.bounds;
        let mut tables = self.tables();
        if let Some(count) = tables.known.get_mut(&(name, address)) {
            if count.is_full(bounds.per_known(), bounds.window, now) {
                return Ok(Admitted::After(Arc::clone(&count.turn)));
            }
            count.under_way += 1;
            return Ok(Admitted::Now { is_known: true });
        }
        let Tables { addresses, names, failed, .. } = &mut *tables;
        if let Some(count) = addresses.get(&address) {
            if count.is_banned(now) {
                return Err(Banned::Address);
            }
            if count.is_full(bounds.per_ip, bounds.window, now) {
                return Ok(Admitted::After(Arc::clone(&count.turn)));
            }
        }
        if let Some(count) = names.get_mut(&name) {
            if count.is_banned(now) {
                let remembered = bounds.window + bounds.ban;
                let has_failed = failed
                    .get(&(name, address))
                    .is_some_and(|last| last.is_some_and(|last| now.duration_since(last) < remembered));
                if has_failed || bounds.per_user.is_some_and(|most| count.spared >= most) {
                    return Err(Banned::Name);
                }
                count.spared += 1;
            } else if count.is_full(bounds.per_user, bounds.window, now) {
                let turn = Arc::clone(&count.turn);
                // Who waits for the address may be luckier with another name.
                if let Some(count) = addresses.get(&address) {
                    count.turn.notify_one();
                }
                return Ok(Admitted::After(turn));
            }
        }
        addresses.touch(address).under_way += 1;
        names.touch(name).under_way += 1;
        Ok(Admitted::Now { is_known: false })
    }

    /// How many steps the refusal of a banned login is put off: as many as that of any other can be.
    pub const fn steps_when_banned() -> u32 {
        MOST_STEPS
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        // Counts that a panic left half made are sound enough: each stands for itself.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Admitted {
    Now {
        is_known: bool,
    },
    /// When somebody's turn is over.
    After(Arc<Notify>),
}

impl Attempt<'_> {
    /// Has this name logged in from this address before?
    pub fn is_known(&self) -> bool {
        self.is_known
    }

    /// The login is complete: from now on its name is known at its address.
    pub fn succeeded(self) {
        let mut tables = self.failed_logins.tables();
        let under_way = u32::from(self.is_known);
        let count = tables.known.touch((self.name, self.address));
        // One that was forgotten meanwhile has nothing under way.
        count.under_way = count.under_way.max(under_way);
        tables.failed.remove(&(self.name, self.address));
        drop(tables);
    }

    /// The name or the password was wrong; `name` where it may be told. Gives back how many steps the reply is put off.
    pub fn failed(self, name: Option<&str>) -> u32 {
        let bounds = &self.failed_logins.bounds;
        let now = Instant::now();
        let (steps, bans) = {
            let mut tables = self.failed_logins.tables();
            let Tables { addresses, names, known, failed } = &mut *tables;
            let pair = (self.name, self.address);
            if known.get_mut(&pair).is_some_and(|count| count.fail(bounds.per_known(), bounds, now)) {
                known.remove(&pair);
            }
            *failed.touch(pair) = Some(now);
            let count = addresses.touch(self.address);
            let steps = count.failures(bounds.window, now).saturating_add(1).min(MOST_STEPS);
            let address_banned = count.fail(bounds.per_ip, bounds, now);
            let name_banned = names.touch(self.name).fail(bounds.per_user, bounds, now);
            (steps, [(address_banned, Banned::Address), (name_banned, Banned::Name)])
        };
        for (_, why) in bans.into_iter().filter(|(began, _)| *began) {
            let name = name.unwrap_or("(not a configured user)");
            warn!(user.name = name, seconds = bounds.ban.as_secs(), exception.message = %why, "logins are refused");
        }
        steps
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let (window, now) = (self.failed_logins.bounds.window, Instant::now());
        let mut tables = self.failed_logins.tables();
        let Tables { addresses, names, known, .. } = &mut *tables;
        if self.is_known {
            if let Some(count) = known.get_mut(&(self.name, self.address)) {
                count.end_one();
            }
            return;
        }
        if addresses.get_mut(&self.address).is_some_and(|count| count.end_one().is_clean(window, now)) {
            addresses.remove(&self.address);
        }
        if names.get_mut(&self.name).is_some_and(|count| count.end_one().is_clean(window, now)) {
            names.remove(&self.name);
        }
    }
}

impl Count {
    fn failures(&self, window: Duration, now: Instant) -> u32 {
        let is_current = self.since.is_some_and(|since| now.duration_since(since) < window);
        if is_current { self.failures } else { 0 }
    }

    fn is_banned(&self, now: Instant) -> bool {
        self.banned_until.is_some_and(|until| now < until)
    }

    /// Would it be too many if all that are under way failed?
    fn is_full(&self, most: Option<u32>, window: Duration, now: Instant) -> bool {
        let may_fail = self.failures(window, now).saturating_add(self.under_way);
        most.is_some_and(|most| may_fail >= most) && self.under_way > 0
    }

    /// Counts a failure. Does a ban begin with it?
    fn fail(&mut self, most: Option<u32>, bounds: &config::FailedLogins, now: Instant) -> bool {
        if self.is_banned(now) {
            return false;
        }
        let failures = self.failures(bounds.window, now) + 1;
        if failures == 1 {
            self.since = Some(now);
        }
        self.failures = failures;
        let is_too_many = most.is_some_and(|most| failures >= most);
        if is_too_many {
            (self.failures, self.since, self.spared) = (0, None, 0);
            self.banned_until = Some(now + bounds.ban);
            self.turn.notify_waiters();
        }
        is_too_many
    }

    fn end_one(&mut self) -> &Self {
        self.under_way = self.under_way.saturating_sub(1);
        self.turn.notify_one();
        self
    }

    /// Nothing is lost where it is forgotten.
    fn is_clean(&self, window: Duration, now: Instant) -> bool {
        self.under_way == 0 && !self.is_banned(now) && self.failures(window, now) == 0
    }
}

/// What of an address stands for its owner.
pub(super) fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let mask = u128::MAX << (128 - SUBSCRIBER_BITS);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(300);
    const BAN: Duration = Duration::from_secs(600);

    fn bounded(per_ip: Option<u32>, per_user: Option<u32>) -> FailedLogins {
        FailedLogins::new(&config::FailedLogins { per_session: 3, per_ip, per_user, window: WINDOW, ban: BAN })
    }

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    /// Does one login fail (true), or is it refused?
    async fn fails(logins: &FailedLogins, name: &str, address: IpAddr) -> Result<(), Banned> {
        logins.attempt(name.as_bytes(), address).await.map(|attempt| _ = attempt.failed(None))
    }

    async fn succeeds(logins: &FailedLogins, name: &str, address: IpAddr) -> Result<(), Banned> {
        logins.attempt(name.as_bytes(), address).await.map(Attempt::succeeded)
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_banned_for_its_time_and_no_longer_for_coming_again() {
        let logins = bounded(Some(3), None);
        for name in ["a", "b", "c"] {
            assert_eq!(fails(&logins, name, address(1)).await, Ok(()));
        }
        for _ in 0..9 {
            assert_eq!(succeeds(&logins, "d", address(1)).await, Err(Banned::Address));
            assert_eq!(succeeds(&logins, "d", address(2)).await, Ok(()));
            tokio::time::advance(BAN / 10).await;
        }
        tokio::time::advance(BAN / 10).await;
        assert_eq!(succeeds(&logins, "d", address(1)).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_count_within_the_window_only() {
        let logins = bounded(Some(3), Some(3));
        for _ in 0..10 {
            for _ in 0..2 {
                assert_eq!(fails(&logins, "a", address(1)).await, Ok(()));
            }
            tokio::time::advance(WINDOW).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_ipv6_subscriber_is_one_address() {
        let logins = bounded(Some(2), None);
        assert_eq!(fails(&logins, "a", "2001:db8::1".parse().unwrap()).await, Ok(()));
        assert_eq!(fails(&logins, "a", "2001:db8::ffff:0:0:2".parse().unwrap()).await, Ok(()));
        assert_eq!(fails(&logins, "a", "2001:db8::3".parse().unwrap()).await, Err(Banned::Address));
        assert_eq!(fails(&logins, "a", "2001:db8:0:1::3".parse().unwrap()).await, Ok(()));
        assert_eq!(fails(&logins, "a", "::ffff:192.0.2.1".parse().unwrap()).await, Ok(()));
        assert_eq!(fails(&logins, "a", address(1)).await, Ok(()));
        assert_eq!(fails(&logins, "a", address(1)).await, Err(Banned::Address));
    }

    /// S-6: whoever guesses a name from many addresses does not lock its owner out, and does not guess for ever.
    #[tokio::test(start_paused = true)]
    async fn a_guessed_name_is_open_where_it_is_known_and_one_try_elsewhere() {
        let logins = bounded(Some(20), Some(5));
        succeeds(&logins, "acme", address(1)).await.unwrap();
        let mut looked_at = 0;
        for host in 10..250 {
            for _ in 0..4 {
                looked_at += u32::from(fails(&logins, "acme", address(host)).await.is_ok());
            }
        }
        assert_eq!(looked_at, 5 + 5, "five until the ban, five from addresses without a past");
        assert_eq!(succeeds(&logins, "acme", address(1)).await, Ok(()), "the partner at its own address");
        assert_eq!(succeeds(&logins, "other", address(11)).await, Ok(()), "another name");
        tokio::time::advance(BAN).await;
        assert_eq!(succeeds(&logins, "acme", address(200)).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn one_guesser_does_not_lock_an_address_out_that_was_never_seen() {
        let logins = bounded(None, Some(5));
        for _ in 0..1000 {
            let _ = fails(&logins, "acme", address(66)).await;
        }
        assert_eq!(fails(&logins, "acme", address(66)).await, Err(Banned::Name));
        assert_eq!(succeeds(&logins, "acme", address(1)).await, Ok(()));
        assert_eq!(succeeds(&logins, "acme", address(1)).await, Ok(()), "and it is known now");
    }

    #[tokio::test(start_paused = true)]
    async fn a_neighbour_behind_one_address_does_not_lock_out_who_is_known_there() {
        let logins = bounded(Some(4), Some(20));
        succeeds(&logins, "acme", address(1)).await.unwrap();
        while fails(&logins, "misconfigured", address(1)).await.is_ok() {}
        assert_eq!(succeeds(&logins, "acme", address(1)).await, Ok(()));
        assert_eq!(succeeds(&logins, "new", address(1)).await, Err(Banned::Address));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_known_and_fails_too_often_is_known_no_more() {
        let logins = bounded(Some(4), Some(6));
        succeeds(&logins, "acme", address(1)).await.unwrap();
        let mut looked_at = 0;
        // Successes in between do not give a neighbour who guesses further tries.
        while fails(&logins, "acme", address(1)).await.is_ok() {
            looked_at += 1;
            if looked_at < 6 {
                succeeds(&logins, "acme", address(1)).await.unwrap();
            }
        }
        assert_eq!(looked_at, 6);
        tokio::time::advance(BAN).await;
        assert_eq!(succeeds(&logins, "acme", address(1)).await, Ok(()));
    }

    /// S-6: a hundred connections that guess at once have no more guesses than one.
    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_counts_and_an_honest_crowd_only_waits() {
        let logins = bounded(Some(5), Some(50));
        let mut begun = Vec::new();
        for _ in 0..5 {
            begun.push(logins.attempt(b"acme", address(1)).await.unwrap());
        }
        assert!(logins.attempt(b"acme", address(1)).now_or_never().is_none(), "waits");
        assert!(logins.attempt(b"acme", address(2)).now_or_never().is_some(), "another does not");
        let waiting = futures_util::future::join_all((0..95).map(|_| fails(&logins, "acme", address(1))));
        let ending = async {
            for attempt in begun {
                attempt.failed(None);
            }
        };
        let (waited, ()) = tokio::join!(waiting, ending);
        assert!(waited.iter().all(|result| *result == Err(Banned::Address)));

        let logins = bounded(Some(5), Some(5));
        let crowd = (0..500).map(|_| async {
            let attempt = logins.attempt(b"acme", address(1)).await?;
            tokio::time::sleep(Duration::from_millis(60)).await;
            attempt.succeeded();
            Ok::<_, Banned>(())
        });
        let began = Instant::now();
        assert!(futures_util::future::join_all(crowd).await.iter().all(Result::is_ok));
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn each_failure_puts_the_next_reply_off_by_a_step_up_to_the_most() {
        let logins = bounded(Some(20), Some(20));
        let mut steps = Vec::new();
        for name in ["a", "b", "a", "c", "a"] {
            steps.push(logins.attempt(name.as_bytes(), address(1)).await.unwrap().failed(None));
        }
        assert_eq!(steps, [1, 2, 3, 3, 3]);
        assert_eq!(logins.attempt(b"a", address(2)).await.unwrap().failed(None), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn without_bounds_nobody_is_refused() {
        let logins = bounded(None, None);
        for _ in 0..1000 {
            assert_eq!(fails(&logins, "acme", address(1)).await, Ok(()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_logins_that_succeed_leave_no_count() {
        let logins = bounded(Some(20), Some(20));
        for number in 0..MOST_COUNTED * 2 {
            let address = IpAddr::from(Ipv6Addr::from_bits((number as u128) << SUBSCRIBER_BITS));
            fails(&logins, &format!("name {number}"), address).await.unwrap();
        }
        assert_eq!(lengths(&logins), (8192, 8192, 8192, 0));

        let logins = bounded(Some(20), Some(20));
        for number in 0..MOST_KNOWN + 5 {
            succeeds(&logins, &format!("name {number}"), address(1)).await.unwrap();
        }
        assert_eq!(lengths(&logins), (0, 0, 0, MOST_KNOWN));
    }

    /// Addresses, names, pairs that failed, and pairs that are known.
    fn lengths(logins: &FailedLogins) -> (usize, usize, usize, usize) {
        let tables = logins.tables();
        (tables.addresses.len(), tables.names.len(), tables.failed.len(), tables.known.len())
    }

    proptest! {
        /// However tries come and end, no more are looked at within a ban's time than the bounds say.
        #[test]
        fn never_more_failures_than_the_bounds(steps in prop::collection::vec((0_u8..4, 0_u8..3), 1..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let logins = bounded(Some(4), Some(6));
                let mut by_address = [0; 4];
                let mut by_name = [0; 3];
                for (host, name) in steps {
                    if fails(&logins, &name.to_string(), address(host)).await.is_ok() {
                        by_address[usize::from(host)] += 1;
                        by_name[usize::from(name)] += 1;
                    }
                }
                prop_assert!(by_address.iter().all(|failures| *failures <= 4));
                prop_assert!(by_name.iter().all(|failures| *failures <= 6 + 6));
                Ok(())
            })?;
        }
    }
}
