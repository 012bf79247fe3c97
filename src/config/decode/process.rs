//! What concerns the process as a whole: `limits`, `timeouts`, `shutdown`, `admin`, `metrics`, `log`,
//! `traces`, `audit`.

use std::net::SocketAddr;
use std::time::Duration;

use super::super::error::Problem;
use super::super::raw::Node;
use super::super::{Audit, Limits, Log, LogFormat, Shutdown, Timeouts, Traces, scalar};
use super::Report;
use super::cursor::Cursor;
use super::fields::is_null;

/// Most sessions that can be asked for: each has two or more sockets, and a process about a million of them.
const MAX_SESSIONS: u32 = 1_000_000;
/// Most failed logins on one control connection: beyond it the bound means nothing.
const MAX_FAILED_LOGINS: u32 = 1000;
/// Shortest window and ban: below it nothing is counted and nobody is refused.
const MIN_BAN: Duration = Duration::from_secs(1);
/// Most commands per second that can be asked for: what one session can be served at all.
const MAX_COMMANDS_PER_SECOND: u32 = 1_000_000;
/// Smallest transfer window: one request of the size OpenSSH takes (256 KiB) and no pipeline would still work.
const MIN_TRANSFER_WINDOW: usize = 256 * 1024;
/// Largest transfer window: 10 Gbit/s over 800 ms.
const MAX_TRANSFER_WINDOW: usize = 1024 * 1024 * 1024;
/// Shortest deadline for something a client does: below it honest clients fail.
const MIN_TIMEOUT: Duration = Duration::from_millis(100);

/// Smallest size at which an audit file is moved away: a file for each record helps nobody.
const MIN_AUDIT_SIZE: usize = 64 * 1024;
/// Some hundred thousand records.
const DEFAULT_AUDIT_SIZE: u64 = 100 * 1024 * 1024;
const DEFAULT_AUDIT_FILES: u32 = 10;
/// Most that can be asked for: each is renamed when one is moved away.
const MAX_AUDIT_FILES: u32 = 1000;

/// `limits`
pub(super) fn limits(cursor: Option<Cursor<'_>>, report: &mut Report) -> Limits {
    let mut limits = Limits::default();
    let Some(mut fields) = cursor.and_then(|cursor| cursor.fields(report)) else { return limits };
    let sessions = |cursor: &Cursor<'_>, report: &mut Report| {
        cursor.count(MAX_SESSIONS, report).and_then(|count| usize::try_from(count).ok())
    };
    limits.sessions = fields.or("sessions", limits.sessions, report, sessions);
    limits.sessions_per_ip = fields.or("sessions_per_ip", limits.sessions_per_ip, report, sessions);
    if let Some(mut fields) = fields.take("failed_logins").and_then(|cursor| cursor.fields(report)) {
        let failed = &mut limits.failed_logins;
        let count = |cursor: &Cursor<'_>, report: &mut Report| cursor.count(MAX_FAILED_LOGINS, report);
        failed.per_session = fields.or("per_session", failed.per_session, report, count);
        for (key, bound) in [("per_ip", &mut failed.per_ip), ("per_user", &mut failed.per_user)] {
            *bound = fields.or(key, *bound, report, |cursor, report| match cursor.node {
                Node::Null => Some(None),
                _ => count(cursor, report).map(Some),
            });
        }
        for (key, duration) in [("window", &mut failed.window), ("ban", &mut failed.ban)] {
            *duration = fields.or(key, *duration, report, |cursor, report| cursor.duration(MIN_BAN, report));
        }
        fields.finish(report);
    }
    limits.transfer_window = fields.or("transfer_window", limits.transfer_window, report, |cursor, report| {
        cursor.size(MIN_TRANSFER_WINDOW, MAX_TRANSFER_WINDOW, report)
    });
    limits.commands_per_second =
        fields.or("commands_per_second", limits.commands_per_second, report, |cursor, report| {
            cursor.count(MAX_COMMANDS_PER_SECOND, report)
        });
    fields.finish(report);
    limits
}

/// `timeouts`
pub(super) fn timeouts(cursor: Option<Cursor<'_>>, report: &mut Report) -> Timeouts {
    let seconds = Duration::from_secs;
    let mut timeouts = Timeouts {
        tls_handshake: seconds(10),
        login: seconds(60),
        idle: seconds(300),
        data_connect: seconds(30),
        data_idle: seconds(120),
    };
    let Some(mut fields) = cursor.and_then(|cursor| cursor.fields(report)) else { return timeouts };
    for (key, timeout) in [
        ("tls_handshake", &mut timeouts.tls_handshake),
        ("login", &mut timeouts.login),
        ("idle", &mut timeouts.idle),
        ("data_connect", &mut timeouts.data_connect),
        ("data_idle", &mut timeouts.data_idle),
    ] {
        *timeout = fields.or(key, *timeout, report, |cursor, report| cursor.duration(MIN_TIMEOUT, report));
    }
    fields.finish(report);
    timeouts
}

