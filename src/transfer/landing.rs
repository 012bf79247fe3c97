//! How an upload reaches its name: a temporary name and a rename, or in place; and what becomes of it when it fails.

use std::time::Duration;

use tokio::time::timeout;

use crate::config::Quirks;
use crate::sftp::{
    Acknowledgement, Attributes, BackendPath, Ending, File, OpenFlags, Sealed, Session, SftpError, StatusCode,
};

use super::commit;
use super::in_place::{InPlace, Writer};
use super::left_behind::{Held, LeftBehind, LeftBehinds, keep_part};
use super::outcome::{TransferError, Unsettled};
use super::temporary::{part_of, temporary_beside};

/// How long a failed transfer waits for its clean-up before it says that it failed.
const DISCARD_PATIENCE: Duration = Duration::from_millis(500);

/// How long one that was written in place waits to be undone, where nobody waits for ABOR.
const UNDO_PATIENCE: Duration = Duration::from_secs(10);

/// How uploads of one user are stored.
#[derive(Debug, Clone)]
pub struct Manner {
    /// Mode of a new file.
    pub mode: u32,
    /// May a file that appears in the meantime be replaced?
    pub replace: bool,
    /// fsync@openssh.com before CLOSE, where offered.
    pub fsync: bool,
    /// `broken_upload: keep`
    pub keep: bool,
    /// What the backend cannot do.
    pub quirks: Quirks,
    /// Where what cannot be put right at once is remembered.
    pub left_behinds: LeftBehinds,
    /// What is written to under its own name.
    pub in_place: InPlace,
}

/// Where an upload goes and how it gets there.
#[derive(Debug)]
pub struct Landing {
    way: Way,
    target: BackendPath,
    manner: Manner,
}

#[derive(Debug)]
enum Way {
    /// Written under a temporary name beside the target, then renamed over it.
    Atomic {
        temporary: BackendPath,
        /// The temporary file goes if this is dropped.
        held: Held,
        /// Mode of the file that will be replaced; the new one takes it over.
        mode: Option<u32>,
        /// A part of an earlier upload is in the way of the next one: it goes when this one is whole.
        stale_part: bool,
        /// The earlier part that is continued.
        resumed: Option<Resumed>,
    },
    /// Written to its final name from the first byte on.
    Direct {
        /// The name did not exist before.
        created: bool,
        writer: Writer,
    },
    /// Continues a file in place (APPE, REST and STOR).
    Continue {
        /// Its length before; a failed upload gives it back.
        length: u64,
        writer: Writer,
    },
}

/// A part that is continued.
#[derive(Debug, Clone, Copy)]
pub struct Resumed {
    /// Where the upload goes on: what is beyond it goes.
    pub base: u64,
    /// How long the part is.
    pub length: u64,
}

/// A file under a temporary name, open for writing. It goes again, or back, if nothing lands with it.
#[derive(Debug)]
pub struct Temporary {
    file: File,
    path: BackendPath,
    held: Held,
}

impl Temporary {
    /// Makes a new file beside `target`. May run before it is known what stands there.
    ///
    /// # Errors
    /// What the backend says to OPEN, or that no random bytes could be had.
    pub async fn create(sftp: &Session, target: &BackendPath, manner: &Manner) -> Result<Self, SftpError> {
        let path = temporary_beside(target)?;
        let flags = OpenFlags { write: true, create: true, exclusive: true, ..OpenFlags::default() };
        // Held before it is asked for: a server that is lost may have made it without telling.
        let held = manner.left_behinds.hold(LeftBehind::Temporary(path.clone()));
        match sftp.open(&path, flags, Some(manner.mode)).await {
            Ok(file) => Ok(Self { file, path, held }),
            Err(error) => {
                if !matches!(error, SftpError::Lost(_) | SftpError::TimedOut) {
                    held.done();
                }
                Err(error)
            }
        }
    }

