//! The PROXY protocol (HAProxy's `proxy-protocol.txt`): a proxy in front says whose connection it hands on.
//!
//! The header is the first thing on a connection, before TLS and before FTP, and it is read to its last byte and no
//! further.

pub mod header;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::config::{Network, ProxyProtocol};

use self::header::{Header, HeaderError, Progress};

/// How long a header may take. A proxy sends it with its first segment.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long its first byte is waited for where it may be missing. An FTP client says nothing before it is greeted, so
/// whoever comes over a trusted proxy without a header waits as long.
const OPTIONAL_PATIENCE: Duration = Duration::from_secs(1);

/// Connections whose header is awaited, at most: they are not among the sessions yet that `limits` counts.
const MOST_AWAITED: usize = 1024;

/// Asks for the header where it is to be there, and believes it where that is allowed.
#[derive(Debug, Clone)]
pub struct Gate {
    mode: ProxyProtocol,
    trusted: Arc<[Network]>,
    awaited: Arc<Semaphore>,
}

/// The two ends of a connection, IPv4-mapped addresses as IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Who connected.
    pub client: SocketAddr,
    /// The address it dialled.
    pub dialled: SocketAddr,
}

/// Why a connection is not let in.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Only proxies may connect here.
    #[error("only a proxy may connect here, and this address is not in trusted_proxies (proxy_protocol: required)")]
    Untrusted,
    /// As health checks do.
    #[error("the connection ended before its PROXY header")]
    Gone(#[source] io::Error),
    /// It said nothing, or not enough.
    #[error("the PROXY header did not come in time")]
    TimedOut,
    /// Too many do the same.
    #[error("too many connections wait for their PROXY header")]
    TooMany,
    /// There is one, or should be.
    #[error("{0}")]
    Wrong(#[from] HeaderError),
}

impl Gate {
    /// For connections with this setting; headers of `trusted` are believed.
    pub fn new(mode: ProxyProtocol, trusted: Arc<[Network]>) -> Self {
        Self { mode, trusted, awaited: Arc::new(Semaphore::new(MOST_AWAITED)) }
    }

    /// For connections that have no header.
    pub fn open() -> Self {
        Self::new(ProxyProtocol::Off, Arc::new([]))
    }

    /// Is nothing to be waited for from this address?
    pub fn is_open_to(&self, peer: IpAddr) -> bool {
        match self.mode {
            ProxyProtocol::Off => true,
            ProxyProtocol::Optional => !self.trusts(peer),
            ProxyProtocol::Required => false,
        }
    }

    /// The ends of a connection that was just accepted, once its header was read.
    ///
    /// SECURITY: a header is believed only when the connection comes from a trusted proxy. From anybody else it is not
    /// even read: under `required` the connection is refused, and otherwise a header is what the client says first, which
    /// ends its session (it is neither FTP nor TLS).
    ///
    /// # Errors
    /// When it is not to be served: to be closed without a word.
    pub async fn ends(&self, stream: &mut TcpStream, peer: SocketAddr) -> Result<Ends, Refusal> {
        let own = Ends { client: canonical(peer), dialled: canonical(stream.local_addr().map_err(Refusal::Gone)?) };
        if self.is_open_to(own.client.ip()) {
            return Ok(own);
        }
        if !self.trusts(own.client.ip()) {
            return Err(Refusal::Untrusted);
        }
        let _place = self.awaited.try_acquire().map_err(|_| Refusal::TooMany)?;
        if self.mode == ProxyProtocol::Optional && !may_have_header(stream).await? {
            return Ok(own);
        }
        match timeout(PATIENCE, receive(stream)).await.map_err(|_| Refusal::TimedOut)?? {
            Header::Own => Ok(own),
            Header::Client { source, destination } => Ok(Ends { client: source, dialled: destination }),
        }
    }

    fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(peer))
    }
}

/// Looks at the first bytes and leaves them where they are.
async fn may_have_header(stream: &TcpStream) -> Result<bool, Refusal> {
    let mut first = [0_u8; 16];
    match timeout(OPTIONAL_PATIENCE, stream.peek(&mut first)).await {
        // The client waits to be greeted.
        Err(_) => Ok(false),
        Ok(Ok(0)) => Err(Refusal::Gone(io::ErrorKind::UnexpectedEof.into())),
        Ok(Ok(count)) => Ok(header::may_begin(first.get(..count).unwrap_or_default())),
        Ok(Err(error)) => Err(Refusal::Gone(error)),
    }
}

