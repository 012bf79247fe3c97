//! SFTP version 3's language (draft-ietf-secsh-filexfer-02), sans-IO: bytes in, packets out, and back.
//!
//! Both directions are encoded and decoded, so that a client, a server in tests and a fuzzer share one codec. Names,
//! handles and texts are bytes and stay bytes: the draft's "string" promises no encoding (§3 calls them "data").
//! Nothing is allocated on the word of a length or count field: each is checked against the bytes that are there.

pub mod attributes;
pub mod extensions;
pub mod frame;
pub(crate) mod kind;
pub mod packet;
mod reply;
mod request;
pub mod status;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The protocol version spoken: what OpenSSH and nearly every server speaks.
pub const VERSION: u32 = 3;

/// The largest packet sent, length field not counted: OpenSSH's `SFTP_MAX_MSG_LENGTH`, above which its server exits.
pub const MAX_PACKET_SENT: usize = 256 * 1024;

/// The largest packet accepted, length field not counted. OpenSSH's client stops at 256 KiB; servers with larger NAME
/// replies exist, and the bound here only keeps a hostile one from filling memory.
pub const MAX_PACKET_ACCEPTED: usize = 1024 * 1024;

/// Why a packet could not be understood. The framing around it is intact: the next packet can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed packet: {problem}")]
pub struct DecodeError {
    /// The request it answers (or is), where that much could be read.
    pub id: Option<u32>,
    /// What is wrong with it.
    pub problem: Malformed,
}

/// What is wrong with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A field goes beyond the end of the packet.
    #[error("it ends inside a field")]
    Truncated,
    /// A count field promises more elements than the packet has bytes for.
    #[error("it counts more elements than it holds")]
    Count,
}

/// Reads fields off the front of a packet.
#[derive(Debug, Clone)]
pub(crate) struct Fields(Bytes);

impl Fields {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        self.0.try_get_u8().map_err(|_| Malformed::Truncated)
    }

    pub(crate) fn uint32(&mut self) -> Result<u32, Malformed> {
        self.0.try_get_u32().map_err(|_| Malformed::Truncated)
    }

    pub(crate) fn uint64(&mut self) -> Result<u64, Malformed> {
        self.0.try_get_u64().map_err(|_| Malformed::Truncated)
    }

    /// A length and that many bytes; a view into the packet, no copy.
    pub(crate) fn string(&mut self) -> Result<Bytes, Malformed> {
        let length = self.uint32()? as usize;
        if length > self.0.len() {
            return Err(Malformed::Truncated);
        }
        Ok(self.0.split_to(length))
    }

    pub(crate) fn rest(self) -> Bytes {
        self.0
    }

    /// A count of elements that take at least `smallest` bytes each.
    pub(crate) fn count(&mut self, smallest: usize) -> Result<usize, Malformed> {
        let count = self.uint32()? as usize;
        if count > self.0.len() / smallest {
            return Err(Malformed::Count);
        }
        Ok(count)
    }
}

/// Writes a length and the bytes. Strings come from packets bounded by [`MAX_PACKET_SENT`], far below 2^32.
pub(crate) fn put_string(output: &mut BytesMut, bytes: &[u8]) {
    output.put_u32(saturated(bytes.len()));
    output.put_slice(bytes);
}

/// A length or count as the wire's `uint32`.
pub(crate) fn saturated(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
