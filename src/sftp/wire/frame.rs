//! Framing (draft-ietf-secsh-filexfer-02 §3): `uint32 length`, then that many bytes, one packet.
//!
//! A packet comes out as the pieces it came in: file data is handed on as the buffers the channel gave, not copied
//! into one. Small pieces are joined, so that a server sending byte by byte cannot make bookkeeping outweigh data.

use bytes::{Buf, Bytes, BytesMut};

/// Pieces below this are copied together: at this size one copy costs about what keeping the piece apart would.
const JOIN_BELOW: usize = 1024;

/// The body of one packet (its length field taken off), in one or more pieces.
#[derive(Debug, Clone, Default)]
pub struct Frame {
    pieces: Vec<Bytes>,
}

impl Frame {
    /// Bytes in the packet.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// Has it no bytes at all, not even a type?
    pub fn is_empty(&self) -> bool {
        self.pieces.iter().all(Bytes::is_empty)
    }

    /// The packet's type.
    pub(crate) fn kind(&self) -> Option<u8> {
        self.pieces.iter().find_map(|piece| piece.first().copied())
    }

    /// The packet in one piece; copies only if it came in several.
    pub fn into_bytes(self) -> Bytes {
        let mut pieces = self.pieces.into_iter();
        match (pieces.next(), pieces.next()) {
            (None, _) => Bytes::new(),
            (Some(only), None) => only,
            (Some(first), Some(second)) => {
                let mut joined = BytesMut::from(first.as_ref());
                joined.extend_from_slice(&second);
                pieces.for_each(|piece| joined.extend_from_slice(&piece));
                joined.freeze()
            }
        }
    }

    /// Takes up to `count` bytes off the front, in one piece.
    pub(crate) fn take_front(&mut self, count: usize) -> Bytes {
        let mut front = BytesMut::with_capacity(count);
        for piece in &mut self.pieces {
            let part = piece.len().min(count - front.len());
            front.extend_from_slice(&piece.split_to(part));
        }
        self.pieces.retain(|piece| !piece.is_empty());
        front.freeze()
    }

    /// The first `count` bytes as pieces.
    pub(crate) fn into_pieces(mut self, count: usize) -> Vec<Bytes> {
        let mut left = count;
        for piece in &mut self.pieces {
            piece.truncate(left);
            left -= piece.len();
        }
        self.pieces.retain(|piece| !piece.is_empty());
        self.pieces
    }
}

impl From<Bytes> for Frame {
    fn from(bytes: Bytes) -> Self {
        Self { pieces: vec![bytes] }
    }
}

impl From<Vec<Bytes>> for Frame {
    fn from(pieces: Vec<Bytes>) -> Self {
        Self { pieces }
    }
}

/// The stream is not SFTP, or not any more: there is no way to find the next packet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length above the bound.
    #[error("a packet of {0} bytes was announced")]
    TooLong(u32),
    /// The "length" is printable text: a login script wrote to the channel.
    #[error("the stream holds text where a packet should begin (`{0}…`): does a login script of the account print?")]
    Text(String),
}

/// Cuts a byte stream into packets; holds at most one unfinished packet and one chunk.
#[derive(Debug)]
pub struct FrameDecoder {
    limit: usize,
    chunk: Bytes,
    header: Vec<u8>,
    /// Bytes the packet in `pieces` and `joined` still lacks; `None` while its length is not known.
    missing: Option<usize>,
    pieces: Vec<Bytes>,
    joined: BytesMut,
}

