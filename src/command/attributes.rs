//! MDTM (RFC 3659 §3), MFMT and MFF (draft-somers-ftp-mfxx), and SITE with what it changes.

use std::time::Duration;

use crate::ftp::argument::{self, FactChange};
use crate::ftp::reply::Reply;
use crate::ftp::site::{self, Site};
use crate::ftp::time::{self, Timestamp};
use crate::identity::root::Follow;
use crate::session::Session;
use crate::session::logged_in::LoggedIn;
use crate::session::services::Services;
use crate::sftp::Attributes;

use super::failure::{CommandError, For, Purpose, is_missing, permit};
use super::file::{locate, look_up, place, stat};
use super::{Argument, Step};

/// Set-user-ID and set-group-ID: nobody needs them on what was transferred, and they are how files become weapons.
const SET_ID_BITS: u32 = 0o6000;

/// What is to be changed of a name.
#[derive(Debug, Clone, Copy, Default)]
struct Change {
    accessed: Option<Timestamp>,
    modified: Option<Timestamp>,
    mode: Option<u32>,
}

pub(super) async fn mdtm(
    session: &mut LoggedIn,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let argument = argument.required()?;
    let change = argument::mdtm_change(argument);
    let (_, located) = place(session, argument, Purpose::Existing).await?;
    match (look_up(session, &located, Purpose::Existing).await, change) {
        // RFC 3659 §3.1 knows no form that sets the time: a file of that whole name comes first.
        (Ok(attributes), _) => match attributes.times {
            Some((_, modified)) => Ok(Step::reply(213, time::compact(i64::from(modified)))),
            None => Err(CommandError::WrongKind(Purpose::Existing, "The file server does not tell times")),
        },
        (Err(CommandError::Backend(_, error)), Some((modified, name))) if is_missing(&error) => {
            may_write(session)?;
            let change = Change { modified: Some(modified), ..Change::default() };
            let after = apply(session, name, change).await?;
            Ok(Step::reply(213, time::compact(stored_time(&after, modified))))
        }
        (Err(error), _) => Err(error),
    }
}

pub(super) async fn mfmt(
    session: &mut LoggedIn,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let (modified, name) = argument::mfmt(argument.required()?)?;
    let change = Change { modified: Some(modified), ..Change::default() };
    let after = apply(session, name, change).await?;
    let mut text = format!("Modify={}; ", time::compact(stored_time(&after, modified))).into_bytes();
    text.extend_from_slice(name);
    Ok(Step::reply(213, text))
}

pub(super) async fn mff(
    session: &mut LoggedIn,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let (FactChange { modified, mode }, name) = argument::mff(argument.required()?)?;
    if modified.is_some() {
        may_write(session)?;
    }
    if mode.is_some() {
        may_change_modes(session)?;
    }
    let after = apply(session, name, Change { accessed: None, modified, mode }).await?;
    let mut text = Vec::new();
    if let Some(modified) = modified {
        text.extend_from_slice(format!("Modify={};", time::compact(stored_time(&after, modified))).as_bytes());
    }
    if let Some(mode) = mode {
        let stored = after.permissions.map_or(mode, |bits| bits & 0o7777);
        text.extend_from_slice(format!("UNIX.mode={stored:04o};").as_bytes());
    }
    text.push(b' ');
    text.extend_from_slice(name);
    Ok(Step::reply(213, text))
}

