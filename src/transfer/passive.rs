//! Passive ports (RFC 959 §4.1.2 PASV, RFC 2428 §3 EPSV): which are free, who waits on which, and who gets a connection.
//!
//! A port listens only while somebody waits on it. A connection goes to the one who waits for its address; a stranger's
//! is closed and costs nobody their turn. Where ports are shared, one port serves several clients at a time. Behind a
//! proxy, whose connection it is stands in its PROXY header.
//!
//! Sessions of one address (many clients behind one address translator) get a port each. When the ports are all taken,
//! those that share one are told apart by the TLS session that a connection offers to resume, where that is required.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::io::ErrorKind::{AddrInUse, PermissionDenied};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use aws_lc_rs::rand;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::proxy_protocol::Gate;
use crate::tls::SessionTls;
use crate::tls::client_hello::{self, ClientHello, Progress};

/// Sessions of one address on one port, at most: each is asked whether a connection is its own.
const MOST_SHARING: usize = 64;

/// Connections queued for one waiting session: its own, and a few that turn out not to resume its TLS session.
const ARRIVALS: usize = 4;

/// Connections the kernel completes for a port before we take them.
const BACKLOG: i32 = 64;

/// After accept failed for want of descriptors or memory: time for some to come free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Random picks before the range is walked in order.
const RANDOM_PICKS: usize = 16;

/// For so long a port that was given back goes to no other session, while others are free: a connection of the former one
/// may be on its way (S-5).
const REST: Duration = Duration::from_secs(5);

/// How long a connection may take to say whose it is, where several sessions of its address wait on one port. Some
/// clients begin TLS only after reply 150.
const HELLO_PATIENCE: Duration = Duration::from_secs(20);

/// Connections of which that is awaited, at most.
const MOST_HELLOS: usize = 1024;

/// Ports that rest, at most: with more of them the oldest rest less.
const MOST_RESTING: usize = 16 * 1024;

/// No port of the range is free for this client, or none can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no passive port is free for this client (passive.ports is too small)")]
pub struct PortsExhausted;

/// The range of passive ports and who waits on them.
#[derive(Debug)]
pub struct PassivePorts {
    range: RangeInclusive<u16>,
    shared: bool,
    /// Whose connections they are.
    gate: Gate,
    /// Contended by sessions that reserve and release, and by the accept task of each port; held for a map operation.
    pool: Mutex<Pool>,
    /// Connections that are asked whose they are.
    hellos: Semaphore,
    /// Called for each connection that nobody waits for.
    on_stranger: fn(),
}

#[derive(Debug, Default)]
struct Pool {
    open: HashMap<SocketAddr, Port>,
    resting: Resting,
}

/// Who had a port last, for those that were given back a moment ago.
#[derive(Debug, Default)]
struct Resting {
    last: HashMap<(SocketAddr, Awaited), (Instant, u64)>,
    oldest_first: VecDeque<(Instant, (SocketAddr, Awaited))>,
}

#[derive(Debug)]
struct Port {
    accepting: AbortHandle,
    listener: Arc<TcpListener>,
    waiting: HashMap<Awaited, Vec<Waiting>>,
}

/// What a session may be given, first to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effort {
    /// A port that no other session had a moment ago.
    Rested,
    /// Any that no other session of its address waits on.
    Resting,
    /// Any on which it can be told apart.
    ToldApart,
}

/// One session that waits.
#[derive(Debug)]
struct Waiting {
    whose: u64,
    sender: mpsc::Sender<Arrival>,
    /// Its TLS, where connections must resume it.
    proof: Option<SessionTls>,
}

/// Whose connection is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Awaited {
    /// Only this address's.
    From(IpAddr),
    /// Anybody's (`data_peer_check: false`); such a port is never shared.
    FromAnybody,
}

/// Who asks for a port.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Whose connection it will be.
    pub awaited: Awaited,
    /// The number of the session.
    pub whose: u64,
    /// Its TLS, where every data connection must resume it: by that it can be told apart from others of its address.
    pub proof: Option<SessionTls>,
}

/// A connection, and what was read from it to see whose it is.
#[derive(Debug)]
pub struct Arrival {
    pub(super) stream: TcpStream,
    pub(super) read: Vec<u8>,
}

