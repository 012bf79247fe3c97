//! Who gets in, by which way, and how the others are turned away.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use tokio::io::AsyncReadExt;
use tokio::join;

use crate::support::campaign::{self, rounds};
use crate::support::client::Client;
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, MAPPED_USER, Setup};
use crate::support::sshd::{Options, PASSWORD, Sshd, USER};

/// A failed PASS is answered no sooner.
const FLOOR: Duration = Duration::from_secs(3);

/// One entry for every name.
const ANYBODY: &str = "  \"*\": {backend: files, login: passthrough}\n";

#[tokio::test]
async fn passthrough_logs_in_where_the_backend_takes_the_password() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::explicit(&gateway).await;
    client.log_in(USER, PASSWORD).await;
    let home = client.ask("PWD", 257).await.text();
    assert_eq!(home, format!("257 \"{}\" is the current directory", sshd.files().display()), "starts at home");
    assert!(sshd.log().contains("Accepted password for alice"));
    assert_eq!(client.store("STOR through.txt", b"whose file is this?").await.code, 226);
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(sshd.files().join("through.txt")).unwrap());
    let home_owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(sshd.files()).unwrap());
    assert_eq!(owner, home_owner);
}

#[tokio::test]
async fn passthrough_answers_keyboard_interactive() {
    let sshd = Sshd::with(Options { keyboard_interactive: true, ..Options::default() }).await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::explicit(&gateway).await;
    client.log_in(USER, PASSWORD).await;
    assert!(sshd.log().contains("Accepted keyboard-interactive/pam for alice"), "{}", sshd.log());
    assert_eq!(client.store("STOR a", b"x").await.code, 226);

    let (mut mapped, mut wrong) = join!(Client::implicit(&gateway), Client::implicit(&gateway));
    mapped.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
    wrong.ask(format!("USER {USER}"), 331).await;
    wrong.ask("PASS wrong", 530).await;
    wrong.log_in(USER, PASSWORD).await;
}

#[tokio::test]
async fn a_mapped_user_logs_in_with_a_stored_password_or_key_and_sees_its_root_as_slash() {
    let sshd = Sshd::start().await;
    let plain = sshd.client_key(&["-t", "ed25519"], "");
    let encrypted = sshd.client_key(&["-t", "ed25519"], "open sesame");
    let pem = sshd.client_key(&["-t", "rsa", "-b", "2048", "-m", "PEM"], "");
    sshd.place_directory("in");
    let root = format!("    root: \"{}/in\"\n", sshd.files().display());
    let key = |path: &std::path::Path| format!("{{user: {USER}, private_key: \"{}\"}}", path.display());
    let with_passphrase =
        format!("{{user: {USER}, private_key: \"{}\", passphrase: \"open sesame\"}}", encrypted.display());
    let setup = Setup::backend(&sshd)
        .with_user("password", &root)
        .with_login("plain", &key(&plain), &root)
        .with_login("encrypted", &with_passphrase, &root)
        .with_login("pem", &key(&pem), &root);
    let gateway = Gateway::start(&setup);
    for user in ["password", "plain", "encrypted", "pem"] {
        let mut client = Client::explicit(&gateway).await;
        client.log_in(user, MAPPED_PASSWORD).await;
        assert_eq!(client.ask("PWD", 257).await.text(), "257 \"/\" is the current directory", "{user}");
        assert_eq!(client.store(format!("STOR {user}"), user.as_bytes()).await.code, 226);
        assert_eq!(std::fs::read(sshd.files().join("in").join(user)).unwrap(), user.as_bytes());
    }
    assert_eq!(sshd.log().matches("Accepted publickey for alice").count(), 3, "{}", sshd.log());
}

#[tokio::test]
async fn an_exact_name_wins_over_the_star_and_the_star_takes_everyone_else() {
    let sshd = Sshd::start().await;
    let mut setup = Setup::backend(&sshd).with_user(USER, &format!("    root: \"{}\"\n", sshd.files().display()));
    setup.users.push_str(ANYBODY);
    let gateway = Gateway::start(&setup);
    let (mut exact, mut wrong, mut other_case) =
        join!(Client::explicit(&gateway), Client::explicit(&gateway), Client::explicit(&gateway));
    exact.log_in(USER, MAPPED_PASSWORD).await;
    assert_eq!(exact.ask("PWD", 257).await.text(), "257 \"/\" is the current directory");
    // The backend would take this password; the entry of the name does not ask it.
    wrong.ask(format!("USER {USER}"), 331).await;
    wrong.ask(format!("PASS {PASSWORD}"), 530).await;
    assert!(!sshd.log().contains("Failed"), "{}", sshd.log());
    // Another spelling is another name, and so the star's.
    other_case.ask("USER Alice", 331).await;
    other_case.ask(format!("PASS {PASSWORD}"), 530).await;
    assert!(sshd.log().contains("Invalid user Alice"), "{}", sshd.log());
}

