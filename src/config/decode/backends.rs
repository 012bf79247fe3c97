//! `backends`: the SFTP servers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::algorithms::Algorithms;
use super::super::error::Problem;
use super::super::load::Material;
use super::super::raw::Node;
use super::super::{Backend, HostPort, Quirks, scalar};
use super::Report;
use super::algorithms::algorithms;
use super::cursor::Cursor;
use super::fields::{is_empty_list, is_null};
use super::login::mapped_login;
use super::words::{listed, nearest};

/// Most addresses of one backend: they are tried in order, each for `connect_timeout`.
const MAX_ADDRESSES: usize = 16;
/// The port of SSH (RFC 4253 §4.1).
const SSH_PORT: u16 = 22;
/// Shortest deadline: below it a loaded network alone fails logins.
const MIN_TIMEOUT: Duration = Duration::from_millis(100);

/// Shortest time before an idle session gives its channel back: below it, a client that thinks for a moment pays for a
/// login with every command.
const MIN_IDLE_RELEASE: Duration = Duration::from_secs(1);

/// Every name that is written, with its backend where that is without mistakes.
pub(super) type Backends = BTreeMap<String, Option<Arc<Backend>>>;

/// `backends`
pub(super) fn backends(cursor: &Cursor<'_>, report: &mut Report) -> Backends {
    let entries = match cursor.node {
        Node::Null => Vec::new(),
        _ => match cursor.named(report) {
            Some(entries) => entries,
            None => return Backends::new(),
        },
    };
    if entries.is_empty() {
        cursor.wrong_with_hint("holds no backend", "name one, with an `address` and `known_hosts`", report);
    }
    let mut backends = Backends::new();
    let mut jumps = Vec::new();
    for (name, cursor) in entries {
        if name.is_empty() || name.chars().any(char::is_control) {
            cursor.wrong("is not a name", report);
        }
        let mut links = Links { name, jump: None, login: None };
        let backend = backend(name, &cursor, &mut links, report);
        backends.insert(name.to_owned(), backend.map(Arc::new));
        jumps.push(links);
    }
    check_jumps(&jumps, report);
    backends
}

/// What an entry says about others.
struct Links<'n> {
    name: &'n str,
    /// The name of another entry, and where it stands.
    jump: Option<(&'n str, Cursor<'n>)>,
    /// Where its `login` stands.
    login: Option<Cursor<'n>>,
}

/// Every jump host exists, has a login, and is not reached through whom it leads to.
fn check_jumps(links: &[Links<'_>], report: &mut Report) {
    let find = |name: &str| links.iter().find(|link| link.name == name);
    for link in links {
        let Some((jump, cursor)) = &link.jump else { continue };
        let Some(host) = find(jump) else {
            let what = format!("no backend is named {}", cursor.shown());
            let names = || links.iter().map(|link| link.name);
            match nearest(jump, names()) {
                Some((name, true)) => cursor.wrong_with_hint(what, format!("did you mean `{name}`?"), report),
                _ => cursor.wrong_with_hint(what, format!("there are {}", listed(names().take(20))), report),
            }
            continue;
        };
        let mut way = vec![link.name];
        let mut next = Some(host);
        while let Some(host) = next {
            way.push(host.name);
            if host.name == link.name || way.len() > links.len() {
                break;
            }
            next = host.jump.as_ref().and_then(|(jump, _)| find(jump));
        }
        if way.last() == Some(&link.name) {
            let way: Vec<String> = way.into_iter().map(|name| format!("`{name}`")).collect();
            cursor.wrong_with_hint(
                format!("leads in a circle: {}", way.join(" → ")),
                "one of them must be reached without the others",
                report,
            );
        } else if host.login.is_none() {
            cursor.wrong_with_hint(
                format!("{} has no `login`", cursor.shown()),
                format!(
                    "backends.{jump}.login says who the gateway is there; it has the same keys as a user's `login`"
                ),
                report,
            );
        }
    }
    for link in links {
        if let Some(login) = &link.login
            && !links.iter().any(|other| other.jump.as_ref().is_some_and(|(jump, _)| *jump == link.name))
        {
            report.warn(&login.at, "has no effect: no backend names this one as its `jump`");
        }
    }
}

fn backend<'n>(name: &str, cursor: &Cursor<'n>, links: &mut Links<'n>, report: &mut Report) -> Option<Backend> {
    let mut fields = cursor.fields(report)?;
    let address = fields.require("address", "the host and port of the SFTP server, such as sftp.internal:22");
    let addresses = address.and_then(|cursor| addresses(&cursor, report));
    let known_hosts_cursor = fields.take_some("known_hosts");
    let known_hosts = known_hosts_cursor.as_ref().and_then(|cursor| {
        let path = cursor.file(report)?;
        report.materials.push(Material::KnownHosts { at: cursor.at.clone(), path: path.clone() });
        Some(path)
    });
    let host_keys_cursor = fields.take("host_keys");
    let host_keys = host_keys_cursor.as_ref().map(|cursor| host_keys(cursor, report));
    let has_no_host_key = host_keys_cursor.is_none_or(|cursor| is_empty_list(cursor.node) || is_null(cursor.node));
    let seconds = Duration::from_secs;
    let mut duration =
        |key, default| fields.or(key, default, report, |cursor, report| cursor.duration(MIN_TIMEOUT, report));
    let keepalive = duration("keepalive", seconds(15));
    let connect_timeout = duration("connect_timeout", seconds(10));
    let request_timeout = duration("request_timeout", seconds(30));
    let algorithms = fields.or("algorithms", Algorithms::modern(), report, algorithms);
    let shared = fields.or("connections", false, report, |cursor, report| {
        cursor.choice(&[("per-session", false), ("shared", true)], report)
    });
    let idle_release = fields.take_some("idle_release").and_then(|cursor| cursor.duration(MIN_IDLE_RELEASE, report));
    links.jump =
        fields.take_some("jump").and_then(|cursor| Some((cursor.name("the name of a backend", report)?, cursor)));
    links.login = fields.take_some("login");
    let login = links.login.as_ref().map(|cursor| mapped_login(cursor, report));
    let quirks = fields.or("quirks", Quirks::default(), report, |cursor, report| Some(quirks(cursor, report)));
    if known_hosts_cursor.is_none() && has_no_host_key && !fields.is_misspelt(&["known_hosts", "host_keys"]) {
        let hint = scan_hint(addresses.as_deref().unwrap_or_default());
        report.problem(
            Problem::new(format!("{}.known_hosts", cursor.at), "is missing, and so is `host_keys`").hint(hint),
        );
    }
    fields.finish(report);
    Some(Backend {
        name: name.to_owned(),
        addresses: addresses?,
        known_hosts,
        host_keys: host_keys.unwrap_or_default(),
        keepalive,
        connect_timeout,
        request_timeout,
        quirks,
        shared,
        idle_release,
        algorithms,
        jump: links.jump.as_ref().map(|(jump, _)| (*jump).to_owned()),
        login: login.map_or(Some(None), |login| login.map(Some))?,
    })
}

