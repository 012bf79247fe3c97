//! The keys of a mapping: each must be asked for, so that those nobody asked for are the unknown ones.

use super::super::error::Problem;
use super::super::raw::Node;
use super::cursor::Cursor;
use super::words::{listed, nearest};
use super::{Report, entry_path};

/// The keys of one mapping of the contract.
pub(super) struct Fields<'n> {
    at: String,
    entries: Vec<Entry<'n>>,
    /// The keys that were asked for, and whether each is there.
    known: Vec<(&'static str, bool)>,
    missing: Vec<(&'static str, String)>,
    /// Secrets stand here, and a piece of one may have become a key.
    holds_secrets: bool,
}

struct Entry<'n> {
    key: &'n str,
    cursor: Cursor<'n>,
    is_known: bool,
}

impl<'n> Fields<'n> {
    pub(super) fn new(at: String, entries: Vec<(&'n str, Cursor<'n>)>) -> Self {
        let entries = entries.into_iter().map(|(key, cursor)| Entry { key, cursor, is_known: false }).collect();
        Self { at, entries, known: Vec::new(), missing: Vec::new(), holds_secrets: false }
    }

    /// Keys of this mapping hold secrets.
    pub(super) fn holding_secrets(mut self) -> Self {
        self.holds_secrets = true;
        self
    }

    /// The value of a key, where it is written.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Cursor<'n>> {
        let entry = self.entries.iter_mut().find(|entry| entry.key == key);
        self.known.push((key, entry.is_some()));
        let entry = entry?;
        entry.is_known = true;
        Some(entry.cursor.clone())
    }

    /// The value of a key that may be `null`, which is the same as leaving it out.
    pub(super) fn take_some(&mut self, key: &'static str) -> Option<Cursor<'n>> {
        self.take(key).filter(|cursor| !matches!(cursor.node, Node::Null))
    }

    /// The value of a key that must be there.
    pub(super) fn require(&mut self, key: &'static str, hint: impl Into<String>) -> Option<Cursor<'n>> {
        let cursor = self.take(key);
        if cursor.is_none() {
            self.missing.push((key, hint.into()));
        }
        cursor
    }

    /// What `decode` makes of a key; `default` where it is not written, or wrong (which `decode` reports).
    pub(super) fn or<T>(
        &mut self,
        key: &'static str,
        default: T,
        report: &mut Report,
        decode: impl FnOnce(&Cursor<'n>, &mut Report) -> Option<T>,
    ) -> T {
        self.take(key).and_then(|cursor| decode(&cursor, report)).unwrap_or(default)
    }

    /// The known key that was probably meant, and whether it is near. One that is there already is less likely.
    fn meant(&self, key: &str) -> Option<(&'static str, bool)> {
        let absent = self.known.iter().filter(|(_, is_there)| !is_there).map(|(known, _)| *known);
        nearest(key, absent).filter(|(_, is_near)| *is_near).or_else(|| nearest(key, self.known()))
    }

    fn known(&self) -> impl Iterator<Item = &'static str> + Clone {
        self.known.iter().map(|(known, _)| *known)
    }

    /// Does an unknown key look like one of these? Then they are not missing, and the unknown key is the mistake.
    pub(super) fn is_misspelt(&self, keys: &[&str]) -> bool {
        let mut unknown = self.entries.iter().filter(|entry| !entry.is_known);
        unknown.any(|entry| matches!(self.meant(entry.key), Some((word, true)) if keys.contains(&word)))
    }

    /// Reports the keys nobody asked for, and those that are missing.
    pub(super) fn finish(self, report: &mut Report) {
        let mut renamed = Vec::new();
        for entry in self.entries.iter().filter(|entry| !entry.is_known) {
            // SECURITY: without quotes, `{password: one,two}` has a key `two`: not to be told.
            if self.holds_secrets && (is_null(entry.cursor.node) || !is_ordinary_key(entry.key)) {
                report.problem(
                    Problem::new(self.at.as_str(), "unknown key, not shown: it may be a piece of a secret")
                        .hint("write values that hold a comma in quotes"),
                );
                continue;
            }
            let problem = Problem::new(entry.cursor.at.as_str(), "unknown key");
            report.problem(match self.meant(entry.key) {
                Some((word, true)) => {
                    renamed.push(word);
                    problem.hint(format!("did you mean `{word}`?"))
                }
                Some((word, false)) => {
                    problem.hint(format!("the nearest known key is `{word}`, and all are {}", listed(self.known())))
                }
                None => problem,
            });
        }
        for (key, hint) in self.missing {
            // A required key that is only misspelt is one mistake, and already reported.
            if !renamed.contains(&key) {
                report.problem(Problem::new(entry_path(&self.at, key), "is missing").hint(hint));
            }
        }
    }
}

fn is_ordinary_key(key: &str) -> bool {
    key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

pub(super) fn is_null(node: &Node) -> bool {
    matches!(node, Node::Null)
}

pub(super) fn is_empty_list(node: &Node) -> bool {
    matches!(node, Node::List(items) if items.is_empty())
}
