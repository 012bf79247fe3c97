//! From the addresses of a backend to a logged-in connection, and from there to SFTP sessions.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use russh::client::{self, GexParams, Handle, Msg};
use russh::keys::ssh_key::Signature;
use russh::{AlgorithmKind, ChannelOpenFailure, ChannelStream, Disconnect, SshId};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::algorithms;
use super::authenticate::{Credentials, Login};
use super::channel::{ChannelSink, ChannelSource, Subsystem};
use super::circuit::Circuit;
use super::client::{Client, ClientError, Facts, printable};
use super::host_key::{HostKeyError, HostKeyPolicy, HostKeyVerdict, fingerprint_text};
use super::known_hosts::KeyType;
use super::stream::{self, ReadAhead, Severable};
use super::{ConnectError, Phase};
use crate::config::algorithms::Algorithms;
use crate::config::{Backend, HostPort};
use crate::sftp::{self, SftpError};
use crate::telemetry::metrics::{self, BackendConnectResult, ConnectPhase};

/// Bytes in flight per transfer where nobody says otherwise; `limits.transfer_window` has the same default.
const DEFAULT_TRANSFER_WINDOW: usize = 8 * 1024 * 1024;

/// Smallest channel window: what OpenSSH gives. Listings and file attributes need no more.
const MIN_WINDOW: u32 = 2 * 1024 * 1024;

/// RFC 4253 §6.1 asks for 32768 bytes of payload; servers send no larger pieces.
const MAX_PACKET: u32 = 32 * 1024;

/// Keepalives without an answer before a connection counts as lost.
const KEEPALIVES: usize = 3;

/// Logins under way at a time on one backend. OpenSSH begins to turn connections away at random when ten have not
/// logged in yet (MaxStartups 10:30:100), and a key exchange that shares the processor with hundreds misses its limit.
const LOGINS_AT_A_TIME: usize = 8;

/// How long a login waits for its turn: some 500 logins on two cores take 40 seconds, and most clients wait longer.
const TURN_LIMIT: Duration = Duration::from_secs(120);

/// How long a farewell may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Sizes of the group that a server may choose (RFC 4419 §3, RFC 8270).
const MIN_GROUP_BITS: usize = 2048;
const PREFERRED_GROUP_BITS: usize = 3072;
const MAX_GROUP_BITS: usize = 8192;

/// What RFC 4253 §4.2 calls the comments field stays empty: backends learn no more than they need.
const IDENTIFICATION: &str = concat!("SSH-2.0-ftps2sftp_", env!("CARGO_PKG_VERSION"));

/// A backend and what proves it: made once, used for every connection to it.
#[derive(Debug)]
pub struct Target {
    backend: Arc<Backend>,
    host_keys: Arc<HostKeyPolicy>,
    endpoints: Vec<Endpoint>,
    circuit: Circuit,
    jump: Option<Jump>,
    /// Logins under way; see [`LOGINS_AT_A_TIME`].
    logins: Semaphore,
}

/// The host that a backend is reached through.
#[derive(Debug)]
struct Jump {
    target: Arc<Target>,
    credentials: Credentials,
}

/// One address of a backend, and what to offer it.
#[derive(Debug)]
struct Endpoint {
    server: HostPort,
    window: u32,
    certificates: bool,
    /// Shared by all connections. Replaced when a pin turns out to fit a key of another type.
    offer: Mutex<Offer>,
}

#[derive(Debug, Clone)]
struct Offer {
    key_types: Vec<KeyType>,
    config: Arc<client::Config>,
    /// The server has no strict key exchange: it is not offered what Terrapin breaks.
    without_terrapin: bool,
}

/// One SSH connection, logged in. Dropping it closes the socket, and ends the SFTP sessions on it.
pub struct Connection {
    /// Name of the backend in the configuration.
    backend: String,
    handle: Handle<Client>,
    server: HostPort,
    facts: Arc<Facts>,
    server_version: Arc<OnceLock<String>>,
    sftp_limit: Duration,
    request_timeout: Duration,
    algorithms: Algorithms,
    cut_on_drop: DropGuard,
    /// The connection that this one runs through.
    via: Option<Box<Connection>>,
}

