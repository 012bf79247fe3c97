//! Names as bytes: every command that takes one finds the same file.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use futures_util::future::join_all;

use crate::support::campaign::{is_full, random, rounds};
use crate::support::client::Client;
use crate::support::gateway::Gateway;
use crate::support::sshd::Sshd;

/// Longest name that the file systems of the test take, in bytes.
const MAX_NAME: usize = 255;

fn names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        &b"two words"[..],
        b" leading",
        b"trailing ",
        b"  both  ",
        b" ",
        "Gr\u{fc}\u{df}e \u{4f60}\u{597d} \u{1f4c4}.txt".as_bytes(),
        // The same letter composed and not: two names.
        "\u{e9}".as_bytes(),
        "e\u{301}".as_bytes(),
        // Latin-1, and what is no encoding at all.
        b"r\xe4k\xf6r.txt",
        b"\xe9",
        b"x\xff",
        b"\xff\x41",
        b"\x80\x81\xfe",
        b"\xc0\xae\xc0\xae",
        b"-rf",
        b"-",
        b"--",
        b"-la x",
        b"\"quoted\"",
        b"a\"b",
        b"it's",
        b"back\\slash",
        b"\\",
        b"star*",
        b"what?",
        b"[set]",
        b"*",
        b"{a,b}",
        b"~",
        b"~root",
        b"$HOME",
        b"`id`",
        b"a;b|c&d",
        b"%2e%2e",
        b"...",
        b".hidden",
        b"trailing.",
        b"tab\there",
        b"\x1b[2J",
        b"\x01\x7f",
        b"type=file;size=1; x",
        b"a -> b",
        b"ABOR",
        b"226 Transfer complete",
    ]
    .map(<[u8]>::to_vec)
    .to_vec();
    names.push(vec![b'n'; MAX_NAME]);
    names.push("\u{e4}".repeat(MAX_NAME / 2).into_bytes());
    names.push(vec![0xfe; MAX_NAME]);
    names
}

/// The name as a pathname argument, which LIST and its like do not take for options.
fn listed(name: &[u8]) -> Vec<u8> {
    [b"./", name].concat()
}

#[tokio::test]
async fn s33_every_command_finds_the_same_file_by_any_name() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    sshd.place_directory("d");
    let directory = sshd.files().join("d");
    let mut client = Client::logged_in(&gateway).await;
    client.ask_all(&[("TYPE I", 200), ("CWD d", 250)]).await;
    let names = names();
    for name in &names {
        let reply = client.store([b"STOR ", name.as_slice()].concat(), name).await;
        assert_eq!(reply.code, 226, "{}: {}", name.escape_ascii(), reply.text());
    }
    // Nothing met anything else, and the backend has exactly these bytes.
    let mut stored: Vec<Vec<u8>> =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect();
    stored.sort();
    let mut expected = names.clone();
    expected.sort();
    assert_eq!(stored, expected);

    let mut told = client.lines("NLST").await;
    told.sort();
    assert_eq!(told, expected);
    let mut told: Vec<Vec<u8>> = client.lines("MLSD").await.iter().map(|line| behind_facts(line)).collect();
    told.sort();
    assert_eq!(told, expected);
    let mut told: Vec<Vec<u8>> = client.lines("LIST").await.iter().map(|line| behind_columns(line)).collect();
    told.sort();
    let mut shown: Vec<Vec<u8>> = names.iter().map(|name| shown(name)).collect();
    shown.sort();
    assert_eq!(told, shown);

    for name in &names {
        let text = name.escape_ascii();
        let argument = |verb: &str| [verb.as_bytes(), b" ", name.as_slice()].concat();
        let path_argument = |verb: &str| [verb.as_bytes(), b" ", &listed(name)].concat();
        assert_eq!(client.retrieve(name).await, *name, "{text}");
        assert_eq!(client.ask(argument("SIZE"), 213).await.text(), format!("213 {}", name.len()), "{text}");
        client.ask(argument("MDTM"), 213).await;
        assert_eq!(client.lines(path_argument("NLST")).await, [listed(name)], "{text}");
        let long = client.lines(path_argument("LIST")).await;
        assert_eq!(long.iter().map(|line| behind_columns(line)).collect::<Vec<_>>(), [self::shown(name)], "{text}");
        let facts = client.ask(argument("MLST"), 250).await.lines;
        assert_eq!(facts.len(), 3, "{text}");
        let told_path = behind_facts(&facts[1][1..]);
        assert_eq!(told_path, shown_in_reply(&[b"/d/", name.as_slice()].concat()), "{text}");

        client.ask(argument("RNFR"), 350).await;
        client.ask("RNTO /renamed", 250).await;
        assert_eq!(fs::read(sshd.files().join("renamed")).unwrap(), *name, "{text}");
        client.ask("RNFR /renamed", 350).await;
        client.ask(argument("RNTO"), 250).await;
        let path = directory.join(OsStr::from_bytes(name));
        assert_eq!(fs::read(&path).unwrap(), *name, "{text}");
        client.ask(argument("DELE"), 250).await;
        assert!(!path.exists(), "{text}");

        client.ask(argument("MKD"), 257).await;
        client.ask(argument("CWD"), 250).await;
        assert_eq!(client.store("STOR x", b"x").await.code, 226);
        client.ask("CWD /d", 250).await;
        assert_eq!(client.lines(path_argument("NLST")).await, [[&listed(name)[..], b"/x"].concat()], "{text}");
        client.ask([&argument("DELE")[..], b"/x"].concat(), 250).await;
        client.ask(argument("RMD"), 250).await;
    }
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}

