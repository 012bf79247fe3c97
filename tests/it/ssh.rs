//! The SSH client against a real OpenSSH server, and against servers that mean no good.

use std::fs;
use std::fs::Permissions;
use std::future::pending;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ftps2sftp::config::algorithms::Algorithms;
use ftps2sftp::config::secret::Secret;
use ftps2sftp::config::{Backend, HostPort, Quirks};
use ftps2sftp::sftp::{OpenFlags, SftpError, WriteStream};
use ftps2sftp::ssh::host_key::CertificateProblem;
use ftps2sftp::ssh::{
    ConnectError, Connection, Credentials, HostKeyError, HostKeyPolicy, HostKeyVerdict, KnownHosts, LoginKey, Phase,
    PrivateKey, PrivateKeyError, Standing, Target,
};
use ftps2sftp::telemetry::metrics::BackendConnectResult;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::server::{Auth, Server as _};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::support::sshd::{Options, PASSWORD, Sshd, USER, run};

fn password(password: &str) -> Credentials {
    Credentials::password(USER, Secret::new(password))
}

fn private_key(key: PrivateKey) -> Credentials {
    Credentials::key(USER, LoginKey::of(key))
}

fn trusting(known_hosts: &str) -> HostKeyPolicy {
    HostKeyPolicy::new(Some(KnownHosts::parse(known_hosts.as_bytes()).unwrap()), Vec::new()).unwrap()
}

fn target(sshd: &Sshd, known_hosts: &str) -> Target {
    Target::new(sshd.backend(), trusting(known_hosts))
}

fn listed(sshd: &Sshd) -> Target {
    let backend = sshd.backend();
    let policy = HostKeyPolicy::for_backend(&backend).unwrap();
    Target::new(backend, policy)
}

async fn host_key_error(target: &Target) -> HostKeyError {
    match Connection::open(target, &password(PASSWORD)).await {
        Err(ConnectError::HostKey(error)) => error,
        other => panic!("expected a refused host key, got {other:?}"),
    }
}

/// A backend of ours in this process, with its own short deadlines.
fn local_backend(addresses: Vec<HostPort>, connect_timeout: Duration) -> Arc<Backend> {
    Arc::new(Backend {
        name: "local".to_owned(),
        addresses,
        known_hosts: None,
        host_keys: Vec::new(),
        keepalive: Duration::from_secs(15),
        connect_timeout,
        request_timeout: Duration::from_secs(30),
        quirks: Quirks::default(),
        shared: false,
        idle_release: None,
        algorithms: Algorithms::modern(),
        jump: None,
        login: None,
    })
}

fn at_port(port: u16) -> HostPort {
    HostPort { host: Ipv4Addr::LOCALHOST.to_string(), port }
}

#[tokio::test]
async fn logs_in_with_a_password_and_starts_sftp() {
    let sshd = Sshd::start().await;
    let connection = Connection::open(&listed(&sshd), &password(PASSWORD)).await.unwrap();
    assert_eq!(connection.host_key_fingerprint(), sshd.host_key_fingerprint("ed25519"));
    assert_eq!(connection.host_key_verdict(), Some(HostKeyVerdict::Listed { line: 1 }));
    assert!(connection.server_version().starts_with("SSH-2.0-OpenSSH"), "{}", connection.server_version());
    let (first, second) = (connection.open_sftp().await.unwrap(), connection.open_sftp().await.unwrap());
    assert_eq!(first.real_path(b".").await.unwrap().as_bytes(), sshd.files().as_os_str().as_encoded_bytes());
    assert_eq!(second.real_path(b"/..").await.unwrap().as_bytes(), b"/");
    assert!(!connection.is_lost());
    connection.close().await;
}

