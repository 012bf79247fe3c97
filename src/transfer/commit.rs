//! How an upload reaches its name: a temporary name and a rename, or in place; and what becomes of it when it fails.

use std::time::Duration;

use aws_lc_rs::rand;
use tokio::time::timeout;

use crate::sftp::{Attributes, BackendPath, File, OpenFlags, Session, SftpError, StatusCode};

use super::left_behind::LeftBehind;
use super::outcome::TransferError;

/// Ends the name of a file that is being uploaded.
const TEMPORARY_SUFFIX: &[u8] = b".f2s-part";

/// Random bytes in a temporary name: nobody can guess it, and EXCL finds a collision in any case.
const TEMPORARY_RANDOM: usize = 16;

/// Longest file name that common file systems take, in bytes.
const MAX_NAME: usize = 255;

/// How long a failed transfer waits for its clean-up before it says that it failed; the clean-up goes on behind.
const DISCARD_PATIENCE: Duration = Duration::from_millis(500);

/// Room under which a failed WRITE is blamed on a full file system, in bytes: more than one WRITE of ours.
const FULL_BELOW: u64 = 1024 * 1024;

/// A name of ours for a file under way: hidden in listings, refused to clients.
pub fn is_temporary(name: &[u8]) -> bool {
    name.first() == Some(&b'.')
        && name.strip_suffix(TEMPORARY_SUFFIX).is_some_and(|stem| {
            let digits = TEMPORARY_RANDOM * 2;
            stem.len() > digits
                && stem.get(stem.len() - digits - 1) == Some(&b'.')
                && stem.iter().rev().take(digits).all(u8::is_ascii_hexdigit)
        })
}

/// Where an upload goes and how it gets there.
#[derive(Debug, Clone)]
pub enum Landing {
    /// Written under a temporary name beside the target, then renamed over it.
    Atomic {
        /// The temporary name.
        temporary: BackendPath,
        /// The final name.
        target: BackendPath,
        /// Mode of the file that will be replaced; the new one takes it over.
        mode: Option<u32>,
        /// May it replace a file that appears in the meantime?
        replace: bool,
    },
    /// Written to its final name from the first byte on.
    Direct {
        /// The final name.
        target: BackendPath,
        /// The name did not exist before.
        created: bool,
    },
    /// Continues a file in place (APPE, REST and STOR).
    Continue {
        /// The file.
        target: BackendPath,
        /// Its length before; a failed upload gives it back.
        length: u64,
    },
}

impl Landing {
    /// Opens a new temporary file beside `target`. `existing` is what stands under that name now. A file that a lost
    /// backend may have made without telling is added to `left_behind`.
    ///
    /// # Errors
    /// What the backend says to OPEN, or that no random bytes could be had.
    pub async fn atomic(
        sftp: &Session,
        target: BackendPath,
        existing: Option<&Attributes>,
        mode: u32,
        replace: bool,
        left_behind: &mut Vec<LeftBehind>,
    ) -> Result<(File, Self), SftpError> {
        let temporary = temporary_beside(&target)?;
        let flags = OpenFlags { write: true, create: true, exclusive: true, ..OpenFlags::default() };
        let file = match sftp.open(&temporary, flags, Some(mode)).await {
            Err(error @ (SftpError::Lost(_) | SftpError::TimedOut)) => {
                left_behind.push(LeftBehind::Temporary(temporary));
                return Err(error);
            }
            opened => opened?,
        };
        let mode = existing.and_then(|attributes| attributes.permissions).map(|bits| bits & 0o7777);
        Ok((file, Self::Atomic { temporary, target, mode, replace }))
    }

    /// Opens `target` itself, without truncating it yet: a file must survive an upload that never begins (P-22).
    ///
    /// # Errors
    /// What the backend says to OPEN.
    pub async fn direct(
        sftp: &Session,
        target: BackendPath,
        existing: Option<&Attributes>,
        mode: u32,
    ) -> Result<(File, Self), SftpError> {
        let created = existing.is_none();
        let flags = OpenFlags { write: true, create: created, exclusive: created, ..OpenFlags::default() };
        let file = sftp.open(&target, flags, Some(mode)).await?;
        Ok((file, Self::Direct { target, created }))
    }

    /// Opens `target` to go on at some offset; `length` is how long it is now.
    ///
    /// # Errors
    /// What the backend says to OPEN.
    pub async fn continuing(sftp: &Session, target: BackendPath, length: u64) -> Result<(File, Self), SftpError> {
        // Not the APPEND flag: it ignores offsets, and servers may carry out requests in another order.
        let file = sftp.open(&target, OpenFlags { write: true, ..OpenFlags::default() }, None).await?;
        Ok((file, Self::Continue { target, length }))
    }

