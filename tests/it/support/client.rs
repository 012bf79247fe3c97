//! A client that says exactly what the test tells it to: replies as they come, data connections step by step.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};

use super::gateway::{Gateway, MAPPED_PASSWORD, MAPPED_USER, SERVER_NAME};

/// How long a reply may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(40);

/// Where clients are that are nowhere else.
pub(crate) const HOME: [u8; 4] = [127, 0, 0, 1];

/// Anything bytes go over.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Stream for T {}

/// A reply: its code, and its lines without line ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) code: u16,
    pub(crate) lines: Vec<Vec<u8>>,
}

impl Reply {
    /// All lines as text, bytes as Latin-1.
    pub(crate) fn text(&self) -> String {
        self.lines.iter().map(|line| latin1(line)).collect::<Vec<_>>().join("\n")
    }
}

/// A control connection.
pub(crate) struct Client {
    control: BufReader<Box<dyn Stream>>,
    tls: TlsConnector,
    /// PROT P is in force.
    pub(crate) private: bool,
    peer: SocketAddr,
    /// Where its connections come from.
    home: [u8; 4],
    /// What data connections begin with: a PROXY header, or nothing.
    pub(crate) data_header: Vec<u8>,
}

impl Client {
    /// Implicit TLS, greeted.
    pub(crate) async fn implicit(gateway: &Gateway) -> Self {
        Self::implicit_with(gateway, &version::TLS13).await
    }

    /// Implicit TLS of one version, greeted.
    pub(crate) async fn implicit_with(gateway: &Gateway, version: &'static SupportedProtocolVersion) -> Self {
        let tls = connector(gateway, version);
        let stream = TcpStream::connect(gateway.implicit).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let stream = tls.connect(server_name(), stream).await.unwrap();
        let mut client = Self::over(Box::new(stream), tls, gateway.implicit);
        client.private = true;
        client.expect(220).await;
        client
    }

    /// Implicit TLS of the test's, greeted, from an address of this machine; or why there is none.
    pub(crate) async fn implicit_through(gateway: &Gateway, tls: TlsConnector, from: [u8; 4]) -> io::Result<Self> {
        let stream = connect_from(from, gateway.implicit).await?;
        let stream = tls.connect(server_name(), stream).await?;
        let mut client = Self::over(Box::new(stream), tls, gateway.implicit);
        (client.private, client.home) = (true, from);
        // Under TLS 1.3 the client's handshake is over before the server has seen its certificate.
        let greeting = client.try_reply().await?;
        assert_eq!(greeting.code, 220, "{}", greeting.text());
        Ok(client)
    }

    /// Implicit TLS, greeted, from an address of this machine.
    pub(crate) async fn implicit_from(gateway: &Gateway, from: [u8; 4]) -> Self {
        Self::implicit_through(gateway, connector(gateway, &version::TLS13), from).await.unwrap()
    }

    /// In clear, greeted.
    pub(crate) async fn clear(gateway: &Gateway) -> Self {
        let stream = TcpStream::connect(gateway.explicit).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self::over(Box::new(stream), connector(gateway, &version::TLS13), gateway.explicit);
        client.expect(220).await;
        client
    }

    /// AUTH TLS, PBSZ and PROT P.
    pub(crate) async fn explicit(gateway: &Gateway) -> Self {
        Self::explicit_with(gateway, &version::TLS13).await
    }

    /// The same under one version of TLS.
    pub(crate) async fn explicit_with(gateway: &Gateway, version: &'static SupportedProtocolVersion) -> Self {
        Self::explicit_through(gateway, connector(gateway, version), HOME).await
    }

    /// The same under TLS of the test's, from an address of this machine.
    pub(crate) async fn explicit_through(gateway: &Gateway, tls: TlsConnector, from: [u8; 4]) -> Self {
        let stream = connect_from(from, gateway.explicit).await.unwrap();
        let mut clear = Self::over(Box::new(stream), tls, gateway.explicit);
        clear.home = from;
        clear.expect(220).await;
        assert_eq!(clear.command("AUTH TLS").await.code, 234);
        let mut client = clear.upgrade().await.unwrap();
        assert_eq!(client.command("PBSZ 0").await.code, 200);
        assert_eq!(client.command("PROT P").await.code, 200);
        client.private = true;
        client
    }

    /// Explicit TLS, logged in as [`MAPPED_USER`].
    pub(crate) async fn logged_in(gateway: &Gateway) -> Self {
        let mut client = Self::explicit(gateway).await;
        client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
        client
    }

