//! File attributes (draft-ietf-secsh-filexfer-02 §5): a flag word says which fields follow.

use bytes::{BufMut, BytesMut};

use super::{Fields, Malformed, put_string, saturated};

const FLAG_SIZE: u32 = 0x1;
const FLAG_OWNER: u32 = 0x2;
const FLAG_PERMISSIONS: u32 = 0x4;
const FLAG_TIMES: u32 = 0x8;
const FLAG_EXTENDED: u32 = 0x8000_0000;

/// What a file is and who may use it; absent fields were not told, or are not to be changed.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Bytes.
    pub size: Option<u64>,
    /// Numeric user and group.
    pub owner: Option<(u32, u32)>,
    /// POSIX mode, with the file type in its upper bits where the server tells it.
    pub permissions: Option<u32>,
    /// Access and modification time, seconds since 1970 UTC.
    pub times: Option<(u32, u32)>,
    /// Pairs of extension name and data, as received.
    pub extended: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The kind of a file, from the type bits (`S_IFMT`) of its permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// Plain file.
    Regular,
    /// Directory.
    Directory,
    /// Symbolic link; only LSTAT and READDIR show one.
    Symlink,
    /// Device, FIFO or socket.
    Special,
}

impl Attributes {
    /// Is it a FIFO, which waits for its other end when it is opened?
    pub fn is_fifo(&self) -> bool {
        self.permissions.is_some_and(|permissions| permissions & 0o170_000 == 0o010_000)
    }

    /// The kind of the file; `None` where the server told no type bits.
    pub fn kind(&self) -> Option<FileKind> {
        match self.permissions? & 0o170_000 {
            0 => None,
            0o100_000 => Some(FileKind::Regular),
            0o040_000 => Some(FileKind::Directory),
            0o120_000 => Some(FileKind::Symlink),
            _ => Some(FileKind::Special),
        }
    }

    pub(crate) fn decode(fields: &mut Fields) -> Result<Self, Malformed> {
        let flags = fields.uint32()?;
        let mut attributes = Self::default();
        if flags & FLAG_SIZE != 0 {
            attributes.size = Some(fields.uint64()?);
        }
        if flags & FLAG_OWNER != 0 {
            attributes.owner = Some((fields.uint32()?, fields.uint32()?));
        }
        if flags & FLAG_PERMISSIONS != 0 {
            attributes.permissions = Some(fields.uint32()?);
        }
        if flags & FLAG_TIMES != 0 {
            attributes.times = Some((fields.uint32()?, fields.uint32()?));
        }
        if flags & FLAG_EXTENDED != 0 {
            for _ in 0..fields.count(2 * size_of::<u32>())? {
                attributes.extended.push((fields.string()?.to_vec(), fields.string()?.to_vec()));
            }
        }
        Ok(attributes)
    }

    pub(crate) fn encode(&self, output: &mut BytesMut) {
        let mut flags = 0;
        flags |= if self.size.is_some() { FLAG_SIZE } else { 0 };
        flags |= if self.owner.is_some() { FLAG_OWNER } else { 0 };
        flags |= if self.permissions.is_some() { FLAG_PERMISSIONS } else { 0 };
        flags |= if self.times.is_some() { FLAG_TIMES } else { 0 };
        flags |= if self.extended.is_empty() { 0 } else { FLAG_EXTENDED };
        output.put_u32(flags);
        if let Some(size) = self.size {
            output.put_u64(size);
        }
        if let Some((user, group)) = self.owner {
            output.put_u32(user);
            output.put_u32(group);
        }
        if let Some(permissions) = self.permissions {
            output.put_u32(permissions);
        }
        if let Some((accessed, modified)) = self.times {
            output.put_u32(accessed);
            output.put_u32(modified);
        }
        if !self.extended.is_empty() {
            output.put_u32(saturated(self.extended.len()));
            for (name, data) in &self.extended {
                put_string(output, name);
                put_string(output, data);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_comes_from_the_type_bits_and_is_unknown_without_them() {
        let kind = |permissions| Attributes { permissions: Some(permissions), ..Attributes::default() }.kind();
        assert_eq!(kind(0o100_644), Some(FileKind::Regular));
        assert_eq!(kind(0o040_755), Some(FileKind::Directory));
        assert_eq!(kind(0o120_777), Some(FileKind::Symlink));
        assert_eq!(kind(0o010_600), Some(FileKind::Special));
        assert_eq!(kind(0o644), None);
        assert_eq!(Attributes::default().kind(), None);
    }

    #[test]
    fn a_count_beyond_the_packet_is_refused_before_anything_is_allocated() {
        let bytes = [0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut fields = Fields::new(bytes::Bytes::copy_from_slice(&bytes));
        assert_eq!(Attributes::decode(&mut fields), Err(Malformed::Count));
    }
}
