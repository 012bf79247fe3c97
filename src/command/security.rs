//! AUTH, PBSZ, PROT and CCC (RFC 2228, RFC 4217).

use crate::ftp::argument::{Protection, decimal_u32, protection};
use crate::ftp::reply::Reply;
use crate::session::services::Services;
use crate::session::{Session, Stage};

use super::failure::CommandError;
use super::{Argument, Step};

pub(super) async fn auth(
    session: &mut Session,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let mechanism = argument.required()?.to_ascii_uppercase();
    if session.secured.is_some() {
        return Err(CommandError::Refused(503, "The control connection is under TLS already"));
    }
    if matches!(session.stage, Stage::LoggedIn(_)) {
        return Err(CommandError::Refused(503, "Too late, you are logged in"));
    }
    match mechanism.as_slice() {
        b"TLS" | b"TLS-C" | b"SSL" => Ok(Step::UpgradeToTls(Reply::new(234, "Begin TLS"))),
        _ => Err(CommandError::Refused(504, "Only AUTH TLS is known here")),
    }
}

pub(super) async fn ccc(
    session: &mut Session,
    _services: &Services,
    _argument: Argument<'_>,
) -> Result<Step, CommandError> {
    // RFC 2228 §3: 533 where there is nothing to clear, 534 where it is refused by policy.
    if session.secured.is_none() || session.is_cleared {
        return Err(CommandError::Refused(533, "The control connection is in clear"));
    }
    if !session.logged_in().is_some_and(|state| state.policy().clear_control) {
        return Err(CommandError::Refused(534, "The control connection stays protected here"));
    }
    session.is_cleared = true;
    Ok(Step::ClearControl(Reply::new(200, "The control connection goes on in clear")))
}

/// PBSZ and PROT belong to a control connection under TLS.
fn is_under_tls(session: &Session) -> Result<(), CommandError> {
    match session.secured {
        None => Err(CommandError::Refused(503, "AUTH TLS first")),
        Some(_) if session.is_cleared => Err(CommandError::Refused(503, "Not after CCC")),
        Some(_) => Ok(()),
    }
}

pub(super) async fn pbsz(
    session: &mut Session,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    is_under_tls(session)?;
    decimal_u32(argument.required()?)?;
    session.buffer_size_set = true;
    // RFC 4217 §8: TLS has no protection buffer, so the only size is 0.
    Ok(Step::reply(200, "PBSZ=0"))
}

pub(super) async fn prot(
    session: &mut Session,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    is_under_tls(session)?;
    let level = protection(argument.required()?)?;
    if !session.buffer_size_set {
        return Err(CommandError::Refused(503, "PBSZ first"));
    }
    match level {
        Protection::Private => {
            session.front.protection.set_private(true);
            Ok(Step::reply(200, "Data connections are protected"))
        }
        Protection::Clear => {
            if session.logged_in().is_some_and(|state| state.policy().data_tls_required) {
                return Err(CommandError::Refused(534, "Data connections must be protected here"));
            }
            session.front.protection.set_private(false);
            Ok(Step::reply(200, "Data connections are in clear"))
        }
        Protection::Safe | Protection::Confidential => {
            Err(CommandError::Refused(536, "TLS knows only PROT C and PROT P"))
        }
    }
}
