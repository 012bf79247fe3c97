//! One entry as LIST shows it. RFC 959 leaves the form open, and clients choose their parser by the words of SYST: the
//! form of `ls -l`, which every client knows, or that of DOS, which is all that some know.

use std::io::Write;

use super::facts::{Entry, EntryKind};
use super::time::{self, Timestamp, Zone};

/// Shown for an owner or group that is not known.
const NOBODY: &str = "ftp";

/// Shown for what a link names where the client may not know it.
const UNTOLD: &[u8] = b"?";

/// `list_style`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `-rw-r--r--   1 1000 100  1024 Nov 22 17:41 name`
    Unix,
    /// `11-22-26  05:41PM                 1024 name`
    Dos,
}

impl Style {
    /// What SYST says (RFC 959 §4.1.3).
    pub fn system(self) -> &'static str {
        match self {
            Self::Unix => "UNIX Type: L8",
            Self::Dos => "Windows_NT",
        }
    }
}

/// How LIST shows entries.
#[derive(Debug, Clone, PartialEq)]
pub struct Form {
    /// The form of a line.
    pub style: Style,
    /// The time zone of its dates.
    pub zone: Zone,
}

/// Appends one line, without its end.
///
/// Exactly one space stands before the name, so that leading spaces of a name stay its own. A link always has its
/// ` -> ` as `ls -l` has it: curl and aioftp give up the whole listing where one has not. SECURITY: control characters
/// in names become `?`.
pub fn line(entry: &Entry<'_>, form: &Form, now: Timestamp, output: &mut Vec<u8>) {
    match form.style {
        Style::Unix => append_columns(entry, &form.zone, now, output),
        Style::Dos => append_columns_of_dos(entry, &form.zone, output),
    }
    output.push(b' ');
    append_name(entry.name, output);
    if entry.kind == EntryKind::Symlink && form.style == Style::Unix {
        output.extend_from_slice(b" -> ");
        append_name(entry.target.unwrap_or(UNTOLD), output);
    }
}

fn append_name(name: &[u8], output: &mut Vec<u8>) {
    output.extend(name.iter().map(|byte| if byte.is_ascii_control() { b'?' } else { *byte }));
}

fn append_columns_of_dos(entry: &Entry<'_>, zone: &Zone, output: &mut Vec<u8>) {
    let date = time::dos_date(entry.modified.unwrap_or_default(), zone);
    // Writing to a Vec does not fail.
    let _ = match entry.kind {
        EntryKind::Directory => write!(output, "{date}       <DIR>         "),
        // DOS has no word for anything else.
        EntryKind::File | EntryKind::Symlink | EntryKind::Other => {
            write!(output, "{date} {:>20}", entry.size.unwrap_or_default())
        }
    };
}

fn append_columns(entry: &Entry<'_>, zone: &Zone, now: Timestamp, output: &mut Vec<u8>) {
    append_mode(entry, output);
    output.extend_from_slice(b"   1 ");
    append_number_or(entry.owner, NOBODY, output);
    output.push(b' ');
    append_number_or(entry.group, NOBODY, output);
    let date = time::list_date(entry.modified.unwrap_or_default(), now, zone);
    // Writing to a Vec does not fail.
    let _ = write!(output, "  {} {date}", entry.size.unwrap_or_default());
}

/// May an entry of this name be shown at all?
///
/// SECURITY: a backend can name its files as it likes. CR and LF would make lines of their own, a name with `/` or NUL
/// cannot be what it says, and `.` and `..` are not entries to a client that mirrors.
pub fn is_listable(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, b'/' | b'\0' | b'\r' | b'\n'))
}

/// The first ten columns.
fn append_mode(entry: &Entry<'_>, output: &mut Vec<u8>) {
    let (letter, usual_mode) = match entry.kind {
        EntryKind::File => (b'-', 0o644),
        EntryKind::Directory => (b'd', 0o755),
        EntryKind::Symlink => (b'l', 0o777),
        // A pipe: the one special file that every parser accepts with a size in place of device numbers.
        EntryKind::Other => (b'p', 0o644),
    };
    let mode = entry.mode.unwrap_or(usual_mode);
    let set = |bit: u32| mode & bit != 0;
    output.push(letter);
    // Read, write, execute; then the bit that changes the last letter, and into which.
    for (read, write, execute, special, both, alone) in [
        (0o400, 0o200, 0o100, 0o4000, b's', b'S'),
        (0o040, 0o020, 0o010, 0o2000, b's', b'S'),
        (0o004, 0o002, 0o001, 0o1000, b't', b'T'),
    ] {
        output.push(if set(read) { b'r' } else { b'-' });
        output.push(if set(write) { b'w' } else { b'-' });
        output.push(match (set(special), set(execute)) {
            (true, true) => both,
            (true, false) => alone,
            (false, true) => b'x',
            (false, false) => b'-',
        });
    }
}

