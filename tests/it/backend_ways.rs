//! The way to a backend: several addresses, a circuit breaker where none answers, and jump hosts.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::client::Client;
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, MAPPED_USER, Setup};
use crate::support::sshd::{Options, PASSWORD, Sshd, USER};
use crate::support::transfer::{content, eventually};

/// How long a backend that is back may stay unnoticed: the longest rest of an address, and a login.
const NOTICED_WITHIN: Duration = Duration::from_secs(60);

/// How long a login that asks nobody may take, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A port in front of a server, which counts who comes and may turn everybody away.
struct Door {
    address: SocketAddr,
    came: Arc<AtomicUsize>,
    /// 0 is closed.
    open: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Door {
    async fn before(sshd: &Sshd) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (came, open) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (counted, is_open, to) = (Arc::clone(&came), Arc::clone(&open), sshd.address());
        let accepting = tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                if is_open.load(Ordering::SeqCst) == 1 {
                    tokio::spawn(async move {
                        let mut server = TcpStream::connect(to).await.unwrap();
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                    });
                }
            }
        });
        Self { address, came, open, accepting }
    }

    fn came(&self) -> usize {
        self.came.load(Ordering::SeqCst)
    }

    fn open(&self) {
        self.open.store(1, Ordering::SeqCst);
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The reply to PASS of the mapped user.
async fn log_in(gateway: &Gateway) -> u16 {
    let mut client = Client::explicit(gateway).await;
    client.ask(&format!("USER {MAPPED_USER}"), 331).await;
    client.command(&format!("PASS {MAPPED_PASSWORD}")).await.code
}

#[tokio::test]
async fn logins_fail_at_once_while_no_address_answers_and_one_in_a_while_tries() {
    let sshd = Sshd::start().await;
    let door = Door::before(&sshd).await;
    let setup = Setup::backend_at(door.address, &sshd.host_key_fingerprint("ed25519")).with_users(&sshd.files());
    let gateway = Gateway::start(&setup);
    let series = "ftps2sftp_backend_circuit_open{backend=\"files\"}";
    assert_eq!(gateway.metric(series).await, 0.0);
    for _ in 0..3 {
        assert_eq!(log_in(&gateway).await, 421);
    }
    gateway.wait_for_log(|line| line.contains("no address of the backend answers"));
    gateway.wait_for_metric(series, 1.0).await;
    assert_eq!(gateway.metric("ftps2sftp_backend_up{backend=\"files\"}").await, 0.0);

    let (came, asked) = (door.came(), Instant::now());
    let replies = join_all((0..20).map(|_| log_in(&gateway))).await;
    assert!(replies.iter().all(|code| *code == 421), "{replies:?}");
    let (tried, took) = (door.came() - came, asked.elapsed());
    assert!(took < AT_ONCE, "{took:?}");
    // A rest of 4 seconds, and of 8 after that.
    assert!(tried <= 1, "{tried} of 20 logins asked the backend within {took:?}");
    gateway
        .wait_for_log(|line| line.contains("login failed") && line.contains("not asked, as it did not answer before"));

    door.open();
    let deadline = Instant::now() + NOTICED_WITHIN;
    while log_in(&gateway).await != 230 {
        assert!(Instant::now() < deadline, "the backend is back, and nobody notices");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    gateway.wait_for_log(|line| line.contains("the backend answers again"));
    gateway.wait_for_metric(series, 0.0).await;
    let said = |what: &str| gateway.log().lines().filter(|line| line.contains(what)).count();
    assert_eq!(said("no address of the backend answers"), 1, "the log says it once");
    assert_eq!(said("the backend answers again"), 1);
    assert!(join_all((0..4).map(|_| log_in(&gateway))).await.iter().all(|code| *code == 230), "all are let in again");
}

#[tokio::test]
async fn an_address_that_fails_is_asked_after_the_others_and_comes_back() {
    let sshd = Sshd::start().await;
    let (first, second) = (Door::before(&sshd).await, Door::before(&sshd).await);
    second.open();
    let backends = format!(
        "  files: {{address: [\"{}\", \"{}\"], host_keys: [\"{}\"]}}\n",
        first.address,
        second.address,
        sshd.host_key_fingerprint("ed25519")
    );
    let gateway = Gateway::start(&with_backends(backends, &sshd));
    for _ in 0..5 {
        assert_eq!(log_in(&gateway).await, 230);
    }
    assert!(first.came() <= 3, "{} of 5 logins asked the address that fails", first.came());
    assert_eq!(second.came(), 5);
    gateway.wait_for_metric("ftps2sftp_backend_circuit_open{backend=\"files\"}", 0.0).await;
    first.open();
    let deadline = Instant::now() + NOTICED_WITHIN;
    loop {
        let came = second.came();
        assert_eq!(log_in(&gateway).await, 230);
        if second.came() == came {
            break;
        }
        assert!(Instant::now() < deadline, "the first address is never asked again");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A `backends` entry in one line.
fn entry(name: &str, sshd: &Sshd, more: &str) -> String {
    format!(
        "  {name}: {{address: \"{}\", host_keys: [\"{}\"]{more}}}\n",
        sshd.address(),
        sshd.host_key_fingerprint("ed25519")
    )
}

fn with_backends(backends: String, sshd: &Sshd) -> Setup {
    Setup { backends, ..Setup::default() }.with_users(&sshd.files())
}

#[tokio::test]
async fn a_backend_is_reached_through_jump_hosts() {
    let (outer, inner, files) = (Sshd::start().await, Sshd::start().await, Sshd::start().await);
    let (outer_key, inner_key) = (outer.client_key(&["-t", "ed25519"], ""), inner.client_key(&["-t", "ecdsa"], ""));
    let login = |key: &std::path::Path| format!(", login: {{user: {USER}, private_key: {}}}", key.display());
    let backends = entry("outer", &outer, &login(&outer_key))
        + &entry("inner", &inner, &format!("{}, jump: outer", login(&inner_key)))
        + &entry("files", &files, ", jump: inner");
    let gateway = Gateway::start(&with_backends(backends, &files));

    // Mapped and passed through: the jump hosts see the gateway's login, and the client's goes to the backend alone.
    for (round, (user, password)) in [(MAPPED_USER, MAPPED_PASSWORD), (USER, PASSWORD)].into_iter().enumerate() {
        let mut client = Client::explicit(&gateway).await;
        client.log_in(user, password).await;
        client.ask("TYPE I", 200).await;
        let bytes = content(5_000_000, round as u64);
        assert_eq!(client.store("STOR file", &bytes).await.code, 226);
        assert!(client.retrieve("file").await == bytes);
        assert_eq!((outer.logins(), inner.logins(), files.logins()), (round + 1, round + 1, round + 1));
        client.ask("QUIT", 221).await;
        eventually("the jump hosts are left", || {
            outer.session_processes().is_empty() && inner.session_processes().is_empty()
        })
        .await;
    }
    assert!(!outer.log().contains("Accepted password") && !inner.log().contains("Accepted password"));

    // The way is lost with a host on it, and found again by the next command.
    let mut client = Client::explicit(&gateway).await;
    client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
    client.ask("TYPE I", 200).await;
    outer.kill_sessions();
    eventually("the connection is noticed to be gone", || files.session_processes().is_empty()).await;
    client.ask("SIZE file", 213).await;
    assert_eq!(outer.logins(), 4);
}

/// S-27: each host on the way is checked before it is shown anything.
#[tokio::test]
async fn every_host_on_the_way_must_be_the_right_one() {
    let (bastion, files) = (Sshd::start().await, Sshd::start().await);
    let key = bastion.client_key(&["-t", "ed25519"], "");
    let login = format!("login: {{user: {USER}, private_key: {}}}", key.display());
    let wrong = |sshd: &Sshd, other: &Sshd, name: &str, more: &str| {
        format!(
            "  {name}: {{address: \"{}\", host_keys: [\"{}\"], {more}}}\n",
            sshd.address(),
            other.host_key_fingerprint("ed25519")
        )
    };
    let gateway = Gateway::start(&with_backends(
        wrong(&bastion, &files, "bastion", &login) + &entry("files", &files, ", jump: bastion"),
        &files,
    ));
    assert_eq!(log_in(&gateway).await, 421);
    gateway.wait_for_log(|line| line.contains("login failed") && line.contains("jump host bastion: host key of"));
    assert_eq!((bastion.logins(), bastion.log().matches("userauth").count()), (0, 0), "{}", bastion.log());

    let gateway = Gateway::start(&with_backends(
        entry("bastion", &bastion, &format!(", {login}")) + &wrong(&files, &bastion, "files", "jump: bastion"),
        &files,
    ));
    assert_eq!(log_in(&gateway).await, 421);
    gateway.wait_for_log(|line| line.contains("login failed") && line.contains("host key of"));
    // A pin may be of a key of another type, so that the server is asked for each, over a connection of its own.
    assert!(bastion.logins() >= 1, "{}", bastion.log());
    assert_eq!(files.logins(), 0);
    assert!(!files.log().contains("Failed"), "{}", files.log());
}

#[tokio::test]
async fn a_jump_host_that_does_not_tunnel_or_refuses_the_gateway_is_named() {
    let files = Sshd::start().await;
    for (lines, knows_the_key, expected) in [
        (vec!["AllowTcpForwarding no".to_owned()], true, "jump host bastion: no channel: it does not tunnel to"),
        (vec![], false, "jump host bastion: login rejected"),
    ] {
        let bastion = Sshd::with(Options { config: lines, ..Options::default() }).await;
        let key = match knows_the_key {
            true => bastion.client_key(&["-t", "ed25519"], ""),
            false => bastion.strange_key(&["-t", "ed25519"], ""),
        };
        let login = format!(", login: {{user: {USER}, private_key: {}}}", key.display());
        let backends = entry("bastion", &bastion, &login) + &entry("files", &files, ", jump: bastion");
        let gateway = Gateway::start(&with_backends(backends, &files));
        // The user is right: it is the gateway that cannot get there.
        assert_eq!(log_in(&gateway).await, 421);
        gateway.wait_for_log(|line| line.contains("login failed") && line.contains(expected));
        assert_eq!(files.logins(), 0);
    }
}
