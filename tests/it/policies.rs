//! What `policy` changes about names, about listings and about the control connection.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::support::client::{Client, latin1};
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, MAPPED_USER, Setup};
use crate::support::real_clients::{Tls, curl_with, desk, program, run};
use crate::support::sshd::Sshd;

/// 2026-07-01T22:30:00Z: summer time, and the next day in Europe.
const SUMMER: i64 = 1_782_945_000;

/// Under a root of its own, with this policy.
async fn with_policy(policy: &str) -> (Sshd, Gateway) {
    let sshd = Sshd::start().await;
    let setup = Setup::backend(&sshd).with_users(&sshd.files()).with(&format!("policy: {{{policy}}}\n"));
    let gateway = Gateway::start(&setup);
    (sshd, gateway)
}

async fn log_in(gateway: &Gateway) -> Client {
    let mut client = Client::explicit(gateway).await;
    client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
    client
}

/// Names in the directory of the user, as bytes.
fn stored(sshd: &Sshd) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(sshd.files()).unwrap();
    let mut names: Vec<Vec<u8>> = entries.map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn names_are_in_the_charset_of_a_client_that_does_not_ask_for_utf8() {
    let (sshd, gateway) = with_policy("charset: latin1").await;
    let mut client = log_in(&gateway).await;
    let file = b"M\xFCller.txt";
    assert_eq!(client.store([b"STOR ", &file[..]].concat(), b"text").await.code, 226);
    assert_eq!(stored(&sshd), ["Müller.txt".as_bytes()]);
    for command in ["NLST", "NLST M?ller.*", "LIST", "MLSD"] {
        let lines = client.lines(command).await;
        assert!(lines.iter().any(|line| line.ends_with(file)), "{command}: {lines:?}");
    }
    assert_eq!(client.lines(b"NLST M\xFCl*").await, [file]);
    assert_eq!(client.retrieve(file).await, b"text");
    let made = client.ask(b"MKD K\xF6ln", 257).await;
    assert_eq!(made.lines, [&b"257 \"/K\xF6ln\" created"[..]]);
    client.ask(b"CWD K\xF6ln", 250).await;
    assert_eq!(client.ask("PWD", 257).await.lines, [&b"257 \"/K\xF6ln\" is the current directory"[..]]);
    assert!(client.ask(b"MLST /M\xFCller.txt", 250).await.lines[1].ends_with(b" /M\xFCller.txt"));
    client.ask(b"RNFR /M\xFCller.txt", 350).await;
    client.ask(b"RNTO \xC4rger", 250).await;
    assert!(sshd.files().join("Köln/Ärger").exists());
    client.ask(b"DELE ../K\xF6ln/\xC4rger", 250).await;

    // What the charset has not is as it was, and so is what an older client stored in it.
    let others = ["日本".as_bytes(), "5 €".as_bytes(), "Ã¼".as_bytes(), b"old \xFC"];
    for name in others {
        sshd.place_file(std::ffi::OsStr::from_bytes(name), name);
    }
    sshd.place_directory(std::ffi::OsStr::from_bytes(b"old \xE4"));
    client.ask("CWD /", 250).await;
    let shown = client.lines("NLST").await;
    for name in others {
        assert!(shown.iter().any(|line| line == name), "{}", name.escape_ascii());
        assert_eq!(client.retrieve(name).await, name);
    }
    assert_eq!(client.store(b"STOR old \xE4/\xFC", b"in it").await.code, 226);
    assert_eq!(client.retrieve(b"old \xE4/\xFC").await, b"in it");

    // A client that asks for UTF-8, or is told of it by FEAT, gets names as they are.
    let umlaut = "Köln".as_bytes().to_vec();
    client.ask("OPTS UTF8 ON", 200).await;
    assert!(client.lines("NLST").await.contains(&umlaut));
    client.ask("OPTS UTF8 OFF", 200).await;
    assert!(client.lines("NLST").await.contains(&b"K\xF6ln".to_vec()));
    client.ask("FEAT", 211).await;
    assert!(client.lines("NLST").await.contains(&umlaut));
    // One that never asks and sends UTF-8 all the same is understood.
    let mut client = log_in(&gateway).await;
    client.ask("CWD Köln", 250).await;
}

#[tokio::test]
async fn letters_of_a_charset_are_not_taken_for_telnet() {
    let (sshd, gateway) = with_policy("charset: windows-1251").await;
    let mut client = log_in(&gateway).await;
    // In windows-1251 `я` is the byte 255 and the letters from `р` on are Telnet's commands.
    let names = [(&b"\xEE\xE1\xFA\xFF\xFE\xF9\xE8\xE9"[..], "объяющий"), (b"\xFF\xF0\xEB\xFB\xEA", "ярлык")];
    for (sent, name) in names {
        assert_eq!(client.store([b"STOR ", sent].concat(), name.as_bytes()).await.code, 226);
        assert!(sshd.files().join(name).exists(), "{name}: {:?}", stored(&sshd));
        assert!(client.lines("NLST").await.contains(&sent.to_vec()), "{name}");
        assert_eq!(client.retrieve(sent).await, name.as_bytes());
    }
}

