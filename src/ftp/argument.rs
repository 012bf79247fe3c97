//! What stands behind a verb, one pure parser each (RFC 959 §5.3.2, RFC 2228, RFC 2428, RFC 3659, draft-somers-ftp-mfxx).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

use super::time::{self, Timestamp};

/// Greatest file offset: SFTP has 64 bits, the systems behind it a sign (OpenSSH answers BAD_MESSAGE above).
pub const MAX_OFFSET: u64 = i64::MAX as u64;

/// Why an argument is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ArgumentError {
    /// Something that must be there is not (501).
    #[error("an argument is missing")]
    Missing,
    /// It is not of the command's form (501).
    #[error("the argument is malformed")]
    Syntax,
    /// Well-formed, known, and not offered (504; 522 for EPSV).
    #[error("the argument asks for something that is not offered")]
    Unsupported,
}

/// What TYPE asks for, as far as we offer it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferType {
    /// `A`, `A N`
    Ascii,
    /// `I`, `L 8`
    Image,
}

/// What EPSV asks for (RFC 2428 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epsv {
    /// The protocol of the control connection.
    Any,
    /// `1`
    Ipv4,
    /// `2`
    Ipv6,
    /// `ALL`: from now on nothing but EPSV.
    All,
}

/// What PROT asks for (RFC 2228 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// `C`
    Clear,
    /// `P`
    Private,
    /// `S`: integrity only; TLS has no such level.
    Safe,
    /// `E`: confidentiality only; TLS has no such level.
    Confidential,
}

/// What LIST, NLST and STAT were given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListArguments<'a> {
    /// `-a`: names that begin with a dot are wanted too.
    pub all: bool,
    /// The rest, verbatim; empty for the working directory.
    pub path: &'a [u8],
}

/// TYPE: `A`, `A N`, `I`, `L 8`.
///
/// # Errors
///
/// [`ArgumentError::Unsupported`] for EBCDIC, for Telnet and carriage-control print, and for other byte sizes.
pub fn transfer_type(argument: &[u8]) -> Result<TransferType, ArgumentError> {
    let upper = argument.to_ascii_uppercase();
    let mut words = upper.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    match (words.next(), words.next(), words.next()) {
        (None, _, _) => Err(ArgumentError::Missing),
        (Some(b"A"), None | Some(b"N"), None) => Ok(TransferType::Ascii),
        (Some(b"I"), None, None) | (Some(b"L8"), None, None) => Ok(TransferType::Image),
        (Some(b"L"), Some(size), None) if decimal(size)? == 8 => Ok(TransferType::Image),
        (Some(b"L"), Some(_), None) => Err(ArgumentError::Unsupported),
        (Some(b"A"), Some(b"T" | b"C"), None) => Err(ArgumentError::Unsupported),
        (Some(b"E"), None | Some(b"N" | b"T" | b"C"), None) => Err(ArgumentError::Unsupported),
        _ => Err(ArgumentError::Syntax),
    }
}

/// EPSV: nothing, a network protocol number, or `ALL`.
///
/// # Errors
///
/// [`ArgumentError::Unsupported`] for a protocol other than IPv4 and IPv6.
pub fn epsv(argument: Option<&[u8]>) -> Result<Epsv, ArgumentError> {
    match argument {
        None | Some(b"") => Ok(Epsv::Any),
        Some(word) if word.eq_ignore_ascii_case(b"ALL") => Ok(Epsv::All),
        Some(digits) => match decimal(digits) {
            Ok(1) => Ok(Epsv::Ipv4),
            Ok(2) => Ok(Epsv::Ipv6),
            Ok(_) => Err(ArgumentError::Unsupported),
            Err(error) => Err(error),
        },
    }
}

/// PORT (RFC 959 §5.3.2): `h1,h2,h3,h4,p1,p2`, six numbers of a byte each.
///
/// # Errors
///
/// When it is anything else.
pub fn port(argument: &[u8]) -> Result<SocketAddr, ArgumentError> {
    let mut numbers = argument
        .split(|byte| *byte == b',')
        .map(|digits| decimal(digits).and_then(|number| u8::try_from(number).map_err(|_| ArgumentError::Syntax)));
    let mut next = || numbers.next().unwrap_or(Err(ArgumentError::Missing));
    let address = Ipv4Addr::new(next()?, next()?, next()?, next()?);
    let port = u16::from_be_bytes([next()?, next()?]);
    if numbers.next().is_some() { Err(ArgumentError::Syntax) } else { Ok((address, port).into()) }
}

