//! REST (RFC 3659 §5), RETR, STOR, APPE, ALLO and ABOR (RFC 959 §4.1.3).
//!
//! Everything the backend can refuse is asked before 150; from there on `transfer` carries it out.

use crate::config::{AsciiMode, UploadMode};
use crate::ftp::argument::{self, TransferType};
use crate::ftp::reply::Reply;
use crate::identity::root::Follow;
use crate::session::backend::BackendError;
use crate::session::logged_in::LoggedIn;
use crate::session::services::Services;
use crate::sftp::{self, Attributes, BackendPath, File, FileKind, OpenFlags, SftpError};
use crate::transfer::commit::{self, Landing};
use crate::transfer::download::Download;
use crate::transfer::endpoint::{DataEndpoint, Direction};
use crate::transfer::outcome::{Transfer, TransferKind};
use crate::transfer::upload::Upload;

use super::failure::{CommandError, For, Purpose, is_missing, permit};
use super::file::{locate, stat};
use super::{Argument, Step};

/// Mode of a new file before the umask.
const FILE_MODE: u32 = 0o666;

pub(super) async fn rest(
    session: &mut LoggedIn,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let offset = argument::restart_offset(argument.required()?)?;
    session.pending.set_restart(offset);
    Ok(Step::reply(350, format!("Restarting at {offset}")))
}

pub(super) async fn allo(
    _session: &mut LoggedIn,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    argument::allo(argument.required()?)?;
    Ok(Step::reply(202, "No storage allocation necessary"))
}

/// ABOR while no transfer runs; one that runs is ended by the control loop.
pub(super) async fn abor(
    session: &mut LoggedIn,
    _services: &Services,
    _argument: Argument<'_>,
) -> Result<Step, CommandError> {
    if let Some(endpoint) = session.endpoint.take() {
        endpoint.decline();
    }
    Ok(Step::reply(226, "Abort successful"))
}

pub(super) async fn retr(
    session: &mut LoggedIn,
    services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let offset = session.pending.take_restart();
    let name = argument.required()?;
    let (path, located) = locate(session, name, Follow::Last, Purpose::Existing).await?;
    let attributes = stat(session, &located).await.purpose(Purpose::Existing)?;
    // OPEN of a directory succeeds on OpenSSH, and OPEN of a FIFO hangs it.
    if attributes.kind().is_some_and(|kind| kind != FileKind::Regular) {
        return Err(CommandError::WrongKind(Purpose::Existing, "Not a plain file"));
    }
    let ascii = converts(session);
    // Under TYPE A the marker counts octets as they are sent, of which there may be more than are stored.
    if !ascii && attributes.size.is_some_and(|size| offset > size) {
        return Err(CommandError::Restart("REST is beyond the end of the file"));
    }
    let file = open_for_reading(session, &located).await.purpose(Purpose::Existing)?;
    let opening = opening(session, name, attributes.size.filter(|_| !ascii));
    let endpoint = take_endpoint(session, Direction::ToClient)?;
    let download = Download {
        endpoint,
        file,
        // RFC 959 §3.5: under TYPE A the marker counts octets as transmitted, so the file is converted from its start.
        offset: if ascii { 0 } else { offset },
        ascii,
        skip: if ascii { offset } else { 0 },
        window: services.limits.transfer_window,
        idle: services.timeouts.data_idle,
    };
    let transfer =
        Transfer::new(TransferKind::Download, path.as_bytes(), |stop, progress| download.run(stop, progress));
    Ok(Step::Transfer { opening, transfer })
}

async fn open_for_reading(session: &mut LoggedIn, path: &BackendPath) -> Result<File, BackendError> {
    let flags = OpenFlags { read: true, ..OpenFlags::default() };
    let sftp = session.backend.sftp().await?;
    match sftp.open(path, flags, None).await {
        Err(SftpError::Lost(_)) => Ok(session.backend.sftp().await?.open(path, flags, None).await?),
        other => Ok(other?),
    }
}

