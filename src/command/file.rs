//! SIZE (RFC 3659 §4), DELE, MKD, RMD, RNFR and RNTO (RFC 959 §4.1.3), and where names are on the backend.

use std::sync::Arc;

use crate::config::{AsciiMode, UploadMode};
use crate::ftp::argument::TransferType;
use crate::ftp::path::{VirtualPath, quoted};
use crate::ftp::reply::Reply;
use crate::identity::root::{Follow, RootError};
use crate::session::backend::BackendError;
use crate::session::logged_in::LoggedIn;
use crate::session::services::Services;
use crate::sftp::{Attributes, BackendPath, FileKind, Session, SftpError, StatusCode};
use crate::transfer::{commit, temporary};

use super::failure::{CommandError, For, Purpose, is_missing, permit};
use super::{Argument, Step, flight};

/// Names of one path that are asked for because they may be text or bytes of no charset. Nobody nests more of them, and
/// each is a round trip.
const MAX_ASKED: usize = 8;

/// Mode of a new directory before the umask.
const DIRECTORY_MODE: u32 = 0o777;

/// The path that a client means by a name, in whatever charset it is.
pub(super) async fn path_of(
    session: &mut LoggedIn,
    name: &[u8],
    purpose: Purpose,
) -> Result<VirtualPath, CommandError> {
    let Some(charset) = session.charset().filter(|_| !name.is_ascii()) else {
        return session.directory.resolve(name).purpose(purpose);
    };
    let mut meant = Vec::with_capacity(2 * name.len());
    let mut asked = 0;
    for (index, sent) in name.split(|byte| *byte == b'/').enumerate() {
        if index > 0 {
            meant.push(b'/');
        }
        let read = charset.name(sent);
        let is_either = *read != *sent && asked < MAX_ASKED;
        asked += usize::from(is_either);
        let is_raw = is_either && {
            let path = |last: &[u8]| session.directory.resolve(&[&meant, last].concat());
            let as_it_is = path(sent).purpose(purpose)?;
            match path(&read) {
                Ok(as_text) => exists_only(session, &as_it_is, &as_text).await.purpose(purpose)?,
                // Too long as text, so it is none.
                Err(_) => true,
            }
        };
        meant.extend_from_slice(if is_raw { sent } else { &read });
    }
    session.directory.resolve(&meant).purpose(purpose)
}

/// Is there the one, and not the other?
async fn exists_only(session: &mut LoggedIn, this: &VirtualPath, other: &VirtualPath) -> Result<bool, BackendError> {
    let [this, other] = [this, other].map(|path| session.root.locate(path));
    let flight = |sftp: Session| {
        let [this, other] = [&this, &other];
        async move {
            let (this, other) = tokio::join!(sftp.lstat(this), sftp.lstat(other));
            Ok((flight::answered(this)?, flight::answered(other)?))
        }
    };
    let (this, other) = session.backend.repeatable(flight).await?;
    let is_there = |answer| match answer {
        Ok(_) => Ok(true),
        Err(SftpError::Status { code: StatusCode::NO_SUCH_FILE, .. }) => Ok(false),
        Err(error) => Err(error),
    };
    Ok(is_there(this)? && !is_there(other)?)
}

/// Where a name of the client is on the backend, as far as the name alone tells: not one of our own temporary names, and
/// below the root lexically.
///
/// SECURITY: where links lead is not checked yet; [`confine`] does, or `Root::check` in the flight of what needs it.
pub(super) async fn place(
    session: &mut LoggedIn,
    name: &[u8],
    purpose: Purpose,
) -> Result<(VirtualPath, BackendPath), CommandError> {
    let path = path_of(session, name, purpose).await?;
    if path.segments().any(temporary::is_hidden) {
        return Err(CommandError::Reserved(purpose));
    }
    let located = session.root.locate(&path);
    Ok((path, located))
}

/// Where a name of the client is on the backend; checked against the root and against our own temporary names.
pub(super) async fn locate(
    session: &mut LoggedIn,
    name: &[u8],
    follow: Follow,
    purpose: Purpose,
) -> Result<(VirtualPath, BackendPath), CommandError> {
    let (path, located) = place(session, name, purpose).await?;
    confine(session, &located, follow, purpose).await?;
    Ok((path, located))
}

