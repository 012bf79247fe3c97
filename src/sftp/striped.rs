//! A file written over several channels at a time, for servers so far away that the window of one channel is the limit.
//!
//! OpenSSH gives a channel 2 MiB of window, and so 2 MiB each round trip. Blocks of the file go over whichever channel
//! has least under way, each at its own offset; every channel has opened the file for itself.

use std::fmt;
use std::pin::Pin;

use futures_util::future::{join_all, select_all, try_join_all};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::SftpError;
use super::file::File;
use super::path::BackendPath;
use super::session::Session;
use super::wire::packet::OpenFlags;
use super::write::{WriteBuffer, WriteStream};

/// Bytes after which an upload has proven long enough for further channels: what one channel takes at once. Shorter
/// files are on their way before another channel could be opened.
const LONG: u64 = 2 * 1024 * 1024;

/// Bytes in flight over each further channel: the window that OpenSSH gives, and half of it again for what it has taken
/// and not acknowledged yet.
const WINDOW: usize = 3 * 1024 * 1024;

/// Opens further channels, as many as it can get.
pub type MoreChannels = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = Vec<Session>> + Send>> + Send>;

/// Writes a file in order of its bytes over one channel, and over further ones once it has proven long. It is used as a
/// [`WriteStream`], which it is as long as there is one channel.
pub struct StripedWriter {
    first: WriteStream,
    others: Vec<WriteStream>,
    further: Further,
    window: usize,
    begin: u64,
    next_offset: u64,
}

/// Further channels with the file open on them.
enum Further {
    /// None are wanted, or they are here.
    Done,
    /// To be asked for when the file has proven long.
    Later(BackendPath, MoreChannels),
    /// On their way.
    Opening(AbortOnDropHandle<Vec<File>>),
}

impl StripedWriter {
    /// Writes to `file` from `offset` on, with at most `window` bytes unacknowledged on it. `more` opens further channels,
    /// on which the same file is opened under `path`.
    pub fn new(file: File, offset: u64, window: usize, more: Option<(BackendPath, MoreChannels)>) -> Self {
        let first = WriteStream::new(file, offset, window);
        let further = more.map_or(Further::Done, |(path, more)| Further::Later(path, more));
        Self { first, others: Vec::new(), further, window, begin: offset, next_offset: offset }
    }

    /// An empty buffer of one chunk; memory is taken here.
    pub fn buffer(&self) -> WriteBuffer {
        self.first.buffer()
    }

    /// Sends one WRITE, as [`WriteStream::write`] does.
    ///
    /// # Errors
    ///
    /// An earlier WRITE failed on any channel, a session is lost, or nothing was acknowledged for 60 seconds.
    pub async fn write(&mut self, buffer: WriteBuffer) -> Result<(), SftpError> {
        self.widen().await;
        let length = buffer.payload_len() as u64;
        if self.others.is_empty() {
            self.first.write(buffer).await?;
        } else {
            let mut streams: Vec<&mut WriteStream> = std::iter::once(&mut self.first).chain(&mut self.others).collect();
            streams.sort_by_key(|stream| stream.unanswered());
            let mut streams = streams.into_iter();
            let Some(stream) = streams.next() else { return Ok(()) };
            stream.skip_to(self.next_offset);
            tokio::select! {
                biased;
                written = stream.write(buffer) => written?,
                error = any_failed(streams) => return Err(error),
            }
        }
        self.next_offset += length;
        Ok(())
    }

    /// Waits until a WRITE fails on any channel, as [`WriteStream::failed`] does. Cancel-safe.
    pub async fn failed(&mut self) -> SftpError {
        if self.others.is_empty() {
            self.first.failed().await
        } else {
            any_failed(std::iter::once(&mut self.first).chain(&mut self.others)).await
        }
    }

    /// Waits until nothing is under way any more, whatever became of it: the file is then as it stays, and
    /// [`StripedWriter::acknowledged`] says all that is known of it. `false` if that is not to be had.
    pub async fn is_quiet(&mut self) -> bool {
        let streams = std::iter::once(&mut self.first).chain(&mut self.others);
        join_all(streams.map(WriteStream::all_answered)).await.into_iter().all(|answered| answered)
    }

    /// Was more than one channel used?
    pub fn is_striped(&self) -> bool {
        !self.others.is_empty()
    }

    /// How many bytes, from the offset begun at and without a gap, the server has said it took.
    pub fn acknowledged(&self) -> u64 {
        let streams = std::iter::once(&self.first).chain(&self.others);
        let gap = streams.filter_map(WriteStream::first_unacknowledged).min();
        gap.unwrap_or(self.next_offset) - self.begin
    }

    /// Waits for every acknowledgement on the further channels and for the file to be closed on them: what remains is the
    /// first stream, which stands at the end of what was written.
    ///
    /// # Errors
    ///
    /// A WRITE or CLOSE failed, a session is lost, or nothing was acknowledged for 60 seconds.
    pub async fn gather(mut self) -> Result<WriteStream, SftpError> {
        // What comes too late is closed by itself.
        self.further = Further::Done;
        let others = std::mem::take(&mut self.others);
        if !others.is_empty() {
            self.first.skip_to(self.next_offset);
            let closed = try_join_all(others.into_iter().map(async |other| {
                let (file, _) = other.finish().await?;
                file.close().await
            }));
            tokio::select! {
                closed = closed => closed?,
                error = self.first.failed() => return Err(error),
            };
        }
        Ok(self.first)
    }

    /// Waits for every acknowledgement; the file, and how many bytes were written.
    ///
    /// # Errors
    ///
    /// As [`StripedWriter::gather`]. The file is closed.
    pub async fn finish(self) -> Result<(File, u64), SftpError> {
        self.gather().await?.finish().await
    }

    /// Asks for further channels when it is time, and takes them when they are here. Nothing is waited for.
    async fn widen(&mut self) {
        match &mut self.further {
            Further::Done => {}
            // What was asked for on the first channel ahead of the data, such as to empty the file, is done by the time
            // that data is acknowledged: no WRITE on another channel comes before it.
            Further::Later(..) if self.next_offset - self.begin <= LONG || self.first.acknowledged() == 0 => {}
            Further::Later(..) => {
                if let Further::Later(path, more) = std::mem::replace(&mut self.further, Further::Done) {
                    self.further =
                        Further::Opening(AbortOnDropHandle::new(tokio::spawn(open_all(path, more).in_current_span())));
                }
            }
            Further::Opening(opening) => {
                if opening.is_finished() {
                    let files = opening.await.unwrap_or_default();
                    self.further = Further::Done;
                    // A buffer has room for a handle of one length. One that differs is closed again.
                    let length = self.first.handle_length();
                    let window = self.window.min(WINDOW);
                    let fitting = files.into_iter().filter(|file| file.handle().len() == length);
                    self.others = fitting.map(|file| WriteStream::new(file, self.next_offset, window)).collect();
                }
            }
        }
    }
}

impl fmt::Debug for StripedWriter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("StripedWriter").field("first", &self.first).field("others", &self.others).finish()
    }
}

/// A channel that cannot open the file is one less.
async fn open_all(path: BackendPath, more: MoreChannels) -> Vec<File> {
    let flags = OpenFlags { write: true, ..OpenFlags::default() };
    let channels = more().await;
    let opened = join_all(channels.iter().map(|channel| channel.open(&path, flags, None))).await;
    opened.into_iter().flatten().collect()
}

async fn any_failed<'a>(streams: impl Iterator<Item = &'a mut WriteStream>) -> SftpError {
    select_all(streams.map(|stream| Box::pin(stream.failed()))).await.0
}
