//! No password gets into what is written down (S-17), however it is sent.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use ftps2sftp::config::secret::Secret;
use ftps2sftp::identity::password;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::client::{Client, latin1};
use crate::support::gateway::{Gateway, MAPPED_USER, Setup};
use crate::support::sshd::{Options, PASSWORD, Sshd, USER};
use crate::support::transfer::eventually;

const CANARY: &str = "Zx9!canary";

/// Lines with a password in them: as clients send it, as people mistype it, and as somebody hides it.
fn spellings() -> Vec<Vec<u8>> {
    let mut spellings: Vec<Vec<u8>> = Vec::new();
    for verb in ["PASS", "pass", "PaSs", "XPASS", "PASSWD", "ACCT", "USER", "AUTH", "SITE PASS", "SITE CHPASS old"] {
        spellings.push(format!("{verb} {CANARY}").into_bytes());
    }
    for line in [
        " PASS @",
        "\tPASS @",
        "PASS  @",
        "PASS @ ",
        "PASS\t@",
        "PASS -@",
        "PASS:@",
        "PASS=@",
        "PASS@",
        "PASS",
        "@",
        " @",
        "PASS \"@\"",
        "PASS '@'",
        "PASS @@",
        "PASS x @",
        "PASS @ x",
        "P ASS @",
        "PASS @\0",
        "PASS \0@",
        "PASS @\r",
        "PASS \r@",
        "\0PASS @",
        "NOOP PASS @",
        "NOOP\rPASS @",
        "QUOTE PASS @",
        "USER x PASS @",
        "USER x\nPASS @",
        "USER x\r\nPASS @",
        "USER x:@",
        "HELP @",
        "OPTS @",
        "HOST @",
        "REIN @",
        "ADAT @",
        "MIC @",
        "ENC @",
        "PASS \u{1b}[2J@",
        "PASS \u{7f}@",
        "PASS {\"password\":\"@\"}",
        "PASS %s%n@",
        "PASS ${env:@}",
    ] {
        spellings.push(line.replace('@', CANARY).into_bytes());
    }
    // Telnet in front, in between and half of it.
    for telnet in [&b"\xff\xf4\xff\xf2"[..], b"\xff\xf1", b"\xff\xff", b"\xf2", b"\xff\xfd\x06"] {
        spellings.push([telnet, b"PASS ", CANARY.as_bytes()].concat());
        spellings.push([b"PA", telnet, b"SS ", CANARY.as_bytes()].concat());
    }
    // Longer than a line may be.
    spellings.push([b"PASS ", CANARY.as_bytes(), &[b'x'; 6000]].concat());
    spellings
}

