//! A file written from an offset on with many WRITE requests in flight (draft-ietf-secsh-filexfer-02 §6.4).
//!
//! The client's data is read straight into what becomes the packet: a [`WriteBuffer`] has room for the header in
//! front, and leaves as it is.

use std::collections::VecDeque;

use bytes::buf::Limit;
use bytes::{BufMut, BytesMut};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::SftpError;
use super::file::File;
use super::in_flight::Share;
use super::requests::{Answer, STALL};
use super::session::done;
use super::window::MAX_REQUESTS;
use super::wire::packet::{fill_write_header, write_header_length};

/// The payload of one WRITE, with room for its header in front.
#[derive(Debug)]
pub struct WriteBuffer {
    packet: BytesMut,
    header: usize,
    size: usize,
}

impl WriteBuffer {
    /// Bytes in it.
    pub fn payload_len(&self) -> usize {
        self.packet.len() - self.header
    }

    /// Bytes it still takes.
    pub fn remaining(&self) -> usize {
        self.size.saturating_sub(self.packet.len())
    }

    /// The last `count` bytes that were put in.
    pub fn last(&self, count: usize) -> &[u8] {
        self.packet.get(self.packet.len().saturating_sub(count)..).unwrap_or_default()
    }

    /// Takes it no more?
    pub fn is_full(&self) -> bool {
        self.remaining() == 0
    }

    /// Has it no payload yet?
    pub fn is_empty(&self) -> bool {
        self.payload_len() == 0
    }

    /// Takes what fits of `bytes` and says how much that was.
    pub fn extend(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.remaining());
        self.packet.extend_from_slice(bytes.get(..count).unwrap_or_default());
        count
    }

    /// The free room, for `AsyncReadExt::read_buf`. Full, it has none, and a read returns 0: check
    /// [`WriteBuffer::is_full`] first.
    pub fn spare(&mut self) -> Limit<&mut BytesMut> {
        let remaining = self.remaining();
        (&mut self.packet).limit(remaining)
    }
}

/// Writes a file in order.
#[derive(Debug)]
pub struct WriteStream {
    file: File,
    begin: u64,
    next_offset: u64,
    window: u64,
    header: usize,
    packet: usize,
    /// Writes not known to be stored, in file order; those answered behind an unanswered one stay until it is.
    outstanding: VecDeque<Outstanding>,
    unanswered: u64,
    replies: mpsc::Receiver<Answer>,
    sender: mpsc::Sender<Answer>,
    progress: Instant,
    failure: Option<SftpError>,
    /// A `write` is under way, or was dropped half-way: its bytes may be missing.
    interrupted: bool,
    share: Share,
}

#[derive(Debug)]
struct Outstanding {
    offset: u64,
    length: u64,
    answered: bool,
    /// Answered with success. One that failed stays, and so does whatever is behind it: there is a gap.
    stored: bool,
}

impl WriteStream {
    /// Writes to `file` from `offset` on, with at most `window` bytes unacknowledged (one WRITE is always allowed).
    pub fn new(file: File, offset: u64, window: usize) -> Self {
        let (sender, replies) = mpsc::channel(MAX_REQUESTS);
        let header = write_header_length(file.handle().len());
        let packet = file.session().write_packet(header);
        Self {
            file,
            begin: offset,
            next_offset: offset,
            window: window as u64,
            header,
            packet,
            outstanding: VecDeque::new(),
            unanswered: 0,
            replies,
            sender,
            progress: Instant::now(),
            failure: None,
            interrupted: false,
            share: Share::default(),
        }
    }

    /// What is written to.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The same, to be closed.
    pub(super) fn file_mut(&mut self) -> &mut File {
        &mut self.file
    }

    /// An empty buffer of one chunk; memory is taken here.
    pub fn buffer(&self) -> WriteBuffer {
        let mut packet = BytesMut::with_capacity(self.packet);
        packet.put_bytes(0, self.header);
        WriteBuffer { packet, header: self.header, size: self.packet }
    }

    /// Sends one WRITE; waits while the window is full. An empty buffer sends nothing. If the future is dropped, the
    /// stream cannot be used any more: a hole is never left unnoticed.
    ///
    /// # Errors
    ///
    /// An earlier WRITE failed (told at once), the session is lost, or nothing was acknowledged for 60 seconds.
    pub async fn write(&mut self, buffer: WriteBuffer) -> Result<(), SftpError> {
        self.check()?;
        if buffer.header != self.header {
            return self.fail(SftpError::Protocol("the buffer belongs to another file".to_owned()));
        }
        if buffer.is_empty() {
            return Ok(());
        }
        self.interrupted = true;
        let result = self.write_packet(buffer).await;
        self.interrupted = false;
        result.or_else(|error| self.fail(error))
    }

    /// Waits until an outstanding WRITE fails, the session is lost, or nothing is acknowledged for 60 seconds; to be
    /// waited for beside the client. Cancel-safe.
    pub async fn failed(&mut self) -> SftpError {
        loop {
            if let Err(error) = self.check() {
                return error;
            }
            let waited = if self.unanswered > 0 {
                self.await_answer().await
            } else {
                self.file.session().lost().await;
                Err(self.file.session().requests().loss())
            };
            if let Err(error) = waited {
                self.failure.get_or_insert(error);
            }
        }
    }

