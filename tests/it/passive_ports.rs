//! Passive ports and descriptors when there are too few of them, and races for what does not belong to one (RFC 2577).

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::SupportedProtocolVersion;
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::support::campaign::{is_full, random, rounds};
use crate::support::client::{Client, connector, server_name};
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, MAPPED_USER, Setup};
use crate::support::sshd::Sshd;
use crate::support::transfer::{begin, content, end, eventually};

/// How long anything may take that is only waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// S-4: a flood of PASV holds one port.
#[tokio::test]
async fn a_session_listens_on_one_port_however_often_it_asks() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::logged_in(&gateway).await;
    let listening = gateway.listening();
    for round in 0..rounds(1000, 10_000) {
        let command = if round % 2 == 0 { "PASV" } else { "EPSV" };
        client.send(command).await;
        if round % 100 == 0 {
            // In the middle of it, too: the reply is not awaited yet.
            assert!(gateway.listening() <= listening + 1);
        }
        client.expect(if round % 2 == 0 { 227 } else { 229 }).await;
    }
    // Pipelined, as a flood is.
    client.send_raw("PASV\r\n".repeat(500).as_bytes()).await;
    for _ in 0..500 {
        client.expect(227).await;
    }
    assert_eq!(gateway.listening(), listening + 1);
    client.ask("ABOR", 226).await;
    eventually("the port is closed", || gateway.listening() == listening).await;
    client.ask_all(&[("EPSV", 229), ("QUIT", 221)]).await;
    eventually("the port is closed", || gateway.listening() == listening).await;
}

/// S-4: where all ports are taken, the next one hears 425, and nothing worse.
#[tokio::test]
async fn ten_ports_serve_ten_sessions_and_the_eleventh_when_one_is_done() {
    let sshd = Sshd::start().await;
    sshd.place_file("a", "content");
    for shared in ["true", "false"] {
        let mut setup = Setup::backend(&sshd).with_users(&sshd.files());
        setup.ports = Some(10);
        setup.passive = format!("  shared: {shared}\n");
        let gateway = Gateway::start(&setup);
        let mut clients = Vec::new();
        for _ in 0..10 {
            let mut client = Client::logged_in(&gateway).await;
            client.ask("EPSV", 229).await;
            clients.push(client);
        }
        let mut last = Client::logged_in(&gateway).await;
        last.ask_all(&[("EPSV", 425), ("PASV", 425), ("NOOP", 200)]).await;
        // Each asks again for itself without losing its own.
        clients[3].ask("PASV", 227).await;
        last.ask("EPSV", 425).await;
        clients.pop().unwrap().ask("QUIT", 221).await;
        eventually_retrieves(&mut last).await;
    }
}

async fn eventually_retrieves(client: &mut Client) {
    let deadline = Instant::now() + PATIENCE;
    while client.command("EPSV").await.code != 229 {
        assert!(Instant::now() < deadline, "no port comes free");
    }
    assert_eq!(client.retrieve("a").await, b"content");
}

