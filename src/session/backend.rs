//! The backend of one session: an SSH connection with one SFTP channel, made again when lost, and left when it hangs.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::timeout;

use crate::config::Quirks;
use crate::sftp::{self, Attributes, BackendPath, OpenFlags, SftpError};
use crate::ssh::{ConnectError, Connection, Credentials, Phase, Target};
use crate::telemetry::metrics::{self, BackendConnectResult};
use crate::transfer::left_behind::{Held, LeftBehinds};
use crate::transfer::outcome::Unsettled;
use crate::transfer::sweep;

/// How long a login on the backend may take in all once it has its turn, however many addresses are tried (F-6).
const LOGIN_LIMIT: Duration = Duration::from_secs(20);

/// How long a command waits for the answers that its predecessors left owing. A server that works has sent them by
/// then; one that does not is better asked over another channel.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// How long another channel on the same connection may take. What a stopped download asked for comes first.
const CHANNEL_LIMIT: Duration = Duration::from_secs(5);

/// Channels left behind on one connection. Each may be a process on the server that hangs, and OpenSSH has ten
/// (MaxSessions); then the whole connection is made again, which ends them.
const MAX_ABANDONED_CHANNELS: u32 = 3;

/// How long a client waits while it is found out whether its upload is complete after all.
const PROOF_PATIENCE: Duration = Duration::from_secs(15);

/// How long a client waits while a file that grew gets its length back. A loss is told within two seconds (F-1).
const UNDO_PATIENCE: Duration = Duration::from_millis(1500);

/// How long the end of a session spends on sweeping.
const SWEEPING_PATIENCE: Duration = Duration::from_secs(10);

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
    target: Arc<Target>,
    credentials: Credentials,
    connection: Connection,
    sftp: sftp::Session,
    /// Channels of this connection that were left with answers owing.
    abandoned: u32,
    left_behinds: LeftBehinds,
}

impl BackendLink {
    /// Connects, logs in and opens the channel.
    ///
    /// # Errors
    /// What [`Connection::open`] says.
    pub async fn open(target: Arc<Target>, credentials: Credentials) -> Result<Self, ConnectError> {
        let (connection, sftp) = connect(&target, &credentials).await?;
        Ok(Self { target, credentials, connection, sftp, abandoned: 0, left_behinds: LeftBehinds::default() })
    }

    /// Name of the backend in the configuration.
    pub fn name(&self) -> &str {
        &self.target.backend().name
    }

    /// The channel: a new one where nothing can be expected of the old one, over a new connection where that was lost.
    ///
    /// # Errors
    /// When the backend cannot be reached again.
    pub async fn sftp(&mut self) -> Result<sftp::Session, ConnectError> {
        self.make_ready().await?;
        self.put_right().await;
        Ok(self.sftp.clone())
    }

    async fn make_ready(&mut self) -> Result<(), ConnectError> {
        if self.is_lost() {
            return self.reconnect().await;
        }
        if self.sftp.owes_answers() {
            return self.overtake().await;
        }
        Ok(())
    }

    fn is_lost(&self) -> bool {
        self.sftp.is_lost() || self.connection.is_lost()
    }

