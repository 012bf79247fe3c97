//! The `ftps2sftp` program: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use ftps2sftp::cli;

fn main() -> ExitCode {
    cli::main(cli::Arguments::parse())
}
