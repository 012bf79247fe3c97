//! STOR, APPE and STOU (RFC 959 §4.1.3), with REST before them (RFC 3659 §5): what stands under the name, and how the file is
//! opened. Everything the backend can refuse is asked before 150; from there on `transfer` carries it out.

use std::sync::Arc;

use crate::ftp::reply::Reply;
use crate::identity::root::Follow;
use crate::session::backend::BackendError;
use crate::session::logged_in::LoggedIn;
use crate::session::services::Services;
use crate::sftp::{self, Attributes, BackendPath, File, FileKind, SftpError, StatusCode};
use crate::transfer::endpoint::Direction;
use crate::transfer::in_place::{Unanswered, Writer};
use crate::transfer::landing::{Landing, Manner, Resumed, Temporary, create_in_place, open_to_continue};
use crate::transfer::outcome::{Transfer, TransferKind};
use crate::transfer::upload::Upload;
use crate::transfer::{commit, temporary};

use super::failure::{CommandError, For, Purpose, is_missing, permit};
use super::file::{
    confine, is_part, keeps_broken, kept_part, lstat, may_be_plain, place, refuse_outside, stat, writes_beside,
};
use super::transfer::{converts, opening, take_endpoint};
use super::{Argument, Step, digest, flight};

/// Mode of a new file before the umask.
const FILE_MODE: u32 = 0o666;

/// What STOU calls a file where the client gives no name to begin with.
const UNIQUE_NAME: &[u8] = b"upload";

/// Names that STOU tries; with 64 random bits the first is free.
const UNIQUE_TRIES: usize = 4;

pub(super) async fn stor(
    session: &mut LoggedIn,
    services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let start = match restart(session)? {
        0 => Start::Fresh,
        offset => Start::At(offset),
    };
    store(session, services, argument, start).await
}

pub(super) async fn appe(
    session: &mut LoggedIn,
    services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    // RFC 3659 §5.3: APPE after REST is as STOR after REST.
    let start = match restart(session)? {
        0 => Start::End,
        offset => Start::At(offset),
    };
    store(session, services, argument, start).await
}

/// REST; a range is for RETR alone (draft-bryan-ftp-range §3).
fn restart(session: &mut LoggedIn) -> Result<u64, CommandError> {
    match session.pending.take_range() {
        (offset, None) => Ok(offset),
        (_, Some(_)) => Err(CommandError::Refused(550, "RANG is for RETR only")),
    }
}

/// STOU (RFC 959 §4.1.3): under a name that nobody has, told before and after (RFC 1123 §4.1.2.9).
pub(super) async fn stou(
    session: &mut LoggedIn,
    services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    if restart(session)? > 0 {
        return Err(CommandError::Restart("A unique file has nothing to be continued"));
    }
    let wanted = argument.optional().unwrap_or(UNIQUE_NAME);
    for _ in 0..UNIQUE_TRIES {
        let name = temporary::unique(wanted).purpose(Purpose::Store)?;
        let (_, located) = place(session, &name, Purpose::Store).await?;
        match lstat(session, &located).await {
            Ok(_) => {}
            Err(error) if is_missing(&error) => {
                // Whoever takes the name meanwhile keeps it.
                let manner = Manner { replace: false, keep: false, ..manner(session, services) };
                let told = [b"FILE: ", name.as_slice()].concat();
                return begin(session, services, &name, Start::Fresh, manner, Some(told)).await;
            }
            Err(error) => return Err(error).purpose(Purpose::Store),
        }
    }
    Err(CommandError::Refused(553, "No unique name was found"))
}

/// Where the first byte of an upload goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// A new content.
    Fresh,
    /// After what is there.
    End,
    /// REST.
    At(u64),
}

async fn store(
    session: &mut LoggedIn,
    services: &Services,
    argument: Argument<'_>,
    start: Start,
) -> Result<Step, CommandError> {
    let name = argument.required()?;
    if matches!(start, Start::At(_)) && converts(session) {
        return Err(CommandError::Restart("REST and STOR do not go together in ASCII mode, use TYPE I"));
    }
    let manner = manner(session, services);
    begin(session, services, name, start, manner, None).await
}

