//! What is counted and logged of a control session: the only caller of metrics for commands, logins and transfers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::field::Empty;
use tracing::{Span, debug, info, trace_span, warn};

use crate::command::Step;
use crate::command::failure::{CommandError, LoginError};
use crate::command::spec::{self, CommandSpec, Theme};
use crate::config::TlsMode;
use crate::ftp::reply::Reply;
use crate::ftp::request::Request;
use crate::session::activity::Present;
use crate::session::logged_in::ProofKind;
use crate::session::services::Services;
use crate::session::{Front, Session, Stage};
use crate::sftp::{SftpError, StatusCode};
use crate::telemetry::audit::{self, Subject};
use crate::telemetry::metrics::{
    self, Channel, CommandGroup, DataConnectionResult, Direction, HandshakeResult, LegacyFeature, LoginMethod,
    LoginResult, SessionGuard, SessionState, TlsVersion, TransferMeter, TransferResult,
};
use crate::tls::Secured;
use crate::transfer::data_connection::DataError;
use crate::transfer::digest::Digested;
use crate::transfer::endpoint::DataMode;
use crate::transfer::outcome::{Outcome, Progress, StopReason, TransferError, TransferKind};

use super::Ended;
use super::stream::HandshakeFailed;

/// Counts and logs one session.
#[derive(Debug)]
pub(super) struct Recorder<'a> {
    session: SessionGuard,
    present: Present,
    services: &'a Services,
    front: Arc<Front>,
    /// Of the session, for what is known later.
    span: Span,
    began: Instant,
    /// TLS of the control connection.
    tls: &'static str,
    /// The name and the backend of who logged in.
    login: Option<(String, String)>,
    /// What was counted for this session already.
    legacy: BTreeSet<LegacyFeature>,
    pasv: bool,
    epsv: bool,
}

impl<'a> Recorder<'a> {
    /// `span` is the session's.
    pub(super) fn new(front: &Arc<Front>, services: &'a Services, span: Span) -> Self {
        let listener = &front.listener;
        let state = match listener.tls {
            TlsMode::Implicit => SessionState::Handshake,
            TlsMode::Explicit => SessionState::Login,
        };
        Self {
            session: metrics::session_started(&listener.name, state),
            present: services.activity.enter(front.id, front.peer, &listener.name),
            services,
            front: Arc::clone(front),
            span,
            began: Instant::now(),
            tls: "",
            login: None,
            legacy: BTreeSet::new(),
            pasv: false,
            epsv: false,
        }
    }

    /// What a move to SFTP has to take care of: once for each session.
    pub(super) fn legacy(&mut self, feature: LegacyFeature) {
        if self.legacy.insert(feature) {
            metrics::legacy_use(feature);
        }
    }

