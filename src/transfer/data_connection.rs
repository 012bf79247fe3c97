//! An open data connection: bytes in, bytes out, and the three ways it may end (RFC 959 §3.2, RFC 4217 §10).

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::tls::{DataTls, Secured, Unlike};

use super::outcome::Progress;
use super::passive::Arrival;
use super::prompt_socket::PromptSocket;
use super::receipt::Receipt;

/// How long a client may take to close its side after ours was closed. Its last bytes are not wanted any more; what is
/// waited for is that ours arrive before the socket goes.
const LINGER: Duration = Duration::from_secs(2);

/// Given to one write, bytes: many TLS records (RFC 8446 §5.1) leave in one system call. Twice as
/// much measured no faster, and it is memory of a transfer.
const AT_ONCE: usize = 128 * 1024;

/// Records that may wait in TLS buffers: [`AT_ONCE`] and what encryption adds, with room to spare.
const MOST_WRITTEN: usize = AT_ONCE + AT_ONCE / 16;

/// Pieces given to one write. A server that sends its file in smaller ones gets more writes.
const SLICES: usize = 16;

/// The end of a file is held back until it is known to be the end, so that its receipt can be asked for. So little is one
/// TLS record and one segment, and a file that is no longer costs no further one.
const HELD_BACK: usize = 4 * 1024;

/// The kernel ends a connection on which nothing is acknowledged for the idle time (TCP_USER_TIMEOUT). What is counted
/// here is only that it does: a write may wait until a third of the socket's buffer is free, megabytes, and a client that
/// is slow but not idle needs longer for them.
const BACKSTOP: u32 = 4;

/// What can go wrong with the client's data connection.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// No connection came in time.
    #[error(
        "the client opened no data connection in time (timeouts.data_connect); can it reach passive.address and passive.ports?"
    )]
    NotOpened,
    /// The port that PORT or EPRT named cannot be reached.
    #[error("the client's data port could not be reached: {0} (active.enabled; can the gateway reach its clients?)")]
    NotReached(#[source] io::Error),
    /// The listening end is gone.
    #[error("the passive port was closed (passive.ports)")]
    PortClosed,
    /// The TLS handshake did not finish in time.
    #[error("the TLS handshake of the data connection took too long (timeouts.tls_handshake)")]
    HandshakeTimedOut,
    /// The TLS handshake failed.
    #[error(
        "the TLS handshake of the data connection failed: {0} \
         (tls.min_version and tls.certificates say what clients may use)"
    )]
    Handshake(#[source] io::Error),
    /// `data_tls_resumption: require`, and the connection resumed nothing of this session.
    #[error(
        "the data connection did not resume the TLS session of the control connection: {0} \
         (policy.data_tls_resumption: prefer lets it pass)"
    )]
    NotResumed(Unlike),
    /// The control connection's client showed a certificate, and this one showed another, or none.
    #[error("the data connection did not show the client certificate of the control connection")]
    OtherCertificate,
    /// It came before PROT was changed, under the other protection.
    #[error("the data connection was opened under another protection level than PROT says now (policy.data_tls)")]
    WrongProtection,
    /// The client reset it or it broke.
    #[error("the data connection broke: {0}")]
    Broken(#[source] io::Error),
    /// TCP ended without TLS close_notify: cut by anyone on the way, perhaps.
    #[error("the data connection ended without TLS close_notify (policy.upload_eof: lax takes that for the end)")]
    NoCloseNotify,
    /// No byte moved for the configured time.
    #[error("the data connection was idle too long (timeouts.data_idle)")]
    Idle,
}

impl DataError {
    /// TCP_USER_TIMEOUT is the idle time too, counted by the kernel.
    fn of(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::TimedOut { Self::Idle } else { Self::Broken(error) }
    }
}

/// A data connection on which a transfer may run.
#[derive(Debug)]
pub struct DataConnection {
    channel: DataChannel,
    /// What waits to be sent, in order: less than [`AT_ONCE`] and a piece.
    queue: VecDeque<Bytes>,
    queued: usize,
    /// Writes in clear so far.
    clear_writes: u64,
}

#[derive(Debug)]
enum DataChannel {
    /// PROT C.
    Clear(TcpStream),
    /// PROT P.
    Private(Box<TlsStream<PromptSocket>>),
}