#[tokio::test]
async fn greets_a_server_without_logging_in() {
    let sshd = Sshd::start().await;
    let connection = Connection::greet(&listed(&sshd)).await.unwrap();
    assert_eq!(connection.host_key_fingerprint(), sshd.host_key_fingerprint("ed25519"));
    connection.close().await;
    assert!(!sshd.log().contains("userauth"), "{}", sshd.log());
}

#[tokio::test]
async fn logs_in_by_keyboard_interactive() {
    let sshd = Sshd::with(Options { keyboard_interactive: true, ..Options::default() }).await;
    let connection = Connection::open(&listed(&sshd), &password(PASSWORD)).await.unwrap();
    connection.open_sftp().await.unwrap();
    assert!(sshd.log().contains("Accepted keyboard-interactive/pam for alice"));
}

#[tokio::test]
async fn a_wrong_password_is_rejected_by_either_method() {
    for keyboard_interactive in [false, true] {
        let sshd = Sshd::with(Options { keyboard_interactive, ..Options::default() }).await;
        let error = Connection::open(&listed(&sshd), &password("wrong")).await.unwrap_err();
        let method = if keyboard_interactive { "keyboard-interactive" } else { "password" };
        let ConnectError::Rejected { remaining, .. } = &error else { panic!("{error:?}") };
        assert!(remaining.iter().any(|name| name == method), "{error}");
    }
}

#[tokio::test]
async fn a_wrong_password_counts_once_against_the_account() {
    let config = ["UsePAM yes", "PasswordAuthentication yes", "KbdInteractiveAuthentication yes"];
    let config = config.map(str::to_owned).to_vec();
    let sshd = Sshd::with(Options { config, ..Options::default() }).await;
    let error = Connection::open(&listed(&sshd), &password("wrong")).await.unwrap_err();
    assert!(matches!(error, ConnectError::Rejected { .. }), "{error:?}");
    assert_eq!(sshd.log().matches("Failed ").count(), 1, "{}", sshd.log());
}

#[tokio::test]
async fn an_unknown_user_is_rejected() {
    let sshd = Sshd::start().await;
    let credentials = Credentials { user: "mallory".to_owned(), ..password(PASSWORD) };
    let error = Connection::open(&listed(&sshd), &credentials).await.unwrap_err();
    assert!(matches!(error, ConnectError::Rejected { .. }), "{error:?}");
}

#[tokio::test]
async fn a_password_that_is_not_utf8_is_rejected_without_asking() {
    let sshd = Sshd::start().await;
    let credentials = Credentials::password(USER, Secret::new(b"caf\xe9".to_vec()));
    let error = Connection::open(&listed(&sshd), &credentials).await.unwrap_err();
    assert!(matches!(error, ConnectError::Rejected { .. }), "{error:?}");
    assert!(!sshd.log().contains("Failed password"), "{}", sshd.log());
}

/// One in 256 of them has a scalar that begins with a zero byte, which OpenSSH leaves out.
#[tokio::test]
async fn logs_in_with_an_ecdsa_key_whose_scalar_is_short() {
    let sshd = Sshd::start().await;
    let target = listed(&sshd);
    for passphrase in ["", "open sesame"] {
        let path = sshd.directory_file(&format!("short{}", passphrase.len()));
        // ECPrivateKey (RFC 5915): version, the scalar, and the curve, which is P-256.
        let mut der = vec![0x30, 0x31, 0x02, 0x01, 0x01, 0x04, 0x20];
        der.extend([0; 2].into_iter().chain(2..32));
        der.extend([0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]);
        let pem = format!("-----BEGIN EC PRIVATE KEY-----\n{}\n-----END EC PRIVATE KEY-----\n", STANDARD.encode(der));
        fs::write(&path, pem).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        // In OpenSSH's own format from here on.
        run(Command::new("ssh-keygen").args(["-q", "-p", "-P", "", "-N", passphrase, "-f"]).arg(&path));
        assert!(fs::read_to_string(&path).unwrap().contains("BEGIN OPENSSH PRIVATE KEY"));
        let public = run(Command::new("ssh-keygen").args(["-y", "-P", passphrase, "-f"]).arg(&path));
        sshd.authorize(public.trim());
        let secret = Some(Secret::new(passphrase)).filter(|_| !passphrase.is_empty());
        let key = PrivateKey::load(&path, secret.as_ref()).unwrap_or_else(|error| panic!("{passphrase:?}: {error:?}"));
        let told = run(Command::new("ssh-keygen").arg("-lf").arg(&path));
        assert!(passphrase.len() > 1 || told.contains(&key.fingerprint()), "{told}");
        let error = PrivateKey::load(&path, Some(&Secret::new("wrong")));
        assert_eq!(error.is_err(), !passphrase.is_empty(), "a passphrase where there is none is no mistake");
        Connection::open(&target, &private_key(key)).await.unwrap().close().await;
    }
}

