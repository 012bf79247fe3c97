//! An SSH server with the ciphers of the test's, with or without strict key exchange. It lets nobody in.

use std::borrow::Cow;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ftps2sftp::config::algorithms::Algorithms;
use ftps2sftp::config::{Backend, HostPort, Quirks};
use ftps2sftp::ssh::{HostKeyPolicy, KnownHosts, Target};
use russh::keys::{Algorithm, PrivateKey};
use russh::server::{Auth, Server as _};
use russh::{Preferred, cipher, kex};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A running server. Dropping it stops it.
pub(crate) struct PlainSshd {
    port: u16,
    key: PrivateKey,
    asked: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl PlainSshd {
    /// Listens on a free port.
    pub(crate) async fn start(ciphers: Vec<cipher::Name>, strict: bool) -> Self {
        let key = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut preferred = Preferred { cipher: Cow::Owned(ciphers), ..Preferred::default() };
        if !strict {
            preferred.kex.to_mut().retain(|name| *name != kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER);
        }
        let config =
            Arc::new(russh::server::Config { keys: vec![key.clone()], preferred, ..russh::server::Config::default() });
        let asked = Arc::<AtomicUsize>::default();
        let mut server = Nobody(Arc::clone(&asked));
        let accepting = tokio::spawn(async move { server.run_on_socket(config, &listener).await.unwrap() });
        Self { port, key, asked, accepting }
    }

    /// How often somebody tried to log in.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// A backend that trusts it.
    pub(crate) fn target(&self, algorithms: Algorithms) -> Target {
        let seconds = Duration::from_secs;
        let backend = Backend {
            name: "plain".to_owned(),
            addresses: vec![HostPort { host: Ipv4Addr::LOCALHOST.to_string(), port: self.port }],
            known_hosts: None,
            host_keys: Vec::new(),
            keepalive: seconds(15),
            connect_timeout: seconds(30),
            request_timeout: seconds(30),
            quirks: Quirks::default(),
            shared: false,
            idle_release: None,
            algorithms,
            jump: None,
            login: None,
        };
        let known_hosts = format!("127.0.0.1 {}", self.key.public_key().to_openssh().unwrap());
        let known_hosts = KnownHosts::parse(known_hosts.as_bytes()).unwrap();
        Target::new(Arc::new(backend), HostKeyPolicy::new(Some(known_hosts), Vec::new()).unwrap())
    }
}

impl Drop for PlainSshd {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

#[derive(Clone)]
struct Nobody(Arc<AtomicUsize>);

impl russh::server::Server for Nobody {
    type Handler = Self;

    fn new_client(&mut self, _: Option<std::net::SocketAddr>) -> Self {
        self.clone()
    }
}

impl russh::server::Handler for Nobody {
    type Error = russh::Error;

    async fn auth_none(&mut self, _: &str) -> Result<Auth, russh::Error> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Auth::reject())
    }

    async fn auth_password(&mut self, _: &str, _: &str) -> Result<Auth, russh::Error> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Auth::reject())
    }
}
