//! Signals and the two stages of a stop.
//!
//! The first SIGTERM or SIGINT asks for a drain: no new sessions, running transfers may finish. The second one asks for an
//! end. Both stages are tokens, so whoever holds one need not know about signals.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The two stages; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Stop taking sessions and let running transfers finish.
    pub drain: CancellationToken,
    /// End everything now. Never cancelled before `drain`.
    pub now: CancellationToken,
}

impl Shutdown {
    /// Both stages ahead, and no signal leads to them.
    pub fn new() -> Self {
        Self::default()
    }

    /// Follows the signals of this process from here on; what they did before (end it at once) is over.
    ///
    /// # Errors
    ///
    /// The signal handlers cannot be registered.
    pub fn on_signals() -> io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = Self::new();
        let stages = shutdown.clone();
        tokio::spawn(async move {
            while !stages.now.is_cancelled() {
                let received = tokio::select! {
                    received = terminate.recv() => received,
                    received = interrupt.recv() => received,
                };
                if received.is_none() {
                    return;
                }
                stages.advance();
            }
        });
        Ok(shutdown)
    }

    /// Goes one stage further: what each signal does.
    pub fn advance(&self) {
        if self.drain.is_cancelled() {
            self.now.cancel();
        } else {
            self.drain.cancel();
        }
    }

    /// Ends everything now, whatever stage it was.
    pub fn end_now(&self) {
        self.drain.cancel();
        self.now.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_drains_and_the_second_ends() {
        let shutdown = Shutdown::new();
        let seen = shutdown.clone();
        assert!(!seen.drain.is_cancelled());
        shutdown.advance();
        assert!(seen.drain.is_cancelled() && !seen.now.is_cancelled());
        shutdown.advance();
        assert!(seen.now.is_cancelled());
        shutdown.advance();
    }

    #[test]
    fn an_end_is_a_drain_too() {
        let shutdown = Shutdown::new();
        shutdown.end_now();
        assert!(shutdown.drain.is_cancelled() && shutdown.now.is_cancelled());
    }

    #[tokio::test]
    async fn two_real_signals_go_through_both_stages() {
        let shutdown = Shutdown::on_signals().unwrap();
        let send = |name: &str| {
            let own = std::process::id().to_string();
            assert!(std::process::Command::new("kill").args([name, &own]).status().unwrap().success());
        };
        send("-TERM");
        shutdown.drain.cancelled().await;
        assert!(!shutdown.now.is_cancelled());
        send("-INT");
        shutdown.now.cancelled().await;
    }
}
