//! An open data connection: bytes in, bytes out, and the three ways it may end (RFC 959 §3.2, RFC 4217 §10).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BufMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::tls::{DataTls, Secured};

use super::prompt_socket::PromptSocket;

/// How long a client may take to close its side after ours was closed. Its last bytes are not wanted any more; what is
/// waited for is that ours arrive before the socket goes.
const LINGER: Duration = Duration::from_secs(2);

/// What can go wrong with the client's data connection.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// No connection came in time.
    #[error("the client opened no data connection in time")]
    NotOpened,
    /// The listening end is gone.
    #[error("the passive port was closed")]
    PortClosed,
    /// The TLS handshake did not finish in time.
    #[error("the TLS handshake of the data connection took too long")]
    HandshakeTimedOut,
    /// The TLS handshake failed.
    #[error("the TLS handshake of the data connection failed: {0}")]
    Handshake(#[source] io::Error),
    /// `data_tls_resumption: require`, and the connection resumed nothing of this session.
    #[error("the data connection did not resume the TLS session of the control connection")]
    NotResumed,
    /// It came before PROT was changed, under the other protection.
    #[error("the data connection was opened under another protection level")]
    WrongProtection,
    /// The client reset it or it broke.
    #[error("the data connection broke: {0}")]
    Broken(#[source] io::Error),
    /// TCP ended without TLS close_notify: cut by anyone on the way, perhaps.
    #[error("the data connection ended without TLS close_notify")]
    NoCloseNotify,
    /// No byte moved for the configured time.
    #[error("the data connection was idle too long")]
    Idle,
}

/// A data connection on which a transfer may run.
#[derive(Debug)]
pub enum DataConnection {
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
    pub(super) async fn secure(stream: TcpStream, choose: impl FnOnce() -> DataTls) -> Result<Self, DataError> {
        let hello = LazyConfigAcceptor::new(Default::default(), PromptSocket::new(stream));
        let hello = hello.await.map_err(DataError::Handshake)?;
        let tls = choose();
        let stream = hello.into_stream(Arc::clone(&tls.config)).await.map_err(DataError::Handshake)?;
        tls.established(&Secured::of(stream.get_ref().1));
        Ok(Self::Private(Box::new(stream)))
    }

    /// What its TLS handshake was; `None` in clear.
    pub fn secured(&self) -> Option<Secured> {
        match self {
            Self::Clear(_) => None,
            Self::Private(stream) => Some(Secured::of(stream.get_ref().1)),
        }
    }

    /// Reads what there is into the buffer's spare room; 0 is the client's orderly end.
    ///
    /// # Errors
    /// [`DataError::NoCloseNotify`] when TCP ended before TLS did, [`DataError::Broken`] for anything else.
    pub async fn read(&mut self, buffer: &mut impl BufMut) -> Result<usize, DataError> {
        let result = match self {
            Self::Clear(stream) => stream.read_buf(buffer).await,
            Self::Private(stream) => stream.read_buf(buffer).await,
        };
        result.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => DataError::NoCloseNotify,
            _ => DataError::Broken(error),
        })
    }

    /// Writes some of the bytes into the connection, at least one; they may wait in TLS and kernel buffers.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<usize, DataError> {
        let written = match self {
            Self::Clear(stream) => stream.write(bytes).await,
            Self::Private(stream) => stream.write(bytes).await,
        };
        match written {
            Ok(0) if !bytes.is_empty() => Err(DataError::Broken(io::ErrorKind::WriteZero.into())),
            Ok(count) => Ok(count),
            Err(error) => Err(DataError::Broken(error)),
        }
    }

    /// Ends a download or a listing: all bytes out, close_notify, FIN, and then the client's FIN.
    ///
    /// # Errors
    /// When the client broke the connection before everything was handed over, or took nothing for `idle`.
    pub async fn finish(mut self, idle: Duration) -> Result<(), DataError> {
        let flushed = timeout(idle, async {
            match &mut self {
                Self::Clear(stream) => stream.shutdown().await,
                // Flushes, sends close_notify, and closes the sending side.
                Self::Private(stream) => stream.shutdown().await,
            }
        });
        match flushed.await {
            Ok(flushed) => flushed.map_err(DataError::Broken)?,
            Err(_) => {
                self.reset();
                return Err(DataError::Idle);
            }
        }
        let mut socket = match self {
            Self::Clear(stream) => stream,
            Self::Private(stream) => stream.into_inner().0.into_inner(),
        };
        // Closing a socket that still has unread bytes (the client's close_notify) makes the kernel send RST, which
        // can overtake what we sent. So its bytes are read away, but no client may hold us up for long.
        let drain = async {
            let mut discarded = [0_u8; 256];
            // A reset is no failure here: a client that knows the size closes as soon as it has all of it, with our
            // close_notify unread, and its kernel then resets.
            while matches!(socket.read(&mut discarded).await, Ok(1..)) {}
        };
        let _ = timeout(LINGER, drain).await;
        Ok(())
    }

    /// Ends an upload whose end the client has announced: answers close_notify and closes.
    pub async fn acknowledge_end(mut self) {
        // The bytes are ours already; a client that has gone away meanwhile changes nothing.
        let closing = async {
            match &mut self {
                Self::Clear(stream) => stream.shutdown().await,
                Self::Private(stream) => stream.shutdown().await,
            }
        };
        let _ = timeout(LINGER, closing).await;
    }

    /// Ends a transfer that failed, so that the client cannot take it for complete: RST, and no close_notify.
    pub fn reset(self) {
        let socket = match self {
            Self::Clear(stream) => stream,
            Self::Private(stream) => stream.into_inner().0.into_inner(),
        };
        let _ = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
    }
}
