//! Which SSH algorithms are spoken with which servers: old ones only where the operator says so, and nothing that
//! Terrapin breaks.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ftps2sftp::config::algorithms::{Algorithms, CIPHER, HOST_KEY, KEX, Kind, MAC};
use ftps2sftp::config::secret::Secret;
use ftps2sftp::ssh::{ConnectError, Connection, Credentials, HostKeyPolicy, LoginKey, PrivateKey, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::client::Client;
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, Setup};
use crate::support::sshd::{Options, PASSWORD, Sshd, USER};

/// What servers of the years before 2014 have, and OpenSSH still has when told to.
const OLD: [&str; 5] = [
    "KexAlgorithms diffie-hellman-group14-sha1",
    "HostKeyAlgorithms ssh-rsa",
    "PubkeyAcceptedAlgorithms ssh-rsa",
    "Ciphers aes128-cbc",
    "MACs hmac-sha1",
];

async fn server(lines: &[&str]) -> Sshd {
    let config = lines.iter().map(|line| (*line).to_owned()).collect();
    Sshd::with(Options { config, host_keys: vec!["rsa", "ed25519"], ..Options::default() }).await
}

fn target(sshd: &Sshd, algorithms: Algorithms) -> Target {
    let mut backend = Arc::into_inner(sshd.backend()).unwrap();
    backend.algorithms = algorithms;
    let policy = HostKeyPolicy::for_backend(&backend).unwrap();
    Target::new(Arc::new(backend), policy)
}

async fn open(target: &Target) -> Result<Connection, ConnectError> {
    let connection = Connection::open(target, &Credentials::password(USER, Secret::new(PASSWORD))).await?;
    connection.open_sftp().await?;
    Ok(connection)
}

#[tokio::test]
async fn a_server_with_nothing_but_old_algorithms_is_refused_unless_legacy_is_asked_for() {
    let sshd = server(&OLD).await;
    let error = open(&target(&sshd, Algorithms::modern())).await.unwrap_err();
    assert!(matches!(error, ConnectError::KeyExchange(_)), "{error:?}");
    // It says what the server has.
    assert!(error.to_string().contains("the server has diffie-hellman-group14-sha1"), "{error}");
    assert!(!sshd.log().contains("Failed password"), "{}", sshd.log());

    let connection = open(&target(&sshd, Algorithms::legacy())).await.unwrap();
    assert_eq!(connection.agreed(), "diffie-hellman-group14-sha1, aes128-cbc");
    // An RSA key signs with SHA-1 there, and nowhere else.
    let key = PrivateKey::load(&sshd.client_key(&["-t", "rsa", "-b", "2048"], ""), None).unwrap();
    let credentials = Credentials::key(USER, LoginKey::of(key));
    Connection::open(&target(&sshd, Algorithms::legacy()), &credentials).await.unwrap();
    assert!(sshd.log().contains("Accepted publickey for alice"), "{}", sshd.log());
    let sshd = server(&["PubkeyAcceptedAlgorithms ssh-rsa"]).await;
    let key = PrivateKey::load(&sshd.client_key(&["-t", "rsa", "-b", "2048"], ""), None).unwrap();
    let error = Connection::open(&target(&sshd, Algorithms::modern()), &Credentials::key(USER, LoginKey::of(key)))
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::Rejected { .. }), "{error:?}");
}