    fn subject(&self) -> Subject<'_> {
        let (user, backend) = self.login.as_ref().map_or(("", ""), |(user, backend)| (user, backend));
        let Front { id, peer, listener, .. } = &*self.front;
        Subject { session: *id, client: *peer, listener: &listener.name, user, backend, tls: self.tls }
    }

    /// The session does something else now, perhaps.
    pub(super) fn entered(&mut self, session: &Session) {
        self.session.enter(match session.stage {
            Stage::New | Stage::Named(_) => SessionState::Login,
            Stage::LoggedIn(_) => SessionState::Idle,
        });
    }

    pub(super) fn control_handshake(&mut self, secured: Result<&Secured, &HandshakeFailed>, elapsed: Duration) {
        let (version, result) = match secured {
            Ok(secured) => handshake(secured),
            Err(_) => (TlsVersion::None, HandshakeResult::Failed),
        };
        metrics::tls_handshake(Channel::Control, version, result, elapsed);
        match secured {
            Ok(secured) => {
                self.tls = secured.version;
                self.present.secured(secured.version);
                if version == TlsVersion::Tls12 {
                    self.legacy(LegacyFeature::Tls12);
                }
                if self.front.listener.tls == TlsMode::Implicit {
                    self.legacy(LegacyFeature::ImplicitTls);
                }
                debug!(tls.protocol.version = secured.version, tls.cipher = secured.suite, "TLS established")
            }
            Err(HandshakeFailed { error, refused: None }) => {
                self.present.failed(&format!("the TLS handshake failed: {error}"));
                info!(exception.message = %error, "TLS handshake failed");
            }
            Err(HandshakeFailed { refused: Some(refused), .. }) => {
                self.present.failed(&format!("the client's TLS cannot be served: {refused}"));
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

    /// A command came that this session may use or not.
    pub(super) fn asked(&mut self, row: &CommandSpec, argument: &[u8]) {
        self.present.asked();
        if std::str::from_utf8(argument).is_err() && row.verb != "PASS" {
            self.legacy(LegacyFeature::NonUtf8);
        }
    }

    pub(super) fn command(&mut self, row: Option<&CommandSpec>, code: u16, elapsed: Duration) {
        match row {
            Some(row) => {
                metrics::command(row.verb, group(row.theme), code, elapsed);
                match (row.verb, code) {
                    ("PASV", 227) => self.pasv = true,
                    ("EPSV", 229) => self.epsv = true,
                    ("PORT" | "EPRT", 200) => self.legacy(LegacyFeature::ActiveMode),
                    _ => {}
                }
            }
            None => metrics::command(metrics::UNKNOWN_VERB, CommandGroup::Other, code, elapsed),
        }
        let span = Span::current();
        span.record("reply_code", i64::from(code));
        // RFC 959 §4.2.1: 4yz and 5yz say that it was not done.
        if code >= 400 {
            span.record("otel.status_code", "ERROR");
        }
        debug!(ftp.reply_code = code, "reply");
    }

    /// A command that changes something got its reply.
    pub(super) fn changed(&self, row: &CommandSpec, argument: &[u8], directory: &[u8], code: u16) {
        // SECURITY: S-17. Clients send passwords by SITE to servers that take them; none is known here.
        let word = argument.split(|byte| !byte.is_ascii_alphabetic()).next().unwrap_or_default();
        let is_known = row.verb != "SITE" || KNOWN_SITE.iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes()));
        let argument = if is_known { argument } else { word };
        self.services.audit.change(self.subject(), row.verb, argument, directory, code);
        if self.services.audit.is_in_log() {
            info!(
                event.name = "ftps2sftp.change",
                ftp.command = row.verb,
                ftp.argument = %argument.escape_ascii(),
                ftp.working_directory = %directory.escape_ascii(),
                ftp.reply_code = code,
                "changed"
            );
        }
    }

    /// What the gate refuses because of a setting that an operator may want to change.
    pub(super) fn refusal(&mut self, row: &CommandSpec, reply: &Reply) {
        if row.verb == "USER" && self.tls.is_empty() && reply.code() == 530 {
            self.legacy(LegacyFeature::PlainRefused);
        }
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
                self.present.failed(&format!("{} failed on the backend: {error}", row.verb));
                warn!(ftp.command = row.verb, exception.message = %error, "command failed on the backend");
            }
            CommandError::Login(_) => {}
            CommandError::Ports(_) => {
                let mode = if row.verb == "EPSV" { DataMode::Epsv } else { DataMode::Pasv };
                metrics::no_data_connection(mode, DataConnectionResult::NoPort);
                warn!(ftp.command = row.verb, exception.message = %error, "command refused");
            }
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
    pub(super) fn login(&mut self, session: &Session, result: &Result<Step, CommandError>) {
        match (result, &session.stage) {
            (Ok(Step::Reply(reply)), Stage::LoggedIn(state)) if [230, 232].contains(&reply.code()) => {
                let method = match state.proof {
                    ProofKind::Password => LoginMethod::Password,
                    ProofKind::Certificate => LoginMethod::Certificate,
                    ProofKind::Both => LoginMethod::Both,
                };
                metrics::login(method, LoginResult::Success);
                self.login = Some((state.name.clone(), state.backend.name().to_owned()));
                self.present.logged_in(&state.name, state.backend.name());
                if let Some(users) = self.services.told_users.as_ref().filter(|_| state.user.name != "*") {
                    users.logged_in(&state.user.name);
                }
                self.services.audit.login(self.subject(), method.as_str(), None);
                self.span.record("user.name", state.name.as_str());
                self.span.record("backend.name", state.backend.name());
                self.span.record("tls.protocol.version", self.tls);
                info!(event.name = "ftps2sftp.login", login.method = method.as_str(), "logged in");
            }
            (Err(CommandError::Login(error)), _) => {
                let (method, result) = login_failure(error);
                metrics::login(method, result);
                self.present.failed(&format!("login failed: {error}"));
                self.services.audit.login(self.subject(), method.as_str(), Some(&error.to_string()));
                warn!(event.name = "ftps2sftp.login", exception.message = %error, "login failed");
            }
            _ => {}
        }
    }

    pub(super) fn transfer_started(&mut self, transfer: &TransferBegun<'_>, progress: &Progress) -> TransferMeter {
        self.session.enter(SessionState::Transfer);
        self.present.transfer_started(transfer.kind, transfer.subject, progress, transfer.size);
        if transfer.is_ascii && transfer.kind != TransferKind::Listing {
            self.legacy(LegacyFeature::Ascii);
        }
        metrics::transfer_started(direction(transfer.kind))
    }

    /// A transfer ended, and this reply says so.
    pub(super) fn transfer_ended(
        &mut self,
        meter: TransferMeter,
        transfer: &TransferBegun<'_>,
        outcome: &Outcome,
        progress: &Progress,
        digested: Option<&Digested>,
        reply: &Reply,
    ) {
        self.session.enter(SessionState::Idle);
        self.present.transfer_ended();
        let result = outcome.result.as_ref().map_or_else(transfer_result, |()| TransferResult::Success);
        let elapsed = meter.elapsed();
        let backend = self.login.as_ref().map_or("", |(_, backend)| backend);
        meter.ended(backend, result, outcome.client_bytes, outcome.backend_bytes);
        metrics::listed(outcome.hostile_names, outcome.unmapped_names);
        let span = Span::current();
        // OTLP has no other whole numbers.
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        span.record("client_bytes", signed(outcome.client_bytes));
        span.record("backend_bytes", signed(outcome.backend_bytes));
        span.record("transfer_result", result.as_str());
        let direction = direction(transfer.kind);
        let path = transfer.subject.escape_ascii();
        let (client_close, backend_status) = (client_close(transfer.kind, outcome, progress), backend_status(outcome));
        let first_byte = progress.first_byte().map(|at| elapsed.saturating_sub(at.elapsed()));
        let commit = progress.end().map(|(_, at)| at.elapsed());
        if transfer.kind != TransferKind::Listing || outcome.result.is_err() {
            let record = audit::Transfer {
                direction,
                path: transfer.subject,
                is_ascii: transfer.is_ascii,
                client_bytes: outcome.client_bytes,
                backend_bytes: outcome.backend_bytes,
                elapsed,
                first_byte,
                commit,
                client_close,
                backend_status: backend_status.clone(),
                result,
                reply: reply.code(),
                failure: outcome.result.as_ref().err().map(ToString::to_string),
                digest: digested.map(|digested| (digested.algorithm.name(), digested.digest_text())),
            };
            self.services.audit.transfer(self.subject(), &record);
        }
        let kind = if transfer.is_ascii { "A" } else { "I" };
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        let (direction, digest) = (direction.as_str(), digested.map(Digested::digest_text).unwrap_or_default());
        match &outcome.result {
            Ok(()) if transfer.kind == TransferKind::Listing => debug!(file.path = %path, "listing complete"),
            Ok(()) => info!(
                event.name = "ftps2sftp.transfer",
                ftp.direction = direction,
                ftp.r#type = kind,
                ftp.reply_code = reply.code(),
                file.path = %path,
                transfer.result = result.as_str(),
                transfer.bytes = outcome.client_bytes,
                transfer.backend_bytes = outcome.backend_bytes,
                transfer.digest = digest,
                client.close = client_close,
                sftp.status = backend_status,
                duration_s = elapsed.as_secs_f64(),
                first_byte_s = seconds(first_byte),
                commit_s = seconds(commit),
                "transfer complete"
            ),
            Err(error) => {
                self.present.failed(&format!("{direction} of {path} failed: {error}"));
                warn!(
                    event.name = "ftps2sftp.transfer",
                    ftp.direction = direction,
                    ftp.r#type = kind,
                    ftp.reply_code = reply.code(),
                    file.path = %path,
                    transfer.result = result.as_str(),
                    transfer.bytes = outcome.client_bytes,
                    transfer.backend_bytes = outcome.backend_bytes,
                    client.close = client_close,
                    sftp.status = backend_status,
                    duration_s = elapsed.as_secs_f64(),
                    first_byte_s = seconds(first_byte),
                    commit_s = seconds(commit),
                    error.r#type = result.as_str(),
                    exception.message = %error,
                    "transfer failed"
                );
            }
        }
    }

    pub(super) fn session_ended(&mut self, session: &Session, ended: &Ended) {
        if self.pasv && !self.epsv {
            self.legacy(LegacyFeature::PasvOnly);
        }
        let duration = self.began.elapsed().as_secs_f64();
        // Whoever looks whether a port is open is no news.
        if matches!(session.stage, Stage::LoggedIn(_)) {
            info!(event.name = "ftps2sftp.session.end", reason = %ended, duration_s = duration, "session ended");
        } else {
            debug!(event.name = "ftps2sftp.session.end", reason = %ended, duration_s = duration, "session ended before a login");
        }
    }
}

