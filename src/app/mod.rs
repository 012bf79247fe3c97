//! From a configuration to a running gateway: checks what the files hold, binds, serves, drains. The only room that
//! knows every part.

pub mod check;
pub mod confinement;
pub mod descriptors;
mod probe;
mod reload;
mod service_manager;
mod status;
mod watch;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpListener;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::admin::{self, Check, Readiness};
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
use crate::sftp::in_flight;
use crate::shutdown::Shutdown;
use crate::ssh::{self, KnownHosts, LoginKey, LoginKeyError, Target};
use crate::telemetry::audit::{Audit, AuditGuard};
use crate::telemetry::logging::{self, LogGuard, LoggingError};
use crate::telemetry::metrics::{self, DrainOutcome, Exposition, InstallError, ToldUsers};
use crate::tls::client_certificate::ClientAuthorities;
use crate::tls::{ServerTls, TlsError, certificate};
use crate::transfer::announced::Announced;
use crate::transfer::in_place::InPlace;
use crate::transfer::passive::PassivePorts;
use crate::transfer::sweep::Sweeper;

use self::reload::{Reloader, Reports};
use self::service_manager::Handed;

/// Backends by name.
type Targets = HashMap<String, Arc<Current<Target>>>;

/// After the drain time is over: how long the cut transfers may take to say so.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// What a second signal leaves of the drain time.
const HURRY: Duration = Duration::from_secs(5);

/// How long the end waits for the metrics to be scraped once more, where transfers were cut and somebody scrapes at all.
const LAST_SCRAPE: Duration = Duration::from_secs(20);

/// Somebody who has scraped within this time is expected to do so again.
const SCRAPED_LATELY: Duration = Duration::from_secs(120);

/// How often the state of the whole is looked at: gauges that nobody sets, readiness, a sign of life.
const PULSE: Duration = Duration::from_secs(1);

/// Without room for so long it is not ready: a moment's rush passes by itself.
const FULL_FOR: Duration = Duration::from_secs(5);

