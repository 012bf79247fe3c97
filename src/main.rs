//! The `ftps2sftp` program: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use ftps2sftp::cli;
use tikv_jemallocator::Jemalloc;
use zeroizing_alloc::ZeroAlloc;

/// SECURITY: S-17. Passwords pass through buffers of libraries, which do not wipe them: whatever is given back is wiped.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<Jemalloc> = ZeroAlloc(Jemalloc);

fn main() -> ExitCode {
    cli::main(cli::Arguments::parse())
}