#[tokio::test]
async fn logs_in_with_every_kind_of_private_key() {
    let sshd = Sshd::start().await;
    let target = listed(&sshd);
    for (arguments, passphrase) in [
        (&["-t", "ed25519"][..], ""),
        (&["-t", "ed25519"], "open sesame"),
        (&["-t", "ecdsa", "-b", "256"], ""),
        (&["-t", "ecdsa", "-b", "384"], ""),
        (&["-t", "ecdsa", "-b", "521"], ""),
        (&["-t", "ecdsa", "-m", "PKCS8"], ""),
        (&["-t", "ecdsa", "-m", "PEM"], ""),
        (&["-t", "rsa", "-b", "2048"], ""),
        (&["-t", "rsa", "-b", "2048", "-m", "PEM"], ""),
        (&["-t", "rsa", "-b", "2048", "-m", "PEM"], "open sesame"),
        (&["-t", "rsa", "-b", "2048", "-m", "PKCS8"], "open sesame"),
    ] {
        let file = sshd.client_key(arguments, passphrase);
        let secret = Secret::new(passphrase);
        let key = PrivateKey::load(&file, Some(&secret).filter(|_| !passphrase.is_empty()));
        let key = key.unwrap_or_else(|error| panic!("{arguments:?}: {error:?}"));
        let connection = Connection::open(&target, &private_key(key)).await;
        connection.unwrap_or_else(|error| panic!("{arguments:?}: {error:?}")).close().await;
    }
}

#[tokio::test]
async fn a_key_the_server_does_not_know_is_rejected() {
    let (sshd, other) = (Sshd::start().await, Sshd::start().await);
    let key = PrivateKey::load(&other.client_key(&["-t", "ed25519"], ""), None).unwrap();
    let error = Connection::open(&listed(&sshd), &private_key(key)).await.unwrap_err();
    let ConnectError::Rejected { remaining, .. } = &error else { panic!("{error:?}") };
    assert!(remaining.contains(&"publickey".to_owned()), "{error}");
}

#[tokio::test]
async fn an_encrypted_key_needs_its_passphrase() {
    let sshd = Sshd::start().await;
    for format in [&["-t", "ed25519"][..], &["-t", "ecdsa", "-m", "PKCS8"], &["-t", "rsa", "-m", "PEM"]] {
        let file = sshd.client_key(format, "open sesame");
        let error = PrivateKey::load(&file, None).unwrap_err();
        assert!(matches!(error, PrivateKeyError::NeedsPassphrase { .. }), "{format:?}: {error:?}");
        let error = PrivateKey::load(&file, Some(&Secret::new("wrong"))).unwrap_err();
        assert!(matches!(error, PrivateKeyError::WrongPassphrase { .. }), "{format:?}: {error:?}");
    }
    let error = PrivateKey::load(&sshd.directory_file("log"), None).unwrap_err();
    assert!(matches!(error, PrivateKeyError::NotAKey { .. }), "{error:?}");
}

