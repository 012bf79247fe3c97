//! What an upload or a rename leaves on the backend when it is cut short, and how it is put right.

use std::sync::{Arc, Mutex, PoisonError};

use crate::sftp::{Attributes, BackendPath, Session, SftpError, StatusCode};

/// Things to put right over the next connection; beyond that something is wrong that no retry mends.
const MAX_LEFT_BEHIND: usize = 64;

/// Something to see to, if need be over the next connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeftBehind {
    /// A temporary file of an upload that failed: it goes.
    Temporary(BackendPath),
    /// A temporary file that is kept as the part of a broken upload, as far as it is known to be stored.
    Broken {
        /// Its name now.
        temporary: BackendPath,
        /// The name under which it is kept.
        part: BackendPath,
        /// The name it was to have.
        target: BackendPath,
        /// Bytes acknowledged without a gap.
        length: u64,
        /// May the name be replaced in one step?
        replace: bool,
    },
    /// A file that was to grow in place: it gets its length back.
    Grown {
        /// The file.
        target: BackendPath,
        /// Its length before.
        length: u64,
        /// Where this upload would have ended; a file longer than that has grown by other hands.
        end: u64,
    },
    /// A file that was made by an upload in place: it goes, unless it has grown by other hands.
    Created {
        /// The file.
        target: BackendPath,
        /// Where this upload would have ended.
        end: u64,
    },
    /// The part of a broken upload beside a file that is whole: it goes, unless it is of a later upload.
    Stale {
        /// The part.
        part: BackendPath,
        /// The file.
        target: BackendPath,
    },
    /// A file that stepped aside for its successor. If the successor did not take its place it comes back, else it goes.
    Aside {
        /// The hidden name it has now.
        aside: BackendPath,
        /// The name it had.
        target: BackendPath,
    },
}

impl LeftBehind {
    /// Would a client see a wrong state until this is put right?
    pub fn is_urgent(&self) -> bool {
        !matches!(self, Self::Temporary(_))
    }

    /// May it be put right at any later time? A file in place may have been written to by others by then.
    pub fn can_wait(&self) -> bool {
        match self {
            Self::Grown { .. } | Self::Created { .. } => false,
            Self::Temporary(_) | Self::Broken { .. } | Self::Stale { .. } | Self::Aside { .. } => true,
        }
    }

    /// Puts it right; it may be so already, as what was asked for before the loss may have been carried out unanswered.
    ///
    /// # Errors
    /// What the backend says; nothing to do is no error.
    pub async fn put_right(&self, sftp: &Session) -> Result<(), SftpError> {
        let result = match self {
            Self::Temporary(path) => sftp.remove(path).await,
            Self::Broken { temporary, part, target, length, replace } => {
                if is_outdated(sftp, temporary, [part, target]).await? {
                    sftp.remove(temporary).await
                } else {
                    keep_part(sftp, temporary, part, *length, *replace).await
                }
            }
            Self::Grown { target, length, end } => match sftp.stat(target).await?.size {
                Some(size) if size > *length && size <= *end => {
                    let cut = Attributes { size: Some(*length), ..Attributes::default() };
                    sftp.set_attributes(target, &cut).await
                }
                _ => Ok(()),
            },
            Self::Created { target, end } => match sftp.stat(target).await?.size {
                Some(size) if size > *end => Ok(()),
                _ => sftp.remove(target).await,
            },
            Self::Stale { part, target } => {
                let (kept, whole) = tokio::join!(sftp.lstat(part), sftp.lstat(target));
                let modified = |attributes: Attributes| attributes.times.map(|(_, modified)| modified);
                // Times are whole seconds: of the same one it is more likely the older.
                let is_older = modified(kept?).zip(modified(whole?)).is_some_and(|(kept, whole)| kept <= whole);
                if is_older { sftp.remove(part).await } else { Ok(()) }
            }
            Self::Aside { aside, target } => match sftp.lstat(target).await {
                Ok(_) => sftp.remove(aside).await,
                Err(SftpError::Status { code: StatusCode::NO_SUCH_FILE, .. }) => {
                    sftp.rename(aside, target, false).await
                }
                Err(error) => Err(error),
            },
        };
        match result {
            Err(SftpError::Status { code: StatusCode::NO_SUCH_FILE, .. }) => Ok(()),
            other => other,
        }
    }
}

