//! Files that change under a running gateway: certificates (TLS-60, TLS-61), users (S-30), host keys, and mistakes in them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ftps2sftp::config::secret::Secret;
use ftps2sftp::identity::password;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::support::campaign::is_full;
use crate::support::client::{Client, connector, server_name};
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, MAPPED_USER, Setup, write_certificate};
use crate::support::sshd::Sshd;

/// How long anything may take that is only waited for.
const PATIENCE: Duration = Duration::from_secs(60);

const TAKEN_OVER: &str = "ftps2sftp_reloads_total{object=\"tls\",result=\"success\"}";

/// Does somebody who trusts only this certificate get through a handshake?
async fn is_served(gateway: &Gateway, trusting: &TlsConnector) -> bool {
    let stream = TcpStream::connect(gateway.implicit).await.unwrap();
    trusting.connect(server_name(), stream).await.is_ok()
}

/// Changes the configuration file, in one step.
fn change(gateway: &Gateway, from: &str, to: &str) {
    let text = fs::read_to_string(gateway.file()).unwrap();
    assert!(text.contains(from), "{from} is not in\n{text}");
    let next = gateway.file().with_extension("next");
    fs::write(&next, text.replacen(from, to, 1)).unwrap();
    fs::rename(next, gateway.file()).unwrap();
}

#[tokio::test]
async fn a_new_certificate_is_for_new_sessions_and_those_under_way_keep_theirs() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut old = Client::logged_in(&gateway).await;
    for round in 1..=2 {
        let before = connector(&gateway, &TLS13);
        write_certificate(gateway.directory());
        gateway.wait_for_metric(TAKEN_OVER, f64::from(round)).await;
        assert!(!is_served(&gateway, &before).await, "the certificate of before is still shown");
        let mut new = Client::logged_in(&gateway).await;
        assert_eq!(new.store("STOR new", b"of a new session").await.code, 226);
        // RFC 4217 §15.1.1: the data connections of a session show the certificate of its control connection.
        assert_eq!(old.store("STOR old", b"of an old session").await.code, 226);
        assert_eq!(old.retrieve("new").await, b"of a new session");
    }
}

#[tokio::test]
async fn tls_61_a_pair_that_does_not_fit_is_told_once_and_the_last_good_one_stays() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let good = connector(&gateway, &TLS13);
    let other = tempfile::tempdir().unwrap();
    write_certificate(other.path());
    let key = gateway.directory().join("tls.key");
    let fitting = fs::read(&key).unwrap();
    fs::copy(other.path().join("tls.key"), &key).unwrap();
    gateway.wait_for_metric("ftps2sftp_reloads_total{object=\"tls\",result=\"failed\"}", 1.0).await;
    assert!(is_served(&gateway, &good).await);
    let line = gateway.wait_for_log(|line| line.contains("the last good configuration stays in use"));
    assert!(line.contains("tls.certificates[0]"), "{line}");
    // The same mistake, looked at again, is no news.
    fs::copy(other.path().join("tls.key"), &key).unwrap();
    fs::write(&key, fitting).unwrap();
    gateway.wait_for_log(|line| line.contains("\"reloaded\""));
    let told = gateway.log().matches("the last good configuration stays in use").count();
    assert_eq!(told, 1, "{}", gateway.log());
    assert!(is_served(&gateway, &good).await);
}

#[tokio::test]
async fn users_come_and_go_and_a_broken_file_changes_nothing() {
    let sshd = Sshd::start().await;
    let setup = Setup::backend(&sshd).with_user("first", &format!("    root: \"{}\"\n", sshd.files().display()));
    let gateway = Gateway::start(&setup);
    let mut under_way = Client::explicit(&gateway).await;
    under_way.log_in("first", MAPPED_PASSWORD).await;

    change(&gateway, "\n  first:", "\n  second:");
    gateway.wait_for_metric("ftps2sftp_reloads_total{object=\"users\",result=\"success\"}", 1.0).await;
    let mut client = Client::explicit(&gateway).await;
    client.log_in("second", MAPPED_PASSWORD).await;
    let mut client = Client::explicit(&gateway).await;
    client.ask_all(&[("USER first", 331), (&format!("PASS {MAPPED_PASSWORD}"), 530)]).await;
    under_way.ask("PWD", 257).await;
    assert_eq!(under_way.store("STOR file", b"goes on").await.code, 226);

    // F-21: nothing of a file with a mistake is taken over, what is right in it neither.
    change(&gateway, "\n  second:", "\n  third:");
    change(&gateway, "listeners:", "listenesr:");
    gateway.signal("HUP");
    let line = gateway.wait_for_log(|line| line.contains("the last good configuration stays in use"));
    assert!(line.contains("did you mean `listeners`?"), "{line}");
    let mut client = Client::explicit(&gateway).await;
    client.log_in("second", MAPPED_PASSWORD).await;

    // What needs a new start is said so.
    change(&gateway, "listenesr:", "timeouts: {idle: 7m}\nlisteners:");
    let line = gateway.wait_for_log(|line| line.contains("takes effect at the next start"));
    assert!(line.contains("\"keys\":\"timeouts\""), "{line}");
    let mut client = Client::explicit(&gateway).await;
    client.log_in("third", MAPPED_PASSWORD).await;
}

