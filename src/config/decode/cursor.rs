//! A value of the tree and its key path: reading it as what was expected, or saying what is wrong.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use super::super::error::Problem;
use super::super::files;
use super::super::raw::{Key, Node};
use super::super::scalar::{self, Wrong};
use super::super::secret::Secret;
use super::fields::Fields;
use super::words::{listed, nearest};
use super::{Report, entry_path, item_path, shortened};

/// A value and where it stands.
#[derive(Clone)]
pub(super) struct Cursor<'n> {
    pub(super) node: &'n Node,
    pub(super) at: String,
}

impl<'n> Cursor<'n> {
    pub(super) fn wrong(&self, what: impl Into<String>, report: &mut Report) {
        report.problem(Problem::new(self.at.as_str(), what));
    }

    pub(super) fn wrong_with_hint(&self, what: impl Into<String>, hint: impl Into<String>, report: &mut Report) {
        report.problem(Problem::new(self.at.as_str(), what).hint(hint));
    }

    /// It has another type than `expected`.
    pub(super) fn wrong_type(&self, expected: &str, report: &mut Report) {
        let problem = Problem::new(self.at.as_str(), format!("expected {expected}, found {}", self.node.kind()));
        report.problem(match self.node {
            Node::Null => problem.hint("leave the key out for its default"),
            _ => problem,
        });
    }

    /// The value as it stands in the file, for messages. Not for what may be a secret.
    pub(super) fn shown(&self) -> String {
        match self.node {
            Node::Text(text) => format!("`{}`", shortened(text.written())),
            Node::Integer(number) => format!("`{number}`"),
            node => node.kind().to_owned(),
        }
    }

