//! A folder of the local file system, seen as a whole file system whose root it is.
//!
//! SECURITY: [`Folder::followed`] and [`Folder::entry`] are the only ways from a client's pathname to a local one.
//! `..` ends at the root, as in a chroot, and a symbolic link may lead anywhere inside and nowhere else. The check and
//! the use are two steps: someone who can change the folder beside the server (a local user) could come between
//! them, clients cannot, for this server makes no links and opens no file through a link it has not resolved.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, OFlags, RenameFlags, Timespec, Timestamps};

use super::refusal::{Code, Refusal};

/// Bits of a mode that a client may set: permissions, not types and not set-user-id.
const MODE_BITS: u32 = 0o777;

/// The served folder.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    /// Absolute and without symbolic links.
    root: PathBuf,
}

/// How a file is to be opened (SSH_FXF_*, draft §6.3).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Opening {
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) append: bool,
    pub(super) create: bool,
    pub(super) truncate: bool,
    pub(super) exclusive: bool,
    pub(super) mode: Option<u32>,
}

/// What SETSTAT may change.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Changes {
    pub(super) size: Option<u64>,
    pub(super) mode: Option<u32>,
    pub(super) owner: Option<(u32, u32)>,
    /// Access and modification, Unix seconds.
    pub(super) times: Option<(u32, u32)>,
}

