//! Why the embedded server refuses a request: an SSH_FXP_STATUS (draft-ietf-secsh-filexfer-02 §7).

use std::io;

use russh_sftp::protocol::StatusCode;
use russh_sftp::server::StatusReply;

/// A status code and a text that never names a path outside of the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) message: String,
}

/// The codes this server uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    EndOfFile,
    NoSuchFile,
    PermissionDenied,
    Failure,
    BadMessage,
    Unsupported,
}

impl Refusal {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(super) fn end_of_file() -> Self {
        Self::new(Code::EndOfFile, "end of file")
    }

    /// What leads out of the folder is not there to be reached.
    pub(super) fn outside() -> Self {
        Self::new(Code::PermissionDenied, "leads out of the served folder")
    }
}

impl From<io::Error> for Refusal {
    /// As OpenSSH's server maps `errno`; what version 3 has no code for is told in the text.
    fn from(error: io::Error) -> Self {
        let code = match error.kind() {
            _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => Code::NoSuchFile,
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Code::NoSuchFile,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Code::PermissionDenied,
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename => Code::BadMessage,
            io::ErrorKind::Unsupported => Code::Unsupported,
            _ => Code::Failure,
        };
        Self::new(code, error.kind().to_string())
    }
}

impl From<rustix::io::Errno> for Refusal {
    fn from(error: rustix::io::Errno) -> Self {
        io::Error::from(error).into()
    }
}

impl From<Refusal> for StatusReply {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal.code {
            Code::EndOfFile => StatusCode::Eof,
            Code::NoSuchFile => StatusCode::NoSuchFile,
            Code::PermissionDenied => StatusCode::PermissionDenied,
            Code::Failure => StatusCode::Failure,
            Code::BadMessage => StatusCode::BadMessage,
            Code::Unsupported => StatusCode::OpUnsupported,
        };
        code.with_message(refusal.message)
    }
}
