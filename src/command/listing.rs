//! LIST, NLST, STAT with a pathname (RFC 959 §4.1.3), MLSD and MLST (RFC 3659 §7).

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::Symlinks;
use crate::ftp::argument::list_arguments;
use crate::ftp::facts;
use crate::ftp::glob::{Pattern, has_wildcard};
use crate::ftp::path::VirtualPath;
use crate::ftp::reply::Reply;
use crate::identity::root::Follow;
use crate::session::logged_in::LoggedIn;
use crate::session::services::Services;
use crate::sftp::{BackendPath, DirectoryEntry, FileKind, Session, SftpError, StatusCode};
use crate::transfer::endpoint::Direction;
use crate::transfer::listing::{self, LeadsTo, Links, Listing, Source, Style};
use crate::transfer::outcome::{Transfer, TransferKind};

use super::failure::{CommandError, For, Purpose, is_missing};
use super::file::{look_up, lstat, one_line, place, refuse_outside};
use super::transfer::take_endpoint;
use super::{Argument, Step, flight};

/// Names a wildcard may match; they are gathered before 150, because "no match" must come instead of it.
const MAX_MATCHES: usize = 20_000;

/// Entries told over the control connection (STAT with a pathname).
const MAX_STAT_ENTRIES: usize = 1_000;

pub(super) async fn list(
    session: &mut LoggedIn,
    services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let wanted = list_arguments(argument.verbatim());
    let found = find(session, wanted.path).await?;
    let form = session.policy().list_form.clone();
    transfer(session, services, found, Style::Long(form))
}

pub(super) async fn nlst(
    session: &mut LoggedIn,
    services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let wanted = list_arguments(argument.verbatim());
    let found = find(session, wanted.path).await?;
    // RFC 1123 §4.1.2.7: what is listed must be usable as an argument.
    let prefix = match &found.source {
        Source::Directory(_) if wanted.path.is_empty() || wanted.path == b"." => Vec::new(),
        Source::Directory(_) => with_slash(wanted.path),
        Source::Entries(_) => match wanted.path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => wanted.path.get(..=slash).unwrap_or_default().to_vec(),
            None => Vec::new(),
        },
    };
    transfer(session, services, found, Style::Names(prefix))
}

pub(super) async fn mlsd(
    session: &mut LoggedIn,
    services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let found = match look(session, argument.optional().unwrap_or(b".")).await? {
        Some(found) => found,
        None => return Err(CommandError::WrongKind(Purpose::Existing, "No such file or directory")),
    };
    if let Source::Entries(_) = found.source {
        return Err(CommandError::Refused(501, "Not a directory"));
    }
    let facts = session.parameters.facts;
    transfer(session, services, found, Style::Facts(facts))
}

pub(super) async fn mlst(
    session: &mut LoggedIn,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let (path, located) = place(session, argument.optional().unwrap_or(b"."), Purpose::Existing).await?;
    let attributes = look_up(session, &located, Purpose::Existing).await?;
    let shown = session.shown(&path);
    let entry = listing::describe(&shown, &attributes, session.fact_permissions());
    let mut line = vec![b' '];
    facts::line(&entry, &session.parameters.facts, &mut line);
    let mut first = b"Listing ".to_vec();
    first.extend_from_slice(&shown);
    Ok(one_line(250, first, line))
}

pub(super) async fn stat(
    session: &mut LoggedIn,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    if !session.user.permissions.list {
        return Err(CommandError::NotPermitted(Purpose::Existing, "You may not list"));
    }
    let wanted = list_arguments(argument.verbatim());
    let found = find(session, wanted.path).await.map_err(|error| match error {
        // RFC 959 §5.4: STAT has no 550.
        CommandError::WrongKind(_, what) => CommandError::Refused(450, what),
        CommandError::Outside(_) => CommandError::Refused(450, "Leads over a symbolic link that is not followed here"),
        CommandError::Backend(_, error) if is_missing(&error) => {
            CommandError::Refused(450, "No such file or directory")
        }
        other => other,
    })?;
    let (code, entries) = match found.source {
        Source::Entries(entries) => (213, entries),
        Source::Directory(mut directory) => {
            let mut entries = Vec::new();
            while entries.len() < MAX_STAT_ENTRIES
                && let Some(page) = directory.next().await.purpose(Purpose::Existing)?
            {
                entries.extend(page.into_iter().filter(|entry| found.links.show(entry)));
            }
            entries.truncate(MAX_STAT_ENTRIES);
            (212, entries)
        }
    };
    let form = session.policy().list_form.clone();
    let lines = listing::lines(found.directory, entries, form, found.links, session.charset(), now()).await;
    let lines = lines
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.is_empty())
        .map(|line| [b" ", line].concat())
        .collect();
    Ok(Step::Reply(Reply::lines(code, "Status:", lines, "End of status")))
}

/// What a listing command is about.
struct Found {
    path: VirtualPath,
    source: Source,
    directory: BackendPath,
    links: Links,
}

