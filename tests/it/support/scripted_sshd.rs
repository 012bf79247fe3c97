//! The scripted SFTP server behind SSH on loopback, so that a whole gateway can be driven against what it does.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use russh::keys::{Algorithm, HashAlg, PrivateKey};
use russh::server::{Auth, ChannelOpenHandle, Msg, Session};
use russh::{Channel, ChannelId, MethodKind, MethodSet};
use tokio::io::split;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::gateway::Setup;
use super::scripted_sftp::tree::HOME;
use super::scripted_sftp::{Script, ScriptedSftp};

/// A running server: any user, any password. Dropping it stops it.
pub(crate) struct ScriptedSshd {
    sftp: ScriptedSftp,
    address: SocketAddr,
    fingerprint: String,
    keeps_connection: Arc<AtomicBool>,
    to_refuse: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl ScriptedSshd {
    /// Listens on a free port.
    pub(crate) async fn start(script: Script) -> Self {
        let key = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).unwrap();
        let fingerprint = key.public_key().fingerprint(HashAlg::Sha256).to_string();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = Arc::new(russh::server::Config {
            methods: MethodSet::from(&[MethodKind::Password][..]),
            keys: vec![key],
            auth_rejection_time_initial: Some(Duration::ZERO),
            ..russh::server::Config::default()
        });
        let sftp = ScriptedSftp::new(script);
        let keeps_connection = Arc::new(AtomicBool::new(false));
        let to_refuse = Arc::new(AtomicUsize::new(0));
        let accepting =
            tokio::spawn(accept(listener, config, sftp.clone(), Arc::clone(&keeps_connection), Arc::clone(&to_refuse)));
        Self { sftp, address, fingerprint, keeps_connection, to_refuse, accepting }
    }

    /// What it serves, is told, and has seen.
    pub(crate) fn sftp(&self) -> &ScriptedSftp {
        &self.sftp
    }

    /// A gateway's configuration in front of it: its backend `files`, and the mapped user at home.
    pub(crate) fn setup(&self) -> Setup {
        Setup::backend_at(self.address, &self.fingerprint).with_users(Path::new(std::str::from_utf8(HOME).unwrap()))
    }

    /// Where it listens, and with which key.
    pub(crate) fn address_and_fingerprint(&self) -> (SocketAddr, &str) {
        (self.address, &self.fingerprint)
    }

    /// When the script ends a connection, only the channel ends, as if its sftp-server had died.
    pub(crate) fn keep_connections(&self) {
        self.keeps_connection.store(true, Ordering::SeqCst);
    }

    /// The next connections end before a word is said, as while a server starts.
    pub(crate) fn refuse(&self, connections: usize) {
        self.to_refuse.store(connections, Ordering::SeqCst);
    }

    /// How many are still to be refused.
    pub(crate) fn to_refuse(&self) -> usize {
        self.to_refuse.load(Ordering::SeqCst)
    }
}

impl Drop for ScriptedSshd {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    config: Arc<russh::server::Config>,
    sftp: ScriptedSftp,
    keeps_connection: Arc<AtomicBool>,
    to_refuse: Arc<AtomicUsize>,
) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        if to_refuse.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            continue;
        }
        stream.set_nodelay(true).unwrap();
        // A second descriptor of the socket, to end it under whoever uses the first.
        let stream = stream.into_std().unwrap();
        let socket = Arc::new(stream.try_clone().unwrap());
        let stream = TcpStream::from_std(stream).unwrap();
        let connection = Connection {
            sftp: sftp.clone(),
            socket,
            keeps_connection: Arc::clone(&keeps_connection),
            channels: HashMap::new(),
        };
        let config = Arc::clone(&config);
        tokio::spawn(async move {
            if let Ok(session) = russh::server::run_stream(config, stream, connection).await {
                let _ = session.await;
            }
        });
    }
}

struct Connection {
    sftp: ScriptedSftp,
    socket: Arc<std::net::TcpStream>,
    keeps_connection: Arc<AtomicBool>,
    channels: HashMap<ChannelId, Channel<Msg>>,
}

impl russh::server::Handler for Connection {
    type Error = russh::Error;

    async fn auth_password(&mut self, _user: &str, _password: &str) -> Result<Auth, Self::Error> {
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.channels.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let Some(open) = self.channels.remove(&channel).filter(|_| name == "sftp") else {
            return session.channel_failure(channel);
        };
        session.channel_success(channel)?;
        let (sftp, socket, keeps) = (self.sftp.clone(), Arc::clone(&self.socket), Arc::clone(&self.keeps_connection));
        let handle = session.handle();
        tokio::spawn(async move {
            let (reader, writer) = split(open.into_stream());
            sftp.serve(reader, writer).await;
            if keeps.load(Ordering::SeqCst) {
                let _ = handle.close(channel).await;
            } else {
                let _ = socket.shutdown(Shutdown::Both);
            }
        });
        Ok(())
    }
}