impl DataConnection {
    /// Answers a client's TLS handshake. The configuration is chosen when its ClientHello is there.
    ///
    /// # Errors
    /// [`DataError::Handshake`].
    pub(super) async fn secure(arrival: Arrival, choose: impl FnOnce() -> DataTls) -> Result<Self, DataError> {
        let Arrival { stream, read } = arrival;
        let hello = LazyConfigAcceptor::new(Default::default(), PromptSocket::new(stream, read));
        let hello = hello.await.map_err(DataError::Handshake)?;
        let tls = choose();
        let mut stream = hello.into_stream(Arc::clone(&tls.config)).await.map_err(DataError::Handshake)?;
        stream.get_mut().1.set_buffer_limit(Some(MOST_WRITTEN));
        tls.established(&Secured::of(stream.get_ref().1));
        Ok(Self::new(DataChannel::Private(Box::new(stream))))
    }

    /// A connection that stays in clear.
    pub(super) fn clear(stream: TcpStream) -> Self {
        Self::new(DataChannel::Clear(stream))
    }

    fn new(channel: DataChannel) -> Self {
        Self { channel, queue: VecDeque::new(), queued: 0, clear_writes: 0 }
    }

    /// What its TLS handshake was; `None` in clear.
    pub fn secured(&self) -> Option<Secured> {
        match &self.channel {
            DataChannel::Clear(_) => None,
            DataChannel::Private(stream) => Some(Secured::of(stream.get_ref().1)),
        }
    }

