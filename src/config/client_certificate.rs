//! Which client certificate (RFC 5280) belongs to a user: `users.NAME.client_certificate`.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::scalar::Wrong;

/// What a user's certificate must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateRule {
    /// One of these: SHA-256 of the whole certificate.
    Fingerprints(Vec<[u8; 32]>),
    /// One whose issuer says that it belongs to this name.
    Name(CertificateName),
}

/// A name in a certificate. Text is compared byte for byte unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateName {
    /// The one common name of the subject; where there are two, neither counts.
    CommonName(String),
    /// The whole subject.
    Subject(DistinguishedName),
    /// A DNS name among the alternative names; without regard to case.
    Dns(String),
    /// A mail address among them; without regard to case behind the @.
    Email(String),
    /// A URI among them.
    Uri(String),
}

/// A subject (RFC 4514): sets of attributes, the most specific first. Types are in upper case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DistinguishedName(pub Vec<BTreeSet<(String, String)>>);

/// `SHA256:` and 64 hexadecimal digits, with or without colons, or 43 characters of base64; without `SHA256:` digits only.
pub(super) fn fingerprint(text: &str) -> Result<[u8; 32], Wrong> {
    const FORM: Wrong = Wrong::Form(Some("`openssl x509 -noout -fingerprint -sha256 -in CERTIFICATE` prints it"));
    let digits = text.strip_prefix("SHA256:").unwrap_or(text);
    let plain: Vec<u8> = digits.bytes().filter(|byte| *byte != b':').collect();
    if plain.len() == 64 {
        let mut fingerprint = [0; 32];
        for (byte, pair) in fingerprint.iter_mut().zip(plain.chunks(2)) {
            let digits = std::str::from_utf8(pair).ok().filter(|_| pair.iter().all(u8::is_ascii_hexdigit));
            *byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or(FORM)?;
        }
        return Ok(fingerprint);
    }
    if digits.len() == text.len() {
        return Err(FORM);
    }
    let bytes = STANDARD_NO_PAD.decode(digits.trim_end_matches('=')).map_err(|_| FORM)?;
    bytes.try_into().map_err(|_| FORM)
}

/// `CN=acme`, `CN=acme,O=Acme Corp,C=DE`, `DNS:…`, `email:…` or `URI:…`.
pub(super) fn name(text: &str) -> Result<CertificateName, Wrong> {
    const FORM: Wrong = Wrong::Form(Some(
        "CN=NAME for the common name, CN=…,O=…,C=… for the whole subject, or DNS:, email: or URI: and an alternative name",
    ));
    for (prefix, make) in [
        ("DNS:", CertificateName::Dns as fn(String) -> CertificateName),
        ("email:", CertificateName::Email),
        ("URI:", CertificateName::Uri),
    ] {
        let begins = text.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix));
        if let Some(rest) = text.get(prefix.len()..).filter(|rest| begins && !rest.is_empty()) {
            return Ok(make(rest.to_owned()));
        }
    }
    let subject = distinguished_name(text).ok_or(FORM)?;
    let mut attributes = subject.0.iter().flatten();
    match (attributes.next(), attributes.next()) {
        (Some((kind, name)), None) if kind == "CN" => Ok(CertificateName::CommonName(name.clone())),
        _ => Ok(CertificateName::Subject(subject)),
    }
}

/// RFC 4514 §3: `CN=a,O=b+OU=c`, with `\` before what would end a value, or before two hexadecimal digits.
fn distinguished_name(text: &str) -> Option<DistinguishedName> {
    let mut names = vec![BTreeSet::new()];
    let (mut kind, mut value, mut in_value) = (String::new(), Vec::new(), false);
    let mut characters = text.chars();
    loop {
        let next = characters.next();
        match next {
            None | Some(',' | '+') => {
                let kind = std::mem::take(&mut kind).trim().to_ascii_uppercase();
                let value = String::from_utf8(std::mem::take(&mut value)).ok()?;
                let is_kind = kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
                if !std::mem::take(&mut in_value) || kind.is_empty() || !is_kind || value.is_empty() {
                    return None;
                }
                names.last_mut()?.insert((kind, value));
                match next {
                    None => return Some(DistinguishedName(names)),
                    Some(',') => names.push(BTreeSet::new()),
                    Some(_) => {}
                }
            }
            Some('=') if !in_value => in_value = true,
            Some(character) if !in_value => kind.push(character),
            Some('\\') => {
                let escaped = characters.next()?;
                match escaped.to_digit(16) {
                    None => value.extend(escaped.encode_utf8(&mut [0; 4]).bytes()),
                    Some(high) => {
                        let low = characters.next()?.to_digit(16)?;
                        value.push(u8::try_from(high * 16 + low).ok()?);
                    }
                }
            }
            Some(character) => value.extend(character.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_as_tools_print_them() {
        let hex = "ab".repeat(32);
        let colons = vec!["AB"; 32].join(":");
        let base64 = format!("SHA256:{}", STANDARD_NO_PAD.encode([0xab; 32]));
        for text in [&hex, &colons, &format!("SHA256:{hex}"), &format!("SHA256:{colons}"), &base64] {
            assert_eq!(fingerprint(text), Ok([0xab; 32]), "{text}");
        }
        for text in ["", "SHA256:", &hex[1..], &hex.replace("ab", "+b"), &base64[7..], "SHA256:AAAA", &colons[..59]] {
            assert!(fingerprint(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_of_each_kind() {
        assert_eq!(name("CN=acme"), Ok(CertificateName::CommonName("acme".into())));
        assert_eq!(name("cn=a=b"), Ok(CertificateName::CommonName("a=b".into())));
        assert_eq!(name("DNS:ftp.example"), Ok(CertificateName::Dns("ftp.example".into())));
        assert_eq!(name("Email:a@b"), Ok(CertificateName::Email("a@b".into())));
        assert_eq!(name("URI:spiffe://a/b"), Ok(CertificateName::Uri("spiffe://a/b".into())));
        let pair = |kind: &str, value: &str| (kind.to_owned(), value.to_owned());
        let subject = DistinguishedName(vec![
            BTreeSet::from([pair("CN", "a,b")]),
            BTreeSet::from([pair("O", "Ü+"), pair("OU", "x y")]),
            BTreeSet::from([pair("2.5.4.6", "DE")]),
        ]);
        assert_eq!(name("CN=a\\,b,O=\\C3\\9C\\++OU=x y, 2.5.4.6=DE"), Ok(CertificateName::Subject(subject)));
        assert!(matches!(name("O=acme"), Ok(CertificateName::Subject(_))));
        for text in ["", "acme", "CN", "CN=", "=acme", "CN=a,", "CN=a,,O=b", "DNS:", "CN=a\\", "CN=a\\C", "C N=a"] {
            assert!(name(text).is_err(), "{text}");
        }
    }
}
