//! The small notations inside the configuration: durations, sizes, addresses, ranges, fingerprints. Pure functions.
//!
//! An error never repeats the text: it may come from a secret. The decoder shows it where that is safe.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::{HostPort, PassiveAddress};
use crate::ftp::charset::{Charset, Named};
use crate::ftp::time::Zone;

/// Longest duration: far beyond use, and far below where adding it to a clock overflows.
const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// Slowest rate: below it a block of file takes longer than clients wait.
const MIN_RATE: u64 = 1024;
/// Longest path on a backend, as everywhere else in the gateway.
const MAX_PATH: usize = 4096;

/// Why a text is not what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It has another form; the decoder says which was expected. With a hint, where there is one.
    Form(Option<&'static str>),
    /// The form is right, the value is not: what is wrong with it, and a hint.
    Value(&'static str, Option<&'static str>),
}

/// `30s`, `5m`, `2h`, `250ms`, `1d`.
pub(super) fn duration(text: &str) -> Result<Duration, Wrong> {
    const FORM: Wrong = Wrong::Form(Some("a whole number and one of ms, s, m, h, d"));
    let (number, unit) = number_and_unit(text).ok_or(FORM)?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return Err(FORM),
    };
    let duration = number.checked_mul(milliseconds).map(Duration::from_millis);
    duration.filter(|duration| *duration <= MAX_DURATION).ok_or(Wrong::Value("is longer than 366 days", None))
}

/// `256KiB`, `4MiB`, `1GiB`, `512B`: bytes.
pub(super) fn size(text: &str) -> Result<u64, Wrong> {
    const FORM: Wrong = Wrong::Form(Some("a whole number and one of B, KiB, MiB, GiB"));
    let (number, unit) = number_and_unit(text).ok_or(FORM)?;
    let bytes = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(FORM),
    };
    number.checked_mul(bytes).ok_or(Wrong::Value("is too large", None))
}

/// `10MiB/s`: bytes per second.
pub(super) fn rate(text: &str) -> Result<u64, Wrong> {
    const FORM: Wrong = Wrong::Form(Some("a size and /s, such as 512KiB/s"));
    let rate = size(text.strip_suffix("/s").ok_or(FORM)?).map_err(|_| FORM)?;
    if rate < MIN_RATE {
        return Err(Wrong::Value("is too slow", Some("at least 1KiB/s; `permissions` says who may transfer nothing")));
    }
    Ok(rate)
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

/// `30000-30047`, or one port.
pub(super) fn port_range(text: &str) -> Result<RangeInclusive<u16>, Wrong> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first.trim())?, port(last.trim())?);
    if first == 0 {
        return Err(Wrong::Value("begins at port 0", Some("ports go from 1 to 65535")));
    }
    if first > last {
        return Err(Wrong::Value("ends before it begins", Some("write the lower port first")));
    }
    Ok(first..=last)
}

fn port(text: &str) -> Result<u16, Wrong> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Wrong::Form(None));
    }
    text.parse().map_err(|_| Wrong::Value("holds a port above 65535", None))
}

/// An address to listen on: `0.0.0.0:2121`, `[::]:2121`.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, Wrong> {
    text.parse().map_err(|_| {
        Wrong::Form(Some(if text.starts_with(':') {
            "write 0.0.0.0 in front for every IPv4 address, or [::] for every address"
        } else if text.parse::<Ipv6Addr>().is_ok() || text.matches(':').count() > 1 && !text.contains(']') {
            "an IPv6 address stands in brackets: [::1]:2121"
        } else if text.parse::<Ipv4Addr>().is_ok() {
            "the port is missing"
        } else {
            "an IP address of this machine and a port; 0.0.0.0 is every IPv4 address"
        }))
    })
}

/// `host:port`, `host`, `192.0.2.1:22`, `[2001:db8::1]:22`.
pub(super) fn host_port(text: &str, default_port: u16) -> Result<HostPort, Wrong> {
    const BRACKETS: Wrong = Wrong::Form(Some("an IPv6 address stands in brackets: [2001:db8::1]:22"));
    let (host, port_text) = if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or(BRACKETS)?;
        if host.parse::<Ipv6Addr>().is_err() {
            return Err(BRACKETS);
        }
        let port_text = match after.strip_prefix(':') {
            Some(port_text) => Some(port_text),
            None if after.is_empty() => None,
            None => return Err(BRACKETS),
        };
        (host, port_text)
    } else {
        if text.matches(':').count() > 1 {
            return Err(BRACKETS);
        }
        let (host, port_text) = match text.split_once(':') {
            Some((host, port_text)) => (host, Some(port_text)),
            None => (text, None),
        };
        if !is_host_name(host) {
            return Err(Wrong::Form(None));
        }
        (host, port_text)
    };
    let port = port_text.map_or(Ok(default_port), port)?;
    if port == 0 {
        return Err(Wrong::Value("has port 0", None));
    }
    Ok(HostPort { host: host.to_owned(), port })
}

