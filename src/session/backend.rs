//! The backend of one session: an SSH connection with one SFTP channel, made again when lost, and left when it hangs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::timeout;

use crate::sftp::{self, SftpError};
use crate::ssh::{ConnectError, Connection, Credentials, Phase, Target};
use crate::telemetry::metrics::{self, BackendConnectResult};
use crate::transfer::left_behind::LeftBehind;

/// Things to put right over the next connection; beyond that something is wrong that no retry mends.
const MAX_LEFT_BEHIND: usize = 64;

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
    left_behind: LeftBehinds,
}

/// What is to be put right as soon as there is a connection.
#[derive(Debug, Clone, Default)]
struct LeftBehinds(Arc<Mutex<Vec<LeftBehind>>>);

impl LeftBehinds {
    fn keep(&self, left_behind: LeftBehind) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MAX_LEFT_BEHIND {
            kept.push(left_behind);
        }
    }

    fn take(&self) -> Vec<LeftBehind> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl BackendLink {
    /// Connects, logs in and opens the channel.
    ///
    /// # Errors
    /// What [`Connection::open`] says.
    pub async fn open(target: Arc<Target>, credentials: Credentials) -> Result<Self, ConnectError> {
        let (connection, sftp) = connect(&target, &credentials).await?;
        Ok(Self { target, credentials, connection, sftp, abandoned: 0, left_behind: LeftBehinds::default() })
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

    /// Remembers what could not be put right: that is done as soon as there is a connection.
    pub fn leave_behind(&mut self, left_behind: Vec<LeftBehind>) {
        for left_behind in left_behind {
            self.left_behind.keep(left_behind);
        }
    }

    /// Ends the session on the backend.
    pub async fn close(mut self) {
        let last = self.left_behind.take();
        if !last.is_empty() {
            let putting_right = async {
                self.make_ready().await?;
                let (urgent, rest): (Vec<_>, Vec<_>) = last.into_iter().partition(LeftBehind::is_urgent);
                for left_behind in urgent.into_iter().chain(rest) {
                    left_behind.put_right(&self.sftp).await;
                }
                Ok::<(), ConnectError>(())
            };
            // A backend that stays away keeps what it has; a missing file would be seen first, so it is first in line.
            let _ = timeout(CLOSING_PATIENCE, putting_right).await;
        }
        self.connection.close().await;
    }

    async fn reconnect(&mut self) -> Result<(), ConnectError> {
        (self.connection, self.sftp) = connect(&self.target, &self.credentials).await?;
        self.abandoned = 0;
        Ok(())
    }

    async fn put_right(&mut self) {
        let (urgent, rest): (Vec<_>, Vec<_>) = self.left_behind.take().into_iter().partition(LeftBehind::is_urgent);
        // The next command may be about the very file that is missing.
        for left_behind in urgent {
            if !left_behind.put_right(&self.sftp).await {
                self.left_behind.keep(left_behind);
            }
        }
        if !rest.is_empty() {
            let (sftp, kept) = (self.sftp.clone(), self.left_behind.clone());
            tokio::spawn(async move {
                for left_behind in rest {
                    if !left_behind.put_right(&sftp).await {
                        kept.keep(left_behind);
                    }
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
