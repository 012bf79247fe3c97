//! An in-memory file tree with the semantics of a POSIX file system, as far as SFTP shows them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use ftps2sftp::sftp::{Attributes, OpenFlags, StatusCode};

/// What every new file and directory bears, unless told otherwise.
pub const MODIFIED: u32 = 1_700_000_000;

/// Links followed before a loop is assumed.
const MAX_LINKS: usize = 40;

/// One file, directory or link; open handles keep it after its name is gone.
pub type SharedNode = Arc<Mutex<Node>>;

/// A file, directory or link.
#[derive(Debug)]
pub struct Node {
    pub content: Content,
    pub mode: u32,
    pub owner: (u32, u32),
    pub times: (u32, u32),
}

#[derive(Debug)]
pub enum Content {
    File(Vec<u8>),
    Directory,
    Symlink(Vec<u8>),
}

impl Node {
    fn new(content: Content, mode: u32) -> SharedNode {
        Arc::new(Mutex::new(Self { content, mode, owner: (1000, 1000), times: (MODIFIED, MODIFIED) }))
    }

    pub fn attributes(&self) -> Attributes {
        let (kind, size) = match &self.content {
            Content::File(data) => (0o100_000, data.len() as u64),
            Content::Directory => (0o040_000, 4096),
            Content::Symlink(target) => (0o120_000, target.len() as u64),
        };
        Attributes {
            size: Some(size),
            owner: Some(self.owner),
            permissions: Some(kind | self.mode),
            times: Some(self.times),
            extended: Vec::new(),
        }
    }

    pub fn change(&mut self, attributes: &Attributes) {
        if let (Some(size), Content::File(data)) = (attributes.size, &mut self.content) {
            data.resize(usize::try_from(size).unwrap(), 0);
        }
        if let Some(permissions) = attributes.permissions {
            self.mode = permissions & 0o7777;
        }
        if let Some(times) = attributes.times {
            self.times = times;
        }
        if let Some(owner) = attributes.owner {
            self.owner = owner;
        }
    }
}

/// Names and what they name. Absolute, normal paths only.
#[derive(Debug)]
pub struct Tree {
    names: BTreeMap<Vec<u8>, SharedNode>,
    /// Bytes that files may hold together.
    pub capacity: Option<u64>,
}

/// Where a session begins; relative names start here.
pub const HOME: &[u8] = b"/home/user";

impl Default for Tree {
    fn default() -> Self {
        let mut tree = Self { names: BTreeMap::new(), capacity: None };
        for path in ["/", "/home", "/home/user"] {
            tree.names.insert(path.into(), Node::new(Content::Directory, 0o755));
        }
        tree
    }
}

impl Tree {
    /// Puts a file there, for a test to begin with.
    pub fn put_file(&mut self, path: impl AsRef<[u8]>, data: impl Into<Vec<u8>>) {
        self.names.insert(path.as_ref().to_vec(), Node::new(Content::File(data.into()), 0o644));
    }

    pub fn put_directory(&mut self, path: impl AsRef<[u8]>) {
        self.names.insert(path.as_ref().to_vec(), Node::new(Content::Directory, 0o755));
    }

    pub fn put_symlink(&mut self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) {
        self.names.insert(path.as_ref().to_vec(), Node::new(Content::Symlink(target.as_ref().to_vec()), 0o777));
    }

    /// Forgets everything but the home, for the next test to begin with.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Gives what stands there these attributes, for a test to begin with.
    pub fn dress(&mut self, path: impl AsRef<[u8]>, attributes: &Attributes) {
        lock(&self.names[path.as_ref()]).change(attributes);
    }

    /// Where a link leads, for a test to look at.
    pub fn link(&self, path: impl AsRef<[u8]>) -> Option<Vec<u8>> {
        match &lock(self.names.get(path.as_ref())?).content {
            Content::Symlink(target) => Some(target.clone()),
            Content::File(_) | Content::Directory => None,
        }
    }

    /// Sets when it was modified, for a test to begin with.
    pub fn date(&mut self, path: impl AsRef<[u8]>, modified: u32) {
        lock(&self.names[path.as_ref()]).times = (modified, modified);
    }

    /// What a file holds, for a test to look at.
    pub fn file(&self, path: impl AsRef<[u8]>) -> Option<Vec<u8>> {
        match &lock(self.names.get(path.as_ref())?).content {
            Content::File(data) => Some(data.clone()),
            Content::Directory | Content::Symlink(_) => None,
        }
    }

    pub fn attributes(&self, path: impl AsRef<[u8]>) -> Option<Attributes> {
        Some(lock(self.names.get(path.as_ref())?).attributes())
    }

