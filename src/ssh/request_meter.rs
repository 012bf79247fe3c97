//! Counts the SFTP requests of a backend.

use std::time::Duration;

use crate::sftp::wire::kind;
use crate::sftp::wire::packet::{Reply, Status};
use crate::sftp::{Observer, SftpError, StatusCode};
use crate::telemetry::metrics::{BackendRequests, SftpOperation, SftpStatus};

/// The meter of all sessions on one backend.
#[derive(Debug)]
pub(super) struct RequestMeter(BackendRequests);

impl RequestMeter {
    pub(super) fn new(backend: &str) -> Self {
        Self(BackendRequests::new(backend))
    }
}

impl Observer for RequestMeter {
    fn sent(&self) {
        self.0.sent();
    }

    fn answered(&self, kind: u8, reply: Result<&Reply, &SftpError>, elapsed: Duration) {
        self.0.answered(operation(kind), status(reply), elapsed);
    }
}

fn operation(kind: u8) -> SftpOperation {
    match kind {
        kind::OPEN => SftpOperation::Open,
        kind::CLOSE => SftpOperation::Close,
        kind::READ => SftpOperation::Read,
        kind::WRITE => SftpOperation::Write,
        kind::STAT | kind::LSTAT | kind::FSTAT => SftpOperation::Stat,
        kind::SETSTAT | kind::FSETSTAT => SftpOperation::Setstat,
        kind::OPENDIR => SftpOperation::Opendir,
        kind::READDIR => SftpOperation::Readdir,
        kind::REMOVE => SftpOperation::Remove,
        kind::MKDIR => SftpOperation::Mkdir,
        kind::RMDIR => SftpOperation::Rmdir,
        kind::REALPATH => SftpOperation::Realpath,
        kind::RENAME => SftpOperation::Rename,
        kind::READLINK => SftpOperation::Readlink,
        _ => SftpOperation::Extended,
    }
}

fn status(reply: Result<&Reply, &SftpError>) -> SftpStatus {
    match reply {
        Ok(Reply::Status(Status { code, .. })) => match *code {
            StatusCode::OK => SftpStatus::Ok,
            StatusCode::EOF => SftpStatus::Eof,
            StatusCode::NO_SUCH_FILE | StatusCode::NO_SUCH_PATH => SftpStatus::NoSuchFile,
            StatusCode::PERMISSION_DENIED => SftpStatus::Denied,
            StatusCode::FAILURE => SftpStatus::Failure,
            StatusCode::OP_UNSUPPORTED => SftpStatus::Unsupported,
            _ => SftpStatus::Other,
        },
        Ok(_) => SftpStatus::Ok,
        Err(SftpError::Lost(_)) => SftpStatus::Lost,
        Err(_) => SftpStatus::Other,
    }
}
