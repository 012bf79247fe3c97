//! Every command of the table against a real server: success, and each refusal with its code.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ftps2sftp::command::spec::{self, Handler};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::support::client::Client;
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, Setup};
use crate::support::sshd::Sshd;

/// A server, a gateway before it, and a client that is logged in, in TYPE I.
async fn start() -> (Sshd, Gateway, Client) {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::logged_in(&gateway).await;
    client.ask("TYPE I", 200).await;
    (sshd, gateway, client)
}

async fn logged_in_as(gateway: &Gateway, user: &str) -> Client {
    let mut client = Client::explicit(gateway).await;
    client.log_in(user, MAPPED_PASSWORD).await;
    client.ask("TYPE I", 200).await;
    client
}

#[tokio::test]
async fn commands_that_tell_about_the_gateway() {
    let (sshd, gateway, mut client) = start().await;
    assert_eq!(client.ask("SYST", 215).await.text(), "215 UNIX Type: L8");
    let feat = "211-Features:\n AUTH TLS\n PBSZ\n PROT\n TVFS\n UTF8\n EPSV\n REST STREAM\n \
                MLST type*;size*;modify*;perm*;UNIX.mode*;UNIX.owner*;UNIX.group*;\n SIZE\n MDTM\n MFMT\n CLNT\n \
                HOST\n RANG STREAM\n MFF Modify;UNIX.mode;\n LANG EN*\n HASH SHA-256*;SHA-1;MD5;CRC32\n \
                XCRC\n XMD5\n XSHA1\n XSHA256\n XSHA512\n211 End";
    let mut lines: Vec<&str> = feat.lines().collect();
    lines.sort_unstable();
    let told = client.ask("FEAT", 211).await.text();
    let mut told_lines: Vec<&str> = told.lines().collect();
    assert_eq!((told_lines[0], told_lines[told_lines.len() - 1]), ("211-Features:", "211 End"));
    told_lines.sort_unstable();
    assert_eq!(told_lines, lines);

    let help = client.ask("HELP", 214).await.text();
    let known: Vec<&str> = help.lines().filter(|line| line.starts_with(' ')).flat_map(str::split_whitespace).collect();
    for row in spec::rows() {
        assert_eq!(known.contains(&row.verb), row.is_offered(), "{}", row.verb);
        let code = if row.is_offered() { 214 } else { 502 };
        client.ask(format!("HELP {}", row.verb.to_lowercase()), code).await;
        if let Handler::NotOffered(code, _) = row.handler {
            client.ask(format!("{} x", row.verb), code).await;
            client.ask(row.verb, code).await;
        }
    }
    assert_eq!(client.ask("HELP RETR", 214).await.text(), "214 Syntax: RETR <pathname> (RFC 959 \u{c2}\u{a7}4.1.3)");

    let status = client.ask("STAT", 211).await.text();
    assert!(status.starts_with("211-Status:\n Logged in as acme\n Control connection: TLSv1.3, "), "{status}");
    assert!(status.ends_with("\n Type binary, mode stream, structure file, PROT P\n211 End of status"), "{status}");
    assert!(!status.contains(&sshd.address().port().to_string()), "{status}");

    client
        .ask_all(&[
            ("HELP XYZZY", 502),
            ("XYZZY", 500),
            ("NOOP", 200),
            ("NOOP ignored", 200),
            ("CLNT lftp", 200),
            ("CLNT", 200),
            ("ALLO 1000", 202),
            ("ALLO 1000 R 10", 202),
            ("ALLO", 501),
            ("ALLO x", 501),
            ("QUIT", 221),
        ])
        .await;
    client.expect_closed().await;
    drop(gateway);
}

#[tokio::test]
async fn s20_commands_that_set_parameters() {
    let (sshd, _gateway, mut client) = start().await;
    sshd.place_file("a", "x");
    client
        .ask_all(&[
            ("TYPE A", 200),
            ("TYPE a n", 200),
            ("TYPE L 8", 200),
            ("TYPE A T", 504),
            ("TYPE A C", 504),
            ("TYPE E", 504),
            ("TYPE L 7", 504),
            ("TYPE", 501),
            ("TYPE X", 501),
            ("TYPE I I", 501),
            ("MODE S", 200),
            ("mode s", 200),
            ("MODE B", 504),
            ("MODE C", 504),
            ("MODE Z", 504),
            ("MODE", 501),
            ("MODE X", 501),
            ("STRU F", 200),
            ("STRU R", 504),
            ("STRU P", 504),
            ("STRU", 501),
            ("STRU X", 501),
            ("OPTS UTF8 ON", 200),
            ("opts utf8 off", 200),
            ("OPTS UTF-8 ON", 200),
            ("OPTS UTF8 x", 501),
            ("OPTS", 501),
            ("OPTS XYZZY", 501),
            ("OPTS MODE Z LEVEL 9", 501),
        ])
        .await;
    // What a refusal leaves is what was there before: TYPE L 8 is binary.
    assert!(client.ask("STAT", 211).await.text().contains("Type binary"));
    assert_eq!(client.ask("OPTS MLST size;Type;nonsense;", 200).await.text(), "200 MLST OPTS type;size;");
    assert_eq!(client.ask("MLST a", 250).await.text(), "250-Listing /a\n type=file;size=1; /a\n250 End");
    assert_eq!(client.lines("MLSD").await, [b"type=file;size=1; a"]);
    let feat = client.ask("FEAT", 211).await.text();
    assert!(feat.contains("MLST type*;size*;modify;perm;UNIX.mode;UNIX.owner;UNIX.group;"), "{feat}");
    assert_eq!(client.ask("OPTS MLST", 200).await.text(), "200 MLST OPTS");
    assert_eq!(client.ask("MLST a", 250).await.text(), "250-Listing /a\n  /a\n250 End");
    assert_eq!(client.lines("MLSD").await, [b" a"]);
}

