//! STOR and APPE: from the data connection to an SFTP file handle, and to its final name only when all of it is stored.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::time::timeout;

use crate::ftp::ascii::FromNetwork;
use crate::ftp::digest::Algorithm;
use crate::sftp::{File, MoreChannels, Session, SftpError, StripedWriter};

use super::commit;
use super::data_connection::{DataConnection, DataError};
use super::digest::{Digested, Hasher};
use super::endpoint::{DataEndpoint, Direction};
use super::landing::{Begun, Landing, Patience};
use super::outcome::{Outcome, Progress, Stop, StopReason, TransferError};
use super::rate::Rate;

/// Read buffer of an ASCII upload, whose bytes change on the way: one TLS record (RFC 8446 §5.1).
const CONVERSION_BUFFER: usize = 16 * 1024;

/// Bytes of an upload that are sent and not acknowledged, at most: OpenSSH takes 2 MiB at a time from a channel, and what
/// it has taken waits for its acknowledgement. More would only lie in memory.
const MAX_WINDOW: usize = 4 * 1024 * 1024;

/// How long a failed upload waits for what is under way: on further channels, or to be kept.
const QUIET_PATIENCE: Duration = Duration::from_millis(300);

/// A file that is open on the backend, and where its bytes come from.
pub struct Upload {
    /// Where the client will bring it.
    pub endpoint: DataEndpoint,
    /// The session the file was opened on.
    pub sftp: Session,
    /// The file, open for writing.
    pub file: File,
    /// What becomes of it at the end.
    pub landing: Landing,
    /// Where in the file the first byte goes.
    pub offset: u64,
    /// TYPE A: CRLF becomes LF.
    pub ascii: bool,
    /// Bytes in flight.
    pub window: usize,
    /// What it shares with other transfers, where there is a bound.
    pub rate: Option<Arc<Rate>>,
    /// Where further channels come from, if it may have some.
    pub more_channels: Option<MoreChannels>,
    /// No byte from the client for so long ends the transfer.
    pub idle: Duration,
    /// The end of TCP is no end under TLS.
    pub strict_end: bool,
    /// The digest to be made as the bytes pass, of an upload that is a whole file.
    pub digest: Option<Algorithm>,
}

/// How far an upload has come: it decides what is undone.
#[derive(Debug, Default)]
struct Reached {
    /// Bytes of it that the backend is known to have, without a gap.
    acknowledged: u64,
    /// Only the answer to the last request is missing.
    last_step: bool,
    /// Something may still be under way on another channel than the first, and reach the file at any time.
    is_loose: bool,
}

