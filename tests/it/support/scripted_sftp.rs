//! An SFTP version 3 server over any byte stream, with an in-memory file tree, that misbehaves by script.
//!
//! Its time is tokio's, so a paused clock governs every delay; its disorder comes from a seed.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "a test peer: others use other parts of it, and a broken one shall stop at once"
)]

pub mod tree;

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

use ftps2sftp::sftp::wire::extensions::ExtendedRequest;
use ftps2sftp::sftp::wire::frame::FrameDecoder;
use ftps2sftp::sftp::wire::packet::{Name, Packet, Reply, Request};
use ftps2sftp::sftp::{Attributes, Extensions, FileSystem, Limits, OpenFlags, StatusCode};

use tree::{Content, SharedNode, Tree, lock};

/// What kind of server it is.
#[derive(Debug, Clone)]
pub struct Profile {
    pub extensions: Extensions,
    pub limits: Option<Limits>,
    pub handles: Handles,
    /// STATUS bears a message and language.
    pub messages: bool,
    /// Codes above 8 (exists, no space …); otherwise they are FAILURE, as OpenSSH says.
    pub refined_codes: bool,
    /// Attributes have permissions (and with them the kind).
    pub permissions: bool,
    /// The most a READ returns.
    pub longest_read: usize,
    /// A longer packet ends the server, as it does OpenSSH's.
    pub longest_packet: usize,
    /// Names in one READDIR reply.
    pub page: usize,
}

/// How handles look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handles {
    /// OpenSSH's: the lowest free number, four bytes; used again once closed.
    LowestNumber,
    /// Long, not UTF-8, with NULs.
    Binary,
}

impl Profile {
    pub fn openssh() -> Self {
        Self {
            extensions: Extensions { posix_rename: true, statvfs: true, fsync: true, limits: true, lsetstat: true },
            limits: Some(Limits {
                packet_length: 262_144,
                read_length: 261_120,
                write_length: 261_120,
                open_handles: 1019,
            }),
            handles: Handles::LowestNumber,
            messages: true,
            refined_codes: false,
            permissions: true,
            longest_read: 261_120,
            longest_packet: 262_144,
            page: 100,
        }
    }

    /// Version 3 as the draft has it, and no more: packets of 34000 bytes.
    pub fn bare() -> Self {
        Self {
            extensions: Extensions::default(),
            limits: None,
            longest_read: 32_768,
            longest_packet: 34_000,
            ..Self::openssh()
        }
    }

    pub fn binary_handles() -> Self {
        Self { handles: Handles::Binary, ..Self::bare() }
    }

    /// Codes 11, 14, 15; no messages; no permissions.
    pub fn windows_like() -> Self {
        Self { messages: false, refined_codes: true, permissions: false, ..Self::bare() }
    }
}