impl FrameDecoder {
    /// For packets of at most `limit` bytes, length field not counted.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            chunk: Bytes::new(),
            header: Vec::new(),
            missing: None,
            pieces: Vec::new(),
            joined: BytesMut::new(),
        }
    }

    /// Gives the next chunk of the stream. To be called when [`FrameDecoder::next_frame`] has nothing more: then no
    /// bytes are copied.
    pub fn push(&mut self, chunk: Bytes) {
        if self.chunk.is_empty() {
            self.chunk = chunk;
        } else {
            let mut joined = BytesMut::from(self.chunk.as_ref());
            joined.extend_from_slice(&chunk);
            self.chunk = joined.freeze();
        }
    }

    /// The next whole packet, or `None` until more bytes come.
    ///
    /// # Errors
    ///
    /// The stream cannot be framed any more; nothing after this can be believed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let mut missing = match self.missing {
            Some(missing) => missing,
            None => match self.length()? {
                Some(length) => length,
                None => return Ok(None),
            },
        };
        let piece = self.chunk.split_to(missing.min(self.chunk.len()));
        if self.chunk.is_empty() {
            // Lets go of the chunk's buffer while waiting.
            self.chunk = Bytes::new();
        }
        missing -= piece.len();
        self.missing = Some(missing);
        if missing == 0 && self.pieces.is_empty() && self.joined.is_empty() {
            self.missing = None;
            return Ok(Some(Frame::from(piece)));
        }
        if piece.len() < JOIN_BELOW {
            self.joined.extend_from_slice(&piece);
        } else {
            self.end_joined();
            self.pieces.push(piece);
        }
        if missing > 0 {
            return Ok(None);
        }
        self.end_joined();
        self.missing = None;
        Ok(Some(Frame { pieces: std::mem::take(&mut self.pieces) }))
    }

    fn length(&mut self) -> Result<Option<usize>, FrameError> {
        let wanted = size_of::<u32>() - self.header.len();
        let part = self.chunk.split_to(wanted.min(self.chunk.len()));
        self.header.extend_from_slice(&part);
        let Ok(header) = <[u8; 4]>::try_from(self.header.as_slice()) else {
            return Ok(None);
        };
        self.header.clear();
        let length = u32::from_be_bytes(header);
        match usize::try_from(length) {
            Ok(length) if length <= self.limit => Ok(Some(length)),
            _ if header.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) => {
                Err(FrameError::Text(header.escape_ascii().to_string()))
            }
            _ => Err(FrameError::TooLong(length)),
        }
    }

    fn end_joined(&mut self) {
        if self.joined.has_remaining() {
            self.pieces.push(std::mem::take(&mut self.joined).freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use proptest::prelude::*;

    use super::*;

    fn framed(packets: &[Vec<u8>]) -> Vec<u8> {
        let mut stream = Vec::new();
        for packet in packets {
            stream.put_u32(u32::try_from(packet.len()).unwrap());
            stream.put_slice(packet);
        }
        stream
    }

    fn decode(stream: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
        let mut decoder = FrameDecoder::new(super::super::MAX_PACKET_ACCEPTED);
        let (mut packets, mut rest, mut cuts) = (Vec::new(), stream, cuts.iter().cycle());
        while !rest.is_empty() {
            let (chunk, later) = rest.split_at((*cuts.next().unwrap()).clamp(1, rest.len()));
            rest = later;
            decoder.push(Bytes::copy_from_slice(chunk));
            while let Some(frame) = decoder.next_frame().unwrap() {
                packets.push(frame.into_bytes().to_vec());
            }
        }
        packets
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_packets(
            packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5000), 0..8),
            cuts in prop::collection::vec(1_usize..6000, 1..20),
        ) {
            prop_assert_eq!(decode(&framed(&packets), &cuts), packets);
        }

        #[test]
        fn pieces_are_never_smaller_than_needed_and_lose_nothing(
            packet in prop::collection::vec(any::<u8>(), 1..20_000),
            cuts in prop::collection::vec(1_usize..3000, 1..20),
            front in 0_usize..40,
        ) {
            let mut decoder = FrameDecoder::new(100_000);
            let stream = framed(std::slice::from_ref(&packet));
            let (mut rest, mut cuts) = (stream.as_slice(), cuts.iter().cycle());
            let mut frame = loop {
                if let Some(frame) = decoder.next_frame().unwrap() {
                    break frame;
                }
                let (chunk, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                rest = later;
                decoder.push(Bytes::copy_from_slice(chunk));
            };
            prop_assert_eq!(frame.len(), packet.len());
            prop_assert!(frame.pieces.len() <= 2 + 2 * packet.len() / JOIN_BELOW);
            let begin = frame.take_front(front);
            prop_assert_eq!(&begin[..], &packet[..front.min(packet.len())]);
            let rest: Vec<u8> = frame.into_pieces(usize::MAX).concat();
            prop_assert_eq!(&rest[..], &packet[front.min(packet.len())..]);
        }
    }

    #[test]
    fn a_length_above_the_limit_ends_the_stream() {
        let mut decoder = FrameDecoder::new(1000);
        decoder.push(Bytes::from_static(&[0, 0, 0x03, 0xe9]));
        assert_eq!(decoder.next_frame().unwrap_err(), FrameError::TooLong(1001));
    }

    #[test]
    fn text_of_a_login_script_is_called_by_its_name() {
        let mut decoder = FrameDecoder::new(super::super::MAX_PACKET_ACCEPTED);
        decoder.push(Bytes::from_static(b"Welcome!\r\n"));
        assert_eq!(decoder.next_frame().unwrap_err(), FrameError::Text("Welc".to_owned()));
    }

    #[test]
    fn an_idle_decoder_holds_no_buffer() {
        let mut decoder = FrameDecoder::new(1000);
        decoder.push(Bytes::from(framed(&[vec![1; 10]])));
        assert!(decoder.next_frame().unwrap().is_some());
        assert!(decoder.next_frame().unwrap().is_none());
        assert_eq!((decoder.chunk.len(), decoder.pieces.capacity(), decoder.joined.capacity()), (0, 0, 0));
    }
}
