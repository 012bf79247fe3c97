//! One case as a client carries it out: a control connection, data connections, and what came of each step.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use crate::support::client::Stream;
use crate::table::{Case, Data, Expected, Manner, Protection, Stage, Step};
use crate::text::{bytes, contains};

/// Commands whose data connection goes from the client to the server.
const UPLOADS: [&str; 3] = ["STOR", "APPE", "STOU"];

/// And those in the other direction.
const DOWNLOADS: [&str; 4] = ["RETR", "LIST", "NLST", "MLSD"];

/// A server to talk to, and who logs in.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) explicit: Option<SocketAddr>,
    pub(crate) implicit: Option<SocketAddr>,
    pub(crate) user: String,
    pub(crate) password: String,
    /// How long anything may take that comes by itself.
    pub(crate) patience: Duration,
}

/// A reply or something else that came over the control connection.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Came {
    Reply { code: u16, text: Vec<u8> },
    Raw(Vec<u8>),
    Closed,
}

impl std::fmt::Display for Came {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Reply { text, .. } => write!(formatter, "{}", text.escape_ascii()),
            Self::Raw(bytes) => write!(formatter, "raw {}", bytes.escape_ascii()),
            Self::Closed => formatter.write_str("the end of the connection"),
        }
    }
}

/// A session in progress.
pub(crate) struct Dialogue<'a> {
    target: &'a Target,
    stream: Option<Box<dyn Stream>>,
    received: Vec<u8>,
    tls: TlsConnector,
    peer: SocketAddr,
    private: bool,
    /// 234 has come, and TLS has not begun.
    secures: bool,
    data: Option<Endpoint>,
    /// A data connection that is made, without TLS yet.
    socket: Option<TcpStream>,
    /// For PORT and EPRT.
    listener: Option<TcpListener>,
    /// What the last data connection brought.
    downloaded: io::Result<Vec<u8>>,
    /// A transfer waits for its data connection, and whether it is an upload.
    held: Option<bool>,
    /// Everything that came, for who reads of a failure.
    pub(crate) log: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
enum Endpoint {
    Dial(SocketAddr),
    Accept,
}

