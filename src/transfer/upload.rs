//! STOR and APPE: from the data connection to an SFTP file handle, and to its final name only when all of it is stored.

use std::time::Duration;

use bytes::BytesMut;
use tokio::time::timeout;

use crate::ftp::ascii::FromNetwork;
use crate::sftp::{File, MoreChannels, Session, SftpError, StripedWriter};

use super::commit;
use super::data_connection::{DataConnection, DataError};
use super::endpoint::{DataEndpoint, Direction};
use super::landing::{Begun, Landing};
use super::outcome::{Outcome, Progress, Stop, StopReason, TransferError};

/// Read buffer of an ASCII upload, whose bytes change on the way: one TLS record (RFC 8446 §5.1).
const CONVERSION_BUFFER: usize = 16 * 1024;

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
    /// Where further channels come from, if it may have some.
    pub more_channels: Option<MoreChannels>,
    /// No byte from the client for so long ends the transfer.
    pub idle: Duration,
    /// The end of TCP is no end under TLS.
    pub strict_end: bool,
}

/// How far an upload has come: it decides what is undone.
#[derive(Debug, Default)]
struct Reached {
    /// Bytes of it that the backend is known to have, without a gap.
    acknowledged: u64,
    /// Only the answer to the last request is missing.
    last_step: bool,
}

impl Upload {
    /// Runs it to its end. Success means that every WRITE, CLOSE and the rename were acknowledged.
    pub async fn run(self, stop: Stop, progress: Progress) -> Outcome {
        let Self { endpoint, sftp, file, landing, offset, ascii, window, more_channels, idle, strict_end } = self;
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
            let more = more_channels.map(|more| (landing.path().clone(), more));
            let mut sink = StripedWriter::new(file, offset, window, more);
            let received = tokio::select! {
                reason = stop.tripped() => Err(reason.into()),
                received = receive(&mut connection, &mut sink, ascii, idle, strict_end, &progress) => received,
            };
            reached.acknowledged = sink.acknowledged();
            if let Err(error) = received {
                connection.reset();
                return Err(error);
            }
            let store = async {
                // Nothing is under way on other channels any more, so what follows is the end of the whole file.
                let sink = sink.gather().await?;
                let sealed = sink.seal(landing.ending(&sftp)).await?;
                reached.acknowledged = sealed.bytes;
                if let Some(truncated) = truncated {
                    truncated.wait().await?;
                }
                reached.last_step = landing.is_in_place();
                sealed.closed.clone()?;
                reached.last_step = false;
                landing.verify(&sftp, &sealed, offset + sealed.bytes).await
            };
            // P-25: the data connection is closed before the final reply; the backend need not wait for that.
            let (stored, ()) = tokio::join!(unless_stopped(store, &stop), connection.acknowledge_end());
            stored?;
            reached.last_step = true;
            let publish = async { Ok(landing.publish(&sftp).await?) };
            if landing.publishes_in_one_step(&sftp) {
                unless_stopped(publish, &stop).await
            } else {
                // Half an exchange of names is worse than either end of it.
                publish.await
            }
        }
        .await;
        let end = offset + progress.bytes();
        let (result, unsettled) = match result {
            Ok(()) => {
                landing.landed(&sftp).await;
                (Ok(()), None)
            }
            Err(error @ TransferError::Backend(SftpError::Lost(_) | SftpError::TimedOut)) if reached.last_step => {
                (Err(error), Some(landing.unsettled(offset + reached.acknowledged)))
            }
            Err(error) => {
                let error = commit::explain(&sftp, landing.path(), error).await;
                let vanished = matches!(
                    error,
                    TransferError::Data(DataError::Idle) | TransferError::Stopped(StopReason::ControlLost)
                );
                let stored = offset + reached.acknowledged;
                let unsettled = landing.discard(&sftp, stored, end, vanished).await;
                (Err(error), unsettled)
            }
        };
        Outcome {
            result,
            client_bytes: progress.bytes(),
            backend_bytes: reached.acknowledged,
            unsettled,
            hostile_names: 0,
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
            StopReason::ControlLost => storing.await,
            StopReason::Aborted | StopReason::Drained => Err(reason.into()),
        },
    }
}

async fn receive(
    connection: &mut DataConnection,
    sink: &mut StripedWriter,
    ascii: bool,
    idle: Duration,
    strict_end: bool,
    progress: &Progress,
) -> Result<(), TransferError> {
    if ascii {
        return receive_converted(connection, sink, idle, strict_end, progress).await;
    }
    let mut buffer = sink.buffer();
    loop {
        let mut spare = buffer.spare();
        let read = tokio::select! {
            biased;
            error = sink.failed() => return Err(error.into()),
            read = timeout(idle, connection.read(&mut spare)) => ended(read, strict_end)?,
        };
        if read == 0 {
            break;
        }
        progress.add(read);
        if buffer.is_full() {
            let full = std::mem::replace(&mut buffer, sink.buffer());
            sink.write(full).await?;
        }
    }
    Ok(sink.write(buffer).await?)
}

async fn receive_converted(
    connection: &mut DataConnection,
    sink: &mut StripedWriter,
    idle: Duration,
    strict_end: bool,
    progress: &Progress,
) -> Result<(), TransferError> {
    let mut converter = FromNetwork::default();
    let mut received = BytesMut::with_capacity(CONVERSION_BUFFER);
    let mut converted = Vec::with_capacity(CONVERSION_BUFFER);
    let mut buffer = sink.buffer();
    loop {
        received.clear();
        received.reserve(CONVERSION_BUFFER);
        let read = tokio::select! {
            biased;
            error = sink.failed() => return Err(error.into()),
            read = timeout(idle, connection.read(&mut received)) => ended(read, strict_end)?,
        };
        progress.add(read);
        converted.clear();
        if read == 0 {
            converter.finish(&mut converted);
        } else {
            converter.convert(&received, &mut converted);
        }
        let mut rest: &[u8] = &converted;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(buffer.remaining()));
            buffer.extend(now);
            rest = later;
            if buffer.is_full() {
                let full = std::mem::replace(&mut buffer, sink.buffer());
                sink.write(full).await?;
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
) -> Result<usize, DataError> {
    match read {
        Err(_) => Err(DataError::Idle),
        Ok(Err(DataError::NoCloseNotify)) if !strict_end => Ok(0),
        Ok(read) => read,
    }
}
