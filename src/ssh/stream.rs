//! The TCP connection under an SSH session: opened under a deadline, and cut the moment its owner lets go.

use std::io::{self, IoSliceMut, Read};
use std::net::SocketAddr;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{ConnectError, Phase};
use crate::config::HostPort;

/// Addresses of one name that are tried. A name with more is a list of the same machines over again.
const MAX_ADDRESSES: usize = 16;

/// Data that stays unacknowledged this long ends the connection (RFC 5482): SSH keepalives cannot notice while a
/// write is blocked.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(60);

/// TCP keepalive notices a dead peer where SSH keepalives are turned off: after 60 s idle, every 15 s, 4 times.
const TCP_KEEPALIVE_TIME: Duration = Duration::from_secs(60);
const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const TCP_KEEPALIVE_RETRIES: u32 = 4;

/// RFC 4253 §4.2: "The maximum length of the string is 255 characters, including the Carriage Return and Line Feed".
const MAX_IDENTIFICATION: usize = 255;

/// Connects to the addresses of a name, in the resolver's order, until `deadline`.
///
/// Each address gets an equal share of the time left, so that a silent first one does not use it up.
pub(super) async fn connect(to: &HostPort, deadline: Instant) -> Result<TcpStream, ConnectError> {
    let resolve_error = |source| ConnectError::Resolve { host: to.host.clone(), source: Arc::new(source) };
    let addresses: Vec<SocketAddr> = timeout_at(deadline, lookup_host((to.host.as_str(), to.port)))
        .await
        .map_err(|_| ConnectError::TimedOut { phase: Phase::Tcp })?
        .map_err(resolve_error)?
        .take(MAX_ADDRESSES)
        .collect();
    let mut failure = None;
    let mut left = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    for address in addresses {
        let share = deadline.saturating_duration_since(Instant::now()) / left.max(1);
        left = left.saturating_sub(1);
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                if let Err(error) = tune(&stream) {
                    tracing::debug!(%address, %error, "socket options not set");
                }
                return Ok(stream);
            }
            Ok(Err(error)) => failure = Some(ConnectError::Unreachable { address, source: Arc::new(error) }),
            Err(_) => failure = Some(ConnectError::TimedOut { phase: Phase::Tcp }),
        }
    }
    Err(failure.unwrap_or_else(|| resolve_error(io::Error::new(io::ErrorKind::NotFound, "the name has no address"))))
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(TCP_KEEPALIVE_TIME)
        .with_interval(TCP_KEEPALIVE_INTERVAL)
        .with_retries(TCP_KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
    Ok(())
}

/// Read beyond what was asked for. The SSH library asks for a packet's length and then for its rest, two reads for each
/// packet; with this the second brings the next length along. More would save reads where packets are small, and be
/// copied where they are not.
const AHEAD: usize = 4 * 1024;

/// How much of a connection is acknowledged at once: identification, key exchange, login and the start of SFTP, which
/// are some 4 KiB. OpenSSH's server turns Nagle's algorithm off only with the subsystem, and sends small packets in a row
/// until then: each second one waits for the acknowledgement of the first, which Linux delays by 40 ms. File data has
/// no use for it.
const PROMPT_BYTES: usize = 16 * 1024;

/// A socket that reads ahead, and acknowledges the beginning of a connection at once. An idle one holds no memory for
/// that.
pub(super) struct ReadAhead {
    stream: TcpStream,
    /// Bytes that are still acknowledged at once.
    prompt: usize,
    /// Room for what is read ahead; none while nothing comes.
    ahead: Vec<u8>,
    /// The part of it that was not handed on yet.
    unread: Range<usize>,
}

