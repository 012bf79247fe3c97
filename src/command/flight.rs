//! Requests of one command that leave together: a backend that is far costs round trips, not requests.

use std::pin::pin;

use crate::identity::root::RootError;
use crate::sftp::SftpError;

/// Runs `opening` beside `looked`, and waits for it only where what was seen makes it `wanted`: OPEN of a FIFO would not
/// return. Dropped, what it opens is closed when the answer comes.
pub(super) async fn beside<L, O>(
    looked: impl Future<Output = L>,
    opening: impl Future<Output = O>,
    wanted: impl FnOnce(&L) -> bool,
) -> (L, Option<O>) {
    let (mut looked, mut opening) = (pin!(looked), pin!(opening));
    let mut opened = None;
    let seen = loop {
        tokio::select! {
            // In this order the requests leave.
            biased;
            seen = &mut looked => break seen,
            result = &mut opening, if opened.is_none() => opened = Some(result),
        }
    };
    if opened.is_none() && wanted(&seen) {
        opened = Some(opening.await);
    }
    (seen, opened)
}

/// The answer to the check of a path, apart from a loss of the backend, which is for the whole flight.
pub(super) fn inside(checked: Result<(), RootError>) -> Result<Result<bool, SftpError>, SftpError> {
    match checked {
        Ok(()) => Ok(Ok(true)),
        Err(RootError::Outside) => Ok(Ok(false)),
        Err(RootError::Sftp(error)) => answered(Err(error)),
    }
}

/// An answer, be it a refusal; a loss of the backend is for the whole flight, which may be repeated.
pub(super) fn answered<T>(result: Result<T, SftpError>) -> Result<Result<T, SftpError>, SftpError> {
    match result {
        Err(lost @ SftpError::Lost(_)) => Err(lost),
        other => Ok(other),
    }
}
