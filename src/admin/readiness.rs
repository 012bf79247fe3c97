//! How far the start or the stop is: what `/readyz` and `/startz` answer from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

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

/// A latch over [`State`]; clones share it.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<AtomicU8>);

impl Readiness {
    /// At the beginning.
    pub fn starting() -> Self {
        Self(Arc::new(AtomicU8::new(State::Starting as u8)))
    }

    /// The start is over. Without effect where a drain has begun.
    pub fn ready(&self) {
        self.0.fetch_max(State::Ready as u8, Ordering::Release);
    }

    /// A drain has begun, in whatever state it was.
    pub fn draining(&self) {
        self.0.fetch_max(State::Draining as u8, Ordering::Release);
    }

    /// Where it is now.
    pub fn state(&self) -> State {
        match self.0.load(Ordering::Acquire) {
            state if state == State::Starting as u8 => State::Starting,
            state if state == State::Ready as u8 => State::Ready,
            _ => State::Draining,
        }
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
}
