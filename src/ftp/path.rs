//! The path a client means: absolute, normalised bytes below its own `/` (RFC 959 pathnames, RFC 3659 §6 TVFS).

use std::fmt;

use thiserror::Error;

/// Longest path, and longest path argument, in bytes: PATH_MAX of the systems we serve.
///
/// OpenSSH's `sftp-server` ends with a fatal error on an SFTP packet above 256 KiB; this keeps far away from that.
pub const MAX_PATH: usize = 4096;

/// Longest name between two slashes, in bytes: NAME_MAX of the systems we serve.
pub const MAX_SEGMENT: usize = 255;

/// A path as a client sees it.
///
/// Begins with `/`; no trailing `/` (but for the root itself); no segment is empty, `.` or `..`; no NUL, CR or LF; at
/// most [`MAX_PATH`] bytes and [`MAX_SEGMENT`] bytes a segment. Otherwise bytes, in no particular encoding: `~` and
/// `\` mean themselves.
///
/// SECURITY: only [`VirtualPath::root`], [`VirtualPath::resolve`], [`VirtualPath::join`] and [`VirtualPath::parent`]
/// make one, so that no `..` outlives this file.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VirtualPath(Vec<u8>);

/// Why bytes are not a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PathError {
    /// There is no path.
    #[error("the path is empty")]
    Empty,
    /// NUL, CR or LF. NUL ends OpenSSH's `sftp-server`, CR and LF would be lines of their own in a listing.
    #[error("the path holds NUL, CR or LF")]
    ControlCharacter,
    /// More than [`MAX_PATH`] bytes.
    #[error("the path is longer than {MAX_PATH} bytes")]
    TooLong,
    /// A name of more than [`MAX_SEGMENT`] bytes.
    #[error("a name in the path is longer than {MAX_SEGMENT} bytes")]
    SegmentTooLong,
    /// Given to [`VirtualPath::join`]: `.`, `..`, or something with a `/` in it.
    #[error("this is not the name of a directory entry")]
    NotAName,
}

impl VirtualPath {
    /// The client's `/`.
    pub fn root() -> Self {
        Self(b"/".to_vec())
    }

    /// The path that `argument` means while `self` is the working directory.
    ///
    /// `.` and `..` are resolved here, by their spelling; `..` at the root stays there.
    ///
    /// # Errors
    ///
    /// When `argument` is empty, holds NUL, CR or LF, or is too long as given or once resolved.
    pub fn resolve(&self, argument: &[u8]) -> Result<Self, PathError> {
        if argument.is_empty() {
            return Err(PathError::Empty);
        }
        if argument.iter().any(|byte| matches!(byte, b'\0' | b'\r' | b'\n')) {
            return Err(PathError::ControlCharacter);
        }
        if argument.len() > MAX_PATH {
            return Err(PathError::TooLong);
        }
        let mut path = if argument.starts_with(b"/") { Self::root() } else { self.clone() };
        for segment in argument.split(|byte| *byte == b'/') {
            match segment {
                b"" | b"." => {}
                b".." => path = path.parent(),
                _ if segment.len() > MAX_SEGMENT => return Err(PathError::SegmentTooLong),
                _ => path.push(segment),
            }
        }
        if path.0.len() > MAX_PATH { Err(PathError::TooLong) } else { Ok(path) }
    }

    /// The entry `name` of this directory.
    ///
    /// # Errors
    ///
    /// When `name` cannot name an entry, or the path becomes too long.
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        if matches!(name, b"." | b"..") || name.contains(&b'/') {
            return Err(PathError::NotAName);
        }
        self.resolve(name)
    }

    /// The directory this is in; of the root, the root.
    pub fn parent(&self) -> Self {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            None | Some(0) => Self::root(),
            Some(slash) => Self(self.0.iter().take(slash).copied().collect()),
        }
    }

    /// The last segment; the root has none.
    pub fn file_name(&self) -> Option<&[u8]> {
        self.0.rsplit(|byte| *byte == b'/').next().filter(|name| !name.is_empty())
    }

    /// The names from the root down.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|segment| !segment.is_empty())
    }

    /// Is this `other`, or something below it?
    pub fn starts_with(&self, other: &Self) -> bool {
        match self.0.strip_prefix(other.0.as_slice()) {
            Some(below) => other.is_root() || below.is_empty() || below.starts_with(b"/"),
            None => false,
        }
    }

    /// Is this `/`?
    pub fn is_root(&self) -> bool {
        self.0 == b"/"
    }

    /// The path itself.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn push(&mut self, segment: &[u8]) {
        if !self.is_root() {
            self.0.push(b'/');
        }
        self.0.extend_from_slice(segment);
    }
}

impl fmt::Debug for VirtualPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "\"{}\"", self.0.escape_ascii())
    }
}