    /// Every name, sorted.
    pub fn names(&self) -> Vec<Vec<u8>> {
        self.names.keys().cloned().collect()
    }

    /// The canonical name, links resolved; the last segment need not exist.
    pub fn resolve(&self, path: &[u8], follow_last: bool) -> Result<Vec<u8>, StatusCode> {
        self.resolve_from(path, follow_last, MAX_LINKS)
    }

    fn resolve_from(&self, path: &[u8], follow_last: bool, links: usize) -> Result<Vec<u8>, StatusCode> {
        let links = links.checked_sub(1).ok_or(StatusCode::NO_SUCH_FILE)?;
        let mut resolved = if path.starts_with(b"/") { b"/".to_vec() } else { HOME.to_vec() };
        let segments: Vec<_> = path.split(|byte| *byte == b'/').filter(|segment| !segment.is_empty()).collect();
        for (index, segment) in segments.iter().enumerate() {
            let last = index + 1 == segments.len();
            match *segment {
                b"." => continue,
                b".." => {
                    resolved = parent(&resolved);
                    continue;
                }
                name => resolved = joined(&resolved, name),
            }
            let target = match self.names.get(&resolved).map(lock).as_deref() {
                Some(Node { content: Content::Symlink(target), .. }) if !last || follow_last => target.clone(),
                Some(Node { content: Content::File(_), .. }) | None if !last => return Err(StatusCode::NO_SUCH_FILE),
                _ => continue,
            };
            let target = if target.starts_with(b"/") { target } else { joined(&parent(&resolved), &target) };
            resolved = self.resolve_from(&target, true, links)?;
        }
        Ok(resolved)
    }

    pub fn find(&self, path: &[u8], follow_last: bool) -> Result<SharedNode, StatusCode> {
        let path = self.resolve(path, follow_last)?;
        self.names.get(&path).cloned().ok_or(StatusCode::NO_SUCH_FILE)
    }

    pub fn open(&mut self, path: &[u8], flags: OpenFlags, mode: Option<u32>) -> Result<SharedNode, StatusCode> {
        let path = self.resolve(path, true)?;
        if let Some(node) = self.names.get(&path) {
            let mut found = lock(node);
            if flags.create && flags.exclusive {
                return Err(StatusCode::FILE_ALREADY_EXISTS);
            }
            if (flags.read && found.mode & 0o400 == 0) || (flags.write && found.mode & 0o200 == 0) {
                return Err(StatusCode::PERMISSION_DENIED);
            }
            match &mut found.content {
                Content::File(data) if flags.truncate => data.clear(),
                // As OpenSSH does: a directory opens for reading, and only READ fails.
                Content::Directory if flags.write => return Err(StatusCode::FAILURE),
                _ => {}
            }
            return Ok(Arc::clone(node));
        }
        if !flags.create {
            return Err(StatusCode::NO_SUCH_FILE);
        }
        self.writable_parent(&path)?;
        let node = Node::new(Content::File(Vec::new()), mode.unwrap_or(0o666) & 0o7777 & !0o022);
        self.names.insert(path, Arc::clone(&node));
        Ok(node)
    }

    /// Writes what there is room for, and says so if that was not all.
    pub fn write(&self, node: &SharedNode, offset: u64, data: &[u8]) -> Result<(), StatusCode> {
        let used: u64 = self.names.values().map(|node| file_length(&lock(node))).sum();
        let mut node = lock(node);
        let Content::File(file) = &mut node.content else {
            return Err(StatusCode::FAILURE);
        };
        let begin = usize::try_from(offset).map_err(|_| StatusCode::BAD_MESSAGE)?;
        let growth = (begin + data.len()).saturating_sub(file.len()) as u64;
        let over = self.capacity.map_or(0, |capacity| (used + growth).saturating_sub(capacity));
        let fits = data.len().saturating_sub(usize::try_from(over).unwrap());
        if file.len() < begin + fits {
            file.resize(begin + fits, 0);
        }
        file[begin..begin + fits].copy_from_slice(&data[..fits]);
        if over > 0 { Err(StatusCode::NO_SPACE_ON_FILESYSTEM) } else { Ok(()) }
    }

    /// Bytes left below the capacity.
    pub fn room(&self) -> u64 {
        let used: u64 = self.names.values().map(|node| file_length(&lock(node))).sum();
        self.capacity.map_or(1 << 40, |capacity| capacity.saturating_sub(used))
    }