/// What a name leads to: the check against the root and STAT in one flight.
pub(super) async fn look_up(
    session: &mut LoggedIn,
    path: &BackendPath,
    purpose: Purpose,
) -> Result<Attributes, CommandError> {
    let root = Arc::clone(&session.root);
    let flight = |sftp: Session| {
        let root = Arc::clone(&root);
        async move {
            let (checked, attributes) = tokio::join!(root.check(&sftp, path, Follow::Last), sftp.stat(path));
            Ok((flight::inside(checked)?, flight::answered(attributes)?))
        }
    };
    let (inside, attributes) = session.backend.repeatable(flight).await.purpose(purpose)?;
    refuse_outside(inside, purpose)?;
    attributes.purpose(purpose)
}

/// What a client that resumes goes by: under `broken_upload: keep` the part of a broken upload, where there is one, and
/// else what the name leads to. In one flight.
async fn look_up_for_resume(session: &mut LoggedIn, path: &BackendPath) -> Result<Attributes, CommandError> {
    let Some(part) = kept_part(session, path) else { return look_up(session, path, Purpose::Existing).await };
    let root = Arc::clone(&session.root);
    let flight = |sftp: Session| {
        let (root, part) = (Arc::clone(&root), &part);
        async move {
            let (checked, attributes, part) =
                tokio::join!(root.check(&sftp, path, Follow::Last), sftp.stat(path), sftp.lstat(part));
            Ok((flight::inside(checked)?, flight::answered(attributes)?, flight::answered(part)?))
        }
    };
    let (inside, attributes, part) = session.backend.repeatable(flight).await.purpose(Purpose::Existing)?;
    refuse_outside(inside, Purpose::Existing)?;
    match part {
        Ok(part) if is_part(&part, attributes.as_ref().ok()) => Ok(part),
        Ok(_) | Err(_) => attributes.purpose(Purpose::Existing),
    }
}

/// Is what stands under the name of a part one? Not where the file itself is newer: that came by another way since.
pub(super) fn is_part(part: &Attributes, whole: Option<&Attributes>) -> bool {
    let modified = |attributes: &Attributes| attributes.times.map(|(_, modified)| modified);
    let is_older = whole.and_then(modified).zip(modified(part)).is_some_and(|(whole, part)| part < whole);
    may_be_plain(part) && part.size.is_some() && !is_older
}

/// A server that tells no kinds is believed; the first READ finds out.
pub(super) fn may_be_plain(attributes: &Attributes) -> bool {
    attributes.kind().is_none_or(|kind| kind == FileKind::Regular)
}

/// Where the part of a broken upload of `path` would be kept for this user; `None` if none is.
pub(super) fn kept_part(session: &LoggedIn, path: &BackendPath) -> Option<BackendPath> {
    temporary::part_of(path).filter(|_| keeps_broken(session) && writes_beside(session))
}

/// Is what came of this user's broken uploads kept? To continue one replaces files and writes at an offset, and to keep
/// one needs its length cut to what is known to be stored.
pub(super) fn keeps_broken(session: &LoggedIn) -> bool {
    let quirks = session.backend.quirks();
    let can = session.user.permissions.overwrite && !quirks.no_setstat && !quirks.no_append;
    session.policy().keep_broken_uploads && can
}

/// Are this user's uploads written under a temporary name?
pub(super) fn writes_beside(session: &LoggedIn) -> bool {
    session.policy().upload == UploadMode::Atomic && !session.backend.quirks().no_rename
}

/// SECURITY: what was asked for beside the check is not looked at before this.
pub(super) fn refuse_outside(inside: Result<bool, SftpError>, purpose: Purpose) -> Result<(), CommandError> {
    if inside.purpose(purpose)? { Ok(()) } else { Err(CommandError::Outside(purpose)) }
}

/// Checks that no symbolic link leads out of the root, over a new connection where the old one was lost.
pub(super) async fn confine(
    session: &mut LoggedIn,
    path: &BackendPath,
    follow: Follow,
    purpose: Purpose,
) -> Result<(), CommandError> {
    let root = Arc::clone(&session.root);
    let check = |sftp| {
        let root = Arc::clone(&root);
        async move {
            match root.check(&sftp, path, follow).await {
                Ok(()) => Ok(true),
                Err(RootError::Outside) => Ok(false),
                Err(RootError::Sftp(error)) => Err(error),
            }
        }
    };
    let inside = session.backend.repeatable(check).await.purpose(purpose)?;
    if inside { Ok(()) } else { Err(CommandError::Outside(purpose)) }
}

