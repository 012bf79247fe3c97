//! Who guesses, who is locked out by that and who is not (S-6), where a user may come from, and who needs no password.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::support::client::{Client, Reply};
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, MAPPED_USER, Setup};
use crate::support::sshd::{Options, PASSWORD, Sshd, USER};

/// No answer to a failed login comes before it.
const FLOOR: Duration = Duration::from_secs(3);

const HOME: [u8; 4] = [127, 0, 0, 1];
const ELSEWHERE: [u8; 4] = [127, 0, 2, 2];

/// USER and PASS, whatever is answered.
async fn attempt(gateway: &Gateway, from: [u8; 4], user: &str, password: &str) -> Reply {
    let mut client = Client::implicit_from(gateway, from).await;
    client.ask(format!("USER {user}"), 331).await;
    client.command(format!("PASS {password}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn s6_guesses_from_many_connections_end_at_the_bound_and_the_owner_still_logs_in() {
    let sshd = Sshd::with(Options { config: vec!["MaxStartups 200".to_owned()], ..Options::default() }).await;
    let setup = Setup::backend(&sshd)
        .with_users(&sshd.files())
        .with("limits: {failed_logins: {per_ip: 5, per_user: 8, window: 10m, ban: 10m}}\n");
    let gateway = Gateway::start(&setup);
    // A partner that has logged in from its own address before.
    assert_eq!(attempt(&gateway, HOME, USER, PASSWORD).await.code, 230);
    // Forty connections from four other addresses guess until they are closed.
    let guesser = |host: u8| {
        let gateway = &gateway;
        async move {
            let mut client = Client::implicit_from(gateway, [127, 0, 1, host % 4]).await;
            for code in [530, 530, 421] {
                client.ask(format!("USER {USER}"), 331).await;
                client.ask(format!("PASS guess {host}"), code).await;
            }
        }
    };
    join_all((0..40).map(guesser)).await;
    let guesses = sshd.log().matches("Failed password for alice").count();
    // Those that made the name banned, and as many again from addresses that had not failed by then.
    assert!((1..=2 * 8).contains(&guesses), "{guesses} of 120 guesses reached the backend\n{}", sshd.log());
    let throttled = gateway.metric("ftps2sftp_logins_total{method=\"password\",result=\"throttled\"}").await;
    assert!(throttled >= 100.0, "{throttled}");
    gateway.wait_for_log(|line| line.contains("logins are refused") && line.contains("per_user"));

    // The right password does not help where it was guessed, and the backend is not asked.
    let logins = sshd.logins();
    let refused = attempt(&gateway, [127, 0, 1, 0], USER, PASSWORD).await;
    assert_eq!(refused.text(), "530 Login incorrect");
    assert_eq!(sshd.logins(), logins);
    // The partner at its own address, and at one that was never seen.
    assert_eq!(attempt(&gateway, HOME, USER, PASSWORD).await.code, 230);
    assert_eq!(attempt(&gateway, ELSEWHERE, USER, PASSWORD).await.code, 230);
    // Another user at an address that nobody guessed from.
    assert_eq!(attempt(&gateway, ELSEWHERE, MAPPED_USER, MAPPED_PASSWORD).await.code, 230);
}

#[tokio::test(flavor = "multi_thread")]
async fn s6_behind_one_address_who_is_known_goes_on_and_the_ban_ends() {
    let sshd = Sshd::start().await;
    let setup = Setup::backend(&sshd)
        .with_user("known", "")
        .with_user("newcomer", "")
        .with("limits: {failed_logins: {per_session: 9, per_ip: 3, per_user: null, ban: 20s}}\n");
    let gateway = Gateway::start(&setup);
    assert_eq!(attempt(&gateway, HOME, "known", MAPPED_PASSWORD).await.code, 230);
    let started = Instant::now();
    let mut failing = Client::implicit_from(&gateway, HOME).await;
    let mut answers = Vec::new();
    for _ in 0..3 {
        failing.ask("USER misconfigured", 331).await;
        let asked = Instant::now();
        failing.ask("PASS wrong", 530).await;
        answers.push(asked.elapsed());
    }
    // Each failure puts the next answer off.
    for (number, took) in (1..).zip(&answers) {
        assert!(*took >= FLOOR * number && *took < FLOOR * (number + 1), "{answers:?}");
    }
    // Banned: in bytes and in time like a wrong password, for good and bad ones, known and unknown names.
    let banned = join_all([
        attempt(&gateway, HOME, "newcomer", MAPPED_PASSWORD),
        attempt(&gateway, HOME, "newcomer", "wrong"),
        attempt(&gateway, HOME, "nobody", "wrong"),
    ]);
    let banned = banned.await;
    assert!(banned.iter().all(|reply| reply.text() == "530 Login incorrect"), "{banned:?}");
    assert_eq!(attempt(&gateway, HOME, "known", MAPPED_PASSWORD).await.code, 230);
    assert_eq!(attempt(&gateway, ELSEWHERE, "newcomer", MAPPED_PASSWORD).await.code, 230);
    // Coming again and again does not make it longer.
    loop {
        if attempt(&gateway, HOME, "newcomer", MAPPED_PASSWORD).await.code == 230 {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "the ban does not end");
    }
    assert!(started.elapsed() > Duration::from_secs(20));
}

#[tokio::test]
async fn s6_who_only_looks_whether_somebody_is_there_is_never_banned() {
    let sshd = Sshd::start().await;
    let setup =
        Setup::backend(&sshd).with_users(&sshd.files()).with("limits: {failed_logins: {per_ip: 1, per_user: 1}}\n");
    let gateway = Gateway::start(&setup);
    // Health checks: a connection, a greeting, a handshake, a name.
    for _ in 0..10 {
        drop(tokio::net::TcpStream::connect(gateway.explicit).await.unwrap());
        Client::clear(&gateway).await.ask("QUIT", 221).await;
        let mut client = Client::implicit(&gateway).await;
        client.ask(format!("USER {MAPPED_USER}"), 331).await;
        client.ask("QUIT", 221).await;
    }
    Client::logged_in(&gateway).await;
    // A backend that is down is nobody's failure either.
    drop(sshd);
    for _ in 0..2 {
        assert_eq!(attempt(&gateway, ELSEWHERE, USER, PASSWORD).await.code, 421);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_another_network_a_user_is_told_what_a_wrong_password_is() {
    let sshd = Sshd::start().await;
    let mut setup = Setup::backend(&sshd).with_user("inside", "    from: [\"127.0.2.0/24\", \"2001:db8::/32\"]\n");
    setup.users.push_str(&format!("  {USER}: {{backend: files, login: passthrough, from: [\"127.0.2.2\"]}}\n"));
    let gateway = Gateway::start(&setup);
    let connections = || sshd.log().matches("Connection from").count();
    let before = connections();
    for (user, password) in [("inside", MAPPED_PASSWORD), (USER, PASSWORD)] {
        let asked = Instant::now();
        let refused = attempt(&gateway, HOME, user, password).await;
        assert_eq!(refused.text(), "530 Login incorrect");
        assert!(asked.elapsed() >= FLOOR);
        assert_eq!(connections(), before, "the backend was asked: {}", sshd.log());
    }
    for (user, password) in [("inside", MAPPED_PASSWORD), (USER, PASSWORD)] {
        assert_eq!(attempt(&gateway, ELSEWHERE, user, password).await.code, 230);
    }
    gateway.wait_for_metric("ftps2sftp_logins_total{method=\"password\",result=\"denied\"}", 2.0).await;
}

#[tokio::test]
async fn anonymous_comes_in_with_any_password_where_it_is_configured_and_only_reads() {
    let sshd = Sshd::start().await;
    sshd.place_file("public", "for all");
    let root = format!("    root: \"{}\"\n", sshd.files().display());
    let mut setup = Setup::backend(&sshd).with_user("named", &root);
    setup.users.push_str(&format!(
        "  anonymous:\n    password_hash: null\n    backend: files\n    login: {{user: {USER}, password: \
         \"{PASSWORD}\"}}\n{root}"
    ));
    let gateway = Gateway::start(&setup);
    for password in ["guest@example.com", "", "x"] {
        let mut client = Client::implicit(&gateway).await;
        client.log_in("anonymous", password).await;
        assert_eq!(client.retrieve("public").await, b"for all");
        assert_eq!(client.store("STOR mine", b"x").await.code, 550);
        client.ask("DELE public", 550).await;
        client.ask("MKD d", 550).await;
    }
    // Nobody else, and no other spelling.
    for user in ["Anonymous", "ftp", "named"] {
        assert_eq!(attempt(&gateway, HOME, user, "guest@example.com").await.code, 530, "{user}");
    }
    // Where it is not configured it is a name like any other.
    let gateway = Gateway::start(&Setup::backend(&sshd).with_user("named", &root));
    assert_eq!(attempt(&gateway, HOME, "anonymous", "guest@example.com").await.code, 530);
}
