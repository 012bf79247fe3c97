//! Metrics for Prometheus: one table of names, one typed function per event.
//!
//! Every name, kind, label, bucket and help text stands in [`TABLE`]; every label value is a type with a closed set
//! of values, or the name of something configured. Before [`install`] is called every function does nothing.

mod backend_requests;
mod labels;
mod process;
mod table;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use metrics::SharedString;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use backend_requests::BackendRequests;
pub use labels::{
    AuditResult, AuditSink, BackendConnectResult, Channel, CommandGroup, ConnectPhase, ConnectionResult,
    ConnectionState, DataConnectionResult, DataMode, Direction, DrainOutcome, HandshakeResult, LegacyFeature,
    LoginMethod, LoginResult, OfferedSuite, OfferedVersion, ReloadObject, ReloadResult, ReplyClass, RequestClass,
    SessionState, SftpOperation, SftpStatus, Side, TlsRefusal, TlsVersion, TransferResult,
};
pub use process::PROCESS;
pub use table::{Kind, Label, MetricRow, TABLE, Values, markdown};

/// How often the samples of histograms are folded into their buckets. Until then each one takes memory, so this
/// bounds it where nobody scrapes.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Users whose last login is told: each is a series for good.
pub const MAX_USERS: usize = 1000;

/// The label value for a verb that is in no table.
pub const UNKNOWN_VERB: &str = "OTHER";

/// The metrics of this process in a form that can be served.
#[derive(Clone)]
pub struct Exposition {
    handle: PrometheusHandle,
    scrapes: Arc<Scrapes>,
}

/// When it was scraped.
#[derive(Default)]
struct Scrapes {
    last: Mutex<Option<Instant>>,
    next: Notify,
}

/// Metrics could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A row of the table is not usable; a mistake in the program.
    #[error("the table of metrics is not usable")]
    Table(#[from] BuildError),
}

/// Starts counting in this process and returns what can be served.
///
/// In a process that already counts, it returns the same exposition again.
///
/// # Errors
///
/// Only where the table itself is wrong, which its test rules out.
pub fn install() -> Result<Exposition, InstallError> {
    static INSTALLED: OnceLock<Exposition> = OnceLock::new();
    if let Some(exposition) = INSTALLED.get() {
        return Ok(exposition.clone());
    }
    let mut builder = PrometheusBuilder::new();
    for row in TABLE {
        if let Kind::Histogram(buckets) = row.kind {
            builder = builder.set_buckets_for_metric(Matcher::Full(row.name.to_owned()), buckets)?;
        }
    }
    let recorder = builder.build_recorder();
    let candidate = Exposition { handle: recorder.handle(), scrapes: Arc::default() };
    let installed = INSTALLED.get_or_init(|| {
        // Only this closure sets the global recorder and it runs once, so there is none yet.
        let _ = metrics::set_global_recorder(recorder);
        for row in TABLE {
            row.describe();
        }
        candidate
    });
    initialise(&[], &[]);
    process::start_time();
    table::BUILD_INFO
        .gauge([
            env!("CARGO_PKG_VERSION").into(),
            option_env!("FTPS2SFTP_REVISION").unwrap_or("unknown").into(),
            "aws-lc-rs".into(),
        ])
        .set(1.0);
    Ok(installed.clone())
}

/// Shows every series of the configured listeners and backends with 0, so that the first event of each is a rise.
pub fn initialise(listeners: &[&str], backends: &[&str]) {
    for row in TABLE.iter().filter(|row| row.from_start) {
        let mut series: Vec<Vec<SharedString>> = vec![Vec::new()];
        for label in row.labels {
            let values: Vec<SharedString> = match label.values {
                Values::Closed(values) => values.iter().map(|&value| value.into()).collect(),
                Values::Listener => listeners.iter().map(|&name| name.to_owned().into()).collect(),
                Values::Backend => backends.iter().map(|&name| name.to_owned().into()).collect(),
                Values::Verb | Values::User | Values::Build => Vec::new(),
            };
            series = series
                .iter()
                .flat_map(|known| values.iter().map(|value| [known.as_slice(), std::slice::from_ref(value)].concat()))
                .collect();
        }
        for values in series {
            row.register(values);
        }
    }
}

