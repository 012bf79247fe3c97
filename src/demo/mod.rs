//! What `ftps2sftp demo` is made of: an SFTP server over a folder, and everything else a first transfer needs.
//!
//! [`start`] serves a folder over SFTP on loopback, and [`material`] makes a certificate authority, a server
//! certificate, a configuration that joins the two, and the lines to try it with.

mod folder;
pub mod material;
mod refusal;
mod requests;
mod server;

pub use server::{DemoError, EmbeddedServer, PASSWORD, USER, start};