impl<'a> Dialogue<'a> {
    /// Connects, and does what the state of the case says.
    pub(crate) async fn begin(target: &'a Target, case: &Case) -> Result<Self, String> {
        let state = &case.state;
        let at = if state.implicit { target.implicit } else { target.explicit };
        let peer = at.ok_or("the server has no such port")?;
        let stream = TcpStream::connect(peer).await.map_err(|error| format!("{peer}: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let mut dialogue = Self {
            target,
            stream: Some(Box::new(stream)),
            received: Vec::new(),
            tls: connector(),
            peer,
            private: state.implicit,
            secures: state.implicit,
            data: None,
            socket: None,
            listener: None,
            downloaded: Ok(Vec::new()),
            held: None,
            log: Vec::new(),
        };
        dialogue.upgrade().await?;
        dialogue.must(None, 220).await?;
        if state.stage != Stage::Clear && !state.implicit && !state.lenient {
            dialogue.must(Some("AUTH TLS"), 234).await?;
            dialogue.upgrade().await?;
        }
        if matches!(state.stage, Stage::Named | Stage::LoggedIn) {
            dialogue.must(Some("USER {user}"), 331).await?;
        }
        if state.stage == Stage::LoggedIn {
            dialogue.must(Some("PASS {password}"), 230).await?;
            if !state.lenient {
                dialogue.protect(state.protection).await?;
            }
            if state.image {
                dialogue.must(Some("TYPE I"), 200).await?;
            }
        }
        if let Some(command) = state.data {
            let code = match command {
                "EPSV" => 229,
                "PASV" => 227,
                _ => 200,
            };
            dialogue.must(Some(command), code).await?;
        }
        dialogue.log.clear();
        Ok(dialogue)
    }

    async fn protect(&mut self, protection: Protection) -> Result<(), String> {
        let command = match protection {
            Protection::Private => "PROT P",
            Protection::Clear => "PROT C",
            Protection::Unsaid => return Ok(()),
        };
        self.must(Some("PBSZ 0"), 200).await?;
        self.must(Some(command), 200).await
    }

    /// Carries out the steps, and makes sure that nothing more comes than is expected.
    pub(crate) async fn carry_out(&mut self, case: &Case) -> Result<(), String> {
        for step in &case.steps {
            self.step(step).await?;
        }
        let closed = case.steps.last().is_some_and(|step| matches!(step.expected.last(), Some(Expected::Closed)));
        if closed || self.held.is_some() {
            return Ok(());
        }
        self.send("NOOP").await?;
        match self.next().await? {
            Came::Reply { code: 200, .. } => Ok(()),
            // Servers may want a login for everything.
            Came::Reply { code: 530, .. } if case.state.stage != Stage::LoggedIn => Ok(()),
            other => Err(format!("in place of the reply to a NOOP at the end came: {other}")),
        }
    }

    async fn step(&mut self, step: &Step) -> Result<(), String> {
        if let Some(command) = &step.sent {
            // Many servers say 150 only to who has connected by then.
            if begins_transfer(command)
                && let Some(Endpoint::Dial(address)) = self.data
            {
                self.data = None;
                self.socket = TcpStream::connect(address).await.ok();
            }
            self.send(command).await?;
        }
        let uploads = step.sent.as_ref().map_or_else(|| self.held.unwrap_or(false), |sent| is_upload(sent));
        if step.sent.is_none() {
            self.held = None;
            self.transfer(&step.data, uploads).await;
        }
        for expected in &step.expected {
            match expected {
                Expected::Reply { codes, text } => {
                    let came = self.next().await?;
                    let Came::Reply { code, text: told } = &came else {
                        return Err(format!("in place of {} came: {came}", list(codes)));
                    };
                    if !codes.contains(code) {
                        return Err(format!("in place of {} came: {came}", list(codes)));
                    }
                    if let Some(pattern) = text
                        && !contains(told, pattern, &|name| self.meaning(name))?
                    {
                        return Err(format!("no \"{pattern}\" in: {came}"));
                    }
                    self.note(step, &came);
                    if (100..200).contains(code) {
                        if step.data == Data::Held {
                            self.held = Some(uploads);
                        } else {
                            self.transfer(&step.data, uploads).await;
                        }
                    }
                }
                Expected::Raw(wanted) => {
                    let wanted = bytes(wanted, &|name| self.meaning(name))?;
                    let came = self.next().await?;
                    if came != Came::Raw(wanted) {
                        return Err(format!("unexpected: {came}"));
                    }
                }
                Expected::Closed => match self.next().await? {
                    Came::Closed => {}
                    other => return Err(format!("in place of the end of the connection came: {other}")),
                },
                Expected::Data(_) | Expected::DataContains(_) | Expected::DataLacks(_) | Expected::Lines(_) => {
                    self.compare(expected)?;
                }
            }
        }
        if self.held.is_none() {
            self.socket = None;
        }
        Ok(())
    }

    /// What a reply means for what comes next.
    fn note(&mut self, step: &Step, came: &Came) {
        let Came::Reply { code, text } = came else { return };
        let sent = step.sent.as_deref().unwrap_or_default().to_ascii_uppercase();
        match code {
            227 => self.data = passive_port(text).map(|port| Endpoint::Dial(SocketAddr::new(self.peer.ip(), port))),
            229 => self.data = extended_port(text).map(|port| Endpoint::Dial(SocketAddr::new(self.peer.ip(), port))),
            234 => self.secures = true,
            200 if sent.starts_with("PROT P") => self.private = true,
            200 if sent.starts_with("PROT C") => self.private = false,
            200 if sent.starts_with("PORT ") || sent.starts_with("EPRT ") => self.data = Some(Endpoint::Accept),
            _ => {}
        }
    }

    /// One command that must be answered so for the case to begin.
    async fn must(&mut self, command: Option<&str>, code: u16) -> Result<(), String> {
        if let Some(command) = command {
            self.send(command).await?;
        }
        let came = self.next().await?;
        let expected = vec![Expected::Reply { codes: vec![code], text: None }];
        let step = Step { sent: command.map(str::to_owned), data: Data::Usual, expected };
        self.note(&step, &came);
        match &came {
            Came::Reply { code: told, .. } if *told == code => Ok(()),
            _ => Err(format!("the state is not reached: in place of {code} came: {came}")),
        }
    }

    /// A line; `\-` at its end leaves the line end out.
    async fn send(&mut self, text: &str) -> Result<(), String> {
        self.upgrade().await?;
        if text.contains("{port}") || text.contains("{eprt}") {
            let listener = TcpListener::bind((self.local()?, 0)).await.map_err(|error| error.to_string())?;
            self.listener = Some(listener);
        }
        let line = match text.strip_suffix("\\-") {
            Some(text) => bytes(text, &|name| self.meaning(name))?,
            None => [bytes(text, &|name| self.meaning(name))?.as_slice(), b"\r\n"].concat(),
        };
        let stream = self.stream.as_mut().ok_or("the connection has ended")?;
        let sent = async {
            stream.write_all(&line).await?;
            stream.flush().await
        };
        // A server that has closed is found out where its reply is missing.
        let _ = timeout(self.target.patience, sent).await.map_err(|_| "the server takes nothing more".to_owned())?;
        Ok(())
    }

    fn local(&self) -> Result<std::net::IpAddr, String> {
        if self.peer.ip().is_loopback() { Ok(self.peer.ip()) } else { Err("no address to listen on".to_owned()) }
    }

    /// What `{name}` stands for.
    fn meaning(&self, name: &str) -> Option<Vec<u8>> {
        let port = || self.listener.as_ref()?.local_addr().ok().map(|address| address.port());
        Some(match name {
            "user" => self.target.user.clone().into_bytes(),
            "password" => self.target.password.clone().into_bytes(),
            "host" => self.peer.ip().to_string().into_bytes(),
            "port" => {
                let [high, low] = port()?.to_be_bytes();
                format!("{},{high},{low}", self.peer.ip().to_string().replace('.', ",")).into_bytes()
            }
            "eprt" => format!("|1|{}|{}|", self.peer.ip(), port()?).into_bytes(),
            _ => return None,
        })
    }

    /// The next thing that comes.
    async fn next(&mut self) -> Result<Came, String> {
        let came = match timeout(self.target.patience, self.read()).await {
            Ok(Ok(came)) => came,
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => return Err(error.to_string()),
            // However it ends: with close_notify, without, or reset.
            Ok(Err(_)) => Came::Closed,
            Err(_) => return Err(format!("no reply after {:?}", self.target.patience)),
        };
        self.log.push(came.to_string());
        Ok(came)
    }

    async fn read(&mut self) -> io::Result<Came> {
        let malformed = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let (mut text, mut code) = (Vec::new(), Vec::new());
        loop {
            if text.is_empty() && self.received.first() == Some(&0xFF) && self.received.len() >= 3 {
                return Ok(Came::Raw(self.received.drain(..3).collect()));
            }
            if let Some(end) = self.received.windows(2).position(|window| window == b"\r\n") {
                let line: Vec<u8> = self.received.drain(..end + 2).take(end).collect();
                if text.is_empty() {
                    code = line.get(..3).map(<[u8]>::to_vec).unwrap_or_default();
                } else {
                    text.push(b'\n');
                }
                text.extend_from_slice(&line);
                if line.starts_with(&code) && line.get(3) == Some(&b' ') {
                    let number = std::str::from_utf8(&code).ok().and_then(|code| code.parse().ok());
                    let code = number.ok_or_else(|| malformed(format!("no code: {}", text.escape_ascii())))?;
                    return Ok(Came::Reply { code, text });
                }
                let begins = text.len() == line.len();
                if begins && !(code.len() == 3 && code.iter().all(u8::is_ascii_digit) && line.get(3) == Some(&b'-')) {
                    return Err(malformed(format!("not a reply: {}", text.escape_ascii())));
                }
                continue;
            }
            let stream = self.stream.as_mut().ok_or(io::ErrorKind::UnexpectedEof)?;
            if stream.read_buf(&mut self.received).await? == 0 {
                return if self.received.is_empty() && text.is_empty() {
                    Ok(Came::Closed)
                } else {
                    Err(malformed(format!("half a reply: {}", self.received.escape_ascii())))
                };
            }
        }
    }

    /// Begins TLS where 234 has come, or where the port is implicit.
    async fn upgrade(&mut self) -> Result<(), String> {
        if !std::mem::take(&mut self.secures) {
            return Ok(());
        }
        if !self.received.is_empty() {
            return Err(format!("in clear behind 234: {}", self.received.escape_ascii()));
        }
        let stream = self.stream.take().ok_or("the connection has ended")?;
        let secured = timeout(self.target.patience, self.tls.connect(server_name(), stream)).await;
        let secured = secured.map_err(|_| "the TLS handshake takes too long")?;
        self.stream = Some(Box::new(secured.map_err(|error| format!("TLS on the control connection: {error}"))?));
        Ok(())
    }

    /// The data connection of a transfer, from its beginning to its end. How it fails is told by the reply.
    async fn transfer(&mut self, data: &Data, uploads: bool) {
        let content = match data {
            Data::Write { content, .. } => bytes(content, &|name| self.meaning(name)),
            Data::Usual | Data::Read | Data::Held => Ok(Vec::new()),
        };
        let manner = match data {
            Data::Write { manner, .. } => *manner,
            Data::Usual | Data::Read | Data::Held => Manner::Proper,
        };
        let patience = self.target.patience;
        let moved = async {
            let content = content.map_err(io::Error::other)?;
            let mut stream = self.connect(manner).await?;
            if uploads {
                stream.write(&content, manner).await?;
            }
            stream.read_to_end().await
        };
        let moved = timeout(patience, moved).await;
        self.downloaded = moved.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    }

    async fn connect(&mut self, manner: Manner) -> io::Result<DataStream> {
        let stream = match (self.socket.take(), self.data.take()) {
            (Some(stream), _) => stream,
            (None, Some(Endpoint::Dial(address))) => TcpStream::connect(address).await?,
            (None, Some(Endpoint::Accept)) => {
                self.listener.as_ref().ok_or(io::ErrorKind::NotConnected)?.accept().await?.0
            }
            (None, None) => return Err(io::Error::other("no data connection was prepared")),
        };
        stream.set_nodelay(true)?;
        if !self.private || manner == Manner::Clear {
            return Ok(DataStream::Clear(stream));
        }
        let tls = if manner == Manner::Foreign { connector() } else { self.tls.clone() };
        Ok(DataStream::Secured(Box::new(tls.connect(server_name(), stream).await?)))
    }

    fn compare(&self, expected: &Expected) -> Result<(), String> {
        let data = self.downloaded.as_ref().map_err(|error| format!("the data connection: {error}"))?;
        let meaning = |name: &str| self.meaning(name);
        let fits = match expected {
            Expected::Data(content) => *data == bytes(content, &meaning)?,
            Expected::DataContains(pattern) => contains(data, pattern, &meaning)?,
            Expected::DataLacks(pattern) => !contains(data, pattern, &meaning)?,
            Expected::Lines(lines) => {
                let mut wanted = lines.iter().map(|line| bytes(line, &meaning)).collect::<Result<Vec<_>, _>>()?;
                let mut found: Vec<Vec<u8>> = data.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
                let ended = found.pop().is_none_or(|rest| rest.is_empty());
                let carriage_returns = found.iter_mut().all(|line| line.pop() == Some(b'\r'));
                wanted.sort();
                found.sort();
                ended && carriage_returns && wanted == found
            }
            Expected::Reply { .. } | Expected::Raw(_) | Expected::Closed => true,
        };
        if fits {
            return Ok(());
        }
        let shown = data.get(..data.len().min(2_000)).unwrap_or_default();
        Err(format!("the data connection brought {} bytes: \"{}\"", data.len(), shown.escape_ascii()))
    }
}

enum DataStream {
    Clear(TcpStream),
    Secured(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl DataStream {
    async fn write(&mut self, content: &[u8], manner: Manner) -> io::Result<()> {
        match self {
            Self::Clear(stream) => {
                stream.write_all(content).await?;
                if manner == Manner::Reset {
                    return socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
                }
                stream.shutdown().await
            }
            Self::Secured(stream) => {
                stream.write_all(content).await?;
                stream.flush().await?;
                match manner {
                    Manner::Cut => stream.get_mut().0.shutdown().await,
                    Manner::Reset => socket2::SockRef::from(&stream.get_ref().0).set_linger(Some(Duration::ZERO)),
                    Manner::Proper | Manner::Clear | Manner::Foreign => stream.shutdown().await,
                }
            }
        }
    }

    async fn read_to_end(self) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        match self {
            Self::Clear(stream) if is_reset(&stream) => {}
            Self::Secured(stream) if is_reset(stream.get_ref().0) => {}
            Self::Clear(mut stream) => {
                stream.read_to_end(&mut content).await?;
            }
            Self::Secured(mut stream) => {
                stream.read_to_end(&mut content).await?;
                // The server may have closed already.
                let _ = stream.shutdown().await;
            }
        }
        Ok(content)
    }
}

/// Will the kernel send RST when it is dropped?
fn is_reset(stream: &TcpStream) -> bool {
    socket2::SockRef::from(stream).linger().is_ok_and(|linger| linger == Some(Duration::ZERO))
}

fn is_upload(sent: &str) -> bool {
    is_one_of(&UPLOADS, sent)
}

/// Is one of the commands sent at once a transfer?
fn begins_transfer(sent: &str) -> bool {
    sent.split("\\r\\n").any(|line| is_one_of(&UPLOADS, line) || is_one_of(&DOWNLOADS, line))
}

fn is_one_of(verbs: &[&str], line: &str) -> bool {
    let verb = line.split(' ').next().unwrap_or_default();
    verbs.iter().any(|one| verb.eq_ignore_ascii_case(one))
}

fn list(codes: &[u16]) -> String {
    codes.iter().map(u16::to_string).collect::<Vec<_>>().join(" or ")
}

fn numbers(text: &[u8], separator: u8) -> Vec<u16> {
    let text = text.rsplit(|byte| *byte == b'(').next().unwrap_or_default();
    let parts = text.split(|byte| *byte == separator || *byte == b')');
    parts.filter_map(|digits| std::str::from_utf8(digits).ok()?.parse().ok()).collect()
}

fn passive_port(text: &[u8]) -> Option<u16> {
    match numbers(text, b',').as_slice() {
        [_, _, _, _, high, low] => Some(high * 256 + low),
        _ => None,
    }
}

fn extended_port(text: &[u8]) -> Option<u16> {
    numbers(text, b'|').first().copied()
}

/// Each has its own session cache.
fn connector() -> TlsConnector {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for the default versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

fn server_name() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("a name")
}

/// The table is about FTP: whose certificate it is does not matter.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