    /// The name whose file system and attributes matter now.
    pub fn path(&self) -> &BackendPath {
        match self {
            Self::Atomic { temporary, .. } => temporary,
            Self::Direct { target, .. } | Self::Continue { target, .. } => target,
        }
    }

    /// The data connection is there: from here on the old content of a direct upload is given up.
    pub(super) async fn begin(&self, file: &File) -> Result<(), SftpError> {
        match self {
            Self::Direct { created: false, .. } => {
                file.set_attributes(&Attributes { size: Some(0), ..Attributes::default() }).await
            }
            Self::Atomic { .. } | Self::Direct { .. } | Self::Continue { .. } => Ok(()),
        }
    }

    /// All WRITEs are acknowledged: makes it durable, closes it, and checks its length. What a loss
    /// of the backend leaves half done is added to `left_behind`.
    pub(super) async fn seal(&self, sftp: &Session, file: File, length: u64, fsync: bool) -> Result<(), TransferError> {
        if let Self::Atomic { mode: Some(mode), .. } = self {
            // A server that does not let us choose modes still stores files.
            let mode = Attributes { permissions: Some(*mode), ..Attributes::default() };
            ignore_status(file.set_attributes(&mode).await)?;
        }
        if fsync && sftp.extensions().fsync {
            file.sync().await?;
        }
        // CLOSE may succeed after a WRITE that failed (measured), so neither stands for the other, and the length is
        // looked at as well.
        file.close().await?;
        let found = match sftp.stat(self.path()).await {
            // Whoever watches the folder may have taken the file as soon as it was closed.
            Err(SftpError::Status { code: StatusCode::NO_SUCH_FILE, .. }) if !matches!(self, Self::Atomic { .. }) => {
                None
            }
            other => other?.size,
        };
        if let Some(found) = found.filter(|found| !self.length_fits(*found, length)) {
            return Err(TransferError::SizeDiffers { expected: length, found });
        }
        Ok(())
    }

    /// Gives a sealed file its name.
    pub(super) async fn publish(&self, sftp: &Session, left_behind: &mut Vec<LeftBehind>) -> Result<(), SftpError> {
        match self {
            Self::Atomic { temporary, target, replace, .. } => {
                publish(sftp, temporary, target, *replace, left_behind).await
            }
            Self::Direct { .. } | Self::Continue { .. } => Ok(()),
        }
    }

    /// Whether `publish` is a single request: carried out or not, and nothing in between.
    pub(super) fn publishes_in_one_step(&self, sftp: &Session) -> bool {
        match self {
            Self::Atomic { replace, .. } => !replace || sftp.extensions().posix_rename,
            Self::Direct { .. } | Self::Continue { .. } => true,
        }
    }

    /// A file that is continued may have been longer than where this upload ends.
    fn length_fits(&self, found: u64, expected: u64) -> bool {
        match self {
            Self::Continue { length, .. } => found == expected.max(*length),
            Self::Atomic { .. } | Self::Direct { .. } => found == expected,
        }
    }

    /// Undoes a failed upload as far as possible. A temporary file that could not be removed is given back, to be
    /// removed over the next connection.
    ///
    /// What was written in place is undone only where it is this upload's own: not beyond `end`, up to which it may
    /// have written, and not where its client vanished and may be back by now, at work on the very file.
    pub(super) async fn discard(self, sftp: &Session, end: u64, client_vanished: bool) -> Option<LeftBehind> {
        let undo = {
            let (landing, sftp) = (self.clone(), sftp.clone());
            tokio::spawn(async move {
                match &landing {
                    Self::Atomic { temporary, .. } => sftp.remove(temporary).await,
                    Self::Direct { .. } | Self::Continue { .. } if client_vanished => Ok(()),
                    Self::Direct { target, created: true } => match sftp.stat(target).await?.size {
                        Some(size) if size > end => Ok(()),
                        _ => sftp.remove(target).await,
                    },
                    Self::Direct { created: false, .. } => Ok(()),
                    Self::Continue { target, length } => match sftp.stat(target).await?.size {
                        Some(size) if size > *length && size <= end => {
                            let cut = Attributes { size: Some(*length), ..Attributes::default() };
                            sftp.set_attributes(target, &cut).await
                        }
                        _ => Ok(()),
                    },
                }
            })
        };
        let undone = matches!(
            timeout(DISCARD_PATIENCE, undo).await,
            Ok(Ok(Ok(()) | Err(SftpError::Status { code: StatusCode::NO_SUCH_FILE, .. })))
        );
        match self {
            Self::Atomic { temporary, .. } if !undone => Some(LeftBehind::Temporary(temporary)),
            Self::Atomic { .. } | Self::Direct { .. } | Self::Continue { .. } => None,
        }
    }
}

