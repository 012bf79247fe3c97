//! What clients meet: `listeners`, `tls`, `passive`, `active`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::super::error::Problem;
use super::super::load::Material;
use super::super::raw::Node;
use super::super::scalar::{self, Wrong};
use super::super::{
    Active, Certificate, ClientCertificates, Listener, Network, Passive, PassiveAddress, PassiveOverride,
    ProxyProtocol, Tls, TlsMode, TlsVersion, files, network,
};
use super::cursor::Cursor;
use super::fields::Fields;
use super::{Report, item_path};

/// Most listeners: each is a task and a socket, and a metric label.
const MAX_LISTENERS: usize = 64;
/// Longest listener name: it is a metric label.
const MAX_LISTENER_NAME: usize = 64;
/// Most networks in one list: each is compared with each client.
const MAX_NETWORKS: usize = 1000;
/// What a network looks like.
const NETWORK: &str = "a network such as 10.0.0.0/8";

/// `listeners`, each with its key path.
pub(super) fn listeners(cursor: Option<Cursor<'_>>, report: &mut Report) -> Vec<(String, Listener)> {
    let Some(cursor) = cursor else {
        return [TlsMode::Explicit, TlsMode::Implicit]
            .into_iter()
            .enumerate()
            .map(|(index, tls)| (item_path("listeners", index), default_listener(tls)))
            .collect();
    };
    let items = cursor.list("a list of listeners", report).unwrap_or_default();
    if items.is_empty() && matches!(cursor.node, Node::List(_)) {
        cursor.wrong_with_hint("holds no listener", "leave the key out for the default ones", report);
    }
    if items.len() > MAX_LISTENERS {
        cursor.wrong(format!("holds more than {MAX_LISTENERS} listeners"), report);
    }
    let mut listeners: Vec<(String, Listener)> = Vec::new();
    for item in items.into_iter().take(MAX_LISTENERS) {
        let Some(listener) = listener(&item, report) else { continue };
        if let Some((at, _)) = listeners.iter().find(|(_, other)| other.name == listener.name) {
            let what = format!("`{}` is the name of {at} too", listener.name);
            report
                .problem(Problem::new(format!("{}.name", item.at), what).hint("give each listener a name of its own"));
        }
        listeners.push((item.at, listener));
    }
    listeners
}

fn listener(cursor: &Cursor<'_>, report: &mut Report) -> Option<Listener> {
    let mut fields = cursor.fields(report)?;
    let modes = [("explicit", TlsMode::Explicit), ("implicit", TlsMode::Implicit)];
    let tls = fields.or("tls", TlsMode::Explicit, report, |cursor, report| cursor.choice(&modes, report));
    let default = default_listener(tls);
    let name = fields.or("name", default.name, report, |cursor, report| cursor.parsed("a name", listener_name, report));
    let address = fields.or("address", default.address, report, |cursor, report| {
        cursor.parsed("an address such as 0.0.0.0:2121", scalar::socket_address, report)
    });
    let proxy_protocol = proxy_protocol(&mut fields, report);
    fields.finish(report);
    Some(Listener { name, address, tls, proxy_protocol })
}

fn default_listener(tls: TlsMode) -> Listener {
    let (name, port) = match tls {
        TlsMode::Explicit => ("explicit", 2121),
        TlsMode::Implicit => ("implicit", 2990),
    };
    Listener {
        name: name.to_owned(),
        address: SocketAddr::from(([0, 0, 0, 0], port)),
        tls,
        proxy_protocol: ProxyProtocol::Off,
    }
}

/// `proxy_protocol`, of a listener or of data connections.
fn proxy_protocol(fields: &mut Fields<'_>, report: &mut Report) -> ProxyProtocol {
    let modes =
        [("off", ProxyProtocol::Off), ("optional", ProxyProtocol::Optional), ("required", ProxyProtocol::Required)];
    fields.or("proxy_protocol", ProxyProtocol::Off, report, |cursor, report| cursor.choice(&modes, report))
}

fn listener_name(text: &str) -> Result<String, Wrong> {
    let is_name = (1..=MAX_LISTENER_NAME).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if is_name { Ok(text.to_owned()) } else { Err(Wrong::Form(Some("1 to 64 letters, digits, -, _ or ."))) }
}

/// `tls`
pub(super) fn tls(cursor: Option<Cursor<'_>>, report: &mut Report) -> Tls {
    let mut tls = Tls {
        certificates: Vec::new(),
        min_version: TlsVersion::Tls12,
        require_control: true,
        client_certificates: None,
    };
    let absent = Node::Null;
    let cursor = cursor.unwrap_or(Cursor { node: &absent, at: "tls".to_owned() });
    let Some(mut fields) = cursor.fields(report) else { return tls };
    tls.certificates = match fields.take("certificates") {
        Some(cursor) => certificates(&cursor, report),
        None => default_certificate(report),
    };
    let versions = [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];
    tls.min_version =
        fields.or("min_version", tls.min_version, report, |cursor, report| cursor.choice(&versions, report));
    tls.require_control = fields.or("require_control", tls.require_control, report, Cursor::flag);
    tls.client_certificates = client_certificates(&mut fields, report);
    fields.finish(report);
    tls
}