impl Target {
    /// A backend whose host keys are judged by `host_keys`.
    pub fn new(backend: Arc<Backend>, host_keys: HostKeyPolicy) -> Self {
        Self::with_transfer_window(backend, host_keys, DEFAULT_TRANSFER_WINDOW)
    }

    /// The same for transfers with this many bytes in flight.
    ///
    /// The window of a channel is twice that: russh opens it again only when half of it is used up, so half is what
    /// a fast download can count on.
    pub fn with_transfer_window(backend: Arc<Backend>, host_keys: HostKeyPolicy, transfer_window: usize) -> Self {
        let window = u32::try_from(transfer_window.saturating_mul(2)).unwrap_or(u32::MAX).max(MIN_WINDOW);
        let wanted = algorithms::key_types(&backend.algorithms);
        let endpoint = |server: &HostPort| {
            let key_types = host_keys.key_types(&server.host, server.port, &wanted);
            let certificates = host_keys.has_authority(&server.host, server.port);
            let config = client_config(&backend, &backend.algorithms, window, &key_types, certificates);
            let offer = Mutex::new(Offer { key_types, config, without_terrapin: false });
            Endpoint { server: server.clone(), window, certificates, offer }
        };
        let endpoints: Vec<_> = backend.addresses.iter().map(endpoint).collect();
        let circuit = Circuit::new(backend.name.clone(), endpoints.len());
        let logins = Semaphore::new(LOGINS_AT_A_TIME);
        Self { host_keys: Arc::new(host_keys), endpoints, circuit, jump: None, backend, logins }
    }

    /// The same, reached through another backend, where the gateway logs in with these credentials.
    #[must_use]
    pub fn through(mut self, target: Arc<Self>, credentials: Credentials) -> Self {
        self.jump = Some(Jump { target, credentials });
        self
    }

    /// Says at once that nobody is asked, while the circuit is open.
    ///
    /// # Errors
    /// [`ConnectError::Paused`].
    pub fn is_asked(&self) -> Result<(), ConnectError> {
        self.circuit.is_asked()
    }

