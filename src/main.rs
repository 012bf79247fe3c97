//! The `ftps2sftp` program.

fn main() {}
