//! What an SFTP server cannot do, found out with a small file under a temporary name (`ftps2sftp check --probe`).

use crate::config::Quirks;
use crate::sftp::{Attributes, BackendPath, OpenFlags, Session, SftpError, WriteStream};
use crate::transfer::temporary::temporary_beside;

/// What the file holds; half of it is cut off and written again.
const CONTENT: &[u8] = b"ftps2sftp";

/// Mode of the file.
const MODE: u32 = 0o600;

/// Bytes in flight.
const WINDOW: usize = 64 * 1024;

/// The names of what is set, in the order in which [`quirks`] finds them.
pub(super) fn names(quirks: Quirks) -> Vec<&'static str> {
    [
        (quirks.no_fsync, "no-fsync"),
        (quirks.no_setstat, "no-setstat"),
        (quirks.no_stat_after_close, "no-stat-after-close"),
        (quirks.no_append, "no-append"),
        (quirks.no_rename, "no-rename"),
    ]
    .into_iter()
    .filter_map(|(is_set, name)| is_set.then_some(name))
    .collect()
}

/// Tries on a file in `root` what uploads ask for, and gives the names of what fails. The file is removed whatever
/// happens, as far as the server lets us.
///
/// # Errors
/// When no file can be written there at all, or the connection is lost: nothing is known then.
pub(super) async fn quirks(sftp: &Session, root: &BackendPath) -> Result<Vec<&'static str>, SftpError> {
    let beside = root.join(b"probe");
    let (first, second) = (temporary_beside(&beside)?, temporary_beside(&beside)?);
    let result = probe(sftp, &first, &second).await;
    for path in [&first, &second] {
        let _ = sftp.remove(path).await;
    }
    Ok(names(result?))
}

async fn probe(sftp: &Session, first: &BackendPath, second: &BackendPath) -> Result<Quirks, SftpError> {
    let mut quirks = Quirks::default();
    let new = OpenFlags { write: true, create: true, exclusive: true, ..OpenFlags::default() };
    let mut stream = WriteStream::new(sftp.open(first, new, Some(MODE)).await?, 0, WINDOW);
    write(&mut stream, CONTENT).await?;
    let (file, _) = stream.finish().await?;
    if sftp.extensions().fsync {
        quirks.no_fsync = fails(file.sync().await)?;
    }
    // As uploads do: a mode by name or handle, and a length.
    let mode = Attributes { permissions: Some(MODE), ..Attributes::default() };
    let length = Attributes { size: Some(CONTENT.len() as u64 / 2), ..Attributes::default() };
    quirks.no_setstat = fails(file.set_attributes(&mode).await)? || fails(file.set_attributes(&length).await)?;
    file.close().await?;
    let expected = if quirks.no_setstat { CONTENT.len() as u64 } else { CONTENT.len() as u64 / 2 };
    quirks.no_stat_after_close = size(sftp, first).await? != Some(expected);
    if quirks.no_stat_after_close {
        // What is taken away as soon as it is closed can be neither continued nor renamed, and that says nothing.
        return Ok(quirks);
    }
    quirks.no_append = match sftp.open(first, OpenFlags { write: true, ..OpenFlags::default() }, None).await {
        Ok(file) => {
            let mut stream = WriteStream::new(file, expected, WINDOW);
            let written = write(&mut stream, CONTENT).await;
            let finished = match written {
                Ok(()) => stream.finish().await.map(drop),
                Err(error) => Err(error),
            };
            fails(finished)? || size(sftp, first).await? != Some(expected + CONTENT.len() as u64)
        }
        Err(error) => fails(Err(error))?,
    };
    quirks.no_rename = fails(sftp.rename(first, second, sftp.extensions().posix_rename).await)?;
    Ok(quirks)
}

async fn write(stream: &mut WriteStream, bytes: &[u8]) -> Result<(), SftpError> {
    let mut buffer = stream.buffer();
    buffer.extend(bytes);
    stream.write(buffer).await
}

async fn size(sftp: &Session, path: &BackendPath) -> Result<Option<u64>, SftpError> {
    match sftp.stat(path).await {
        Ok(attributes) => Ok(attributes.size),
        Err(SftpError::Status { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Did the server say no? A lost connection is no answer.
fn fails(result: Result<(), SftpError>) -> Result<bool, SftpError> {
    match result {
        Ok(()) => Ok(false),
        Err(SftpError::Status { .. } | SftpError::Unsupported(_)) => Ok(true),
        Err(error) => Err(error),
    }
}
