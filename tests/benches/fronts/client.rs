//! The load client: FTP over explicit, implicit or no TLS, the same for every front and cheaper than any of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};

use super::Outcome;
use super::content::Content;

/// Read from a data connection at a time: many TLS records for one system call.
const READ: usize = 256 * 1024;

/// How long a reply may take that is not the end of a transfer.
const PATIENCE: Duration = Duration::from_secs(60);

/// TLS sessions kept for data connections to resume.
const SESSIONS: usize = 64;

/// Where and how one logs in.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) address: SocketAddr,
    pub(crate) protection: Protection,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) version: &'static SupportedProtocolVersion,
}

/// What is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protection {
    /// AUTH TLS, PROT P.
    Full,
    /// TLS from the first byte on the control connection, data in clear.
    ControlOnly,
}

/// A control connection, logged in.
pub(crate) struct Ftp {
    control: BufReader<Box<dyn Stream>>,
    tls: TlsConnector,
    protection: Protection,
    address: SocketAddr,
    /// TLS handshakes of data connections, and how many of them resumed a session.
    pub(crate) handshakes: u32,
    pub(crate) resumed: u32,
}

/// A listing as it came, and when its first byte did.
pub(crate) struct Listing {
    pub(crate) lines: usize,
    pub(crate) first_byte: Duration,
    pub(crate) whole: Duration,
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Ftp {
    /// Connects and logs in; afterwards files go as they are and, where that can be, encrypted.
    pub(crate) async fn log_in(access: &Access) -> Outcome<Self> {
        let mut ftp = Self::to_230(access).await?;
        if access.protection == Protection::Full {
            ftp.expect("PBSZ 0", 200).await?;
            ftp.expect("PROT P", 200).await?;
        }
        ftp.expect("TYPE I", 200).await?;
        Ok(ftp)
    }

    /// Connects and logs in, no more.
    pub(crate) async fn to_230(access: &Access) -> Outcome<Self> {
        // Sessions of its own, as a client that has just been started.
        let mut config = ClientConfig::builder_with_protocol_versions(&[access.version])
            .with_root_certificates(Arc::clone(&access.roots))
            .with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        let tls = TlsConnector::from(Arc::new(config));
        let stream = connect(access.address).await?;
        let control: Box<dyn Stream> = match access.protection {
            Protection::ControlOnly => {
                let mut stream = tls.connect(server_name()?, stream).await?;
                stream.flush().await?;
                Box::new(stream)
            }
            Protection::Full => Box::new(stream),
        };
        let mut ftp = Self {
            control: BufReader::new(control),
            tls,
            protection: access.protection,
            address: access.address,
            handshakes: 0,
            resumed: 0,
        };
        ftp.reply(220).await?;
        if access.protection == Protection::Full {
            ftp.expect("AUTH TLS", 234).await?;
            let stream = ftp.tls.connect(server_name()?, ftp.control.into_inner()).await?;
            ftp.control = BufReader::new(Box::new(stream));
        }
        ftp.expect(&format!("USER {}", access.user), 331).await?;
        ftp.expect(&format!("PASS {}", access.password), 230).await?;
        Ok(ftp)
    }

    /// A command and its one reply, which has this code.
    pub(crate) async fn expect(&mut self, command: &str, code: u16) -> Outcome<String> {
        self.send(command).await?;
        self.reply(code).await.map_err(|error| {
            let shown = if command.starts_with("PASS") { "PASS" } else { command };
            format!("{shown}: {error}").into()
        })
    }

    /// QUIT, and its reply.
    pub(crate) async fn quit(mut self) -> Outcome<()> {
        self.expect("QUIT", 221).await?;
        Ok(())
    }

    /// An upload of `length` bytes of the content from `start`, to its final reply.
    pub(crate) async fn store(&mut self, name: &str, content: &Content, start: u64, length: u64) -> Outcome<()> {
        let mut data = self.open(&format!("STOR {name}")).await?;
        let sent = async {
            let mut position = start;
            while position < start + length {
                let piece = content.piece(position, start + length - position);
                data.write_all(piece).await?;
                position += piece.len() as u64;
            }
            data.flush().await?;
            data.shutdown().await
        }
        .await;
        // What the server sent in between (tickets) is read, or closing would reset the connection. Not all servers
        // close it before they reply.
        let read = async {
            let mut rest = [0; 1024];
            while matches!(data.read(&mut rest).await, Ok(count) if count > 0) {}
        };
        // The reply says more than the error of a connection that the server closed.
        let mut reply = std::pin::pin!(self.final_reply(226));
        tokio::select! {
            reply = &mut reply => reply?,
            () = read => reply.await?,
        }
        Ok(sent?)
    }

    /// A download, which must be these bytes of the content.
    pub(crate) async fn retrieve(&mut self, name: &str, content: &Content, start: u64, length: u64) -> Outcome<()> {
        let mut data = self.open(&format!("RETR {name}")).await?;
        let mut buffer = vec![0; READ];
        let (mut position, mut correct) = (start, true);
        // An end without close_notify shows in the length.
        while let Ok(count) = data.read(&mut buffer).await {
            if count == 0 {
                break;
            }
            correct &= content.matches(position, &buffer[..count]);
            position += count as u64;
        }
        let _ = data.shutdown().await;
        drop(data);
        self.final_reply(226).await?;
        if position - start != length {
            return Err(format!("RETR {name}: {} of {length} bytes came", position - start).into());
        }
        if !correct {
            return Err(format!("RETR {name}: wrong bytes").into());
        }
        Ok(())
    }

    /// LIST or MLSD.
    pub(crate) async fn list(&mut self, command: &str) -> Outcome<Listing> {
        let start = Instant::now();
        let mut data = self.open(command).await?;
        let mut buffer = vec![0; READ];
        let (mut lines, mut first_byte) = (0, None);
        while let Ok(count) = data.read(&mut buffer).await {
            if count == 0 {
                break;
            }
            first_byte.get_or_insert_with(|| start.elapsed());
            lines += buffer[..count].iter().filter(|byte| **byte == b'\n').count();
        }
        let _ = data.shutdown().await;
        drop(data);
        self.final_reply(226).await?;
        Ok(Listing { lines, first_byte: first_byte.unwrap_or_default(), whole: start.elapsed() })
    }

    /// EPSV and a transfer command, to a data connection that is ready.
    async fn open(&mut self, command: &str) -> Outcome<Box<dyn Stream>> {
        let passive = self.expect("EPSV", 229).await?;
        let port = passive.split('|').nth(3).and_then(|port| port.parse().ok()).ok_or("EPSV: no port")?;
        self.send(command).await?;
        let stream = connect(SocketAddr::new(self.address.ip(), port)).await?;
        if self.protection == Protection::ControlOnly {
            self.reply(150).await?;
            return Ok(Box::new(BufReader::with_capacity(READ, stream)));
        }
        // Some servers do the handshake before they say 150 and some after it.
        let handshake = self.tls.clone().connect(server_name()?, BufReader::with_capacity(READ, stream));
        let stream = {
            let handshake = async { Ok(handshake.await?) };
            let (_, stream) = tokio::try_join!(self.preliminary_reply(), handshake)?;
            stream
        };
        self.handshakes += 1;
        self.resumed += u32::from(stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed));
        Ok(Box::new(stream))
    }

