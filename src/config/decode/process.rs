//! What concerns the process as a whole: `limits`, `timeouts`, `shutdown`, `admin`, `log`, `audit`.

use std::net::SocketAddr;
use std::time::Duration;

use super::super::raw::Node;
use super::super::{Limits, Log, LogFormat, Shutdown, Timeouts, scalar};
use super::Report;
use super::cursor::Cursor;
use super::fields::{is_flag, is_null};

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
