//! cli

pub mod hash_password;
