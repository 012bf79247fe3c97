//! `login` as a mapping: who the gateway is to a backend.

use super::super::load::Material;
use super::super::secret::Secret;
use super::super::{KeyHolder, LoginKey, MappedLogin};
use super::Report;
use super::cursor::Cursor;
use super::fields::Fields;

/// Keys of which one at least must be there.
const PROOFS: [&str; 3] = ["private_key", "agent", "password"];

/// A login that the gateway holds: a key in a file or in an agent, with or without a certificate, and a password.
pub(super) fn mapped_login(cursor: &Cursor<'_>, report: &mut Report) -> Option<MappedLogin> {
    let mut fields = cursor.fields(report)?.holding_secrets();
    let user = fields.require("user", "the user's name on the backend");
    let user = user.and_then(|cursor| cursor.name("the user's name on the backend", report)).map(str::to_owned);
    let key = login_key(cursor, &mut fields, report);
    let password_cursor = fields.take_some("password");
    let password = password_cursor.as_ref().and_then(|cursor| cursor.secret("a password", report));
    if matches!(key, Written::Nothing) && password_cursor.is_none() && !fields.is_misspelt(&PROOFS) {
        cursor.wrong_with_hint(
            "holds neither `private_key` nor `agent` nor `password`",
            "one of them is how the gateway logs in on the backend; `login: passthrough` uses the client's",
            report,
        );
    }
    fields.finish(report);
    match key {
        Written::Right(key) => Some(MappedLogin { user: user?, key: Some(key), password }),
        Written::Nothing => Some(MappedLogin { user: user?, key: None, password: Some(password?) }),
        Written::Wrong => None,
    }
}

/// What became of a part that may be left out.
enum Written<T> {
    Nothing,
    /// Which is reported.
    Wrong,
    Right(T),
}

fn login_key(login: &Cursor<'_>, fields: &mut Fields<'_>, report: &mut Report) -> Written<LoginKey> {
    let key_cursor = fields.take_some("private_key");
    let passphrase_cursor = fields.take_some("passphrase");
    let agent_cursor = fields.take_some("agent");
    let certificate_cursor = fields.take_some("certificate");
    let key_file = key_cursor.as_ref().map(|cursor| cursor.file(report));
    let passphrase = passphrase_cursor.as_ref().map(|cursor| cursor.secret("a passphrase", report));
    let socket = agent_cursor.as_ref().map(|cursor| cursor.path("the path of an agent's socket", report));
    let certificate = certificate_cursor.as_ref().map(|cursor| cursor.file(report));

    if let (Some(passphrase), Some(_)) = (&passphrase_cursor, &agent_cursor) {
        passphrase.wrong_with_hint(
            "is of no use to an agent, which holds its keys open",
            "leave out `passphrase`, or leave out `agent`",
            report,
        );
    } else if let (Some(passphrase), None) = (&passphrase_cursor, &key_cursor)
        && !fields.is_misspelt(&["private_key"])
    {
        passphrase.wrong("has no `private_key` to open", report);
    }
    if let (Some(certificate), None, None) = (&certificate_cursor, &key_cursor, &agent_cursor)
        && !fields.is_misspelt(&["private_key", "agent"])
    {
        certificate.wrong_with_hint(
            "has no key that it is for",
            "name the key in `private_key`, or the socket of the agent that holds it in `agent`",
            report,
        );
    }
    if key_file.is_none() && socket.is_none() {
        let is_misspelt = fields.is_misspelt(&["private_key", "agent"]);
        let is_alone = certificate_cursor.is_none() && passphrase_cursor.is_none() && !is_misspelt;
        return if is_alone { Written::Nothing } else { Written::Wrong };
    }
    let decoded = (|| {
        let passphrase: Option<Secret> = passphrase.map_or(Some(None), |given| given.map(Some))?;
        let certificate = certificate.map_or(Some(None), |given| given.map(Some))?;
        let key_file = key_file.map_or(Some(None), |given| given.map(Some))?;
        let holder = match (socket, key_file) {
            (Some(socket), public_key) => KeyHolder::Agent { socket: socket?, public_key },
            (None, key_file) => KeyHolder::File { path: key_file?, passphrase },
        };
        Some(LoginKey { holder, certificate })
    })();
    let Some(key) = decoded else { return Written::Wrong };
    report.materials.push(Material::LoginKey { at: login.at.clone(), key: key.clone() });
    Written::Right(key)
}
