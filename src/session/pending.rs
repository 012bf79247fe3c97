//! What one command leaves for the next: RNFR for RNTO, REST for a transfer. Both are taken, not read.

use crate::ftp::path::VirtualPath;

/// State between two commands.
#[derive(Debug, Default)]
pub struct Pending {
    rename_from: Option<VirtualPath>,
    restart: u64,
}

impl Pending {
    /// RNFR.
    pub fn set_rename_from(&mut self, path: VirtualPath) {
        self.rename_from = Some(path);
    }

    /// For RNTO, and for every other command, which makes RNFR void.
    pub fn take_rename_from(&mut self) -> Option<VirtualPath> {
        self.rename_from.take()
    }

    /// REST.
    pub fn set_restart(&mut self, offset: u64) {
        self.restart = offset;
    }

    /// For the transfer that follows, and whatever else makes REST void.
    pub fn take_restart(&mut self) -> u64 {
        std::mem::take(&mut self.restart)
    }
}