pub(super) async fn stor(
    session: &mut LoggedIn,
    services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let start = match session.pending.take_restart() {
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
    let start = match session.pending.take_restart() {
        0 => Start::End,
        offset => Start::At(offset),
    };
    store(session, services, argument, start).await
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
    let (path, located) = locate(session, name, Follow::Last, Purpose::Store).await?;
    if path.is_root() {
        return Err(CommandError::WrongKind(Purpose::Store, "Is a directory"));
    }
    let opened = match open_for_writing(session, located.clone(), start).await {
        // Nothing has begun yet: once over a new connection. What was to be opened may be there by now.
        Err(CommandError::Backend(_, BackendError::Sftp(SftpError::Lost(_)))) => {
            open_for_writing(session, located, start).await
        }
        other => other,
    };
    let Opened { sftp, file, landing, offset } = opened?;
    let opening = opening(session, name, None);
    let endpoint = take_endpoint(session, Direction::FromClient)?;
    let upload = Upload {
        endpoint,
        sftp,
        file,
        landing,
        offset,
        ascii: converts(session),
        window: services.limits.transfer_window,
        idle: services.timeouts.data_idle,
        strict_end: session.policy().upload_eof_strict,
        fsync: session.policy().fsync,
    };
    let transfer = Transfer::new(TransferKind::Upload, path.as_bytes(), |stop, progress| upload.run(stop, progress));
    Ok(Step::Transfer { opening, transfer })
}

/// What an upload will replace or continue: the file itself where the name is a symbolic link, and what it is now.
async fn target(
    session: &mut LoggedIn,
    located: BackendPath,
) -> Result<(BackendPath, Option<Attributes>), CommandError> {
    let attributes = match super::file::lstat(session, &located).await {
        Ok(attributes) => attributes,
        Err(error) if is_missing(&error) => return Ok((located, None)),
        Err(error) => return Err(error).purpose(Purpose::Store),
    };
    let (target, attributes) = match attributes.kind() {
        Some(FileKind::Symlink) => {
            // The rename at the end would replace the link; what it points to is what clients mean.
            let real = session
                .backend
                .repeatable(|sftp| {
                    let located = &located;
                    async move { sftp.real_path(located.as_bytes()).await }
                })
                .await
                .purpose(Purpose::Store)?;
            match stat(session, &real).await {
                Ok(attributes) => (real, attributes),
                Err(error) if is_missing(&error) => return Ok((real, None)),
                Err(error) => return Err(error).purpose(Purpose::Store),
            }
        }
        _ => (located, attributes),
    };
    match attributes.kind() {
        None | Some(FileKind::Regular) => Ok((target, Some(attributes))),
        Some(FileKind::Directory) => Err(CommandError::WrongKind(Purpose::Store, "Is a directory")),
        Some(_) => Err(CommandError::WrongKind(Purpose::Store, "Not a plain file")),
    }
}

struct Opened {
    sftp: sftp::Session,
    file: File,
    landing: Landing,
    offset: u64,
}

async fn open_for_writing(session: &mut LoggedIn, located: BackendPath, start: Start) -> Result<Opened, CommandError> {
    let (target, existing) = target(session, located).await?;
    if existing.is_some() {
        permit(
            session.user.permissions,
            |permissions| permissions.overwrite,
            Purpose::Store,
            "You may not replace files",
        )?;
    }
    let sftp = session.backend.sftp().await.purpose(Purpose::Store)?;
    let policy = session.policy();
    let mode = FILE_MODE & !policy.umask;
    let size = existing.as_ref().map(|attributes| attributes.size.unwrap_or(0));
    let mut left_behind = Vec::new();
    let opened = match (start, size) {
        (Start::At(offset), None) if offset > 0 => {
            return Err(CommandError::Restart("There is no file to continue"));
        }
        (Start::At(offset), Some(size)) if offset > size => {
            return Err(CommandError::Restart("REST is beyond the end of the file"));
        }
        (Start::At(offset), Some(size)) => {
            Landing::continuing(&sftp, target.clone(), size).await.map(|opened| (opened, offset))
        }
        (Start::End, Some(size)) => Landing::continuing(&sftp, target.clone(), size).await.map(|opened| (opened, size)),
        (Start::Fresh | Start::End | Start::At(_), _) => match policy.upload {
            UploadMode::Atomic => {
                let replace = session.user.permissions.overwrite;
                let opened =
                    Landing::atomic(&sftp, target.clone(), existing.as_ref(), mode, replace, &mut left_behind).await;
                opened.map(|opened| (opened, 0))
            }
            UploadMode::Direct => {
                Landing::direct(&sftp, target.clone(), existing.as_ref(), mode).await.map(|opened| (opened, 0))
            }
        },
    };
    session.backend.leave_behind(left_behind);
    match opened {
        Ok(((file, landing), offset)) => Ok(Opened { sftp, file, landing, offset }),
        Err(error) if commit::is_storage_full(&sftp, &target, &error).await => Err(CommandError::StorageFull(error)),
        Err(error) => Err(error).purpose(Purpose::Store),
    }
}

/// The data connection is taken last, so that a refused command leaves it to be closed in an orderly way.
pub(super) fn take_endpoint(session: &mut LoggedIn, direction: Direction) -> Result<DataEndpoint, CommandError> {
    let endpoint = session.endpoint.take().ok_or(CommandError::Refused(425, "Use PASV or EPSV first"))?;
    endpoint.expect(direction);
    Ok(endpoint)
}

fn converts(session: &LoggedIn) -> bool {
    session.parameters.transfer_type == TransferType::Ascii && session.policy().ascii == AsciiMode::Convert
}

/// 150; curl and wget read the size from its parentheses.
fn opening(session: &LoggedIn, name: &[u8], size: Option<u64>) -> Reply {
    let mut text = match session.parameters.transfer_type {
        TransferType::Ascii => b"Opening ASCII mode data connection for ".to_vec(),
        TransferType::Image => b"Opening BINARY mode data connection for ".to_vec(),
    };
    text.extend_from_slice(name);
    if let Some(size) = size {
        text.extend_from_slice(format!(" ({size} bytes)").as_bytes());
    }
    Reply::new(150, text)
}
