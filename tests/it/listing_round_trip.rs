//! Listings as real clients read them: what a directory holds comes back out of their parsers.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ftps2sftp::ftp::time::compact;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use crate::support::campaign::{random, rounds};
use crate::support::gateway::Gateway;
use crate::support::real_clients::{Tls, desk, lftp_with, listing};
use crate::support::sshd::Sshd;

/// Entries of the directory.
const ENTRIES: usize = 10_000;

/// Seconds.
const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Within so much of the past LIST shows the time of a day, before it a year: a time zone apart from `ls`'s half year.
const RECENT: u64 = 180 * DAY;

/// Longest name of the file system.
const MAX_NAME: usize = 255;

/// Largest size: sparse, and well below what file systems take.
const MAX_SIZE: u64 = 1 << 43;

/// How long a test may take from the moment its times were chosen. No time is chosen so near to where LIST changes its
/// form that it could cross over in between.
const MARGIN: u64 = 30 * MINUTE;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    Link,
}

/// What stands in the directory, as it is to be shown: links are what they lead to.
#[derive(Debug, Clone)]
struct Entry {
    name: Vec<u8>,
    kind: Kind,
    size: u64,
    modified: u64,
}

/// Numbers from one seed.
struct Numbers<I>(I);

impl<I: Iterator<Item = usize>> Numbers<I> {
    fn below(&mut self, bound: usize) -> usize {
        self.0.next().unwrap() % bound
    }

    fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.0.next().unwrap() as u64 % (last - first + 1)
    }
}

fn numbers(seed: u64) -> Numbers<impl Iterator<Item = usize>> {
    Numbers(random(seed, 1 << 62))
}

/// A name of any kind that may be listed.
fn name(numbers: &mut Numbers<impl Iterator<Item = usize>>, number: usize) -> Vec<u8> {
    const WORDS: [&str; 6] = ["report", "Übersicht", "日本語", "e\u{301}", "\u{1f4c4}", "x"];
    const QUOTES: [&str; 5] = ["\"", "'", "`", "\"\"", "\\"];
    const LOOKALIKES: [&str; 8] = [
        "Nov 24 20:21",
        "Jan  1  1970",
        "-rw-r--r--   1 0 0  12 Jan  1  1970",
        "drwxr-xr-x 2 a b 4096 Feb 29 12:00",
        "2026-11-24 20:21",
        "11-24-26  08:21PM <DIR>",
        "type=file;size=1;modify=19700101000000;",
        "total",
    ];
    const TRICKY: [&str; 10] = ["*", "?", "[x]", "{a,b}", "~", "$HOME", ";", "#%20", "&|", "..."];
    let word = WORDS[numbers.below(WORDS.len())];
    let text = match numbers.below(15) {
        0 => format!("{word} {number}.txt"),
        1 => format!("{}{word}{number}", " ".repeat(1 + numbers.below(3))),
        2 => format!("{word}{number}{}", " ".repeat(1 + numbers.below(3))),
        3 => format!("{}{number}{word}", "-".repeat(1 + numbers.below(3))),
        4 => {
            let quote = QUOTES[numbers.below(QUOTES.len())];
            format!("{quote}{word}{number}{quote}")
        }
        5 => format!("{} {number}", LOOKALIKES[numbers.below(LOOKALIKES.len())]),
        6 => format!("{number} {}", LOOKALIKES[numbers.below(LOOKALIKES.len())]),
        7 => format!("{word} -> {number}"),
        8 => format!("{number} ->"),
        9 => format!("{number}   {word}  {word}"),
        10 => format!("{}{number}{word}", TRICKY[numbers.below(TRICKY.len())]),
        11 => format!(".{word}{number}."),
        12 => {
            let length = MAX_NAME - numbers.below(20);
            let mut bytes = format!("{number}{}", word.repeat(MAX_NAME)).into_bytes();
            bytes.truncate(length);
            return bytes;
        }
        // Latin-1, and bytes that are no encoding at all.
        13 => {
            let mut bytes = format!("{number}r").into_bytes();
            bytes.extend((0..=numbers.below(8)).map(|_| 0x80 + u8::try_from(numbers.below(0x80)).unwrap()));
            bytes.extend_from_slice(b"ks");
            return bytes;
        }
        // Whatever may stand in a name, in front of the number.
        _ => {
            let mut bytes: Vec<u8> = (0..=numbers.below(20))
                .map(|_| u8::try_from(numbers.below(256)).unwrap())
                .filter(|byte| !matches!(byte, 0 | b'\r' | b'\n' | b'/'))
                .collect();
            bytes.extend_from_slice(number.to_string().as_bytes());
            return bytes;
        }
    };
    text.into_bytes()
}