/// Only one thing is old, and only that is asked for.
#[tokio::test]
async fn a_list_of_one_kind_leaves_the_others_modern() {
    for (line, kind, named) in [
        ("KexAlgorithms diffie-hellman-group14-sha1", "kex", "diffie-hellman-group14-sha1"),
        ("KexAlgorithms diffie-hellman-group1-sha1", "kex", "diffie-hellman-group1-sha1"),
        ("KexAlgorithms diffie-hellman-group-exchange-sha256", "kex", "diffie-hellman-group-exchange-sha256"),
        ("HostKeyAlgorithms ssh-rsa", "host_key", "ssh-rsa"),
        ("Ciphers aes256-cbc", "cipher", "aes256-cbc"),
    ] {
        let sshd = server(&[line]).await;
        let error = open(&target(&sshd, Algorithms::modern())).await.unwrap_err();
        assert!(matches!(error, ConnectError::KeyExchange(_)), "{line}: {error:?}");
        let mut algorithms = Algorithms::modern();
        match kind {
            "kex" => algorithms.kex = vec![named],
            "host_key" => algorithms.host_key = vec![named],
            _ => algorithms.cipher = vec![named],
        }
        open(&target(&sshd, algorithms)).await.unwrap_or_else(|error| panic!("{line}: {error:?}"));
    }
}