fn append_number_or(number: Option<u32>, otherwise: &str, output: &mut Vec<u8>) {
    // Writing to a Vec does not fail.
    let _ = match number {
        Some(number) => write!(output, "{number}"),
        None => write!(output, "{otherwise}"),
    };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::facts::FactPermissions;
    use super::super::facts::tests::{file, kind};
    use super::*;

    /// 2026-11-22T17:41:00Z
    const NOW: i64 = 1_795_369_260;

    const UNIX: Form = Form { style: Style::Unix, zone: Zone::UTC };

    fn shown(entry: &Entry<'_>) -> String {
        let mut output = Vec::new();
        line(entry, &UNIX, NOW, &mut output);
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn the_form_of_ls() {
        assert_eq!(shown(&file(b"name")), "-rw-r--r--   1 1000 100  1024 Nov 22 17:41 name");
        let bare = Entry { size: None, modified: None, mode: None, owner: None, group: None, ..file(b" a ") };
        assert_eq!(shown(&bare), "-rw-r--r--   1 ftp ftp  0 Jan  1  1970  a ");
        let kinds = [EntryKind::Directory, EntryKind::Symlink, EntryKind::Other];
        let modes = kinds.map(|kind| shown(&Entry { kind, mode: None, ..file(b"x") })[..10].to_owned());
        assert_eq!(modes, ["drwxr-xr-x", "lrwxrwxrwx", "prw-r--r--"]);
    }

    #[test]
    fn a_link_names_something() {
        let link = Entry { kind: EntryKind::Symlink, ..file(b"link") };
        assert!(shown(&Entry { target: Some(b"to \x1bbe"), ..link }).ends_with(" link -> to ?be"));
        assert!(shown(&link).ends_with(" link -> ?"));
        assert!(shown(&Entry { target: Some(b"no link"), ..file(b"file") }).ends_with(" file"));
    }

    #[test]
    fn the_form_of_dos() {
        let shown = |entry: &Entry<'_>| {
            let mut output = Vec::new();
            line(entry, &Form { style: Style::Dos, ..UNIX }, NOW, &mut output);
            String::from_utf8(output).unwrap()
        };
        assert_eq!(shown(&file(b"name")), "11-22-26  05:41PM                 1024 name");
        let directory = Entry { kind: EntryKind::Directory, ..file(b"some name") };
        assert_eq!(shown(&directory), "11-22-26  05:41PM       <DIR>          some name");
    }

    #[test]
    fn modes_are_spelled_as_ls_does() {
        for (mode, letters) in [
            (0o0000, "---------"),
            (0o0777, "rwxrwxrwx"),
            (0o0421, "r---w---x"),
            (0o7777, "rwsrwsrwt"),
            (0o7000, "--S--S--T"),
            (0o10_4755, "rwsr-xr-x"),
        ] {
            assert_eq!(shown(&Entry { mode: Some(mode), ..file(b"x") })[1..10], *letters);
        }
    }

    #[test]
    fn a_hostile_name_adds_no_line() {
        let text = shown(&file(b"x\r\n226 OK\0\x1b\x7f\t"));
        assert!(text.ends_with(" x??226 OK????"), "{text}");
    }

    #[test]
    fn names_that_are_not_entries_are_not_listable() {
        for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0", b"a\rb", b"a\n"] {
            assert!(!is_listable(name), "{}", name.escape_ascii());
        }
        for name in [&b"..."[..], b".hidden", b" ", b"\xE4", b"a\x1b", b"-x"] {
            assert!(is_listable(name), "{}", name.escape_ascii());
        }
    }

    /// A line taken apart at its columns, as a client does: letters, owner, group, size, date, name.
    fn columns(line: &[u8]) -> [Vec<u8>; 6] {
        let mut rest = line;
        let mut word = |spaces: usize| {
            assert!(rest[..spaces].iter().all(|byte| *byte == b' ') && rest[spaces] != b' ');
            let end = spaces + rest[spaces..].iter().position(|byte| *byte == b' ').unwrap();
            let word = rest[spaces..end].to_vec();
            rest = &rest[end..];
            word
        };
        let (letters, links, owner, group, size) = (word(0), word(3), word(1), word(1), word(2));
        assert_eq!(links, b"1");
        assert_eq!((rest[0], rest[13]), (b' ', b' '));
        [letters, owner, group, size, rest[1..13].to_vec(), rest[14..].to_vec()]
    }

    proptest! {
        #[test]
        fn lines_are_read_back(
            name in any::<Vec<u8>>(),
            kind in kind(),
            size in any::<Option<u64>>(),
            modified in any::<Option<i64>>(),
            mode in any::<Option<u32>>(),
            owner in any::<Option<u32>>(),
            group in any::<Option<u32>>(),
            now in any::<i64>(),
        ) {
            let permissions = FactPermissions::default();
            let mut output = Vec::new();
            let entry = Entry { name: &name, kind, target: None, size, modified, mode, owner, group, permissions };
            line(&entry, &UNIX, now, &mut output);
            prop_assert!(!output.iter().any(u8::is_ascii_control));
            let [letters, owner_shown, group_shown, size_shown, date, name_shown] = columns(&output);
            let text = |number: Option<u32>| number.map_or(NOBODY.into(), |number| number.to_string()).into_bytes();
            prop_assert_eq!(letters.len(), 10);
            prop_assert_eq!((owner_shown, group_shown), (text(owner), text(group)));
            prop_assert_eq!(size_shown, size.unwrap_or(0).to_string().into_bytes());
            prop_assert_eq!(date, time::list_date(modified.unwrap_or(0), now, &Zone::UTC).into_bytes());
            let name_shown = match kind {
                EntryKind::Symlink => name_shown.strip_suffix(b" -> ?").unwrap(),
                _ => &*name_shown,
            };
            prop_assert_eq!(name_shown.len(), name.len());
            prop_assert!(name_shown.iter().zip(&name).all(|(a, b)| a == b || (*a == b'?' && b.is_ascii_control())));
            if let Some(mode) = mode {
                let bits = letters[1..].iter().enumerate().map(|(at, letter)| {
                    u32::from(!matches!(letter, b'-' | b'S' | b'T')) << (8 - at)
                });
                prop_assert_eq!(bits.sum::<u32>(), mode & 0o777);
            }
        }
    }
}