impl From<TcpStream> for Arrival {
    fn from(stream: TcpStream) -> Self {
        Self { stream, read: Vec::new() }
    }
}

/// A port on which connections arrive for one session; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    ports: Arc<PassivePorts>,
    address: SocketAddr,
    awaited: Awaited,
    whose: u64,
    arrivals: mpsc::Receiver<Arrival>,
}

impl PassivePorts {
    /// Makes the pool; nothing listens yet. `on_stranger` is called for each connection from an address nobody waits for.
    pub fn new(range: RangeInclusive<u16>, shared: bool, gate: Gate, on_stranger: fn()) -> Arc<Self> {
        Arc::new(Self { range, shared, gate, pool: Mutex::default(), hellos: Semaphore::new(MOST_HELLOS), on_stranger })
    }

    /// Ports on which somebody waits now.
    pub fn in_use(&self) -> usize {
        self.lock().open.len()
    }

    /// Reserves a random free port on a local address for a session, which is told by its number.
    ///
    /// # Errors
    /// When no port of the range can be had: reply 425.
    pub fn reserve(self: &Arc<Self>, local: IpAddr, claim: Claim) -> Result<Reservation, PortsExhausted> {
        let Claim { awaited, whose, proof } = claim;
        let mut pool = self.lock();
        let Pool { open, resting } = &mut *pool;
        // A small range must not run out of ports because some rest, nor because there are many clients.
        let tries = [Effort::Rested, Effort::Resting, Effort::ToldApart];
        for (effort, port) in tries.into_iter().flat_map(|effort| self.candidates().map(move |port| (effort, port))) {
            let address = SocketAddr::new(local, port);
            if effort == Effort::Rested && resting.is_anothers(address, awaited, whose) {
                continue;
            }
            let (sender, arrivals) = mpsc::channel(ARRIVALS);
            let waiting = Waiting { whose, sender, proof: proof.clone() };
            match open.entry(address) {
                Entry::Occupied(mut entry) => {
                    let port = entry.get_mut();
                    if !self.shared
                        || awaited == Awaited::FromAnybody
                        || port.waiting.contains_key(&Awaited::FromAnybody)
                    {
                        continue;
                    }
                    let others = port.waiting.entry(awaited).or_default();
                    // SECURITY: one waiting session per address and port, or the arrival could not be told apart; unless
                    // each of them insists on its TLS session.
                    let is_told_apart = effort == Effort::ToldApart
                        && proof.is_some()
                        && others.len() < MOST_SHARING
                        && others.iter().all(|other| other.proof.is_some());
                    if !others.is_empty() && !is_told_apart {
                        continue;
                    }
                    others.push(waiting);
                }
                Entry::Vacant(entry) => {
                    let listener = match listen(address) {
                        Ok(listener) => Arc::new(listener),
                        // Another program's, or not for this one to have.
                        Err(error) if matches!(error.kind(), AddrInUse | PermissionDenied) => continue,
                        // No descriptor is left, and so none for any other port.
                        Err(error) => {
                            tracing::warn!(exception.message = %error, "no passive port can be opened");
                            return Err(PortsExhausted);
                        }
                    };
                    let accepting =
                        tokio::spawn(accept(Arc::clone(self), Arc::clone(&listener), address)).abort_handle();
                    entry.insert(Port { accepting, listener, waiting: HashMap::from([(awaited, vec![waiting])]) });
                }
            }
            return Ok(Reservation { ports: Arc::clone(self), address, awaited, whose, arrivals });
        }
        Err(PortsExhausted)
    }

    /// A few random ports, then all of them from a random start.
    ///
    /// SECURITY: a port that cannot be guessed cannot be raced for.
    fn candidates(&self) -> impl Iterator<Item = u16> + use<> {
        let (first, last) = (*self.range.start(), *self.range.end());
        let count = usize::from(last - first) + 1;
        let at = move |index: usize| first + u16::try_from(index % count).unwrap_or(0);
        let picks = (0..RANDOM_PICKS).map(move |_| at(random_below(count)));
        let start = random_below(count);
        picks.chain((0..count).map(move |offset| at(start + offset)))
    }