/// When a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// At this packet of the connection; INIT is 0.
    Packet(usize),
    /// At this request of the name (`"WRITE"`), counted from 0 over all connections.
    Nth(&'static str, usize),
    /// At every request of the name.
    Every(&'static str),
    /// At this request, whatever it is, counted from 0 over all connections.
    Request(usize),
}

/// What the fault is.
#[derive(Debug, Clone)]
pub enum Then {
    /// Not done; this status instead.
    Fail(StatusCode),
    /// Done, but this status instead of the reply.
    DoneButFail(StatusCode),
    /// Not done; this reply instead.
    Reply(Reply),
    /// Not done; these bytes instead, `id` put at bytes 5 to 8 if they are there.
    Raw(Vec<u8>),
    /// Done, and the reply comes twice.
    Twice,
    /// Done, and the reply comes so much later than others.
    Late(Duration),
    /// Not done, no reply; everything else goes on.
    Silence,
    /// Not done, no reply, and nothing is read or sent any more.
    Hang,
    /// Not done; the connection ends.
    Disconnect,
    /// Done; the connection ends instead of the reply.
    DoneAndDisconnect,
}

/// The server's behaviour.
#[derive(Debug, Clone)]
pub struct Script {
    pub profile: Profile,
    pub faults: Vec<(When, Then)>,
    /// Each reply leaves so long after its request came, however many are under way.
    pub latency: Duration,
    /// Replies that wait at the same time leave in a random order.
    pub reorder: Option<u64>,
    /// READs return fewer bytes than asked, at random.
    pub short_reads: Option<u64>,
}

impl Script {
    pub fn new(profile: Profile) -> Self {
        Self { profile, faults: Vec::new(), latency: Duration::ZERO, reorder: None, short_reads: None }
    }

    pub fn fault(mut self, when: When, then: Then) -> Self {
        self.faults.push((when, then));
        self
    }
}

/// What the server has seen.
#[derive(Debug, Default, Clone)]
pub struct Record {
    /// Names of the requests, in the order they came.
    pub requests: Vec<&'static str>,
    /// The same in flights: a new one begins with the first request after a reply. Each is a round trip to a backend that
    /// is far, if replies are late enough (`Script::latency`) for a flight to leave whole.
    pub flights: Vec<Vec<&'static str>>,
    /// The last requests that could change a name or a file, in words: what a failure is looked for in.
    pub changes: VecDeque<String>,
    replied: bool,
    pub open_handles: usize,
    pub most_open_handles: usize,
    /// WRITEs and READs to a handle that is not open.
    pub strays: usize,
    pub longest_packet: usize,
    pub connections_ended: usize,
}

impl Record {
    pub fn count(&self, name: &str) -> usize {
        self.requests.iter().filter(|request| **request == name).count()
    }
}

/// Of these so many are kept.
const CHANGES: usize = 400;

/// The server. Clones share tree, script and record; each [`ScriptedSftp::serve`] is one connection.
#[derive(Debug, Clone)]
pub struct ScriptedSftp {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    script: Mutex<Script>,
    tree: Mutex<Tree>,
    record: Mutex<Record>,
    seen: Notify,
}

impl ScriptedSftp {
    pub fn new(script: Script) -> Self {
        let shared = Shared {
            script: Mutex::new(script),
            tree: Mutex::default(),
            record: Mutex::default(),
            seen: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    pub fn tree(&self) -> MutexGuard<'_, Tree> {
        self.shared.tree.lock().unwrap()
    }

    pub fn record(&self) -> Record {
        self.shared.record.lock().unwrap().clone()
    }

    /// Changes the script; running connections follow from the next packet on.
    pub fn script(&self) -> MutexGuard<'_, Script> {
        self.shared.script.lock().unwrap()
    }

    /// Waits until the record fulfils a condition.
    pub async fn until(&self, mut condition: impl FnMut(&Record) -> bool) {
        loop {
            let seen = self.shared.seen.notified();
            tokio::pin!(seen);
            seen.as_mut().enable();
            if condition(&self.record()) {
                return;
            }
            seen.await;
        }
    }

    /// Serves one connection until it ends.
    pub async fn serve(&self, mut reader: impl AsyncRead + Unpin + Send, mut writer: impl AsyncWrite + Unpin + Send) {
        let (replies, mut waiting) = mpsc::channel::<(Instant, Bytes)>(4096);
        let mut random = Random(self.script().reorder.unwrap_or(1) | 1);
        let reorder = self.script().reorder.is_some();
        let send = async {
            while let Some(first) = waiting.recv().await {
                let mut batch = vec![first];
                sleep_until(batch[0].0).await;
                if reorder {
                    tokio::task::yield_now().await;
                    while let Ok(more) = waiting.try_recv() {
                        batch.push(more);
                    }
                    for index in (1..batch.len()).rev() {
                        batch.swap(index, random.below(index + 1));
                    }
                }
                for (due, bytes) in batch {
                    sleep_until(due).await;
                    self.shared.record.lock().unwrap().replied = true;
                    if writer.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            }
        };
        let mut connection = Connection { server: self, handles: BTreeMap::new(), packets: 0, next_handle: 0 };
        tokio::pin!(send);
        tokio::select! {
            () = connection.receive(&mut reader, &replies) => {
                // What was answered before the end still leaves.
                drop(replies);
                send.await;
            }
            () = &mut send => {}
        }
        let open = connection.handles.len();
        let mut record = self.shared.record.lock().unwrap();
        record.open_handles -= open;
        record.connections_ended += 1;
        drop(record);
        self.shared.seen.notify_waiters();
    }
}

#[derive(Debug)]
enum Open {
    File(SharedNode),
    Directory { names: Vec<Name>, told: usize },
}

struct Connection<'a> {
    server: &'a ScriptedSftp,
    handles: BTreeMap<Vec<u8>, Open>,
    packets: usize,
    next_handle: u32,
}

impl Connection<'_> {
    async fn receive(&mut self, reader: &mut (impl AsyncRead + Unpin), replies: &mpsc::Sender<(Instant, Bytes)>) {
        let mut decoder = FrameDecoder::new(self.server.script().profile.longest_packet);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    let length = frame.len();
                    let Ok(packet) = Packet::decode(frame) else { return };
                    self.seen(&packet, length);
                    let fault = self.fault(&packet);
                    self.packets += 1;
                    if !self.act(packet, fault, replies).await {
                        return;
                    }
                }
                Ok(None) => match reader.read(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(count) => decoder.push(Bytes::copy_from_slice(&buffer[..count])),
                },
                Err(_) => return,
            }
        }
    }

    fn seen(&self, packet: &Packet, length: usize) {
        let mut record = self.server.shared.record.lock().unwrap();
        record.longest_packet = record.longest_packet.max(length);
        if let Packet::Request { request, .. } = packet {
            record.requests.push(name_of(request));
            if let Some(change) = change(request) {
                if record.changes.len() == CHANGES {
                    record.changes.pop_front();
                }
                record.changes.push_back(change);
            }
            if std::mem::take(&mut record.replied) || record.flights.is_empty() {
                record.flights.push(Vec::new());
            }
            record.flights.last_mut().unwrap().push(name_of(request));
        }
        drop(record);
        self.server.shared.seen.notify_waiters();
    }

    fn fault(&self, packet: &Packet) -> Option<Then> {
        // To count what has come takes the longer the more that is.
        if self.server.script().faults.is_empty() {
            return None;
        }
        let name = if let Packet::Request { request, .. } = packet { name_of(request) } else { "INIT" };
        let (count, total) = {
            let record = self.server.shared.record.lock().unwrap();
            (record.count(name), record.requests.len())
        };
        let strikes = |when: &When| match *when {
            When::Packet(packet) => packet == self.packets,
            When::Nth(wanted, nth) => wanted == name && nth + 1 == count,
            When::Every(wanted) => wanted == name,
            When::Request(nth) => name != "INIT" && nth + 1 == total,
        };
        self.server.script().faults.iter().find(|(when, _)| strikes(when)).map(|(_, then)| then.clone())
    }

    /// `false` ends the connection.
    async fn act(&mut self, packet: Packet, fault: Option<Then>, replies: &mpsc::Sender<(Instant, Bytes)>) -> bool {
        let (latency, profile) = {
            let script = self.server.script();
            (script.latency, script.profile.clone())
        };
        let id = match &packet {
            Packet::Request { id, .. } => *id,
            _ => 0,
        };
        let mut due = Instant::now() + latency;
        let instead = |reply: Reply| Packet::Reply { id, reply }.encode();
        let fail = |code| encode_status(id, code, &profile);
        let outgoing = match fault {
            None => vec![self.answer(packet, &profile)],
            Some(Then::Fail(code)) => vec![fail(code)],
            Some(Then::DoneButFail(code)) => {
                self.answer(packet, &profile);
                vec![fail(code)]
            }
            Some(Then::Reply(reply)) => vec![instead(reply)],
            Some(Then::Raw(mut bytes)) => {
                if let Some(place) = bytes.get_mut(5..9) {
                    place.copy_from_slice(&id.to_be_bytes());
                }
                vec![Bytes::from(bytes)]
            }
            Some(Then::Twice) => {
                let answer = self.answer(packet, &profile);
                vec![answer.clone(), answer]
            }
            Some(Then::Late(later)) => {
                due += later;
                vec![self.answer(packet, &profile)]
            }
            Some(Then::Silence) => Vec::new(),
            Some(Then::Hang) => std::future::pending().await,
            Some(Then::Disconnect) => return false,
            Some(Then::DoneAndDisconnect) => {
                self.answer(packet, &profile);
                return false;
            }
        };
        for bytes in outgoing {
            if replies.send((due, bytes)).await.is_err() {
                return false;
            }
        }
        true
    }

    fn answer(&mut self, packet: Packet, profile: &Profile) -> Bytes {
        match packet {
            Packet::Init { .. } => {
                Packet::Version { version: 3, extensions: profile.extensions.announcement() }.encode()
            }
            Packet::Request { id, request } => match self.perform(request, profile) {
                Ok(Reply::Attributes(attributes)) => {
                    let reply = Reply::Attributes(shown(attributes, profile));
                    Packet::Reply { id, reply }.encode()
                }
                Ok(reply) => Packet::Reply { id, reply }.encode(),
                Err(code) => encode_status(id, code, profile),
            },
            Packet::Version { .. } | Packet::Reply { .. } | Packet::Unknown { .. } => {
                encode_status(0, StatusCode::BAD_MESSAGE, profile)
            }
        }
    }

    fn perform(&mut self, request: Request, profile: &Profile) -> Result<Reply, StatusCode> {
        let mut tree = self.server.tree();
        match request {
            Request::Open { path, flags, attributes } => {
                let node = tree.open(&path, OpenFlags::from_bits(flags), attributes.permissions)?;
                drop(tree);
                return Ok(self.opened(Open::File(node), profile));
            }
            Request::Opendir { path } => {
                let names = [b".".as_slice(), b".."].map(|name| (name.to_vec(), directory_attributes()));
                let names = names.into_iter().chain(tree.list(&path)?).map(|(name, attributes)| Name {
                    longname: Bytes::from([b"-rw-r--r-- 1 u g 0 Jan 1 00:00 ", name.as_slice()].concat()),
                    filename: Bytes::from(name),
                    attributes: shown(attributes, profile),
                });
                let names = names.collect();
                drop(tree);
                return Ok(self.opened(Open::Directory { names, told: 0 }, profile));
            }
            Request::Close { handle } => {
                self.handles.remove(handle.as_ref()).ok_or(StatusCode::FAILURE)?;
                self.server.shared.record.lock().unwrap().open_handles -= 1;
                self.server.shared.seen.notify_waiters();
            }
            Request::Read { handle, offset, length } => {
                let Open::File(node) = self.handle(&handle)? else { return Err(StatusCode::FAILURE) };
                let node = lock(node);
                let Content::File(data) = &node.content else { return Err(StatusCode::FAILURE) };
                let begin = usize::try_from(offset).unwrap_or(usize::MAX).min(data.len());
                let length = (length as usize).min(profile.longest_read).min(data.len() - begin);
                if length == 0 {
                    return Err(StatusCode::EOF);
                }
                let length = match &mut self.server.script().short_reads {
                    None => length,
                    Some(seed) => {
                        let mut random = Random(*seed | 1);
                        let shorter = 1 + random.below(length);
                        *seed = random.0;
                        shorter
                    }
                };
                return Ok(Reply::Data(vec![Bytes::copy_from_slice(&data[begin..begin + length])]));
            }
            Request::Write { handle, offset, data } => {
                let Open::File(node) = self.handle(&handle)? else { return Err(StatusCode::FAILURE) };
                tree.write(node, offset, &data)?;
            }
            Request::Readdir { handle } => {
                drop(tree);
                let Some(Open::Directory { names, told }) = self.handles.get_mut(handle.as_ref()) else {
                    return Err(StatusCode::FAILURE);
                };
                let page: Vec<_> = names.iter().skip(*told).take(profile.page).cloned().collect();
                *told += page.len();
                return if page.is_empty() { Err(StatusCode::EOF) } else { Ok(Reply::Name(page)) };
            }
            Request::Lstat { path } => return Ok(Reply::Attributes(lock(&tree.find(&path, false)?).attributes())),
            Request::Stat { path } => return Ok(Reply::Attributes(lock(&tree.find(&path, true)?).attributes())),
            Request::Fstat { handle } => match self.handle(&handle)? {
                Open::File(node) => return Ok(Reply::Attributes(lock(node).attributes())),
                Open::Directory { .. } => return Ok(Reply::Attributes(directory_attributes())),
            },
            Request::Setstat { path, attributes } => lock(&tree.find(&path, true)?).change(&attributes),
            Request::Fsetstat { handle, attributes } => match self.handle(&handle)? {
                Open::File(node) => lock(node).change(&attributes),
                Open::Directory { .. } => return Err(StatusCode::FAILURE),
            },
            Request::Remove { path } => tree.remove(&path)?,
            Request::Mkdir { path, attributes } => tree.make_directory(&path, attributes.permissions)?,
            Request::Rmdir { path } => tree.remove_directory(&path)?,
            Request::Realpath { path } => return Ok(name(tree.resolve(&path, true)?)),
            Request::Rename { from, to } => tree.rename(&from, &to, false)?,
            Request::Readlink { path } => match &lock(&tree.find(&path, false)?).content {
                Content::Symlink(target) => return Ok(name(target.clone())),
                Content::File(_) | Content::Directory => return Err(StatusCode::BAD_MESSAGE),
            },
            // OpenSSH's order: the target first.
            Request::Symlink { first, second } => {
                let link = tree.resolve(&second, false)?;
                tree.put_symlink(link, first);
            }
            Request::Extended { name, data } => {
                let request = ExtendedRequest::decode(&name, data).map_err(|_| StatusCode::BAD_MESSAGE)?;
                drop(tree);
                return self.extended(&request.ok_or(StatusCode::OP_UNSUPPORTED)?, profile);
            }
        }
        Ok(Reply::status(StatusCode::OK, if profile.messages { "Success" } else { "" }))
    }

    fn extended(&self, request: &ExtendedRequest, profile: &Profile) -> Result<Reply, StatusCode> {
        let mut tree = self.server.tree();
        let offered = &profile.extensions;
        match request {
            ExtendedRequest::PosixRename { from, to } if offered.posix_rename => tree.rename(from, to, true)?,
            ExtendedRequest::Fsync { handle } if offered.fsync => drop(self.handle(handle)?),
            ExtendedRequest::Lsetstat { path, attributes } if offered.lsetstat => {
                lock(&tree.find(path, false)?).change(attributes);
            }
            ExtendedRequest::Limits => {
                let limits = profile.limits.ok_or(StatusCode::OP_UNSUPPORTED)?;
                return Ok(Reply::Extended(limits.encode()));
            }
            ExtendedRequest::Statvfs { path } if offered.statvfs => {
                tree.find(path, true)?;
                let room = tree.room() / 512;
                let system = FileSystem {
                    block_size: 512,
                    fragment_size: 512,
                    blocks: 1 << 31,
                    free_blocks: room,
                    free_blocks_available: room,
                    inodes: 1 << 20,
                    free_inodes: 1 << 19,
                    free_inodes_available: 1 << 19,
                    name_max: 255,
                    ..FileSystem::default()
                };
                return Ok(Reply::Extended(system.encode()));
            }
            _ => return Err(StatusCode::OP_UNSUPPORTED),
        }
        Ok(Reply::status(StatusCode::OK, "Success"))
    }

    fn handle(&self, handle: &[u8]) -> Result<&Open, StatusCode> {
        self.handles.get(handle).ok_or_else(|| {
            self.server.shared.record.lock().unwrap().strays += 1;
            StatusCode::FAILURE
        })
    }

    fn opened(&mut self, open: Open, profile: &Profile) -> Reply {
        let handle = match profile.handles {
            Handles::LowestNumber => {
                let free = (0_u32..).find(|number| !self.handles.contains_key(number.to_be_bytes().as_slice()));
                free.unwrap().to_be_bytes().to_vec()
            }
            Handles::Binary => {
                self.next_handle += 1;
                [b"\xff\xfe\x00\xc3\x28".as_slice(), &self.next_handle.to_le_bytes(), &[0x80; 91]].concat()
            }
        };
        self.handles.insert(handle.clone(), open);
        let mut record = self.server.shared.record.lock().unwrap();
        record.open_handles += 1;
        record.most_open_handles = record.most_open_handles.max(record.open_handles);
        Reply::Handle(Bytes::from(handle))
    }
}

