//! RETR: from an SFTP file handle to the data connection, in order, with a bounded window.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::ftp::ascii::ToNetwork;
use crate::ftp::digest::Algorithm;
use crate::sftp::{BackendPath, File, ReadStream};

use super::data_connection::DataConnection;
use super::digest::{Digested, Hasher};
use super::endpoint::{DataEndpoint, Direction};
use super::outcome::{Outcome, Progress, Stop, TransferError};
use super::rate::Rate;

/// A file that is open on the backend, and where it goes.
#[derive(Debug)]
pub struct Download {
    /// Where the client will fetch it.
    pub endpoint: DataEndpoint,
    /// The file, open for reading.
    pub file: File,
    /// How long it is thought to be; a file that is longer or shorter is sent as it is.
    pub size: Option<u64>,
    /// First byte of the file to send.
    pub offset: u64,
    /// TYPE A: line ends become CRLF.
    pub ascii: bool,
    /// Octets to leave out at the front after conversion (REST under TYPE A, RFC 959 §3.5).
    pub skip: u64,
    /// RANG: so many bytes and no more.
    pub length: Option<u64>,
    /// The digest to be made as the bytes pass, and what the file was then; only of a whole file.
    pub digest: Option<Expected>,
    /// Bytes in flight.
    pub window: usize,
    /// What it shares with other transfers, where there is a bound.
    pub rate: Option<Arc<Rate>>,
    /// No byte taken by the client for so long ends the transfer.
    pub idle: Duration,
}

impl Download {
    /// Runs it to its end.
    pub async fn run(self, stop: Stop, progress: Progress) -> Outcome {
        let Self { endpoint, file, size, offset, ascii, skip, length, digest, window, rate, idle } = self;
        let mut hasher = digest.as_ref().map(|expected| Hasher::new(expected.algorithm));
        // Where the file is thought to end, for this transfer.
        let end = length.map(|length| offset.saturating_add(length));
        let size = size.map(|size| end.map_or(size, |end| size.min(end)));
        let mut source = ReadStream::new(file, offset, window);
        if let Some(size) = size {
            source = source.expecting(size);
        }
        let mut backend_bytes = 0;
        let result = async {
            let mut connection = tokio::select! {
                reason = stop.tripped() => return Err(reason.into()),
                connection = endpoint.open(Direction::ToClient) => connection?,
            };
            let sending = async {
                let wanted = Wanted { ascii, skip, length: length.unwrap_or(u64::MAX), rate: rate.as_deref() };
                send(&mut source, &mut connection, wanted, idle, &progress, &mut hasher, &mut backend_bytes).await?;
                is_whole(&source, offset + backend_bytes, size).await
            };
            let sent = tokio::select! {
                reason = stop.tripped() => Err(reason.into()),
                sent = sending => sent,
            };
            match sent {
                Ok(()) => tokio::select! {
                    reason = stop.tripped() => Err(reason.into()),
                    finished = connection.finish(idle, &progress) => Ok(finished?),
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
        let digested = digest.zip(hasher).filter(|_| result.is_ok()).map(|(expected, hasher)| Digested {
            path: expected.path,
            size: backend_bytes,
            modified: expected.modified,
            algorithm: expected.algorithm,
            digest: hasher.finish(),
        });
        Outcome {
            result,
            client_bytes: progress.bytes(),
            backend_bytes,
            unsettled: None,
            digested,
            hostile_names: 0,
            unmapped_names: 0,
        }
    }
}

/// An end of file that comes before the end the file is known to have: has it been cut meanwhile? Costs nothing where
/// all of it came.
async fn is_whole(source: &ReadStream, read: u64, size: Option<u64>) -> Result<(), TransferError> {
    if size.is_none_or(|size| read >= size) {
        return Ok(());
    }
    match source.size().await? {
        Some(size) if read < size => Err(TransferError::EndedEarly { read, size }),
        _ => Ok(()),
    }
}

/// The digest that is made of a download, and how the file is known again.
#[derive(Debug, Clone)]
pub struct Expected {
    /// How it is made.
    pub algorithm: Algorithm,
    /// Where the file is.
    pub path: BackendPath,
    /// Its last modification.
    pub modified: u32,
}

/// What of the file is sent.
struct Wanted<'a> {
    ascii: bool,
    skip: u64,
    length: u64,
    rate: Option<&'a Rate>,
}

async fn send(
    source: &mut ReadStream,
    connection: &mut DataConnection,
    wanted: Wanted<'_>,
    idle: Duration,
    progress: &Progress,
    hasher: &mut Option<Hasher>,
    backend_bytes: &mut u64,
) -> Result<(), TransferError> {
    let Wanted { ascii, mut skip, length, rate } = wanted;
    let mut converter = ToNetwork::default();
    while *backend_bytes < length
        && let Some(first) = source.next().await?
    {
        let mut next = Some(first);
        // What is here already leaves together.
        while let Some(mut bytes) = next {
            bytes.truncate(usize::try_from(length - *backend_bytes).unwrap_or(usize::MAX));
            *backend_bytes += bytes.len() as u64;
            progress.backend_has(*backend_bytes);
            if let Some(hasher) = hasher {
                hasher.update(&bytes);
            }
            let mut bytes = if ascii { converted(&mut converter, &bytes, &mut skip) } else { bytes };
            if let Some(rate) = rate {
                while bytes.len() > rate.piece() {
                    rate.pass(rate.piece()).await;
                    connection.queue(bytes.split_to(rate.piece()));
                    connection.send(idle, progress).await?;
                }
                rate.pass(bytes.len()).await;
            }
            connection.queue(bytes);
            next = if connection.has_enough() { None } else { source.ready() };
        }
        connection.send(idle, progress).await?;
    }
    Ok(())
}

fn converted(converter: &mut ToNetwork, bytes: &[u8], skip: &mut u64) -> Bytes {
    let mut converted = Vec::with_capacity(bytes.len());
    converter.convert(bytes, &mut converted);
    let skipped = usize::try_from(*skip).unwrap_or(usize::MAX).min(converted.len());
    *skip -= skipped as u64;
    Bytes::from(converted).split_off(skipped)
}
