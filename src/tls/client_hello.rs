//! The first message of a TLS client (RFC 5246 §7.4.1.2, RFC 8446 §4.1.2), read for what it can do and for the sessions
//! that it offers to resume.
//!
//! Nothing of it is proof of anything: it tells whose connection this would be, and the handshake that follows tells
//! whether it is.

/// The longest ClientHello that is read, in bytes on the wire: one full record. Some thousand are usual with large keys.
pub const LONGEST: usize = 16 * 1024;

/// Sessions looked at: clients offer one or two.
const MOST_TICKETS: usize = 8;

/// `handshake` (RFC 8446 §5.1) and `client_hello` (§4).
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// Extensions (RFC 6066 §3, RFC 5077 §3.2, RFC 8446 §4.2.11 and §4.2.1).
const SERVER_NAME: u16 = 0;
const SESSION_TICKET: u16 = 35;
const PRE_SHARED_KEY: u16 = 41;
const SUPPORTED_VERSIONS: u16 = 43;

/// TLS 1.3 (RFC 8446 §4.1.2).
pub const TLS13: u16 = 0x0304;

/// What a client says first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The highest version: [`TLS13`], or what `client_version` says, such as 0x0301 for TLS 1.0.
    pub version: u16,
    /// By their numbers.
    pub cipher_suites: Vec<u16>,
    /// The name asked for.
    pub server_name: Option<String>,
    /// The sessions to resume.
    pub offer: Offer,
}

/// Which sessions a client offers to resume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// The session identifier, which TLS 1.2 knows a session by.
    pub session_id: Vec<u8>,
    /// Tickets of either version.
    pub tickets: Vec<Vec<u8>>,
}

/// How far a ClientHello is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// More is needed.
    Partial,
    /// It is there.
    Complete(ClientHello),
    /// It is none, or too long.
    Other,
}

/// Looks at what a client has sent so far. What stands behind its first message changes nothing.
pub fn read(bytes: &[u8]) -> Progress {
    let bytes = bytes.get(..LONGEST).unwrap_or(bytes);
    let Some(message) = message(bytes) else { return Progress::Other };
    let Some((kind, length, body)) = header(&message) else { return partial(bytes) };
    if kind != CLIENT_HELLO || length > LONGEST {
        return Progress::Other;
    }
    match body.get(..length) {
        Some(body) => client_hello(body).map_or(Progress::Other, Progress::Complete),
        None => partial(bytes),
    }
}

fn partial(bytes: &[u8]) -> Progress {
    if bytes.len() < LONGEST { Progress::Partial } else { Progress::Other }
}

/// What the records hold so far, one after the other, until one message is there; `None` where they are no handshake.
fn message(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    while let Some((kind, rest)) = bytes.split_first() {
        if header(&message).is_some_and(|(_, length, body)| body.len() >= length) {
            break;
        }
        if *kind != HANDSHAKE {
            return None;
        }
        if rest.first().is_some_and(|major| *major != 3) {
            return None;
        }
        // Version, length, fragment.
        let Some(length) = rest.get(2..4).and_then(|length| length.try_into().ok()).map(u16::from_be_bytes) else {
            break;
        };
        let fragment = rest.get(4..).unwrap_or_default();
        let (fragment, behind) = fragment.split_at_checked(usize::from(length)).unwrap_or((fragment, &[]));
        message.extend_from_slice(fragment);
        bytes = behind;
    }
    Some(message)
}

fn header(message: &[u8]) -> Option<(u8, usize, &[u8])> {
    let [kind, high, middle, low, body @ ..] = message else { return None };
    Some((*kind, usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low), body))
}

fn client_hello(body: &[u8]) -> Option<ClientHello> {
    let mut rest = Reader(body);
    let version = rest.number16()?;
    // The random.
    rest.take(32)?;
    let session_id = rest.vector8()?.to_vec();
    let mut cipher_suites = Reader(rest.vector16()?);
    let cipher_suites = std::iter::from_fn(|| cipher_suites.number16()).collect();
    let _compression_methods = rest.vector8()?;
    let offer = Offer { session_id, tickets: Vec::new() };
    let mut hello = ClientHello { version, cipher_suites, server_name: None, offer };
    if rest.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader(rest.vector16()?);
    while !extensions.0.is_empty() {
        let (kind, data) = (extensions.number16()?, extensions.vector16()?);
        match kind {
            SERVER_NAME => hello.server_name = server_name(data),
            SUPPORTED_VERSIONS => {
                let mut versions = Reader(Reader(data).vector8()?);
                if std::iter::from_fn(|| versions.number16()).any(|version| version == TLS13) {
                    hello.version = TLS13;
                }
            }
            SESSION_TICKET if !data.is_empty() => hello.offer.tickets.push(data.to_vec()),
            PRE_SHARED_KEY => {
                let mut identities = Reader(Reader(data).vector16()?);
                while !identities.0.is_empty() && hello.offer.tickets.len() < MOST_TICKETS {
                    hello.offer.tickets.push(identities.vector16()?.to_vec());
                    // obfuscated_ticket_age
                    identities.take(4)?;
                }
            }
            _ => {}
        }
    }
    Some(hello)
}

