//! What is counted and logged of a control session: the only caller of metrics for commands, logins and transfers.

use std::time::Duration;

use tracing::{debug, info, warn};

use crate::command::Step;
use crate::command::failure::{CommandError, LoginError};
use crate::command::spec::{CommandSpec, Theme};
use crate::config::TlsMode;
use crate::ftp::reply::Reply;
use crate::session::logged_in::ProofKind;
use crate::session::{Session, Stage};
use crate::telemetry::metrics::{
    self, Channel, CommandGroup, Direction, HandshakeResult, LoginMethod, LoginResult, SessionGuard, SessionState,
    TlsVersion, TransferMeter, TransferResult,
};
use crate::tls::Secured;
use crate::transfer::data_connection::DataError;
use crate::transfer::outcome::{Outcome, StopReason, TransferError, TransferKind};

use super::Ended;
use super::stream::HandshakeFailed;

/// Counts and logs one session.
#[derive(Debug)]
pub(super) struct Recorder {
    session: SessionGuard,
}

impl Recorder {
    pub(super) fn new(listener: &str, mode: TlsMode) -> Self {
        let state = match mode {
            TlsMode::Implicit => SessionState::Handshake,
            TlsMode::Explicit => SessionState::Login,
        };
        Self { session: metrics::session_started(listener, state) }
    }

    /// The session does something else now, perhaps.
    pub(super) fn entered(&mut self, session: &Session) {
        self.session.enter(match session.stage {
            Stage::New | Stage::Named(_) => SessionState::Login,
            Stage::LoggedIn(_) => SessionState::Idle,
        });
    }

    pub(super) fn control_handshake(&self, secured: Result<&Secured, &HandshakeFailed>, elapsed: Duration) {
        let (version, result) = match secured {
            Ok(secured) => handshake(secured),
            Err(_) => (TlsVersion::None, HandshakeResult::Failed),
        };
        metrics::tls_handshake(Channel::Control, version, result, elapsed);
        match secured {
            Ok(secured) => {
                debug!(tls.protocol.version = secured.version, tls.cipher = secured.suite, "TLS established")
            }
            Err(HandshakeFailed { error, refused: None }) => {
                info!(exception.message = %error, "TLS handshake failed");
            }
            Err(HandshakeFailed { refused: Some(refused), .. }) => {
                metrics::tls_refused(refused.reason, refused.version, refused.best);
                info!(
                    reason = %refused,
                    tls.client.version = refused.version.as_str(),
                    tls.client.suites = %refused.suites,
                    tls.client.server_name = refused.server_name.as_deref().unwrap_or_default(),
                    "a client cannot be served: its TLS"
                );
            }
        }
    }

    pub(super) fn command(&self, row: Option<&CommandSpec>, code: u16, elapsed: Duration) {
        match row {
            Some(row) => metrics::command(row.verb, group(row.theme), code, elapsed),
            None => metrics::command(metrics::UNKNOWN_VERB, CommandGroup::Other, code, elapsed),
        }
        debug!(ftp.reply_code = code, "reply");
    }

    /// What the gate refuses because of a setting that an operator may want to change.
    pub(super) fn refusal(&self, row: &CommandSpec, reply: &Reply) {
        if reply.code() == 521 {
            info!(
                ftp.command = row.verb,
                "refused: the data connection would be in clear (policy.data_tls: optional lets it pass)"
            );
        }
    }

    /// A failure whose cause an operator may want to know.
    pub(super) fn failure(&self, row: &CommandSpec, error: &CommandError) {
        match error {
            CommandError::Backend(..) | CommandError::StorageFull(..) | CommandError::NewNameRefused(_) => {
                warn!(ftp.command = row.verb, exception.message = %error, "command failed on the backend");
            }
            CommandError::Login(_) => {}
            CommandError::Ports(_) => warn!(ftp.command = row.verb, exception.message = %error, "command refused"),
            CommandError::Argument(_)
            | CommandError::Path(..)
            | CommandError::Outside(_)
            | CommandError::Reserved(_)
            | CommandError::NotPermitted(..)
            | CommandError::WrongKind(..)
            | CommandError::NoMatch
            | CommandError::Restart(_)
            | CommandError::Refused(..) => {
                debug!(ftp.command = row.verb, exception.message = %error, "command refused")
            }
        }
    }

    /// A login that ended one way or the other.
    pub(super) fn login(&self, session: &Session, result: &Result<Step, CommandError>) {
        match (result, &session.stage) {
            (Ok(Step::Reply(reply)), Stage::LoggedIn(state)) if [230, 232].contains(&reply.code()) => {
                let method = match state.proof {
                    ProofKind::Password => LoginMethod::Password,
                    ProofKind::Certificate => LoginMethod::Certificate,
                    ProofKind::Both => LoginMethod::Both,
                };
                metrics::login(method, LoginResult::Success);
                tracing::Span::current().record("user", state.name.as_str());
                info!(user.name = %state.name, backend.name = %state.backend.name(), "logged in");
            }
            (Err(CommandError::Login(error)), _) => {
                let (method, result) = login_failure(error);
                metrics::login(method, result);
                warn!(exception.message = %error, "login failed");
            }
            _ => {}
        }
    }

