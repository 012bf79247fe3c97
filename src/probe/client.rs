//! The client's side of a control connection and its data connections (RFC 959, RFC 4217), as much of it as a probe needs.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use zeroize::Zeroizing;

use super::Options;
use super::target::Target;

/// Where systems keep the authorities they trust: Debian, Red Hat, Alpine and others.
const SYSTEM_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// The longest line of a reply that is read; servers send some hundred bytes.
const MAX_LINE: u64 = 8 * 1024;

/// The longest listing that is read: some hundred thousand names.
const MAX_LISTING: u64 = 16 * 1024 * 1024;

/// Lines of one reply.
const MAX_LINES: usize = 1000;

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("no authorities to trust: {0}")]
    Authorities(String),
    #[error("the server said: {0}")]
    Refused(String),
    #[error("the server's reply is none: {0}")]
    NoReply(String),
    #[error("the user has no password: give one in the URL, by --password-file or in FTPS2SFTP_PASSWORD")]
    NoPassword,
    #[error("{received} bytes came back of {sent}, or other ones")]
    Differs { sent: usize, received: usize },
    #[error("{0} is not in the listing")]
    NotListed(String),
}

/// A reply to its end.
pub(super) struct Reply {
    code: u16,
    text: String,
}

/// A control connection under TLS.
pub(super) struct Client {
    stream: BufReader<TlsStream<TcpStream>>,
    connector: TlsConnector,
    name: ServerName<'static>,
    host: String,
}

impl Client {
    /// Connects up to the greeting, under TLS.
    pub(super) async fn connect(target: &Target, options: &Options) -> Result<Self, Error> {
        let connector = TlsConnector::from(Arc::new(config(options)?));
        let host = target.host.clone();
        let name = ServerName::try_from(host.clone())
            .map_err(|_| Error::NoReply(format!("`{host}` is no name and no address")))?;
        let tcp = TcpStream::connect((host.as_str(), target.port)).await?;
        tcp.set_nodelay(true)?;
        let tcp = if target.implicit { tcp } else { ask_for_tls(tcp).await? };
        let stream = BufReader::new(connector.connect(name.clone(), tcp).await?);
        let mut client = Self { stream, connector, name, host };
        if target.implicit {
            reply(&mut client.stream, &[220]).await?;
        }
        Ok(client)
    }

    /// Logs in, protects data connections, and goes to the directory.
    pub(super) async fn log_in(&mut self, target: &Target) -> Result<(), Error> {
        if self.command(&format!("USER {}", target.user), &[331, 230, 232]).await?.code == 331 {
            let password =
                target.password.as_ref().and_then(|password| password.reveal_text()).ok_or(Error::NoPassword)?;
            let line = Zeroizing::new(format!("PASS {password}\r\n"));
            self.stream.write_all(line.as_bytes()).await?;
            self.stream.flush().await?;
            reply(&mut self.stream, &[230, 202]).await?;
        }
        for command in ["PBSZ 0", "PROT P", "TYPE I"] {
            self.command(command, &[200]).await?;
        }
        if !target.directory.is_empty() {
            self.command(&format!("CWD {}", target.directory), &[250]).await?;
        }
        Ok(())
    }

    /// STOR.
    pub(super) async fn store(&mut self, name: &str, content: &[u8]) -> Result<(), Error> {
        let mut data = self.open(&format!("STOR {name}")).await?;
        data.write_all(content).await?;
        data.shutdown().await?;
        drop(data);
        reply(&mut self.stream, &[226, 250]).await.map(drop)
    }

    /// RETR.
    pub(super) async fn retrieve(&mut self, name: &str, size: usize) -> Result<Vec<u8>, Error> {
        self.receive(&format!("RETR {name}"), size as u64 + 1).await
    }

    /// NLST.
    pub(super) async fn names(&mut self) -> Result<Vec<Vec<u8>>, Error> {
        let listing = self.receive("NLST", MAX_LISTING).await?;
        Ok(listing.split(|byte| *byte == b'\n').map(|line| line.trim_ascii_end().to_vec()).collect())
    }