/// The first name of type `host_name`.
fn server_name(data: &[u8]) -> Option<String> {
    let mut names = Reader(Reader(data).vector16()?);
    match names.take(1)? {
        [0] => String::from_utf8(names.vector16()?.to_vec()).ok(),
        _ => None,
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = *self.take(1)?.first()?;
        self.take(usize::from(length))
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.number16()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use tokio_rustls::rustls::pki_types::ServerName;
    use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    fn vector16(bytes: &[u8]) -> Vec<u8> {
        [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
    }

    /// A ClientHello with these extensions, in records of at most so many bytes.
    fn hello(minor: u8, suites: &[u8], extensions: &[(u16, Vec<u8>)], record: usize) -> Vec<u8> {
        let extensions: Vec<u8> =
            extensions.iter().flat_map(|(kind, data)| [kind.to_be_bytes().to_vec(), vector16(data)].concat()).collect();
        let body =
            [&[3, minor][..], &[7; 32], &[4, 1, 2, 3, 4], &vector16(suites), &[1, 0], &vector16(&extensions)].concat();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let message = [&[CLIENT_HELLO][..], &length[1..], &body].concat();
        message.chunks(record).flat_map(|part| [&[HANDSHAKE, 3, 1][..], &vector16(part)].concat()).collect()
    }

    #[test]
    fn tickets_of_both_versions_are_found_however_the_records_are_cut() {
        let keys =
            [vector16(&[vector16(b"one"), vec![0; 4], vector16(b"other"), vec![1; 4]].concat()), vec![0; 9]].concat();
        let extensions = [(0, vec![1, 2, 3]), (SESSION_TICKET, b"old".to_vec()), (PRE_SHARED_KEY, keys)];
        let expected = Offer {
            session_id: vec![1, 2, 3, 4],
            tickets: [&b"old"[..], b"one", b"other"].map(<[u8]>::to_vec).to_vec(),
        };
        let offer = |bytes: &[u8]| match read(bytes) {
            Progress::Complete(hello) => hello.offer,
            other => panic!("{other:?}"),
        };
        for record in [1, 2, 7, 16_384] {
            let bytes = hello(3, &[0x13, 1], &extensions, record);
            assert_eq!(offer(&bytes), expected, "{record}");
            for end in 0..bytes.len() {
                assert_eq!(read(&bytes[..end]), Progress::Partial, "{record} {end}");
            }
        }
        let empty = Offer { session_id: vec![1, 2, 3, 4], tickets: Vec::new() };
        assert_eq!(offer(&hello(3, &[0x13, 1], &[(SESSION_TICKET, Vec::new())], 512)), empty);
    }

    #[test]
    fn version_suites_and_name_are_told() {
        let read =
            |minor, extensions: &[(u16, Vec<u8>)]| match read(&hello(minor, &[0, 0x2F, 0xC0, 0x13], extensions, 7)) {
                Progress::Complete(hello) => hello,
                other => panic!("{other:?}"),
            };
        let old = read(1, &[(SERVER_NAME, b"\0\x0C\0\0\x09files.org".to_vec())]);
        assert_eq!((old.version, old.server_name.as_deref()), (0x0301, Some("files.org")));
        assert_eq!(old.cipher_suites, [0x002F, 0xC013]);
        assert_eq!(read(3, &[(SUPPORTED_VERSIONS, vec![4, 3, 4, 3, 3])]).version, TLS13);
        assert_eq!(read(3, &[(SUPPORTED_VERSIONS, vec![2, 3, 3])]).version, 0x0303);
        assert_eq!(read(3, &[(SERVER_NAME, vec![1, 2, 3])]).server_name, None);
    }

    #[test]
    fn what_a_library_sends_is_read() {
        let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        let Progress::Complete(ClientHello { offer, version, .. }) = read(&bytes) else {
            panic!("{}", bytes.escape_ascii())
        };
        assert_eq!((offer.session_id.len(), offer.tickets.len(), version), (32, 0, TLS13));
    }

    #[test]
    fn what_is_none_is_seen_at_once() {
        for bytes in [
            &b"GET / HTTP/1.1"[..],
            b"\x16\x02",
            b"\x15\x03\x03\x00\x02\x01\x00",
            b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        ] {
            assert_eq!(read(bytes), Progress::Other, "{}", bytes.escape_ascii());
        }
        // One without an end.
        let endless = [&[HANDSHAKE, 3, 1, 0x40, 0, CLIENT_HELLO, 0, 0x40, 0][..], &vec![0; LONGEST]].concat();
        assert_eq!(read(&endless), Progress::Other);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
            let _ = read(&[&[HANDSHAKE, 3, 1, 0, 200, CLIENT_HELLO, 0, 0, 180][..], &bytes].concat());
        }
    }
}
