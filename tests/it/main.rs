//! Integration tests.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "everything here is a test, helpers included; clippy's own allowance ends at `#[test]` functions"
)]

mod active_mode;
mod attributes;
mod backend_algorithms;
mod backend_link;
mod backend_logins;
mod backend_parties;
mod backend_ways;
mod brute_force;
mod certificates;
mod client_certificates;
mod command_line;
mod commands;
mod configuration;
mod confinement;
mod delay;
mod digests;
mod endings;
mod faults;
mod fuzz_targets;
mod layering;
mod limits;
mod listing_round_trip;
mod listings;
mod login;
mod memory;
mod names;
mod never_false;
mod observability;
mod old_clients;
mod operations;
mod passive_ports;
mod policies;
mod proxy_protocol;
mod random_scripts;
mod readme;
mod real_clients;
mod reload;
mod secrets;
mod security;
mod security_document;
mod sftp_session;
mod ssh;
mod status_page;
mod support;
#[cfg(feature = "otlp")]
mod traces;
mod transfers;
mod uploads;
mod wrong_data_connections;
