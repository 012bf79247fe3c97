//! Every way to log in on a backend, against OpenSSH: keys in files and agents, certificates, several methods in a row.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ftps2sftp::config::secret::Secret;
use ftps2sftp::config::{self, KeyHolder};
use ftps2sftp::ssh::{
    ConnectError, Connection, Credentials, HostKeyPolicy, LoginKey, LoginKeyError, Target, UserCertificateProblem,
};
use tokio::io::AsyncWriteExt;

use crate::support::client::Client;
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, Setup};
use crate::support::ssh_agent::SshAgent;
use crate::support::sshd::{Options, PASSWORD, Sshd, USER, public_key, run};

fn target(sshd: &Sshd) -> Target {
    let backend = sshd.backend();
    let policy = HostKeyPolicy::for_backend(&backend).unwrap();
    Target::new(backend, policy)
}

fn in_file(path: &Path, certificate: Option<PathBuf>) -> LoginKey {
    let holder = KeyHolder::File { path: path.to_owned(), passphrase: None };
    LoginKey::load(&config::LoginKey { holder, certificate }).unwrap()
}

fn in_agent(agent: &SshAgent, public_key: Option<PathBuf>, certificate: Option<PathBuf>) -> LoginKey {
    let holder = KeyHolder::Agent { socket: agent.socket(), public_key };
    LoginKey::load(&config::LoginKey { holder, certificate }).unwrap()
}

async fn log_in(sshd: &Sshd, credentials: &Credentials) -> Result<(), ConnectError> {
    let connection = Connection::open(&target(sshd), credentials).await?;
    connection.open_sftp().await.unwrap();
    connection.close().await;
    Ok(())
}

async fn with_key(sshd: &Sshd, key: LoginKey) -> Result<(), ConnectError> {
    log_in(sshd, &Credentials::key(USER, key)).await
}

/// Logins by certificate.
fn certified(sshd: &Sshd) -> usize {
    sshd.log().lines().filter(|line| line.contains("Accepted publickey") && line.contains("-CERT SHA256:")).count()
}

fn certifying() -> Options {
    Options { user_authority: true, ..Options::default() }
}

