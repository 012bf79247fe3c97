//! What one command leaves for the next: RNFR for RNTO, REST or RANG for a transfer. They are taken, not read.

use crate::ftp::path::VirtualPath;

/// State between two commands.
#[derive(Debug, Default)]
pub struct Pending {
    rename_from: Option<VirtualPath>,
    restart: u64,
    /// How many octets from there on, where RANG says so.
    length: Option<u64>,
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

    /// REST; RANG with a length. The later of the two counts.
    pub fn set_restart(&mut self, offset: u64, length: Option<u64>) {
        (self.restart, self.length) = (offset, length);
    }

    /// For the transfer that follows, and whatever else makes REST void.
    pub fn take_restart(&mut self) -> u64 {
        self.take_range().0
    }

    /// Likewise, with the length that RANG gave.
    pub fn take_range(&mut self) -> (u64, Option<u64>) {
        (std::mem::take(&mut self.restart), self.length.take())
    }
}
