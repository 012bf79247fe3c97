//! TYPE, MODE, STRU (RFC 959 §4.1.2) and OPTS (RFC 2389 §4).

use crate::config::AsciiMode;
use crate::ftp::argument::{self, ArgumentError, TransferType};
use crate::ftp::facts::FactSelection;
use crate::session::Session;
use crate::session::logged_in::LoggedIn;
use crate::session::services::Services;

use super::failure::CommandError;
use super::{Argument, Step, digest};

pub(super) async fn transfer_type(
    session: &mut LoggedIn,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let wanted = argument::transfer_type(argument.required()?)?;
    match wanted {
        TransferType::Ascii if session.policy().ascii == AsciiMode::Refuse => {
            return Err(CommandError::Refused(504, "TYPE A is turned off here, use TYPE I"));
        }
        TransferType::Ascii | TransferType::Image => session.parameters.transfer_type = wanted,
    }
    Ok(Step::reply(200, if wanted == TransferType::Ascii { "Type is ASCII" } else { "Type is binary" }))
}

pub(super) async fn mode(
    _session: &mut LoggedIn,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    only(argument, b'S', b"BCZ", "Mode is stream")
}

pub(super) async fn structure(
    _session: &mut LoggedIn,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    only(argument, b'F', b"RP", "Structure is file")
}

/// The one letter we do; the others that the protocol knows are 504, everything else is 501.
fn only(argument: Argument<'_>, ours: u8, known: &[u8], text: &str) -> Result<Step, CommandError> {
    match argument.required()? {
        [letter] if letter.eq_ignore_ascii_case(&ours) => Ok(Step::reply(200, text)),
        [letter] if known.contains(&letter.to_ascii_uppercase()) => Err(ArgumentError::Unsupported.into()),
        _ => Err(ArgumentError::Syntax.into()),
    }
}

pub(super) async fn options(
    session: &mut Session,
    services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let argument = argument.required()?;
    let (name, value) = match argument.iter().position(|byte| *byte == b' ') {
        Some(space) => {
            let (name, value) = argument.split_at(space);
            (name, value.get(1..).unwrap_or_default())
        }
        None => (argument, &b""[..]),
    };
    match name.to_ascii_uppercase().as_slice() {
        // Where the policy names no other charset, names are bytes either way.
        b"UTF8" | b"UTF-8" => {
            session.parameters().utf8 = match value.to_ascii_uppercase().as_slice() {
                b"" | b"ON" | b"NLST" => true,
                b"OFF" => false,
                _ => return Err(ArgumentError::Syntax.into()),
            };
            Ok(Step::reply(200, "UTF8 mode noted"))
        }
        b"HASH" => match session.logged_in() {
            Some(session) => digest::select(session, services, value),
            None => Err(CommandError::Refused(530, "Please login with USER and PASS")),
        },
        b"MLST" => {
            let facts = FactSelection::parse(value);
            let text = format!("MLST OPTS {}", facts.accepted());
            session.parameters().facts = facts;
            Ok(Step::reply(200, text.trim_end()))
        }
        _ => Err(CommandError::Refused(501, "Option not understood")),
    }
}
