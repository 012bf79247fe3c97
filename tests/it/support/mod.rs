//! What several integration tests share.

pub(crate) mod client;
pub(crate) mod gateway;
pub mod scripted_sftp;
pub(crate) mod sshd;
