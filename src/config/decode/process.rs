//! What concerns the process as a whole: `limits`, `timeouts`, `shutdown`, `admin`, `log`, `audit`.

use std::net::SocketAddr;
use std::time::Duration;

use super::super::raw::Node;
use super::super::{Limits, Log, LogFormat, Shutdown, Timeouts, scalar};
use super::Report;
use super::cursor::Cursor;
use super::fields::{is_flag, is_null, is_number, is_word};

/// Most sessions that can be asked for: each has two or more sockets, and a process about a million of them.
const MAX_SESSIONS: u32 = 1_000_000;
/// Most failed logins on one control connection: beyond it the bound means nothing.
const MAX_FAILED_LOGINS: u32 = 1000;
/// Smallest transfer window: one request of the size OpenSSH takes (256 KiB) and no pipeline would still work.
const MIN_TRANSFER_WINDOW: usize = 256 * 1024;
/// Largest transfer window: 10 Gbit/s over 800 ms.
const MAX_TRANSFER_WINDOW: usize = 1024 * 1024 * 1024;
/// Shortest deadline for something a client does: below it honest clients fail.
const MIN_TIMEOUT: Duration = Duration::from_millis(100);

/// `limits`
pub(super) fn limits(cursor: Option<Cursor<'_>>, report: &mut Report) -> Limits {
    report.warn(
        "limits.failed_logins",
        "`per_ip`, `per_user`, `window` and `ban` are accepted but have no effect yet; `per_session` has",
    );
    report.warn("limits.commands_per_second", "is accepted but has no effect yet");
    let mut limits = Limits {
        sessions: 10_000,
        sessions_per_ip: 1000,
        failed_logins_per_session: 3,
        // Measured over 40 ms of round trip: half of it carries half as much, twice as much gains little.
        transfer_window: 8 * 1024 * 1024,
    };
    let Some(mut fields) = cursor.and_then(|cursor| cursor.fields(report)) else { return limits };
    let sessions = |cursor: &Cursor<'_>, report: &mut Report| {
        cursor.count(MAX_SESSIONS, report).and_then(|count| usize::try_from(count).ok())
    };
    limits.sessions = fields.or("sessions", limits.sessions, report, sessions);
    limits.sessions_per_ip = fields.or("sessions_per_ip", limits.sessions_per_ip, report, sessions);
    if let Some(mut fields) = fields.take("failed_logins").and_then(|cursor| cursor.fields(report)) {
        limits.failed_logins_per_session =
            fields.or("per_session", limits.failed_logins_per_session, report, |cursor, report| {
                cursor.count(MAX_FAILED_LOGINS, report)
            });
        fields.not_yet("per_ip", "20", is_number(20), report);
        fields.not_yet("per_user", "20", is_number(20), report);
        fields.not_yet("window", "5m", is_word("5m"), report);
        fields.not_yet("ban", "10m", is_word("10m"), report);
        fields.finish(report);
    }
    limits.transfer_window = fields.or("transfer_window", limits.transfer_window, report, |cursor, report| {
        cursor.size(MIN_TRANSFER_WINDOW, MAX_TRANSFER_WINDOW, report)
    });
    fields.not_yet("commands_per_second", "200", is_number(200), report);
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

/// `admin`
pub(super) fn admin(cursor: Option<Cursor<'_>>, report: &mut Report) -> Option<SocketAddr> {
    let default = Some(SocketAddr::from(([127, 0, 0, 1], 9105)));
    let Some(cursor) = cursor else { return default };
    if is_null(cursor.node) {
        cursor.wrong_with_hint("expected a mapping, found nothing", "`address: null` in it turns it off", report);
        return default;
    }
    let Some(mut fields) = cursor.fields(report) else { return default };
    let address = fields.or("address", default, report, |cursor, report| match cursor.node {
        Node::Null => Some(None),
        _ => cursor.parsed("an address such as 127.0.0.1:9105, or null", scalar::socket_address, report).map(Some),
    });
    fields.not_yet("readiness_needs_backend", "false", is_flag(false), report);
    fields.finish(report);
    address
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

/// `audit`
pub(super) fn audit(cursor: Option<Cursor<'_>>, report: &mut Report) {
    let Some(mut fields) = cursor.and_then(|cursor| cursor.fields(report)) else { return };
    fields.not_yet("path", "null: audit records go to the log", is_null, report);
    fields.not_yet("xferlog", "null", is_null, report);
    fields.finish(report);
}
