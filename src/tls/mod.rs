//! TLS as the front needs it (RFC 4217, RFC 5246, RFC 8446): certificates, and one configuration per control session.
//!
//! A control session and its data connections share a ticket key and a session store that nobody else has. A data
//! connection that *resumes* has therefore proved that it belongs to this control session, under TLS 1.2 as under 1.3.

pub mod certificate;
pub mod client_certificate;
pub mod client_hello;
pub mod refused;
mod session_tickets;
pub mod turns;
pub mod x509;

use std::fmt;
use std::sync::{Arc, OnceLock};

use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoClientAuth, NoServerSessionStorage, ProducesTickets, ServerSessionMemoryCache};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection};

/// Why TLS cannot be set up.
pub use tokio_rustls::rustls::Error as TlsError;

use crate::config::TlsVersion;

use self::certificate::{Certificates, ForSession};
use self::client_certificate::ClientCertificate;
use self::client_hello::Offer;
use self::session_tickets::{Issuer, NoTickets, ReadOnly, SessionTickets};
use self::turns::Turns;

/// TLS 1.3 tickets given on a control connection. Clients with a single-use cache (rustls keeps 8) get enough to begin
/// with; each download gives one more.
const CONTROL_TICKETS: usize = 4;

/// TLS 1.3 tickets given on a data connection that downloads.
const DOWNLOAD_TICKETS: usize = 1;

/// TLS 1.2 session identifiers remembered for one control session: its own.
const STORED_SESSIONS: usize = 1;

/// What all sessions have in common: certificates and versions.
pub struct ServerTls {
    base: ServerConfig,
    all: Arc<Certificates>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    turns: Turns,
    certificates: Vec<ShownCertificate>,
}

/// What an operator wants to know of a certificate of the front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownCertificate {
    /// DNS names, or the common name where there are none.
    pub names: Vec<String>,
    /// When it begins to be valid, in seconds since 1970.
    pub not_before: i64,
    /// When it stops being valid, in seconds since 1970.
    pub not_after: i64,
}

impl ShownCertificate {
    fn of(certificate: &CertifiedKey) -> Option<Self> {
        let leaf = certificate.cert.first()?;
        let names = x509::names(leaf).unwrap_or_default();
        let common = names.subject.iter().flatten().flatten().filter(|(name, _)| name == "CN").map(|(_, value)| value);
        let names = if names.dns.is_empty() { common.cloned().collect() } else { names.dns };
        let (not_before, not_after) = x509::validity(leaf)?;
        Some(Self { names, not_before, not_after })
    }
}

impl ServerTls {
    /// Makes the common part. Without `clients` they are asked for no certificates.
    ///
    /// # Errors
    /// When the cryptographic provider does not support the versions, which would be a defect of the build.
    pub fn new(
        certificates: Vec<CertifiedKey>,
        min_version: TlsVersion,
        clients: Option<Arc<dyn ClientCertVerifier>>,
    ) -> Result<Self, rustls::Error> {
        const FROM_1_2: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
        const FROM_1_3: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
        let versions = match min_version {
            TlsVersion::Tls12 => FROM_1_2,
            TlsVersion::Tls13 => FROM_1_3,
        };
        let shown = certificates.iter().filter_map(ShownCertificate::of).collect();
        let all = Arc::new(Certificates::new(certificates));
        let mut base = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(clients.clone().unwrap_or_else(|| Arc::new(NoClientAuth)))
            .with_cert_resolver(Arc::new(ForSession { certificates: Arc::clone(&all), host: Arc::default() }));
        base.session_storage = Arc::new(NoServerSessionStorage {});
        base.max_early_data_size = 0;
        Ok(Self { base, all, clients, turns: Turns::new(), certificates: shown })
    }

    /// What the front shows, in the order of the configuration.
    pub fn certificates(&self) -> &[ShownCertificate] {
        &self.certificates
    }

    /// Would this certificate, which was good once, still get through a handshake?
    pub fn accepts(&self, certificate: &ClientCertificate) -> bool {
        self.clients.as_deref().is_none_or(|verifier| certificate.is_good_for(verifier))
    }