/// The same user, the same client, the same server: only `login` changes, and the files are where they were.
#[tokio::test]
async fn a_user_moves_from_passthrough_to_key_to_certificate_to_agent_by_login_alone() {
    let sshd = Sshd::with(certifying()).await;
    let key = sshd.client_key(&["-t", "ed25519"], "");
    // This one opens nothing without its certificate.
    let certified = sshd.strange_key(&["-t", "ecdsa"], "");
    let certificate = sshd.certify(&certified, USER, "always:forever");
    let held = sshd.client_key(&["-t", "rsa", "-b", "2048"], "");
    let agent = SshAgent::start();
    agent.add(&held);
    let hash = run(Command::new("openssl").args(["passwd", "-6", PASSWORD]));
    for (round, (login, accepted)) in [
        ("passthrough".to_owned(), "Accepted password for alice".to_owned()),
        (
            format!("{{user: {USER}, private_key: {}}}", key.display()),
            "Accepted publickey for alice from 127.0.0.1 port * ssh2: ED25519 SHA256:".to_owned(),
        ),
        (
            format!("{{user: {USER}, private_key: {}, certificate: {}}}", certified.display(), certificate.display()),
            "Accepted publickey for alice from 127.0.0.1 port * ssh2: ECDSA-CERT SHA256:".to_owned(),
        ),
        (
            format!("{{user: {USER}, agent: {}}}", agent.socket().display()),
            "Accepted publickey for alice from 127.0.0.1 port * ssh2: RSA SHA256:".to_owned(),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let mut setup = Setup::backend(&sshd);
        setup.users = format!(
            "  {USER}:\n    password_hash: \"{hash}\"\n    backend: files\n    root: \"{}\"\n    login: {login}\n",
            sshd.files().display()
        );
        let gateway = Gateway::start(&setup);
        let mut client = Client::explicit(&gateway).await;
        client.log_in(USER, PASSWORD).await;
        client.ask("TYPE I", 200).await;
        assert_eq!(client.store(&format!("STOR file{round}"), login.as_bytes()).await.code, 226, "{login}");
        assert_eq!(client.retrieve(&format!("file{round}")).await, login.as_bytes());
        assert_eq!(client.lines("NLST").await.len(), round + 1);
        client.ask("QUIT", 221).await;
        let log = sshd.log();
        let (start, end) = accepted.split_once('*').unwrap_or((&accepted, ""));
        assert!(log.lines().any(|line| line.contains(start) && line.contains(end)), "{login}: no {accepted}\n{log}");
        assert_eq!(sshd.logins(), round + 1, "one login each");
    }
    // S-17: what is secret is not in the log.
    assert!(!sshd.log().contains(PASSWORD));
}

/// A server that hangs up on the first wrong password refuses it all the same: it costs the client what any does.
#[tokio::test]
async fn s6_a_server_that_hangs_up_on_a_wrong_password_has_refused_it() {
    for (keyboard_interactive, attempts) in [(false, 1), (true, 1), (true, 2)] {
        let config = vec![format!("MaxAuthTries {attempts}")];
        let sshd = Sshd::with(Options { keyboard_interactive, config, ..Options::default() }).await;
        let gateway = Gateway::start(&Setup::backend(&sshd).with_passthrough());
        let mut client = Client::explicit(&gateway).await;
        for _ in 0..2 {
            client.ask(&format!("USER {USER}"), 331).await;
            let reply = client.ask("PASS wrong", 530).await;
            assert_eq!(reply.text(), "530 Login incorrect", "{keyboard_interactive} {attempts}");
        }
        client.log_in(USER, PASSWORD).await;
        client.ask("PWD", 257).await;
        let denied = gateway.metric("ftps2sftp_logins_total{method=\"password\",result=\"backend_denied\"}").await;
        assert_eq!(denied, 2.0, "{keyboard_interactive} {attempts}");
        assert_eq!(gateway.metric("ftps2sftp_backend_up{backend=\"files\"}").await, 1.0);
    }
}

/// A mapped user is not to blame where the backend refuses the gateway.
#[tokio::test]
async fn a_backend_that_refuses_the_gateway_itself_is_told_apart_and_bans_nobody() {
    let sshd = Sshd::start().await;
    let key = sshd.strange_key(&["-t", "ed25519"], "");
    let login = format!("{{user: {USER}, private_key: {}}}", key.display());
    let limits = "limits: {failed_logins: {per_session: 3, per_ip: 2, per_user: 2}}\n";
    let gateway = Gateway::start(&Setup::backend(&sshd).with_login("acme", &login, "").with(limits));
    for _ in 0..3 {
        let mut client = Client::explicit(&gateway).await;
        client.ask("USER acme", 331).await;
        client.ask(format!("PASS {MAPPED_PASSWORD}"), 530).await;
    }
    let result = |result| format!("ftps2sftp_logins_total{{method=\"password\",result=\"{result}\"}}");
    assert_eq!(gateway.metric(&result("backend_refused_us")).await, 3.0);
    assert_eq!(gateway.metric(&result("throttled")).await + gateway.metric(&result("backend_denied")).await, 0.0);
}

/// F-1 and F-3 where nothing is kept to log in again with: whoever is told so logs in again, and nothing is lost.
#[tokio::test]
async fn under_passthrough_once_a_lost_connection_ends_the_session_and_the_client_logs_in_again() {
    let sshd = Sshd::start().await;
    let mut setup = Setup::backend(&sshd);
    setup.users =
        format!("  \"*\": {{backend: files, login: passthrough-once, root: \"{}\"}}\n", sshd.files().display());
    let gateway = Gateway::start(&setup);
    let log_in = async || {
        let mut client = Client::explicit(&gateway).await;
        client.log_in(USER, PASSWORD).await;
        client.ask("TYPE I", 200).await;
        client
    };
    let mut client = log_in().await;
    // One login serves all of it.
    assert_eq!(client.store("STOR file", b"first").await.code, 226);
    client.ask("RNFR file", 350).await;
    client.ask("RNTO other", 250).await;
    assert_eq!(client.retrieve("other").await, b"first");
    assert_eq!(sshd.logins(), 1);

    let address = client.passive().await;
    client.send("STOR other").await;
    let mut data = client.data(address).await;
    client.expect(150).await;
    data.write_all(b"second").await.unwrap();
    data.flush().await.unwrap();
    sshd.kill_sessions();
    client.expect(451).await;
    drop(data);
    let reply = client.ask("SIZE other", 421).await;
    assert!(reply.text().contains("log in again"), "{}", reply.text());
    client.expect_closed().await;
    assert_eq!(sshd.logins(), 1, "nothing was kept to log in with");

    let mut client = log_in().await;
    assert_eq!(client.retrieve("other").await, b"first");
    assert_eq!(client.store("STOR other", b"second").await.code, 226);
    sshd.kill_sessions();
    client.ask("NOOP", 200).await;
    client.passive().await;
    client.ask("RETR other", 421).await;
    client.expect_closed().await;
    assert_eq!(sshd.logins(), 2);
    gateway.wait_for_log(|line| line.contains("there is nothing to log in again with"));
}

#[tokio::test]
async fn certificates_of_every_kind_of_key_log_in() {
    let sshd = Sshd::with(certifying()).await;
    for arguments in [
        &["-t", "ed25519"][..],
        &["-t", "ecdsa", "-b", "256"],
        &["-t", "ecdsa", "-b", "384"],
        &["-t", "ecdsa", "-b", "521"],
        &["-t", "rsa", "-b", "2048"],
    ] {
        let key = sshd.strange_key(arguments, "");
        let error = with_key(&sshd, in_file(&key, None)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Rejected { .. }), "{arguments:?}: {error:?}");
        let certificate = sshd.certify(&key, USER, "always:forever");
        with_key(&sshd, in_file(&key, Some(certificate)))
            .await
            .unwrap_or_else(|error| panic!("{arguments:?}: {error:?}"));
    }
    assert_eq!(certified(&sshd), sshd.logins());
}

