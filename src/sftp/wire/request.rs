//! Requests (draft-ietf-secsh-filexfer-02 §6).

use bytes::{BufMut, Bytes, BytesMut};

use super::attributes::Attributes;
use super::extensions::ExtendedRequest;
use super::{Fields, Malformed, kind, put_string};

/// What a client can ask.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields bear the draft's own names, §6.3 to §6.10")]
pub enum Request {
    /// Opens a file; `flags` as in [`OpenFlags`].
    Open { path: Bytes, flags: u32, attributes: Attributes },
    /// Gives a handle back.
    Close { handle: Bytes },
    /// Reads up to `length` bytes.
    Read { handle: Bytes, offset: u64, length: u32 },
    /// Writes all of `data`.
    Write { handle: Bytes, offset: u64, data: Bytes },
    /// Attributes of a name, links not followed.
    Lstat { path: Bytes },
    /// Attributes of an open file.
    Fstat { handle: Bytes },
    /// Changes attributes of a name.
    Setstat { path: Bytes, attributes: Attributes },
    /// Changes attributes of an open file.
    Fsetstat { handle: Bytes, attributes: Attributes },
    /// Opens a directory for reading.
    Opendir { path: Bytes },
    /// The next names of a directory.
    Readdir { handle: Bytes },
    /// Deletes a file.
    Remove { path: Bytes },
    /// Makes a directory.
    Mkdir { path: Bytes, attributes: Attributes },
    /// Deletes an empty directory.
    Rmdir { path: Bytes },
    /// The canonical absolute form of a name.
    Realpath { path: Bytes },
    /// Attributes of a name, links followed.
    Stat { path: Bytes },
    /// Renames; does not replace.
    Rename { from: Bytes, to: Bytes },
    /// Where a link points.
    Readlink { path: Bytes },
    /// Makes a link. The draft sends the link first; OpenSSH takes the target first.
    Symlink { first: Bytes, second: Bytes },
    /// Anything else, by name.
    Extended { name: Bytes, data: Bytes },
}

/// How a file is opened (draft §6.3). APPEND is left out: with it OpenSSH ignores the offsets of WRITE.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenFlags {
    /// READ.
    pub read: bool,
    /// WRITE.
    pub write: bool,
    /// CREAT: make it if it is not there.
    pub create: bool,
    /// EXCL: fail if it is there.
    pub exclusive: bool,
    /// TRUNC: drop what is in it.
    pub truncate: bool,
}

impl OpenFlags {
    /// As on the wire.
    pub fn bits(self) -> u32 {
        u32::from(self.read)
            | u32::from(self.write) << 1
            | u32::from(self.create) << 3
            | u32::from(self.truncate) << 4
            | u32::from(self.exclusive) << 5
    }

    /// From the wire; bits not known are dropped.
    pub fn from_bits(bits: u32) -> Self {
        Self {
            read: bits & 0x01 != 0,
            write: bits & 0x02 != 0,
            create: bits & 0x08 != 0,
            truncate: bits & 0x10 != 0,
            exclusive: bits & 0x20 != 0,
        }
    }
}

impl From<ExtendedRequest> for Request {
    fn from(request: ExtendedRequest) -> Self {
        Self::Extended { name: Bytes::from_static(request.name().as_bytes()), data: request.data() }
    }
}

