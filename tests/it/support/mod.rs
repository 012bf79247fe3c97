//! What several integration tests share.

pub mod scripted_sftp;
