//! The backend of one session: one SFTP channel to it, made again when it is lost, left when it hangs, and given back
//! while nobody needs it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};
use tracing::Instrument;

use crate::config::{Afterwards, Backend, Quirks};
use crate::sftp::{self, Attributes, BackendPath, MoreChannels, OpenFlags, SftpError};
use crate::ssh::{ConnectError, Credentials, Standing, Target};
use crate::transfer::in_place::Watch;
use crate::transfer::left_behind::{Held, LeftBehind, LeftBehinds};
use crate::transfer::outcome::Unsettled;
use crate::transfer::sweep;

use super::bequests::{Bequests, Login};
use super::current::Current;
use super::line::{Lane, Pool};

/// How long a command waits for the answers that its predecessors left owing. A server that works has sent them by
/// then; one that does not is better asked over another channel.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// How long a client waits while it is found out whether its upload is complete after all.
const PROOF_PATIENCE: Duration = Duration::from_secs(15);

/// How long a client waits while a file that grew gets its length back. A loss is told within two seconds (F-1).
const UNDO_PATIENCE: Duration = Duration::from_millis(1500);

/// How long after an attempt that failed the next one is made meanwhile, twice as long after each. Two within the patience
/// of an undo: three failures would keep everybody from the backend for a while (the circuit).
const AGAIN: Duration = Duration::from_millis(500);

/// How long the end of a session spends on sweeping.
const SWEEPING_PATIENCE: Duration = Duration::from_secs(10);

/// How long the further channels of an upload are kept without a command.
const STRIPES_KEPT: Duration = Duration::from_secs(30);

/// How long the end of a session waits for the last things to be put right.
const CLOSING_PATIENCE: Duration = Duration::from_secs(60);

/// Why the backend could not do something.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// There is no connection to it.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It answered with an error, or not at all.
    #[error(transparent)]
    Sftp(#[from] SftpError),
}

/// The backend of one logged-in user.
#[derive(Debug)]
pub struct BackendLink {
    target: Arc<Current<Target>>,
    /// Its entry in the configuration.
    entry: Arc<Backend>,
    /// What a lost connection is made again with; `None` where nothing is kept of a password that was passed through.
    credentials: Option<Credentials>,
    /// Whether it waits for its turn with strangers.
    standing: Standing,
    /// Where its connections come from, if they are shared.
    pool: Option<Arc<Pool>>,
    /// After so long without a command the channel is given back.
    idle_release: Option<Duration>,
    /// The channel; none where it was lost or given back.
    lane: Option<Lane>,
    /// Further channels of uploads, kept for the next one.
    stripes: Stripes,
    left_behinds: LeftBehinds,
    /// Who is left what this cannot put right, and under which name.
    bequests: (Arc<Bequests>, Login),
    /// Files that a server which was lost may still write to: they are watched as soon as there is a connection.
    to_watch: Vec<(LeftBehind, Watch)>,
}

/// Channels that were opened for a long upload and are kept for the next one.
#[derive(Debug, Clone, Default)]
struct Stripes(Arc<Mutex<Vec<sftp::Session>>>);

impl Stripes {
    fn lock(&self) -> MutexGuard<'_, Vec<sftp::Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn keep(&self, channels: Vec<sftp::Session>) {
        *self.lock() = channels;
    }

    /// Those that work.
    fn take(&self) -> Vec<sftp::Session> {
        let mut channels = std::mem::take(&mut *self.lock());
        channels.retain(|channel| !channel.is_lost() && channel.is_quiet());
        channels
    }
}

/// Whose login it is.
#[derive(Debug)]
pub enum Identity {
    /// The client's own.
    Passthrough(Afterwards),
    /// The user entry's, whose sessions may share connections.
    Mapped(Option<Arc<Pool>>),
}

