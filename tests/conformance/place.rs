//! Where a user's files are: made before a case, looked at after it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use ftps2sftp::ftp::time;
use ftps2sftp::sftp::Attributes;

use crate::support::scripted_sftp::ScriptedSftp;
use crate::text::{bytes, is_named, no_meanings};

/// When everything was modified, unless a case says otherwise: 2020-01-01T00:00:00Z.
const MODIFIED: i64 = 1_577_836_800;

/// The one file outside of the user's directory, and what it holds.
const OUTSIDE: (&str, &str) = ("secret.txt", "nobody's business\n");

/// A user's directory, and one beside it that is none of the user's business.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Folder { root: PathBuf, outside: Option<PathBuf>, owner: (u32, u32) },
    Scripted { sftp: ScriptedSftp, root: &'static str, outside: &'static str },
}

/// What stands under a name; what is `None` is not looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    kind: Kind,
    mode: Option<u32>,
    modified: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    File(Vec<u8>),
    Directory,
    Link(Vec<u8>),
    Special,
}

/// Names below the user's directory, and what stands there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Tree(BTreeMap<Vec<u8>, Node>);

/// One word of a table: a name, and what is said of it.
#[derive(Debug, Clone)]
struct Entry {
    name: String,
    gone: bool,
    kind: Option<Kind>,
    mode: Option<u32>,
    modified: Option<i64>,
}

/// `name="content"`, `name/`, `name->target`, `name|`, `!name`; then `:mode` and `@time`.
fn entry(word: &str) -> Result<Entry, String> {
    let wrong = |what: &str| format!("`{word}`: {what}");
    let mut entry = Entry { name: String::new(), gone: false, kind: None, mode: None, modified: None };
    if let Some(name) = word.strip_prefix('!') {
        return Ok(Entry { name: name.to_owned(), gone: true, ..entry });
    }
    let (head, content) = match word.split_once("=\"") {
        Some((head, rest)) => {
            let end = rest.rfind('"').ok_or_else(|| wrong("the quotes are not closed"))?;
            (format!("{head}{}", &rest[end + 1..]), Some(&rest[..end]))
        }
        None => (word.to_owned(), None),
    };
    let (head, modified) = match head.rsplit_once('@') {
        Some((head, moment)) => {
            (head, Some(time::parse_compact(moment.as_bytes()).ok_or_else(|| wrong("not YYYYMMDDHHMMSS"))?))
        }
        None => (head.as_str(), None),
    };
    let (head, mode) = match head.rsplit_once(':') {
        Some((head, mode)) => (head, Some(u32::from_str_radix(mode, 8).map_err(|error| wrong(&error.to_string()))?)),
        None => (head, None),
    };
    (entry.mode, entry.modified) = (mode, modified);
    if let Some(content) = content {
        entry.kind = Some(Kind::File(bytes(content, &no_meanings)?));
        entry.name = head.to_owned();
    } else if let Some(name) = head.strip_suffix('/') {
        entry.kind = Some(Kind::Directory);
        entry.name = name.to_owned();
    } else if let Some(name) = head.strip_suffix('|') {
        entry.kind = Some(Kind::Special);
        entry.name = name.to_owned();
    } else if let Some((name, target)) = head.split_once("->") {
        entry.kind = Some(Kind::Link(bytes(target, &no_meanings)?));
        entry.name = name.to_owned();
    } else if mode.is_some() || modified.is_some() {
        entry.name = head.to_owned();
    } else {
        return Err(wrong("what of this name?"));
    }
    Ok(entry)
}

