//! Charsets: a name that is text is found again from what a client is shown of it, and no bytes become a separator.

use ftps2sftp::ftp::charset::{Charset, Named};

use super::input::Input;

const LABELS: [&str; 12] = [
    "latin1",
    "cp1252",
    "cp437",
    "cp850",
    "iso-8859-15",
    "windows-1251",
    "koi8-r",
    "shift_jis",
    "gbk",
    "gb18030",
    "big5",
    "euc-kr",
];

/// Which charset, and a name or what a client sends.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let label = LABELS[usize::from(input.byte()) % LABELS.len()];
    let Some(Named::Other(charset)) = Named::find(label) else { panic!("{label} is known") };
    let name = input.rest();
    let shown = charset.shown(name);
    if str::from_utf8(name).is_ok() {
        assert_eq!(*charset.name(&shown), *name, "{label}: {}", name.escape_ascii());
    }
    assert_eq!(specials(&shown), specials(name), "{label}: {}", name.escape_ascii());
    assert_eq!(specials(&charset.name(name)), specials(name), "{label}: {}", name.escape_ascii());
    by_segments(charset, name);
}

/// A path is shown name by name.
fn by_segments(charset: Charset, path: &[u8]) {
    let names: Vec<_> = path.split(|byte| *byte == b'/').map(|name| charset.shown(name)).collect();
    assert_eq!(*charset.shown_path(path), names.join(&b'/'));
}

/// How often each byte occurs that means something to FTP.
fn specials(bytes: &[u8]) -> [usize; 4] {
    [b'/', b'\r', b'\n', 0].map(|special| bytes.iter().filter(|byte| **byte == special).count())
}
