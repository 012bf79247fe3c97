//! How a transfer is stopped, how far it is, and how it ended.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::sftp::{BackendPath, Session, SftpError, StatusCode};

use super::commit::Shortage;
use super::data_connection::DataError;
use super::digest::Digested;
use super::in_place::Watch;
use super::left_behind::{Held, LeftBehind};

/// What is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferKind {
    /// STOR, APPE.
    Upload,
    /// RETR.
    Download,
    /// LIST, NLST, MLSD.
    Listing,
}

/// Why a transfer was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StopReason {
    /// ABOR (RFC 959 §4.1.3).
    #[error("aborted by the client")]
    Aborted,
    /// The client closed or reset the control connection: nobody waits for the reply.
    #[error("the control connection was lost")]
    ControlLost,
    /// Nothing came from the client's host any more. The client may be back already, on another connection.
    #[error("the control connection timed out")]
    ControlTimedOut,
    /// The client's certificate was revoked.
    #[error("the client's certificate is not accepted any more")]
    CertificateRefused,
    /// The gateway stops and its drain time is over.
    #[error("the gateway is shutting down")]
    Drained,
}

/// The one cancellation of a transfer.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    token: CancellationToken,
    reason: Arc<OnceLock<StopReason>>,
}

impl Stop {
    /// Tells the transfer to end; the first reason counts.
    pub fn trip(&self, reason: StopReason) {
        let _ = self.reason.set(reason);
        self.token.cancel();
    }

    /// Resolves when the transfer was told to end.
    pub async fn tripped(&self) -> StopReason {
        self.token.cancelled().await;
        self.reason.get().copied().unwrap_or(StopReason::Aborted)
    }
}

/// Bytes moved over the data connection so far.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Moved>);

#[derive(Debug, Default)]
struct Moved {
    bytes: AtomicU64,
    of_backend: AtomicU64,
    first: OnceLock<Instant>,
    end: OnceLock<(bool, Instant)>,
}

impl Progress {
    pub(super) fn add(&self, bytes: usize) {
        if self.0.bytes.fetch_add(bytes as u64, Ordering::Relaxed) == 0 && bytes > 0 {
            let _ = self.0.first.set(Instant::now());
        }
    }