#[tokio::test]
async fn host_keys_are_known_changed_revoked_or_unknown() {
    let sshd = Sshd::start().await;
    let other = Sshd::start().await;
    let name = format!("[127.0.0.1]:{}", sshd.address().port());
    let (key, other_key) = (sshd.host_key("ed25519"), other.host_key("ed25519"));

    let error = host_key_error(&target(&sshd, &format!("elsewhere {key}"))).await;
    assert!(matches!(error, HostKeyError::Unknown { .. }), "{error}");
    assert!(error.to_string().contains(&sshd.host_key_fingerprint("ed25519")), "{error}");
    let error = host_key_error(&target(&sshd, &format!("{name} {other_key}"))).await;
    assert!(matches!(error, HostKeyError::Changed { line: 1, .. }), "{error}");
    let error = host_key_error(&target(&sshd, &format!("{name} {key}\n@revoked * {key}"))).await;
    assert!(matches!(error, HostKeyError::Revoked { line: 2, .. }), "{error}");

    for names in ["[127.0.0.?]:*", "127.0.0.1", "*,!10.0.0.1"] {
        Connection::open(&target(&sshd, &format!("{names} {key}")), &password(PASSWORD)).await.unwrap();
    }
    let error = host_key_error(&target(&sshd, &format!("*,!{name},!127.0.0.1 {key}"))).await;
    assert!(matches!(error, HostKeyError::Unknown { .. }), "{error}");
    assert!(!sshd.log().contains("Failed"), "a server that is not trusted was shown credentials");
}

#[tokio::test]
async fn finds_the_host_in_a_file_hashed_by_ssh_keygen() {
    let sshd = Sshd::start().await;
    let file = sshd.directory_file("hashed");
    std::fs::write(&file, format!("{}other {}\n", sshd.known_hosts_line(), sshd.host_key("ecdsa"))).unwrap();
    let status = std::process::Command::new("ssh-keygen").arg("-H").arg("-f").arg(&file).output().unwrap().status;
    assert!(status.success());
    let hashed = std::fs::read_to_string(&file).unwrap();
    assert!(hashed.starts_with("|1|"), "{hashed}");
    Connection::open(&target(&sshd, &hashed), &password(PASSWORD)).await.unwrap();
}

#[tokio::test]
async fn asks_the_server_for_the_key_type_that_is_listed() {
    let sshd = Sshd::with(Options { host_keys: vec!["ed25519", "ecdsa", "rsa"], ..Options::default() }).await;
    for key_type in ["ed25519", "ecdsa", "rsa"] {
        let target = target(&sshd, &format!("127.0.0.1 {}", sshd.host_key(key_type)));
        let connection = Connection::open(&target, &password(PASSWORD)).await.unwrap();
        assert_eq!(connection.host_key_fingerprint(), sshd.host_key_fingerprint(key_type));
    }
}

#[tokio::test]
async fn a_pin_fits_whichever_key_of_the_server_it_is_of() {
    let sshd = Sshd::with(Options { host_keys: vec!["ed25519", "ecdsa", "rsa"], ..Options::default() }).await;
    for key_type in ["ed25519", "ecdsa", "rsa"] {
        let fingerprint = sshd.host_key_fingerprint(key_type);
        let target = Target::new(sshd.backend(), HostKeyPolicy::new(None, vec![pin(&fingerprint)]).unwrap());
        for _ in 0..2 {
            let connection = Connection::open(&target, &password(PASSWORD)).await.unwrap();
            assert_eq!(connection.host_key_verdict(), Some(HostKeyVerdict::Pinned));
            assert_eq!(connection.host_key_fingerprint(), fingerprint);
        }
    }
    let target = Target::new(sshd.backend(), HostKeyPolicy::new(None, vec![[7; 32]]).unwrap());
    assert!(matches!(host_key_error(&target).await, HostKeyError::Unknown { .. }));
}