pub(super) async fn site(
    session: &mut Session,
    services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let request = site::parse(argument.required()?)?;
    if request == Site::Help {
        let lines = site::SYNTAX.iter().map(|syntax| format!(" {syntax}").into_bytes()).collect();
        return Ok(Step::Reply(Reply::lines(214, "SITE knows:", lines, "End")));
    }
    let Some(session) = session.logged_in() else {
        return Err(CommandError::Refused(530, "Please login with USER and PASS"));
    };
    match request {
        Site::Chmod { mode, path } => {
            may_change_modes(session)?;
            apply(session, path, Change { mode: Some(mode), ..Change::default() }).await?;
            Ok(Step::reply(200, "Mode changed"))
        }
        Site::Utime { accessed, modified, path } => {
            may_write(session)?;
            apply(session, path, Change { accessed, modified: Some(modified), mode: None }).await?;
            Ok(Step::reply(200, "Time changed"))
        }
        Site::Umask(None) => Ok(Step::reply(200, format!("Umask is {:03o}", session.umask()))),
        Site::Umask(Some(mask)) => {
            // What a mask leaves is what CHMOD could set.
            may_change_modes(session)?;
            session.parameters.umask = Some(mask);
            Ok(Step::reply(200, format!("Umask is {mask:03o}")))
        }
        Site::Idle(wanted) => {
            let longest = services.timeouts.idle;
            if let Some(wanted) = wanted {
                let wanted = Duration::from_secs(wanted);
                if wanted.is_zero() || wanted > longest {
                    return Err(CommandError::Refused(501, "Longer than the service allows, or nothing"));
                }
                session.parameters.idle = Some(wanted);
            }
            let idle = session.parameters.idle.unwrap_or(longest).as_secs();
            Ok(Step::reply(200, format!("Idle time is {idle} seconds, at most {}", longest.as_secs())))
        }
        Site::Help | Site::Unknown => Err(CommandError::Refused(500, "SITE does not know that, see SITE HELP")),
    }
}

fn may_write(session: &LoggedIn) -> Result<(), CommandError> {
    permit(session.user.permissions, |permissions| permissions.write, Purpose::Existing, "You may not write files")
}

fn may_change_modes(session: &LoggedIn) -> Result<(), CommandError> {
    permit(session.user.permissions, |permissions| permissions.chmod, Purpose::Existing, "You may not change modes")
}

/// SETSTAT, and what STAT says afterwards: servers round, or keep what they have.
async fn apply(session: &mut LoggedIn, name: &[u8], change: Change) -> Result<Attributes, CommandError> {
    if change.mode.is_some_and(|mode| mode & SET_ID_BITS != 0) {
        return Err(CommandError::WrongKind(Purpose::Existing, "Set-id bits cannot be set"));
    }
    if session.backend.quirks().no_setstat {
        return Err(CommandError::Refused(502, "The file server cannot change attributes"));
    }
    let (_, located) = locate(session, name, Follow::Last, Purpose::Existing).await?;
    let before = stat(session, &located).await.purpose(Purpose::Existing)?;
    let mut wanted = Attributes { permissions: change.mode, ..Attributes::default() };
    if change.accessed.is_some() || change.modified.is_some() {
        // One flag sets both times, so what is not asked for is given back as it was.
        let modified = seconds(change.modified)?.or(before.times.map(|(_, modified)| modified)).unwrap_or_default();
        let accessed = seconds(change.accessed)?.or(before.times.map(|(accessed, _)| accessed)).unwrap_or(modified);
        wanted.times = Some((accessed, modified));
    }
    session
        .backend
        .repeatable(|sftp| {
            let (located, wanted) = (&located, &wanted);
            async move { sftp.set_attributes(located, wanted).await }
        })
        .await
        .purpose(Purpose::Existing)?;
    stat(session, &located).await.purpose(Purpose::Existing)
}

/// SFTP v3 counts seconds since 1970 in 32 bits without a sign (draft-ietf-secsh-filexfer-02 §5).
fn seconds(moment: Option<Timestamp>) -> Result<Option<u32>, CommandError> {
    let Some(moment) = moment else { return Ok(None) };
    let cannot = |_| CommandError::WrongKind(Purpose::Existing, "That time cannot be stored");
    u32::try_from(moment).map(Some).map_err(cannot)
}

fn stored_time(after: &Attributes, wanted: Timestamp) -> Timestamp {
    after.times.map_or(wanted, |(_, modified)| i64::from(modified))
}
