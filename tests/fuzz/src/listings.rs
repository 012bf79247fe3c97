//! Listings: what LIST and MLSD write of an entry, a client reads back; a hostile name never makes a line of its own.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use ftps2sftp::ftp::facts::{self, EntryKind, FactPermissions, FactSelection};
use ftps2sftp::ftp::list::{Form, Style};
use ftps2sftp::ftp::time::{Zone, compact, parse_compact};
use ftps2sftp::sftp::{Attributes, BackendPath, DirectoryEntry, FileKind};
use ftps2sftp::transfer::listing::{self, LeadsTo, Links};

use super::input::Input;

/// What `ls` calls recent, and the day ahead that clocks may differ by, in seconds.
const RECENT: i64 = 180 * 86_400;
const DAY: i64 = 86_400;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The time, the user's permissions, which facts are wanted; then entries.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let now = i64::from(input.number32());
    let permissions = permissions(input.byte());
    let selection = selection(input.byte());
    let mut entries = Vec::new();
    while !input.is_empty() && entries.len() < 16 {
        let attributes = attributes(&mut input);
        entries.push(DirectoryEntry { name: input.piece().to_vec(), attributes });
    }

    let nowhere = Links::Followed(Arc::new(|_| Box::pin(async { LeadsTo::Nowhere(None) })));
    let form = Form { style: Style::Unix, zone: Zone::UTC };
    let directory = BackendPath::from_bytes("/");
    let text = at_once(listing::lines(directory, entries.clone(), form, nowhere, None, now));
    let shown: Vec<&DirectoryEntry> = entries.iter().filter(|entry| listing::is_shown(&entry.name)).collect();
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), shown.len(), "{}", text.escape_ascii());
    for (line, entry) in lines.into_iter().zip(shown) {
        read_list(line.strip_suffix(b"\r\n").unwrap(), entry, now);
    }

    for entry in &entries {
        let described = listing::describe(&entry.name, &entry.attributes, permissions);
        let mut line = Vec::new();
        facts::line(&described, &selection, &mut line);
        // Also of a name that was never to come here.
        assert!(!line.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')), "{}", line.escape_ascii());
        read_facts(&line, entry, &selection, described.kind);
    }
}

fn permissions(bits: u8) -> FactPermissions {
    let bit = |number: u8| bits >> number & 1 == 1;
    FactPermissions {
        list: bit(0),
        read: bit(1),
        write: bit(2),
        overwrite: bit(3),
        delete: bit(4),
        rename: bit(5),
        mkdir: bit(6),
        chmod: bit(7),
    }
}

/// One bit for each fact; all of them set is the default.
fn selection(bits: u8) -> FactSelection {
    let all = FactSelection::default().accepted();
    let wanted: String = all
        .split_terminator(';')
        .enumerate()
        .filter(|(number, _)| bits >> number & 1 == 0)
        .map(|(_, fact)| format!("{fact};"))
        .collect();
    FactSelection::parse(wanted.as_bytes())
}

/// Which attributes the SFTP server tells, one bit each, and what they are.
fn attributes(input: &mut Input<'_>) -> Attributes {
    let told = input.byte();
    Attributes {
        size: (told & 1 != 0).then(|| input.number()),
        owner: (told & 2 != 0).then(|| (input.number32(), input.number32())),
        permissions: (told & 4 != 0).then(|| input.number32()),
        times: (told & 8 != 0).then(|| (0, input.number32())),
        extended: Vec::new(),
    }
}

/// A client's parser of `-rw-r--r--   1 owner group  size Mon dd HH:MM name`: columns, and one space before the name.
fn read_list(line: &[u8], entry: &DirectoryEntry, now: i64) {
    let DirectoryEntry { name, attributes } = entry;
    let mut columns = Columns(line);
    let mode = columns.next();
    let (kind, usual) = match attributes.kind() {
        Some(FileKind::Directory) => (b'd', 0o755),
        Some(FileKind::Symlink) => (b'l', 0o777),
        Some(FileKind::Special) => (b'p', 0o644),
        Some(FileKind::Regular) | None => (b'-', 0o644),
    };
    assert_eq!((mode.len(), mode[0]), (10, kind));
    assert_eq!(read_mode(&mode[1..]), attributes.permissions.map_or(usual, |bits| bits & 0o7777));
    assert_eq!(columns.next(), b"1");
    let owner = |told: Option<u32>| told.map_or("ftp".to_owned(), |number| number.to_string()).into_bytes();
    assert_eq!(columns.next(), owner(attributes.owner.map(|(owner, _)| owner)));
    assert_eq!(columns.next(), owner(attributes.owner.map(|(_, group)| group)));
    assert_eq!(columns.next(), attributes.size.unwrap_or_default().to_string().into_bytes());
    let (month, day, time_or_year) = (columns.next(), columns.next(), columns.next());
    read_date(month, day, time_or_year, attributes.times.map_or(0, |(_, modified)| i64::from(modified)), now);
    let mut expected: Vec<u8> = name.iter().map(|byte| if byte.is_ascii_control() { b'?' } else { *byte }).collect();
    if kind == b'l' {
        // What it names is not known here.
        expected.extend_from_slice(b" -> ?");
    }
    assert_eq!(columns.0.strip_prefix(b" "), Some(expected.as_slice()), "{}", line.escape_ascii());
}

