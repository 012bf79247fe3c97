//! What is read in a certificate (RFC 5280 §4): its subject, its alternative names, and until when it is valid.
//!
//! Names only ever of certificates whose chain was verified. What is not understood gives no name, so that nobody is taken
//! for somebody by it.

use std::collections::BTreeSet;

/// The names in a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateNames {
    /// The subject (RFC 4514), the most specific set of attributes first; types in upper case. `None` where it has text
    /// in a form that is not read here (only UTF-8, printable and IA5 strings are).
    pub subject: Option<Vec<BTreeSet<(String, String)>>>,
    /// DNS names.
    pub dns: Vec<String>,
    /// Mail addresses.
    pub emails: Vec<String>,
    /// URIs.
    pub uris: Vec<String>,
}

/// Attribute types by the names that RFC 4514 §3 and OpenSSL give them; others are told by number.
const ATTRIBUTE_TYPES: [(&str, &str); 13] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "SERIALNUMBER"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.42", "GN"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "EMAILADDRESS"),
];

/// subjectAltName (RFC 5280 §4.2.1.6).
const ALTERNATIVE_NAMES: &str = "2.5.29.17";

/// Tags (X.690 §8): universal ones, and those that X.509 gives by context.
const OBJECT_IDENTIFIER: u8 = 0x06;
const OCTET_STRING: u8 = 0x04;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const MAIL_ADDRESS: u8 = 0x81;
const DNS_NAME: u8 = 0x82;
const URI: u8 = 0x86;

/// Times (RFC 5280 §4.1.2.5).
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// What is signed (§4.1.2), from the validity on: version (where it is not the first), serial number, signature, issuer,
/// validity, subject, key, …
fn behind_issuer(der: &[u8]) -> Option<&[u8]> {
    let (to_be_signed, _) = next(only(der, SEQUENCE)?)?;
    let mut rest = content(to_be_signed, SEQUENCE)?;
    if let Some((first, after)) = next(rest)
        && first.tag == VERSION
    {
        rest = after;
    }
    for _ in 0..3 {
        rest = next(rest)?.1;
    }
    Some(rest)
}

/// When it begins and when it stops being valid, in seconds since 1970; `None` where it is no certificate.
pub(super) fn validity(der: &[u8]) -> Option<(i64, i64)> {
    let (validity, _) = next(behind_issuer(der)?)?;
    let (not_before, rest) = next(content(validity, SEQUENCE)?)?;
    let (not_after, _) = next(rest)?;
    Some((seconds(&not_before)?, seconds(&not_after)?))
}

