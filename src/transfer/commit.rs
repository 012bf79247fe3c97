//! How a finished file gets its name, and why a backend could not store it.

use std::time::Duration;

use tokio::time::timeout;

use crate::sftp::{BackendPath, Session, SftpError, StatusCode};

use super::left_behind::{LeftBehind, LeftBehinds};
use super::outcome::TransferError;
use super::temporary::aside_of;

/// How long the file system is asked for its room before the failure is told without a reason.
const EXPLAIN_PATIENCE: Duration = Duration::from_millis(500);

/// Room under which a failed WRITE is blamed on a full file system, in bytes: more than one WRITE of ours.
const FULL_BELOW: u64 = 1024 * 1024;

/// Turns a bare FAILURE into "full" where the file system says so: OpenSSH folds ENOSPC and EDQUOT into code 4.
pub(super) async fn explain(sftp: &Session, path: &BackendPath, error: TransferError) -> TransferError {
    let TransferError::Backend(cause) = error else { return error };
    match shortage(sftp, path, &cause).await {
        Some(shortage) => TransferError::StorageFull(shortage, cause),
        None => TransferError::Backend(cause),
    }
}

/// What there is no more of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    /// Room on the file system.
    #[error("no space is left on the file system")]
    Space,
    /// Inodes: it takes no further file.
    #[error("no inodes are left on the file system")]
    Inodes,
    /// The user's share of it.
    #[error("the user's quota is used up")]
    Quota,
}

/// What an error says the backend has no more of for `path`. A quota that is used up is only known where the server has a
/// code for it: OpenSSH says FAILURE, and its statvfs tells of the whole file system.
pub async fn shortage(sftp: &Session, path: &BackendPath, error: &SftpError) -> Option<Shortage> {
    match error {
        SftpError::Status { code: StatusCode::NO_SPACE_ON_FILESYSTEM, .. } => Some(Shortage::Space),
        SftpError::Status { code: StatusCode::QUOTA_EXCEEDED, .. } => Some(Shortage::Quota),
        SftpError::Status { code: StatusCode::FAILURE, .. } => {
            let Ok(Ok(system)) = timeout(EXPLAIN_PATIENCE, sftp.statvfs(&path.parent())).await else { return None };
            if system.lacks_inodes() {
                Some(Shortage::Inodes)
            } else {
                (system.available_bytes() < FULL_BELOW).then_some(Shortage::Space)
            }
        }
        SftpError::Status { .. }
        | SftpError::Lost(_)
        | SftpError::TimedOut
        | SftpError::Protocol(_)
        | SftpError::Unsupported(_) => None,
    }
}

/// Gives a finished file its name. What a loss of the backend half-way leaves is remembered in `left_behinds`.
///
/// # Errors
/// What the backend says; the target is then what it was.
pub async fn publish(
    sftp: &Session,
    temporary: &BackendPath,
    target: &BackendPath,
    replace: bool,
    left_behinds: &LeftBehinds,
) -> Result<(), SftpError> {
    match take_name(sftp, temporary, target, replace).await {
        Err(refused @ SftpError::Status { .. }) if replace => {
            is_in_the_way(sftp, target, refused).await?;
            take_place(sftp, temporary, target, left_behinds).await
        }
        other => other,
    }
}

/// The first step, and the only one where the server can replace a file or there is none: carried out or not, and
/// nothing in between.
pub(super) async fn take_name(
    sftp: &Session,
    temporary: &BackendPath,
    target: &BackendPath,
    replace: bool,
) -> Result<(), SftpError> {
    sftp.rename(temporary, target, replace && sftp.extensions().posix_rename).await
}

/// Was a plain RENAME refused, as it is by most servers, because the target exists? Nothing is changed by the question.
///
/// # Errors
/// It was for something else: `refused`.
pub(super) async fn is_in_the_way(sftp: &Session, target: &BackendPath, refused: SftpError) -> Result<(), SftpError> {
    if sftp.extensions().posix_rename {
        return Err(refused);
    }
    match sftp.lstat(target).await {
        Ok(_) => Ok(()),
        Err(SftpError::Status { .. }) => Err(refused),
        Err(lost) => Err(lost),
    }
}

/// What follows then: the target steps aside, and comes back if its successor cannot take its place. At no moment is
/// neither of the two there.
pub(super) async fn take_place(
    sftp: &Session,
    temporary: &BackendPath,
    target: &BackendPath,
    left_behinds: &LeftBehinds,
) -> Result<(), SftpError> {
    let aside = aside_of(target)?;
    let held = left_behinds.hold(LeftBehind::Aside { aside: aside.clone(), target: target.clone() });
    let (exchanged, aside_remains) = exchange(sftp, temporary, target, &aside).await;
    if !aside_remains {
        held.done();
    }
    exchanged
}

async fn exchange(
    sftp: &Session,
    temporary: &BackendPath,
    target: &BackendPath,
    aside: &BackendPath,
) -> (Result<(), SftpError>, bool) {
    match sftp.rename(target, aside, false).await {
        Ok(()) => {}
        Err(refused @ SftpError::Status { .. }) => return (Err(refused), false),
        Err(unknown) => return (Err(unknown), true),
    }
    match sftp.rename(temporary, target, false).await {
        Ok(()) => (Ok(()), sftp.remove(aside).await.is_err()),
        Err(refused @ SftpError::Status { .. }) => {
            let back = sftp.rename(aside, target, false).await;
            (Err(refused), back.is_err())
        }
        Err(unknown) => (Err(unknown), true),
    }
}
