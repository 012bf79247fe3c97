//! The data endpoint: works in the background from PASV or EPSV on, and is the only way to a data connection.
//!
//! Some clients finish the TLS handshake of the data connection before they send the command (aioftp), others begin it
//! after 150 (curl, FileZilla, lftp). So the endpoint accepts and answers as soon as somebody comes, and a transfer
//! command finds a connection ready, under way, or failed with its reason.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use crate::config::Resumption;
pub use crate::telemetry::metrics::DataMode;
use crate::telemetry::metrics::{self, Channel, DataConnectionResult, HandshakeResult, LegacyFeature, TlsVersion};
use crate::tls::SessionTls;

use super::data_connection::{DataConnection, DataError};
use super::passive::{Arrival, Reservation};

/// How long to wait for the rightful connection after one that did not resume the session, or failed in its handshake.
const SECOND_CHANCE: Duration = Duration::from_secs(2);

/// How long a client's port may take to answer, at most.
const DIAL_PATIENCE: Duration = Duration::from_secs(10);

/// Handshakes under way at a time for one endpoint: the rightful client's, and some of strangers at its address.
const MAX_HANDSHAKES: usize = 4;

/// Options of a data connection. A failure leaves it as the system makes it, which is good enough.
fn tune(stream: &TcpStream, idle_timeout: Duration) {
    // Without it small files cost 33 to 40 ms each with several clients (Nagle against delayed ACK).
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    // One that is silent for a minute is asked whether it is still there, four times, every 15 seconds (F-11): a client
    // that waits for the backend beside us sends nothing, and may be gone meanwhile.
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15));
    let _ = socket.set_tcp_keepalive(&keepalive.with_retries(4));
    let _ = socket.set_tcp_user_timeout(Some(idle_timeout));
}

/// Sent from us, to us, or not known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// RETR and listings.
    ToClient,
    /// STOR, APPE.
    FromClient,
}

/// The protection of data connections (RFC 2228 PROT) that a session and its endpoints share.
#[derive(Debug, Clone, Default)]
pub struct DataProtection(Arc<AtomicBool>);

impl DataProtection {
    /// PROT P (true) or PROT C.
    pub fn set_private(&self, private: bool) {
        self.0.store(private, Ordering::SeqCst);
    }