/// A backend that was not seen up for so long is asked, where readiness needs it.
const BACKEND_ASKED_AFTER: Duration = Duration::from_secs(10);

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
    /// An audit file cannot be opened.
    #[error("audit: {0}")]
    Audit(#[source] io::Error),
    /// A socket that systemd handed over cannot be used.
    #[error("socket activation: {0}")]
    Handed(#[source] io::Error),
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
    pub fn start(log: &config::Log, traces: &config::Traces) -> Result<Self, StartError> {
        let guard = logging::install(log, traces)?;
        let signals = Shutdown::on_signals().map_err(StartError::Signals)?;
        Ok(Self { exposition: metrics::install()?, signals, _log: guard })
    }
}

/// What the program counts, as a table for people.
pub fn metrics_as_markdown() -> String {
    metrics::markdown()
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
    audit: AuditGuard,
}

impl Gateway {
    /// Reads keys and certificates and binds every address.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn bind(config: Config) -> Result<Self, StartError> {
        let (audit, audit_guard) = Audit::open(&config.audit).map_err(StartError::Audit)?;
        let services = Arc::new(services(&config, audit)?);
        let mut handed = Handed::take().map_err(StartError::Handed)?;
        let bind =
            |name: String, address| server::bind(address).map_err(|source| StartError::Bind { name, address, source });
        let mut listeners = Vec::new();
        for (index, listener) in config.listeners.iter().enumerate() {
            let bound = match handed.listener(&listener.name) {
                Some(socket) => socket.map_err(StartError::Handed)?,
                None => bind(format!("listeners[{index}].address"), listener.address)?,
            };
            listeners.push((bound, Arc::new(listener.clone())));
        }
        let admin = config.admin.map(|address| bind("admin.address".to_owned(), address)).transpose()?;
        handed.warn_of_rest();
        let names: Vec<&str> = config.listeners.iter().map(|listener| listener.name.as_str()).collect();
        let backends: Vec<&str> = config.backends.keys().map(String::as_str).collect();
        metrics::initialise(&names, &backends);
        metrics::passive_ports(config.passive.ports.len());
        metrics::buffer_bytes_limit(config.limits.transfer_window.saturating_mul(config.limits.sessions));
        names.iter().for_each(|name| metrics::sessions_limit(name, config.limits.sessions));
        Ok(Self { config, services, listeners, admin, file: None, audit: audit_guard })
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
        let Self { config, services, listeners, admin, file, audit } = self;
        let Process { exposition, signals: shutdown, _log } = process;
        let (readiness, scrapes) = (Readiness::starting(), exposition.clone());
        let background = CancellationToken::new();
        let helpers = TaskTracker::new();
        let listener_names: Vec<String> = config.listeners.iter().map(|listener| listener.name.clone()).collect();
        let pulse = pulse(Arc::clone(&services), listener_names, readiness.clone());
        helpers.spawn({
            let stop = background.clone();
            async move { stop.run_until_cancelled(pulse).await }
        });
        if config.readiness_needs_backend {
            let (services, readiness, stop) = (Arc::clone(&services), readiness.clone(), background.clone());
            readiness.set(Check::Backend, false);
            helpers.spawn(async move { stop.run_until_cancelled(ask_backends(services, readiness)).await });
        }
        let reports = Reports::default();
        if let Some(file) = file {
            let reloader = Reloader::new(file, Arc::clone(&services), reports.clone()).await;
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
            let status = status::source(Arc::clone(&services), readiness.clone(), reports);
            helpers.spawn(admin::serve(listener, exposition, readiness.clone(), status, background.clone()));
        } else {
            let stop = background.clone();
            helpers.spawn(async move { exposition.upkeep(stop).await });
        }

        service_manager::ready("serving");
        shutdown.drain.cancelled().await;
        service_manager::stopping(config.shutdown.delay + config.shutdown.drain + LAST_WORDS * 2 + LAST_SCRAPE);
        metrics::draining(true);
        readiness.draining();
        info!(event.name = "ftps2sftp.drain", "draining");
        tokio::select! {
            () = sleep(config.shutdown.delay) => {}
            () = shutdown.now.cancelled() => {}
        }
        stop_accepting.cancel();
        sessions.drain.cancel();
        tasks.close();
        let mut left = services.slots.sessions();
        let (mut finished, mut ticks) = (pin!(tasks.wait()), interval(PULSE));
        let mut is_over = pin!(async {
            tokio::select! {
                () = sleep(config.shutdown.drain) => {}
                () = async { shutdown.now.cancelled().await; sleep(HURRY).await } => {}
            }
        });
        let drained = loop {
            tokio::select! {
                biased;
                () = &mut finished => break true,
                () = &mut is_over => break false,
                // As they end, so that somebody sees it: the process may be gone before it is scraped again.
                _ = ticks.tick() => left -= count_drained(left, services.slots.sessions()),
            }
        };
        let forced = if drained { 0 } else { services.slots.sessions().min(left) };
        metrics::drained(DrainOutcome::Forced, forced);
        metrics::drained(DrainOutcome::Clean, left - forced);
        let counted = Instant::now();
        if !drained {
            warn!(transfers = tasks.len(), "drain time is over, ending the sessions that are left");
            sessions.end_now();
            let _ = timeout(LAST_WORDS, tasks.wait()).await;
        }
        drop(audit);
        // What was cut is worth to be seen, where somebody looks and has not seen it yet.
        if forced > 0 && scrapes.scraped_within(SCRAPED_LATELY) && !scrapes.scraped_within(counted.elapsed()) {
            let _ = timeout(LAST_SCRAPE, scrapes.scraped()).await;
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

/// Counts the sessions that have ended since so many were left. How many?
fn count_drained(left: usize, still: usize) -> usize {
    let ended = left.saturating_sub(still);
    metrics::drained(DrainOutcome::Clean, ended);
    ended
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

fn services(config: &Config, audit: Audit) -> Result<Services, StartError> {
    let gate = Gate::new(config.passive.proxy_protocol, config.trusted_proxies.clone().into());
    Ok(Services {
        realm: Current::new(realm(config, None)?),
        tls: Current::new(server_tls(config)?),
        require_control_tls: config.tls.require_control,
        passive: PassivePorts::new(config.passive.ports.clone(), config.passive.shared, gate, metrics::stranger),
        passive_ports: config.passive.ports.len(),
        announced: Announced::new(&config.passive),
        active: config.active,
        slots: SessionSlots::new(&config.limits),
        failed_logins: FailedLogins::new(&config.limits.failed_logins),
        rates: Rates::default(),
        digests: Digests::default(),
        bequests: Arc::default(),
        in_place: InPlace::default(),
        sweeper: Sweeper::default(),
        activity: Arc::default(),
        audit,
        told_users: config.metrics_per_user.then(ToldUsers::default),
        limits: config.limits.clone(),
        timeouts: config.timeouts.clone(),
    })
}

/// Reads gauges that nobody sets, looks at what readiness needs, and gives a sign of life.
async fn pulse(services: Arc<Services>, listeners: Vec<String>, readiness: Readiness) {
    let has_watchdog = service_manager::has_watchdog();
    let mut ticks = interval(PULSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut told = String::new();
    let mut had_room = Instant::now();
    loop {
        let due = ticks.tick().await;
        metrics::runtime_lag(due.elapsed());
        readiness.beat();
        let sessions = services.slots.sessions();
        if sessions < services.limits.sessions {
            had_room = Instant::now();
        }
        readiness.set(Check::Room, had_room.elapsed() < FULL_FOR);
        metrics::passive_ports_in_use(services.passive.in_use());
        metrics::buffer_bytes(in_flight::bytes());
        // Of those in use: a reload may have put others in the place of those that sessions still have.
        for (backend, target) in &services.realm.get().targets {
            metrics::backend_circuit_open(backend, target.get().is_circuit_open());
        }
        let tls = services.tls.get();
        let not_after = tls.certificates().iter().map(|certificate| certificate.not_after);
        if let Some(first) = not_after.clone().min() {
            listeners.iter().for_each(|listener| metrics::certificate_not_after(listener, first));
        }
        // Clients that look at it are refused by the last one; until then they are served. One that is not valid yet is served:
        // it may be our clock.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let last = not_after.max();
        readiness.set(Check::Certificate, last.is_none_or(|last| u64::try_from(last).is_ok_and(|last| last > now)));
        if has_watchdog {
            service_manager::alive();
        }
        let text = format!("{}, {sessions} sessions", readiness.state().as_str());
        if text != told {
            service_manager::status(&text);
            told = text;
        }
    }
}

/// Finds out whether a backend answers, as long as no session has seen one that does.
async fn ask_backends(services: Arc<Services>, readiness: Readiness) {
    loop {
        let realm = services.realm.get();
        let mut answers = false;
        for target in realm.targets.values() {
            let target = target.get();
            let is_fresh = |seen: ssh::Seen| seen.is_up && seen.at.elapsed() < BACKEND_ASKED_AFTER;
            if !target.seen().is_some_and(is_fresh) {
                let greeted = ssh::Connection::greet(&target).await;
                target.greeted(greeted.as_ref());
                if let Ok(connection) = greeted {
                    connection.close().await;
                }
            }
            if target.seen().is_some_and(|seen| seen.is_up) {
                answers = true;
                // Those that do not answer take their time.
                readiness.set(Check::Backend, true);
            }
        }
        readiness.set(Check::Backend, answers);
        sleep(BACKEND_ASKED_AFTER / 2).await;
    }
}

fn shown(listener: &TcpListener) -> String {
    listener.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string())
}