    /// Takes the part of a broken upload under a temporary name, so that nobody else continues it at the same time.
    ///
    /// # Errors
    /// What the backend says to RENAME or OPEN; the part is then where it was, if that was possible.
    pub async fn claim(
        sftp: &Session,
        part: &BackendPath,
        length: u64,
        target: &BackendPath,
        manner: &Manner,
    ) -> Result<Self, SftpError> {
        let path = temporary_beside(target)?;
        let held = manner.left_behinds.hold(LeftBehind::Broken {
            temporary: path.clone(),
            part: part.clone(),
            target: target.clone(),
            length,
            replace: sftp.extensions().posix_rename,
        });
        let flags = OpenFlags { write: true, ..OpenFlags::default() };
        // One flight: a server carries out requests in order where that matters.
        let (renamed, opened) = tokio::join!(sftp.rename(part, &path, false), sftp.open(&path, flags, None));
        // Dropping `held` gives the part back.
        match (renamed, opened) {
            (Ok(()), Ok(file)) => Ok(Self { file, path, held }),
            // Two names are two files to a server that works on several requests at a time.
            (Ok(()), Err(SftpError::Status { .. })) => {
                let file = sftp.open(&path, flags, None).await?;
                Ok(Self { file, path, held })
            }
            (Err(error @ SftpError::Status { .. }), _) => {
                held.done();
                Err(error)
            }
            (Ok(()), Err(error)) | (Err(error), _) => Err(error),
        }
    }

    /// It is not wanted: closes and removes it.
    ///
    /// # Errors
    /// What the backend says to REMOVE; it is remembered then.
    pub async fn discard(self, sftp: &Session) -> Result<(), SftpError> {
        let Self { file, path, mut held } = self;
        drop(file);
        held.becomes(LeftBehind::Temporary(path));
        held.put_right(sftp).await
    }
}

impl Landing {
    /// Under a temporary name, and renamed to `target` when it is whole. `existing` is what stands there now;
    /// `stale_part` whether the part of an earlier upload does.
    pub fn atomic(
        temporary: Temporary,
        target: BackendPath,
        existing: Option<&Attributes>,
        stale_part: bool,
        manner: Manner,
    ) -> (File, Self) {
        Self::renamed(temporary, target, existing, stale_part, None, manner)
    }

    /// Continues the part of a broken upload.
    pub fn resumed(
        temporary: Temporary,
        target: BackendPath,
        existing: Option<&Attributes>,
        resumed: Resumed,
        manner: Manner,
    ) -> (File, Self) {
        Self::renamed(temporary, target, existing, false, Some(resumed), manner)
    }

    fn renamed(
        temporary: Temporary,
        target: BackendPath,
        existing: Option<&Attributes>,
        stale_part: bool,
        resumed: Option<Resumed>,
        manner: Manner,
    ) -> (File, Self) {
        let Temporary { file, path, held } = temporary;
        let mode = existing.and_then(|attributes| attributes.permissions).map(|bits| bits & 0o7777);
        let mode = mode.filter(|_| !manner.quirks.no_setstat);
        (file, Self { way: Way::Atomic { temporary: path, held, mode, stale_part, resumed }, target, manner })
    }

    /// To `target` itself, which is open and not truncated yet.
    pub fn direct(target: BackendPath, created: bool, writer: Writer, manner: Manner) -> Self {
        Self { way: Way::Direct { created, writer }, target, manner }
    }

    /// To the end, or over the middle, of `target`, which is `length` bytes long now.
    pub fn continuing(target: BackendPath, length: u64, writer: Writer, manner: Manner) -> Self {
        Self { way: Way::Continue { length, writer }, target, manner }
    }

    /// The name that it gets.
    pub(super) fn target(&self) -> &BackendPath {
        &self.target
    }

    /// The name whose file system and attributes matter now.
    pub fn path(&self) -> &BackendPath {
        match &self.way {
            Way::Atomic { temporary, .. } => temporary,
            Way::Direct { .. } | Way::Continue { .. } => &self.target,
        }
    }

