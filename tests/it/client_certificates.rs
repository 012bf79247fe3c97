//! Clients that show a certificate: whose counts (TLS-50, S-34), who may be named with it (TLS-51), and that data
//! connections show the same (TLS-52).

use std::fs;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::SupportedProtocolVersion;
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::support::authority::{Authority, Signed, openssl};
use crate::support::client::{Client, connector, server_name};
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, Setup};
use crate::support::real_clients::{Ran, Tls, desk, program, run};
use crate::support::sshd::{PASSWORD, Sshd, USER};

const HOME: [u8; 4] = [127, 0, 0, 1];

fn asking(mut setup: Setup, mode: &str, authority: &Path, revocation: Option<&Path>) -> Setup {
    setup.tls.push_str(&format!("  client_certificates: {mode}\n  client_ca: \"{}\"\n", authority.display()));
    if let Some(list) = revocation {
        setup.tls.push_str(&format!("  client_crl: \"{}\"\n", list.display()));
    }
    setup
}

/// Adds a user without a password.
fn by_certificate(mut setup: Setup, name: &str, rule: &str, root: &Path) -> Setup {
    setup.users.push_str(&format!(
        "  {name}: {{backend: files, login: {{user: {USER}, password: \"{PASSWORD}\"}}, root: \"{}\", \
         client_certificate: {rule}}}\n",
        root.display()
    ));
    setup
}

async fn come(gateway: &Gateway, tls: TlsConnector) -> std::io::Result<Client> {
    Client::implicit_through(gateway, tls, HOME).await
}

async fn show(gateway: &Gateway, signed: &Signed, version: &'static SupportedProtocolVersion) -> Client {
    come(gateway, signed.connector(gateway, version)).await.unwrap()
}

#[tokio::test]
async fn tls_50_a_certificate_that_does_not_count_ends_the_handshake() {
    let sshd = Sshd::start().await;
    let (authority, stranger) = (Authority::new("Ours"), Authority::new("Theirs"));
    let good = authority.sign("/CN=good");
    let revoked = authority.sign("/CN=revoked");
    authority.revoke(&revoked);
    let list = authority.revocation_list("-crldays 30");
    let client = "basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n";
    let server = "basicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n";
    let bad = [
        ("revoked", revoked),
        ("expired", authority.sign_with("/CN=a", client, "-startdate 20200101000000Z -enddate 20210101000000Z")),
        ("not yet valid", authority.sign_with("/CN=a", client, "-startdate 20490101000000Z -enddate 20491231000000Z")),
        ("for servers", authority.sign_with("/CN=a", server, "-days 30")),
        ("of an unknown authority", stranger.sign("/CN=good")),
    ];
    for mode in ["required", "optional"] {
        let setup = Setup::backend(&sshd).with_users(&sshd.files());
        let gateway = Gateway::start(&asking(setup, mode, &authority.certificate(), Some(&list)));
        for version in [&TLS12, &TLS13] {
            assert!(come(&gateway, good.connector(&gateway, version)).await.is_ok());
            for (why, signed) in &bad {
                let came = come(&gateway, signed.connector(&gateway, version)).await;
                assert!(came.is_err(), "{mode}: {why}");
            }
            // None at all.
            let came = come(&gateway, connector(&gateway, version)).await;
            assert_eq!(came.is_ok(), mode == "optional");
        }
        let failed = "ftps2sftp_tls_handshakes_total{channel=\"control\",version=\"none\",result=\"failed\"}";
        let expected = if mode == "required" { 12.0 } else { 10.0 };
        gateway.wait_for_metric(failed, expected).await;
        // The gateway is none the worse.
        assert!(come(&gateway, good.connector(&gateway, &TLS13)).await.is_ok());
    }
}

#[tokio::test]
async fn s34_and_tls_50_an_authority_without_a_list_and_a_list_out_of_date_let_nobody_in() {
    let sshd = Sshd::start().await;
    let (authority, other) = (Authority::new("Ours"), Authority::new("Theirs"));
    let (ours, theirs) = (authority.sign("/CN=a"), other.sign("/CN=a"));
    let list = authority.revocation_list("-crldays 30");
    let both = tempfile::NamedTempFile::new().unwrap();
    let bundle = [fs::read(authority.certificate()).unwrap(), fs::read(other.certificate()).unwrap()].concat();
    fs::write(both.path(), bundle).unwrap();
    let setup = Setup::backend(&sshd).with_users(&sshd.files());
    let gateway = Gateway::start(&asking(setup.clone(), "required", both.path(), Some(&list)));
    assert!(come(&gateway, ours.connector(&gateway, &TLS13)).await.is_ok());
    assert!(come(&gateway, theirs.connector(&gateway, &TLS13)).await.is_err());

    let old = authority.revocation_list("-crl_lastupdate 20200101000000Z -crl_nextupdate 20200201000000Z");
    let gateway = Gateway::start(&asking(setup.clone(), "required", both.path(), Some(&old)));
    assert!(come(&gateway, ours.connector(&gateway, &TLS13)).await.is_err());
    // Without lists nothing is asked about them.
    let gateway = Gateway::start(&asking(setup, "required", both.path(), None));
    assert!(come(&gateway, ours.connector(&gateway, &TLS13)).await.is_ok());
    assert!(come(&gateway, theirs.connector(&gateway, &TLS13)).await.is_ok());
}

