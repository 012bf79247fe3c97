//! Packets (draft-ietf-secsh-filexfer-02 §3, §4): the greeting, requests and replies, each way.

use bytes::{BufMut, Bytes, BytesMut};

use super::frame::Frame;
pub use super::reply::{Name, Reply, Status};
pub use super::request::{OpenFlags, Request};
use super::{DecodeError, Fields, Malformed, kind, put_string, saturated};

/// One packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// The client's first packet.
    Init {
        /// Highest version the client speaks.
        version: u32,
        /// Names and data.
        extensions: Vec<(Bytes, Bytes)>,
    },
    /// The server's first packet.
    Version {
        /// The version both will speak.
        version: u32,
        /// Names and data.
        extensions: Vec<(Bytes, Bytes)>,
    },
    /// Client to server.
    Request {
        /// Comes back in the reply.
        id: u32,
        /// What is asked.
        request: Request,
    },
    /// Server to client.
    Reply {
        /// The request it answers.
        id: u32,
        /// The answer.
        reply: Reply,
    },
    /// A type not known here; kept, so that a peer which knows more does no harm.
    Unknown {
        /// Its type.
        kind: u8,
        /// Everything after the type.
        body: Bytes,
    },
}

impl Packet {
    /// Reads one packet. Bytes after its last field are ignored, as OpenSSH does.
    ///
    /// # Errors
    ///
    /// This packet is malformed; the stream around it is not.
    pub fn decode(mut frame: Frame) -> Result<Self, DecodeError> {
        let Some(kind) = frame.kind() else {
            return Err(DecodeError { id: None, problem: Malformed::Truncated });
        };
        if kind == kind::DATA {
            return Self::decode_data(frame);
        }
        frame.take_front(1);
        let mut fields = Fields::new(frame.into_bytes());
        let without_id = |problem| DecodeError { id: None, problem };
        match kind {
            kind::INIT | kind::VERSION => {
                let version = fields.uint32().map_err(without_id)?;
                let mut extensions = Vec::new();
                while !fields.is_empty() {
                    extensions.push((fields.string().map_err(without_id)?, fields.string().map_err(without_id)?));
                }
                Ok(if kind == kind::INIT {
                    Self::Init { version, extensions }
                } else {
                    Self::Version { version, extensions }
                })
            }
            kind::OPEN..=kind::SYMLINK | kind::STATUS..=kind::ATTRS | kind::EXTENDED | kind::EXTENDED_REPLY => {
                let id = fields.uint32().map_err(without_id)?;
                let with_id = |problem| DecodeError { id: Some(id), problem };
                if let Some(request) = Request::decode(kind, &mut fields).map_err(with_id)? {
                    return Ok(Self::Request { id, request });
                }
                match Reply::decode(kind, &mut fields).map_err(with_id)? {
                    Some(reply) => Ok(Self::Reply { id, reply }),
                    None => Ok(Self::Unknown { kind, body: fields.rest() }),
                }
            }
            _ => Ok(Self::Unknown { kind, body: fields.rest() }),
        }
    }

    fn decode_data(mut frame: Frame) -> Result<Self, DecodeError> {
        let mut fields = Fields::new(frame.take_front(DATA_HEADER));
        let header = (|| Ok((fields.byte()?, fields.uint32()?)))();
        let (_, id) = header.map_err(|problem| DecodeError { id: None, problem })?;
        match fields.uint32() {
            Ok(length) if length as usize <= frame.len() => {
                Ok(Self::Reply { id, reply: Reply::Data(frame.into_pieces(length as usize)) })
            }
            _ => Err(DecodeError { id: Some(id), problem: Malformed::Truncated }),
        }
    }

    /// The packet with its length field in front.
    pub fn encode(&self) -> Bytes {
        let mut output = BytesMut::with_capacity(SMALL_PACKET);
        output.put_u32(0);
        match self {
            Self::Init { version, extensions } | Self::Version { version, extensions } => {
                output.put_u8(if matches!(self, Self::Init { .. }) { kind::INIT } else { kind::VERSION });
                output.put_u32(*version);
                for (name, data) in extensions {
                    put_string(&mut output, name);
                    put_string(&mut output, data);
                }
            }
            Self::Request { id, request } => {
                output.put_u8(request.kind());
                output.put_u32(*id);
                request.encode(&mut output);
            }
            Self::Reply { id, reply } => {
                output.put_u8(reply.kind());
                output.put_u32(*id);
                reply.encode(&mut output);
            }
            Self::Unknown { kind, body } => {
                output.put_u8(*kind);
                output.put_slice(body);
            }
        }
        let length = saturated(output.len() - LENGTH_FIELD);
        output.as_mut().put_u32(length);
        output.freeze()
    }
}