impl BackendLink {
    /// Connects, logs in and opens the channel. With a pool, which is for mapped identities, connections come from there;
    /// where one lives, the channel is for the first command that needs it.
    ///
    /// # Errors
    /// What [`Connection::open`](crate::ssh::Connection::open) says.
    pub async fn open(
        target: Arc<Current<Target>>,
        credentials: Credentials,
        identity: Identity,
        standing: Standing,
        bequests: Arc<Bequests>,
    ) -> Result<Self, ConnectError> {
        let entry = Arc::clone(target.get().backend());
        let once = matches!(identity, Identity::Passthrough(Afterwards::Gone));
        let (pool, idle_release) = match identity {
            Identity::Passthrough(_) => (None, None),
            Identity::Mapped(pool) => (pool, entry.idle_release),
        };
        let (stripes, left_behinds) = (Stripes::default(), LeftBehinds::default());
        let login = (entry.name.clone(), credentials.user.clone());
        let mut link = Self {
            target,
            entry,
            credentials: Some(credentials),
            standing,
            pool,
            idle_release,
            lane: None,
            stripes,
            left_behinds,
            bequests: (bequests, login),
            to_watch: Vec::new(),
        };
        if link.pool.as_ref().is_none_or(|pool| pool.home().is_none()) {
            link.reconnect().await?;
        }
        link.standing = Standing::Known;
        // SECURITY: the backend has answered, and nobody has the password any more.
        link.credentials = link.credentials.filter(|_| !once);
        let (bequests, login) = &link.bequests;
        bequests.take(login).into_iter().for_each(|left_behind| link.left_behinds.keep(left_behind));
        Ok(link)
    }

    /// Where an SFTP client would begin: REALPATH of `.`, which the sessions of a pool ask once for each connection.
    ///
    /// # Errors
    /// What the backend says, or that it cannot be reached.
    pub async fn home(&mut self) -> Result<BackendPath, BackendError> {
        if let Some(home) = self.pool.as_ref().and_then(|pool| pool.home()) {
            return Ok(home);
        }
        let home = self.repeatable(|sftp| async move { sftp.real_path(b".").await }).await?;
        if let Some(pool) = &self.pool {
            pool.learn_home(&home);
        }
        Ok(home)
    }

    /// Name of the backend in the configuration.
    pub fn name(&self) -> &str {
        &self.entry.name
    }

    /// The channel: a new one where nothing can be expected of the old one, over a new connection where that was lost.
    ///
    /// # Errors
    /// When the backend cannot be reached again.
    pub async fn sftp(&mut self) -> Result<sftp::Session, ConnectError> {
        let sftp = self.ready().await?;
        self.put_right(&sftp).await;
        Ok(sftp)
    }

    /// The channel for a transfer, which runs until [`BackendLink::transfer_ended`]: on a shared connection that has
    /// room for one.
    ///
    /// # Errors
    /// When the backend cannot be reached again.
    pub async fn bulk(&mut self) -> Result<sftp::Session, ConnectError> {
        let sftp = self.sftp().await?;
        let Some(lane) = &mut self.lane else { return Ok(sftp) };
        if lane.begin_transfer() {
            return Ok(sftp);
        }
        let Some(pool) = &self.pool else { return Ok(sftp) };
        let other = pool.lane(true).await?;
        let sftp = other.sftp().clone();
        if let Some(crowded) = self.lane.replace(other) {
            pool.give_back(crowded);
        }
        Ok(sftp)
    }

    /// Where an upload that turns out to be long gets further channels from; `None` if it shall have none.
    pub fn more_channels(&self, count: usize) -> Option<MoreChannels> {
        let opener = self.lane.as_ref().filter(|_| count > 0)?.opener();
        let stripes = self.stripes.clone();
        Some(Box::new(move || {
            Box::pin(async move {
                let mut channels = stripes.take();
                channels.truncate(count);
                let missing = (channels.len()..count).map(|_| opener.open());
                channels.extend(join_all(missing).await.into_iter().flatten());
                stripes.keep(channels.clone());
                channels
            })
        }))
    }

    /// The command is over, and so is its transfer.
    pub fn transfer_ended(&mut self) {
        if let Some(lane) = &mut self.lane {
            lane.end_transfer();
        }
    }

    async fn ready(&mut self) -> Result<sftp::Session, ConnectError> {
        match &self.lane {
            Some(lane) if lane.is_lost() => self.reconnect().await,
            Some(lane) if lane.sftp().owes_answers() => self.overtake().await,
            Some(lane) => Ok(lane.sftp().clone()),
            None => self.reconnect().await,
        }
    }

    /// A command was given up and its answers are still owed: waits for them a moment, and goes on without them over
    /// another channel. What cleans up over the old one goes on there, too.
    async fn overtake(&mut self) -> Result<sftp::Session, ConnectError> {
        let Some(lane) = &self.lane else { return self.reconnect().await };
        if timeout(SETTLE_TIME, lane.sftp().settled()).await.is_ok() && !lane.is_lost() {
            return Ok(lane.sftp().clone());
        }
        if self.pool.is_some() {
            lane.abandon();
        } else if let Some(other) = lane.overtake().await {
            let sftp = other.sftp().clone();
            self.lane = Some(other);
            return Ok(sftp);
        }
        self.reconnect().await
    }