/// EPRT (RFC 2428 §2): `|family|address|port|` with any delimiter from `!` to `~`.
///
/// # Errors
///
/// [`ArgumentError::Unsupported`] for a family other than IPv4 and IPv6.
pub fn eprt(argument: &[u8]) -> Result<SocketAddr, ArgumentError> {
    let (delimiter, rest) = argument.split_first().ok_or(ArgumentError::Missing)?;
    if !(33..=126).contains(delimiter) {
        return Err(ArgumentError::Syntax);
    }
    let mut parts = rest.split(|byte| byte == delimiter);
    let (Some(family), Some(address), Some(port), Some(b""), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(ArgumentError::Syntax);
    };
    let text = std::str::from_utf8(address).map_err(|_| ArgumentError::Syntax)?;
    // A zone (`%eth0`) is of one host only; neither parser takes one.
    let address: Option<IpAddr> = match decimal(family)? {
        1 => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
        2 => text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
        _ => return Err(ArgumentError::Unsupported),
    };
    let port = decimal(port).and_then(|port| u16::try_from(port).map_err(|_| ArgumentError::Syntax))?;
    address.map(|address| SocketAddr::new(address.to_canonical(), port)).ok_or(ArgumentError::Syntax)
}

/// REST: an offset in bytes, at most [`MAX_OFFSET`].
///
/// # Errors
///
/// When it is anything but digits, or greater.
pub fn restart_offset(argument: &[u8]) -> Result<u64, ArgumentError> {
    decimal(argument).and_then(|offset| if offset > MAX_OFFSET { Err(ArgumentError::Syntax) } else { Ok(offset) })
}

/// PBSZ: a number of 32 bits.
///
/// # Errors
///
/// When it is anything but digits, or greater.
pub fn decimal_u32(argument: &[u8]) -> Result<u32, ArgumentError> {
    decimal(argument).and_then(|number| u32::try_from(number).map_err(|_| ArgumentError::Syntax))
}

/// PROT: one letter.
///
/// # Errors
///
/// [`ArgumentError::Unsupported`] for a letter that is no protection level.
pub fn protection(argument: &[u8]) -> Result<Protection, ArgumentError> {
    match argument {
        [] => Err(ArgumentError::Missing),
        b"C" | b"c" => Ok(Protection::Clear),
        b"P" | b"p" => Ok(Protection::Private),
        b"S" | b"s" => Ok(Protection::Safe),
        b"E" | b"e" => Ok(Protection::Confidential),
        [letter] if letter.is_ascii_alphabetic() => Err(ArgumentError::Unsupported),
        _ => Err(ArgumentError::Syntax),
    }
}

/// MFMT: a time and a path, verbatim.
///
/// # Errors
///
/// When the time does not exist or the path is missing.
pub fn mfmt(argument: &[u8]) -> Result<(Timestamp, &[u8]), ArgumentError> {
    let mut parts = argument.splitn(2, |byte| *byte == b' ');
    let moment = parts.next().filter(|text| !text.is_empty()).ok_or(ArgumentError::Missing)?;
    let moment = time::parse_compact(moment).ok_or(ArgumentError::Syntax)?;
    let path = parts.next().filter(|path| !path.is_empty()).ok_or(ArgumentError::Missing)?;
    Ok((moment, path))
}