#[tokio::test]
async fn commands_that_change_the_directory() {
    let (sshd, _gateway, mut client) = start().await;
    sshd.place_directory("d");
    sshd.place_directory("d/e");
    sshd.place_file("f", "x");
    let shown = async |client: &mut Client, verb: &str, path: &str| {
        assert_eq!(client.ask(verb, 257).await.text(), format!("257 \"{path}\" is the current directory"));
    };
    shown(&mut client, "PWD", "/").await;
    client.ask("CWD d", 250).await;
    shown(&mut client, "XPWD", "/d").await;
    client.ask("XCWD e", 250).await;
    shown(&mut client, "PWD", "/d/e").await;
    client.ask_all(&[("CWD missing", 550), ("CWD /f", 550), ("CWD", 501), ("CWD ", 501), ("CWD a\rb", 501)]).await;
    shown(&mut client, "PWD", "/d/e").await;
    client.ask("CDUP", 250).await;
    shown(&mut client, "PWD", "/d").await;
    client.ask_all(&[("XCUP", 250), ("CDUP", 250), ("CWD ../../..", 250)]).await;
    shown(&mut client, "PWD", "/").await;
    client.ask("CWD //d/./x/../e/", 250).await;
    shown(&mut client, "PWD", "/d/e").await;
    client.ask_all(&[("CWD ~", 550), ("CWD /", 250)]).await;
    assert_eq!(client.ask("MKD a\"b", 257).await.text(), "257 \"/a\"\"b\" created");
    client.ask("CWD a\"b", 250).await;
    shown(&mut client, "PWD", "/a\"\"b").await;
    // The directory goes away under us.
    fs::remove_dir(sshd.files().join("a\"b")).unwrap();
    client.ask_all(&[("SIZE x", 550), ("CWD .", 550), ("CDUP", 250)]).await;
}

#[tokio::test]
async fn commands_that_open_a_data_port() {
    let (sshd, _gateway, mut client) = start().await;
    sshd.place_file("a", "content");
    client.ask_all(&[("RETR a", 425), ("LIST", 425), ("STOR b", 425), ("APPE b", 425), ("NLST", 425)]).await;
    client.ask_all(&[("MLSD", 425), ("RETR missing", 425)]).await;
    assert!(!sshd.files().join("b").exists());

    let reply = client.ask("PASV", 227).await.text();
    let (start, numbers) = reply.split_once('(').unwrap();
    assert_eq!(start, "227 Entering Passive Mode ");
    let numbers: Vec<u8> =
        numbers.strip_suffix(").").unwrap().split(',').map(|number| number.parse().unwrap()).collect();
    assert_eq!(numbers[..4], [127, 0, 0, 1]);
    let address = SocketAddr::from(([127, 0, 0, 1], u16::from_be_bytes([numbers[4], numbers[5]])));
    client.ask("RETR a", 150).await;
    let mut data = client.data(address).await;
    let mut bytes = Vec::new();
    data.read_to_end(&mut bytes).await.unwrap();
    drop(data);
    client.expect(226).await;
    assert_eq!(bytes, b"content");

    // Good for one transfer, also for one that is refused.
    client.ask("RETR a", 425).await;
    client.ask_all(&[("EPSV", 229), ("RETR missing", 550), ("RETR a", 425)]).await;
    client.ask_all(&[("EPSV", 229), ("STOR missing/x", 553), ("RETR a", 425)]).await;
    client.ask_all(&[("EPSV", 229), ("RETR", 501), ("RETR a", 425)]).await;
    client.ask_all(&[("EPSV", 229), ("LIST missing", 550), ("RETR a", 425)]).await;
    client.ask_all(&[("EPSV", 229), ("ABOR", 226), ("RETR a", 425), ("ABOR", 226)]).await;

    // A new one closes the former, and one that is given back is closed.
    let former = client.passive().await;
    let latter = client.passive().await;
    // It may be the same port again.
    if former != latter {
        assert_refused(former).await;
    }
    client.ask("ABOR", 226).await;

    assert!(client.ask("EPSV 1", 229).await.text().starts_with("229 Entering Extended Passive Mode (|||"));
    client.ask_all(&[("EPSV 2", 522), ("EPSV 3", 522), ("EPSV x", 501), ("EPSV 1 1", 501)]).await;
    client.ask_all(&[("PORT 127,0,0,1,200,1", 502), ("EPRT |1|127.0.0.1|51201|", 502)]).await;
    client.ask_all(&[("epsv all", 200), ("PASV", 501), ("EPSV", 229), ("EPSV 1", 229)]).await;
    assert_eq!(client.retrieve("a").await, b"content");
}

