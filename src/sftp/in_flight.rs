//! File data under way to and from servers, of all transfers of this process, in bytes: how much of the memory that their
//! windows allow them they take.

use std::sync::atomic::{AtomicU64, Ordering};

static BYTES: AtomicU64 = AtomicU64::new(0);

/// Bytes that are held, or were asked for and may come at any time.
pub fn bytes() -> u64 {
    BYTES.load(Ordering::Relaxed)
}

/// What one transfer has of it; nothing when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Share(u64);

impl Share {
    pub(super) fn set(&mut self, bytes: u64) {
        // A share takes off no more than it has put on, so the sum is never below nothing.
        if bytes >= self.0 {
            BYTES.fetch_add(bytes - self.0, Ordering::Relaxed);
        } else {
            BYTES.fetch_sub(self.0 - bytes, Ordering::Relaxed);
        }
        self.0 = bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Other tests of this process have transfers as well: only what is this test's own is compared, by a size no other has.
    #[test]
    fn a_share_counts_until_it_is_dropped() {
        const LARGE: u64 = 1 << 50;
        let mut share = Share::default();
        share.set(LARGE + 5);
        share.set(LARGE);
        assert!((LARGE..2 * LARGE).contains(&bytes()));
        drop(share);
        assert!(bytes() < LARGE);
    }
}