#[tokio::test]
async fn tls_50_an_authority_for_some_names_vouches_for_no_others() {
    let sshd = Sshd::start().await;
    let authority = Authority::with("Ours", "-addext nameConstraints=critical,permitted;DNS:partner.example");
    let inside = authority.sign_also("/CN=a", "subjectAltName=DNS:scanner.partner.example");
    let outside = authority.sign_also("/CN=a", "subjectAltName=DNS:scanner.bank.example");
    let setup = Setup::backend(&sshd).with_users(&sshd.files());
    let gateway = Gateway::start(&asking(setup, "required", &authority.certificate(), None));
    for version in [&TLS12, &TLS13] {
        assert!(come(&gateway, inside.connector(&gateway, version)).await.is_ok());
        assert!(come(&gateway, outside.connector(&gateway, version)).await.is_err());
    }
}

#[tokio::test]
async fn tls_51_a_certificate_goes_with_its_own_user_and_no_other() {
    let sshd = Sshd::start().await;
    sshd.place_file("a", "content");
    let authority = Authority::new("Ours");
    let pinned = authority.sign("/CN=whatever");
    let named = authority.sign("/O=Acme/CN=named");
    let mail = authority.sign_also("/CN=x", "subjectAltName=email:robot@example.com,DNS:host.example.com");
    let second = authority.sign("/CN=second");
    let nobodys = authority.sign("/CN=nobody");
    let twice = authority.sign("/CN=named/CN=other");
    let files = sshd.files();
    let mut setup = Setup::backend(&sshd).with_user("password", "");
    let rule = format!("{{fingerprints: [\"{}\"]}}", pinned.fingerprint());
    setup = by_certificate(setup, "pinned", &rule, &files);
    setup = by_certificate(setup, "named", "{subject: \"CN=named\"}", &files);
    setup = by_certificate(setup, "mail", "{subject: \"email:robot@EXAMPLE.com\"}", &files);
    setup = setup.with_user("both", "    client_certificate: {subject: \"CN=second\"}\n");
    setup.users.push_str("  \"*\": {backend: files, login: passthrough}\n");
    let limits = "limits: {failed_logins: {per_session: 90, per_ip: null, per_user: null}}\n";
    let gateway = Gateway::start(&asking(setup.with(limits), "optional", &authority.certificate(), None));

    for version in [&TLS12, &TLS13] {
        for (signed, user) in [(&pinned, "pinned"), (&named, "named"), (&mail, "mail")] {
            let mut client = show(&gateway, signed, version).await;
            client.ask(format!("USER {user}"), 232).await;
            // Many clients send it all the same.
            client.ask("PASS whatever", 202).await;
            client.ask(format!("USER {user}"), 530).await;
            assert_eq!(client.retrieve("a").await, b"content");
        }
    }
    // With a hash the password is asked for as well.
    let mut client = show(&gateway, &second, &TLS13).await;
    client.ask("USER both", 331).await;
    client.ask("PASS wrong", 530).await;
    client.log_in("both", MAPPED_PASSWORD).await;
    gateway.wait_for_metric("ftps2sftp_logins_total{method=\"both\",result=\"success\"}", 1.0).await;
    gateway.wait_for_metric("ftps2sftp_logins_total{method=\"cert\",result=\"success\"}", 6.0).await;

    // Somebody else's, also with the right password, and under names that need none.
    let refused = async |signed: &Signed, user: &str| {
        let mut client = show(&gateway, signed, &TLS13).await;
        let reply = client.ask(format!("USER {user}"), 530).await;
        client.ask(format!("PASS {MAPPED_PASSWORD}"), 503).await;
        reply
    };
    for (signed, users) in [
        (&pinned, ["named", "both", "password", USER, "nobody"]),
        (&named, ["pinned", "mail", "password", "Named", "*"]),
        (&nobodys, ["pinned", "named", "mail", "both", "both"]),
        (&twice, ["named", "pinned", "mail", "both", "named"]),
    ] {
        for reply in futures_util::future::join_all(users.map(|user| refused(signed, user))).await {
            assert_eq!(reply.text(), "530 That is not the user of your certificate");
        }
    }
    // One that is nobody's says nothing about who needs none.
    for (user, password) in [("password", MAPPED_PASSWORD), (USER, PASSWORD)] {
        show(&gateway, &nobodys, &TLS13).await.log_in(user, password).await;
    }
    // Without a certificate it is what a wrong password is, and USER tells nothing.
    for user in ["pinned", "named", "both"] {
        let mut client = Client::implicit(&gateway).await;
        client.ask(format!("USER {user}"), 331).await;
        assert_eq!(client.ask(format!("PASS {MAPPED_PASSWORD}"), 530).await.text(), "530 Login incorrect");
    }
}