/// A directory, a single entry, or what a wildcard in the last component matches. A name that exists is taken
/// literally, whatever characters it holds.
async fn find(session: &mut LoggedIn, argument: &[u8]) -> Result<Found, CommandError> {
    let argument = if argument.is_empty() { b"." } else { argument };
    if let Some(found) = look(session, argument).await? {
        return Ok(found);
    }
    let missing = CommandError::WrongKind(Purpose::Existing, "No such file or directory");
    let (directory, wildcard) = match argument.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => argument.split_at(slash + 1),
        None => (&b"."[..], argument),
    };
    if !has_wildcard(wildcard) {
        return Err(missing);
    }
    let pattern = Pattern::new(wildcard).ok_or(CommandError::Refused(501, "The wildcard is too long"))?;
    let Some(mut found) = look(session, directory).await? else { return Err(missing) };
    let Source::Directory(mut entries) = found.source else { return Err(missing) };
    // The pattern is in the client's charset: names are looked at as the client sees them, or the pattern as text, in
    // which no byte of a character of several bytes is taken for a bracket.
    let charset = session.charset();
    let as_text = charset.and_then(|charset| Pattern::new(&charset.name(wildcard)));
    let is_match = |name: &[u8]| match charset {
        None => pattern.matches(name),
        Some(charset) => {
            pattern.matches(&charset.shown(name)) || as_text.as_ref().is_some_and(|pattern| pattern.matches(name))
        }
    };
    let mut matches = Vec::new();
    while let Some(page) = entries.next().await.purpose(Purpose::Existing)? {
        matches.extend(page.into_iter().filter(|entry| found.links.show(entry) && is_match(&entry.name)));
        if matches.len() > MAX_MATCHES {
            return Err(CommandError::Refused(450, "Too many names match, list the directory"));
        }
    }
    if matches.is_empty() {
        return Err(CommandError::NoMatch);
    }
    found.source = Source::Entries(matches);
    Ok(found)
}

/// What stands under a name; `None` where nothing does.
async fn look(session: &mut LoggedIn, name: &[u8]) -> Result<Option<Found>, CommandError> {
    let (path, located) = place(session, name, Purpose::Existing).await?;
    let root = Arc::clone(&session.root);
    // In one flight: what opens as a directory is one, also on servers that tell no kinds.
    let flight = |sftp: Session| {
        let (root, located) = (Arc::clone(&root), &located);
        async move {
            let (checked, attributes, opened) = tokio::join!(
                root.check(&sftp, located, Follow::Last),
                sftp.stat(located),
                sftp.open_directory(located)
            );
            Ok((flight::inside(checked)?, flight::answered(attributes)?, flight::answered(opened)?))
        }
    };
    let (inside, attributes, opened) = session.backend.repeatable(flight).await.purpose(Purpose::Existing)?;
    refuse_outside(inside, Purpose::Existing)?;
    let attributes = match attributes {
        // A link that leads nowhere is there all the same.
        Err(SftpError::Status { code: StatusCode::NO_SUCH_FILE, .. }) => match lstat(session, &located).await {
            Ok(attributes) => attributes,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(error).purpose(Purpose::Existing),
        },
        other => other.purpose(Purpose::Existing)?,
    };
    let links = links(session).await?;
    let opened = match (attributes.kind(), opened) {
        (Some(FileKind::Directory) | None, Ok(opened)) => Some(opened),
        // OPENDIR of a directory fails for want of permission, whatever it says.
        (Some(FileKind::Directory), Err(SftpError::Status { .. })) => {
            return Err(CommandError::WrongKind(Purpose::Existing, "The directory cannot be read"));
        }
        (Some(FileKind::Directory), Err(error)) => return Err(error).purpose(Purpose::Existing),
        (Some(_), _) | (None, Err(_)) => None,
    };
    if let Some(opened) = opened {
        return Ok(Some(Found { path, source: Source::Directory(opened), directory: located, links }));
    }
    let name = path.file_name().unwrap_or_default().to_vec();
    let directory = located.parent();
    Ok(Some(Found { path, source: Source::Entries(vec![DirectoryEntry { name, attributes }]), directory, links }))
}

async fn links(session: &mut LoggedIn) -> Result<Links, CommandError> {
    if session.policy().symlinks == Symlinks::Hide {
        return Ok(Links::Hidden);
    }
    let sftp = session.backend.sftp().await.purpose(Purpose::Existing)?;
    let root = Arc::clone(&session.root);
    Ok(Links::Followed(Arc::new(move |path| {
        let (sftp, root) = (sftp.clone(), Arc::clone(&root));
        Box::pin(async move {
            if root.check(&sftp, &path, Follow::Last).await.is_err() {
                return LeadsTo::Nowhere(None);
            }
            match sftp.stat(&path).await {
                Ok(attributes) => LeadsTo::Entry(attributes),
                Err(_) => {
                    let target = sftp.read_link(&path).await.ok();
                    LeadsTo::Nowhere(target.and_then(|target| root.show_target(&path, &target)))
                }
            }
        })
    })))
}

fn transfer(session: &mut LoggedIn, services: &Services, found: Found, style: Style) -> Result<Step, CommandError> {
    let listing = Listing {
        endpoint: take_endpoint(session, Direction::ToClient)?,
        source: found.source,
        directory: found.directory,
        style,
        permissions: session.fact_permissions(),
        links: found.links,
        charset: session.charset(),
        now: now(),
        idle: services.timeouts.data_idle,
    };
    let opening = Reply::new(150, "Opening ASCII mode data connection for the listing");
    let transfer =
        Transfer::new(TransferKind::Listing, found.path.as_bytes(), |stop, progress| listing.run(stop, progress));
    Ok(Step::Transfer { opening, transfer })
}

fn with_slash(path: &[u8]) -> Vec<u8> {
    let mut prefix = path.to_vec();
    if prefix.last() != Some(&b'/') {
        prefix.push(b'/');
    }
    prefix
}

fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|elapsed| i64::try_from(elapsed.as_secs()).ok())
        .unwrap_or_default()
}