/// A certificate in use is renewed by whoever issues it, and is not read once for all.
#[tokio::test]
async fn a_certificate_is_read_at_each_login_and_one_out_of_date_is_not_shown() {
    let sshd = Sshd::with(certifying()).await;
    let key = sshd.strange_key(&["-t", "ed25519"], "");
    let certificate = sshd.certify(&key, USER, "20200101:20210101");
    let login = in_file(&key, Some(certificate));
    for (validity, expected) in [
        ("20200101:20210101", Some(UserCertificateProblem::Expired)),
        ("20990101:forever", Some(UserCertificateProblem::NotYetValid)),
        ("always:forever", None),
        ("20200101:20210101", Some(UserCertificateProblem::Expired)),
    ] {
        sshd.certify(&key, USER, validity);
        match (with_key(&sshd, login.clone()).await, expected) {
            (Ok(()), None) => {}
            (Err(ConnectError::Credentials(error)), Some(expected)) => {
                assert!(
                    matches!(&*error, LoginKeyError::Certificate { problem, .. } if *problem == expected),
                    "{error:?}"
                );
            }
            (result, _) => panic!("{validity}: {result:?}"),
        }
    }
    assert!(!sshd.log().contains("Failed publickey"), "{}", sshd.log());
    sshd.certify(&key, "bob", "always:forever");
    let error = with_key(&sshd, login).await.unwrap_err();
    assert!(matches!(error, ConnectError::Rejected { .. }), "a certificate for others: {error:?}");
}

#[tokio::test]
async fn a_certificate_that_is_none_or_for_another_key_is_a_mistake_told_before_any_login() {
    let sshd = Sshd::with(certifying()).await;
    let (key, other) = (sshd.strange_key(&["-t", "ed25519"], ""), sshd.strange_key(&["-t", "ed25519"], ""));
    let problem = |certificate: &Path| {
        let holder = KeyHolder::File { path: key.clone(), passphrase: None };
        match LoginKey::load(&config::LoginKey { holder, certificate: Some(certificate.to_owned()) }) {
            Err(error @ LoginKeyError::Certificate { problem, .. }) => {
                assert_eq!(error.key(), "certificate");
                problem
            }
            other => panic!("{other:?}"),
        }
    };
    let certificate = sshd.certify(&other, USER, "always:forever");
    assert_eq!(problem(&certificate), UserCertificateProblem::OtherKey);
    assert_eq!(problem(&other.with_extension("pub")), UserCertificateProblem::NotACertificate);
    run(Command::new("ssh-keygen")
        .args(["-q", "-h", "-I", "host", "-n", USER, "-s"])
        .arg(sshd.directory_file("user_authority"))
        .arg(key.with_extension("pub")));
    let host = PathBuf::from(format!("{}-cert.pub", key.display()));
    assert_eq!(problem(&host), UserCertificateProblem::NotAUser);
}

