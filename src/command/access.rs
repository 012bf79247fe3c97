//! USER, PASS, ACCT and QUIT (RFC 959 §4.1.1), HOST (RFC 7151).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::config::secret::Secret;
use crate::config::{Login, User};
use crate::ftp::argument::{self, Host};
use crate::ftp::path::VirtualPath;
use crate::identity::root::Root;
use crate::session::backend::{BackendError, BackendLink};
use crate::session::logged_in::LoggedIn;
use crate::session::pending::Pending;
use crate::session::services::{Services, mapped_credentials};
use crate::session::{Session, Stage};
use crate::ssh::{ConnectError, Credentials, Method};

use super::failure::{CommandError, LoginError};
use super::{Argument, Step};

/// Longest user name in bytes; what systems behind SFTP servers allow is far less.
const MAX_USER: usize = 255;

/// A failed PASS is answered only at a whole multiple of this time after it came, so that what was done meanwhile (no
/// user, wrong hash, refused by the backend) cannot be told from the time it took. Above the two seconds that PAM
/// commonly adds on an SSH server. It slows down guessing, too.
const FAILED_LOGIN_STEP: Duration = Duration::from_secs(3);

pub(super) async fn user(
    session: &mut Session,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    if matches!(session.stage, Stage::LoggedIn(_)) {
        return Err(CommandError::Refused(530, "You are logged in already"));
    }
    let name = argument.required()?;
    if name.len() > MAX_USER || name.iter().any(u8::is_ascii_control) {
        return Err(CommandError::Refused(501, "That cannot be a user name"));
    }
    // SECURITY: nothing is looked up here, so the answer tells nothing about the name.
    session.stage = Stage::Named(name.to_vec());
    Ok(Step::reply(331, "Password required"))
}

pub(super) async fn pass(
    session: &mut Session,
    services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let came = Instant::now();
    let name = match std::mem::replace(&mut session.stage, Stage::New) {
        Stage::Named(name) => name,
        other => {
            session.stage = other;
            return Err(CommandError::Refused(503, "USER first"));
        }
    };
    match log_in(session, services, &name, Secret::new(argument.verbatim())).await {
        Ok(state) => {
            session.log_in(state);
            Ok(Step::reply(230, "Logged in"))
        }
        Err(error @ (LoginError::BadCredentials | LoginError::RefusedByBackend(_))) => {
            session.failed_logins += 1;
            let steps = came.elapsed().as_nanos() / FAILED_LOGIN_STEP.as_nanos() + 1;
            sleep_until(came + FAILED_LOGIN_STEP * u32::try_from(steps).unwrap_or(u32::MAX)).await;
            if session.failed_logins >= services.limits.failed_logins_per_session {
                return Err(LoginError::TooMany.into());
            }
            Err(error.into())
        }
        Err(error) => Err(error.into()),
    }
}

async fn log_in(session: &Session, services: &Services, name: &[u8], password: Secret) -> Result<LoggedIn, LoginError> {
    let user = services.accounts.find(name);
    // SECURITY: a user without a hash is let in only where the backend checks this very password.
    let known = match user.as_deref() {
        Some(User { password_hash: None, login: Login::Passthrough, .. }) => true,
        user => services.accounts.verify(user, &password).await,
    };
    let (Some(user), true) = (user, known) else { return Err(LoginError::BadCredentials) };
    // The name goes into logs and to the backend, where only text is a name.
    let Ok(name) = String::from_utf8(name.to_vec()) else { return Err(LoginError::BadCredentials) };
    let credentials = credentials(services, &user, &name, password).ok_or(LoginError::BadCredentials)?;
    let target = services.target(&user).ok_or(LoginError::BadCredentials)?;
    let identity = services.identity(&user);
    let mut backend = BackendLink::open(target, credentials, identity).await.map_err(|error| match error {
        ConnectError::Rejected { .. } => LoginError::RefusedByBackend(error),
        other => LoginError::BackendUnavailable(other.into()),
    })?;
    // Where an SFTP client would begin, as far as it is inside the root.
    let home = backend.home().await;
    // Not before the backend has said yes: a stranger could use up the places of a user by name alone.
    let slot = services.slots.log_in(name.as_bytes(), user.max_sessions).map_err(|_| LoginError::TooManySessions)?;
    let root = Root::new(&user);
    let directory = match home {
        Ok(home) => root.show(&home).unwrap_or_else(VirtualPath::root),
        Err(BackendError::Sftp(crate::sftp::SftpError::Status { .. })) => VirtualPath::root(),
        Err(error) => return Err(LoginError::BackendUnavailable(error)),
    };
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
    })
}

fn credentials(services: &Services, user: &User, name: &str, password: Secret) -> Option<Credentials> {
    match user.login {
        Login::Passthrough => Some(Credentials { user: name.to_owned(), method: Method::Password(password) }),
        Login::Password { .. } | Login::PrivateKey { .. } => mapped_credentials(user, &services.private_keys),
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
    // There is one host here, whatever it is called. What is refused is what contradicts itself: RFC 7151 §3.2 wants the
    // name that TLS was asked for (RFC 6066), and an address is the one that was dialled.
    let is_this = match argument::host(argument.required()?)? {
        Host::Name(name) => {
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