#[tokio::test]
async fn tls_52_a_data_connection_shows_the_same_certificate_or_resumes() {
    let sshd = Sshd::start().await;
    sshd.place_file("a", "content");
    let authority = Authority::new("Ours");
    let (own, other) = (authority.sign("/CN=own"), authority.sign("/CN=other"));
    let setup = by_certificate(Setup::backend(&sshd), "own", "{subject: \"CN=own\"}", &sshd.files());
    let setup = by_certificate(setup, "other", "{subject: \"CN=other\"}", &sshd.files());
    for resumption in ["prefer", "off", "require"] {
        let policy = format!("policy: {{data_tls_resumption: \"{resumption}\"}}\n");
        let setup = asking(setup.clone().with(&policy), "optional", &authority.certificate(), None);
        let gateway = Gateway::start(&setup);
        for version in [&TLS12, &TLS13] {
            let mut client = show(&gateway, &own, version).await;
            client.ask("USER own", 232).await;
            // Over and over by its own session: the certificate is that of the session that is resumed.
            for _ in 0..3 {
                assert_eq!(client.retrieve("a").await, b"content", "{resumption}");
                assert_eq!(client.store("STOR b", b"x").await.code, 226);
            }
            let fresh = own.connector(&gateway, version);
            let without = connector(&gateway, version);
            let another = other.connector(&gateway, version);
            for (tls, is_own) in [(&fresh, true), (&without, false), (&another, false)] {
                let address = client.passive().await;
                client.ask("RETR a", 150).await;
                let stream = client.connect(address).await;
                let mut bytes = Vec::new();
                if let Ok(mut data) = tls.connect(server_name(), stream).await {
                    let _ = data.read_to_end(&mut bytes).await;
                    let _ = data.shutdown().await;
                }
                let may = is_own && resumption != "require";
                client.expect(if may { 226 } else { 522 }).await;
                assert_eq!(bytes, if may { &b"content"[..] } else { b"" }, "{resumption}");
            }
            assert_eq!(client.retrieve("a").await, b"content");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_lftp_and_openssl_log_in_by_certificate() {
    let sshd = Sshd::start().await;
    sshd.place_file("a", "content");
    let authority = Authority::new("Ours");
    let own = authority.sign("/CN=own");
    let both = authority.sign("/CN=both");
    let setup = by_certificate(Setup::backend(&sshd), "own", "{subject: \"CN=own\"}", &sshd.files());
    let root = format!("    root: \"{}\"\n    client_certificate: {{subject: \"CN=both\"}}\n", sshd.files().display());
    let setup = setup.with_user("both", &root);
    let gateway = Gateway::start(&asking(setup, "required", &authority.certificate(), None));
    let desk = desk();
    for tls in Tls::BOTH {
        for (signed, user, password) in [(&own, "own", ""), (&own, "own", "any"), (&both, "both", MAPPED_PASSWORD)] {
            let curl = |signed: Option<&Signed>, arguments: &[&str]| -> Ran {
                let mut command = program("curl", "curl", desk.path());
                command.args(["--disable", "--silent", "--show-error", "--ssl-reqd", "--cacert"]);
                command.arg(gateway.certificate()).args(["--user", &format!("{user}:{password}")]);
                if let Some(signed) = signed {
                    command.arg("--cert").arg(&signed.certificate).arg("--key").arg(&signed.key);
                }
                run(command.args(arguments))
            };
            let url = tls.url(&gateway);
            assert_eq!(curl(Some(signed), &[&format!("{url}/a")]).succeeded(), "content");
            curl(Some(signed), &["-T", &own.certificate.display().to_string(), &format!("{url}/b")]).succeeded();
            assert_eq!(fs::read(sshd.files().join("b")).unwrap(), fs::read(&own.certificate).unwrap());
            assert_ne!(curl(None, &[&format!("{url}/a")]).code, Some(0));

            let mut lftp = program("lftp", "lftp", desk.path());
            let script = format!(
                "set ssl:ca-file {}; set ssl:cert-file {}; set ssl:key-file {}; set ftp:ssl-force true; set \
                 cmd:fail-exit true; set net:max-retries 2; set net:timeout 30; open -u '{user},{password}' {url}; cat \
                 a; put {} -o c; ls",
                gateway.certificate().display(),
                signed.certificate.display(),
                signed.key.display(),
                own.key.display()
            );
            let said = run(lftp.args(["--norc", "-c"]).arg(script)).succeeded();
            assert!(said.starts_with("content") && said.contains(" c\n"), "{said}");
        }
    }
    // By hand, with nothing of a client's manners.
    let mut hand = openssl(desk.path());
    hand.args(["s_client", "-quiet", "-starttls", "ftp", "-connect", &gateway.explicit.to_string(), "-CAfile"]);
    hand.arg(gateway.certificate()).arg("-cert").arg(&own.certificate).arg("-key").arg(&own.key);
    let mut process = tokio::process::Command::from(hand)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = process.stdin.take().unwrap();
    input.write_all(b"USER own\r\nPWD\r\nQUIT\r\n").await.unwrap();
    let mut said = String::new();
    process.stdout.take().unwrap().read_to_string(&mut said).await.unwrap();
    let _ = process.kill().await;
    for code in ["232 ", "257 ", "221 "] {
        assert!(said.contains(code), "{said}");
    }
}

#[tokio::test]
async fn tls_53_what_is_revoked_meanwhile_ends_sessions_and_a_broken_list_changes_nothing() {
    let sshd = Sshd::start().await;
    let authority = Authority::new("Ours");
    let (kept, withdrawn) = (authority.sign("/CN=kept"), authority.sign("/CN=withdrawn"));
    let folder = tempfile::tempdir().unwrap();
    let in_use = folder.path().join("list.pem");
    fs::copy(authority.revocation_list("-crldays 30"), &in_use).unwrap();
    let mut setup = Setup::backend(&sshd);
    for (signed, name) in [(&kept, "kept"), (&withdrawn, "withdrawn")] {
        let rule = format!("{{fingerprints: [\"{}\"]}}", signed.fingerprint());
        setup = by_certificate(setup, name, &rule, &sshd.files());
    }
    let gateway = Gateway::start(&asking(setup, "required", &authority.certificate(), Some(&in_use)));
    let mut staying = show(&gateway, &kept, &TLS13).await;
    staying.ask("USER kept", 232).await;
    let mut leaving = show(&gateway, &withdrawn, &TLS13).await;
    leaving.ask("USER withdrawn", 232).await;
    // One more that says nothing, and one in the middle of an upload.
    let mut silent = show(&gateway, &withdrawn, &TLS13).await;
    silent.ask("USER withdrawn", 232).await;
    let mut busy = show(&gateway, &withdrawn, &TLS13).await;
    busy.ask_all(&[("USER withdrawn", 232), ("TYPE I", 200)]).await;
    let address = busy.passive().await;
    busy.send("STOR unfinished").await;
    let mut data = busy.data(address).await;
    busy.expect(150).await;
    data.write_all(b"a part").await.unwrap();
    data.flush().await.unwrap();

    let reloads = |result| format!("ftps2sftp_reloads_total{{object=\"client_ca\",result=\"{result}\"}}");
    fs::write(&in_use, "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n").unwrap();
    gateway.wait_for_metric(&reloads("failed"), 1.0).await;
    leaving.ask("PWD", 257).await;

    authority.revoke(&withdrawn);
    fs::copy(authority.revocation_list("-crldays 30"), &in_use).unwrap();
    gateway.wait_for_metric(&reloads("success"), 1.0).await;
    for mut client in [leaving, silent] {
        client.expect(421).await;
        client.expect_closed().await;
    }
    busy.expect(426).await;
    busy.expect(421).await;
    busy.expect_closed().await;
    assert!(!sshd.files().join("unfinished").exists());
    assert!(come(&gateway, withdrawn.connector(&gateway, &TLS13)).await.is_err());
    staying.ask("PWD", 257).await;
    assert_eq!(staying.store("STOR file", b"goes on").await.code, 226);
}