/// S-30: over a connection that others share, too, and also within the time for which a right password is remembered.
#[tokio::test]
async fn s30_a_hash_that_was_changed_refuses_the_old_password_at_the_next_login() {
    const NEW: &str = "a new password";
    let sshd = Sshd::start().await;
    let root = format!("    root: \"{}\"\n", sshd.files().display());
    let setup = Setup::backend_with(&sshd, "connections: shared").with_user("mapped", &root);
    let gateway = Gateway::start(&setup.with_user("other", &root));
    let log_in = async |user: &str, password: &str, code: u16| {
        let mut client = Client::explicit(&gateway).await;
        client.ask_all(&[(&format!("USER {user}"), 331), (&format!("PASS {password}"), code)]).await;
        client
    };
    let mut under_way = log_in("mapped", MAPPED_PASSWORD, 230).await;
    under_way.ask("MDTM nothing", 550).await;
    log_in("mapped", MAPPED_PASSWORD, 230).await.ask("MDTM nothing", 550).await;
    let taken_over = "ftps2sftp_reloads_total{object=\"users\",result=\"success\"}";
    let old = {
        let text = fs::read_to_string(gateway.file()).unwrap();
        text.split("password_hash: \"").nth(1).unwrap().split('"').next().unwrap().to_owned()
    };
    let new = password::hash(&Secret::new(NEW)).unwrap();
    // The first of the two users' is replaced, and then set back.
    for (round, from, to, right, wrong) in
        [(1.0, &old, &new, NEW, MAPPED_PASSWORD), (2.0, &new, &old, MAPPED_PASSWORD, NEW)]
    {
        change(&gateway, from, to);
        gateway.wait_for_metric(taken_over, round).await;
        for _ in 0..2 {
            log_in("mapped", wrong, 530).await.ask("PWD", 530).await;
            log_in("mapped", right, 230).await.ask("MDTM nothing", 550).await;
        }
        log_in("other", MAPPED_PASSWORD, 230).await;
        under_way.ask("MDTM nothing", 550).await;
    }
}

/// A new certificate and its key for this name, as `tls.crt` and `tls.key`; TLS that trusts it and nothing else.
fn certificate_for(name: &str, directory: &Path) -> TlsConnector {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join("tls.crt"), made.cert.pem()).unwrap();
    fs::write(directory.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// Does somebody who asks for this name and trusts only this certificate get through a handshake?
async fn is_served_for(gateway: &Gateway, name: &'static str, trusting: &TlsConnector) -> bool {
    let stream = TcpStream::connect(gateway.implicit).await.unwrap();
    trusting.connect(ServerName::try_from(name).unwrap(), stream).await.is_ok()
}

/// Puts a link in the place of another, in one step.
fn swap_link(link: &Path, to: &str) {
    let next = link.with_file_name("next");
    symlink(to, &next).unwrap();
    fs::rename(next, link).unwrap();
}

/// A gateway with a further certificate, for [`VOLUME`], at this path.
fn showing(sshd: &Sshd, pair: &Path) -> Gateway {
    let path = pair.display();
    let certificates = format!(", {{certificate: \"{path}/tls.crt\", key: \"{path}/tls.key\"}}");
    Gateway::start(&Setup { certificates, ..Setup::backend(sshd).with_users(&sshd.files()) })
}

/// The name that a certificate in a folder of its own is for.
const VOLUME: &str = "volume.test";

/// As the kubelet does it: everything is written beside, one link is swapped, and what was there before is removed.
#[tokio::test]
async fn the_volume_of_a_secret_is_followed_without_a_signal() {
    let sshd = Sshd::start().await;
    let folder = tempfile::tempdir().unwrap();
    let volume = folder.path();
    let mut shown = certificate_for(VOLUME, &volume.join("..1"));
    symlink("..1", volume.join("..data")).unwrap();
    for name in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{name}"), volume.join(name)).unwrap();
    }
    let gateway = showing(&sshd, volume);
    assert!(is_served_for(&gateway, VOLUME, &shown).await);
    let mut under_way = Client::logged_in(&gateway).await;
    for round in 2..=4 {
        let generation = format!("..{round}");
        let next = certificate_for(VOLUME, &volume.join(&generation));
        assert!(!is_served_for(&gateway, VOLUME, &next).await);
        swap_link(&volume.join("..data"), &generation);
        gateway.wait_for_metric(TAKEN_OVER, f64::from(round - 1)).await;
        fs::remove_dir_all(volume.join(format!("..{}", round - 1))).unwrap();
        assert!(is_served_for(&gateway, VOLUME, &next).await, "round {round}");
        assert!(!is_served_for(&gateway, VOLUME, &shown).await, "round {round}: the one of before is still shown");
        shown = next;
        under_way.ask("PWD", 257).await;
    }
    assert!(!gateway.log().contains("reload failed"), "{}", gateway.log());
}