fn pin(fingerprint: &str) -> [u8; 32] {
    use base64::Engine;
    let text = fingerprint.strip_prefix("SHA256:").unwrap();
    base64::engine::general_purpose::STANDARD_NO_PAD.decode(text).unwrap().try_into().unwrap()
}

#[tokio::test]
async fn a_host_certificate_proves_the_host_it_names() {
    for host_key in ["ed25519", "ecdsa", "rsa"] {
        let host_certificate = Some(("127.0.0.1,sftp.example.com".to_owned(), "always:forever".to_owned()));
        let options = Options { host_certificate, host_keys: vec![host_key], ..Options::default() };
        let sshd = Sshd::with(options).await;
        let target = target(&sshd, &format!("@cert-authority * {}", sshd.authority()));
        let connection = Connection::open(&target, &password(PASSWORD)).await.unwrap();
        assert_eq!(connection.host_key_verdict(), Some(HostKeyVerdict::Certified { line: 1 }));
        assert_eq!(connection.host_key_fingerprint(), sshd.host_key_fingerprint(host_key));
    }
}

#[tokio::test]
async fn a_host_certificate_for_others_or_out_of_date_proves_nothing() {
    for (principals, validity, expected) in [
        ("sftp.example.com", "always:forever", CertificateProblem::Principal),
        ("127.0.0.1", "20200101:20210101", CertificateProblem::Expired),
        ("127.0.0.1", "20990101:forever", CertificateProblem::NotYetValid),
    ] {
        let host_certificate = Some((principals.to_owned(), validity.to_owned()));
        let sshd = Sshd::with(Options { host_certificate, ..Options::default() }).await;
        let authority = sshd.authority();
        match host_key_error(&target(&sshd, &format!("@cert-authority * {authority}"))).await {
            HostKeyError::Certificate { problem, .. } => assert_eq!(problem, expected),
            other => panic!("{other}"),
        }
        let revoked = format!("@cert-authority * {authority}\n@revoked * {authority}");
        let error = host_key_error(&target(&sshd, &revoked)).await;
        assert!(matches!(error, HostKeyError::Revoked { line: 2, .. }), "{error}");
    }
}

#[tokio::test]
async fn notices_that_the_server_is_gone() {
    let sshd = Sshd::start().await;
    let connection = Connection::open(&listed(&sshd), &password(PASSWORD)).await.unwrap();
    let _sftp = connection.open_sftp().await.unwrap();
    sshd.kill_sessions();
    connection.lost().await;
    assert!(connection.is_lost());
    assert!(matches!(connection.open_sftp().await, Err(ConnectError::Lost(_))));
}

#[tokio::test]
async fn gives_up_a_server_that_stopped_answering() {
    let sshd = Sshd::start().await;
    let mut backend = Arc::into_inner(sshd.backend()).unwrap();
    backend.keepalive = Duration::from_millis(50);
    let policy = HostKeyPolicy::for_backend(&backend).unwrap();
    let connection = Connection::open(&Target::new(Arc::new(backend), policy), &password(PASSWORD)).await.unwrap();
    sshd.freeze_sessions();
    connection.lost().await;
    assert!(connection.ending().contains("Keepalive"), "{}", connection.ending());
}

#[tokio::test]
async fn a_server_that_pauses_is_waited_for() {
    let sshd = Sshd::start().await;
    let connection = Connection::open(&listed(&sshd), &password(PASSWORD)).await.unwrap();
    sshd.freeze_sessions();
    let mut opening = Box::pin(connection.open_sftp());
    assert!(futures_util::poll!(&mut opening).is_pending());
    sshd.thaw_sessions();
    opening.await.unwrap();
}