    /// Carries out an operation that may be done twice. When the connection turns out to be lost, it is made again and
    /// the operation repeated, once.
    ///
    /// # Errors
    /// What the backend says, or that it cannot be reached.
    pub async fn repeatable<T, F>(&mut self, operation: impl Fn(sftp::Session) -> F) -> Result<T, BackendError>
    where
        F: Future<Output = Result<T, SftpError>>,
    {
        let sftp = self.sftp().await?;
        match operation(sftp).await {
            Err(SftpError::Lost(_)) => {
                let sftp = self.reconnect().await?;
                self.put_right(&sftp).await;
                Ok(operation(sftp).await?)
            }
            other => Ok(other?),
        }
    }

    /// Does it owe no answer?
    pub fn is_quiet(&self) -> bool {
        self.lane.as_ref().is_none_or(|lane| lane.sftp().is_quiet())
    }

    /// What the server cannot do.
    pub fn quirks(&self) -> Quirks {
        self.entry.quirks
    }

    /// An OPEN was sent and is not waited for, as its file turned out to be no plain one. That of a FIFO hangs a server
    /// until somebody opens the other end: commands go on over another channel, and the hung one is set free.
    pub async fn give_up_opening(&mut self, path: &BackendPath, attributes: &Attributes) {
        if !attributes.is_fifo() {
            return;
        }
        // The OPEN is owed an answer that does not come by itself, so this is another channel.
        if let Ok(sftp) = self.sftp().await {
            let path = path.clone();
            // Opened both ways a FIFO does not wait (fifo(7)).
            let flags = OpenFlags { read: true, write: true, ..OpenFlags::default() };
            tokio::spawn(async move { drop(sftp.open(&path, flags, None).await) }.in_current_span());
        }
    }

    /// Where what cannot be put right at once is remembered: that is done as soon as there is a connection.
    pub fn left_behinds(&self) -> &LeftBehinds {
        &self.left_behinds
    }

    /// Finds out over a new connection what became of an upload at whose very end the old one was lost, before the
    /// client is told. `true`: all of it is stored.
    pub async fn settle(&mut self, unsettled: Unsettled) -> bool {
        // Nothing but a success in doubt is worth keeping a client waiting that is told 451 in any case.
        let patience = if unsettled.may_be_whole() { PROOF_PATIENCE } else { UNDO_PATIENCE };
        let to_watch = unsettled.to_watch();
        let (mut is_whole, mut is_settled) = (false, false);
        let settling = async {
            let (mut next, mut pause) = (Some(unsettled), AGAIN);
            while let Some(unsettled) = next.take() {
                next = match self.reconnect().await {
                    Ok(sftp) => match unsettled.settle(&sftp).await {
                        Err(Some(again)) => Some(again),
                        // There is nothing more to be found out.
                        known => {
                            (is_whole, is_settled) = (matches!(known, Ok(true)), known.is_ok());
                            self.put_right(&sftp).await;
                            return;
                        }
                    },
                    Err(error) if error.is_of_the_address() => Some(unsettled),
                    // Another time would be refused as well, and may count against the account.
                    Err(_) => return,
                };
                // A connection that dies may still look alive, and a server that starts again refuses for a moment.
                sleep(pause).await;
                pause *= 2;
            }
        };
        // What is known by then counts, whatever else is still to be done.
        let _ = timeout(patience, settling).await;
        self.to_watch.extend(to_watch.map(|(undo, watch)| (undo, if is_settled { watch } else { watch.overdue() })));
        self.keep_watch();
        is_whole
    }

    /// Ends the session on the backend; these directories are swept first.
    pub async fn close(mut self, sweep: Vec<BackendPath>) {
        self.put_last_things_right().await;
        let (bequests, login) = &self.bequests;
        bequests.leave(login.clone(), self.left_behinds.give_up());
        // What was given back is not taken again for this: another session sweeps.
        if let Some(lane) = self.lane.as_ref().filter(|lane| !lane.is_lost()) {
            let _ = timeout(SWEEPING_PATIENCE, async {
                for directory in &sweep {
                    match sweep::sweep(lane.sftp(), directory, seconds_since_1970()).await {
                        Ok(0) | Err(SftpError::Status { .. }) => {}
                        Ok(swept) => tracing::info!(swept, "removed stale files of uploads under way"),
                        Err(_) => return,
                    }
                }
            })
            .await;
        }
        self.give_back().await;
    }

