//! The `ftps2sftp` program: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use ftps2sftp::cli;
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    cli::main(cli::Arguments::parse())
}
