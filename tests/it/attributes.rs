//! Times and modes: MDTM that sets, MFMT, MFF and SITE; and the small commands around a file.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::support::client::Client;
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, MAPPED_USER, Setup};
use crate::support::sshd::Sshd;

/// 2026-01-01T00:00:00Z
const NEW_YEAR: i64 = 1_767_225_600;

fn modified(path: &Path) -> i64 {
    fs::metadata(path).unwrap().mtime()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn times_are_set_in_every_form_that_clients_use() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::logged_in(&gateway).await;
    sshd.place_file("a b", "content");
    let file = sshd.files().join("a b");
    for (line, code, seconds, told) in [
        ("MDTM 20260101000000 a b", 213, NEW_YEAR, "20260101000000"),
        ("MDTM 20260101000010.500 a b", 213, NEW_YEAR + 10, "20260101000010"),
        ("MDTM 20260101010000+60 a b", 213, NEW_YEAR, "20260101000000"),
        ("MFMT 20260101000011 a b", 213, NEW_YEAR + 11, "Modify=20260101000011; a b"),
        ("MFF Modify=20260101000012; a b", 213, NEW_YEAR + 12, "Modify=20260101000012; a b"),
        ("SITE UTIME 20260101000013 a b", 200, NEW_YEAR + 13, ""),
        ("SITE UTIME 202601010001 a b", 200, NEW_YEAR + 60, ""),
        ("SITE UTIME a b 20260101000100 20260101000014 20260101000000 UTC", 200, NEW_YEAR + 14, ""),
    ] {
        let reply = client.ask(line, code).await;
        assert_eq!(modified(&file), seconds, "{line}");
        assert!(reply.text().contains(told), "{line}: {}", reply.text());
    }
    assert_eq!(fs::metadata(&file).unwrap().atime(), NEW_YEAR + 60);
    // A name that looks like a time is a name first (RFC 3659 §3.1).
    sshd.place_file("20200101000000 a b", "another");
    assert_eq!(client.ask("MDTM a b", 213).await.text().trim_end(), "213 20260101000014");
    let own = client.ask("MDTM 20200101000000 a b", 213).await.text();
    assert!(!own.contains("20200101000000"), "{own}");
    client
        .ask_all(&[
            ("MDTM 20260101000000 absent", 550),
            ("MDTM 19691231235959 a b", 550),
            ("MDTM 20260231000000 a b", 550),
            ("SITE UTIME 20260231000000 a b", 501),
            ("SITE UTIME 20260101000000", 501),
            ("MFF Create=20260101000000; a b", 504),
            ("MFF Modify=20260101000000 a b", 501),
            ("MFCT 20260101000000 a b", 502),
        ])
        .await;
    assert_eq!(modified(&file), NEW_YEAR + 14);
}

#[tokio::test]
async fn modes_are_set_and_never_more_than_permissions() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::logged_in(&gateway).await;
    sshd.place_file("a b", "content");
    let file = sshd.files().join("a b");
    client.ask("SITE CHMOD 640 a b", 200).await;
    assert_eq!(mode(&file), 0o640);
    client.ask("site chmod 0600 /a b", 200).await;
    assert_eq!(mode(&file), 0o600);
    let told = client.ask("MFF UNIX.mode=0644;Modify=20260101000000; a b", 213).await.text();
    assert!(told.contains("Modify=20260101000000;UNIX.mode=0644; a b"), "{told}");
    assert_eq!((mode(&file), modified(&file)), (0o644, NEW_YEAR));
    client
        .ask_all(&[
            ("SITE CHMOD 4755 a b", 550),
            ("MFF UNIX.mode=2755; a b", 550),
            ("SITE CHMOD 999 a b", 501),
            ("SITE CHMOD 644", 501),
            ("SITE CHMOD 644 absent", 550),
            ("SITE CHMOD 644 ../../etc/passwd", 550),
            ("SITE EXEC id", 500),
            ("SITE CPFR /etc/passwd", 500),
            ("SITE SYMLINK a c", 500),
            ("SITE CHGRP root a", 500),
            ("SITE", 501),
            ("SITE UMASK", 200),
            ("SITE UMASK 077", 200),
            ("SITE UMASK 8", 501),
            ("MKD dark", 257),
        ])
        .await;
    assert_eq!(client.store("STOR dark file", b"x").await.code, 226);
    assert_eq!(mode(&file), 0o644);
    assert_eq!(mode(&sshd.files().join("dark file")), 0o600);
    assert_eq!(mode(&sshd.files().join("dark")), 0o700);
    let help = client.ask("SITE HELP", 214).await.text();
    assert!(help.contains(" CHMOD ") && help.contains(" UTIME "), "{help}");
}

