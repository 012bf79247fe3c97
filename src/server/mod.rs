//! Accept loops: one per listener, a task per control connection, and the bound on how many there may be.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, info, info_span, warn};

use crate::config::{self, TlsMode};
use crate::control::Control;
use crate::ftp::reply::Reply;
use crate::proxy_protocol::{Ends, Gate, Refusal};
use crate::session::services::Services;
use crate::session::{Front, Session};
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::{self, ConnectionResult};

/// Connections the kernel completes before we take them.
const BACKLOG: i32 = 1024;

/// After accept failed for want of descriptors or memory: time for some to come free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A client that is gone without a word (F-11) is found after 60 + 4 × 15 seconds.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// How long bytes may stay unacknowledged by the client's kernel.
const USER_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a refused client may take to read why.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(2);

/// Numbers of sessions, for the logs.
static SESSIONS: AtomicU64 = AtomicU64::new(1);

/// Binds a listening socket.
///
/// # Errors
/// When the address is taken or not ours.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` serves IPv4 clients too, whatever the system's default is.
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts control connections until told to stop; sessions run on in `tasks`.
pub async fn accept(
    listener: TcpListener,
    configured: Arc<config::Listener>,
    gate: Gate,
    services: Arc<Services>,
    shutdown: Shutdown,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let mut is_failing = false;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                is_failing = false;
                let (listener, gate) = (Arc::clone(&configured), gate.clone());
                let (services, shutdown) = (Arc::clone(&services), shutdown.clone());
                tasks.spawn(async move {
                    let Some((stream, ends)) = let_in(stream, peer, &listener, &gate, &shutdown).await else { return };
                    serve(stream, ends, listener, services, shutdown).await;
                });
            }
            // Whoever connects meanwhile waits in the kernel's queue.
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    warn!(exception.message = %error, "accept failed, trying again until it works");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whose connection it is, where a proxy says so; `None` where it is not to be served.
async fn let_in(
    mut stream: TcpStream,
    peer: SocketAddr,
    listener: &config::Listener,
    gate: &Gate,
    shutdown: &Shutdown,
) -> Option<(TcpStream, Ends)> {
    let ends = tokio::select! {
        biased;
        ends = gate.ends(&mut stream, peer) => ends,
        () = shutdown.drain.cancelled() => {
            metrics::connection(&listener.name, ConnectionResult::Draining);
            return None;
        }
    };
    match ends {
        Ok(ends) => Some((stream, ends)),
        Err(refusal) => {
            metrics::connection(&listener.name, ConnectionResult::ProxyHeader);
            match refusal {
                // Load balancers that look whether the port is open: often, and no news.
                Refusal::Gone(_) => debug!(client.address = %peer.ip(), listener = %listener.name, "{refusal}"),
                _ => info!(client.address = %peer.ip(), listener = %listener.name, "connection refused: {refusal}"),
            }
            None
        }
    }
}

async fn serve(
    stream: TcpStream,
    ends: Ends,
    listener: Arc<config::Listener>,
    services: Arc<Services>,
    shutdown: Shutdown,
) {
    let peer = ends.client;
    let Ok(local) = stream.local_addr().map(|address| address.ip().to_canonical()) else { return };
    let Ok(slot) = services.slots.connect(peer.ip()) else {
        metrics::connection(&listener.name, ConnectionResult::Limit);
        debug!(client.address = %peer.ip(), "session limit reached");
        refuse(stream, listener.tls, "Too many sessions, try again later").await;
        return;
    };
    metrics::connection(&listener.name, ConnectionResult::Accepted);
    if let Err(error) = tune(&stream) {
        debug!(exception.message = %error, "socket options");
    }
    let tls = match services.tls.get().for_session() {
        Ok(tls) => tls,
        Err(error) => {
            warn!(exception.message = %error, "no TLS for a session");
            return refuse(stream, listener.tls, "Not now, try again later").await;
        }
    };
    let id = SESSIONS.fetch_add(1, Ordering::Relaxed);
    let span = info_span!(
        "session",
        session.id = id,
        client.address = %peer.ip(),
        client.port = peer.port(),
        listener = %listener.name,
        tls.protocol.version = tracing::field::Empty,
        user.name = tracing::field::Empty,
        backend.name = tracing::field::Empty
    );
    debug!(parent: &span, event.name = "ftps2sftp.session.start", "session began");
    let front = Front::new(id, ends, local, listener, tls);
    let control = Control::new(stream, Session::new(front), slot, &services, shutdown, span.clone());
    control.run().instrument(span).await;
}

async fn refuse(mut stream: TcpStream, mode: TlsMode, text: &str) {
    // Under implicit TLS there is no way to say it that is worth a handshake.
    if mode == TlsMode::Explicit {
        let _ = timeout(REFUSAL_PATIENCE, stream.write_all(&Reply::new(421, text).to_bytes())).await;
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    // Perl's Net::FTP sends ABOR with an urgent byte (RFC 959 §4.1.3): it stays in the stream, in its place.
    socket.set_out_of_band_inline(true)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES),
    )
}