    /// A connection came: at once, or as soon as it has said whose it is, it goes to who waits for it.
    fn arrived(
        self: &Arc<Self>,
        address: SocketAddr,
        listener: &Arc<TcpListener>,
        mut stream: TcpStream,
        peer: SocketAddr,
    ) {
        let from = peer.ip().to_canonical();
        if self.gate.is_open_to(from) && !self.is_to_be_asked(address, from) {
            return self.deliver(address, &Arc::downgrade(listener), stream.into(), from);
        }
        let (ports, listener) = (Arc::clone(self), Arc::downgrade(listener));
        tokio::spawn(async move {
            let client = match ports.gate.ends(&mut stream, peer).await {
                Ok(ends) => ends.client.ip(),
                Err(refusal) => {
                    tracing::info!(
                        client.address = %from,
                        network.port = address.port(),
                        "data connection dropped: {refusal} (passive.proxy_protocol)"
                    );
                    return (ports.on_stranger)();
                }
            };
            let read = if ports.is_to_be_asked(address, client) { ports.hello(&mut stream).await } else { Vec::new() };
            ports.deliver(address, &listener, Arrival { stream, read }, client);
        });
    }

    /// Do several sessions wait there for a connection from this address?
    fn is_to_be_asked(&self, address: SocketAddr, from: IpAddr) -> bool {
        let pool = self.lock();
        let waiting = pool.open.get(&address).and_then(|port| port.waiting.get(&Awaited::From(from)));
        waiting.is_some_and(|waiting| waiting.len() > 1)
    }

    /// Reads a ClientHello, or what there is of one.
    async fn hello(&self, stream: &mut TcpStream) -> Vec<u8> {
        let mut read = Vec::new();
        let Ok(_place) = self.hellos.try_acquire() else { return read };
        let reading = async {
            while client_hello::read(&read) == Progress::Partial {
                if !matches!(stream.read_buf(&mut read).await, Ok(1..)) {
                    break;
                }
            }
        };
        let _ = timeout(HELLO_PATIENCE, reading).await;
        read
    }

    fn deliver(&self, address: SocketAddr, listener: &Weak<TcpListener>, arrival: Arrival, peer: IpAddr) {
        let sender = {
            let pool = self.lock();
            // It may have come to one who has gone, and the port be another's by now.
            let port = pool.open.get(&address);
            let Some(port) = port.filter(|port| std::ptr::eq(Arc::as_ptr(&port.listener), listener.as_ptr())) else {
                return;
            };
            let waiting = port.waiting.get(&Awaited::From(peer)).or_else(|| port.waiting.get(&Awaited::FromAnybody));
            waiting.and_then(|waiting| told_apart(waiting, &arrival.read)).map(|waiting| waiting.sender.clone())
        };
        let delivered = sender.is_some_and(|sender| sender.try_send(arrival).is_ok());
        if !delivered {
            tracing::info!(
                client.address = %peer,
                network.port = address.port(),
                "data connection dropped: nobody of this address waits here, or too many came before it (policy.data_peer_check: false lets other addresses in)"
            );
            (self.on_stranger)();
        }
    }

