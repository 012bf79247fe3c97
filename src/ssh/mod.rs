//! The SSH client: one connection to a backend, from the address to an SFTP session (RFC 4251 to 4254, over russh).
//!
//! [`Target`] is a backend and what proves it; [`Connection::open`] tries its addresses, checks the host key, logs in
//! with [`Credentials`]; [`Connection::open_sftp`] starts SFTP on a channel of its own. Every step has a deadline.

mod agent;
mod algorithms;
pub mod authenticate;
mod channel;
mod circuit;
mod client;
pub mod connection;
pub mod host_key;
pub mod known_hosts;
mod legacy_pem;
pub mod login_key;
pub mod private_key;
mod request_meter;
mod short_scalar;
mod stream;
pub mod target;
mod targets;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use agent::AgentError;
pub use authenticate::Credentials;
pub use connection::Connection;
pub use host_key::{HostKeyError, HostKeyPolicy, HostKeyPolicyError, HostKeyVerdict};
pub use known_hosts::{KnownHosts, KnownHostsError};
pub use login_key::{LoginKey, LoginKeyError, UserCertificateProblem};
pub use private_key::{PrivateKey, PrivateKeyError};
pub use target::{Seen, Standing, Target};
pub use targets::{TargetError, targets};

use crate::sftp::SftpError;
use crate::telemetry::metrics::BackendConnectResult;

/// Why there is no connection, or no SFTP session on it. Cloned for those who waited for the same attempt.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// The name has no address.
    #[error("cannot resolve {host}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        source: Arc<std::io::Error>,
    },
    /// TCP does not get through.
    #[error("cannot reach {address}")]
    Unreachable {
        /// The address tried last.
        address: SocketAddr,
        /// What the system said.
        source: Arc<std::io::Error>,
    },
    /// A deadline passed.
    #[error("timed out during {phase}")]
    TimedOut {
        /// What was under way.
        phase: Phase,
    },
    /// Not the right server. It was shown no credentials.
    #[error(transparent)]
    HostKey(#[from] HostKeyError),
    /// The server does not speak SSH, or none that we speak.
    #[error("key exchange failed: {0}")]
    KeyExchange(String),
    /// The server has no strict key exchange, and nothing that is safe without it.
    #[error(
        "key exchange failed: the server has no strict key exchange (kex-strict-s-v00@openssh.com), and offers nothing \
         else than {cipher}, which is not safe without it (CVE-2023-48795)"
    )]
    NotStrict {
        /// What would have been agreed on.
        cipher: &'static str,
    },
    /// All addresses failed again and again: none is asked for a while.
    #[error("not asked, as it did not answer before ({last}); it is asked again in {} s", again_in.as_secs() + 1)]
    Paused {
        /// How the last attempt ended.
        last: String,
        /// When somebody is asked again.
        again_in: Duration,
    },
    /// The host in between.
    #[error("jump host {backend}: {source}")]
    Jump {
        /// Its name in the configuration.
        backend: String,
        /// What is the matter with it.
        source: Box<ConnectError>,
    },
    /// The server does not accept these credentials.
    #[error("login rejected ({}the server would continue with: {})", accepted_text(accepted), remaining.join(", "))]
    Rejected {
        /// Methods that it did accept, where it wants more than one.
        accepted: Vec<String>,
        /// Authentication methods that can continue (RFC 4252 §5.1).
        remaining: Vec<String>,
    },
    /// The server went away instead of saying what it thinks of a proof. Some do that where it is wrong.
    #[error("the server ended the connection instead of answering the login: {0}")]
    Unanswered(String),
    /// What should prove the login is not there or of no use, which is our side's fault.
    #[error("login cannot be proved: {0}")]
    Credentials(#[source] Arc<LoginKeyError>),
    /// A session's connection is lost, and the password that would make another one is gone.
    #[error("there is nothing to log in again with")]
    NothingKept,
    /// The connection went away.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The server logs the user in, but gives no channel, or no further one.
    #[error("no channel: {0}")]
    NoChannel(String),
    /// The server logs the user in, but gives no SFTP subsystem.
    #[error("no SFTP: {0}")]
    NoSftp(String),
    /// SFTP itself failed to start.
    #[error("SFTP does not start")]
    Sftp(#[source] SftpError),
}

/// The steps that have a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for other logins on the same backend.
    Turn,
    /// Resolving and TCP.
    Tcp,
    /// Identification, key exchange, host key.
    KeyExchange,
    /// Authentication.
    Login,
    /// Channel, subsystem, INIT.
    Sftp,
}

impl ConnectError {
    /// Might another address of the same backend do better? Not where a server has spoken: one that shows a wrong
    /// key or refuses a login is not to be evaded.
    pub fn is_of_the_address(&self) -> bool {
        match self {
            Self::Resolve { .. } | Self::Unreachable { .. } | Self::Lost(_) | Self::Paused { .. } => true,
            Self::TimedOut { phase } => matches!(phase, Phase::Tcp | Phase::KeyExchange),
            Self::Jump { source, .. } => source.is_of_the_address(),
            Self::HostKey(_)
            | Self::KeyExchange(_)
            | Self::NotStrict { .. }
            | Self::Rejected { .. }
            | Self::Unanswered(_)
            | Self::Credentials(_)
            | Self::NothingKept
            | Self::NoChannel(_)
            | Self::NoSftp(_)
            | Self::Sftp(_) => false,
        }
    }

    /// What an attempt that ended so counts as; `None` where nobody was asked.
    pub fn result(&self) -> Option<BackendConnectResult> {
        Some(match self {
            Self::Paused { .. } | Self::NothingKept => return None,
            Self::Resolve { .. } => BackendConnectResult::Dns,
            Self::Unreachable { .. } | Self::Lost(_) => BackendConnectResult::Refused,
            Self::TimedOut { .. } | Self::Sftp(SftpError::TimedOut) => BackendConnectResult::Timeout,
            Self::HostKey(_) => BackendConnectResult::HostKey,
            // It is there: one client's wrong password must not look like a server that is down.
            Self::Rejected { .. } | Self::Unanswered(_) | Self::Credentials(_) => BackendConnectResult::Auth,
            // `auth` would say that the backend behind it is up.
            Self::Jump { source, .. } => match source.result()? {
                BackendConnectResult::Auth => BackendConnectResult::Refused,
                result => result,
            },
            Self::KeyExchange(_) | Self::NotStrict { .. } | Self::NoChannel(_) | Self::NoSftp(_) | Self::Sftp(_) => {
                BackendConnectResult::Protocol
            }
        })
    }
}

impl From<LoginKeyError> for ConnectError {
    fn from(error: LoginKeyError) -> Self {
        Self::Credentials(Arc::new(error))
    }
}

fn accepted_text(accepted: &[String]) -> String {
    if accepted.is_empty() { String::new() } else { format!("{} accepted, ", accepted.join(", ")) }
}

impl fmt::Display for Phase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Turn => "the wait for other logins on this backend",
            Self::Tcp => "TCP connect",
            Self::KeyExchange => "key exchange",
            Self::Login => "login",
            Self::Sftp => "start of SFTP",
        })
    }
}