    /// Text that means itself. A number or truth value is not taken as text: `012` would have become something else.
    pub(super) fn text(&self, expected: &str, report: &mut Report) -> Option<&'n str> {
        match self.node {
            Node::Text(text) => text.value(),
            Node::Integer(_) | Node::Float(_) | Node::Flag(_) => {
                let what = format!("expected {expected}, found {}", self.node.kind());
                self.wrong_with_hint(what, "write it in quotes", report);
                None
            }
            _ => {
                self.wrong_type(expected, report);
                None
            }
        }
    }

    /// Text that is not empty.
    pub(super) fn name(&self, expected: &str, report: &mut Report) -> Option<&'n str> {
        let text = self.text(expected, report)?;
        if text.is_empty() {
            self.wrong(format!("expected {expected}, found empty text"), report);
            return None;
        }
        Some(text)
    }

    /// A secret. SECURITY: nothing here repeats the value.
    pub(super) fn secret(&self, expected: &str, report: &mut Report) -> Option<Secret> {
        Some(Secret::new(self.name(expected, report)?))
    }

    /// Text in one of the small notations.
    pub(super) fn parsed<T>(
        &self,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
        report: &mut Report,
    ) -> Option<T> {
        let text = self.text(expected, report)?;
        self.accept(parse(text), expected, report)
    }

    pub(super) fn accept<T>(&self, parsed: Result<T, Wrong>, expected: &str, report: &mut Report) -> Option<T> {
        let (what, hint) = match parsed {
            Ok(value) => return Some(value),
            Err(Wrong::Form(hint)) => (format!("expected {expected}, found {}", self.shown()), hint),
            Err(Wrong::Value(what, hint)) => (format!("{} {what}", self.shown()), hint),
        };
        let problem = Problem::new(self.at.as_str(), what);
        report.problem(match hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        });
        None
    }

    pub(super) fn duration(&self, minimum: Duration, report: &mut Report) -> Option<Duration> {
        const EXPECTED: &str = "a duration such as 30s";
        if let Node::Integer(number) = self.node {
            self.wrong_with_hint(
                format!("expected {EXPECTED}, found a number without unit"),
                format!("write {number}s for seconds"),
                report,
            );
            return None;
        }
        let duration = self.parsed(EXPECTED, scalar::duration, report)?;
        if duration < minimum {
            self.wrong(format!("{} is too short: at least {} ms", self.shown(), minimum.as_millis()), report);
            return None;
        }
        Some(duration)
    }

    /// A size in bytes between two bounds.
    pub(super) fn size(&self, minimum: usize, maximum: usize, report: &mut Report) -> Option<usize> {
        const EXPECTED: &str = "a size such as 4MiB";
        let bytes = match self.node {
            Node::Integer(number) => u64::try_from(*number).ok().or_else(|| {
                self.wrong_type(EXPECTED, report);
                None
            })?,
            _ => self.parsed(EXPECTED, scalar::size, report)?,
        };
        match usize::try_from(bytes) {
            Ok(bytes) if (minimum..=maximum).contains(&bytes) => Some(bytes),
            _ => {
                self.wrong(format!("{} is not between {minimum} and {maximum} bytes", self.shown()), report);
                None
            }
        }
    }

    /// A whole number from 1 on.
    pub(super) fn count(&self, maximum: u32, report: &mut Report) -> Option<u32> {
        let number = match self.node {
            Node::Integer(number) => Some(*number),
            Node::Text(text) if text.is_replaced() => text.value()?.parse().ok(),
            Node::Text(text) if text.value()?.parse::<i128>().is_ok() => {
                self.wrong_with_hint("expected a whole number, found text", "remove the quotes", report);
                return None;
            }
            _ => None,
        };
        let Some(number) = number else {
            self.wrong_type("a whole number", report);
            return None;
        };
        match u32::try_from(number) {
            Ok(number) if (1..=maximum).contains(&number) => Some(number),
            _ => {
                self.wrong(format!("{} is not between 1 and {maximum}", self.shown()), report);
                None
            }
        }
    }

    pub(super) fn flag(&self, report: &mut Report) -> Option<bool> {
        match self.node {
            Node::Flag(flag) => Some(*flag),
            Node::Text(text) => match text.value()? {
                "true" if text.is_replaced() => Some(true),
                "false" if text.is_replaced() => Some(false),
                _ => {
                    let what = format!("expected true or false, found {}", self.shown());
                    self.wrong_with_hint(what, "write true or false, without quotes", report);
                    None
                }
            },
            _ => {
                self.wrong_type("true or false", report);
                None
            }
        }
    }

    /// One of the words of a closed list.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&'static str, T)], report: &mut Report) -> Option<T> {
        let words = choices.iter().map(|(word, _)| *word);
        let written = match self.node {
            Node::Text(text) => text.value()?.to_owned(),
            // YAML 1.1 reads a bare off as false, and some tools that write YAML still do.
            Node::Flag(false) => "off".to_owned(),
            Node::Flag(true) => "on".to_owned(),
            // `min_version: 1.2` without quotes is a number to YAML.
            Node::Float(number) => number.to_string(),
            Node::Integer(number) => number.to_string(),
            _ => {
                self.wrong_type(&format!("one of {}", listed(words)), report);
                return None;
            }
        };
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == written) {
            return Some(*value);
        }
        let what = format!("{} is not one of {}", self.shown(), listed(words.clone()));
        match nearest(&written, words) {
            Some((word, true)) => self.wrong_with_hint(what, format!("did you mean `{word}`?"), report),
            _ => self.wrong(what, report),
        }
        None
    }

    pub(super) fn list(&self, expected: &str, report: &mut Report) -> Option<Vec<Cursor<'n>>> {
        let Node::List(items) = self.node else {
            self.wrong_type(expected, report);
            return None;
        };
        let item = |(index, node)| Cursor { node, at: item_path(&self.at, index) };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// The entries of a mapping whose keys are names that the user chose.
    pub(super) fn named(&self, report: &mut Report) -> Option<Vec<(&'n str, Cursor<'n>)>> {
        let Node::Mapping(entries) = self.node else {
            self.wrong_type("a mapping", report);
            return None;
        };
        let mut names = HashSet::new();
        let mut named = Vec::new();
        for (key, node) in entries {
            let Key::Text(name) = key else {
                self.wrong_with_hint("a key here is not text", "write the key in quotes", report);
                continue;
            };
            let cursor = Cursor { node, at: entry_path(&self.at, name) };
            if !names.insert(name.as_str()) {
                // SECURITY: not told, for the reason that `Fields::finish` gives.
                let cursor = if matches!(node, Node::Null) { self } else { &cursor };
                cursor.wrong_with_hint("a key stands here twice", "keep one of them", report);
                continue;
            }
            named.push((name.as_str(), cursor));
        }
        Some(named)
    }

    /// The keys of a mapping. A key with nothing behind it, as when all its keys are comments, is an empty mapping.
    pub(super) fn fields(&self, report: &mut Report) -> Option<Fields<'n>> {
        let entries = match self.node {
            Node::Null => Vec::new(),
            _ => self.named(report)?,
        };
        Some(Fields::new(self.at.clone(), entries))
    }

    /// A path that need not be there yet.
    pub(super) fn path(&self, expected: &str, report: &mut Report) -> Option<PathBuf> {
        let name = self.name(expected, report)?;
        Some(report.base.join(name))
    }

    /// A file that must be there and readable; `None` where it is not.
    pub(super) fn file(&self, report: &mut Report) -> Option<PathBuf> {
        let name = self.name("the path of a file", report)?;
        let path = report.base.join(name);
        let shown = match self.node {
            Node::Text(text) if text.is_replaced() => shortened(text.written()),
            _ => shortened(&path.display().to_string()),
        };
        match files::check(&path) {
            Ok(()) => Some(path),
            Err((reason, hint)) => {
                self.wrong_with_hint(format!("{reason}: `{shown}`"), hint, report);
                None
            }
        }
    }
}
