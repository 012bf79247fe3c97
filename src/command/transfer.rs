//! REST (RFC 3659 §5), RANG (draft-bryan-ftp-range), RETR, ALLO and ABOR (RFC 959 §4.1.3).
//!
//! Everything the backend can refuse is asked before 150; from there on `transfer` carries it out.

use std::sync::Arc;

use crate::config::AsciiMode;
use crate::ftp::argument::{self, TransferType};
use crate::ftp::reply::Reply;
use crate::identity::root::Follow;
use crate::session::logged_in::LoggedIn;
use crate::session::services::Services;
use crate::sftp::{self, Attributes, BackendPath, File, OpenFlags, SftpError};
use crate::transfer::download::{Download, Expected};
use crate::transfer::endpoint::{DataEndpoint, Direction};
use crate::transfer::outcome::{Transfer, TransferKind};

use super::failure::{CommandError, For, Purpose};
use super::file::{may_be_plain, place, refuse_outside};
use super::{Argument, Step, digest, flight};

pub(super) async fn rest(
    session: &mut LoggedIn,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let offset = argument::restart_offset(argument.required()?)?;
    session.pending.set_restart(offset, None);
    Ok(Step::reply(350, format!("Restarting at {offset}")))
}

pub(super) async fn rang(
    session: &mut LoggedIn,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    match argument::range(argument.required()?)? {
        Some((first, last)) => {
            session.pending.set_restart(first, Some((last - first).saturating_add(1)));
            Ok(Step::reply(350, format!("Restarting at {first}, ending at {last}")))
        }
        None => {
            session.pending.set_restart(0, None);
            Ok(Step::reply(350, "The range is void"))
        }
    }
}

pub(super) async fn allo(
    _session: &mut LoggedIn,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    argument::allo(argument.required()?)?;
    Ok(Step::reply(202, "No storage allocation necessary"))
}

/// ABOR while no transfer runs; one that runs is ended by the control loop.
pub(super) async fn abor(
    session: &mut LoggedIn,
    _services: &Services,
    _argument: Argument<'_>,
) -> Result<Step, CommandError> {
    if let Some(endpoint) = session.endpoint.take() {
        // And the port is closed now.
        drop(endpoint.decline());
    }
    Ok(Step::reply(226, "Abort successful"))
}

pub(super) async fn retr(
    session: &mut LoggedIn,
    services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let (offset, length) = session.pending.take_range();
    let name = argument.required()?;
    let (path, located) = place(session, name, Purpose::Existing).await?;
    let (attributes, opened) = open_for_reading(session, &located).await?;
    let ascii = converts(session);
    if ascii && length.is_some() {
        return Err(CommandError::Restart("RANG counts stored octets, use TYPE I"));
    }
    // Under TYPE A the marker counts octets as they are sent, of which there may be more than are stored.
    if !ascii && attributes.size.is_some_and(|size| offset > size) {
        return Err(CommandError::Restart("REST is beyond the end of the file"));
    }
    let file = opened.purpose(Purpose::Existing)?;
    let opening = opening(session, name, attributes.size.filter(|_| !ascii));
    let is_whole = offset == 0 && length.is_none();
    let expected = digest::of_transfers(session, services).filter(|_| is_whole).zip(attributes.times);
    let digest = expected.map(|(algorithm, (_, modified))| Expected { algorithm, path: located, modified });
    let endpoint = take_endpoint(session, Direction::ToClient)?;
    let download = Download {
        endpoint,
        file,
        size: attributes.size,
        // RFC 959 §3.5: under TYPE A the marker counts octets as transmitted, so the file is converted from its start.
        offset: if ascii { 0 } else { offset },
        ascii,
        skip: if ascii { offset } else { 0 },
        length,
        digest,
        window: services.limits.transfer_window,
        rate: session.rates.as_ref().map(|rates| Arc::clone(&rates.down)),
        idle: services.timeouts.data_idle,
    };
    // How long a converted file will be nobody knows before.
    let rest =
        attributes.size.filter(|_| !ascii).map(|size| length.unwrap_or(u64::MAX).min(size.saturating_sub(offset)));
    let transfer =
        Transfer::new(TransferKind::Download, path.as_bytes(), |stop, progress| download.run(stop, progress));
    let transfer = transfer.of_size(rest);
    Ok(Step::Transfer { opening, transfer })
}

/// The check of the path, STAT and OPEN in one flight.
async fn open_for_reading(
    session: &mut LoggedIn,
    path: &BackendPath,
) -> Result<(Attributes, Result<File, SftpError>), CommandError> {
    let root = Arc::clone(&session.root);
    let flight = |sftp: sftp::Session| {
        let root = Arc::clone(&root);
        async move {
            let looked = async { tokio::join!(root.check(&sftp, path, Follow::Last), sftp.stat(path)) };
            let flags = OpenFlags { read: true, ..OpenFlags::default() };
            let opening = sftp.open(path, flags, None);
            // OPEN of a directory succeeds on OpenSSH, and OPEN of a FIFO hangs it.
            let is_plain = |looked: &(_, Result<Attributes, SftpError>)| looked.1.as_ref().is_ok_and(may_be_plain);
            let ((checked, attributes), opened) = flight::beside(looked, opening, is_plain).await;
            let opened = opened.map(flight::answered).transpose()?;
            Ok((flight::inside(checked)?, flight::answered(attributes)?, opened))
        }
    };
    session.backend.bulk().await.purpose(Purpose::Existing)?;
    let (inside, attributes, opened) = session.backend.repeatable(flight).await.purpose(Purpose::Existing)?;
    refuse_outside(inside, Purpose::Existing)?;
    let attributes = attributes.purpose(Purpose::Existing)?;
    match opened.filter(|_| may_be_plain(&attributes)) {
        Some(opened) => Ok((attributes, opened)),
        None => {
            session.backend.give_up_opening(path, &attributes).await;
            Err(CommandError::WrongKind(Purpose::Existing, "Not a plain file"))
        }
    }
}

/// The data connection is taken last, so that a refused command leaves it to be closed in an orderly way.
pub(super) fn take_endpoint(session: &mut LoggedIn, direction: Direction) -> Result<DataEndpoint, CommandError> {
    let endpoint = session.endpoint.take().ok_or(CommandError::Refused(425, "Use PASV or EPSV first"))?;
    endpoint.expect(direction);
    Ok(endpoint)
}

pub(super) fn converts(session: &LoggedIn) -> bool {
    session.parameters.transfer_type == TransferType::Ascii && session.policy().ascii == AsciiMode::Convert
}

/// 150; curl and wget read the size from its parentheses.
pub(super) fn opening(session: &LoggedIn, name: &[u8], size: Option<u64>) -> Reply {
    let mut text = match session.parameters.transfer_type {
        TransferType::Ascii => b"Opening ASCII mode data connection for ".to_vec(),
        TransferType::Image => b"Opening BINARY mode data connection for ".to_vec(),
    };
    text.extend_from_slice(name);
    if let Some(size) = size {
        text.extend_from_slice(format!(" ({size} bytes)").as_bytes());
    }
    Reply::new(150, text)
}