/// What stands in front of a WRITE's data, for a handle of `handle_length` bytes: length field, type, id, handle,
/// offset, length of the data.
pub fn write_header_length(handle_length: usize) -> usize {
    LENGTH_FIELD + 1 + 4 + 4 + handle_length + 8 + 4
}

/// Puts the header of a WRITE into room reserved for it: `packet` is the header's room and the data behind it.
pub fn fill_write_header(packet: &mut BytesMut, id: u32, handle: &[u8], offset: u64) {
    let length = packet.len();
    let data_length = length.saturating_sub(write_header_length(handle.len()));
    let mut room = packet.as_mut();
    room.put_u32(saturated(length - LENGTH_FIELD));
    room.put_u8(kind::WRITE);
    room.put_u32(id);
    room.put_u32(saturated(handle.len()));
    room.put_slice(handle);
    room.put_u64(offset);
    room.put_u32(saturated(data_length));
}

/// The length field in front of each packet, bytes.
pub const LENGTH_FIELD: usize = 4;

/// Type, id and length of a DATA reply.
const DATA_HEADER: usize = 1 + 4 + 4;

/// Holds nearly every packet that bears no file data.
const SMALL_PACKET: usize = 128;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::attributes::Attributes;
    use super::super::status::StatusCode;
    use super::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    fn attributes() -> impl Strategy<Value = Attributes> {
        let extended = prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..9), prop::collection::vec(any::<u8>(), 0..9)),
            0..3,
        );
        (any::<Option<u64>>(), any::<Option<(u32, u32)>>(), any::<Option<u32>>(), any::<Option<(u32, u32)>>(), extended)
            .prop_map(|(size, owner, permissions, times, extended)| Attributes {
                size,
                owner,
                permissions,
                times,
                extended,
            })
    }

    fn request() -> impl Strategy<Value = Request> {
        prop_oneof![
            (bytes(), any::<u32>(), attributes()).prop_map(|(path, flags, attributes)| Request::Open {
                path,
                flags,
                attributes
            }),
            bytes().prop_map(|handle| Request::Close { handle }),
            (bytes(), any::<u64>(), any::<u32>()).prop_map(|(handle, offset, length)| Request::Read {
                handle,
                offset,
                length
            }),
            (bytes(), any::<u64>(), bytes()).prop_map(|(handle, offset, data)| Request::Write { handle, offset, data }),
            bytes().prop_map(|path| Request::Lstat { path }),
            bytes().prop_map(|handle| Request::Fstat { handle }),
            (bytes(), attributes()).prop_map(|(path, attributes)| Request::Setstat { path, attributes }),
            (bytes(), attributes()).prop_map(|(handle, attributes)| Request::Fsetstat { handle, attributes }),
            bytes().prop_map(|path| Request::Opendir { path }),
            bytes().prop_map(|handle| Request::Readdir { handle }),
            bytes().prop_map(|path| Request::Remove { path }),
            (bytes(), attributes()).prop_map(|(path, attributes)| Request::Mkdir { path, attributes }),
            bytes().prop_map(|path| Request::Rmdir { path }),
            bytes().prop_map(|path| Request::Realpath { path }),
            bytes().prop_map(|path| Request::Stat { path }),
            (bytes(), bytes()).prop_map(|(from, to)| Request::Rename { from, to }),
            bytes().prop_map(|path| Request::Readlink { path }),
            (bytes(), bytes()).prop_map(|(first, second)| Request::Symlink { first, second }),
            (bytes(), bytes()).prop_map(|(name, data)| Request::Extended { name, data }),
        ]
    }

    fn reply() -> impl Strategy<Value = Reply> {
        let name = (bytes(), bytes(), attributes()).prop_map(|(filename, longname, attributes)| Name {
            filename,
            longname,
            attributes,
        });
        prop_oneof![
            (any::<u32>(), bytes(), bytes()).prop_map(|(code, message, language)| Reply::Status(Status {
                code: StatusCode(code),
                message,
                language
            })),
            bytes().prop_map(Reply::Handle),
            prop::collection::vec(any::<u8>(), 1..5000).prop_map(|data| Reply::Data(vec![Bytes::from(data)])),
            prop::collection::vec(name, 0..6).prop_map(Reply::Name),
            attributes().prop_map(Reply::Attributes),
            bytes().prop_map(Reply::Extended),
        ]
    }

    fn packet() -> impl Strategy<Value = Packet> {
        let extensions = || prop::collection::vec((bytes(), bytes()), 0..5);
        prop_oneof![
            1 => (any::<u32>(), extensions()).prop_map(|(version, extensions)| Packet::Init { version, extensions }),
            1 => (any::<u32>(), extensions()).prop_map(|(version, extensions)| Packet::Version { version, extensions }),
            8 => (any::<u32>(), request()).prop_map(|(id, request)| Packet::Request { id, request }),
            8 => (any::<u32>(), reply()).prop_map(|(id, reply)| Packet::Reply { id, reply }),
            1 => (21_u8..100, bytes()).prop_map(|(kind, body)| Packet::Unknown { kind, body }),
        ]
    }

    fn body(packet: &Packet) -> Bytes {
        let encoded = packet.encode();
        assert_eq!(encoded[..4], u32::try_from(encoded.len() - 4).unwrap().to_be_bytes());
        encoded.slice(4..)
    }

    proptest! {
        #[test]
        fn every_packet_is_read_back(packet in packet()) {
            prop_assert_eq!(Packet::decode(Frame::from(body(&packet))), Ok(packet));
        }

        #[test]
        fn a_packet_in_two_pieces_reads_the_same(packet in packet(), cut in any::<prop::sample::Index>()) {
            let whole = body(&packet);
            let cut = cut.index(whole.len());
            let pieces = vec![whole.slice(..cut), whole.slice(cut..)];
            let decoded = Packet::decode(Frame::from(pieces)).unwrap();
            prop_assert_eq!(body(&decoded), whole);
        }

        #[test]
        fn a_truncated_reply_fails_with_its_id(reply in reply(), id in any::<u32>(), cut in any::<prop::sample::Index>()) {
            let whole = body(&Packet::Reply { id, reply: reply.clone() });
            prop_assume!(whole.len() > 5);
            let cut = 5 + cut.index(whole.len() - 5);
            match Packet::decode(Frame::from(whole.slice(..cut))) {
                Err(error) => prop_assert_eq!(error.id, Some(id)),
                // The two that have no fixed end may be cut.
                Ok(Packet::Reply { id: read, reply: Reply::Status(_) | Reply::Extended(_) }) => prop_assert_eq!(read, id),
                Ok(other) => prop_assert!(false, "{:?} cut to {:?}", reply, other),
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(input in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(packet) = Packet::decode(Frame::from(Bytes::from(input))) {
                packet.encode();
            }
        }

        #[test]
        fn arbitrary_bodies_of_known_types_never_panic(
            kind in prop_oneof![1_u8..=20, 101_u8..=105, 200_u8..=201],
            input in prop::collection::vec(prop_oneof![3 => Just(0_u8), 1 => any::<u8>()], 0..200),
        ) {
            let mut body = vec![kind];
            body.extend(input);
            let _ = Packet::decode(Frame::from(Bytes::from(body)));
        }

        #[test]
        fn the_patched_write_header_is_an_ordinary_write(
            handle in bytes(), id in any::<u32>(), offset in any::<u64>(), data in bytes(),
        ) {
            let mut packet = BytesMut::zeroed(write_header_length(handle.len()));
            packet.extend_from_slice(&data);
            fill_write_header(&mut packet, id, &handle, offset);
            let ordinary = Packet::Request { id, request: Request::Write { handle, offset, data } };
            prop_assert_eq!(packet.freeze(), ordinary.encode());
        }
    }

    #[test]
    fn a_status_without_message_is_a_status() {
        let body = Bytes::from_static(&[101, 0, 0, 0, 7, 0, 0, 0, 14]);
        let status = Status { code: StatusCode(14), message: Bytes::new(), language: Bytes::new() };
        assert_eq!(Packet::decode(Frame::from(body)), Ok(Packet::Reply { id: 7, reply: Reply::Status(status) }));
    }

    #[test]
    fn a_name_count_beyond_the_packet_is_refused() {
        let body = Bytes::from_static(&[104, 0, 0, 0, 7, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        assert_eq!(Packet::decode(Frame::from(body)), Err(DecodeError { id: Some(7), problem: Malformed::Count }));
    }

    #[test]
    fn bytes_after_the_data_are_not_data() {
        let body = Bytes::from_static(&[103, 0, 0, 0, 7, 0, 0, 0, 2, b'a', b'b', b'c']);
        let decoded = Packet::decode(Frame::from(body));
        assert_eq!(decoded, Ok(Packet::Reply { id: 7, reply: Reply::Data(vec![Bytes::from_static(b"ab")]) }));
    }
}