/// Opens what the upload goes to. `told` is what the client is told in place of the usual words.
async fn begin(
    session: &mut LoggedIn,
    services: &Services,
    name: &[u8],
    start: Start,
    manner: Manner,
    told: Option<Vec<u8>>,
) -> Result<Step, CommandError> {
    let (path, located) = place(session, name, Purpose::Store).await?;
    if path.is_root() {
        return Err(CommandError::WrongKind(Purpose::Store, "Is a directory"));
    }
    let opened = match open_for_writing(session, &located, start, &manner).await {
        // Nothing has begun yet: once over a new connection. What was to be opened may be there by now.
        Err(CommandError::Backend(_, BackendError::Sftp(SftpError::Lost(_)))) => {
            open_for_writing(session, &located, start, &manner).await
        }
        other => other,
    };
    let Opened { sftp, file, landing, offset } = opened?;
    let is_whole = offset == 0 && !landing.continues();
    session.note_upload_to(landing.path().parent());
    let opening = told.as_ref().map_or_else(|| opening(session, name, None), |told| Reply::new(150, told));
    let endpoint = take_endpoint(session, Direction::FromClient)?;
    let streams = session.policy().upload_streams;
    let upload = Upload {
        more_channels: session.backend.more_channels(streams.saturating_sub(1)),
        endpoint,
        sftp,
        file,
        landing,
        offset,
        ascii: converts(session),
        window: services.limits.transfer_window,
        rate: session.rates.as_ref().map(|rates| Arc::clone(&rates.up)),
        idle: services.timeouts.data_idle,
        strict_end: session.policy().upload_eof_strict,
        digest: digest::of_transfers(session, services).filter(|_| is_whole),
    };
    let transfer = Transfer::new(TransferKind::Upload, path.as_bytes(), |stop, progress| upload.run(stop, progress));
    let transfer = transfer.telling(told);
    Ok(Step::Transfer { opening, transfer })
}

fn manner(session: &LoggedIn, services: &Services) -> Manner {
    let policy = session.policy();
    Manner {
        mode: FILE_MODE & !session.umask(),
        replace: session.user.permissions.overwrite,
        fsync: policy.fsync,
        keep: keeps_broken(session),
        quirks: session.backend.quirks(),
        left_behinds: session.backend.left_behinds().clone(),
        in_place: services.in_place.on(session.backend.name()),
    }
}

struct Opened {
    sftp: sftp::Session,
    file: File,
    landing: Landing,
    offset: u64,
}

/// What an upload finds when it looks around.
struct Seen {
    inside: Result<bool, SftpError>,
    /// LSTAT of the name.
    name: Result<Attributes, SftpError>,
    /// LSTAT of the part of a broken upload beside it, where those are kept, if it can be continued.
    part: Option<Attributes>,
    /// There is one, whether or not it can be.
    has_part: bool,
}

async fn open_for_writing(
    session: &mut LoggedIn,
    located: &BackendPath,
    start: Start,
    manner: &Manner,
) -> Result<Opened, CommandError> {
    // SECURITY: nothing is made in a directory that was never seen to be inside the user's root.
    if !session.root.knows_directory_of(located) {
        confine(session, located, Follow::Parent, Purpose::Store).await?;
    }
    let sftp = session.backend.bulk().await.purpose(Purpose::Store)?;
    match start {
        Start::Fresh | Start::At(0) => open_fresh(session, &sftp, located, manner).await,
        Start::End | Start::At(_) => open_further(session, &sftp, located, start, manner).await,
    }
}

/// A new content: what stands under the name is looked at while the file is being opened.
async fn open_fresh(
    session: &mut LoggedIn,
    sftp: &sftp::Session,
    located: &BackendPath,
    manner: &Manner,
) -> Result<Opened, CommandError> {
    if !writes_beside(session) {
        return open_directly(session, sftp, located, manner).await;
    }
    let (seen, created) = tokio::join!(look_around(session, sftp, located), Temporary::create(sftp, located, manner));
    let seen = seen?;
    let (temporary, target, existing, has_part) = match found(session, seen.inside, seen.name) {
        Ok(Found::Plain(existing)) => (created, located.clone(), existing, seen.has_part),
        Ok(Found::Link) => {
            if let Ok(temporary) = created {
                temporary.discard(sftp).await.purpose(Purpose::Store)?;
            }
            // The rename at the end would replace the link; what it points to is what clients mean.
            let (target, existing) = behind_link(session, located).await?;
            // What was looked at is beside the link.
            (Temporary::create(sftp, &target, manner).await, target, existing, false)
        }
        Err(error) => {
            if let Ok(temporary) = created {
                // What cannot be removed now is remembered.
                let _ = temporary.discard(sftp).await;
            }
            return Err(error);
        }
    };
    let temporary = match temporary {
        Ok(temporary) => temporary,
        Err(error) => return Err(why_not_opened(sftp, &target, error, true).await),
    };
    let (file, landing) = Landing::atomic(temporary, target, existing.as_ref(), has_part, manner.clone());
    Ok(Opened { sftp: sftp.clone(), file, landing, offset: 0 })
}