#[tokio::test]
async fn an_agent_signs_with_each_kind_of_key_and_for_certificates() {
    let sshd = Sshd::with(certifying()).await;
    for arguments in [&["-t", "ed25519"][..], &["-t", "ecdsa", "-b", "384"], &["-t", "rsa", "-b", "2048"]] {
        let agent = SshAgent::start();
        let key = sshd.client_key(arguments, "");
        agent.add(&key);
        with_key(&sshd, in_agent(&agent, None, None)).await.unwrap_or_else(|error| panic!("{arguments:?}: {error:?}"));

        // The agent has the key alone, and the certificate is a file of ours.
        let key = sshd.strange_key(arguments, "");
        agent.add(&key);
        let certificate = sshd.certify(&key, USER, "always:forever");
        with_key(&sshd, in_agent(&agent, None, Some(certificate.clone()))).await.unwrap();

        // The agent has the certificate, too, and nothing here says which.
        let agent = SshAgent::start();
        agent.add(&key);
        with_key(&sshd, in_agent(&agent, None, None)).await.unwrap();
        with_key(&sshd, in_agent(&agent, Some(key.with_extension("pub")), None)).await.unwrap();
    }
    assert_eq!((certified(&sshd), sshd.logins()), (9, 12), "{}", sshd.log());
    assert!(!sshd.log().contains("Failed publickey"), "{}", sshd.log());
}

#[tokio::test]
async fn an_agent_with_many_keys_is_told_which_one() {
    let sshd = Sshd::start().await;
    let agent = SshAgent::start();
    for _ in 0..9 {
        agent.add(&sshd.strange_key(&["-t", "ed25519"], ""));
    }
    let key = sshd.client_key(&["-t", "ed25519"], "");
    agent.add(&key);
    let credentials = |key, password: Option<&str>| Credentials {
        user: USER.to_owned(),
        key: Some(key),
        password: password.map(|password| Secret::new(password).seal()),
    };
    let error = log_in(&sshd, &credentials(in_agent(&agent, None, None), None)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Rejected { .. }), "{error:?}");
    // A server hangs up after six attempts: one is left for the password.
    log_in(&sshd, &credentials(in_agent(&agent, None, None), Some(PASSWORD))).await.unwrap();
    // The public key file, or the private one whose public half is in clear.
    for file in [key.with_extension("pub"), key] {
        log_in(&sshd, &credentials(in_agent(&agent, Some(file), None), None)).await.unwrap();
    }
    let missing = sshd.client_key(&["-t", "ed25519"], "").with_extension("pub");
    let error = log_in(&sshd, &credentials(in_agent(&agent, Some(missing), None), None)).await.unwrap_err();
    assert!(matches!(&error, ConnectError::Credentials(_)), "{error:?}");
    assert!(error.to_string().contains("does not hold the key SHA256:"), "{error}");
}

#[tokio::test]
async fn an_agent_may_be_away_and_come_back() {
    let sshd = Sshd::start().await;
    let key = sshd.client_key(&["-t", "ed25519"], "");
    let mut agent = SshAgent::start();
    agent.add(&key);
    let setup = Setup::backend(&sshd).with_login(
        "acme",
        &format!("{{user: {USER}, agent: {}}}", agent.socket().display()),
        &format!("    root: \"{}\"\n", sshd.files().display()),
    );
    let gateway = Gateway::start(&setup);
    Client::explicit(&gateway).await.log_in("acme", MAPPED_PASSWORD).await;

    agent.stop();
    let mut client = Client::explicit(&gateway).await;
    client.ask("USER acme", 331).await;
    // Not the user's fault, and nothing that a client should hear more of.
    let reply = client.ask(&format!("PASS {MAPPED_PASSWORD}"), 421).await;
    assert!(!reply.text().contains("agent"), "{}", reply.text());
    gateway.wait_for_log(|line| line.contains("login failed") && line.contains("ssh-agent at "));

    agent.start_again();
    let mut client = Client::explicit(&gateway).await;
    client.ask("USER acme", 331).await;
    client.ask(&format!("PASS {MAPPED_PASSWORD}"), 421).await;
    gateway.wait_for_log(|line| line.contains("login failed") && line.contains("it holds no key"));

    agent.add(&key);
    Client::explicit(&gateway).await.log_in("acme", MAPPED_PASSWORD).await;
}