/// S-21: without descriptors nothing spins, nothing that runs is broken, and all is well as soon as there are some.
#[tokio::test]
async fn a_process_without_descriptors_waits_for_some() {
    const DESCRIPTORS: u64 = 256;
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    gateway.limit_descriptors(DESCRIPTORS);
    let whole = content(200_000, 1);
    let mut at_work = Client::logged_in(&gateway).await;
    let mut data = begin(&mut at_work, "STOR whole").await;
    data.write_all(&whole[..100_000]).await.unwrap();
    let mut waiting = Client::logged_in(&gateway).await;
    let mut too_late = Client::explicit(&gateway).await;
    // As many as there are descriptors get a session; the others stay in the kernel's queue.
    let mut flood = Vec::new();
    for _ in 0..rounds(400, 1000) {
        flood.push(TcpStream::connect(gateway.explicit).await.unwrap());
    }
    gateway.wait_for_log(|line| line.contains("accept failed"));
    let (asked, used) = (Instant::now(), gateway.processor_time());
    waiting.ask_all(&[("EPSV", 425), ("PASV", 425), ("NOOP", 200)]).await;
    while asked.elapsed() < Duration::from_secs(2) {
        waiting.ask("EPSV", 425).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (used, elapsed) = (gateway.processor_time() - used, asked.elapsed());
    assert!(used < elapsed.mul_f64(0.2), "{used:?} of the processor in {elapsed:?}");
    data.write_all(&whole[100_000..]).await.unwrap();
    end(data).await;
    at_work.expect(226).await;
    assert!(std::fs::read(sshd.files().join("whole")).unwrap() == whole);
    // Nor is there one for a login's connection to the backend.
    too_late.ask(format!("USER {MAPPED_USER}"), 331).await;
    too_late.ask(format!("PASS {MAPPED_PASSWORD}"), 421).await;
    drop(flood);
    eventually_retrieves_whole(&mut waiting, &whole).await;
    Client::logged_in(&gateway).await.ask("EPSV", 229).await;
}

async fn eventually_retrieves_whole(client: &mut Client, whole: &[u8]) {
    let deadline = Instant::now() + PATIENCE;
    while client.command("EPSV").await.code != 229 {
        assert!(Instant::now() < deadline, "no port comes free");
    }
    assert!(client.retrieve("whole").await == whole);
}

/// S-3, TLS-2: an attacker at the client's own address, with a session of its own, whatever ticket it shows, and always
/// first. Each race is one transfer of the owner: it gets all of its file, the attacker nothing, and nothing of the
/// attacker's is stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_connects_first_without_the_sessions_ticket_gets_nothing() {
    const SECRET: &[u8] = b"for the rightful only";
    let sshd = Sshd::start().await;
    sshd.place_file("secret", std::str::from_utf8(SECRET).unwrap());
    let strict = format!("    root: \"{}\"\n    policy: {{data_tls_resumption: require}}\n", sshd.files().display());
    let mut setup = Setup::backend(&sshd).with_user("strict", &strict);
    // The log of ten thousand races is long.
    setup.level = is_full().then(|| "info".to_owned());
    let gateway = Gateway::start(&setup);
    let modes: [(&'static SupportedProtocolVersion, bool); 4] =
        [(&TLS12, false), (&TLS12, true), (&TLS13, false), (&TLS13, true)];
    let races = modes.into_iter().enumerate().map(|(number, (version, is_implicit))| {
        let gateway = &gateway;
        async move {
            let (mut owner, mut thief) = (
                strict_client(gateway, version, is_implicit).await,
                strict_client(gateway, version, is_implicit).await,
            );
            assert_eq!(thief.retrieve("secret").await, SECRET);
            let stranger = connector(gateway, version);
            let mut leaked = 0;
            let mine = format!("mine-{number}");
            let mut choices = random(number as u64 + 1, 8);
            for _ in 0..rounds(12, 2500) {
                let choice = choices.next().unwrap();
                let (with_ticket, is_upload, is_early) = (choice & 1 == 1, choice & 2 == 2, choice & 4 == 4);
                let tls = if with_ticket { thief.tls() } else { &stranger };
                let command = if is_upload { format!("STOR {mine}") } else { "RETR secret".to_owned() };
                let address = owner.passive().await;
                if is_early {
                    leaked += steal(tls, address, b"forged").await;
                }
                owner.ask(&command, 150).await;
                if !is_early {
                    leaked += steal(tls, address, b"forged").await;
                }
                let stream = owner.connect(address).await;
                let mut data = owner.secure(stream).await.unwrap();
                if is_upload {
                    data.write_all(SECRET).await.unwrap();
                    data.shutdown().await.unwrap();
                    let _ = data.read_to_end(&mut Vec::new()).await;
                } else {
                    let mut bytes = Vec::new();
                    data.read_to_end(&mut bytes).await.unwrap();
                    assert_eq!(bytes, SECRET);
                    drop(data);
                }
                owner.expect(226).await;
                if is_upload {
                    assert_eq!(owner.retrieve(&mine).await, SECRET);
                }
            }
            leaked
        }
    });
    let leaked: usize = futures_util::future::join_all(races).await.into_iter().sum();
    assert_eq!(leaked, 0, "bytes reached the attacker");
}

async fn strict_client(gateway: &Gateway, version: &'static SupportedProtocolVersion, is_implicit: bool) -> Client {
    let mut client = if is_implicit {
        Client::implicit_with(gateway, version).await
    } else {
        Client::explicit_with(gateway, version).await
    };
    client.log_in("strict", MAPPED_PASSWORD).await;
    client
}

/// Bytes that whoever connects this way is given.
async fn steal(tls: &TlsConnector, address: SocketAddr, forged: &[u8]) -> usize {
    let attempt = async {
        let stream = TcpStream::connect(address).await?;
        let mut stream = tls.connect(server_name(), stream).await?;
        stream.write_all(forged).await?;
        let mut bytes = Vec::new();
        // Whether the end is orderly does not matter, what came before it does.
        let _ = stream.read_to_end(&mut bytes).await;
        io::Result::Ok(bytes.len())
    };
    timeout(PATIENCE, attempt).await.expect("turned away").unwrap_or(0)
}

/// S-41: nothing tells the version, or what this is made of, and only CSID the name, which is what it is for.
#[tokio::test]
async fn no_reply_tells_what_runs_here_in_which_version() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut said = String::new();
    let mut raw = TcpStream::connect(gateway.explicit).await.unwrap();
    let mut banner = vec![0; 256];
    let count = raw.read(&mut banner).await.unwrap();
    said.push_str(&String::from_utf8_lossy(&banner[..count]));
    let mut client = Client::logged_in(&gateway).await;
    for command in
        ["SYST", "FEAT", "HELP", "HELP SITE", "STAT", "SITE HELP", "OPTS", "CSID", "XYZZY", "HOST x", "CLNT x"]
    {
        said.push_str(&client.command(command).await.text());
        said.push('\n');
    }
    let said = said.to_ascii_lowercase();
    for word in [env!("CARGO_PKG_VERSION"), "rust", "openssh", "sftp-server"] {
        assert!(!said.contains(word), "{word} in\n{said}");
    }
    assert_eq!(said.matches("ftps2sftp").count(), 1, "{said}");
}