    /// The configurations of one control session.
    ///
    /// # Errors
    /// When the system's random source fails.
    pub fn for_session(&self) -> Result<SessionTls, rustls::Error> {
        // SECURITY: the key and the store live and die with this session and are given to nobody else, so resumption
        // is proof of belonging to it. The stock ticketer would forget its key after 12 hours; a control connection
        // may live longer.
        let tickets = SessionTickets::new()?;
        let host = Arc::<OnceLock<String>>::default();
        let mut control = self.base.clone();
        control.cert_resolver = Arc::new(ForSession { certificates: Arc::clone(&self.all), host: Arc::clone(&host) });
        control.ticketer = Arc::new(tickets.control());
        control.session_storage = ServerSessionMemoryCache::new(STORED_SESSIONS);
        control.alpn_protocols = vec![b"ftp".to_vec()];
        control.send_tls13_tickets = CONTROL_TICKETS;
        Ok(SessionTls {
            control: Arc::new(control),
            turns: self.turns.clone(),
            tickets,
            host,
            established: Arc::default(),
        })
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

/// The TLS of one control session; see the module's first paragraph.
#[derive(Clone, Debug)]
pub struct SessionTls {
    /// For the control connection.
    pub control: Arc<ServerConfig>,
    /// What every handshake of it is to take.
    pub turns: Turns,
    tickets: Arc<SessionTickets>,
    /// What the client called this host before the handshake.
    host: Arc<OnceLock<String>>,
    /// What the control connection's handshake was.
    established: Arc<OnceLock<Secured>>,
}

impl SessionTls {
    /// The client calls this host so. The first name counts, and only for a handshake that asks for none itself.
    pub fn called(&self, host: &str) {
        let _ = self.host.set(host.to_owned());
    }

    /// The control connection's handshake is complete.
    pub fn established(&self, secured: &Secured) {
        let _ = self.established.set(secured.clone());
    }

    /// Is this the client of the control connection, as far as certificates tell? Who showed one there shows the same
    /// again, or resumes the session in which it did.
    pub fn is_same_client(&self, data: &Secured) -> bool {
        match self.established.get() {
            Some(Secured { client_certificate: Some(control), .. }) => {
                data.client_certificate.as_ref().is_some_and(|data| data.fingerprint == control.fingerprint)
            }
            Some(_) | None => true,
        }
    }

    /// Is it this session that a client offers to resume? Whoever saw the offer can repeat it: the handshake is the
    /// proof.
    pub fn is_offered(&self, offer: &Offer) -> bool {
        let control = self.tickets.control();
        offer.tickets.iter().any(|ticket| control.decrypt(ticket).is_some())
            || !offer.session_id.is_empty() && self.control.session_storage.get(&offer.session_id).is_some()
    }

    /// Why a data connection that did not resume the session could not.
    pub fn unlike(&self, data: &Secured) -> Unlike {
        match self.established.get() {
            Some(control) if control.version != data.version => Unlike::Version(data.version, control.version),
            // rustls resumes under the same name only.
            Some(control) if control.server_name != data.server_name => {
                Unlike::ServerName(data.server_name.clone(), control.server_name.clone())
            }
            Some(_) | None => Unlike::Session,
        }
    }

    /// The TLS of one data connection; `is_download` when it is known to send from us to the client, `resumes` when it
    /// may resume the session.
    pub fn for_data(&self, is_download: bool, resumes: bool) -> DataTls {
        // A new ticket at the end of a resumed TLS 1.2 handshake makes OpenSSL forget the session that was resumed, and
        // PHP and Ruby, which replay that of the control connection, are not told of the new one: their next data
        // connection would have nothing to resume.
        let issues = self.established.get().is_none_or(|control| control.version != "TLSv1.2");
        let issuer = Arc::new(self.tickets.data(issues));
        let mut config = ServerConfig::clone(&self.control);
        if resumes {
            config.ticketer = Arc::clone(&issuer) as _;
            config.session_storage = Arc::new(ReadOnly(Arc::clone(&self.control.session_storage)));
        } else {
            config.ticketer = Arc::new(NoTickets);
            config.session_storage = Arc::new(NoServerSessionStorage {});
        }
        config.alpn_protocols = vec![b"ftp-data".to_vec(), b"ftp".to_vec()];
        // A client that only writes never reads a ticket; closing a socket with unread bytes makes its kernel send RST
        // and drop what was queued. Measured with two tickets: 40 of 40 uploads truncated; with none: 0 of 60.
        config.send_tls13_tickets = if is_download && resumes { DOWNLOAD_TICKETS } else { 0 };
        DataTls { config: Arc::new(config), issuer }
    }
}

/// The TLS of one data connection.
#[derive(Debug)]
pub struct DataTls {
    /// For its handshake.
    pub config: Arc<ServerConfig>,
    issuer: Arc<Issuer>,
}

impl DataTls {
    /// The handshake is complete.
    ///
    /// SECURITY: what the client was given in it can be resumed later only if it resumed the session itself.
    pub fn established(&self, secured: &Secured) {
        if secured.resumed {
            self.issuer.trust();
        }
    }
}

/// Why a data connection did not resume its session: first what it did, then what the control connection had done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unlike {
    /// Another version of TLS.
    Version(&'static str, &'static str),
    /// Another server name, or none where there was one (RFC 6066 §3).
    ServerName(Option<Box<str>>, Option<Box<str>>),
    /// It offered nothing, or another session: the client's libraries do not share theirs, or it is somebody else.
    Session,
}

impl fmt::Display for Unlike {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |name: &Option<Box<str>>| name.as_ref().map_or_else(|| "none".to_owned(), |name| name.to_string());
        match self {
            Self::Version(data, control) => {
                write!(formatter, "it came with {data}, the control connection with {control}")
            }
            Self::ServerName(data, control) => write!(
                formatter,
                "its server name (SNI) is {}, that of the control connection is {}",
                name(data),
                name(control)
            ),
            Self::Session => formatter.write_str("it offered no session, or that of another connection"),
        }
    }
}

/// What a finished handshake was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secured {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// IANA name of the cipher suite.
    pub suite: &'static str,
    /// It resumed an earlier session.
    pub resumed: bool,
    /// The name the client asked for (RFC 6066 §3).
    pub server_name: Option<Box<str>>,
    /// What the client showed, now or in the session that it resumed.
    pub client_certificate: Option<Arc<ClientCertificate>>,
}

impl Secured {
    /// Reads them off a connection whose handshake is complete.
    pub fn of(connection: &ServerConnection) -> Self {
        Self {
            version: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "unknown",
            },
            suite: connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown"),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            server_name: connection.server_name().map(Box::from),
            client_certificate: connection
                .peer_certificates()
                .and_then(|chain| chain.split_first())
                .map(|(leaf, intermediates)| Arc::new(ClientCertificate::of(leaf, intermediates))),
        }
    }
}
