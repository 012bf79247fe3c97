//! SSH connections to a backend and the SFTP channels on them: a connection for each session, or connections that the
//! sessions of one mapped identity share (`backends.*.connections: shared`).
//!
//! A `Line` is a connection, a `Lane` is one session's channel on it, a `Pool` is what the sessions of one user
//! entry share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::sftp::{self, BackendPath};
use crate::ssh::{ConnectError, Connection, Credentials, Phase, Standing, Target};
use crate::telemetry::metrics::{self, BackendConnectResult, ConnectionGuard, ConnectionState};

use super::current::Current;

/// How long a login on the backend may take in all once it has its turn, however many addresses are tried (F-6).
const LOGIN_LIMIT: Duration = Duration::from_secs(20);

/// How long another channel on a connection may take. What a stopped download asked for comes first.
const CHANNEL_LIMIT: Duration = Duration::from_secs(5);

/// Channels left behind on one connection. Each may be a process on the server that hangs, and OpenSSH has ten
/// (MaxSessions); then the connection is given up, which ends them.
const MAX_ABANDONED_CHANNELS: u32 = 3;

/// Most channels on one connection, whatever the server allows: they share one TCP stream and one task of ours.
/// OpenSSH refuses the eleventh unless told otherwise; how many a server gives is learned from its refusals.
const MAX_CHANNELS: usize = 64;

/// Transfers of files at a time on one connection that is shared. What a connection has in flight must stay below what
/// the SSH library takes in during a key re-exchange, which is four transfer windows; further ones get another
/// connection, and the bandwidth of another TCP stream with it.
const MAX_TRANSFERS: usize = 2;

/// Channels that are kept open for the next session of an identity: as many as log in and out at the same time at a
/// busy site, and each is a process on the server.
const MAX_KEPT_CHANNELS: usize = 16;

/// How long a channel is kept without a session; half of that longer where the look around comes just before its time.
const KEPT_TIME: Duration = Duration::from_secs(10);

/// One connection and what is known of it.
#[derive(Debug)]
struct Line {
    connection: Connection,
    places: Mutex<Places>,
    counted: Mutex<ConnectionGuard>,
}

#[derive(Debug, Default)]
struct Places {
    /// Channels, those that are being opened included.
    taken: usize,
    /// Channels that are open.
    open: usize,
    /// Transfers that run.
    transfers: usize,
    /// Channels that were left with answers owing.
    abandoned: u32,
    /// It takes no further channel.
    closed: bool,
}

/// Room for a channel on a line; dropping it gives it back.
#[derive(Debug)]
struct Place {
    line: Arc<Line>,
    open: bool,
    transfers: bool,
}

/// The channel of one session.
#[derive(Debug)]
pub(super) struct Lane {
    sftp: sftp::Session,
    place: Place,
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new(connection: Connection, places: Places, mut counted: ConnectionGuard) -> Arc<Self> {
        counted.enter(ConnectionState::Idle);
        Arc::new(Self { connection, places: Mutex::new(places), counted: Mutex::new(counted) })
    }

    /// One transfer more or less runs over it.
    fn transfers(&self, places: &mut Places, change: impl FnOnce(&mut usize)) {
        change(&mut places.transfers);
        let state = if places.transfers > 0 { ConnectionState::Active } else { ConnectionState::Idle };
        self.counted.lock().unwrap_or_else(PoisonError::into_inner).enter(state);
    }

    /// Room for a channel, and for a transfer over it where asked.
    fn place(self: &Arc<Self>, most: usize, transfers: bool) -> Option<Place> {
        let mut places = self.lock();
        let has_room = places.taken < most && !(transfers && places.transfers >= MAX_TRANSFERS);
        if places.closed || !has_room || self.connection.is_lost() {
            return None;
        }
        places.taken += 1;
        if transfers {
            self.transfers(&mut places, |transfers| *transfers += 1);
        }
        drop(places);
        Some(Place { line: Arc::clone(self), open: false, transfers })
    }
}