/// Files at a time in one directory.
const BATCH: usize = 256;

/// Sessions at a time.
const SESSIONS: usize = 4;

/// May a file have this name, and a command name it?
fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, b'\0' | b'\r' | b'\n' | b'/'))
}

/// Every name of one byte; of two bytes, and of up to [`MAX_NAME`], so many that look random.
fn one_two_and_many_bytes(two: usize, many: usize) -> BTreeSet<Vec<u8>> {
    let mut names: BTreeSet<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).filter(|name| is_name(name)).collect();
    let every: Vec<Vec<u8>> =
        (0..=u16::MAX).map(|bytes| bytes.to_be_bytes().to_vec()).filter(|name| is_name(name)).collect();
    if two >= every.len() {
        names.extend(every);
    } else {
        names.extend(random(2, every.len()).take(two).map(|index| every[index].clone()));
    }
    let enough = names.len() + many;
    let mut numbers = random(1, 1 << 32);
    let mut below = |bound| numbers.next().unwrap() % bound;
    while names.len() < enough {
        let longest = if below(4) == 0 { MAX_NAME } else { 12 };
        let length = 1 + below(longest);
        let name: Vec<u8> = (0..length).map(|_| u8::try_from(below(256)).unwrap()).collect();
        if is_name(&name) {
            names.insert(name);
        }
    }
    names
}

/// A command and a name, where RFC 854 has 0xFF twice: `IAC` before it is no command then.
fn about(verb: &str, name: &[u8]) -> Vec<u8> {
    let mut line = [verb.as_bytes(), b" "].concat();
    for byte in name {
        line.push(*byte);
        if *byte == 0xff {
            line.push(*byte);
        }
    }
    line
}

/// Commands at once, and their replies: each has this code. Their texts.
async fn ask_at_once(client: &mut Client, lines: &[Vec<u8>], codes: &[u16]) -> Vec<String> {
    client.send_raw(&lines.iter().flat_map(|line| [line, &b"\r\n"[..]].concat()).collect::<Vec<u8>>()).await;
    let mut texts = Vec::new();
    for (line, code) in lines.iter().zip(codes.iter().cycle()) {
        let reply = client.reply().await;
        assert_eq!(reply.code, *code, "{}: {}", line.escape_ascii(), reply.text());
        texts.push(reply.text());
    }
    texts
}

