//! What all sessions are doing right now, and what went wrong lately: for the status page.
//!
//! Bounded: a session has one entry and one transfer at a time, and sessions have their own bound; failures are the last
//! [`MAX_FAILURES`].

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use crate::transfer::outcome::{Progress, TransferKind};

/// Failures that are remembered.
pub const MAX_FAILURES: usize = 50;

/// Bytes of a failure's text, and of a path, that are kept.
const MAX_TEXT: usize = 512;

/// The sessions of this process.
#[derive(Debug, Default)]
pub struct Activity {
    sessions: Mutex<BTreeMap<u64, SessionActivity>>,
    failures: Mutex<VecDeque<Failure>>,
}

/// One session.
#[derive(Debug, Clone)]
pub struct SessionActivity {
    /// Its number, as in the log.
    pub id: u64,
    /// The client.
    pub client: SocketAddr,
    /// Where it came in.
    pub listener: String,
    /// TLS of the control connection, once it has it.
    pub tls: Option<&'static str>,
    /// Who logged in, and on which backend.
    pub login: Option<(String, String)>,
    /// When it began.
    pub since: Instant,
    /// When its last command came.
    pub last_command: Instant,
    /// What it moves.
    pub transfer: Option<TransferActivity>,
}

/// One transfer.
#[derive(Debug, Clone)]
pub struct TransferActivity {
    /// Which way.
    pub kind: TransferKind,
    /// The pathname as the client sees it; what is not UTF-8 is U+FFFD.
    pub path: String,
    /// When it began.
    pub since: Instant,
    /// How far it is.
    pub progress: Progress,
    /// How long the file is, where that is known before.
    pub size: Option<u64>,
}

/// Something that went wrong.
#[derive(Debug, Clone)]
pub struct Failure {
    /// When.
    pub at: SystemTime,
    /// The client's session.
    pub session: u64,
    /// Its address.
    pub client: SocketAddr,
    /// Who had logged in.
    pub user: Option<String>,
    /// What went wrong, in plain words.
    pub what: String,
    /// How often it did, for this address and user: a scanner that comes a thousand times is one failure.
    pub count: u64,
}

impl Failure {
    fn is_like(&self, other: &Self) -> bool {
        self.client.ip() == other.client.ip() && self.user == other.user && self.what == other.what
    }
}

impl Activity {
    /// A session begins; it is there until this is dropped.
    pub fn enter(self: &Arc<Self>, id: u64, client: SocketAddr, listener: &str) -> Present {
        let now = Instant::now();
        let session = SessionActivity {
            id,
            client,
            listener: listener.to_owned(),
            tls: None,
            login: None,
            since: now,
            last_command: now,
            transfer: None,
        };
        self.lock().insert(id, session);
        Present { activity: Arc::clone(self), id }
    }

    /// All sessions, the oldest first.
    pub fn sessions(&self) -> Vec<SessionActivity> {
        self.lock().values().cloned().collect()
    }

    /// What went wrong lately, the latest first.
    pub fn failures(&self) -> Vec<Failure> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, SessionActivity>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session that is there, until this is dropped.
#[derive(Debug)]
pub struct Present {
    activity: Arc<Activity>,
    id: u64,
}

impl Present {
    fn change(&self, change: impl FnOnce(&mut SessionActivity)) {
        if let Some(session) = self.activity.lock().get_mut(&self.id) {
            change(session);
        }
    }

    /// The control connection is under this version of TLS.
    pub fn secured(&self, version: &'static str) {
        self.change(|session| session.tls = Some(version));
    }

    /// A command came.
    pub fn asked(&self) {
        self.change(|session| session.last_command = Instant::now());
    }

    /// Somebody logged in.
    pub fn logged_in(&self, user: &str, backend: &str) {
        self.change(|session| session.login = Some((user.to_owned(), backend.to_owned())));
    }

    /// A transfer begins.
    pub fn transfer_started(&self, kind: TransferKind, path: &[u8], progress: &Progress, size: Option<u64>) {
        let path = bounded(&shown(path));
        let transfer = TransferActivity { kind, path, since: Instant::now(), progress: progress.clone(), size };
        self.change(|session| session.transfer = Some(transfer));
    }

    /// It is over.
    pub fn transfer_ended(&self) {
        self.change(|session| session.transfer = None);
    }

    /// Something went wrong.
    pub fn failed(&self, what: &str) {
        let Some(session) = self.activity.lock().get(&self.id).cloned() else { return };
        let mut failure = Failure {
            at: SystemTime::now(),
            session: self.id,
            client: session.client,
            user: session.login.map(|(user, _)| user),
            what: bounded(what),
            count: 1,
        };
        let mut failures = self.activity.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = failures.iter().position(|earlier| earlier.is_like(&failure))
            && let Some(earlier) = failures.remove(place)
        {
            failure.count += earlier.count;
        }
        if failures.len() >= MAX_FAILURES {
            failures.pop_front();
        }
        failures.push_back(failure);
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.activity.lock().remove(&self.id);
    }
}

fn shown(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    text
}

/// At most so long, and cut between two characters.
fn bounded(text: &str) -> String {
    text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &str = "192.0.2.1:50000";

    #[test]
    fn a_session_is_there_until_it_ends() {
        let activity = Arc::new(Activity::default());
        let present = activity.enter(7, CLIENT.parse().unwrap(), "explicit");
        present.secured("TLSv1.3");
        present.logged_in("acme", "files");
        present.transfer_started(TransferKind::Upload, b"/a\xff", &Progress::default(), None);
        let sessions = activity.sessions();
        let [session] = sessions.as_slice() else { panic!("{sessions:?}") };
        assert_eq!((session.id, session.tls), (7, Some("TLSv1.3")));
        assert_eq!(session.transfer.as_ref().unwrap().path, "/a\u{fffd}");
        present.transfer_ended();
        assert!(activity.sessions().iter().all(|session| session.transfer.is_none()));
        drop(present);
        assert!(activity.sessions().is_empty());
    }

    #[test]
    fn only_so_many_failures_are_kept_and_none_is_long() {
        let activity = Arc::new(Activity::default());
        let present = activity.enter(1, CLIENT.parse().unwrap(), "explicit");
        for number in 0..MAX_FAILURES + 5 {
            present.failed(&format!("{number} {}", "\u{e9}".repeat(MAX_TEXT)));
        }
        let failures = activity.failures();
        assert_eq!(failures.len(), MAX_FAILURES);
        assert!(failures.iter().all(|failure| failure.what.len() <= MAX_TEXT));
        assert!(failures.first().unwrap().what.starts_with("54 "));
        present.failed("again");
        present.failed("something else");
        present.failed("again");
        let failures = activity.failures();
        assert_eq!(failures.iter().filter(|failure| failure.what == "again").count(), 1);
        assert_eq!(failures.first().map(|failure| (failure.what.as_str(), failure.count)), Some(("again", 2)));
    }
}
