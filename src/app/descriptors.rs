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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_text;

    #[test]
    fn it_is_told_how_many_sessions_a_limit_is_enough_for() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["c", "k", "h"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let text = "tls: {certificates: [{certificate: c, key: k}]}\nbackends: {b: {address: h, known_hosts: h}}\n\
                    users: {'*': {backend: b, login: passthrough}}\nlimits: {sessions: 1000}\n";
        let config = load_text(text, folder.path()).config.unwrap();
        assert_eq!(shortage(&config, None), None, "no limit");
        assert_eq!(shortage(&config, Some(4 * 1000 + 128)), None);
        let told = shortage(&config, Some(1024)).unwrap();
        assert!(told.contains("1024 file descriptors are enough for 224 sessions"), "{told}");
        assert!(told.contains("to 4128"), "{told}");
        assert!(shortage(&config, Some(0)).unwrap().contains("enough for 0 sessions"));
    }
}