    /// A turn to log in, first come first served. Sessions hold one until the server has let them in.
    ///
    /// # Errors
    /// When none comes in time: the logins before are waiting for a backend that does not answer.
    pub async fn login_turn(&self) -> Result<SemaphorePermit<'_>, ConnectError> {
        match timeout(TURN_LIMIT, self.logins.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(ConnectError::TimedOut { phase: Phase::Turn }),
        }
    }

    /// The backend.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// The first address where a server speaks. With the deadline of its login.
    async fn reach_any(&self) -> Result<(Connection, Instant), ConnectError> {
        let mut failure = None;
        for index in self.circuit.plan()? {
            let Some(endpoint) = self.endpoints.get(index) else { continue };
            let started = Instant::now();
            match self.reach(endpoint).await {
                Err(error) if error.is_of_the_address() => {
                    let server = &endpoint.server;
                    tracing::debug!(host = %server.host, port = server.port, %error, "backend address not usable");
                    self.circuit.failed(index, started, &error);
                    failure = Some(error);
                }
                // No address was asked, and others would be asked in vain.
                Err(error @ ConnectError::Jump { .. }) => return Err(error),
                result => {
                    // Whatever it says: somebody is there.
                    self.circuit.answered(index);
                    return result;
                }
            }
        }
        Err(failure.unwrap_or_else(|| ConnectError::Lost("the backend has no address".to_owned())))
    }

    /// How long a server may take up to its host key, however often a pin makes us ask again.
    fn patience(&self) -> Duration {
        let through = self.jump.as_ref().map_or(Duration::ZERO, |jump| jump.target.patience() * 2);
        self.backend.connect_timeout * 2 + through
    }

    /// TCP, key exchange and host key with one address. The connection is not logged in yet.
    async fn reach(&self, endpoint: &Endpoint) -> Result<(Connection, Instant), ConnectError> {
        let limit = Instant::now() + self.patience();
        let Offer { mut key_types, config, mut without_terrapin } = endpoint.offer();
        let mut first = self.exchange_keys(endpoint, config, limit).await;
        // SECURITY: S-28. A server without strict key exchange is asked again, without what can be cut short there.
        if let Err(ConnectError::NotStrict { .. }) = &first {
            without_terrapin = true;
            let config = self.config(endpoint, &key_types, without_terrapin);
            first = match (self.exchange_keys(endpoint, Arc::clone(&config), limit).await, first) {
                // It has nothing else: the reason is the first one.
                (Err(ConnectError::KeyExchange(_)), first) => first,
                (second, _) => {
                    endpoint.remember(Offer { key_types: key_types.clone(), config, without_terrapin });
                    second
                }
            };
        }
        let unknown = match first {
            Err(ConnectError::HostKey(unknown @ HostKeyError::Unknown { .. })) if self.host_keys.has_pins() => unknown,
            result => return result,
        };
        // A pin does not tell the type of its key, and a server shows only one of its keys at a time: ask for the
        // other types in turn. Bounded by the number of types, and remembered.
        let mut shown = shown_type(&unknown);
        while let Some(key_type) = shown {
            key_types.retain(|other| *other != key_type);
            if key_types.is_empty() {
                break;
            }
            let config = self.config(endpoint, &key_types, without_terrapin);
            match self.exchange_keys(endpoint, Arc::clone(&config), limit).await {
                Ok(connection) => {
                    endpoint.remember(Offer { key_types, config, without_terrapin });
                    return Ok(connection);
                }
                Err(ConnectError::HostKey(error @ HostKeyError::Unknown { .. })) => {
                    shown = shown_type(&error).filter(|key_type| key_types.contains(key_type));
                }
                // Nothing in common any more: the server has no further key.
                Err(ConnectError::KeyExchange(_)) => break,
                Err(other) => return Err(other),
            }
        }
        Err(ConnectError::HostKey(unknown))
    }

    fn config(&self, endpoint: &Endpoint, key_types: &[KeyType], without_terrapin: bool) -> Arc<client::Config> {
        let algorithms = &self.backend.algorithms;
        let algorithms = if without_terrapin { &algorithms::without_terrapin(algorithms) } else { algorithms };
        client_config(&self.backend, algorithms, endpoint.window, key_types, endpoint.certificates)
    }

    async fn exchange_keys(
        &self,
        endpoint: &Endpoint,
        config: Arc<client::Config>,
        limit: Instant,
    ) -> Result<(Connection, Instant), ConnectError> {
        let step = || limit.min(Instant::now() + self.backend.connect_timeout);
        let Some(jump) = &self.jump else {
            let started = Instant::now();
            let tcp = stream::connect(&endpoint.server, step()).await?;
            metrics::backend_connect_phase(&self.backend.name, ConnectPhase::Tcp, started.elapsed());
            return self.exchange_keys_over(endpoint, config, ReadAhead::new(tcp), step(), None).await;
        };
        let through =
            |source| ConnectError::Jump { backend: jump.target.backend.name.clone(), source: Box::new(source) };
        // A connection of its own: what one session does to it is no other session's trouble.
        let via = Box::pin(jump.open()).await.map_err(through)?;
        let started = Instant::now();
        let tunnel = timeout_at(step(), via.tunnel(&endpoint.server)).await;
        let tunnel = tunnel.unwrap_or(Err(ConnectError::TimedOut { phase: Phase::Tcp })).map_err(through)?;
        metrics::backend_connect_phase(&self.backend.name, ConnectPhase::Tcp, started.elapsed());
        self.exchange_keys_over(endpoint, config, tunnel, step(), Some(Box::new(via))).await
    }

    async fn exchange_keys_over(
        &self,
        endpoint: &Endpoint,
        config: Arc<client::Config>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        deadline: Instant,
        via: Option<Box<Connection>>,
    ) -> Result<(Connection, Instant), ConnectError> {
        let started = Instant::now();
        let token = CancellationToken::new();
        let cut_on_drop = token.clone().drop_guard();
        let (facts, server_version) = (Arc::<Facts>::default(), Arc::<OnceLock<String>>::default());
        let stream = Severable::new(stream, token, Arc::clone(&server_version));
        let client = Client {
            server: endpoint.server.clone(),
            host_keys: Arc::clone(&self.host_keys),
            needs_strict: self.backend.algorithms.strict,
            facts: Arc::clone(&facts),
        };
        let handle = timeout_at(deadline, client::connect_stream(config, stream, client))
            .await
            .map_err(|_| ConnectError::TimedOut { phase: Phase::KeyExchange })?
            .map_err(key_exchange_error)?;
        metrics::backend_connect_phase(&self.backend.name, ConnectPhase::KeyExchange, started.elapsed());
        let connection = Connection {
            backend: self.backend.name.clone(),
            handle,
            server: endpoint.server.clone(),
            facts,
            server_version,
            sftp_limit: self.backend.connect_timeout,
            request_timeout: self.backend.request_timeout,
            algorithms: self.backend.algorithms.clone(),
            cut_on_drop,
            via,
        };
        connection.check_signature()?;
        Ok((connection, deadline))
    }
}

