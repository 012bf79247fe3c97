//! From a configuration to a running gateway: checks what the files hold, binds, serves, drains. The only room that
//! knows every part.

pub mod check;
pub mod confinement;
mod probe;
mod reload;
mod watch;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::admin::{self, Readiness};
use crate::config::error::Problem;
use crate::config::{self, Config, Loaded, Login, MappedLogin, Material, Network};
use crate::identity::account::Accounts;
use crate::identity::{FailedLogins, SessionSlots};
use crate::proxy_protocol::Gate;
use crate::server;
use crate::session::current::Current;
use crate::session::digests::Digests;
use crate::session::line::Pool;
use crate::session::rates::Rates;
use crate::session::services::{Realm, Services, mapped_credentials};
use crate::shutdown::Shutdown;
use crate::ssh::{self, KnownHosts, LoginKey, LoginKeyError, Target};
use crate::telemetry::logging::{self, LogGuard, LoggingError};
use crate::telemetry::metrics::{self, Exposition, InstallError};
use crate::tls::client_certificate::ClientAuthorities;
use crate::tls::{ServerTls, TlsError, certificate};
use crate::transfer::announced::Announced;
use crate::transfer::in_place::InPlace;
use crate::transfer::passive::PassivePorts;
use crate::transfer::sweep::Sweeper;

use self::reload::Reloader;

/// Backends by name.
type Targets = HashMap<String, Arc<Current<Target>>>;

/// After the drain time is over: how long the cut transfers may take to say so.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// How often gauges that nobody sets are read.
const GAUGE_INTERVAL: Duration = Duration::from_secs(5);

/// Looks into every file the configuration names, so that all mistakes can be told in one go.
///
/// # Errors
/// Everything that is wrong: what loading found, and what the files hold.
pub fn check_materials(loaded: Loaded) -> Result<Config, Vec<Problem>> {
    let Loaded { config, mut problems, materials, .. } = loaded;
    for material in &materials {
        match material {
            Material::Certificate { at, certificate, key } => {
                if let Err(error) = certificate::load(certificate, key) {
                    problems.push(Problem::new(at.as_str(), error.to_string()).hint(error.hint()));
                }
            }
            Material::ClientAuthorities { at, crl_at, ca, crl } => {
                if let Err(error) = ClientAuthorities::load(ca, crl.as_deref()) {
                    let at = if error.is_of_revocation(crl.as_deref()) { crl_at } else { at };
                    problems.push(Problem::new(at.as_str(), error.to_string()).hint(error.hint()));
                }
            }
            Material::KnownHosts { at, path } => {
                if let Err(error) = KnownHosts::load(path) {
                    problems.push(
                        Problem::new(at.as_str(), error.to_string())
                            .hint("OpenSSH's known_hosts format; `ssh-keyscan` writes such lines"),
                    );
                }
            }
            Material::LoginKey { at, key } => {
                if let Err(error) = LoginKey::load(key) {
                    problems.push(login_key_problem(at, &error));
                }
            }
        }
    }
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems),
    }
}

