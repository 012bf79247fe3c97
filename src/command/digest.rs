//! HASH (draft-bryan-ftpext-hash), XCRC, XMD5, XSHA, XSHA1, XSHA256 and XSHA512.
//!
//! What was just transferred is not read again: once a user has asked for a digest, transfers make it as the bytes pass.

use std::time::Duration;

use tokio::time::timeout;

use crate::ftp::digest::{self, Algorithm, Request};
use crate::session::logged_in::LoggedIn;
use crate::session::services::Services;
use crate::sftp::{Attributes, BackendPath, OpenFlags};
use crate::transfer::digest::{Digested, of_file};

use super::failure::{CommandError, For, Purpose, is_missing};
use super::file::{look_up, may_be_plain, place};
use super::{Argument, Step};

/// How long a digest waits for its turn; then the client had better come back.
const TURN_PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn hash(
    session: &mut LoggedIn,
    services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let name = argument.required()?;
    let Some(algorithm) = session.selected_digest() else { return Err(turned_off()) };
    let (_, path) = place(session, name, Purpose::Existing).await?;
    let attributes = look_up(session, &path, Purpose::Existing).await?;
    if !may_be_plain(&attributes) {
        return Err(CommandError::Refused(556, "Not a plain file"));
    }
    let made = make(session, services, algorithm, &path, &attributes, (0, None)).await?;
    let digest: String = made.digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut text = format!("{} {}-{} {digest} ", algorithm.name(), made.start, made.end).into_bytes();
    text.extend_from_slice(name);
    Ok(Step::reply(213, text))
}

/// OPTS HASH: tells the algorithm, or selects one.
pub(super) fn select(session: &mut LoggedIn, services: &Services, value: &[u8]) -> Result<Step, CommandError> {
    if !value.is_empty() {
        let named = Algorithm::named(value).filter(|algorithm| session.policy().hash.contains(algorithm));
        let Some(algorithm) = named else { return Err(CommandError::Refused(501, "That algorithm is not offered")) };
        session.parameters.digest = Some(algorithm);
        // A client that selects one is going to ask for it.
        services.digests.note(&session.name, algorithm);
    }
    match session.selected_digest() {
        Some(algorithm) => Ok(Step::reply(200, algorithm.name())),
        None => Err(CommandError::Refused(501, "Digests are turned off here")),
    }
}

/// An X command: each is its own algorithm.
pub(super) async fn of_one_algorithm(
    session: &mut LoggedIn,
    services: &Services,
    argument: Argument<'_>,
    algorithm: Algorithm,
) -> Result<Step, CommandError> {
    if !offers(&session.policy().hash, algorithm) {
        return Err(turned_off());
    }
    let argument = argument.required()?;
    let mut request = digest::request(argument)?;
    let (_, mut path) = place(session, request.path, Purpose::Existing).await?;
    let attributes = match look_up(session, &path, Purpose::Existing).await {
        // A name may end in numbers, so the whole argument is one first.
        Err(CommandError::Backend(_, error)) if is_missing(&error) && request.path == argument => {
            let Some(ranged) = digest::request_with_range(argument) else {
                return Err(CommandError::Backend(Purpose::Existing, error));
            };
            request = ranged;
            (_, path) = place(session, request.path, Purpose::Existing).await?;
            look_up(session, &path, Purpose::Existing).await?
        }
        other => other?,
    };
    if !may_be_plain(&attributes) {
        return Err(CommandError::WrongKind(Purpose::Existing, "Not a plain file"));
    }
    let Request { range, .. } = request;
    let made = make(session, services, algorithm, &path, &attributes, range.unwrap_or((0, None))).await?;
    let digest: String = made.digest.iter().map(|byte| format!("{byte:02X}")).collect();
    Ok(Step::reply(250, digest))
}

fn turned_off() -> CommandError {
    CommandError::Refused(502, "Digests are turned off here")
}

/// SHA-512 is what SHA-256 is, and stronger: it needs no mention of its own.
pub(super) fn offers(hash: &[Algorithm], algorithm: Algorithm) -> bool {
    hash.contains(&algorithm) || algorithm == Algorithm::Sha512 && hash.contains(&Algorithm::Sha256)
}

struct Made {
    digest: Vec<u8>,
    start: u64,
    end: u64,
}

async fn make(
    session: &mut LoggedIn,
    services: &Services,
    algorithm: Algorithm,
    path: &BackendPath,
    attributes: &Attributes,
    (start, end): (u64, Option<u64>),
) -> Result<Made, CommandError> {
    services.digests.note(&session.name, algorithm);
    let is_beyond = |offset: u64| attributes.size.is_some_and(|size| offset > size);
    if is_beyond(start) || end.is_some_and(is_beyond) {
        return Err(CommandError::Refused(501, "The range is beyond the end of the file"));
    }
    if let Some(known) = session.digested.as_ref().filter(|_| start == 0 && end.is_none())
        && is_of(known, algorithm, path, attributes)
    {
        return Ok(Made { digest: known.digest.clone(), start: 0, end: known.size });
    }
    // Each reads a whole file: a few at a time leave room for transfers.
    let turns = services.digests.turns(session.backend.name());
    let Ok(Ok(_turn)) = timeout(TURN_PATIENCE, turns.acquire()).await else {
        return Err(CommandError::Refused(450, "Too many digests are being made, try again later"));
    };
    let sftp = session.backend.bulk().await.purpose(Purpose::Existing)?;
    let flags = OpenFlags { read: true, ..OpenFlags::default() };
    let file = sftp.open(path, flags, None).await.purpose(Purpose::Existing)?;
    let (digest, read) = of_file(file, algorithm, start, end).await.purpose(Purpose::Existing)?;
    Ok(Made { digest, start, end: start + read })
}

/// Is it the file that was transferred, and has nobody changed it since?
fn is_of(known: &Digested, algorithm: Algorithm, path: &BackendPath, attributes: &Attributes) -> bool {
    known.algorithm == algorithm
        && known.path == *path
        && attributes.size == Some(known.size)
        && attributes.times.is_some_and(|(_, modified)| modified == known.modified)
}

/// What a transfer of this user makes a digest by: what its client asks for, if it does, else what audit records tell.
pub(super) fn of_transfers(session: &LoggedIn, services: &Services) -> Option<Algorithm> {
    let habit = services.digests.habit(&session.name).filter(|algorithm| offers(&session.policy().hash, *algorithm));
    habit.or_else(|| (!services.audit.is_in_log()).then_some(Algorithm::Sha256))
}