#[tokio::test]
async fn an_upload_that_waits_for_the_window_ends_with_the_connection() {
    let sshd = Sshd::start().await;
    let connection = Connection::open(&listed(&sshd), &password(PASSWORD)).await.unwrap();
    let sftp = connection.open_sftp().await.unwrap();
    let path = sftp.real_path(b"upload").await.unwrap();
    let flags = OpenFlags { write: true, create: true, ..OpenFlags::default() };
    let file = sftp.open(&path, flags, None).await.unwrap();
    let mut upload = WriteStream::new(file, 0, 64 * 1024 * 1024);
    sshd.freeze_sessions();
    let written = AtomicUsize::new(0);
    let fill = async {
        loop {
            let mut buffer = upload.buffer();
            buffer.extend(&vec![7; buffer.remaining()]);
            if let Err(error) = upload.write(buffer).await {
                break error;
            }
            written.fetch_add(1, Ordering::SeqCst);
        }
    };
    let kill = async {
        // Until the window and every queue on the way are full, and nothing moves any more.
        let mut before = usize::MAX;
        while before != written.load(Ordering::SeqCst) {
            before = written.load(Ordering::SeqCst);
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
        }
        sshd.kill_sessions();
    };
    let (error, ()) = tokio::join!(fill, kill);
    assert!(matches!(error, SftpError::Lost(_)), "{error:?}");
}

#[tokio::test]
async fn a_dropped_connection_closes_its_socket() {
    let sshd = Sshd::start().await;
    let connection = Connection::open(&listed(&sshd), &password(PASSWORD)).await.unwrap();
    let sftp = connection.open_sftp().await.unwrap();
    assert!(!sshd.session_processes().is_empty());
    drop(connection);
    // The SFTP session is still held: closing is the connection's business alone.
    while !sshd.session_processes().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(sftp);
}

#[tokio::test]
async fn says_so_where_there_is_no_sftp() {
    let config = vec!["Subsystem sftp /bin/false".to_owned()];
    let sshd = Sshd::with(Options { config, ..Options::default() }).await;
    let connection = Connection::open(&listed(&sshd), &password(PASSWORD)).await.unwrap();
    assert!(matches!(connection.open_sftp().await, Err(ConnectError::Sftp(_))));

    let config = vec!["MaxSessions 0".to_owned()];
    let sshd = Sshd::with(Options { config, ..Options::default() }).await;
    let connection = Connection::open(&listed(&sshd), &password(PASSWORD)).await.unwrap();
    assert!(matches!(connection.open_sftp().await, Err(ConnectError::NoChannel(_))));
}

#[tokio::test]
async fn tries_the_addresses_in_order() {
    let sshd = Sshd::start().await;
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().port();
    let addresses = vec![at_port(closed), at_port(sshd.address().port())];
    let backend = local_backend(addresses, Duration::from_secs(30));
    let target = Target::new(backend, trusting(&sshd.known_hosts_line()));
    let connection = Connection::open(&target, &password(PASSWORD)).await.unwrap();
    assert_eq!(connection.server(), &at_port(sshd.address().port()));

    let target = Target::new(local_backend(vec![at_port(closed)], Duration::from_secs(30)), trusting(""));
    let error = Connection::open(&target, &password(PASSWORD)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_without_an_algorithm_of_ours_is_told_apart() {
    for (line, kind) in [
        ("KexAlgorithms diffie-hellman-group14-sha1", "key exchange"),
        ("Ciphers aes128-cbc", "cipher"),
        ("HostKeyAlgorithms ssh-rsa", "host key"),
    ] {
        let options =
            Options { config: vec![line.to_owned()], host_keys: vec!["ed25519", "rsa"], ..Options::default() };
        let sshd = Sshd::with(options).await;
        let error = Connection::open(&listed(&sshd), &password(PASSWORD)).await.unwrap_err();
        assert!(matches!(error, ConnectError::KeyExchange(_)), "{error:?}");
        assert!(error.to_string().contains(&format!("no {kind} algorithm")), "{error}");
    }
}

#[tokio::test]
async fn speaks_the_modern_algorithms_of_openssh() {
    for line in [
        "KexAlgorithms curve25519-sha256",
        "KexAlgorithms ecdh-sha2-nistp256",
        "KexAlgorithms ecdh-sha2-nistp521",
        "KexAlgorithms diffie-hellman-group16-sha512",
        "KexAlgorithms diffie-hellman-group14-sha256",
        "Ciphers aes128-gcm@openssh.com",
        "Ciphers aes256-gcm@openssh.com",
        "Ciphers chacha20-poly1305@openssh.com",
        "Ciphers aes256-ctr",
    ] {
        let sshd = Sshd::with(Options { config: vec![line.to_owned()], ..Options::default() }).await;
        let connection = Connection::open(&listed(&sshd), &password(PASSWORD)).await;
        connection.unwrap_or_else(|error| panic!("{line}: {error:?}")).open_sftp().await.unwrap();
    }
}

#[tokio::test]
async fn a_silent_server_times_out_in_key_exchange_and_loses_its_socket() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let backend = local_backend(vec![at_port(listener.local_addr().unwrap().port())], Duration::from_millis(200));
    let target = Target::new(backend, trusting(""));
    let accept = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut received = Vec::new();
        socket.read_to_end(&mut received).await.unwrap();
        received
    };
    let credentials = password(PASSWORD);
    let (result, received) = tokio::join!(Connection::open(&target, &credentials), accept);
    assert!(matches!(result, Err(ConnectError::TimedOut { phase: Phase::KeyExchange })), "{result:?}");
    assert!(received.starts_with(b"SSH-2.0-ftps2sftp_"), "{}", received.escape_ascii());
}