/// Why a checked configuration does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file changed since it was checked, or something of its kind.
    #[error("{0}")]
    Material(Problem),
    /// An address cannot be bound.
    #[error("{name}: cannot listen on {address}: {source}")]
    Bind {
        /// Key path of the listener.
        name: String,
        /// Its address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// TLS cannot be set up.
    #[error("tls: {0}")]
    Tls(#[from] TlsError),
    /// The log cannot be set up.
    #[error("log: {0}")]
    Log(#[from] LoggingError),
    /// Metrics cannot be set up.
    #[error("metrics: {0}")]
    Metrics(#[from] InstallError),
    /// Signals cannot be followed.
    #[error("signals: {0}")]
    Signals(#[source] io::Error),
}

/// What a process has one of: its log, its metrics, its signals.
#[derive(Debug)]
pub struct Process {
    exposition: Exposition,
    signals: Shutdown,
    _log: LogGuard,
}

impl Process {
    /// Sets them up. Must be called on the runtime.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(log: &config::Log) -> Result<Self, StartError> {
        let guard = logging::install(log)?;
        let signals = Shutdown::on_signals().map_err(StartError::Signals)?;
        Ok(Self { exposition: metrics::install()?, signals, _log: guard })
    }
}

/// Says in the log what was accepted and is worth to be said.
pub fn log_warnings(warnings: &[Problem]) {
    for warning in warnings {
        warn!(key = %warning.at, "{}", warning.what);
    }
}

/// A gateway whose sockets are bound: nothing is served yet, and nothing can fail any more.
pub struct Gateway {
    config: Config,
    services: Arc<Services>,
    listeners: Vec<(TcpListener, Arc<crate::config::Listener>)>,
    admin: Option<TcpListener>,
    /// The file that is followed.
    file: Option<PathBuf>,
}

impl Gateway {
    /// Reads keys and certificates and binds every address.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn bind(config: Config) -> Result<Self, StartError> {
        let services = Arc::new(services(&config)?);
        let bind =
            |name: String, address| server::bind(address).map_err(|source| StartError::Bind { name, address, source });
        let mut listeners = Vec::new();
        for (index, listener) in config.listeners.iter().enumerate() {
            let bound = bind(format!("listeners[{index}].address"), listener.address)?;
            listeners.push((bound, Arc::new(listener.clone())));
        }
        let admin = config.admin.map(|address| bind("admin.address".to_owned(), address)).transpose()?;
        let names: Vec<&str> = config.listeners.iter().map(|listener| listener.name.as_str()).collect();
        let backends: Vec<&str> = config.backends.keys().map(String::as_str).collect();
        metrics::initialise(&names, &backends);
        metrics::passive_ports(config.passive.ports.len());
        Ok(Self { config, services, listeners, admin, file: None })
    }

    /// Takes over what changes in the configuration file, and in the files it names, while it serves.
    #[must_use]
    pub fn following(mut self, file: &Path) -> Self {
        self.file = Some(file.to_owned());
        self
    }

    /// Where each listener is bound, by name.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.listeners
            .iter()
            .filter_map(|(socket, listener)| Some((listener.name.clone(), socket.local_addr().ok()?)))
            .collect()
    }

    /// Where the admin listener is bound.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|socket| socket.local_addr().ok())
    }

    /// Serves until told to stop, and then until the last session is gone or the drain time is over.
    pub async fn serve(self, process: Process) {
        let Self { config, services, listeners, admin, file } = self;
        let Process { exposition, signals: shutdown, _log } = process;
        let readiness = Readiness::starting();
        let background = CancellationToken::new();
        let helpers = TaskTracker::new();
        helpers.spawn(gauges(Arc::clone(&services), background.clone()));
        if let Some(file) = file {
            let reloader = Reloader::new(file, Arc::clone(&services)).await;
            helpers.spawn(reloader.run(background.clone()));
        }

        // Sessions have stages of their own: they begin to drain when accepting ends, not when the signal comes.
        let sessions = Shutdown::new();
        let stop_accepting = CancellationToken::new();
        let tasks = TaskTracker::new();
        let trusted_proxies: Arc<[Network]> = config.trusted_proxies.clone().into();
        for (socket, listener) in listeners {
            info!(listener = %listener.name, server.address = %shown(&socket), "listening");
            let services = Arc::clone(&services);
            let gate = Gate::new(listener.proxy_protocol, trusted_proxies.clone());
            tasks.spawn(server::accept(
                socket,
                listener,
                gate,
                services,
                sessions.clone(),
                stop_accepting.clone(),
                tasks.clone(),
            ));
        }
        readiness.ready();
        if let Some(listener) = admin {
            info!(server.address = %shown(&listener), "admin listening");
            helpers.spawn(admin::serve(listener, exposition, readiness.clone(), background.clone()));
        } else {
            let stop = background.clone();
            helpers.spawn(async move { exposition.upkeep(stop).await });
        }

        shutdown.drain.cancelled().await;
        info!("draining");
        metrics::draining(true);
        readiness.draining();
        tokio::select! {
            () = sleep(config.shutdown.delay) => {}
            () = shutdown.now.cancelled() => {}
        }
        stop_accepting.cancel();
        sessions.drain.cancel();
        tasks.close();
        let drained = tokio::select! {
            () = tasks.wait() => true,
            () = sleep(config.shutdown.drain) => false,
            () = shutdown.now.cancelled() => false,
        };
        if !drained {
            warn!(transfers = tasks.len(), "drain time is over, ending the sessions that are left");
            sessions.end_now();
            let _ = timeout(LAST_WORDS, tasks.wait()).await;
        }
        background.cancel();
        helpers.close();
        let _ = timeout(LAST_WORDS, helpers.wait()).await;
        info!("stopped");
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Gateway").field("addresses", &self.addresses()).finish_non_exhaustive()
    }
}