type SetQuirk = fn(&mut Quirks);

fn quirks(cursor: &Cursor<'_>, report: &mut Report) -> Quirks {
    let mut quirks = Quirks::default();
    if is_null(cursor.node) {
        return quirks;
    }
    for item in cursor.list("a list of quirks", report).unwrap_or_default() {
        let choices: [(&str, SetQuirk); 5] = [
            ("no-rename", |quirks| quirks.no_rename = true),
            ("no-setstat", |quirks| quirks.no_setstat = true),
            ("no-fsync", |quirks| quirks.no_fsync = true),
            ("no-stat-after-close", |quirks| quirks.no_stat_after_close = true),
            ("no-append", |quirks| quirks.no_append = true),
        ];
        if let Some(set) = item.choice(&choices, report) {
            set(&mut quirks);
        }
    }
    quirks
}

/// One address, or a list of them.
fn addresses(cursor: &Cursor<'_>, report: &mut Report) -> Option<Vec<HostPort>> {
    const EXPECTED: &str = "an address such as sftp.internal:22";
    let one = |cursor: &Cursor<'_>, report: &mut Report| {
        cursor.parsed(EXPECTED, |text| scalar::host_port(text, SSH_PORT), report)
    };
    if !matches!(cursor.node, Node::List(_)) {
        return one(cursor, report).map(|address| vec![address]);
    }
    let items = cursor.list(EXPECTED, report)?;
    if items.is_empty() {
        cursor.wrong("holds no address", report);
        return None;
    }
    if items.len() > MAX_ADDRESSES {
        cursor.wrong(format!("holds more than {MAX_ADDRESSES} addresses"), report);
        return None;
    }
    let addresses: Vec<_> = items.iter().map(|item| one(item, report)).collect();
    addresses.into_iter().collect()
}

fn host_keys(cursor: &Cursor<'_>, report: &mut Report) -> Vec<[u8; 32]> {
    if is_null(cursor.node) {
        return Vec::new();
    }
    let items = cursor.list("a list of fingerprints", report).unwrap_or_default();
    let fingerprint = |item: &Cursor<'_>| item.parsed("a fingerprint such as SHA256:…", scalar::fingerprint, report);
    items.iter().filter_map(fingerprint).collect()
}

/// SECURITY: there is no setting that accepts any key, so the message says how to get the right one.
fn scan_hint(addresses: &[HostPort]) -> String {
    let (host, port) = addresses.first().map_or(("HOST", SSH_PORT), |address| (address.host.as_str(), address.port));
    format!(
        "`ssh-keyscan -p {port} {host} > known_hosts` asks the server for its keys; compare their fingerprints with \
         its owner before you trust them. No setting accepts any key"
    )
}
