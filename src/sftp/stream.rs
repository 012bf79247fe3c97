//! The byte stream below an SFTP session, as its two halves; an SSH channel, or anything tokio can read and write.

use std::future::Future;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Where the server's bytes come from.
pub trait PacketSource: Send + 'static {
    /// The next chunk of the stream, cut anywhere; `None` once it is closed. Cancel-safe: a dropped future takes
    /// no bytes with it.
    fn next(&mut self) -> impl Future<Output = Option<Bytes>> + Send;
}

/// Where our packets go.
pub trait PacketSink: Send + 'static {
    /// Sends these bytes, all of them, in this very buffer; waits while the peer takes none.
    ///
    /// # Errors
    ///
    /// The stream is closed.
    fn send(&mut self, bytes: Bytes) -> impl Future<Output = Result<(), SinkClosed>> + Send;

    /// Says that nothing more will come.
    fn close(&mut self) -> impl Future<Output = ()> + Send;
}

/// The other side takes no more bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream is closed")]
pub struct SinkClosed;

/// Read at once at first, so that an idle session holds little.
const FIRST_READ: usize = 4 * 1024;

/// Read at once where the stream is busy.
const LARGEST_READ: usize = 64 * 1024;

/// A [`PacketSource`] from the reading half of anything.
#[derive(Debug)]
pub struct StreamSource<R> {
    reader: R,
    buffer: BytesMut,
    size: usize,
}

impl<R> StreamSource<R> {
    /// Reads from `reader`.
    pub fn new(reader: R) -> Self {
        Self { reader, buffer: BytesMut::new(), size: FIRST_READ }
    }
}

impl<R: AsyncRead + Unpin + Send + 'static> PacketSource for StreamSource<R> {
    async fn next(&mut self) -> Option<Bytes> {
        if self.buffer.capacity() < self.size {
            self.buffer = BytesMut::with_capacity(self.size);
        }
        let count = self.reader.read_buf(&mut self.buffer).await.ok()?;
        self.size = if count >= self.size { (2 * self.size).min(LARGEST_READ) } else { FIRST_READ };
        (count > 0).then(|| std::mem::take(&mut self.buffer).freeze())
    }
}

/// A [`PacketSink`] to the writing half of anything.
#[derive(Debug)]
pub struct StreamSink<W>(W);

impl<W> StreamSink<W> {
    /// Writes to `writer`.
    pub fn new(writer: W) -> Self {
        Self(writer)
    }
}

impl<W: AsyncWrite + Unpin + Send + 'static> PacketSink for StreamSink<W> {
    async fn send(&mut self, bytes: Bytes) -> Result<(), SinkClosed> {
        self.0.write_all(&bytes).await.map_err(|_| SinkClosed)?;
        self.0.flush().await.map_err(|_| SinkClosed)
    }

    async fn close(&mut self) {
        // The other side may be gone already; then it needs no telling.
        let _ = self.0.shutdown().await;
    }
}
