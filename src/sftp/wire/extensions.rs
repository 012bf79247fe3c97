//! OpenSSH's extensions (its PROTOCOL file, §4 "SFTP"): which are offered, their requests and their replies.

use bytes::{BufMut, Bytes, BytesMut};

use super::attributes::Attributes;
use super::{Fields, Malformed, put_string};

/// Rename that replaces the target in one step, as `rename(2)` does.
pub const POSIX_RENAME: &str = "posix-rename@openssh.com";
/// Room on a file system.
pub const STATVFS: &str = "statvfs@openssh.com";
/// Flushes a file to the medium.
pub const FSYNC: &str = "fsync@openssh.com";
/// The server's limits.
pub const LIMITS: &str = "limits@openssh.com";
/// SETSTAT that does not follow a symbolic link.
pub const LSETSTAT: &str = "lsetstat@openssh.com";

/// Which of the known extensions the server offers, in the version known here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extensions {
    /// [`POSIX_RENAME`], version 1.
    pub posix_rename: bool,
    /// [`STATVFS`], version 2.
    pub statvfs: bool,
    /// [`FSYNC`], version 1.
    pub fsync: bool,
    /// [`LIMITS`], version 1.
    pub limits: bool,
    /// [`LSETSTAT`], version 1.
    pub lsetstat: bool,
}

impl Extensions {
    /// Reads the pairs of a VERSION packet. Another version of a name is another extension, so both must match.
    pub fn offered(pairs: &[(Bytes, Bytes)]) -> Self {
        let offers = |name: &str, version: &str| {
            pairs.iter().any(|pair| pair.0 == name.as_bytes() && pair.1 == version.as_bytes())
        };
        Self {
            posix_rename: offers(POSIX_RENAME, "1"),
            statvfs: offers(STATVFS, "2"),
            fsync: offers(FSYNC, "1"),
            limits: offers(LIMITS, "1"),
            lsetstat: offers(LSETSTAT, "1"),
        }
    }

    /// The pairs a server with these extensions announces.
    pub fn announcement(&self) -> Vec<(Bytes, Bytes)> {
        [
            (self.posix_rename, POSIX_RENAME, "1"),
            (self.statvfs, STATVFS, "2"),
            (self.fsync, FSYNC, "1"),
            (self.limits, LIMITS, "1"),
            (self.lsetstat, LSETSTAT, "1"),
        ]
        .into_iter()
        .filter(|row| row.0)
        .map(|(_, name, version)| (Bytes::from_static(name.as_bytes()), Bytes::from_static(version.as_bytes())))
        .collect()
    }
}

/// The data of an EXTENDED request known here.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the pathnames and handles that the name of the variant needs")]
pub enum ExtendedRequest {
    /// [`POSIX_RENAME`].
    PosixRename { from: Bytes, to: Bytes },
    /// [`STATVFS`].
    Statvfs { path: Bytes },
    /// [`FSYNC`].
    Fsync { handle: Bytes },
    /// [`LIMITS`].
    Limits,
    /// [`LSETSTAT`].
    Lsetstat { path: Bytes, attributes: Attributes },
}

impl ExtendedRequest {
    /// The extension's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::PosixRename { .. } => POSIX_RENAME,
            Self::Statvfs { .. } => STATVFS,
            Self::Fsync { .. } => FSYNC,
            Self::Limits => LIMITS,
            Self::Lsetstat { .. } => LSETSTAT,
        }
    }

    /// What follows the name.
    pub fn data(&self) -> Bytes {
        let mut data = BytesMut::new();
        match self {
            Self::PosixRename { from, to } => {
                put_string(&mut data, from);
                put_string(&mut data, to);
            }
            Self::Statvfs { path } => put_string(&mut data, path),
            Self::Fsync { handle } => put_string(&mut data, handle),
            Self::Limits => {}
            Self::Lsetstat { path, attributes } => {
                put_string(&mut data, path);
                attributes.encode(&mut data);
            }
        }
        data.freeze()
    }

    /// Reads an EXTENDED request; `None` for a name not known here.
    ///
    /// # Errors
    ///
    /// The name is known and the data does not fit it.
    pub fn decode(name: &[u8], data: Bytes) -> Result<Option<Self>, Malformed> {
        let mut fields = Fields::new(data);
        Ok(Some(match str::from_utf8(name) {
            Ok(POSIX_RENAME) => Self::PosixRename { from: fields.string()?, to: fields.string()? },
            Ok(STATVFS) => Self::Statvfs { path: fields.string()? },
            Ok(FSYNC) => Self::Fsync { handle: fields.string()? },
            Ok(LIMITS) => Self::Limits,
            Ok(LSETSTAT) => Self::Lsetstat { path: fields.string()?, attributes: Attributes::decode(&mut fields)? },
            _ => return Ok(None),
        }))
    }
}

/// What the server takes at once (reply to [`LIMITS`]); zero is "not told".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest packet, bytes.
    pub packet_length: u64,
    /// Longest READ, bytes of data.
    pub read_length: u64,
    /// Longest WRITE, bytes of data.
    pub write_length: u64,
    /// Handles open at once.
    pub open_handles: u64,
}

impl Default for Limits {
    /// What draft §3 asks of every server: packets of 34000 bytes, of which 32768 can be data.
    fn default() -> Self {
        Self { packet_length: 34_000, read_length: 32_768, write_length: 32_768, open_handles: 0 }
    }
}

impl Limits {
    /// Reads an EXTENDED_REPLY; fields not told get the draft's values.
    ///
    /// # Errors
    ///
    /// The data is too short.
    pub fn decode(data: Bytes) -> Result<Self, Malformed> {
        let mut fields = Fields::new(data);
        let least = Self::default();
        let mut told = |or: u64| fields.uint64().map(|value| if value == 0 { or } else { value });
        Ok(Self {
            packet_length: told(least.packet_length)?,
            read_length: told(least.read_length)?,
            write_length: told(least.write_length)?,
            open_handles: told(least.open_handles)?,
        })
    }

