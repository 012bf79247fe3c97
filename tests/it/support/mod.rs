//! What the tests run against and with.

pub(crate) mod sshd;
