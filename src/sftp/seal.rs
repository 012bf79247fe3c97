//! The end of a written file in one flight: what it needs is asked for behind its last WRITE, and waited for together.
//!
//! draft-ietf-secsh-filexfer-02 §6.1: "The protocol and implementations MUST process requests relating to the same file
//! in the order in which they are received."

use tokio::time::Instant;

use super::SftpError;
use super::file::File;
use super::requests::Pending;
use super::session::{COMMIT_TIME, attributes, done};
use super::wire::attributes::Attributes;
use super::wire::extensions::ExtendedRequest;
use super::wire::packet::Request;
use super::write::WriteStream;

/// What a file needs besides CLOSE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// Permissions it takes over; a server that refuses this still stores the file.
    pub mode: Option<u32>,
    /// fsync@openssh.com; only where it is offered.
    pub sync: bool,
}

/// A file whose every WRITE was acknowledged.
#[derive(Debug)]
pub struct Sealed {
    /// Bytes acknowledged.
    pub bytes: u64,
    /// Its length, as FSTAT told it ahead of CLOSE; `None` from a server that does not tell.
    pub size: Option<u64>,
    /// Its last modification, likewise.
    pub modified: Option<u32>,
    /// What CLOSE said: told apart, because after a loss only this may be missing.
    pub closed: Result<(), SftpError>,
}

/// The answer to a request that has no result, to be waited for later.
#[derive(Debug)]
pub struct Acknowledgement(Pending);

impl Acknowledgement {
    /// Waits for it, as long as a commit may take.
    ///
    /// # Errors
    ///
    /// As any request; see [`SftpError`].
    pub async fn wait(mut self) -> Result<(), SftpError> {
        done(self.0.reply_by(Instant::now() + COMMIT_TIME).await?)
    }
}

impl File {
    /// FSETSTAT, ahead of whatever is asked for next; its answer is for later.
    ///
    /// # Errors
    ///
    /// The session is lost.
    pub async fn begin_set_attributes(&self, attributes: &Attributes) -> Result<Acknowledgement, SftpError> {
        let request = Request::Fsetstat { handle: self.handle().clone(), attributes: attributes.clone() };
        Ok(Acknowledgement(self.session().begin(request).await?))
    }
}

impl WriteStream {
    /// Ends the file: mode, fsync, FSTAT and CLOSE leave at once behind the last WRITE, then all answers are waited for.
    ///
    /// # Errors
    ///
    /// A WRITE or the fsync failed, the session was lost before CLOSE, or an answer did not come in time. The file is
    /// closed in any case.
    pub async fn seal(mut self, ending: Ending) -> Result<Sealed, SftpError> {
        let session = self.file().session().clone();
        let handle = self.file().handle().clone();
        let mode = match ending.mode {
            Some(mode) => {
                let attributes = Attributes { permissions: Some(mode), ..Attributes::default() };
                Some(session.begin(Request::Fsetstat { handle: handle.clone(), attributes }).await?)
            }
            None => None,
        };
        let sync = if ending.sync {
            Some(session.begin(ExtendedRequest::Fsync { handle: handle.clone() }.into()).await?)
        } else {
            None
        };
        let mut stat = session.begin(Request::Fstat { handle: handle.clone() }).await?;
        let turn = session.requests().turn().await?;
        // From here on the handle is the server's again, and dropping the file must not close it a second time: the
        // server may have given it to another file by then.
        self.file_mut().given_back();
        let mut close = turn.send(Request::Close { handle })?;
        let (_, bytes) = self.finish().await?;
        // The time of each begins when nothing of the file's data is ahead of it any more.
        let deadline = Instant::now() + COMMIT_TIME;
        if let Some(mut mode) = mode {
            match mode.reply_by(deadline).await.and_then(done) {
                Err(SftpError::Status { .. }) | Ok(()) => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(mut sync) = sync {
            done(sync.reply_by(deadline).await?)?;
        }
        let stat = match stat.reply_by(deadline).await.and_then(attributes) {
            Ok(attributes) => attributes,
            Err(SftpError::Status { .. } | SftpError::Protocol(_)) => Attributes::default(),
            Err(error) => return Err(error),
        };
        let closed = close.reply_by(deadline).await.and_then(done);
        let modified = stat.times.map(|(_, modified)| modified);
        Ok(Sealed { bytes, size: stat.size, modified, closed })
    }
}
