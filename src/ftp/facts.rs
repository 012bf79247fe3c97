//! One entry as MLSD and MLST show it, and which facts of it a client wants (RFC 3659 §7).

use std::io::Write;

use super::time;

/// What is known of one directory entry.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Its name; for MLST its whole path.
    pub name: &'a [u8],
    /// What it is.
    pub kind: EntryKind,
    /// What a link is known to name, as the client would say it.
    pub target: Option<&'a [u8]>,
    /// Bytes.
    pub size: Option<u64>,
    /// Last modification.
    pub modified: Option<time::Timestamp>,
    /// Permission bits, set-id and sticky bits; what is above the low 12 is ignored.
    pub mode: Option<u32>,
    /// Owner's number.
    pub owner: Option<u32>,
    /// Group's number.
    pub group: Option<u32>,
    /// What the user may do.
    pub permissions: FactPermissions,
}

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link that was not followed.
    Symlink,
    /// A device, a pipe, a socket.
    Other,
}

/// What the user may do, as far as `perm=` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FactPermissions {
    /// List directories.
    pub list: bool,
    /// Read files.
    pub read: bool,
    /// Make files.
    pub write: bool,
    /// Change what is in files that exist.
    pub overwrite: bool,
    /// Delete files and directories.
    pub delete: bool,
    /// Rename.
    pub rename: bool,
    /// Make directories.
    pub mkdir: bool,
    /// Change modes. No letter of `perm=` speaks of it.
    pub chmod: bool,
}

/// Which facts a client wants. All of them until `OPTS MLST` says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FactSelection([bool; FACTS.len()]);

/// A fact we can tell. There is no `unique`: SFTP v3 has no inode number, and a hash of the path would call the two
/// names of one file different files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fact {
    Type,
    Size,
    Modify,
    Perm,
    UnixMode,
    UnixOwner,
    UnixGroup,
}

/// Every fact, in the order in which they are told.
const FACTS: [Fact; 7] =
    [Fact::Type, Fact::Size, Fact::Modify, Fact::Perm, Fact::UnixMode, Fact::UnixOwner, Fact::UnixGroup];

/// Appends `fact=value;fact=value; name`, without line end.
///
/// What is not known of the entry is left out. SECURITY: CR, LF and NUL in the name, which a caller should have
/// dropped ([`list::is_listable`](super::list::is_listable)), become `?`; other bytes stay, so that every name can be
/// sent back.
pub fn line(entry: &Entry<'_>, selection: &FactSelection, output: &mut Vec<u8>) {
    for fact in selection.facts() {
        let before = output.len();
        output.extend_from_slice(fact.name().as_bytes());
        output.push(b'=');
        let value = output.len();
        fact.append_value(entry, output);
        if output.len() == value {
            output.truncate(before);
        } else {
            output.push(b';');
        }
    }
    output.push(b' ');
    output.extend(entry.name.iter().map(|byte| if matches!(byte, b'\r' | b'\n' | b'\0') { b'?' } else { *byte }));
}

impl FactSelection {
    /// What `OPTS MLST` asks for: `type;size;`. Facts that we do not have are ignored, and none is a selection too
    /// (RFC 3659 §7.9).
    pub fn parse(argument: &[u8]) -> Self {
        Self(FACTS.map(|fact| {
            argument.split(|byte| *byte == b';').any(|name| name.eq_ignore_ascii_case(fact.name().as_bytes()))
        }))
    }

    /// FEAT's list: every fact, with a star at those selected.
    pub fn feature(&self) -> String {
        let star = |selected: bool| if selected { "*" } else { "" };
        FACTS.iter().zip(self.0).map(|(fact, selected)| format!("{}{};", fact.name(), star(selected))).collect()
    }

    /// The list that answers `OPTS MLST`: the facts selected.
    pub fn accepted(&self) -> String {
        self.facts().map(|fact| format!("{};", fact.name())).collect()
    }

    fn facts(&self) -> impl Iterator<Item = Fact> {
        FACTS.into_iter().zip(self.0).filter_map(|(fact, selected)| selected.then_some(fact))
    }
}

impl Default for FactSelection {
    fn default() -> Self {
        Self([true; FACTS.len()])
    }
}