    /// As through a proxy that sends this header, on data connections too; implicit TLS, greeted.
    pub(crate) async fn implicit_behind(gateway: &Gateway, header: &[u8]) -> Self {
        let tls = connector(gateway, &version::TLS13);
        let mut stream = TcpStream::connect(gateway.implicit).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(header).await.unwrap();
        let stream = tls.connect(server_name(), stream).await.unwrap();
        let mut client = Self::over(Box::new(stream), tls, gateway.implicit);
        (client.private, client.data_header) = (true, header.to_vec());
        client.expect(220).await;
        client
    }

    /// The same in clear, greeted.
    pub(crate) async fn clear_behind(gateway: &Gateway, header: &[u8]) -> Self {
        let mut stream = TcpStream::connect(gateway.explicit).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(header).await.unwrap();
        let mut client = Self::over(Box::new(stream), connector(gateway, &version::TLS13), gateway.explicit);
        client.data_header = header.to_vec();
        client.expect(220).await;
        client
    }

    /// Nothing was said yet over this stream, which leads to a listener. `tls` is for what comes later.
    pub(crate) fn over(stream: Box<dyn Stream>, tls: TlsConnector, peer: SocketAddr) -> Self {
        Self { control: BufReader::new(stream), tls, private: false, peer, home: HOME, data_header: Vec::new() }
    }

    /// Begins TLS on the control connection (after 234).
    pub(crate) async fn upgrade(self) -> io::Result<Self> {
        let Self { control, tls, peer, home, data_header, .. } = self;
        assert!(control.buffer().is_empty(), "something came in clear after 234");
        let stream = tls.connect(server_name(), control.into_inner()).await?;
        let mut client = Self::over(Box::new(stream), tls, peer);
        (client.home, client.data_header) = (home, data_header);
        Ok(client)
    }

    /// USER and PASS, successfully.
    pub(crate) async fn log_in(&mut self, user: &str, password: &str) {
        assert_eq!(self.command(&format!("USER {user}")).await.code, 331);
        let reply = self.command(&format!("PASS {password}")).await;
        assert_eq!(reply.code, 230, "{}", reply.text());
    }

    /// Sends a command and awaits one reply.
    pub(crate) async fn command(&mut self, line: impl AsRef<[u8]>) -> Reply {
        self.send(line).await;
        self.reply().await
    }

    /// Sends a command.
    pub(crate) async fn send(&mut self, line: impl AsRef<[u8]>) {
        self.send_raw(&[line.as_ref(), b"\r\n"].concat()).await;
    }