/// Nobody listens there (any more: the socket is closed by another task).
async fn assert_refused(address: SocketAddr) {
    // A connection that the kernel still took is closed without a word.
    if let Ok(mut stream) = TcpStream::connect(address).await {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        assert_eq!(bytes, b"");
    }
}

#[tokio::test]
async fn rest_holds_for_the_next_transfer_command_and_no_longer() {
    let (sshd, _gateway, mut client) = start().await;
    sshd.place_file("a", "0123456789");
    assert_eq!(client.ask("REST 4", 350).await.text(), "350 Restarting at 4");
    assert_eq!(client.retrieve("a").await, b"456789");
    assert_eq!(client.retrieve("a").await, b"0123456789", "REST is used up");
    client
        .ask_all(&[
            ("REST 4", 350),
            ("TYPE A", 200),
            ("TYPE I", 200),
            ("PASV", 227),
            ("SIZE a", 213),
            ("MDTM a", 213),
            ("NOOP", 200),
            ("PWD", 257),
            ("FEAT", 211),
            ("XYZZY", 500),
            ("REST x", 501),
        ])
        .await;
    assert_eq!(client.retrieve("a").await, b"456789");
    for (command, code) in [("RETR missing", 425), ("RETR a", 425), ("RETR", 425), ("ABOR", 226), ("USER x", 530)] {
        client.ask_all(&[("REST 4", 350), (command, code)]).await;
        assert_eq!(client.retrieve("a").await, b"0123456789", "after {command}");
    }
    for command in ["RETR missing", "LIST missing", "STOR missing/x", "APPE missing/x", "MLSD missing"] {
        client.ask_all(&[("REST 4", 350), ("EPSV", 229)]).await;
        assert!(client.command(command).await.code >= 500);
        assert_eq!(client.retrieve("a").await, b"0123456789", "after {command}");
    }
    client.ask("REST 4", 350).await;
    client.lines("LIST").await;
    assert_eq!(client.retrieve("a").await, b"0123456789", "after LIST");

    client.ask("REST 10", 350).await;
    assert_eq!(client.retrieve("a").await, b"");
    client
        .ask_all(&[
            ("REST", 501),
            ("REST -1", 501),
            ("REST +1", 501),
            ("REST 9223372036854775808", 501),
            ("REST 11", 350),
            ("EPSV", 229),
            ("RETR a", 554),
            ("REST 9223372036854775807", 350),
            ("EPSV", 229),
            ("RETR a", 554),
            ("REST 11", 350),
            ("EPSV", 229),
            ("STOR a", 554),
            ("REST 11", 350),
            ("EPSV", 229),
            ("APPE a", 554),
            ("REST 1", 350),
            ("EPSV", 229),
            ("STOR new", 554),
        ])
        .await;
    assert!(!sshd.files().join("new").exists());

    let content = |name: &str| String::from_utf8(fs::read(sshd.files().join(name)).unwrap()).unwrap();
    client.ask("REST 4", 350).await;
    assert_eq!(client.store("STOR a", b"ab").await.code, 226);
    assert_eq!(content("a"), "0123ab6789");
    client.ask("REST 8", 350).await;
    assert_eq!(client.store("APPE a", b"wxyz").await.code, 226);
    assert_eq!(content("a"), "0123ab67wxyz");
    client.ask("REST 0", 350).await;
    assert_eq!(client.store("STOR a", b"new").await.code, 226);
    assert_eq!(content("a"), "new");
    assert_eq!(client.store("APPE a", b" and newer").await.code, 226);
    assert_eq!(content("a"), "new and newer");
    assert_eq!(client.store("APPE b", b"appended to nothing").await.code, 226);
    assert_eq!(content("b"), "appended to nothing");

    // Under TYPE A the marker counts what is transmitted.
    sshd.place_file("text", "a\nb\n");
    client.ask_all(&[("TYPE A", 200), ("REST 3", 350)]).await;
    assert_eq!(client.retrieve("text").await, b"b\r\n");
    client.ask_all(&[("REST 3", 350), ("EPSV", 229), ("STOR text", 554)]).await;
}