/// An SSH server that counts what it is asked.
#[derive(Clone)]
struct Scripted {
    answer: Answer,
    asked: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, PartialEq)]
enum Answer {
    /// Never.
    Nothing,
    /// A refusal that leaves no method.
    NoMethod,
    /// The connection is closed.
    HangUp,
    /// A second question after the password.
    OneTimePassword,
}

impl russh::server::Server for Scripted {
    type Handler = Self;

    fn new_client(&mut self, _: Option<std::net::SocketAddr>) -> Self {
        self.clone()
    }
}

impl Scripted {
    async fn answer(&self) -> Result<Auth, russh::Error> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        match self.answer {
            Answer::Nothing => pending().await,
            Answer::NoMethod => {
                let none = Some(russh::MethodSet::empty());
                Ok(Auth::Reject { proceed_with_methods: none, partial_success: false })
            }
            Answer::HangUp => Err(russh::Error::Disconnect),
            Answer::OneTimePassword => {
                let next = Some([russh::MethodKind::KeyboardInteractive].as_slice().into());
                Ok(Auth::Reject { proceed_with_methods: next, partial_success: true })
            }
        }
    }
}

impl russh::server::Handler for Scripted {
    type Error = russh::Error;

    async fn auth_none(&mut self, _: &str) -> Result<Auth, russh::Error> {
        self.answer().await
    }

    async fn auth_password(&mut self, _: &str, _: &str) -> Result<Auth, russh::Error> {
        self.answer().await
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _: &str,
        _: &str,
        response: Option<russh::server::Response<'a>>,
    ) -> Result<Auth, russh::Error> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let answered = response.into_iter().flatten().count();
        let question = if answered == 0 { "Password: " } else { "One-time password: " };
        Ok(Auth::Partial { name: "".into(), instructions: "".into(), prompts: vec![(question.into(), false)].into() })
    }
}

