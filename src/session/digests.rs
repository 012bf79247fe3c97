//! What all sessions share about digests: which users ask for them, and how many are made at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use crate::ftp::digest::Algorithm;

/// Digests that are read from one backend at a time.
const AT_A_TIME: usize = 2;

/// Users whose habit is remembered. Beyond that a digest costs one more reading of the file, as it does for whoever asks
/// for the first time.
const MAX_HABITS: usize = 4096;

/// Shared by all sessions.
#[derive(Debug, Default)]
pub struct Digests(Mutex<Shared>);

#[derive(Debug, Default)]
struct Shared {
    habits: HashMap<String, Algorithm>,
    /// By name of the backend, of which there are as many as the configuration has.
    turns: HashMap<String, Arc<Semaphore>>,
}

impl Digests {
    /// This user's client asked for this digest: it will do so again, after its next transfer.
    pub fn note(&self, user: &str, algorithm: Algorithm) {
        let mut shared = self.lock();
        if shared.habits.len() < MAX_HABITS || shared.habits.contains_key(user) {
            shared.habits.insert(user.to_owned(), algorithm);
        }
    }

    /// What it asked for the last time, if it ever did.
    pub fn habit(&self, user: &str) -> Option<Algorithm> {
        self.lock().habits.get(user).copied()
    }

    /// The turns of a backend.
    pub fn turns(&self, backend: &str) -> Arc<Semaphore> {
        let mut shared = self.lock();
        let turns = shared.turns.entry(backend.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(AT_A_TIME)));
        Arc::clone(turns)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn habits_are_bounded_and_the_last_one_counts() {
        let digests = Digests::default();
        for number in 0..=MAX_HABITS {
            digests.note(&number.to_string(), Algorithm::Md5);
        }
        assert_eq!(digests.habit(&MAX_HABITS.to_string()), None);
        digests.note("0", Algorithm::Sha256);
        assert_eq!(digests.habit("0"), Some(Algorithm::Sha256));
    }
}