/// A time from 1970 to the last one of SFTP version 3, often near to where LIST changes its form.
fn time(numbers: &mut Numbers<impl Iterator<Item = usize>>, now: u64) -> u64 {
    loop {
        let time = match numbers.below(10) {
            0 => numbers.between(0, 2 * DAY),
            1 => numbers.between(0, now),
            2 | 3 => numbers.between(now - RECENT - 3 * HOUR, now - RECENT + 3 * HOUR),
            4 | 5 => numbers.between(now - RECENT, now),
            6 => numbers.between(now - DAY, now + DAY),
            7 => numbers.between(now + DAY - 3 * HOUR, now + DAY + 3 * HOUR),
            8 => numbers.between(now - 2 * 365 * DAY, now + 365 * DAY),
            _ => numbers.between(now, u64::from(u32::MAX)),
        };
        if [now - RECENT, now + DAY].iter().all(|border| border.abs_diff(time) > MARGIN) {
            return time;
        }
    }
}

fn size(numbers: &mut Numbers<impl Iterator<Item = usize>>) -> u64 {
    match numbers.below(8) {
        0 => 0,
        1..=3 => numbers.between(1, 100_000),
        4 => numbers.between((1 << 31) - 2, (1 << 31) + 2),
        5 => numbers.between((1 << 32) - 2, (1 << 32) + 2),
        _ => numbers.between(0, MAX_SIZE),
    }
}

/// Makes the entries, in a directory of the server.
fn plant(directory: &Path, targets: &Path, seed: u64, now: u64) -> Vec<Entry> {
    let mut numbers = numbers(seed);
    let mut entries = Vec::new();
    let mut seen = BTreeSet::new();
    for number in 0..ENTRIES {
        let mut name = name(&mut numbers, number);
        while !seen.insert(name.clone()) {
            name.push(b'_');
        }
        let path = directory.join(OsStr::from_bytes(&name));
        let (size, modified) = (size(&mut numbers), time(&mut numbers, now));
        let kind = match numbers.below(10) {
            0 => {
                fs::create_dir(&path).unwrap();
                Kind::Directory
            }
            // What it leads to is elsewhere, and what is shown.
            1 => {
                let target = targets.join(number.to_string());
                symlink(&target, &path).unwrap();
                if number % 2 == 0 {
                    fs::create_dir(&target).unwrap();
                    Kind::Directory
                } else {
                    File::create(&target).unwrap().set_len(size).unwrap();
                    Kind::File
                }
            }
            _ => {
                File::create(&path).unwrap().set_len(size).unwrap();
                Kind::File
            }
        };
        File::open(&path).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(modified)).unwrap();
        entries.push(Entry { name, kind, size, modified });
    }
    entries
}

/// A parser of a client, and what it makes of a line.
struct Parser {
    client: &'static str,
    command: &'static str,
    /// The entries it found.
    lists: fn(&Gateway, &Path, &str) -> Vec<Seen>,
    /// The name as this parser gives it, with the reason where that is not the name itself; `None` where it finds none.
    name: fn(&[u8]) -> Option<Vec<u8>>,
    /// How it tells a time.
    time: fn(&Entry, u64) -> String,
    /// What it takes a link for that leads nowhere; `None` where it leaves it out.
    broken_link: Option<Kind>,
}