impl Jump {
    /// Logs in on the jump host, as a session does on a backend.
    async fn open(&self) -> Result<Connection, ConnectError> {
        let Self { target, credentials } = self;
        target.is_asked()?;
        let _turn = target.login_turn().await?;
        let result = Connection::open(target, credentials).await;
        let counted = result.as_ref().map_or_else(ConnectError::result, |_| Some(BackendConnectResult::Ok));
        if let Some(counted) = counted {
            metrics::backend_connect(&target.backend.name, counted);
        }
        result
    }
}

impl Endpoint {
    fn offer(&self) -> Offer {
        self.offer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, offer: Offer) {
        *self.offer.lock().unwrap_or_else(PoisonError::into_inner) = offer;
    }
}

impl Connection {
    /// Connects and logs in: the addresses of the backend in order, until a server speaks.
    ///
    /// # Errors
    /// When no address can be reached, the server is not the right one, or it refuses the login.
    pub async fn open(target: &Target, credentials: &Credentials) -> Result<Self, ConnectError> {
        let (connection, deadline) = target.reach_any().await?;
        connection.log_in(credentials, deadline).await
    }

    /// Connects and checks the host key, but does not log in: is this the right server, and does it answer?
    ///
    /// # Errors
    /// When no address can be reached, or the server is not the right one.
    pub async fn greet(target: &Target) -> Result<Self, ConnectError> {
        target.reach_any().await.map(|(connection, _)| connection)
    }

    /// Key exchange and login share a deadline.
    async fn log_in(mut self, credentials: &Credentials, deadline: Instant) -> Result<Self, ConnectError> {
        let started = Instant::now();
        let sha1 = algorithms::allows_sha1(&self.algorithms);
        let login = Login { handle: &mut self.handle, facts: &self.facts, sha1 };
        timeout_at(deadline, login.run(credentials))
            .await
            .map_err(|_| ConnectError::TimedOut { phase: Phase::Login })??;
        metrics::backend_connect_phase(&self.backend, ConnectPhase::Login, started.elapsed());
        Ok(self)
    }

