//! `users`: who may log in, and who they are to the backend.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::client_certificate::{self, CertificateRule};
use super::super::error::Problem;
use super::super::network::{self, Network};
use super::super::raw::Node;
use super::super::{Afterwards, Backend, Login, PasswordHash, Permissions, Policy, User, scalar};
use super::Report;
use super::backends::Backends;
use super::cursor::Cursor;
use super::login::mapped_login;
use super::policy::policy;
use super::words::{listed, nearest};

/// The entry for names that have none of their own.
const ANY_USER: &str = "*";
/// The one name that may stand without a password: by custom (RFC 1635) any is taken.
const ANONYMOUS: &str = "anonymous";
/// Most fingerprints of one user: certificates overlap while they are replaced, and a partner has some machines.
const MAX_FINGERPRINTS: usize = 100;
/// Most networks of one user.
const MAX_NETWORKS: usize = 1000;
/// Most sessions one user may be given: what a process can hold at all.
const MAX_SESSIONS: u32 = 1_000_000;

type Users = (HashMap<String, Arc<User>>, Option<Arc<User>>);

/// What the entries of `users` are decoded in.
pub(super) struct Surroundings<'a> {
    /// `None` where that key is missing, which is reported already.
    pub(super) backends: Option<&'a Backends>,
    /// The defaults.
    pub(super) policy: &'a Policy,
    /// Clients are asked for certificates.
    pub(super) asks_certificates: bool,
}

/// `users`
pub(super) fn users(cursor: &Cursor<'_>, surroundings: &Surroundings<'_>, report: &mut Report) -> Option<Users> {
    let entries = match cursor.node {
        Node::Null => Vec::new(),
        _ => cursor.named(report)?,
    };
    if entries.is_empty() {
        cursor.wrong_with_hint("holds no user", "name one, or \"*\" with `login: passthrough`", report);
    }
    let (mut users, mut any_user) = (HashMap::new(), None);
    for (name, cursor) in entries {
        if name.is_empty() || name.chars().any(char::is_control) {
            cursor.wrong("is not a name a client can send", report);
        }
        let Some(user) = user(name, &cursor, surroundings, report) else { continue };
        if name == ANY_USER {
            any_user = Some(Arc::new(user));
        } else {
            users.insert(name.to_owned(), Arc::new(user));
        }
    }
    Some((users, any_user))
}

fn user(name: &str, cursor: &Cursor<'_>, surroundings: &Surroundings<'_>, report: &mut Report) -> Option<User> {
    let mut fields = cursor.fields(report)?.holding_secrets();
    let backend = fields
        .require("backend", "the name of an entry in `backends`")
        .and_then(|cursor| backend(&cursor, surroundings.backends, report));
    let login_cursor =
        fields.require("login", "`passthrough`, or a mapping with `user` and `private_key`, `agent` or `password`");
    let login = login_cursor.as_ref().and_then(|cursor| login(cursor, report));
    let hash_cursor = fields.take("password_hash");
    let is_null = |cursor: &Cursor<'_>| matches!(cursor.node, Node::Null);
    // Only where it is written down does nobody check: nothing of this kind may come of a line that was forgotten.
    let takes_any_password = name == ANONYMOUS && hash_cursor.as_ref().is_some_and(is_null);
    let hash_cursor = hash_cursor.filter(|cursor| !is_null(cursor));
    let password_hash = hash_cursor.as_ref().and_then(|cursor| password_hash(cursor, report));
    let certificate_cursor = fields.take_some("client_certificate");
    let client_certificate = certificate_cursor.as_ref().and_then(|cursor| certificate_rule(cursor, report));
    let from = fields.or("from", network::anywhere(), report, networks);
    let root = fields.or("root", b"/".to_vec(), report, |cursor, report| {
        cursor.parsed("an absolute path such as /incoming/acme", scalar::root, report)
    });
    let default_permissions = if takes_any_password { READ_ONLY } else { ALL };
    let permissions = fields.or("permissions", default_permissions, report, permissions);
    let Bounds { sessions: max_sessions, rate } =
        fields.take("limits").and_then(|cursor| bounds(&cursor, report)).unwrap_or_default();
    let policy = policy(fields.take("policy"), surroundings.policy, report);

    let is_mapped = login_cursor.as_ref().is_some_and(|cursor| matches!(cursor.node, Node::Mapping(_)));
    if let Some(certificate) = &certificate_cursor {
        certificate_fits(certificate, name, is_mapped, surroundings, report);
    }
    // A login in the gateway's hands needs someone to check who asks for it; passthrough leaves that to the backend.
    if is_mapped && name == ANY_USER {
        report.problem(
            Problem::new(format!("{}.login", cursor.at), "must be `passthrough`: \"*\" is any name at all").hint(
                "only the backend can tell such names apart; give a user with a login of its own an entry of its own",
            ),
        );
    } else if is_mapped
        && hash_cursor.is_none()
        && certificate_cursor.is_none()
        && !takes_any_password
        && !fields.is_misspelt(&["password_hash", "client_certificate"])
    {
        let problem =
            Problem::new(format!("{}.password_hash", cursor.at), "is missing: nothing would check who logs in");
        report.problem(match name {
            ANONYMOUS => {
                problem.hint("`ftps2sftp hash-password` makes one; write `password_hash: null` to let anybody in")
            }
            _ => problem.hint("`ftps2sftp hash-password` makes one"),
        });
    }
    if takes_any_password && is_mapped {
        report.warn(&format!("{}.password_hash", cursor.at), "is null: anybody may log in under this name");
    }
    fields.finish(report);
    Some(User {
        name: name.to_owned(),
        password_hash,
        takes_any_password: takes_any_password && is_mapped && certificate_cursor.is_none(),
        client_certificate,
        from,
        backend: backend?,
        login: login?,
        root,
        permissions,
        max_sessions,
        rate,
        policy,
    })
}