    /// The data connection is there: from here on the old content of a direct upload is given up. What must be cut is
    /// asked to be so ahead of the first WRITE; [`Begun::truncated`] is the answer to that.
    pub(super) async fn begin(&mut self, sftp: &Session, file: File) -> Result<Begun, SftpError> {
        let size = match &mut self.way {
            Way::Direct { created: false, .. } => Some(0),
            Way::Atomic { held, resumed, .. } => resumed.take().map(|resumed| {
                held.shortens(resumed.base);
                resumed.base
            }),
            Way::Direct { created: true, .. } | Way::Continue { .. } => None,
        };
        let Some(size) = size else { return Ok(Begun { file, truncated: None }) };
        if size == 0 && self.manner.quirks.no_setstat {
            let flags = OpenFlags { write: true, truncate: true, ..OpenFlags::default() };
            return Ok(Begun { file: sftp.open(self.path(), flags, None).await?, truncated: None });
        }
        let cut = Attributes { size: Some(size), ..Attributes::default() };
        let truncated = file.begin_set_attributes(&cut).await?;
        Ok(Begun { file, truncated: Some(truncated) })
    }

    /// How long the part of an earlier upload is that it would have continued, had it begun.
    pub(super) fn untouched_part(&self) -> Option<u64> {
        match &self.way {
            Way::Atomic { resumed, .. } => resumed.map(|resumed| resumed.length),
            Way::Direct { .. } | Way::Continue { .. } => None,
        }
    }

    /// Is what comes of it kept when it breaks?
    pub(super) fn keeps_parts(&self) -> bool {
        self.manner.keep && matches!(self.way, Way::Atomic { .. })
    }

    /// Does it add to what is there?
    pub fn continues(&self) -> bool {
        match &self.way {
            Way::Atomic { resumed, .. } => resumed.is_some(),
            Way::Direct { .. } => false,
            Way::Continue { .. } => true,
        }
    }

    /// Is it written under its final name?
    pub(super) fn is_in_place(&self) -> bool {
        !matches!(self.way, Way::Atomic { .. })
    }

    /// What is asked for behind the last WRITE.
    pub(super) fn ending(&self, sftp: &Session) -> Ending {
        let mode = match &self.way {
            // A server that does not let us choose modes still stores files.
            Way::Atomic { mode, .. } => *mode,
            Way::Direct { .. } | Way::Continue { .. } => None,
        };
        let sync = self.manner.fsync && !self.manner.quirks.no_fsync && sftp.extensions().fsync;
        Ending { mode, sync }
    }

    /// All of it is acknowledged. Is it as long as it should be?
    ///
    /// CLOSE may succeed after a WRITE that failed (measured), so neither stands for the other, and the length is
    /// looked at as well: over the handle, in the flight of the last WRITE, and where the server does not tell it so, by
    /// name.
    pub(super) async fn verify(&self, sftp: &Session, sealed: &Sealed, length: u64) -> Result<(), TransferError> {
        let differs = |found: Option<u64>| found.filter(|found| !self.length_fits(*found, length));
        match sealed.size {
            Some(found) if self.length_fits(found, length) => return Ok(()),
            Some(found) if self.manner.quirks.no_stat_after_close => {
                return Err(TransferError::SizeDiffers { expected: length, found });
            }
            None if self.manner.quirks.no_stat_after_close => return Ok(()),
            // Some servers count what is written only when the file is closed.
            Some(_) | None => {}
        }
        let found = match sftp.stat(self.path()).await {
            // Whoever watches the folder may have taken the file as soon as it was closed.
            Err(SftpError::Status { code: StatusCode::NO_SUCH_FILE, .. })
                if !matches!(self.way, Way::Atomic { .. }) =>
            {
                None
            }
            other => other?.size,
        };
        match differs(found) {
            Some(found) => Err(TransferError::SizeDiffers { expected: length, found }),
            None => Ok(()),
        }
    }

    /// Gives a sealed file its name: a single request, carried out or not.
    pub(super) async fn take_name(&self, sftp: &Session) -> Result<(), SftpError> {
        match &self.way {
            Way::Atomic { temporary, .. } => {
                self.manner.in_place.replaced(&self.target);
                commit::take_name(sftp, temporary, &self.target, self.manner.replace).await
            }
            Way::Direct { .. } | Way::Continue { .. } => Ok(()),
        }
    }

