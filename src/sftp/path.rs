//! Pathnames as the SFTP server sees them (draft-ietf-secsh-filexfer-02 §6.2): bytes, `/` between segments.

use std::fmt;

/// A pathname as the SFTP server sees it.
///
/// SECURITY: what a client names becomes one only in `identity::Root::locate`, which keeps it under the user's root;
/// the other source is the server's own answer to REALPATH.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BackendPath(Vec<u8>);

impl BackendPath {
    /// Takes the bytes as they are.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes that go on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Another name in the same directory. `name` is one segment.
    pub fn sibling(&self, name: &[u8]) -> Self {
        let directory = self.0.len() - self.file_name().map_or(0, <[u8]>::len);
        let mut path = self.0.get(..directory).unwrap_or_default().to_vec();
        path.extend_from_slice(name);
        Self(path)
    }

    /// A name in this directory. `name` is one segment.
    pub fn join(&self, name: &[u8]) -> Self {
        let mut path = self.0.clone();
        if !path.is_empty() && !path.ends_with(b"/") {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Self(path)
    }

    /// The directory it is in; of `/` and of a single relative segment, the path of that directory itself (`/`, and
    /// the empty path, which SFTP reads as the start directory).
    pub fn parent(&self) -> Self {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(0) => Self(b"/".to_vec()),
            Some(slash) => Self(self.0.get(..slash).unwrap_or_default().to_vec()),
            None => Self(Vec::new()),
        }
    }

    /// Its last segment; `None` of `/`.
    pub fn file_name(&self) -> Option<&[u8]> {
        self.0.rsplit(|byte| *byte == b'/').next().filter(|name| !name.is_empty())
    }
}

impl fmt::Debug for BackendPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "BackendPath(\"{}\")", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_a_path() {
        let path = BackendPath::from_bytes("/home/a/caf\u{e9}".replace('\u{e9}', "e"));
        assert_eq!(path.file_name(), Some(b"cafe".as_slice()));
        assert_eq!(path.parent().as_bytes(), b"/home/a");
        assert_eq!(path.sibling(b".tmp").as_bytes(), b"/home/a/.tmp");
        assert_eq!(path.parent().join(b"x").as_bytes(), b"/home/a/x");
    }

    #[test]
    fn the_root_and_a_relative_name_have_neighbours_too() {
        let root = BackendPath::from_bytes("/");
        assert_eq!((root.file_name(), root.parent().as_bytes()), (None, b"/".as_slice()));
        assert_eq!(root.join(b"a").as_bytes(), b"/a");
        assert_eq!(BackendPath::from_bytes("/a").parent(), root);
        let relative = BackendPath::from_bytes("a");
        assert_eq!(
            (relative.parent().as_bytes(), relative.sibling(b"b").as_bytes()),
            (b"".as_slice(), b"b".as_slice())
        );
    }

    #[test]
    fn debug_shows_any_bytes_as_ascii() {
        assert_eq!(format!("{:?}", BackendPath::from_bytes(*b"/caf\xe9\n")), "BackendPath(\"/caf\\xe9\\n\")");
    }
}
