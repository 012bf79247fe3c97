//! The SFTP server of the fuzzer: each byte of its script is what it does next with what it was asked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ftps2sftp::sftp::wire::frame::FrameDecoder;
use ftps2sftp::sftp::wire::packet::{LENGTH_FIELD, Name, Packet, Reply, Request, Status};
use ftps2sftp::sftp::wire::{MAX_PACKET_SENT, VERSION, extensions};
use ftps2sftp::sftp::{Attributes, Extensions, FileSystem, Limits, PacketSink, PacketSource, SinkClosed, StatusCode};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::super::input::Input;

/// Bytes of every file.
const SIZE: u64 = 400;

/// Pages of every directory.
const PAGES: usize = 4;

/// What is in every file from `offset` to `end`.
pub fn content(offset: u64, end: u64) -> Bytes {
    static FILE: OnceLock<Bytes> = OnceLock::new();
    let byte = |offset: u64| (offset.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0];
    let end = end.min(SIZE);
    let place = |offset: u64| offset.min(end) as usize;
    FILE.get_or_init(|| (0..SIZE).map(byte).collect()).slice(place(offset)..place(end))
}

/// A server; a clone is the same one.
#[derive(Clone)]
pub struct Server {
    state: Arc<Mutex<State>>,
    /// Something was asked, or the client closed the stream.
    asked: Arc<Notify>,
}

struct State {
    script: VecDeque<u8>,
    /// What it does when the script is over.
    afterwards: Afterwards,
    offers: Extensions,
    /// Bytes of one READ and one WRITE that it says it takes.
    limit: u64,
    /// Its stream comes in chunks of as many bytes; 0: as it is.
    chunk: usize,
    /// Packets that it reads before it reads no more; 0: all.
    deaf_after: usize,
    deaf: bool,
    received: FrameDecoder,
    packets: usize,
    requests: VecDeque<(u32, Request)>,
    output: BytesMut,
    greeted: bool,
    /// The client said that nothing more will come.
    closed: bool,
    /// It sent something that no server would: the client may believe it.
    lied: bool,
    /// It closed the stream, or could not be understood any more.
    gone: bool,
    /// The highest that a request had.
    last_id: u32,
    last_handle: u32,
    open: BTreeSet<Bytes>,
    pages: BTreeMap<Bytes, usize>,
    /// Bytes of WRITEs that were acknowledged, of the session.
    taken: u64,
}

#[derive(Clone, Copy)]
enum Afterwards {
    AnswerAll,
    Close,
    Silence,
}

/// What the source has to do.
enum Turn {
    Send(Bytes),
    Wait,
    Sleep(Duration),
    Close,
}

impl Server {
    /// Five bytes that say what it is like, then its script.
    pub fn new(mut input: Input<'_>) -> Self {
        let (afterwards, offers) = (input.byte(), input.byte());
        let (limit, chunk, deaf_after) = (input.byte(), input.byte(), input.byte());
        let offered = |bit: u8| offers >> bit & 1 == 0;
        let state = State {
            afterwards: match afterwards % 4 {
                0 | 1 => Afterwards::AnswerAll,
                2 => Afterwards::Close,
                _ => Afterwards::Silence,
            },
            offers: Extensions {
                posix_rename: offered(0),
                statvfs: offered(1),
                fsync: offered(2),
                limits: offered(3),
                lsetstat: offered(4),
            },
            limit: 32 + u64::from(limit),
            chunk: chunk.into(),
            deaf_after: deaf_after.into(),
            deaf: false,
            received: FrameDecoder::new(MAX_PACKET_SENT),
            packets: 0,
            requests: VecDeque::new(),
            output: BytesMut::new(),
            greeted: false,
            closed: false,
            lied: false,
            gone: false,
            last_id: 0,
            last_handle: 0,
            open: BTreeSet::new(),
            pages: BTreeMap::new(),
            taken: 0,
            script: input.rest().iter().copied().collect(),
        };
        Self { state: Arc::new(Mutex::new(state)), asked: Arc::new(Notify::new()) }
    }

    /// Where its bytes come from.
    pub fn source(&self) -> Source {
        Source(self.clone())
    }

    /// Where the client's bytes go.
    pub fn sink(&self) -> Sink {
        Sink(self.clone())
    }

    /// Has it said nothing that is not so?
    pub fn is_honest(&self) -> bool {
        !self.state().lied
    }

    /// Has it acknowledged so many bytes, if it is to be believed?
    pub fn took(&self, bytes: u64) -> bool {
        let state = self.state();
        state.lied || state.taken >= bytes
    }