#[tokio::test]
async fn rename_takes_effect_only_directly_after_rnfr() {
    let (sshd, _gateway, mut client) = start().await;
    let files = sshd.files();
    for name in ["a", "b", "c"] {
        sshd.place_file(name, name);
    }
    sshd.place_directory("d");
    sshd.place_directory("d/e");
    fs::create_dir(files.join("closed")).unwrap();
    client
        .ask_all(&[
            ("RNTO x", 503),
            ("RNFR missing", 550),
            ("RNTO x", 503),
            ("RNFR", 501),
            ("RNFR /", 550),
            ("RNFR missing/a", 550),
        ])
        .await;
    for (between, code) in [
        ("NOOP", 200),
        ("XYZZY", 500),
        ("PORT x", 502),
        ("PWD", 257),
        ("RNFR missing", 550),
        ("RETR a", 425),
        ("STAT", 211),
        ("USER x", 530),
    ] {
        client.ask_all(&[("RNFR a", 350), (between, code), ("RNTO x", 503)]).await;
    }
    assert!(files.join("a").exists() && !files.join("x").exists());

    client.ask_all(&[("RNFR a", 350), ("RNFR b", 350), ("RNTO x", 250), ("RNTO y", 503)]).await;
    assert_eq!(fs::read(files.join("x")).unwrap(), b"b");
    assert!(files.join("a").exists() && !files.join("b").exists());
    client.ask_all(&[("RNFR a", 350), ("RNTO x", 250)]).await;
    assert_eq!(fs::read(files.join("x")).unwrap(), b"a", "RNTO replaces a file");
    client.ask_all(&[("RNFR x", 350), ("RNTO d/x", 250), ("RNFR d/x", 350), ("RNTO d/x", 250)]).await;
    client.ask_all(&[("RNFR d", 350), ("RNTO moved", 250), ("SIZE moved/x", 213)]).await;

    for refused in ["missing/x", "moved", "moved/e", "closed/x", "a\rb", ""] {
        let code = if refused.is_empty() || refused.contains('\r') { 501 } else { 553 };
        client.ask("RNFR c", 350).await;
        client.ask(format!("RNTO {refused}"), code).await;
        client.ask("RNTO again", 503).await;
    }
    client.ask_all(&[("RNFR moved", 350), ("RNTO moved/e/inside", 553)]).await;
    client.ask_all(&[("RNFR moved", 350), ("RNTO c", 553), ("RNFR moved", 350), ("RNTO moved", 250)]).await;
    client.ask("RNFR c", 350).await;
    fs::remove_file(files.join("c")).unwrap();
    client.ask("RNTO z", 550).await;
    // A link is renamed, not what it leads to.
    symlink("moved", files.join("link")).unwrap();
    client.ask_all(&[("RNFR link", 350), ("RNTO renamed", 250)]).await;
    assert_eq!(fs::read_link(files.join("renamed")).unwrap().to_str(), Some("moved"));
}

#[tokio::test]
async fn commands_that_make_and_remove() {
    let (sshd, _gateway, mut client) = start().await;
    let files = sshd.files();
    sshd.place_file("f", "x");
    sshd.place_directory("full");
    sshd.place_file("full/x", "x");
    fs::create_dir(files.join("closed")).unwrap();
    fs::write(files.join("closed/x"), "x").unwrap();
    symlink("full", files.join("link")).unwrap();
    assert_eq!(client.ask("MKD new", 257).await.text(), "257 \"/new\" created");
    assert_eq!(fs::metadata(files.join("new")).unwrap().mode() & 0o777, 0o755);
    assert_eq!(client.ask("XMKD new/inner", 257).await.text(), "257 \"/new/inner\" created");
    client
        .ask_all(&[
            ("MKD new", 550),
            ("MKD f", 550),
            ("MKD /", 550),
            ("MKD", 501),
            ("MKD missing/x", 550),
            ("MKD f/x", 550),
            ("MKD closed/y", 550),
            ("CWD new/inner", 250),
            ("RMD .", 550),
            ("RMD /new", 550),
            ("CWD /", 250),
            ("RMD new", 550),
            ("XRMD new/inner", 250),
            ("RMD new", 250),
            ("RMD new", 550),
            ("RMD full", 550),
            ("RMD f", 550),
            ("RMD link", 550),
            ("RMD /", 550),
            ("RMD", 501),
            ("DELE full", 550),
            ("DELE missing", 550),
            ("DELE missing/x", 550),
            ("DELE f/x", 550),
            ("DELE closed/x", 550),
            ("DELE", 501),
            ("DELE /", 550),
            ("DELE link", 250),
            ("DELE f", 250),
            ("DELE f", 550),
        ])
        .await;
    assert!(files.join("full/x").exists() && files.join("closed/x").exists());
    assert!(fs::symlink_metadata(files.join("link")).is_err());
}

