//! The configuration as the program uses it: typed, checked, complete with defaults.
//!
//! `raw` is the YAML file as it was written, `interpolate` resolves `${env:}` and `${file:}` in it, `decode` walks it
//! and collects every mistake, `load` is the way in, and this module holds what comes out: values that cannot be wrong
//! in form. Every rejection is an [`error::Problem`] with its key path and a hint.

pub mod algorithms;
pub mod client_certificate;
mod decode;
pub mod error;
mod files;
pub mod fingerprint;
mod interpolate;
mod load;
pub mod network;
pub mod password_hash;
mod raw;
mod scalar;
pub mod secret;

pub use fingerprint::Fingerprint;
pub use load::{Loaded, Material, load, load_text};
pub use network::Network;

use crate::ftp::charset::Charset;
use crate::ftp::digest::Algorithm;
use crate::ftp::list;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use algorithms::Algorithms;
use client_certificate::CertificateRule;
use secret::Secret;

/// Everything the gateway was told.
#[derive(Debug)]
pub struct Config {
    /// Where clients connect; at least one.
    pub listeners: Vec<Listener>,
    /// What the front shows and asks for under TLS.
    pub tls: Tls,
    /// Passive data connections.
    pub passive: Passive,
    /// Active data connections; `None` where PORT and EPRT are refused.
    pub active: Option<Active>,
    /// Whose PROXY header is believed.
    pub trusted_proxies: Vec<Network>,
    /// SFTP servers by name.
    pub backends: BTreeMap<String, Arc<Backend>>,
    /// Users by exact name; `"*"` is in `any_user`.
    pub users: HashMap<String, Arc<User>>,
    /// The user entry `"*"`, for names that have no entry of their own.
    pub any_user: Option<Arc<User>>,
    /// Bounds of the whole process.
    pub limits: Limits,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// How a stop goes.
    pub shutdown: Shutdown,
    /// Address of the admin listener; `None` turns it off.
    pub admin: Option<SocketAddr>,
    /// `/readyz` says no while no backend answers.
    pub readiness_needs_backend: bool,
    /// Last logins are told for each configured user.
    pub metrics_per_user: bool,
    /// Where audit records go.
    pub audit: Audit,
    /// Log format and level.
    pub log: Log,
    /// Where traces go.
    pub traces: Traces,
}

/// `audit`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audit {
    /// A file of JSON lines; `None`: the log has them.
    pub path: Option<PathBuf>,
    /// A file as wu-ftpd writes it.
    pub xferlog: Option<PathBuf>,
    /// Bytes after which such a file is moved away; `None`: others do that.
    pub max_size: Option<u64>,
    /// How many that were moved away are kept.
    pub keep: u32,
}

/// `active`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Active {
    /// The port that data connections come from, 20 where a firewall wants that (RFC 959 §5.2); `None` takes any.
    pub source_port: Option<u16>,
}

/// One listening address.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Name in logs and metrics; unique.
    pub name: String,
    /// Address to bind; port 0 picks a free one.
    pub address: SocketAddr,
    /// When TLS begins.
    pub tls: TlsMode,
    /// Is there a PROXY header before it?
    pub proxy_protocol: ProxyProtocol,
}

/// `proxy_protocol`: does a proxy in front say whose connection it is?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// No header is looked for.
    Off,
    /// There may be one, from a trusted proxy.
    Optional,
    /// Whoever has none, or is no trusted proxy, is not let in.
    Required,
}

/// When TLS begins on a control connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// After `AUTH TLS` (RFC 4217).
    Explicit,
    /// With the first byte.
    Implicit,
}

/// Server certificates and the rules of the control connection's TLS.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Certificate chains and keys; at least one.
    pub certificates: Vec<Certificate>,
    /// Lowest version offered.
    pub min_version: TlsVersion,
    /// USER and PASS only under TLS.
    pub require_control: bool,
    /// Certificates that clients show; `None` where they are not asked for any.
    pub client_certificates: Option<ClientCertificates>,
}