    /// PROT P is in force.
    pub fn is_private(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// What an endpoint needs to know of its session.
#[derive(Debug, Clone)]
pub struct EndpointRules {
    /// The session's own TLS configurations.
    pub tls: SessionTls,
    /// PROT as it stands when a connection arrives.
    pub protection: DataProtection,
    /// The command that opened it.
    pub mode: DataMode,
    /// Must a connection resume?
    pub resumption: Resumption,
    /// From the command that opened the endpoint to a ready connection, and again from the transfer command.
    pub connect_timeout: Duration,
    /// One TLS handshake.
    pub handshake_timeout: Duration,
    /// What was sent and stays unacknowledged for so long ends the connection.
    pub idle_timeout: Duration,
}

/// One end of a data connection to be, good for one transfer (RFC 959 §3.2). Dropping it closes what it has.
#[derive(Debug)]
pub struct DataEndpoint {
    rules: EndpointRules,
    direction: Arc<AtomicU8>,
    way: Way,
    /// A transfer command has waited for the connection.
    is_used: bool,
}

#[derive(Debug)]
enum Way {
    /// The client comes.
    Passive {
        /// Somebody connected.
        occupied: Arc<AtomicBool>,
        arriving: Option<JoinHandle<Result<DataConnection, DataError>>>,
    },
    /// We go to the client, as soon as a transfer begins.
    Active(Dial),
}

/// Where an active data connection goes, and where it comes from.
#[derive(Debug, Clone, Copy)]
pub struct Dial {
    /// The client's port.
    pub to: SocketAddr,
    /// The address that the control connection is served at, and port 0 or a fixed one.
    pub from: SocketAddr,
}

impl DataEndpoint {
    /// Begins to work on a reserved port.
    pub fn passive(reservation: Reservation, rules: EndpointRules) -> Self {
        let direction = Arc::new(AtomicU8::new(UNKNOWN));
        let occupied = Arc::new(AtomicBool::new(false));
        let arriving = tokio::spawn(arrive(reservation, rules.clone(), Arc::clone(&direction), Arc::clone(&occupied)));
        Self { rules, direction, way: Way::Passive { occupied, arriving: Some(arriving) }, is_used: false }
    }

    /// Will connect to the client.
    pub fn active(dial: Dial, rules: EndpointRules) -> Self {
        Self { rules, direction: Arc::new(AtomicU8::new(UNKNOWN)), way: Way::Active(dial), is_used: false }
    }

    /// Says which way the transfer goes, before the client is told to begin: its ClientHello may follow at once, and
    /// whether it gets a ticket depends on the direction.
    pub fn expect(&self, direction: Direction) {
        self.direction.store(direction_code(direction), Ordering::SeqCst);
    }

    /// The data connection, as soon as it is there.
    ///
    /// SECURITY: peer address, protection and resumption are checked here and on the way here, and nowhere can a data
    /// connection be had otherwise.
    ///
    /// # Errors
    /// When none came in time, or what came was not acceptable.
    pub async fn open(mut self, direction: Direction) -> Result<DataConnection, DataError> {
        self.is_used = true;
        let (mode, asked) = (self.rules.mode, Instant::now());
        let opened = self.wait(direction).await;
        metrics::data_connection(mode, result_label(opened.as_ref()), asked.elapsed());
        opened
    }

    async fn wait(mut self, direction: Direction) -> Result<DataConnection, DataError> {
        self.expect(direction);
        let connection = match &mut self.way {
            Way::Passive { arriving: None, .. } => Err(DataError::PortClosed),
            Way::Passive { arriving: Some(arriving), .. } => {
                match timeout(self.rules.connect_timeout, arriving).await {
                    Ok(Ok(connection)) => connection,
                    Ok(Err(_)) => Err(DataError::PortClosed),
                    Err(_) => Err(DataError::NotOpened),
                }
            }
            Way::Active(dial) => dial.connect(&self.rules, &self.direction).await,
        }?;
        if connection.secured().is_some() != self.rules.protection.is_private() {
            return Err(DataError::WrongProtection);
        }
        Ok(connection)
    }

    /// Ends it without a transfer. A connection that is there already, or comes while this is kept, is closed in an
    /// orderly way: a reset would make some clients (basic-ftp) give up the whole session, and others (Perl's Net::FTP,
    /// which connects and begins TLS before it reads the refusal) would die of SIGPIPE.
    pub fn decline(mut self) -> Option<Declined> {
        let Way::Passive { occupied, arriving, .. } = &mut self.way else { return None };
        let mut arriving = arriving.take()?;
        // The client may be waiting for its handshake: it gets the time of one.
        let (patience, port) = (self.rules.handshake_timeout, arriving.abort_handle());
        let farewell = tokio::spawn(async move {
            match timeout(patience, &mut arriving).await {
                Ok(Ok(Ok(connection))) => connection.acknowledge_end().await,
                Ok(_) => {}
                Err(_) => {
                    arriving.abort();
                    let _ = arriving.await;
                }
            }
        });
        Some(Declined { occupied: Arc::clone(occupied), port, farewell })
    }

    /// Ends it and gives its port back before it returns.
    pub async fn close(mut self) {
        self.count_if_nobody_came();
        if let Way::Passive { arriving, .. } = &mut self.way
            && let Some(arriving) = arriving.take()
        {
            arriving.abort();
            let _ = arriving.await;
        }
    }

    /// Most clients connect before they send the transfer command: where they cannot, this is all that is seen of it.
    fn count_if_nobody_came(&self) {
        if let Way::Passive { occupied, arriving: Some(_) } = &self.way
            && !self.is_used
            && !occupied.load(Ordering::SeqCst)
        {
            metrics::no_data_connection(self.rules.mode, DataConnectionResult::Timeout);
        }
    }
}

/// A passive port after its command was refused. Dropping it closes the port; who has connected by then is still shown
/// out.
#[derive(Debug)]
pub struct Declined {
    occupied: Arc<AtomicBool>,
    port: AbortHandle,
    farewell: JoinHandle<()>,
}

impl Declined {
    /// Gives the port back before it returns, if nobody has connected.
    pub async fn close(mut self) {
        if !self.occupied.load(Ordering::SeqCst) {
            self.port.abort();
            let _ = (&mut self.farewell).await;
        }
    }
}

impl Drop for Declined {
    fn drop(&mut self) {
        if !self.occupied.load(Ordering::SeqCst) {
            self.port.abort();
        }
    }
}

impl Drop for DataEndpoint {
    fn drop(&mut self) {
        self.count_if_nobody_came();
        if let Way::Passive { arriving: Some(arriving), .. } = &self.way {
            arriving.abort();
        }
    }
}

impl Dial {
    /// Connects, and answers the client's handshake: the client is the TLS client here too (RFC 4217 §7).
    async fn connect(&self, rules: &EndpointRules, direction: &AtomicU8) -> Result<DataConnection, DataError> {
        let patience = rules.connect_timeout.min(DIAL_PATIENCE);
        let dialled = timeout(patience, self.dial()).await;
        let stream = dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(DataError::NotReached)?;
        tune(&stream, rules.idle_timeout);
        if rules.protection.is_private() {
            shake_hands(stream.into(), rules, direction).await
        } else {
            Ok(DataConnection::clear(stream))
        }
    }

    async fn dial(&self) -> io::Result<TcpStream> {
        let socket = if self.to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // One source port for many data connections at a time.
        socket.set_reuseaddr(self.from.port() != 0)?;
        socket.bind(self.from)?;
        socket.connect(self.to).await
    }
}

const UNKNOWN: u8 = 0;
const TO_CLIENT: u8 = 1;
const FROM_CLIENT: u8 = 2;

fn direction_code(direction: Direction) -> u8 {
    match direction {
        Direction::ToClient => TO_CLIENT,
        Direction::FromClient => FROM_CLIENT,
    }
}

async fn arrive(
    mut reservation: Reservation,
    rules: EndpointRules,
    direction: Arc<AtomicU8>,
    occupied: Arc<AtomicBool>,
) -> Result<DataConnection, DataError> {
    // Commands may come in between (SIZE, REST …): the transfer command starts a wait of its own in `open`, and what
    // ends an endpoint nobody uses is the idle time of the control connection.
    let mut shaking_hands = JoinSet::new();
    let mut oldest_first = VecDeque::new();
    let mut refused: Option<(DataError, Instant)> = None;
    let mut command_came = false;
    loop {
        let second_chance = refused.as_ref().map(|(_, until)| *until);
        tokio::select! {
            arrival = reservation.arrival() => {
                let Some(arrival) = arrival else { return Err(DataError::PortClosed) };
                occupied.store(true, Ordering::SeqCst);
                tune(&arrival.stream, rules.idle_timeout);
                if !rules.protection.is_private() {
                    // What was read is a ClientHello.
                    let is_clear = arrival.read.is_empty();
                    return if is_clear { Ok(DataConnection::clear(arrival.stream)) } else { Err(DataError::WrongProtection) };
                }
                // SECURITY: strangers at the client's address who say nothing must not keep it out.
                oldest_first.retain(|handshake: &AbortHandle| !handshake.is_finished());
                if oldest_first.len() >= MAX_HANDSHAKES && let Some(oldest) = oldest_first.pop_front() {
                    oldest.abort();
                }
                let (rules, direction) = (rules.clone(), Arc::clone(&direction));
                let handshake = shaking_hands.spawn(async move { shake_hands(arrival, &rules, &direction).await });
                oldest_first.push_back(handshake);
            }
            Some(done) = shaking_hands.join_next() => match done {
                Ok(Ok(connection)) => return Ok(connection),
                // SECURITY: it may have been a stranger who was faster; the rightful client keeps its turn.
                Ok(Err(error)) => refused = Some((error, Instant::now() + SECOND_CHANCE)),
                Err(_) => {}
            },
            () = sleep_until(second_chance.unwrap_or_else(Instant::now)), if second_chance.is_some() => {
                // Its time begins with the transfer command: many clients connect only then.
                if !std::mem::replace(&mut command_came, direction.load(Ordering::SeqCst) != UNKNOWN) {
                    refused = refused.map(|(error, _)| (error, Instant::now() + SECOND_CHANCE));
                    continue;
                }
                if shaking_hands.is_empty() && let Some((error, _)) = refused.take() {
                    return Err(error);
                }
                refused = None;
            }
        }
    }
}

/// One handshake, and whether what came of it is acceptable.
async fn shake_hands(
    arrival: Arrival,
    rules: &EndpointRules,
    direction: &AtomicU8,
) -> Result<DataConnection, DataError> {
    let started = Instant::now();
    let resumes = rules.resumption != Resumption::Off;
    let handshake = rules.tls.turns.take(handshake(arrival, &rules.tls, resumes, direction));
    let handshake = timeout(rules.handshake_timeout, handshake).await;
    let connection = handshake.unwrap_or(Err(DataError::HandshakeTimedOut));
    let (version, result) = handshake_labels(connection.as_ref());
    metrics::tls_handshake(Channel::Data, version, result, started.elapsed());
    let connection = connection?;
    // SECURITY: TLS-52: whoever else has a good certificate is not the client of the control connection.
    if connection.secured().is_some_and(|secured| !rules.tls.is_same_client(&secured)) {
        connection.acknowledge_end().await;
        return Err(DataError::OtherCertificate);
    }
    let unlike = connection.secured().filter(|secured| !secured.resumed).map(|secured| rules.tls.unlike(&secured));
    if unlike.is_some() {
        metrics::legacy_use(LegacyFeature::NoResumption);
    }
    match unlike.filter(|_| rules.resumption == Resumption::Require) {
        None => Ok(connection),
        Some(unlike) => {
            connection.acknowledge_end().await;
            Err(DataError::NotResumed(unlike))
        }
    }
}

async fn handshake(
    arrival: Arrival,
    tls: &SessionTls,
    resumes: bool,
    direction: &AtomicU8,
) -> Result<DataConnection, DataError> {
    // Most clients send their ClientHello after 150: by then the direction is known. Where it is not, no ticket.
    DataConnection::secure(arrival, || tls.for_data(direction.load(Ordering::SeqCst) == TO_CLIENT, resumes)).await
}

fn result_label(opened: Result<&DataConnection, &DataError>) -> DataConnectionResult {
    match opened {
        Ok(_) => DataConnectionResult::Ok,
        Err(DataError::NotOpened | DataError::PortClosed) => DataConnectionResult::Timeout,
        Err(DataError::NotReached(_)) => DataConnectionResult::Refused,
        Err(DataError::NotResumed(_)) => DataConnectionResult::NotResumed,
        Err(
            DataError::HandshakeTimedOut
            | DataError::Handshake(_)
            | DataError::OtherCertificate
            | DataError::WrongProtection,
        ) => DataConnectionResult::TlsError,
        Err(DataError::Broken(_) | DataError::NoCloseNotify | DataError::Idle) => DataConnectionResult::Refused,
    }
}

fn handshake_labels(connection: Result<&DataConnection, &DataError>) -> (TlsVersion, HandshakeResult) {
    match connection.ok().and_then(DataConnection::secured) {
        None => (TlsVersion::None, HandshakeResult::Failed),
        Some(secured) => {
            let version = if secured.version == "TLSv1.3" { TlsVersion::Tls13 } else { TlsVersion::Tls12 };
            (version, if secured.resumed { HandshakeResult::Resumed } else { HandshakeResult::Full })
        }
    }
}