fn directory_attributes() -> Attributes {
    let times = Some((tree::MODIFIED, tree::MODIFIED));
    Attributes { size: Some(4096), permissions: Some(0o040_755), times, ..Attributes::default() }
}

fn shown(mut attributes: Attributes, profile: &Profile) -> Attributes {
    if !profile.permissions {
        attributes.permissions = None;
        attributes.owner = None;
    }
    attributes
}

/// The draft's name of a request, and of an extension its own.
/// A request that could change a name or a file, in words.
fn change(request: &Request) -> Option<String> {
    let told = match request {
        Request::Open { path, flags, .. } => format!("OPEN {} {flags:#b}", path.escape_ascii()),
        Request::Remove { path } => format!("REMOVE {}", path.escape_ascii()),
        Request::Mkdir { path, .. } => format!("MKDIR {}", path.escape_ascii()),
        Request::Rmdir { path } => format!("RMDIR {}", path.escape_ascii()),
        Request::Setstat { path, .. } => format!("SETSTAT {}", path.escape_ascii()),
        Request::Rename { from, to } => format!("RENAME {} {}", from.escape_ascii(), to.escape_ascii()),
        Request::Extended { name, data } => format!("{} {}", name.escape_ascii(), data.escape_ascii()),
        _ => return None,
    };
    Some(told)
}

fn name_of(request: &Request) -> &'static str {
    match request {
        Request::Extended { name, data } => {
            ExtendedRequest::decode(name, data.clone()).unwrap().map_or("EXTENDED", |extension| extension.name())
        }
        other => other.name(),
    }
}

fn name(filename: Vec<u8>) -> Reply {
    let filename = Bytes::from(filename);
    Reply::Name(vec![Name { longname: filename.clone(), filename, attributes: Attributes::default() }])
}

fn encode_status(id: u32, code: StatusCode, profile: &Profile) -> Bytes {
    let code =
        if code.0 > 8 && !profile.refined_codes && matches!(code.0, 11 | 14) { StatusCode::FAILURE } else { code };
    if profile.messages {
        return Packet::Reply { id, reply: Reply::status(code, code.name().unwrap_or("?")) }.encode();
    }
    let mut bytes = vec![0, 0, 0, 9, 101];
    bytes.extend(id.to_be_bytes());
    bytes.extend(code.0.to_be_bytes());
    Bytes::from(bytes)
}

/// xorshift64: disorder that a seed repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}
