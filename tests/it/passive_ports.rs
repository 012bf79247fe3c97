//! Passive ports and descriptors when there are too few of them, and races for what does not belong to one (RFC 2577).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConnection, SupportedProtocolVersion};

use crate::support::authority::Authority;
use crate::support::campaign::{is_full, random, rounds};
use crate::support::client::{Client, HOME, connect_from, connector, latin1, server_name};
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, MAPPED_USER, Setup};
use crate::support::sshd::Sshd;
use crate::support::transfer::{begin, content, end, eventually, names};

/// How long anything may take that is only waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// S-4: a flood of PASV holds one port.
#[tokio::test]
async fn s4_a_session_listens_on_one_port_however_often_it_asks() {
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
async fn s4_ten_ports_serve_ten_sessions_and_the_eleventh_when_one_is_done() {
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
        // The alerts need both: ports that ran out, and clients that were told one and never came.
        let counted = |mode, result| format!("ftps2sftp_data_connections_total{{mode=\"{mode}\",result=\"{result}\"}}");
        assert_eq!(gateway.metric(&counted("epsv", "no_port")).await, 2.0);
        assert_eq!(gateway.metric(&counted("pasv", "no_port")).await, 1.0);
        assert_eq!(gateway.metric(&counted("epsv", "timeout")).await, 1.0);
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

/// Behind one address translator: where there is no other port, who resumes which session tells whose it is.
#[tokio::test]
async fn sessions_of_one_address_share_a_port_where_each_must_resume_its_own() {
    let sshd = Sshd::start().await;
    let strict = format!("    root: \"{}\"\n    policy: {{data_tls_resumption: require}}\n", sshd.files().display());
    let mut setup = Setup::backend(&sshd).with_users(&sshd.files()).with_user("strict", &strict);
    setup.ports = Some(1);
    let gateway = Gateway::start(&setup);
    for (number, version) in [&TLS12, &TLS13].into_iter().enumerate() {
        let mut clients = Vec::new();
        for one in 0..3 {
            let mut client = strict_client(&gateway, version, one == 0).await;
            let name = format!("{number}-{one}");
            assert_eq!(client.store(format!("STOR {name}"), name.as_bytes()).await.code, 226);
            clients.push((name, client));
        }
        for round in 0..6 {
            let mut addresses = Vec::new();
            for (name, client) in &mut clients {
                addresses.push(client.passive().await);
                let verb = if round % 2 == 0 { "RETR" } else { "STOR" };
                client.ask(format!("{verb} {name}"), 150).await;
            }
            assert!(addresses.iter().all(|address| *address == addresses[0]));
            // Who need not prove it has no place among them.
            let mut lax = Client::logged_in(&gateway).await;
            lax.ask("EPSV", 425).await;
            steal(lax.tls(), HOME, addresses[0]).await;
            let _silent = TcpStream::connect(addresses[0]).await.unwrap();
            for (name, client) in clients.iter_mut().rev() {
                let stream = client.connect(addresses[0]).await;
                let mut data = client.secure(stream).await.unwrap();
                let mut bytes = Vec::new();
                if round % 2 == 0 {
                    data.read_to_end(&mut bytes).await.unwrap();
                    assert_eq!(bytes, name.as_bytes());
                } else {
                    data.write_all(name.as_bytes()).await.unwrap();
                    data.shutdown().await.unwrap();
                    data.read_to_end(&mut bytes).await.unwrap();
                }
                drop(data);
                client.expect(226).await;
            }
        }
        for (name, _) in &clients {
            assert_eq!(std::fs::read(sshd.files().join(name)).unwrap(), name.as_bytes());
        }
    }
}

/// S-21: without descriptors nothing spins, nothing that runs is broken, and all is well as soon as there are some.
#[tokio::test]
async fn s21_a_process_without_descriptors_waits_for_some() {
    const DESCRIPTORS: u64 = 256;
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    gateway.limit_descriptors(DESCRIPTORS);
    let whole = content(200_000, 1);
    let mut at_work = Client::logged_in(&gateway).await;
    at_work.ask("TYPE I", 200).await;
    let mut data = begin(&mut at_work, "STOR whole").await;
    data.write_all(&whole[..100_000]).await.unwrap();
    let mut waiting = Client::logged_in(&gateway).await;
    waiting.ask("TYPE I", 200).await;
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
        sleep(Duration::from_millis(100)).await;
    }
    let (used, elapsed) = (gateway.processor_time() - used, asked.elapsed());
    assert!(used < elapsed.mul_f64(0.2), "{used:?} of the processor in {elapsed:?}");
    data.write_all(&whole[100_000..]).await.unwrap();
    end(data).await;
    at_work.expect(226).await;
    assert!(std::fs::read(sshd.files().join("whole")).unwrap() == whole);
    // Those that the upload had are taken by who waited; then there is none for a login's connection to the backend either.
    while waiting.command("EPSV").await.code != 425 {
        waiting.ask("ABOR", 226).await;
        sleep(Duration::from_millis(50)).await;
        assert!(asked.elapsed() < Duration::from_secs(30), "the flood takes no more descriptors");
    }
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

/// What an attacker at the client's own address shows.
#[derive(Debug, Clone, Copy)]
enum Shown {
    /// No session.
    Nothing,
    /// Its own, of the same gateway.
    ItsOwn,
    /// The client's, word by word as it was seen on the wire.
    TheClients,
}

/// S-3, TLS-2: an attacker at the client's own address, logged in itself, is first each time, before the transfer command
/// or behind it. Each race is one transfer of the owner: it gets all of its file, the attacker nothing, and nothing of the
/// attacker's is stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_and_tls_2_whoever_connects_first_without_the_sessions_ticket_gets_nothing() {
    let sshd = Sshd::start().await;
    sshd.place_file("secret", SECRET);
    let strict = format!("    root: \"{}\"\n    policy: {{data_tls_resumption: require}}\n", sshd.files().display());
    let mut setup = Setup::backend(&sshd).with_user("strict", &strict);
    // The log of ten thousand races is long.
    setup.level = is_full().then(|| "warn,ftps2sftp::app=info".to_owned());
    let gateway = Gateway::start(&setup);
    let modes: [(&'static SupportedProtocolVersion, bool); 4] =
        [(&TLS12, false), (&TLS12, true), (&TLS13, false), (&TLS13, true)];
    let races = modes.into_iter().enumerate().map(|(number, (version, is_implicit))| {
        let (gateway, sshd) = (&gateway, &sshd);
        async move {
            let mut thief = strict_client(gateway, version, is_implicit).await;
            assert_eq!(thief.retrieve("secret").await, SECRET.as_bytes());
            let stranger = connector(gateway, version);
            let mut owner = strict_client(gateway, version, is_implicit).await;
            let mut used = 0;
            let name = format!("mine-{number}");
            let mut random = random(number as u64 + 1, 12);
            for round in 0..rounds(12, 2500) {
                let choice = random.next().unwrap();
                let (is_upload, is_early) = (choice % 2 == 1, choice / 2 % 2 == 1);
                let shown = [Shown::Nothing, Shown::ItsOwn, Shown::TheClients][choice / 4];
                if used + 2 > TICKETS {
                    owner.ask("QUIT", 221).await;
                    (owner, used) = (strict_client(gateway, version, is_implicit).await, 0);
                }
                used += usize::from(is_upload) + usize::from(matches!(shown, Shown::TheClients));
                let content = format!("of round {round}");
                let command = if is_upload { format!("STOR {name}") } else { "RETR secret".to_owned() };
                let address = owner.passive().await;
                let steal = async |owner: &Client| match shown {
                    Shown::Nothing => steal(&stranger, HOME, address).await,
                    Shown::ItsOwn => steal(thief.tls(), HOME, address).await,
                    Shown::TheClients => replay(owner.tls(), HOME, address, version).await,
                };
                if is_early {
                    steal(&owner).await;
                }
                owner.ask(&command, 150).await;
                if !is_early {
                    steal(&owner).await;
                }
                let stream = owner.connect(address).await;
                let mut data = owner.secure(stream).await.unwrap();
                let mut bytes = Vec::new();
                if is_upload {
                    data.write_all(content.as_bytes()).await.unwrap();
                    data.shutdown().await.unwrap();
                }
                data.read_to_end(&mut bytes).await.unwrap();
                assert_eq!(bytes, if is_upload { b"" } else { SECRET.as_bytes() }, "{shown:?}");
                drop(data);
                owner.expect(226).await;
                if is_upload {
                    assert_eq!(std::fs::read(sshd.files().join(&name)).unwrap(), content.as_bytes(), "{shown:?}");
                }
            }
        }
    });
    futures_util::future::join_all(races).await;
}

/// rustls has four tickets of a control connection, and uses each once; an upload gives no other.
const TICKETS: usize = 4;

/// What lies between those that race, where one is to be before another: shorter than a handshake.
const STEP: Duration = Duration::from_millis(1);

/// What is in the file that an attacker would like to have.
const SECRET: &str = "for the rightful only";

/// What an attacker would like to have stored.
const FORGED: &[u8] = b"forged";

async fn strict_client(gateway: &Gateway, version: &'static SupportedProtocolVersion, is_implicit: bool) -> Client {
    let mut client = if is_implicit {
        Client::implicit_with(gateway, version).await
    } else {
        Client::explicit_with(gateway, version).await
    };
    client.log_in("strict", MAPPED_PASSWORD).await;
    client
}

/// Whoever connects this way is turned away without a byte, whatever it sends.
async fn steal(tls: &TlsConnector, from: [u8; 4], address: SocketAddr) {
    let attempt = async {
        let stream = connect_from(from, address).await?;
        let mut stream = tls.connect(server_name(), stream).await?;
        stream.write_all(FORGED).await?;
        let mut bytes = Vec::new();
        // Whether the end is orderly does not matter, what came before it does.
        let _ = stream.read_to_end(&mut bytes).await;
        io::Result::Ok(bytes)
    };
    let bytes = timeout(PATIENCE, attempt).await.expect("turned away").unwrap_or_default();
    assert_eq!(bytes, b"", "an attacker was given something");
}

/// Sends the ClientHello with which somebody else resumes a session, and a record of data without the keys for it.
async fn replay(tls: &TlsConnector, from: [u8; 4], address: SocketAddr, version: &SupportedProtocolVersion) {
    let mut hello = Vec::new();
    ClientConnection::new(Arc::clone(tls.config()), server_name()).unwrap().write_tls(&mut hello).unwrap();
    let attempt = async {
        let mut stream = connect_from(from, address).await?;
        // RFC 8446 §5.1: application data, as TLS 1.2 writes its version.
        let head = [23, 3, 3, 0, u8::try_from(FORGED.len()).unwrap()];
        stream.write_all(&hello).await?;
        // Its answer comes first: what rustls has read beyond a ClientHello it looks at with the next bytes.
        let mut bytes = vec![0; 4096];
        let answered = stream.read(&mut bytes).await?;
        bytes.truncate(answered);
        stream.write_all(&[&head, FORGED].concat()).await?;
        let _ = stream.read_to_end(&mut bytes).await;
        io::Result::Ok(bytes)
    };
    let bytes = timeout(PATIENCE, attempt).await.expect("turned away").unwrap_or_default();
    // Handshake records, ChangeCipherSpec and alerts at most: of TLS 1.2 no record of application data, and of 1.3 no more
    // than what its handshake is in.
    assert!(bytes.len() < 4096, "{} bytes", bytes.len());
    if version.version == TLS12.version {
        assert!(!record_types(&bytes).contains(&23), "application data: {}", bytes.escape_ascii());
    }
}

/// The type of each record that is there as a whole (RFC 8446 §5.1).
fn record_types(mut bytes: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let [kind, _, _, high, low, rest @ ..] = bytes {
        types.push(*kind);
        bytes = rest.get(usize::from(u16::from_be_bytes([*high, *low]))..).unwrap_or_default();
    }
    types
}

/// What keeps an attacker from a data connection that is another's.
#[derive(Debug, Clone, Copy)]
enum Guard {
    /// `data_tls_resumption: require`. The attacker is at the client's own address.
    Resumption,
    /// Under `prefer` where it comes from, which is elsewhere.
    Address,
    /// Under `prefer`, at the client's own address, the certificate that was shown on the control connection: it has none.
    Certificate,
}

impl Guard {
    /// The owner's name, its address and the attacker's. No owner is where another guard's attackers are: one of those that
    /// comes late may find the port of another race.
    fn parties(self) -> (&'static str, [u8; 4], [u8; 4]) {
        match self {
            Self::Resumption => ("strict", [127, 0, 0, 1], [127, 0, 0, 1]),
            Self::Address => ("lax", [127, 0, 7, 1], [127, 0, 7, 2]),
            Self::Certificate => ("named", [127, 0, 7, 3], [127, 0, 7, 3]),
        }
    }
}

async fn client_at(gateway: &Gateway, tls: TlsConnector, is_implicit: bool, (user, home): (&str, [u8; 4])) -> Client {
    let mut client = if is_implicit {
        Client::implicit_through(gateway, tls, home).await.unwrap()
    } else {
        Client::explicit_through(gateway, tls, home).await
    };
    client.log_in(user, MAPPED_PASSWORD).await;
    client
}

/// What an owner does with a data connection of its own, from the connection to its end; what it received.
async fn own_transfer(
    tls: TlsConnector,
    (home, address): ([u8; 4], SocketAddr),
    upload: Option<Vec<u8>>,
) -> io::Result<Vec<u8>> {
    let stream = connect_from(home, address).await?;
    let mut data = tls.connect(server_name(), stream).await?;
    if let Some(content) = upload {
        data.write_all(&content).await?;
        data.shutdown().await?;
    }
    let mut bytes = Vec::new();
    data.read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// S-3, TLS-2: attackers that are logged in themselves connect while the owner does, before the transfer command or behind
/// it, and whoever is first is so by chance. In each race the owner has all of its transfer and the attackers nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_and_tls_2_attackers_that_race_the_owner_get_nothing() {
    let sshd = Sshd::start().await;
    sshd.place_file("secret", SECRET);
    let authority = Authority::new("Ours");
    let signed = authority.sign("/CN=named");
    let root = format!("    root: \"{}\"\n", sshd.files().display());
    let mut setup = Setup::backend_with(&sshd, "connections: shared")
        .with_user("strict", &format!("{root}    policy: {{data_tls_resumption: require}}\n"))
        .with_user("lax", &root)
        .with_user("named", &format!("{root}    client_certificate: {{subject: \"CN=named\"}}\n"));
    let authority = authority.certificate();
    setup.tls.push_str(&format!("  client_certificates: optional\n  client_ca: \"{}\"\n", authority.display()));
    // The log of ten thousand races is long.
    setup.level = is_full().then(|| "warn,ftps2sftp::app=info".to_owned());
    let gateway = Gateway::start(&setup);
    let modes = [(&TLS12, false), (&TLS12, true), (&TLS13, false), (&TLS13, true)];
    let guards = [Guard::Resumption, Guard::Address, Guard::Certificate];
    let places = modes.into_iter().flat_map(|mode| guards.map(|guard| (mode, guard)));
    let races = places.enumerate().map(|(number, ((version, is_implicit), guard))| {
        let (gateway, sshd, signed) = (&gateway, &sshd, &signed);
        async move {
            let (user, home, elsewhere) = guard.parties();
            let own_tls = || match guard {
                Guard::Certificate => signed.connector(gateway, version),
                _ => connector(gateway, version),
            };
            let stranger = connector(gateway, version);
            let with_tickets =
                async || client_at(gateway, connector(gateway, version), is_implicit, ("strict", elsewhere)).await;
            let mut thief = with_tickets().await;
            let mut owner = client_at(gateway, own_tls(), is_implicit, (user, home)).await;
            let (name, mut tickets) = (format!("mine-{number}"), TICKETS);
            let mut random = random(number as u64 + 101, 1 << 20);
            for round in 0..rounds(60, 850) {
                let mut choice = random.next().unwrap();
                let mut choose = |among: usize| {
                    let chosen = choice % among;
                    choice /= among;
                    chosen
                };
                let (is_upload, command_at, owner_at) = (choose(2) == 1, choose(3), choose(3));
                let attackers: Vec<_> = (0..=choose(3))
                    .map(|_| ([Shown::Nothing, Shown::ItsOwn, Shown::TheClients][choose(3)], choose(3)))
                    .collect();
                if tickets < attackers.len() + 1 {
                    owner.ask("QUIT", 221).await;
                    owner = client_at(gateway, own_tls(), is_implicit, (user, home)).await;
                    tickets = TICKETS;
                }
                let replays = attackers.iter().filter(|(shown, _)| matches!(shown, Shown::TheClients)).count();
                // A download gives further ones where it was asked for before its connection came.
                tickets -= 1 + replays;
                if round % 5 == 4 {
                    // With tickets of its own again, and not only what it was given when it was turned away.
                    thief.ask("QUIT", 221).await;
                    thief = with_tickets().await;
                }
                let content = format!("of round {round}").into_bytes();
                let command = if is_upload { format!("STOR {name}") } else { "RETR secret".to_owned() };
                let address = owner.passive().await;
                let mut attacks = JoinSet::new();
                for (shown, at) in attackers.clone() {
                    let tls = match shown {
                        Shown::Nothing => stranger.clone(),
                        Shown::ItsOwn => thief.tls().clone(),
                        Shown::TheClients => owner.tls().clone(),
                    };
                    attacks.spawn(async move {
                        sleep(STEP * u32::try_from(at).unwrap()).await;
                        match shown {
                            Shown::TheClients => replay(&tls, elsewhere, address, version).await,
                            _ => steal(&tls, elsewhere, address).await,
                        }
                    });
                }
                let (tls, upload) = (owner.tls().clone(), is_upload.then(|| content.clone()));
                let own = tokio::spawn(async move {
                    sleep(STEP * u32::try_from(owner_at).unwrap()).await;
                    own_transfer(tls, (home, address), upload).await
                });
                sleep(STEP * u32::try_from(command_at).unwrap()).await;
                owner.ask(&command, 150).await;
                let at = format!("{guard:?}, round {round}: {command} at {command_at}, {owner_at}, {attackers:?}");
                let reply = owner.reply().await;
                assert_eq!(reply.code, 226, "{at}: {}", reply.text());
                let bytes = own.await.unwrap().unwrap_or_else(|error| panic!("{at}: {error}"));
                assert_eq!(bytes, if is_upload { b"" } else { SECRET.as_bytes() }, "{at}");
                if is_upload {
                    assert_eq!(std::fs::read(sshd.files().join(&name)).unwrap(), content, "{at}");
                }
                attacks.join_all().await;
            }
        }
    });
    futures_util::future::join_all(races).await;
    assert!(names(&sshd.files()).iter().all(|name| name == "secret" || name.starts_with("mine-")));
}

/// S-41: nothing tells the version, or what this is made of, and only CSID the name, which is what it is for.
#[tokio::test]
async fn s41_no_reply_tells_what_runs_here_in_which_version() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut said = String::new();
    let mut raw = TcpStream::connect(gateway.explicit).await.unwrap();
    let mut banner = vec![0; 256];
    let count = raw.read(&mut banner).await.unwrap();
    said.push_str(&latin1(&banner[..count]));
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