impl Folder {
    /// A folder that exists.
    ///
    /// # Errors
    ///
    /// It does not, or is no directory.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let root = fs::canonicalize(path)?;
        if !fs::metadata(&root)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self { root })
    }

    /// The local path of what `path` names in the end, links followed. It need not exist, its parent must.
    fn followed(&self, path: &str) -> Result<PathBuf, Refusal> {
        let entry = self.entry(path)?;
        match fs::canonicalize(&entry) {
            Ok(resolved) => self.inside(resolved),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A link to nowhere would be followed by whoever creates the file, perhaps out of the folder.
                if fs::symlink_metadata(&entry).is_ok() { Err(Refusal::outside()) } else { Ok(entry) }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The local path of the entry itself, a link not followed. It need not exist, its parent must.
    fn entry(&self, path: &str) -> Result<PathBuf, Refusal> {
        let mut segments = segments(path)?;
        let Some(name) = segments.pop() else {
            return Ok(self.root.clone());
        };
        let parent = self.root.join(segments.iter().collect::<PathBuf>());
        Ok(self.inside(fs::canonicalize(parent)?)?.join(name))
    }

    /// Like [`Self::entry`], for what changes the entry: the root is not the client's to change.
    fn changeable(&self, path: &str) -> Result<PathBuf, Refusal> {
        let entry = self.entry(path)?;
        if entry == self.root {
            return Err(Refusal::new(Code::PermissionDenied, "the root itself cannot be changed"));
        }
        Ok(entry)
    }

    fn inside(&self, resolved: PathBuf) -> Result<PathBuf, Refusal> {
        if resolved.starts_with(&self.root) { Ok(resolved) } else { Err(Refusal::outside()) }
    }

    /// The client's name of a local path.
    fn shown(&self, local: &Path) -> Result<String, Refusal> {
        let relative = local.strip_prefix(&self.root).map_err(|_| Refusal::outside())?;
        let text = relative.to_str().ok_or_else(|| Refusal::new(Code::NoSuchFile, "the name is not UTF-8"))?;
        Ok(format!("/{text}"))
    }

    pub(super) fn real_path(&self, path: &str) -> Result<String, Refusal> {
        self.shown(&self.followed(path)?)
    }

    pub(super) fn stat(&self, path: &str) -> Result<Metadata, Refusal> {
        Ok(fs::metadata(self.followed(path)?)?)
    }

    pub(super) fn lstat(&self, path: &str) -> Result<Metadata, Refusal> {
        Ok(fs::symlink_metadata(self.entry(path)?)?)
    }

    /// The text of a link; an absolute one as the client sees it.
    pub(super) fn read_link(&self, path: &str) -> Result<String, Refusal> {
        let target = fs::read_link(self.entry(path)?)?;
        if target.is_absolute() {
            return self.shown(&target);
        }
        target.to_str().map(str::to_owned).ok_or_else(|| Refusal::new(Code::NoSuchFile, "the name is not UTF-8"))
    }

    pub(super) fn open_file(&self, path: &str, opening: Opening) -> Result<File, Refusal> {
        let local = self.followed(path)?;
        // A device or a queue could keep a thread for ever.
        if fs::metadata(&local).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(Refusal::new(Code::Failure, "not a regular file"));
        }
        let file = OpenOptions::new()
            .read(opening.read)
            .write(opening.write)
            .append(opening.append)
            .create(opening.create && !opening.exclusive)
            .create_new(opening.create && opening.exclusive)
            .mode(opening.mode.unwrap_or(0o666) & MODE_BITS)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(local)?;
        // Not by the flag: together with O_APPEND the standard library refuses it.
        if opening.truncate && opening.write {
            file.set_len(0)?;
        }
        Ok(file)
    }

    pub(super) fn open_directory(&self, path: &str) -> Result<fs::ReadDir, Refusal> {
        Ok(fs::read_dir(self.followed(path)?)?)
    }

    pub(super) fn remove(&self, path: &str) -> Result<(), Refusal> {
        let local = self.changeable(path)?;
        if fs::symlink_metadata(&local)?.is_dir() {
            return Err(Refusal::new(Code::Failure, "is a directory"));
        }
        Ok(fs::remove_file(local)?)
    }

    pub(super) fn make_directory(&self, path: &str, mode: Option<u32>) -> Result<(), Refusal> {
        let local = self.changeable(path)?;
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, mode.unwrap_or(0o777) & MODE_BITS);
        Ok(builder.create(local)?)
    }

    pub(super) fn remove_directory(&self, path: &str) -> Result<(), Refusal> {
        Ok(fs::remove_dir(self.changeable(path)?)?)
    }

    /// `replace`: as rename(2) (posix-rename@openssh.com); else it fails where the new name exists (draft §6.5).
    pub(super) fn rename(&self, from: &str, to: &str, replace: bool) -> Result<(), Refusal> {
        let (from, to) = (self.changeable(from)?, self.changeable(to)?);
        if replace {
            return Ok(fs::rename(from, to)?);
        }
        match rustix::fs::renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE) {
            // A file system without the flag.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => match fs::symlink_metadata(&to) {
                Ok(_) => Err(io::Error::from(io::ErrorKind::AlreadyExists).into()),
                Err(_) => Ok(fs::rename(from, to)?),
            },
            renamed => Ok(renamed?),
        }
    }

    pub(super) fn change(&self, path: &str, changes: Changes) -> Result<(), Refusal> {
        let local = self.followed(path)?;
        let metadata = fs::metadata(&local)?;
        if let Some(size) = changes.size {
            let opening = Opening { write: true, ..Opening::default() };
            self.open_file(path, opening)?.set_len(size)?;
        }
        if let Some(mode) = changes.mode {
            fs::set_permissions(&local, Permissions::from_mode(mode & MODE_BITS))?;
        }
        if let Some((owner, group)) = changed_owner(&metadata, changes.owner) {
            std::os::unix::fs::chown(&local, Some(owner), Some(group))?;
        }
        if let Some(times) = changes.times {
            rustix::fs::utimensat(CWD, &local, &timestamps(times), AtFlags::empty())?;
        }
        Ok(())
    }

    pub(super) fn file_system(&self, path: &str) -> Result<rustix::fs::StatVfs, Refusal> {
        Ok(rustix::fs::statvfs(self.followed(path)?)?)
    }
}

/// FSETSTAT: the same changes through an open file.
pub(super) fn change_file(file: &File, changes: Changes) -> Result<(), Refusal> {
    if let Some(size) = changes.size {
        file.set_len(size)?;
    }
    if let Some(mode) = changes.mode {
        file.set_permissions(Permissions::from_mode(mode & MODE_BITS))?;
    }
    if let Some((owner, group)) = changed_owner(&file.metadata()?, changes.owner) {
        std::os::unix::fs::fchown(file, Some(owner), Some(group))?;
    }
    if let Some(times) = changes.times {
        rustix::fs::futimens(file, &timestamps(times))?;
    }
    Ok(())
}