/// `tls.client_certificates`, `client_ca` and `client_crl`
#[derive(Debug, Clone)]
pub struct ClientCertificates {
    /// No TLS without one.
    pub required: bool,
    /// The authorities whose certificates count: a PEM bundle.
    pub ca: PathBuf,
    /// Their revocation lists: a PEM bundle.
    pub crl: Option<PathBuf>,
}

/// A certificate chain and its key, both PEM files.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// Chain, leaf first.
    pub certificate: PathBuf,
    /// Private key of the leaf.
    pub key: PathBuf,
}

/// A TLS version that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// Passive data connections.
#[derive(Debug, Clone)]
pub struct Passive {
    /// Ports that may be given to clients.
    pub ports: RangeInclusive<u16>,
    /// Address told in reply 227.
    pub address: PassiveAddress,
    /// Other addresses for clients of some networks; the first that fits counts.
    pub overrides: Vec<PassiveOverride>,
    /// One port may serve several clients at a time, told apart by their address.
    pub shared: bool,
    /// Is there a PROXY header on data connections?
    pub proxy_protocol: ProxyProtocol,
}

/// One of `passive.overrides`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassiveOverride {
    /// Whom it is for.
    pub clients: Network,
    /// What they are told in reply 227.
    pub address: PassiveAddress,
}

/// The address told in reply 227 (EPSV tells none).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PassiveAddress {
    /// The address the client dialled.
    Auto,
    /// Always this one.
    Fixed(IpAddr),
    /// What this name resolves to, asked again every now and then.
    Name(String),
}

impl fmt::Display for PassiveAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str("at the address that the client dialled"),
            Self::Fixed(address) => write!(formatter, "at {address}"),
            Self::Name(name) => write!(formatter, "at what {name} resolves to"),
        }
    }
}

/// One SFTP server.
#[derive(Debug)]
pub struct Backend {
    /// Key in `backends`.
    pub name: String,
    /// `host:port`, tried in order.
    pub addresses: Vec<HostPort>,
    /// OpenSSH known_hosts file.
    pub known_hosts: Option<PathBuf>,
    /// Pinned keys: SHA-256 fingerprints of the host key blob.
    pub host_keys: Vec<[u8; 32]>,
    /// SSH keepalive interval; three unanswered end the connection.
    pub keepalive: Duration,
    /// TCP connect, and separately key exchange with login.
    pub connect_timeout: Duration,
    /// One SFTP request that is not data.
    pub request_timeout: Duration,
    /// `connections: shared`: the sessions of one mapped identity share SSH connections.
    pub shared: bool,
    /// An idle session of a mapped identity gives its channel back after so long.
    pub idle_release: Option<Duration>,
    /// What the server cannot do, or does wrong.
    pub quirks: Quirks,
    /// What is offered to it.
    pub algorithms: Algorithms,
    /// Name of the backend that it is reached through; never one that is reached through this one.
    pub jump: Option<String>,
    /// Who the gateway is to it where others are reached through it.
    pub login: Option<MappedLogin>,
}

/// `quirks`: what an SFTP server cannot do although every server should.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quirks {
    /// It renames nothing: uploads are written to their final name.
    pub no_rename: bool,
    /// It refuses to change attributes: modes are not kept, and nothing can be cut to a length.
    pub no_setstat: bool,
    /// It offers fsync@openssh.com, and it fails.
    pub no_fsync: bool,
    /// A file may be gone as soon as it is closed, or its length is not told: CLOSE is the last word.
    pub no_stat_after_close: bool,
    /// It opens no file that exists for writing at an offset: APPE and REST with STOR are refused.
    pub no_append: bool,
}

