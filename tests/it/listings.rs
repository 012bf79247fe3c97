//! Listings: large ones, wildcards, links, and what is missing.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use tokio::io::AsyncReadExt;

use crate::support::client::{Client, latin1};
use crate::support::gateway::Gateway;
use crate::support::scripted_sftp::tree::HOME;
use crate::support::scripted_sftp::{Profile, Script, Then, When};
use crate::support::scripted_sshd::ScriptedSshd;
use crate::support::sshd::Sshd;
use crate::support::transfer::{abort, begin};

const MANY: usize = 10_000;

#[tokio::test]
async fn ten_thousand_entries_are_listed_each_once() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let directory = sshd.place_directory("many");
    let expected: BTreeSet<String> = (0..MANY).map(|number| format!("entry number {number}")).collect();
    for name in &expected {
        fs::write(directory.join(name), name.as_bytes()).unwrap();
    }
    let mut client = Client::logged_in(&gateway).await;
    client.ask("CWD many", 250).await;
    let names = |lines: Vec<Vec<u8>>| {
        let count = lines.len();
        let names: BTreeSet<String> =
            lines.iter().map(|line| latin1(line)).map(|line| line[line.find("entry").unwrap()..].to_owned()).collect();
        assert_eq!(names.len(), count);
        names
    };
    for command in ["LIST", "NLST", "MLSD", "LIST -la", "NLST *", "LIST entry*"] {
        assert!(names(client.lines(command).await) == expected, "{command}");
    }
    for line in client.lines("MLSD").await {
        let line = latin1(&line);
        let (facts, name) = line.split_once(' ').unwrap();
        assert!(facts.starts_with(&format!("type=file;size={};modify=", name.len())), "{line}");
    }
    assert_eq!(client.lines("NLST entry number 99??").await.len(), 100);
    // STAT tells no more over the control connection than it can hold.
    assert_eq!(client.ask("STAT .", 212).await.lines.len(), 1000 + 2);
    assert!(names(client.lines("NLST").await) == expected);
}

#[tokio::test]
async fn wildcards_match_in_the_last_component_and_450_says_that_none_does() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    for directory in ["d", "d/sub", "empty", "[x]"] {
        sshd.place_directory(directory);
    }
    for name in ["a.txt", "b.txt", "c.csv", ".hidden", "star*", "d/a.txt", "d/b.csv", "[x]/y.txt"] {
        sshd.place_file(name, "x");
    }
    let mut client = Client::logged_in(&gateway).await;
    let sorted = async |client: &mut Client, command: &str| {
        let mut names: Vec<String> = client.lines(command).await.iter().map(|line| latin1(line)).collect();
        names.sort();
        names
    };
    for (command, expected) in [
        ("NLST *.txt", &["a.txt", "b.txt"][..]),
        ("NLST ?.*", &["a.txt", "b.txt", "c.csv"]),
        ("NLST [ab].txt", &["a.txt", "b.txt"]),
        ("NLST [!a]*.txt", &["b.txt"]),
        ("NLST d/*", &["d/a.txt", "d/b.csv", "d/sub"]),
        ("NLST /d/*.csv", &["/d/b.csv"]),
        ("NLST ./*.csv", &["./c.csv"]),
        ("NLST -a *.csv", &["c.csv"]),
        // A name that exists is itself, whatever it looks like.
        ("NLST star*", &["star*"]),
        ("NLST star\\*", &["star*"]),
        ("NLST [x]", &["[x]/y.txt"]),
        ("NLST [x]/*", &["[x]/y.txt"]),
        ("NLST d", &["d/a.txt", "d/b.csv", "d/sub"]),
        ("NLST d/", &["d/a.txt", "d/b.csv", "d/sub"]),
        ("NLST a.txt", &["a.txt"]),
        ("NLST d/a.txt", &["d/a.txt"]),
        ("NLST empty", &[]),
        ("LIST empty", &[]),
        ("MLSD empty", &[]),
    ] {
        assert_eq!(sorted(&mut client, command).await, expected, "{command}");
    }
    assert_eq!(client.lines("LIST *.txt").await.len(), 2);
    for (command, code) in [
        ("NLST *.zip", 450),
        ("LIST *.zip", 450),
        ("LIST d/*.zip", 450),
        ("NLST empty/*", 450),
        ("LIST empty/*", 450),
        ("NLST missing/*", 550),
        ("NLST a.txt/*", 550),
        // Only in the last component.
        ("NLST */a.txt", 550),
    ] {
        client.ask("EPSV", 229).await;
        client.ask(command, code).await;
    }
    client.ask("EPSV", 229).await;
    client.ask(format!("NLST {}b", "*a".repeat(120)), 450).await;
    client.ask("EPSV", 229).await;
    client.ask(format!("NLST {}", "*".repeat(300)), 550).await;
}