#[tokio::test]
async fn a_key_in_a_pkcs11_token_logs_in_through_the_agent() {
    let sshd = Sshd::start().await;
    let agent = SshAgent::start();
    let public = agent.add_token();
    sshd.authorize(&public);
    with_key(&sshd, in_agent(&agent, None, None)).await.unwrap();
    let file = sshd.directory_file("token.pub");
    std::fs::write(&file, format!("{public}\n")).unwrap();
    with_key(&sshd, in_agent(&agent, Some(file), None)).await.unwrap();
    assert!(sshd.log().contains("ssh2: ECDSA SHA256:"), "{}", sshd.log());
}

#[tokio::test]
async fn a_server_that_wants_two_methods_gets_both() {
    for (methods, keyboard_interactive) in [
        ("publickey,password", false),
        ("password,publickey", false),
        ("publickey,keyboard-interactive", true),
        ("publickey,keyboard-interactive:pam publickey,password", true),
    ] {
        let config = vec![format!("AuthenticationMethods {methods}")];
        let sshd = Sshd::with(Options { config, keyboard_interactive, ..Options::default() }).await;
        let key = sshd.client_key(&["-t", "ed25519"], "");
        let credentials = |key: Option<&Path>, password: Option<&str>| Credentials {
            user: USER.to_owned(),
            key: key.map(|key| in_file(key, None)),
            password: password.map(|password| Secret::new(password).seal()),
        };
        log_in(&sshd, &credentials(Some(&key), Some(PASSWORD)))
            .await
            .unwrap_or_else(|error| panic!("{methods}: {error:?}"));
        assert!(sshd.log().contains("Partial publickey") || sshd.log().contains("Partial password"), "{}", sshd.log());
        // Half of it is no login, and the message says which half is missing.
        let error = log_in(&sshd, &credentials(Some(&key), None)).await.unwrap_err();
        let ConnectError::Rejected { accepted, remaining } = &error else { panic!("{methods}: {error:?}") };
        if methods.starts_with("publickey") {
            assert_eq!(accepted, &["publickey"], "{methods}");
            assert!(!remaining.contains(&"publickey".to_owned()), "{error}");
            assert!(error.to_string().contains("publickey accepted"), "{error}");
        }
        let error = log_in(&sshd, &credentials(Some(&key), Some("wrong"))).await.unwrap_err();
        assert!(matches!(error, ConnectError::Rejected { .. }), "{methods}: {error:?}");
        let error = log_in(&sshd, &credentials(None, Some(PASSWORD))).await.unwrap_err();
        assert!(matches!(error, ConnectError::Rejected { .. }), "{methods}: {error:?}");
    }
}

#[tokio::test]
async fn two_methods_are_one_mapped_login() {
    let config = vec!["AuthenticationMethods publickey,keyboard-interactive".to_owned()];
    let sshd = Sshd::with(Options { config, keyboard_interactive: true, ..Options::default() }).await;
    let key = sshd.client_key(&["-t", "ed25519"], "");
    let setup = Setup::backend(&sshd).with_login(
        "acme",
        &format!("{{user: {USER}, private_key: {}, password: \"{PASSWORD}\"}}", key.display()),
        &format!("    root: \"{}\"\n", sshd.files().display()),
    );
    let gateway = Gateway::start(&setup);
    let mut client = Client::explicit(&gateway).await;
    client.log_in("acme", MAPPED_PASSWORD).await;
    assert_eq!(client.store("STOR file", b"content").await.code, 226);
}

/// A password after a refused key, as ssh(1) does it.
#[tokio::test]
async fn a_key_that_is_refused_leaves_the_password() {
    let sshd = Sshd::start().await;
    let key = sshd.strange_key(&["-t", "ed25519"], "");
    let credentials = Credentials {
        user: USER.to_owned(),
        key: Some(in_file(&key, None)),
        password: Some(Secret::new(PASSWORD).seal()),
    };
    log_in(&sshd, &credentials).await.unwrap();
}

