//! What a client offered that could not be served. rustls speaks TLS 1.2 with ephemeral keys and authenticated ciphers,
//! and TLS 1.3; who is older than that is told so by an alert, and by this the operator learns who it was.

use std::fmt;
use std::io;

use tokio_rustls::rustls::{self, CipherSuite, PeerIncompatible};

use super::client_hello::{self, ClientHello, Progress, TLS13};
use crate::telemetry::metrics::{OfferedSuite, OfferedVersion, TlsRefusal};

/// TLS 1.2 (RFC 5246 §A.1).
const TLS12: u16 = 0x0303;

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
    Hello(ClientHello),
    /// It is one of SSL 2.0, which clients of later versions sent for the sake of servers that knew nothing else (RFC 5246
    /// §E.2); the highest version in it.
    Ssl2(OfferedVersion),
}

impl Flight {
    /// Reads the first bytes of a connection.
    pub fn read(flight: &[u8]) -> Self {
        match flight {
            // A two-byte length with its highest bit set, then CLIENT-HELLO and a version.
            [length, _, 1, major @ 0..=3, minor, ..] if length & 0x80 != 0 => {
                let version = u16::from_be_bytes([*major, *minor]);
                Self::Ssl2(if *major == 3 { named(version) } else { OfferedVersion::Ssl2 })
            }
            [first, ..] if first & 0x80 != 0 && flight.len() < 5 => Self::Incomplete,
            _ => match client_hello::read(flight) {
                Progress::Partial => Self::Incomplete,
                Progress::Complete(hello) => Self::Hello(hello),
                Progress::Other => Self::Foreign,
            },
        }
    }

    /// Does it offer no version that can be served? Then what it offers.
    pub fn too_old(&self) -> Option<Refused> {
        match self {
            Self::Hello(hello) if hello.version < TLS12 => Some(Refused::hello(hello, TlsRefusal::Version)),
            // With such a hello OpenSSL would go on to TLS 1.2, and rustls does not.
            Self::Ssl2(version) => Some(Refused { version: *version, ..Refused::unread(TlsRefusal::Version) }),
            Self::Hello(_) | Self::Incomplete | Self::Foreign => None,
        }
    }
}

/// The fatal alert `protocol_version` (RFC 8446 §6) in a record of the oldest version, which every client can read.
pub const PROTOCOL_VERSION_ALERT: [u8; 7] = [21, 3, 1, 0, 2, 2, 70];

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
        Some(match flight {
            Flight::Hello(hello) => Self::hello(&hello, reason),
            Flight::Incomplete | Flight::Foreign | Flight::Ssl2(_) => Self::unread(reason),
        })
    }

    fn hello(hello: &ClientHello, reason: TlsRefusal) -> Self {
        let suites = Suites(hello.cipher_suites.iter().map(|suite| CipherSuite::from(*suite)).collect());
        let best = suites.0.iter().map(|suite| kind(*suite)).min().unwrap_or(OfferedSuite::None);
        Self { reason, version: named(hello.version), best, suites, server_name: hello.server_name.clone() }
    }

    fn unread(reason: TlsRefusal) -> Self {
        let (version, best) = (OfferedVersion::None, OfferedSuite::None);
        Self { reason, version, best, suites: Suites::default(), server_name: None }
    }
}

fn named(version: u16) -> OfferedVersion {
    match version {
        0x0300 => OfferedVersion::Ssl3,
        0x0301 => OfferedVersion::Tls10,
        0x0302 => OfferedVersion::Tls11,
        TLS12 => OfferedVersion::Tls12,
        TLS13.. => OfferedVersion::Tls13,
        _ => OfferedVersion::None,
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
    use super::*;

    fn suite(number: u16) -> OfferedSuite {
        kind(CipherSuite::from(number))
    }

    #[test]
    fn a_hello_of_ssl_2_is_read_and_what_is_foreign_is_not_waited_for() {
        assert_eq!(Flight::read(&[0x80, 46, 1, 3, 1]), Flight::Ssl2(OfferedVersion::Tls10));
        assert_eq!(Flight::read(&[0x80, 46, 1, 0, 2]), Flight::Ssl2(OfferedVersion::Ssl2));
        assert_eq!(Flight::read(&[0x80, 46, 1]), Flight::Incomplete);
        for foreign in [&b"USER x\r\n"[..], b"G", b"\r", &[22, 2, 0, 0, 0], &[0x80, 46, 2, 3, 1]] {
            assert_eq!(Flight::read(foreign), Flight::Foreign, "{foreign:?}");
        }
    }

    #[test]
    fn versions_below_1_2_are_too_old() {
        let names = ["ssl3", "1.0", "1.1"];
        for (version, name) in (0x0300..).zip(names) {
            let hello = ClientHello { version, cipher_suites: vec![0x002F, 0xC013], ..ClientHello::default() };
            let refused = Flight::Hello(hello).too_old().unwrap();
            assert_eq!((refused.version.as_str(), refused.best), (name, OfferedSuite::EcdheCbc));
        }
        for version in [TLS12, TLS13] {
            assert_eq!(Flight::Hello(ClientHello { version, ..ClientHello::default() }).too_old(), None);
        }
        assert!(Flight::Ssl2(OfferedVersion::Tls12).too_old().is_some());
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