    pub(super) fn transfer_started(&mut self, kind: TransferKind) -> TransferMeter {
        self.session.enter(SessionState::Transfer);
        metrics::transfer_started(match kind {
            TransferKind::Upload => Direction::Upload,
            TransferKind::Download => Direction::Download,
            TransferKind::Listing => Direction::List,
        })
    }

    pub(super) fn transfer_ended(
        &mut self,
        meter: TransferMeter,
        backend: &str,
        kind: TransferKind,
        subject: &[u8],
        outcome: &Outcome,
    ) {
        self.session.enter(SessionState::Idle);
        let result = outcome.result.as_ref().map_or_else(transfer_result, |()| TransferResult::Success);
        meter.ended(backend, result, outcome.client_bytes, outcome.backend_bytes);
        metrics::listed(outcome.hostile_names, outcome.unmapped_names);
        let direction = match kind {
            TransferKind::Upload => "upload",
            TransferKind::Download => "download",
            TransferKind::Listing => "list",
        };
        let path = subject.escape_ascii();
        match &outcome.result {
            Ok(()) if kind == TransferKind::Listing => debug!(file.path = %path, "listing complete"),
            Ok(()) => info!(
                ftp.direction = direction,
                file.path = %path,
                transfer.bytes = outcome.client_bytes,
                "transfer complete"
            ),
            Err(error) => warn!(
                ftp.direction = direction,
                file.path = %path,
                transfer.bytes = outcome.client_bytes,
                exception.message = %error,
                "transfer failed"
            ),
        }
    }

    pub(super) fn session_ended(&self, session: &Session, ended: &Ended) {
        let logged_in = matches!(session.stage, Stage::LoggedIn(_));
        debug!(logged_in, reason = %ended, "session ended");
    }
}

/// The labels of a finished handshake.
fn handshake(secured: &Secured) -> (TlsVersion, HandshakeResult) {
    let version = if secured.version == "TLSv1.3" { TlsVersion::Tls13 } else { TlsVersion::Tls12 };
    (version, if secured.resumed { HandshakeResult::Resumed } else { HandshakeResult::Full })
}

/// The labels of a failed login.
fn login_failure(error: &LoginError) -> (LoginMethod, LoginResult) {
    match error {
        LoginError::BadCredentials => (LoginMethod::Password, LoginResult::BadCredentials),
        LoginError::WrongCertificate | LoginError::NoCertificate => {
            (LoginMethod::Certificate, LoginResult::BadCredentials)
        }
        LoginError::RefusedByBackend(_) => (LoginMethod::Password, LoginResult::BackendDenied),
        LoginError::Banned(_) => (LoginMethod::Password, LoginResult::Throttled),
        LoginError::TooMany(last) => login_failure(last),
        LoginError::BackendUnavailable(_) => (LoginMethod::Password, LoginResult::BackendUnavailable),
        LoginError::NotFromHere | LoginError::TooManySessions => (LoginMethod::Password, LoginResult::Denied),
    }
}

fn group(theme: Theme) -> CommandGroup {
    match theme {
        Theme::Access => CommandGroup::Auth,
        Theme::Navigation => CommandGroup::Navigate,
        Theme::Listing => CommandGroup::List,
        Theme::Information => CommandGroup::Stat,
        Theme::Change => CommandGroup::Modify,
        Theme::Setup => CommandGroup::Setup,
        Theme::Other => CommandGroup::Other,
    }
}

fn transfer_result(error: &TransferError) -> TransferResult {
    match error {
        TransferError::Data(error) => match error {
            DataError::NotOpened | DataError::HandshakeTimedOut | DataError::Idle => TransferResult::Timeout,
            DataError::PortClosed
            | DataError::NotReached(_)
            | DataError::Handshake(_)
            | DataError::NotResumed(_)
            | DataError::OtherCertificate
            | DataError::WrongProtection
            | DataError::Broken(_)
            | DataError::NoCloseNotify => TransferResult::ClientError,
        },
        TransferError::Backend(_) | TransferError::SizeDiffers { .. } | TransferError::EndedEarly { .. } => {
            TransferResult::BackendError
        }
        TransferError::StorageFull(..) => TransferResult::Quota,
        TransferError::Stopped(StopReason::Aborted | StopReason::ControlLost | StopReason::ControlTimedOut) => {
            TransferResult::ClientAbort
        }
        TransferError::Stopped(StopReason::Drained) => TransferResult::Drained,
    }
}
