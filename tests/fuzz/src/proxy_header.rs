//! PROXY headers: read to their last byte and no further, and as another library reads them.

use std::net::{IpAddr, SocketAddr};

use ftps2sftp::proxy_protocol::header::{Header, HeaderError, Progress, may_begin, read};
use ppp::{v1, v2};

use super::input::unfold;

/// Just beyond the longest header.
const LONGEST: usize = 9 * 1024;

/// What the other library does not know: more than this is refused behind the head of version 2.
const LONGEST_REST: usize = 8 * 1024;

/// What comes over a connection.
pub fn run(bytes: &[u8]) {
    let text = unfold(bytes, LONGEST);
    let (ours, taken) = received(&text);
    let theirs = theirs(&text);
    match ours {
        Some(Ok(Header::Client { source, destination })) => {
            assert_eq!(theirs, Some((source, destination, taken)), "{}", text.escape_ascii());
        }
        Some(Ok(Header::Own)) => assert_eq!(theirs, None, "{}", text.escape_ascii()),
        // They take more than the specification allows, such as numbers with a sign; what it does is never refused.
        Some(Err(HeaderError::Malformed)) | None if text.starts_with(b"PROXY ") => {
            assert!(theirs.is_none_or(|ends| !text.starts_with(&canonical(ends))), "{}", text.escape_ascii());
        }
        Some(Err(HeaderError::TooLong)) => assert!(theirs.is_none_or(|(.., length)| length > LONGEST_REST)),
        Some(Err(_)) | None => assert_eq!(theirs, None, "{}", text.escape_ascii()),
    }
}

/// As §2.1 has version 1.
fn canonical((source, destination, _): (SocketAddr, SocketAddr, usize)) -> Vec<u8> {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

/// Takes what is needed and no more, as from a connection; nothing where it ends too early.
fn received(text: &[u8]) -> (Option<Result<Header, HeaderError>>, usize) {
    let mut taken = 0;
    loop {
        let so_far = &text[..taken];
        match read(so_far) {
            Ok(Progress::Complete(header)) => return (Some(Ok(header)), taken),
            Ok(Progress::Needs(count)) => {
                assert!(count > 0);
                assert!(may_begin(so_far));
                // Less than what is needed is never a header, nor is the need ever taken back.
                for part in taken..(taken + count).min(text.len()) {
                    assert!(!matches!(read(&text[..part]), Ok(Progress::Complete(_))));
                }
                if taken + count > text.len() {
                    return (None, taken);
                }
                taken += count;
            }
            Err(error) => return (Some(Err(error)), taken),
        }
    }
}

/// Source, destination and length, where the other library finds a client in front.
fn theirs(text: &[u8]) -> Option<(SocketAddr, SocketAddr, usize)> {
    let address = |address: IpAddr, port| SocketAddr::new(address.to_canonical(), port);
    if let Ok(header) = v1::Header::try_from(text) {
        let length = header.header.len();
        return match header.addresses {
            v1::Addresses::Unknown => None,
            v1::Addresses::Tcp4(ends) => Some((
                address(ends.source_address.into(), ends.source_port),
                address(ends.destination_address.into(), ends.destination_port),
                length,
            )),
            v1::Addresses::Tcp6(ends) => Some((
                address(ends.source_address.into(), ends.source_port),
                address(ends.destination_address.into(), ends.destination_port),
                length,
            )),
        };
    }
    let header = v2::Header::try_from(text).ok()?;
    if header.command != v2::Command::Proxy || header.protocol != v2::Protocol::Stream {
        return None;
    }
    let length = header.header.len();
    match header.addresses {
        v2::Addresses::IPv4(ends) => Some((
            address(ends.source_address.into(), ends.source_port),
            address(ends.destination_address.into(), ends.destination_port),
            length,
        )),
        v2::Addresses::IPv6(ends) => Some((
            address(ends.source_address.into(), ends.source_port),
            address(ends.destination_address.into(), ends.destination_port),
            length,
        )),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
    }
}