/// `auto`, an IPv4 address, or a DNS name.
pub(super) fn passive_address(text: &str) -> Result<PassiveAddress, Wrong> {
    if text == "auto" {
        return Ok(PassiveAddress::Auto);
    }
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => Err(Wrong::Value(
            "is an IPv6 address, and reply 227 can tell only an IPv4 address",
            Some("clients on IPv6 use EPSV, which tells no address at all; leave this at auto"),
        )),
        Ok(address) if address.is_unspecified() || address.is_multicast() => Err(Wrong::Value(
            "is not an address a client can connect to",
            Some("the address that clients see, or auto for the one they dialled"),
        )),
        Ok(address) => Ok(PassiveAddress::Fixed(address)),
        Err(_) if is_host_name(text) => Ok(PassiveAddress::Name(text.to_owned())),
        Err(_) => Err(Wrong::Form(None)),
    }
}

/// An IPv4 address or a name as DNS allows it (RFC 1123 §2.1), underscores included since some zones hold them.
fn is_host_name(text: &str) -> bool {
    if text.parse::<Ipv4Addr>().is_ok() {
        return true;
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // "the highest-level component label will be alphabetic" (RFC 1123 §2.1): 10.0.0.300 is no name.
    let last_is_number = name.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    name.len() <= 253 && !last_is_number && name.split('.').all(is_label)
}

/// `SHA256:` and 43 characters of base64, as `ssh-keygen -l` prints it.
pub(super) fn fingerprint(text: &str) -> Result<[u8; 32], Wrong> {
    let Some(encoded) = text.strip_prefix("SHA256:") else {
        return Err(Wrong::Form(Some(if text.starts_with("MD5:") || text.matches(':').count() == 15 {
            "MD5 fingerprints can be forged; `ssh-keygen -l` prints the SHA256 one"
        } else if text.starts_with("ssh-") || text.starts_with("ecdsa-") {
            "this is a key: put it in a known_hosts file, or pin what `ssh-keygen -l` prints for it"
        } else {
            "`ssh-keygen -l -f` and the public key file print it"
        })));
    };
    let bytes = STANDARD_NO_PAD.decode(encoded.trim_end_matches('=')).ok();
    bytes
        .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
        .ok_or(Wrong::Form(Some("43 characters of base64 follow SHA256:; was it cut when it was copied?")))
}

/// `"022"`: the octal bits taken from the mode of what is created.
pub(super) fn umask(text: &str) -> Result<u32, Wrong> {
    if text.is_empty() || text.len() > 4 || !text.bytes().all(|byte| (b'0'..=b'7').contains(&byte)) {
        return Err(Wrong::Form(Some("three octal digits, such as \"022\"")));
    }
    match u32::from_str_radix(text, 8) {
        Ok(mask) if mask <= 0o777 => Ok(mask),
        _ => Err(Wrong::Value("is above 777", None)),
    }
}

/// A charset of clients; `None` for UTF-8, which names are in anyway.
pub(super) fn charset(text: &str) -> Result<Option<Charset>, Wrong> {
    match Named::find(text) {
        Some(Named::Utf8) => Ok(None),
        Some(Named::Other(charset)) => Ok(Some(charset)),
        None => Err(Wrong::Value(
            "is no charset known here",
            Some(
                "utf-8, latin1, cp1252, cp437, cp850, or one of the Encoding Standard such as iso-8859-15, shift_jis or gbk",
            ),
        )),
    }
}

/// A time zone by its name in the IANA database.
pub(super) fn time_zone(text: &str) -> Result<Zone, Wrong> {
    Zone::find(text).ok_or(Wrong::Value("is no time zone", Some("UTC, or an area and a city such as Europe/Berlin")))
}

/// An absolute path on the backend; without its trailing and doubled slashes.
pub(super) fn root(text: &str) -> Result<Vec<u8>, Wrong> {
    if !text.starts_with('/') {
        return Err(Wrong::Value("is not an absolute path", Some("begin it with /")));
    }
    if text.len() > MAX_PATH {
        return Err(Wrong::Value("is longer than 4096 bytes", None));
    }
    if text.chars().any(char::is_control) {
        return Err(Wrong::Value("holds a control character", None));
    }
    let mut root = Vec::with_capacity(text.len());
    for segment in text.split('/').filter(|segment| !segment.is_empty()) {
        if segment == "." || segment == ".." {
            return Err(Wrong::Value("holds a `.` or `..` segment", Some("write the path it stands for")));
        }
        root.push(b'/');
        root.extend_from_slice(segment.as_bytes());
    }
    if root.is_empty() {
        root.push(b'/');
    }
    Ok(root)
}

/// `info`, or tracing directives such as `info,ftps2sftp::ssh=debug`.
pub(super) fn log_level(text: &str) -> Result<String, Wrong> {
    let is_level = |level: &str| {
        ["error", "warn", "info", "debug", "trace", "off"].iter().any(|known| known.eq_ignore_ascii_case(level))
    };
    let is_directive = |directive: &str| match directive.rsplit_once('=') {
        // A span filter, `target[span{field=value}]=level`, is the log library's own business.
        Some((target, level)) => !target.is_empty() && is_level(level),
        None => is_level(directive),
    };
    if text.is_empty() || !text.split(',').all(|directive| is_directive(directive.trim())) {
        return Err(Wrong::Form(Some("error, warn, info, debug or trace, and per part such as info,russh=debug")));
    }
    Ok(text.to_owned())
}

/// Does this URL say who asks, and perhaps with which password?
pub(super) fn has_credentials(url: &str) -> bool {
    url.split("//").nth(1).and_then(|rest| rest.split('/').next()).is_some_and(|authority| authority.contains('@'))
}

/// Where a collector takes OTLP over HTTP: `http://collector:4318`, whose path is then `/v1/traces`, or with a path.
pub(super) fn collector(text: &str) -> Result<String, Wrong> {
    let url: hyper::Uri = text.parse().map_err(|_| Wrong::Form(Some("such as http://127.0.0.1:4318")))?;
    match url.scheme_str() {
        Some("http") => {}
        Some("https") => {
            return Err(Wrong::Value("asks for TLS", Some("send to a collector beside the gateway, which speaks TLS")));
        }
        _ => return Err(Wrong::Form(Some("such as http://127.0.0.1:4318"))),
    }
    if url.query().is_some() || text.contains('#') {
        return Err(Wrong::Value("has more than a path", Some("leave out what begins with ? or #")));
    }
    Ok(match url.path() {
        "" | "/" => format!("{}/v1/traces", text.trim_end_matches('/')),
        _ => text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1d"), Ok(Duration::from_secs(86400)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for text in ["", "30", "s", "1h30m", "-1s", "1.5s", "30 s", "30S", "30sec", "٣s"] {
            assert!(matches!(duration(text), Err(Wrong::Form(_))), "{text}");
        }
        for text in ["367d", "99999999999999999d", "18446744073709551615ms"] {
            assert!(matches!(duration(text), Err(Wrong::Value(..))), "{text}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("256KiB"), Ok(262_144));
        assert_eq!(size("4MiB"), Ok(4_194_304));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("512B"), Ok(512));
        for text in ["", "4", "4MB", "4M", "MiB", "-1B", "4 MiB"] {
            assert!(matches!(size(text), Err(Wrong::Form(_))), "{text}");
        }
        assert!(matches!(size("18446744073709551615GiB"), Err(Wrong::Value(..))));
    }

    #[test]
    fn port_ranges() {
        assert_eq!(port_range("30000-30047"), Ok(30000..=30047));
        assert_eq!(port_range("2121"), Ok(2121..=2121));
        assert_eq!(port_range("1 - 65535"), Ok(1..=65535));
        for text in ["30047-30000", "0-10", "60000-65536", "1-99999999999999999999"] {
            assert!(matches!(port_range(text), Err(Wrong::Value(..))), "{text}");
        }
        for text in ["", "-", "1-", "-1", "a-b", "1-2-3", "+1-2"] {
            assert!(matches!(port_range(text), Err(Wrong::Form(_))), "{text}");
        }
    }

    #[test]
    fn hosts_and_ports() {
        let host = |host: &str, port| Ok(HostPort { host: host.into(), port });
        assert_eq!(host_port("sftp.internal:2222", 22), host("sftp.internal", 2222));
        assert_eq!(host_port("sftp.internal", 22), host("sftp.internal", 22));
        assert_eq!(host_port("192.0.2.1:22", 22), host("192.0.2.1", 22));
        assert_eq!(host_port("[2001:db8::1]:22", 22), host("2001:db8::1", 22));
        assert_eq!(host_port("[::1]", 22), host("::1", 22));
        for text in
            ["", ":22", "host:", "host:x", "::1", "[::1", "[::1]x", "[host]:22", "a b:22", "10.0.0.300:22", "-a:1"]
        {
            assert!(matches!(host_port(text, 22), Err(Wrong::Form(_))), "{text}");
        }
        for text in ["host:0", "host:65536"] {
            assert!(matches!(host_port(text, 22), Err(Wrong::Value(..))), "{text}");
        }
    }

    #[test]
    fn listening_addresses() {
        assert_eq!(socket_address("0.0.0.0:2121"), Ok("0.0.0.0:2121".parse().unwrap()));
        assert_eq!(socket_address("[::]:0"), Ok("[::]:0".parse().unwrap()));
        for text in ["", ":2121", "localhost:2121", "0.0.0.0", "::1", "::1:2121", "0.0.0.0:70000"] {
            assert!(matches!(socket_address(text), Err(Wrong::Form(Some(_)))), "{text}");
        }
    }

    #[test]
    fn passive_addresses() {
        assert_eq!(passive_address("auto"), Ok(PassiveAddress::Auto));
        assert_eq!(passive_address("192.0.2.7"), Ok(PassiveAddress::Fixed("192.0.2.7".parse().unwrap())));
        assert_eq!(passive_address("ftp.example"), Ok(PassiveAddress::Name("ftp.example".into())));
        for text in ["::1", "0.0.0.0", "224.0.0.1"] {
            assert!(matches!(passive_address(text), Err(Wrong::Value(..))), "{text}");
        }
        for text in ["", "10.0.0.300", "a b", "ftp.example:21"] {
            assert!(matches!(passive_address(text), Err(Wrong::Form(_))), "{text}");
        }
    }

    #[test]
    fn fingerprints() {
        let text = "SHA256:uNiVztksCsDhcc0u9e8BrJQXVUpKZIDTMczCvj3tD2s";
        assert!(fingerprint(text).is_ok());
        assert_eq!(fingerprint(&format!("{text}=")), fingerprint(text));
        for text in ["", "SHA256:", "SHA256:abc", "uNiVztksCsDhcc0u9e8BrJQXVUpKZIDTMczCvj3tD2s", "MD5:aa:bb"] {
            assert!(matches!(fingerprint(text), Err(Wrong::Form(Some(_)))), "{text}");
        }
    }

    #[test]
    fn umasks() {
        assert_eq!(umask("022"), Ok(0o022));
        assert_eq!(umask("0077"), Ok(0o077));
        for text in ["", "8", "u=rwx", "00022", "-22"] {
            assert!(matches!(umask(text), Err(Wrong::Form(_))), "{text}");
        }
        assert!(matches!(umask("1777"), Err(Wrong::Value(..))));
    }

    #[test]
    fn roots() {
        assert_eq!(root("/"), Ok(b"/".to_vec()));
        assert_eq!(root("//incoming//acme/"), Ok(b"/incoming/acme".to_vec()));
        for text in ["", "incoming", "./x", "/a/../b", "/a/.", "/a\nb", "/a\0"] {
            assert!(matches!(root(text), Err(Wrong::Value(..))), "{text:?}");
        }
    }

    #[test]
    fn log_levels() {
        for text in ["info", "INFO", "off", "info,ftps2sftp::ssh=debug", "warn, russh=off"] {
            assert_eq!(log_level(text), Ok(text.to_owned()));
        }
        for text in ["", "inof", "info,", "=debug", "russh=loud"] {
            assert!(log_level(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = (duration(&text), size(&text), port_range(&text), socket_address(&text), host_port(&text, 22));
            let _ = (passive_address(&text), fingerprint(&text), umask(&text), root(&text), log_level(&text));
        }

        #[test]
        fn a_root_has_one_form(segments in prop::collection::vec("[a-z]{1,4}", 0..5)) {
            let written = format!("/{}", segments.join("/"));
            prop_assert_eq!(root(&written), Ok(written.clone().into_bytes()));
            prop_assert_eq!(root(&format!("{written}/")), root(&written));
        }
    }
}