/// Each name that can be written in the configuration is one that works with OpenSSH, as far as that has it.
#[tokio::test]
async fn every_name_is_spoken_with_openssh() {
    let has = |kind: &str| {
        let output = std::process::Command::new("ssh").args(["-Q", kind]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let (kexes, signatures, ciphers, macs) = (has("kex"), has("sig"), has("cipher"), has("mac"));
    let mut tried = 0;
    for (kind, keyword, offered) in [
        (KEX, "KexAlgorithms", kexes),
        (HOST_KEY, "HostKeyAlgorithms", signatures),
        (CIPHER, "Ciphers", ciphers),
        (MAC, "MACs", macs),
    ] {
        let Kind { key, .. } = kind;
        for name in kind.known().filter(|name| offered.lines().any(|line| line == *name)) {
            // A MAC is only used where the cipher needs one.
            let lines = [format!("{keyword} {name}"), "Ciphers aes128-ctr".to_owned()];
            let config = if key == "mac" { lines.to_vec() } else { lines[..1].to_vec() };
            let host_keys = vec!["ed25519", "ecdsa", "rsa"];
            if name.ends_with("nistp384") || name.ends_with("nistp521") {
                continue; // The server has one ECDSA key, of 256 bits.
            }
            let sshd = Sshd::with(Options { config, host_keys, ..Options::default() }).await;
            let mut backend = Arc::into_inner(sshd.backend()).unwrap();
            backend.algorithms = Algorithms::legacy();
            match key {
                "kex" => backend.algorithms.kex = vec![name],
                "host_key" => backend.algorithms.host_key = vec![name],
                "cipher" => backend.algorithms.cipher = vec![name],
                _ => backend.algorithms.mac = vec![name],
            }
            let known: String =
                ["ed25519", "ecdsa", "rsa"].map(|kind| format!("127.0.0.1 {}\n", sshd.host_key(kind))).concat();
            std::fs::write(backend.known_hosts.as_ref().unwrap(), known).unwrap();
            let policy = HostKeyPolicy::for_backend(&backend).unwrap();
            open(&Target::new(Arc::new(backend), policy)).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
            tried += 1;
        }
    }
    assert!(tried >= 20, "{tried}");
}

/// S-28: a server, or somebody in between, that takes strict key exchange out of the offer.
///
/// The first packet each way is in clear (RFC 4253 §7.1) and the relay renames what it finds in it. That breaks the
/// signature of the key exchange, but what matters here comes before that.
async fn unstrict(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(to).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
                    if to_server.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
            });
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
                    let name = b"kex-strict-s-v00@openssh.com";
                    if let Some(at) = buffer[..count].windows(name.len()).position(|window| window == name) {
                        buffer[at] = b'x';
                    }
                    if to_client.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn s28_terrapin_is_given_nothing_to_break() {
    // russh's own server, told not to offer strict key exchange.
    use crate::support::plain_sshd::PlainSshd;
    for (ciphers, agreed) in [
        // Nothing else than what is broken: refused, and the reason is told.
        (vec![russh::cipher::CHACHA20_POLY1305], None),
        // Something else, too: that is taken.
        (vec![russh::cipher::CHACHA20_POLY1305, russh::cipher::AES_256_CTR], Some("aes256-ctr")),
        (vec![russh::cipher::AES_256_GCM], Some("aes256-gcm@openssh.com")),
    ] {
        let server = PlainSshd::start(ciphers.clone(), false).await;
        let mut algorithms = Algorithms::modern();
        // As if the server's wish decided, so that the broken one would be agreed on.
        algorithms.cipher.sort_by_key(|cipher| !cipher.starts_with("chacha20"));
        let target = server.target(algorithms);
        for _ in 0..2 {
            match (Connection::greet(&target).await, agreed) {
                (Ok(connection), Some(agreed)) => {
                    assert!(connection.agreed().ends_with(agreed), "{}", connection.agreed())
                }
                (Err(error @ ConnectError::NotStrict { .. }), None) => {
                    assert!(error.to_string().contains("CVE-2023-48795"), "{error}");
                }
                (result, _) => panic!("{ciphers:?}: {result:?}"),
            }
        }
        assert_eq!(server.asked(), 0, "nobody tried to log in");
        // Whoever asks for old algorithms has been told.
        Connection::greet(&server.target(Algorithms::legacy())).await.unwrap();
    }
    // And a server that has it speaks all of them.
    let server = PlainSshd::start(vec![russh::cipher::CHACHA20_POLY1305], true).await;
    let connection = Connection::greet(&server.target(Algorithms::modern())).await.unwrap();
    assert!(connection.agreed().ends_with("chacha20-poly1305@openssh.com"), "{}", connection.agreed());

    // Taken out on the way: the key exchange is signed, so that nothing comes of it.
    let sshd = Sshd::start().await;
    let mut backend = Arc::into_inner(sshd.backend()).unwrap();
    let relay = unstrict(sshd.address()).await;
    backend.addresses[0].port = relay.port();
    let known_hosts = format!("127.0.0.1 {}\n", sshd.host_key("ed25519"));
    std::fs::write(backend.known_hosts.as_ref().unwrap(), known_hosts).unwrap();
    let policy = HostKeyPolicy::for_backend(&backend).unwrap();
    let error = Connection::greet(&Target::new(Arc::new(backend), policy)).await.unwrap_err();
    assert!(!matches!(error, ConnectError::Rejected { .. }), "{error:?}");
}

#[tokio::test]
async fn a_user_reaches_an_old_server_through_the_gateway() {
    let sshd = server(&OLD).await;
    let fingerprint = sshd.host_key_fingerprint("rsa");
    let key = sshd.client_key(&["-t", "rsa", "-b", "2048"], "");
    let setup = |algorithms: &str| {
        let mut setup = Setup::backend(&sshd);
        setup.backends = format!(
            "  files: {{address: \"{}\", host_keys: [\"{fingerprint}\"], algorithms: {algorithms}}}\n",
            sshd.address()
        );
        setup.with_login(
            "acme",
            &format!("{{user: {USER}, private_key: {}}}", key.display()),
            &format!("    root: \"{}\"\n", sshd.files().display()),
        )
    };
    for algorithms in ["legacy", "{kex: legacy, host_key: [ssh-rsa], cipher: [aes128-cbc], mac: [hmac-sha1]}"] {
        let gateway = Gateway::start(&setup(algorithms));
        let mut client = Client::explicit(&gateway).await;
        client.log_in("acme", MAPPED_PASSWORD).await;
        assert_eq!(client.store("STOR file", &vec![7; 3_000_000]).await.code, 226, "{algorithms}");
        assert_eq!(client.retrieve("file").await.len(), 3_000_000);
    }
    let gateway = Gateway::start(&setup("modern"));
    let mut client = Client::explicit(&gateway).await;
    client.ask("USER acme", 331).await;
    client.ask(&format!("PASS {MAPPED_PASSWORD}"), 421).await;
    gateway.wait_for_log(|line| line.contains("the server has diffie-hellman-group14-sha1"));
}
