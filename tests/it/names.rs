//! Names as bytes: every command that takes one finds the same file.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

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
async fn every_command_finds_the_same_file_by_any_name() {
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