#[tokio::test]
async fn commands_that_tell_and_set_attributes() {
    let (sshd, _gateway, mut client) = start().await;
    let files = sshd.files();
    let path = sshd.place_file("a", "0123456789");
    sshd.place_file(" two  words ", "x");
    sshd.place_directory("d");
    sshd.place_file("d/x", "x");
    fs::write(files.join("foreign"), "x").unwrap();
    // 2024-02-29T12:34:56Z
    let moment = UNIX_EPOCH + Duration::from_secs(1_709_210_096);
    let set = |moment: SystemTime| fs::File::options().write(true).open(&path).unwrap().set_modified(moment).unwrap();
    set(moment);
    assert_eq!(client.ask("SIZE a", 213).await.text(), "213 10");
    assert_eq!(client.ask("MDTM a", 213).await.text(), "213 20240229123456");
    client.ask("MDTM d", 213).await;
    client
        .ask_all(&[
            ("SIZE d", 550),
            ("SIZE missing", 550),
            ("SIZE a/x", 550),
            ("SIZE", 501),
            ("SIZE a\rb", 501),
            ("MDTM missing", 550),
            ("MDTM", 501),
            ("TYPE A", 200),
            ("SIZE a", 550),
            ("SIZE missing", 550),
            ("TYPE I", 200),
            ("SIZE a", 213),
        ])
        .await;

    let accessed = fs::metadata(&path).unwrap().atime();
    assert_eq!(client.ask("MFMT 20010203040506 a", 213).await.text(), "213 Modify=20010203040506; a");
    assert_eq!(client.ask("MDTM a", 213).await.text(), "213 20010203040506");
    assert_eq!(fs::metadata(&path).unwrap().mtime(), 981_173_106);
    assert_eq!(fs::metadata(&path).unwrap().atime(), accessed);
    assert_eq!(
        client.ask("MFMT 20010203040506  two  words ", 213).await.text(),
        "213 Modify=20010203040506;  two  words "
    );
    client
        .ask_all(&[
            ("MFMT 20240229123456 a", 213),
            ("MFMT 20010203040506.123 d", 213),
            ("MFMT 20230229123456 a", 501),
            ("MFMT 20241301000000 a", 501),
            ("MFMT 2024 a", 501),
            ("MFMT x a", 501),
            ("MFMT 20240229123456", 501),
            ("MFMT 20240229123456 ", 501),
            ("MFMT", 501),
            ("MFMT 20240229123456 missing", 550),
            ("MFMT 20240229123456 foreign", 550),
            ("MFMT 19691231235959 a", 550),
            ("MFMT 21060207062816 a", 550),
            ("MDTM a", 213),
        ])
        .await;
    set(moment);

    let facts = "perm=adfrw;UNIX.mode=0644;UNIX.owner=54321;UNIX.group=54321;";
    assert_eq!(
        client.ask("MLST a", 250).await.text(),
        format!("250-Listing /a\n type=file;size=10;modify=20240229123456;{facts} /a\n250 End")
    );
    client.ask("CWD d", 250).await;
    let reply = client.ask("MLST", 250).await.text();
    assert!(reply.starts_with("250-Listing /d\n type=dir;modify="), "{reply}");
    assert!(reply.ends_with(";perm=cdeflmp;UNIX.mode=0755;UNIX.owner=54321;UNIX.group=54321; /d\n250 End"), "{reply}");
    assert!(client.ask("MLST x", 250).await.text().ends_with("; /d/x\n250 End"));
    client.ask_all(&[("MLST missing", 550), ("MLST x/y", 550), ("MLST a\rb", 501), ("CWD /", 250)]).await;

    // STAT tells over the control connection what LIST tells over a data connection.
    let listed: Vec<String> =
        client.lines("LIST d").await.into_iter().map(|line| String::from_utf8(line).unwrap()).collect();
    assert_eq!(client.ask("STAT d", 212).await.text(), format!("212-Status:\n {}\n212 End of status", listed[0]));
    assert_eq!(client.ask("STAT d/x", 213).await.text(), format!("213-Status:\n {}\n213 End of status", listed[0]));
    assert_eq!(client.ask("STAT -la d", 212).await.lines.len(), 3);
    assert_eq!(client.ask("STAT d/*", 213).await.lines.len(), 3);
    client.ask_all(&[("STAT missing", 450), ("STAT d/*z", 450)]).await;
}