/// What is asked of clients.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Off,
    Optional,
    Required,
}

fn client_certificates(fields: &mut Fields<'_>, report: &mut Report) -> Option<ClientCertificates> {
    let words = [("off", Asked::Off), ("optional", Asked::Optional), ("required", Asked::Required)];
    let mode_cursor = fields.take("client_certificates");
    let asked = mode_cursor.as_ref().map_or(Some(Asked::Off), |cursor| cursor.choice(&words, report));
    let ca_cursor = fields.take_some("client_ca");
    let crl_cursor = fields.take_some("client_crl");
    let ca = ca_cursor.as_ref().and_then(|cursor| cursor.file(report));
    let crl = crl_cursor.as_ref().and_then(|cursor| cursor.file(report));
    let asked = asked?;
    if asked == Asked::Off {
        for cursor in [ca_cursor, crl_cursor].into_iter().flatten() {
            cursor.wrong_with_hint(
                "has no effect: clients are not asked for certificates",
                "set `tls.client_certificates` to optional or required, or leave this out",
                report,
            );
        }
        return None;
    }
    let (Some(mode), Some(ca_cursor)) = (mode_cursor, ca_cursor) else {
        if !fields.is_misspelt(&["client_ca"]) {
            report.problem(
                Problem::new("tls.client_ca", "is missing: nothing says whose certificates count")
                    .hint("the PEM file of the authority that signs the certificates of your clients"),
            );
        }
        return None;
    };
    // With a list that cannot be read, nothing is checked.
    if crl_cursor.is_some() != crl.is_some() {
        return None;
    }
    let ca = ca?;
    report.materials.push(Material::ClientAuthorities {
        at: ca_cursor.at,
        crl_at: mode.at.replace("client_certificates", "client_crl"),
        ca: ca.clone(),
        crl: crl.clone(),
    });
    Some(ClientCertificates { required: asked == Asked::Required, ca, crl })
}

fn certificates(cursor: &Cursor<'_>, report: &mut Report) -> Vec<Certificate> {
    let items = cursor.list("a list of certificates", report).unwrap_or_default();
    if items.is_empty() && matches!(cursor.node, Node::List(_)) {
        cursor.wrong_with_hint(
            "holds no certificate",
            "FTPS needs one: {certificate: /tls/tls.crt, key: /tls/tls.key}",
            report,
        );
    }
    items.iter().filter_map(|item| certificate(item, report)).collect()
}

fn certificate(cursor: &Cursor<'_>, report: &mut Report) -> Option<Certificate> {
    let mut fields = cursor.fields(report)?;
    let certificate = fields.require("certificate", "a PEM file, the server's own certificate first");
    let key = fields.require("key", "the PEM file of the certificate's private key");
    let certificate = certificate.and_then(|cursor| cursor.file(report));
    let key = key.and_then(|cursor| cursor.file(report));
    fields.finish(report);
    Some(with_material(cursor.at.clone(), certificate?, key?, report))
}

fn default_certificate(report: &mut Report) -> Vec<Certificate> {
    let (certificate, key) = (PathBuf::from("/tls/tls.crt"), PathBuf::from("/tls/tls.key"));
    let at = item_path("tls.certificates", 0);
    let mut is_there = true;
    for (name, path) in [("certificate", &certificate), ("key", &key)] {
        if let Err((reason, _)) = files::check(path) {
            is_there = false;
            report.problem(
                Problem::new(format!("{at}.{name}"), format!("{reason}: `{}`, the default", path.display()))
                    .hint("put it there, or name your own in `tls.certificates`"),
            );
        }
    }
    if is_there { vec![with_material(at, certificate, key, report)] } else { Vec::new() }
}

fn with_material(at: String, certificate: PathBuf, key: PathBuf, report: &mut Report) -> Certificate {
    report.materials.push(Material::Certificate { at, certificate: certificate.clone(), key: key.clone() });
    Certificate { certificate, key }
}

/// `passive`
pub(super) fn passive(cursor: Option<Cursor<'_>>, report: &mut Report) -> Passive {
    let mut passive = Passive {
        ports: 30000..=30047,
        address: PassiveAddress::Auto,
        overrides: Vec::new(),
        shared: true,
        proxy_protocol: ProxyProtocol::Off,
    };
    let Some(mut fields) = cursor.and_then(|cursor| cursor.fields(report)) else { return passive };
    passive.ports = fields.or("ports", passive.ports, report, |cursor, report| {
        const EXPECTED: &str = "a range of ports such as 30000-30047";
        match cursor.node {
            Node::Integer(port) => cursor.accept(scalar::port_range(&port.to_string()), EXPECTED, report),
            _ => cursor.parsed(EXPECTED, scalar::port_range, report),
        }
    });
    passive.address = fields.or("address", passive.address, report, passive_address);
    passive.shared = fields.or("shared", passive.shared, report, Cursor::flag);
    passive.overrides = fields.take("overrides").map(|cursor| overrides(&cursor, report)).unwrap_or_default();
    passive.proxy_protocol = proxy_protocol(&mut fields, report);
    fields.finish(report);
    passive
}