    /// A TCP connection from the server to `to` (RFC 4254 §7.2).
    async fn tunnel(&self, to: &HostPort) -> Result<ChannelStream<Msg>, ConnectError> {
        let channel = self.handle.channel_open_direct_tcpip(to.host.as_str(), to.port.into(), "127.0.0.1", 0).await;
        match channel {
            Ok(channel) => Ok(channel.into_stream()),
            Err(russh::Error::ChannelOpenFailure(ChannelOpenFailure::ConnectFailed)) => {
                Err(ConnectError::Lost(format!("it cannot reach {}:{}", to.host, to.port)))
            }
            Err(russh::Error::ChannelOpenFailure(reason)) => {
                Err(ConnectError::NoChannel(format!("it does not tunnel to {}:{} ({reason:?})", to.host, to.port)))
            }
            Err(_) => Err(ConnectError::Lost(self.facts.ending_text())),
        }
    }

    /// Opens a channel and starts SFTP on it.
    ///
    /// # Errors
    /// When the server gives no channel or no SFTP, or is gone.
    pub async fn open_sftp(&self) -> Result<sftp::Session, ConnectError> {
        let started = Instant::now();
        let session = timeout(self.sftp_limit, self.start_sftp()).await;
        let session = session.map_err(|_| ConnectError::TimedOut { phase: Phase::Sftp })??;
        metrics::backend_connect_phase(&self.backend, ConnectPhase::Sftp, started.elapsed());
        Ok(session)
    }

    async fn start_sftp(&self) -> Result<sftp::Session, ConnectError> {
        let channel_error = |error: russh::Error| match error {
            russh::Error::ChannelOpenFailure(reason) => {
                ConnectError::NoChannel(format!("the server refused it ({reason:?})"))
            }
            _ => ConnectError::Lost(self.facts.ending_text()),
        };
        let channel = self.handle.channel_open_session().await.map_err(channel_error)?;
        // INIT goes out right behind the request, as it does with OpenSSH's client: no round trip for the answer.
        channel.request_subsystem(true, "sftp").await.map_err(channel_error)?;
        let (source, sink) = channel.split();
        let subsystem = Arc::<OnceLock<Subsystem>>::default();
        let source = ChannelSource::new(source, Arc::clone(&subsystem));
        let sink = ChannelSink { channel: sink, lost: self.facts.lost.clone() };
        sftp::Session::start(source, sink, self.request_timeout).await.map_err(|error| match subsystem.get() {
            Some(Subsystem::Started) => ConnectError::Sftp(error),
            Some(Subsystem::Refused) => ConnectError::NoSftp("the server has no subsystem sftp".to_owned()),
            None if self.is_lost() => ConnectError::Lost(self.facts.ending_text()),
            None => match error {
                SftpError::Lost(_) => ConnectError::NoSftp("the server closed the channel".to_owned()),
                error => ConnectError::Sftp(error),
            },
        })
    }

    /// Is the connection gone?
    pub fn is_lost(&self) -> bool {
        self.handle.is_closed() || self.facts.lost.is_cancelled()
    }

    /// Resolves when the connection is gone.
    pub async fn lost(&self) {
        self.facts.lost.cancelled().await;
    }

    /// Says goodbye and closes the socket. Dropping a connection closes it too, without the goodbye.
    pub async fn close(self) {
        let Self { handle, cut_on_drop, via, .. } = self;
        let farewell = async {
            if handle.disconnect(Disconnect::ByApplication, "", "").await.is_ok() {
                let _ = handle.await;
            }
        };
        let _ = timeout(CLOSE_LIMIT, farewell).await;
        drop(cut_on_drop);
        if let Some(via) = via {
            Box::pin(via.close()).await;
        }
    }

    /// The address that answered.
    pub fn server(&self) -> &HostPort {
        &self.server
    }

    /// `SHA256:…` of the server's host key.
    pub fn host_key_fingerprint(&self) -> String {
        self.facts.host_key.get().map(|(key, _)| fingerprint_text(&key.fingerprint)).unwrap_or_default()
    }

    /// What vouched for the host key.
    pub fn host_key_verdict(&self) -> Option<HostKeyVerdict> {
        self.facts.host_key.get().map(|(_, verdict)| *verdict)
    }

