//! `users`: who may log in, and who they are to the backend.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::error::Problem;
use super::super::raw::Node;
use super::super::{Backend, Login, PasswordHash, Permissions, Policy, User, scalar};
use super::Report;
use super::backends::Backends;
use super::cursor::Cursor;
use super::fields::{are_words, is_null};
use super::login::mapped_login;
use super::policy::policy;
use super::words::{listed, nearest};

/// The entry for names that have none of their own.
const ANY_USER: &str = "*";
/// Most sessions one user may be given: what a process can hold at all.
const MAX_SESSIONS: u32 = 1_000_000;

type Users = (HashMap<String, Arc<User>>, Option<Arc<User>>);

/// `users`; `backends` is `None` where that key is missing, which is reported already.
pub(super) fn users(
    cursor: &Cursor<'_>,
    backends: Option<&Backends>,
    policy: &Policy,
    report: &mut Report,
) -> Option<Users> {
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
        let Some(user) = user(name, &cursor, backends, policy, report) else { continue };
        if name == ANY_USER {
            any_user = Some(Arc::new(user));
        } else {
            users.insert(name.to_owned(), Arc::new(user));
        }
    }
    Some((users, any_user))
}

fn user(
    name: &str,
    cursor: &Cursor<'_>,
    backends: Option<&Backends>,
    defaults: &Policy,
    report: &mut Report,
) -> Option<User> {
    let mut fields = cursor.fields(report)?.holding_secrets();
    let backend = fields
        .require("backend", "the name of an entry in `backends`")
        .and_then(|cursor| backend(&cursor, backends, report));
    let login_cursor =
        fields.require("login", "`passthrough`, or a mapping with `user` and `private_key`, `agent` or `password`");
    let login = login_cursor.as_ref().and_then(|cursor| login(cursor, report));
    let hash_cursor = fields.take_some("password_hash");
    let password_hash = hash_cursor.as_ref().and_then(|cursor| password_hash(cursor, report));
    let root = fields.or("root", b"/".to_vec(), report, |cursor, report| {
        cursor.parsed("an absolute path such as /incoming/acme", scalar::root, report)
    });
    let permissions = fields.or("permissions", ALL, report, permissions);
    let max_sessions = fields.take("limits").and_then(|cursor| max_sessions(&cursor, report));
    let policy = policy(fields.take("policy"), defaults, report);
    fields.not_yet("client_certificate", "null", is_null, report);
    let anywhere = are_words(&["0.0.0.0/0", "::/0"]);
    fields.not_yet("from", "[\"0.0.0.0/0\", \"::/0\"]", anywhere, report);

    // A login in the gateway's hands needs someone to check who asks for it; passthrough leaves that to the backend.
    let is_mapped = login_cursor.as_ref().is_some_and(|cursor| matches!(cursor.node, Node::Mapping(_)));
    if is_mapped && name == ANY_USER {
        report.problem(
            Problem::new(format!("{}.login", cursor.at), "must be `passthrough`: \"*\" is any name at all").hint(
                "only the backend can tell such names apart; give a user with a login of its own an entry of its own",
            ),
        );
    } else if is_mapped && hash_cursor.is_none() && !fields.is_misspelt(&["password_hash"]) {
        report.problem(
            Problem::new(format!("{}.password_hash", cursor.at), "is missing: nothing would check who logs in")
                .hint("`ftps2sftp hash-password` makes one"),
        );
    }
    fields.finish(report);
    Some(User {
        name: name.to_owned(),
        password_hash,
        backend: backend?,
        login: login?,
        root,
        permissions,
        max_sessions,
        policy,
    })
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
    const EXPECTED: &str = "`passthrough`, or a mapping with `user` and `private_key`, `agent` or `password`";
    match cursor.node {
        Node::Mapping(_) => mapped_login(cursor, report).map(Login::Mapped),
        // SECURITY: not shown; it may be a password in the wrong place.
        Node::Text(text) => match text.value()? {
            "passthrough" => Some(Login::Passthrough),
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

fn max_sessions(cursor: &Cursor<'_>, report: &mut Report) -> Option<u32> {
    let mut fields = cursor.fields(report)?;
    let sessions = fields.take_some("sessions").and_then(|cursor| cursor.count(MAX_SESSIONS, report));
    fields.not_yet("rate", "null", is_null, report);
    fields.finish(report);
    sessions
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
