//! SSH servers that are not OpenSSH behind the gateway: logins by password and key, files up and down, listings.

use std::path::Path;
use std::process::Command;

use crate::support::client::Client;
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, Setup};
use crate::support::other_sshd::{Kind, OtherSshd};
use crate::support::sshd::{PASSWORD, USER, run};
use crate::support::transfer::{content, names};

async fn serves(kind: Kind) {
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("key");
    run(Command::new("ssh-keygen").args(["-q", "-N", "", "-t", "rsa", "-b", "2048", "-f"]).arg(&key));
    let server = OtherSshd::start(kind, &key);
    let gateway = Gateway::start(&setup(&server, &key));
    for (round, (user, password)) in [(USER, PASSWORD), ("acme", MAPPED_PASSWORD)].into_iter().enumerate() {
        let mut client = Client::explicit(&gateway).await;
        client.log_in(user, password).await;
        client.ask("TYPE I", 200).await;
        client
            .ask(
                &format!("CWD {}", if user == USER { server.files().display().to_string() } else { "/".to_owned() }),
                250,
            )
            .await;
        let bytes = content(3_000_000, round as u64);
        let name = format!("file{round}");
        assert_eq!(client.store(&format!("STOR {name}"), &bytes).await.code, 226, "{kind:?}");
        assert!(std::fs::read(server.files().join(&name)).unwrap() == bytes, "{kind:?}");
        assert!(client.retrieve(&name).await == bytes, "{kind:?}");
        client.ask(&format!("SIZE {name}"), 213).await;
        // Over an existing file, and under another name.
        assert_eq!(client.store(&format!("STOR {name}"), b"new").await.code, 226, "{kind:?}");
        client.ask(&format!("RNFR {name}"), 350).await;
        client.ask("RNTO other", 250).await;
        assert_eq!(client.retrieve("other").await, b"new", "{kind:?}");
        client.ask("MKD folder", 257).await;
        let listed = client.lines("MLSD").await;
        let has = |name: &str| listed.iter().any(|line| line.ends_with(format!(" {name}").as_bytes()));
        assert!(has("other") && has("folder") && !has(&name), "{kind:?}: {listed:?}");
        client.ask("RMD folder", 250).await;
        client.ask("DELE other", 250).await;
        client.ask("SIZE other", 550).await;
        client.ask("QUIT", 221).await;
    }
    assert!(
        names(&server.files()).iter().all(|name| name.starts_with(".ssh")),
        "{kind:?}: {:?}",
        names(&server.files())
    );

    let mut client = Client::explicit(&gateway).await;
    client.ask(&format!("USER {USER}"), 331).await;
    client.ask("PASS wrong", 530).await;
}

fn setup(server: &OtherSshd, key: &Path) -> Setup {
    Setup::backend_at(server.address(), server.fingerprint())
        .with_login(
            "acme",
            &format!("{{user: {USER}, private_key: {}}}", key.display()),
            &format!("    root: \"{}\"\n", server.files().display()),
        )
        .with_passthrough()
}

#[tokio::test]
async fn dropbear_serves() {
    serves(Kind::Dropbear).await;
}

#[tokio::test]
async fn proftpd_serves() {
    serves(Kind::Proftpd).await;
}

#[tokio::test]
async fn asyncssh_serves() {
    serves(Kind::Asyncssh).await;
}
