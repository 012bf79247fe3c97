//! Paths: nothing a client says leads above its root, and what the gateway makes of it means the same everywhere.

use std::sync::OnceLock;

use ftps2sftp::config::{Config, load_text};
use ftps2sftp::ftp::path::{MAX_PATH, MAX_SEGMENT, PathError, VirtualPath, quoted};
use ftps2sftp::ftp::reply::Reply;
use ftps2sftp::identity::root::Root;

use super::input::unfold;

/// A working directory, a line end, a pathname.
pub fn run(bytes: &[u8]) {
    let text = unfold(bytes, 2 * MAX_PATH);
    let (directory, pathname) = match text.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&text[..end], &text[end + 1..]),
        None => (&b"/"[..], text.as_slice()),
    };
    let directory = VirtualPath::root().resolve(directory).unwrap_or_else(|_| VirtualPath::root());
    check(&directory);

    let resolved = directory.resolve(pathname);
    assert_eq!(resolved.as_ref().map(VirtualPath::as_bytes), reference(&directory, pathname).as_deref());
    let Ok(path) = resolved else { return };
    check(&path);
    assert_eq!(directory.resolve(path.as_bytes()).as_ref(), Ok(&path), "it is not idempotent");
    assert_eq!(path.resolve(b".").as_ref(), Ok(&path));
    assert_eq!(path.resolve(b"..").as_ref(), Ok(&path.parent()));
    if let Some(name) = path.file_name() {
        assert_eq!(path.parent().join(name).as_ref(), Ok(&path));
    }
    told(&path);
    located(&path);
}

/// What every [`VirtualPath`] is.
fn check(path: &VirtualPath) {
    let bytes = path.as_bytes();
    assert!(bytes.len() <= MAX_PATH && bytes.first() == Some(&b'/'), "{path:?}");
    assert!(!bytes.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')), "{path:?}");
    for segment in path.segments() {
        assert!(!matches!(segment, b"" | b"." | b"..") && segment.len() <= MAX_SEGMENT, "{path:?}");
    }
    let rebuilt: Vec<u8> = path.segments().flat_map(|segment| [b"/", segment].concat()).collect();
    assert!(rebuilt == bytes || path.is_root(), "{path:?} is not normal");
    assert!(path.starts_with(&path.parent()) && path.starts_with(&VirtualPath::root()));
}

/// The same by a list of names.
fn reference(directory: &VirtualPath, pathname: &[u8]) -> Result<Vec<u8>, PathError> {
    match pathname {
        [] => return Err(PathError::Empty),
        _ if pathname.iter().any(|byte| b"\0\r\n".contains(byte)) => return Err(PathError::ControlCharacter),
        _ if pathname.len() > MAX_PATH => return Err(PathError::TooLong),
        _ => {}
    }
    let mut names: Vec<&[u8]> = if pathname[0] == b'/' { Vec::new() } else { directory.segments().collect() };
    for name in pathname.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name if name.len() > MAX_SEGMENT => return Err(PathError::SegmentTooLong),
            name => names.push(name),
        }
    }
    let path = [b"/", names.join(&b'/').as_slice()].concat();
    if path.len() > MAX_PATH { Err(PathError::TooLong) } else { Ok(path) }
}

/// PWD tells it on one line, and a client reads the same path there.
fn told(path: &VirtualPath) {
    let reply = Reply::new(257, quoted(path.as_bytes())).to_bytes();
    let line = reply.strip_suffix(b"\r\n").unwrap();
    assert!(!line.iter().any(|byte| *byte < b' '), "a control character is in a reply");
    let inner = line.strip_prefix(b"257 \"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap();
    let mut read = Vec::new();
    let mut rest = inner.iter();
    while let Some(byte) = rest.next() {
        read.push(*byte);
        assert!(*byte != b'"' || rest.next() == Some(&b'"'), "a quote in the path ends it");
    }
    let shown: Vec<u8> = path.as_bytes().iter().map(|byte| if *byte < b' ' { b'?' } else { *byte }).collect();
    assert_eq!(read, shown);
}

/// On the SFTP server it is below the user's root, and is shown as what it was.
fn located(path: &VirtualPath) {
    static USERS: OnceLock<Config> = OnceLock::new();
    let config = USERS.get_or_init(|| {
        let text = "\
tls: {certificates: [{certificate: Cargo.toml, key: Cargo.toml}]}
backends: {warehouse: {address: sftp.internal, host_keys: ['SHA256:uNiVztksCsDhcc0u9e8BrJQXVUpKZIDTMczCvj3tD2s']}}
users:
  all: {backend: warehouse, login: passthrough}
  some: {backend: warehouse, login: passthrough, root: /srv/some}
";
        let loaded = load_text(text, super::configuration::folder());
        loaded.config.unwrap_or_else(|| panic!("{:?}", loaded.problems))
    });
    for user in config.users.values() {
        let root = Root::new(user);
        let located = root.locate(path);
        let below = located.as_bytes().strip_prefix(user.root.strip_suffix(b"/").unwrap_or(&user.root)).unwrap();
        assert!(below == path.as_bytes() || (path.is_root() && below.is_empty()), "{located:?} of {path:?}");
        assert_eq!(root.show(&located).as_ref(), Some(path));
    }
}