#[tokio::test]
async fn what_the_permissions_do_not_allow_is_refused() {
    let sshd = Sshd::start().await;
    sshd.place_file("a", "content");
    let user =
        |permissions: &str| format!("    root: \"{}\"\n    permissions: {permissions}\n", sshd.files().display());
    let setup = Setup::backend(&sshd).with_user("reader", &user("read-only"));
    let setup = setup.with_user("writer", &user("[list, read, write, overwrite]"));
    let gateway = Gateway::start(&setup);
    let before = fs::metadata(sshd.files().join("a")).unwrap();
    let mut reader = Client::explicit(&gateway).await;
    reader.log_in("reader", MAPPED_PASSWORD).await;
    reader
        .ask_all(&[
            ("SITE CHMOD 600 a", 550),
            ("SITE UTIME 20260101000000 a", 550),
            ("SITE UMASK 000", 550),
            ("MFF UNIX.mode=0600; a", 550),
            ("MFF Modify=20260101000000; a", 550),
            ("MDTM 20260101000000 a", 550),
            ("MFMT 20260101000000 a", 550),
            ("STOU", 550),
        ])
        .await;
    let mut writer = Client::explicit(&gateway).await;
    writer.log_in("writer", MAPPED_PASSWORD).await;
    writer.ask_all(&[("SITE CHMOD 600 a", 550), ("SITE UMASK 000", 550), ("MFF UNIX.mode=0600; a", 550)]).await;
    let after = fs::metadata(sshd.files().join("a")).unwrap();
    assert_eq!((before.mode(), before.mtime()), (after.mode(), after.mtime()));
    writer.ask("SITE UTIME 20260101000000 a", 200).await;
}

#[tokio::test]
async fn site_idle_shortens_the_idle_time() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::logged_in(&gateway).await;
    client.ask_all(&[("SITE IDLE", 200), ("SITE IDLE 0", 501), ("SITE IDLE 301", 501), ("SITE IDLE x", 501)]).await;
    client.ask("SITE IDLE 1", 200).await;
    client.expect(421).await;
    client.expect_closed().await;
}

#[tokio::test]
async fn unique_names_are_told_before_and_after_and_replace_nothing() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    fs::create_dir(sshd.files().join("in")).unwrap();
    std::os::unix::fs::chown(sshd.files().join("in"), Some(fs::metadata(sshd.files()).unwrap().uid()), None).unwrap();
    let mut client = Client::logged_in(&gateway).await;
    client.ask("TYPE I", 200).await;
    let mut told = Vec::new();
    for (line, begins) in [("STOU", "upload."), ("STOU order 7", "order 7."), ("STOU in/order", "in/order.")] {
        for bytes in [&b"first"[..], b"second", b""] {
            let address = client.passive().await;
            let opening = client.ask(line, 150).await.text();
            let mut data = client.data(address).await;
            tokio::io::AsyncWriteExt::write_all(&mut data, bytes).await.unwrap();
            tokio::io::AsyncWriteExt::shutdown(&mut data).await.unwrap();
            let closing = client.expect(226).await.text();
            let name = opening.trim_end().strip_prefix("150 FILE: ").unwrap().to_owned();
            assert_eq!(closing.trim_end(), format!("226 FILE: {name}"));
            assert!(name.starts_with(begins), "{name}");
            assert_eq!(fs::read(sshd.files().join(&name)).unwrap(), bytes);
            assert!(!told.contains(&name));
            told.push(name);
        }
    }
    client.ask_all(&[("REST 5", 350), ("EPSV", 229), ("STOU", 554)]).await;
    client.ask_all(&[("EPSV", 229), ("STOU absent/x", 553)]).await;
}

