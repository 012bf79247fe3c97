//! The PROXY protocol's header, versions 1 and 2 (HAProxy's `proxy-protocol.txt`): functions of bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// How a header of version 1 begins.
const TEXT_SIGNATURE: &[u8] = b"PROXY ";

/// How a header of version 2 begins.
const BINARY_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest header of version 1, its line end included ("107 chars", §2.1).
const LONGEST_TEXT: usize = 107;

/// The shortest one: `PROXY UNKNOWN` and a line end.
const SHORTEST: usize = 15;

/// What every header of version 2 has: signature, command, family, length.
const BINARY_HEAD: usize = 16;

/// The most that may follow it, in bytes. Addresses are 36; a proxy that adds the client's certificate needs some
/// thousand, and all of it is read away.
const LONGEST_REST: usize = 8 * 1024;

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// The proxy's own (LOCAL, UNKNOWN): the addresses are those of the connection.
    Own,
    /// A client's.
    Client {
        /// Where it comes from.
        source: SocketAddr,
        /// What it dialled.
        destination: SocketAddr,
    },
}

/// How far a header is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So many further bytes belong to it, at least: what stands behind it is never asked for.
    Needs(usize),
    /// It ends with the last byte.
    Complete(Header),
}

/// What is wrong with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Something else.
    #[error("there is no PROXY header")]
    Missing,
    /// No end in sight.
    #[error("the PROXY header is too long")]
    TooLong,
    /// Not as the specification says.
    #[error("the PROXY header is malformed")]
    Malformed,
    /// UDP or a Unix socket.
    #[error("the PROXY header tells of something other than TCP over IP")]
    NotTcp,
}

/// May these be the first bytes of a header?
pub fn may_begin(bytes: &[u8]) -> bool {
    [TEXT_SIGNATURE, BINARY_SIGNATURE].iter().any(|signature| agree(bytes, signature))
}

/// Reads what there is of a header.
///
/// # Errors
/// As soon as it can be no header any more.
pub fn read(bytes: &[u8]) -> Result<Progress, HeaderError> {
    if agree(bytes, BINARY_SIGNATURE) && !bytes.is_empty() {
        return binary(bytes);
    }
    if !agree(bytes, TEXT_SIGNATURE) {
        return Err(HeaderError::Missing);
    }
    text(bytes)
}

/// Does one begin with the other?
fn agree(bytes: &[u8], signature: &[u8]) -> bool {
    let common = bytes.len().min(signature.len());
    bytes.get(..common) == signature.get(..common)
}

/// §2.1: `PROXY TCP4 192.0.2.1 192.0.2.9 50000 21` and a line end.
fn text(bytes: &[u8]) -> Result<Progress, HeaderError> {
    let Some(carriage_return) = bytes.iter().position(|byte| *byte == b'\r') else {
        if bytes.contains(&b'\n') {
            return Err(HeaderError::Malformed);
        }
        // A line end is two bytes.
        let needed = SHORTEST.saturating_sub(bytes.len()).max(2);
        return if bytes.len() + needed > LONGEST_TEXT {
            Err(HeaderError::TooLong)
        } else {
            Ok(Progress::Needs(needed))
        };
    };
    let (line, end) = bytes.split_at(carriage_return);
    match end {
        b"\r" if bytes.len() >= LONGEST_TEXT => return Err(HeaderError::TooLong),
        b"\r" if bytes.len() >= SHORTEST - 1 => return Ok(Progress::Needs(1)),
        b"\r\n" => {}
        _ => return Err(HeaderError::Malformed),
    }
    let line = str::from_utf8(line).map_err(|_| HeaderError::Malformed)?;
    let mut words = line.split(' ').skip(1);
    let parse: fn(&str) -> Option<IpAddr> = match words.next() {
        // "the receiver must ignore anything presented before the CRLF is found"
        Some("UNKNOWN") => return Ok(Progress::Complete(Header::Own)),
        Some("TCP4") => |word| word.parse().map(Ipv4Addr::into).ok(),
        Some("TCP6") => |word| word.parse().map(Ipv6Addr::into).ok(),
        _ => return Err(HeaderError::Malformed),
    };
    let mut address = || words.next().and_then(parse).ok_or(HeaderError::Malformed);
    let (source, destination) = (address()?, address()?);
    let mut port = || words.next().and_then(port).ok_or(HeaderError::Malformed);
    let (source_port, destination_port) = (port()?, port()?);
    if words.next().is_some() {
        return Err(HeaderError::Malformed);
    }
    Ok(Progress::Complete(client((source, source_port), (destination, destination_port))))
}