/// STAT on the backend, repeated over a new connection where the old one was lost.
pub(super) async fn stat(session: &mut LoggedIn, path: &BackendPath) -> Result<Attributes, BackendError> {
    session.backend.repeatable(|sftp| async move { sftp.stat(path).await }).await
}

/// LSTAT on the backend, likewise.
pub(super) async fn lstat(session: &mut LoggedIn, path: &BackendPath) -> Result<Attributes, BackendError> {
    session.backend.repeatable(|sftp| async move { sftp.lstat(path).await }).await
}

pub(super) async fn size(
    session: &mut LoggedIn,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let name = argument.required()?;
    if session.parameters.transfer_type == TransferType::Ascii && session.policy().ascii == AsciiMode::Convert {
        // RFC 3659 §4: the size in the current TYPE, exactly; that takes reading the file.
        return Err(CommandError::WrongKind(Purpose::Existing, "SIZE is not told in ASCII mode, use TYPE I"));
    }
    let (_, located) = place(session, name, Purpose::Existing).await?;
    let attributes = look_up_for_resume(session, &located).await?;
    if attributes.kind().is_some_and(|kind| kind != FileKind::Regular) {
        return Err(CommandError::WrongKind(Purpose::Existing, "Not a plain file"));
    }
    match attributes.size {
        Some(size) => Ok(Step::reply(213, size.to_string())),
        None => Err(CommandError::WrongKind(Purpose::Existing, "The file server does not tell sizes")),
    }
}

pub(super) async fn dele(
    session: &mut LoggedIn,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let (_, located) = locate(session, argument.required()?, Follow::Parent, Purpose::Existing).await?;
    let attributes = lstat(session, &located).await.purpose(Purpose::Existing)?;
    if attributes.kind() == Some(FileKind::Directory) {
        return Err(CommandError::WrongKind(Purpose::Existing, "Is a directory, use RMD"));
    }
    let sftp = session.backend.sftp().await.purpose(Purpose::Existing)?;
    sftp.remove(&located).await.purpose(Purpose::Existing)?;
    Ok(Step::reply(250, "Deleted"))
}

pub(super) async fn mkd(
    session: &mut LoggedIn,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let (path, located) = locate(session, argument.required()?, Follow::Parent, Purpose::Directory).await?;
    let mode = DIRECTORY_MODE & !session.umask();
    let sftp = session.backend.sftp().await.purpose(Purpose::Directory)?;
    match sftp.make_directory(&located, mode).await {
        Ok(()) => {}
        Err(SftpError::Status { code: StatusCode::FAILURE, .. }) if lstat(session, &located).await.is_ok() => {
            return Err(CommandError::WrongKind(Purpose::Directory, "It exists already"));
        }
        Err(error) => return Err(error).purpose(Purpose::Directory),
    }
    let mut text = quoted(&session.shown(&path));
    text.extend_from_slice(b" created");
    Ok(Step::reply(257, text))
}

pub(super) async fn rmd(
    session: &mut LoggedIn,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let (path, located) = locate(session, argument.required()?, Follow::Parent, Purpose::Directory).await?;
    if path.is_root() {
        return Err(CommandError::WrongKind(Purpose::Directory, "The root cannot be removed"));
    }
    if session.directory.starts_with(&path) {
        return Err(CommandError::WrongKind(Purpose::Directory, "You are in this directory"));
    }
    let sftp = session.backend.sftp().await.purpose(Purpose::Directory)?;
    match sftp.remove_directory(&located).await {
        Ok(()) => Ok(Step::reply(250, "Directory removed")),
        Err(SftpError::Status { code: StatusCode::FAILURE, .. }) => Err(why_not_removed(session, &located).await),
        Err(error) => Err(error).purpose(Purpose::Directory),
    }
}

/// FAILURE says nothing: looks for the reason.
async fn why_not_removed(session: &mut LoggedIn, path: &BackendPath) -> CommandError {
    let what = match lstat(session, path).await {
        Ok(attributes) if attributes.kind().is_some_and(|kind| kind != FileKind::Directory) => "Not a directory",
        Ok(_) if has_entries(session, path).await => "The directory is not empty",
        Ok(_) => "The file server refused",
        Err(error) if is_missing(&error) => "No such directory",
        Err(BackendError::Sftp(SftpError::Status { .. })) => "The file server refused",
        Err(error) => return CommandError::Backend(Purpose::Directory, error),
    };
    CommandError::WrongKind(Purpose::Directory, what)
}

