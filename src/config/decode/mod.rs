//! From the tree of values to the typed configuration: every mistake is reported, none ends the walk.
//!
//! A [`Cursor`] is a value and its key path, [`fields::Fields`] are the keys of a mapping, and there is a module for
//! each part of the contract.

mod algorithms;
mod backends;
mod cursor;
mod fields;
mod front;
mod login;
mod policy;
mod process;
mod users;
mod words;

use std::path::{Path, PathBuf};

use self::cursor::Cursor;
use super::Config;
use super::error::Problem;
use super::load::Material;
use super::raw::Node;

/// Longest piece of a value that a message repeats.
const MAX_SHOWN: usize = 80;

/// What to do about a mistake that has no hint of its own.
const SEE_EXAMPLE: &str = "deploy/config.example.yaml shows every key with its form and its default";

/// The whole configuration; `None` where something needed is missing or wrong, which is in `report` then.
pub(super) fn configuration(root: &Node, report: &mut Report) -> Option<Config> {
    let root = Cursor { node: root, at: String::new() };
    let mut fields = root.fields(report)?;
    let listeners = front::listeners(fields.take("listeners"), report);
    let tls = front::tls(fields.take("tls"), report);
    let passive = front::passive(fields.take("passive"), report);
    let active = front::active(fields.take("active"), report);
    let trusted_proxies = front::trusted_proxies(fields.take("trusted_proxies"), report);
    let backends = fields
        .require("backends", "the SFTP servers by name, each with an `address` and `known_hosts`")
        .map(|cursor| backends::backends(&cursor, report));
    let users = fields.require("users", "who may log in, by name, each with a `backend` and a `login`");
    let policy_cursor = fields.take("policy");
    let policy = policy::policy(policy_cursor, &policy::default(), report);
    let limits = process::limits(fields.take("limits"), report);
    let timeouts = process::timeouts(fields.take("timeouts"), report);
    let shutdown = process::shutdown(fields.take("shutdown"), report);
    let (admin, readiness_needs_backend) = process::admin(fields.take("admin"), report);
    let metrics_per_user = process::metrics(fields.take("metrics"), report);
    let log = process::log(fields.take("log"), report);
    let traces = process::traces(fields.take("traces"), report);
    let audit = process::audit(fields.take("audit"), report);
    // Where these keys are wrong, that is the one mistake to report.
    let asks_certificates = tls.client_certificates.is_some()
        || report.problems.iter().any(|problem| problem.at.starts_with("tls.client_"));
    let surroundings = users::Surroundings { backends: backends.as_ref(), policy: &policy, asks_certificates };
    let users = users.map(|cursor| users::users(&cursor, &surroundings, report));
    fields.finish(report);
    front::check_addresses(&listeners, &passive, admin, report);
    front::check_proxies(&listeners, &passive, trusted_proxies.as_deref(), report);

    let (users, any_user) = users??;
    Some(Config {
        listeners: listeners.into_iter().map(|(_, listener)| listener).collect(),
        tls,
        passive,
        active,
        trusted_proxies: trusted_proxies.unwrap_or_default(),
        backends: backends?.into_iter().filter_map(|(name, backend)| Some((name, backend?))).collect(),
        users,
        any_user,
        limits,
        timeouts,
        shutdown,
        admin,
        readiness_needs_backend,
        metrics_per_user,
        audit,
        log,
        traces,
    })
}

/// What a walk found: mistakes, warnings, files.
pub(super) struct Report {
    base: PathBuf,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    pub(super) materials: Vec<Material>,
    /// Files that `${file:…}` named.
    pub(super) references: Vec<PathBuf>,
}

impl Report {
    /// Relative paths begin at `base`.
    pub(super) fn new(base: &Path) -> Self {
        Self {
            base: base.to_owned(),
            problems: Vec::new(),
            warnings: Vec::new(),
            materials: Vec::new(),
            references: Vec::new(),
        }
    }

    pub(super) fn base(&self) -> &Path {
        &self.base
    }

    pub(super) fn problem(&mut self, problem: Problem) {
        // Nobody is left without something to do; where no decoder knows better, the example shows the form.
        let problem = if problem.hint.is_some() { problem } else { problem.hint(SEE_EXAMPLE) };
        self.problems.push(problem);
    }

    fn warn(&mut self, at: &str, what: &str) {
        self.warnings.push(Problem::new(at, what));
    }
}

/// `users.acme`, `users."*"`: the key path of an entry.
pub(super) fn entry_path(at: &str, key: &str) -> String {
    let is_plain = !key.is_empty()
        && key.len() <= MAX_SHOWN
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-@".contains(&byte));
    let key = if is_plain { key.to_owned() } else { format!("\"{}\"", shortened(key)) };
    if at.is_empty() { key } else { format!("{at}.{key}") }
}

/// `listeners[0]`: the key path of an item.
pub(super) fn item_path(at: &str, index: usize) -> String {
    format!("{at}[{index}]")
}

/// `text` on one line, in printable characters, and not too long.
fn shortened(text: &str) -> String {
    let mut characters = text.chars();
    let mut short: String = characters.by_ref().take(MAX_SHOWN).flat_map(char::escape_debug).collect();
    if characters.next().is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_paths() {
        assert_eq!(entry_path("users", "acme"), "users.acme");
        assert_eq!(entry_path("", "tls"), "tls");
        assert_eq!(entry_path("users", "*"), "users.\"*\"");
        assert_eq!(entry_path("users", "a.b\n\u{1b}"), "users.\"a.b\\n\\u{1b}\"");
        assert_eq!(item_path("listeners", 1), "listeners[1]");
    }
}
