//! A user's root: the only way from the paths a client sees to the paths the SFTP server sees.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::OnceCell;

use crate::config::{Symlinks, User};
use crate::ftp::path::VirtualPath;
use crate::sftp::{BackendPath, FileKind, Session, SftpError, StatusCode};

/// Does the operation follow a symbolic link in the last component?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// It does (RETR, CWD, LIST …): the whole path must stay inside.
    Last,
    /// It acts on the name itself (DELE, RNFR …): only the directory must be inside.
    Parent,
}

/// Directories remembered as inside; clients work in few at a time.
const MAX_KNOWN: usize = 16;

/// Why a path may not be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RootError {
    /// A symbolic link leads out of the root, or is hidden.
    #[error("the path leads over a symbolic link that the policy does not follow")]
    Outside,
    /// The backend could not be asked, or said no.
    #[error(transparent)]
    Sftp(#[from] SftpError),
}

/// The directory of the backend that a user sees as `/`.
#[derive(Debug)]
pub struct Root {
    /// Without a trailing slash: empty for the backend's own root.
    prefix: Vec<u8>,
    links: Symlinks,
    /// What the prefix really is; asked once.
    real: OnceCell<BackendPath>,
    /// Directories that were found inside, the latest last.
    known: Mutex<VecDeque<BackendPath>>,
}

impl Root {
    /// The root of a user entry.
    pub fn new(user: &User) -> Self {
        let mut prefix = user.root.clone();
        while prefix.last() == Some(&b'/') {
            prefix.pop();
        }
        Self { prefix, links: user.policy.symlinks, real: OnceCell::new(), known: Mutex::default() }
    }

    /// Where a path is on the backend.
    ///
    /// SECURITY: a `VirtualPath` is absolute and holds no `..`, so the result is below the root, lexically.
    pub fn locate(&self, path: &VirtualPath) -> BackendPath {
        if path.is_root() && !self.prefix.is_empty() {
            return BackendPath::from_bytes(self.prefix.clone());
        }
        let mut located = self.prefix.clone();
        located.extend_from_slice(path.as_bytes());
        BackendPath::from_bytes(located)
    }

    /// What the client sees of a path that the backend told; `None` outside the root.
    pub fn show(&self, path: &BackendPath) -> Option<VirtualPath> {
        let below = strip(path.as_bytes(), &self.prefix)?;
        if below.is_empty() { Some(VirtualPath::root()) } else { VirtualPath::root().resolve(below).ok() }
    }

    /// What the client sees of what a link at `path` names; `None` where that is outside the root.
    ///
    /// It need not exist, so there is nothing to ask the backend: `..` counts as it is written.
    pub fn show_target(&self, path: &BackendPath, target: &[u8]) -> Option<Vec<u8>> {
        if target.starts_with(b"/") {
            return Some(self.show(&BackendPath::from_bytes(target.to_vec()))?.as_bytes().to_vec());
        }
        let directory = self.show(&path.parent())?;
        let mut depth = directory.as_bytes().split(|byte| *byte == b'/').filter(|segment| !segment.is_empty()).count();
        for segment in target.split(|byte| *byte == b'/') {
            depth = match segment {
                b"" | b"." => depth,
                b".." => depth.checked_sub(1)?,
                _ => depth + 1,
            };
        }
        Some(target.to_vec())
    }

    /// Is there nothing to be asked? Out of `/` no link can lead.
    fn is_open(&self) -> bool {
        match self.links {
            Symlinks::Follow => true,
            Symlinks::Inside => self.prefix.is_empty(),
            Symlinks::Hide => false,
        }
    }

    /// Checks with the backend that no symbolic link leads out of the root, or where links are hidden, that there is none.
    ///
    /// SECURITY: the backend may change between this check and the use (there is no `openat` in SFTP); where users
    /// can make links by other ways, let the backend confine them (OpenSSH's ChrootDirectory).
    ///
    /// # Errors
    /// [`RootError::Outside`], or what REALPATH said.
    pub async fn check(&self, sftp: &Session, path: &BackendPath, follow: Follow) -> Result<(), RootError> {
        if self.is_open() || path.as_bytes() == self.prefix || path.as_bytes() == b"/" {
            return Ok(());
        }
        let parent = path.parent();
        if self.links == Symlinks::Hide {
            return self.check_for_links(sftp, path, parent).await;
        }
        let asked = match follow {
            Follow::Parent => &parent,
            Follow::Last => path,
        };
        // In one flight; what the prefix is, is asked only once.
        let root = self.real.get_or_try_init(|| sftp.real_path(&self.prefix));
        let (root, real) = tokio::join!(root, sftp.real_path(asked.as_bytes()));
        let real = match real {
            // What does not exist cannot lead anywhere; its directory can.
            Err(SftpError::Status { code: StatusCode::NO_SUCH_FILE, .. }) if follow == Follow::Last => {
                sftp.real_path(parent.as_bytes()).await?
            }
            other => other?,
        };
        strip(real.as_bytes(), root?.as_bytes()).ok_or(RootError::Outside)?;
        // What was asked for is inside; of the directory of a link that leads inside, nothing is known.
        self.learn(asked.clone());
        Ok(())
    }

