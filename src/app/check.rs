//! What can be found out before the first client comes: certificates, backends, host keys, logins, roots.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::error::Problem;
use crate::config::{Config, User};
use crate::session::services::mapped_credentials;
use crate::sftp;
use crate::ssh::{ConnectError, Connection, Credentials, HostKeyError, Target};
use crate::tls::ShownCertificate;

use super::{StartError, descriptors, login_keys, probe, server_tls, targets};

/// How a finding is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// To be mended before clients come.
    Failed,
}

/// One row of what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub subject: String,
    /// How it is to be taken.
    pub state: State,
    /// What was found.
    pub about: String,
    /// What to do about it.
    pub hint: Option<&'static str>,
}

/// Looks at everything a checked configuration names. Dials every backend, and logs in where there are credentials; with
/// `probe` it also writes there, see `app::probe`.
pub async fn examine(config: &Config, warnings: &[Problem], probe: bool) -> Vec<Finding> {
    let mut findings = Findings::default();
    for warning in warnings {
        findings.add(&warning.at, State::Note, warning.what.clone());
    }
    if let Some(shortage) = descriptors::shortage(config, descriptors::raise()) {
        findings.add("descriptors", State::Note, format!("as started here, {shortage}"));
    }
    front(config, &mut findings);
    if let Err(error) = backends(config, &mut findings, probe).await {
        findings.add("backends", State::Failed, error.to_string());
    }
    findings.0
}

/// What clients will see.
fn front(config: &Config, findings: &mut Findings) {
    let tls = server_tls(config);
    match &tls {
        Ok(tls) => {
            for (pair, shown) in config.tls.certificates.iter().zip(tls.certificates()) {
                certificate(&pair.certificate, shown, findings);
            }
        }
        Err(error) => findings.add("certificate", State::Failed, error.to_string()),
    }
    if let Some(clients) = config.tls.client_certificates.as_ref().filter(|_| tls.is_ok()) {
        let asked = if clients.required { "required" } else { "optional" };
        let revoked = match &clients.crl {
            Some(list) => format!("revoked by {}", list.display()),
            None => "without a list of what is revoked".to_owned(),
        };
        let about = format!("{asked}, signed by {}, {revoked}", clients.ca.display());
        findings.add("client certificates", State::Ok, about);
    }
    let ports = &config.passive.ports;
    let about = format!("{}, ports {} to {}", config.passive.address, ports.start(), ports.end());
    findings.add("data connections", State::Ok, about);
}

fn certificate(file: &Path, shown: &ShownCertificate, findings: &mut Findings) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let days_until = |time: i64| (time - i64::try_from(now).unwrap_or(i64::MAX)).div_euclid(24 * 60 * 60);
    let (days, days_to_wait) = (days_until(shown.not_after), days_until(shown.not_before));
    let about = format!("{} for {}", file.display(), shown.names.join(", "));
    if days < 0 {
        let hint =
            "clients that look at it will refuse it; put a new one in its place, which is taken over while it runs";
        findings.failed("certificate", &format!("{about} has expired"), hint);
    } else if days_to_wait >= 0 {
        let hint = "clients that look at it will refuse it until then: check the clock here and there, or wait";
        findings.failed("certificate", &format!("{about} is not valid yet, for {} days", days_to_wait + 1), hint);
    } else {
        findings.add("certificate", State::Ok, format!("{about}, its key matches, {days} days left"));
    }
}

async fn backends(config: &Config, findings: &mut Findings, probe: bool) -> Result<(), StartError> {
    let targets = targets(config)?;
    let keys = login_keys(config)?;
    for (name, target) in &targets {
        let label = format!("backend {name}");
        match Connection::greet(&target.get()).await {
            Ok(connection) => {
                let server = connection.server();
                let about = format!(
                    "{}:{}, {}, {}, host key {}",
                    server.host,
                    server.port,
                    connection.server_version(),
                    connection.agreed(),
                    connection.host_key_fingerprint()
                );
                findings.add(&label, State::Ok, about);
                if shuts_out_addresses(connection.server_version()) {
                    let about = "OpenSSH from 9.8 on shuts out an address that wrong passwords come from, and all come from here: \
                                 its PerSourcePenaltyExemptList should name this gateway";
                    findings.add(&label, State::Note, about.to_owned());
                }
                connection.close().await;
            }
            Err(error) => {
                findings.failure(&label, &error);
                continue;
            }
        }
        let mut users: Vec<&Arc<User>> =
            config.users.values().chain(&config.any_user).filter(|user| user.backend.name == *name).collect();
        users.sort_by(|one, other| one.name.cmp(&other.name));
        for user in users {
            let label = format!("user {}", user.name);
            let Some(credentials) = mapped_credentials(user, &keys) else {
                findings.add(&label, State::Note, "passthrough: no credentials to try here".to_owned());
                continue;
            };
            log_in(&target.get(), user, &credentials, &label, findings, probe).await;
        }
    }
    Ok(())
}