    /// Every handle that it gave was closed, if it listened; each only once, which is seen when it is.
    pub fn has_its_handles_back(&self) {
        let state = self.state();
        assert!(state.gone || state.deaf || state.open.is_empty(), "{:?} were not closed", state.open);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// The server's half of the stream that the client reads.
pub struct Source(Server);

/// The half it writes to.
pub struct Sink(Server);

impl PacketSource for Source {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let turn = self.0.state().turn();
            match turn {
                Turn::Send(bytes) => return Some(bytes),
                Turn::Close => return None,
                Turn::Wait => self.0.asked.notified().await,
                Turn::Sleep(duration) => sleep(duration).await,
            }
        }
    }
}

impl PacketSink for Sink {
    async fn send(&mut self, bytes: Bytes) -> Result<(), SinkClosed> {
        let deaf = {
            let mut state = self.0.state();
            if state.gone {
                return Err(SinkClosed);
            }
            state.packets += 1;
            state.deaf = state.deaf_after > 0 && state.packets > state.deaf_after;
            if !state.deaf {
                state.take_in(bytes);
            }
            state.deaf
        };
        self.0.asked.notify_one();
        if deaf { pending().await } else { Ok(()) }
    }

    async fn close(&mut self) {
        self.0.state().closed = true;
        self.0.asked.notify_one();
    }
}

impl State {
    /// SECURITY: a packet that is too long, or that cannot be read, ends OpenSSH's server and with it the session.
    fn take_in(&mut self, bytes: Bytes) {
        assert!(!self.closed, "something was sent behind the end");
        self.received.push(bytes);
        while let Some(frame) = self.received.next_frame().expect("a packet that is too long") {
            match Packet::decode(frame).expect("a packet that cannot be read") {
                Packet::Init { version: VERSION, .. } if !self.greeted => {}
                Packet::Request { id, request } => {
                    if let Request::Close { handle } = &request {
                        assert!(self.lied || self.open.remove(handle), "{handle:?} was closed twice");
                    }
                    self.last_id = self.last_id.max(id);
                    self.requests.push_back((id, request));
                }
                other => panic!("a client sent {other:?}"),
            }
        }
    }

    fn turn(&mut self) -> Turn {
        if self.gone {
            return Turn::Close;
        }
        if self.output.has_remaining() {
            let count = if self.chunk == 0 { self.output.len() } else { self.chunk.min(self.output.len()) };
            return Turn::Send(self.output.split_to(count).freeze());
        }
        if !self.greeted {
            self.greeted = true;
            self.put(Packet::Version { version: VERSION, extensions: self.offers.announcement() });
            return self.turn();
        }
        let Some(action) = self.script.front().copied() else { return self.afterwards() };
        // What needs a request waits for one.
        if self.requests.is_empty() && action % 16 < 12 {
            return if self.closed { Turn::Close } else { Turn::Wait };
        }
        self.script.pop_front();
        match action % 16 {
            0..=4 => self.answer_first(u64::MAX),
            5 => {
                if let Some(last) = self.requests.pop_back() {
                    self.answer(last, u64::MAX);
                }
            }
            6 => {
                let most = 1 + u64::from(self.next_byte());
                self.answer_first(most);
            }
            7 => {
                let code = StatusCode(u32::from(self.next_byte() % 20));
                if let Some((id, request)) = self.requests.pop_front() {
                    // OK to what has a result is an answer that no client may take for one.
                    self.acknowledge(&request, code);
                    self.put_status(id, code, b"as you like");
                }
            }
            // The answer to something else.
            8 => {
                let kind = self.next_byte();
                if let Some((id, _)) = self.requests.pop_front() {
                    self.lied = true;
                    let text = Bytes::from(self.next_piece());
                    let reply = match kind % 5 {
                        0 => Reply::Handle(text),
                        1 => Reply::Data(vec![text]),
                        2 => Reply::Extended(text),
                        3 => Reply::Attributes(Attributes { size: Some(kind.into()), ..Attributes::default() }),
                        _ => Reply::Name(vec![name(text); usize::from(kind / 64)]),
                    };
                    self.put(Packet::Reply { id, reply });
                }
            }
            // The right answer, cut short.
            9 => {
                let before = self.output.len();
                self.answer_first(u64::MAX);
                self.lied = true;
                let cut = usize::from(self.next_byte());
                let length = (self.output.len() - before - LENGTH_FIELD).saturating_sub(cut);
                self.output.truncate(before + LENGTH_FIELD + length);
                self.output[before..before + LENGTH_FIELD].copy_from_slice(&(length as u32).to_be_bytes());
            }
            // The first shall be last.
            10 => self.requests.rotate_left(1),
            11 => {
                self.requests.pop_front();
                self.lied = true;
            }
            12 => return Turn::Sleep(Duration::from_secs(self.next_byte().into())),
            // An answer that nobody asked for.
            13 => {
                let id = u32::from(self.next_byte());
                if !self.requests.iter().any(|(asked, _)| *asked == id) {
                    // What it has not read yet may be on its way: then this is an answer all the same, and a false one.
                    self.lied |= id > self.last_id;
                    self.put_status(id, StatusCode::OK, b"");
                }
            }
            14 => {
                self.lied = true;
                let piece = self.next_piece();
                self.output.put_slice(&piece);
            }
            _ => {
                self.gone = true;
                return Turn::Close;
            }
        }
        self.turn()
    }