/// What a trace tells of a command line; the log's records are its events.
pub(super) fn command_span(line: &[u8]) -> Span {
    // SECURITY: the verb, and of nothing that is none: a password may stand anywhere.
    let verb = || {
        let request = Request::parse(line).ok()?;
        spec::find(request.verb.as_str()).map(|row| row.verb)
    };
    trace_span!(
        "command",
        otel.name = verb().unwrap_or(metrics::UNKNOWN_VERB),
        otel.kind = "server",
        otel.status_code = Empty,
        reply_code = Empty,
        client_bytes = Empty,
        backend_bytes = Empty,
        transfer_result = Empty,
    )
}

/// SITE commands whose arguments are recorded.
const KNOWN_SITE: [&str; 5] = ["CHMOD", "UTIME", "UMASK", "IDLE", "HELP"];

/// A transfer that begins.
#[derive(Debug)]
pub(super) struct TransferBegun<'a> {
    pub(super) kind: TransferKind,
    /// The pathname as the client sees it.
    pub(super) subject: &'a [u8],
    /// TYPE A.
    pub(super) is_ascii: bool,
    /// Bytes there will be, where that is known.
    pub(super) size: Option<u64>,
}

fn direction(kind: TransferKind) -> Direction {
    match kind {
        TransferKind::Upload => Direction::Upload,
        TransferKind::Download => Direction::Download,
        TransferKind::Listing => Direction::List,
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
        LoginError::GatewayRefused(_) => (LoginMethod::Password, LoginResult::BackendRefusedUs),
        LoginError::Banned(_) => (LoginMethod::Password, LoginResult::Throttled),
        LoginError::TooMany(last) => login_failure(last),
        LoginError::BackendUnavailable { .. } | LoginError::Undecided(_) => {
            (LoginMethod::Password, LoginResult::BackendUnavailable)
        }
        LoginError::NotFromHere | LoginError::TooManySessions => (LoginMethod::Password, LoginResult::Denied),
    }
}