    pub(super) fn backend_has(&self, bytes: u64) {
        self.0.of_backend.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that the backend gave or acknowledged so far.
    pub fn backend_bytes(&self) -> u64 {
        self.0.of_backend.load(Ordering::Relaxed)
    }

    pub(super) fn end_was_told(&self, by_close_notify: bool) {
        let _ = self.0.end.set((by_close_notify, Instant::now()));
    }

    /// When the client said that an upload is whole, and whether it did so by TLS close_notify or by closing TCP.
    pub fn end(&self) -> Option<(bool, Instant)> {
        self.0.end.get().copied()
    }

    /// When the first byte was on the data connection.
    pub fn first_byte(&self) -> Option<Instant> {
        self.0.first.get().copied()
    }

    /// Bytes on the data connection so far.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }
}

/// Why a transfer failed after its preliminary reply; the variant says on which side.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The client's data connection.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The backend.
    #[error("backend: {0}")]
    Backend(#[from] SftpError),
    /// The backend has no room left.
    #[error("backend: {0} ({1})")]
    StorageFull(Shortage, #[source] SftpError),
    /// The backend acknowledged everything, and yet the file has another length.
    #[error("the stored file has {found} bytes, {expected} were sent")]
    SizeDiffers {
        /// Bytes acknowledged.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// The backend ended a file before its end.
    #[error("the backend ended the file after {read} bytes, it has {size}")]
    EndedEarly {
        /// Where it ended, counted from the start of the file.
        read: u64,
        /// How long it is.
        size: u64,
    },
    /// It was told to stop.
    #[error(transparent)]
    Stopped(#[from] StopReason),
}

/// A backend that was lost at the very end of an upload: all was acknowledged but the last step.
#[derive(Debug)]
pub enum Unsettled {
    /// The rename to the final name was asked for.
    Renamed {
        /// The temporary name.
        temporary: BackendPath,
        /// The temporary file goes if this is dropped.
        held: Held,
        /// The final name.
        target: BackendPath,
        /// How long the whole file is.
        length: u64,
    },
    /// CLOSE of a file that was written in place was asked for.
    Written {
        /// The file.
        target: BackendPath,
        /// How long it is if everything was carried out.
        length: u64,
        /// What is done if not everything was carried out.
        undo: Option<LeftBehind>,
    },
    /// A file that was written in place must be what it was before the client is told, for later on it may be another's
    /// work.
    InPlace {
        /// What is done about it.
        undo: LeftBehind,
        /// Nobody else writes to it meanwhile.
        watch: Watch,
    },
}

impl Unsettled {
    /// Finds out over a new connection whether the upload is complete after all, and undoes it where it is not.
    ///
    /// # Errors
    /// It stays unknown. What is given back is to be asked again over another connection, this one being lost too.
    pub async fn settle(self, sftp: &Session) -> Result<bool, Option<Self>> {
        let asked = match &self {
            // Not to be asked twice: once REMOVE may have been carried out, a missing file tells nothing of RENAME.
            Self::Renamed { .. } => return self.settle_renamed(sftp).await.map_err(|_| None),
            Self::Written { target, length, undo } => settle_written(target, *length, undo.as_ref(), sftp).await,
            Self::InPlace { undo, watch } => watch.undo(undo, sftp).await.map(|()| false),
        };
        asked.map_err(|error| matches!(error, SftpError::Lost(_)).then_some(self))
    }

    async fn settle_renamed(self, sftp: &Session) -> Result<bool, SftpError> {
        let Self::Renamed { temporary, held, target, length } = self else { return Ok(false) };
        match sftp.remove(&temporary).await {
            // It still had its temporary name, and now never gets the final one, however late that request is.
            Ok(()) => {
                held.done();
                Ok(false)
            }
            Err(SftpError::Status { code: StatusCode::NO_SUCH_FILE, .. }) => {
                held.done();
                Ok(sftp.stat(&target).await?.size == Some(length))
            }
            Err(error) => Err(error),
        }
    }

    /// May the client have to be told of a success?
    pub fn may_be_whole(&self) -> bool {
        !matches!(self, Self::InPlace { .. })
    }

    /// What is to be undone again, should the server that was lost go on.
    pub fn to_watch(&self) -> Option<(LeftBehind, Watch)> {
        match self {
            Self::InPlace { undo, watch } => Some((undo.clone(), watch.clone())),
            Self::Renamed { .. } | Self::Written { .. } => None,
        }
    }
}

async fn settle_written(
    target: &BackendPath,
    length: u64,
    undo: Option<&LeftBehind>,
    sftp: &Session,
) -> Result<bool, SftpError> {
    if sftp.stat(target).await?.size == Some(length) {
        return Ok(true);
    }
    if let Some(undo) = undo {
        undo.put_right(sftp).await?;
    }
    Ok(false)
}

/// How a transfer ended.
#[derive(Debug)]
pub struct Outcome {
    /// Success means: everything the client sent is stored, or everything asked for was handed over.
    pub result: Result<(), TransferError>,
    /// Bytes on the data connection.
    pub client_bytes: u64,
    /// Bytes read from or acknowledged by the backend.
    pub backend_bytes: u64,
    /// What only the backend can tell now, over a new connection, before the client is told how it ended.
    pub unsettled: Option<Unsettled>,
    /// The digest of the file, where it was asked for and all of it passed.
    pub digested: Option<Digested>,
    /// Names of the listing that could not be shown, because they would have broken its lines.
    pub hostile_names: u64,
    /// Names of the listing that the client's charset does not have.
    pub unmapped_names: u64,
}

/// A transfer that is ready to run: everything the backend can refuse has been asked.
pub struct Transfer {
    /// What it moves.
    pub kind: TransferKind,
    /// What the log says it is about: the pathname as the client sees it.
    pub subject: Vec<u8>,
    /// What a success is told with, in place of the usual words.
    pub told: Option<Vec<u8>>,
    /// Bytes on the data connection when it is over, where that is known before.
    pub size: Option<u64>,
    job: Box<dyn FnOnce(Stop, Progress) -> Running + Send>,
}

/// A transfer under way.
pub type Running = Pin<Box<dyn Future<Output = Outcome> + Send>>;

impl Transfer {
    /// Wraps a job.
    pub fn new<F>(kind: TransferKind, subject: &[u8], job: impl FnOnce(Stop, Progress) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let job = Box::new(move |stop, progress| Box::pin(job(stop, progress)) as Running);
        Self { kind, subject: subject.to_vec(), told: None, size: None, job }
    }

    /// Says what a success is told with.
    #[must_use]
    pub fn telling(mut self, told: Option<Vec<u8>>) -> Self {
        self.told = told;
        self
    }

    /// Says how many bytes there will be.
    #[must_use]
    pub fn of_size(mut self, size: Option<u64>) -> Self {
        self.size = size;
        self
    }

    /// Starts it; it runs while it is polled.
    pub fn run(self, stop: Stop, progress: Progress) -> Running {
        (self.job)(stop, progress)
    }
}

impl std::fmt::Debug for Transfer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Transfer").field("kind", &self.kind).finish_non_exhaustive()
    }
}
