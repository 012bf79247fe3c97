//! A file system that is as small as the test wants it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// A small file system of the test's own; it goes with the value.
pub(crate) struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// For the user of an [`Sshd`] that is started afterwards: it takes over the mounts there are then.
    pub(crate) fn mount(options: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("small-").tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(directory.path());
        assert!(mount.status().unwrap().success());
        Self(directory)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}