/// Kind, size of a file, time and name.
type Seen = (String, Option<u64>, String, Vec<u8>);

const PARSERS: [Parser; 8] = [
    Parser {
        client: "curl",
        command: "LIST",
        lists: |gateway, desk, directory| program("curl_listing.py", gateway, desk, &[directory]),
        // libcurl takes all spaces before a name for one.
        name: |name| Some(without_leading_spaces(&of_list(name))),
        time: as_written,
        broken_link: Some(Kind::Link),
    },
    Parser {
        client: "lftp",
        command: "LIST",
        lists: |gateway, desk, directory| lftp(gateway, desk, directory, "no"),
        name: |name| Some(as_path_of_lftp(&of_list(name))),
        // lftp takes the middle of the minute or the day.
        time: |entry, now| to_the_day_or_minute(entry, now, "120000", "30"),
        broken_link: Some(Kind::Link),
    },
    Parser {
        client: "lftp",
        command: "MLSD",
        lists: |gateway, desk, directory| lftp(gateway, desk, directory, "yes"),
        name: |name| Some(as_path_of_lftp(name)),
        time: to_the_second,
        broken_link: Some(Kind::Link),
    },
    Parser {
        client: "ftplib",
        command: "MLSD",
        lists: |gateway, desk, directory| program("ftplib_listing.py", gateway, desk, &[directory]),
        name: |name| Some(name.to_vec()),
        time: to_the_second,
        broken_link: Some(Kind::Link),
    },
    Parser {
        client: "aioftp",
        command: "LIST",
        lists: |gateway, desk, directory| program("aioftp_listing.py", gateway, desk, &[directory, "LIST"]),
        // aioftp strips lines and names of what Python takes for white space.
        name: |name| Some(without_trailing_white_space(&without_leading_white_space(&of_list(name)))),
        time: |entry, now| to_the_day_or_minute(entry, now, "000000", "00"),
        // aioftp asks the ending of what is behind ` -> `.
        broken_link: Some(Kind::File),
    },
    Parser {
        client: "aioftp",
        command: "MLSD",
        lists: |gateway, desk, directory| program("aioftp_listing.py", gateway, desk, &[directory, "MLSD"]),
        // aioftp strips the end of a line of what Python takes for white space.
        name: |name| Some(without_trailing_white_space(name)),
        time: to_the_second,
        broken_link: Some(Kind::Link),
    },
    Parser {
        client: "commons-net",
        command: "LIST",
        lists: |gateway, desk, directory| program("CommonsNetListing.java", gateway, desk, &[directory, "LIST"]),
        // A regular expression of commons-net's ends at what Java takes for the end of a line, which in Latin-1 is NEL.
        name: |name| (!name.contains(&0x85)).then(|| of_list(name)),
        time: |entry, now| to_the_day_or_minute(entry, now, "000000", "00"),
        broken_link: Some(Kind::Link),
    },
    Parser {
        client: "commons-net",
        command: "MLSD",
        lists: |gateway, desk, directory| program("CommonsNetListing.java", gateway, desk, &[directory, "MLSD"]),
        name: |name| Some(name.to_vec()),
        time: to_the_second,
        // commons-net leaves out entries of a type that it does not know.
        broken_link: None,
    },
];

/// LIST itself has `?` for control characters.
fn of_list(name: &[u8]) -> Vec<u8> {
    name.iter().map(|byte| if byte.is_ascii_control() { b'?' } else { *byte }).collect()
}

/// lftp prints a name that its shell would take for a home directory as a path.
fn as_path_of_lftp(name: &[u8]) -> Vec<u8> {
    if name.starts_with(b"~") { [b"./", name].concat() } else { name.to_vec() }
}

fn without_leading_spaces(name: &[u8]) -> Vec<u8> {
    name.iter().copied().skip_while(|byte| *byte == b' ').collect()
}