impl Place {
    /// Removes what the case before left, and makes what this one begins with.
    pub(crate) fn prepare(&self, files: &[String]) -> Result<(), String> {
        self.clear().map_err(|error| format!("the directory cannot be emptied: {error}"))?;
        let mut entries = files.iter().map(|word| entry(word)).collect::<Result<Vec<_>, _>>()?;
        for entry in &entries {
            let name = bytes(&entry.name, &no_meanings)?;
            let kind = entry.kind.clone().ok_or_else(|| format!("{}: not a thing to make", entry.name))?;
            self.make(&name, &kind).map_err(|error| format!("{}: {error}", entry.name))?;
        }
        // What is deeper first: modes may shut the way, and each file changes the time of its directory.
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.name.matches('/').count()));
        for entry in entries {
            let name = bytes(&entry.name, &no_meanings)?;
            let modified = entry.modified.unwrap_or(MODIFIED);
            if let Some(kind @ (Kind::File(_) | Kind::Directory)) = &entry.kind {
                let usual = if *kind == Kind::Directory { 0o755 } else { 0o644 };
                let dressed = self.dress(&name, entry.mode.unwrap_or(usual), modified);
                dressed.map_err(|error| format!("{}: {error}", entry.name))?;
            }
        }
        Ok(())
    }

    fn clear(&self) -> io::Result<()> {
        match self {
            Self::Folder { root, outside, owner } => {
                // Some server may have changed it.
                fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
                for entry in fs::read_dir(root)? {
                    let path = entry?.path();
                    if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
                }
                if let Some(outside) = outside {
                    if outside.exists() {
                        fs::remove_dir_all(outside)?;
                    }
                    fs::create_dir(outside)?;
                    chown(outside, Some(owner.0), Some(owner.1))?;
                    let file = outside.join(OUTSIDE.0);
                    fs::write(&file, OUTSIDE.1)?;
                    chown(file, Some(owner.0), Some(owner.1))?;
                }
            }
            Self::Scripted { sftp, root, outside } => {
                let mut tree = sftp.tree();
                tree.clear();
                tree.put_directory(root);
                tree.put_directory(outside);
                tree.put_file(format!("{outside}/{}", OUTSIDE.0), OUTSIDE.1);
            }
        }
        Ok(())
    }

    fn make(&self, name: &[u8], kind: &Kind) -> io::Result<()> {
        match self {
            Self::Folder { root, owner, .. } => {
                let path = below(root, name);
                match kind {
                    Kind::File(content) => fs::write(&path, content)?,
                    Kind::Directory => fs::create_dir(&path)?,
                    Kind::Link(target) => return symlink(std::ffi::OsStr::from_bytes(target), &path),
                    Kind::Special => {
                        let made = std::process::Command::new("mkfifo").arg(&path).status()?;
                        if !made.success() {
                            return Err(io::Error::other("mkfifo failed"));
                        }
                    }
                }
                chown(&path, Some(owner.0), Some(owner.1))
            }
            Self::Scripted { sftp, root, .. } => {
                let path = [root.as_bytes(), b"/", name].concat();
                let mut tree = sftp.tree();
                match kind {
                    Kind::File(content) => tree.put_file(path, content.clone()),
                    Kind::Directory => tree.put_directory(path),
                    Kind::Link(target) => tree.put_symlink(path, target),
                    Kind::Special => return Err(io::Error::other("only on a real file system")),
                }
                Ok(())
            }
        }
    }

    fn dress(&self, name: &[u8], mode: u32, modified: i64) -> io::Result<()> {
        match self {
            Self::Folder { root, .. } => {
                let path = below(root, name);
                fs::File::open(&path)?
                    .set_modified(UNIX_EPOCH + Duration::from_secs(u64::try_from(modified).unwrap_or_default()))?;
                fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            }
            Self::Scripted { sftp, root, .. } => {
                let modified = u32::try_from(modified).unwrap_or_default();
                let attributes =
                    Attributes { permissions: Some(mode), times: Some((modified, modified)), ..Attributes::default() };
                sftp.tree().dress([root.as_bytes(), b"/", name].concat(), &attributes);
                Ok(())
            }
        }
    }

    /// What is there now, what is outside included.
    pub(crate) fn look(&self) -> io::Result<Tree> {
        let mut found = BTreeMap::new();
        match self {
            Self::Folder { root, outside, .. } => {
                gather(root, b"", &mut found)?;
                if let Some(outside) = outside {
                    gather(outside, b"../outside/", &mut found)?;
                }
            }
            Self::Scripted { sftp, root, outside } => {
                let tree = sftp.tree();
                for path in tree.names() {
                    let name = match (path.strip_prefix(root.as_bytes()), path.strip_prefix(outside.as_bytes())) {
                        (Some([b'/', name @ ..]), _) => name.to_vec(),
                        (_, Some([b'/', name @ ..])) => [b"../outside/", name].concat(),
                        _ => continue,
                    };
                    let attributes = tree.attributes(&path).unwrap_or_default();
                    let kind = match (tree.file(&path), tree.link(&path)) {
                        (Some(content), _) => Kind::File(content),
                        (None, Some(target)) => Kind::Link(target),
                        (None, None) => Kind::Directory,
                    };
                    let node = Node {
                        kind,
                        mode: attributes.permissions.map(|bits| bits & 0o7777),
                        modified: attributes.times.map(|(_, modified)| i64::from(modified)),
                    };
                    found.insert(name, node.looked_at());
                }
            }
        }
        Ok(Tree(found))
    }
}

