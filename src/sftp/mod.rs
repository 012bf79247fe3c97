//! An SFTP version 3 client (draft-ietf-secsh-filexfer-02) over any byte stream: pipelined, byte-clean, bounded.
//!
//! | part | what it does |
//! |---|---|
//! | [`wire`] | the packets, sans-IO |
//! | [`window`] | which range of a file to ask for next, sans-IO |
//! | [`stream`] | the byte stream below, as two traits |
//! | `requests`, `tasks` | requests on their way, matched with replies by id; a reader and a writer task |
//! | [`session`] | one request, one method |
//! | [`file`](mod@file), [`directory`] | what is open; closed on every path |
//! | [`read`], [`write`](mod@write), [`seal`] | whole files, many requests at a time, and their end in one flight |
//! | [`striped`] | writing over several channels |
//! | [`observer`] | who is told of each request |
//! | [`in_flight`] | how much file data is under way |
//!
//! Any future here may be dropped: a reply that comes late is dropped too, and what it opened is closed.

pub mod directory;
pub mod file;
pub mod in_flight;
pub mod observer;
pub mod path;
pub mod read;
mod requests;
pub mod seal;
pub mod session;
pub mod stream;
pub mod striped;
mod tasks;
pub mod window;
pub mod wire;
pub mod write;

pub use directory::{Directory, DirectoryEntry};
pub use file::File;
pub use observer::Observer;
pub use path::BackendPath;
pub use read::ReadStream;
pub use seal::{Acknowledgement, Ending, Sealed};
pub use session::Session;
pub use stream::{PacketSink, PacketSource, SinkClosed, StreamSink, StreamSource};
pub use striped::{MoreChannels, StripedWriter};
pub use wire::attributes::{Attributes, FileKind};
pub use wire::extensions::{Extensions, FileSystem, Limits};
pub use wire::packet::OpenFlags;
pub use wire::status::StatusCode;
pub use write::{WriteBuffer, WriteStream};

use wire::packet::{Reply, Status};
use wire::status::printable;

/// Why an SFTP request did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SftpError {
    /// The server said no. Also made here, as [`StatusCode::BAD_MESSAGE`], for a pathname that must not be sent.
    #[error("{code}: {message}")]
    Status {
        /// Its code, known or not.
        code: StatusCode,
        /// Its words, bounded and printable.
        message: String,
    },
    /// The session is gone; nothing is known of what was under way.
    #[error("the SFTP session is lost: {0}")]
    Lost(String),
    /// No reply, or no progress, in time. The session lives on.
    #[error("the SFTP server did not answer in time")]
    TimedOut,
    /// The reply was malformed or of the wrong type. The session lives on.
    #[error("the SFTP server's reply was not understood: {0}")]
    Protocol(String),
    /// An extension the request needs is not offered.
    #[error("the SFTP server does not offer {0}")]
    Unsupported(&'static str),
}

impl SftpError {
    /// The server's status code, where it told one.
    pub fn code(&self) -> Option<StatusCode> {
        match self {
            Self::Status { code, .. } => Some(*code),
            Self::Lost(_) | Self::TimedOut | Self::Protocol(_) | Self::Unsupported(_) => None,
        }
    }

    /// A reply of a type that does not belong to the request.
    fn unexpected(reply: &Reply) -> Self {
        match reply {
            Reply::Status(status) if status.code == StatusCode::OK => {
                Self::Protocol("OK where a result was asked for".to_owned())
            }
            Reply::Status(status) => status.into(),
            other => Self::Protocol(format!("{} does not belong to the request", other.name())),
        }
    }
}

impl From<&Status> for SftpError {
    fn from(status: &Status) -> Self {
        Self::Status { code: status.code, message: printable(&status.message) }
    }
}