/// To the final name from the first byte on.
async fn open_directly(
    session: &mut LoggedIn,
    sftp: &sftp::Session,
    located: &BackendPath,
    manner: &Manner,
) -> Result<Opened, CommandError> {
    let mut writer = write_in_place(manner, located)?;
    let may_replace = session.user.permissions.overwrite;
    let looked = look_around(session, sftp, located);
    // One of the two finds what it wants: a link that leads nowhere, perhaps out of the root, is never followed to make
    // a file.
    let opening = async {
        let existing = async { if may_replace { Some(open_to_continue(sftp, located).await) } else { None } };
        tokio::join!(existing, create_in_place(sftp, located, manner))
    };
    let is_openable = |seen: &Result<Seen, CommandError>| match seen {
        Ok(Seen { name: Ok(attributes), .. }) => {
            may_be_plain(attributes) || attributes.kind() == Some(FileKind::Symlink)
        }
        Ok(_) | Err(_) => true,
    };
    let (seen, opened) = flight::beside(looked, opening, is_openable).await;
    let seen = seen?;
    let attributes = seen.name.clone().unwrap_or_default();
    let found = found(session, seen.inside, seen.name);
    let Some((existing, created)) = opened else {
        session.backend.give_up_opening(located, &attributes).await;
        return Err(found.err().unwrap_or(CommandError::WrongKind(Purpose::Store, "Not a plain file")));
    };
    let found = match found {
        Ok(found) => found,
        Err(refused) => {
            if let Ok(file) = created {
                drop(file);
                let _ = sftp.remove(located).await;
            }
            return Err(refused);
        }
    };
    let mut target = located.clone();
    let (file, created) = match (existing, created) {
        (Some(Ok(file)), created) => (file, created.is_ok()),
        (_, Ok(file)) => (file, true),
        (Some(Err(SftpError::Status { code: StatusCode::NO_SUCH_FILE, .. })), Err(refused)) => {
            // A link that leads nowhere yet: what it points to is made.
            let Found::Link = found else { return Err(why_not_opened(sftp, located, refused, false).await) };
            (target, _) = behind_link(session, located).await?;
            writer = write_in_place(manner, &target)?;
            match create_in_place(sftp, &target, manner).await {
                Ok(file) => (file, true),
                Err(error) => return Err(why_not_opened(sftp, &target, error, false).await),
            }
        }
        // What cannot be made because it is there says nothing; why it could not be opened does.
        (Some(Err(error)), Err(_)) | (None, Err(error)) => {
            if let Found::Link = found {
                behind_link(session, located).await?;
            }
            return Err(why_not_opened(sftp, located, error, false).await);
        }
    };
    let landing = Landing::direct(target, created, writer, manner.clone());
    Ok(Opened { sftp: sftp.clone(), file, landing, offset: 0 })
}

/// APPE, and STOR after REST.
async fn open_further(
    session: &mut LoggedIn,
    sftp: &sftp::Session,
    located: &BackendPath,
    start: Start,
    manner: &Manner,
) -> Result<Opened, CommandError> {
    // Before the length is looked at: until a hanging server has answered it is not the one to go on from.
    let mut writer = write_in_place(manner, located)?;
    let seen = look_around(session, sftp, located).await?;
    let (target, existing, part) = match found(session, seen.inside, seen.name)? {
        Found::Plain(existing) => (located.clone(), existing, seen.part),
        // What was looked at is beside the link.
        Found::Link => {
            let (target, _) = behind_link(session, located).await?;
            writer = write_in_place(manner, &target)?;
            let (target, existing) = behind_link(session, located).await?;
            (target, existing, None)
        }
    };
    if let Some((path, part)) = kept_part(session, located).zip(part) {
        let size = part.size.unwrap_or(0);
        let base = match start {
            Start::At(offset) if offset > size => {
                return Err(CommandError::Restart("REST is beyond the end of what was kept of the upload"));
            }
            Start::At(offset) => offset,
            Start::End | Start::Fresh => size,
        };
        let claimed = Temporary::claim(sftp, &path, size, &target, manner).await.purpose(Purpose::Store)?;
        let (file, landing) =
            Landing::resumed(claimed, target, existing.as_ref(), Resumed { base, length: size }, manner.clone());
        return Ok(Opened { sftp: sftp.clone(), file, landing, offset: base });
    }
    if existing.as_ref().is_some_and(|attributes| attributes.size.is_none()) {
        return Err(CommandError::Refused(550, "The file server does not tell how long the file is"));
    }
    let size = match (start, existing.as_ref().and_then(|attributes| attributes.size)) {
        (Start::At(_), None) => return Err(CommandError::Restart("There is no file to continue")),
        (Start::At(offset), Some(size)) if offset > size => {
            return Err(CommandError::Restart("REST is beyond the end of the file"));
        }
        (_, Some(size)) => size,
        // APPE makes a file where there is none.
        (_, None) => return open_fresh(session, sftp, located, manner).await,
    };
    if manner.quirks.no_append {
        return Err(CommandError::Refused(502, "The file server cannot continue a file"));
    }
    let offset = if let Start::At(offset) = start { offset } else { size };
    let file = match open_to_continue(sftp, &target).await {
        Ok(file) => file,
        Err(error) => return Err(why_not_opened(sftp, &target, error, false).await),
    };
    let landing = Landing::continuing(target, size, writer, manner.clone());
    Ok(Opened { sftp: sftp.clone(), file, landing, offset })
}

