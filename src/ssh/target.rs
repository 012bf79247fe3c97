//! A backend: its addresses and what each is offered, the jump host, whose turn it is to log in, and the way to the first
//! address where a server speaks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use russh::SshId;
use russh::client::{self, GexParams};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};

use super::algorithms;
use super::authenticate::Credentials;
use super::circuit::Circuit;
use super::connection::Connection;
use super::host_key::{HostKeyError, HostKeyPolicy};
use super::known_hosts::KeyType;
use super::request_meter::RequestMeter;
use super::stream::{self, ReadAhead};
use super::{ConnectError, Phase};
use crate::config::algorithms::Algorithms;
use crate::config::{Backend, HostPort};
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
const LOGINS_AT_A_TIME: usize = 6;

/// And so many more of those who are known: whoever guesses passwords by the hundred keeps nobody out who is not guessing.
const LOGINS_KEPT: usize = 2;

/// How long a login waits for its turn: some 500 logins on two cores take 40 seconds, and most clients wait longer.
const TURN_LIMIT: Duration = Duration::from_secs(120);

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
    requests: Arc<RequestMeter>,
    seen: Mutex<Option<Seen>>,
    /// Logins under way; see [`LOGINS_AT_A_TIME`].
    logins: Semaphore,
    /// See [`LOGINS_KEPT`].
    logins_kept: Semaphore,
    /// A guess at its methods has ended a connection.
    asks_first: AtomicBool,
}

/// Who wants to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Somebody with a password that nobody has checked, under a name that has not logged in from there before.
    Unproven,
    /// Anybody else: the gateway has checked who it is, or has seen them before.
    Known,
}

/// How a backend was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// It answered, as an SFTP server does.
    pub is_up: bool,
    /// When.
    pub at: Instant,
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
        let requests = Arc::new(RequestMeter::new(&backend.name));
        Self {
            host_keys: Arc::new(host_keys),
            endpoints,
            circuit,
            jump: None,
            requests,
            seen: Mutex::default(),
            backend,
            logins,
            logins_kept: Semaphore::new(LOGINS_KEPT),
            asks_first: AtomicBool::default(),
        }
    }

    /// The same, reached through another backend, where the gateway logs in with these credentials.
    #[must_use]
    pub fn through(mut self, target: Arc<Self>, credentials: Credentials) -> Self {
        self.jump = Some(Jump { target, credentials });
        self
    }

    /// Is it asked for its methods before one is tried?
    pub(super) fn asks_first(&self) -> bool {
        self.asks_first.load(Ordering::Relaxed)
    }

    /// It is from now on. Is that new?
    pub(super) fn ask_first(&self) -> bool {
        !self.asks_first.swap(true, Ordering::Relaxed)
    }

    /// Has no address answered, again and again?
    pub fn is_circuit_open(&self) -> bool {
        self.circuit.is_open()
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
    pub async fn login_turn(&self, standing: Standing) -> Result<SemaphorePermit<'_>, ConnectError> {
        let turn = async {
            match standing {
                Standing::Unproven => self.logins.acquire().await,
                Standing::Known => tokio::select! {
                    biased;
                    turn = self.logins.acquire() => turn,
                    turn = self.logins_kept.acquire() => turn,
                },
            }
        };
        match timeout(TURN_LIMIT, turn).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(ConnectError::TimedOut { phase: Phase::Turn }),
        }
    }

    /// What judges its host keys.
    pub(super) fn host_keys(&self) -> &Arc<HostKeyPolicy> {
        &self.host_keys
    }

    /// Counts how the attempt of a session ended, and remembers what it says of the backend.
    pub fn tried<T>(&self, result: Result<&T, &ConnectError>) {
        if let Some(counted) = self.greeted(result) {
            metrics::backend_connect(&self.backend.name, counted);
        }
    }

    /// Remembers what an attempt says of the backend. Those that are made only to see whether it answers are not counted:
    /// whoever logs in may still fail.
    pub fn greeted<T>(&self, result: Result<&T, &ConnectError>) -> Option<BackendConnectResult> {
        let ended = result.map_or_else(ConnectError::result, |_| Some(BackendConnectResult::Ok))?;
        let is_up = matches!(ended, BackendConnectResult::Ok | BackendConnectResult::Auth);
        metrics::backend_up(&self.backend.name, is_up);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Seen { is_up, at: Instant::now() });
        Some(ended)
    }

    /// How it was last seen; `None` before the first time.
    pub fn seen(&self) -> Option<Seen> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What counts the requests to it.
    pub(super) fn requests(&self) -> &Arc<RequestMeter> {
        &self.requests
    }

    /// The backend.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// The first address where a server speaks. With the deadline of its login.
    pub(super) async fn reach_any(&self) -> Result<(Connection, Instant), ConnectError> {
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
            return Connection::begin(self, &endpoint.server, config, ReadAhead::new(tcp), step(), None).await;
        };
        let through =
            |source| ConnectError::Jump { backend: jump.target.backend.name.clone(), source: Box::new(source) };
        // A connection of its own: what one session does to it is no other session's trouble.
        let via = Box::pin(jump.open()).await.map_err(through)?;
        let started = Instant::now();
        let tunnel = timeout_at(step(), via.tunnel(&endpoint.server)).await;
        let tunnel = tunnel.unwrap_or(Err(ConnectError::TimedOut { phase: Phase::Tcp })).map_err(through)?;
        metrics::backend_connect_phase(&self.backend.name, ConnectPhase::Tcp, started.elapsed());
        Connection::begin(self, &endpoint.server, config, tunnel, step(), Some(Box::new(via))).await
    }
}

impl Jump {
    /// Logs in on the jump host, as a session does on a backend.
    async fn open(&self) -> Result<Connection, ConnectError> {
        let Self { target, credentials } = self;
        target.is_asked()?;
        let _turn = target.login_turn(Standing::Known).await?;
        let result = Connection::open(target, credentials).await;
        target.tried(result.as_ref());
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

fn shown_type(error: &HostKeyError) -> Option<KeyType> {
    match error {
        HostKeyError::Unknown { key, .. } => KeyType::ALL.into_iter().find(|key_type| key_type.name() == key.key_type),
        _ => None,
    }
}