struct ScriptedServer {
    port: u16,
    key: russh::keys::PrivateKey,
    asked: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ScriptedServer {
    async fn start(answer: Answer) -> Self {
        let key = russh::keys::PrivateKey::from(Ed25519Keypair::from_seed(&[5; 32]));
        let asked = Arc::<AtomicUsize>::default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = Arc::new(russh::server::Config {
            keys: vec![key.clone()],
            auth_rejection_time: Duration::ZERO,
            ..russh::server::Config::default()
        });
        let mut server = Scripted { answer, asked: Arc::clone(&asked) };
        let task = tokio::spawn(async move { server.run_on_socket(config, &listener).await.unwrap() });
        Self { port, key, asked, task }
    }

    fn known_hosts(&self) -> String {
        format!("127.0.0.1 {}", self.key.public_key().to_openssh().unwrap())
    }

    async fn open(&self, known_hosts: &str) -> Result<Connection, ConnectError> {
        let backend = local_backend(vec![at_port(self.port)], Duration::from_secs(10));
        Connection::open(&Target::new(backend, trusting(known_hosts)), &password(PASSWORD)).await
    }
}

#[tokio::test]
async fn s27_a_server_with_the_wrong_key_is_asked_nothing() {
    let server = ScriptedServer::start(Answer::Nothing).await;
    let other = Sshd::start().await;
    let known_hosts = format!("[127.0.0.1]:{} {}", server.port, other.host_key("ed25519"));
    let error = server.open(&known_hosts).await.unwrap_err();
    assert!(matches!(error, ConnectError::HostKey(HostKeyError::Changed { .. })), "{error:?}");
    let error = server.open("").await.unwrap_err();
    assert!(matches!(error, ConnectError::HostKey(HostKeyError::Unknown { .. })), "{error:?}");
    assert_eq!(server.asked.load(Ordering::SeqCst), 0, "authentication requests before the host key was trusted");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_after_key_exchange_times_out_in_login() {
    let server = ScriptedServer::start(Answer::Nothing).await;
    let error = server.open(&server.known_hosts()).await.unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { phase: Phase::Login }), "{error:?}");
    assert_eq!(server.asked.load(Ordering::SeqCst), 1);
}

/// S-6: whoever guesses by the hundred waits for a turn, and those who are known do not wait behind.
#[tokio::test(start_paused = true)]
async fn s6_some_turns_to_log_in_are_kept_for_who_is_known() {
    let target = Target::new(local_backend(vec![at_port(1)], Duration::from_secs(10)), trusting(""));
    let mut turns = Vec::new();
    while let Ok(turn) = target.login_turn(Standing::Unproven).await {
        turns.push(turn);
    }
    let of_strangers = turns.len();
    while let Ok(turn) = target.login_turn(Standing::Known).await {
        turns.push(turn);
    }
    // OpenSSH turns connections away at random from the tenth on.
    assert!(of_strangers >= 4 && turns.len() > of_strangers && turns.len() < 10, "{of_strangers} of {}", turns.len());
    drop(turns.remove(0));
    assert!(target.login_turn(Standing::Unproven).await.is_ok(), "what is given back is for anybody");
}

#[tokio::test]
async fn a_connection_lost_in_login_is_neither_a_rejection_nor_a_server_that_is_away() {
    let server = ScriptedServer::start(Answer::HangUp).await;
    let error = server.open(&server.known_hosts()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unanswered(_)), "{error:?}");
    // One client's wrong password must not look like a server that is down.
    assert_eq!(error.result(), Some(BackendConnectResult::Auth));
}

#[tokio::test]
async fn a_refusal_that_leaves_no_method_is_a_rejection() {
    let server = ScriptedServer::start(Answer::NoMethod).await;
    let error = server.open(&server.known_hosts()).await.unwrap_err();
    assert!(matches!(&error, ConnectError::Rejected { remaining, .. } if remaining.is_empty()), "{error:?}");
}

#[tokio::test]
async fn a_second_question_is_not_answered_with_the_password() {
    let server = ScriptedServer::start(Answer::OneTimePassword).await;
    let error = server.open(&server.known_hosts()).await.unwrap_err();
    assert!(matches!(&error, ConnectError::Rejected { .. }), "{error:?}");
    assert_eq!(server.asked.load(Ordering::SeqCst), 3, "password, first question, its answer; nothing after");
}
