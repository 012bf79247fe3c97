//! What a row of the command table says, and how a row is found.

use futures_util::future::BoxFuture;

use crate::ftp::digest::Algorithm;
use crate::session::Session;
use crate::session::logged_in::LoggedIn;
use crate::session::services::Services;

use super::failure::CommandError;
use super::table::TABLE;
use super::{Argument, Step};

/// One command.
pub struct CommandSpec {
    /// The verb, in upper case.
    pub verb: &'static str,
    /// Other verbs for the same (RFC 775 X forms).
    pub aliases: &'static [&'static str],
    /// Its syntax as HELP shows it.
    pub syntax: &'static str,
    /// RFC and section.
    pub reference: &'static str,
    /// What it is about.
    pub theme: Theme,
    /// Its line in FEAT (RFC 2389), where it has one.
    pub feature: Feature,
    /// Allowed in clear where TLS is required on the control connection.
    pub before_tls: bool,
    /// What happens to it while a transfer runs.
    pub during_transfer: DuringTransfer,
    /// It opens a data connection.
    pub uses_data: bool,
    /// It may take as long as a file is large: ABOR ends it, and no time limit.
    pub is_long: bool,
    /// What it does to REST and RNFR.
    pub pending: PendingEffect,
    /// The permission it needs.
    pub effect: Effect,
    /// Every code it may answer with; checked in debug builds.
    pub replies: &'static [u16],
    /// What carries it out.
    pub handler: Handler,
}

/// What a command is about; commands of a theme cost about the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    /// Login and TLS.
    Access,
    /// The working directory.
    Navigation,
    /// Listings over a data connection.
    Listing,
    /// Questions about one name.
    Information,
    /// Names and attributes are changed.
    Change,
    /// Parameters and data ports.
    Setup,
    /// Everything else.
    Other,
}

/// A line of FEAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// None.
    Silent,
    /// This line.
    Line(&'static str),
    /// This line, where `active.enabled`.
    WhereActive(&'static str),
    /// This line, where the digest is offered.
    WhereOffered(&'static str, Algorithm),
    /// `HASH` with the algorithms.
    Hash,
    /// `MLST` with the facts of the session (RFC 3659 §7.8).
    Facts,
}

/// What happens to a command that arrives while a transfer runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DuringTransfer {
    /// It waits for its turn.
    Waits,
    /// It ends the transfer: ABOR.
    Aborts,
    /// It is answered at once where it has no argument: STAT.
    Tells,
    /// The session ends with the transfer: QUIT.
    Quits,
}

/// What a command does to what an earlier one left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PendingEffect {
    /// RNFR becomes void, REST stays.
    KeepsRestart,
    /// Both become void, before the handler runs.
    ClearsAll,
    /// The handler takes REST.
    TakesRestart,
    /// The handler takes RNFR.
    TakesRename,
}

/// The permission a command needs; names are those of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// None.
    Free,
    /// `list`
    Lists,
    /// `read`
    Reads,
    /// `write` (and `overwrite`, which the handler sees to)
    Writes,
    /// `delete`
    Deletes,
    /// `rename`
    Renames,
    /// `mkdir`
    MakesDirectory,
}

/// What a handler gives back.
pub type HandlerFuture<'a> = BoxFuture<'a, Result<Step, CommandError>>;

/// What carries a command out.
pub enum Handler {
    /// In any stage of the session.
    Anytime(for<'a> fn(&'a mut Session, &'a Services, Argument<'a>) -> HandlerFuture<'a>),
    /// For a logged-in user only.
    LoggedIn(for<'a> fn(&'a mut LoggedIn, &'a Services, Argument<'a>) -> HandlerFuture<'a>),
    /// Known and not offered; always this code.
    NotOffered(u16, &'static str),
}

/// All rows.
pub fn rows() -> &'static [CommandSpec] {
    TABLE
}

/// The row of a verb.
pub fn find(verb: &str) -> Option<&'static CommandSpec> {
    TABLE.iter().find(|row| row.verb == verb || row.aliases.contains(&verb))
}

/// The table as Markdown, for the README.
pub fn markdown() -> String {
    let mut text = String::from("| Command | Syntax | Reference | Replies |\n|---|---|---|---|\n");
    for row in TABLE.iter().filter(|row| row.is_offered()) {
        let names: Vec<String> =
            std::iter::once(&row.verb).chain(row.aliases).map(|verb| format!("`{verb}`")).collect();
        let syntax = row.syntax.replace('|', "\\|");
        text.push_str(&format!("| {} | `{syntax}` | {} | {} |\n", names.join(" "), row.reference, row.codes()));
    }
    text
}

/// The table as plain text.
pub fn plain() -> String {
    let mut text = String::new();
    for row in TABLE {
        let names: Vec<&str> = std::iter::once(row.verb).chain(row.aliases.iter().copied()).collect();
        let offered = if row.is_offered() { "" } else { "not offered: " };
        text.push_str(&format!(
            "{:<10} {:<42} {:<24} {offered}{}\n",
            names.join(" "),
            row.syntax,
            row.reference,
            row.codes()
        ));
    }
    text
}

impl CommandSpec {
    /// It does something here.
    pub fn is_offered(&self) -> bool {
        !matches!(self.handler, Handler::NotOffered(..))
    }

    fn codes(&self) -> String {
        self.replies.iter().map(u16::to_string).collect::<Vec<_>>().join(" ")
    }
}

impl std::fmt::Debug for CommandSpec {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("CommandSpec").field("verb", &self.verb).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_verb_stands_once_in_upper_case_with_replies() {
        let mut seen = HashSet::new();
        for row in TABLE {
            for verb in std::iter::once(&row.verb).chain(row.aliases) {
                assert!(seen.insert(*verb), "{verb} stands twice");
                // `P@SW` is what some old firewalls make of PASV; digests have numbers in their names.
                let is_of_verb = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'@';
                assert!(verb.bytes().all(is_of_verb), "{verb}");
            }
            assert!(!row.replies.is_empty(), "{} answers nothing", row.verb);
            assert!(row.syntax.starts_with(row.verb), "{}", row.verb);
        }
    }

    #[test]
    fn a_command_that_is_not_offered_answers_one_code() {
        for row in TABLE {
            if let Handler::NotOffered(code, _) = row.handler {
                assert_eq!(row.replies, &[code], "{}", row.verb);
                assert_eq!(row.feature, Feature::Silent, "{}", row.verb);
            }
        }
    }

    #[test]
    fn whatever_opens_a_data_connection_takes_or_clears_the_restart_marker() {
        for row in TABLE.iter().filter(|row| row.uses_data) {
            assert!(
                matches!(row.pending, PendingEffect::TakesRestart | PendingEffect::ClearsAll),
                "{} would leave REST to the next transfer",
                row.verb
            );
        }
    }
}