/// A host name or address literal (without brackets) and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Name or IP literal.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// One entry of `users`.
#[derive(Debug)]
pub struct User {
    /// Exact name, or `"*"`.
    pub name: String,
    /// Who they are to us; `None` where the backend decides (`login: passthrough`).
    pub password_hash: Option<PasswordHash>,
    /// Any password will do: only ever the user `anonymous`.
    pub takes_any_password: bool,
    /// The certificate they must show.
    pub client_certificate: Option<CertificateRule>,
    /// Where they may come from.
    pub from: Vec<Network>,
    /// Where their files are.
    pub backend: Arc<Backend>,
    /// Who they are to the backend.
    pub login: Login,
    /// Absolute path on the backend that they see as `/`.
    pub root: Vec<u8>,
    /// What they may do.
    pub permissions: Permissions,
    /// Sessions at once under this name; `None` is no bound of its own.
    pub max_sessions: Option<u32>,
    /// Bytes of file contents per second under this name, each way; `None` is no bound.
    pub rate: Option<u64>,
    /// How their transfers and names are treated.
    pub policy: Policy,
}

impl User {
    /// May they come from this address?
    pub fn may_come_from(&self, address: IpAddr) -> bool {
        self.from.iter().any(|network| network.contains(address))
    }
}

/// A password hash in modular crypt or PHC form, its form already checked.
#[derive(Debug, Clone)]
pub enum PasswordHash {
    /// `$argon2id$…`
    Argon2id(Secret),
    /// `$2a$`, `$2b$`, `$2y$`
    Bcrypt(Secret),
    /// `$6$…`
    Sha512Crypt(Secret),
}

/// How a user logs in on the backend.
#[derive(Debug)]
pub enum Login {
    /// The FTP name and password are tried on the backend.
    Passthrough(Afterwards),
    /// A login that the gateway holds.
    Mapped(MappedLogin),
}

/// What becomes of a password that was passed through and taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// It is kept, covered, for as long as its session: a connection that is lost is made again with it.
    Kept,
    /// Nothing of it is kept: a session whose connection is lost ends, and the client logs in again.
    Gone,
}

/// A login that the gateway holds: a key, a password, or both, where a server wants both.
#[derive(Debug, Clone)]
pub struct MappedLogin {
    /// Name on the backend.
    pub user: String,
    /// Proved by signatures.
    pub key: Option<LoginKey>,
    /// Also answers keyboard-interactive.
    pub password: Option<Secret>,
}

/// A key to log in with, and who holds it.
#[derive(Debug, Clone)]
pub struct LoginKey {
    /// Where its private half is.
    pub holder: KeyHolder,
    /// An OpenSSH user certificate for it. Read at each login, as certificates may be short-lived.
    pub certificate: Option<PathBuf>,
}

/// Where the private half of a key is.
#[derive(Debug, Clone)]
pub enum KeyHolder {
    /// In a file.
    File {
        /// OpenSSH or PEM file.
        path: PathBuf,
        /// For an encrypted key.
        passphrase: Option<Secret>,
    },
    /// In an ssh-agent.
    Agent {
        /// Its socket.
        socket: PathBuf,
        /// The file that says which of its keys; `None` tries what it has.
        public_key: Option<PathBuf>,
    },
}

/// What a user may do; one flag a name of the `permissions` list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the configuration's own")]
pub struct Permissions {
    pub list: bool,
    pub read: bool,
    pub write: bool,
    pub overwrite: bool,
    pub delete: bool,
    pub rename: bool,
    pub mkdir: bool,
    pub chmod: bool,
}

/// `policy`: the defaults, or a user's own.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Data connections must be protected (PROT P).
    pub data_tls_required: bool,
    /// Must a data connection resume its control session?
    pub data_tls_resumption: Resumption,
    /// Data connections only from the control connection's address.
    pub data_peer_check: bool,
    /// How uploads reach their name.
    pub upload: UploadMode,
    /// A broken upload is kept as `NAME.part`, to be resumed.
    pub keep_broken_uploads: bool,
    /// Channels one upload is spread over.
    pub upload_streams: usize,
    /// No 226 without the client's close_notify.
    pub upload_eof_strict: bool,
    /// fsync@openssh.com before the rename, where the backend has it.
    pub fsync: bool,
    /// What TYPE A does.
    pub ascii: AsciiMode,
    /// Where symbolic links may lead.
    pub symlinks: Symlinks,
    /// Bits removed from the mode of new files and directories.
    pub umask: u32,
    /// AVBL tells how much room there is.
    pub available_space: bool,
    /// Digests that HASH and the X commands tell; none where they are turned off.
    pub hash: Vec<Algorithm>,
    /// The charset of clients that never ask for UTF-8; `None` where it is UTF-8 itself.
    pub charset: Option<Charset>,
    /// How LIST shows entries.
    pub list_form: list::Form,
    /// CCC takes TLS off the control connection.
    pub clear_control: bool,
}