/// Decimal, without zeros in front.
fn port(word: &str) -> Option<u16> {
    let is_canonical = word == "0" || !word.starts_with('0');
    if is_canonical && word.bytes().all(|byte| byte.is_ascii_digit()) { word.parse().ok() } else { None }
}

/// §2.2.
fn binary(bytes: &[u8]) -> Result<Progress, HeaderError> {
    let Some((head, rest)) = bytes.split_at_checked(BINARY_HEAD) else {
        return Ok(Progress::Needs(BINARY_HEAD - bytes.len()));
    };
    let [.., command, family, high, low] = head else { return Err(HeaderError::Malformed) };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length > LONGEST_REST {
        return Err(HeaderError::TooLong);
    }
    // Refused before the rest of it is waited for.
    let has_addresses = match (command, family) {
        // "must discard the protocol block including the family which is ignored"
        (0x20, _) => false,
        (0x21, 0x00) => false,
        (0x21, 0x11 | 0x21) => true,
        (0x21, 0x12 | 0x22 | 0x31 | 0x32) => return Err(HeaderError::NotTcp),
        _ => return Err(HeaderError::Malformed),
    };
    match length.checked_sub(rest.len()) {
        Some(0) => {}
        Some(needed) => return Ok(Progress::Needs(needed)),
        None => return Err(HeaderError::Malformed),
    }
    if !has_addresses {
        return Ok(Progress::Complete(Header::Own));
    }
    // What follows the addresses (TLVs) is not looked at.
    let header = if *family == 0x11 { addresses::<4>(rest) } else { addresses::<16>(rest) };
    header.map(Progress::Complete).ok_or(HeaderError::Malformed)
}

/// Two addresses of `N` bytes, then two ports.
fn addresses<const N: usize>(bytes: &[u8]) -> Option<Header>
where
    IpAddr: From<[u8; N]>,
{
    let (source, bytes) = bytes.split_first_chunk::<N>()?;
    let (destination, bytes) = bytes.split_first_chunk::<N>()?;
    let (source_port, bytes) = bytes.split_first_chunk::<2>()?;
    let destination_port = bytes.first_chunk::<2>()?;
    Some(client(
        ((*source).into(), u16::from_be_bytes(*source_port)),
        ((*destination).into(), u16::from_be_bytes(*destination_port)),
    ))
}