impl Exposition {
    /// What a scrape gets; see [`Exposition::render`].
    pub fn scrape(&self) -> String {
        let text = self.render();
        *self.scrapes.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.scrapes.next.notify_waiters();
        text
    }

    /// Was it scraped within this time?
    pub fn scraped_within(&self, time: Duration) -> bool {
        let last = self.scrapes.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|last| last.elapsed() < time)
    }

    /// Completes with the next scrape.
    pub async fn scraped(&self) {
        self.scrapes.next.notified().await;
    }

    /// All metrics in the Prometheus text format 0.0.4, ordered by name.
    pub fn render(&self) -> String {
        let text = self.handle.render();
        let mut families: Vec<&str> = text.split("\n\n").map(str::trim).filter(|family| !family.is_empty()).collect();
        families.sort_unstable();
        let mut sorted = String::with_capacity(text.len() + 1024);
        for family in families {
            sorted.push_str(family);
            sorted.push_str("\n\n");
        }
        process::render(&mut sorted);
        sorted
    }

    /// Keeps the memory of histograms bounded where nobody scrapes; runs until `stop`.
    pub async fn upkeep(&self, stop: CancellationToken) {
        let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = interval.tick() => self.handle.run_upkeep(),
            }
        }
    }
}

impl std::fmt::Debug for Exposition {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Exposition")
    }
}

impl MetricRow {
    /// The labels with their values, in the order of the row.
    fn labelled(&self, values: impl IntoIterator<Item = SharedString>) -> Vec<metrics::Label> {
        self.labels.iter().zip(values).map(|(label, value)| metrics::Label::new(label.name, value)).collect()
    }

    fn counter<const N: usize>(&self, values: [SharedString; N]) -> metrics::Counter {
        metrics::counter!(self.name, self.labelled(values))
    }

    fn gauge<const N: usize>(&self, values: [SharedString; N]) -> metrics::Gauge {
        metrics::gauge!(self.name, self.labelled(values))
    }

    fn histogram<const N: usize>(&self, values: [SharedString; N]) -> metrics::Histogram {
        metrics::histogram!(self.name, self.labelled(values))
    }

    fn observe<const N: usize>(&self, values: [SharedString; N], value: f64) {
        self.histogram(values).record(value);
    }

    fn register(&self, values: Vec<SharedString>) {
        let labels = self.labelled(values);
        match self.kind {
            Kind::Counter => drop(metrics::counter!(self.name, labels)),
            Kind::Gauge => drop(metrics::gauge!(self.name, labels)),
            Kind::Histogram(_) => drop(metrics::histogram!(self.name, labels)),
        }
    }

    fn describe(&self) {
        match self.kind {
            Kind::Counter => metrics::describe_counter!(self.name, self.help),
            Kind::Gauge => metrics::describe_gauge!(self.name, self.help),
            Kind::Histogram(_) => metrics::describe_histogram!(self.name, self.help),
        }
    }
}

/// A control connection reached a listener.
pub fn connection(listener: &str, result: ConnectionResult) {
    table::CONNECTIONS.counter([listener.to_owned().into(), result.into()]).increment(1);
}

/// A session began. Keep the guard as long as it lives.
pub fn session_started(listener: &str, state: SessionState) -> SessionGuard {
    let guard = SessionGuard { listener: listener.to_owned(), state, started: Instant::now() };
    guard.gauge(state).increment(1.0);
    guard
}

/// Counts a session as open, in the state it is in, until it is dropped.
#[derive(Debug)]
#[must_use = "the session is counted as open until the guard is dropped"]
pub struct SessionGuard {
    listener: String,
    state: SessionState,
    started: Instant,
}

impl SessionGuard {
    /// The session does something else now.
    pub fn enter(&mut self, state: SessionState) {
        if self.state != state {
            self.gauge(self.state).decrement(1.0);
            self.gauge(state).increment(1.0);
            self.state = state;
        }
    }

    fn gauge(&self, state: SessionState) -> metrics::Gauge {
        table::SESSIONS.gauge([self.listener.clone().into(), state.into()])
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.gauge(self.state).decrement(1.0);
        table::SESSION_DURATION.observe([self.listener.clone().into()], self.started.elapsed().as_secs_f64());
    }
}

/// So many sessions may be open.
pub fn sessions_limit(listener: &str, limit: usize) {
    table::SESSIONS_LIMIT.gauge([listener.to_owned().into()]).set(limit as f64);
}