/// `data_tls_resumption`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the configuration's own")]
pub enum Resumption {
    Off,
    Prefer,
    Require,
}

/// `upload`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadMode {
    /// Temporary name in the same directory, then rename.
    Atomic,
    /// Straight to the final name.
    Direct,
}

/// `ascii`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsciiMode {
    /// Line ends are converted.
    Convert,
    /// TYPE A is accepted and bytes are left alone.
    Binary,
    /// TYPE A is refused.
    Refuse,
}

/// `symlinks`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Symlinks {
    /// Followed as long as they stay inside the user's root.
    Inside,
    /// Followed wherever they lead.
    Follow,
    /// Not there.
    Hide,
}

/// Bounds of the whole process.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Sessions in all.
    pub sessions: usize,
    /// Sessions from one address.
    pub sessions_per_ip: usize,
    /// When failed logins have consequences.
    pub failed_logins: FailedLogins,
    /// Bytes in flight per transfer, and so its memory.
    pub transfer_window: usize,
    /// Commands per second of one session; who sends more is read more slowly.
    pub commands_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 10_000,
            sessions_per_ip: 1000,
            failed_logins: FailedLogins {
                per_session: 3,
                per_ip: Some(20),
                per_user: Some(20),
                window: Duration::from_secs(5 * 60),
                ban: Duration::from_secs(10 * 60),
            },
            // Measured over 40 ms of round trip: half of it carries half as much, twice as much gains little.
            transfer_window: 8 * 1024 * 1024,
            commands_per_second: 200,
        }
    }
}

/// `limits.failed_logins`
#[derive(Debug, Clone)]
pub struct FailedLogins {
    /// So many close the control connection.
    pub per_session: u32,
    /// So many within the window ban an address; `None` bans none.
    pub per_ip: Option<u32>,
    /// So many within the window ban a name; `None` bans none.
    pub per_user: Option<u32>,
    /// How long a failure counts.
    pub window: Duration,
    /// How long a ban lasts.
    pub ban: Duration,
}

impl FailedLogins {
    /// How many failures make a name unknown at an address where it has logged in.
    pub fn per_known(&self) -> Option<u32> {
        self.per_user.or(self.per_ip)
    }
}

/// Deadlines.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// A TLS handshake, control or data.
    pub tls_handshake: Duration,
    /// From connect to a successful PASS.
    pub login: Duration,
    /// Silence on the control connection, not counted while a transfer runs.
    pub idle: Duration,
    /// From PASV (or PORT) and a transfer command to the data connection.
    pub data_connect: Duration,
    /// No byte moved on a data connection.
    pub data_idle: Duration,
}

/// How a stop goes.
#[derive(Debug, Clone)]
pub struct Shutdown {
    /// Keep accepting this long after SIGTERM.
    pub delay: Duration,
    /// Then let running transfers finish this long.
    pub drain: Duration,
}

/// `traces`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traces {
    /// URL of an OpenTelemetry collector for OTLP over HTTP; `None`: no traces. Only where they were built in.
    pub endpoint: Option<String>,
}

/// Log output.
#[derive(Debug, Clone)]
pub struct Log {
    /// Shape of a line.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`, or a tracing filter such as `info,ftps2sftp::ssh=debug`.
    pub level: String,
}

/// Shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// Text.
    Text,
    /// One JSON object a line.
    Json,
}
