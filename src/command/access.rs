//! USER, PASS, ACCT and QUIT (RFC 959 §4.1.1), HOST (RFC 7151).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::config::secret::Secret;
use crate::config::{Login, User};
use crate::ftp::argument::{self, Host};
use crate::ftp::path::VirtualPath;
use crate::identity::FailedLogins;
use crate::identity::account::Claim;
use crate::identity::root::Root;
use crate::session::backend::{BackendError, BackendLink};
use crate::session::logged_in::{LoggedIn, ProofKind};
use crate::session::pending::Pending;
use crate::session::services::{Realm, Services, mapped_credentials};
use crate::session::{Session, Stage};
use crate::ssh::{ConnectError, Credentials, Standing};
use crate::tls::client_certificate::ClientCertificate;

use super::failure::{CommandError, LoginError};
use super::{Argument, Step};

/// Longest user name in bytes; what systems behind SFTP servers allow is far less.
const MAX_USER: usize = 255;

/// A failed PASS is answered only at a whole multiple of this time after it came, so that what was done meanwhile (no
/// user, wrong hash, refused by the backend) cannot be told from the time it took. Above the two seconds that PAM
/// commonly adds on an SSH server. It slows down guessing, too, and the more so the more failures came before
/// ([`FailedLogins`]).
const FAILED_LOGIN_STEP: Duration = Duration::from_secs(3);

pub(super) async fn user(
    session: &mut Session,
    services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    if matches!(session.stage, Stage::LoggedIn(_)) {
        return Err(CommandError::Refused(530, "You are logged in already"));
    }
    let name = argument.required()?;
    if name.len() > MAX_USER || name.iter().any(u8::is_ascii_control) {
        return Err(CommandError::Refused(501, "That cannot be a user name"));
    }
    // SECURITY: for a client without a certificate nothing is looked up here, so the answer tells nothing about the name.
    if let Some(certificate) = certificate(session) {
        let realm = services.realm.get();
        let user = realm.accounts.find(name);
        match realm.accounts.claim(user.as_deref(), Some(&certificate)) {
            Claim::Proven if user.is_some_and(|user| user.password_hash.is_none()) => {
                session.stage = Stage::New;
                let state = try_to_log_in(session, services, name, Proof::Certificate).await?;
                session.log_in(state);
                // RFC 4217 §4.2: "authorized by security data exchange", no PASS is needed.
                return Ok(Step::reply(232, "Logged in by your certificate"));
            }
            Claim::Refuted => {
                session.stage = Stage::New;
                try_to_log_in(session, services, name, Proof::Certificate).await?;
            }
            Claim::Proven | Claim::NotNeeded | Claim::Missing => {}
        }
    }
    session.stage = Stage::Named(name.to_vec());
    Ok(Step::reply(331, "Password required"))
}

pub(super) async fn pass(
    session: &mut Session,
    services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let name = match std::mem::replace(&mut session.stage, Stage::New) {
        Stage::Named(name) => name,
        other => {
            let needs_none = matches!(&other, Stage::LoggedIn(state) if state.proof == ProofKind::Certificate);
            session.stage = other;
            if needs_none {
                return Ok(Step::reply(202, "No password needed"));
            }
            return Err(CommandError::Refused(503, "USER first"));
        }
    };
    let password = Secret::new(argument.verbatim());
    let state = try_to_log_in(session, services, &name, Proof::Password(password)).await?;
    session.log_in(state);
    Ok(Step::reply(230, "Logged in"))
}

/// What a client comes with, besides its name.
enum Proof {
    /// A certificate that it showed.
    Certificate,
    /// A password, and perhaps a certificate.
    Password(Secret),
}

fn certificate(session: &Session) -> Option<Arc<ClientCertificate>> {
    session.secured.as_ref()?.client_certificate.clone()
}

/// A login with all that failed ones have for a consequence.
async fn try_to_log_in(
    session: &mut Session,
    services: &Services,
    name: &[u8],
    proof: Proof,
) -> Result<LoggedIn, CommandError> {
    let came = Instant::now();
    let (error, steps) = match services.failed_logins.attempt(name, session.front.peer.ip()).await {
        // SECURITY: neither a hash nor the backend is asked, and the client cannot tell it from a wrong password.
        Err(banned) => (LoginError::Banned(banned), FailedLogins::steps_when_banned()),
        Ok(attempt) => match log_in(session, services, name, proof, attempt.is_known()).await {
            Ok(state) => {
                attempt.succeeded();
                return Ok(state);
            }
            Err(error) if error.is_the_clients_fault() => {
                let shown = services.realm.get().accounts.named(name);
                let steps = attempt.failed(shown.as_ref().map(|user| user.name.as_str()));
                (error, steps)
            }
            Err(error) if error.is_put_off() => (error, 1),
            Err(error) => return Err(error.into()),
        },
    };
    session.failed_logins += 1;
    let taken = came.elapsed().as_nanos() / FAILED_LOGIN_STEP.as_nanos() + 1;
    let steps = u32::try_from(taken).unwrap_or(u32::MAX).max(steps);
    sleep_until(came + FAILED_LOGIN_STEP.saturating_mul(steps)).await;
    if session.failed_logins >= services.limits.failed_logins.per_session {
        return Err(LoginError::TooMany(Box::new(error)).into());
    }
    Err(error.into())
}

