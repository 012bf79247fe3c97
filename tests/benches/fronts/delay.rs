//! A TCP proxy that makes a link longer: every byte arrives a constant time after it came, in both directions, at any
//! rate. The end of a direction (FIN) and the end of a connection (RST) are delayed and passed on like bytes.
//!
//! Also a module of the tests in tests/it/delay.rs, which run it on a paused clock.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// Bytes on their way in one direction of one connection. At 20 ms one way this carries 3.2 GB/s, which is no limit.
const UNDER_WAY: usize = 64 * 1024 * 1024;

/// Pieces on their way; they may be as small as one byte each.
const PIECES: usize = 16 * 1024;

/// Read at a time.
const PIECE: usize = 64 * 1024;

/// A running proxy. Dropping it ends it and its connections.
pub(crate) struct DelayProxy {
    address: SocketAddr,
    accepting: AbortHandle,
}

/// How one direction came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The sender said that nothing more comes, and the receiver was told.
    Finished,
    /// One of the two is gone.
    Broken,
}

impl DelayProxy {
    /// Listens on `address` and connects to `target`; each direction takes `one_way` longer.
    pub(crate) async fn start(address: SocketAddr, target: SocketAddr, one_way: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let accepting = tokio::spawn(async move {
            // Dropped with this task, and its connections with it.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(async move {
                    // Where the target does not listen, the client is told by the end of its connection.
                    if let Ok(server) = TcpStream::connect(target).await {
                        let _ = relay(client, server, one_way).await;
                    }
                });
            }
        });
        Ok(Self { address, accepting: accepting.abort_handle() })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for DelayProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Both directions, until both have ended or one is broken.
async fn relay(client: TcpStream, server: TcpStream, one_way: Duration) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut client_reads, mut client_writes) = client.into_split();
    let (mut server_reads, mut server_writes) = server.into_split();
    let up = carry(&mut client_reads, &mut server_writes, one_way);
    let down = carry(&mut server_reads, &mut client_writes, one_way);
    // The direction that breaks does so after its delay; what the other one still carries is lost, as it is on a wire.
    if both(up, down).await == Ending::Broken {
        for writes in [client_writes, server_writes] {
            // Closing then sends RST, unless the half that writes is dropped first, which sends FIN.
            SockRef::from(writes.as_ref()).set_linger(Some(Duration::ZERO))?;
            writes.forget();
        }
    }
    Ok(())
}

/// Ends with the first direction that breaks, or when both are finished.
async fn both(up: impl Future<Output = Ending>, down: impl Future<Output = Ending>) -> Ending {
    tokio::pin!(up, down);
    let (first, other_is_down) = tokio::select! {
        ending = &mut up => (ending, true),
        ending = &mut down => (ending, false),
    };
    match (first, other_is_down) {
        (Ending::Broken, _) => Ending::Broken,
        (Ending::Finished, true) => down.await,
        (Ending::Finished, false) => up.await,
    }
}

/// A piece of the stream, or how it ended, and when that is due at the other side.
struct Piece {
    due: Instant,
    what: Result<Bytes, Ending>,
    _room: Option<OwnedSemaphorePermit>,
}

/// One direction: from `reader` to `writer`, everything `delay` later.
pub(crate) async fn carry(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    delay: Duration,
) -> Ending {
    let (sender, receiver) = mpsc::channel(PIECES);
    let take = async move {
        take_in(reader, sender, delay).await;
        // What was taken in decides how it ends, when it is due.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ending = give_out(writer, receiver) => ending,
        () = take => Ending::Broken,
    }
}

async fn take_in(reader: &mut (impl AsyncRead + Unpin), sender: mpsc::Sender<Piece>, delay: Duration) {
    let room = Arc::new(Semaphore::new(UNDER_WAY));
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE);
        let what = match reader.read_buf(&mut buffer).await {
            Ok(0) => Err(Ending::Finished),
            Ok(_) => Ok(buffer.split().freeze()),
            Err(_) => Err(Ending::Broken),
        };
        let due = Instant::now() + delay;
        let held = match &what {
            // Never closed; and no piece is larger than the whole room.
            Ok(bytes) => {
                let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                Arc::clone(&room).acquire_many_owned(size).await.ok()
            }
            Err(_) => None,
        };
        let ended = what.is_err();
        if sender.send(Piece { due, what, _room: held }).await.is_err() || ended {
            return;
        }
    }
}

async fn give_out(writer: &mut (impl AsyncWrite + Unpin), mut receiver: mpsc::Receiver<Piece>) -> Ending {
    while let Some(piece) = receiver.recv().await {
        if piece.due > Instant::now() {
            sleep_until(piece.due).await;
        }
        match piece.what {
            Ok(bytes) => {
                if writer.write_all(&bytes).await.is_err() {
                    return Ending::Broken;
                }
            }
            Err(Ending::Finished) => {
                let told = writer.shutdown().await;
                return if told.is_ok() { Ending::Finished } else { Ending::Broken };
            }
            Err(Ending::Broken) => return Ending::Broken,
        }
    }
    Ending::Broken
}
