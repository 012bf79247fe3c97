//! `ftps2sftp probe`: is there an FTPS server that works? One line, and an exit code.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::config::secret::Secret;
use crate::probe::target::Target;
use crate::probe::{self, Options};

use super::{FAILED, MISUSED, complain, print};

/// Where the password may be, so that no list of processes shows it.
const PASSWORD_VARIABLE: &str = "FTPS2SFTP_PASSWORD";

/// What may be chosen.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// ftps://user@host:port/directory (TLS from the first byte) or ftp://… (AUTH TLS). The password: in the URL, in a file,
    /// or in FTPS2SFTP_PASSWORD.
    #[arg(value_name = "URL")]
    url: String,
    /// A file with the password; one line end behind it is left out.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The authorities that vouch for the server, PEM; else those of the system.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Believe whoever answers. The password goes to whoever is there.
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,
    /// Bytes of the file that is stored, read back, compared, listed and deleted.
    #[arg(long, default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(0..=1_073_741_824))]
    size: u32,
    /// Only log in.
    #[arg(long, conflicts_with = "size")]
    login_only: bool,
    /// Not even that: TLS and the greeting. The URL needs no user.
    #[arg(long, conflicts_with_all = ["size", "login_only"])]
    tls_only: bool,
    /// Seconds that all of it may take; then up to five more to remove the file.
    #[arg(long, default_value_t = 30)]
    timeout: u32,
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    let mut target = match Target::parse(&arguments.url) {
        Ok(target) => target,
        Err(error) => {
            complain(&format!("error: the URL: {error}"));
            return ExitCode::from(MISUSED);
        }
    };
    if let Some(file) = &arguments.password_file {
        match std::fs::read(file) {
            Ok(mut password) => {
                if password.last() == Some(&b'\n') {
                    password.pop();
                }
                target.password = Some(Secret::new(password));
            }
            Err(error) => {
                complain(&format!("error: cannot read {}: {error}", file.display()));
                return ExitCode::from(MISUSED);
            }
        }
    } else if let Ok(password) = std::env::var(PASSWORD_VARIABLE) {
        target.password = Some(Secret::new(password));
    }
    let options = Options {
        authorities: arguments.ca.clone(),
        insecure: arguments.insecure,
        login: !arguments.tls_only,
        size: (!arguments.login_only && !arguments.tls_only).then_some(arguments.size as usize),
        limit: Duration::from_secs(arguments.timeout.into()),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("error: cannot start the runtime: {error}"));
            return ExitCode::from(FAILED);
        }
    };
    let server = format!("{}:{}", target.host, target.port);
    match runtime.block_on(probe::run(&target, &options)) {
        Ok(passed) => {
            print(&format!("ok: {server}: {passed}\n"));
            ExitCode::SUCCESS
        }
        Err(failed) => {
            print(&format!("failed: {server}: {failed}\n"));
            ExitCode::from(FAILED)
        }
    }
}
