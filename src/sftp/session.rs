//! One SFTP session (draft-ietf-secsh-filexfer-02): a method for each request that is not file data.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::SftpError;
use super::directory::Directory;
use super::file::File;
use super::observer::Observer;
use super::path::BackendPath;
use super::requests::{Pending, Requests};
use super::stream::{PacketSink, PacketSource};
use super::tasks;
use super::wire::attributes::Attributes;
use super::wire::extensions::{self, ExtendedRequest, Extensions, FileSystem, Limits};
use super::wire::frame::FrameDecoder;
use super::wire::packet::{LENGTH_FIELD, OpenFlags, Packet, Reply, Request};
use super::wire::status::StatusCode;
use super::wire::{self, MAX_PACKET_ACCEPTED, MAX_PACKET_SENT, Malformed};

/// CLOSE, fsync and rename may flush gigabytes or wait for a slow disk before they answer.
pub(super) const COMMIT_TIME: Duration = Duration::from_secs(120);

/// The longest READ: OpenSSH's own maximum, 255 KiB, so that the reply fits a packet of 256 KiB.
const MAX_READ: u64 = 255 * 1024;

/// A limit told below this is nonsense: not even a pathname would fit.
const MIN_PACKET_LIMIT: usize = 1024;

/// WRITE packets are multiples of this: the size of SSH packets, so that none goes out nearly empty.
const SSH_PACKET: usize = 32 * 1024;

/// The longest WRITE packet. Longer ones measured no faster, and each is memory of a transfer.
const MAX_WRITE_PACKET: usize = 4 * SSH_PACKET;

/// A session; cloning gives another handle to the same one. When the last handle, file and directory is dropped, the
/// channel is closed and its tasks end.
#[derive(Clone, Debug)]
pub struct Session {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    requests: Requests,
    request_time: Duration,
    extensions: Extensions,
    /// The draft's own hold until the server has told its own.
    limits: OnceLock<Limits>,
    /// The question for them: sent with the first request, looked at when they first matter. Tokio's mutex: whoever
    /// comes second waits for the answer too.
    asked: Mutex<Option<Pending>>,
}

impl Session {
    /// Greets the server (INIT, VERSION) and asks for its limits where it offers that, without waiting for them.
    /// `request_timeout` is the time a server has to answer one request that is not file data, counted from the moment
    /// it is written.
    ///
    /// # Errors
    ///
    /// The server closed the channel, did not answer in time, or does not speak version 3.
    pub async fn start(
        source: impl PacketSource,
        sink: impl PacketSink,
        request_timeout: Duration,
    ) -> Result<Self, SftpError> {
        Self::start_observed(source, sink, request_timeout, None).await
    }

    /// The same; `observer` is told of every request that somebody waits for.
    ///
    /// # Errors
    ///
    /// As [`Session::start`].
    pub async fn start_observed(
        mut source: impl PacketSource,
        mut sink: impl PacketSink,
        request_timeout: Duration,
        observer: Option<Arc<dyn Observer>>,
    ) -> Result<Self, SftpError> {
        let mut decoder = FrameDecoder::new(MAX_PACKET_ACCEPTED);
        let greeting = greet(&mut source, &mut sink, &mut decoder);
        let extensions = timeout(request_timeout, greeting).await.map_err(|_| SftpError::TimedOut)??;
        let (requests, work) = Requests::new(observer);
        tasks::spawn(source, sink, decoder, work);
        let asked = match extensions.limits {
            true => Some(requests.turn().await?.send(ExtendedRequest::Limits.into())?),
            false => None,
        };
        let (limits, asked) = (OnceLock::new(), Mutex::new(asked));
        let inner = Inner { requests, request_time: request_timeout, extensions, limits, asked };
        let session = Self { inner: Arc::new(inner) };
        session.obey(&Limits::default());
        Ok(session)
    }

    /// What the server offers beyond version 3.
    pub fn extensions(&self) -> &Extensions {
        &self.inner.extensions
    }

