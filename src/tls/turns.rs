//! Turns of TLS handshakes with the processors (TLS-21): however many clients come at once, transfers go on beside them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::thread::available_parallelism;

use tokio::sync::Semaphore;
use tokio_util::sync::PollSemaphore;

/// Turns that handshakes take, in the order in which they have something to do.
///
/// A handshake is a millisecond or two of computing in one piece, and a wait for the client before and after it. Only the
/// computing takes a turn: a client that is slow, or says nothing, keeps nobody waiting.
#[derive(Debug, Clone)]
pub struct Turns(Arc<Semaphore>);

impl Turns {
    /// As many at once as there are processors, but one, which is left to who is in already.
    pub fn new() -> Self {
        let processors = available_parallelism().map_or(1, usize::from);
        Self(Arc::new(Semaphore::new(processors.saturating_sub(1).max(1))))
    }

    /// The handshake, each of its steps in its turn.
    pub fn take<H>(&self, handshake: H) -> InTurn<H> {
        InTurn { turns: PollSemaphore::new(Arc::clone(&self.0)), handshake: Box::pin(handshake) }
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self::new()
    }
}

/// A handshake that takes its turns.
#[derive(Debug)]
pub struct InTurn<H> {
    turns: PollSemaphore,
    handshake: Pin<Box<H>>,
}

impl<H: Future> Future for InTurn<H> {
    type Output = H::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<H::Output> {
        let turn = ready!(self.turns.poll_acquire(context));
        let polled = self.handshake.as_mut().poll(context);
        drop(turn);
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn only_so_many_compute_at_once_and_who_waits_for_a_client_holds_nobody_up() {
        let turns = Turns(Arc::new(Semaphore::new(1)));
        let computing = Arc::new(AtomicUsize::new(0));
        let _silent = tokio::spawn(turns.take(std::future::pending::<()>()));
        let handshakes = (0..50).map(|_| {
            let computing = Arc::clone(&computing);
            let compute = move || {
                assert_eq!(computing.fetch_add(1, Ordering::SeqCst), 0);
                std::thread::sleep(Duration::from_micros(200));
                computing.fetch_sub(1, Ordering::SeqCst);
            };
            tokio::spawn(turns.take(async move {
                compute();
                sleep(Duration::from_millis(1)).await;
                compute();
            }))
        });
        for handshake in handshakes.collect::<Vec<_>>() {
            handshake.await.unwrap();
        }
    }
}