    /// Where the name was refused: is it because something has it that may be replaced?
    ///
    /// # Errors
    /// It is not: `refused`.
    pub(super) async fn is_in_the_way(&self, sftp: &Session, refused: SftpError) -> Result<(), SftpError> {
        match &self.way {
            Way::Atomic { .. } if self.manner.replace => commit::is_in_the_way(sftp, &self.target, refused).await,
            Way::Atomic { .. } | Way::Direct { .. } | Way::Continue { .. } => Err(refused),
        }
    }

    /// Then takes its place. Several requests, which must not be cut short.
    pub(super) async fn take_place(&self, sftp: &Session) -> Result<(), SftpError> {
        match &self.way {
            Way::Atomic { temporary, .. } => {
                commit::take_place(sftp, temporary, &self.target, &self.manner.left_behinds).await
            }
            Way::Direct { .. } | Way::Continue { .. } => Ok(()),
        }
    }

    /// It was stopped while the name was asked for: takes the temporary file away, or keeps it as a part, if it still is
    /// one. Gives the landing back if it is not, and so has its name. What cannot be found out in time is remembered.
    pub(super) async fn withdraw(mut self, sftp: &Session, length: u64) -> Option<Self> {
        let part = part_of(&self.target).filter(|_| self.manner.keep);
        let Way::Atomic { temporary, held, .. } = &mut self.way else { return Some(self) };
        if let Some(part) = part.clone() {
            let (temporary, target, replace) = (temporary.clone(), self.target.clone(), sftp.extensions().posix_rename);
            held.becomes(LeftBehind::Broken { temporary, part, target, length, replace });
        }
        let withdrawing = async {
            let withdrawn = match &part {
                // All of it is there, and a client that resumes need not send it again.
                Some(part) => keep_part(sftp, temporary, part, length, sftp.extensions().posix_rename).await,
                None => sftp.remove(temporary).await,
            };
            match withdrawn {
                Err(error @ SftpError::Status { code: StatusCode::NO_SUCH_FILE, .. }) => {
                    if sftp.stat(&self.target).await?.size == Some(length) { Err(error) } else { Ok(()) }
                }
                other => other,
            }
        };
        match timeout(DISCARD_PATIENCE, withdrawing).await {
            Ok(Err(SftpError::Status { code: StatusCode::NO_SUCH_FILE, .. })) => Some(self),
            Ok(Ok(())) => {
                if let Way::Atomic { held, .. } = self.way {
                    held.done();
                }
                None
            }
            // Dropped, it remembers itself.
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// A file that is continued may have been longer than where this upload ends.
    fn length_fits(&self, found: u64, expected: u64) -> bool {
        match &self.way {
            Way::Continue { length, .. } => found == expected.max(*length),
            Way::Atomic { .. } | Way::Direct { .. } => found == expected,
        }
    }

    /// It has its name: nothing of it is left to be undone.
    pub(super) async fn landed(self, sftp: &Session) {
        if let Way::Atomic { held, stale_part, .. } = self.way {
            held.done();
            if stale_part && let Some(part) = part_of(&self.target) {
                // The whole file is there; an old part beside it would only mislead the next client that resumes. The
                // answer is waited for a moment, so that SIZE does not see it, and changes nothing.
                let stale = LeftBehind::Stale { part: part.clone(), target: self.target };
                let held = self.manner.left_behinds.hold(stale);
                if let Ok(Ok(()) | Err(SftpError::Status { .. })) = timeout(DISCARD_PATIENCE, sftp.remove(&part)).await
                {
                    held.done();
                }
            }
        }
    }

    /// The backend was lost when only the answer to the last request was missing: what is needed to find out.
    pub(super) fn unsettled(self, length: u64) -> Unsettled {
        match self.way {
            Way::Atomic { temporary, held, stale_part, .. } => {
                if stale_part && let Some(part) = part_of(&self.target) {
                    // It goes if the new file is there, and is as good as before if it is not.
                    self.manner.left_behinds.keep(LeftBehind::Stale { part, target: self.target.clone() });
                }
                Unsettled::Renamed { temporary, held, target: self.target, length }
            }
            Way::Direct { created, .. } => {
                let target = self.target;
                let undo = created && !self.manner.keep;
                let undo = undo.then(|| LeftBehind::Created { target: target.clone(), end: length });
                Unsettled::Written { target, length, undo }
            }
            Way::Continue { length: before, .. } => {
                let (target, length) = (self.target, length.max(before));
                let undo = Some(LeftBehind::Grown { target: target.clone(), length: before, end: length });
                Unsettled::Written { target, length, undo }
            }
        }
    }

    /// Undoes a failed upload as far as possible, of which `acknowledged` bytes of the file are known to be stored
    /// without a gap. What could not be undone because the backend was lost is remembered or given back.
    ///
    /// What was written in place is undone only where it is this upload's own: not beyond `end`, up to which it may
    /// have written, and not where its client fell silent and may be back by now, at work on the very file.
    pub(super) async fn discard(
        self,
        sftp: &Session,
        acknowledged: u64,
        end: u64,
        patience: Patience,
    ) -> Option<Unsettled> {
        let Self { way, target, manner } = self;
        match way {
            Way::Atomic { temporary, mut held, .. } => {
                let keep = manner.keep && acknowledged > 0;
                let part = part_of(&target).filter(|_| keep);
                held.becomes(match part {
                    Some(part) => LeftBehind::Broken {
                        temporary,
                        part,
                        target,
                        length: acknowledged,
                        replace: sftp.extensions().posix_rename,
                    },
                    None => LeftBehind::Temporary(temporary),
                });
                // Given up, it is remembered, and done again over a channel that answers.
                let _ = timeout(DISCARD_PATIENCE, held.put_right(sftp)).await;
                None
            }
            Way::Direct { created, writer } => {
                let undo = created && !manner.keep && patience != Patience::None;
                let undo = undo.then_some(LeftBehind::Created { target, end });
                writer.give_up(sftp, undo, patience.time()).await
            }
            Way::Continue { length, writer } => {
                let undo = patience != Patience::None && !manner.quirks.no_setstat;
                let undo = undo.then_some(LeftBehind::Grown { target, length, end });
                writer.give_up(sftp, undo, patience.time()).await
            }
        }
    }
}

/// A file that is being written to, and the answer to its truncation.
pub(super) struct Begun {
    pub(super) file: File,
    pub(super) truncated: Option<Acknowledgement>,
}

/// How long a client waits until a file that was written in place is what it was. It is done later only where the file was
/// left alone until then: it may be another's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// It may be another's work already.
    None,
    /// The client waits for the answer to ABOR.
    Short,
    /// The client has broken it off, or hears of a failure.
    Long,
}

impl Patience {
    fn time(self) -> Duration {
        match self {
            Self::None | Self::Short => DISCARD_PATIENCE,
            Self::Long => UNDO_PATIENCE,
        }
    }
}

/// Makes `target` itself, where nothing of that name is.
///
/// # Errors
/// What the backend says to OPEN.
pub async fn create_in_place(sftp: &Session, target: &BackendPath, manner: &Manner) -> Result<File, SftpError> {
    let flags = OpenFlags { write: true, create: true, exclusive: true, ..OpenFlags::default() };
    sftp.open(target, flags, Some(manner.mode)).await
}

/// Opens `target` as it is, to go on at some offset or to be truncated later: a file must survive an upload that never
/// begins (P-22).
///
/// # Errors
/// What the backend says to OPEN.
pub async fn open_to_continue(sftp: &Session, target: &BackendPath) -> Result<File, SftpError> {
    // Not the APPEND flag: it ignores offsets, and servers may carry out requests in another order.
    sftp.open(target, OpenFlags { write: true, ..OpenFlags::default() }, None).await
}
