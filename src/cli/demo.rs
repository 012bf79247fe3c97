//! `ftps2sftp demo`: an SFTP server over a folder, the gateway in front, and three lines to paste.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tempfile::TempDir;

use crate::app::{Gateway, Process, StartError, check_materials};
use crate::demo::material::{self, Ports};
use crate::{config, demo};

use super::{FAILED, complain, print, runtime};

/// Passive ports of the demo, among those that no service is registered for and the kernel does not hand out itself.
const PASSIVE: std::ops::RangeInclusive<u16> = 30_000..=30_999;

/// What may be chosen.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The folder the SFTP server shows; a fresh temporary one where none is given.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Port for explicit TLS (AUTH TLS); 0 picks a free one.
    #[arg(long, default_value_t = 2121)]
    explicit: u16,
    /// Port for implicit TLS; 0 picks a free one.
    #[arg(long, default_value_t = 2990)]
    implicit: u16,
    /// Port for /metrics and the health endpoints on 127.0.0.1; 0 picks a free one.
    #[arg(long)]
    admin: Option<u16>,
}

pub(super) fn main(options: &Options) -> ExitCode {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    match runtime.block_on(run(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error}"));
            ExitCode::from(FAILED)
        }
    }
}

async fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let log = config::Log { format: config::LogFormat::Auto, level: "info".to_owned() };
    let process = Process::start(&log, &config::Traces::default())?;
    // Kept to the end: both are removed when dropped.
    let (temporary, folder) = match &options.dir {
        Some(folder) => (None::<TempDir>, folder.clone()),
        None => {
            let temporary = tempfile::Builder::new().prefix("ftps2sftp-files-").tempdir()?;
            let folder = temporary.path().to_owned();
            (Some(temporary), folder)
        }
    };
    let material = material::create()?;
    let backend = demo::start(folder.clone()).await?;
    let ports =
        Ports { explicit: options.explicit, implicit: options.implicit, passive: PASSIVE, admin: options.admin };
    let text = material.configuration(backend.address(), backend.host_key_fingerprint(), &ports);
    let config = check_materials(config::load_text(&text, material.folder()))
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let gateway = Gateway::bind(config).map_err(|error| match error {
        StartError::Bind { address, source, .. } => {
            format!("cannot listen on {address}: {source}\n  hint: `--explicit 0 --implicit 0` picks free ports")
        }
        other => other.to_string(),
    })?;
    print(&introduction(&gateway, &material, &folder, backend.address()));
    gateway.serve(process).await;
    backend.stop().await;
    drop(temporary);
    Ok(())
}

fn introduction(
    gateway: &Gateway,
    material: &material::Material,
    folder: &std::path::Path,
    backend: std::net::SocketAddr,
) -> String {
    let addresses = gateway.addresses();
    let port =
        |name: &str| addresses.iter().find(|(listener, _)| listener == name).map_or(0, |(_, address)| address.port());
    let (explicit, implicit) = (port("explicit"), port("implicit"));
    let mut text = format!(
        "SFTP server    {backend}, over {}\n\
         FTPS explicit  127.0.0.1:{explicit} (AUTH TLS)\n\
         FTPS implicit  127.0.0.1:{implicit}\n",
        folder.display()
    );
    if let Some(address) = gateway.admin_address() {
        text.push_str(&format!("Admin          http://{address}/metrics\n"));
    }
    text.push_str("User demo, password demo. Ctrl-C ends it. Paste one of these into another terminal:\n\n");
    for line in material.lines(explicit, implicit) {
        text.push_str(&line);
        text.push('\n');
    }
    text.push('\n');
    text
}
