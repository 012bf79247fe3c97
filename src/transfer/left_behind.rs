//! What an upload or a rename leaves on the backend when the connection is lost in the middle, and how it is put right.

use crate::sftp::{BackendPath, Session, SftpError, StatusCode};

/// Something to see to over the next connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeftBehind {
    /// A temporary file of an upload that failed: it goes.
    Temporary(BackendPath),
    /// A file that stepped aside for its successor. If the successor did not take its place it comes back, else it goes.
    Aside {
        /// The hidden name it has now.
        aside: BackendPath,
        /// The name it had.
        target: BackendPath,
    },
}

impl LeftBehind {
    /// Would a client miss a file until this is put right?
    pub fn is_urgent(&self) -> bool {
        matches!(self, Self::Aside { .. })
    }

    /// Puts it right; it may be so already, as what was asked for before the loss may have been carried out unanswered.
    /// `false` if the backend was lost again, or did not answer: another connection may do better.
    pub async fn put_right(&self, sftp: &Session) -> bool {
        let result = match self {
            Self::Temporary(path) => sftp.remove(path).await,
            Self::Aside { aside, target } => match sftp.lstat(target).await {
                Ok(_) => sftp.remove(aside).await,
                Err(SftpError::Status { code: StatusCode::NO_SUCH_FILE, .. }) => {
                    sftp.rename(aside, target, false).await
                }
                Err(error) => Err(error),
            },
        };
        !matches!(result, Err(SftpError::Lost(_) | SftpError::TimedOut))
    }
}