/// Each of these names through STOR, NLST, SIZE, RNFR and RNTO, RETR and DELE, in an empty directory.
async fn names_come_back(client: &mut Client, sshd: &Sshd, directory: &str, names: &[Vec<u8>]) {
    let path = sshd.files().join(directory);
    client.ask(format!("CWD /{directory}"), 250).await;
    // No two have the same content.
    let content = |number: usize| format!("{directory} {number}");
    let on_disk = || -> BTreeSet<Vec<u8>> {
        fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect()
    };
    let expected: BTreeSet<Vec<u8>> = names.iter().cloned().collect();
    for (number, name) in names.iter().enumerate() {
        let reply = client.store(about("STOR", name), content(number).as_bytes()).await;
        assert_eq!(reply.code, 226, "{}: {}", name.escape_ascii(), reply.text());
    }
    assert!(on_disk() == expected, "{directory}: stored under other names");
    assert!(client.lines("NLST").await.into_iter().collect::<BTreeSet<_>>() == expected, "{directory}: NLST");
    let all = |verb: &str| names.iter().map(|name| about(verb, name)).collect::<Vec<_>>();
    for (number, text) in ask_at_once(client, &all("SIZE"), &[213]).await.into_iter().enumerate() {
        assert_eq!(text, format!("213 {}", content(number).len()), "{}", names[number].escape_ascii());
    }
    // Away, where only the content tells which is which, and back.
    let numbered = |verb: &str, number: usize| format!("{verb} /{directory}.moved/{number}").into_bytes();
    let away = names.iter().enumerate().flat_map(|(number, name)| [about("RNFR", name), numbered("RNTO", number)]);
    ask_at_once(client, &away.collect::<Vec<_>>(), &[350, 250]).await;
    assert_eq!(on_disk(), BTreeSet::new());
    for (number, name) in names.iter().enumerate() {
        let moved = sshd.files().join(format!("{directory}.moved/{number}"));
        assert_eq!(fs::read_to_string(moved).unwrap(), content(number), "{}", name.escape_ascii());
    }
    let back = names.iter().enumerate().flat_map(|(number, name)| [numbered("RNFR", number), about("RNTO", name)]);
    ask_at_once(client, &back.collect::<Vec<_>>(), &[350, 250]).await;
    assert!(on_disk() == expected, "{directory}: renamed to other names");
    for (number, name) in names.iter().enumerate() {
        let (reply, bytes) = client.fetch(about("RETR", name)).await;
        assert_eq!((reply.code, bytes), (226, content(number).into_bytes()), "{}", name.escape_ascii());
    }
    // One after the other: each takes its own file and no other.
    let mut left = expected;
    for (some, lines) in names.chunks(16).zip(all("DELE").chunks(16)) {
        ask_at_once(client, lines, &[250]).await;
        left.retain(|name| !some.contains(name));
        assert!(on_disk() == left, "{directory}: DELE");
    }
}

#[tokio::test]
async fn every_short_name_and_many_long_ones_come_back() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let names: Vec<Vec<u8>> =
        one_two_and_many_bytes(rounds(250, usize::MAX), rounds(250, 10_000)).into_iter().collect();
    // 252 bytes may stand in a name; `.` and `..` are none.
    assert_eq!(names.iter().filter(|name| name.len() == 1).count(), 251);
    assert!(!is_full() || names.iter().filter(|name| name.len() == 2).count() == 252 * 252 - 1);
    // Every so many, so that each session has some of all.
    let shares: Vec<Vec<Vec<u8>>> =
        (0..SESSIONS).map(|first| names.iter().skip(first).step_by(SESSIONS).cloned().collect()).collect();
    let sessions = shares.iter().enumerate().map(async |(session, share)| {
        let mut client = Client::logged_in(&gateway).await;
        client.ask("TYPE I", 200).await;
        for (number, batch) in share.chunks(BATCH).enumerate() {
            let directory = format!("{session}-{number}");
            sshd.place_directory(&directory);
            sshd.place_directory(format!("{directory}.moved"));
            names_come_back(&mut client, &sshd, &directory, batch).await;
        }
    });
    join_all(sessions).await;
}

/// Commands that take a name, with what they answer where it is that of a directory or of nothing: RFC 959 has 553 for
/// uploads only.
const NAMING: [(&str, u16); 8] = [
    ("STOR", 553),
    ("APPE", 553),
    ("RETR", 550),
    ("SIZE", 550),
    ("DELE", 550),
    ("RNFR", 550),
    ("MKD", 550),
    ("RMD", 550),
];