    /// What the server takes at once: as it says, once it has said so, and else the draft's own limits, which hold for
    /// every server. Cancel-safe.
    pub async fn limits(&self) -> Limits {
        if let Some(limits) = self.inner.limits.get() {
            return *limits;
        }
        let mut asked = self.inner.asked.lock().await;
        if let Some(pending) = asked.as_mut() {
            let answer = pending.reply(self.inner.request_time).await;
            if let Ok(Reply::Extended(data)) = answer
                && let Ok(limits) = Limits::decode(data)
            {
                self.obey(&limits);
                let _ = self.inner.limits.set(limits);
            }
            // Offered and refused, or not understood, or never answered: it is not asked again.
            *asked = None;
        }
        *self.inner.limits.get_or_init(Limits::default)
    }

    fn obey(&self, limits: &Limits) {
        let longest = usize::try_from(limits.packet_length).unwrap_or(usize::MAX);
        self.requests().limit_packets(longest.clamp(MIN_PACKET_LIMIT, MAX_PACKET_SENT) + LENGTH_FIELD);
    }

    /// Does the server owe answers that nobody waits for any more: of a transfer that was stopped, or of a request that
    /// was given up? Whatever is asked next waits behind them, for ever where the server hangs.
    pub fn owes_answers(&self) -> bool {
        self.requests().owes_answers()
    }

    /// Gives up what is under way: whoever still waits for a reply is told that the session is lost, and can go on over
    /// another.
    pub fn leave(&self) {
        self.requests().leave();
    }

    /// Is nothing under way?
    pub fn is_quiet(&self) -> bool {
        self.requests().is_quiet()
    }

    /// Waits until it owes none, or is lost.
    pub async fn settled(&self) {
        self.requests().settled().await;
    }

    /// Is the session gone?
    pub fn is_lost(&self) -> bool {
        self.requests().is_lost()
    }

    /// Did the server owe answers without giving one, for seconds, before the session was lost? What it was sent it may
    /// then carry out later: a process that was stopped reads on where it stood, whatever became of the connection.
    pub fn stood_still(&self) -> bool {
        self.requests().stood_still()
    }

    /// Waits until the session is gone.
    pub async fn lost(&self) {
        self.requests().lost().await;
    }

    /// REALPATH: the canonical absolute form of a name; of `.`, the start directory.
    ///
    /// # Errors
    ///
    /// As any request; see [`SftpError`].
    pub async fn real_path(&self, path: &[u8]) -> Result<BackendPath, SftpError> {
        let reply = self.request(Request::Realpath { path: checked(path)? }).await?;
        only_name(reply).map(BackendPath::from_bytes)
    }

    /// STAT: attributes of what a name leads to.
    ///
    /// # Errors
    ///
    /// As any request; see [`SftpError`].
    pub async fn stat(&self, path: &BackendPath) -> Result<Attributes, SftpError> {
        attributes(self.request(Request::Stat { path: on_wire(path)? }).await?)
    }

    /// LSTAT: attributes of the name itself, be it a link.
    ///
    /// # Errors
    ///
    /// As any request; see [`SftpError`].
    pub async fn lstat(&self, path: &BackendPath) -> Result<Attributes, SftpError> {
        attributes(self.request(Request::Lstat { path: on_wire(path)? }).await?)
    }

    /// SETSTAT: changes the attributes that are given; follows links.
    ///
    /// # Errors
    ///
    /// As any request; see [`SftpError`].
    pub async fn set_attributes(&self, path: &BackendPath, attributes: &Attributes) -> Result<(), SftpError> {
        let (path, attributes) = (on_wire(path)?, attributes.clone());
        done(self.request(Request::Setstat { path, attributes }).await?)
    }

    /// lsetstat@openssh.com: changes the attributes of the name itself, be it a link.
    ///
    /// # Errors
    ///
    /// As any request; [`SftpError::Unsupported`] without the extension.
    pub async fn set_link_attributes(&self, path: &BackendPath, attributes: &Attributes) -> Result<(), SftpError> {
        self.needs(self.inner.extensions.lsetstat, extensions::LSETSTAT)?;
        let request = ExtendedRequest::Lsetstat { path: on_wire(path)?, attributes: attributes.clone() };
        done(self.request(request.into()).await?)
    }