impl Upload {
    /// Runs it to its end. Success means that every WRITE, CLOSE and the rename were acknowledged.
    pub async fn run(self, stop: Stop, progress: Progress) -> Outcome {
        let Self {
            endpoint,
            sftp,
            file,
            mut landing,
            offset,
            ascii,
            window,
            rate,
            more_channels,
            idle,
            strict_end,
            digest,
        } = self;
        let mut hasher = digest.map(Hasher::new);
        let mut digested = None;
        let mut reached = Reached::default();
        let result = async {
            let mut connection = tokio::select! {
                reason = stop.tripped() => return Err(reason.into()),
                connection = endpoint.open(Direction::FromClient) => connection?,
            };
            let begun = tokio::select! {
                reason = stop.tripped() => Err(reason.into()),
                begun = landing.begin(&sftp, file) => begun.map_err(TransferError::from),
            };
            let Begun { file, truncated } = match begun {
                Ok(begun) => begun,
                Err(error) => {
                    connection.reset();
                    return Err(error);
                }
            };
            // In place, what is under way on another channel could not be undone.
            let more = more_channels.filter(|_| !landing.is_in_place()).map(|more| (landing.path().clone(), more));
            let manner = Reception { ascii, idle, strict_end, keep: landing.keeps_parts(), rate };
            let mut sink = StripedWriter::new(file, offset, window.min(MAX_WINDOW), more);
            let received = tokio::select! {
                reason = stop.tripped() => Err(reason.into()),
                received = receive(&mut connection, &mut sink, &manner, &mut hasher, &progress) => received,
            };
            if let Err(error) = received {
                connection.reset();
                if manner.keep || sink.is_striped() {
                    let is_quiet = timeout(QUIET_PATIENCE, sink.is_quiet()).await.unwrap_or(false);
                    reached.is_loose = !is_quiet && sink.is_striped();
                }
                reached.acknowledged = sink.acknowledged();
                return Err(error);
            }
            reached.acknowledged = sink.acknowledged();
            reached.is_loose = sink.is_striped();
            let store = async {
                // Nothing is under way on other channels any more, so what follows is the end of the whole file.
                let sink = sink.gather().await?;
                reached.is_loose = false;
                let sealed = sink.seal(landing.ending(&sftp)).await?;
                reached.acknowledged = sealed.bytes;
                if let Some(truncated) = truncated {
                    truncated.wait().await?;
                }
                reached.last_step = landing.is_in_place();
                sealed.closed.clone()?;
                reached.last_step = false;
                landing.verify(&sftp, &sealed, offset + sealed.bytes).await?;
                digested = hasher.take().zip(sealed.modified).map(|(hasher, modified)| Digested {
                    path: landing.target().clone(),
                    size: sealed.bytes,
                    modified,
                    algorithm: hasher.algorithm(),
                    digest: hasher.finish(),
                });
                Ok(())
            };
            // P-25: the data connection is closed before the final reply; the backend need not wait for that.
            let (stored, ()) = tokio::join!(unless_stopped(store, &stop), connection.acknowledge_end());
            stored?;
            reached.last_step = true;
            match unless_stopped(async { Ok(landing.take_name(&sftp).await?) }, &stop).await {
                Err(TransferError::Backend(refused @ SftpError::Status { .. })) => {
                    reached.last_step = false;
                    let asked = async { Ok(landing.is_in_the_way(&sftp, refused).await?) };
                    unless_stopped(asked, &stop).await?;
                    reached.last_step = true;
                    Ok(landing.take_place(&sftp).await?)
                }
                other => other,
            }
        }
        .await;
        let end = offset + progress.bytes();
        let (result, unsettled) = match result {
            Ok(()) => {
                landing.landed(&sftp).await;
                (Ok(()), None)
            }
            // The name was asked for already.
            Err(error @ TransferError::Stopped(_)) if reached.last_step => {
                match landing.withdraw(&sftp, offset + reached.acknowledged).await {
                    Some(landing) => {
                        landing.landed(&sftp).await;
                        (Ok(()), None)
                    }
                    None => (Err(error), None),
                }
            }
            Err(error @ TransferError::Backend(SftpError::Lost(_) | SftpError::TimedOut)) if reached.last_step => {
                (Err(error), Some(landing.unsettled(offset + reached.acknowledged)))
            }
            Err(error) => {
                let error = commit::explain(&sftp, landing.path(), error).await;
                let patience = match error {
                    TransferError::Data(DataError::Idle) | TransferError::Stopped(StopReason::ControlTimedOut) => {
                        Patience::None
                    }
                    // Where the client itself is gone it may come back at once.
                    TransferError::Stopped(_) => Patience::Short,
                    _ => Patience::Long,
                };
                // What may still change is not worth keeping.
                let kept = if reached.is_loose { 0 } else { offset + reached.acknowledged };
                let kept = landing.untouched_part().unwrap_or(kept);
                let unsettled = landing.discard(&sftp, kept, end, patience).await;
                (Err(error), unsettled)
            }
        };
        Outcome {
            result,
            client_bytes: progress.bytes(),
            backend_bytes: reached.acknowledged,
            unsettled,
            digested,
            hostile_names: 0,
            unmapped_names: 0,
        }
    }
}

/// Everything is here: ABOR still counts, but a client that lost its control connection finds the file when it comes
/// back.
async fn unless_stopped(
    storing: impl Future<Output = Result<(), TransferError>>,
    stop: &Stop,
) -> Result<(), TransferError> {
    tokio::pin!(storing);
    tokio::select! {
        biased;
        stored = &mut storing => stored,
        reason = stop.tripped() => match reason {
            StopReason::ControlLost | StopReason::ControlTimedOut => storing.await,
            StopReason::Aborted | StopReason::CertificateRefused | StopReason::Drained => Err(reason.into()),
        },
    }
}