    fn afterwards(&mut self) -> Turn {
        match self.afterwards {
            Afterwards::AnswerAll if !self.requests.is_empty() => {
                self.answer_first(u64::MAX);
                self.turn()
            }
            Afterwards::Close => {
                self.gone = true;
                Turn::Close
            }
            Afterwards::AnswerAll | Afterwards::Silence if self.closed => Turn::Close,
            Afterwards::AnswerAll | Afterwards::Silence => Turn::Wait,
        }
    }

    fn answer_first(&mut self, most: u64) {
        if let Some(first) = self.requests.pop_front() {
            self.answer(first, most);
        }
    }

    /// The answer that the draft asks for; file data of at most so many bytes.
    fn answer(&mut self, (id, request): (u32, Request), most: u64) {
        let reply = match &request {
            Request::Open { .. } | Request::Opendir { .. } => {
                self.last_handle += 1;
                let handle = Bytes::copy_from_slice(&self.last_handle.to_be_bytes());
                self.open.insert(handle.clone());
                Reply::Handle(handle)
            }
            Request::Read { offset, length, .. } if *offset < SIZE => {
                Reply::Data(vec![content(*offset, offset + u64::from(*length).min(most))])
            }
            Request::Readdir { handle } if self.pages.get(handle).is_none_or(|pages| *pages < PAGES) => {
                *self.pages.entry(handle.clone()).or_default() += 1;
                Reply::Name(vec![name(Bytes::from_static(b"entry")); 2])
            }
            Request::Read { .. } | Request::Readdir { .. } => return self.put_status(id, StatusCode::EOF, b"end"),
            Request::Realpath { path } | Request::Readlink { path } => Reply::Name(vec![name(path.clone())]),
            Request::Stat { .. } | Request::Lstat { .. } | Request::Fstat { .. } => Reply::Attributes(Attributes {
                size: Some(SIZE),
                permissions: Some(0o100_644),
                ..Attributes::default()
            }),
            Request::Extended { name, .. } if name == extensions::LIMITS => {
                let (read_length, write_length) = (self.limit, self.limit);
                Reply::Extended(Limits { packet_length: 4096, read_length, write_length, open_handles: 0 }.encode())
            }
            Request::Extended { name, .. } if name == extensions::STATVFS => {
                Reply::Extended(FileSystem::default().encode())
            }
            _ => {
                self.acknowledge(&request, StatusCode::OK);
                return self.put_status(id, StatusCode::OK, b"");
            }
        };
        self.put(Packet::Reply { id, reply });
    }

    fn acknowledge(&mut self, request: &Request, code: StatusCode) {
        if let (Request::Write { data, .. }, StatusCode::OK) = (request, code) {
            self.taken += data.len() as u64;
        }
    }

    fn put_status(&mut self, id: u32, code: StatusCode, message: &'static [u8]) {
        let status = Status { code, message: Bytes::from_static(message), language: Bytes::new() };
        self.put(Packet::Reply { id, reply: Reply::Status(status) });
    }

    fn put(&mut self, packet: Packet) {
        self.output.put_slice(&packet.encode());
    }

    fn next_byte(&mut self) -> u8 {
        self.script.pop_front().unwrap_or_default()
    }

    fn next_piece(&mut self) -> Vec<u8> {
        let length = usize::from(self.next_byte()).min(self.script.len());
        self.script.drain(..length).collect()
    }
}

fn name(filename: Bytes) -> Name {
    Name { longname: filename.clone(), filename, attributes: Attributes::default() }
}