#[tokio::test]
async fn s7_every_failed_login_gets_the_same_bytes_and_only_after_the_floor() {
    let sshd = Sshd::start().await;
    let mut setup = Setup::backend(&sshd).with_user(MAPPED_USER, "");
    setup.users.push_str(&format!("  {USER}: {{backend: files, login: passthrough}}\n"));
    let gateway = Gateway::start(&setup);
    let attempt = |user: &'static [u8], password: &'static str| {
        let gateway = &gateway;
        async move {
            let mut client = Client::explicit(gateway).await;
            let named = client.command([b"USER ", user].concat()).await;
            let started = Instant::now();
            let refused = client.command(format!("PASS {password}")).await;
            let took = started.elapsed();
            assert!(took >= FLOOR, "{} was answered after {took:?}", user.escape_ascii());
            // And the session is good for another try.
            client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
            (named, refused)
        }
    };
    let answers = join!(
        attempt(b"acme", "wrong"),
        attempt(b"acme", ""),
        attempt(b"acme", " swordfish 42"),
        attempt(b"nobody", "swordfish 42"),
        attempt(b"acm\xe9", "swordfish 42"),
        attempt(b"alice", "wrong"),
        attempt(b"a' OR 1=1--", "swordfish 42"),
        attempt(b"*", "swordfish 42"),
    );
    let (a, b, c, d, e, f, g, h) = answers;
    for answer in [&b, &c, &d, &e, &f, &g, &h] {
        assert_eq!(*answer, a);
    }
    assert_eq!((a.0.code, a.1.code), (331, 530));
}

/// S-7: each attempt is of its own name and address, so that none is put off for what others did.
#[tokio::test(flavor = "multi_thread")]
async fn s7_the_time_of_a_failed_login_does_not_tell_whether_there_is_such_a_user() {
    let (each, at_a_time) = (rounds(90, 5000), rounds(60, 400));
    let sshd = Sshd::start().await;
    let mut setup = Setup::backend(&sshd).with("limits: {sessions_per_ip: 10000}\n");
    for number in 0..each {
        setup = setup.with_user(&format!("known{number}"), "");
    }
    setup.level = Some("warn,ftps2sftp::app=info".to_owned());
    let gateway = Gateway::start(&setup);
    let attempt = |number: usize| {
        let gateway = &gateway;
        // One after the other, so that the machine's moods are the same for both.
        let (kind, number) = (["known", "nobody"][number % 2], number / 2);
        let [.., high, low] = u32::try_from(number + 1).unwrap().to_be_bytes();
        let from = [127, if kind == "known" { 11 } else { 12 }, high, low];
        async move {
            let mut client = Client::implicit_from(gateway, from).await;
            client.ask(format!("USER {kind}{number}"), 331).await;
            let asked = Instant::now();
            client.ask("PASS wrong", 530).await;
            (kind, asked.elapsed().as_secs_f64())
        }
    };
    let times: Vec<_> = stream::iter(0..2 * each).map(attempt).buffer_unordered(at_a_time).collect().await;
    let of = |wanted: &str| times.iter().filter(|(kind, _)| *kind == wanted).map(|(_, time)| *time).collect();
    let (known, nobody): (Vec<f64>, Vec<f64>) = (of("known"), of("nobody"));
    let probability = same_distribution(known, nobody);
    // Of equal distributions one sample in ten thousand is refused; a hash that is not made shifts all of one.
    assert!(probability > 1e-4, "two samples of one distribution differ as much with a probability of {probability}");
}

