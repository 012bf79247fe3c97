//! What a person types: the commands of the program, their options and their exit codes.

mod check;
mod demo;
pub mod hash_password;
mod manual;
mod probe;
mod reload;
mod run;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::app::confinement::keep_memory_private;
use crate::app::metrics_as_markdown;
use crate::command::spec;
use crate::config::error::Problem;

/// Something failed while running, or a check found something wrong.
const FAILED: u8 = 1;

/// The configuration or the command line is wrong (also clap's code).
const MISUSED: u8 = 2;

/// FTPS in front, SFTP behind: switch off FTPS without breaking a client.
#[derive(Debug, Parser)]
#[command(name = "ftps2sftp", version, about, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    Run {
        /// The YAML configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Check a configuration: files, certificates, and every backend.
    Check {
        /// The YAML configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Also write and remove a small file for every mapped user who may, to find what belongs in `quirks`.
        #[arg(long)]
        probe: bool,
    },
    /// Try it out: an SFTP server over a folder with the gateway in front of it.
    Demo(demo::Options),
    /// Tell the running gateway to read its files again, and say whether that worked.
    Reload {
        /// Its YAML configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Try an FTPS server: log in, store a file, read it back, compare, list, delete.
    Probe(probe::Arguments),
    /// Hash a password for `password_hash`.
    HashPassword,
    /// Print the FTP commands this gateway knows.
    Commands {
        /// As a Markdown table.
        #[arg(long)]
        markdown: bool,
    },
    /// Write the manual pages into a folder.
    #[command(hide = true)]
    Manual {
        /// The folder.
        folder: PathBuf,
    },
    /// Print the metrics as a Markdown table.
    #[command(hide = true)]
    Metrics,
    /// Print the completions for a shell.
    #[command(hide = true)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Runs what was typed.
pub fn main(arguments: Arguments) -> ExitCode {
    if let Err(error) = keep_memory_private() {
        complain(&format!("warning: a crash may leave a picture of this process's memory: {error}"));
    }
    match arguments.command {
        Command::Run { config } => run::main(&config),
        Command::Check { config, probe } => check::main(&config, probe),
        Command::Demo(options) => demo::main(&options),
        Command::Reload { config } => reload::main(&config),
        Command::Probe(arguments) => probe::main(&arguments),
        Command::Manual { folder } => manual::pages(&folder),
        Command::Metrics => {
            print(&metrics_as_markdown());
            ExitCode::SUCCESS
        }
        Command::Completions { shell } => manual::completions(shell),
        Command::HashPassword => match hash_password::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&format!("error: {error}"));
                ExitCode::from(FAILED)
            }
        },
        Command::Commands { markdown } => {
            print(&if markdown { spec::markdown() } else { spec::plain() });
            ExitCode::SUCCESS
        }
    }
}

/// Writes to standard output; a reader that has gone away is no error (`commands | head`).
fn print(text: &str) {
    let mut output = io::stdout().lock();
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

/// Says what went wrong, on standard error.
fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// All mistakes of a configuration, one after the other.
fn complain_of(file: &std::path::Path, problems: &[Problem]) -> ExitCode {
    let mut text = String::new();
    for problem in problems {
        text.push_str(&format!("error: {problem}\n\n"));
    }
    let count = problems.len();
    let plural = if count == 1 { "error" } else { "errors" };
    complain(&format!("{text}{}: {count} {plural}", file.display()));
    ExitCode::from(MISUSED)
}

/// The runtime of the gateway.
fn runtime() -> Result<tokio::runtime::Runtime, ExitCode> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        complain(&format!("error: cannot start the runtime: {error}"));
        ExitCode::from(FAILED)
    })
}