/// How the client's bytes are taken in.
struct Reception {
    ascii: bool,
    idle: Duration,
    strict_end: bool,
    /// What comes of a broken upload is kept: the last bytes before the break count too.
    keep: bool,
    rate: Option<Arc<Rate>>,
}

impl Reception {
    /// The most to be read at once.
    fn piece(&self) -> usize {
        self.rate.as_ref().map_or(usize::MAX, |rate| rate.piece())
    }

    /// Holds the client back, where it has a rate: what is not read, it cannot send.
    async fn pass(&self, bytes: usize) {
        if let Some(rate) = &self.rate {
            rate.pass(bytes).await;
        }
    }
}

async fn receive(
    connection: &mut DataConnection,
    sink: &mut StripedWriter,
    manner: &Reception,
    hasher: &mut Option<Hasher>,
    progress: &Progress,
) -> Result<(), TransferError> {
    if manner.ascii {
        return receive_converted(connection, sink, manner, hasher, progress).await;
    }
    let mut buffer = sink.buffer();
    loop {
        let mut spare = buffer.spare().limit(manner.piece());
        let read = tokio::select! {
            biased;
            error = sink.failed() => return Err(error.into()),
            read = timeout(manner.idle, connection.read(&mut spare)) => ended(read, manner.strict_end, connection, progress),
        };
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                if manner.keep {
                    // Whether it can be sent decides how much is kept, and nothing else.
                    let _ = timeout(QUIET_PATIENCE, sink.write(buffer)).await;
                }
                return Err(error.into());
            }
        };
        if read == 0 {
            break;
        }
        manner.pass(read).await;
        progress.add(read);
        if let Some(hasher) = hasher {
            hasher.update(buffer.last(read));
        }
        if buffer.is_full() {
            let full = std::mem::replace(&mut buffer, sink.buffer());
            sink.write(full).await?;
            progress.backend_has(sink.acknowledged());
        }
    }
    Ok(sink.write(buffer).await?)
}

async fn receive_converted(
    connection: &mut DataConnection,
    sink: &mut StripedWriter,
    manner: &Reception,
    hasher: &mut Option<Hasher>,
    progress: &Progress,
) -> Result<(), TransferError> {
    let mut converter = FromNetwork::default();
    let mut received = BytesMut::with_capacity(CONVERSION_BUFFER);
    let mut converted = Vec::with_capacity(CONVERSION_BUFFER);
    let mut buffer = sink.buffer();
    loop {
        received.clear();
        received.reserve(CONVERSION_BUFFER);
        let mut spare = (&mut received).limit(manner.piece());
        let read = tokio::select! {
            biased;
            error = sink.failed() => return Err(error.into()),
            read = timeout(manner.idle, connection.read(&mut spare)) => ended(read, manner.strict_end, connection, progress)?,
        };
        manner.pass(read).await;
        progress.add(read);
        converted.clear();
        if read == 0 {
            converter.finish(&mut converted);
        } else {
            converter.convert(&received, &mut converted);
        }
        if let Some(hasher) = hasher {
            hasher.update(&converted);
        }
        let mut rest: &[u8] = &converted;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(buffer.remaining()));
            buffer.extend(now);
            rest = later;
            if buffer.is_full() {
                let full = std::mem::replace(&mut buffer, sink.buffer());
                sink.write(full).await?;
                progress.backend_has(sink.acknowledged());
            }
        }
        if read == 0 {
            return Ok(sink.write(buffer).await?);
        }
    }
}

/// What a read says: bytes, the orderly end (0), or a failure. Under `upload_eof: lax` the bare end of TCP is an end
/// too; a reset never is.
fn ended(
    read: Result<Result<usize, DataError>, tokio::time::error::Elapsed>,
    strict_end: bool,
    connection: &DataConnection,
    progress: &Progress,
) -> Result<usize, DataError> {
    match read {
        Err(_) => Err(DataError::Idle),
        Ok(Err(DataError::NoCloseNotify)) if !strict_end => {
            tracing::info!(
                "the data connection ended without TLS close_notify, which is taken for the end (policy.upload_eof: lax)"
            );
            progress.end_was_told(false);
            Ok(0)
        }
        Ok(read) => {
            if matches!(read, Ok(0)) {
                progress.end_was_told(connection.secured().is_some());
            }
            read
        }
    }
}
