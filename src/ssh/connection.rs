//! One SSH connection: key exchange, login, and the SFTP sessions on it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use russh::client::{self, Handle, Msg};
use russh::keys::ssh_key::Signature;
use russh::{AlgorithmKind, ChannelOpenFailure, ChannelStream, Disconnect};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{Instrument, trace_span};

use super::algorithms;
use super::authenticate::{Credentials, Login, Proofs};
use super::channel::{ChannelSink, ChannelSource, Subsystem};
use super::client::{Client, ClientError, Facts, printable};
use super::host_key::{HostKeyError, HostKeyVerdict, fingerprint_text};
use super::request_meter::RequestMeter;
use super::stream::Severable;
use super::target::Target;
use super::{ConnectError, Phase};
use crate::config::HostPort;
use crate::config::algorithms::Algorithms;
use crate::sftp::{self, SftpError};
use crate::telemetry::metrics::{self, ConnectPhase};

/// How long a farewell may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

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
    requests: Arc<RequestMeter>,
    cut_on_drop: DropGuard,
    /// The connection that this one runs through.
    via: Option<Box<Connection>>,
}

impl Connection {
    /// Connects and logs in: the addresses of the backend in order, until a server speaks.
    ///
    /// # Errors
    /// When no address can be reached, the server is not the right one, or it refuses the login.
    pub async fn open(target: &Target, credentials: &Credentials) -> Result<Self, ConnectError> {
        let opened = async {
            let asks_first = target.asks_first();
            let (connection, deadline) = target.reach_any().await?;
            match connection.log_in(credentials, deadline, asks_first).await {
                Ok(connection) => Ok(connection),
                // It may hang up on any method it does not have, and so never says which it has. Once: where the proof was
                // wrong it counts twice.
                Err((ConnectError::Rejected { accepted, remaining }, Proofs::Guess))
                    if accepted.is_empty() && remaining.is_empty() && target.ask_first() =>
                {
                    let (connection, deadline) = target.reach_any().await?;
                    connection.log_in(credentials, deadline, true).await.map_err(|(error, _)| error)
                }
                Err((error, _)) => Err(error),
            }
        };
        opened.instrument(trace_span!("connect", otel.kind = "client", backend = target.backend().name)).await
    }

    /// Connects and checks the host key, but does not log in: is this the right server, and does it answer?
    ///
    /// # Errors
    /// When no address can be reached, or the server is not the right one.
    pub async fn greet(target: &Target) -> Result<Self, ConnectError> {
        target.reach_any().await.map(|(connection, _)| connection)
    }

    /// Exchanges keys over `stream` and checks the host key. With the deadline of the login, which is to follow.
    pub(super) async fn begin(
        target: &Target,
        server: &HostPort,
        config: Arc<client::Config>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        deadline: Instant,
        via: Option<Box<Connection>>,
    ) -> Result<(Self, Instant), ConnectError> {
        let (started, backend) = (Instant::now(), target.backend());
        let token = CancellationToken::new();
        let cut_on_drop = token.clone().drop_guard();
        let (facts, server_version) = (Arc::<Facts>::default(), Arc::<OnceLock<String>>::default());
        let stream = Severable::new(stream, token, Arc::clone(&server_version));
        let client = Client {
            server: server.clone(),
            host_keys: Arc::clone(target.host_keys()),
            needs_strict: backend.algorithms.strict,
            facts: Arc::clone(&facts),
        };
        let handle = timeout_at(deadline, client::connect_stream(config, stream, client))
            .await
            .map_err(|_| ConnectError::TimedOut { phase: Phase::KeyExchange })?
            .map_err(key_exchange_error)?;
        metrics::backend_connect_phase(&backend.name, ConnectPhase::KeyExchange, started.elapsed());
        let connection = Self {
            backend: backend.name.clone(),
            handle,
            server: server.clone(),
            facts,
            server_version,
            sftp_limit: backend.connect_timeout,
            request_timeout: backend.request_timeout,
            algorithms: backend.algorithms.clone(),
            requests: Arc::clone(target.requests()),
            cut_on_drop,
            via,
        };
        connection.check_signature()?;
        Ok((connection, deadline))
    }

    /// Key exchange and login share a deadline.
    async fn log_in(
        mut self,
        credentials: &Credentials,
        deadline: Instant,
        asks_first: bool,
    ) -> Result<Self, (ConnectError, Proofs)> {
        let started = Instant::now();
        let sha1 = algorithms::allows_sha1(&self.algorithms);
        let mut login = Login { handle: &mut self.handle, facts: &self.facts, sha1, asks_first, proofs: Proofs::None };
        let result = timeout_at(deadline, login.run(credentials))
            .await
            .unwrap_or(Err(ConnectError::TimedOut { phase: Phase::Login }));
        result.map_err(|error| (error, login.proofs))?;
        metrics::backend_connect_phase(&self.backend, ConnectPhase::Login, started.elapsed());
        Ok(self)
    }

    /// A TCP connection from the server to `to` (RFC 4254 §7.2).
    pub(super) async fn tunnel(&self, to: &HostPort) -> Result<ChannelStream<Msg>, ConnectError> {
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
        let span = trace_span!("open_sftp", otel.kind = "client", backend = self.backend);
        let session = timeout(self.sftp_limit, self.start_sftp().instrument(span)).await;
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
        let observer: Arc<dyn sftp::Observer> = Arc::clone(&self.requests) as _;
        let started = sftp::Session::start_observed(source, sink, self.request_timeout, Some(observer)).await;
        started.map_err(|error| match subsystem.get() {
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