#[tokio::test]
async fn transfers_that_are_refused_are_refused_before_150() {
    let (sshd, _gateway, mut client) = start().await;
    let files = sshd.files();
    sshd.place_file("a", "0123456789");
    sshd.place_directory("d");
    fs::set_permissions(sshd.place_file("unreadable", "x"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::write(files.join("foreign"), "x").unwrap();
    fs::create_dir(files.join("closed")).unwrap();
    assert!(Command::new("mkfifo").arg(files.join("pipe")).status().unwrap().success());
    symlink("nowhere", files.join("broken")).unwrap();
    for (command, code) in [
        ("RETR missing", 550),
        ("RETR missing/a", 550),
        ("RETR a/x", 550),
        ("RETR d", 550),
        ("RETR /", 550),
        ("RETR pipe", 550),
        ("RETR broken", 550),
        ("RETR unreadable", 550),
        ("RETR", 501),
        ("RETR ", 501),
        ("RETR a\rb", 501),
        ("RETR a\0b", 501),
        ("STOR missing/a", 553),
        ("STOR a/x", 553),
        ("STOR d", 553),
        ("STOR /", 553),
        ("STOR pipe", 553),
        ("STOR closed/x", 553),
        ("STOR", 501),
        ("STOR a\rb", 501),
        ("STOR a\0b", 501),
        ("APPE d", 553),
        ("APPE missing/a", 553),
        ("APPE foreign", 553),
        ("APPE", 501),
        ("LIST missing", 550),
        ("LIST a\0b", 501),
        ("NLST missing", 550),
        ("MLSD missing", 550),
        ("MLSD a", 501),
    ] {
        client.ask("EPSV", 229).await;
        client.ask(command, code).await;
    }
    client.ask(b"RETR \xff\xffx", 425).await;

    // 150 tells the size where it is the number of bytes that will come.
    for (kind, text) in [
        ("I", "150 Opening BINARY mode data connection for a (10 bytes)"),
        ("A", "150 Opening ASCII mode data connection for a"),
    ] {
        client.ask(format!("TYPE {kind}"), 200).await;
        let address = client.passive().await;
        assert_eq!(client.ask("RETR a", 150).await.text(), text);
        let mut data = client.data(address).await;
        let mut bytes = Vec::new();
        data.read_to_end(&mut bytes).await.unwrap();
        drop(data);
        client.expect(226).await;
        assert_eq!(bytes, b"0123456789");
    }
}

#[tokio::test]
async fn an_upload_replaces_the_content_and_nothing_else() {
    let (sshd, _gateway, mut client) = start().await;
    let files = sshd.files();
    fs::set_permissions(sshd.place_file("a", "a longer content"), fs::Permissions::from_mode(0o640)).unwrap();
    sshd.place_directory("d");
    sshd.place_file("d/target", "old");
    symlink("d/target", files.join("link")).unwrap();
    symlink("d/unborn", files.join("dangling")).unwrap();
    assert_eq!(client.store("STOR a", b"short").await.code, 226);
    assert_eq!(fs::read(files.join("a")).unwrap(), b"short");
    assert_eq!(fs::metadata(files.join("a")).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(client.store("STOR new", b"").await.code, 226);
    assert_eq!(fs::metadata(files.join("new")).unwrap().mode() & 0o7777, 0o644);
    assert_eq!(client.retrieve("new").await, b"");
    // Through a link to what it leads to.
    assert_eq!(client.store("STOR link", b"new").await.code, 226);
    assert_eq!(fs::read(files.join("d/target")).unwrap(), b"new");
    assert_eq!(client.store("STOR dangling", b"born").await.code, 226);
    assert_eq!(fs::read(files.join("d/unborn")).unwrap(), b"born");
    assert_eq!(client.store("APPE link", b"er").await.code, 226);
    assert_eq!(client.retrieve("link").await, b"newer");
    assert!(fs::symlink_metadata(files.join("link")).unwrap().is_symlink());
    let mut names: Vec<_> = fs::read_dir(&files).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a", "d", "dangling", "link", "new"], "nothing is left behind");
}

#[tokio::test]
async fn ascii_converts_line_ends_both_ways_as_the_policy_says() {
    let sshd = Sshd::start().await;
    let root = |policy: &str| format!("    root: \"{}\"\n    policy: {{ascii: {policy}}}\n", sshd.files().display());
    let setup = Setup::backend(&sshd)
        .with_user("convert", &root("convert"))
        .with_user("binary", &root("binary"))
        .with_user("refuse", &root("refuse"));
    let gateway = Gateway::start(&setup);
    let files = sshd.files();
    let mut client = logged_in_as(&gateway, "convert").await;
    client.ask("TYPE A", 200).await;
    assert_eq!(client.store("STOR up", b"a\r\nb\nc\rd\r\r\n\r\ne\r").await.code, 226);
    assert_eq!(fs::read(files.join("up")).unwrap(), b"a\nb\nc\rd\r\n\ne\r");
    assert_eq!(client.store("APPE up", b"\nf\r\n").await.code, 226);
    assert_eq!(fs::read(files.join("up")).unwrap(), b"a\nb\nc\rd\r\n\ne\r\nf\n");
    sshd.place_file("down", "a\nb\r\nc\rd\n\n");
    assert_eq!(client.retrieve("down").await, b"a\r\nb\r\nc\rd\r\n\r\n");
    let lines = "a line of text\n".repeat(100_000);
    assert_eq!(client.store("STOR long", lines.replace('\n', "\r\n").as_bytes()).await.code, 226);
    assert_eq!(fs::read(files.join("long")).unwrap(), lines.as_bytes());
    assert_eq!(client.retrieve("long").await, lines.replace('\n', "\r\n").as_bytes());
    client.ask("TYPE I", 200).await;
    assert_eq!(client.retrieve("down").await, b"a\nb\r\nc\rd\n\n");

    let mut client = logged_in_as(&gateway, "binary").await;
    client.ask("TYPE A", 200).await;
    assert_eq!(client.store("STOR up", b"a\r\nb\n").await.code, 226);
    assert_eq!(fs::read(files.join("up")).unwrap(), b"a\r\nb\n");
    assert_eq!(client.retrieve("down").await, b"a\nb\r\nc\rd\n\n");
    client.ask("SIZE down", 213).await;

    let mut client = logged_in_as(&gateway, "refuse").await;
    client.ask_all(&[("TYPE A", 504), ("TYPE I", 200)]).await;
    assert_eq!(client.retrieve("down").await, b"a\nb\r\nc\rd\n\n");
}

#[tokio::test]
async fn each_command_needs_its_permission() {
    let sshd = Sshd::start().await;
    sshd.place_file("a", "content");
    sshd.place_directory("d");
    let user =
        |permissions: &str| format!("    root: \"{}\"\n    permissions: {permissions}\n", sshd.files().display());
    let setup = Setup::backend(&sshd)
        .with_user("reader", &user("read-only"))
        .with_user("writer", &user("write-only"))
        .with_user("nobody", &user("[]"))
        .with_user("keeper", &user("[list, read, write, rename, mkdir]"))
        .with_user("deleter", &user("[delete]"));
    let gateway = Gateway::start(&setup);

    let mut reader = logged_in_as(&gateway, "reader").await;
    assert_eq!(reader.retrieve("a").await, b"content");
    assert_eq!(reader.lines("NLST").await, [b"a", b"d"]);
    assert!(reader.ask("MLST a", 250).await.text().contains(";perm=r;"));
    assert!(reader.ask("MLST d", 250).await.text().contains(";perm=el;"));
    reader.ask_all(&[("SIZE a", 213), ("MDTM a", 213), ("CWD d", 250), ("CWD /", 250), ("STAT a", 213)]).await;
    for (command, code) in [("STOR b", 550), ("APPE a", 550), ("STOR a", 550)] {
        reader.ask_all(&[("EPSV", 229), (command, code)]).await;
    }
    reader.ask_all(&[("DELE a", 550), ("RMD d", 550), ("MKD e", 550), ("RNFR a", 550), ("RNTO b", 550)]).await;
    reader.ask("MFMT 20240229123456 a", 550).await;

    let mut writer = logged_in_as(&gateway, "writer").await;
    assert_eq!(writer.store("STOR dropped", b"x").await.code, 226);
    for (command, code) in [("STOR a", 553), ("APPE a", 553), ("RETR a", 550), ("LIST", 550), ("NLST", 550)] {
        writer.ask_all(&[("EPSV", 229), (command, code)]).await;
    }
    writer.ask_all(&[("EPSV", 229), ("MLSD", 550), ("MLST a", 550), ("SIZE a", 550), ("MDTM a", 550)]).await;
    writer.ask_all(&[("STAT a", 550), ("STAT", 211), ("DELE a", 550), ("MKD e", 550), ("RNFR a", 550)]).await;

    let mut nobody = logged_in_as(&gateway, "nobody").await;
    for command in ["STOR b", "APPE b", "RETR a", "LIST", "NLST", "MLSD"] {
        nobody.ask_all(&[("EPSV", 229), (command, 550)]).await;
    }
    nobody.ask_all(&[("DELE a", 550), ("PWD", 257), ("CWD d", 250), ("FEAT", 211), ("NOOP", 200)]).await;

    // Without `overwrite` nothing that is there is replaced, by whatever way.
    let mut keeper = logged_in_as(&gateway, "keeper").await;
    assert_eq!(keeper.store("STOR kept", b"x").await.code, 226);
    for command in ["STOR a", "APPE a", "STOR kept"] {
        keeper.ask_all(&[("EPSV", 229), (command, 553)]).await;
    }
    keeper.ask_all(&[("RNFR kept", 350), ("RNTO a", 553), ("RNFR kept", 350), ("RNTO renamed", 250)]).await;
    keeper.ask_all(&[("MKD e", 257), ("DELE a", 550), ("RMD e", 550)]).await;
    assert!(keeper.ask("MLST a", 250).await.text().contains(";perm=fr;"));

    let mut deleter = logged_in_as(&gateway, "deleter").await;
    deleter.ask_all(&[("DELE renamed", 250), ("RMD e", 250), ("MKD e", 550), ("RNFR a", 550)]).await;
    assert_eq!(fs::read(sshd.files().join("a")).unwrap(), b"content");
}

#[tokio::test]
async fn s10_and_11_nothing_above_the_root_is_reached_by_any_path_or_link() {
    let sshd = Sshd::start().await;
    sshd.place_directory("in");
    sshd.place_directory("in/sub");
    sshd.place_file("in/sub/x", "inside");
    sshd.place_directory("in-other");
    sshd.place_file("in-other/secret", "outside");
    sshd.place_file("secret", "outside");
    let root = sshd.files().join("in");
    symlink("/etc", root.join("a")).unwrap();
    symlink("..", root.join("up")).unwrap();
    symlink("../in-other", root.join("beside")).unwrap();
    symlink("../secret", root.join("file")).unwrap();
    symlink(sshd.files().join("new"), root.join("unborn")).unwrap();
    symlink("sub", root.join("inside")).unwrap();
    let lines = |policy: &str| format!("    root: \"{}\"\n{policy}", root.display());
    let setup = Setup::backend(&sshd)
        .with_user("inside", &lines(""))
        .with_user("follow", &lines("    policy: {symlinks: follow}\n"));
    let gateway = Gateway::start(&setup);
    let mut client = logged_in_as(&gateway, "inside").await;

    assert_eq!(client.retrieve("inside/x").await, b"inside");
    client.ask_all(&[("CWD inside", 250), ("SIZE x", 213), ("CWD /", 250)]).await;
    for (link, file) in [("a", "passwd"), ("up", "secret"), ("beside", "secret"), ("up/in-other", "secret")] {
        for (command, code) in [
            (format!("RETR {link}/{file}"), 550),
            (format!("STOR {link}/x"), 553),
            (format!("STOR {link}/{file}"), 553),
            (format!("APPE {link}/{file}"), 553),
            (format!("LIST {link}"), 550),
            (format!("NLST {link}"), 550),
            (format!("NLST {link}/*"), 550),
            (format!("MLSD {link}"), 550),
            (format!("LIST {link}/{file}"), 550),
            (format!("CWD {link}"), 550),
            (format!("SIZE {link}/{file}"), 550),
            (format!("MDTM {link}/{file}"), 550),
            (format!("MLST {link}/{file}"), 550),
            (format!("MLST {link}"), 550),
            (format!("STAT {link}"), 450),
            (format!("MFMT 20240229123456 {link}/{file}"), 550),
            (format!("DELE {link}/{file}"), 550),
            (format!("MKD {link}/x"), 550),
            (format!("RMD {link}/x"), 550),
            (format!("RNFR {link}/{file}"), 550),
        ] {
            client.ask("EPSV", 229).await;
            client.ask(command, code).await;
        }
        client.ask("RNFR inside", 350).await;
        client.ask(format!("RNTO {link}/x"), 553).await;
    }
    for (command, code) in
        [("RETR file", 550), ("STOR file", 553), ("APPE file", 553), ("STOR unborn", 553), ("MLST file", 550)]
    {
        client.ask_all(&[("EPSV", 229), (command, code)]).await;
    }
    assert_eq!(fs::read(sshd.files().join("secret")).unwrap(), b"outside");
    assert!(!sshd.files().join("new").exists() && !sshd.files().join("x").exists());
    // Links that lead out are shown as links, the others as what they lead to.
    let kinds: Vec<String> = client
        .lines("LIST")
        .await
        .into_iter()
        .map(|line| {
            let line = String::from_utf8(line).unwrap();
            let (of_entry, target) = line.split_once(" -> ").map_or((&*line, ""), |(entry, target)| (entry, target));
            // Where they lead is not the client's to know.
            format!("{} {}{target}", &line[..1], of_entry.rsplit(' ').next().unwrap())
        })
        .collect();
    for shown in ["l a?", "l up?", "l beside?", "l file?", "l unborn?", "d inside", "d sub"] {
        assert!(kinds.iter().any(|kind| kind == shown), "{shown}: {kinds:?}");
    }

    let climbing = [
        "../secret",
        "../../secret",
        "/../secret",
        "sub/../../secret",
        "./.././secret",
        "//..//..//secret",
        "....//secret",
        "..%2fsecret",
        "%2e%2e/secret",
        "..\\secret",
        "\u{2025}/secret",
        "../in-other/secret",
        "/etc/passwd",
        "../../../../../../../../etc/passwd",
        "~/secret",
        "~root/secret",
    ];
    for path in climbing {
        client.ask("EPSV", 229).await;
        client.ask(format!("RETR {path}"), 550).await;
        client.ask(format!("SIZE {path}"), 550).await;
        client.ask(format!("DELE {path}"), 550).await;
        client.ask(format!("CWD {path}"), 550).await;
    }
    client.ask(b"RETR \xc0\xae\xc0\xae/secret", 425).await;
    client.ask_all(&[("CWD ../../..", 250), ("SIZE sub/x", 213), ("CWD sub", 250), ("CDUP", 250), ("CDUP", 250)]).await;
    assert_eq!(client.ask("PWD", 257).await.text(), "257 \"/\" is the current directory");
    // Removing or renaming a link is about the link.
    client.ask_all(&[("DELE a", 250), ("RNFR up", 350), ("RNTO down", 250)]).await;
    assert!(root.join("down").is_symlink());

    let mut follow = logged_in_as(&gateway, "follow").await;
    assert_eq!(follow.retrieve("file").await, b"outside");
    assert_eq!(follow.retrieve("beside/secret").await, b"outside");
    follow.ask_all(&[("SIZE ../secret", 550), ("CWD beside", 250), ("CDUP", 250), ("SIZE sub/x", 213)]).await;
}

#[tokio::test]
async fn s26_names_of_files_under_way_are_neither_seen_nor_touched() {
    let (sshd, _gateway, mut client) = start().await;
    let reserved = format!(".x.{}.f2s-part", "0123456789abcdef".repeat(2));
    sshd.place_file(&reserved, "under way");
    sshd.place_file(".x.f2s-part", "an ordinary name");
    sshd.place_file("a", "x");
    let shown = [b".x.f2s-part".to_vec(), b"a".to_vec()];
    for command in ["NLST", "NLST -a"] {
        let mut names = client.lines(command).await;
        names.sort();
        assert_eq!(names, shown);
    }
    for command in ["LIST", "LIST -a", "MLSD"] {
        let lines = client.lines(command).await;
        assert_eq!(lines.len(), 2, "{command}");
        assert!(!lines.iter().any(|line| line.ends_with(reserved.as_bytes())));
    }
    assert_eq!(client.lines("NLST .x*").await, shown[..1]);
    assert_eq!(client.ask("STAT .", 212).await.lines.len(), 4);
    for (command, code) in [
        ("RETR", 550),
        ("STOR", 553),
        ("APPE", 553),
        ("LIST", 550),
        ("NLST", 550),
        ("MLSD", 550),
        ("MLST", 550),
        ("SIZE", 550),
        ("MDTM", 550),
        ("MFMT 20240229123456", 550),
        ("DELE", 550),
        ("MKD", 550),
        ("RMD", 550),
        ("RNFR", 550),
        ("CWD", 550),
        ("STAT", 550),
    ] {
        client.ask("EPSV", 229).await;
        client.ask(format!("{command} {reserved}"), code).await;
        client.ask("EPSV", 229).await;
        client.ask(format!("{command} {reserved}/x"), code).await;
    }
    client.ask("RNFR a", 350).await;
    client.ask(format!("RNTO {reserved}"), 553).await;
    client.ask_all(&[("EPSV", 229), ("NLST .x.0*", 450)]).await;
    assert_eq!(fs::read(sshd.files().join(&reserved)).unwrap(), b"under way");
    assert_eq!(client.retrieve(".x.f2s-part").await, b"an ordinary name");
}