impl Place {
    /// Notes that the channel is open; how many are.
    fn opened(&mut self) -> usize {
        self.open = true;
        let mut places = self.line.lock();
        places.open += 1;
        places.open
    }

    fn begin_transfer(&mut self) -> bool {
        if !self.transfers {
            let mut places = self.line.lock();
            self.transfers = places.transfers < MAX_TRANSFERS;
            if self.transfers {
                self.line.transfers(&mut places, |transfers| *transfers += 1);
            }
        }
        self.transfers
    }

    fn end_transfer(&mut self) {
        if std::mem::take(&mut self.transfers) {
            self.line.transfers(&mut self.line.lock(), |transfers| *transfers -= 1);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.end_transfer();
        let mut places = self.line.lock();
        places.taken -= 1;
        places.open -= usize::from(self.open);
    }
}

impl Lane {
    /// Over a connection of its own.
    pub(super) async fn connect(
        target: &Target,
        credentials: &Credentials,
        standing: Standing,
    ) -> Result<Self, ConnectError> {
        Ok(Self::first(connect(target, credentials, standing).await?))
    }

    fn first(Connected { connection, sftp, counted }: Connected) -> Self {
        let places = Places { taken: 1, open: 1, ..Places::default() };
        let line = Line::new(connection, places, counted);
        Self { sftp, place: Place { line, open: true, transfers: false } }
    }

    /// The SFTP session.
    pub(super) fn sftp(&self) -> &sftp::Session {
        &self.sftp
    }

    pub(super) fn is_lost(&self) -> bool {
        self.sftp.is_lost() || self.place.line.connection.is_lost()
    }

    /// Another channel beside this one, which is left with answers owing; `None` where a new connection is better.
    pub(super) async fn overtake(&self) -> Option<Self> {
        self.abandon();
        let line = &self.place.line;
        let mut place = line.place(MAX_CHANNELS, false)?;
        let sftp = timeout(CHANNEL_LIMIT, line.connection.open_sftp()).await.ok()?.ok()?;
        place.opened();
        Some(Self { sftp, place })
    }

    /// Notes that this one is left with answers owing.
    pub(super) fn abandon(&self) {
        tracing::debug!("backend channel left with answers owing");
        // What cleans up over it hears of it, and does so over the next one.
        self.sftp.leave();
        let mut places = self.place.line.lock();
        places.abandoned += 1;
        places.closed |= places.abandoned > MAX_ABANDONED_CHANNELS;
    }

    /// Opens further channels beside it.
    pub(super) fn opener(&self) -> Opener {
        Opener(Arc::downgrade(&self.place.line))
    }

    /// Takes one of the places for transfers on its connection; `false` if all are taken.
    pub(super) fn begin_transfer(&mut self) -> bool {
        self.place.begin_transfer()
    }

    /// Does a transfer run over it?
    pub(super) fn has_transfer(&self) -> bool {
        self.place.transfers
    }

    /// Gives that back.
    pub(super) fn end_transfer(&mut self) {
        self.place.end_transfer();
    }

    /// Keeps it and its connection, whatever becomes of the session.
    pub(super) fn keep(&self) -> Kept {
        Kept { sftp: self.sftp.clone(), line: Arc::clone(&self.place.line) }
    }

    /// Closes it, and the connection with a goodbye where it was the last on it.
    pub(super) async fn close(self) {
        let line = Arc::clone(&self.place.line);
        drop(self);
        close(line).await;
    }
}

/// A channel that something goes on with when its session is over.
pub(super) struct Kept {
    sftp: sftp::Session,
    line: Arc<Line>,
}

impl Kept {
    /// The SFTP session.
    pub(super) fn sftp(&self) -> &sftp::Session {
        &self.sftp
    }

