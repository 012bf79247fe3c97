//! Who is told of each request and how it ended, to count it.

use std::fmt;
use std::time::Duration;

use super::SftpError;
use super::wire::packet::Reply;

/// Is told of the requests of a session. Called between two packets, so it must not wait.
pub trait Observer: fmt::Debug + Send + Sync {
    /// One was sent.
    fn sent(&self);

    /// One of this kind, which is the type byte of its packet, was answered, or never will be.
    fn answered(&self, kind: u8, reply: Result<&Reply, &SftpError>, elapsed: Duration);
}
