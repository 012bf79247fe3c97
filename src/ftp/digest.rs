//! Digests of files: HASH (draft-bryan-ftpext-hash) and the older X commands, XCRC to XSHA512.

use super::argument::{self, ArgumentError};

/// An algorithm, with the name that HASH has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the algorithms' own")]
pub enum Algorithm {
    Sha256,
    Sha512,
    Sha1,
    Md5,
    Crc32,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Sha256, Self::Sha512, Self::Sha1, Self::Md5, Self::Crc32];

    /// As in FEAT and OPTS HASH (IANA's hash function textual names, and CRC32).
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "SHA-256",
            Self::Sha512 => "SHA-512",
            Self::Sha1 => "SHA-1",
            Self::Md5 => "MD5",
            Self::Crc32 => "CRC32",
        }
    }

    /// The algorithm of that name, in any case of letters.
    pub fn named(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| name.eq_ignore_ascii_case(algorithm.name().as_bytes()))
    }
}

/// FEAT's line of HASH: the algorithms, with a star at the selected one.
pub fn feature(offered: &[Algorithm], selected: Option<Algorithm>) -> String {
    let star = |algorithm| if Some(algorithm) == selected { "*" } else { "" };
    let names: Vec<String> =
        offered.iter().map(|algorithm| format!("{}{}", algorithm.name(), star(*algorithm))).collect();
    format!("HASH {}", names.join(";"))
}

/// What an X command is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// The pathname, without quotes.
    pub path: &'a [u8],
    /// Where the digest begins and where it ends, the end not included; `None` for the whole file.
    pub range: Option<(u64, Option<u64>)>,
}

/// The argument of an X command as it stands: `"path" [start [end]]` in quotes, or a path.
///
/// # Errors
/// The quotes are not closed, or what is behind them is no range.
pub fn request(argument: &[u8]) -> Result<Request<'_>, ArgumentError> {
    let Some(quoted) = argument.strip_prefix(b"\"") else { return Ok(Request { path: argument, range: None }) };
    let end = quoted.iter().rposition(|byte| *byte == b'"').ok_or(ArgumentError::Syntax)?;
    let (path, behind) = (quoted.get(..end).unwrap_or_default(), quoted.get(end + 1..).unwrap_or_default());
    if path.is_empty() {
        return Err(ArgumentError::Missing);
    }
    let behind = match behind {
        [] => return Ok(Request { path, range: None }),
        [b' ', behind @ ..] => behind,
        _ => return Err(ArgumentError::Syntax),
    };
    let mut numbers = behind.split(|byte| *byte == b' ');
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(start), None, _) => Ok(Request { path, range: Some((argument::restart_offset(start)?, None)) }),
        (Some(start), Some(end), None) => Ok(Request { path, range: Some(range(start, end)?) }),
        _ => Err(ArgumentError::Syntax),
    }
}

/// The same argument without quotes, its last two words read as a range: for where no file of the whole name exists.
pub fn request_with_range(argument: &[u8]) -> Option<Request<'_>> {
    let mut words = argument.rsplitn(3, |byte| *byte == b' ');
    let (end, start, path) = (words.next()?, words.next()?, words.next()?);
    let range = range(start, end).ok()?;
    (!path.is_empty()).then_some(Request { path, range: Some(range) })
}

fn range(start: &[u8], end: &[u8]) -> Result<(u64, Option<u64>), ArgumentError> {
    let (start, end) = (argument::restart_offset(start)?, argument::restart_offset(end)?);
    if start <= end { Ok((start, Some(end))) } else { Err(ArgumentError::Syntax) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::ArgumentError::{Missing, Syntax};
    use super::*;

    #[test]
    fn arguments() {
        let asks = |path, range| Ok(Request { path, range });
        for (argument, expected) in [
            (&b"a b"[..], asks(&b"a b"[..], None)),
            (b"a 0 5", asks(b"a 0 5", None)),
            (b"\"a b\"", asks(b"a b", None)),
            (b"\"a\"b\"", asks(b"a\"b", None)),
            (b"\"a\" 5", asks(b"a", Some((5, None)))),
            (b"\"a\" 5 9", asks(b"a", Some((5, Some(9))))),
            (b"\"a\" 9 5", Err(Syntax)),
            (b"\"a\" x", Err(Syntax)),
            (b"\"a\" 1 2 3", Err(Syntax)),
            (b"\"a\"5", Err(Syntax)),
            (b"\"a", Err(Syntax)),
            (b"\"\"", Err(Missing)),
        ] {
            assert_eq!(request(argument), expected, "{}", argument.escape_ascii());
        }
        assert_eq!(request_with_range(b"a b 5 9"), asks(b"a b", Some((5, Some(9)))).ok());
        assert_eq!(request_with_range(b"a b 9 5"), None);
        assert_eq!(request_with_range(b"5 9"), None);
    }

    #[test]
    fn algorithms_are_found_by_name() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::named(algorithm.name().to_ascii_lowercase().as_bytes()), Some(algorithm));
        }
        assert_eq!(Algorithm::named(b"SHA-3"), None);
        let offered = [Algorithm::Sha256, Algorithm::Crc32];
        assert_eq!(feature(&offered, Some(Algorithm::Crc32)), "HASH SHA-256;CRC32*");
    }

    proptest! {
        #[test]
        fn never_panics(argument in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = request(&argument);
            let _ = request_with_range(&argument);
        }
    }
}