async fn log_in(
    target: &Target,
    user: &User,
    credentials: &Credentials,
    label: &str,
    findings: &mut Findings,
    probe: bool,
) {
    let connection = match Connection::open(target, credentials).await {
        Ok(connection) => connection,
        Err(error) => return findings.failure(label, &error),
    };
    match connection.open_sftp().await {
        Ok(sftp) => {
            findings.add(label, State::Ok, format!("logged in as {}; {}", credentials.user, describe(&sftp).await));
            let root = sftp::BackendPath::from_bytes(user.root.clone());
            match sftp.stat(&root).await.map(|attributes| attributes.kind()) {
                Ok(Some(sftp::FileKind::Directory) | None) => {
                    if probe {
                        quirks(&sftp, user, &root, label, findings).await;
                    }
                }
                Ok(Some(_)) => findings.failed(label, "root is not a directory", "set `root` to a directory"),
                Err(error) => {
                    let hint = "create it, or set `root` to a directory this login can enter";
                    findings.failed(label, &format!("root {}: {error}", root.as_bytes().escape_ascii()), hint);
                }
            }
        }
        Err(error) => findings.failure(label, &error),
    }
    connection.close().await;
}

/// What the server cannot do for this user, beside what the configuration says it cannot.
async fn quirks(sftp: &sftp::Session, user: &User, root: &sftp::BackendPath, label: &str, findings: &mut Findings) {
    if !(user.permissions.write && user.permissions.delete) {
        return findings.add(label, State::Note, "not probed: this user may not write and delete".to_owned());
    }
    let backend = &user.backend;
    match probe::quirks(sftp, root).await {
        Ok(found) if found.is_empty() => findings.add(label, State::Ok, "probed: no quirks needed".to_owned()),
        Ok(found) => {
            let yaml = format!("backends: {{{}: {{quirks: [{}]}}}}", backend.name, found.join(", "));
            if found == probe::names(backend.quirks) {
                findings.add(label, State::Ok, format!("probed: {yaml}, as configured"));
            } else {
                findings.failed(label, &format!("probed: {yaml}"), "set these `quirks` for the backend");
            }
        }
        Err(error) => findings.add(label, State::Note, format!("not probed: {error}")),
    }
}

/// Extensions and limits of a server.
async fn describe(sftp: &sftp::Session) -> String {
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
    let limits = sftp.limits().await;
    format!(
        "{offered}; packets of {} bytes, reads of {}, writes of {}, {} open handles",
        limits.packet_length, limits.read_length, limits.write_length, limits.open_handles
    )
}

/// Has it PerSourcePenalties, by what it calls itself (`SSH-2.0-OpenSSH_9.8p1 …`)?
fn shuts_out_addresses(version: &str) -> bool {
    let Some((_, version)) = version.split_once("OpenSSH_") else { return false };
    let number = |text: &str| text.split(|character: char| !character.is_ascii_digit()).next()?.parse::<u32>().ok();
    let Some((major, minor)) = version.split_once('.') else { return false };
    number(major).zip(number(minor)).is_some_and(|version| version >= (9, 8))
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
        ConnectError::KeyExchange(_) | ConnectError::NotStrict { .. } => {
            "the server may be too old for the algorithms offered here: have it updated; until then, `algorithms: legacy` \
             speaks what is no longer safe, or a list of each kind only what this server needs"
        }
        ConnectError::Paused { .. } => "wait, or find out why it does not answer",
        ConnectError::Jump { source, .. } => hint(source),
        ConnectError::Rejected { .. } => "check the name and the password or key under `login`",
        ConnectError::Credentials(error) => error.hint(),
        ConnectError::NothingKept => "`login: passthrough` keeps the password, covered, for as long as the session",
        ConnectError::NoChannel(_) => {
            "raise MaxSessions on the server, or what it calls the sessions of one connection"
        }
        ConnectError::NoSftp(_) | ConnectError::Sftp(_) => "enable the SFTP subsystem on the server for this login",
        ConnectError::Lost(_) | ConnectError::Unanswered(_) => "the server closed the connection; its log says why",
    }
}

#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, subject: &str, state: State, about: String) {
        self.0.push(Finding { subject: subject.to_owned(), state, about, hint: None });
    }

    fn failed(&mut self, subject: &str, about: &str, hint: &'static str) {
        let (subject, about) = (subject.to_owned(), about.to_owned());
        self.0.push(Finding { subject, state: State::Failed, about, hint: Some(hint) });
    }

    fn failure(&mut self, subject: &str, error: &ConnectError) {
        let mut about = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !about.ends_with(&cause_text) {
                about.push_str(": ");
                about.push_str(&cause_text);
            }
            source = cause.source();
        }
        self.failed(subject, &about, hint(error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_shut_out_addresses_are_known_by_their_version() {
        for (version, does) in [
            ("SSH-2.0-OpenSSH_9.8p1 Debian-1", true),
            ("SSH-2.0-OpenSSH_9.10", true),
            ("SSH-2.0-OpenSSH_10.0p2", true),
            ("SSH-2.0-OpenSSH_9.7p1", false),
            ("SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3", false),
            ("SSH-2.0-OpenSSH_for_Windows_9.5", false),
            ("SSH-2.0-dropbear_2024.86", false),
            ("SSH-2.0-mod_sftp", false),
        ] {
            assert_eq!(shuts_out_addresses(version), does, "{version}");
        }
    }
}
