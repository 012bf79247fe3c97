//! A small FTPS client: logs in, stores a file, reads it back, compares, lists, deletes. For `ftps2sftp probe`, which
//! tells monitors and people whether a server works, this one or another.

mod client;
pub mod target;

use std::time::{Duration, Instant};

use tokio::time::timeout;

use client::Client;
use target::Target;

/// How long it may take, beyond the limit, to remove a file that was being stored or read when that was over.
const REMOVAL_LIMIT: Duration = Duration::from_secs(5);

/// What a probe does.
#[derive(Debug, Clone)]
pub struct Options {
    /// PEM file of the authorities that vouch for the server; `None`: those of the system.
    pub authorities: Option<std::path::PathBuf>,
    /// Whoever answers is believed. For tests only: the password goes to whoever is there.
    pub insecure: bool,
    /// Log in; without it TLS and the greeting are all.
    pub login: bool,
    /// Bytes of the file; `None`: nothing is stored, the login is all.
    pub size: Option<usize>,
    /// How long all of it may take.
    pub limit: Duration,
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {reason}")]
pub struct Failed {
    /// Which one.
    pub step: &'static str,
    /// Why.
    pub reason: String,
}

/// How long each step took.
#[derive(Debug, Default)]
pub struct Passed(Vec<(&'static str, Duration)>);

impl std::fmt::Display for Passed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let steps: Vec<String> = self.0.iter().map(|(step, took)| format!("{step} {} ms", took.as_millis())).collect();
        formatter.write_str(&steps.join(", "))
    }
}

/// Goes through all steps.
///
/// # Errors
/// The first step that fails. A file that was stored is removed where that is still possible.
pub async fn run(target: &Target, options: &Options) -> Result<Passed, Failed> {
    let mut passed = Passed::default();
    let mut step = "connect";
    let name = format!("ftps2sftp-probe-{}-{}", std::process::id(), random());
    let ended = timeout(options.limit, go_through(target, options, &name, &mut passed, &mut step)).await;
    match ended {
        Ok(Ok(())) => Ok(passed),
        Ok(Err(reason)) => Err(Failed { step, reason: reason.to_string() }),
        Err(_) => {
            if ["upload", "download", "list", "delete"].contains(&step) {
                // The old connection is in the middle of something.
                let _ = timeout(REMOVAL_LIMIT, remove(target, options, &name)).await;
            }
            Err(Failed { step, reason: format!("not done within {} s", options.limit.as_secs()) })
        }
    }
}

async fn remove(target: &Target, options: &Options, name: &str) -> Result<(), client::Error> {
    let mut client = Client::connect(target, options).await?;
    client.log_in(target).await?;
    client.command(&format!("DELE {name}"), &[250]).await?;
    Ok(())
}

async fn go_through(
    target: &Target,
    options: &Options,
    name: &str,
    passed: &mut Passed,
    step: &mut &'static str,
) -> Result<(), client::Error> {
    let mut began = Instant::now();
    let mut next = |step: &mut &'static str, name| {
        passed.0.push((*step, began.elapsed()));
        (*step, began) = (name, Instant::now());
    };
    let mut client = Client::connect(target, options).await?;
    if options.login {
        next(step, "login");
        client.log_in(target).await?;
    }
    if let Some(size) = options.size {
        let content = content(size);
        next(step, "upload");
        let stored = client.store(name, &content).await;
        let compared = async {
            stored?;
            next(step, "download");
            let back = client.retrieve(name, size).await?;
            if back != content {
                return Err(client::Error::Differs { sent: content.len(), received: back.len() });
            }
            next(step, "list");
            if client
                .names()
                .await?
                .iter()
                .any(|listed| listed.rsplit(|byte| *byte == b'/').next() == Some(name.as_bytes()))
            {
                Ok(())
            } else {
                Err(client::Error::NotListed(name.to_owned()))
            }
        }
        .await;
        // Whatever went wrong, as long as the server still answers.
        let deleted = client.command(&format!("DELE {name}"), &[250]).await;
        compared?;
        next(step, "delete");
        deleted?;
    }
    next(step, "quit");
    client.command("QUIT", &[221]).await?;
    next(step, "");
    Ok(())
}

/// Two probes at a time must not meet.
fn random() -> String {
    let mut bytes = [0; 6];
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Not the same at any two places, so that nothing that is cut or moved goes unnoticed.
fn content(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}
