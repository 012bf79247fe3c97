//! Which files are being written under their own names. What a server that hangs may still do to one must not meet the
//! next upload to it, of which the client would be told that it is stored.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::sftp::{Attributes, BackendPath, OpenFlags, Session, SftpError};

use super::left_behind::LeftBehind;
use super::outcome::Unsettled;

/// How long a file is left alone when the connection to a server that hung is gone before it has answered: its process
/// may be thawed, and carry out what it was sent.
const LEFT_ALONE: Duration = Duration::from_secs(10 * 60);

/// How long answers that are under way are waited for when an upload fails. With what the undo takes, ABOR stays below its
/// second.
const MOMENT: Duration = Duration::from_millis(200);

/// How often such a file is looked at: at first, and at most.
const LOOKS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(15)];

/// Files that are left alone. One more is not, rather than that a server which hangs for all takes memory without end.
const MAX_LEFT_ALONE: usize = 4096;

/// The files of one backend, shared by all sessions.
#[derive(Debug, Clone, Default)]
pub struct InPlace {
    backend: Arc<str>,
    files: Arc<Mutex<Files>>,
}

#[derive(Debug, Default)]
struct Files {
    by_path: HashMap<(Arc<str>, BackendPath), Writers>,
    left_alone: usize,
}

/// Who writes to a file.
#[derive(Debug, Default)]
struct Writers {
    at_work: usize,
    /// Uploads that are over for their clients, and whose last requests the server has not answered.
    unanswered: usize,
    /// Another file has got the name since, or was to get it.
    is_replaced: bool,
}

/// An earlier upload to the file is not answered yet: it may be changed by it at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unanswered;

impl InPlace {
    /// The files of another backend.
    #[must_use]
    pub fn on(&self, backend: &str) -> Self {
        Self { backend: Arc::from(backend), files: Arc::clone(&self.files) }
    }

    /// Begins to write to `target`. Several may: it is for clients not to.
    ///
    /// # Errors
    /// The server hung in an earlier upload to it, and still does.
    pub fn write(&self, target: &BackendPath) -> Result<Writer, Unanswered> {
        let key = (Arc::clone(&self.backend), target.clone());
        let mut files = self.lock();
        let writers = files.by_path.entry(key.clone()).or_default();
        if writers.unanswered > 0 {
            return Err(Unanswered);
        }
        writers.at_work += 1;
        Ok(Writer { in_place: self.clone(), key })
    }

