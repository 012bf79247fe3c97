//! Integration tests.
// Helpers are tests too, wherever they stand.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod sftp_session;
mod ssh;
mod support;
