//! What a client offered that could not be served. rustls speaks TLS 1.2 with ephemeral keys and authenticated ciphers,
//! and TLS 1.3; who is older than that is told so by an alert, and by this the operator learns who it was.

use std::fmt;
use std::io;

use tokio_rustls::rustls::{self, CipherSuite, PeerIncompatible};

use crate::telemetry::metrics::{OfferedSuite, OfferedVersion, TlsRefusal};

/// Content type of a handshake record, and message type of a ClientHello (RFC 8446 §5.1 and §4).
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// Extensions (RFC 6066 §3, RFC 8446 §4.2.1), and what the latter calls TLS 1.3.
const SERVER_NAME: u16 = 0;
const SUPPORTED_VERSIONS: u16 = 43;
const TLS13: [u8; 2] = [3, 4];

/// Bytes from which on it can be told what a flight is.
const SHORTEST: usize = 5;

/// Suites told in the log; clients offer some dozens.
const MAX_TOLD: usize = 32;

/// Bytes of a first flight that are kept until the handshake is complete. A ClientHello with post-quantum key shares
/// has some two thousand.
pub const MAX_KEPT: usize = 4096;

/// A first flight that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub reason: TlsRefusal,
    /// The highest version in it.
    pub version: OfferedVersion,
    /// Its best suite.
    pub best: OfferedSuite,
    /// Its suites.
    pub suites: Suites,
    /// The name that was asked for (RFC 6066 §3).
    pub server_name: Option<String>,
}

/// Suites that a client offered, as a log shows them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Suites(Vec<CipherSuite>);

/// What is known of a first flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flight {
    /// More bytes are needed.
    Incomplete,
    /// It is no ClientHello.
    Foreign,
    /// It is one.
    Hello(Hello),
}

/// A ClientHello, as far as it tells what a client can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    version: OfferedVersion,
    suites: Suites,
    server_name: Option<String>,
}

impl Flight {
    /// Reads the first bytes of a connection.
    ///
    /// It need not be right where rustls would find fault: nothing depends on it but what is told.
    pub fn read(flight: &[u8]) -> Self {
        match flight {
            // A two-byte length with its highest bit set, then CLIENT-HELLO: how SSL 2.0 began, and what came after it
            // for the sake of servers that knew nothing else (RFC 5246 §E.2).
            [length, _, CLIENT_HELLO, major @ 0..=3, minor, ..] if length & 0x80 != 0 => {
                let version = if *major == 3 { version(*minor) } else { OfferedVersion::Ssl2 };
                Self::Hello(Hello { version, suites: Suites::default(), server_name: None })
            }
            [first, ..] if *first != HANDSHAKE && first & 0x80 == 0 => Self::Foreign,
            _ if flight.len() < SHORTEST => Self::Incomplete,
            [HANDSHAKE, 3, ..] => Self::of_records(flight),
            _ => Self::Foreign,
        }
    }

    fn of_records(mut records: &[u8]) -> Self {
        let mut message = Vec::new();
        loop {
            let complete = match &*message {
                [CLIENT_HELLO, high, middle, low, body @ ..] => {
                    body.get(..u32::from_be_bytes([0, *high, *middle, *low]) as usize)
                }
                [first, ..] if *first != CLIENT_HELLO => return Self::Foreign,
                _ => None,
            };
            if let Some(body) = complete {
                return Hello::read(&mut Bytes(body)).map_or(Self::Foreign, Self::Hello);
            }
            match records {
                [HANDSHAKE, 3, _, high, low, rest @ ..] => {
                    let length = usize::from(u16::from_be_bytes([*high, *low]));
                    message.extend_from_slice(rest.get(..length).unwrap_or(rest));
                    records = rest.get(length..).unwrap_or_default();
                }
                [] | [HANDSHAKE] | [HANDSHAKE, 3] | [HANDSHAKE, 3, _] | [HANDSHAKE, 3, _, _] => {
                    return Self::Incomplete;
                }
                _ => return Self::Foreign,
            }
        }
    }
}

impl Hello {
    /// `client_version`, `random`, `session_id`, `cipher_suites`, `compression_methods`, `extensions` (RFC 8446 §4.1.2).
    fn read(body: &mut Bytes<'_>) -> Option<Self> {
        let [3, minor] = body.take(2)? else { return None };
        body.take(32)?;
        body.vector_of_8()?;
        let suites = body.vector_of_16()?;
        body.vector_of_8()?;
        let mut hello = Self {
            version: version(*minor),
            suites: Suites(suites.chunks_exact(2).filter_map(|pair| Some(number(pair)?.into())).collect()),
            server_name: None,
        };
        let mut extensions = Bytes(body.vector_of_16().unwrap_or_default());
        while let Some(kind) = extensions.take(2).and_then(number) {
            let mut content = Bytes(extensions.vector_of_16()?);
            match kind {
                SERVER_NAME => hello.server_name = server_name(&mut content),
                SUPPORTED_VERSIONS if content.vector_of_8()?.chunks_exact(2).any(|version| version == TLS13) => {
                    hello.version = OfferedVersion::Tls13;
                }
                _ => {}
            }
        }
        Some(hello)
    }