    /// A directory without a link in it is really where its name says.
    async fn check_for_links(&self, sftp: &Session, path: &BackendPath, parent: BackendPath) -> Result<(), RootError> {
        let root =
            self.real.get_or_try_init(|| sftp.real_path(if self.prefix.is_empty() { b"/" } else { &self.prefix }));
        let (root, real, attributes) = tokio::join!(root, sftp.real_path(parent.as_bytes()), sftp.lstat(path));
        let (root, real) = (root?, real?);
        let below = |path, root| strip(path, root).map(|below| below.strip_suffix(b"/").unwrap_or(below));
        let said = below(parent.as_bytes(), &self.prefix);
        let is_there = said.is_some() && below(real.as_bytes(), root.as_bytes()) == said;
        let is_link = match attributes.map(|attributes| attributes.kind()) {
            Ok(Some(kind)) => kind == FileKind::Symlink,
            Err(SftpError::Status { code: StatusCode::NO_SUCH_FILE, .. }) => false,
            // SECURITY: a server that tells no kinds, or does not answer, has not said that it is none.
            Ok(None) | Err(_) => {
                let real = sftp.real_path(path.as_bytes()).await?;
                let said = below(path.as_bytes(), &self.prefix);
                below(real.as_bytes(), root.as_bytes()) != said
            }
        };
        if !is_there || is_link {
            return Err(RootError::Outside);
        }
        self.learn(parent);
        Ok(())
    }

    /// Has the directory of this path been found inside before? Then something new may be made there while the check is
    /// still under way, to be undone if it says no: in between, the backend would have had to change.
    pub fn knows_directory_of(&self, path: &BackendPath) -> bool {
        let parent = path.parent();
        self.is_open()
            || parent.as_bytes() == self.prefix
            || self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&parent)
    }

    fn learn(&self, directory: BackendPath) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|other| *other != directory);
        if known.len() == MAX_KNOWN {
            known.pop_front();
        }
        known.push_back(directory);
    }
}

/// What is left of `path` below `root`, segment-wise.
fn strip<'a>(path: &'a [u8], root: &[u8]) -> Option<&'a [u8]> {
    let root = root.strip_suffix(b"/").unwrap_or(root);
    path.strip_prefix(root).filter(|below| below.is_empty() || below.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_begins_like_the_root_is_not_below_it() {
        assert_eq!(strip(b"/srv/acme/in", b"/srv/acme"), Some(&b"/in"[..]));
        assert_eq!(strip(b"/srv/acme", b"/srv/acme"), Some(&b""[..]));
        assert_eq!(strip(b"/srv/acme-other", b"/srv/acme"), None);
        assert_eq!(strip(b"/srv", b"/"), Some(&b"/srv"[..]));
    }

    #[test]
    fn what_a_link_names_is_shown_inside_the_root_only() {
        let prefix = b"/srv/acme".to_vec();
        let root = Root { prefix, links: Symlinks::Inside, real: OnceCell::new(), known: Mutex::default() };
        let path = BackendPath::from_bytes(b"/srv/acme/in/link".to_vec());
        for (target, shown) in [
            ("unborn", Some("unborn")),
            ("./a/../../b", Some("./a/../../b")),
            ("../../secret", None),
            ("a/../../../acme/b", None),
            ("/srv/acme/out/b", Some("/out/b")),
            ("/srv/acme-other/b", None),
            ("/etc/shadow", None),
        ] {
            let expected = shown.map(|shown| shown.as_bytes().to_vec());
            assert_eq!(root.show_target(&path, target.as_bytes()), expected, "{target}");
        }
    }
}