    /// Reads what there is into the buffer's spare room; 0 is the client's orderly end.
    ///
    /// # Errors
    /// [`DataError::NoCloseNotify`] when TCP ended before TLS did, [`DataError::Broken`] for anything else.
    pub async fn read(&mut self, buffer: &mut impl BufMut) -> Result<usize, DataError> {
        let result = match &mut self.channel {
            DataChannel::Clear(stream) => stream.read_buf(buffer).await,
            DataChannel::Private(stream) => stream.read_buf(buffer).await,
        };
        result.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => DataError::NoCloseNotify,
            _ => DataError::of(error),
        })
    }

    /// Puts bytes into the queue; [`DataConnection::send`] sends them, and the last of them [`DataConnection::finish`].
    pub(super) fn queue(&mut self, bytes: Bytes) {
        // One without bytes would stay in the queue: what is taken off it is what was written.
        if !bytes.is_empty() {
            self.queued += bytes.len();
            self.queue.push_back(bytes);
        }
    }

    /// Is there enough in the queue for one write?
    pub(super) fn has_enough(&self) -> bool {
        self.queued >= AT_ONCE
    }

    /// Sends what is in the queue, all but its last [`HELD_BACK`] bytes. `idle` limits the time without progress, not
    /// the whole.
    ///
    /// # Errors
    /// When the client is gone, or took nothing for `idle`.
    pub(super) async fn send(&mut self, idle: Duration, progress: &Progress) -> Result<(), DataError> {
        self.send_but(HELD_BACK, idle, progress).await
    }

    /// Sends all but the very last byte, so that the client sees what there is while more is waited for.
    ///
    /// # Errors
    /// As [`DataConnection::send`].
    pub(super) async fn send_early(&mut self, idle: Duration, progress: &Progress) -> Result<(), DataError> {
        self.send_but(1, idle, progress).await
    }

    /// Ends a download or a listing: all bytes out, close_notify, FIN, and then the client's FIN.
    ///
    /// Success means that the client's kernel has every byte, where ours can tell.
    ///
    /// # Errors
    /// When the client broke the connection before it had everything, or took nothing for `idle`.
    pub(super) async fn finish(mut self, idle: Duration, progress: &Progress) -> Result<(), DataError> {
        // Given up or failed anywhere from here on, it must not look complete.
        let _ = SockRef::from(self.socket()).set_linger(Some(Duration::ZERO));
        let sent = async {
            // A black-holed client: what the kernel holds for it is not waited for for ever.
            let _ = SockRef::from(self.socket()).set_tcp_user_timeout(Some(idle));
            self.send_but(HELD_BACK, idle, progress).await?;
            // What TLS holds for a socket that is full goes ahead, or it would leave together with the end.
            self.flush(idle).await?;
            let receipt = if self.queued > 0 { Receipt::ask(self.socket()).await } else { None };
            let before = self.writes();
            self.send_but(0, idle, progress).await?;
            self.flush(idle).await?;
            let receipt = receipt.filter(|_| self.writes() == before + 1);
            let shutdown = async {
                match &mut self.channel {
                    DataChannel::Clear(stream) => stream.shutdown().await,
                    // Flushes, sends close_notify, and closes the sending side.
                    DataChannel::Private(stream) => stream.shutdown().await,
                }
            };
            timeout(idle * BACKSTOP, shutdown).await.map_err(|_| DataError::Idle)?.map_err(DataError::of)?;
            Ok(receipt)
        };
        let receipt = sent.await?;
        let mut socket = self.into_socket();
        // Closing a socket that still has unread bytes (the client's close_notify) makes the kernel send RST, which
        // can overtake what we sent. So its bytes are read away, but no client may hold us up for long.
        let drained = timeout(LINGER, drain(&mut socket)).await;
        let arrived = match (receipt, drained) {
            // A reset is no failure here: a client that knows the size closes as soon as it has all of it, with our
            // close_notify unread, and its kernel then resets.
            (Some(receipt), _) if receipt.is_here(&socket) => Ok(()),
            (_, Ok(Err(error))) => Err(error),
            (Some(receipt), Ok(Ok(()))) => receipt.comes(&socket).await,
            (Some(receipt), Err(_)) => {
                let came = receipt.comes(&socket).await;
                let _ = timeout(LINGER, drain(&mut socket)).await;
                came
            }
            // There was nothing to send, or this kernel gives no receipts.
            (None, Ok(Ok(())) | Err(_)) => Ok(()),
        };
        arrived.map_err(DataError::of)?;
        let _ = SockRef::from(&socket).set_linger(None);
        Ok(())
    }

    /// Waits until the kernel has what TLS holds. `idle` limits the time without progress, not the whole.
    async fn flush(&mut self, idle: Duration) -> Result<(), DataError> {
        loop {
            let before = self.writes();
            let flush = async {
                match &mut self.channel {
                    DataChannel::Clear(stream) => stream.flush().await,
                    DataChannel::Private(stream) => stream.flush().await,
                }
            };
            match timeout(idle * BACKSTOP, flush).await {
                Ok(flushed) => return flushed.map_err(DataError::of),
                Err(_) if self.writes() > before => {}
                Err(_) => return Err(DataError::Idle),
            }
        }
    }

    /// Ends an upload whose end the client has announced: answers close_notify and closes.
    pub async fn acknowledge_end(mut self) {
        // The bytes are ours already; a client that has gone away meanwhile changes nothing.
        let closing = async {
            match &mut self.channel {
                DataChannel::Clear(stream) => stream.shutdown().await,
                DataChannel::Private(stream) => stream.shutdown().await,
            }
        };
        let _ = timeout(LINGER, closing).await;
    }

    /// Ends a transfer that failed, so that the client cannot take it for complete: RST, and no close_notify.
    pub fn reset(self) {
        let _ = SockRef::from(self.socket()).set_linger(Some(Duration::ZERO));
    }

    fn socket(&self) -> &TcpStream {
        match &self.channel {
            DataChannel::Clear(stream) => stream,
            DataChannel::Private(stream) => stream.get_ref().0.get_ref(),
        }
    }

    fn into_socket(self) -> TcpStream {
        match self.channel {
            DataChannel::Clear(stream) => stream,
            DataChannel::Private(stream) => stream.into_inner().0.into_inner(),
        }
    }

    /// How often the kernel was given something to send.
    fn writes(&self) -> u64 {
        match &self.channel {
            DataChannel::Clear(_) => self.clear_writes,
            DataChannel::Private(stream) => stream.get_ref().0.writes(),
        }
    }

    /// Sends all of the queue but its last `kept` bytes, in writes as large as TLS buffers take.
    async fn send_but(&mut self, kept: usize, idle: Duration, progress: &Progress) -> Result<(), DataError> {
        while self.queued > kept {
            let mut left = self.queued - kept;
            let mut slices = [IoSlice::new(&[]); SLICES];
            for (slice, piece) in slices.iter_mut().zip(&self.queue) {
                let part = piece.get(..left).unwrap_or(piece);
                left -= part.len();
                *slice = IoSlice::new(part);
            }
            let write = async {
                match &mut self.channel {
                    DataChannel::Clear(stream) => stream.write_vectored(&slices).await,
                    DataChannel::Private(stream) => stream.write_vectored(&slices).await,
                }
            };
            let mut written = match timeout(idle * BACKSTOP, write).await {
                Ok(Ok(0)) => return Err(DataError::Broken(io::ErrorKind::WriteZero.into())),
                Ok(Ok(written)) => written,
                Ok(Err(error)) => return Err(DataError::of(error)),
                Err(_) => return Err(DataError::Idle),
            };
            progress.add(written);
            self.clear_writes += 1;
            self.queued -= written;
            while let Some(piece) = self.queue.front_mut() {
                let taken = written.min(piece.len());
                piece.advance(taken);
                written -= taken;
                if piece.has_remaining() {
                    break;
                }
                self.queue.pop_front();
            }
        }
        Ok(())
    }
}

/// Reads until the client's FIN.
async fn drain(socket: &mut TcpStream) -> io::Result<()> {
    let mut discarded = [0_u8; 256];
    while socket.read(&mut discarded).await? > 0 {}
    Ok(())
}