    /// Does it offer no version that can be served?
    pub fn is_too_old(&self) -> bool {
        !matches!(self.version, OfferedVersion::Tls12 | OfferedVersion::Tls13)
    }

    /// As one that was refused.
    pub fn refused(self, reason: TlsRefusal) -> Refused {
        let Self { version, suites, server_name } = self;
        let best = suites.0.iter().map(|suite| kind(*suite)).min().unwrap_or(OfferedSuite::None);
        Refused { reason, version, best, suites, server_name }
    }
}

/// The fatal alert `protocol_version` (RFC 8446 §6) in a record of the oldest version, which every client can read.
pub const PROTOCOL_VERSION_ALERT: [u8; 7] = [21, 3, 1, 0, 2, 2, 70];

/// The first name of type `host_name` (RFC 6066 §3).
fn server_name(content: &mut Bytes<'_>) -> Option<String> {
    let mut names = Bytes(content.vector_of_16()?);
    match names.take(1)? {
        [0] => String::from_utf8(names.vector_of_16()?.to_vec()).ok(),
        _ => None,
    }
}

fn version(minor: u8) -> OfferedVersion {
    match minor {
        0 => OfferedVersion::Ssl3,
        1 => OfferedVersion::Tls10,
        2 => OfferedVersion::Tls11,
        _ => OfferedVersion::Tls12,
    }
}

fn number(pair: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(pair.try_into().ok()?))
}

/// Bytes that are read from the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A vector behind a length of one byte (RFC 8446 §3.4).
    fn vector_of_8(&mut self) -> Option<&'a [u8]> {
        let [length] = self.take(1)? else { return None };
        self.take(usize::from(*length))
    }

    /// A vector behind a length of two bytes.
    fn vector_of_16(&mut self) -> Option<&'a [u8]> {
        let length = self.take(2).and_then(number)?;
        self.take(usize::from(length))
    }
}

impl Refused {
    /// What a handshake that failed with `error` began with; `None` where it failed for another reason than what the
    /// client can do.
    pub fn of(error: &io::Error, flight: &[u8]) -> Option<Self> {
        let flight = Flight::read(flight);
        let reason = match error.get_ref()?.downcast_ref::<rustls::Error>()? {
            rustls::Error::NoApplicationProtocol => TlsRefusal::Protocol,
            rustls::Error::PeerIncompatible(
                PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::SupportedVersionsExtensionRequired,
            ) => TlsRefusal::Version,
            rustls::Error::PeerIncompatible(_) => TlsRefusal::Suite,
            _ if flight == Flight::Foreign => TlsRefusal::NotTls,
            _ => return None,
        };
        match flight {
            Flight::Hello(hello) => Some(hello.refused(reason)),
            Flight::Incomplete | Flight::Foreign => Some(Self {
                reason,
                version: OfferedVersion::None,
                best: OfferedSuite::None,
                suites: Suites::default(),
                server_name: None,
            }),
        }
    }
}

fn is_of_tls13(suite: CipherSuite) -> bool {
    u16::from(suite) & 0xFF00 == 0x1300
}

/// By the name that the IANA gave it.
fn kind(suite: CipherSuite) -> OfferedSuite {
    let name = suite.as_str().unwrap_or_default();
    // TLS_EMPTY_RENEGOTIATION_INFO_SCSV, TLS_FALLBACK_SCSV and GREASE (RFC 5746, RFC 7507, RFC 8701) are no suites.
    let is_signal = matches!(u16::from(suite), 0x00FF | 0x5600) || u16::from(suite) & 0x0F0F == 0x0A0A;
    let is_aead = ["_GCM_", "_CCM", "_POLY1305_"].iter().any(|mark| name.contains(mark));
    match name {
        _ if is_signal => OfferedSuite::None,
        _ if is_of_tls13(suite) => OfferedSuite::EcdheAead,
        name if name.starts_with("TLS_ECDHE_") && is_aead => OfferedSuite::EcdheAead,
        name if name.starts_with("TLS_ECDHE_") => OfferedSuite::EcdheCbc,
        name if name.starts_with("TLS_DHE_") => OfferedSuite::Dhe,
        name if name.starts_with("TLS_RSA_") => OfferedSuite::Rsa,
        _ => OfferedSuite::Other,
    }
}

/// Why, as a log shows it.
impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.reason {
            TlsRefusal::Version => "its versions of TLS are too old",
            TlsRefusal::Suite => "it has no cipher suite, group or signature in common with us",
            TlsRefusal::Protocol => "it wants to speak another protocol than FTP over TLS",
            TlsRefusal::NotTls => "it does not speak TLS",
        })
    }
}