#[tokio::test]
async fn listings_in_the_style_of_dos_and_in_another_time_zone() {
    let (sshd, gateway) = with_policy("list_style: dos, list_time_zone: Europe/Berlin").await;
    let file = sshd.place_file("some file.txt", vec![0; 1024]);
    let directory = sshd.place_directory("directory");
    for path in [&file, &directory] {
        let touched = Command::new("touch").args(["-d", &format!("@{SUMMER}")]).arg(path).status().unwrap();
        assert!(touched.success());
    }
    let mut client = log_in(&gateway).await;
    assert_eq!(client.ask("SYST", 215).await.text(), "215 Windows_NT");
    let mut lines: Vec<String> = client.lines("LIST").await.iter().map(|line| latin1(line)).collect();
    lines.sort();
    assert_eq!(
        lines,
        ["07-02-26  12:30AM                 1024 some file.txt", "07-02-26  12:30AM       <DIR>          directory"]
    );
    assert_eq!(client.ask("STAT some file.txt", 213).await.lines.len(), 3);
    // What machines read is in UTC (RFC 3659 §2.3).
    assert_eq!(client.ask("MDTM some file.txt", 213).await.text(), "213 20260701223000");
    assert!(client.lines("MLSD").await.iter().all(|line| latin1(line).contains("modify=20260701223000;")));
}

#[tokio::test]
async fn hidden_links_are_not_there() {
    let (sshd, gateway) = with_policy("symlinks: hide").await;
    sshd.place_directory("directory");
    sshd.place_file("directory/file", "inside");
    sshd.place_file("file", "plain");
    for (target, link) in [("file", "to file"), ("directory", "to directory"), ("nowhere", "to nowhere")] {
        symlink(target, sshd.files().join(link)).unwrap();
    }
    let mut client = log_in(&gateway).await;
    for command in ["LIST", "NLST", "MLSD", "NLST *", "LIST -la"] {
        let lines = client.lines(command).await;
        assert_eq!(lines.len(), 2, "{command}: {lines:?}");
    }
    assert_eq!(client.ask("STAT .", 212).await.lines.len(), 2 + 2);
    client.ask_all(&[("EPSV", 229), ("NLST to*", 450)]).await;
    for link in ["to file", "to directory/file", "to nowhere", "to directory"] {
        for command in ["RETR", "SIZE", "MDTM", "MLST", "DELE", "RNFR", "CWD", "LIST", "NLST", "XMD5", "RMD"] {
            client.ask("EPSV", 229).await;
            client.ask(format!("{command} {link}"), 550).await;
        }
        client.ask(format!("STAT {link}"), 450).await;
        for command in ["STOR", "APPE"] {
            client.ask("EPSV", 229).await;
            client.ask(format!("{command} {link}"), 553).await;
        }
        client.ask("RNFR file", 350).await;
        client.ask(format!("RNTO {link}"), 553).await;
    }
    assert_eq!(client.retrieve("directory/file").await, b"inside");
    client.ask_all(&[("TYPE I", 200), ("CWD directory", 250), ("SIZE file", 213), ("CDUP", 250)]).await;
    assert_eq!(client.store("STOR directory/new", b"new").await.code, 226);
    assert!(sshd.files().join("to file").is_symlink() && sshd.files().join("to nowhere").is_symlink());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_connection_goes_on_in_clear_where_ccc_is_allowed() {
    let (sshd, gateway) = with_policy("ccc: true").await;
    let desk = desk();
    fs::write(desk.path().join("up"), "uploaded").unwrap();
    let url = Tls::Explicit.url(&gateway);
    for mode in ["passive", "active"] {
        for version in ["1.2", "1.3"] {
            let ccc = ["--ftp-ssl-ccc", "--ftp-ssl-ccc-mode", mode, "--tls-max", version];
            let name = format!("{url}/{mode} {version}").replace(' ', "%20");
            curl_with(&gateway, desk.path(), &[&ccc[..], &["-T", "up", &name]].concat()).succeeded();
            let fetched = curl_with(&gateway, desk.path(), &[&ccc[..], &[&name]].concat()).succeeded();
            assert_eq!(fetched, "uploaded", "{mode}, {version}");
        }
    }
    assert_eq!(stored(&sshd).len(), 4);

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/clients/ftplib_ccc.py");
    let mut python = program("python3", "python3", desk.path());
    python.args(["-I", "-B", script, &gateway.explicit.port().to_string()]).arg(gateway.certificate());
    run(python.args([MAPPED_USER, MAPPED_PASSWORD])).succeeded();
}

#[tokio::test]
async fn ccc_is_refused_where_nothing_else_is_said() {
    let (_sshd, gateway) = with_policy("").await;
    let mut client = log_in(&gateway).await;
    client.ask_all(&[("CCC", 534), ("NOOP", 200)]).await;
    Client::clear(&gateway).await.ask("CCC", 533).await;
}
