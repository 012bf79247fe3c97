//! Tells when one of some files may have changed: inotify on their directories.
//!
//! A directory and not the file: Kubernetes swaps the symbolic link `..data` beside the files of a Secret, certbot and
//! editors rename a new file over the old one, and a watch of the file itself would go on watching the one that is
//! gone. What inotify does not see (network file systems, a link further up the path) is left to polling.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use inotify::{EventStream, Inotify, WatchDescriptor, WatchMask};

/// Directories that are watched; the kernel's usual bound for one user is some thousands.
const MAX_DIRECTORIES: usize = 256;

/// Room for what the kernel tells at a time, in bytes.
const EVENTS: usize = 4096;

/// The link that Kubernetes swaps when a Secret or ConfigMap changes.
const KUBERNETES_LINK: &str = "..data";

/// A watch over the directories of some files.
pub(super) struct Watch {
    events: EventStream<[u8; EVENTS]>,
    /// Names that matter, by the watch of their directory.
    names: HashMap<WatchDescriptor, BTreeSet<OsString>>,
}

impl Watch {
    /// Watches where these files are, and where links among them lead. What cannot be watched is left out.
    ///
    /// # Errors
    /// When the kernel gives no inotify.
    pub(super) fn over(files: &BTreeSet<PathBuf>) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let mut directories: BTreeMap<PathBuf, BTreeSet<OsString>> = BTreeMap::new();
        for file in files {
            let real = file.canonicalize().ok();
            for path in [Some(file), real.as_ref()].into_iter().flatten() {
                let Some(name) = path.file_name() else { continue };
                let directory = match path.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => parent,
                    _ => Path::new("."),
                };
                directories.entry(directory.to_owned()).or_default().insert(name.to_owned());
            }
        }
        let mut names: HashMap<WatchDescriptor, BTreeSet<OsString>> = HashMap::new();
        let changes = WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::CREATE;
        for (directory, mut files) in directories.into_iter().take(MAX_DIRECTORIES) {
            if let Ok(watch) = inotify.watches().add(&directory, changes) {
                files.insert(KUBERNETES_LINK.into());
                // Two ways to one directory are one watch.
                names.entry(watch).or_default().extend(files);
            }
        }
        Ok(Self { events: inotify.into_event_stream([0; EVENTS])?, names })
    }

    /// Waits until one of the files may have changed. Cancel-safe.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        while let Some(event) = self.events.next().await {
            let event = event?;
            let matters = match (&event.name, self.names.get(&event.wd)) {
                (Some(name), Some(names)) => names.contains(name),
                // Events were lost, or the directory is gone.
                (None, _) => true,
                (Some(_), None) => false,
            };
            if matters {
                return Ok(());
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    async fn is_told(watch: &mut Watch) -> bool {
        matches!(timeout(PATIENCE, watch.changed()).await, Ok(Ok(())))
    }

    #[tokio::test]
    async fn a_swap_of_kubernetes_is_seen_every_time() {
        let folder = tempfile::tempdir().unwrap();
        let volume = folder.path();
        for (generation, text) in [("..1", "one"), ("..2", "two"), ("..3", "three")] {
            fs::create_dir(volume.join(generation)).unwrap();
            fs::write(volume.join(generation).join("tls.crt"), text).unwrap();
        }
        symlink("..1", volume.join("..data")).unwrap();
        symlink("..data/tls.crt", volume.join("tls.crt")).unwrap();
        let mut watch = Watch::over(&BTreeSet::from([volume.join("tls.crt")])).unwrap();
        for generation in ["..2", "..3"] {
            symlink(generation, volume.join("..data_tmp")).unwrap();
            fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
            assert!(is_told(&mut watch).await, "{generation}");
        }
    }

    #[tokio::test]
    async fn a_file_replaced_or_rewritten_is_seen_and_its_neighbours_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("users.yaml");
        fs::write(&file, "one").unwrap();
        let mut watch = Watch::over(&BTreeSet::from([file.clone()])).unwrap();
        fs::write(folder.path().join("neighbour"), "").unwrap();
        assert!(watch.changed().now_or_never().is_none());
        fs::write(&file, "two").unwrap();
        assert!(is_told(&mut watch).await);
        fs::write(folder.path().join("new"), "three").unwrap();
        fs::rename(folder.path().join("new"), &file).unwrap();
        assert!(is_told(&mut watch).await);
    }
}