    /// The server's identification string (RFC 4253 §4.2), such as `SSH-2.0-OpenSSH_9.2p1`; escaped.
    pub fn server_version(&self) -> &str {
        self.server_version.get().map_or("", String::as_str)
    }

    /// What was agreed on: key exchange and cipher.
    pub fn agreed(&self) -> &str {
        self.facts.agreed.get().map_or("", String::as_str)
    }

    /// How it ended, once [`Connection::is_lost`].
    pub fn ending(&self) -> String {
        self.facts.ending_text()
    }

    /// SECURITY: russh checks the server's signature by the algorithm it came with, not the one agreed on, so that a
    /// server could still sign with SHA-1 unasked. That ends here, before anything is authenticated.
    fn check_signature(&self) -> Result<(), ConnectError> {
        let safe = self
            .handle
            .agent_session_binding()
            .and_then(|binding| Signature::try_from(binding.signature()).ok())
            .is_some_and(|signature| algorithms::is_asked_for(&self.algorithms, &signature.algorithm()));
        match self.facts.host_key.get() {
            Some(_) if safe => Ok(()),
            Some((key, _)) => {
                let host = super::known_hosts::lookup_name(&self.server.host, self.server.port);
                Err(HostKeyError::WeakSignature { host, key: key.clone() }.into())
            }
            None => Err(ConnectError::KeyExchange("the server showed no host key".to_owned())),
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Connection")
            .field("server", &self.server)
            .field("version", &self.server_version())
            .finish_non_exhaustive()
    }
}

fn client_config(
    backend: &Backend,
    algorithms: &Algorithms,
    window: u32,
    key_types: &[KeyType],
    certificates: bool,
) -> Arc<client::Config> {
    // A full channel stops the whole connection, so there is room for a window of full packets.
    let channel_buffer_size = usize::try_from(window / MAX_PACKET).unwrap_or(usize::MAX).max(1);
    Arc::new(client::Config {
        client_id: SshId::Standard(IDENTIFICATION.into()),
        window_size: window,
        maximum_packet_size: MAX_PACKET,
        channel_buffer_size,
        preferred: algorithms::preferred(algorithms, key_types, certificates),
        gex: group_sizes(),
        keepalive_interval: (!backend.keepalive.is_zero()).then_some(backend.keepalive),
        keepalive_max: KEEPALIVES,
        nodelay: true,
        ..client::Config::default()
    })
}

/// The group exchange is only ever offered to old servers, and many have no more than 2048 bits.
fn group_sizes() -> GexParams {
    GexParams::new(MIN_GROUP_BITS, PREFERRED_GROUP_BITS, MAX_GROUP_BITS).unwrap_or_default()
}

fn key_exchange_error(error: ClientError) -> ConnectError {
    match error {
        ClientError::HostKey(error) => ConnectError::HostKey(error),
        ClientError::NotStrict { cipher } => ConnectError::NotStrict { cipher },
        ClientError::Ssh(error) => match error {
            russh::Error::NoCommonAlgo { kind, theirs, .. } => {
                let kind = match kind {
                    AlgorithmKind::Kex => "key exchange",
                    AlgorithmKind::Key => "host key",
                    AlgorithmKind::Cipher => "cipher",
                    AlgorithmKind::Compression => "compression",
                    AlgorithmKind::Mac => "MAC",
                };
                let theirs = printable(&theirs.join(", "));
                ConnectError::KeyExchange(format!("no {kind} algorithm in common; the server has {theirs}"))
            }
            error @ (russh::Error::IO(_) | russh::Error::Disconnect | russh::Error::HUP) => {
                ConnectError::Lost(printable(&error.to_string()))
            }
            error => ConnectError::KeyExchange(printable(&error.to_string())),
        },
    }
}

fn shown_type(error: &HostKeyError) -> Option<KeyType> {
    match error {
        HostKeyError::Unknown { key, .. } => KeyType::ALL.into_iter().find(|key_type| key_type.name() == key.key_type),
        _ => None,
    }
}