    /// Lets go of it.
    pub(super) async fn close(self) {
        let Self { sftp, line } = self;
        drop(sftp);
        close(line).await;
    }
}

/// Opens channels on a connection as long as that lives.
pub(super) struct Opener(Weak<Line>);

impl Opener {
    /// A channel that is not counted: it serves a session that has its place.
    pub(super) async fn open(&self) -> Option<sftp::Session> {
        let line = self.0.upgrade()?;
        timeout(CHANNEL_LIMIT, line.connection.open_sftp()).await.ok()?.ok()
    }
}

async fn close(line: Arc<Line>) {
    if let Some(Line { connection, .. }) = Arc::into_inner(line) {
        connection.close().await;
    }
}

/// The connections that the sessions of one user entry share.
///
/// SECURITY: one pool for each user entry with a login of its own, never for passthrough: whoever gets a channel from
/// it was let in under that entry, by its password, and could have opened the same connection.
#[derive(Debug)]
pub struct Pool {
    target: Arc<Current<Target>>,
    credentials: Credentials,
    shared: Mutex<Shared>,
    /// One connection is opened at a time: those that wait for it mostly find room on it. Where it fails they are told
    /// the same, instead of each waiting in its turn for a backend that is away.
    opening: tokio::sync::Mutex<Option<Failed>>,
}

#[derive(Debug, Default)]
struct Shared {
    lines: Vec<Arc<Line>>,
    /// Channels without a session, and since when.
    kept: Vec<(Instant, Lane)>,
    /// Channels that the server gives on one connection, as far as it is known.
    most: Option<usize>,
    /// Where its sessions begin, as the connections that live told it.
    home: Option<BackendPath>,
}

impl Shared {
    fn most(&self) -> usize {
        self.most.unwrap_or(MAX_CHANNELS)
    }

