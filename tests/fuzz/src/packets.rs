//! SFTP's codec, both ways: what is decoded is encoded to the same, however it was cut, and no count is believed.

use bytes::{Bytes, BytesMut};
use ftps2sftp::sftp::wire::extensions::{ExtendedRequest, FileSystem, Limits};
use ftps2sftp::sftp::wire::frame::{Frame, FrameDecoder};
use ftps2sftp::sftp::wire::packet::{LENGTH_FIELD, Packet, Reply, Request, fill_write_header, write_header_length};
use ftps2sftp::sftp::wire::status::printable;
use ftps2sftp::sftp::wire::{DecodeError, Malformed};

use super::input::{Input, unfold};

/// Longest packet of the stream: short, so that a length above it is found too.
const LONGEST: usize = 2 * 1024;

/// How to read the bytes: as a packet, or else as a stream in chunks of as many bytes; then the bytes.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let size = usize::from(input.byte());
    let bytes = Bytes::from(unfold(input.rest(), 2 * LONGEST));
    if size == 0 {
        packet(&bytes);
    } else {
        stream(&bytes, size);
    }
}

fn packet(bytes: &Bytes) {
    let decoded = Packet::decode(Frame::from(bytes.clone()));
    let pieces: Vec<Bytes> = bytes.chunks(3).map(Bytes::copy_from_slice).collect();
    assert_eq!(
        Packet::decode(Frame::from(pieces)).map(joined),
        decoded.clone().map(joined),
        "it depends on the pieces"
    );
    let packet = match decoded {
        Ok(packet) => joined(packet),
        Err(DecodeError { id, problem: Malformed::Truncated | Malformed::Count }) => {
            assert!(id.is_none() || bytes.len() > LENGTH_FIELD);
            return;
        }
    };
    let encoded = packet.encode();
    let (length, body) = encoded.split_at(LENGTH_FIELD);
    assert_eq!(usize::try_from(u32::from_be_bytes(length.try_into().unwrap())), Ok(body.len()));
    let again = Packet::decode(Frame::from(encoded.slice(LENGTH_FIELD..)));
    assert_eq!(again.map(joined).as_ref(), Ok(&packet), "it does not come back as it went");
    match &packet {
        Packet::Request { id, request } => self::request(*id, request, &encoded),
        Packet::Reply { reply, .. } => self::reply(reply, bytes.len()),
        Packet::Init { extensions, .. } | Packet::Version { extensions, .. } => {
            assert!(extensions.len() * 2 * size_of::<u32>() <= bytes.len());
        }
        Packet::Unknown { .. } => {}
    }
}

fn request(id: u32, request: &Request, encoded: &Bytes) {
    match request {
        Request::Write { handle, offset, data } => {
            let mut packet = BytesMut::zeroed(write_header_length(handle.len()));
            packet.extend_from_slice(data);
            fill_write_header(&mut packet, id, handle, *offset);
            assert_eq!(packet, encoded, "the header of a WRITE made in place differs");
        }
        Request::Extended { name, data } => {
            if let Ok(Some(known)) = ExtendedRequest::decode(name, data.clone()) {
                assert_eq!(known.name().as_bytes(), name);
                assert_eq!(ExtendedRequest::decode(name, known.data()), Ok(Some(known)));
            }
        }
        _ => {}
    }
}

fn reply(reply: &Reply, length: usize) {
    match reply {
        Reply::Name(names) => assert!(names.len() * 3 * size_of::<u32>() <= length, "more names than bytes"),
        Reply::Status(status) => {
            let text = printable(&status.message);
            assert!(!text.chars().any(char::is_control) && text.len() <= 10 * 256);
        }
        Reply::Extended(data) => {
            if let Ok(limits) = Limits::decode(data.clone()) {
                assert!(limits.packet_length > 0 && limits.read_length > 0 && limits.write_length > 0);
                assert_eq!(Limits::decode(limits.encode()), Ok(limits));
            }
            if let Ok(room) = FileSystem::decode(data.clone()) {
                assert_eq!(FileSystem::decode(room.encode()), Ok(room));
            }
        }
        Reply::Handle(_) | Reply::Data(_) | Reply::Attributes(_) => {}
    }
}

/// Any chunks give the same packets, and the same end where it cannot be read on.
fn stream(bytes: &Bytes, size: usize) {
    let whole = frames([bytes.clone()]);
    let cut = frames((0..bytes.len()).step_by(size).map(|from| bytes.slice(from..(from + size).min(bytes.len()))));
    assert_eq!(cut, whole, "chunks of {size} make other packets");
    assert!(whole.0.iter().map(|frame| frame.len() + LENGTH_FIELD).sum::<usize>() <= bytes.len());
    whole.0.into_iter().take(8).for_each(|frame| packet(&frame));
}

fn frames(chunks: impl IntoIterator<Item = Bytes>) -> (Vec<Bytes>, Option<String>) {
    let mut decoder = FrameDecoder::new(LONGEST);
    let mut frames = Vec::new();
    for chunk in chunks {
        decoder.push(chunk);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    let length = frame.len();
                    assert!(length <= LONGEST && frame.is_empty() == (length == 0));
                    frames.push(frame.into_bytes());
                }
                Ok(None) => break,
                Err(error) => return (frames, Some(error.to_string())),
            }
        }
    }
    (frames, None)
}

/// File data in one piece, whatever pieces it came in.
fn joined(packet: Packet) -> Packet {
    match packet {
        Packet::Reply { id, reply: Reply::Data(pieces) } => {
            Packet::Reply { id, reply: Reply::Data(vec![Bytes::from(pieces.concat())]) }
        }
        other => other,
    }
}
