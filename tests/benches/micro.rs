//! Micro benchmarks of what runs for every byte, line or packet: `cargo bench --bench micro`.

use bytes::{Bytes, BytesMut};
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use ftps2sftp::ftp::ascii::{FromNetwork, ToNetwork};
use ftps2sftp::ftp::facts::{self, Entry, EntryKind, FactPermissions, FactSelection};
use ftps2sftp::ftp::line::LineDecoder;
use ftps2sftp::ftp::list;
use ftps2sftp::ftp::request::Request as Command;
use ftps2sftp::ftp::time::Zone;
use ftps2sftp::sftp::wire::MAX_PACKET_ACCEPTED;
use ftps2sftp::sftp::wire::attributes::Attributes;
use ftps2sftp::sftp::wire::frame::FrameDecoder;
use ftps2sftp::sftp::wire::packet::{Name, Packet, Reply, Request, fill_write_header, write_header_length};
use ftps2sftp::sftp::wire::status::StatusCode;

/// One piece of a transfer.
const BLOCK: usize = 64 * 1024;

/// What one SSH packet carries at most (RFC 4253 §6.1).
const SSH_PAYLOAD: usize = 32 * 1024;

/// Entries in one page of a listing as OpenSSH gives it.
const PAGE: usize = 100;

/// Data in one READ or WRITE: what OpenSSH allows.
const SFTP_DATA: usize = 255 * 1024;

/// 2026-11-22T17:41:00Z
const NOW: i64 = 1_795_369_260;

const UNIX: list::Form = list::Form { style: list::Style::Unix, zone: Zone::UTC };

fn main() {
    divan::main();
}

/// Commands as a client sends them, decoded and parsed.
#[divan::bench]
fn line_decoder(bencher: Bencher<'_, '_>) {
    let dialogue: &[u8] =
        b"TYPE I\r\nCWD /incoming/acme/2026\r\nEPSV\r\nSTOR invoice-000123.xml\r\nSIZE invoice-000123.xml\r\n";
    let lines = dialogue.iter().filter(|byte| **byte == b'\n').count();
    let mut decoder = LineDecoder::new();
    bencher.counter(ItemsCount::new(lines)).counter(BytesCount::new(dialogue.len())).bench_local(|| {
        decoder.push(black_box(dialogue));
        while let Some(decoded) = decoder.next() {
            if let ftps2sftp::ftp::line::Decoded::Line(line) = decoded {
                black_box(Command::parse(&line).is_ok());
            }
        }
    });
}

/// A download under TYPE A: LF becomes CR LF.
#[divan::bench]
fn ascii_to_network(bencher: Bencher<'_, '_>) {
    let text = text(b"\n");
    let mut output = Vec::with_capacity(2 * BLOCK);
    bencher.counter(BytesCount::new(text.len())).bench_local(|| {
        output.clear();
        ToNetwork::new().convert(black_box(&text), &mut output);
        black_box(output.len())
    });
}

/// An upload under TYPE A: CR LF becomes LF.
#[divan::bench]
fn ascii_from_network(bencher: Bencher<'_, '_>) {
    let text = text(b"\r\n");
    let mut output = Vec::with_capacity(2 * BLOCK);
    bencher.counter(BytesCount::new(text.len())).bench_local(|| {
        output.clear();
        let mut converter = FromNetwork::new();
        converter.convert(black_box(&text), &mut output);
        converter.finish(&mut output);
        black_box(output.len())
    });
}

/// LIST: one line for each entry.
#[divan::bench]
fn list_lines(bencher: Bencher<'_, '_>) {
    let names = names();
    let mut output = Vec::with_capacity(BLOCK);
    bencher.counter(ItemsCount::new(PAGE)).bench_local(|| {
        output.clear();
        for name in &names {
            list::line(black_box(&entry(name)), &UNIX, NOW, &mut output);
            output.extend_from_slice(b"\r\n");
        }
        black_box(output.len())
    });
}

/// MLSD: one line of facts for each entry.
#[divan::bench]
fn mlsd_lines(bencher: Bencher<'_, '_>) {
    let names = names();
    let selection = FactSelection::default();
    let mut output = Vec::with_capacity(BLOCK);
    bencher.counter(ItemsCount::new(PAGE)).bench_local(|| {
        output.clear();
        for name in &names {
            facts::line(black_box(&entry(name)), &selection, &mut output);
            output.extend_from_slice(b"\r\n");
        }
        black_box(output.len())
    });
}