/// MDTM with a time in front of the path, which some clients send to set it: `YYYYMMDDHHMMSS[.sss][+-minutes] path`.
/// The minutes are the client's distance from UTC. `None` where the argument is only a path.
pub fn mdtm_change(argument: &[u8]) -> Option<(Timestamp, &[u8])> {
    let space = argument.iter().position(|byte| *byte == b' ')?;
    let (moment, path) = (argument.get(..space)?, argument.get(space + 1..)?);
    let zone = moment.iter().position(|byte| matches!(byte, b'+' | b'-')).unwrap_or(moment.len());
    let (moment, zone) = moment.split_at(zone);
    let minutes = match zone {
        [] => 0,
        [sign, digits @ ..] if digits.len() <= 4 => {
            let minutes = i64::try_from(decimal(digits).ok()?).ok()?;
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    let moment = time::parse_compact(moment)?;
    (!path.is_empty()).then_some((moment - minutes * 60, path))
}

/// What MFF sets (draft-somers-ftp-mfxx §3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FactChange {
    /// `Modify`
    pub modified: Option<Timestamp>,
    /// `UNIX.mode`, the low 12 bits.
    pub mode: Option<u32>,
}

/// MFF: `fact=value;fact=value; path`.
///
/// # Errors
///
/// [`ArgumentError::Unsupported`] for a fact that cannot be set here.
pub fn mff(argument: &[u8]) -> Result<(FactChange, &[u8]), ArgumentError> {
    let mut parts = argument.splitn(2, |byte| *byte == b' ');
    let facts = parts.next().and_then(|facts| facts.strip_suffix(b";")).ok_or(ArgumentError::Syntax)?;
    let path = parts.next().filter(|path| !path.is_empty()).ok_or(ArgumentError::Missing)?;
    let mut change = FactChange::default();
    for fact in facts.split(|byte| *byte == b';') {
        let equals = fact.iter().position(|byte| *byte == b'=').ok_or(ArgumentError::Syntax)?;
        let (name, value) = (fact.get(..equals).unwrap_or_default(), fact.get(equals + 1..).unwrap_or_default());
        match name.to_ascii_lowercase().as_slice() {
            b"modify" => change.modified = Some(time::parse_compact(value).ok_or(ArgumentError::Syntax)?),
            b"unix.mode" => change.mode = Some(super::site::octal(value, 0o7777)?),
            _ => return Err(ArgumentError::Unsupported),
        }
    }
    Ok((change, path))
}

/// RANG (draft-bryan-ftp-range): first and last octet, both included; `1 0` takes a range back.
///
/// # Errors
///
/// When it is not two numbers, or the last comes before the first.
pub fn range(argument: &[u8]) -> Result<Option<(u64, u64)>, ArgumentError> {
    let mut words = argument.split(|byte| *byte == b' ');
    let (Some(first), Some(last), None) = (words.next(), words.next(), words.next()) else {
        return Err(ArgumentError::Syntax);
    };
    match (restart_offset(first)?, restart_offset(last)?) {
        (1, 0) => Ok(None),
        (first, last) if first <= last => Ok(Some((first, last))),
        _ => Err(ArgumentError::Syntax),
    }
}

/// HOST (RFC 7151 §3.1): a name of ASCII labels, an IPv4 address, or an IPv6 address in brackets; never a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// In lower case, without a dot at its end.
    Name(String),
    /// A literal.
    Address(IpAddr),
}

/// HOST.
///
/// # Errors
///
/// When it is none of the three.
pub fn host(argument: &[u8]) -> Result<Host, ArgumentError> {
    let text = std::str::from_utf8(argument).map_err(|_| ArgumentError::Syntax)?;
    if let Some(inner) = text.strip_prefix('[') {
        let address = inner.strip_suffix(']').and_then(|inner| inner.parse::<Ipv6Addr>().ok());
        return address.map(|address| Host::Address(address.into())).ok_or(ArgumentError::Syntax);
    }
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Ok(Host::Address(address.into()));
    }
    // RFC 1035 §2.3.4: labels of 63 octets, names of 255.
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_name = name.len() <= 253 && name.split('.').all(is_label);
    // What ends in digits is an address that is none (RFC 3696 §2).
    let ends_in_digits = name.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    if is_name && !ends_in_digits { Ok(Host::Name(name.to_ascii_lowercase())) } else { Err(ArgumentError::Syntax) }
}

/// LIST, NLST, STAT: what clients put in front of the path because some server once ran `ls`.
///
/// Words of a dash, letters and digits are dropped, each with the one space behind it, and `--` ends them. A path that
/// begins like that is reached as `./-x`, or after `--`.
pub fn list_arguments(argument: &[u8]) -> ListArguments<'_> {
    let mut all = false;
    let mut rest = argument;
    loop {
        let mut parts = rest.splitn(2, |byte| *byte == b' ');
        let word = parts.next().unwrap_or_default();
        let behind = parts.next().unwrap_or_default();
        match word {
            b"--" => return ListArguments { all, path: behind },
            [b'-', options @ ..] if !options.is_empty() && options.iter().all(u8::is_ascii_alphanumeric) => {
                all |= options.iter().any(|option| matches!(option, b'a' | b'A'));
                rest = behind;
            }
            _ => return ListArguments { all, path: rest },
        }
    }
}

