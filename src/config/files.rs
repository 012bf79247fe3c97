//! The files a configuration names: are they there, and may they be read?

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::path::Path;

/// Why `path` cannot be used as a file, and a hint; `Ok` where it can be opened.
pub(super) fn check(path: &Path) -> Result<(), (String, &'static str)> {
    // Not opened before it is known to be a regular file: opening a FIFO waits for its writer.
    let opened = match path.metadata() {
        Ok(metadata) if metadata.is_dir() => return Err(("is a folder".into(), "name the file in it")),
        Ok(metadata) if !metadata.is_file() => return Err(("is not a regular file".into(), "name a file")),
        Ok(_) => File::open(path).map(drop),
        Err(error) => Err(error),
    };
    opened.map_err(|error| (reason(&error), unreadable_hint(&error)))
}

/// An I/O error in a few words.
pub(super) fn reason(error: &Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "no such file".into(),
        ErrorKind::PermissionDenied => "permission denied".into(),
        ErrorKind::IsADirectory => "is a folder".into(),
        ErrorKind::InvalidInput => "not a possible file name".into(),
        _ => error.to_string(),
    }
}

/// What to do about an I/O error on a file the configuration names.
pub(super) fn unreadable_hint(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => "let the account that the gateway runs as read it",
        _ => "check the path; a relative path begins at the folder of the configuration file",
    }
}