impl Request {
    /// The draft's name of it, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Open { .. } => "OPEN",
            Self::Close { .. } => "CLOSE",
            Self::Read { .. } => "READ",
            Self::Write { .. } => "WRITE",
            Self::Lstat { .. } => "LSTAT",
            Self::Fstat { .. } => "FSTAT",
            Self::Setstat { .. } => "SETSTAT",
            Self::Fsetstat { .. } => "FSETSTAT",
            Self::Opendir { .. } => "OPENDIR",
            Self::Readdir { .. } => "READDIR",
            Self::Remove { .. } => "REMOVE",
            Self::Mkdir { .. } => "MKDIR",
            Self::Rmdir { .. } => "RMDIR",
            Self::Realpath { .. } => "REALPATH",
            Self::Stat { .. } => "STAT",
            Self::Rename { .. } => "RENAME",
            Self::Readlink { .. } => "READLINK",
            Self::Symlink { .. } => "SYMLINK",
            Self::Extended { .. } => "EXTENDED",
        }
    }

    pub(super) fn kind(&self) -> u8 {
        match self {
            Self::Open { .. } => kind::OPEN,
            Self::Close { .. } => kind::CLOSE,
            Self::Read { .. } => kind::READ,
            Self::Write { .. } => kind::WRITE,
            Self::Lstat { .. } => kind::LSTAT,
            Self::Fstat { .. } => kind::FSTAT,
            Self::Setstat { .. } => kind::SETSTAT,
            Self::Fsetstat { .. } => kind::FSETSTAT,
            Self::Opendir { .. } => kind::OPENDIR,
            Self::Readdir { .. } => kind::READDIR,
            Self::Remove { .. } => kind::REMOVE,
            Self::Mkdir { .. } => kind::MKDIR,
            Self::Rmdir { .. } => kind::RMDIR,
            Self::Realpath { .. } => kind::REALPATH,
            Self::Stat { .. } => kind::STAT,
            Self::Rename { .. } => kind::RENAME,
            Self::Readlink { .. } => kind::READLINK,
            Self::Symlink { .. } => kind::SYMLINK,
            Self::Extended { .. } => kind::EXTENDED,
        }
    }

    /// `None`: not the type of a request.
    pub(super) fn decode(kind: u8, fields: &mut Fields) -> Result<Option<Self>, Malformed> {
        Ok(Some(match kind {
            kind::OPEN => {
                Self::Open { path: fields.string()?, flags: fields.uint32()?, attributes: Attributes::decode(fields)? }
            }
            kind::CLOSE => Self::Close { handle: fields.string()? },
            kind::READ => Self::Read { handle: fields.string()?, offset: fields.uint64()?, length: fields.uint32()? },
            kind::WRITE => Self::Write { handle: fields.string()?, offset: fields.uint64()?, data: fields.string()? },
            kind::LSTAT => Self::Lstat { path: fields.string()? },
            kind::FSTAT => Self::Fstat { handle: fields.string()? },
            kind::SETSTAT => Self::Setstat { path: fields.string()?, attributes: Attributes::decode(fields)? },
            kind::FSETSTAT => Self::Fsetstat { handle: fields.string()?, attributes: Attributes::decode(fields)? },
            kind::OPENDIR => Self::Opendir { path: fields.string()? },
            kind::READDIR => Self::Readdir { handle: fields.string()? },
            kind::REMOVE => Self::Remove { path: fields.string()? },
            kind::MKDIR => Self::Mkdir { path: fields.string()?, attributes: Attributes::decode(fields)? },
            kind::RMDIR => Self::Rmdir { path: fields.string()? },
            kind::REALPATH => Self::Realpath { path: fields.string()? },
            kind::STAT => Self::Stat { path: fields.string()? },
            kind::RENAME => Self::Rename { from: fields.string()?, to: fields.string()? },
            kind::READLINK => Self::Readlink { path: fields.string()? },
            kind::SYMLINK => Self::Symlink { first: fields.string()?, second: fields.string()? },
            kind::EXTENDED => Self::Extended { name: fields.string()?, data: fields.clone().rest() },
            _ => return Ok(None),
        }))
    }

    pub(super) fn encode(&self, output: &mut BytesMut) {
        match self {
            Self::Open { path, flags, attributes } => {
                put_string(output, path);
                output.put_u32(*flags);
                attributes.encode(output);
            }
            Self::Read { handle, offset, length } => {
                put_string(output, handle);
                output.put_u64(*offset);
                output.put_u32(*length);
            }
            Self::Write { handle, offset, data } => {
                put_string(output, handle);
                output.put_u64(*offset);
                put_string(output, data);
            }
            Self::Close { handle: only } | Self::Fstat { handle: only } | Self::Readdir { handle: only } => {
                put_string(output, only);
            }
            Self::Lstat { path }
            | Self::Opendir { path }
            | Self::Remove { path }
            | Self::Rmdir { path }
            | Self::Realpath { path }
            | Self::Stat { path }
            | Self::Readlink { path } => put_string(output, path),
            Self::Setstat { path: of, attributes }
            | Self::Fsetstat { handle: of, attributes }
            | Self::Mkdir { path: of, attributes } => {
                put_string(output, of);
                attributes.encode(output);
            }
            Self::Rename { from: first, to: second } | Self::Symlink { first, second } => {
                put_string(output, first);
                put_string(output, second);
            }
            Self::Extended { name, data } => {
                put_string(output, name);
                output.put_slice(data);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_flags_have_the_drafts_values() {
        let flags = OpenFlags { write: true, create: true, truncate: true, ..OpenFlags::default() };
        assert_eq!(flags.bits(), 0x1a);
        for bits in 0..0x40 {
            assert_eq!(OpenFlags::from_bits(bits).bits(), bits & !0x04);
        }
    }
}