/// How the client ended the data connection.
fn client_close(kind: TransferKind, outcome: &Outcome, progress: &Progress) -> &'static str {
    match (&outcome.result, progress.end()) {
        (Err(TransferError::Data(DataError::NoCloseNotify)), _) | (_, Some((false, _))) => "fin",
        (Err(TransferError::Data(DataError::Broken(_))), _) => "reset",
        (Err(TransferError::Data(DataError::Idle)), _) => "timeout",
        (_, Some((true, _))) => "close_notify",
        (Ok(()), None) if kind != TransferKind::Upload => "acknowledged",
        _ => "none",
    }
}

/// The last word of the backend on a transfer.
fn backend_status(outcome: &Outcome) -> String {
    match &outcome.result {
        Ok(()) => StatusCode::OK.to_string(),
        Err(TransferError::Backend(error) | TransferError::StorageFull(_, error)) => match error {
            SftpError::Status { code, .. } => code.to_string(),
            SftpError::Lost(_) => "lost".to_owned(),
            SftpError::TimedOut => "timeout".to_owned(),
            SftpError::Protocol(_) | SftpError::Unsupported(_) => "protocol".to_owned(),
        },
        Err(TransferError::SizeDiffers { .. } | TransferError::EndedEarly { .. }) => StatusCode::OK.to_string(),
        Err(TransferError::Data(_) | TransferError::Stopped(_)) => "none".to_owned(),
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
        TransferError::Stopped(StopReason::CertificateRefused) => TransferResult::Denied,
        TransferError::Stopped(StopReason::Drained) => TransferResult::Drained,
    }
}