/// Says all of it, each on a connection of its own, in clear or under TLS, until it has ended.
async fn say(gateway: &Gateway, before: &[&str], under_tls: bool) {
    join_all(spellings().into_iter().map(async |spelling| {
        let bytes = [spelling, b"\r\nNOOP\r\nQUIT\r\n".to_vec()].concat();
        if under_tls {
            let mut client = Client::implicit(gateway).await;
            for line in before {
                client.command(line).await;
            }
            client.send_raw(&bytes).await;
            while client.try_reply().await.is_ok() {}
        } else {
            let mut stream = TcpStream::connect(gateway.explicit).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s17_a_password_in_any_spelling_is_in_no_log_and_no_metric() {
    assert!(spellings().len() > 50, "{}", spellings().len());
    let sshd = Sshd::with(Options { config: vec!["MaxStartups 500".to_owned()], ..Options::default() }).await;
    let hash = password::hash(&Secret::new(CANARY)).unwrap();
    let mut setup = Setup::backend(&sshd);
    setup.users.push_str(&format!(
        "  {MAPPED_USER}: {{password_hash: \"{hash}\", backend: files, login: {{user: {USER}, password: \
         \"{PASSWORD}\"}}}}\n  \"*\": {{backend: files, login: passthrough}}\n"
    ));
    setup.level = Some("trace".to_owned());
    // Failures are many here, and their delays are not what is looked at.
    let limits = "limits: {failed_logins: {per_session: 1, per_ip: null, per_user: null}}\n";
    let gateway = Gateway::start(&setup.with(limits));
    let user = format!("USER {MAPPED_USER}");
    let login = [user.as_str(), &format!("PASS {CANARY}")].map(str::to_owned);
    let login: Vec<&str> = login.iter().map(String::as_str).collect();
    let alice = format!("USER {USER}");
    let (user, alice) = ([user.as_str()], [alice.as_str()]);
    tokio::join!(
        say(&gateway, &[], false),
        say(&gateway, &[], true),
        say(&gateway, &user, true),
        say(&gateway, &alice, true),
        say(&gateway, &login, true),
    );
    gateway.wait_for_log(|line| line.contains("\"logged in\""));
    let log = gateway.log();
    assert!(log.lines().count() > 1000, "nothing was logged that could be searched");
    let (_, metrics) = gateway.get("/metrics").await;
    let (_, status) = gateway.get("/").await;
    let searched = [("log", &log), ("metrics", &metrics), ("page", &status)];
    assert_in_none(&[CANARY, PASSWORD, &hash, "Zx9", "canary"], &searched);
}

fn assert_in_none(secrets: &[&str], searched: &[(&str, &String)]) {
    for secret in secrets {
        for (name, text) in searched {
            let found = text.lines().find(|line| line.contains(secret));
            assert_eq!(found, None, "{secret} is in the {name}");
        }
    }
}

/// No part of a password stands in the memory of a gateway that its sessions have left.
async fn assert_forgotten(gateway: &Gateway, password: &str) {
    gateway.wait_for_metric("ftps2sftp_sessions", 0.0).await;
    let halves = [password, &password[..password.len() / 2], &password[password.len() / 2..]];
    // A session that is counted no more may still be on its last lines.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let found: Vec<String> = halves.iter().flat_map(|part| gateway.find_in_memory(part.as_bytes())).collect();
        if found.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{} places:\n{}", found.len(), found.join("\n"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s17_after_logout_no_password_is_in_memory() {
    let sshd = Sshd::with(Options { config: vec!["MaxStartups 500".to_owned()], ..Options::default() }).await;
    let hash = password::hash(&Secret::new(CANARY)).unwrap();
    for login in ["passthrough", "passthrough-once"] {
        let mut setup = Setup::backend(&sshd);
        setup.users.push_str(&format!(
            "  checked: {{password_hash: \"{hash}\", backend: files, login: passthrough}}\n  \"*\": {{backend: files, login: {login}}}\n"
        ));
        let limits = "limits: {failed_logins: {per_session: 1, per_ip: null, per_user: null}}\n";
        let gateway = Gateway::start(&setup.with(limits));
        // What the search is able to find.
        assert!(!gateway.find_in_memory(hash.as_bytes()).is_empty());
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = Client::implicit(&gateway).await;
            client.log_in(USER, PASSWORD).await;
            client.ask("TYPE I", 200).await;
            clients.push(client);
        }
        for client in &mut clients {
            assert_eq!(client.store("STOR file", &[b'x'; 100_000]).await.code, 226);
            assert_eq!(client.retrieve("file").await.len(), 100_000);
        }
        for mut client in clients {
            client.ask("QUIT", 221).await;
            client.expect_closed().await;
        }
        say(&gateway, &[&format!("USER {USER}")], true).await;
        say(&gateway, &["USER checked"], true).await;
        say(&gateway, &[], false).await;
        assert_forgotten(&gateway, CANARY).await;
        assert_forgotten(&gateway, PASSWORD).await;
    }
}

/// Audit records may have files of their own; and a process tells of itself in more places than its log.
#[tokio::test(flavor = "multi_thread")]
async fn s17_no_password_is_in_audit_files_the_status_or_what_a_process_tells_of_itself() {
    /// In a file, in the environment and in the configuration, as a password may be given.
    const OTHERS: [&str; 2] = ["In a file 7!", "Inherited 8!"];
    let sshd = Sshd::with(Options { config: vec!["MaxStartups 500".to_owned()], ..Options::default() }).await;
    let hash = password::hash(&Secret::new(CANARY)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("password"), OTHERS[0]).unwrap();
    let mut setup = Setup::backend(&sshd);
    for (name, password) in
        [(MAPPED_USER, PASSWORD), ("file", "${file:@}"), ("environment", "${env:FTPS2SFTP_TEST_PASSWORD}")]
    {
        let password = password.replace('@', &path("password"));
        let login = format!("{{user: {USER}, password: \"{password}\"}}");
        setup.users.push_str(&format!("  {name}: {{password_hash: \"{hash}\", backend: files, login: {login}}}\n"));
    }
    let setup = setup.with_passthrough().with(&format!(
        "limits: {{failed_logins: {{per_session: 1, per_ip: null, per_user: null}}}}\naudit: {{path: \"{}\", xferlog: \
         \"{}\"}}\n",
        path("audit"),
        path("xferlog")
    ));
    let setup = Setup { environment: vec![("FTPS2SFTP_TEST_PASSWORD".to_owned(), OTHERS[1].to_owned())], ..setup };
    let gateway = Gateway::start(&setup);
    let mut client = Client::implicit(&gateway).await;
    client.log_in(MAPPED_USER, CANARY).await;
    assert_eq!(client.store("STOR file", b"content").await.code, 226);
    let (user, password) = (format!("USER {MAPPED_USER}"), format!("PASS {CANARY}"));
    // The server is shown those passwords, which are wrong, and says so.
    let others = ["file", "environment"].map(async |name| {
        let mut client = Client::implicit(&gateway).await;
        client.ask_all(&[(&format!("USER {name}"), 331), (&password, 421)]).await;
    });
    let whole = [user.as_str(), &password];
    tokio::join!(join_all(others), say(&gateway, &[], true), say(&gateway, &whole, true));
    gateway.wait_for_metric("ftps2sftp_audit_records_total{sink=\"xferlog\",result=\"ok\"}", 1.0).await;
    let read = |name: &str| fs::read_to_string(path(name)).unwrap();
    eventually("all is written", || read("audit").lines().count() > spellings().len()).await;
    let audit = read("audit");
    assert!(audit.contains("\"login.result\":\"success\"") && audit.contains("\"login.result\":\"failure\""));
    let api = gateway.get("/api/v1/status").await.1;
    assert!(api.contains("\"sessions\""), "{api}");
    let checked = Command::new(env!("CARGO_BIN_EXE_ftps2sftp"))
        .args(["check", "--config", gateway.file().to_str().unwrap()])
        .env("FTPS2SFTP_TEST_PASSWORD", OTHERS[1])
        .output()
        .unwrap();
    let checked = latin1(&[checked.stdout, checked.stderr].concat());
    assert!(checked.contains("files"), "{checked}");
    let (log, xferlog, cmdline) = (gateway.log(), read("xferlog"), gateway.process_file("cmdline"));
    let environment = gateway.process_file("environ");
    let searched = [
        ("audit file", &audit),
        ("xferlog", &xferlog),
        ("log", &log),
        ("status", &api),
        ("output of check", &checked),
        ("command line", &cmdline),
    ];
    assert_in_none(&[CANARY, PASSWORD, &hash, "Zx9", "canary", OTHERS[0], OTHERS[1]], &searched);
    // What an operator has put there stays there; nothing else comes to it.
    assert!(environment.contains(OTHERS[1]));
    assert_in_none(&[CANARY, PASSWORD, &hash, "Zx9", "canary", OTHERS[0]], &[("environment", &environment)]);
}