    fn release(&self, address: SocketAddr, awaited: Awaited, whose: u64) {
        let mut pool = self.lock();
        pool.resting.begin(address, awaited, whose);
        if let Entry::Occupied(mut entry) = pool.open.entry(address) {
            let waiting = &mut entry.get_mut().waiting;
            if let Entry::Occupied(mut sessions) = waiting.entry(awaited) {
                sessions.get_mut().retain(|session| session.whose != whose);
                if sessions.get().is_empty() {
                    sessions.remove();
                }
            }
            if entry.get().waiting.is_empty() {
                let Port { accepting, listener, .. } = entry.remove();
                accepting.abort();
                // The task closes its socket when it is polled next; this one stops listening now, so that the port
                // can be had again at once.
                let _ = SockRef::from(&*listener).shutdown(Shutdown::Both);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resting {
    fn begin(&mut self, address: SocketAddr, awaited: Awaited, whose: u64) {
        let now = Instant::now();
        while let Some((since, key)) = self.oldest_first.front()
            && (now.duration_since(*since) >= REST || self.oldest_first.len() >= MOST_RESTING)
        {
            if self.last.get(key).is_some_and(|(last, _)| last == since) {
                self.last.remove(key);
            }
            self.oldest_first.pop_front();
        }
        // Who lets anybody in could be surprised by anybody.
        for key in [(address, awaited), (address, Awaited::FromAnybody)] {
            self.last.insert(key, (now, whose));
            self.oldest_first.push_back((now, key));
        }
    }

    /// Had another session this port a moment ago, whose connection could be taken for one of this session?
    fn is_anothers(&self, address: SocketAddr, awaited: Awaited, whose: u64) -> bool {
        let last = self.last.get(&(address, awaited));
        last.is_some_and(|(since, last)| *last != whose && since.elapsed() < REST)
    }
}

impl Reservation {
    /// The reserved port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The next connection for this session.
    pub async fn arrival(&mut self) -> Option<Arrival> {
        self.arrivals.recv().await
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.ports.release(self.address, self.awaited, self.whose);
    }
}

/// Whose a connection is. One who waits alone gets whatever comes: it can be turned away with a reason.
fn told_apart<'a>(waiting: &'a [Waiting], read: &[u8]) -> Option<&'a Waiting> {
    match (waiting, client_hello::read(read)) {
        ([only], _) => Some(only),
        (several, Progress::Complete(ClientHello { offer, .. })) => {
            several.iter().find(|one| one.proof.as_ref().is_some_and(|tls| tls.is_offered(&offer)))
        }
        (_, Progress::Partial | Progress::Other) => None,
    }
}

async fn accept(ports: Arc<PassivePorts>, listener: Arc<TcpListener>, address: SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => ports.arrived(address, &listener, stream, peer),
            // The connection was gone before it was taken, or this process has no descriptor left for now.
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A port whose last connection lingers in TIME_WAIT is free again.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn random_below(count: usize) -> usize {
    let mut bytes = [0_u8; 8];
    // The fallback costs unpredictability of a port, which the peer and resumption checks do not rest on.
    if rand::fill(&mut bytes).is_err() {
        return 0;
    }
    usize::try_from(u64::from_le_bytes(bytes) % u64::try_from(count.max(1)).unwrap_or(1)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn free_range(count: u16) -> RangeInclusive<u16> {
        // A run of ports free at this moment; other tests draw theirs at random too.
        loop {
            let first = 20_000 + u16::try_from(random_below(10_000)).unwrap();
            let range = first..=first + count - 1;
            if range.clone().all(|port| std::net::TcpListener::bind((LOCAL, port)).is_ok()) {
                return range;
            }
        }
    }

    fn peer(last: u8) -> Awaited {
        Awaited::From(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)))
    }

    fn claim(awaited: Awaited, whose: u64) -> Claim {
        Claim { awaited, whose, proof: None }
    }

    async fn connect_from(last: u8, port: u16) -> io::Result<TcpStream> {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, last], 0)))?;
        socket.connect(SocketAddr::from(([127, 0, 0, 1], port))).await
    }

    #[tokio::test]
    async fn a_stranger_is_turned_away_and_the_rightful_one_is_served() {
        static STRANGERS: AtomicUsize = AtomicUsize::new(0);
        let ports = PassivePorts::new(free_range(4), true, Gate::open(), || {
            STRANGERS.fetch_add(1, Ordering::SeqCst);
        });
        let mut reservation = ports.reserve(LOCAL, claim(peer(1), 1)).unwrap();
        let stranger = connect_from(2, reservation.port()).await.unwrap();
        stranger.readable().await.unwrap();
        let _rightful = connect_from(1, reservation.port()).await.unwrap();
        let arrived = reservation.arrival().await.unwrap();
        assert_eq!(arrived.stream.peer_addr().unwrap().ip(), LOCAL);
        assert_eq!(STRANGERS.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_shared_port_serves_two_clients_at_a_time() {
        let ports = PassivePorts::new(free_range(1), true, Gate::open(), || {});
        let mut one = ports.reserve(LOCAL, claim(peer(1), 1)).unwrap();
        let mut two = ports.reserve(LOCAL, claim(peer(2), 1)).unwrap();
        assert_eq!(one.port(), two.port());
        assert_eq!(ports.reserve(LOCAL, claim(peer(1), 1)).err(), Some(PortsExhausted));
        assert_eq!(ports.reserve(LOCAL, claim(Awaited::FromAnybody, 1)).err(), Some(PortsExhausted));
        let _second = connect_from(2, two.port()).await.unwrap();
        let _first = connect_from(1, one.port()).await.unwrap();
        assert_eq!(two.arrival().await.unwrap().stream.peer_addr().unwrap().ip(), IpAddr::from([127, 0, 0, 2]));
        assert_eq!(one.arrival().await.unwrap().stream.peer_addr().unwrap().ip(), LOCAL);
    }

    #[tokio::test]
    async fn an_exclusive_port_serves_one_and_is_free_again_when_dropped() {
        let ports = PassivePorts::new(free_range(1), false, Gate::open(), || {});
        let one = ports.reserve(LOCAL, claim(peer(1), 1)).unwrap();
        assert_eq!(ports.reserve(LOCAL, claim(peer(2), 1)).err(), Some(PortsExhausted));
        assert_eq!(ports.in_use(), 1);
        drop(one);
        assert_eq!(ports.in_use(), 0);
        let mut again = ports.reserve(LOCAL, claim(peer(2), 1)).unwrap();
        let _client = connect_from(2, again.port()).await.unwrap();
        assert!(again.arrival().await.is_some());
    }

    /// S-5.
    #[tokio::test]
    async fn a_port_rests_before_another_session_gets_it_while_others_are_free() {
        let ports = PassivePorts::new(free_range(3), true, Gate::open(), || {});
        let first = ports.reserve(LOCAL, claim(peer(1), 1)).unwrap();
        let port = first.port();
        drop(first);
        let (second, third) =
            (ports.reserve(LOCAL, claim(peer(1), 2)).unwrap(), ports.reserve(LOCAL, claim(peer(1), 3)).unwrap());
        assert!(second.port() != port && third.port() != port);
        // Rather than to go without.
        let fourth = ports.reserve(LOCAL, claim(peer(1), 4)).unwrap();
        assert_eq!(fourth.port(), port);
    }

    #[tokio::test(start_paused = true)]
    async fn what_rests_is_forgotten_in_time_and_bounded() {
        let mut resting = Resting::default();
        let address = |port: u16| SocketAddr::new(LOCAL, port);
        resting.begin(address(1), peer(1), 7);
        assert!(resting.is_anothers(address(1), peer(1), 8));
        assert!(resting.is_anothers(address(1), Awaited::FromAnybody, 8));
        assert!(!resting.is_anothers(address(1), peer(1), 7));
        assert!(!resting.is_anothers(address(1), peer(2), 8));
        assert!(!resting.is_anothers(address(2), peer(1), 8));
        tokio::time::advance(REST).await;
        assert!(!resting.is_anothers(address(1), peer(1), 8));
        for port in 0..u16::MAX {
            resting.begin(address(port), peer(1), 7);
        }
        assert!(resting.oldest_first.len() <= MOST_RESTING + 1 && resting.last.len() <= MOST_RESTING + 1);
        assert!(resting.is_anothers(address(u16::MAX - 1), peer(1), 8));
        tokio::time::advance(REST).await;
        resting.begin(address(1), peer(1), 7);
        assert_eq!((resting.oldest_first.len(), resting.last.len()), (2, 2));
    }

    /// S-5: each port as often as the others, whatever came before it. What is random fails each of the two bounds once
    /// in a thousand times, and so all of three tries once in a hundred million.
    #[test]
    fn ports_are_drawn_at_random() {
        const SAMPLES: usize = 100_000;
        /// Of chi-square with 47 degrees of freedom, exceeded with probability 0.001.
        const CHI_SQUARE: f64 = 82.72;
        let ports = PassivePorts::new(30_000..=30_047, true, Gate::open(), || {});
        let fits = (0..3).any(|_| {
            let drawn: Vec<f64> =
                (0..SAMPLES).map(|_| f64::from(ports.candidates().next().unwrap() - 30_000)).collect();
            let mut counts = [0_u32; 48];
            for port in &drawn {
                counts[*port as usize] += 1;
            }
            let expected = SAMPLES as f64 / 48.0;
            let chi_square: f64 = counts.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum();
            let mean = drawn.iter().sum::<f64>() / SAMPLES as f64;
            let product = |(one, next): (&f64, &f64)| (one - mean) * (next - mean);
            let variance: f64 = drawn.iter().map(|port| (port - mean).powi(2)).sum();
            let correlation = drawn.iter().zip(drawn.iter().skip(1)).map(product).sum::<f64>() / variance;
            chi_square < CHI_SQUARE && correlation.abs() < 0.01
        });
        assert!(fits);
    }
}