/// Turns a bare FAILURE into "full" where the file system says so: OpenSSH folds ENOSPC and EDQUOT into code 4.
pub(super) async fn explain(sftp: &Session, path: &BackendPath, error: TransferError) -> TransferError {
    let TransferError::Backend(cause) = error else { return error };
    if is_storage_full(sftp, path, &cause).await {
        TransferError::StorageFull(cause)
    } else {
        TransferError::Backend(cause)
    }
}

/// Whether an error means that the backend has no room or no inodes left for `path`.
pub async fn is_storage_full(sftp: &Session, path: &BackendPath, error: &SftpError) -> bool {
    match error {
        SftpError::Status { code: StatusCode::NO_SPACE_ON_FILESYSTEM | StatusCode::QUOTA_EXCEEDED, .. } => true,
        SftpError::Status { code: StatusCode::FAILURE, .. } => {
            let Ok(Ok(system)) = timeout(DISCARD_PATIENCE, sftp.statvfs(&path.parent())).await else { return false };
            let room = system.available_bytes();
            room < FULL_BELOW || system.lacks_inodes()
        }
        SftpError::Status { .. }
        | SftpError::Lost(_)
        | SftpError::TimedOut
        | SftpError::Protocol(_)
        | SftpError::Unsupported(_) => false,
    }
}

/// Gives a finished file its name. If the backend is lost half-way, what is to be put right is added to `left_behind`.
///
/// # Errors
/// What the backend says; the target is then what it was.
pub async fn publish(
    sftp: &Session,
    temporary: &BackendPath,
    target: &BackendPath,
    replace: bool,
    left_behind: &mut Vec<LeftBehind>,
) -> Result<(), SftpError> {
    if !replace || sftp.extensions().posix_rename {
        return sftp.rename(temporary, target, replace).await;
    }
    // Plain RENAME does not replace on most servers. Where the target exists it steps aside, and comes back if its
    // successor cannot take its place: at no moment is neither of the two there.
    let Err(refused) = sftp.rename(temporary, target, false).await else { return Ok(()) };
    if !matches!(refused, SftpError::Status { .. }) {
        return Err(refused);
    }
    match sftp.lstat(target).await {
        Ok(_) => {}
        Err(SftpError::Status { .. }) => return Err(refused),
        Err(lost) => return Err(lost),
    }
    let aside = temporary_beside(target)?;
    let (exchanged, aside_remains) = exchange(sftp, temporary, target, &aside).await;
    if aside_remains {
        left_behind.push(LeftBehind::Aside { aside, target: target.clone() });
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

fn temporary_beside(target: &BackendPath) -> Result<BackendPath, SftpError> {
    let mut random = [0_u8; TEMPORARY_RANDOM];
    rand::fill(&mut random).map_err(|_| SftpError::Protocol("no random bytes for a temporary name".to_owned()))?;
    let mut tail = vec![b'.'];
    for byte in random {
        tail.extend_from_slice(format!("{byte:02x}").as_bytes());
    }
    tail.extend_from_slice(TEMPORARY_SUFFIX);
    let mut name = vec![b'.'];
    name.extend(target.file_name().unwrap_or_default().iter().take(MAX_NAME - tail.len() - 1));
    name.append(&mut tail);
    Ok(target.sibling(&name))
}

fn ignore_status(result: Result<(), SftpError>) -> Result<(), SftpError> {
    match result {
        Err(SftpError::Status { .. }) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_name_is_known_hidden_and_never_too_long() {
        for name in [&b"report.csv"[..], &[b'x'; 255], b"-", b"r\xe4k"] {
            let mut path = b"/in/".to_vec();
            path.extend_from_slice(name);
            let target = BackendPath::from_bytes(path);
            let one = temporary_beside(&target).unwrap();
            let other = temporary_beside(&target).unwrap();
            assert_ne!(one, other);
            let name = one.file_name().unwrap();
            assert!(name.len() <= MAX_NAME);
            assert!(is_temporary(name));
            assert_eq!(one.parent(), target.parent());
        }
    }

    #[test]
    fn names_of_clients_are_not_taken_for_temporary() {
        for name in [&b"a.f2s-part"[..], b".f2s-part", b".a.f2s-part", b".a.0123.f2s-part", b"", b"."] {
            assert!(!is_temporary(name), "{name:?}");
        }
    }
}