/// The two-sample Kolmogorov-Smirnov test: how probable it is that two samples of one distribution differ as much as these
/// (asymptotic, by the series of Smirnov 1948 with the correction of Stephens 1970).
fn same_distribution(mut one: Vec<f64>, mut other: Vec<f64>) -> f64 {
    let below = |sample: &[f64], bound: f64| sample.partition_point(|time| *time <= bound) as f64 / sample.len() as f64;
    one.sort_by(f64::total_cmp);
    other.sort_by(f64::total_cmp);
    let apart = one.iter().chain(&other).map(|bound| (below(&one, *bound) - below(&other, *bound)).abs());
    let apart = apart.fold(0.0, f64::max);
    let size = (one.len() * other.len()) as f64 / (one.len() + other.len()) as f64;
    let scaled = (size.sqrt() + 0.12 + 0.11 / size.sqrt()) * apart;
    let term = |index: i32| (-1.0_f64).powi(index - 1) * (-2.0 * f64::from(index * index) * scaled * scaled).exp();
    (2.0 * (1..=100).map(term).sum::<f64>()).clamp(0.0, 1.0)
}

#[test]
fn two_samples_are_told_apart_only_where_they_differ() {
    let sample = |seed: u64, offset: f64| -> Vec<f64> {
        campaign::random(seed, 1_000_000).take(500).map(|number| number as f64 + offset).collect()
    };
    assert!(same_distribution(sample(1, 0.0), sample(2, 0.0)) > 0.01);
    assert!(same_distribution(sample(1, 0.0), sample(2, 150_000.0)) < 0.001);
}

#[tokio::test]
async fn a_backend_that_is_down_is_421_and_not_a_wrong_password() {
    let sshd = Sshd::start().await;
    let setup = Setup::backend(&sshd).with_users(&sshd.files());
    drop(sshd);
    let gateway = Gateway::start(&setup);
    for (user, password) in [(MAPPED_USER, MAPPED_PASSWORD), (USER, PASSWORD)] {
        let mut client = Client::explicit(&gateway).await;
        client.ask(format!("USER {user}"), 331).await;
        client.ask(format!("PASS {password}"), 421).await;
        client.expect_closed().await;
    }
    // Whoever has the wrong password learns nothing about the backend.
    let mut client = Client::explicit(&gateway).await;
    client.ask(format!("USER {MAPPED_USER}"), 331).await;
    client.ask("PASS wrong", 530).await;
    gateway.wait_for_metric("ftps2sftp_logins_total{method=\"password\",result=\"backend_unavailable\"}", 2.0).await;
}

#[tokio::test]
async fn s27_a_wrong_host_key_is_421_and_no_password_leaves() {
    let options = Options { config: vec!["LogLevel DEBUG2".to_owned()], ..Options::default() };
    let (sshd, other) = (Sshd::with(options).await, Sshd::start().await);
    let setup = Setup::backend_at(sshd.address(), &other.host_key_fingerprint("ed25519")).with_users(&sshd.files());
    let gateway = Gateway::start(&setup);
    for (user, password) in [(MAPPED_USER, MAPPED_PASSWORD), (USER, PASSWORD)] {
        let mut client = Client::explicit(&gateway).await;
        client.ask(format!("USER {user}"), 331).await;
        let reply = client.ask(format!("PASS {password}"), 421).await;
        assert!(!reply.text().contains("host key"), "{}", reply.text());
        client.expect_closed().await;
    }
    gateway.wait_for_metric("ftps2sftp_backend_connects_total{backend=\"files\",result=\"host_key\"}", 2.0).await;
    // The key exchange was begun and nobody was named; a client that is content does name somebody.
    sshd.wait_for_log("SSH2_MSG_KEXINIT received").await;
    assert!(!sshd.log().contains("userauth-request"), "{}", sshd.log());
    let content = Gateway::before(&sshd);
    Client::logged_in(&content).await;
    sshd.wait_for_log("userauth-request for user alice").await;
    assert_eq!(sshd.log().matches("userauth-request for user alice service ssh-connection method password").count(), 1);
}

#[tokio::test]
async fn three_failures_close_the_connection() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::explicit(&gateway).await;
    for (user, code) in [(MAPPED_USER, 530), ("nobody", 530), (MAPPED_USER, 421)] {
        client.ask(format!("USER {user}"), 331).await;
        client.ask("PASS wrong", code).await;
    }
    client.expect_closed().await;
}

