//! The SSH client: one connection to a backend, from the address to an SFTP session (RFC 4251 to 4254, over russh).

mod algorithms;
pub mod host_key;
pub mod known_hosts;