    /// A command was given up and its answers are still owed: waits for them a moment, and goes on without them over
    /// another channel. What cleans up over the old one keeps it until it is done.
    async fn overtake(&mut self) -> Result<(), ConnectError> {
        if timeout(SETTLE_TIME, self.sftp.settled()).await.is_ok() && !self.is_lost() {
            return Ok(());
        }
        if self.abandoned < MAX_ABANDONED_CHANNELS
            && let Ok(Ok(sftp)) = timeout(CHANNEL_LIMIT, self.connection.open_sftp()).await
        {
            tracing::debug!("backend channel left with answers owing");
            self.abandoned += 1;
            self.sftp = sftp;
            return Ok(());
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
                self.reconnect().await?;
                self.put_right().await;
                Ok(operation(self.sftp.clone()).await?)
            }
            other => Ok(other?),
        }
    }

    /// What the server cannot do.
    pub fn quirks(&self) -> Quirks {
        self.target.backend().quirks
    }

    /// An OPEN was sent and is not waited for, as its file turned out to be no plain one. That of a FIFO hangs a server
    /// until somebody opens the other end: commands go on over another channel, and the hung one is set free.
    pub async fn give_up_opening(&mut self, path: &BackendPath, attributes: &Attributes) {
        if !attributes.is_fifo() {
            return;
        }
        if let Ok(sftp) = self.connection.open_sftp().await {
            self.sftp = sftp.clone();
            let path = path.clone();
            // Opened both ways a FIFO does not wait (fifo(7)).
            let flags = OpenFlags { read: true, write: true, ..OpenFlags::default() };
            tokio::spawn(async move { drop(sftp.open(&path, flags, None).await) });
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
        let settled = timeout(patience, async {
            self.reconnect().await.ok()?;
            let is_whole = unsettled.settle(&self.sftp).await.ok();
            self.put_right().await;
            is_whole
        });
        settled.await.ok().flatten().unwrap_or(false)
    }

    /// Ends the session on the backend; these directories are swept first.
    pub async fn close(mut self, sweep: Vec<BackendPath>) {
        if !self.left_behinds.is_empty() {
            let putting_right = async {
                self.make_ready().await?;
                // A missing file would be seen first, so it is first in line.
                for held in self.left_behinds.take() {
                    let _ = held.put_right(&self.sftp).await;
                }
                Ok::<(), ConnectError>(())
            };
            // A backend that stays away keeps what it has.
            let _ = timeout(CLOSING_PATIENCE, putting_right).await;
        }
        if !self.sftp.is_lost() {
            let _ = timeout(SWEEPING_PATIENCE, async {
                for directory in &sweep {
                    match sweep::sweep(&self.sftp, directory, seconds_since_1970()).await {
                        Ok(0) | Err(SftpError::Status { .. }) => {}
                        Ok(swept) => tracing::info!(swept, "removed stale files of uploads under way"),
                        Err(_) => return,
                    }
                }
            })
            .await;
        }
        self.connection.close().await;
    }

    async fn reconnect(&mut self) -> Result<(), ConnectError> {
        (self.connection, self.sftp) = connect(&self.target, &self.credentials).await?;
        self.abandoned = 0;
        Ok(())
    }

    async fn put_right(&mut self) {
        if self.left_behinds.is_empty() {
            return;
        }
        let (urgent, rest): (Vec<_>, Vec<_>) = self.left_behinds.take().into_iter().partition(Held::is_urgent);
        // The next command may be about the very file that is missing.
        for held in urgent {
            let _ = held.put_right(&self.sftp).await;
        }
        if !rest.is_empty() {
            let sftp = self.sftp.clone();
            tokio::spawn(async move {
                for held in rest {
                    let _ = held.put_right(&sftp).await;
                }
            });
        }
    }
}

/// Connects, logs in and starts SFTP, and counts how that ended.
async fn connect(target: &Target, credentials: &Credentials) -> Result<(Connection, sftp::Session), ConnectError> {
    let turn = target.login_turn().await.inspect_err(|_| {
        metrics::backend_connect(&target.backend().name, BackendConnectResult::Timeout);
    })?;
    let attempt = async {
        let connection = Connection::open(target, credentials).await?;
        // What the server counts are connections that have not logged in yet.
        drop(turn);
        let sftp = connection.open_sftp().await?;
        Ok((connection, sftp))
    };
    let result = timeout(LOGIN_LIMIT, attempt).await.unwrap_or(Err(ConnectError::TimedOut { phase: Phase::Login }));
    let counted = result.as_ref().map_or_else(connect_result, |_| BackendConnectResult::Ok);
    metrics::backend_connect(&target.backend().name, counted);
    result
}

fn connect_result(error: &ConnectError) -> BackendConnectResult {
    match error {
        ConnectError::Resolve { .. } => BackendConnectResult::Dns,
        ConnectError::Unreachable { .. } | ConnectError::Lost(_) => BackendConnectResult::Refused,
        ConnectError::TimedOut { .. } | ConnectError::Sftp(SftpError::TimedOut) => BackendConnectResult::Timeout,
        ConnectError::HostKey(_) => BackendConnectResult::HostKey,
        ConnectError::Rejected { .. } => BackendConnectResult::Auth,
        ConnectError::KeyExchange(_) | ConnectError::NoSftp(_) | ConnectError::Sftp(_) => {
            BackendConnectResult::Protocol
        }
    }
}

fn seconds_since_1970() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
}