/// Clients that copy attributes send the owner a file already has; that is no change and needs no privilege.
fn changed_owner(metadata: &Metadata, owner: Option<(u32, u32)>) -> Option<(u32, u32)> {
    owner.filter(|&owner| owner != (metadata.uid(), metadata.gid()))
}

fn timestamps((access, modification): (u32, u32)) -> Timestamps {
    let seconds = |seconds: u32| Timespec { tv_sec: seconds.into(), tv_nsec: 0 };
    Timestamps { last_access: seconds(access), last_modification: seconds(modification) }
}

/// The names of a pathname from the root on, `.` and `..` resolved.
fn segments(path: &str) -> Result<Vec<OsString>, Refusal> {
    if path.contains('\0') {
        return Err(Refusal::new(Code::BadMessage, "a pathname has no NUL"));
    }
    let mut segments = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => segments.push(name.to_owned()),
            Component::ParentDir => {
                segments.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    /// `outer/secret`, and `outer/served` with links of all kinds.
    fn served() -> (tempfile::TempDir, Folder) {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("served");
        fs::create_dir_all(root.join("sub/deep")).unwrap();
        fs::create_dir(outer.path().join("other")).unwrap();
        fs::write(outer.path().join("secret"), "secret").unwrap();
        fs::write(root.join("sub/file"), "inside").unwrap();
        symlink("../secret", root.join("out")).unwrap();
        symlink(outer.path().join("secret"), root.join("out-absolute")).unwrap();
        symlink("..", root.join("up")).unwrap();
        symlink("../not-there", root.join("dangling")).unwrap();
        symlink("sub/file", root.join("in")).unwrap();
        symlink("..", root.join("sub/deep/up")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let folder = Folder::open(&root).unwrap();
        (outer, folder)
    }

    fn code<T: std::fmt::Debug>(result: Result<T, Refusal>) -> Code {
        result.unwrap_err().code
    }

    #[test]
    fn dot_dot_ends_at_the_root() {
        let (_outer, folder) = served();
        for path in ["..", "/..", "../..", "/sub/../..", "sub/../../sub/..", "", "/", "."] {
            assert_eq!(folder.real_path(path).unwrap(), "/", "{path}");
        }
        assert_eq!(folder.real_path("../../sub/./file").unwrap(), "/sub/file");
        assert_eq!(code(folder.stat("../secret")), Code::NoSuchFile);
    }

    #[test]
    fn a_link_may_lead_anywhere_inside_and_nowhere_else() {
        let (outer, folder) = served();
        assert_eq!(folder.real_path("in").unwrap(), "/sub/file");
        assert_eq!(folder.real_path("sub/deep/up/file").unwrap(), "/sub/file");
        assert_eq!(folder.read_link("in").unwrap(), "sub/file");
        // What counts is where a path ends.
        assert_eq!(folder.real_path("up/served/sub").unwrap(), "/sub");
        let create = Opening { write: true, create: true, ..Opening::default() };
        for path in ["out", "out-absolute", "up", "up/secret", "up/other", "dangling"] {
            assert_eq!(code(folder.stat(path)), Code::PermissionDenied, "{path}");
            assert_eq!(code(folder.open_file(path, create)), Code::PermissionDenied, "{path}");
            assert_eq!(code(folder.change(path, Changes::default())), Code::PermissionDenied, "{path}");
        }
        for path in ["up/new", "up/other/new"] {
            assert_eq!(code(folder.make_directory(path, None)), Code::PermissionDenied);
            assert_eq!(code(folder.rename("sub/file", path, true)), Code::PermissionDenied);
        }
        assert_eq!(code(folder.remove("up/secret")), Code::PermissionDenied);
        assert_eq!(code(folder.remove_directory("up/other")), Code::PermissionDenied);
        assert_eq!(code(folder.rename("up/secret", "mine", true)), Code::PermissionDenied);
        assert_eq!(code(folder.open_directory("up")), Code::PermissionDenied);
        assert_eq!(code(folder.read_link("out-absolute")), Code::PermissionDenied);
        assert_eq!(code(folder.stat("loop")), Code::NoSuchFile);
        assert_eq!(fs::read(outer.path().join("secret")).unwrap(), b"secret");
        assert!(!outer.path().join("not-there").exists());
    }

    #[test]
    fn a_link_itself_can_be_seen_and_removed() {
        let (outer, folder) = served();
        assert!(folder.lstat("out").unwrap().is_symlink());
        folder.remove("out").unwrap();
        assert!(outer.path().join("secret").exists());
        assert_eq!(code(folder.lstat("out")), Code::NoSuchFile);
    }

    #[test]
    fn the_root_itself_cannot_be_changed() {
        let (_outer, folder) = served();
        assert_eq!(code(folder.remove_directory("/")), Code::PermissionDenied);
        assert_eq!(code(folder.rename("/", "/sub/x", true)), Code::PermissionDenied);
        assert_eq!(code(folder.rename("/sub", "/..", true)), Code::PermissionDenied);
    }

    #[test]
    fn refusals_carry_the_code_of_their_reason() {
        let (_outer, folder) = served();
        let write = Opening { write: true, ..Opening::default() };
        assert_eq!(code(folder.open_file("none", write)), Code::NoSuchFile);
        assert_eq!(code(folder.open_file("none/none", write)), Code::NoSuchFile);
        assert_eq!(code(folder.open_file("sub/file/x", write)), Code::NoSuchFile);
        assert_eq!(code(folder.open_file("sub", write)), Code::Failure);
        assert_eq!(code(folder.open_file("a\0b", write)), Code::BadMessage);
        assert_eq!(code(folder.make_directory("sub", None)), Code::Failure);
        let not_empty = folder.remove_directory("sub").unwrap_err();
        assert_eq!(not_empty, Refusal::new(Code::Failure, "directory not empty"));
        assert_eq!(code(folder.remove("sub")), Code::Failure);
        assert_eq!(code(folder.rename("sub/file", "in", false)), Code::Failure);
        let exclusive = Opening { create: true, exclusive: true, ..write };
        assert_eq!(code(folder.open_file("sub/file", exclusive)), Code::Failure);
    }

    #[test]
    fn rename_replaces_only_when_asked() {
        let (outer, folder) = served();
        let root = outer.path().join("served");
        fs::write(root.join("new"), "new").unwrap();
        assert_eq!(code(folder.rename("new", "sub/file", false)), Code::Failure);
        assert_eq!(fs::read(root.join("sub/file")).unwrap(), b"inside");
        folder.rename("new", "sub/file", true).unwrap();
        assert_eq!(fs::read(root.join("sub/file")).unwrap(), b"new");
        folder.rename("sub/file", "moved", false).unwrap();
        assert!(root.join("moved").exists());
    }

    #[test]
    fn changes_reach_the_file() {
        let (outer, folder) = served();
        let changes =
            Changes { size: Some(3), mode: Some(0o104_600), owner: None, times: Some((1_000_000_000, 1_100_000_000)) };
        folder.change("in", changes).unwrap();
        let metadata = fs::metadata(outer.path().join("served/sub/file")).unwrap();
        assert_eq!((metadata.len(), metadata.mode() & 0o7777, metadata.mtime()), (3, 0o600, 1_100_000_000));
    }

    proptest! {
        // Each case makes a folder of its own.
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_pathname_leads_out(path in "(\\.\\.|\\.|/|up|sub|deep|out|in|dangling|loop|served|secret){0,12}") {
            let (_outer, folder) = served();
            if let Ok(local) = folder.followed(&path) {
                prop_assert!(local.starts_with(&folder.root), "{:?}", local);
            }
            if let Ok(local) = folder.entry(&path) {
                prop_assert!(local.starts_with(&folder.root), "{:?}", local);
            }
        }
    }
}