/// Has another upload come further in the meantime? Then this one's part would only mislead clients.
async fn is_outdated(sftp: &Session, temporary: &BackendPath, others: [&BackendPath; 2]) -> Result<bool, SftpError> {
    let [part, target] = others;
    let modified = |found: Result<Attributes, SftpError>| match found {
        Ok(attributes) => Ok(attributes.times.map(|(_, modified)| modified)),
        Err(SftpError::Status { .. }) => Ok(None),
        Err(lost) => Err(lost),
    };
    let (temporary, part, target) = tokio::join!(sftp.lstat(temporary), sftp.lstat(part), sftp.lstat(target));
    let temporary = modified(temporary)?;
    Ok([modified(part)?, modified(target)?].iter().any(|other| other.is_some() && *other > temporary))
}

/// Cuts a temporary file to what is known to be stored, and gives it the name under which clients find it again. One
/// that cannot be cut may hold a gap: it goes.
pub(super) async fn keep_part(
    sftp: &Session,
    temporary: &BackendPath,
    part: &BackendPath,
    length: u64,
    replace: bool,
) -> Result<(), SftpError> {
    let kept = async {
        let cut = Attributes { size: Some(length), ..Attributes::default() };
        sftp.set_attributes(temporary, &cut).await?;
        if !replace {
            // Plain RENAME does not replace an older part.
            match sftp.remove(part).await {
                Ok(()) | Err(SftpError::Status { .. }) => {}
                Err(lost) => return Err(lost),
            }
        }
        sftp.rename(temporary, part, replace).await
    };
    match kept.await {
        Err(SftpError::Status { .. }) => sftp.remove(temporary).await,
        other => other,
    }
}

/// What a session has to put right as soon as there is a connection. Shared by the session and what works for it, so
/// that nothing is forgotten when a command or a transfer is cut short.
#[derive(Debug, Clone, Default)]
pub struct LeftBehinds(Arc<Mutex<Vec<LeftBehind>>>);

impl LeftBehinds {
    /// Remembers one.
    pub fn keep(&self, left_behind: LeftBehind) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MAX_LEFT_BEHIND {
            kept.push(left_behind);
        }
    }

    /// What is remembered, without anybody who sees to it.
    pub fn give_up(&self) -> Vec<LeftBehind> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Is there nothing to put right?
    pub fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Does anybody have one in hand, or may have?
    pub fn are_in_hand(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Takes all of them in hand; those that `first` is true for come first.
    pub fn take(&self) -> Vec<Held> {
        let mut taken = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        taken.sort_by_key(|left_behind| !left_behind.is_urgent());
        taken.into_iter().map(|left_behind| self.hold(left_behind)).collect()
    }

    /// One in hand: left behind unless it is done with.
    pub fn hold(&self, left_behind: LeftBehind) -> Held {
        Held { left_behind: Some(left_behind), kept: self.clone() }
    }
}

/// Something in hand that is remembered again when this is dropped.
#[derive(Debug)]
pub struct Held {
    left_behind: Option<LeftBehind>,
    kept: LeftBehinds,
}

impl Held {
    /// Is it one that must not wait?
    pub fn is_urgent(&self) -> bool {
        self.left_behind.as_ref().is_some_and(LeftBehind::is_urgent)
    }

    /// What is to be put right if this is dropped now.
    pub fn becomes(&mut self, left_behind: LeftBehind) {
        self.left_behind = Some(left_behind);
    }

    /// The part of a broken upload is only good up to there from now on.
    pub fn shortens(&mut self, to: u64) {
        if let Some(LeftBehind::Broken { length, .. }) = &mut self.left_behind {
            *length = to.min(*length);
        }
    }

    /// It needs no putting right any more.
    pub fn done(mut self) {
        self.left_behind = None;
    }

    /// Puts it right. What the backend refuses is over; after a loss or a timeout it is remembered again.
    ///
    /// # Errors
    /// What the backend says; nothing to do is no error.
    pub async fn put_right(mut self, sftp: &Session) -> Result<(), SftpError> {
        let Some(left_behind) = &self.left_behind else { return Ok(()) };
        let result = left_behind.put_right(sftp).await;
        if !matches!(result, Err(SftpError::Lost(_) | SftpError::TimedOut)) {
            self.left_behind = None;
        }
        result
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(left_behind) = self.left_behind.take() {
            self.kept.keep(left_behind);
        }
    }
}
