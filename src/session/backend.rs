//! The backend of one session: an SSH connection with a channel for names and one for bulk data, made again when lost.

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
    names: sftp::Session,
    bulk: Option<sftp::Session>,
    left_behinds: LeftBehinds,
}

impl BackendLink {
    /// Connects, logs in and opens the channel for names.
    ///
    /// # Errors
    /// What [`Connection::open`] says.
    pub async fn open(target: Arc<Target>, credentials: Credentials) -> Result<Self, ConnectError> {
        let (connection, names) = connect(&target, &credentials).await?;
        Ok(Self { target, credentials, connection, names, bulk: None, left_behinds: LeftBehinds::default() })
    }

    /// Name of the backend in the configuration.
    pub fn name(&self) -> &str {
        &self.target.backend().name
    }

    /// The channel for names, over a new connection where the old one was lost.
    ///
    /// # Errors
    /// When the backend cannot be reached again.
    pub async fn names(&mut self) -> Result<sftp::Session, ConnectError> {
        if self.names.is_lost() || self.connection.is_lost() {
            self.reconnect().await?;
        }
        self.put_right().await;
        Ok(self.names.clone())
    }

    /// The channel for bulk data; opened with the first transfer.
    ///
    /// # Errors
    /// When the backend cannot be reached again.
    pub async fn bulk(&mut self) -> Result<sftp::Session, ConnectError> {
        let names = self.names().await?;
        if let Some(bulk) = self.bulk.as_ref().filter(|bulk| !bulk.is_lost()) {
            return Ok(bulk.clone());
        }
        // A server that allows one channel per connection carries both over it.
        let bulk = self.connection.open_sftp().await.unwrap_or(names);
        Ok(self.bulk.insert(bulk).clone())
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
        let names = self.names().await?;
        match operation(names).await {
            Err(SftpError::Lost(_)) => {
                self.reconnect().await?;
                Ok(operation(self.names.clone()).await?)
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
        if let Ok(names) = self.connection.open_sftp().await {
            self.bulk = None;
            self.names = names.clone();
            let path = path.clone();
            // Opened both ways a FIFO does not wait (fifo(7)).
            let flags = OpenFlags { read: true, write: true, ..OpenFlags::default() };
            tokio::spawn(async move { drop(names.open(&path, flags, None).await) });
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
            unsettled.settle(&self.names).await.ok()
        });
        settled.await.ok().flatten().unwrap_or(false)
    }

    /// Ends the session on the backend; these directories are swept first.
    pub async fn close(mut self, sweep: Vec<BackendPath>) {
        if !self.left_behinds.is_empty() {
            let putting_right = async {
                if self.names.is_lost() || self.connection.is_lost() {
                    (self.connection, self.names) = connect(&self.target, &self.credentials).await?;
                }
                // A missing file would be seen first, so it is first in line.
                for held in self.left_behinds.take() {
                    let _ = held.put_right(&self.names).await;
                }
                Ok::<(), ConnectError>(())
            };
            // A backend that stays away keeps what it has.
            let _ = timeout(CLOSING_PATIENCE, putting_right).await;
        }
        if !self.names.is_lost() {
            let _ = timeout(SWEEPING_PATIENCE, async {
                for directory in &sweep {
                    match sweep::sweep(&self.names, directory, seconds_since_1970()).await {
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
        (self.connection, self.names) = connect(&self.target, &self.credentials).await?;
        self.bulk = None;
        self.put_right().await;
        Ok(())
    }

    async fn put_right(&mut self) {
        if self.left_behinds.is_empty() {
            return;
        }
        let (urgent, rest): (Vec<_>, Vec<_>) = self.left_behinds.take().into_iter().partition(Held::is_urgent);
        // The next command may be about the very file that is missing.
        for held in urgent {
            let _ = held.put_right(&self.names).await;
        }
        if !rest.is_empty() {
            let names = self.names.clone();
            tokio::spawn(async move {
                for held in rest {
                    let _ = held.put_right(&names).await;
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
        let names = connection.open_sftp().await?;
        Ok((connection, names))
    };
    let result = timeout(LOGIN_LIMIT, attempt).await.unwrap_or(Err(ConnectError::TimedOut { phase: Phase::Login }));
    drop(turn);
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
