//! `ftps2sftp check`: everything that can be found out before the first client comes, in one table.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use crate::app::{StartError, check_materials, private_keys, targets};
use crate::config::{self, Config, Login, User};
use crate::sftp;
use crate::ssh::{ConnectError, Connection, Credentials, HostKeyError, Method, Target};

use super::{FAILED, complain_of, print, runtime};

pub(super) fn main(file: &Path) -> ExitCode {
    let loaded = config::load(file);
    let warnings = loaded.warnings.clone();
    let config = match check_materials(loaded) {
        Ok(config) => config,
        Err(problems) => return complain_of(file, &problems),
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    let mut table = Table::default();
    table.row("configuration", State::Ok, format!("{} is valid", file.display()));
    for warning in warnings {
        table.row(&warning.at, State::Note, warning.what);
    }
    for pair in &config.tls.certificates {
        table.row("certificate", State::Ok, format!("{} and its key match", pair.certificate.display()));
    }
    if let Err(error) = runtime.block_on(backends(&config, &mut table)) {
        table.row("backends", State::Failed, error.to_string());
    }
    print(&table.text());
    if table.failed() { ExitCode::from(FAILED) } else { ExitCode::SUCCESS }
}

async fn backends(config: &Config, table: &mut Table) -> Result<(), StartError> {
    let targets = targets(config)?;
    let keys = private_keys(config)?;
    for (name, target) in &targets {
        let label = format!("backend {name}");
        match Connection::greet(target).await {
            Ok(connection) => {
                let server = connection.server();
                let about = format!(
                    "{}:{}, {}, host key {}",
                    server.host,
                    server.port,
                    connection.server_version(),
                    connection.host_key_fingerprint()
                );
                table.row(&label, State::Ok, about);
                connection.close().await;
            }
            Err(error) => {
                table.failure(&label, &error);
                continue;
            }
        }
        let mut users: Vec<&Arc<User>> =
            config.users.values().chain(&config.any_user).filter(|user| user.backend.name == *name).collect();
        users.sort_by(|one, other| one.name.cmp(&other.name));
        for user in users {
            let label = format!("user {}", user.name);
            let credentials = match &user.login {
                Login::Passthrough => {
                    table.row(&label, State::Note, "passthrough: no credentials to try here".to_owned());
                    continue;
                }
                Login::Password { user, password } => {
                    Credentials { user: user.clone(), method: Method::Password(password.clone()) }
                }
                Login::PrivateKey { user: login, .. } => {
                    let Some(key) = keys.get(&user.name) else { continue };
                    Credentials { user: login.clone(), method: Method::PrivateKey(Arc::clone(key)) }
                }
            };
            log_in(target, user, &credentials, &label, table).await;
        }
    }
    Ok(())
}

async fn log_in(target: &Target, user: &User, credentials: &Credentials, label: &str, table: &mut Table) {
    let connection = match Connection::open(target, credentials).await {
        Ok(connection) => connection,
        Err(error) => return table.failure(label, &error),
    };
    match connection.open_sftp().await {
        Ok(sftp) => {
            table.row(label, State::Ok, format!("logged in as {}; {}", credentials.user, describe(&sftp)));
            let root = sftp::BackendPath::from_bytes(user.root.clone());
            match sftp.stat(&root).await.map(|attributes| attributes.kind()) {
                Ok(Some(sftp::FileKind::Directory) | None) => {}
                Ok(Some(_)) => table.failed_with(label, "root is not a directory", "set `root` to a directory"),
                Err(error) => {
                    let hint = "create it, or set `root` to a directory this login can enter";
                    table.failed_with(label, &format!("root {}: {error}", root.as_bytes().escape_ascii()), hint);
                }
            }
        }
        Err(error) => table.failure(label, &error),
    }
    connection.close().await;
}

/// Extensions and limits of a server.
fn describe(sftp: &sftp::Session) -> String {
    let extensions = sftp.extensions();
    let offered: Vec<&str> = [
        (extensions.posix_rename, "posix-rename"),
        (extensions.statvfs, "statvfs"),
        (extensions.fsync, "fsync"),
        (extensions.limits, "limits"),
        (extensions.lsetstat, "lsetstat"),
    ]
    .into_iter()
    .filter_map(|(is_offered, name)| is_offered.then_some(name))
    .collect();
    let offered = if offered.is_empty() { "no extensions".to_owned() } else { offered.join(" ") };
    let limits = sftp.limits();
    format!(
        "{offered}; packets of {} bytes, reads of {}, writes of {}, {} open handles",
        limits.packet_length, limits.read_length, limits.write_length, limits.open_handles
    )
}

/// What to do about it.
fn hint(error: &ConnectError) -> &'static str {
    match error {
        ConnectError::Resolve { .. } => "check `address` and the name server",
        ConnectError::Unreachable { .. } => "check `address`, that the server runs, and the firewall on the way",
        ConnectError::TimedOut { .. } => "check the firewall on the way, or raise `connect_timeout`",
        ConnectError::HostKey(HostKeyError::Unknown { .. }) => {
            "compare the fingerprint with the server's own (ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub), then pin it \
             in `host_keys` or add the key to `known_hosts`"
        }
        ConnectError::HostKey(_) => {
            "somebody may be in between; ask the server's operator before anything is changed here"
        }
        ConnectError::KeyExchange(_) => "the server may be too old for the algorithms offered here",
        ConnectError::Rejected { .. } => "check the name and the password or key under `login`",
        ConnectError::NoSftp(_) | ConnectError::Sftp(_) => "enable the SFTP subsystem on the server for this login",
        ConnectError::Lost(_) => "the server closed the connection; its log says why",
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ok,
    Note,
    Failed,
}

#[derive(Debug, Default)]
struct Table(Vec<(String, State, String)>);

impl Table {
    fn row(&mut self, subject: &str, state: State, about: String) {
        self.0.push((subject.to_owned(), state, about));
    }

    fn failed_with(&mut self, subject: &str, what: &str, hint: &str) {
        self.row(subject, State::Failed, format!("{what}\nhint: {hint}"));
    }

    fn failure(&mut self, subject: &str, error: &ConnectError) {
        let mut what = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !what.ends_with(&cause_text) {
                what.push_str(": ");
                what.push_str(&cause_text);
            }
            source = cause.source();
        }
        self.failed_with(subject, &what, hint(error));
    }

    fn failed(&self) -> bool {
        self.0.iter().any(|(_, state, _)| *state == State::Failed)
    }

    fn text(&self) -> String {
        let width = self.0.iter().map(|(subject, ..)| subject.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for (subject, state, about) in &self.0 {
            let state = match state {
                State::Ok => "ok",
                State::Note => "note",
                State::Failed => "FAILED",
            };
            let mut lines = about.lines();
            text.push_str(&format!("{subject:<width$}  {state:<6}  {}\n", lines.next().unwrap_or_default()));
            for line in lines {
                text.push_str(&format!("{:<width$}  {:<6}  {line}\n", "", ""));
            }
        }
        text
    }
}
