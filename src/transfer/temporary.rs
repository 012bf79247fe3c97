//! The names of files under way: random, hidden in listings, refused to clients; and the names of what broken uploads
//! leave.

use aws_lc_rs::rand;

use crate::sftp::{BackendPath, SftpError};

/// Ends the name of a file that is being uploaded.
const TEMPORARY_SUFFIX: &[u8] = b".f2s-part";

/// Ends the name of a file that stepped aside for its successor. Never swept like a temporary one: while an exchange of
/// names is under way it is the only copy there is.
const ASIDE_SUFFIX: &[u8] = b".f2s-aside";

/// Ends the name under which `broken_upload: keep` keeps what came of an upload.
const PART_SUFFIX: &[u8] = b".part";

/// Random bytes in a hidden name: nobody can guess it, and EXCL finds a collision in any case.
const RANDOM: usize = 16;

/// Random bytes in the name of a unique file, which clients see.
const UNIQUE: usize = 8;

/// Longest file name that common file systems take, in bytes.
const MAX_NAME: usize = 255;

/// A name of ours for a file under way: hidden in listings, refused to clients.
pub fn is_hidden(name: &[u8]) -> bool {
    is_temporary(name) || original_of_aside(name).is_some()
}

/// The name of an upload under way, or of one that was under way when the gateway was killed.
pub fn is_temporary(name: &[u8]) -> bool {
    stem(name, TEMPORARY_SUFFIX).is_some()
}

/// The name that a file had before it stepped aside; cut where it was too long.
pub(super) fn original_of_aside(name: &[u8]) -> Option<&[u8]> {
    stem(name, ASIDE_SUFFIX)
}

/// A temporary name beside `target`.
///
/// # Errors
/// No random bytes could be had.
pub fn temporary_beside(target: &BackendPath) -> Result<BackendPath, SftpError> {
    beside(target, TEMPORARY_SUFFIX)
}

/// A name for `target` to step aside to.
pub(super) fn aside_of(target: &BackendPath) -> Result<BackendPath, SftpError> {
    beside(target, ASIDE_SUFFIX)
}

/// Where the part of a broken upload of `target` is kept; `None` where that name would be too long.
pub fn part_of(target: &BackendPath) -> Option<BackendPath> {
    let name = [target.file_name()?, PART_SUFFIX].concat();
    (name.len() <= MAX_NAME).then(|| target.sibling(&name))
}

/// The name before it was hidden, unless it may have been cut for that.
pub(super) fn whole_original(original: &[u8]) -> Option<&[u8]> {
    Some(original).filter(|original| original.len() < MAX_NAME - tail_length(ASIDE_SUFFIX))
}

fn tail_length(suffix: &[u8]) -> usize {
    // The dot in front, the dot between, the digits, the suffix.
    2 + 2 * RANDOM + suffix.len()
}

fn stem<'a>(name: &'a [u8], suffix: &[u8]) -> Option<&'a [u8]> {
    let rest = name.strip_prefix(b".")?.strip_suffix(suffix)?;
    let (stem, digits) = rest.split_at_checked(rest.len().checked_sub(2 * RANDOM)?)?;
    let stem = stem.strip_suffix(b".")?;
    (!stem.is_empty() && digits.iter().all(u8::is_ascii_hexdigit)).then_some(stem)
}

fn beside(target: &BackendPath, suffix: &[u8]) -> Result<BackendPath, SftpError> {
    let stem: Vec<u8> =
        target.file_name().unwrap_or_default().iter().take(MAX_NAME - tail_length(suffix)).copied().collect();
    let random = random_digits::<RANDOM>()?;
    Ok(target.sibling(&[b".", stem.as_slice(), b".", random.as_bytes(), suffix].concat()))
}

/// A name that nobody has and nobody can foresee, for STOU: what the client wants it called, and digits.
///
/// # Errors
/// When no random bytes can be had.
pub fn unique(wanted: &[u8]) -> Result<Vec<u8>, SftpError> {
    Ok([wanted, b".", random_digits::<UNIQUE>()?.as_bytes()].concat())
}

fn random_digits<const BYTES: usize>() -> Result<String, SftpError> {
    let mut random = [0_u8; BYTES];
    rand::fill(&mut random).map_err(|_| SftpError::Protocol("no random bytes for a name".to_owned()))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &[u8]) -> BackendPath {
        BackendPath::from_bytes([b"/in/", name].concat())
    }

    #[test]
    fn a_hidden_name_is_known_and_never_too_long() {
        for name in [&b"report.csv"[..], &[b'x'; 255], b"-", b"r\xe4k"] {
            let target = target(name);
            let one = temporary_beside(&target).unwrap();
            let other = temporary_beside(&target).unwrap();
            assert_ne!(one, other);
            assert_eq!(one.parent(), target.parent());
            let aside = aside_of(&target).unwrap();
            for path in [&one, &aside] {
                let name = path.file_name().unwrap();
                assert!(name.len() <= MAX_NAME);
                assert!(is_hidden(name));
            }
            assert!(is_temporary(one.file_name().unwrap()));
            assert!(!is_temporary(aside.file_name().unwrap()));
            let original = original_of_aside(aside.file_name().unwrap()).unwrap();
            assert!(name.starts_with(original));
            assert_eq!(whole_original(original), Some(name).filter(|name| name.len() < 200));
        }
    }

    #[test]
    fn names_of_clients_are_not_taken_for_ours() {
        let digits = "0123456789abcdef0123456789abcdef";
        for name in ["a.f2s-part", ".f2s-part", ".a.f2s-part", ".a.0123.f2s-part", "", ".", "a.part", ".a.f2s-aside"] {
            assert!(!is_hidden(name.as_bytes()), "{name:?}");
        }
        assert!(!is_hidden(format!("..{digits}.f2s-part").as_bytes()));
        assert!(!is_hidden(format!("a.{digits}.f2s-part").as_bytes()));
        assert!(is_hidden(format!(".a.{digits}.f2s-part").as_bytes()));
    }

    #[test]
    fn a_part_has_the_name_of_its_whole() {
        assert_eq!(part_of(&target(b"report.csv")), Some(target(b"report.csv.part")));
        assert_eq!(part_of(&target(&[b'x'; 251])), None);
    }
}