/// `client_certificate`
fn certificate_rule(cursor: &Cursor<'_>, report: &mut Report) -> Option<CertificateRule> {
    let mut fields = cursor.fields(report)?;
    let fingerprints_cursor = fields.take_some("fingerprints");
    let subject_cursor = fields.take_some("subject");
    let fingerprints = fingerprints_cursor.as_ref().and_then(|cursor| {
        let items = cursor.list("a list of SHA-256 fingerprints", report)?;
        if items.is_empty() || items.len() > MAX_FINGERPRINTS {
            cursor.wrong(format!("holds {} fingerprints, not 1 to {MAX_FINGERPRINTS}", items.len()), report);
        }
        let mut read = |item: &Cursor<'_>| {
            item.parsed("the SHA-256 fingerprint of a certificate", client_certificate::fingerprint, report)
        };
        items.iter().map(&mut read).collect::<Option<Vec<_>>>()
    });
    let subject = subject_cursor
        .as_ref()
        .and_then(|cursor| cursor.parsed("a name in a certificate, such as CN=acme", client_certificate::name, report));
    match (&fingerprints_cursor, &subject_cursor) {
        (Some(_), Some(_)) => {
            cursor.wrong_with_hint("holds both `fingerprints` and `subject`", "keep one of them", report);
        }
        (None, None) if !fields.is_misspelt(&["fingerprints", "subject"]) => cursor.wrong_with_hint(
            "holds neither `fingerprints` nor `subject`",
            "{fingerprints: [\"SHA256:…\"]}, or {subject: \"CN=acme\"}",
            report,
        ),
        _ => {}
    }
    fields.finish(report);
    fingerprints.map(CertificateRule::Fingerprints).or(subject.map(CertificateRule::Name))
}

/// Can a certificate stand for this user?
fn certificate_fits(
    cursor: &Cursor<'_>,
    name: &str,
    is_mapped: bool,
    surroundings: &Surroundings<'_>,
    report: &mut Report,
) {
    if name == ANY_USER {
        cursor.wrong_with_hint("belongs to one user, and \"*\" is any name at all", "give its owner an entry", report);
    } else if !is_mapped {
        cursor.wrong_with_hint(
            "needs a login of the gateway's own on the backend: a certificate is no password to pass through",
            "set `login` to a mapping with `user` and `private_key` or `password`",
            report,
        );
    }
    if !surroundings.asks_certificates {
        cursor.wrong_with_hint(
            "no client is asked for a certificate",
            "set `tls.client_certificates` to optional or required, and `tls.client_ca`",
            report,
        );
    }
}

/// `from`
fn networks(cursor: &Cursor<'_>, report: &mut Report) -> Option<Vec<Network>> {
    let items = cursor.list("a list of networks such as [\"192.0.2.0/24\"]", report)?;
    if items.is_empty() || items.len() > MAX_NETWORKS {
        let hint = "leave the key out where they may come from everywhere";
        cursor.wrong_with_hint(format!("holds {} networks, not 1 to {MAX_NETWORKS}", items.len()), hint, report);
    }
    let mut read =
        |item: &Cursor<'_>| item.parsed("a network such as 192.0.2.0/24, or an address", network::network, report);
    items.iter().map(&mut read).collect()
}