/// When the first of a listener's certificates stops being valid, in seconds since 1970.
pub fn certificate_not_after(listener: &str, not_after: i64) {
    table::CERTIFICATE_NOT_AFTER.gauge([listener.to_owned().into()]).set(not_after as f64);
}

/// A TLS handshake with a client ended.
pub fn tls_handshake(channel: Channel, version: TlsVersion, result: HandshakeResult, elapsed: Duration) {
    table::TLS_HANDSHAKES.counter([channel.into(), version.into(), result.into()]).increment(1);
    table::TLS_HANDSHAKE_DURATION.observe([channel.into()], elapsed.as_secs_f64());
}

/// A login ended.
pub fn login(method: LoginMethod, result: LoginResult) {
    table::LOGINS.counter([method.into(), result.into()]).increment(1);
}

/// A command got its final reply. `verb` is one of the command table, or [`UNKNOWN_VERB`]: it is `'static` so that
/// nothing a client sent can be given here.
pub fn command(verb: &'static str, group: CommandGroup, code: u16, elapsed: Duration) {
    table::COMMANDS.counter([verb.into(), ReplyClass::of(code).into()]).increment(1);
    table::COMMAND_DURATION.observe([group.into()], elapsed.as_secs_f64());
}

/// The set-up of a data connection ended; `waited` is how long a transfer command waited for it.
pub fn data_connection(mode: DataMode, result: DataConnectionResult, waited: Duration) {
    table::DATA_CONNECTIONS.counter([mode.into(), result.into()]).increment(1);
    table::DATA_CONNECTION_WAIT.observe([mode.into()], waited.as_secs_f64());
}

/// No data connection, and no transfer command that waited for one: the client never came, or had no port to come to.
pub fn no_data_connection(mode: DataMode, result: DataConnectionResult) {
    table::DATA_CONNECTIONS.counter([mode.into(), result.into()]).increment(1);
}

/// A data connection came from an address that nobody waits for. It names no command, so it counts as PASV.
pub fn stranger() {
    table::DATA_CONNECTIONS.counter([DataMode::Pasv.into(), DataConnectionResult::WrongPeer.into()]).increment(1);
}

/// So many ports of the passive range are open for clients.
pub fn passive_ports(open: usize) {
    table::PASSIVE_PORTS.gauge([]).set(open as f64);
}

/// On so many ports of the passive range a client is expected.
pub fn passive_ports_in_use(in_use: usize) {
    table::PASSIVE_PORTS_IN_USE.gauge([]).set(in_use as f64);
}

/// So many bytes of file data are under way.
pub fn buffer_bytes(bytes: u64) {
    table::BUFFER_BYTES.gauge([]).set(bytes as f64);
}

/// So many may be, at most.
pub fn buffer_bytes_limit(bytes: usize) {
    table::BUFFER_BYTES_LIMIT.gauge([]).set(bytes as f64);
}

/// A transfer began. End the meter with [`TransferMeter::ended`].
pub fn transfer_started(direction: Direction) -> TransferMeter {
    table::TRANSFERS_ACTIVE.gauge([direction.into()]).increment(1.0);
    TransferMeter { direction, started: Instant::now(), client_bytes: 0, backend_bytes: 0, stalled: None }
}

/// Counts one transfer: as active until it is dropped, its bytes as they move, its end once.
#[derive(Debug)]
#[must_use = "the transfer is counted as active until the meter is dropped"]
pub struct TransferMeter {
    direction: Direction,
    started: Instant,
    client_bytes: u64,
    backend_bytes: u64,
    stalled: Option<Side>,
}

impl TransferMeter {
    /// No byte moves, and this side is waited for; `None`: they do again.
    pub fn stalled(&mut self, side: Option<Side>) {
        if self.stalled != side {
            for (side, change) in [(self.stalled, -1.0), (side, 1.0)] {
                if let Some(side) = side {
                    table::TRANSFER_STALLED.gauge([side.into()]).increment(change);
                }
            }
            self.stalled = side;
        }
    }

    /// Since it began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The first byte was on the data connection then.
    pub fn first_byte(&self, at: Instant) {
        let waited = at.saturating_duration_since(self.started);
        table::TRANSFER_FIRST_BYTE.observe([self.direction.into()], waited.as_secs_f64());
    }

