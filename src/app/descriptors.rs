//! File descriptors: as many as this process may have, and whether that is enough for the sessions it is to serve (S-21).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// Of one session at work: control connection, passive port, data connection, and the connection to its backend, which
/// mapped users share and others do not.
const OF_A_SESSION: u64 = 4;

/// Of the process itself: listeners, admin, its runtime, log and audit files, and what is opened to read a file anew.
const OF_THE_PROCESS: u64 = 128;

/// Raises the soft limit to the hard one, which needs no privilege, and says how many there are; `None`: no limit.
pub fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    // Where it is refused the old limit holds.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current
}

/// What `limits.sessions` needs, where `limit` is less than that: in the words of a log record.
pub fn shortage(config: &Config, limit: Option<u64>) -> Option<String> {
    let sessions = u64::try_from(config.limits.sessions).unwrap_or(u64::MAX);
    let needed = sessions.saturating_mul(OF_A_SESSION).saturating_add(OF_THE_PROCESS);
    let limit = limit.filter(|limit| *limit < needed)?;
    let enough_for = limit.saturating_sub(OF_THE_PROCESS) / OF_A_SESSION;
    Some(format!(
        "{limit} file descriptors are enough for {enough_for} sessions at work, and limits.sessions is {sessions}: raise the \
         limit (LimitNOFILE, ulimit -n) to {needed}, or lower limits.sessions"
    ))
}