    /// REMOVE: deletes a file or link.
    ///
    /// # Errors
    ///
    /// As any request; see [`SftpError`].
    pub async fn remove(&self, path: &BackendPath) -> Result<(), SftpError> {
        done(self.request(Request::Remove { path: on_wire(path)? }).await?)
    }

    /// MKDIR, with these permissions less the server's umask.
    ///
    /// # Errors
    ///
    /// As any request; see [`SftpError`].
    pub async fn make_directory(&self, path: &BackendPath, mode: u32) -> Result<(), SftpError> {
        let attributes = Attributes { permissions: Some(mode), ..Attributes::default() };
        done(self.request(Request::Mkdir { path: on_wire(path)?, attributes }).await?)
    }

    /// RMDIR: deletes an empty directory.
    ///
    /// # Errors
    ///
    /// As any request; see [`SftpError`].
    pub async fn remove_directory(&self, path: &BackendPath) -> Result<(), SftpError> {
        done(self.request(Request::Rmdir { path: on_wire(path)? }).await?)
    }

    /// READLINK: where a link points, as it is written in the link.
    ///
    /// # Errors
    ///
    /// As any request; see [`SftpError`].
    pub async fn read_link(&self, path: &BackendPath) -> Result<Vec<u8>, SftpError> {
        only_name(self.request(Request::Readlink { path: on_wire(path)? }).await?)
    }

    /// Renames. With `replace`, in one step over whatever has the name (posix-rename@openssh.com); without, by RENAME,
    /// which fails if the name is taken.
    ///
    /// # Errors
    ///
    /// As any request; [`SftpError::Unsupported`] with `replace` and without the extension.
    pub async fn rename(&self, from: &BackendPath, to: &BackendPath, replace: bool) -> Result<(), SftpError> {
        let (from, to) = (on_wire(from)?, on_wire(to)?);
        let request = if replace {
            self.needs(self.inner.extensions.posix_rename, extensions::POSIX_RENAME)?;
            ExtendedRequest::PosixRename { from, to }.into()
        } else {
            Request::Rename { from, to }
        };
        done(self.begin(request).await?.reply(COMMIT_TIME).await?)
    }

    /// statvfs@openssh.com: room on the file system of a name.
    ///
    /// # Errors
    ///
    /// As any request; [`SftpError::Unsupported`] without the extension.
    pub async fn statvfs(&self, path: &BackendPath) -> Result<FileSystem, SftpError> {
        self.needs(self.inner.extensions.statvfs, extensions::STATVFS)?;
        match self.request(ExtendedRequest::Statvfs { path: on_wire(path)? }.into()).await? {
            Reply::Extended(data) => understood(FileSystem::decode(data)),
            other => Err(SftpError::unexpected(&other)),
        }
    }

    /// OPEN; `mode` is for a file that is made. If the future is dropped, what the server opens is closed when its
    /// answer comes.
    ///
    /// # Errors
    ///
    /// As any request; see [`SftpError`].
    pub async fn open(&self, path: &BackendPath, flags: OpenFlags, mode: Option<u32>) -> Result<File, SftpError> {
        let attributes = Attributes { permissions: mode, ..Attributes::default() };
        let request = Request::Open { path: on_wire(path)?, flags: flags.bits(), attributes };
        let file = self.handle(request).await.map(|handle| File::new(self.clone(), handle))?;
        // Data comes next, in pieces as long as the server takes. It was asked long before, and has told by now.
        self.limits().await;
        Ok(file)
    }

    /// OPENDIR; cancellation as in [`Session::open`].
    ///
    /// # Errors
    ///
    /// As any request; see [`SftpError`].
    pub async fn open_directory(&self, path: &BackendPath) -> Result<Directory, SftpError> {
        let handle = self.handle(Request::Opendir { path: on_wire(path)? }).await?;
        Ok(Directory::new(File::new(self.clone(), handle)))
    }

    pub(super) fn requests(&self) -> &Requests {
        &self.inner.requests
    }

    pub(super) fn request_time(&self) -> Duration {
        self.inner.request_time
    }

    /// The size of one READ.
    pub(super) fn read_chunk(&self) -> u32 {
        u32::try_from(self.known_limits().read_length.min(MAX_READ)).unwrap_or(u32::MAX)
    }