/// `"path"` as reply 257 has it: a quote inside is doubled (RFC 959, appendix II).
pub fn quoted(path: &[u8]) -> Vec<u8> {
    let mut quoted = Vec::with_capacity(path.len() + 2);
    quoted.push(b'"');
    for byte in path {
        if *byte == b'"' {
            quoted.push(b'"');
        }
        quoted.push(*byte);
    }
    quoted.push(b'"');
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(bytes: &[u8]) -> VirtualPath {
        VirtualPath::root().resolve(bytes).unwrap()
    }

    #[test]
    fn relative_arguments_begin_at_the_working_directory() {
        let directory = path(b"/in/box");
        for (argument, expected) in [
            (&b"a"[..], &b"/in/box/a"[..]),
            (b"./a//b/", b"/in/box/a/b"),
            (b"..", b"/in"),
            (b"../../../../etc", b"/etc"),
            (b"/", b"/"),
            (b"//x/./../y", b"/y"),
            (b".", b"/in/box"),
            (b"~", b"/in/box/~"),
            (b"..\\..", b"/in/box/..\\.."),
            (b"....//", b"/in/box/...."),
            (b"%2e%2e/x", b"/in/box/%2e%2e/x"),
            (b"\xC0\xAE\xC0\xAE/x", b"/in/box/\xC0\xAE\xC0\xAE/x"),
            (b" a ", b"/in/box/ a "),
        ] {
            assert_eq!(directory.resolve(argument).unwrap().as_bytes(), expected, "{}", argument.escape_ascii());
        }
    }

    #[test]
    fn refuses_what_is_no_path() {
        let root = VirtualPath::root();
        assert_eq!(root.resolve(b""), Err(PathError::Empty));
        for argument in [&b"a\0b"[..], b"a\rb", b"a\nb", b"\0"] {
            assert_eq!(root.resolve(argument), Err(PathError::ControlCharacter));
        }
        assert!(root.resolve(&[b'x'; MAX_SEGMENT]).is_ok());
        assert_eq!(root.resolve(&[b'x'; MAX_SEGMENT + 1]), Err(PathError::SegmentTooLong));
        assert_eq!(root.resolve(&b"../".repeat(2000)), Err(PathError::TooLong));
        let long = root.resolve(&b"/xx".repeat(MAX_PATH / 3)).unwrap();
        assert_eq!(long.as_bytes().len(), MAX_PATH - 1);
        assert_eq!(long.resolve(b"y"), Err(PathError::TooLong));
        assert!(long.resolve(b"../y").is_ok());
    }

    #[test]
    fn joins_names_only() {
        let directory = path(b"/a");
        assert_eq!(directory.join(b"b").unwrap(), path(b"/a/b"));
        assert_eq!(directory.join(b""), Err(PathError::Empty));
        for name in [&b"."[..], b"..", b"b/c", b"/", b"/etc"] {
            assert_eq!(directory.join(name), Err(PathError::NotAName));
        }
    }

    #[test]
    fn takes_paths_apart() {
        assert_eq!(path(b"/a/b").parent(), path(b"/a"));
        assert_eq!(path(b"/a").parent(), VirtualPath::root());
        assert_eq!(VirtualPath::root().parent(), VirtualPath::root());
        assert_eq!(path(b"/a/b").file_name(), Some(&b"b"[..]));
        assert_eq!(VirtualPath::root().file_name(), None);
        assert_eq!(path(b"/a/b").segments().collect::<Vec<_>>(), [b"a", b"b"]);
        assert_eq!(VirtualPath::root().segments().count(), 0);
    }

    #[test]
    fn a_prefix_ends_at_a_slash() {
        assert!(path(b"/a/b").starts_with(&path(b"/a")));
        assert!(path(b"/a").starts_with(&path(b"/a")));
        assert!(path(b"/a").starts_with(&VirtualPath::root()));
        assert!(!path(b"/ab").starts_with(&path(b"/a")));
        assert!(!path(b"/a").starts_with(&path(b"/a/b")));
    }

    #[test]
    fn doubles_quotes() {
        assert_eq!(quoted(b"/a\"b"), b"\"/a\"\"b\"");
        assert_eq!(quoted(b""), b"\"\"");
    }

    #[test]
    fn debug_is_printable_ascii() {
        assert_eq!(format!("{:?}", path(b"/\xE4\x1b[2J")), "\"/\\xe4\\x1b[2J\"");
    }

    /// Bytes in which slashes and dots are as frequent as they are in an attack.
    fn argument() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            3 => Just(b"/".to_vec()),
            3 => Just(b"..".to_vec()),
            1 => Just(b".".to_vec()),
            2 => proptest::collection::vec(any::<u8>(), 0..6),
            1 => proptest::collection::vec(Just(b'n'), 250..260),
        ];
        proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn what_resolves_is_normalised(directory in argument(), argument in argument()) {
            let directory = VirtualPath::root().resolve(&directory).unwrap_or_else(|_| VirtualPath::root());
            let Ok(path) = directory.resolve(&argument) else { return Ok(()) };
            let bytes = path.as_bytes();
            prop_assert!(bytes.starts_with(b"/") && bytes.len() <= MAX_PATH);
            prop_assert!(!bytes.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')));
            if !path.is_root() {
                for segment in bytes[1..].split(|byte| *byte == b'/') {
                    prop_assert!(!matches!(segment, b"" | b"." | b"..") && segment.len() <= MAX_SEGMENT);
                }
            }
            prop_assert_eq!(VirtualPath::root().resolve(bytes), Ok(path.clone()));
            prop_assert_eq!(directory.resolve(bytes), Ok(path.clone()));
            prop_assert!(path.starts_with(&path.parent()));
            if let Some(name) = path.file_name() {
                prop_assert_eq!(path.parent().join(name), Ok(path.clone()));
            }
        }

        #[test]
        fn resolving_is_walking_segment_by_segment(argument in argument()) {
            let Ok(path) = VirtualPath::root().resolve(&argument) else { return Ok(()) };
            let mut stack: Vec<&[u8]> = Vec::new();
            for segment in argument.split(|byte| *byte == b'/') {
                match segment {
                    b"" | b"." => {}
                    b".." => drop(stack.pop()),
                    name => stack.push(name),
                }
            }
            prop_assert_eq!(path.segments().collect::<Vec<_>>(), stack);
        }
    }
}
