//! What sessions that ended could not put right on their backend, kept for the next session of the same login there.
//!
//! A backend may be away when a session ends, and under `login: passthrough-once` a session whose connection is lost
//! cannot make another one. Somebody with the same login comes again, mostly soon.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::transfer::left_behind::LeftBehind;

/// Logins that something is kept for. Each may leave as much as one session; a backend that is away for long leaves the
/// rest to those who sweep its directories.
const MOST_LOGINS: usize = 1000;

/// A login: a backend, and the name there.
pub type Login = (String, String);

/// Things to put right, by the login that may.
#[derive(Debug, Default)]
pub struct Bequests(Mutex<HashMap<Login, Vec<LeftBehind>>>);

impl Bequests {
    /// Keeps what can wait. What changes a file that clients see cannot: others may have written to it meanwhile.
    pub fn leave(&self, login: Login, left_behinds: impl IntoIterator<Item = LeftBehind>) {
        let mut can_wait = left_behinds.into_iter().filter(LeftBehind::can_wait).peekable();
        let mut kept = self.lock();
        if can_wait.peek().is_some() && (kept.len() < MOST_LOGINS || kept.contains_key(&login)) {
            kept.insert(login, can_wait.collect());
        }
    }

    /// Takes what is kept for a login.
    pub fn take(&self, login: &Login) -> Vec<LeftBehind> {
        self.lock().remove(login).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Login, Vec<LeftBehind>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sftp::BackendPath;

    fn path(name: &str) -> BackendPath {
        BackendPath::from_bytes(name)
    }

    fn login(name: usize) -> Login {
        ("files".to_owned(), name.to_string())
    }

    #[test]
    fn what_can_wait_is_for_the_same_login_and_once() {
        let bequests = Bequests::default();
        let aside = LeftBehind::Aside { aside: path("hidden"), target: path("file") };
        let grown = LeftBehind::Grown { target: path("other"), length: 1, end: 2 };
        bequests.leave(login(1), [grown.clone(), aside.clone()]);
        bequests.leave(login(2), [grown]);
        assert_eq!(bequests.take(&login(2)), []);
        assert_eq!(bequests.take(&login(1)), [aside]);
        assert_eq!(bequests.take(&login(1)), []);
    }

    #[test]
    fn there_are_only_so_many() {
        let bequests = Bequests::default();
        for number in 0..2 * MOST_LOGINS {
            bequests.leave(login(number), [LeftBehind::Temporary(path("temporary"))]);
        }
        assert_eq!(bequests.lock().len(), MOST_LOGINS);
        assert_eq!(bequests.take(&login(0)).len(), 1);
    }
}