    async fn receive(&mut self, command: &str, most: u64) -> Result<Vec<u8>, Error> {
        let mut data = self.open(command).await?;
        let mut content = Vec::new();
        // An end without close_notify is an error here, as a cut file looks the same.
        (&mut data).take(most).read_to_end(&mut content).await?;
        let _ = data.shutdown().await;
        drop(data);
        reply(&mut self.stream, &[226, 250]).await?;
        Ok(content)
    }

    /// A data connection for a command, which resumes the control connection's TLS session.
    async fn open(&mut self, command: &str) -> Result<TlsStream<TcpStream>, Error> {
        let passive = self.command("EPSV", &[229]).await?;
        let port = passive.text.rsplit_once("(|||").and_then(|(_, rest)| rest.split_once("|)")?.0.parse::<u16>().ok());
        let port = port.ok_or_else(|| Error::NoReply(passive.text.clone()))?;
        // RFC 2428 §3: the address is that of the control connection.
        let address = self.stream.get_ref().get_ref().0.peer_addr()?.ip();
        let tcp = TcpStream::connect((address, port)).await?;
        self.command(command, &[150, 125]).await?;
        Ok(self.connector.connect(self.name.clone(), tcp).await?)
    }

    /// One command, and a reply with one of these codes.
    pub(super) async fn command(&mut self, command: &str, wanted: &[u16]) -> Result<Reply, Error> {
        self.stream.write_all(format!("{command}\r\n").as_bytes()).await?;
        self.stream.flush().await?;
        reply(&mut self.stream, wanted).await
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Client").field(&self.host).finish()
    }
}

async fn ask_for_tls(tcp: TcpStream) -> Result<TcpStream, Error> {
    let mut clear = BufReader::new(tcp);
    reply(&mut clear, &[220]).await?;
    clear.write_all(b"AUTH TLS\r\n").await?;
    reply(&mut clear, &[234]).await?;
    // SECURITY: what came in clear behind the reply must not be taken for what comes under TLS.
    if clear.buffer().is_empty() {
        Ok(clear.into_inner())
    } else {
        Err(Error::NoReply("bytes in clear behind AUTH".to_owned()))
    }
}

/// A whole reply (RFC 959 §4.2), with one of these codes.
async fn reply(stream: &mut (impl AsyncBufRead + Unpin), wanted: &[u16]) -> Result<Reply, Error> {
    let mut first = None;
    for _ in 0..MAX_LINES {
        let mut line = Vec::new();
        (&mut *stream).take(MAX_LINE).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let line = line.trim_ascii_end().escape_ascii().to_string();
        let code = line.get(..3).and_then(|code| code.parse::<u16>().ok());
        let opening = *first.get_or_insert(code);
        let Some(code) = opening else { return Err(Error::NoReply(printable(&line))) };
        if line.starts_with(&format!("{code} ")) || line.len() == 3 {
            let text = printable(&line);
            return if wanted.contains(&code) { Ok(Reply { code, text }) } else { Err(Error::Refused(text)) };
        }
    }
    Err(Error::NoReply("it has no end".to_owned()))
}

fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).take(200).collect()
}

fn config(options: &Options) -> Result<ClientConfig, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    if options.insecure {
        let anybody = Arc::new(Anybody(provider.signature_verification_algorithms.supported_schemes()));
        return Ok(builder.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth());
    }
    let found = SYSTEM_AUTHORITIES.iter().map(Path::new).find(|path| path.exists());
    let path = options.authorities.as_deref().or(found).ok_or_else(|| {
        Error::Authorities(format!("there is none of {}; name a file by --ca", SYSTEM_AUTHORITIES.join(", ")))
    })?;
    let unreadable = |error| Error::Authorities(format!("{}: {error}", path.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
        // Systems have some that nobody can read any more.
        let _ = roots.add(certificate.map_err(unreadable)?);
    }
    if roots.is_empty() {
        return Err(Error::Authorities(format!("{} holds no certificate that can be used", path.display())));
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| Error::Authorities(error.to_string()))?;
    Ok(builder.with_webpki_verifier(verifier).with_no_client_auth())
}

/// Believes whoever answers.
#[derive(Debug)]
struct Anybody(Vec<SignatureScheme>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