    /// The size of one WRITE packet, length field included, with a header of `header` bytes: a whole number of SSH
    /// packets where the server's limits allow.
    pub(super) fn write_packet(&self, header: usize) -> usize {
        let data = usize::try_from(self.known_limits().write_length).unwrap_or(usize::MAX);
        let longest = self.requests().longest_packet().min(data.saturating_add(header)).min(MAX_WRITE_PACKET);
        let whole = longest - longest % SSH_PACKET;
        if whole > 0 { whole } else { longest.max(header + 1) }
    }

    fn known_limits(&self) -> Limits {
        self.inner.limits.get().copied().unwrap_or_default()
    }

    pub(super) async fn begin(&self, request: Request) -> Result<Pending, SftpError> {
        self.requests().turn().await?.send(request)
    }

    pub(super) async fn request(&self, request: Request) -> Result<Reply, SftpError> {
        self.begin(request).await?.reply(self.inner.request_time).await
    }

    pub(super) fn needs(&self, offered: bool, name: &'static str) -> Result<(), SftpError> {
        if offered { Ok(()) } else { Err(SftpError::Unsupported(name)) }
    }

    async fn handle(&self, request: Request) -> Result<Bytes, SftpError> {
        match self.request(request).await? {
            Reply::Handle(handle) => Ok(handle),
            other => Err(SftpError::unexpected(&other)),
        }
    }
}

async fn greet(
    source: &mut impl PacketSource,
    sink: &mut impl PacketSink,
    decoder: &mut FrameDecoder,
) -> Result<Extensions, SftpError> {
    let closed = || SftpError::Lost("the server closed the channel before it greeted".to_owned());
    let init = Packet::Init { version: wire::VERSION, extensions: Vec::new() };
    sink.send(init.encode()).await.map_err(|_| closed())?;
    let frame = loop {
        if let Some(frame) = decoder.next_frame().map_err(|error| SftpError::Protocol(error.to_string()))? {
            break frame;
        }
        decoder.push(source.next().await.ok_or_else(closed)?);
    };
    match Packet::decode(frame) {
        Ok(Packet::Version { version: wire::VERSION, extensions }) => Ok(Extensions::offered(&extensions)),
        Ok(Packet::Version { version, .. }) => {
            Err(SftpError::Protocol(format!("the server speaks SFTP version {version}, not {}", wire::VERSION)))
        }
        Ok(_) => Err(SftpError::Protocol("the server does not greet with VERSION".to_owned())),
        Err(error) => Err(SftpError::Protocol(error.to_string())),
    }
}

fn on_wire(path: &BackendPath) -> Result<Bytes, SftpError> {
    checked(path.as_bytes())
}

/// SECURITY: a NUL in a pathname makes OpenSSH's server exit, and everything open in the session with it.
fn checked(path: &[u8]) -> Result<Bytes, SftpError> {
    if path.contains(&0) {
        let message = "a pathname cannot hold a NUL".to_owned();
        return Err(SftpError::Status { code: StatusCode::BAD_MESSAGE, message });
    }
    Ok(Bytes::copy_from_slice(path))
}

/// The reply of a request that has no result.
pub(super) fn done(reply: Reply) -> Result<(), SftpError> {
    match &reply {
        Reply::Status(status) if status.code == StatusCode::OK => Ok(()),
        other => Err(SftpError::unexpected(other)),
    }
}

pub(super) fn attributes(reply: Reply) -> Result<Attributes, SftpError> {
    match reply {
        Reply::Attributes(attributes) => Ok(attributes),
        other => Err(SftpError::unexpected(&other)),
    }
}

/// "The server will respond with a SSH_FXP_NAME packet containing only one name and a dummy attributes value" (§6.11).
fn only_name(reply: Reply) -> Result<Vec<u8>, SftpError> {
    match reply {
        Reply::Name(names) => match names.as_slice() {
            [only] => Ok(only.filename.to_vec()),
            _ => Err(SftpError::Protocol(format!("{} names where one was asked for", names.len()))),
        },
        other => Err(SftpError::unexpected(&other)),
    }
}

fn understood<T>(decoded: Result<T, Malformed>) -> Result<T, SftpError> {
    decoded.map_err(|problem| SftpError::Protocol(problem.to_string()))
}
