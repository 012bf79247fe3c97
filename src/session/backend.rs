//! The backend of one session: an SSH connection with a channel for names and one for bulk data, made again when lost.

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
    /// Connects, logs in and opens the channel for names.
    ///
    /// # Errors
    /// What [`Connection::open`] says.
    pub async fn open(target: Arc<Target>, credentials: Credentials) -> Result<Self, ConnectError> {
        let (connection, names) = connect(&target, &credentials).await?;
        Ok(Self { target, credentials, connection, names, bulk: None, left_behind: LeftBehinds::default() })
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
                if self.names.is_lost() || self.connection.is_lost() {
                    (self.connection, self.names) = connect(&self.target, &self.credentials).await?;
                }
                let (urgent, rest): (Vec<_>, Vec<_>) = last.into_iter().partition(LeftBehind::is_urgent);
                for left_behind in urgent.into_iter().chain(rest) {
                    left_behind.put_right(&self.names).await;
                }
                Ok::<(), ConnectError>(())
            };
            // A backend that stays away keeps what it has; a missing file would be seen first, so it is first in line.
            let _ = timeout(CLOSING_PATIENCE, putting_right).await;
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
        let (urgent, rest): (Vec<_>, Vec<_>) = self.left_behind.take().into_iter().partition(LeftBehind::is_urgent);
        // The next command may be about the very file that is missing.
        for left_behind in urgent {
            if !left_behind.put_right(&self.names).await {
                self.left_behind.keep(left_behind);
            }
        }
        if !rest.is_empty() {
            let (names, kept) = (self.names.clone(), self.left_behind.clone());
            tokio::spawn(async move {
                for left_behind in rest {
                    if !left_behind.put_right(&names).await {
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
