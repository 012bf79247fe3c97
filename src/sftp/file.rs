//! An open file: its handle, given back on every path (draft-ietf-secsh-filexfer-02 §6.3).

use bytes::Bytes;

use super::SftpError;
use super::session::{COMMIT_TIME, Session, attributes, done};
use super::wire::attributes::Attributes;
use super::wire::extensions::{self, ExtendedRequest};
use super::wire::packet::{Reply, Request};

/// An open file (or directory). Dropping it sends CLOSE in the background; [`File::close`] tells how it went.
#[derive(Debug)]
pub struct File {
    session: Session,
    handle: Bytes,
    open: bool,
}

impl File {
    pub(super) fn new(session: Session, handle: Bytes) -> Self {
        Self { session, handle, open: true }
    }

    /// The session it is open in.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// CLOSE is on its way: nothing else will close it.
    pub(super) fn given_back(&mut self) {
        self.open = false;
    }

    /// The server's name for it: bytes without meaning here.
    pub(super) fn handle(&self) -> &Bytes {
        &self.handle
    }

    /// FSTAT.
    ///
    /// # Errors
    ///
    /// As any request; see [`SftpError`].
    pub async fn stat(&self) -> Result<Attributes, SftpError> {
        attributes(self.session.request(Request::Fstat { handle: self.handle.clone() }).await?)
    }

    /// FSETSTAT: changes the attributes that are given.
    ///
    /// # Errors
    ///
    /// As any request; see [`SftpError`].
    pub async fn set_attributes(&self, attributes: &Attributes) -> Result<(), SftpError> {
        let request = Request::Fsetstat { handle: self.handle.clone(), attributes: attributes.clone() };
        done(self.session.request(request).await?)
    }

    /// fsync@openssh.com: returns when the data is on the medium.
    ///
    /// # Errors
    ///
    /// As any request; [`SftpError::Unsupported`] without the extension.
    pub async fn sync(&self) -> Result<(), SftpError> {
        self.session.needs(self.session.extensions().fsync, extensions::FSYNC)?;
        let request = ExtendedRequest::Fsync { handle: self.handle.clone() };
        done(self.commit(request.into()).await?)
    }

    /// CLOSE. If the future is dropped, the handle is closed all the same.
    ///
    /// # Errors
    ///
    /// The server did not close it well: what was written may not be stored.
    pub async fn close(mut self) -> Result<(), SftpError> {
        let session = self.session.clone();
        let turn = session.requests().turn().await?;
        self.open = false;
        let mut pending = turn.send(Request::Close { handle: self.handle.clone() })?;
        done(pending.reply(COMMIT_TIME).await?)
    }

    async fn commit(&self, request: Request) -> Result<Reply, SftpError> {
        self.session.begin(request).await?.reply(COMMIT_TIME).await
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if self.open {
            self.session.requests().close_behind(std::mem::take(&mut self.handle));
        }
    }
}
