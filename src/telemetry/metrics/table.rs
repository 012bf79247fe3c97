//! The table of metrics: every name, kind, label, bucket and help text there is.
//!
//! A new metric is a row here and a function in [`super`] that takes its labels as types.

use super::labels::{
    AuditResult, AuditSink, BackendConnectResult, Channel, CommandGroup, ConnectPhase, ConnectionResult,
    ConnectionState, DataConnectionResult, DataMode, Direction, DrainOutcome, HandshakeResult, LegacyFeature,
    LoginMethod, LoginResult, OfferedSuite, OfferedVersion, ReloadObject, ReloadResult, ReplyClass, RequestClass,
    SessionState, SftpOperation, SftpStatus, Side, TlsRefusal, TlsVersion, TransferResult,
};

/// One metric.
#[derive(Debug)]
pub struct MetricRow {
    /// Full name.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// One sentence for people.
    pub help: &'static str,
    /// Its labels, in the order the values are given.
    pub labels: &'static [Label],
    /// Shown with 0 before the first event, so that `rate()` sees the first one. Not for gauges whose 0 would say
    /// something untrue.
    pub from_start: bool,
}

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations into these buckets (upper bounds, in the metric's unit).
    Histogram(&'static [f64]),
}

impl Kind {
    /// The word in the `# TYPE` line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// One label of a metric.
#[derive(Debug)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// What it may say.
    pub values: Values,
}

/// What a label may say. Never a user, a path or an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// One of these.
    Closed(&'static [&'static str]),
    /// The name of a configured listener.
    Listener,
    /// The name of a configured backend.
    Backend,
    /// A verb of the command table, or `OTHER`.
    Verb,
    /// The name of a configured user, as many as [`super::MAX_USERS`], where that is asked for.
    User,
    /// A fact about the build.
    Build,
}

const fn closed(name: &'static str, values: &'static [&'static str]) -> Label {
    Label { name, values: Values::Closed(values) }
}

const fn counter(name: &'static str, help: &'static str, labels: &'static [Label]) -> MetricRow {
    MetricRow { name, kind: Kind::Counter, help, labels, from_start: true }
}

const fn gauge(name: &'static str, help: &'static str, labels: &'static [Label]) -> MetricRow {
    MetricRow { name, kind: Kind::Gauge, help, labels, from_start: true }
}

const fn histogram(
    name: &'static str,
    help: &'static str,
    labels: &'static [Label],
    buckets: &'static [f64],
) -> MetricRow {
    MetricRow { name, kind: Kind::Histogram(buckets), help, labels, from_start: true }
}

impl MetricRow {
    /// Not shown before it is set.
    const fn once_known(mut self) -> Self {
        self.from_start = false;
        self
    }
}

/// Every metric as a Markdown table: deploy/metrics.md.
pub fn markdown() -> String {
    let mut text = "| Metric | Kind | Labels | Meaning |\n|---|---|---|---|\n".to_owned();
    for row in TABLE.iter().chain(super::process::PROCESS) {
        let label = |label: &Label| match label.values {
            Values::Closed(values) => format!("`{}`: {}", label.name, values.join(", ")),
            Values::Listener => format!("`{}`: as configured", label.name),
            Values::Backend => format!("`{}`: as configured", label.name),
            Values::Verb => format!("`{}`: a verb of the command table, or OTHER", label.name),
            Values::User => format!("`{}`: a configured user", label.name),
            Values::Build => format!("`{}`", label.name),
        };
        let labels: Vec<String> = row.labels.iter().map(label).collect();
        let kind = match row.kind {
            Kind::Histogram(buckets) => {
                let bounds: Vec<String> = buckets.iter().map(ToString::to_string).collect();
                format!("histogram ({})", bounds.join(", "))
            }
            Kind::Counter | Kind::Gauge => row.kind.as_str().to_owned(),
        };
        text.push_str(&format!("| `{}` | {kind} | {} | {} |\n", row.name, labels.join("; "), row.help));
    }
    text
}

const LISTENER: Label = Label { name: "listener", values: Values::Listener };
const BACKEND: Label = Label { name: "backend", values: Values::Backend };
const DIRECTION: Label = closed("direction", Direction::VALUES);
const MODE: Label = closed("mode", DataMode::VALUES);
const CHANNEL: Label = closed("channel", Channel::VALUES);

/// From one poll interval of a monitor to a working day.
const SESSION_SECONDS: &[f64] = &[1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0];
const HANDSHAKE_SECONDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
const COMMAND_SECONDS: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const WAIT_SECONDS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 30.0];
const TRANSFER_SECONDS: &[f64] = &[0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0];
const FIRST_BYTE_SECONDS: &[f64] = &[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const REQUEST_SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const LAG_SECONDS: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0];
const CONNECT_SECONDS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// 1 KiB, 64 KiB, 1, 16 and 256 MiB, 1, 4 and 16 GiB.
const TRANSFER_BYTES: &[f64] =
    &[1024.0, 65_536.0, 1_048_576.0, 16_777_216.0, 268_435_456.0, 1_073_741_824.0, 4_294_967_296.0, 17_179_869_184.0];