    /// Sends bytes as they are.
    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) {
        self.control.write_all(bytes).await.unwrap();
        self.control.flush().await.unwrap();
    }

    /// The next reply.
    pub(crate) async fn reply(&mut self) -> Reply {
        self.try_reply().await.expect("a reply")
    }

    /// The next reply, or why there is none.
    pub(crate) async fn try_reply(&mut self) -> io::Result<Reply> {
        self.reply_within(PATIENCE).await
    }

    async fn reply_within(&mut self, patience: Duration) -> io::Result<Reply> {
        let read = async {
            let mut lines: Vec<Vec<u8>> = Vec::new();
            loop {
                let mut line = Vec::new();
                if self.control.read_until(b'\n', &mut line).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let line = line.strip_suffix(b"\r\n").expect("CRLF").to_vec();
                let first = lines.first().unwrap_or(&line);
                let code = first[..3].to_vec();
                let is_last = line.starts_with(&code) && line.get(3) == Some(&b' ');
                lines.push(line);
                if is_last {
                    let code = latin1(&code).parse().expect("a code");
                    return Ok(Reply { code, lines });
                }
            }
        };
        timeout(patience, read).await.expect("a reply in time")
    }

    /// The next reply, which has this code.
    pub(crate) async fn expect(&mut self, code: u16) -> Reply {
        let reply = self.reply().await;
        assert_eq!(reply.code, code, "{}", reply.text());
        reply
    }

    /// The same for a reply that takes its time.
    pub(crate) async fn expect_within(&mut self, code: u16, patience: Duration) {
        let reply = self.reply_within(patience).await.unwrap();
        assert_eq!(reply.code, code, "{}", reply.text());
    }

    /// EPSV: the address to connect to.
    pub(crate) async fn passive(&mut self) -> SocketAddr {
        let reply = self.command("EPSV").await;
        assert_eq!(reply.code, 229, "{}", reply.text());
        let port = reply.text().split('|').nth(3).unwrap().parse().unwrap();
        SocketAddr::new(self.peer.ip(), port)
    }

    /// Connects to a data port, without TLS yet.
    pub(crate) async fn connect(&self, address: SocketAddr) -> TcpStream {
        let mut stream = connect_from(self.home, address).await.unwrap();
        stream.write_all(&self.data_header).await.unwrap();
        stream
    }

    /// TLS on a data connection, resuming this session.
    pub(crate) async fn secure(&self, stream: TcpStream) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        self.tls.connect(server_name(), stream).await
    }

    /// Its TLS, which holds the sessions it can resume.
    pub(crate) fn tls(&self) -> &TlsConnector {
        &self.tls
    }

    /// A data connection that is ready, once the gateway expects it.
    pub(crate) async fn data(&self, address: SocketAddr) -> Box<dyn Stream> {
        let stream = self.connect(address).await;
        if self.private { Box::new(self.secure(stream).await.unwrap()) } else { Box::new(stream) }
    }

    /// An upload to its final reply.
    pub(crate) async fn store(&mut self, command: impl AsRef<[u8]>, bytes: &[u8]) -> Reply {
        let address = self.passive().await;
        let opening = self.command(command).await;
        if opening.code != 150 {
            return opening;
        }
        let mut data = self.data(address).await;
        // The gateway may end it early; the reply tells why.
        let _ = async {
            data.write_all(bytes).await?;
            data.shutdown().await
        }
        .await;
        let mut rest = Vec::new();
        let _ = data.read_to_end(&mut rest).await;
        self.reply().await
    }

    /// A download or a listing to its final reply.
    pub(crate) async fn fetch(&mut self, command: impl AsRef<[u8]>) -> (Reply, Vec<u8>) {
        let address = self.passive().await;
        let opening = self.command(command).await;
        if opening.code != 150 {
            return (opening, Vec::new());
        }
        let mut data = self.data(address).await;
        let mut bytes = Vec::new();
        let _ = data.read_to_end(&mut bytes).await;
        let _ = data.shutdown().await;
        (self.reply().await, bytes)
    }

    /// A download that succeeds.
    pub(crate) async fn retrieve(&mut self, name: impl AsRef<[u8]>) -> Vec<u8> {
        let (reply, bytes) = self.fetch([b"RETR ", name.as_ref()].concat()).await;
        assert_eq!(reply.code, 226, "{}", reply.text());
        bytes
    }

    /// A command and its one reply, which has this code.
    pub(crate) async fn ask(&mut self, line: impl AsRef<[u8]>, code: u16) -> Reply {
        let line = line.as_ref();
        let reply = self.command(line).await;
        assert_eq!(reply.code, code, "{}: {}", line.escape_ascii(), reply.text());
        reply
    }

    /// Several commands, each with the code of its one reply.
    pub(crate) async fn ask_all(&mut self, dialogue: &[(&str, u16)]) {
        for (line, code) in dialogue {
            self.ask(line, *code).await;
        }
    }

    /// The lines of a listing that succeeds, without line ends.
    pub(crate) async fn lines(&mut self, command: impl AsRef<[u8]>) -> Vec<Vec<u8>> {
        let command = command.as_ref();
        let (reply, bytes) = self.fetch(command).await;
        assert_eq!(reply.code, 226, "{}: {}", command.escape_ascii(), reply.text());
        let mut lines: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        assert_eq!(lines.pop().as_deref(), Some(&b""[..]), "the last line has no end");
        for line in &mut lines {
            assert_eq!(line.pop(), Some(b'\r'), "a line without CR");
        }
        lines
    }

    /// The connection is closed, and nothing more was said.
    pub(crate) async fn expect_closed(&mut self) {
        if let Ok(reply) = self.try_reply().await {
            panic!("not closed but said {}", reply.text());
        }
    }
}

/// A connection from an address of this machine.
pub(crate) async fn connect_from(address: [u8; 4], to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // A socket that is bound needs a port that nobody has, and not only one that is free towards `to`: there are few.
    if address != HOME {
        socket.bind(SocketAddr::from((address, 0)))?;
    }
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Bytes as text, each as the character of its number.
pub(crate) fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// Trusts the gateway's certificate; each has its own session cache.
pub(crate) fn connector(gateway: &Gateway, version: &'static SupportedProtocolVersion) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let pem = fs::read(gateway.certificate()).unwrap();
    roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let config =
        ClientConfig::builder_with_protocol_versions(&[version]).with_root_certificates(roots).with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// The name the gateway's certificate is checked against.
pub(crate) fn server_name() -> ServerName<'static> {
    ServerName::try_from(SERVER_NAME).unwrap()
}