/// IPv4-mapped addresses are IPv4 addresses.
fn client(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Header {
    let address = |(address, port): (IpAddr, u16)| SocketAddr::new(address.to_canonical(), port);
    Header::Client { source: address(source), destination: address(destination) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(bytes: &[u8]) -> Result<Header, HeaderError> {
        // As it is read from a connection: what is needed, and no more.
        let mut taken = 0;
        loop {
            match read(&bytes[..taken])? {
                Progress::Complete(header) => {
                    assert_eq!(taken, bytes.len(), "more follows");
                    return Ok(header);
                }
                Progress::Needs(count) => {
                    assert!(count > 0 && taken + count <= bytes.len(), "{taken} + {count} of {}", bytes.len());
                    taken += count;
                }
            }
        }
    }

    fn client(source: &str, destination: &str) -> Header {
        Header::Client { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [BINARY_SIGNATURE, &[command, family], &length, rest].concat()
    }

    const IPV4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 9, 0xc3, 0x50, 0, 21];

    #[test]
    fn lines_of_version_1() {
        for (line, header) in [
            ("PROXY TCP4 192.0.2.1 198.51.100.9 50000 21\r\n", client("192.0.2.1:50000", "198.51.100.9:21")),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n", client("1.1.1.1:1", "2.2.2.2:2")),
            ("PROXY TCP6 2001:db8::1 2001:db8::2 65535 0\r\n", client("[2001:db8::1]:65535", "[2001:db8::2]:0")),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", client("192.0.2.1:1", "[::1]:2")),
            ("PROXY UNKNOWN\r\n", Header::Own),
            ("PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", Header::Own),
            (&format!("PROXY UNKNOWN {}\r\n", "x".repeat(LONGEST_TEXT - 16)), Header::Own),
        ] {
            assert_eq!(whole(line.as_bytes()), Ok(header), "{line}");
        }
    }

    #[test]
    fn lines_that_are_wrong() {
        for (line, error) in [
            ("USER anonymous\r\n", HeaderError::Missing),
            ("PROXYTCP4 1.1.1.1 2.2.2.2 1 2\r\n", HeaderError::Missing),
            ("proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n", HeaderError::Missing),
            ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}four more", HeaderError::Missing),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n", HeaderError::Malformed),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 1 \r\n", HeaderError::Malformed),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n", HeaderError::Malformed),
            ("PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n", HeaderError::Malformed),
            ("PROXY TCP4 01.1.1.1 2.2.2.2 1 2\r\n", HeaderError::Malformed),
            ("PROXY TCP4 ::1 ::1 1 2\r\n", HeaderError::Malformed),
            ("PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n", HeaderError::Malformed),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n", HeaderError::Malformed),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n", HeaderError::Malformed),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 65536 2\r\n", HeaderError::Malformed),
            ("PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n", HeaderError::Malformed),
            ("PROXY UNKNOWN more\n", HeaderError::Malformed),
            ("PROXY UNKNOWN more\rx", HeaderError::Malformed),
            ("PROXY X\r\nUSER acm", HeaderError::Malformed),
        ] {
            assert_eq!(whole(line.as_bytes()), Err(error), "{line}");
        }
        let endless = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LONGEST_TEXT - 15));
        assert_eq!(whole(endless.as_bytes()), Err(HeaderError::TooLong));
    }

    #[test]
    fn headers_of_version_2() {
        let source_and_destination = client("192.0.2.1:50000", "198.51.100.9:21");
        assert_eq!(whole(&binary(0x21, 0x11, &IPV4)), Ok(source_and_destination));
        let with_more = [&IPV4[..], &[0x04, 0, 3, 0, 0, 0, 0xff]].concat();
        assert_eq!(whole(&binary(0x21, 0x11, &with_more)), Ok(source_and_destination));
        let mut ipv6 = [0_u8; 36];
        (ipv6[15], ipv6[31], ipv6[33], ipv6[35]) = (1, 2, 3, 4);
        assert_eq!(whole(&binary(0x21, 0x21, &ipv6)), Ok(client("[::1]:3", "[::2]:4")));
        for (command, family, rest) in [
            (0x20, 0x00, &b""[..]),
            (0x20, 0x11, b""),
            (0x20, 0x11, &IPV4),
            (0x20, 0xff, b"anything"),
            (0x21, 0x00, b""),
            (0x21, 0x00, b"more"),
            (0x20, 0x00, &[0; LONGEST_REST]),
        ] {
            assert_eq!(whole(&binary(command, family, rest)), Ok(Header::Own), "{command:x} {family:x}");
        }
    }

    #[test]
    fn headers_of_version_2_that_are_wrong() {
        for (command, family, rest, error) in [
            (0x11, 0x11, &IPV4[..], HeaderError::Malformed),
            (0x22, 0x11, &IPV4, HeaderError::Malformed),
            (0x21, 0x10, &IPV4, HeaderError::Malformed),
            (0x21, 0x41, &IPV4, HeaderError::Malformed),
            (0x21, 0x11, &IPV4[1..], HeaderError::Malformed),
            (0x21, 0x21, &[0; 35], HeaderError::Malformed),
            (0x21, 0x12, &IPV4, HeaderError::NotTcp),
            (0x21, 0x31, &[0; 216], HeaderError::NotTcp),
            (0x20, 0x00, &[0; LONGEST_REST + 1], HeaderError::TooLong),
        ] {
            assert_eq!(whole(&binary(command, family, rest)), Err(error), "{command:x} {family:x}");
        }
        assert_eq!(read(b"\r\n\r\n\0\r\nQUIT\r"), Err(HeaderError::Missing));
    }

    #[test]
    fn what_may_be_the_beginning_of_a_header() {
        for bytes in [&b""[..], b"P", b"PROX", b"PROXY UNK", b"\r", b"\r\n\r\n\0\r\nQUIT\n\x20"] {
            assert!(may_begin(bytes), "{}", bytes.escape_ascii());
        }
        for bytes in [&b"\x16\x03\x01"[..], b"PK\x03\x04", b"PROXYX", b"USER", b"\r\nUSER"] {
            assert!(!may_begin(bytes), "{}", bytes.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn every_client_is_read_in_both_versions_to_its_last_byte(
            source: std::net::Ipv4Addr, destination: std::net::Ipv4Addr, ports: [u16; 2], more in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let header = Header::Client {
                source: (source, ports[0]).into(),
                destination: (destination, ports[1]).into(),
            };
            let line = format!("PROXY TCP4 {source} {destination} {} {}\r\n", ports[0], ports[1]);
            prop_assert_eq!(whole(line.as_bytes()), Ok(header));
            let ports = ports.map(u16::to_be_bytes);
            let rest = [&source.octets()[..], &destination.octets(), &ports[0], &ports[1], &more].concat();
            prop_assert_eq!(whole(&binary(0x21, 0x11, &rest)), Ok(header));
        }

        #[test]
        fn no_bytes_panic_or_need_nothing(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Progress::Needs(count)) = read(&bytes) {
                prop_assert!(count > 0);
            }
        }
    }
}
