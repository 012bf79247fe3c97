//! HASH and the X commands, against coreutils.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::client::Client;
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, Setup};
use crate::support::sshd::Sshd;
use crate::support::transfer::{ABOR_LIMIT, content, eventually};

/// What `sha256sum` and its sisters say of a file.
fn sum(program: &str, file: &Path) -> String {
    let output = Command::new(program).arg(file).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split([' ', '\\']).find(|word| word.len() >= 32).unwrap().to_owned()
}

#[tokio::test]
async fn digests_are_those_of_coreutils() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::logged_in(&gateway).await;
    for (name, bytes) in [("a b", content(3_000_000, 1)), ("empty", Vec::new()), ("file 1 5", content(10, 2))] {
        sshd.place_file(name, &bytes);
        let file = sshd.files().join(name);
        for (algorithm, older, program) in [
            ("SHA-256", "XSHA256", "sha256sum"),
            ("SHA-1", "XSHA1", "sha1sum"),
            ("SHA-1", "XSHA", "sha1sum"),
            ("MD5", "XMD5", "md5sum"),
        ] {
            let expected = sum(program, &file);
            client.ask(format!("OPTS HASH {algorithm}"), 200).await;
            let told = client.ask(format!("HASH {name}"), 213).await.text();
            assert_eq!(told.trim_end(), format!("213 {algorithm} 0-{} {expected} {name}", bytes.len()));
            for argument in [name.to_owned(), format!("\"{name}\""), format!("/{name}")] {
                let told = client.ask(format!("{older} {argument}"), 250).await.text();
                assert_eq!(told.trim_end(), format!("250 {}", expected.to_uppercase()), "{older} {argument}");
            }
        }
        let expected = sum("sha512sum", &file).to_uppercase();
        assert_eq!(client.ask(format!("XSHA512 {name}"), 250).await.text().trim_end(), format!("250 {expected}"));
    }
    // The check value of CRC-32 (ISO 3309).
    sshd.place_file("check", "0123456789");
    for argument in ["\"check\" 1", "\"check\" 1 10", "check 1 10"] {
        assert_eq!(client.ask(format!("XCRC {argument}"), 250).await.text().trim_end(), "250 CBF43926", "{argument}");
    }
    fs::create_dir(sshd.files().join("directory")).unwrap();
    client
        .ask_all(&[
            ("HASH absent", 550),
            ("HASH directory", 556),
            ("HASH", 501),
            ("XCRC directory", 550),
            ("XCRC absent", 550),
            ("XCRC absent 1 2", 550),
            ("XCRC \"check\" 2 1", 501),
            ("XCRC \"check\" 1 11", 501),
            ("XCRC \"check", 501),
            ("OPTS HASH SHA-3", 501),
            ("OPTS HASH", 200),
        ])
        .await;
}

#[tokio::test]
async fn what_was_just_transferred_is_not_read_again_and_what_was_changed_is() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::logged_in(&gateway).await;
    client.ask_all(&[("TYPE I", 200), ("OPTS HASH SHA-256", 200)]).await;
    let file = sshd.files().join("file");
    let bytes = content(3_000_000, 1);
    for command in ["STOR", "RETR", "STOR in ASCII"] {
        match command {
            "STOR" => assert_eq!(client.store("STOR file", &bytes).await.code, 226),
            "RETR" => assert!(client.retrieve("file").await == bytes),
            _ => {
                client.ask("TYPE A", 200).await;
                assert_eq!(client.store("STOR file", b"one\r\ntwo\r\n").await.code, 226);
                assert_eq!(fs::read(&file).unwrap(), b"one\ntwo\n");
            }
        }
        let expected = sum("sha256sum", &file);
        // Other bytes, and nothing that tells of them: the answer can only come from those that passed.
        let modified = fs::metadata(&file).unwrap().modified().unwrap();
        let length = fs::metadata(&file).unwrap().len();
        fs::write(&file, vec![0; usize::try_from(length).unwrap()]).unwrap();
        fs::File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
        let told = client.ask("HASH file", 213).await.text();
        assert!(told.contains(&expected), "{command}: {told}");
        // Another time tells that the file was changed.
        let later = SystemTime::now() + Duration::from_secs(60);
        fs::File::options().write(true).open(&file).unwrap().set_modified(later).unwrap();
        let told = client.ask("HASH file", 213).await.text();
        assert!(told.contains(&sum("sha256sum", &file)), "{command}: {told}");
        if command == "STOR" {
            assert_eq!(client.store("STOR file", &bytes).await.code, 226);
        }
    }
}