/// `shutdown`
pub(super) fn shutdown(cursor: Option<Cursor<'_>>, report: &mut Report) -> Shutdown {
    let mut shutdown = Shutdown { delay: Duration::ZERO, drain: Duration::from_secs(300) };
    let Some(mut fields) = cursor.and_then(|cursor| cursor.fields(report)) else { return shutdown };
    for (key, duration) in [("delay", &mut shutdown.delay), ("drain", &mut shutdown.drain)] {
        *duration = fields.or(key, *duration, report, |cursor, report| cursor.duration(Duration::ZERO, report));
    }
    fields.finish(report);
    shutdown
}

/// `admin`: its address, and whether readiness needs a backend.
pub(super) fn admin(cursor: Option<Cursor<'_>>, report: &mut Report) -> (Option<SocketAddr>, bool) {
    let default = Some(SocketAddr::from(([127, 0, 0, 1], 9105)));
    let Some(cursor) = cursor else { return (default, false) };
    if is_null(cursor.node) {
        cursor.wrong_with_hint("expected a mapping, found nothing", "`address: null` in it turns it off", report);
        return (default, false);
    }
    let Some(mut fields) = cursor.fields(report) else { return (default, false) };
    let address = fields.or("address", default, report, |cursor, report| match cursor.node {
        Node::Null => Some(None),
        _ => cursor.parsed("an address such as 127.0.0.1:9105, or null", scalar::socket_address, report).map(Some),
    });
    let needs_backend = fields.or("readiness_needs_backend", false, report, |cursor, report| cursor.flag(report));
    fields.finish(report);
    (address, needs_backend)
}

/// `metrics`: are last logins told for each user?
pub(super) fn metrics(cursor: Option<Cursor<'_>>, report: &mut Report) -> bool {
    let Some(mut fields) = cursor.and_then(|cursor| cursor.fields(report)) else { return false };
    let per_user = fields.or("per_user", false, report, |cursor, report| cursor.flag(report));
    fields.finish(report);
    per_user
}

/// `log`
pub(super) fn log(cursor: Option<Cursor<'_>>, report: &mut Report) -> Log {
    let mut log = Log { format: LogFormat::Auto, level: "info".to_owned() };
    let Some(mut fields) = cursor.and_then(|cursor| cursor.fields(report)) else { return log };
    log.format = fields.or("format", log.format, report, |cursor, report| {
        let choices = [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
        cursor.choice(&choices, report)
    });
    log.level = fields.or("level", log.level, report, |cursor, report| match cursor.node {
        Node::Flag(false) => Some("off".to_owned()),
        _ => cursor.parsed("a log level", scalar::log_level, report),
    });
    fields.finish(report);
    log
}

/// `traces`
pub(super) fn traces(cursor: Option<Cursor<'_>>, report: &mut Report) -> Traces {
    let mut traces = Traces::default();
    let Some(mut fields) = cursor.and_then(|cursor| cursor.fields(report)) else { return traces };
    traces.endpoint = fields.or("endpoint", None, report, |cursor, report| {
        if is_null(cursor.node) {
            return Some(None);
        }
        // SECURITY: not shown.
        if matches!(cursor.node, Node::Text(text) if text.value().is_some_and(scalar::has_credentials)) {
            let hint = "the environment's OTEL_EXPORTER_OTLP_HEADERS takes them";
            cursor.wrong_with_hint("may hold no credentials", hint, report);
            return None;
        }
        let endpoint = cursor.parsed("the URL of a collector, or null", scalar::collector, report)?;
        if !cfg!(feature = "otlp") {
            cursor.wrong_with_hint(
                "asks for traces, which were not built in",
                "build it with `--features otlp`",
                report,
            );
            return None;
        }
        Some(Some(endpoint))
    });
    fields.finish(report);
    traces
}

/// `audit`
pub(super) fn audit(cursor: Option<Cursor<'_>>, report: &mut Report) -> Audit {
    let mut audit = Audit { max_size: Some(DEFAULT_AUDIT_SIZE), keep: DEFAULT_AUDIT_FILES, ..Audit::default() };
    let Some(mut fields) = cursor.and_then(|cursor| cursor.fields(report)) else { return audit };
    for (key, path) in [("path", &mut audit.path), ("xferlog", &mut audit.xferlog)] {
        *path = fields.or(key, None, report, |cursor, report| match cursor.node {
            Node::Null => Some(None),
            _ => cursor.path("the path of a file, or null", report).map(Some),
        });
    }
    if audit.path.is_some() && audit.path == audit.xferlog {
        report.problem(Problem::new("audit.xferlog", "is the same file as `audit.path`").hint("give each its own"));
    }
    audit.max_size = fields.or("max_size", audit.max_size, report, |cursor, report| match cursor.node {
        Node::Null => Some(None),
        _ => cursor.size(MIN_AUDIT_SIZE, usize::MAX, report).map(|size| Some(size as u64)),
    });
    audit.keep = fields.or("keep", audit.keep, report, |cursor, report| cursor.count(MAX_AUDIT_FILES, report));
    fields.finish(report);
    audit
}