impl ReadAhead {
    /// For a socket from which nothing was read yet.
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, prompt: PROMPT_BYTES, ahead: Vec::new(), unread: 0..0 }
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.unread.is_empty() {
            if this.stream.poll_read_ready(context)?.is_pending() {
                this.ahead = Vec::new();
                return Poll::Pending;
            }
            if this.ahead.is_empty() {
                this.ahead = vec![0; AHEAD];
            }
            let asked = buffer.initialize_unfilled();
            let room = asked.len();
            let socket = SockRef::from(&this.stream);
            let slices = &mut [IoSliceMut::new(asked), IoSliceMut::new(&mut this.ahead)];
            let mut count = None;
            // A read that did not fill its room has emptied the socket: reported as if it blocked, so that the next
            // one waits for the socket instead of asking it in vain.
            let read = this.stream.try_io(Interest::READABLE, || {
                let read = (&*socket).read_vectored(slices)?;
                count = Some(read);
                if (1..room + AHEAD).contains(&read) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match (count, read) {
                (Some(count), _) => {
                    if this.prompt > 0 {
                        this.prompt = this.prompt.saturating_sub(count);
                        // The option holds for this moment only (tcp(7)); without it things are slow, and that is all.
                        let _ = SockRef::from(&this.stream).set_tcp_quickack(true);
                    }
                    this.unread = 0..count.saturating_sub(room);
                    buffer.advance(count.min(room));
                    return Poll::Ready(Ok(()));
                }
                (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                (None, _) => {}
            }
        }
        let unread = this.ahead.get(this.unread.clone()).unwrap_or_default();
        let handed_on = unread.get(..buffer.remaining()).unwrap_or(unread);
        buffer.put_slice(handed_on);
        this.unread.start += handed_on.len();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// A stream that ends when a token is cancelled.
///
/// The SSH library runs a session in a task of its own, which nobody outside can end: it would hold the socket as
/// long as a silent server likes. This gives the owner a pair of scissors.
pub(super) struct Severable<S> {
    stream: S,
    severed: Pin<Box<WaitForCancellationFutureOwned>>,
    identification: Option<Identification>,
}

impl<S> Severable<S> {
    /// `version` is filled with the server's identification string (RFC 4253 §4.2), which the SSH library keeps
    /// to itself.
    pub(super) fn new(stream: S, token: CancellationToken, version: Arc<OnceLock<String>>) -> Self {
        let identification = Some(Identification { line: Vec::new(), version });
        Self { stream, severed: Box::pin(token.cancelled_owned()), identification }
    }

    fn poll_severed(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        ready!(self.severed.as_mut().poll(context));
        Poll::Ready(io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was given up"))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Severable<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_severed(context) {
            return Poll::Ready(Err(error));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if let Some(identification) = &mut self.identification
            && identification.observe(buffer.filled().get(before..).unwrap_or_default())
        {
            self.identification = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Severable<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Poll::Ready(error) = self.poll_severed(context) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_severed(context) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.poll_severed(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Looks for the identification string in the first bytes of a server.
struct Identification {
    line: Vec<u8>,
    version: Arc<OnceLock<String>>,
}

impl Identification {
    /// `true` when it has seen enough.
    ///
    /// RFC 4253 §4.2: "The server MAY send other lines of data before sending the version string".
    fn observe(&mut self, bytes: &[u8]) -> bool {
        for &byte in bytes {
            if byte == b'\n' {
                if self.line.starts_with(b"SSH-") {
                    let _ = self.version.set(self.line.trim_ascii_end().escape_ascii().to_string());
                    return true;
                }
                self.line.clear();
            } else if self.line.len() < MAX_IDENTIFICATION {
                self.line.push(byte);
            } else {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn ends_reads_and_writes_that_wait_when_cut() {
        let token = CancellationToken::new();
        let (near, mut far) = tokio::io::duplex(1);
        let severable = Severable::new(near, token.clone(), Arc::default());
        let (mut read, mut write) = tokio::io::split(severable);
        let session = tokio::spawn(async move {
            let written = tokio::join!(read.read_u8(), write.write_all(b"more than fits"));
            (written.0.unwrap_err().kind(), written.1.unwrap_err().kind())
        });
        assert_eq!(far.read_u8().await.unwrap(), b'm');
        token.cancel();
        let aborted = io::ErrorKind::ConnectionAborted;
        assert_eq!(session.await.unwrap(), (aborted, aborted));
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
        assert!(rest.len() <= 1, "more than the byte in flight: {rest:?}");
    }

    #[tokio::test]
    async fn what_is_read_ahead_comes_in_order_whatever_is_asked_for_and_nothing_is_held_when_idle() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        let sent: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut stream = ReadAhead::new(near);
        let reading = async {
            let mut received = Vec::new();
            for size in [4, 33_000, 1, AHEAD, AHEAD + 1, 4].into_iter().cycle() {
                let mut part = vec![0; size.min(sent.len() - received.len())];
                if part.is_empty() {
                    break;
                }
                stream.read_exact(&mut part).await.unwrap();
                received.extend(part);
            }
            received
        };
        let (written, received) = tokio::join!(far.write_all(&sent), reading);
        written.unwrap();
        assert!(received == sent);
        assert!(stream.read(&mut [0; 10]).now_or_never().is_none());
        assert_eq!(stream.ahead.capacity(), 0);
        drop(far);
        assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0);
    }

    fn observed(chunks: &[&[u8]]) -> Option<String> {
        let version = Arc::new(OnceLock::new());
        let mut identification = Identification { line: Vec::new(), version: version.clone() };
        for chunk in chunks {
            if identification.observe(chunk) {
                break;
            }
        }
        version.get().cloned()
    }

    #[test]
    fn finds_the_identification_after_other_lines() {
        let server = b"Welcome\r\nto us\nSSH-2.0-OpenSSH_9.2p1 Debian\r\n\0\0\x01rest";
        assert_eq!(observed(&[server]).as_deref(), Some("SSH-2.0-OpenSSH_9.2p1 Debian"));
        assert_eq!(observed(&[&[b'x'; 1000]]), None);
        assert_eq!(observed(&[b"SSH-2.0-\x1b[2J\n"]).as_deref(), Some("SSH-2.0-\\x1b[2J"));
    }

    proptest! {
        #[test]
        fn finds_the_identification_however_it_is_cut(at in 0_usize..20, banner in "[a-z ]{0,10}") {
            let server = format!("{banner}\nSSH-2.0-x\r\nrest").into_bytes();
            let (first, second) = server.split_at(at.min(server.len()));
            prop_assert_eq!(observed(&[first, second]), Some("SSH-2.0-x".to_owned()));
        }
    }
}