fn backend(cursor: &Cursor<'_>, backends: Option<&Backends>, report: &mut Report) -> Option<Arc<Backend>> {
    let name = cursor.name("the name of a backend", report)?;
    let backends = backends?;
    if let Some(backend) = backends.get(name) {
        return backend.clone();
    }
    let what = format!("no backend is named {}", cursor.shown());
    let names = || backends.keys().map(String::as_str);
    match nearest(name, names()) {
        Some((name, true)) => cursor.wrong_with_hint(what, format!("did you mean `{name}`?"), report),
        Some(_) => cursor.wrong_with_hint(what, format!("there are {}", listed(names().take(20))), report),
        // `backends` holds none at all, which is reported there.
        None => {}
    }
    None
}

fn login(cursor: &Cursor<'_>, report: &mut Report) -> Option<Login> {
    const EXPECTED: &str =
        "`passthrough`, `passthrough-once`, or a mapping with `user` and `private_key`, `agent` or `password`";
    match cursor.node {
        Node::Mapping(_) => mapped_login(cursor, report).map(Login::Mapped),
        // SECURITY: not shown; it may be a password in the wrong place.
        Node::Text(text) => match text.value()? {
            "passthrough" => Some(Login::Passthrough(Afterwards::Kept)),
            "passthrough-once" => Some(Login::Passthrough(Afterwards::Gone)),
            _ => {
                cursor.wrong(format!("expected {EXPECTED}, found other text"), report);
                None
            }
        },
        _ => {
            cursor.wrong_type(EXPECTED, report);
            None
        }
    }
}

fn password_hash(cursor: &Cursor<'_>, report: &mut Report) -> Option<PasswordHash> {
    let text = cursor.name("a password hash", report)?;
    match PasswordHash::parse(text) {
        Ok(hash) => Some(hash),
        // SECURITY: not shown; whoever writes no hash here may have written the password.
        Err(error) => {
            cursor.wrong_with_hint(error.to_string(), "`ftps2sftp hash-password` makes one", report);
            None
        }
    }
}

/// `users.NAME.limits`
#[derive(Default)]
struct Bounds {
    sessions: Option<u32>,
    rate: Option<u64>,
}

fn bounds(cursor: &Cursor<'_>, report: &mut Report) -> Option<Bounds> {
    let mut fields = cursor.fields(report)?;
    let sessions = fields.take_some("sessions").and_then(|cursor| cursor.count(MAX_SESSIONS, report));
    let rate =
        fields.take_some("rate").and_then(|cursor| cursor.parsed("a rate such as 10MiB/s", scalar::rate, report));
    fields.finish(report);
    Some(Bounds { sessions, rate })
}

const NONE: Permissions = Permissions {
    list: false,
    read: false,
    write: false,
    overwrite: false,
    delete: false,
    rename: false,
    mkdir: false,
    chmod: false,
};
const ALL: Permissions = Permissions {
    list: true,
    read: true,
    write: true,
    overwrite: true,
    delete: true,
    rename: true,
    mkdir: true,
    chmod: true,
};
/// Names are shown and files are read; nothing changes.
const READ_ONLY: Permissions = Permissions { list: true, read: true, ..NONE };
/// A drop box: new files come in, and nothing that is there can be seen, read or replaced.
const WRITE_ONLY: Permissions = Permissions { write: true, ..NONE };

/// `all`, `read-only`, `write-only`, or a list of what is allowed.
fn permissions(cursor: &Cursor<'_>, report: &mut Report) -> Option<Permissions> {
    let words = [("all", ALL), ("read-only", READ_ONLY), ("write-only", WRITE_ONLY)];
    if matches!(cursor.node, Node::Text(_)) {
        return cursor.choice(&words, report);
    }
    type Select = fn(&mut Permissions) -> &mut bool;
    const NAMES: [(&str, Select); 8] = [
        ("list", |permissions| &mut permissions.list),
        ("read", |permissions| &mut permissions.read),
        ("write", |permissions| &mut permissions.write),
        ("overwrite", |permissions| &mut permissions.overwrite),
        ("delete", |permissions| &mut permissions.delete),
        ("rename", |permissions| &mut permissions.rename),
        ("mkdir", |permissions| &mut permissions.mkdir),
        ("chmod", |permissions| &mut permissions.chmod),
    ];
    let items = cursor.list("`all`, `read-only`, `write-only` or a list", report)?;
    let mut permissions = NONE;
    for item in items {
        if let Some(select) = item.choice(&NAMES, report) {
            *select(&mut permissions) = true;
        }
    }
    Some(permissions)
}