impl Node {
    /// Links and special files have no attributes worth a look.
    fn looked_at(mut self) -> Self {
        if let Kind::Link(_) | Kind::Special = self.kind {
            (self.mode, self.modified) = (None, None);
        }
        self
    }
}

fn below(root: &Path, name: &[u8]) -> PathBuf {
    root.join(std::ffi::OsStr::from_bytes(name))
}

fn gather(directory: &Path, prefix: &[u8], found: &mut BTreeMap<Vec<u8>, Node>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = match entry.path().symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let name = [prefix, &entry.file_name().into_vec()].concat();
        let kind = if metadata.is_dir() {
            gather(&entry.path(), &[name.as_slice(), b"/"].concat(), found)?;
            Kind::Directory
        } else if metadata.is_symlink() {
            Kind::Link(fs::read_link(entry.path())?.into_os_string().into_vec())
        } else if metadata.file_type().is_fifo() {
            Kind::Special
        } else {
            Kind::File(fs::read(entry.path())?)
        };
        let node = Node { kind, mode: Some(metadata.mode() & 0o7777), modified: Some(metadata.mtime()) };
        found.insert(name, node.looked_at());
    }
    Ok(())
}

impl Tree {
    /// What is different from what should be after the effect of a case; `None` where nothing is.
    pub(crate) fn difference(&self, before: &Self, effect: &[String]) -> Result<Option<String>, String> {
        let mut wanted = before.0.clone();
        // Those of directories change with their entries.
        wanted.values_mut().filter(|node| node.kind == Kind::Directory).for_each(|node| node.modified = None);
        for word in effect {
            let entry = entry(word)?;
            let name = self.name_of(&entry.name, before)?;
            if entry.gone {
                let inside = [name.as_slice(), b"/"].concat();
                wanted.retain(|other, _| *other != name && !other.starts_with(&inside));
                continue;
            }
            let existing = wanted.get(&name).cloned();
            let node = match (entry.kind, existing) {
                // A new content has a new time; a file that was there keeps its mode.
                (Some(kind), existing) => {
                    let existing = existing.filter(|node| matches!(node.kind, Kind::File(_)));
                    Node { mode: entry.mode.or(existing.and_then(|node| node.mode)), modified: entry.modified, kind }
                }
                (None, Some(node)) => {
                    Node { mode: entry.mode.or(node.mode), modified: entry.modified.or(node.modified), ..node }
                }
                (None, None) => return Err(format!("`{word}`: there was no such file")),
            };
            wanted.insert(name, node);
        }
        let mut told = Vec::new();
        for (name, node) in &wanted {
            let show = name.escape_ascii();
            match self.0.get(name) {
                None => told.push(format!("{show}: missing")),
                Some(found) if found.kind != node.kind => {
                    told.push(format!("{show}: {} and not {}", found.kind, node.kind));
                }
                Some(found) if node.mode.is_some() && found.mode != node.mode => told.push(format!(
                    "{show}: mode {:o} and not {:o}",
                    found.mode.unwrap_or_default(),
                    node.mode.unwrap_or_default()
                )),
                Some(found) if node.modified.is_some() && found.modified != node.modified => told.push(format!(
                    "{show}: of {} and not of {}",
                    time::compact(found.modified.unwrap_or_default()),
                    time::compact(node.modified.unwrap_or_default())
                )),
                Some(_) => {}
            }
        }
        for (name, node) in &self.0 {
            if !wanted.contains_key(name) {
                told.push(format!("{}: {}, and should not be there", name.escape_ascii(), node.kind));
            }
        }
        Ok((!told.is_empty()).then(|| told.join(", ")))
    }

    /// The name a word means: with `*`, the one new name that fits.
    fn name_of(&self, pattern: &str, before: &Self) -> Result<Vec<u8>, String> {
        if !pattern.contains('*') || pattern.contains('{') {
            return bytes(pattern, &no_meanings);
        }
        for name in self.0.keys().filter(|name| !before.0.contains_key(*name)) {
            if is_named(name, pattern)? {
                return Ok(name.clone());
            }
        }
        Ok(pattern.as_bytes().to_vec())
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(content) if content.len() > 60 => write!(formatter, "a file of {} bytes", content.len()),
            Self::File(content) => write!(formatter, "a file with \"{}\"", content.escape_ascii()),
            Self::Directory => formatter.write_str("a directory"),
            Self::Link(target) => write!(formatter, "a link to {}", target.escape_ascii()),
            Self::Special => formatter.write_str("a special file"),
        }
    }
}
