//! Straight to the SSH server: OpenSSH's own client, and logins of the library that the gateway uses.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use russh::client::{self, Handler};
use russh::keys::PublicKeyOrCertificate;
use russh::{ChannelMsg, Disconnect, Preferred, cipher};

use super::Outcome;
use super::place::{Link, PASSWORD, Place, USER};
use super::process::cpu_of_ended_children;

/// What a run of a program took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    pub(crate) cpu: f64,
}

/// Runs `sftp` with these commands, as many of them at once as there are lists.
pub(crate) fn sftp(place: &Place, link: Link, batches: &[String]) -> Outcome<Cost> {
    let mut commands = Vec::new();
    for (number, batch) in batches.iter().enumerate() {
        let file = place.path(&format!("batch-{number}"));
        fs::write(&file, batch)?;
        let mut command = client(place, "sftp");
        command.arg("-q").arg("-b").arg(file).arg(host(link));
        commands.push(command);
    }
    let (start, cpu) = (Instant::now(), cpu_of_ended_children());
    let children: Vec<Child> = commands.iter_mut().map(Command::spawn).collect::<Result<_, _>>()?;
    for child in children {
        let output = child.wait_with_output()?;
        if !output.status.success() {
            return Err(format!("sftp: {}", String::from_utf8(output.stderr)?.trim()).into());
        }
    }
    Ok(Cost { wall: start.elapsed(), cpu: cpu_of_ended_children() - cpu })
}

/// Runs `ssh` to its end: a login and a command that does nothing.
pub(crate) fn ssh(place: &Place, link: Link) -> Outcome<()> {
    let output = client(place, "ssh").arg(host(link)).arg("true").output()?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8(output.stderr)?.into()) }
}

fn client(place: &Place, program: &str) -> Command {
    let mut command = Command::new(program);
    command.arg("-F").arg(place.path("ssh_config")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn host(link: Link) -> &'static Path {
    Path::new(if link == Link::Near { "near" } else { "far" })
}

/// Trusts the only server there is.
struct Trusting;

impl Handler for Trusting {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _shown: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

/// One login by password over a new connection, and its end. With `sftp` the subsystem is started too.
pub(crate) async fn russh_login(server: SocketAddr, sftp: bool) -> Outcome<()> {
    /// INIT of SFTP version 3.
    const INIT: &[u8] = &[0, 0, 0, 5, 1, 0, 0, 0, 3];
    let preferred = Preferred { cipher: vec![cipher::AES_128_GCM].into(), ..Preferred::DEFAULT };
    let config = Arc::new(client::Config { preferred, nodelay: true, ..client::Config::default() });
    let mut session = client::connect(config, server, Trusting).await?;
    if !session.authenticate_password(USER, PASSWORD).await?.success() {
        return Err("russh: refused".into());
    }
    if sftp {
        let mut channel = session.channel_open_session().await?;
        channel.request_subsystem(true, "sftp").await?;
        channel.data(INIT).await?;
        while !matches!(channel.wait().await.ok_or("russh: no SFTP")?, ChannelMsg::Data { .. }) {}
    }
    session.disconnect(Disconnect::ByApplication, "", "").await?;
    Ok(())
}