/// Backends by name.
///
/// # Errors
/// When a file of theirs cannot be read any more.
fn targets(config: &Config) -> Result<Targets, StartError> {
    let targets = fresh_targets(config)?;
    Ok(targets.into_iter().map(|(name, target)| (name, Arc::new(Current::new(target)))).collect())
}

fn fresh_targets(config: &Config) -> Result<HashMap<String, Arc<Target>>, StartError> {
    ssh::targets(config).map_err(|error| StartError::Material(Problem::new(error.at.as_str(), error.what)))
}

/// Keys to log in with, by user entry.
///
/// # Errors
/// When a key file cannot be read any more.
fn login_keys(config: &Config) -> Result<HashMap<String, LoginKey>, StartError> {
    let mut login_keys = HashMap::new();
    for user in config.users.values().chain(&config.any_user) {
        let Login::Mapped(MappedLogin { key: Some(key), .. }) = &user.login else { continue };
        let key = LoginKey::load(key)
            .map_err(|error| StartError::Material(login_key_problem(&format!("users.{}.login", user.name), &error)))?;
        login_keys.insert(user.name.clone(), key);
    }
    Ok(login_keys)
}

fn login_key_problem(login: &str, error: &LoginKeyError) -> Problem {
    Problem::new(format!("{login}.{}", error.key()), error.to_string()).hint(error.hint())
}

/// Connections to share, by user entry: of mapped identities, where the backend says so.
fn pools(config: &Config, targets: &Targets, login_keys: &HashMap<String, LoginKey>) -> HashMap<String, Arc<Pool>> {
    let users = config.users.values().filter(|user| user.backend.shared);
    users
        .filter_map(|user| {
            let target = targets.get(&user.backend.name)?;
            let credentials = mapped_credentials(user, login_keys)?;
            Some((user.name.clone(), Pool::new(Arc::clone(target), credentials)))
        })
        .collect()
}

/// Who may come in, and where their files are. `kept`: backends that are as they were.
///
/// # Errors
/// When a file cannot be read any more.
fn realm(config: &Config, kept: Option<&Targets>) -> Result<Realm, StartError> {
    let targets = kept.map_or_else(|| targets(config), |targets| Ok(targets.clone()))?;
    let login_keys = login_keys(config)?;
    Ok(Realm { accounts: Accounts::new(config), pools: pools(config, &targets, &login_keys), targets, login_keys })
}

/// What the front shows under TLS.
///
/// # Errors
/// When a file cannot be read any more.
fn server_tls(config: &Config) -> Result<ServerTls, StartError> {
    let mut certificates = Vec::new();
    for (index, pair) in config.tls.certificates.iter().enumerate() {
        let at = format!("tls.certificates[{index}]");
        certificates.push(
            certificate::load(&pair.certificate, &pair.key)
                .map_err(|error| StartError::Material(Problem::new(at, error.to_string()).hint(error.hint())))?,
        );
    }
    let clients = config.tls.client_certificates.as_ref().map(|clients| {
        ClientAuthorities::load(&clients.ca, clients.crl.as_deref())
            .and_then(|authorities| authorities.verifier(clients.required))
            .map_err(|error| StartError::Material(Problem::new("tls.client_ca", error.to_string()).hint(error.hint())))
    });
    Ok(ServerTls::new(certificates, config.tls.min_version, clients.transpose()?)?)
}

fn services(config: &Config) -> Result<Services, StartError> {
    let gate = Gate::new(config.passive.proxy_protocol, config.trusted_proxies.clone().into());
    Ok(Services {
        realm: Current::new(realm(config, None)?),
        tls: Current::new(server_tls(config)?),
        require_control_tls: config.tls.require_control,
        passive: PassivePorts::new(config.passive.ports.clone(), config.passive.shared, gate, metrics::stranger),
        announced: Announced::new(&config.passive),
        active: config.active,
        slots: SessionSlots::new(&config.limits),
        failed_logins: FailedLogins::new(&config.limits.failed_logins),
        rates: Rates::default(),
        digests: Digests::default(),
        in_place: InPlace::default(),
        sweeper: Sweeper::default(),
        limits: config.limits.clone(),
        timeouts: config.timeouts.clone(),
    })
}

async fn gauges(services: Arc<Services>, stop: CancellationToken) {
    let mut ticks = interval(GAUGE_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => metrics::passive_ports_in_use(services.passive.in_use()),
        }
    }
}

fn shown(listener: &TcpListener) -> String {
    listener.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string())
}
