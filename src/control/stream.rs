//! The control connection's bytes: in clear, or under TLS; and the ways between the two.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;

use crate::tls::Secured;
use crate::tls::refused::{PROTOCOL_VERSION_ALERT, Refused};

use super::records::Records;

/// A control connection.
#[derive(Debug)]
pub enum ControlStream<S> {
    /// In clear.
    Clear(S),
    /// Under TLS.
    Tls(Box<TlsStream<Records<S>>>),
    /// In clear again, after CCC.
    Cleared(Records<S>),
    /// A handshake failed; nothing can be read or written any more.
    Broken,
}

/// Why a connection is not under TLS.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct HandshakeFailed {
    /// What went wrong.
    pub error: io::Error,
    /// Where it was what the client can do: what that is.
    pub refused: Option<Box<Refused>>,
}

impl From<io::Error> for HandshakeFailed {
    fn from(error: io::Error) -> Self {
        Self { error, refused: None }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ControlStream<S> {
    /// Puts a connection under TLS.
    ///
    /// SECURITY: takes the stream and nothing else: no byte read in clear can get past this point (RFC 4217 §4, the
    /// STARTTLS injection class of CVE-2011-1575). The caller ends the session when any byte is waiting.
    ///
    /// # Errors
    /// When the handshake fails, does not finish in time, or TLS is there already.
    pub async fn upgrade(&mut self, config: Arc<ServerConfig>, patience: Duration) -> Result<Secured, HandshakeFailed> {
        let Self::Clear(stream) = std::mem::replace(self, Self::Broken) else {
            return Err(
                io::Error::new(io::ErrorKind::InvalidInput, "the control connection is under TLS already").into()
            );
        };
        let mut stream = timeout(patience, handshake(config, stream))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long"))??;
        drop(stream.get_mut().0.take_flight());
        let secured = Secured::of(stream.get_ref().1);
        *self = Self::Tls(Box::new(stream));
        Ok(secured)
    }

    /// Takes TLS off (CCC, RFC 4217 §12.3): says close_notify, and takes what comes behind the client's own as sent in
    /// clear. Some clients say none.
    ///
    /// # Errors
    /// When the goodbye cannot be sent in time, or there is no TLS.
    pub async fn clear(&mut self, patience: Duration) -> io::Result<()> {
        let Self::Tls(mut stream) = std::mem::replace(self, Self::Broken) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the control connection is in clear"));
        };
        stream.get_mut().1.send_close_notify();
        timeout(patience, stream.flush())
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the end of TLS could not be sent"))??;
        let (mut records, _) = stream.into_inner();
        records.end_tls();
        *self = Self::Cleared(records);
        Ok(())
    }
}

async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ServerConfig>,
    stream: S,
) -> Result<TlsStream<Records<S>>, HandshakeFailed> {
    let mut records = Records::new(stream);
    // rustls tells a client of TLS 1.0 that something is missing from its hello, and not that it is too old.
    if let Some(refused) = records.first_flight().await?.too_old() {
        records.write_all(&PROTOCOL_VERSION_ALERT).await?;
        records.flush().await?;
        return Err(HandshakeFailed {
            error: io::Error::new(io::ErrorKind::InvalidData, "the client's TLS is too old"),
            refused: Some(Box::new(refused)),
        });
    }
    TlsAcceptor::from(config).accept(records).into_fallible().await.map_err(|(error, mut records)| {
        let refused = Refused::of(&error, &records.take_flight()).map(Box::new);
        HandshakeFailed { error, refused }
    })
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ControlStream<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => {
                let mut stream = Pin::new(stream);
                let read = stream.as_mut().poll_read(context, buffer);
                // What reading makes TLS answer (no_renegotiation, RFC 5246 §7.2.2) has to leave although nobody writes:
                // the client waits for it.
                if read.is_pending()
                    && stream.get_ref().1.wants_write()
                    && let Poll::Ready(Err(error)) = stream.poll_flush(context)
                {
                    return Poll::Ready(Err(error));
                }
                read
            }
            Self::Cleared(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Broken => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ControlStream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Cleared(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Broken => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
            Self::Cleared(stream) => Pin::new(stream).poll_flush(context),
            Self::Broken => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Cleared(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Broken => Poll::Ready(Ok(())),
        }
    }
}
