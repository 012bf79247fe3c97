//! The SSH client: one connection to a backend, from the address to an SFTP session (RFC 4251 to 4254, over russh).
//!
//! [`Target`] is a backend and what proves it; [`Connection::open`] tries its addresses, checks the host key, logs in
//! with [`Credentials`]; [`Connection::open_sftp`] starts SFTP on a channel of its own. Every step has a deadline.

mod algorithms;
pub mod authenticate;
mod channel;
mod client;
pub mod connect;
pub mod host_key;
pub mod known_hosts;
pub mod private_key;
mod stream;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

pub use authenticate::{Credentials, Method};
pub use connect::{Connection, Target};
pub use host_key::{HostKeyError, HostKeyPolicy, HostKeyPolicyError, HostKeyVerdict};
pub use known_hosts::{KnownHosts, KnownHostsError};
pub use private_key::{PrivateKey, PrivateKeyError};

use crate::sftp::SftpError;

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
    /// The server does not accept these credentials.
    #[error("login rejected (the server would continue with: {})", remaining.join(", "))]
    Rejected {
        /// Authentication methods that can continue (RFC 4252 §5.1).
        remaining: Vec<String>,
    },
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
    fn is_of_the_address(&self) -> bool {
        match self {
            Self::Resolve { .. } | Self::Unreachable { .. } | Self::Lost(_) => true,
            Self::TimedOut { phase } => matches!(phase, Phase::Tcp | Phase::KeyExchange),
            Self::HostKey(_)
            | Self::KeyExchange(_)
            | Self::Rejected { .. }
            | Self::NoChannel(_)
            | Self::NoSftp(_)
            | Self::Sftp(_) => false,
        }
    }
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
