//! A file read from front to end with many READ requests in flight (draft-ietf-secsh-filexfer-02 §6.4).

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::SftpError;
use super::file::File;
use super::in_flight::Share;
use super::requests::{Answer, STALL, Turn};
use super::window::{Delivery, MAX_REQUESTS, ReadWindow, WindowError};
use super::wire::packet::{Packet, Reply, Request};
use super::wire::status::StatusCode;

/// Reads a file in order. Nothing is asked for while [`ReadStream::next`] is not called, so a slow consumer holds at
/// most one window of data.
#[derive(Debug)]
pub struct ReadStream {
    file: File,
    window: ReadWindow<SftpError>,
    replies: mpsc::Receiver<Answer>,
    sender: mpsc::Sender<Answer>,
    progress: Instant,
    ended: Option<Result<(), SftpError>>,
    share: Share,
}

impl ReadStream {
    /// Reads `file` from `offset` on, holding and awaiting at most `window` bytes (one request is always allowed).
    pub fn new(file: File, offset: u64, window: usize) -> Self {
        let (sender, replies) = mpsc::channel(MAX_REQUESTS);
        let window = ReadWindow::new(offset, file.session().read_chunk(), window);
        Self { file, window, replies, sender, progress: Instant::now(), ended: None, share: Share::default() }
    }

    /// Says how long the file is thought to be; saves a round trip at its end. A file that is longer or shorter is read
    /// as it is.
    #[must_use]
    pub fn expecting(mut self, size: u64) -> Self {
        self.window.expect_end(size);
        self
    }

    /// The next bytes of the file; `None` at its end, and ever after. Cancel-safe.
    ///
    /// # Errors
    ///
    /// A READ failed, or nothing came for 60 seconds. The bytes before it were all handed out; it stays failed.
    pub async fn next(&mut self) -> Result<Option<Bytes>, SftpError> {
        loop {
            if let Some(ended) = &self.ended {
                return ended.clone().map(|()| None);
            }
            match self.step().await {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                Ok(None) => {}
                Err(error) => self.ended = Some(Err(error)),
            }
        }
    }

    /// The next bytes of the file if they are here already. An end or a failure is left for [`ReadStream::next`] to tell.
    pub fn ready(&mut self) -> Option<Bytes> {
        if self.ended.is_some() {
            return None;
        }
        self.advance().unwrap_or_else(|error| {
            self.ended = Some(Err(error));
            None
        })
    }

    /// How long the file is now.
    ///
    /// # Errors
    ///
    /// As any request; see [`SftpError`].
    pub async fn size(&self) -> Result<Option<u64>, SftpError> {
        Ok(self.file.stat().await?.size)
    }

    /// CLOSE; replies still on their way are dropped when they come.
    ///
    /// # Errors
    ///
    /// The server did not close it well.
    pub async fn close(self) -> Result<(), SftpError> {
        self.file.close().await
    }

    /// What can be done without waiting: takes in replies, sends requests, and hands on what is next.
    fn advance(&mut self) -> Result<Option<Bytes>, SftpError> {
        while let Ok(answer) = self.replies.try_recv() {
            self.take_in(answer)?;
        }
        while self.window.has_request() {
            let Self { file, window, sender, progress, .. } = self;
            let Some(turn) = file.session().requests().try_turn() else { break };
            ask(turn, file, window, sender, progress)?;
        }
        let delivery = self.window.deliver();
        self.share.set(self.window.held());
        match delivery {
            Delivery::Data(bytes) => Ok(Some(bytes)),
            Delivery::End => {
                self.ended = Some(Ok(()));
                Ok(None)
            }
            Delivery::Failed(error) => Err(error),
            Delivery::Nothing => Ok(None),
        }
    }

    async fn step(&mut self) -> Result<Option<Bytes>, SftpError> {
        let bytes = self.advance()?;
        if bytes.is_some() || self.ended.is_some() {
            return Ok(bytes);
        }
        let waits_for_room = self.window.has_request();
        let deadline = if self.window.in_flight() > 0 { self.progress } else { Instant::now() } + STALL;
        let Self { file, window, sender, progress, replies, .. } = self;
        let answer = tokio::select! {
            biased;
            answer = timeout_at(deadline, replies.recv()) => answer,
            // The turn is used and not given back: two streams would hand it to each other for as long as there is no
            // other room.
            turn = file.session().requests().turn(), if waits_for_room => {
                return ask(turn?, file, window, sender, progress).map(|()| None);
            }
        };
        match answer {
            Ok(Some(answer)) => self.take_in(answer).map(|()| None),
            // `sender` is held here, so the channel does not end.
            Ok(None) => Err(self.file.session().requests().loss()),
            Err(_) => Err(SftpError::TimedOut),
        }
    }

    fn take_in(&mut self, answer: Answer) -> Result<(), SftpError> {
        self.progress = Instant::now();
        let offset = answer.key;
        let fits = match answer.reply {
            Ok(Reply::Data(pieces)) => self.window.received(offset, pieces),
            Ok(Reply::Status(status)) if status.code == StatusCode::EOF => self.window.end_of_file(offset),
            Ok(other) => self.window.failed(offset, SftpError::unexpected(&other)),
            Err(error) => self.window.failed(offset, error),
        };
        fits.map_err(|error: WindowError| SftpError::Protocol(error.to_string()))
    }
}

/// Sends the next READ.
fn ask(
    turn: Turn<'_>,
    file: &File,
    window: &mut ReadWindow<SftpError>,
    replies: &mpsc::Sender<Answer>,
    progress: &mut Instant,
) -> Result<(), SftpError> {
    if window.in_flight() == 0 {
        *progress = Instant::now();
    }
    let Some(range) = window.next_request() else { return Ok(()) };
    let request = Request::Read { handle: file.handle().clone(), offset: range.offset, length: range.length };
    turn.send_streamed(range.offset, replies, |id| Packet::Request { id, request }.encode())
}
