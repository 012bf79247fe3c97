//! `ftps2sftp manual` and `ftps2sftp completions`: for packages, made from what the program itself says of its arguments.

use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Arguments, FAILED, complain, print};

/// A page for the program and one for each of its commands.
pub(super) fn pages(folder: &Path) -> ExitCode {
    // Its pages are to name the version, too.
    let of_program = |command: clap::Command| command.version(env!("CARGO_PKG_VERSION")).disable_version_flag(true);
    match clap_mangen::generate_to(Arguments::command().mut_subcommands(of_program), folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {}: {error}", folder.display()));
            ExitCode::from(FAILED)
        }
    }
}

/// To standard output.
pub(super) fn completions(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "ftps2sftp", &mut script);
    print(std::str::from_utf8(&script).unwrap_or_default());
    ExitCode::SUCCESS
}