#[tokio::test]
async fn the_policy_says_which_there_are_and_feat_tells_them() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::logged_in(&gateway).await;
    let feat = client.ask("FEAT", 211).await.text();
    assert!(feat.contains(" HASH SHA-256*;SHA-1;MD5;CRC32"), "{feat}");
    assert!(feat.contains(" XCRC") && feat.contains(" XSHA512"), "{feat}");
    client.ask("OPTS HASH md5", 200).await;
    assert!(client.ask("FEAT", 211).await.text().contains(" HASH SHA-256;SHA-1;MD5*;CRC32"));

    let setup = Setup::backend(&sshd).with_users(&sshd.files());
    let gateway = Gateway::start(&setup.with("policy: {hash: [CRC32]}\n"));
    sshd.place_file("file", "x");
    let mut client = Client::logged_in(&gateway).await;
    client.ask_all(&[("XCRC file", 250), ("HASH file", 213), ("XMD5 file", 502), ("XSHA512 file", 502)]).await;
    client.ask("OPTS HASH SHA-256", 501).await;

    let setup = Setup::backend(&sshd).with_users(&sshd.files());
    let gateway = Gateway::start(&setup.with("policy: {hash: []}\n"));
    let mut client = Client::logged_in(&gateway).await;
    client.ask_all(&[("HASH file", 502), ("XCRC file", 502), ("OPTS HASH", 501)]).await;
    let feat = client.ask("FEAT", 211).await.text();
    assert!(!feat.contains("HASH") && !feat.contains("XCRC"), "{feat}");
}

/// S-22: of all the digests that are asked for at once two are made, the others are put off, and nobody else waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s22_a_hundred_digests_of_a_huge_file_are_made_two_at_a_time() {
    const ASKING: usize = 100;
    const AT_A_TIME: usize = 2;
    /// What the server has written to whom it made a digest for, and no reply of another kind is as long.
    const MUCH: u64 = 4 << 20;
    let sshd = Sshd::start().await;
    let sparse = sshd.place_file("huge", "");
    fs::File::options().write(true).open(sparse).unwrap().set_len(1 << 40).unwrap();
    sshd.place_file("small", "0123456789");
    let root = format!("    root: \"{}\"\n", sshd.files().display());
    let setup = Setup::backend_with(&sshd, "connections: shared").with_user("one", &root).with_user("two", &root);
    let gateway = Gateway::start(&setup.with("limits: {sessions_per_ip: 1000}\n"));
    let mut clients = Vec::new();
    for number in 0..ASKING {
        let mut client = Client::explicit(&gateway).await;
        client.log_in(["one", "two"][number % 2], MAPPED_PASSWORD).await;
        client.ask("TYPE I", 200).await;
        clients.push(client);
    }
    let enough = CancellationToken::new();
    let mut asked = JoinSet::new();
    for (number, mut client) in clients.into_iter().enumerate() {
        let enough = enough.clone();
        let command = ["HASH huge", "XCRC huge", "XMD5 huge", "XSHA512 huge"][number % 4];
        client.send(command).await;
        asked.spawn(async move {
            tokio::select! {
                reply = client.reply() => assert_eq!(reply.code, 450, "{command}: {}", reply.text()),
                () = enough.cancelled() => return (client, true),
            }
            (client, false)
        });
    }
    let busy = || sshd.sftp_servers().into_iter().filter(|server| sshd.have_written(&[*server], MUCH)).count();
    eventually("digests are made", || busy() == AT_A_TIME).await;
    // A login, and a transfer over the same servers, are not held up by what takes minutes.
    let other = async {
        let mut client = Client::explicit(&gateway).await;
        client.log_in("one", MAPPED_PASSWORD).await;
        assert_eq!(client.retrieve("small").await, b"0123456789");
    };
    timeout(Duration::from_secs(10), other).await.expect("served beside the digests");
    let mut put_off = Vec::new();
    while put_off.len() < ASKING - AT_A_TIME {
        let (client, is_being_made) = asked.join_next().await.unwrap().unwrap();
        assert!(!is_being_made);
        put_off.push(client);
    }
    assert_eq!(busy(), AT_A_TIME, "nobody's turn came twice");
    // ABOR gives the turns back.
    enough.cancel();
    for (mut client, is_being_made) in asked.join_all().await {
        assert!(is_being_made);
        client.send("ABOR").await;
        client.expect(426).await;
        client.expect(226).await;
        client.ask("NOOP", 200).await;
    }
    for client in put_off.iter_mut().take(10) {
        assert_eq!(client.ask("XCRC small", 250).await.text().trim_end(), "250 A684C7C6");
    }
}

#[tokio::test]
async fn s22_abor_ends_a_digest_that_takes_long() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    sshd.place_file("file", content(10_000_000, 1));
    let mut client = Client::logged_in(&gateway).await;
    client.ask("SIZE file", 550).await;
    client.ask_all(&[("TYPE I", 200), ("SIZE file", 213)]).await;
    sshd.freeze(&sshd.sftp_servers());
    client.send("HASH file").await;
    client.send("ABOR").await;
    client.expect_within(426, ABOR_LIMIT).await;
    client.expect(226).await;
    client.ask("HASH file", 213).await;
}