/// The line of the public key of a PEM file. ssh-keygen of 2023 does not read Ed25519 in PKCS#8.
fn public_half(file: &Path, pass: &str) -> String {
    let public = file.with_extension("public");
    run(Command::new("openssl").args(["pkey", "-pubout", "-passin", pass, "-in"]).arg(file).arg("-out").arg(&public));
    let pem = std::fs::read_to_string(&public).unwrap();
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = STANDARD.decode(base64).unwrap();
    // RFC 8410 §4: twelve bytes, and then the 32 of the key.
    if der.len() != 44 {
        return run(Command::new("ssh-keygen").args(["-i", "-m", "PKCS8", "-f"]).arg(&public));
    }
    let mut blob = Vec::new();
    for part in [b"ssh-ed25519".as_slice(), &der[12..]] {
        blob.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
        blob.extend(part);
    }
    format!("ssh-ed25519 {}", STANDARD.encode(blob))
}

/// Keys as openssl writes them.
#[tokio::test]
async fn keys_made_by_openssl_log_in() {
    const PASSPHRASE: &str = "open sesame";
    let sshd = Sshd::start().await;
    let generate = |arguments: &[&str]| -> PathBuf {
        let file = sshd.directory_file(&arguments.join("-").replace([':', '/', ' '], "_"));
        run(Command::new("openssl").args(arguments).arg("-out").arg(&file));
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        file
    };
    let plain = |arguments: &[&str]| (generate(arguments), false);
    let rsa = generate(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
    let ec = generate(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]);
    let ed25519 = generate(&["genpkey", "-algorithm", "ed25519"]);
    let converted = |name: &str, arguments: &[&str], key: &Path| -> (PathBuf, bool) {
        let file = sshd.directory_file(name);
        run(Command::new("openssl").args(arguments).arg("-in").arg(key).arg("-out").arg(&file));
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        (file, true)
    };
    let pass = format!("pass:{PASSPHRASE}");
    for (file, encrypted) in [
        (rsa.clone(), false),
        (ec.clone(), false),
        (ed25519.clone(), false),
        plain(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"]),
        plain(&["ecparam", "-name", "prime256v1", "-genkey"]),
        plain(&["ecparam", "-name", "secp521r1", "-genkey", "-noout"]),
        (converted("rsa-pkcs1", &["rsa", "-traditional"], &rsa).0, false),
        converted("rsa-pkcs8-aes256", &["pkcs8", "-topk8", "-v2", "aes-256-cbc", "-passout", &pass], &rsa),
        converted("ec-pkcs8-aes256", &["pkcs8", "-topk8", "-v2", "aes-256-cbc", "-passout", &pass], &ec),
        converted("ed25519-pkcs8-aes128", &["pkcs8", "-topk8", "-v2", "aes-128-cbc", "-passout", &pass], &ed25519),
        converted(
            "ed25519-pkcs8-sha512",
            &["pkcs8", "-topk8", "-v2prf", "hmacWithSHA512", "-passout", &pass],
            &ed25519,
        ),
        converted("rsa-pkcs8-scrypt", &["pkcs8", "-topk8", "-scrypt", "-passout", &pass], &rsa),
        converted("rsa-pkcs1-aes128", &["rsa", "-traditional", "-aes128", "-passout", &pass], &rsa),
        converted("rsa-pkcs1-aes256", &["rsa", "-traditional", "-aes256", "-passout", &pass], &rsa),
        converted("ec-sec1-aes128", &["ec", "-aes128", "-passout", &pass], &ec),
        converted("ec-sec1-aes256", &["ec", "-aes256", "-passout", &pass], &ec),
    ] {
        let shown = file.file_name().unwrap().display().to_string();
        sshd.authorize(&public_half(&file, &pass));
        let passphrase = encrypted.then(|| Secret::new(PASSPHRASE));
        let holder = KeyHolder::File { path: file.clone(), passphrase };
        let key = LoginKey::load(&config::LoginKey { holder, certificate: None });
        let key = key.unwrap_or_else(|error| panic!("{shown}: {error:?}"));
        with_key(&sshd, key).await.unwrap_or_else(|error| panic!("{shown}: {error:?}"));
        if encrypted {
            for (passphrase, expected) in [(None, "needs a passphrase"), (Some(Secret::new("wrong")), "does not open")]
            {
                let holder = KeyHolder::File { path: file.clone(), passphrase };
                let error = LoginKey::load(&config::LoginKey { holder, certificate: None }).unwrap_err();
                assert!(error.to_string().contains(expected), "{shown}: {error}");
            }
        }
    }
    assert!(public_key(&sshd.client_key(&["-t", "ed25519"], "").with_extension("pub")).starts_with("ssh-ed25519 "));
}
