//! Integration tests.

mod sftp_session;
mod support;