/// `rwxr-sr-t` and its like as bits.
fn read_mode(letters: &[u8]) -> u32 {
    let mut mode = 0;
    for (group, letters) in letters.chunks(3).enumerate() {
        let special = 0o4000 >> group;
        let shift = 6 - 3 * group;
        assert!(matches!(letters[0], b'r' | b'-') && matches!(letters[1], b'w' | b'-'));
        let (execute, set) = match letters[2] {
            b'-' => (0, 0),
            b'x' => (1, 0),
            b's' if group < 2 => (1, special),
            b'S' if group < 2 => (0, special),
            b't' if group == 2 => (1, special),
            b'T' if group == 2 => (0, special),
            other => panic!("{} is no letter of a mode", other.escape_ascii()),
        };
        let bits = u32::from(letters[0] == b'r') << 2 | u32::from(letters[1] == b'w') << 1 | execute;
        mode |= bits << shift | set;
    }
    mode
}

/// The date as clients take it: with a time, it is the one day of that name around now; with a year, that day.
fn read_date(month: &[u8], day: &[u8], time_or_year: &[u8], modified: i64, now: i64) {
    let month = 1 + MONTHS.iter().position(|name| name.as_bytes() == month).unwrap();
    let number = |digits: &[u8]| str::from_utf8(digits).unwrap().parse::<i64>().unwrap();
    let day = number(day);
    let recent = (-DAY..=RECENT).contains(&(now - modified));
    if let Some(colon) = time_or_year.iter().position(|byte| *byte == b':') {
        assert!(recent, "an old date without its year");
        let this_year = number(&compact(now).into_bytes()[..4]);
        let (hour, minute) = (number(&time_or_year[..colon]), number(&time_or_year[colon + 1..]));
        let in_year = format!("{month:02}{day:02}{hour:02}{minute:02}00");
        let candidates = (this_year - 1..=this_year + 1)
            .filter_map(|year| parse_compact(format!("{year:04}{in_year}").as_bytes()))
            .filter(|moment| (now - RECENT - 60..=now + DAY).contains(moment));
        assert_eq!(candidates.collect::<Vec<_>>(), [modified - modified.rem_euclid(60)]);
    } else {
        assert!(!recent, "a recent date without its time");
        let date = format!("{:04}{month:02}{day:02}000000", number(time_or_year));
        assert_eq!(parse_compact(date.as_bytes()), Some(modified - modified.rem_euclid(DAY)));
    }
}

/// A client's parser of `fact=value;fact=value; name` (RFC 3659 §7.2).
fn read_facts(line: &[u8], entry: &DirectoryEntry, selection: &FactSelection, kind: EntryKind) {
    let DirectoryEntry { name, attributes } = entry;
    let space = line.iter().position(|byte| *byte == b' ').unwrap();
    let (told, shown) = (str::from_utf8(&line[..space]).unwrap(), &line[space + 1..]);
    let expected: Vec<u8> =
        name.iter().map(|byte| if matches!(byte, 0 | b'\r' | b'\n') { b'?' } else { *byte }).collect();
    assert_eq!(shown, expected);
    let selected = selection.accepted();
    let mut wanted = selected.split_terminator(';');
    for fact in told.split_terminator(';') {
        let (fact, value) = fact.split_once('=').unwrap();
        // In the order of the selection, those left out that are not known.
        assert!(wanted.any(|name| name == fact), "{fact} was not asked for, or not there");
        let number = || value.parse::<u64>().unwrap();
        match fact {
            "type" => assert_eq!(
                value,
                match kind {
                    EntryKind::File => "file",
                    EntryKind::Directory => "dir",
                    EntryKind::Symlink => "OS.unix=slink:",
                    EntryKind::Other => "OS.unix=special",
                }
            ),
            "size" => assert_eq!((Some(number()), kind), (attributes.size, EntryKind::File)),
            "modify" => assert_eq!(parse_compact(value.as_bytes()), attributes.times.map(|(_, time)| i64::from(time))),
            "perm" => assert!(!value.is_empty() && value.bytes().all(|letter| b"acdeflmprw".contains(&letter))),
            "UNIX.mode" => {
                assert_eq!(u32::from_str_radix(value, 8).ok(), attributes.permissions.map(|mode| mode & 0o7777));
            }
            "UNIX.owner" => assert_eq!(Some(number()), attributes.owner.map(|(owner, _)| u64::from(owner))),
            "UNIX.group" => assert_eq!(Some(number()), attributes.owner.map(|(_, group)| u64::from(group))),
            other => panic!("{other} is no fact of ours"),
        }
    }
}

/// Words with any number of spaces in front.
struct Columns<'a>(&'a [u8]);

impl<'a> Columns<'a> {
    fn next(&mut self) -> &'a [u8] {
        let start = self.0.iter().take_while(|byte| **byte == b' ').count();
        let word = self.0[start..].iter().take_while(|byte| **byte != b' ').count();
        let (column, rest) = self.0[start..].split_at(word);
        self.0 = rest;
        column
    }
}

/// Nothing here waits.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a listing of known entries waits"),
    }
}
