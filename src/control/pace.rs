//! How fast a client may give commands (`limits.commands_per_second`): one that is faster is read more slowly, and
//! nothing of what it sends is refused or lost (S-23).

use std::time::Duration;

use tokio::time::Instant;

/// Commands per second before the login: a client needs a handful of them.
const BEFORE_LOGIN: u32 = 20;

/// So much of a second's commands may come at once, after a pause: clients work in bursts.
const BURST: Duration = Duration::from_secs(1);

/// The pace of one session.
#[derive(Debug)]
pub(super) struct Pace {
    /// When all commands so far would have come, had they come evenly.
    even: Instant,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { even: Instant::now() }
    }

    /// When the next command may be carried out.
    pub(super) fn ready_at(&self) -> Instant {
        self.even.checked_sub(BURST).unwrap_or(self.even)
    }

    /// A command is carried out; `rate` is that of who has logged in.
    pub(super) fn count(&mut self, rate: Option<u32>) {
        let rate = rate.unwrap_or(BEFORE_LOGIN).max(1);
        self.even = self.even.max(Instant::now()) + Duration::from_secs(1) / rate;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep_until;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_and_then_the_rate() {
        for (rate, per_second) in [(Some(200), 200), (None, BEFORE_LOGIN)] {
            let mut pace = Pace::new();
            let begun = Instant::now();
            for _ in 0..per_second * 4 {
                sleep_until(pace.ready_at()).await;
                pace.count(rate);
            }
            let took = begun.elapsed();
            assert!(took >= Duration::from_millis(2900) && took <= Duration::from_millis(3100), "{rate:?} {took:?}");
            // After a pause a burst again, and not more than one.
            tokio::time::advance(Duration::from_secs(60)).await;
            let begun = Instant::now();
            for _ in 0..per_second * 2 {
                sleep_until(pace.ready_at()).await;
                pace.count(rate);
            }
            assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
        }
    }
}