macro_rules! table {
    ($($row:ident = $value:expr;)+) => {
        $(pub(super) const $row: MetricRow = $value;)+

        /// Every metric of the gateway itself.
        pub const TABLE: &[MetricRow] = &[$($row),+];
    };
}

table! {
    BUILD_INFO = gauge(
        "ftps2sftp_build_info",
        "The running build; always 1.",
        &[
            Label { name: "version", values: Values::Build },
            Label { name: "revision", values: Values::Build },
            Label { name: "tls_provider", values: Values::Build },
        ],
    );
    CONNECTIONS = counter(
        "ftps2sftp_connections_total",
        "Control connections that reached a listener, by what became of them.",
        &[LISTENER, closed("result", ConnectionResult::VALUES)],
    );
    SESSIONS = gauge(
        "ftps2sftp_sessions",
        "Control sessions open now, by what they are doing.",
        &[LISTENER, closed("state", SessionState::VALUES)],
    );
    SESSIONS_LIMIT = gauge("ftps2sftp_sessions_limit", "Control sessions that may be open, on all listeners together.", &[LISTENER])
        .once_known();
    SESSION_DURATION = histogram(
        "ftps2sftp_session_duration_seconds",
        "How long control sessions lasted.",
        &[LISTENER],
        SESSION_SECONDS,
    );
    TLS_HANDSHAKES = counter(
        "ftps2sftp_tls_handshakes_total",
        "TLS handshakes with clients, by connection, version and how they ended.",
        &[CHANNEL, closed("version", TlsVersion::VALUES), closed("result", HandshakeResult::VALUES)],
    );
    TLS_REFUSED = counter(
        "ftps2sftp_tls_refused_total",
        "Clients whose TLS cannot be served, by why, and by the best version and cipher suite that they offer.",
        &[
            closed("reason", TlsRefusal::VALUES),
            closed("version", OfferedVersion::VALUES),
            closed("suite", OfferedSuite::VALUES),
        ],
    )
    .once_known();
    TLS_HANDSHAKE_DURATION = histogram(
        "ftps2sftp_tls_handshake_duration_seconds",
        "How long TLS handshakes with clients took.",
        &[CHANNEL],
        HANDSHAKE_SECONDS,
    );
    CERTIFICATE_NOT_AFTER = gauge(
        "ftps2sftp_tls_certificate_not_after_timestamp_seconds",
        "When the first of the listener's certificates stops being valid.",
        &[LISTENER],
    )
    .once_known();
    LOGINS = counter(
        "ftps2sftp_logins_total",
        "Login attempts, by method and how they ended.",
        &[closed("method", LoginMethod::VALUES), closed("result", LoginResult::VALUES)],
    );
    COMMANDS = counter(
        "ftps2sftp_commands_total",
        "FTP commands, by verb and class of the final reply.",
        &[Label { name: "command", values: Values::Verb }, closed("reply", ReplyClass::VALUES)],
    );
    COMMAND_DURATION = histogram(
        "ftps2sftp_command_duration_seconds",
        "From a command's line to its final reply.",
        &[closed("group", CommandGroup::VALUES)],
        COMMAND_SECONDS,
    );
    DATA_CONNECTIONS = counter(
        "ftps2sftp_data_connections_total",
        "Data connections asked for, by the command that did and how their set-up ended.",
        &[MODE, closed("result", DataConnectionResult::VALUES)],
    );
    DATA_CONNECTION_WAIT = histogram(
        "ftps2sftp_data_connection_wait_seconds",
        "How long transfers waited for their data connection.",
        &[MODE],
        WAIT_SECONDS,
    );
    PASSIVE_PORTS = gauge("ftps2sftp_passive_ports", "Ports of the passive range that are open for clients.", &[]);
    PASSIVE_PORTS_IN_USE = gauge(
        "ftps2sftp_passive_ports_in_use",
        "Ports of the passive range on which a client is expected.",
        &[],
    );
    BUFFER_BYTES = gauge(
        "ftps2sftp_buffer_bytes",
        "File data of transfers that is held or was asked of a backend and may come at any time.",
        &[],
    );
    BUFFER_BYTES_LIMIT = gauge(
        "ftps2sftp_buffer_bytes_limit",
        "What buffer_bytes can be at most: a window for each session that may be.",
        &[],
    );
    TRANSFERS_ACTIVE = gauge("ftps2sftp_transfers_active", "Transfers running now.", &[DIRECTION]);
    TRANSFERS = counter(
        "ftps2sftp_transfers_total",
        "Transfers that ended, by how.",
        &[DIRECTION, BACKEND, closed("result", TransferResult::VALUES)],
    );
    TRANSFER_BYTES_TOTAL = counter(
        "ftps2sftp_transfer_bytes_total",
        "Bytes of file contents and listings, on the client's leg and on the backend's.",
        &[DIRECTION, closed("side", Side::VALUES)],
    );
    TRANSFER_DURATION = histogram(
        "ftps2sftp_transfer_duration_seconds",
        "How long transfers took, failed ones included.",
        &[DIRECTION],
        TRANSFER_SECONDS,
    );
    TRANSFER_SIZE = histogram(
        "ftps2sftp_transfer_size_bytes",
        "Bytes a successful transfer carried on the client's leg.",
        &[DIRECTION],
        TRANSFER_BYTES,
    );
    TRANSFER_FIRST_BYTE = histogram(
        "ftps2sftp_transfer_first_byte_seconds",
        "From the beginning of a transfer to the first byte on its data connection.",
        &[DIRECTION],
        FIRST_BYTE_SECONDS,
    );
    TRANSFER_STALLED = gauge(
        "ftps2sftp_transfer_stalled",
        "Transfers on which no byte has moved for a minute, by who is waited for.",
        &[closed("side", Side::VALUES)],
    );
    BACKEND_UP = gauge(
        "ftps2sftp_backend_up",
        "Whether the backend answered as an SFTP server when it was last used; absent before the first use.",
        &[BACKEND],
    )
    .once_known();
    BACKEND_LAST_SUCCESS = gauge(
        "ftps2sftp_backend_last_success_timestamp_seconds",
        "When the backend last let somebody in, or stored or gave a file.",
        &[BACKEND],
    )
    .once_known();
    BACKEND_CONNECTIONS = gauge(
        "ftps2sftp_backend_connections",
        "SSH connections to the backend, by what they are doing.",
        &[BACKEND, closed("state", ConnectionState::VALUES)],
    );
    BACKEND_CONNECTS = counter(
        "ftps2sftp_backend_connects_total",
        "Attempts to open an SFTP session on a backend, by how they ended.",
        &[BACKEND, closed("result", BackendConnectResult::VALUES)],
    );
    BACKEND_CONNECT_DURATION = histogram(
        "ftps2sftp_backend_connect_duration_seconds",
        "How long each phase of connecting to a backend took.",
        &[BACKEND, closed("phase", ConnectPhase::VALUES)],
        CONNECT_SECONDS,
    );
    BACKEND_REQUESTS = counter(
        "ftps2sftp_backend_requests_total",
        "SFTP requests, by how the backend answered.",
        &[BACKEND, closed("op", SftpOperation::VALUES), closed("status", SftpStatus::VALUES)],
    )
    .once_known();
    BACKEND_REQUEST_DURATION = histogram(
        "ftps2sftp_backend_request_duration_seconds",
        "From an SFTP request to its answer; many are under way at a time.",
        &[BACKEND, closed("class", RequestClass::VALUES)],
        REQUEST_SECONDS,
    );
    BACKEND_REQUESTS_IN_FLIGHT = gauge(
        "ftps2sftp_backend_requests_in_flight",
        "SFTP requests that the backend has not answered.",
        &[BACKEND],
    );
    BACKEND_CIRCUIT_OPEN = gauge(
        "ftps2sftp_backend_circuit_open",
        "1 while logins fail at once because no address of the backend answered, again and again; else 0.",
        &[BACKEND],
    );
    RUNTIME_LAG = histogram(
        "ftps2sftp_runtime_lag_seconds",
        "How much later than asked for a task was woken: what the processor is short of.",
        &[],
        LAG_SECONDS,
    );
    DRAINED_SESSIONS = counter(
        "ftps2sftp_drained_sessions_total",
        "Sessions that were open when the gateway was told to stop, by how they ended.",
        &[closed("outcome", DrainOutcome::VALUES)],
    );
    DRAINING = gauge("ftps2sftp_draining", "1 from the signal to stop on, else 0.", &[]);
    RELOADS = counter(
        "ftps2sftp_reloads_total",
        "Times that something in the files had changed and was read again, by what it was and how that ended.",
        &[closed("object", ReloadObject::VALUES), closed("result", ReloadResult::VALUES)],
    );
    RELOAD_LAST_SUCCESS = gauge(
        "ftps2sftp_reload_last_success_timestamp_seconds",
        "When what is in use was read.",
        &[closed("object", ReloadObject::VALUES)],
    );
    HOSTILE_NAMES = counter(
        "ftps2sftp_hostile_names_total",
        "Names that a backend listed and that were left out of a listing because they could forge one.",
        &[],
    );
    UNMAPPED_NAMES = counter(
        "ftps2sftp_unmapped_names_total",
        "Names that a listing told as they are, because the client's charset does not have them.",
        &[],
    );
    AUDIT_RECORDS = counter(
        "ftps2sftp_audit_records_total",
        "Audit records, by where they go and what became of them.",
        &[closed("sink", AuditSink::VALUES), closed("result", AuditResult::VALUES)],
    );
    LEGACY_USE = counter(
        "ftps2sftp_legacy_use_total",
        "Sessions in which a client used what a move to SFTP has to take care of; of `no_resumption` data connections.",
        &[closed("feature", LegacyFeature::VALUES)],
    );
    USER_LAST_LOGIN = gauge(
        "ftps2sftp_user_last_login_timestamp_seconds",
        "When a configured user last logged in; absent before the first time, and unless metrics.per_user is on.",
        &[Label { name: "user", values: Values::User }],
    )
    .once_known();
    LOG_RECORDS_DROPPED = counter(
        "ftps2sftp_log_records_dropped_total",
        "Log records lost because the log was not read in time.",
        &[],
    );
}