fn passive_address(cursor: &Cursor<'_>, report: &mut Report) -> Option<PassiveAddress> {
    cursor.parsed("auto, an IPv4 address or a DNS name", scalar::passive_address, report)
}

/// `passive.overrides`
fn overrides(cursor: &Cursor<'_>, report: &mut Report) -> Vec<PassiveOverride> {
    let items = cursor.list("a list of {clients: NETWORK, address: ADDRESS}", report).unwrap_or_default();
    if items.len() > MAX_NETWORKS {
        cursor.wrong(format!("holds more than {MAX_NETWORKS} entries"), report);
    }
    let one = |item: Cursor<'_>| {
        let mut fields = item.fields(report)?;
        let clients = fields.require("clients", "the network these clients come from, such as 10.0.0.0/8");
        let address = fields.require("address", "what they are told: an IPv4 address, a DNS name, or auto");
        let clients = clients.and_then(|cursor| cursor.parsed(NETWORK, network::network, report));
        let address = address.and_then(|cursor| passive_address(&cursor, report));
        fields.finish(report);
        Some(PassiveOverride { clients: clients?, address: address? })
    };
    items.into_iter().take(MAX_NETWORKS).filter_map(one).collect()
}

/// `trusted_proxies`; `None` where it is wrong.
pub(super) fn trusted_proxies(cursor: Option<Cursor<'_>>, report: &mut Report) -> Option<Vec<Network>> {
    let Some(cursor) = cursor else { return Some(Vec::new()) };
    let items = cursor.list("a list of networks", report)?;
    if items.len() > MAX_NETWORKS {
        cursor.wrong(format!("holds more than {MAX_NETWORKS} networks"), report);
        return None;
    }
    // All of them are looked at, whatever is wrong with the first.
    let networks: Vec<_> = items.iter().map(|item| item.parsed(NETWORK, network::network, report)).collect();
    networks.into_iter().collect()
}

/// SECURITY: a PROXY header of anybody would let everybody choose who they are.
pub(super) fn check_proxies(
    listeners: &[(String, Listener)],
    passive: &Passive,
    trusted: Option<&[Network]>,
    report: &mut Report,
) {
    // What is wrong with the list is reported already.
    if trusted.is_none_or(|trusted| !trusted.is_empty()) {
        return;
    }
    let listeners = listeners.iter().map(|(at, listener)| (at.as_str(), listener.proxy_protocol));
    for (at, mode) in listeners.chain([("passive", passive.proxy_protocol)]) {
        if mode != ProxyProtocol::Off {
            let problem = Problem::new(format!("{at}.proxy_protocol"), "nobody's PROXY header is believed");
            report.problem(problem.hint("name the addresses of the proxies in `trusted_proxies`"));
        }
    }
}

/// `active`
pub(super) fn active(cursor: Option<Cursor<'_>>, report: &mut Report) -> Option<Active> {
    let mut fields = cursor.and_then(|cursor| cursor.fields(report))?;
    let enabled = fields.or("enabled", false, report, Cursor::flag);
    let source_port = fields.or("source_port", None, report, |cursor, report| match cursor.node {
        Node::Null => Some(None),
        _ => cursor.count(u32::from(u16::MAX), report).and_then(|port| u16::try_from(port).ok()).map(Some),
    });
    fields.finish(report);
    enabled.then_some(Active { source_port })
}

/// No two sockets may want one port of one address: the second would fail to bind, perhaps only under load.
pub(super) fn check_addresses(
    listeners: &[(String, Listener)],
    passive: &Passive,
    admin: Option<SocketAddr>,
    report: &mut Report,
) {
    let admin = admin.map(|address| ("admin".to_owned(), address));
    let mut taken: Vec<(String, SocketAddr)> = Vec::new();
    for (at, address) in listeners.iter().map(|(at, listener)| (at.clone(), listener.address)).chain(admin) {
        if let Some((other, _)) = taken.iter().find(|(_, other)| clash(*other, address)) {
            report.problem(
                Problem::new(format!("{at}.address"), format!("`{address}` is taken by {other} already"))
                    .hint("choose another port"),
            );
        }
        if passive.ports.contains(&address.port()) {
            let (first, last) = (passive.ports.start(), passive.ports.end());
            let what = format!("port {} lies in passive.ports, {first}-{last}", address.port());
            report.problem(Problem::new(format!("{at}.address"), what).hint("choose a port outside that range"));
        }
        taken.push((at, address));
    }
}

fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |wide: IpAddr, narrow: IpAddr| wide.is_unspecified() && wide.is_ipv4() == narrow.is_ipv4();
    // Port 0 is another free port each time.
    one.port() == other.port()
        && one.port() != 0
        && (one.ip() == other.ip() || covers(one.ip(), other.ip()) || covers(other.ip(), one.ip()))
}