#[tokio::test]
async fn what_is_missing_or_no_directory_has_its_code() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    sshd.place_file("f", "x");
    fs::set_permissions(sshd.place_directory("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    let mut client = Client::logged_in(&gateway).await;
    for path in ["missing", "missing/deeper", "f/x", "/missing"] {
        for verb in ["LIST", "NLST", "MLSD", "LIST -la"] {
            client.ask("EPSV", 229).await;
            client.ask(format!("{verb} {path}"), 550).await;
        }
        client.ask(format!("CWD {path}"), 550).await;
    }
    for (command, code) in
        [("MLSD f", 501), ("LIST closed", 550), ("NLST closed", 550), ("MLSD closed", 550), ("NLST closed/*", 550)]
    {
        client.ask_all(&[("EPSV", 229), (command, code)]).await;
    }
    assert_eq!(client.lines("NLST f").await, [b"f"]);
    assert_eq!(client.lines("LIST f").await.len(), 1);
    for command in ["LIST", "NLST", "MLSD", "LIST .", "LIST /", "LIST -a", "NLST -- ", "LIST -R"] {
        assert_eq!(client.lines(command).await.len(), 2, "{command}");
    }
    client.ask_all(&[("TYPE I", 200), ("EPSV", 229), ("ABOR", 226)]).await;
    assert_eq!(client.lines("NLST").await.len(), 2, "in TYPE I, too, lines end with CR LF");
}

#[tokio::test]
async fn links_are_shown_as_what_they_lead_to_and_a_broken_one_as_a_link() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    sshd.place_directory("d");
    sshd.place_file("d/x", "inside");
    sshd.place_file("f", "0123456789");
    for (target, link) in [("d", "to_directory"), ("f", "to_file"), ("to_file", "to_link"), ("nowhere", "broken")] {
        symlink(target, sshd.files().join(link)).unwrap();
    }
    symlink("loop", sshd.files().join("loop")).unwrap();
    let mut client = Client::logged_in(&gateway).await;
    client.ask("OPTS MLST type;size;", 200).await;
    let mut facts: Vec<String> = client.lines("MLSD").await.iter().map(|line| latin1(line)).collect();
    facts.sort();
    assert_eq!(
        facts,
        [
            "type=OS.unix=slink:; broken",
            "type=OS.unix=slink:; loop",
            "type=dir; d",
            "type=dir; to_directory",
            "type=file;size=10; f",
            "type=file;size=10; to_file",
            "type=file;size=10; to_link",
        ]
    );
    let kind = |lines: &[Vec<u8>], name: &str| {
        let line = lines.iter().map(|line| latin1(line)).find(|line| line.ends_with(&format!(" {name}"))).expect(name);
        line[..1].to_owned()
    };
    let lines = client.lines("LIST").await;
    let letters =
        [("to_directory", "d"), ("to_file", "-"), ("to_link", "-"), ("broken -> nowhere", "l"), ("loop -> loop", "l")];
    for (name, letter) in letters {
        assert_eq!(kind(&lines, name), letter, "{name}");
    }
    assert_eq!(client.lines("NLST to_directory").await, [b"to_directory/x"]);
    assert_eq!(client.lines("MLSD to_directory").await, [b"type=file;size=6; x"]);
    assert_eq!(client.lines("NLST broken").await, [b"broken"]);
    assert_eq!(kind(&client.lines("LIST to_file").await, "to_file"), "-");
    client.ask_all(&[("CWD to_directory", 250), ("MLST x", 250), ("CDUP", 250), ("CWD broken", 550)]).await;
    client.ask_all(&[("EPSV", 229), ("MLSD to_file", 501), ("MLST to_link", 250), ("MLST broken", 550)]).await;
}

#[tokio::test]
async fn s12_a_name_that_would_forge_a_line_is_left_out_and_counted() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    for name in ["honest", "x\r\n226 OK", "y\n-rw-r--r--   1 0 0 0 Jan  1 00:00 forged"] {
        sshd.place_file(name, "x");
    }
    let mut client = Client::logged_in(&gateway).await;
    for command in ["LIST", "NLST", "MLSD"] {
        let lines = client.lines(command).await;
        assert_eq!(lines.len(), 1, "{command}");
        assert!(lines[0].ends_with(b"honest"));
    }
    assert_eq!(gateway.metric("ftps2sftp_hostile_names_total").await, 6.0);
    assert_eq!(client.ask("STAT .", 212).await.lines.len(), 3);
    assert_eq!(client.lines("NLST *").await, [b"honest"]);
}

#[tokio::test]
async fn pages_without_a_name_that_is_shown_do_not_end_a_listing() {
    // One name in a page, and each page late: nothing is there to be sent between them.
    let sshd = ScriptedSshd::start(Script::new(Profile { page: 1, ..Profile::openssh() })).await;
    for number in 0..2000 {
        sshd.sftp().tree().put_file([HOME, format!("/not\nshown {number}").as_bytes()].concat(), b"");
    }
    sshd.sftp().tree().put_file([HOME, b"/shown"].concat(), b"");
    sshd.sftp().script().latency = Duration::from_millis(1);
    let gateway = Gateway::start(&sshd.setup());
    let mut client = Client::logged_in(&gateway).await;
    assert_eq!(client.lines("NLST").await, [b"shown"]);
}

#[tokio::test]
async fn the_first_lines_arrive_while_the_backend_still_works() {
    let sshd = ScriptedSshd::start(Script::new(Profile::openssh())).await;
    for number in 0..500 {
        sshd.sftp().tree().put_file([HOME, format!("/{number:03}").as_bytes()].concat(), b"");
    }
    let gateway = Gateway::start(&sshd.setup());
    for command in ["LIST", "NLST", "MLSD"] {
        let mut client = Client::logged_in(&gateway).await;
        // The third page never comes: whatever is seen was sent before it.
        let before = sshd.sftp().record().count("READDIR");
        sshd.sftp().script().faults = vec![(When::Nth("READDIR", before + 2), Then::Late(Duration::from_secs(3600)))];
        let mut data = begin(&mut client, command).await;
        let mut seen = Vec::new();
        // Two pages of a hundred, without the two dots where those are shown, and the very last byte held back.
        while seen.iter().filter(|byte| **byte == b'\n').count() < 197 {
            assert_ne!(data.read_buf(&mut seen).await.unwrap(), 0, "{command}");
        }
        assert!(latin1(&seen).contains("150"), "{command}");
        abort(&mut client).await;
    }
}