impl Fact {
    fn name(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Size => "size",
            Self::Modify => "modify",
            Self::Perm => "perm",
            Self::UnixMode => "UNIX.mode",
            Self::UnixOwner => "UNIX.owner",
            Self::UnixGroup => "UNIX.group",
        }
    }

    /// Appends nothing when the entry does not have this fact.
    fn append_value(self, entry: &Entry<'_>, output: &mut Vec<u8>) {
        match self {
            Self::Type => output.extend_from_slice(type_of(entry.kind).as_bytes()),
            Self::Size => append_number(entry.size.filter(|_| entry.kind == EntryKind::File), output),
            Self::Modify => {
                let moment = entry.modified.map(time::compact).unwrap_or_default();
                output.extend_from_slice(moment.as_bytes());
            }
            Self::Perm => append_perm(entry, output),
            Self::UnixMode => {
                let mode = entry.mode.map(|mode| format!("{:04o}", mode & 0o7777)).unwrap_or_default();
                output.extend_from_slice(mode.as_bytes());
            }
            Self::UnixOwner => append_number(entry.owner.map(u64::from), output),
            Self::UnixGroup => append_number(entry.group.map(u64::from), output),
        }
    }
}

/// RFC 3659 §7.5.1; what is neither file nor directory is `OS.name=type`.
fn type_of(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "file",
        EntryKind::Directory => "dir",
        EntryKind::Symlink => "OS.unix=slink:",
        EntryKind::Other => "OS.unix=special",
    }
}

/// RFC 3659 §7.5.5, the letters in the order of the alphabet. None at all is not the empty value but no fact.
fn append_perm(entry: &Entry<'_>, output: &mut Vec<u8>) {
    let FactPermissions { list, read, write, overwrite, delete, rename, mkdir, chmod: _ } = entry.permissions;
    let letters: &[(u8, bool)] = match entry.kind {
        EntryKind::File => {
            &[(b'a', write && overwrite), (b'd', delete), (b'f', rename), (b'r', read), (b'w', write && overwrite)]
        }
        EntryKind::Directory => {
            &[(b'c', write), (b'd', delete), (b'e', true), (b'f', rename), (b'l', list), (b'm', mkdir), (b'p', delete)]
        }
        EntryKind::Symlink | EntryKind::Other => &[(b'd', delete), (b'f', rename)],
    };
    output.extend(letters.iter().filter(|(_, allowed)| *allowed).map(|(letter, _)| *letter));
}

