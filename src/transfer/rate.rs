//! How many bytes per second the transfers of one user may carry in one direction, all together.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Pieces per second in which bytes are let through, at least: what waits behind one of another transfer waits no longer.
const PIECES_PER_SECOND: u64 = 20;

/// Bounds of a piece: smaller ones cost more than they even out, and a larger one is no longer a piece of its second.
const SMALLEST_PIECE: usize = 4 * 1024;
const LARGEST_PIECE: usize = 128 * 1024;

/// What was not used so long ago may be used now; more would be a burst that others have to give way to.
const SLACK: Duration = Duration::from_millis(100);

/// A rate that transfers share. They take turns in the order in which they ask, a piece each.
#[derive(Debug)]
pub struct Rate {
    bytes_per_second: u64,
    /// When the next piece may go. Contended by the transfers of one user, each for one addition.
    next: Mutex<Instant>,
}

impl Rate {
    /// So many bytes per second.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), next: Mutex::new(Instant::now()) }
    }

    /// The most that is to be let through at once.
    pub(super) fn piece(&self) -> usize {
        let even = usize::try_from(self.bytes_per_second / PIECES_PER_SECOND).unwrap_or(usize::MAX);
        even.clamp(SMALLEST_PIECE, LARGEST_PIECE)
    }

    /// Waits for the turn of so many bytes. A transfer that ends meanwhile has had its turn all the same.
    pub(super) async fn pass(&self, bytes: usize) {
        let turn = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let turn = (*next).max(now.checked_sub(SLACK).unwrap_or(now));
            let nanoseconds = (bytes as u128 * 1_000_000_000) / u128::from(self.bytes_per_second);
            *next = turn + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
            turn
        };
        sleep_until(turn).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn carry(rate: &Rate, mut bytes: usize) -> Duration {
        let begun = Instant::now();
        while bytes > 0 {
            let piece = bytes.min(rate.piece());
            rate.pass(piece).await;
            bytes -= piece;
        }
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn one_has_the_rate_and_several_share_it_evenly() {
        const RATE: usize = 1 << 20;
        let rate = Rate::new(RATE as u64);
        tokio::time::advance(Duration::from_secs(60)).await;
        let alone = carry(&rate, 4 * RATE).await;
        assert!((3.8..4.1).contains(&alone.as_secs_f64()), "no burst after a pause: {alone:?}");
        let (one, other, small) =
            tokio::join!(carry(&rate, 2 * RATE), carry(&rate, 2 * RATE), carry(&rate, SMALLEST_PIECE));
        for took in [one, other] {
            assert!((3.8..4.1).contains(&took.as_secs_f64()), "{took:?}");
        }
        assert!(small < Duration::from_millis(200), "{small:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_slowest_and_the_fastest() {
        assert_eq!(Rate::new(1024).piece(), SMALLEST_PIECE);
        assert_eq!(Rate::new(u64::MAX).piece(), LARGEST_PIECE);
        let took = carry(&Rate::new(u64::MAX), 1 << 30).await;
        assert!(took < Duration::from_millis(1), "{took:?}");
        let took = carry(&Rate::new(1024), 16 * 1024).await;
        assert!((11.0..13.0).contains(&took.as_secs_f64()), "{took:?}");
    }
}