    /// So many bytes moved on each leg since the transfer began. May be called as often as one likes, or never: the
    /// end counts what is still missing. Totals never go back.
    pub fn progress(&mut self, client_bytes: u64, backend_bytes: u64) {
        let count = |side: Side, counted: &mut u64, total: u64| {
            let more = total.saturating_sub(*counted);
            if more > 0 {
                table::TRANSFER_BYTES_TOTAL.counter([self.direction.into(), side.into()]).increment(more);
                *counted = total;
            }
        };
        count(Side::Client, &mut self.client_bytes, client_bytes);
        count(Side::Backend, &mut self.backend_bytes, backend_bytes);
    }

    /// The transfer ended, with the bytes of each leg from beginning to end.
    pub fn ended(mut self, backend: &str, result: TransferResult, client_bytes: u64, backend_bytes: u64) {
        self.progress(client_bytes, backend_bytes);
        let direction = self.direction;
        table::TRANSFERS.counter([direction.into(), backend.to_owned().into(), result.into()]).increment(1);
        table::TRANSFER_DURATION.observe([direction.into()], self.started.elapsed().as_secs_f64());
        if result == TransferResult::Success {
            backend_succeeded(backend);
            table::TRANSFER_SIZE.observe([direction.into()], client_bytes as f64);
        }
    }
}

impl Drop for TransferMeter {
    fn drop(&mut self) {
        self.stalled(None);
        table::TRANSFERS_ACTIVE.gauge([self.direction.into()]).decrement(1.0);
    }
}

/// An attempt to open an SFTP session on a backend ended; sets whether that backend is up.
pub fn backend_connect(backend: &str, result: BackendConnectResult) {
    table::BACKEND_CONNECTS.counter([backend.to_owned().into(), result.into()]).increment(1);
    match result {
        // A server that refuses credentials is there and speaks SSH.
        BackendConnectResult::Ok => {
            backend_up(backend, true);
            backend_succeeded(backend);
        }
        BackendConnectResult::Auth => backend_up(backend, true),
        BackendConnectResult::Dns
        | BackendConnectResult::Refused
        | BackendConnectResult::Timeout
        | BackendConnectResult::HostKey
        | BackendConnectResult::Protocol => backend_up(backend, false),
    }
}

/// One phase of connecting to a backend was completed.
pub fn backend_connect_phase(backend: &str, phase: ConnectPhase, elapsed: Duration) {
    table::BACKEND_CONNECT_DURATION.observe([backend.to_owned().into(), phase.into()], elapsed.as_secs_f64());
}

/// Whether a backend answers, seen by other means than connecting.
pub fn backend_up(backend: &str, up: bool) {
    table::BACKEND_UP.gauge([backend.to_owned().into()]).set(f64::from(u8::from(up)));
}

/// A backend is not in the configuration any more: nothing of it is to wake anybody. Its series stay until the process ends.
pub fn backend_gone(backend: &str) {
    backend_up(backend, true);
    backend_circuit_open(backend, false);
}

fn backend_succeeded(backend: &str) {
    table::BACKEND_LAST_SUCCESS.gauge([backend.to_owned().into()]).set(now());
}

/// Counts an SSH connection in the state it is in, until it is dropped.
#[derive(Debug)]
#[must_use = "the connection is counted until the guard is dropped"]
pub struct ConnectionGuard {
    backend: String,
    state: ConnectionState,
}

/// There is a connection to a backend, or there is going to be one.
pub fn backend_connection(backend: &str, state: ConnectionState) -> ConnectionGuard {
    let guard = ConnectionGuard { backend: backend.to_owned(), state };
    guard.gauge().increment(1.0);
    guard
}

impl ConnectionGuard {
    /// The connection does something else now.
    pub fn enter(&mut self, state: ConnectionState) {
        if self.state != state {
            self.gauge().decrement(1.0);
            self.state = state;
            self.gauge().increment(1.0);
        }
    }

    fn gauge(&self) -> metrics::Gauge {
        table::BACKEND_CONNECTIONS.gauge([self.backend.clone().into(), self.state.into()])
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.gauge().decrement(1.0);
    }
}

