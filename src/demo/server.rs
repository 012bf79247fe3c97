//! The SSH side of the embedded server: one user, one password, one subsystem (RFC 4254 §6.5).

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use russh::keys::{Algorithm, HashAlg, PrivateKey};
use russh::server::{Auth, ChannelOpenHandle, Msg, Session};
use russh::{Channel, ChannelId, Disconnect, MethodKind, MethodSet, Preferred, cipher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::folder::Folder;
use super::requests::Requests;

/// Who may log in.
pub const USER: &str = "demo";

/// With which password. It is no secret: the server listens on loopback only and shows one folder.
pub const PASSWORD: &str = "demo";

/// SSH connections at once; more wait in the listen queue. The gateway makes one for each session.
const MAX_CONNECTIONS: usize = 256;

/// Channels of one connection that wait for their subsystem.
const MAX_CHANNELS: usize = 16;

/// From connect to a successful login.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Silence after which a connection is dropped. The gateway sends keepalives long before.
const INACTIVITY: Duration = Duration::from_secs(3600);

/// Bytes a client may send ahead on one channel: several requests of 255 KiB in flight.
const WINDOW: u32 = 4 * 1024 * 1024;

/// Pause after a failed accept, which is mostly about file descriptors and would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// AES-GCM is first, as in the gateway: the cheapest with hardware support.
const CIPHERS: &[cipher::Name] = &[
    cipher::AES_128_GCM,
    cipher::AES_256_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
];

/// The embedded server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The folder cannot be served.
    #[error("{}: cannot be served", folder.display())]
    Folder {
        /// As it was given.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No host key could be made.
    #[error("no host key could be made")]
    HostKey(#[from] russh::keys::ssh_key::Error),
    /// No port on loopback could be had.
    #[error("no port on 127.0.0.1 could be had")]
    Listen(#[source] io::Error),
}

/// A running SFTP server; dropping it stops it.
#[derive(Debug)]
pub struct EmbeddedServer {
    address: SocketAddr,
    host_key_fingerprint: String,
    sessions: TaskTracker,
    stop: DropGuard,
}

/// Serves `directory` over SFTP on a free port of 127.0.0.1, with a host key of its own.
///
/// # Errors
///
/// The folder does not exist, or there is no port or no randomness to be had.
pub async fn start(directory: PathBuf) -> Result<EmbeddedServer, DemoError> {
    let folder = Folder::open(&directory).map_err(|source| DemoError::Folder { folder: directory, source })?;
    let host_key = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519)?;
    let host_key_fingerprint = host_key.public_key().fingerprint(HashAlg::Sha256).to_string();
    // SECURITY: the password is known to everyone, so nobody but this machine may reach it.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(DemoError::Listen)?;
    let address = listener.local_addr().map_err(DemoError::Listen)?;

    let config = Arc::new(russh::server::Config {
        methods: MethodSet::from(&[MethodKind::Password][..]),
        keys: vec![host_key],
        auth_rejection_time_initial: Some(Duration::ZERO),
        inactivity_timeout: Some(INACTIVITY),
        window_size: WINDOW,
        preferred: Preferred { cipher: Cow::Borrowed(CIPHERS), ..Preferred::DEFAULT },
        ..russh::server::Config::default()
    });
    let stop = CancellationToken::new();
    let sessions = TaskTracker::new();
    sessions.spawn(accept(listener, config, folder, sessions.clone(), stop.clone()));
    sessions.close();
    Ok(EmbeddedServer { address, host_key_fingerprint, sessions, stop: stop.drop_guard() })
}

impl EmbeddedServer {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its host key as OpenSSH writes it: `SHA256:` and base64 without padding.
    pub fn host_key_fingerprint(&self) -> &str {
        &self.host_key_fingerprint
    }

    /// Stops it and waits until every connection is closed.
    pub async fn stop(self) {
        drop(self.stop);
        self.sessions.wait().await;
    }
}

async fn accept(
    listener: TcpListener,
    config: Arc<russh::server::Config>,
    folder: Folder,
    sessions: TaskTracker,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await.ok();
            listener.accept().await.map(|(stream, _)| (stream, permit))
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = next => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                sessions.spawn(serve(stream, permit, Arc::clone(&config), folder.clone(), stop.clone()));
            }
            Err(error) => {
                debug!(%error, "embedded server: accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One SSH connection, from its version line to its end.
async fn serve(
    stream: TcpStream,
    permit: Option<OwnedSemaphorePermit>,
    config: Arc<russh::server::Config>,
    folder: Folder,
    stop: CancellationToken,
) {
    // Small answers must not wait for the next one.
    let _ = stream.set_nodelay(true);
    let logged_in = CancellationToken::new();
    let connection = Connection { folder, logged_in: logged_in.clone(), channels: HashMap::new() };
    let started = tokio::select! {
        () = stop.cancelled() => return,
        started = tokio::time::timeout(LOGIN_TIMEOUT, russh::server::run_stream(config, stream, connection)) => started,
    };
    let Ok(Ok(mut session)) = started else {
        debug!("embedded server: no SSH client");
        return;
    };
    let handle = session.handle();
    let too_late = async {
        if tokio::time::timeout(LOGIN_TIMEOUT, logged_in.cancelled()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = &mut session => {
            if let Err(error) = ended {
                debug!(%error, "embedded server: connection ended");
            }
            return;
        }
        () = stop.cancelled() => {}
        () = too_late => {}
    }
    // The peer may not read: then the connection ends without a good-bye.
    let _ = tokio::time::timeout(DISCONNECT_TIMEOUT, async {
        let _ = handle.disconnect(Disconnect::ByApplication, String::new(), String::new()).await;
        session.await
    })
    .await;
    drop(permit);
}

/// How long a stop waits for one connection to say good-bye.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// What one SSH client may ask for: the password method, session channels, the `sftp` subsystem.
struct Connection {
    folder: Folder,
    logged_in: CancellationToken,
    channels: HashMap<ChannelId, Channel<Msg>>,
}

impl russh::server::Handler for Connection {
    type Error = russh::Error;

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, Self::Error> {
        // Neither is a secret, so the comparison need not take constant time.
        Ok(if user == USER && password == PASSWORD { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_succeeded(&mut self, _session: &mut Session) -> Result<(), Self::Error> {
        self.logged_in.cancel();
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if self.channels.len() < MAX_CHANNELS {
            self.channels.insert(channel.id(), channel);
            reply.accept().await;
        }
        // A reply that is dropped refuses the channel.
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _session: &mut Session) -> Result<(), Self::Error> {
        self.channels.remove(&channel);
        Ok(())
    }

    async fn channel_eof(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        session.close(channel)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        match self.channels.remove(&channel) {
            Some(open) if name == "sftp" => {
                session.channel_success(channel)?;
                russh_sftp::server::run(open.into_stream(), Requests::new(self.folder.clone())).await;
                Ok(())
            }
            _ => session.channel_failure(channel),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;
    use std::process::{Output, Stdio};

    use tokio::io::AsyncWriteExt;
    use tokio::process::Command;

    use super::*;

    struct Served {
        folder: tempfile::TempDir,
        /// Beside the folder: local files, the askpass program, known hosts.
        local: tempfile::TempDir,
        server: EmbeddedServer,
    }

    async fn served() -> Served {
        let folder = tempfile::tempdir().unwrap();
        let local = tempfile::tempdir().unwrap();
        let server = start(folder.path().to_owned()).await.unwrap();
        Served { folder, local, server }
    }

    impl Served {
        /// Runs OpenSSH's own client with these batch lines; a line that begins with `-` may fail.
        async fn sftp(&self, password: &str, lines: &str) -> Output {
            let askpass = self.local.path().join("askpass");
            fs::write(&askpass, format!("#!/bin/sh\necho {password}\n")).unwrap();
            fs::set_permissions(&askpass, fs::Permissions::from_mode(0o700)).unwrap();
            let batch = self.local.path().join("batch");
            fs::write(&batch, lines).unwrap();
            let port = self.server.address().port();
            Command::new("sftp")
                .current_dir(self.local.path())
                .env("SSH_ASKPASS", &askpass)
                .env("SSH_ASKPASS_REQUIRE", "force")
                .args(["-F", "none", "-P", &port.to_string()])
                .args(["-o", "StrictHostKeyChecking=accept-new", "-o", "NumberOfPasswordPrompts=1"])
                .arg(format!("-oUserKnownHostsFile={}", self.local.path().join("known_hosts").display()))
                // `-b` alone would turn passwords off.
                .args(["-o", "BatchMode=no", "-o", "PreferredAuthentications=password", "-b"])
                .arg(&batch)
                .arg(format!("{USER}@127.0.0.1"))
                .stdin(Stdio::null())
                .output()
                .await
                .unwrap()
        }

        async fn succeed(&self, lines: &str) -> String {
            let output = self.sftp(PASSWORD, lines).await;
            let both = format!("{}{}", text(&output.stdout), text(&output.stderr));
            assert!(output.status.success(), "{both}");
            both
        }
    }

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    fn read(path: &Path) -> Vec<u8> {
        fs::read(path).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn openssh_puts_and_gets_the_same_bytes() {
        let served = served().await;
        let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(|n| n.to_le_bytes()).take(5_000_001).collect();
        fs::write(served.local.path().join("big"), &bytes).unwrap();
        fs::write(served.local.path().join("empty"), "").unwrap();
        served.succeed("put -p big\nput empty\nget big back\nget empty empty.back\n").await;
        assert!(read(&served.folder.path().join("big")) == bytes);
        assert!(read(&served.local.path().join("back")) == bytes);
        assert!(read(&served.local.path().join("empty.back")).is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn openssh_resumes_both_ways() {
        let served = served().await;
        let bytes: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        fs::write(served.local.path().join("file"), &bytes).unwrap();
        fs::write(served.folder.path().join("file"), bytes.get(..300_000).unwrap()).unwrap();
        served.succeed("reput file\n").await;
        assert!(read(&served.folder.path().join("file")) == bytes);
        fs::write(served.local.path().join("file"), bytes.get(..100_000).unwrap()).unwrap();
        served.succeed("reget file\n").await;
        assert!(read(&served.local.path().join("file")) == bytes);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn openssh_changes_the_tree() {
        let served = served().await;
        let root = served.folder.path();
        fs::write(served.local.path().join("a"), "new").unwrap();
        fs::write(root.join("b"), "old").unwrap();
        let said = served
            .succeed("mkdir dir\nput a\nrename a b\nchmod 640 b\nrename b dir/c\ncd dir\npwd\nls -l\ndf\nrm c\ncd ..\nrmdir dir\npwd\n")
            .await;
        // OpenSSH's client renames with posix-rename@openssh.com where it is offered, and that replaces.
        assert!(said.contains("Remote working directory: /dir") && said.contains("-rw-r-----"), "{said}");
        assert!(said.contains("%Capacity"), "{said}");
        assert_eq!(fs::read_dir(root).unwrap().count(), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_directory_longer_than_a_page_is_listed_whole() {
        let served = served().await;
        for number in 0..250 {
            fs::write(served.folder.path().join(format!("file-{number:03}")), "").unwrap();
        }
        let said = served.succeed("ls -1\n").await;
        assert_eq!(said.lines().filter(|line| line.starts_with("file-")).count(), 250, "{said}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_outside_of_the_folder_can_be_reached() {
        let served = served().await;
        let secret = served.local.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        symlink(&secret, served.folder.path().join("link")).unwrap();
        symlink(served.local.path(), served.folder.path().join("way-out")).unwrap();
        let lines = "-get link stolen\n-get way-out/secret stolen\n-get /etc/passwd stolen\n-get ../../etc/passwd stolen\n\
                     -put secret way-out/planted\n-rm way-out/secret\n-symlink /etc/passwd mine\n";
        let said = served.succeed(lines).await;
        assert!(said.to_lowercase().contains("permission denied") || said.contains("leads out"), "{said}");
        assert!(!served.local.path().join("stolen").exists());
        assert!(!served.local.path().join("planted").exists());
        assert!(!served.folder.path().join("mine").exists());
        assert_eq!(read(&secret), b"secret");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_wrong_password_is_refused() {
        let served = served().await;
        let output = served.sftp("wrong", "pwd\n").await;
        assert!(!output.status.success());
        assert!(text(&output.stderr).contains("Permission denied"), "{}", text(&output.stderr));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_fingerprint_is_that_of_the_key_it_shows() {
        let served = served().await;
        served.succeed("pwd\n").await;
        let known_hosts = served.local.path().join("known_hosts");
        let output = Command::new("ssh-keygen").arg("-lf").arg(known_hosts).output().await.unwrap();
        let said = text(&output.stdout);
        assert!(said.contains(served.server.host_key_fingerprint()), "{said}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn stopping_closes_connections_and_the_port() {
        let served = served().await;
        let address = served.server.address();
        let mut silent = TcpStream::connect(address).await.unwrap();
        silent.write_all(b"SSH-2.0-silent\r\n").await.unwrap();
        served.server.stop().await;
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_cannot_be_served() {
        let error = start(PathBuf::from("/nowhere/at/all")).await.unwrap_err();
        assert_eq!(error.to_string(), "/nowhere/at/all: cannot be served");
    }
}
