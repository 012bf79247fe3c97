//! What several integration tests share.

pub(crate) mod authority;
pub(crate) mod campaign;
pub(crate) mod client;
pub(crate) mod gateway;
pub(crate) mod other_sshd;
pub(crate) mod plain_sshd;
pub(crate) mod real_clients;
pub mod scripted_sftp;
pub(crate) mod scripted_sshd;
pub(crate) mod ssh_agent;
pub(crate) mod sshd;
pub(crate) mod tmpfs;
pub(crate) mod transfer;