/// Whether a backend is not asked for a while.
pub fn backend_circuit_open(backend: &str, open: bool) {
    table::BACKEND_CIRCUIT_OPEN.gauge([backend.to_owned().into()]).set(f64::from(u8::from(open)));
}

/// Whether the gateway is stopping.
pub fn draining(draining: bool) {
    table::DRAINING.gauge([]).set(f64::from(u8::from(draining)));
}

/// A client was refused for what its TLS can do.
pub fn tls_refused(reason: TlsRefusal, version: OfferedVersion, suite: OfferedSuite) {
    table::TLS_REFUSED.counter([reason.into(), version.into(), suite.into()]).increment(1);
}

/// What had changed in the files was taken over, or not.
pub fn reload(object: ReloadObject, result: ReloadResult) {
    table::RELOADS.counter([object.into(), result.into()]).increment(1);
}

/// What is in use of this was read now.
pub fn loaded(object: ReloadObject) {
    table::RELOAD_LAST_SUCCESS.gauge([object.into()]).set(now());
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// A task was woken so much later than it asked for.
pub fn runtime_lag(lag: Duration) {
    table::RUNTIME_LAG.observe([], lag.as_secs_f64());
}

/// So many sessions ended this way while the gateway was stopping.
pub fn drained(outcome: DrainOutcome, sessions: usize) {
    table::DRAINED_SESSIONS.counter([outcome.into()]).increment(sessions as u64);
}

/// What became of an audit record.
pub fn audit_record(sink: AuditSink, result: AuditResult) {
    table::AUDIT_RECORDS.counter([sink.into(), result.into()]).increment(1);
}

/// A client used this.
pub fn legacy_use(feature: LegacyFeature) {
    table::LEGACY_USE.counter([feature.into()]).increment(1);
}

/// The users whose last login is told: configured ones, the first [`MAX_USERS`] that log in.
#[derive(Debug, Default)]
pub struct ToldUsers(Mutex<BTreeSet<String>>);

impl ToldUsers {
    /// A user entry's user logged in.
    pub fn logged_in(&self, user: &str) {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !users.contains(user) {
            if users.len() >= MAX_USERS {
                return;
            }
            users.insert(user.to_owned());
        }
        drop(users);
        table::USER_LAST_LOGIN.gauge([user.to_owned().into()]).set(now());
    }
}

/// Names that a listing left out, and names that it told in no charset.
pub fn listed(hostile: u64, unmapped: u64) {
    table::HOSTILE_NAMES.counter([]).increment(hostile);
    table::UNMAPPED_NAMES.counter([]).increment(unmapped);
}

/// A log record was lost.
pub fn log_record_dropped() {
    table::LOG_RECORDS_DROPPED.counter([]).increment(1);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// One event of every kind, on names of its own so that other tests of this process cannot disturb.
    fn everything_happens_once() {
        connection("in", ConnectionResult::Accepted);
        let mut session = session_started("in", SessionState::Handshake);
        session.enter(SessionState::Login);
        drop(session);
        tls_handshake(Channel::Control, TlsVersion::Tls13, HandshakeResult::Full, Duration::from_millis(3));
        login(LoginMethod::Password, LoginResult::Success);
        command("STOR", CommandGroup::Other, 226, Duration::from_millis(20));
        data_connection(DataMode::Epsv, DataConnectionResult::Ok, Duration::from_millis(1));
        passive_ports(48);
        passive_ports_in_use(1);
        buffer_bytes(1024);
        buffer_bytes_limit(2048);
        let mut transfer = transfer_started(Direction::Upload);
        transfer.progress(10, 5);
        transfer.first_byte(Instant::now());
        transfer.stalled(Some(Side::Client));
        transfer.ended("store", TransferResult::Success, 2048, 2048);
        backend_connect("store", BackendConnectResult::Ok);
        backend_connect_phase("store", ConnectPhase::KeyExchange, Duration::from_millis(30));
        drop(backend_connection("store", ConnectionState::Connecting));
        let requests = BackendRequests::new("store");
        requests.sent();
        requests.answered(SftpOperation::Read, SftpStatus::Eof, Duration::from_millis(1));
        sessions_limit("in", 1000);
        certificate_not_after("in", 1_900_000_000);
        runtime_lag(Duration::from_millis(1));
        drained(DrainOutcome::Clean, 1);
        audit_record(AuditSink::File, AuditResult::Ok);
        legacy_use(LegacyFeature::Tls12);
        ToldUsers::default().logged_in("acme");
        draining(false);
        tls_refused(TlsRefusal::Version, OfferedVersion::Tls10, OfferedSuite::Rsa);
        reload(ReloadObject::Tls, ReloadResult::Success);
        loaded(ReloadObject::Tls);
        listed(1, 1);
        log_record_dropped();
    }

    /// `# TYPE` and `# HELP` by name.
    fn declared(text: &str) -> BTreeMap<String, (Option<String>, Option<String>)> {
        let mut declared: BTreeMap<String, (Option<String>, Option<String>)> = BTreeMap::new();
        for line in text.lines() {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                assert_eq!(
                    declared.entry(name.to_owned()).or_default().0.replace(kind.to_owned()),
                    None,
                    "{name} twice"
                );
            }
            if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
                declared.entry(name.to_owned()).or_default().1 = Some(help.to_owned());
            }
        }
        declared
    }

    fn rows() -> impl Iterator<Item = &'static MetricRow> {
        TABLE.iter().chain(PROCESS)
    }

    #[test]
    fn the_table_and_the_exposition_say_the_same() {
        let exposition = install().unwrap();
        initialise(&["in"], &["store"]);
        everything_happens_once();
        let text = exposition.render();
        let declared = declared(&text);

        let expected: BTreeSet<&str> = rows().map(|row| row.name).collect();
        let shown: BTreeSet<&str> = declared.keys().map(String::as_str).collect();
        assert_eq!(shown, expected);
        for row in rows() {
            let (kind, help) = &declared[row.name];
            assert_eq!(kind.as_deref(), Some(row.kind.as_str()), "{}", row.name);
            assert_eq!(help.as_deref(), Some(row.help), "{}", row.name);
        }
        for sample in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let name = sample.split(['{', ' ']).next().unwrap();
            let row = rows().find(|row| {
                name == row.name
                    || matches!(row.kind, Kind::Histogram(_))
                        && ["_bucket", "_sum", "_count"].iter().any(|end| name.strip_suffix(end) == Some(row.name))
            });
            let row = row.unwrap_or_else(|| panic!("{sample} is in no row"));
            for label in row.labels {
                let value = sample.split_once(&format!("{}=\"", label.name)).unwrap().1.split('"').next().unwrap();
                if let Values::Closed(values) = label.values {
                    assert!(values.contains(&value), "{sample}");
                }
            }
            let labels = sample.matches("=\"").count() - sample.matches("le=\"").count();
            assert_eq!(labels, row.labels.len(), "{sample}");
        }
    }

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        let mut names = BTreeSet::new();
        for row in TABLE {
            assert!(row.name.starts_with("ftps2sftp_"), "{}", row.name);
        }
        for row in rows() {
            assert!(row.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{}", row.name);
            assert_eq!(row.name.ends_with("_total"), row.kind == Kind::Counter, "{}", row.name);
            for unit in ["_ms", "_milliseconds", "_minutes", "_kb", "_mb", "_percent"] {
                assert!(!row.name.contains(unit), "{}", row.name);
            }
            if let Kind::Histogram(buckets) = row.kind {
                assert!(row.name.ends_with("_seconds") || row.name.ends_with("_bytes"), "{}", row.name);
                assert!(buckets.is_sorted() && !buckets.is_empty(), "{}", row.name);
            }
            assert!(row.help.ends_with('.') && !row.help.contains(['\n', '\\']), "{}", row.name);
            assert!(names.insert(row.name), "{} twice", row.name);
            for label in row.labels {
                let is_opt_in = label.values == Values::User;
                assert!(
                    is_opt_in || !["user", "path", "ip", "address", "le", "session"].contains(&label.name),
                    "{}",
                    row.name
                );
            }
        }
    }

    #[test]
    fn what_an_alert_needs_is_there_before_the_first_event() {
        let exposition = install().unwrap();
        initialise(&["edge"], &["depot"]);
        let text = exposition.render();
        for series in [
            "ftps2sftp_transfers_total{direction=\"upload\",backend=\"depot\",result=\"backend_error\"} 0",
            "ftps2sftp_backend_connects_total{backend=\"depot\",result=\"host_key\"} 0",
            "ftps2sftp_sessions{listener=\"edge\",state=\"idle\"} 0",
            "ftps2sftp_data_connections_total{mode=\"pasv\",result=\"no_port\"} 0",
            "ftps2sftp_transfer_duration_seconds_count{direction=\"download\"} ",
        ] {
            assert!(text.contains(series), "{series} is missing in {text}");
        }
        // This would say that a backend is down.
        assert!(!text.contains("ftps2sftp_backend_up{backend=\"depot\"}"));
    }

    #[test]
    fn two_listeners_and_two_backends_stay_below_fifteen_hundred_series() {
        let series = |row: &MetricRow| {
            // Of all there could be of operations and answers, some sixty are ever seen.
            if row.name == table::BACKEND_REQUESTS.name {
                return 2 * 60;
            }
            let combinations: usize = row
                .labels
                .iter()
                .map(|label| match label.values {
                    Values::Closed(values) => values.len(),
                    Values::Listener | Values::Backend => 2,
                    Values::Verb => 60,
                    // Off unless asked for.
                    Values::User | Values::Build => 1,
                })
                .product();
            match row.kind {
                Kind::Counter | Kind::Gauge => combinations,
                Kind::Histogram(buckets) => combinations * (buckets.len() + 3),
            }
        };
        let all: usize = TABLE.iter().map(series).sum();
        assert!(all < 1500, "{all}");
    }

    #[test]
    fn the_last_logins_of_so_many_users_are_told_and_no_more() {
        let exposition = install().unwrap();
        let told = ToldUsers::default();
        (0..MAX_USERS + 500).for_each(|number| told.logged_in(&format!("capped-{number}")));
        let text = exposition.render();
        let series =
            text.lines().filter(|line| line.starts_with("ftps2sftp_user_last_login_") && line.contains("capped-"));
        assert_eq!(series.count(), MAX_USERS);
    }

    #[test]
    fn a_transfer_counts_each_byte_once_and_is_active_until_its_end() {
        let exposition = install().unwrap();
        let value = |series: &str| -> f64 {
            let text = exposition.render();
            text.lines().find_map(|line| line.strip_prefix(series)).map_or(0.0, |value| value.trim().parse().unwrap())
        };
        // Listings are used by no other test here.
        let bytes = "ftps2sftp_transfer_bytes_total{direction=\"list\",side=\"client\"}";
        let active = "ftps2sftp_transfers_active{direction=\"list\"}";
        let before = value(bytes);
        let mut meter = transfer_started(Direction::List);
        assert_eq!(value(active), 1.0);
        meter.progress(100, 90);
        meter.progress(100, 90);
        meter.progress(250, 90);
        assert_eq!(value(bytes) - before, 250.0);
        meter.ended("shelf", TransferResult::Success, 300, 90);
        assert_eq!(value(bytes) - before, 300.0);
        assert_eq!(value(active), 0.0);
        assert_eq!(value("ftps2sftp_transfers_total{direction=\"list\",backend=\"shelf\",result=\"success\"}"), 1.0);

        drop(transfer_started(Direction::List));
        assert_eq!(value(active), 0.0);
    }

    #[test]
    fn a_session_is_in_one_state_at_a_time() {
        let exposition = install().unwrap();
        let states = || -> Vec<String> {
            let text = exposition.render();
            let of_listener = text.lines().filter(|line| line.starts_with("ftps2sftp_sessions{listener=\"door\""));
            of_listener.filter(|line| line.ends_with(" 1")).map(str::to_owned).collect()
        };
        let mut session = session_started("door", SessionState::Login);
        session.enter(SessionState::Login);
        assert_eq!(states(), ["ftps2sftp_sessions{listener=\"door\",state=\"login\"} 1"]);
        session.enter(SessionState::Transfer);
        assert_eq!(states(), ["ftps2sftp_sessions{listener=\"door\",state=\"transfer\"} 1"]);
        drop(session);
        assert!(states().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn upkeep_ends_when_told() {
        let exposition = install().unwrap();
        let stop = CancellationToken::new();
        let upkeep = tokio::spawn({
            let stop = stop.clone();
            async move { exposition.upkeep(stop).await }
        });
        tokio::time::sleep(UPKEEP_INTERVAL * 3).await;
        assert!(!upkeep.is_finished());
        stop.cancel();
        upkeep.await.unwrap();
    }
}