    /// The reply's data.
    pub fn encode(&self) -> Bytes {
        let mut data = BytesMut::new();
        for value in [self.packet_length, self.read_length, self.write_length, self.open_handles] {
            data.put_u64(value);
        }
        data.freeze()
    }
}

/// Room on a file system (reply to [`STATVFS`]; the fields of `statvfs(3)`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileSystem {
    /// Block size for I/O, bytes (`f_bsize`).
    pub block_size: u64,
    /// The unit of the block counts below, bytes (`f_frsize`).
    pub fragment_size: u64,
    /// Size of the file system, fragments.
    pub blocks: u64,
    /// Free, fragments.
    pub free_blocks: u64,
    /// Free for users without privilege, fragments.
    pub free_blocks_available: u64,
    /// Inodes in all.
    pub inodes: u64,
    /// Inodes free.
    pub free_inodes: u64,
    /// Inodes free for users without privilege.
    pub free_inodes_available: u64,
    /// File system id.
    pub id: u64,
    /// Bit 0: read-only; bit 1: no setuid.
    pub flags: u64,
    /// Longest file name, bytes.
    pub name_max: u64,
}

impl FileSystem {
    /// Bytes a user without privilege can still write.
    pub fn available_bytes(&self) -> u64 {
        self.free_blocks_available.saturating_mul(self.fragment_size)
    }

    /// Are all inodes used up? A file system that counts none (`inodes` 0) has no such bound.
    pub fn lacks_inodes(&self) -> bool {
        self.inodes > 0 && self.free_inodes_available == 0
    }

    /// Reads an EXTENDED_REPLY.
    ///
    /// # Errors
    ///
    /// The data is too short.
    pub fn decode(data: Bytes) -> Result<Self, Malformed> {
        let mut fields = Fields::new(data);
        Ok(Self {
            block_size: fields.uint64()?,
            fragment_size: fields.uint64()?,
            blocks: fields.uint64()?,
            free_blocks: fields.uint64()?,
            free_blocks_available: fields.uint64()?,
            inodes: fields.uint64()?,
            free_inodes: fields.uint64()?,
            free_inodes_available: fields.uint64()?,
            id: fields.uint64()?,
            flags: fields.uint64()?,
            name_max: fields.uint64()?,
        })
    }

    /// The reply's data.
    pub fn encode(&self) -> Bytes {
        let mut data = BytesMut::new();
        for value in [
            self.block_size,
            self.fragment_size,
            self.blocks,
            self.free_blocks,
            self.free_blocks_available,
            self.inodes,
            self.free_inodes,
            self.free_inodes_available,
            self.id,
            self.flags,
            self.name_max,
        ] {
            data.put_u64(value);
        }
        data.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &'static str, version: &'static str) -> (Bytes, Bytes) {
        (Bytes::from_static(name.as_bytes()), Bytes::from_static(version.as_bytes()))
    }

    #[test]
    fn an_extension_counts_only_in_the_known_version() {
        let offered = Extensions::offered(&[pair(POSIX_RENAME, "1"), pair(STATVFS, "1"), pair(FSYNC, "10")]);
        assert_eq!(offered, Extensions { posix_rename: true, ..Extensions::default() });
    }

    #[test]
    fn the_announcement_is_read_back() {
        let all = Extensions { posix_rename: true, statvfs: true, fsync: true, limits: true, lsetstat: true };
        assert_eq!(Extensions::offered(&all.announcement()), all);
        assert_eq!(Extensions::offered(&Extensions::default().announcement()), Extensions::default());
    }

    #[test]
    fn requests_are_read_back() {
        let (from, to) = (Bytes::from_static(b"/a\xe4"), Bytes::from_static(b"/b"));
        let attributes = Attributes { times: Some((1, 2)), ..Attributes::default() };
        for request in [
            ExtendedRequest::PosixRename { from: from.clone(), to: to.clone() },
            ExtendedRequest::Statvfs { path: to.clone() },
            ExtendedRequest::Fsync { handle: from.clone() },
            ExtendedRequest::Limits,
            ExtendedRequest::Lsetstat { path: from.clone(), attributes },
        ] {
            let decoded = ExtendedRequest::decode(request.name().as_bytes(), request.data());
            assert_eq!(decoded, Ok(Some(request)));
        }
        assert_eq!(ExtendedRequest::decode(b"copy-data", Bytes::new()), Ok(None));
        assert_eq!(ExtendedRequest::decode(b"statvfs@openssh.com", Bytes::new()), Err(Malformed::Truncated));
    }

    #[test]
    fn limits_not_told_are_the_drafts() {
        let told = Limits { packet_length: 262_144, read_length: 0, write_length: 261_120, open_handles: 1019 };
        assert_eq!(Limits::decode(told.encode()), Ok(Limits { read_length: 32_768, ..told }));
        assert_eq!(Limits::decode(Bytes::from_static(&[0; 31])), Err(Malformed::Truncated));
    }

    #[test]
    fn room_is_what_a_user_without_privilege_has() {
        let system = FileSystem {
            fragment_size: 4096,
            free_blocks: 9,
            free_blocks_available: 3,
            inodes: 10,
            ..FileSystem::default()
        };
        assert_eq!((system.available_bytes(), system.lacks_inodes()), (12_288, true));
        assert_eq!(FileSystem::decode(system.encode()), Ok(system));
        assert_eq!(FileSystem { free_blocks_available: u64::MAX, ..system }.available_bytes(), u64::MAX);
    }
}
