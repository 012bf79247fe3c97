//! The commands behind SITE (RFC 959 §4.1.3), in the forms that wu-ftpd, ProFTPD and Pure-FTPd gave them.

use super::argument::ArgumentError;
use super::time::{self, Timestamp};

/// What SITE asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site<'a> {
    /// `CHMOD 644 path`
    Chmod {
        /// The low 12 bits.
        mode: u32,
        /// Verbatim.
        path: &'a [u8],
    },
    /// `UTIME YYYYMMDDhhmm[ss] path`, `UTIME path atime mtime ctime UTC`
    Utime {
        /// Last access, where it is given.
        accessed: Option<Timestamp>,
        /// Last modification.
        modified: Timestamp,
        /// Verbatim.
        path: &'a [u8],
    },
    /// `UMASK [022]`
    Umask(Option<u32>),
    /// `IDLE [seconds]`
    Idle(Option<u64>),
    /// `HELP`
    Help,
    /// Everything else: no server command is ever run for a client (CVE-2000-0573, CVE-2015-3306).
    Unknown,
}

/// The subcommands and their syntax, as SITE HELP shows them.
pub const SYNTAX: [&str; 5] = [
    "CHMOD <octal mode> <pathname>",
    "UTIME <YYYYMMDDhhmm[ss]> <pathname> | <pathname> <access> <modification> <creation> UTC",
    "UMASK [<octal mask>]",
    "IDLE [<seconds>]",
    "HELP",
];

/// Takes the argument of SITE apart.
///
/// # Errors
/// The subcommand is known, and what stands behind it is not of its form.
pub fn parse(argument: &[u8]) -> Result<Site<'_>, ArgumentError> {
    let (name, rest) = word(argument);
    match name.to_ascii_uppercase().as_slice() {
        b"CHMOD" => {
            let (mode, path) = word(rest);
            let mode = octal(mode, 0o7777)?;
            required(path).map(|path| Site::Chmod { mode, path })
        }
        b"UTIME" => utime(rest),
        b"UMASK" if rest.is_empty() => Ok(Site::Umask(None)),
        b"UMASK" => octal(rest, 0o777).map(|mask| Site::Umask(Some(mask))),
        b"IDLE" if rest.is_empty() => Ok(Site::Idle(None)),
        b"IDLE" => seconds(rest).map(|seconds| Site::Idle(Some(seconds))),
        b"HELP" => Ok(Site::Help),
        _ => Ok(Site::Unknown),
    }
}

/// The path may hold spaces: times are looked for where they must be, at the front or at the very end.
fn utime(argument: &[u8]) -> Result<Site<'_>, ArgumentError> {
    if let Some((path, accessed, modified)) = times_behind(argument) {
        return required(path).map(|path| Site::Utime { accessed: Some(accessed), modified, path });
    }
    let (moment, path) = word(argument);
    let modified = moment_of(moment).ok_or(ArgumentError::Syntax)?;
    required(path).map(|path| Site::Utime { accessed: None, modified, path })
}

/// `path YYYYMMDDhhmmss YYYYMMDDhhmmss YYYYMMDDhhmmss UTC`; the third time, of creation, no SFTP v3 server stores.
fn times_behind(argument: &[u8]) -> Option<(&[u8], Timestamp, Timestamp)> {
    let mut words = argument.rsplitn(5, |byte| *byte == b' ');
    let (zone, _creation) = (words.next()?, moment_of(words.next()?)?);
    let (modified, accessed) = (moment_of(words.next()?)?, moment_of(words.next()?)?);
    zone.eq_ignore_ascii_case(b"UTC").then_some((words.next()?, accessed, modified))
}

/// Seconds may be left out.
fn moment_of(digits: &[u8]) -> Option<Timestamp> {
    match digits.len() {
        12 => time::parse_compact(&[digits, b"00"].concat()),
        14 => time::parse_compact(digits),
        _ => None,
    }
}