    /// How many bytes, from the offset begun at and without a gap, the server has said it took.
    pub fn acknowledged(&self) -> u64 {
        self.first_unacknowledged().unwrap_or(self.next_offset) - self.begin
    }

    /// Where the first WRITE begins that is not known to be stored.
    pub(super) fn first_unacknowledged(&self) -> Option<u64> {
        self.outstanding.front().map(|write| write.offset)
    }

    /// Bytes that were sent and not answered.
    pub(super) fn unanswered(&self) -> u64 {
        self.unanswered
    }

    /// How long its handle is, for which its buffers have room.
    pub(super) fn handle_length(&self) -> usize {
        self.file.handle().len()
    }

    /// Goes on at a later offset: what is between is written by somebody else.
    pub(super) fn skip_to(&mut self, offset: u64) {
        self.next_offset = self.next_offset.max(offset);
    }

    /// Waits for every acknowledgement; the file, and how many bytes were written.
    ///
    /// # Errors
    ///
    /// A WRITE failed, the session is lost, or nothing was acknowledged for 60 seconds. The file is closed.
    pub async fn finish(mut self) -> Result<(File, u64), SftpError> {
        self.check()?;
        while self.unanswered > 0 {
            self.await_answer().await?;
        }
        Ok((self.file, self.next_offset - self.begin))
    }

    /// Waits until every WRITE is answered, one way or the other. `false` if an answer does not come.
    pub async fn all_answered(&mut self) -> bool {
        while self.unanswered > 0 {
            if let Err(SftpError::TimedOut | SftpError::Lost(_)) = self.await_answer().await {
                return false;
            }
        }
        true
    }

    /// Gives up on the acknowledgements: the file, to be closed and waited for. What was sent may still be stored.
    pub fn abandon(self) -> File {
        self.file
    }

    async fn write_packet(&mut self, buffer: WriteBuffer) -> Result<(), SftpError> {
        let length = buffer.payload_len() as u64;
        while let Ok(answer) = self.replies.try_recv() {
            self.take_in(answer)?;
        }
        while self.unanswered > 0 && (self.unanswered + length > self.window || self.outstanding.len() >= MAX_REQUESTS)
        {
            self.await_answer().await?;
        }
        let Self { file, sender, .. } = self;
        let turn = loop {
            // An earlier failure is told even while there is no room to send.
            tokio::select! {
                biased;
                answer = self.replies.recv(), if self.unanswered > 0 => match answer {
                    Some(answer) => {
                        self.progress = Instant::now();
                        settle(&mut self.outstanding, &mut self.unanswered, answer)?;
                    }
                    None => return Err(file.session().requests().loss()),
                },
                turn = file.session().requests().turn() => break turn?,
            }
        };
        let offset = self.next_offset;
        let mut packet = buffer.packet;
        let handle = file.handle();
        turn.send_streamed(offset, sender, |id| {
            fill_write_header(&mut packet, id, handle, offset);
            packet.freeze()
        })?;
        if self.unanswered == 0 {
            self.progress = Instant::now();
        }
        self.outstanding.push_back(Outstanding { offset, length, answered: false, stored: false });
        self.unanswered += length;
        self.share.set(self.unanswered);
        self.next_offset += length;
        Ok(())
    }

    async fn await_answer(&mut self) -> Result<(), SftpError> {
        match timeout_at(self.progress + STALL, self.replies.recv()).await {
            Ok(Some(answer)) => self.take_in(answer),
            // `sender` is held here, so the channel does not end.
            Ok(None) => Err(self.file.session().requests().loss()),
            Err(_) => Err(SftpError::TimedOut),
        }
    }

    fn take_in(&mut self, answer: Answer) -> Result<(), SftpError> {
        self.progress = Instant::now();
        let settled = settle(&mut self.outstanding, &mut self.unanswered, answer);
        self.share.set(self.unanswered);
        settled
    }

    fn check(&self) -> Result<(), SftpError> {
        match &self.failure {
            Some(error) => Err(error.clone()),
            None if self.interrupted => Err(SftpError::Protocol("a write was given up half-way".to_owned())),
            None => Ok(()),
        }
    }

    fn fail(&mut self, error: SftpError) -> Result<(), SftpError> {
        Err(self.failure.get_or_insert(error).clone())
    }
}

/// Notes the answer to one WRITE.
fn settle(outstanding: &mut VecDeque<Outstanding>, unanswered: &mut u64, answer: Answer) -> Result<(), SftpError> {
    let result = answer.reply.and_then(done);
    if let Ok(index) = outstanding.binary_search_by_key(&answer.key, |write| write.offset)
        && let Some(write) = outstanding.get_mut(index)
        && !write.answered
    {
        write.answered = true;
        write.stored = result.is_ok();
        *unanswered -= write.length;
    }
    result?;
    while outstanding.front().is_some_and(|write| write.stored) {
        outstanding.pop_front();
    }
    Ok(())
}
