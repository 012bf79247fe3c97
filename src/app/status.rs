//! What the status page and `/api/v1` tell.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::admin::{Readiness, Status};
use crate::session::activity::{Activity, Failure, SessionActivity};
use crate::session::services::{Realm, Services};
use crate::tls::ShownCertificate;
use crate::transfer::outcome::TransferKind;

use super::reload::Reports;

/// Version of the document; what is added to it does not change this.
const SCHEMA: u64 = 1;

const SECONDS_OF_A_DAY: f64 = 86_400.0;

/// The status of these services, told anew each time.
pub(super) fn source(services: Arc<Services>, readiness: Readiness, reports: Reports) -> Status {
    let began = Instant::now();
    Arc::new(move || {
        let sessions = services.activity.sessions();
        let transfers: Vec<Value> = sessions.iter().filter_map(transfer).collect();
        let certificates: Vec<Value> = services.tls.get().certificates().iter().map(certificate).collect();
        json!({
            "schema": SCHEMA,
            "version": env!("CARGO_PKG_VERSION"),
            "process": std::process::id(),
            "now": time(SystemTime::now()),
            "uptime_s": began.elapsed().as_secs(),
            "state": readiness.state().as_str(),
            "checks": readiness.checks().iter().map(|(check, passed)| json!({"check": check, "passed": passed})).collect::<Vec<_>>(),
            "sessions": sessions.iter().map(session).collect::<Vec<_>>(),
            "transfers": transfers,
            "backends": backends(&services.realm.get()),
            "certificates": certificates,
            "passive_ports": {"in_use": services.passive.in_use(), "total": services.passive_ports},
            "failures": failures(&services.activity),
            "reload": reports.last().map(|report| json!({
                "looks": report.looks,
                "at": time(report.at),
                "ok": report.problems.is_empty(),
                "changed": report.changed,
                "problems": report.problems,
            })),
        })
    })
}

fn session(session: &SessionActivity) -> Value {
    let (user, backend) = session.login.clone().unzip();
    json!({
        "id": session.id,
        "client": session.client.to_string(),
        "listener": session.listener,
        "tls": session.tls,
        "user": user,
        "backend": backend,
        "duration_s": seconds(session.since.elapsed()),
        "idle_s": seconds(session.last_command.elapsed()),
        "transfer": session.transfer.as_ref().map(|transfer| direction(transfer.kind)),
    })
}

fn transfer(session: &SessionActivity) -> Option<Value> {
    let transfer = session.transfer.as_ref()?;
    let (bytes, elapsed) = (transfer.progress.bytes(), transfer.since.elapsed().as_secs_f64());
    Some(json!({
        "session": session.id,
        "user": session.login.as_ref().map(|(user, _)| user),
        "direction": direction(transfer.kind),
        "path": transfer.path,
        "bytes": bytes,
        "size": transfer.size,
        "duration_s": seconds(transfer.since.elapsed()),
        "bytes_per_second": if elapsed > 0.0 { (bytes as f64 / elapsed).round() } else { 0.0 },
    }))
}

fn backends(realm: &Realm) -> Vec<Value> {
    let mut backends: Vec<_> = realm.targets.iter().collect();
    backends.sort_by_key(|(name, _)| name.as_str());
    let told = backends.into_iter().map(|(name, target)| {
        let target = target.get();
        let addresses: Vec<String> =
            target.backend().addresses.iter().map(|address| format!("{}:{}", address.host, address.port)).collect();
        json!({
            "name": name,
            "addresses": addresses,
            "up": target.seen().map(|seen| seen.is_up),
            "seen_s_ago": target.seen().map(|seen| seen.at.elapsed().as_secs()),
            "paused": target.is_asked().is_err(),
        })
    });
    told.collect()
}

fn certificate(certificate: &ShownCertificate) -> Value {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let not_after = jiff::Timestamp::from_second(certificate.not_after).map(|time| time.to_string());
    json!({
        "names": certificate.names,
        "not_after": not_after.unwrap_or_default(),
        "days_left": (certificate.not_after as f64 - now) / SECONDS_OF_A_DAY,
    })
}

fn failures(activity: &Activity) -> Vec<Value> {
    let told = activity.failures().into_iter().map(|Failure { at, session, client, user, what, count }| {
        let client = client.to_string();
        json!({"at": time(at), "session": session, "client": client, "user": user, "what": what, "count": count})
    });
    told.collect()
}

fn direction(kind: TransferKind) -> &'static str {
    match kind {
        TransferKind::Upload => "upload",
        TransferKind::Download => "download",
        TransferKind::Listing => "list",
    }
}

/// To a thousandth.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

/// RFC 3339, UTC, whole seconds.
fn time(at: SystemTime) -> String {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}