/// The header in front of data that is in place already.
#[divan::bench]
fn sftp_write_header(bencher: Bencher<'_, '_>) {
    let mut packet = BytesMut::zeroed(write_header_length(4) + BLOCK);
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        fill_write_header(&mut packet, black_box(7), &[0, 0, 0, 1], black_box(1 << 40));
        black_box(packet.first().copied())
    });
}

/// DATA in the pieces in which SSH brings it: found, and handed on without a copy.
#[divan::bench]
fn sftp_data(bencher: Bencher<'_, '_>) {
    let packet = Packet::Reply { id: 7, reply: Reply::Data(vec![Bytes::from(vec![0x5a; SFTP_DATA])]) }.encode();
    let mut decoder = FrameDecoder::new(MAX_PACKET_ACCEPTED);
    bencher.counter(BytesCount::new(SFTP_DATA)).bench_local(|| decode(&mut decoder, black_box(&packet)));
}

/// A page of a listing.
#[divan::bench]
fn sftp_name(bencher: Bencher<'_, '_>) {
    let entries = names().into_iter().map(|name| Name {
        longname: Bytes::from([b"-rw-r--r--    ? 1000     100          1024 Nov 22 17:41 ", name.as_slice()].concat()),
        filename: Bytes::from(name),
        attributes: Attributes {
            size: Some(1024),
            owner: Some((1000, 100)),
            permissions: Some(0o100_644),
            times: Some((1_795_369_260, 1_795_369_260)),
            extended: Vec::new(),
        },
    });
    let packet = Packet::Reply { id: 7, reply: Reply::Name(entries.collect()) }.encode();
    let mut decoder = FrameDecoder::new(MAX_PACKET_ACCEPTED);
    bencher.counter(ItemsCount::new(PAGE)).bench_local(|| decode(&mut decoder, black_box(&packet)));
}

/// The answer to each WRITE.
#[divan::bench]
fn sftp_status(bencher: Bencher<'_, '_>) {
    let packet = Packet::Reply { id: 7, reply: Reply::status(StatusCode::OK, "Success") }.encode();
    let mut decoder = FrameDecoder::new(MAX_PACKET_ACCEPTED);
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| decode(&mut decoder, black_box(&packet)));
}

/// The question of each piece of a download.
#[divan::bench]
fn sftp_read_request(bencher: Bencher<'_, '_>) {
    let handle = Bytes::from_static(&[0, 0, 0, 1]);
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        let request = Request::Read { handle: handle.clone(), offset: black_box(1 << 40), length: 261_120 };
        Packet::Request { id: black_box(7), request }.encode()
    });
}

/// From the bytes of a channel, which come in pieces of an SSH packet, to a packet.
fn decode(decoder: &mut FrameDecoder, packet: &Bytes) -> Option<Packet> {
    let mut decoded = None;
    for start in (0..packet.len()).step_by(SSH_PAYLOAD) {
        decoder.push(packet.slice(start..packet.len().min(start + SSH_PAYLOAD)));
        while let Ok(Some(frame)) = decoder.next_frame() {
            decoded = Packet::decode(frame).ok();
        }
    }
    decoded
}

/// Lines of some length, `BLOCK` bytes in all.
fn text(line_end: &[u8]) -> Vec<u8> {
    let line = [&b"GB29NWBK60161331926819;2026-11-22;1024.00;EUR;invoice 000123"[..], line_end].concat();
    line.iter().copied().cycle().take(BLOCK).collect()
}

fn names() -> Vec<Vec<u8>> {
    (0..PAGE).map(|number| format!("invoice-{number:06}.xml").into_bytes()).collect()
}

fn entry(name: &[u8]) -> Entry<'_> {
    Entry {
        name,
        kind: EntryKind::File,
        target: None,
        size: Some(1024),
        modified: Some(NOW - 86_400),
        mode: Some(0o100_644),
        owner: Some(1000),
        group: Some(100),
        permissions: FactPermissions { list: true, read: true, write: true, ..FactPermissions::default() },
    }
}