fn append_number(number: Option<u64>, output: &mut Vec<u8>) {
    if let Some(number) = number {
        // Writing to a Vec does not fail.
        let _ = write!(output, "{number}");
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const EVERYTHING: FactPermissions = FactPermissions {
        list: true,
        read: true,
        write: true,
        overwrite: true,
        delete: true,
        rename: true,
        mkdir: true,
        chmod: true,
    };

    pub(in crate::ftp) fn file(name: &[u8]) -> Entry<'_> {
        Entry {
            name,
            kind: EntryKind::File,
            target: None,
            size: Some(1024),
            modified: Some(1_795_369_260),
            mode: Some(0o100_644),
            owner: Some(1000),
            group: Some(100),
            permissions: EVERYTHING,
        }
    }

    pub(in crate::ftp) fn kind() -> impl Strategy<Value = EntryKind> {
        prop_oneof![Just(EntryKind::File), Just(EntryKind::Directory), Just(EntryKind::Symlink), Just(EntryKind::Other)]
    }

    fn shown(entry: &Entry<'_>, selection: &FactSelection) -> String {
        let mut output = Vec::new();
        line(entry, selection, &mut output);
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn a_file_and_a_directory() {
        let all = FactSelection::default();
        assert_eq!(
            shown(&file(b"a b"), &all),
            "type=file;size=1024;modify=20261122174100;perm=adfrw;UNIX.mode=0644;UNIX.owner=1000;UNIX.group=100; a b"
        );
        let directory = Entry { kind: EntryKind::Directory, mode: Some(0o1777), ..file(b"d") };
        assert_eq!(
            shown(&directory, &all),
            "type=dir;modify=20261122174100;perm=cdeflmp;UNIX.mode=1777;UNIX.owner=1000;UNIX.group=100; d"
        );
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let bare = Entry {
            size: None,
            modified: None,
            mode: None,
            owner: None,
            group: None,
            permissions: FactPermissions::default(),
            ..file(b"x")
        };
        assert_eq!(shown(&bare, &FactSelection::default()), "type=file; x");
        assert_eq!(shown(&file(b"x"), &FactSelection::parse(b"")), " x");
    }

    #[test]
    fn perm_tells_what_the_user_may_do() {
        let perm = FactSelection::parse(b"perm");
        let read_only = FactPermissions { list: true, read: true, ..FactPermissions::default() };
        let file = Entry { permissions: read_only, ..file(b"x") };
        assert_eq!(shown(&file, &perm), "perm=r; x");
        assert_eq!(shown(&Entry { kind: EntryKind::Directory, ..file }, &perm), "perm=el; x");
        assert_eq!(shown(&Entry { kind: EntryKind::Symlink, permissions: EVERYTHING, ..file }, &perm), "perm=df; x");
        let no_overwrite = FactPermissions { overwrite: false, ..EVERYTHING };
        assert_eq!(shown(&Entry { permissions: no_overwrite, ..file }, &perm), "perm=dfr; x");
    }

    #[test]
    fn selections_are_parsed_and_told() {
        let all = FactSelection::default();
        assert_eq!(all.feature(), "type*;size*;modify*;perm*;UNIX.mode*;UNIX.owner*;UNIX.group*;");
        let some = FactSelection::parse(b"SIZE;unknown;Type;unix.MODE");
        assert_eq!(some.accepted(), "type;size;UNIX.mode;");
        assert_eq!(some.feature(), "type*;size*;modify;perm;UNIX.mode*;UNIX.owner;UNIX.group;");
        assert_eq!(FactSelection::parse(b"").accepted(), "");
        assert_eq!(FactSelection::parse(all.accepted().as_bytes()), all);
    }

    #[test]
    fn a_hostile_name_adds_no_line() {
        let selection = FactSelection::parse(b"type;");
        assert_eq!(shown(&file(b"x\r\n226 OK\0\x1b"), &selection), "type=file; x??226 OK?\x1b");
    }

    proptest! {
        #[test]
        fn lines_are_read_back(
            name in proptest::collection::vec(any::<u8>().prop_filter("listable", |b| !matches!(b, 0 | 10 | 13)), 1..40),
            kind in kind(),
            size in any::<Option<u64>>(),
            modified in proptest::option::of(0i64..=u32::MAX.into()),
            mode in any::<Option<u32>>(),
            owner in any::<Option<u32>>(),
            group in any::<Option<u32>>(),
            flags in any::<[bool; 8]>(),
            wanted in any::<[bool; FACTS.len()]>(),
        ) {
            let [list, read, write, overwrite, delete, rename, mkdir, chmod] = flags;
            let permissions = FactPermissions { list, read, write, overwrite, delete, rename, mkdir, chmod };
            let entry = Entry { name: &name, kind, target: None, size, modified, mode, owner, group, permissions };
            let mut output = Vec::new();
            line(&entry, &FactSelection(wanted), &mut output);
            prop_assert!(!output.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')));

            let space = output.iter().position(|byte| *byte == b' ').unwrap();
            prop_assert_eq!(&output[space + 1..], &name[..]);
            let facts = std::str::from_utf8(&output[..space]).unwrap();
            prop_assert!(facts.is_empty() || facts.ends_with(';'));
            let facts: HashMap<&str, &str> = facts.split_terminator(';').map(|fact| fact.split_once('=').unwrap()).collect();
            let number = |name: &str, base| facts.get(name).map(|text| u64::from_str_radix(text, base).unwrap());
            prop_assert_eq!(facts.contains_key("type"), wanted[0]);
            prop_assert_eq!(number("size", 10), size.filter(|_| wanted[1] && kind == EntryKind::File));
            let moment = facts.get("modify").map(|text| time::parse_compact(text.as_bytes()).unwrap());
            prop_assert_eq!(moment, modified.filter(|_| wanted[2]));
            prop_assert!(facts.get("perm").is_none_or(|letters| letters.bytes().is_sorted() && !letters.is_empty()));
            prop_assert_eq!(number("UNIX.mode", 8), mode.filter(|_| wanted[4]).map(|mode| u64::from(mode & 0o7777)));
            prop_assert_eq!(number("UNIX.owner", 10), owner.filter(|_| wanted[5]).map(u64::from));
            prop_assert_eq!(number("UNIX.group", 10), group.filter(|_| wanted[6]).map(u64::from));
        }

        #[test]
        fn any_selection_round_trips(argument in any::<Vec<u8>>(), wanted in any::<[bool; FACTS.len()]>()) {
            let selection = FactSelection(wanted);
            prop_assert_eq!(FactSelection::parse(selection.accepted().as_bytes()), selection);
            let parsed = FactSelection::parse(&argument);
            prop_assert_eq!(FactSelection::parse(parsed.accepted().as_bytes()), parsed);
        }
    }
}
