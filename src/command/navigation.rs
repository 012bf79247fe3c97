//! PWD, CWD and CDUP (RFC 959 §4.1), on a working directory that is kept here and not on the backend.

use crate::ftp::path::{VirtualPath, quoted};
use crate::session::logged_in::LoggedIn;
use crate::session::services::Services;
use crate::sftp::FileKind;

use super::failure::{CommandError, Purpose};
use super::file::{look_up, path_of};
use super::{Argument, Step};

pub(super) async fn pwd(
    session: &mut LoggedIn,
    _services: &Services,
    _argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let mut text = quoted(&session.shown(&session.directory));
    text.extend_from_slice(b" is the current directory");
    Ok(Step::reply(257, text))
}

pub(super) async fn cwd(
    session: &mut LoggedIn,
    _services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let path = path_of(session, argument.required()?, Purpose::Directory).await?;
    change(session, path).await
}

pub(super) async fn cdup(
    session: &mut LoggedIn,
    _services: &Services,
    _argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let path = session.directory.parent();
    change(session, path).await
}

async fn change(session: &mut LoggedIn, path: VirtualPath) -> Result<Step, CommandError> {
    let located = session.root.locate(&path);
    let attributes = look_up(session, &located, Purpose::Directory).await?;
    // A server that tells no type is believed; the next command finds out.
    if attributes.kind().is_some_and(|kind| kind != FileKind::Directory) {
        return Err(CommandError::WrongKind(Purpose::Directory, "Not a directory"));
    }
    session.directory = path;
    Ok(Step::reply(250, "Directory changed"))
}
