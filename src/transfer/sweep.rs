//! Files under way that a killed gateway left on the backend: found in the directories that are uploaded to, and removed
//! when they are stale.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::sftp::{BackendPath, DirectoryEntry, Session, SftpError, StatusCode};

use super::temporary::{is_temporary, original_of_aside, whole_original};

/// A file under way that nobody has written to for so long is no longer under way: transfers end after minutes without a
/// byte, and the clocks of two machines do not differ by days.
const STALE_AFTER: i64 = 24 * 60 * 60;

/// A directory is not swept again for so long, whoever uploads to it.
const AGAIN_AFTER: Duration = Duration::from_secs(60 * 60);

/// Directories remembered as swept. Beyond it all are forgotten: to sweep once more does no harm.
const MAX_REMEMBERED: usize = 4096;

/// Names looked at in one directory: a sweep is a courtesy, and must not read a million names for it.
const MAX_NAMES: usize = 100_000;

/// Which directories were swept when, for the whole process.
#[derive(Debug, Default)]
pub struct Sweeper(Mutex<HashMap<(String, BackendPath), Instant>>);

impl Sweeper {
    /// Is it this one's turn? Then it counts as swept.
    pub fn is_due(&self, whose: &str, directory: &BackendPath) -> bool {
        let mut swept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (whose.to_owned(), directory.clone());
        if swept.get(&key).is_some_and(|at| at.elapsed() < AGAIN_AFTER) {
            return false;
        }
        if swept.len() >= MAX_REMEMBERED {
            swept.clear();
        }
        swept.insert(key, Instant::now());
        true
    }
}

/// Removes what is stale in a directory, and gives what stepped aside its name back. `now` is in seconds since 1970.
/// How many files that were.
///
/// # Errors
/// The directory cannot be read, or the session is lost.
pub async fn sweep(sftp: &Session, directory: &BackendPath, now: i64) -> Result<usize, SftpError> {
    let mut names = sftp.open_directory(directory).await?;
    let (mut seen, mut stale) = (0, Vec::new());
    while seen < MAX_NAMES
        && let Some(page) = names.next().await?
    {
        seen += page.len();
        stale.extend(page.into_iter().filter(|entry| is_stale(entry, now)));
    }
    let mut swept = 0;
    for entry in stale {
        let path = directory.join(&entry.name);
        let done = match original_of_aside(&entry.name).map(whole_original) {
            None => sftp.remove(&path).await,
            // Where its name was cut nobody knows what it was called: it stays for a person to look at.
            Some(None) => continue,
            Some(Some(original)) => come_back(sftp, &path, &directory.join(original)).await,
        };
        match done {
            Ok(()) => swept += 1,
            Err(SftpError::Status { .. }) => {}
            Err(lost) => return Err(lost),
        }
    }
    Ok(swept)
}

/// A file stepped aside for a successor. Where that one came it goes, else it comes back.
async fn come_back(sftp: &Session, aside: &BackendPath, original: &BackendPath) -> Result<(), SftpError> {
    match sftp.lstat(original).await {
        Ok(_) => sftp.remove(aside).await,
        Err(SftpError::Status { code: StatusCode::NO_SUCH_FILE, .. }) => sftp.rename(aside, original, false).await,
        Err(error) => Err(error),
    }
}

fn is_stale(entry: &DirectoryEntry, now: i64) -> bool {
    let is_ours = is_temporary(&entry.name) || original_of_aside(&entry.name).is_some();
    is_ours && entry.attributes.times.is_some_and(|(_, modified)| i64::from(modified) < now - STALE_AFTER)
}