/// Of a link further up the path no directory that is watched tells a change. Once a minute the files are looked at all
/// the same, which is too long for every run.
#[tokio::test]
async fn what_changes_without_an_event_is_found_by_the_clock() {
    if !is_full() {
        return;
    }
    let sshd = Sshd::start().await;
    let folder = tempfile::tempdir().unwrap();
    let old = certificate_for(VOLUME, &folder.path().join("releases/1"));
    let next = certificate_for(VOLUME, &folder.path().join("releases/2"));
    symlink("releases/1", folder.path().join("current")).unwrap();
    // Beside a file of its own, so that the gateway may read there.
    certificate_for("beside.test", folder.path());
    let path = folder.path().display();
    let certificates = format!(
        ", {{certificate: \"{path}/current/tls.crt\", key: \"{path}/current/tls.key\"}}, {{certificate: \
         \"{path}/tls.crt\", key: \"{path}/tls.key\"}}"
    );
    let gateway = Gateway::start(&Setup { certificates, ..Setup::backend(&sshd).with_users(&sshd.files()) });
    assert!(is_served_for(&gateway, VOLUME, &old).await);
    swap_link(&folder.path().join("current"), "releases/2");
    let deadline = Instant::now() + 3 * PATIENCE;
    while !is_served_for(&gateway, VOLUME, &next).await {
        assert!(Instant::now() < deadline, "never looked at:\n{}", gateway.log());
        sleep(Duration::from_millis(500)).await;
    }
    assert!(!is_served_for(&gateway, VOLUME, &old).await);
    assert_eq!(gateway.metric(TAKEN_OVER).await, 1.0);
}

#[tokio::test]
async fn sighup_is_answered_where_nothing_has_changed() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    gateway.signal("HUP");
    let line = gateway.wait_for_log(|line| line.contains("\"reloaded\""));
    assert!(line.contains("\"changed\":\"nothing\""), "{line}");
    Client::logged_in(&gateway).await.ask("PWD", 257).await;
}

#[tokio::test]
async fn new_host_keys_hold_for_sessions_that_connect_again() {
    let (sshd, stranger) = tokio::join!(Sshd::start(), Sshd::start());
    let folder = tempfile::tempdir().unwrap();
    let known_hosts = folder.path().join("known_hosts");
    let write = |path: &Path, line: String| fs::write(path, line).unwrap();
    write(&known_hosts, sshd.known_hosts_line());
    let setup = Setup {
        backends: format!("  files: {{address: \"{}\", known_hosts: \"{}\"}}\n", sshd.address(), known_hosts.display()),
        ..Setup::default()
    };
    let gateway = Gateway::start(&setup.with_users(&sshd.files()));
    let mut client = Client::logged_in(&gateway).await;
    client.ask("MKD before", 257).await;
    // The key of another server under this one's name.
    let (name, _) =
        sshd.known_hosts_line().split_once(' ').map(|(name, key)| (name.to_owned(), key.to_owned())).unwrap();
    let (_, key) =
        stranger.known_hosts_line().split_once(' ').map(|(name, key)| (name.to_owned(), key.to_owned())).unwrap();
    write(&known_hosts, format!("{name} {key}"));
    let taken_over = "ftps2sftp_reloads_total{object=\"known_hosts\",result=\"success\"}";
    gateway.wait_for_metric(taken_over, 1.0).await;
    sshd.kill_sessions();
    let refused = client.command("MKD meanwhile").await;
    assert!((400..500).contains(&refused.code), "{}", refused.text());
    let mut stranded = Client::explicit(&gateway).await;
    stranded.ask_all(&[(&format!("USER {MAPPED_USER}"), 331), (&format!("PASS {MAPPED_PASSWORD}"), 421)]).await;
    write(&known_hosts, sshd.known_hosts_line());
    gateway.wait_for_metric(taken_over, 2.0).await;
    client.ask("MKD after", 257).await;
    assert!(sshd.files().join("after").is_dir() && !sshd.files().join("meanwhile").exists());
}