    /// After so long without a command there is something to be given back; `None` if all is kept.
    pub fn release_after(&self) -> Option<Duration> {
        let release = self.idle_release.filter(|_| self.lane.is_some());
        if self.stripes.is_empty() { release } else { Some(release.unwrap_or(STRIPES_KEPT).min(STRIPES_KEPT)) }
    }

    /// Gives back what is only kept for the next upload; when it is time, the channel too, and a connection of its own
    /// with it. The next command takes another.
    pub async fn release(&mut self) {
        let only_stripes = !self.stripes.is_empty() && self.idle_release.is_none_or(|after| after > STRIPES_KEPT);
        self.stripes.take();
        if only_stripes {
            return;
        }
        self.put_last_things_right().await;
        self.give_back().await;
    }

    async fn give_back(&mut self) {
        match (self.lane.take(), &self.pool) {
            (Some(lane), Some(pool)) => pool.give_back(lane),
            (Some(lane), None) => lane.close().await,
            (None, _) => {}
        }
    }

    /// Nobody may be here to do it later. A backend that stays away keeps what it has.
    async fn put_last_things_right(&mut self) {
        let hangs =
            self.left_behinds.are_in_hand() && self.lane.as_ref().is_some_and(|lane| lane.sftp().owes_answers());
        if self.left_behinds.is_empty() && self.to_watch.is_empty() && !hangs {
            return;
        }
        let putting_right = async {
            let sftp = self.ready().await?;
            // A missing file would be seen first, so it is first in line.
            for held in self.left_behinds.take() {
                let _ = held.put_right(&sftp).await;
            }
            Ok::<(), ConnectError>(())
        };
        let _ = timeout(CLOSING_PATIENCE, putting_right).await;
    }

    async fn reconnect(&mut self) -> Result<sftp::Session, ConnectError> {
        if self.pool.is_none() && self.credentials.is_none() {
            return self.make_do().await;
        }
        let transfers = self.lane.take().is_some_and(|lane| lane.has_transfer());
        self.stripes.take();
        let lane = match (&self.pool, &self.credentials) {
            (Some(pool), _) => pool.lane(transfers).await?,
            (None, Some(credentials)) => match Lane::connect(&self.target.get(), credentials, self.standing).await {
                Err(refused @ ConnectError::Rejected { .. }) => {
                    // Each further attempt would count against the account.
                    self.credentials = None;
                    return Err(refused);
                }
                other => other?,
            },
            (None, None) => return Err(ConnectError::NothingKept),
        };
        let sftp = self.lane.insert(lane).sftp().clone();
        self.keep_watch();
        Ok(sftp)
    }

    /// There is nothing to log in again with: another channel of the connection, if that lives, and else the old one, which
    /// may only be slow.
    async fn make_do(&mut self) -> Result<sftp::Session, ConnectError> {
        let Some(lane) = self.lane.as_ref().filter(|lane| !lane.is_lost()) else {
            self.lane = None;
            return Err(ConnectError::NothingKept);
        };
        let sftp = match lane.overtake().await {
            Some(other) => self.lane.insert(other).sftp().clone(),
            None => lane.sftp().clone(),
        };
        self.keep_watch();
        Ok(sftp)
    }

    /// Watches over the channel what a server that was lost may still write to.
    fn keep_watch(&mut self) {
        let Some(lane) = self.lane.as_ref().filter(|lane| !lane.is_lost()) else { return };
        for (undo, watch) in self.to_watch.drain(..).filter(|(_, watch)| !watch.is_over()) {
            let kept = lane.keep();
            tokio::spawn(async move {
                watch.keep(undo, kept.sftp()).await;
                kept.close().await;
            });
        }
    }

    async fn put_right(&mut self, sftp: &sftp::Session) {
        if self.left_behinds.is_empty() {
            return;
        }
        let (urgent, rest): (Vec<_>, Vec<_>) = self.left_behinds.take().into_iter().partition(Held::is_urgent);
        // The next command may be about the very file that is missing.
        for held in urgent {
            let _ = held.put_right(sftp).await;
        }
        if !rest.is_empty() {
            let sftp = sftp.clone();
            let putting_right = async move {
                for held in rest {
                    let _ = held.put_right(&sftp).await;
                }
            };
            tokio::spawn(putting_right.in_current_span());
        }
    }
}

fn seconds_since_1970() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
}
