//! ftps2sftp: an FTPS server in front of any SFTP server.

pub mod admin;
pub mod app;
pub mod cli;
pub mod command;
pub mod config;
pub mod control;
pub mod demo;
pub mod ftp;
pub mod identity;
pub mod server;
pub mod session;
pub mod sftp;
pub mod shutdown;
pub mod ssh;
pub mod telemetry;
pub mod tls;
pub mod transfer;