impl fmt::Display for Suites {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, suite) in self.0.iter().take(MAX_TOLD).enumerate() {
            let separator = if index == 0 { "" } else { " " };
            match suite.as_str() {
                Some(name) => write!(formatter, "{separator}{name}")?,
                None => write!(formatter, "{separator}{:#06x}", u16::from(*suite))?,
            }
        }
        if self.0.len() > MAX_TOLD { write!(formatter, " and {} more", self.0.len() - MAX_TOLD) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn suite(number: u16) -> OfferedSuite {
        kind(CipherSuite::from(number))
    }

    /// A ClientHello in records of at most `size` bytes.
    fn hello(minor: u8, suites: &[u16], extensions: &[(u16, &[u8])], size: usize) -> Vec<u8> {
        let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_be_bytes();
        let suites: Vec<u8> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
        let extensions: Vec<u8> = extensions
            .iter()
            .flat_map(|(kind, content)| [&kind.to_be_bytes()[..], &length(content), content].concat())
            .collect();
        let body =
            [&[3, minor][..], &[7; 32], &[0], &length(&suites), &suites, &[1, 0], &length(&extensions), &extensions]
                .concat();
        let message = [&[CLIENT_HELLO, 0], &length(&body)[..], &body].concat();
        message.chunks(size).flat_map(|part| [&[HANDSHAKE, 3, 1], &length(part)[..], part].concat()).collect()
    }

    const NAMED: (u16, &[u8]) = (SERVER_NAME, b"\0\x0C\0\0\x09files.org");

    fn read(flight: &[u8]) -> Hello {
        match Flight::read(flight) {
            Flight::Hello(hello) => hello,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_hello_tells_version_suites_and_name() {
        for size in [1, 7, 5000] {
            let old = read(&hello(1, &[0x002F, 0xC013], &[NAMED], size));
            assert_eq!((old.version, old.server_name.as_deref()), (OfferedVersion::Tls10, Some("files.org")));
            assert!(old.is_too_old());
            let refused = old.refused(TlsRefusal::Version);
            assert_eq!(refused.best, OfferedSuite::EcdheCbc);
            let new = read(&hello(3, &[0x1301], &[(SUPPORTED_VERSIONS, &[4, 3, 4, 3, 3])], size));
            assert!(new.version == OfferedVersion::Tls13 && !new.is_too_old());
            let bare = read(&hello(3, &[0x1301], &[], size));
            assert!(bare.version == OfferedVersion::Tls12 && bare.server_name.is_none());
        }
        assert_eq!(read(&[0x80, 46, 1, 3, 1]).version, OfferedVersion::Tls10);
        assert_eq!(read(&[0x80, 46, 1, 0, 2]).version, OfferedVersion::Ssl2);
    }

    #[test]
    fn what_is_cut_is_incomplete_and_what_is_foreign_is_not_waited_for() {
        let whole = hello(3, &[0x1301], &[NAMED], 20);
        for end in 0..whole.len() {
            assert_eq!(Flight::read(&whole[..end]), Flight::Incomplete, "{end}");
        }
        for foreign in [&b"USER x\r\n"[..], b"G", b"\r", &[22, 2, 0, 0, 0], &[22, 3, 1, 0, 1, 2], &[21, 3, 1, 0, 2]] {
            assert_eq!(Flight::read(foreign), Flight::Foreign, "{foreign:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(
            minor in any::<u8>(),
            suites in any::<Vec<u16>>(),
            extension in any::<u16>(),
            content in any::<Vec<u8>>(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut flight = hello(minor, &suites, &[(extension, &content), NAMED], 100);
            let place = at.index(flight.len());
            flight[place] = byte;
            if let Flight::Hello(hello) = Flight::read(&flight) {
                let _ = hello.refused(TlsRefusal::Version).to_string();
            }
        }
    }

    #[test]
    fn suites_have_kinds() {
        assert_eq!(suite(0x1301), OfferedSuite::EcdheAead);
        assert_eq!(suite(0xC02B), OfferedSuite::EcdheAead);
        assert_eq!(suite(0xCCA8), OfferedSuite::EcdheAead);
        assert_eq!(suite(0xC013), OfferedSuite::EcdheCbc);
        assert_eq!(suite(0x0033), OfferedSuite::Dhe);
        assert_eq!(suite(0x002F), OfferedSuite::Rsa);
        assert_eq!(suite(0x9999), OfferedSuite::Other);
        assert_eq!([suite(0x00FF), suite(0x5600), suite(0x1A1A)], [OfferedSuite::None; 3]);
    }

    #[test]
    fn a_log_shows_suites_by_name_and_not_without_end() {
        let suites = Suites(vec![CipherSuite::from(0x002F), CipherSuite::from(0x9999)]);
        assert_eq!(suites.to_string(), "TLS_RSA_WITH_AES_128_CBC_SHA 0x9999");
        let many = Suites((0..1000).map(CipherSuite::from).collect()).to_string();
        assert!(many.ends_with(" and 968 more") && many.len() < 4096, "{many}");
    }
}