async fn receive(stream: &mut TcpStream) -> Result<Header, Refusal> {
    let mut bytes = Vec::with_capacity(64);
    loop {
        let needed = match header::read(&bytes)? {
            Progress::Complete(header) => return Ok(header),
            Progress::Needs(count) => u64::try_from(count).unwrap_or(1),
        };
        if (&mut *stream).take(needed).read_buf(&mut bytes).await.map_err(Refusal::Gone)? == 0 {
            return Err(Refusal::Gone(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// IPv4 clients of an IPv6 socket are IPv4 clients.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    const HEADER: &[u8] = b"PROXY TCP4 203.0.113.7 198.51.100.9 50000 21\r\n";

    fn gate(mode: ProxyProtocol, trusted: &str) -> Gate {
        Gate::new(mode, Arc::new([Network::parse(trusted).unwrap()]))
    }

    /// What becomes of a connection from 127.0.0.1 that says this, and what is left on it.
    async fn said(gate: &Gate, bytes: &[u8]) -> (Result<Ends, Refusal>, Vec<u8>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, peer) = listener.accept().await.unwrap();
        client.write_all(bytes).await.unwrap();
        let ended = async {
            client.shutdown().await.unwrap();
            client
        };
        let (ends, _client) = tokio::join!(gate.ends(&mut stream, peer), ended);
        let mut rest = Vec::new();
        if ends.is_ok() {
            stream.read_to_end(&mut rest).await.unwrap();
        }
        (ends, rest)
    }

    #[tokio::test]
    async fn a_trusted_proxy_tells_who_connects_and_nothing_behind_its_header_is_lost() {
        for mode in [ProxyProtocol::Optional, ProxyProtocol::Required] {
            let gate = gate(mode, "127.0.0.0/8");
            let (ends, rest) = said(&gate, &[HEADER, b"\x16\x03\x01"].concat()).await;
            let ends = ends.unwrap();
            assert_eq!(ends.client, "203.0.113.7:50000".parse().unwrap());
            assert_eq!(ends.dialled, "198.51.100.9:21".parse().unwrap());
            assert_eq!(rest, b"\x16\x03\x01");
            let (ends, rest) = said(&gate, b"PROXY UNKNOWN\r\nUSER").await;
            assert_eq!(ends.unwrap().client.ip(), Ipv4Addr::LOCALHOST);
            assert_eq!(rest, b"USER");
        }
    }

    #[tokio::test]
    async fn without_a_header_it_is_the_real_address_or_nobody() {
        let (ends, rest) = said(&gate(ProxyProtocol::Optional, "127.0.0.0/8"), b"\x16\x03\x01").await;
        assert_eq!(ends.unwrap().client.ip(), Ipv4Addr::LOCALHOST);
        assert_eq!(rest, b"\x16\x03\x01");
        let required = gate(ProxyProtocol::Required, "127.0.0.0/8");
        assert!(matches!(said(&required, b"\x16\x03\x01").await.0, Err(Refusal::Wrong(HeaderError::Missing))));
        assert!(matches!(said(&required, b"").await.0, Err(Refusal::Gone(_))));
        assert!(matches!(said(&required, b"PROXY TCP4 1.1.1.1").await.0, Err(Refusal::Gone(_))));
    }

    #[tokio::test]
    async fn what_a_stranger_says_is_not_even_read() {
        let (ends, rest) = said(&gate(ProxyProtocol::Optional, "192.0.2.0/24"), HEADER).await;
        assert_eq!(ends.unwrap().client.ip(), Ipv4Addr::LOCALHOST);
        assert_eq!(rest, HEADER);
        let (ends, _) = said(&gate(ProxyProtocol::Required, "192.0.2.0/24"), HEADER).await;
        assert!(matches!(ends, Err(Refusal::Untrusted)));
        let (ends, rest) = said(&Gate::open(), HEADER).await;
        assert_eq!((ends.unwrap().client.ip(), rest.as_slice()), (Ipv4Addr::LOCALHOST.into(), HEADER));
    }

    #[tokio::test]
    async fn who_keeps_silent_is_not_waited_for_for_ever() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, peer) = listener.accept().await.unwrap();
        tokio::time::pause();
        let ends = gate(ProxyProtocol::Optional, "127.0.0.1").ends(&mut stream, peer).await;
        assert_eq!(ends.unwrap().client, peer);
        client.write_all(b"PROXY ").await.unwrap();
        stream.readable().await.unwrap();
        for mode in [ProxyProtocol::Optional, ProxyProtocol::Required] {
            let ends = gate(mode, "127.0.0.1").ends(&mut stream, peer).await;
            assert!(matches!(ends, Err(Refusal::TimedOut)), "{ends:?}");
            client.write_all(b"PROXY ").await.unwrap();
            stream.readable().await.unwrap();
        }
    }
}
