//! Which addresses of a backend are asked, in which order, and when nobody is: a circuit breaker.
//!
//! An address that failed rests, and is asked after the others meanwhile. When its time is over one login tries it, and
//! the others hear of it when that one has ended. Where every address failed again and again the circuit is open: logins
//! fail at once instead of waiting in turn for a server that is not there.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::ConnectError;

/// Failures in a row of every address that open the circuit. A server that is started again, or turns a connection away
/// because it is busy, has answered by then.
const FAILURES_TO_OPEN: u32 = 3;

/// How long an address rests after its first failure; twice as long after each further one.
const FIRST_REST: Duration = Duration::from_secs(1);

/// How long it rests at most: as long as users wait once their server is back.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// The state of one backend's addresses.
#[derive(Debug)]
pub(super) struct Circuit {
    backend: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    addresses: Vec<Address>,
    /// It was said that it is.
    open: bool,
    /// How the last attempt ended.
    last: String,
}

#[derive(Debug, Clone, Default)]
struct Address {
    /// In a row.
    failures: u32,
    failed_at: Option<Instant>,
    rests_until: Option<Instant>,
}

impl Address {
    fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }

    fn rest(&mut self, now: Instant) {
        let rest = FIRST_REST * 2_u32.saturating_pow(self.failures.saturating_sub(1).min(10));
        self.rests_until = Some(now + rest.min(LONGEST_REST));
    }
}

impl State {
    fn is_open(&self) -> bool {
        !self.addresses.is_empty() && self.addresses.iter().all(|address| address.failures >= FAILURES_TO_OPEN)
    }

    fn paused(&self, now: Instant) -> Option<ConnectError> {
        if !self.is_open() {
            return None;
        }
        let first = self.addresses.iter().filter_map(|address| address.rests_until).min()?;
        let again_in = first.checked_duration_since(now).filter(|wait| !wait.is_zero())?;
        Some(ConnectError::Paused { last: self.last.clone(), again_in })
    }
}

impl Circuit {
    pub(super) fn new(backend: String, addresses: usize) -> Self {
        let state = State { addresses: vec![Address::default(); addresses], open: false, last: String::new() };
        Self { backend, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is it open: does no address answer?
    pub(super) fn is_open(&self) -> bool {
        self.lock().open
    }

    /// An error while nobody is asked.
    pub(super) fn is_asked(&self) -> Result<(), ConnectError> {
        self.lock().paused(Instant::now()).map_or(Ok(()), Err)
    }

    /// The addresses that this login asks, by number and in order.
    pub(super) fn plan(&self) -> Result<Vec<usize>, ConnectError> {
        let now = Instant::now();
        let mut state = self.lock();
        if let Some(paused) = state.paused(now) {
            return Err(paused);
        }
        let is_open = state.is_open();
        let (mut plan, mut resting) = (Vec::new(), Vec::new());
        for (index, address) in state.addresses.iter_mut().enumerate() {
            if address.rests(now) {
                resting.push(index);
                continue;
            }
            plan.push(index);
            if address.failures > 0 {
                // Others leave it to this login to find out.
                address.rest(now);
            }
        }
        // What rests is better than nothing, unless it has shown that it is not.
        if !is_open {
            plan.extend(resting);
        }
        Ok(plan)
    }

    /// An attempt that began then failed because of the address.
    pub(super) fn failed(&self, index: usize, started: Instant, error: &ConnectError) {
        let now = Instant::now();
        let mut state = self.lock();
        let state = &mut *state;
        state.last = error.to_string();
        if let Some(address) = state.addresses.get_mut(index) {
            // Attempts that ran at the same time saw the same failure.
            if address.failed_at.is_none_or(|failed_at| failed_at <= started) {
                address.failures = address.failures.saturating_add(1);
                address.failed_at = Some(now);
            }
            address.rest(now);
        }
        if state.is_open() && !state.open {
            state.open = true;
            tracing::warn!(
                backend.name = %self.backend,
                exception.message = %error,
                "no address of the backend answers: logins fail at once, and one in a while tries it again"
            );
        }
    }

    /// A server answered there.
    pub(super) fn answered(&self, index: usize) {
        let mut state = self.lock();
        if let Some(address) = state.addresses.get_mut(index) {
            *address = Address::default();
        }
        if state.open {
            state.open = false;
            tracing::info!(backend.name = %self.backend, "the backend answers again");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, pause};

    use super::*;

    fn fail(circuit: &Circuit, index: usize) {
        circuit.failed(index, Instant::now(), &ConnectError::Lost("gone".to_owned()));
    }

    #[tokio::test]
    async fn opens_after_failures_in_a_row_and_lets_one_login_try() {
        pause();
        let circuit = Circuit::new("depot".to_owned(), 1);
        for _ in 0..FAILURES_TO_OPEN {
            assert_eq!(circuit.plan().unwrap(), [0]);
            fail(&circuit, 0);
        }
        let ConnectError::Paused { last, again_in } = circuit.plan().unwrap_err() else { panic!("asked") };
        assert_eq!((last.as_str(), again_in), ("connection lost: gone", FIRST_REST * 4));
        assert!(circuit.is_asked().is_err());
        advance(again_in).await;
        assert!(circuit.is_asked().is_ok());
        assert_eq!(circuit.plan().unwrap(), [0], "one tries");
        assert!(circuit.plan().is_err(), "and the others wait for what it finds");
        fail(&circuit, 0);
        let ConnectError::Paused { again_in, .. } = circuit.plan().unwrap_err() else { panic!("asked") };
        assert_eq!(again_in, FIRST_REST * 8);
        advance(again_in).await;
        assert_eq!(circuit.plan().unwrap(), [0]);
        circuit.answered(0);
        for _ in 0..3 {
            assert_eq!(circuit.plan().unwrap(), [0], "all are let through again");
        }
    }

    #[tokio::test]
    async fn rests_no_longer_than_users_can_wait_and_a_login_that_vanished_blocks_nobody() {
        pause();
        let circuit = Circuit::new("depot".to_owned(), 1);
        for _ in 0..40 {
            fail(&circuit, 0);
            advance(Duration::from_millis(1)).await;
        }
        advance(LONGEST_REST).await;
        assert_eq!(circuit.plan().unwrap(), [0]);
        // That login never says how it ended.
        advance(LONGEST_REST).await;
        assert_eq!(circuit.plan().unwrap(), [0]);
    }

    #[tokio::test]
    async fn an_address_that_failed_comes_after_the_others_for_a_while() {
        pause();
        let circuit = Circuit::new("depot".to_owned(), 3);
        assert_eq!(circuit.plan().unwrap(), [0, 1, 2]);
        fail(&circuit, 0);
        assert_eq!(circuit.plan().unwrap(), [1, 2, 0]);
        fail(&circuit, 1);
        assert_eq!(circuit.plan().unwrap(), [2, 0, 1]);
        advance(FIRST_REST).await;
        assert_eq!(circuit.plan().unwrap(), [0, 1, 2]);
        assert_eq!(circuit.plan().unwrap(), [2, 0, 1], "that login tries them for the others");
        circuit.answered(0);
        assert_eq!(circuit.plan().unwrap(), [0, 2, 1]);
    }

    #[tokio::test]
    async fn attempts_at_the_same_time_count_once() {
        pause();
        let circuit = Circuit::new("depot".to_owned(), 1);
        let started = Instant::now();
        advance(Duration::from_secs(1)).await;
        for _ in 0..20 {
            circuit.failed(0, started, &ConnectError::Lost("gone".to_owned()));
        }
        assert!(circuit.is_asked().is_ok());
    }
}