/// A time (§4.1.2.5) in seconds since 1970.
fn seconds(time: &Element<'_>) -> Option<i64> {
    let text = std::str::from_utf8(time.content).ok()?;
    let text = match time.tag {
        // "Where YY is greater than or equal to 50, the year SHALL be interpreted as 19YY".
        UTC_TIME if text.get(..2)?.parse::<u8>().ok()? >= 50 => format!("19{text}"),
        UTC_TIME => format!("20{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let time = jiff::civil::DateTime::strptime("%Y%m%d%H%M%SZ", text).ok()?;
    // "99991231235959Z" is for those that have no end, and later than what has a time zone.
    let latest = jiff::Timestamp::MAX.as_second();
    Some(time.to_zoned_datetime(jiff::tz::TimeZone::UTC).map_or(latest, |time| time.timestamp().as_second()))
}

/// Reads them; `None` where it is no certificate.
pub(super) fn names(der: &[u8]) -> Option<CertificateNames> {
    let (_validity, rest) = next(behind_issuer(der)?)?;
    let (distinguished_name, mut rest) = next(rest)?;
    let mut names =
        CertificateNames { subject: subject(content(distinguished_name, SEQUENCE)?), ..CertificateNames::default() };
    while let Some((element, after)) = next(rest) {
        rest = after;
        if element.tag == EXTENSIONS {
            alternative_names(element.content, &mut names);
        }
    }
    Some(names)
}

fn subject(mut sets: &[u8]) -> Option<Vec<BTreeSet<(String, String)>>> {
    let mut subject = Vec::new();
    while !sets.is_empty() {
        let (set, after) = next(sets)?;
        sets = after;
        let mut attributes = content(set, SET)?;
        let mut read = BTreeSet::new();
        while !attributes.is_empty() {
            let (attribute, after) = next(attributes)?;
            attributes = after;
            let (kind, value) = next(content(attribute, SEQUENCE)?)?;
            let kind = identifier(content(kind, OBJECT_IDENTIFIER)?)?;
            let (value, _) = next(value)?;
            if ![UTF8_STRING, PRINTABLE_STRING, IA5_STRING].contains(&value.tag) {
                return None;
            }
            let known = ATTRIBUTE_TYPES.iter().find(|(known, _)| *known == kind).map(|(_, name)| (*name).to_owned());
            read.insert((known.unwrap_or(kind), text(value.content)?));
        }
        subject.push(read);
    }
    subject.reverse();
    Some(subject)
}

fn alternative_names(extensions: &[u8], names: &mut CertificateNames) -> Option<()> {
    let mut extensions = only(extensions, SEQUENCE)?;
    while let Some((extension, after)) = next(extensions) {
        extensions = after;
        let (kind, mut rest) = next(content(extension, SEQUENCE)?)?;
        if identifier(content(kind, OBJECT_IDENTIFIER)?)? != ALTERNATIVE_NAMES {
            continue;
        }
        // Whether it is critical may stand in between.
        let value = loop {
            let (element, after) = next(rest)?;
            rest = after;
            if element.tag == OCTET_STRING {
                break element.content;
            }
        };
        let mut general_names = only(value, SEQUENCE)?;
        while let Some((name, after)) = next(general_names) {
            general_names = after;
            let names = match name.tag {
                MAIL_ADDRESS => &mut names.emails,
                DNS_NAME => &mut names.dns,
                URI => &mut names.uris,
                _ => continue,
            };
            names.extend(text(name.content));
        }
    }
    Some(())
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// An object identifier (X.690 §8.19) in decimal.
fn identifier(bytes: &[u8]) -> Option<String> {
    let mut text = String::new();
    let mut number: u64 = 0;
    for byte in bytes {
        number = number.checked_mul(128)?.checked_add(u64::from(byte & 0x7f))?;
        if byte & 0x80 != 0 {
            continue;
        }
        if text.is_empty() {
            let first = (number / 40).min(2);
            text = format!("{first}.{}", number - first * 40);
        } else {
            text.push_str(&format!(".{number}"));
        }
        number = 0;
    }
    Some(text)
}

/// One element (X.690 §8.1).
#[derive(Clone, Copy)]
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
}

/// The first element, and what follows it. Tags of more than one byte do not occur in certificates.
fn next(bytes: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        // Three bytes of length are more than a handshake carries.
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((Element { tag: *tag, content }, rest))
}

fn content(element: Element<'_>, tag: u8) -> Option<&[u8]> {
    (element.tag == tag).then_some(element.content)
}

/// The content of the one element that there is.
fn only(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    let (element, rest) = next(bytes)?;
    content(element, tag).filter(|_| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn certificate() -> Vec<u8> {
        let mut parameters = rcgen::CertificateParams::new(["ftp.example".to_owned()]).unwrap();
        parameters.subject_alt_names.push(rcgen::SanType::Rfc822Name("robot@example".try_into().unwrap()));
        parameters.subject_alt_names.push(rcgen::SanType::URI("spiffe://example/robot".try_into().unwrap()));
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CountryName, "DE");
        parameters.distinguished_name.push(rcgen::DnType::OrganizationName, "Acme, Inc.");
        parameters.distinguished_name.push(rcgen::DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 2]), "x");
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "acme \u{e9}");
        parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn from_when_and_until_when_a_certificate_is_valid() {
        // The second has a year beyond 2049, which is written in another way.
        for (year, seconds) in [(2030, 1_893_456_000), (2077, 3_376_684_800)] {
            let mut parameters = rcgen::CertificateParams::new(["ftp.example".to_owned()]).unwrap();
            parameters.not_before = rcgen::date_time_ymd(1999, 12, 31);
            parameters.not_after = rcgen::date_time_ymd(year, 1, 1);
            let signed = parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
            assert_eq!(validity(signed.der()), Some((946_598_400, seconds)));
        }
        assert_eq!(validity(b"no certificate"), None);
    }

    #[test]
    fn what_a_certificate_says() {
        let names = names(&certificate()).unwrap();
        let pair = |kind: &str, value: &str| BTreeSet::from([(kind.to_owned(), value.to_owned())]);
        let number = pair("1.2.840.113549.1.9.2", "x");
        let (name, organization, country) = (pair("CN", "acme \u{e9}"), pair("O", "Acme, Inc."), pair("C", "DE"));
        assert_eq!(names.subject, Some(vec![name, number, organization, country]));
        assert_eq!(names.dns, ["ftp.example"]);
        assert_eq!(names.emails, ["robot@example"]);
        assert_eq!(names.uris, ["spiffe://example/robot"]);
    }

    #[test]
    fn what_is_no_certificate_says_nothing() {
        let whole = certificate();
        for end in 0..whole.len() {
            assert_eq!(names(&whole[..end]), None, "{end}");
        }
        assert_eq!(names(&[whole, vec![0]].concat()), None);
    }

    proptest! {
        #[test]
        fn broken_certificates_are_read_without_harm(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
            let mut bytes = certificate();
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            let _ = names(&bytes);
        }

        #[test]
        fn so_is_anything(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = names(&bytes);
        }
    }
}