    pub fn make_directory(&mut self, path: &[u8], mode: Option<u32>) -> Result<(), StatusCode> {
        let path = self.resolve(path, false)?;
        if self.names.contains_key(&path) {
            return Err(StatusCode::FILE_ALREADY_EXISTS);
        }
        self.writable_parent(&path)?;
        self.names.insert(path, Node::new(Content::Directory, mode.unwrap_or(0o777) & 0o7777 & !0o022));
        Ok(())
    }

    pub fn remove(&mut self, path: &[u8]) -> Result<(), StatusCode> {
        let path = self.resolve(path, false)?;
        let node = self.names.get(&path).ok_or(StatusCode::NO_SUCH_FILE)?;
        if matches!(lock(node).content, Content::Directory) {
            return Err(StatusCode::FAILURE);
        }
        self.writable_parent(&path)?;
        self.names.remove(&path);
        Ok(())
    }

    pub fn remove_directory(&mut self, path: &[u8]) -> Result<(), StatusCode> {
        let path = self.resolve(path, false)?;
        let node = self.names.get(&path).ok_or(StatusCode::NO_SUCH_FILE)?;
        if !matches!(lock(node).content, Content::Directory) {
            return Err(StatusCode::NO_SUCH_FILE);
        }
        if !self.list(&path)?.is_empty() {
            return Err(StatusCode::FAILURE);
        }
        self.writable_parent(&path)?;
        self.names.remove(&path);
        Ok(())
    }

    pub fn rename(&mut self, from: &[u8], to: &[u8], replace: bool) -> Result<(), StatusCode> {
        let (from, to) = (self.resolve(from, false)?, self.resolve(to, false)?);
        if !self.names.contains_key(&from) {
            return Err(StatusCode::NO_SUCH_FILE);
        }
        if let Some(target) = self.names.get(&to)
            && (!replace || matches!(lock(target).content, Content::Directory))
        {
            return Err(StatusCode::FILE_ALREADY_EXISTS);
        }
        // ENOTDIR, as OpenSSH tells it: a directory takes the place of no file.
        let is_directory =
            |name| self.names.get(name).is_some_and(|node| matches!(lock(node).content, Content::Directory));
        if self.names.contains_key(&to) && is_directory(&from) {
            return Err(StatusCode::NO_SUCH_FILE);
        }
        self.writable_parent(&from)?;
        self.writable_parent(&to)?;
        let below = joined(&from, b"");
        let moved: Vec<_> =
            self.names.keys().filter(|name| **name == from || name.starts_with(&below)).cloned().collect();
        for name in moved {
            let node = self.names.remove(&name).unwrap();
            self.names.insert([to.as_slice(), &name[from.len()..]].concat(), node);
        }
        Ok(())
    }

    /// The names in a directory, without `.` and `..`.
    pub fn list(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, Attributes)>, StatusCode> {
        let path = self.resolve(path, true)?;
        let node = self.names.get(&path).ok_or(StatusCode::NO_SUCH_FILE)?;
        if !matches!(lock(node).content, Content::Directory) {
            return Err(StatusCode::NO_SUCH_FILE);
        }
        if lock(node).mode & 0o400 == 0 {
            return Err(StatusCode::PERMISSION_DENIED);
        }
        let below = joined(&path, b"");
        let inside = self.names.range(below.clone()..).take_while(|(name, _)| name.starts_with(&below));
        Ok(inside
            .filter(|(name, _)| name.len() > below.len() && !name[below.len()..].contains(&b'/'))
            .map(|(name, node)| (name[below.len()..].to_vec(), lock(node).attributes()))
            .collect())
    }

    fn writable_parent(&self, path: &[u8]) -> Result<(), StatusCode> {
        let parent = self.names.get(&parent(path)).ok_or(StatusCode::NO_SUCH_FILE)?;
        let parent = lock(parent);
        match parent.content {
            Content::Directory if parent.mode & 0o200 == 0 => Err(StatusCode::PERMISSION_DENIED),
            Content::Directory => Ok(()),
            Content::File(_) | Content::Symlink(_) => Err(StatusCode::NO_SUCH_FILE),
        }
    }
}

pub fn lock(node: &SharedNode) -> MutexGuard<'_, Node> {
    node.lock().unwrap()
}

fn file_length(node: &Node) -> u64 {
    match &node.content {
        Content::File(data) => data.len() as u64,
        Content::Directory | Content::Symlink(_) => 0,
    }
}

fn parent(path: &[u8]) -> Vec<u8> {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) | None => b"/".to_vec(),
        Some(slash) => path[..slash].to_vec(),
    }
}

fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if directory.ends_with(b"/") { b"" } else { b"/" };
    [directory, slash, name].concat()
}