    /// Forgets what is lost or closed. The sessions on it notice by themselves.
    fn prune(&mut self) {
        self.kept.retain(|(_, lane)| !lane.is_lost());
        self.lines.retain(|line| !line.connection.is_lost() && !line.lock().closed);
        if self.lines.is_empty() {
            self.home = None;
        }
    }
}

/// The last attempt that failed.
#[derive(Debug)]
struct Failed {
    at: Instant,
    error: ConnectError,
}

enum Room {
    Channel(Lane),
    Place(Place),
}

impl Pool {
    /// A pool without connections.
    pub fn new(target: Arc<Current<Target>>, credentials: Credentials) -> Arc<Self> {
        let (shared, opening) = Default::default();
        Arc::new(Self { target, credentials, shared, opening })
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a session begins, if there is a connection that lives and has told it: such a session needs no channel
    /// before its first command.
    pub(super) fn home(&self) -> Option<BackendPath> {
        let mut shared = self.lock();
        shared.prune();
        shared.home.clone()
    }

    /// Remembers it, as long as there is a connection.
    pub(super) fn learn_home(&self, home: &BackendPath) {
        let mut shared = self.lock();
        if !shared.lines.is_empty() {
            shared.home = Some(home.clone());
        }
    }

    /// A channel: one that was kept, or a new one on a connection with room, or on a new connection.
    pub(super) async fn lane(self: &Arc<Self>, for_transfer: bool) -> Result<Lane, ConnectError> {
        // Each round finds a channel, or takes a connection or a place on it out of the search.
        loop {
            let mut room = self.room(for_transfer);
            if room.is_none() {
                let asked = Instant::now();
                let mut last_failed = self.opening.lock().await;
                // Whoever was before us may have made some.
                room = self.room(for_transfer);
                if room.is_none() {
                    if let Some(failed) = last_failed.as_ref().filter(|failed| failed.at >= asked) {
                        return Err(failed.error.clone());
                    }
                    return match connect(&self.target.get(), &self.credentials, Standing::Known).await {
                        Ok(connected) => Ok(self.admit(connected, for_transfer)),
                        Err(error) => {
                            *last_failed = Some(Failed { at: Instant::now(), error: error.clone() });
                            Err(error)
                        }
                    };
                }
            }
            match room {
                Some(Room::Channel(lane)) => return Ok(lane),
                Some(Room::Place(place)) => {
                    if let Some(lane) = self.open(place).await {
                        return Ok(lane);
                    }
                }
                None => {}
            }
        }
    }

    /// Gives a channel back that its session needs no more. One that works is kept for the next session.
    pub(super) fn give_back(&self, mut lane: Lane) {
        lane.end_transfer();
        if lane.is_lost() || !lane.sftp.is_quiet() {
            return;
        }
        let mut shared = self.lock();
        if shared.kept.len() < MAX_KEPT_CHANNELS {
            shared.kept.push((Instant::now(), lane));
        }
    }

    fn room(&self, for_transfer: bool) -> Option<Room> {
        let mut shared = self.lock();
        shared.prune();
        // The last one that came is the first to go, so that those nobody needs grow old.
        let usable = |lane: &mut Lane| !for_transfer || lane.begin_transfer();
        if let Some(index) = shared.kept.iter_mut().rposition(|(_, lane)| usable(lane)) {
            return Some(Room::Channel(shared.kept.remove(index).1));
        }
        let most = shared.most();
        shared.lines.iter().find_map(|line| line.place(most, for_transfer)).map(Room::Place)
    }

    /// Opens a channel; `None` where the server refuses it, or where its connection is no good any more.
    async fn open(&self, mut place: Place) -> Option<Lane> {
        let line = Arc::clone(&place.line);
        match timeout(CHANNEL_LIMIT, line.connection.open_sftp()).await {
            Ok(Ok(sftp)) => {
                let open = place.opened();
                let mut shared = self.lock();
                shared.most = shared.most.map(|most| most.max(open));
                Some(Lane { sftp, place })
            }
            Ok(Err(ConnectError::NoChannel(_))) => {
                let open = line.lock().open;
                if open == 0 {
                    line.lock().closed = true;
                }
                self.lock().most = Some(open.max(1));
                None
            }
            Ok(Err(_)) | Err(_) => {
                line.lock().closed = true;
                None
            }
        }
    }

    fn admit(self: &Arc<Self>, connected: Connected, for_transfer: bool) -> Lane {
        let mut lane = Lane::first(connected);
        if for_transfer {
            lane.begin_transfer();
        }
        let mut shared = self.lock();
        if shared.lines.is_empty() {
            tokio::spawn(look_around(Arc::downgrade(self)));
        }
        shared.lines.push(Arc::clone(&lane.place.line));
        lane
    }
}

/// Closes what nobody has needed for a while; ends when no connection is left.
async fn look_around(pool: Weak<Pool>) {
    loop {
        sleep(KEPT_TIME / 2).await;
        let Some(pool) = pool.upgrade() else { return };
        let (unused, is_over) = {
            let mut shared = pool.lock();
            shared.prune();
            shared.kept.retain(|(since, _)| since.elapsed() < KEPT_TIME);
            let unused: Vec<_> = shared.lines.extract_if(.., |line| line.lock().taken == 0).collect();
            shared.prune();
            (unused, shared.lines.is_empty())
        };
        for line in unused {
            close(line).await;
        }
        if is_over {
            return;
        }
    }
}

/// A new connection and its first channel.
struct Connected {
    connection: Connection,
    sftp: sftp::Session,
    counted: ConnectionGuard,
}

/// Connects, logs in and starts SFTP, and counts how that ended.
async fn connect(target: &Target, credentials: &Credentials, standing: Standing) -> Result<Connected, ConnectError> {
    // Not in the queue either: whoever waits there waits for a backend that does not answer.
    target.is_asked()?;
    let turn = target.login_turn(standing).await.inspect_err(|_| {
        metrics::backend_connect(&target.backend().name, BackendConnectResult::Timeout);
    })?;
    let attempt = async {
        let counted = metrics::backend_connection(&target.backend().name, ConnectionState::Connecting);
        let connection = Connection::open(target, credentials).await?;
        // What the server counts are connections that have not logged in yet.
        drop(turn);
        let sftp = connection.open_sftp().await?;
        Ok(Connected { connection, sftp, counted })
    };
    let result = timeout(LOGIN_LIMIT, attempt).await.unwrap_or(Err(ConnectError::TimedOut { phase: Phase::Login }));
    target.tried(result.as_ref());
    result
}