/// The first word, and what is behind the one space after it.
fn word(argument: &[u8]) -> (&[u8], &[u8]) {
    let mut parts = argument.splitn(2, |byte| *byte == b' ');
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

fn required(path: &[u8]) -> Result<&[u8], ArgumentError> {
    if path.is_empty() { Err(ArgumentError::Missing) } else { Ok(path) }
}

/// A mode or a mask: octal digits only.
///
/// # Errors
/// Other characters, or more than `most`.
pub fn octal(digits: &[u8], most: u32) -> Result<u32, ArgumentError> {
    if digits.is_empty() {
        return Err(ArgumentError::Missing);
    }
    let number = digits.iter().try_fold(0_u32, |number, digit| {
        let digit = matches!(digit, b'0'..=b'7').then(|| u32::from(digit - b'0'))?;
        number.checked_mul(8)?.checked_add(digit).filter(|number| *number <= most)
    });
    number.ok_or(ArgumentError::Syntax)
}

fn seconds(digits: &[u8]) -> Result<u64, ArgumentError> {
    super::argument::decimal_u32(digits).map(u64::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::ArgumentError::{Missing, Syntax};
    use super::*;

    const NEW_YEAR: i64 = 1_767_225_600;

    #[test]
    fn subcommands() {
        let chmod = |mode, path| Ok(Site::Chmod { mode, path });
        let utime = |accessed, modified, path| Ok(Site::Utime { accessed, modified, path });
        for (argument, expected) in [
            (&b"CHMOD 644 a b"[..], chmod(0o644, &b"a b"[..])),
            (b"chmod 0755 /x", chmod(0o755, b"/x")),
            (b"CHMOD 644  a", chmod(0o644, b" a")),
            (b"CHMOD 4755 a", chmod(0o4755, b"a")),
            (b"CHMOD 10000 a", Err(Syntax)),
            (b"CHMOD 648 a", Err(Syntax)),
            (b"CHMOD u+x a", Err(Syntax)),
            (b"CHMOD 644", Err(Missing)),
            (b"CHMOD", Err(Missing)),
            (b"CHMOD 644 \"x", chmod(0o644, b"\"x")),
            (b"UTIME 20260101000000 a b", utime(None, NEW_YEAR, b"a b")),
            (b"UTIME 202601010000 a", utime(None, NEW_YEAR, b"a")),
            (
                b"UTIME a b 20260101000001 20260101000000 20260101000002 UTC",
                utime(Some(NEW_YEAR + 1), NEW_YEAR, b"a b"),
            ),
            (b"UTIME 20260229000000 a", Err(Syntax)),
            (b"UTIME a", Err(Syntax)),
            (b"UTIME 202601010000", Err(Missing)),
            (b"UTIME", Err(Syntax)),
            (b"UMASK", Ok(Site::Umask(None))),
            (b"UMASK 027", Ok(Site::Umask(Some(0o027)))),
            (b"UMASK 1000", Err(Syntax)),
            (b"UMASK x", Err(Syntax)),
            (b"IDLE", Ok(Site::Idle(None))),
            (b"idle 60", Ok(Site::Idle(Some(60)))),
            (b"IDLE -1", Err(Syntax)),
            (b"IDLE 99999999999", Err(Syntax)),
            (b"HELP", Ok(Site::Help)),
            (b"HELP CHMOD", Ok(Site::Help)),
            (b"EXEC id", Ok(Site::Unknown)),
            (b"CPFR /etc/passwd", Ok(Site::Unknown)),
            (b"", Ok(Site::Unknown)),
        ] {
            assert_eq!(parse(argument), expected, "{}", argument.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_paths_are_what_was_sent(argument in proptest::collection::vec(any::<u8>(), 0..80)) {
            match parse(&argument) {
                Ok(Site::Chmod { path, .. }) => prop_assert!(argument.ends_with(path)),
                Ok(Site::Utime { path, .. }) => prop_assert!(argument.windows(path.len()).any(|part| part == path)),
                _ => {}
            }
        }
    }
}
