//! FEAT (RFC 2389), SYST, STAT, HELP, NOOP (RFC 959 §4.1.3), LANG (RFC 2640 §4), CLNT, CSID and AVBL.

use crate::ftp::argument::{ArgumentError, TransferType};
use crate::ftp::reply::Reply;
use crate::ftp::{digest, list};
use crate::identity::root::Follow;
use crate::session::logged_in::LoggedIn;
use crate::session::services::Services;
use crate::session::{Session, Stage};

use super::digest::offers;
use super::failure::{CommandError, For, Purpose};
use super::file::locate;
use super::spec::{self, Feature};
use super::{Argument, Step, listing};

/// Verbs on one line of HELP.
const HELP_COLUMNS: usize = 8;

pub(super) async fn feat(
    session: &mut Session,
    services: &Services,
    _argument: Argument<'_>,
) -> Result<Step, CommandError> {
    // A client that reads UTF8 among the features may send and expect it from here on (RFC 2640 §3.2).
    session.parameters().utf8 = true;
    let facts = session.parameters().facts.feature();
    // Before login it is not known what the user's policy offers.
    let (hash, selected) = match session.logged_in() {
        Some(state) => (state.policy().hash.clone(), state.selected_digest()),
        None => (Vec::new(), None),
    };
    let lines = spec::rows()
        .iter()
        .filter_map(|row| match row.feature {
            Feature::Silent => None,
            Feature::Line(line) => Some(format!(" {line}").into_bytes()),
            Feature::WhereActive(line) => services.active.map(|_| format!(" {line}").into_bytes()),
            Feature::WhereOffered(line, algorithm) => offers(&hash, algorithm).then(|| format!(" {line}").into_bytes()),
            Feature::Hash => (!hash.is_empty()).then(|| format!(" {}", digest::feature(&hash, selected)).into_bytes()),
            Feature::Facts => Some(format!(" MLST {facts}").into_bytes()),
        })
        .collect();
    Ok(Step::Reply(Reply::lines(211, "Features:", lines, "End")))
}

pub(super) async fn syst(
    session: &mut Session,
    _services: &Services,
    _argument: Argument<'_>,
) -> Result<Step, CommandError> {
    // Clients choose their parser of LIST by these words.
    let style = session.logged_in().map_or(list::Style::Unix, |state| state.policy().list_form.style);
    Ok(Step::reply(215, style.system()))
}

pub(super) async fn noop(
    _session: &mut Session,
    _services: &Services,
    _argument: Argument<'_>,
) -> Result<Step, CommandError> {
    Ok(Step::reply(200, "OK"))
}

pub(super) async fn clnt(
    _session: &mut Session,
    _services: &Services,
    _argument: Argument<'_>,
) -> Result<Step, CommandError> {
    Ok(Step::reply(200, "Noted"))
}

/// Who the client says it is, who we are: no version, which would only help to choose an attack.
pub(super) async fn csid(
    _session: &mut Session,
    _services: &Services,
    _argument: Argument<'_>,
) -> Result<Step, CommandError> {
    Ok(Step::reply(200, "Name=ftps2sftp;"))
}

pub(super) async fn lang(
    _session: &mut Session,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let Some(tag) = argument.optional() else { return Ok(Step::reply(200, "Replies are in English")) };
    // RFC 5646 §2.1: subtags of one to eight letters and digits.
    let is_subtag = |subtag: &[u8]| (1..=8).contains(&subtag.len()) && subtag.iter().all(u8::is_ascii_alphanumeric);
    let mut subtags = tag.split(|byte| *byte == b'-');
    if !tag.split(|byte| *byte == b'-').all(is_subtag) {
        return Err(ArgumentError::Syntax.into());
    }
    if subtags.next().is_some_and(|language| language.eq_ignore_ascii_case(b"en")) {
        Ok(Step::reply(200, "Replies are in English"))
    } else {
        Err(CommandError::Refused(504, "Only English is spoken here"))
    }
}

pub(super) async fn avbl(
    session: &mut LoggedIn,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    if !session.policy().available_space {
        return Err(CommandError::Refused(502, "Free space is not told here"));
    }
    let (_, located) = locate(session, argument.optional().unwrap_or(b"."), Follow::Last, Purpose::Existing).await?;
    let system = session
        .backend
        .repeatable(|sftp| {
            let located = &located;
            async move { sftp.statvfs(located).await }
        })
        .await
        .purpose(Purpose::Existing)?;
    Ok(Step::reply(213, system.available_bytes().to_string()))
}

pub(super) async fn help(
    _session: &mut Session,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    if let Some(verb) = argument.optional() {
        let verb: String = verb.to_ascii_uppercase().into_iter().map(char::from).collect();
        return match spec::find(&verb).filter(|row| row.is_offered()) {
            Some(row) => Ok(Step::reply(214, format!("Syntax: {} ({})", row.syntax, row.reference))),
            None => Err(CommandError::Refused(502, "Unknown command")),
        };
    }
    let verbs: Vec<&str> = spec::rows().iter().filter(|row| row.is_offered()).map(|row| row.verb).collect();
    let lines = verbs.chunks(HELP_COLUMNS).map(|some| format!(" {}", some.join(" ")).into_bytes()).collect();
    Ok(Step::Reply(Reply::lines(214, "These commands are known:", lines, "End")))
}

pub(super) async fn stat(
    session: &mut Session,
    services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    if argument.optional().is_none() {
        return Ok(Step::Reply(status(session, None)));
    }
    match session.logged_in() {
        Some(state) => listing::stat(state, services, argument).await,
        None => Err(CommandError::Refused(530, "Please login with USER and PASS")),
    }
}

/// STAT without a pathname; while a transfer runs, with the bytes it has moved.
pub fn status(session: &mut Session, transferred: Option<u64>) -> Reply {
    let mut lines = Vec::new();
    match &session.stage {
        Stage::LoggedIn(state) => lines.push(format!(" Logged in as {}", state.name)),
        Stage::New | Stage::Named(_) => lines.push(" Not logged in".to_owned()),
    }
    match &session.secured {
        Some(_) if session.is_cleared => lines.push(" Control connection: in clear, after CCC".to_owned()),
        Some(secured) => lines.push(format!(" Control connection: {}, {}", secured.version, secured.suite)),
        None => lines.push(" Control connection: in clear".to_owned()),
    }
    let protection = if session.front.protection.is_private() { "P" } else { "C" };
    let transfer_type = match session.parameters().transfer_type {
        TransferType::Ascii => "ASCII",
        TransferType::Image => "binary",
    };
    lines.push(format!(" Type {transfer_type}, mode stream, structure file, PROT {protection}"));
    if let Some(bytes) = transferred {
        lines.push(format!(" Transfer in progress, {bytes} bytes so far"));
    }
    Reply::lines(211, "Status:", lines.into_iter().map(String::into_bytes).collect(), "End of status")
}