    async fn send(&mut self, command: &str) -> Outcome<()> {
        self.control.write_all(format!("{command}\r\n").as_bytes()).await?;
        self.control.flush().await?;
        Ok(())
    }

    async fn preliminary_reply(&mut self) -> Outcome<()> {
        let (code, text) = self.any_reply().await?;
        if matches!(code, 125 | 150) { Ok(()) } else { Err(text.into()) }
    }

    /// The next reply within [`PATIENCE`], which has this code.
    async fn reply(&mut self, code: u16) -> Outcome<String> {
        match timeout(PATIENCE, self.any_reply()).await?? {
            (came, text) if came == code => Ok(text),
            (_, text) => Err(text.into()),
        }
    }

    /// The next reply, however long it takes.
    async fn final_reply(&mut self, code: u16) -> Outcome<()> {
        match self.any_reply().await? {
            (came, _) if came == code => Ok(()),
            (_, text) => Err(text.into()),
        }
    }

    async fn any_reply(&mut self) -> Outcome<(u16, String)> {
        let mut line = Vec::new();
        let mut first = None;
        loop {
            line.clear();
            if self.control.read_until(b'\n', &mut line).await? == 0 {
                return Err("the control connection was closed".into());
            }
            let text = String::from_utf8(line.clone())?.trim_end().to_owned();
            let code: Option<u16> = text.get(..3).and_then(|code| code.parse().ok());
            let opening = *first.get_or_insert(code.ok_or_else(|| format!("not a reply: {text}"))?);
            if code == Some(opening) && text.as_bytes().get(3) == Some(&b' ') {
                return Ok((opening, text));
            }
        }
    }
}

async fn connect(address: SocketAddr) -> Outcome<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn server_name() -> Outcome<ServerName<'static>> {
    Ok(ServerName::try_from(super::place::SERVER_NAME)?)
}