#[tokio::test]
async fn s12_what_cannot_be_a_name_is_refused_and_touches_nothing() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let directory = sshd.place_directory("d");
    sshd.place_file("d/kept", "content");
    let mut client = Client::logged_in(&gateway).await;
    client.ask_all(&[("TYPE I", 200), ("CWD d", 250)]).await;
    for (verb, code) in NAMING {
        let opens = matches!(verb, "STOR" | "APPE" | "RETR");
        // Bytes that no name has, alone and at either end of one. CR NUL is CR (RFC 2640 §3.1).
        for name in [&b"\0"[..], b"\0x", b"x\0", b"x\0x", b"\rx", b"x\ry", b"x\r\0", b"\r\0", b""] {
            if opens {
                client.ask("EPSV", 229).await;
            }
            client.ask(about(verb, name), 501).await;
        }
        // Directories, under their other names. This one may be renamed, from within as well.
        for name in [&b".."[..], b"/", b"../", b"//", b".", b"./"] {
            if opens {
                client.ask("EPSV", 229).await;
            }
            if verb != "RNFR" || !name.starts_with(b".") || name.starts_with(b"..") {
                client.ask(about(verb, name), code).await;
            }
        }
        if opens {
            client.ask("EPSV", 229).await;
        }
        // LF ends a line, so that what is behind it is another command.
        client.send_raw(&[&about(verb, b"missing/x"), &b"\nNOOP\r\n"[..]].concat()).await;
        client.expect(code).await;
        client.expect(200).await;
    }
    assert_eq!(fs::read(directory.join("kept")).unwrap(), b"content");
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    assert_eq!(fs::read_dir(sshd.files()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_name_that_no_file_system_takes_is_refused() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::logged_in(&gateway).await;
    let long = "n".repeat(MAX_NAME + 1);
    for (verb, code) in [("RETR", 550), ("STOR", 553), ("APPE", 553), ("LIST", 550), ("NLST", 550), ("MLSD", 550)] {
        client.ask("EPSV", 229).await;
        client.ask(format!("{verb} {long}"), code).await;
    }
    for verb in ["SIZE", "DELE", "MKD", "RMD", "CWD", "RNFR", "MLST", "STAT"] {
        let code = 550;
        client.ask("TYPE I", 200).await;
        client.ask(format!("{verb} {long}"), code).await;
        client.ask(format!("{verb} {long}/x"), code).await;
    }
    sshd.place_file("a", "x");
    client.ask("RNFR a", 350).await;
    client.ask(format!("RNTO {long}"), 553).await;
    // A path that is too long as a whole cannot be one at all, and the backend hears nothing of it.
    let path = "d/".repeat(2100);
    for verb in ["SIZE", "DELE", "MKD", "CWD", "RNFR"] {
        client.ask(format!("{verb} {path}"), 501).await;
    }
    client.ask("SIZE a", 213).await;
}

/// The name of an MLSD line: behind the first space.
fn behind_facts(line: &[u8]) -> Vec<u8> {
    let space = line.iter().position(|byte| *byte == b' ').unwrap();
    line[space + 1..].to_vec()
}

/// The name of a LIST line: behind the columns of `ls -l`, exactly one space after the time.
fn behind_columns(line: &[u8]) -> Vec<u8> {
    let mut rest = line;
    for _ in 0..8 {
        let start = rest.iter().position(|byte| *byte != b' ').unwrap();
        let end = start + rest[start..].iter().position(|byte| *byte == b' ').unwrap();
        rest = &rest[end..];
    }
    rest[1..].to_vec()
}

/// LIST replaces control characters.
fn shown(name: &[u8]) -> Vec<u8> {
    name.iter().map(|byte| if byte.is_ascii_control() { b'?' } else { *byte }).collect()
}

/// And so do replies, but for DEL.
fn shown_in_reply(text: &[u8]) -> Vec<u8> {
    text.iter().map(|byte| if *byte < b' ' { b'?' } else { *byte }).collect()
}