/// `str.isspace` of the characters below 256.
fn is_white_space(byte: &u8) -> bool {
    matches!(byte, 0x09..=0x0d | 0x1c..=0x20 | 0x85 | 0xa0)
}

fn without_leading_white_space(name: &[u8]) -> Vec<u8> {
    name.iter().copied().skip_while(is_white_space).collect()
}

fn without_trailing_white_space(name: &[u8]) -> Vec<u8> {
    let kept = name.iter().rposition(|byte| !is_white_space(byte)).map_or(0, |last| last + 1);
    name[..kept].to_vec()
}

fn utc(entry: &Entry) -> String {
    compact(i64::try_from(entry.modified).unwrap())
}

fn to_the_second(entry: &Entry, _now: u64) -> String {
    utc(entry)
}

fn shows_time_of_day(entry: &Entry, now: u64) -> bool {
    (now - RECENT..=now + DAY).contains(&entry.modified)
}

/// What LIST tells, with what a client puts in place of the time of the day, or of the seconds, that it is not told.
fn to_the_day_or_minute(entry: &Entry, now: u64, no_time: &str, no_seconds: &str) -> String {
    let utc = utc(entry);
    if shows_time_of_day(entry, now) {
        format!("{}{no_seconds}", &utc[..12])
    } else {
        format!("{}{no_time}", &utc[..8])
    }
}

/// The column of `ls -l`.
fn as_written(entry: &Entry, now: u64) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let utc = utc(entry);
    let (month, day) = (MONTHS[utc[4..6].parse::<usize>().unwrap() - 1], utc[6..8].parse::<u8>().unwrap());
    let last = if shows_time_of_day(entry, now) {
        format!("{}:{}", &utc[8..10], &utc[10..12])
    } else {
        format!(" {}", &utc[..4])
    };
    format!("{month} {day:>2} {last}").replace(' ', "_")
}

/// The lines of a program below `clients/`: kind, size, time, and the name in hexadecimal digits.
fn program(name: &str, gateway: &Gateway, desk: &Path, words: &[&str]) -> Vec<Seen> {
    let lines = listing(name, gateway, desk, words).succeeded();
    lines
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let [kind, size, time, name] = *words.as_slice() else { panic!("{line:?}") };
            let digits = |at: usize| u8::from_str_radix(&name[at..at + 2], 16).unwrap();
            let name = (0..name.len()).step_by(2).map(digits).collect();
            (kind.to_owned(), (kind == "file").then(|| size.parse().unwrap()), time.to_owned(), name)
        })
        .collect()
}

/// `cls`, told that names are Latin-1, so that each byte is a character to it.
fn lftp(gateway: &Gateway, desk: &Path, directory: &str, mlsd: &str) -> Vec<Seen> {
    let script = format!(
        "set ftp:use-mlsd {mlsd}; set ftp:use-mdtm no; set ftp:use-utf8 no; set ftp:charset iso-8859-1; set file:charset utf-8; \
         cd {directory}; cls -1 --perms --size --filesize --block-size=1 --date --time-style=%Y%m%d%H%M%S"
    );
    let lines = lftp_with(Tls::Explicit, gateway, desk, &script).succeeded();
    lines
        .split_terminator('\n')
        .map(|line| {
            let (mode, rest) = line.split_at(10);
            let word = |rest: &'_ str| {
                let (word, rest) = rest.trim_start_matches(' ').split_once(' ').unwrap();
                (word.to_owned(), rest.to_owned())
            };
            // MLSD has no size for what is no file.
            let (first, behind) = word(rest);
            let (size, (time, name)) = if first.len() == "YYYYMMDDHHMMSS".len() {
                (String::new(), (first, behind))
            } else {
                (first, word(&behind))
            };
            let (kind, mark) = match &mode[..1] {
                "d" => ("dir", "/"),
                "l" => ("link", "@"),
                _ => ("file", ""),
            };
            let name = name.strip_suffix(mark).unwrap_or_else(|| panic!("{line:?}"));
            let name =
                name.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or_else(|_| panic!("{line:?}"))).collect();
            (kind.to_owned(), (kind == "file").then(|| size.parse().unwrap()), time.to_owned(), name)
        })
        .collect()
}