/// The same where the keys are pinned in the configuration itself: a session follows its backend by name.
#[tokio::test]
async fn new_pins_hold_for_sessions_that_connect_again() {
    let (sshd, stranger) = tokio::join!(Sshd::start(), Sshd::start());
    let gateway = Gateway::start(&Setup::backend(&sshd).with_users(&sshd.files()));
    let mut client = Client::logged_in(&gateway).await;
    client.ask("MKD before", 257).await;
    let told = fs::read_to_string(gateway.file()).unwrap();
    let (right, wrong) = (sshd.host_key_fingerprint("ed25519"), stranger.host_key_fingerprint("ed25519"));
    let taken_over = "ftps2sftp_reloads_total{object=\"backends\",result=\"success\"}";
    fs::write(gateway.file(), told.replace(&right, &wrong)).unwrap();
    gateway.wait_for_metric(taken_over, 1.0).await;
    sshd.kill_sessions();
    let refused = client.command("MKD meanwhile").await;
    assert!((400..500).contains(&refused.code), "{}", refused.text());
    fs::write(gateway.file(), told.clone()).unwrap();
    gateway.wait_for_metric(taken_over, 2.0).await;
    client.ask("MKD after", 257).await;
    // One that is not there any more wakes nobody.
    drop(sshd);
    client.command("MKD never").await;
    gateway.wait_for_metric("ftps2sftp_backend_up{backend=\"files\"}", 0.0).await;
    fs::write(gateway.file(), told.replace("  files: {", "  others: {").replace("backend: files", "backend: others"))
        .unwrap();
    gateway.wait_for_metric(taken_over, 3.0).await;
    gateway.wait_for_metric("ftps2sftp_backend_up{backend=\"files\"}", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_60_two_rotations_under_two_hundred_sessions_with_transfers_cost_none_of_them() {
    const SESSIONS: usize = 200;
    let sshd = Sshd::start().await;
    let root = sshd.files();
    let setup = Setup::backend_with(&sshd, "connections: shared")
        .with_user("many", &format!("    root: \"{}\"\n    limits: {{sessions: {SESSIONS}}}\n", root.display()));
    let setup = Setup { level: Some("info".to_owned()), ..setup };
    let gateway = Arc::new(Gateway::start(&setup));
    let (ready, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut sessions = JoinSet::new();
    for number in 0..SESSIONS {
        let (gateway, ready, stop) = (Arc::clone(&gateway), Arc::clone(&ready), Arc::clone(&stop));
        sessions.spawn(async move {
            let mut client = Client::explicit(&gateway).await;
            client.log_in("many", MAPPED_PASSWORD).await;
            let name = format!("file {number}");
            let mut transfers = 0;
            loop {
                // One more after the last rotation.
                let is_last = stop.load(Ordering::SeqCst);
                let content = format!("{name}, transfer {transfers}");
                let stored = client.store(format!("STOR {name}"), content.as_bytes()).await;
                assert_eq!(stored.code, 226, "{}", stored.text());
                assert_eq!(client.retrieve(&name).await, content.as_bytes());
                transfers += 1;
                if transfers == 1 {
                    ready.fetch_add(1, Ordering::SeqCst);
                }
                if is_last {
                    client.ask("QUIT", 221).await;
                    return transfers;
                }
            }
        });
    }
    let deadline = Instant::now() + PATIENCE;
    while ready.load(Ordering::SeqCst) < SESSIONS {
        assert!(Instant::now() < deadline, "{} sessions are there", ready.load(Ordering::SeqCst));
        assert!(sessions.try_join_next().is_none(), "a session ended before the first rotation");
        sleep(Duration::from_millis(20)).await;
    }
    for round in 1..=2 {
        let before = connector(&gateway, &TLS13);
        write_certificate(gateway.directory());
        gateway.wait_for_metric(TAKEN_OVER, f64::from(round)).await;
        assert!(!is_served(&gateway, &before).await);
    }
    stop.store(true, Ordering::SeqCst);
    let transfers = sessions.join_all().await;
    assert_eq!(transfers.len(), SESSIONS);
    assert!(transfers.iter().all(|count| *count >= 2), "{transfers:?}");
}
