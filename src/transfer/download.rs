//! RETR: from an SFTP file handle to the data connection, in order, with a bounded window.

use std::time::Duration;

use tokio::time::timeout;

use crate::ftp::ascii::ToNetwork;
use crate::sftp::{File, ReadStream};

use super::data_connection::{DataConnection, DataError};
use super::endpoint::{DataEndpoint, Direction};
use super::outcome::{Outcome, Progress, Stop, TransferError};

/// A file that is open on the backend, and where it goes.
#[derive(Debug)]
pub struct Download {
    /// Where the client will fetch it.
    pub endpoint: DataEndpoint,
    /// The file, open for reading.
    pub file: File,
    /// First byte of the file to send.
    pub offset: u64,
    /// TYPE A: line ends become CRLF.
    pub ascii: bool,
    /// Octets to leave out at the front after conversion (REST under TYPE A, RFC 959 §3.5).
    pub skip: u64,
    /// Bytes in flight.
    pub window: usize,
    /// No byte taken by the client for so long ends the transfer.
    pub idle: Duration,
}

impl Download {
    /// Runs it to its end.
    pub async fn run(self, stop: Stop, progress: Progress) -> Outcome {
        let Self { endpoint, file, offset, ascii, skip, window, idle } = self;
        let mut source = ReadStream::new(file, offset, window);
        let mut backend_bytes = 0;
        let result = async {
            let mut connection = tokio::select! {
                reason = stop.tripped() => return Err(reason.into()),
                connection = endpoint.open(Direction::ToClient) => connection?,
            };
            let sent = tokio::select! {
                reason = stop.tripped() => Err(reason.into()),
                sent = send(&mut source, &mut connection, ascii, skip, idle, &progress, &mut backend_bytes) => sent,
            };
            match sent {
                Ok(()) => tokio::select! {
                    reason = stop.tripped() => Err(reason.into()),
                    finished = connection.finish(idle) => Ok(finished?),
                },
                Err(error) => {
                    connection.reset();
                    Err(error)
                }
            }
        }
        .await;
        // Reading is over; whatever CLOSE answers changes nothing about what was delivered.
        drop(source);
        Outcome { result, client_bytes: progress.bytes(), backend_bytes, unsettled: None, hostile_names: 0 }
    }
}

async fn send(
    source: &mut ReadStream,
    connection: &mut DataConnection,
    ascii: bool,
    mut skip: u64,
    idle: Duration,
    progress: &Progress,
    backend_bytes: &mut u64,
) -> Result<(), TransferError> {
    let mut converter = ToNetwork::default();
    let mut converted = Vec::new();
    while let Some(chunk) = source.next().await? {
        *backend_bytes += chunk.len() as u64;
        let mut bytes: &[u8] = &chunk;
        if ascii {
            converted.clear();
            converter.convert(&chunk, &mut converted);
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(converted.len());
            skip -= skipped as u64;
            bytes = converted.get(skipped..).unwrap_or_default();
        }
        write_all(connection, bytes, idle, progress).await?;
    }
    Ok(())
}

/// Writes everything; `idle` limits the time without progress, not the whole.
pub(super) async fn write_all(
    connection: &mut DataConnection,
    mut bytes: &[u8],
    idle: Duration,
    progress: &Progress,
) -> Result<(), DataError> {
    while !bytes.is_empty() {
        let written = timeout(idle, connection.write(bytes)).await.map_err(|_| DataError::Idle)??;
        progress.add(written);
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}