/// What one has and the other has not, of two sorted lists; the first few.
fn differences<'a>(one: &'a [Seen], other: &[Seen]) -> Vec<String> {
    let shown = |seen: &'a Seen| format!("{} {:?} {} {}", seen.0, seen.1, seen.2, seen.3.escape_ascii());
    one.iter().filter(|seen| other.binary_search(seen).is_err()).take(10).map(shown).collect()
}

impl Parser {
    /// What it has to find.
    fn expected(&self, entries: &[Entry], now: u64) -> Vec<Seen> {
        let seen = |entry: &Entry| {
            let (kind, size) = match entry.kind {
                Kind::File => ("file", Some(entry.size)),
                Kind::Directory => ("dir", None),
                Kind::Link => ("link", None),
            };
            Some((kind.to_owned(), size, (self.time)(entry, now), (self.name)(&entry.name)?))
        };
        let mut expected: Vec<Seen> = entries.iter().filter_map(seen).collect();
        expected.sort();
        expected
    }

    /// Lists a directory, and finds these entries and no others.
    fn finds(&self, entries: &[Entry], now: u64, gateway: &Gateway, desk: &Path, directory: &str) {
        let expected = self.expected(entries, now);
        let mut seen = (self.lists)(gateway, desk, directory);
        seen.sort();
        assert!(
            seen == expected,
            "{} {}: {} entries and not {}\nmissing: {:#?}\nsurplus: {:#?}",
            self.client,
            self.command,
            seen.len(),
            expected.len(),
            differences(&expected, &seen),
            differences(&seen, &expected)
        );
    }
}

#[tokio::test]
async fn ten_thousand_entries_of_every_kind_come_out_of_every_parser() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let desk = desk();
    let now = seconds_since_1970();
    for seed in 1..=rounds(1, 10) as u64 {
        let (many, targets) = (sshd.place_directory("many"), sshd.place_directory("targets"));
        let entries = plant(&many, &targets, seed, now);
        for parser in &PARSERS {
            // Hardly any entry is of a kind that a parser leaves out.
            assert!(parser.expected(&entries, now).len() > ENTRIES - ENTRIES / 50, "{}", parser.client);
            parser.finds(&entries, now, &gateway, desk.path(), "many");
        }
        fs::remove_dir_all(many).unwrap();
        fs::remove_dir_all(targets).unwrap();
    }
    assert!(seconds_since_1970() < now + MARGIN, "too slow: entries may have grown into another form");
}

#[tokio::test]
async fn links_that_lead_nowhere_or_out_of_the_root_are_links() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let desk = desk();
    let now = seconds_since_1970();
    let directory = sshd.place_directory("links");
    // At noon: of a link lftp believes LIST more than MLSD, and takes the middle of a day that has no time.
    let modified = (now / DAY - 365) * DAY + 12 * HOUR;
    let links = [("nowhere", "missing"), ("outside", "/etc/passwd"), ("itself", "itself")];
    for (name, target) in links {
        let path = directory.join(name);
        symlink(target, &path).unwrap();
        let time = Timespec { tv_sec: i64::try_from(modified).unwrap(), tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    fs::write(directory.join("file"), "content").unwrap();
    let time = UNIX_EPOCH + Duration::from_secs(modified);
    File::options().write(true).open(directory.join("file")).unwrap().set_modified(time).unwrap();
    for parser in &PARSERS {
        let mut entries = vec![Entry { name: b"file".to_vec(), kind: Kind::File, size: 7, modified }];
        if let Some(kind) = parser.broken_link {
            let size = |target: &str| target.len() as u64;
            let as_entry = |(name, target): (&str, _)| Entry { name: name.into(), kind, size: size(target), modified };
            entries.extend(links.map(as_entry));
        }
        parser.finds(&entries, now, &gateway, desk.path(), "links");
    }
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