async fn log_in(
    session: &Session,
    services: &Services,
    name: &[u8],
    proof: Proof,
    was_here_before: bool,
) -> Result<LoggedIn, LoginError> {
    let realm = services.realm.get();
    let user = realm.accounts.find(name);
    let claim = realm.accounts.claim(user.as_deref(), certificate(session).as_deref());
    let why_not = match (&user, claim) {
        (_, Claim::Refuted) => Some(LoginError::WrongCertificate),
        (_, Claim::Missing) => Some(LoginError::NoCertificate),
        (Some(user), _) if !user.may_come_from(session.front.peer.ip()) => Some(LoginError::NotFromHere),
        _ => None,
    };
    // SECURITY: who may not come in whatever the password is takes as long as who does not exist.
    let user = user.filter(|_| why_not.is_none());
    let (password, known) = match proof {
        Proof::Certificate => (None, claim == Claim::Proven && user.is_some()),
        Proof::Password(password) => {
            let known = match user.as_deref() {
                // SECURITY: a user without a hash is let in only where the backend checks this very password.
                Some(User { password_hash: None, login: Login::Passthrough(_), .. }) => true,
                user => realm.accounts.verify(user, &password).await,
            };
            (Some(password), known)
        }
    };
    let (Some(user), true) = (user, known) else { return Err(why_not.unwrap_or(LoginError::BadCredentials)) };
    let proof = match (&password, claim) {
        (None, _) => ProofKind::Certificate,
        (Some(_), Claim::Proven) => ProofKind::Both,
        (Some(_), _) => ProofKind::Password,
    };
    // The name goes into logs and to the backend, where only text is a name.
    let Ok(name) = String::from_utf8(name.to_vec()) else { return Err(LoginError::BadCredentials) };
    let credentials = credentials(&realm, &user, &name, password).ok_or(LoginError::BadCredentials)?;
    let target = realm.target(&user).ok_or(LoginError::BadCredentials)?;
    let identity = realm.identity(&user);
    let is_proven = user.password_hash.is_some() || proof != ProofKind::Password;
    let standing = if is_proven || was_here_before { Standing::Known } else { Standing::Unproven };
    let unavailable = |source| LoginError::BackendUnavailable { source, is_proven };
    let is_ours = matches!(user.login, Login::Mapped(_));
    let mut backend = BackendLink::open(target, credentials, identity, standing, Arc::clone(&services.bequests))
        .await
        .map_err(|error| match error {
            ConnectError::Rejected { .. } if is_ours => LoginError::GatewayRefused(error),
            ConnectError::Rejected { .. } => LoginError::RefusedByBackend(error),
            ConnectError::Unanswered(_) if !is_ours => LoginError::Undecided(error),
            other => unavailable(other.into()),
        })?;
    // Where an SFTP client would begin, as far as it is inside the root.
    let home = backend.home().await;
    // Not before the backend has said yes: a stranger could use up the places of a user by name alone.
    let slot = services.slots.log_in(name.as_bytes(), user.max_sessions).map_err(|_| LoginError::TooManySessions)?;
    let root = Root::new(&user);
    let directory = match home {
        Ok(home) => root.show(&home).unwrap_or_else(VirtualPath::root),
        Err(BackendError::Sftp(crate::sftp::SftpError::Status { .. })) => VirtualPath::root(),
        Err(error) => return Err(unavailable(error)),
    };
    let rates = user.rate.map(|rate| services.rates.of(&name, rate));
    Ok(LoggedIn {
        front: Arc::clone(&session.front),
        name,
        user,
        backend,
        root: Arc::new(root),
        directory,
        parameters: Default::default(),
        pending: Pending::default(),
        uploaded_to: Vec::new(),
        digested: None,
        endpoint: None,
        declined: None,
        slot,
        proof,
        rates,
    })
}

fn credentials(realm: &Realm, user: &User, name: &str, password: Option<Secret>) -> Option<Credentials> {
    match user.login {
        Login::Passthrough(_) => Some(Credentials::password(name, password?)),
        Login::Mapped(_) => mapped_credentials(user, &realm.login_keys),
    }
}

pub(super) async fn host(
    session: &mut Session,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    if !matches!(session.stage, Stage::New) {
        return Err(CommandError::Refused(503, "HOST comes before USER"));
    }
    // There is one host here, whatever it is called; it has several certificates, perhaps. What is refused is what
    // contradicts itself: RFC 7151 §3.2 wants the name that TLS was asked for (RFC 6066), and an address is the one that
    // was dialled.
    let is_this = match argument::host(argument.required()?)? {
        Host::Name(name) => {
            session.front.tls.called(&name);
            let asked = session.secured.as_ref().and_then(|secured| secured.server_name.as_deref());
            asked.is_none_or(|asked| asked.trim_end_matches('.').eq_ignore_ascii_case(&name))
        }
        Host::Address(address) => address == session.front.dialled.ip(),
    };
    if is_this { Ok(Step::reply(220, "Host accepted")) } else { Err(CommandError::Refused(504, "Unknown host")) }
}

pub(super) async fn acct(
    session: &mut Session,
    _services: &Services,
    _argument: Argument<'_>,
) -> Result<Step, CommandError> {
    match session.stage {
        Stage::New => Err(CommandError::Refused(503, "USER first")),
        Stage::Named(_) | Stage::LoggedIn(_) => Ok(Step::reply(202, "No account needed")),
    }
}

pub(super) async fn quit(
    _session: &mut Session,
    _services: &Services,
    _argument: Argument<'_>,
) -> Result<Step, CommandError> {
    Ok(Step::Close(crate::ftp::reply::Reply::new(221, "Goodbye")))
}