    /// Another file is about to get the name: what an earlier upload still does is done to the one before, so that from
    /// here on nothing of it is to be undone.
    pub fn replaced(&self, target: &BackendPath) {
        let key = (Arc::clone(&self.backend), target.clone());
        if let Some(writers) = self.lock().by_path.get_mut(&key) {
            writers.is_replaced = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An upload that writes to a file under its own name, until this is dropped.
#[derive(Debug)]
pub struct Writer {
    in_place: InPlace,
    key: (Arc<str>, BackendPath),
}

impl Writer {
    /// The upload failed: undoes what it did, for as long as its client waits. Where a server hangs the file is left alone
    /// until it has answered, and undone then.
    pub(super) async fn give_up(
        self,
        sftp: &Session,
        undo: Option<LeftBehind>,
        patience: Duration,
    ) -> Option<Unsettled> {
        // Where others write to it, or have replaced it, there is nothing to go back to.
        let mut undo = undo.filter(|_| self.is_alone());
        if let Some(left_behind) = undo.take() {
            match timeout(patience, left_behind.put_right(sftp)).await {
                Ok(Ok(()) | Err(SftpError::Status { .. })) => {}
                // For the next connection, before the client is told.
                Ok(Err(_)) | Err(_) => undo = Some(left_behind),
            }
        }
        // A server that works answers what was under way within a moment: the next upload need not be refused for that.
        let _ = timeout(MOMENT, sftp.settled()).await;
        if !sftp.is_lost() && !sftp.owes_answers() && undo.is_none() {
            return None;
        }
        let left_alone = self.leave_alone()?;
        if sftp.is_lost() {
            // One that died does nothing any more.
            let time = if sftp.stood_still() { LEFT_ALONE } else { Duration::ZERO };
            let watch = left_alone.watch(time);
            return undo.map(|undo| Unsettled::InPlace { undo, watch });
        }
        let sftp = sftp.clone();
        tokio::spawn(async move {
            sftp.settled().await;
            if sftp.is_lost() {
                left_alone.watch(LEFT_ALONE);
            } else if let Some(undo) = undo {
                let _ = left_alone.undo(&undo, &sftp).await;
            }
        });
        None
    }

    fn is_alone(&self) -> bool {
        self.in_place.lock().by_path.get(&self.key).is_some_and(|writers| writers.at_work == 1 && !writers.is_replaced)
    }

    fn leave_alone(self) -> Option<LeftAlone> {
        let mut files = self.in_place.lock();
        if files.left_alone >= MAX_LEFT_ALONE {
            return None;
        }
        files.left_alone += 1;
        files.by_path.entry(self.key.clone()).or_default().unanswered += 1;
        drop(files);
        Some(LeftAlone { in_place: self.in_place.clone(), key: self.key.clone() })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.in_place.lock().change(&self.key, |writers| writers.at_work = writers.at_work.saturating_sub(1));
    }
}

/// A file that nobody may write to in place, until this is dropped.
#[derive(Debug)]
struct LeftAlone {
    in_place: InPlace,
    key: (Arc<str>, BackendPath),
}

impl LeftAlone {
    fn is_replaced(&self) -> bool {
        self.in_place.lock().by_path.get(&self.key).is_some_and(|writers| writers.is_replaced)
    }

    /// Nobody else can have begun to write to the file; another may have got its name.
    async fn undo(&self, undo: &LeftBehind, sftp: &Session) -> Result<(), SftpError> {
        let LeftBehind::Grown { target, length, end } = undo else {
            return if self.is_replaced() { Ok(()) } else { undo.put_right(sftp).await };
        };
        // Over a handle: a name that passes to another file behind OPEN does not pass with it, and one that passed before
        // was said to be replaced before.
        let file = sftp.open(target, OpenFlags { write: true, ..OpenFlags::default() }, None).await?;
        let size = file.stat().await?.size;
        if !self.is_replaced() && size.is_some_and(|size| size > *length && size <= *end) {
            let cut = Attributes { size: Some(*length), ..Attributes::default() };
            file.set_attributes(&cut).await?;
        }
        file.close().await
    }

    /// The connection is gone, and its server may go on for so long: nobody writes to the file meanwhile.
    fn watch(self, time: Duration) -> Watch {
        let watch = Watch { left_alone: Arc::new(self), until: Instant::now() + time, is_overdue: false };
        let Watch { left_alone, until, .. } = watch.clone();
        tokio::spawn(async move {
            sleep_until(until).await;
            drop(left_alone);
        });
        watch
    }
}

/// A file that is left alone after the loss of a connection. What is still done to it is undone as long as it is, which
/// this must not outlive.
#[derive(Debug, Clone)]
pub struct Watch {
    left_alone: Arc<LeftAlone>,
    until: Instant,
    /// It could not be undone while its client waited.
    is_overdue: bool,
}

impl Watch {
    /// It is still to be undone, however late that will be.
    pub fn overdue(self) -> Self {
        Self { is_overdue: true, ..self }
    }

    /// Is nothing to be done any more?
    pub fn is_over(&self) -> bool {
        !self.is_overdue && Instant::now() >= self.until
    }

    /// Undoes it now, where no other file has got the name.
    ///
    /// # Errors
    /// What the backend says.
    pub async fn undo(&self, undo: &LeftBehind, sftp: &Session) -> Result<(), SftpError> {
        self.left_alone.undo(undo, sftp).await
    }

    /// Undoes it again and again over `sftp`, until the time is over or that is lost too.
    pub async fn keep(self, undo: LeftBehind, sftp: &Session) {
        if self.is_overdue {
            let _ = self.left_alone.undo(&undo, sftp).await;
        }
        let [mut pause, longest] = LOOKS;
        while Instant::now() + pause < self.until && !sftp.is_lost() && !self.left_alone.is_replaced() {
            sleep(pause).await;
            let _ = self.left_alone.undo(&undo, sftp).await;
            pause = longest.min(pause * 2);
        }
    }
}

impl Drop for LeftAlone {
    fn drop(&mut self) {
        let mut files = self.in_place.lock();
        files.left_alone = files.left_alone.saturating_sub(1);
        files.change(&self.key, |writers| writers.unanswered = writers.unanswered.saturating_sub(1));
    }
}

impl Files {
    /// Forgets files that nobody writes to.
    fn change(&mut self, key: &(Arc<str>, BackendPath), change: impl FnOnce(&mut Writers)) {
        if let Some(writers) = self.by_path.get_mut(key) {
            change(writers);
            if writers.at_work == 0 && writers.unanswered == 0 {
                self.by_path.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> BackendPath {
        BackendPath::from_bytes(name.as_bytes().to_vec())
    }

    #[test]
    fn a_file_that_is_left_alone_takes_no_writer_and_nothing_is_remembered_afterwards() {
        let in_place = InPlace::default().on("files");
        let (first, second) = (in_place.write(&path("/a")).unwrap(), in_place.write(&path("/a")).unwrap());
        assert!(!first.is_alone());
        drop(second);
        assert!(first.is_alone());
        let left_alone = first.leave_alone().unwrap();
        assert_eq!(in_place.write(&path("/a")).unwrap_err(), Unanswered);
        drop(in_place.write(&path("/b")).unwrap());
        drop(in_place.on("other").write(&path("/a")).unwrap());
        drop(left_alone);
        drop(in_place.write(&path("/a")).unwrap());
        let files = in_place.lock();
        assert!(files.by_path.is_empty() && files.left_alone == 0);
    }

    #[test]
    fn no_more_than_so_many_are_left_alone() {
        let in_place = InPlace::default();
        let left_alone: Vec<_> = (0..=MAX_LEFT_ALONE)
            .map(|number| in_place.write(&path(&number.to_string())).unwrap().leave_alone())
            .collect();
        assert_eq!(left_alone.iter().flatten().count(), MAX_LEFT_ALONE);
    }
}
