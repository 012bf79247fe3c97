//! What each fuzz target does with the fuzzer's bytes; it panics where the gateway does other than it should.
//!
//! Two callers: a binary for each under `targets/`, which cargo-fuzz builds, and `tests/it/fuzz_targets.rs`, which replays
//! the seeds with an ordinary compiler.

pub mod arguments;
pub mod ascii;
pub mod charsets;
pub mod client_hello;
pub mod configuration;
pub mod facts;
pub mod globs;
pub mod input;
pub mod known_hosts;
pub mod lines;
pub mod listings;
pub mod packets;
pub mod paths;
pub mod proxy_header;
pub mod sessions;