async fn has_entries(session: &mut LoggedIn, path: &BackendPath) -> bool {
    let Ok(sftp) = session.backend.sftp().await else { return false };
    let Ok(mut directory) = sftp.open_directory(path).await else { return false };
    while let Ok(Some(page)) = directory.next().await {
        if page.iter().any(|entry| entry.name != b"." && entry.name != b"..") {
            return true;
        }
    }
    false
}

pub(super) async fn rnfr(
    session: &mut LoggedIn,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let (path, located) = locate(session, argument.required()?, Follow::Parent, Purpose::Existing).await?;
    if path.is_root() {
        return Err(CommandError::WrongKind(Purpose::Existing, "The root cannot be renamed"));
    }
    lstat(session, &located).await.purpose(Purpose::Existing)?;
    session.pending.set_rename_from(path);
    Ok(Step::reply(350, "Exists, ready for RNTO"))
}

pub(super) async fn rnto(
    session: &mut LoggedIn,
    services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let Some(from) = session.pending.take_rename_from() else {
        return Err(CommandError::Refused(503, "RNFR first"));
    };
    let (to, target) = locate(session, argument.required()?, Follow::Parent, Purpose::RenameTo).await?;
    if to == from {
        return Ok(Step::reply(250, "Renamed"));
    }
    if to.starts_with(&from) {
        return Err(CommandError::WrongKind(Purpose::RenameTo, "A directory cannot be moved into itself"));
    }
    let source = session.root.locate(&from);
    let mut is_there = false;
    let replace = match lstat(session, &target).await {
        Ok(attributes) if attributes.kind() == Some(FileKind::Directory) => {
            return Err(CommandError::WrongKind(Purpose::RenameTo, "A directory of that name exists"));
        }
        Ok(_) => {
            is_there = true;
            permit(
                session.user.permissions,
                |permissions| permissions.overwrite,
                Purpose::RenameTo,
                "You may not replace files",
            )?;
            true
        }
        Err(error) if is_missing(&error) => session.user.permissions.overwrite,
        Err(error) => return Err(error).purpose(Purpose::RenameTo),
    };
    let sftp = session.backend.sftp().await.purpose(Purpose::RenameTo)?;
    services.in_place.on(session.backend.name()).replaced(&target);
    let renamed = commit::publish(&sftp, &source, &target, replace, session.backend.left_behinds()).await;
    match renamed {
        Ok(()) => {
            void_part(session, &sftp, &target).await;
            Ok(Step::reply(250, "Renamed"))
        }
        // Nobody told whether it happened: the truth is in the names.
        Err(SftpError::Lost(_) | SftpError::TimedOut) => match lstat(session, &source).await {
            Err(error) if is_missing(&error) && lstat(session, &target).await.is_ok() => {
                if let Ok(sftp) = session.backend.sftp().await {
                    void_part(session, &sftp, &target).await;
                }
                Ok(Step::reply(250, "Renamed"))
            }
            Err(error) if !is_missing(&error) => Err(error).purpose(Purpose::RenameTo),
            Ok(_) | Err(_) => Err(CommandError::Refused(451, "The file server did not rename it")),
        },
        Err(SftpError::Status { code: StatusCode::NO_SUCH_FILE, .. }) => {
            // OpenSSH says so of ENOTDIR, too.
            Err(match lstat(session, &source).await {
                Err(error) if is_missing(&error) => CommandError::Refused(550, "The source has vanished"),
                Ok(attributes) if is_there && attributes.kind() == Some(FileKind::Directory) => {
                    CommandError::WrongKind(Purpose::RenameTo, "A directory cannot take the place of a file")
                }
                _ => CommandError::Refused(553, "No such directory"),
            })
        }
        Err(error) => Err(error).purpose(Purpose::RenameTo),
    }
}

/// Another file was renamed to this name: what was kept of a broken upload of that name is not of this file. Times are
/// whole seconds, so they alone would not tell.
async fn void_part(session: &LoggedIn, sftp: &Session, target: &BackendPath) {
    if let Some(part) = kept_part(session, target)
        && let (Ok(renamed), Ok(kept)) = tokio::join!(sftp.lstat(target), sftp.lstat(&part))
        && may_be_plain(&renamed)
        && may_be_plain(&kept)
    {
        // Whatever it answers, the file has its name.
        let _ = sftp.remove(&part).await;
    }
}

/// A fact line about one thing, for replies.
pub(super) fn one_line(code: u16, first: impl AsRef<[u8]>, line: Vec<u8>) -> Step {
    Step::Reply(Reply::lines(code, first, vec![line], "End"))
}
