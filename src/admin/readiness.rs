//! How far the start or the stop is, and what else keeps new sessions out: what `/readyz`, `/startz` and `/livez` answer
//! from.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The runtime is asked for a sign of life each second; without one for so long it does not turn.
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(15);

/// The three states of a process, in order; it never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// Not every listener is bound yet.
    Starting,
    /// New sessions are taken.
    Ready,
    /// Asked to stop.
    Draining,
}

impl State {
    /// One word for people and probes.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

/// What new sessions need besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Check {
    /// There is room for one more.
    Room,
    /// A certificate of the front is valid.
    Certificate,
    /// A backend answers; only where `admin.readiness_needs_backend` asks for it.
    Backend,
}

impl Check {
    const ALL: [Self; 3] = [Self::Room, Self::Certificate, Self::Backend];

    /// What it says when it is passed.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Room => "room for sessions",
            Self::Certificate => "a valid certificate",
            Self::Backend => "a backend answers",
        }
    }
}

/// A latch over [`State`], and the checks; clones share it.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: AtomicU8,
    failed: [AtomicBool; Check::ALL.len()],
    began: Instant,
    /// Milliseconds from `began` to the last sign of life; 0 before the first.
    beat: AtomicU64,
}

impl Readiness {
    /// At the beginning.
    pub fn starting() -> Self {
        Self(Arc::new(Shared {
            state: AtomicU8::new(State::Starting as u8),
            failed: Default::default(),
            began: Instant::now(),
            beat: AtomicU64::new(0),
        }))
    }

    /// The start is over. Without effect where a drain has begun.
    pub fn ready(&self) {
        self.0.state.fetch_max(State::Ready as u8, Ordering::Release);
    }

    /// A drain has begun, in whatever state it was.
    pub fn draining(&self) {
        self.0.state.fetch_max(State::Draining as u8, Ordering::Release);
    }

    /// Where it is now.
    pub fn state(&self) -> State {
        match self.0.state.load(Ordering::Acquire) {
            state if state == State::Starting as u8 => State::Starting,
            state if state == State::Ready as u8 => State::Ready,
            _ => State::Draining,
        }
    }

    /// Whether a check is passed; all are until this says otherwise.
    pub fn set(&self, check: Check, passed: bool) {
        if let Some(failed) = self.0.failed.get(check as usize) {
            failed.store(!passed, Ordering::Release);
        }
    }

    /// Every check in words, and whether it is passed.
    pub fn checks(&self) -> Vec<(&'static str, bool)> {
        let state = self.state();
        let mut checks = vec![("started", state != State::Starting), ("not draining", state != State::Draining)];
        for (check, failed) in Check::ALL.into_iter().zip(&self.0.failed) {
            checks.push((check.as_str(), !failed.load(Ordering::Acquire)));
        }
        checks
    }

    /// The runtime turns.
    pub fn beat(&self) {
        let elapsed = u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.beat.store(elapsed.max(1), Ordering::Release);
    }

    /// Has it turned lately? Before the first sign of life nobody knows, and it is taken to.
    pub fn is_alive(&self) -> bool {
        let beat = self.0.beat.load(Ordering::Acquire);
        beat == 0 || self.0.began.elapsed().saturating_sub(Duration::from_millis(beat)) < HEARTBEAT_LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_goes_back() {
        let readiness = Readiness::starting();
        let seen = readiness.clone();
        assert_eq!(seen.state(), State::Starting);
        readiness.ready();
        assert_eq!(seen.state(), State::Ready);
        readiness.draining();
        readiness.ready();
        assert_eq!(seen.state(), State::Draining);
    }

    #[test]
    fn a_check_that_fails_is_told_until_it_is_passed_again() {
        let readiness = Readiness::starting();
        readiness.ready();
        assert!(readiness.checks().iter().all(|(_, passed)| *passed));
        readiness.set(Check::Certificate, false);
        let failed: Vec<_> = readiness.checks().into_iter().filter(|(_, passed)| !passed).collect();
        assert_eq!(failed, [("a valid certificate", false)]);
        readiness.set(Check::Certificate, true);
        assert!(readiness.checks().iter().all(|(_, passed)| *passed));
    }
}