#[tokio::test]
async fn a_user_has_no_more_sessions_than_its_limit() {
    let sshd = Sshd::start().await;
    let setup = Setup::backend(&sshd).with_user("few", "    limits: {sessions: 2}\n").with_user("many", "");
    let gateway = Gateway::start(&setup);
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let mut client = Client::explicit(&gateway).await;
        client.log_in("few", MAPPED_PASSWORD).await;
        sessions.push(client);
    }
    let mut third = Client::explicit(&gateway).await;
    third.ask("USER few", 331).await;
    third.ask(format!("PASS {MAPPED_PASSWORD}"), 421).await;
    third.expect_closed().await;
    // Nobody learns from it whether a session would be free: the password comes first.
    let mut stranger = Client::explicit(&gateway).await;
    stranger.ask("USER few", 331).await;
    stranger.ask("PASS wrong", 530).await;
    let mut other = Client::explicit(&gateway).await;
    other.log_in("many", MAPPED_PASSWORD).await;

    let mut leaving = sessions.pop().unwrap();
    leaving.ask("QUIT", 221).await;
    leaving.expect_closed().await;
    let closed = "ftps2sftp_sessions{listener=\"explicit\",state=\"idle\"}";
    gateway.wait_for_metric(closed, 2.0).await;
    let mut next = Client::explicit(&gateway).await;
    next.log_in("few", MAPPED_PASSWORD).await;
}

#[tokio::test]
async fn user_and_pass_keep_their_order() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::explicit(&gateway).await;
    client.ask_all(&[("PASS early", 503), ("ACCT x", 503), ("USER", 501), ("USER ", 501), ("PASS x", 503)]).await;
    client.ask(format!("USER {MAPPED_USER}"), 331).await;
    client.ask("ACCT whatever", 202).await;
    // A second USER begins anew, and a failed PASS uses it up.
    client.ask("USER nobody", 331).await;
    client.ask(format!("PASS {MAPPED_PASSWORD}"), 530).await;
    client.ask(format!("PASS {MAPPED_PASSWORD}"), 503).await;
    client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
    client.ask_all(&[("USER acme", 530), ("USER alice", 530), ("PASS x", 503), ("ACCT x", 202), ("PWD", 257)]).await;
}

#[tokio::test]
async fn a_name_that_cannot_be_one_is_refused_before_anything_is_asked() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::explicit(&gateway).await;
    for name in [&b"a\x01b"[..], b"acme\x00x", b"acme\r\x00x", b"\x1b[2J", b"\x7f", b"a\tb", &[b'u'; 256]] {
        client.ask([b"USER ", name].concat(), 501).await;
        client.ask("PASS x", 503).await;
    }
    client.ask([&b"USER "[..], &[b'u'; 255]].concat(), 331).await;
    client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
}

#[tokio::test]
async fn a_password_is_taken_verbatim() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut lower = Client::explicit(&gateway).await;
    lower.ask(format!("user {MAPPED_USER}"), 331).await;
    lower.ask(format!("pass {MAPPED_PASSWORD}"), 230).await;
    let attempt = |command: String| {
        let gateway = &gateway;
        async move {
            let mut client = Client::explicit(gateway).await;
            client.ask(format!("USER {MAPPED_USER}"), 331).await;
            client.ask(command, 530).await;
        }
    };
    join!(
        attempt(format!("PASS  {MAPPED_PASSWORD}")),
        attempt(format!("PASS {MAPPED_PASSWORD} ")),
        // What some old servers took for "quiet, please".
        attempt(format!("PASS -{MAPPED_PASSWORD}")),
        attempt("PASS".to_owned()),
    );
}

#[tokio::test]
async fn an_address_has_no_more_connections_than_its_limit() {
    let sshd = Sshd::start().await;
    let setup = Setup::backend(&sshd).with_users(&sshd.files()).with("limits: {sessions_per_ip: 2}\n");
    let gateway = Gateway::start(&setup);
    let (mut first, _second) = (Client::logged_in(&gateway).await, Client::logged_in(&gateway).await);
    let mut third = tokio::net::TcpStream::connect(gateway.explicit).await.unwrap();
    let mut said = String::new();
    third.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "421 Too many sessions, try again later\r\n");
    first.ask("QUIT", 221).await;
    first.expect_closed().await;
    gateway.wait_for_metric("ftps2sftp_sessions{listener=\"explicit\",state=\"idle\"}", 1.0).await;
    // The place is given back a moment after the gauge.
    loop {
        let mut next = tokio::net::TcpStream::connect(gateway.explicit).await.unwrap();
        let mut code = [0; 4];
        next.read_exact(&mut code).await.unwrap();
        if &code == b"220 " {
            break;
        }
        assert_eq!(&code, b"421 ");
    }
}
