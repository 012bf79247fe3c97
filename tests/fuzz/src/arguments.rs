//! What stands behind a verb: every parser takes every argument, and what it understood can be said again.

use std::net::{IpAddr, SocketAddr};

use ftps2sftp::ftp::argument::{self, ArgumentError, Host, MAX_OFFSET};
use ftps2sftp::ftp::digest;
use ftps2sftp::ftp::site::{self, Site};
use ftps2sftp::ftp::time;

use super::input::unfold;

/// An argument.
pub fn run(bytes: &[u8]) {
    let argument = &unfold(bytes, 512);
    addresses(argument);
    numbers(argument);
    words(argument);
    times(argument);
    files(argument);
    sites(argument);
}

fn addresses(argument: &[u8]) {
    if let Ok(address) = argument::port(argument) {
        let SocketAddr::V4(v4) = address else { panic!("PORT gave {address}") };
        let [a, b, c, d] = v4.ip().octets();
        let [high, low] = v4.port().to_be_bytes();
        assert_eq!(argument::port(format!("{a},{b},{c},{d},{high},{low}").as_bytes()), Ok(address));
    }
    if let Ok(address) = argument::eprt(argument) {
        assert_eq!(address.ip(), address.ip().to_canonical(), "an IPv4 address in the clothes of IPv6");
        let family = if address.is_ipv4() { 1 } else { 2 };
        let again = format!("|{family}|{}|{}|", address.ip(), address.port());
        assert_eq!(argument::eprt(again.as_bytes()), Ok(address));
    }
    match argument::host(argument) {
        Ok(Host::Name(name)) => {
            assert!((1..=253).contains(&name.len()) && !name.ends_with('.') && name.parse::<IpAddr>().is_err());
            assert_eq!(argument::host(name.as_bytes()), Ok(Host::Name(name.clone())));
            assert_eq!(argument::host(&argument.to_ascii_uppercase()), Ok(Host::Name(name)));
        }
        Ok(Host::Address(address)) => {
            let again = if address.is_ipv4() { address.to_string() } else { format!("[{address}]") };
            assert_eq!(argument::host(again.as_bytes()), Ok(Host::Address(address)));
        }
        Err(_) => {}
    }
}

fn numbers(argument: &[u8]) {
    let digits = !argument.is_empty() && argument.iter().all(u8::is_ascii_digit);
    let value = str::from_utf8(argument).ok().filter(|_| digits).and_then(|digits| digits.parse::<u64>().ok());
    assert_eq!(argument::restart_offset(argument).ok(), value.filter(|value| *value <= MAX_OFFSET));
    assert_eq!(argument::decimal_u32(argument).ok(), value.and_then(|value| u32::try_from(value).ok()));
    if let Some(value) = value {
        assert_eq!(argument::allo(argument), Ok(value));
    }
    if let Ok(Some((first, last))) = argument::range(argument) {
        assert!(first <= last && last <= MAX_OFFSET);
        assert_eq!(argument::range(format!("{first} {last}").as_bytes()), Ok(Some((first, last))));
    }
    for most in [0o777, 0o7777] {
        if let Ok(number) = site::octal(argument, most) {
            assert!(number <= most);
            assert_eq!(site::octal(format!("{number:o}").as_bytes(), most), Ok(number));
        }
    }
    assert_eq!(argument::restart_offset(b""), Err(ArgumentError::Missing));
}

/// Words mean the same in every case of letters.
fn words(argument: &[u8]) {
    let (upper, lower) = (argument.to_ascii_uppercase(), argument.to_ascii_lowercase());
    assert_eq!(argument::transfer_type(&upper), argument::transfer_type(&lower));
    assert_eq!(argument::epsv(Some(&upper)), argument::epsv(Some(&lower)));
    assert_eq!(argument::protection(&upper), argument::protection(&lower));
    assert_eq!(argument::allo(&upper), argument::allo(&lower));
}

fn times(argument: &[u8]) {
    if let Some(moment) = time::parse_compact(argument) {
        // The last leap second of the year 9999 has no other name.
        let last = time::parse_compact(b"99991231235959").unwrap();
        assert_eq!(time::parse_compact(time::compact(moment).as_bytes()), Some(moment.min(last)));
    }
    if let Ok((moment, path)) = argument::mfmt(argument) {
        is_rest(path, argument);
        assert_eq!(
            argument.strip_suffix(path).and_then(|front| front.strip_suffix(b" ")).and_then(time::parse_compact),
            Some(moment)
        );
    }
    if let Some((moment, path)) = argument::mdtm_change(argument) {
        is_rest(path, argument);
        // A zone of four digits is at most a week.
        let without_zone =
            argument.split(|byte| matches!(byte, b' ' | b'+' | b'-')).next().and_then(time::parse_compact);
        assert!(without_zone.is_some_and(|written| (written - moment).abs() <= 9999 * 60));
    }
    if let Ok((change, path)) = argument::mff(argument) {
        is_rest(path, argument);
        assert!(change.modified.is_some() || change.mode.is_some(), "nothing is to be changed");
        assert!(change.mode.is_none_or(|mode| mode <= 0o7777));
    }
}

fn files(argument: &[u8]) {
    let list = argument::list_arguments(argument);
    assert!(argument.ends_with(list.path));
    let behind = argument.len() - list.path.len();
    assert!(behind == 0 || argument.starts_with(b"-"), "what was dropped is no option");
    if let Ok(request) = digest::request(argument) {
        assert!(argument.is_empty() || !request.path.is_empty());
        assert!(request.range.is_none() || argument.starts_with(b"\""));
        in_order(request.range);
    }
    if let Some(request) = digest::request_with_range(argument) {
        assert!(argument.starts_with(request.path) && !request.path.is_empty());
        in_order(request.range);
    }
}

fn in_order(range: Option<(u64, Option<u64>)>) {
    if let Some((start, end)) = range {
        assert!(start <= MAX_OFFSET && end.is_none_or(|end| start <= end && end <= MAX_OFFSET));
    }
}

fn sites(argument: &[u8]) {
    match site::parse(argument) {
        Ok(Site::Chmod { mode, path }) => {
            assert!(mode <= 0o7777);
            is_rest(path, argument);
        }
        Ok(Site::Utime { accessed, modified, path }) => {
            assert!(!path.is_empty());
            if accessed.is_none() {
                is_rest(path, argument);
            }
            for moment in accessed.into_iter().chain([modified]) {
                assert!(time::parse_compact(time::compact(moment).as_bytes()).is_some());
            }
        }
        Ok(Site::Umask(mask)) => assert!(mask.is_none_or(|mask| mask <= 0o777)),
        Ok(Site::Idle(seconds)) => assert!(seconds.is_none_or(|seconds| seconds <= u64::from(u32::MAX))),
        Ok(Site::Help | Site::Unknown) | Err(_) => {}
    }
}

/// The path is verbatim what stands behind a space at the end.
fn is_rest(path: &[u8], argument: &[u8]) {
    assert!(!path.is_empty() && argument.strip_suffix(path).is_some_and(|front| front.ends_with(b" ")));
}