/// ALLO: `n` or `n R m`; gives `n`, the bytes of the file. A record size means nothing to us.
///
/// # Errors
///
/// When it is of another form.
pub fn allo(argument: &[u8]) -> Result<u64, ArgumentError> {
    let mut words = argument.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let size = decimal(words.next().unwrap_or_default())?;
    match (words.next(), words.next(), words.next()) {
        (None, _, _) => Ok(size),
        (Some(b"R" | b"r"), Some(record), None) => decimal(record).map(|_| size),
        _ => Err(ArgumentError::Syntax),
    }
}

/// A number of digits only: no sign, no space, no underscore.
fn decimal(digits: &[u8]) -> Result<u64, ArgumentError> {
    if digits.is_empty() {
        return Err(ArgumentError::Missing);
    }
    digits.iter().try_fold(0u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'));
        digit.and_then(|digit| number.checked_mul(10)?.checked_add(digit)).ok_or(ArgumentError::Syntax)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::ArgumentError::{Missing, Syntax, Unsupported};
    use super::*;

    #[test]
    fn types() {
        for (argument, expected) in [
            (&b"A"[..], Ok(TransferType::Ascii)),
            (b"a n", Ok(TransferType::Ascii)),
            (b"I", Ok(TransferType::Image)),
            (b"i", Ok(TransferType::Image)),
            (b"L 8", Ok(TransferType::Image)),
            (b"L8", Ok(TransferType::Image)),
            (b"L 7", Err(Unsupported)),
            (b"L x", Err(Syntax)),
            (b"L", Err(Syntax)),
            (b"A T", Err(Unsupported)),
            (b"A C", Err(Unsupported)),
            (b"A X", Err(Syntax)),
            (b"A N N", Err(Syntax)),
            (b"E", Err(Unsupported)),
            (b"E N", Err(Unsupported)),
            (b"I N", Err(Syntax)),
            (b"X", Err(Syntax)),
            (b"", Err(Missing)),
            (b" ", Err(Missing)),
        ] {
            assert_eq!(transfer_type(argument), expected, "{}", argument.escape_ascii());
        }
    }

    #[test]
    fn active_addresses() {
        let address = |text: &str| Ok(text.parse().unwrap());
        for (argument, expected) in [
            (&b"127,0,0,1,4,1"[..], address("127.0.0.1:1025")),
            (b"10,1,2,3,255,255", address("10.1.2.3:65535")),
            (b"127,0,0,1,4", Err(Missing)),
            (b"127,0,0,1,4,1,2", Err(Syntax)),
            (b"127,0,0,256,4,1", Err(Syntax)),
            (b"127,0,0,1,4,-1", Err(Syntax)),
            (b"127,0,0,1, 4,1", Err(Syntax)),
            (b"", Err(Missing)),
        ] {
            assert_eq!(port(argument), expected, "{}", argument.escape_ascii());
        }
        for (argument, expected) in [
            (&b"|1|127.0.0.1|1025|"[..], address("127.0.0.1:1025")),
            (b"|2|::1|00021|", address("[::1]:21")),
            (b"!2!::ffff:10.1.2.3!1025!", address("10.1.2.3:1025")),
            (b"|3|127.0.0.1|1025|", Err(Unsupported)),
            (b"|1|::1|1025|", Err(Syntax)),
            (b"|2|127.0.0.1|1025|", Err(Syntax)),
            (b"|2|fe80::1%eth0|1025|", Err(Syntax)),
            (b"|1|127.0.0.1|65536|", Err(Syntax)),
            (b"|1|127.0.0.1|1025", Err(Syntax)),
            (b"|1|127.0.0.1|1025|x", Err(Syntax)),
            (b"|||1025|", Err(Missing)),
            (b" 1 127.0.0.1 1025 ", Err(Syntax)),
            (b"", Err(Missing)),
        ] {
            assert_eq!(eprt(argument), expected, "{}", argument.escape_ascii());
        }
    }

    #[test]
    fn times_to_be_set_by_mdtm() {
        let new_year = 1_767_225_600;
        for (argument, expected) in [
            (&b"20260101000000 a b"[..], Some((new_year, &b"a b"[..]))),
            (b"20260101000000.123 a", Some((new_year, b"a"))),
            (b"20260101000000+60 a", Some((new_year - 3600, b"a"))),
            (b"20260101000000-60 a", Some((new_year + 3600, b"a"))),
            (b"20260101000000 ", None),
            (b"20260101000000", None),
            (b"20260101000000+x a", None),
            (b"20260101000000+ a", None),
            (b"20260231000000 a", None),
            (b"report 2026", None),
            (b"a", None),
            (b"", None),
        ] {
            assert_eq!(mdtm_change(argument), expected, "{}", argument.escape_ascii());
        }
    }

    #[test]
    fn facts_to_be_set() {
        let change = |modified, mode| FactChange { modified, mode };
        for (argument, expected) in [
            (&b"Modify=20260101000000; a b"[..], Ok((change(Some(1_767_225_600), None), &b"a b"[..]))),
            (b"unix.mode=0644;modify=20260101000000; a", Ok((change(Some(1_767_225_600), Some(0o644)), b"a"))),
            (b"UNIX.mode=0644; a", Ok((change(None, Some(0o644)), b"a"))),
            (b"Create=20260101000000; a", Err(Unsupported)),
            (b"UNIX.mode=9; a", Err(Syntax)),
            (b"Modify=2026; a", Err(Syntax)),
            (b"Modify=20260101000000 a", Err(Syntax)),
            (b"Modify; a", Err(Syntax)),
            (b"Modify=20260101000000; ", Err(Missing)),
            (b"; a", Err(Syntax)),
            (b"", Err(Syntax)),
        ] {
            assert_eq!(mff(argument), expected, "{}", argument.escape_ascii());
        }
    }

    #[test]
    fn ranges() {
        for (argument, expected) in [
            (&b"0 0"[..], Ok(Some((0, 0)))),
            (b"5 9", Ok(Some((5, 9)))),
            (b"1 0", Ok(None)),
            (b"2 0", Err(Syntax)),
            (b"5", Err(Syntax)),
            (b"5 9 1", Err(Syntax)),
            (b"a b", Err(Syntax)),
            (b"0 9223372036854775808", Err(Syntax)),
            (b"", Err(Syntax)),
        ] {
            assert_eq!(range(argument), expected, "{}", argument.escape_ascii());
        }
    }

    #[test]
    fn hosts() {
        let name = |name: &str| Ok(Host::Name(name.to_owned()));
        for (argument, expected) in [
            (&b"ftp.Example.com"[..], name("ftp.example.com")),
            (b"ftp.example.com.", name("ftp.example.com")),
            (b"localhost", name("localhost")),
            (b"xn--bcher-kva.example", name("xn--bcher-kva.example")),
            (b"127.0.0.1", Ok(Host::Address([127, 0, 0, 1].into()))),
            (b"[::1]", Ok(Host::Address(std::net::Ipv6Addr::LOCALHOST.into()))),
            (b"::1", Err(Syntax)),
            (b"[::1", Err(Syntax)),
            (b"[127.0.0.1]", Err(Syntax)),
            (b"ftp.example.com:21", Err(Syntax)),
            (b"127.0.0.300", Err(Syntax)),
            (b"-a.example", Err(Syntax)),
            (b"a..b", Err(Syntax)),
            (b"b\xfccher.example", Err(Syntax)),
            (b"a b", Err(Syntax)),
            (b"", Err(Syntax)),
        ] {
            assert_eq!(host(argument), expected, "{}", argument.escape_ascii());
        }
    }

    #[test]
    fn epsv_protocols() {
        for (argument, expected) in [
            (None, Ok(Epsv::Any)),
            (Some(&b""[..]), Ok(Epsv::Any)),
            (Some(b"1"), Ok(Epsv::Ipv4)),
            (Some(b"2"), Ok(Epsv::Ipv6)),
            (Some(b"all"), Ok(Epsv::All)),
            (Some(b"3"), Err(Unsupported)),
            (Some(b"0"), Err(Unsupported)),
            (Some(b"x"), Err(Syntax)),
            (Some(b"-1"), Err(Syntax)),
        ] {
            assert_eq!(epsv(argument), expected);
        }
    }

    #[test]
    fn numbers_have_bounds() {
        assert_eq!(restart_offset(b"0"), Ok(0));
        assert_eq!(restart_offset(b"00010"), Ok(10));
        assert_eq!(restart_offset(b"9223372036854775807"), Ok(MAX_OFFSET));
        assert_eq!(restart_offset(b"9223372036854775808"), Err(Syntax));
        assert_eq!(restart_offset(b"99999999999999999999999"), Err(Syntax));
        assert_eq!(restart_offset(b""), Err(Missing));
        for argument in [&b"+1"[..], b"-1", b" 1", b"1 ", b"1_0", b"0x1", b"\xB2"] {
            assert_eq!(restart_offset(argument), Err(Syntax));
        }
        assert_eq!(decimal_u32(b"4294967295"), Ok(u32::MAX));
        assert_eq!(decimal_u32(b"4294967296"), Err(Syntax));
    }

    #[test]
    fn protection_levels() {
        assert_eq!(protection(b"P"), Ok(Protection::Private));
        assert_eq!(protection(b"c"), Ok(Protection::Clear));
        assert_eq!(protection(b"S"), Ok(Protection::Safe));
        assert_eq!(protection(b"e"), Ok(Protection::Confidential));
        assert_eq!(protection(b"X"), Err(Unsupported));
        assert_eq!(protection(b""), Err(Missing));
        for argument in [&b"PP"[..], b"P ", b"1"] {
            assert_eq!(protection(argument), Err(Syntax));
        }
    }

    #[test]
    fn mfmt_times_and_paths() {
        assert_eq!(mfmt(b"20261122174100 a b"), Ok((1_795_369_260, &b"a b"[..])));
        assert_eq!(mfmt(b"20261122174100.123  a"), Ok((1_795_369_260, &b" a"[..])));
        assert_eq!(mfmt(b"20250229000000 a"), Err(Syntax));
        assert_eq!(mfmt(b"a 20261122174100"), Err(Syntax));
        assert_eq!(mfmt(b""), Err(Missing));
        assert_eq!(mfmt(b"20261122174100"), Err(Missing));
        assert_eq!(mfmt(b"20261122174100 "), Err(Missing));
    }

    #[test]
    fn list_options_are_dropped() {
        for (argument, all, path) in [
            (&b""[..], false, &b""[..]),
            (b"dir", false, b"dir"),
            (b"-al", true, b""),
            (b"-l", false, b""),
            (b"-la dir with space", true, b"dir with space"),
            (b"-l -a dir", true, b"dir"),
            (b"-R", false, b""),
            (b"-w999999999", false, b""),
            (b"-- -x", false, b"-x"),
            (b"-a -- -l", true, b"-l"),
            (b"--", false, b""),
            (b"-", false, b"-"),
            (b"-a-b", false, b"-a-b"),
            (b"--all", false, b"--all"),
            (b"./-x", false, b"./-x"),
            (b"-a ", true, b""),
            (b" -a", false, b" -a"),
        ] {
            assert_eq!(list_arguments(argument), ListArguments { all, path }, "{}", argument.escape_ascii());
        }
    }

    #[test]
    fn allo_sizes() {
        assert_eq!(allo(b"100"), Ok(100));
        assert_eq!(allo(b"100 R 20"), Ok(100));
        assert_eq!(allo(b"18446744073709551615"), Ok(u64::MAX));
        assert_eq!(allo(b""), Err(Missing));
        for argument in [&b"x"[..], b"1 2", b"1 R x", b"1 R 2 3", b"-1"] {
            assert_eq!(allo(argument), Err(Syntax));
        }
        assert_eq!(allo(b"1 R"), Err(Syntax));
    }

    proptest! {
        #[test]
        fn offsets_round_trip(offset in 0..=MAX_OFFSET) {
            prop_assert_eq!(restart_offset(offset.to_string().as_bytes()), Ok(offset));
        }

        #[test]
        fn list_paths_are_the_end_of_what_was_given(argument in "[-a ]{0,8}.{0,4}") {
            prop_assert!(argument.as_bytes().ends_with(list_arguments(argument.as_bytes()).path));
        }

        #[test]
        fn anything_is_parsed_or_refused(argument in any::<Vec<u8>>()) {
            let _ = (transfer_type(&argument), epsv(Some(&argument)), restart_offset(&argument), decimal_u32(&argument));
            let _ = (protection(&argument), mfmt(&argument), allo(&argument), list_arguments(&argument));
        }
    }
}