fn write_in_place(manner: &Manner, target: &BackendPath) -> Result<Writer, CommandError> {
    let refused = "An earlier upload to this file hangs on the file server, try again later";
    manner.in_place.write(target).map_err(|Unanswered| CommandError::Refused(450, refused))
}

async fn look_around(session: &LoggedIn, sftp: &sftp::Session, located: &BackendPath) -> Result<Seen, CommandError> {
    let part = kept_part(session, located);
    let look_at_part = async {
        match &part {
            Some(part) => sftp.lstat(part).await.ok(),
            None => None,
        }
    };
    let (checked, name, part) =
        tokio::join!(session.root.check(sftp, located, Follow::Last), sftp.lstat(located), look_at_part);
    let inside = flight::inside(checked).purpose(Purpose::Store)?;
    let name = flight::answered(name).purpose(Purpose::Store)?;
    let has_part = part.as_ref().is_some_and(may_be_plain);
    let part = part.filter(|part| is_part(part, name.as_ref().ok()));
    Ok(Seen { inside, name, part, has_part })
}

/// What stands under the name of an upload.
enum Found {
    /// Nothing, or a file that may be replaced.
    Plain(Option<Attributes>),
    /// A symbolic link that does not lead out of the root.
    Link,
}

fn found(
    session: &LoggedIn,
    inside: Result<bool, SftpError>,
    name: Result<Attributes, SftpError>,
) -> Result<Found, CommandError> {
    refuse_outside(inside, Purpose::Store)?;
    let attributes = match name {
        Err(SftpError::Status { code: StatusCode::NO_SUCH_FILE, .. }) => return Ok(Found::Plain(None)),
        other => other.purpose(Purpose::Store)?,
    };
    let found = match attributes.kind() {
        None | Some(FileKind::Regular) => Found::Plain(Some(attributes)),
        Some(FileKind::Symlink) => return Ok(Found::Link),
        Some(FileKind::Directory) => return Err(CommandError::WrongKind(Purpose::Store, "Is a directory")),
        Some(_) => return Err(CommandError::WrongKind(Purpose::Store, "Not a plain file")),
    };
    may_replace(session)?;
    Ok(found)
}

fn may_replace(session: &LoggedIn) -> Result<(), CommandError> {
    permit(session.user.permissions, |permissions| permissions.overwrite, Purpose::Store, "You may not replace files")
}

/// What a symbolic link leads to, and what it is now.
async fn behind_link(
    session: &mut LoggedIn,
    located: &BackendPath,
) -> Result<(BackendPath, Option<Attributes>), CommandError> {
    let real = session
        .backend
        .repeatable(|sftp| async move { sftp.real_path(located.as_bytes()).await })
        .await
        .purpose(Purpose::Store)?;
    let attributes = match stat(session, &real).await {
        Ok(attributes) => attributes,
        Err(error) if is_missing(&error) => return Ok((real, None)),
        Err(error) => return Err(error).purpose(Purpose::Store),
    };
    match attributes.kind() {
        Some(FileKind::Directory) => return Err(CommandError::WrongKind(Purpose::Store, "Is a directory")),
        None | Some(FileKind::Regular) => {}
        Some(_) => return Err(CommandError::WrongKind(Purpose::Store, "Not a plain file")),
    }
    may_replace(session)?;
    Ok((real, Some(attributes)))
}

async fn why_not_opened(sftp: &sftp::Session, target: &BackendPath, error: SftpError, beside: bool) -> CommandError {
    if let Some(shortage) = commit::shortage(sftp, target, &error).await {
        return CommandError::StorageFull(shortage, error);
    }
    match error {
        SftpError::Status { code: StatusCode::PERMISSION_DENIED, .. } if beside => CommandError::NewNameRefused(error),
        error => CommandError::Backend(Purpose::Store, error.into()),
    }
}
