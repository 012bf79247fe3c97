//! ftps2sftp: an FTPS server in front of any SFTP server.
//!
//! A client speaks FTP under TLS (RFC 959, RFC 4217); every command becomes SFTP version 3
//! (draft-ietf-secsh-filexfer-02) over one SSH connection per login. Nothing is stored here: what a client hears 226 for
//! is on the SFTP server.
//!
//! # The map of the house
//!
//! From the door inwards; a room imports only rooms below it, and a test holds it to that.
//!
//! | room | what it does |
//! | --- | --- |
//! | [`cli`] | what a person types: commands, options, exit codes |
//! | [`app`] | from a configuration to a running gateway; the only room that knows every part |
//! | [`server`] | accept loops: a task for each control connection |
//! | [`admin`] | metrics, health and the status page over HTTP |
//! | [`demo`] | an SFTP server over a folder, to try the gateway with |
//! | [`probe`] | an FTPS client, to see whether a server works |
//! | [`control`] | the control connection: the loop, the only writer of replies, counting and logging |
//! | [`command`] | one row per command, the gate, the handlers, one table from errors to replies |
//! | [`session`] | the state of a session, before and after login |
//! | [`transfer`] | data connections, downloads, uploads, listings |
//! | [`identity`] | accounts, passwords, permissions, the root |
//! | [`ssh`] | connections to SSH servers, and which of them to trust |
//! | [`sftp`] | an SFTP client over any byte channel |
//! | [`proxy_protocol`] | the header in which a proxy says whose connection it hands on |
//! | [`tls`] | certificates, and a TLS configuration for each control session |
//! | [`telemetry`] | the log and the metrics |
//! | [`config`] | the YAML file and what it means |
//! | [`shutdown`] | the two stages of a stop |
//! | [`ftp`] | FTP's language, as functions of bytes |
//!
//! # How a command walks
//!
//! [`server::accept`] starts a [`control::Control`]. It makes lines of bytes ([`ftp::line`]), a line is a
//! [`ftp::request::Request`], and its verb has a row in [`command::table::TABLE`]. [`command::admit::admit`] lets it
//! through or refuses it; the row's handler gives back a [`command::Step`] or a [`command::failure::CommandError`].
//! Handlers reach files by [`identity::root::Root`] and an [`sftp::Session`]. A step may be a
//! [`transfer::outcome::Transfer`], which the loop polls while it watches the control connection. Whatever happens, the
//! loop writes one final reply, and counts and logs it.
//!
//! `ARCHITECTURE.md` says more, and why.

pub mod admin;
pub mod app;
pub mod cli;
pub mod command;
pub mod config;
pub mod control;
pub mod demo;
pub mod ftp;
pub mod identity;
pub mod probe;
pub mod proxy_protocol;
pub mod server;
pub mod session;
pub mod sftp;
pub mod shutdown;
pub mod ssh;
pub mod telemetry;
pub mod tls;
pub mod transfer;