#[tokio::test]
async fn a_range_is_sent_to_its_last_octet() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let bytes = crate::support::transfer::content(1_000_000, 1);
    sshd.place_file("file", &bytes);
    let mut client = Client::logged_in(&gateway).await;
    client.ask("TYPE I", 200).await;
    let last = bytes.len() - 1;
    for (first, end) in [(0, 0), (5, 9), (0, last), (400_000, 700_000), (last, last), (10, 2_000_000)] {
        client.ask(format!("RANG {first} {end}"), 350).await;
        assert!(client.retrieve("file").await == bytes[first..=end.min(last)], "{first} to {end}");
        // For one transfer only.
        assert!(client.retrieve("file").await == bytes, "{first} to {end}");
    }
    client.ask_all(&[("RANG 5 9", 350), ("RANG 1 0", 350)]).await;
    assert!(client.retrieve("file").await == bytes);
    client.ask_all(&[("RANG 5 9", 350), ("REST 999990", 350)]).await;
    assert!(client.retrieve("file").await == bytes[999_990..]);
    client.ask_all(&[("RANG 9 5", 501), ("RANG 5", 501), ("RANG a b", 501), ("RANG", 501)]).await;
    for command in ["STOR other", "APPE other", "STOU"] {
        client.ask_all(&[("RANG 5 9", 350), ("EPSV", 229), (command, 550)]).await;
    }
    client.ask_all(&[("RANG 2000000 3000000", 350), ("EPSV", 229), ("RETR file", 554)]).await;
    client.ask_all(&[("TYPE A", 200), ("RANG 5 9", 350), ("EPSV", 229), ("RETR file", 554)]).await;
    assert!(!sshd.files().join("other").exists());
}

#[tokio::test]
async fn a_host_is_the_one_that_tls_was_asked_for() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::clear(&gateway).await;
    client
        .ask_all(&[
            ("HOST ftp.example.com", 220),
            ("HOST localhost", 220),
            ("HOST 127.0.0.1", 220),
            ("HOST 127.0.0.2", 504),
            ("HOST [::1]", 504),
            ("HOST ftp.example.com:21", 501),
            ("HOST", 501),
            ("LANG", 200),
            ("LANG en-GB", 200),
            ("LANG fr", 504),
            ("LANG e_n", 501),
            ("CSID client", 200),
            ("CCC", 533),
        ])
        .await;
    let mut client = Client::implicit(&gateway).await;
    client.ask_all(&[("HOST other.example", 504), ("HOST LOCALHOST", 220), ("CCC", 534)]).await;
    client.ask(format!("USER {MAPPED_USER}"), 331).await;
    client.ask("HOST localhost", 503).await;
    client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
    client.ask_all(&[("HOST localhost", 503), ("AVBL", 502)]).await;

    let setup = Setup::backend(&sshd).with_users(&sshd.files()).with("policy: {available_space: true}\n");
    let gateway = Gateway::start(&setup);
    let mut client = Client::logged_in(&gateway).await;
    let reply = client.ask("AVBL", 213).await.text();
    assert!(reply[4..].trim_end().parse::<u64>().unwrap() > 0, "{reply}");
    client.ask_all(&[("AVBL /", 213), ("AVBL absent", 550)]).await;
}
