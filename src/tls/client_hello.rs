//! The first message of a TLS client, read for the sessions it offers to resume (RFC 5246 §7.4.1.2, RFC 8446 §4.1.2).
//!
//! Nothing of it is proof of anything: it tells whose connection this would be, and the handshake that follows tells
//! whether it is.

/// The longest ClientHello that is read, in bytes on the wire: one full record. Some thousand are usual with large keys.
const LONGEST: usize = 16 * 1024;

/// Sessions looked at: clients offer one or two.
const MOST_TICKETS: usize = 8;

/// `handshake` (RFC 8446 §5.1) and `client_hello` (§4).
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// Extensions (RFC 5077 §3.2, RFC 8446 §4.2.11).
const SESSION_TICKET: u16 = 35;
const PRE_SHARED_KEY: u16 = 41;

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
    Complete(Offer),
    /// It is none, or too long.
    Other,
}

/// Looks at what a client has sent so far.
pub fn read(bytes: &[u8]) -> Progress {
    let Some(message) = message(bytes) else { return Progress::Other };
    let Some((kind, length, body)) = header(&message) else { return partial(bytes) };
    if kind != CLIENT_HELLO || length > LONGEST {
        return Progress::Other;
    }
    match body.get(..length) {
        Some(body) => offer(body).map_or(Progress::Other, Progress::Complete),
        None => partial(bytes),
    }
}

fn partial(bytes: &[u8]) -> Progress {
    if bytes.len() < LONGEST { Progress::Partial } else { Progress::Other }
}

/// What the records hold so far, one after the other; `None` where they are no handshake.
fn message(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    while let Some((kind, rest)) = bytes.split_first() {
        if *kind != HANDSHAKE {
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

fn offer(body: &[u8]) -> Option<Offer> {
    // Version and random.
    let mut rest = Reader(body.get(34..)?);
    let session_id = rest.vector8()?.to_vec();
    let (_cipher_suites, _compression_methods) = (rest.vector16()?, rest.vector8()?);
    let mut offer = Offer { session_id, tickets: Vec::new() };
    if rest.0.is_empty() {
        return Some(offer);
    }
    let mut extensions = Reader(rest.vector16()?);
    while !extensions.0.is_empty() {
        let (kind, data) = (extensions.number16()?, extensions.vector16()?);
        match kind {
            SESSION_TICKET if !data.is_empty() => offer.tickets.push(data.to_vec()),
            PRE_SHARED_KEY => {
                let mut identities = Reader(Reader(data).vector16()?);
                while !identities.0.is_empty() && offer.tickets.len() < MOST_TICKETS {
                    offer.tickets.push(identities.vector16()?.to_vec());
                    // obfuscated_ticket_age
                    identities.take(4)?;
                }
            }
            _ => {}
        }
    }
    Some(offer)
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
    fn hello(extensions: &[(u16, Vec<u8>)], record: usize) -> Vec<u8> {
        let extensions: Vec<u8> =
            extensions.iter().flat_map(|(kind, data)| [kind.to_be_bytes().to_vec(), vector16(data)].concat()).collect();
        let body =
            [&[3, 3][..], &[7; 32], &[4, 1, 2, 3, 4], &vector16(&[0x13, 1]), &[1, 0], &vector16(&extensions)].concat();
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
        for record in [1, 2, 7, 16_384] {
            let bytes = hello(&extensions, record);
            assert_eq!(read(&bytes), Progress::Complete(expected.clone()), "{record}");
            for end in 0..bytes.len() {
                assert_eq!(read(&bytes[..end]), Progress::Partial, "{record} {end}");
            }
        }
        let empty = Offer { session_id: vec![1, 2, 3, 4], tickets: Vec::new() };
        assert_eq!(read(&hello(&[(SESSION_TICKET, Vec::new())], 512)), Progress::Complete(empty));
    }

    #[test]
    fn what_a_library_sends_is_read() {
        let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        let Progress::Complete(offer) = read(&bytes) else { panic!("{}", bytes.escape_ascii()) };
        assert_eq!((offer.session_id.len(), offer.tickets.len()), (32, 0));
    }

    #[test]
    fn what_is_none_is_seen_at_once() {
        for bytes in [&b"GET / HTTP/1.1"[..], b"\x15\x03\x03\x00\x02\x01\x00", b"\x16\x03\x01\x00\x04\x02\x00\x00\x00"]
        {
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
