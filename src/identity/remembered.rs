//! Passwords that were found right a moment ago: a client that logs in again and again is not hashed for each time.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand;
use tokio::time::Instant;

/// How long a password is remembered after it was last hashed. Logins that come in bursts are minutes apart at most, and
/// what is remembered is all that a thief of our memory could guess at without the cost of the hash.
const REMEMBERED_TIME: Duration = Duration::from_secs(60);

/// Bytes of the key: as long as the digest (RFC 2104 §3).
const KEY_LENGTH: usize = 32;

/// Passwords that were found right, each for the hash it was checked against.
///
/// SECURITY: what is kept is not the password but its HMAC-SHA-256 under a key that was drawn at random for this process
/// and never leaves it. The HMAC covers the hash of the user entry as well, so it is good for that entry alone, and for
/// no other hash. Only a right password gets in, and only the right password is answered sooner for it: a wrong one costs
/// the whole hash as ever. There are no more of them than hashes in the configuration.
pub(super) struct Remembered {
    /// None where the system has no randomness: then nothing is remembered.
    key: Option<hmac::Key>,
    /// By the hash, itself under the key.
    tags: Mutex<HashMap<Vec<u8>, (hmac::Tag, Instant)>>,
}

impl Remembered {
    pub(super) fn new() -> Self {
        let mut key = [0_u8; KEY_LENGTH];
        let key = rand::fill(&mut key).is_ok().then(|| hmac::Key::new(hmac::HMAC_SHA256, &key));
        Self { key, tags: Mutex::default() }
    }

    /// Was this password found right for this hash a moment ago?
    pub(super) fn knows(&self, hash: &[u8], password: &[u8]) -> bool {
        let Some(key) = &self.key else { return false };
        let tag = match self.lock().get(hmac::sign(key, hash).as_ref()) {
            Some((tag, since)) if since.elapsed() < REMEMBERED_TIME => *tag,
            _ => return false,
        };
        // In constant time.
        hmac::verify(key, &both(hash, password), tag.as_ref()).is_ok()
    }

    /// It is right: so says the hash itself.
    pub(super) fn remember(&self, hash: &[u8], password: &[u8]) {
        let Some(key) = &self.key else { return };
        let name = hmac::sign(key, hash).as_ref().to_vec();
        let tag = hmac::sign(key, &both(hash, password));
        let mut tags = self.lock();
        tags.retain(|_, (_, since)| since.elapsed() < REMEMBERED_TIME);
        tags.insert(name, (tag, Instant::now()));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<u8>, (hmac::Tag, Instant)>> {
        self.tags.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One text of two, so that no other two make the same.
fn both(hash: &[u8], password: &[u8]) -> zeroize::Zeroizing<Vec<u8>> {
    let mut both = zeroize::Zeroizing::new(Vec::with_capacity(size_of::<u64>() + hash.len() + password.len()));
    both.extend_from_slice(&(hash.len() as u64).to_be_bytes());
    both.extend_from_slice(hash);
    both.extend_from_slice(password);
    both
}

impl fmt::Debug for Remembered {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Remembered").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_password_is_remembered_for_its_hash_and_for_a_minute() {
        let remembered = Remembered::new();
        assert!(!remembered.knows(b"hash", b"password"));
        remembered.remember(b"hash", b"password");
        remembered.remember(b"other", b"secret");
        assert!(remembered.knows(b"hash", b"password"));
        for (hash, password) in [
            (&b"hash"[..], &b"secret"[..]),
            (b"other", b"password"),
            (b"hash", b""),
            (b"hash", b"password "),
            (b"", b"hashpassword"),
            (b"hashp", b"assword"),
        ] {
            assert!(!remembered.knows(hash, password), "{hash:?} {password:?}");
        }
        tokio::time::advance(REMEMBERED_TIME / 2).await;
        // To be known is not to be hashed again: the time is not renewed by it.
        assert!(remembered.knows(b"hash", b"password"));
        tokio::time::advance(REMEMBERED_TIME / 2).await;
        assert!(!remembered.knows(b"hash", b"password"));
        remembered.remember(b"third", b"word");
        assert_eq!(remembered.lock().len(), 1, "what is out of date is forgotten");
    }

    #[test]
    fn nothing_of_a_password_is_kept_or_printed() {
        let remembered = Remembered::new();
        remembered.remember(b"hash", b"password");
        let names: Vec<_> = remembered.lock().keys().cloned().collect();
        assert!(names.iter().all(|name| name.len() == KEY_LENGTH && name != b"hash"));
        assert_eq!(format!("{remembered:?}"), "Remembered { .. }");
        assert!(!Remembered::new().knows(b"hash", b"password"), "another process has another key");
    }
}
