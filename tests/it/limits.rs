//! What one client, or many, cannot take from the others: memory (S-8), places (S-9, TLS-20), commands (S-23), bytes (S-40).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{interval, sleep, timeout};
use tokio_rustls::rustls::ClientConnection;
use tokio_rustls::rustls::version::TLS13;

use crate::support::campaign::rounds;
use crate::support::client::{Client, Stream, connect_from, connector, latin1, server_name};
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, MAPPED_USER, Setup};
use crate::support::sshd::Sshd;
use crate::support::transfer::{begin, content, end};

/// How long anything may take that is only waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// S-9: a good client is in within this time, whoever else is there.
const GOOD_LOGIN: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn s9_half_open_connections_keep_nobody_out() {
    let sshd = Sshd::start().await;
    // As many places as the half-open ones would take, were they sessions.
    let setup = Setup::backend(&sshd).with_users(&sshd.files()).with("limits: {sessions: 3000}\n");
    let gateway = Gateway::start(&setup);
    let mut session = Client::logged_in(&gateway).await;
    let mut half_open = Vec::new();
    for number in 0..5000_u16 {
        let [high, low] = (number / 20).to_be_bytes();
        let from = [127, 3, high, low];
        // Some say nothing, some begin TLS and stop, some give commands a byte at a time.
        let to = if number % 3 == 1 { gateway.implicit } else { gateway.explicit };
        let mut stream = connect_from(from, to).await.unwrap();
        let begun: &[u8] = match number % 3 {
            0 => b"",
            1 => b"\x16\x03\x01\x02",
            _ => b"US",
        };
        let _ = stream.write_all(begun).await;
        half_open.push(stream);
        if number % 500 == 499 {
            let asked = Instant::now();
            let mut good = Client::logged_in(&gateway).await;
            assert!(asked.elapsed() < GOOD_LOGIN, "after {number}: {:?}", asked.elapsed());
            good.ask("PWD", 257).await;
        }
    }
    let sessions: f64 = {
        let (_, text) = gateway.get("/metrics").await;
        let lines = text.lines().filter(|line| line.starts_with("ftps2sftp_sessions{"));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    assert!(sessions <= 2100.0, "{sessions}");
    // Who had logged in before is none the worse, and the oldest have been told.
    session.ask("NOOP", 200).await;
    let mut said = Vec::new();
    timeout(Duration::from_secs(10), half_open[0].read_to_end(&mut said)).await.unwrap().unwrap();
    let said = String::from_utf8(said).unwrap();
    assert!(said.ends_with("421 Too many connections wait for a login, closing\r\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn s9_sessions_that_are_logged_in_keep_their_places() {
    let sshd = Sshd::start().await;
    let setup = Setup::backend(&sshd).with_users(&sshd.files()).with("limits: {sessions: 3}\n");
    let gateway = Gateway::start(&setup);
    let mut sessions = vec![Client::logged_in(&gateway).await, Client::logged_in(&gateway).await];
    // Two more that wait: the second takes the place of the first.
    let mut first = Client::clear(&gateway).await;
    let _second = Client::clear(&gateway).await;
    first.expect(421).await;
    first.expect_closed().await;
    sessions.push(Client::logged_in(&gateway).await);
    let mut fourth = TcpStream::connect(gateway.explicit).await.unwrap();
    let mut said = String::new();
    fourth.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "421 Too many sessions, try again later\r\n");
    for session in &mut sessions {
        session.ask("NOOP", 200).await;
    }
}

/// Says these bytes, one every second; what was answered until the connection was closed.
async fn trickle(mut stream: TcpStream, bytes: Vec<u8>) -> String {
    let (mut reading, mut writing) = stream.split();
    let mut said = Vec::new();
    let speaking = async {
        for byte in bytes {
            if writing.write_all(&[byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_secs(1)).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        // However it ends: bytes that nobody read make it a reset.
        _ = reading.read_to_end(&mut said) => {}
        () = speaking => {}
    }
    latin1(&said)
}

/// Ends, and not before it may.
async fn timed(what: &str, least: Duration, ending: impl Future<Output = ()>) {
    let begun = Instant::now();
    timeout(PATIENCE, ending).await.unwrap_or_else(|_| panic!("{what}: never ended"));
    assert!(begun.elapsed() >= least, "{what}: ended after {:?}", begun.elapsed());
}

/// TLS-20: whoever does not go on is ended, however it keeps talking, and nobody else is.
#[tokio::test(flavor = "multi_thread")]
async fn tls_20_a_handshake_or_a_login_that_does_not_go_on_is_ended_in_time() {
    /// What is configured; the rest of the patience is for a machine that is busy.
    const HANDSHAKE: Duration = Duration::from_secs(3);
    const LOGIN: Duration = Duration::from_secs(6);
    const TIMED_OUT: &str = "421 Timed out, closing\r\n";
    let sshd = Sshd::start().await;
    let timeouts = "timeouts: {tls_handshake: 3s, login: 6s}\n";
    let gateway = Gateway::start(&Setup::backend(&sshd).with_users(&sshd.files()).with(timeouts));
    let mut hello = Vec::new();
    let tls = connector(&gateway, &TLS13);
    ClientConnection::new(Arc::clone(tls.config()), server_name()).unwrap().write_tls(&mut hello).unwrap();
    assert!(hello.len() > 200, "at a byte each second it takes longer than all the patience there is");
    // Who is in has as much time as it wants.
    let mut early = Client::logged_in(&gateway).await;
    let mut data = begin(&mut early, "STOR early").await;
    data.write_all(b"one ").await.unwrap();

    let connect = async |to| TcpStream::connect(to).await.unwrap();
    let on_implicit = async |bytes: Vec<u8>| trickle(connect(gateway.implicit).await, bytes).await;
    let on_explicit = async |bytes: &[u8]| trickle(connect(gateway.explicit).await, bytes.to_vec()).await;
    let behind_auth = async {
        let mut stream = connect(gateway.explicit).await;
        stream.write_all(b"AUTH TLS\r\n").await.unwrap();
        let mut said = [0; 512];
        let mut count = 0;
        while !said[..count].ends_with(b"\r\n") || !latin1(&said[..count]).contains("\r\n234 ") {
            count += stream.read(&mut said[count..]).await.unwrap();
        }
        assert_eq!(trickle(stream, hello.clone()).await, "");
    };
    let without_password = async {
        let mut client = Client::implicit(&gateway).await;
        client.ask(format!("USER {MAPPED_USER}"), 331).await;
        assert_eq!(client.reply().await.text(), TIMED_OUT.trim_end());
        client.expect_closed().await;
    };
    let always_talking = async {
        let mut client = Client::implicit(&gateway).await;
        loop {
            let reply = client.command("NOOP").await;
            if reply.code == 421 {
                assert_eq!(reply.text(), TIMED_OUT.trim_end());
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    let half_hello = async { assert_eq!(on_implicit(hello.clone()).await, "") };
    let silent_implicit = async { assert_eq!(on_implicit(Vec::new()).await, "") };
    let silent = async { assert!(on_explicit(b"").await.ends_with(TIMED_OUT)) };
    let half_line = async { assert!(on_explicit(b"USER a name at a byte each second").await.ends_with(TIMED_OUT)) };
    let good = async {
        for round in 0..10 {
            let mut client = Client::logged_in(&gateway).await;
            assert_eq!(client.store(format!("STOR {round}"), b"content").await.code, 226);
            sleep(Duration::from_millis(300)).await;
        }
    };
    tokio::join!(
        timed("a ClientHello at a byte each second", HANDSHAKE, half_hello),
        timed("the same behind AUTH", HANDSHAKE, behind_auth),
        timed("nothing instead of a ClientHello", HANDSHAKE, silent_implicit),
        timed("nothing at all", LOGIN, silent),
        timed("a line at a byte each second", LOGIN, half_line),
        timed("USER without PASS", LOGIN, without_password),
        timed("commands and no login", LOGIN, always_talking),
        good,
    );
    data.write_all(b"two").await.unwrap();
    end(data).await;
    early.expect(226).await;
    assert_eq!(std::fs::read(sshd.files().join("early")).unwrap(), b"one two");
}

/// S-8: a line that never ends costs what a line costs, however long it is.
#[tokio::test(flavor = "multi_thread")]
async fn s8_lines_without_an_end_cost_little_memory_before_a_login() {
    /// What a connection that waits for a login may cost, in KiB; one in eight of these is under TLS.
    const EACH: u64 = 32;
    /// Some times as long as a line may be, and how often it comes again.
    const PIECE: usize = 16 * 1024;
    const PIECES: usize = 2;
    let sshd = Sshd::start().await;
    let setup = Setup { level: Some("info".to_owned()), ..Setup::backend(&sshd).with_users(&sshd.files()) };
    let gateway = Gateway::start(&setup);
    Client::logged_in(&gateway).await.ask("QUIT", 221).await;
    let before = gateway.memory("VmRSS");
    let tls = connector(&gateway, &TLS13);
    let line = content(PIECE, 8).iter().map(|byte| b'A' + byte % 26).collect::<Vec<u8>>();
    let mut unended: Vec<Box<dyn Stream>> = Vec::new();
    // Those beyond two thousand take the places of the oldest.
    for number in 0..u16::try_from(rounds(1900, 10_000)).unwrap() {
        let [high, low] = (number / 100).to_be_bytes();
        let from = [127, 4, high, low];
        let mut stream: Box<dyn Stream> = if number % 8 == 7 {
            let stream = connect_from(from, gateway.implicit).await.unwrap();
            Box::new(tls.connect(server_name(), stream).await.unwrap())
        } else {
            Box::new(connect_from(from, gateway.explicit).await.unwrap())
        };
        stream.write_all(&line).await.unwrap();
        stream.flush().await.unwrap();
        unended.push(stream);
        if number % 500 == 499 {
            Client::logged_in(&gateway).await.ask("PWD", 257).await;
        }
    }
    let there = 2000.min(unended.len() as u64);
    let (after, peak) = (gateway.memory("VmRSS"), gateway.memory("VmHWM"));
    println!(
        "{} KiB for each of {there} ({before} KiB before, {after} after, {peak} at most)",
        (peak - before) / there
    );
    assert!(peak - before < there * EACH, "{} KiB", peak - before);
    // More of each line needs no more.
    gateway.forget_peak();
    for _ in 0..PIECES {
        for stream in unended.iter_mut().rev().take(1500) {
            stream.write_all(&line).await.unwrap();
            stream.flush().await.unwrap();
        }
        Client::logged_in(&gateway).await.ask("PWD", 257).await;
    }
    let grown = gateway.memory("VmHWM").saturating_sub(after);
    assert!(grown < there, "{grown} KiB more for {PIECES} more pieces of each line");
}

/// S-9: a login under way on a backend that does not answer holds a place no better than a connection that says nothing.
#[tokio::test]
async fn s9_a_login_that_hangs_makes_room_too() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let setup =
        Setup::backend_at(silent.local_addr().unwrap(), &format!("SHA256:{}", "A".repeat(43))).with_passthrough();
    let gateway = Gateway::start(&setup.with("limits: {sessions: 2}\n"));
    let mut hanging = Vec::new();
    for _ in 0..2 {
        let mut client = Client::explicit(&gateway).await;
        client.ask("USER somebody", 331).await;
        client.send("PASS guess").await;
        hanging.push(client);
    }
    let _third = Client::clear(&gateway).await;
    hanging[0].expect_within(421, Duration::from_secs(5)).await;
    hanging[0].expect_closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s23_a_flood_of_commands_is_read_slowly_and_answered_in_order() {
    let sshd = Sshd::start().await;
    let setup = Setup::backend(&sshd).with_users(&sshd.files());
    // At the default pace: a second's worth at once, and the rest at 200 in a second.
    let gateway = Gateway::start(&setup.clone().with("limits: {commands_per_second: 200}\n"));
    let mut client = Client::logged_in(&gateway).await;
    let begun = Instant::now();
    client.send_raw("NOOP\r\n".repeat(800).as_bytes()).await;
    for _ in 0..800 {
        client.expect(200).await;
    }
    let took = begun.elapsed();
    assert!((Duration::from_millis(2500)..Duration::from_secs(8)).contains(&took), "{took:?}");
    // And before the login at 20.
    let mut client = Client::clear(&gateway).await;
    let begun = Instant::now();
    client.send_raw("NOOP\r\n".repeat(60).as_bytes()).await;
    for _ in 0..60 {
        client.expect(200).await;
    }
    let took = begun.elapsed();
    assert!((Duration::from_millis(1800)..Duration::from_secs(6)).contains(&took), "{took:?}");

    // Without that pace, as many as the machine can: memory stays flat, and no reply is lost or out of its turn.
    let gateway = Gateway::start(&setup.with("limits: {commands_per_second: 1000000}\n"));
    let mut client = Client::logged_in(&gateway).await;
    let before = gateway.memory("VmRSS");
    gateway.forget_peak();
    let blocks = rounds(20, 1000);
    let block = format!("{}SYST\r\n", "NOOP\r\n".repeat(999));
    for number in 0..blocks {
        // Written far ahead of what is read.
        client.send_raw(block.as_bytes()).await;
        if number >= 4 {
            expect_block(&mut client).await;
        }
    }
    for _ in 0..blocks.min(4) {
        expect_block(&mut client).await;
    }
    let grown = gateway.memory("VmHWM").saturating_sub(before);
    assert!(grown < 4 * 1024, "{grown} KiB more");
}

async fn expect_block(client: &mut Client) {
    for _ in 0..999 {
        client.expect(200).await;
    }
    client.expect(215).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_its_rate_in_each_direction_whatever_its_sessions() {
    const RATE: usize = 256 * 1024;
    let sshd = Sshd::start().await;
    let root = format!("    root: \"{}\"\n", sshd.files().display());
    let setup = Setup::backend(&sshd).with_user("slow", &format!("{root}    limits: {{rate: 256KiB/s}}\n"));
    let gateway = Gateway::start(&setup.with_user("free", &root));
    let content: Vec<u8> = (0..RATE * 2).map(|index| u8::try_from(index % 251).unwrap()).collect();
    sshd.place_file("a", &content);
    let session = async |user: &str| {
        let mut client = Client::explicit(&gateway).await;
        client.log_in(user, MAPPED_PASSWORD).await;
        client.ask("TYPE I", 200).await;
        client
    };
    let (mut one, mut two, mut free) = (session("slow").await, session("slow").await, session("free").await);
    let between = |took: Duration, least: f64, most: f64, what: &str| {
        assert!((least..most).contains(&took.as_secs_f64()), "{what}: {took:?}");
    };
    let begun = Instant::now();
    assert_eq!(one.retrieve("a").await, content);
    between(begun.elapsed(), 1.5, 3.5, "one download");
    let begun = Instant::now();
    assert_eq!(one.store("STOR b", &content).await.code, 226);
    between(begun.elapsed(), 1.5, 3.5, "one upload");
    assert_eq!(std::fs::read(sshd.files().join("b")).unwrap(), content);
    // Both of them share it; another user, and the control connection, do not wait.
    let begun = Instant::now();
    let others = async {
        let begun = Instant::now();
        assert_eq!(free.retrieve("a").await, content);
        assert_eq!(free.store("STOR c", &content).await.code, 226);
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    };
    let ((), first, second) = tokio::join!(others, one.retrieve("a"), two.retrieve("a"));
    assert!(first == content && second == content);
    between(begun.elapsed(), 3.3, 6.0, "two downloads");
    // One way does not take from the other.
    let begun = Instant::now();
    let (down, up) = tokio::join!(one.retrieve("a"), two.store("STOR b", &content));
    assert!(down == content && up.code == 226);
    between(begun.elapsed(), 1.5, 3.5, "one each way");
    // ABOR does not wait for its turn.
    let address = one.passive().await;
    one.ask("RETR a", 150).await;
    let data = one.data(address).await;
    let asked = Instant::now();
    one.ask("ABOR", 426).await;
    one.expect(226).await;
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    drop(data);
}

#[tokio::test(flavor = "multi_thread")]
async fn s40_greedy_sessions_of_a_user_with_a_rate_leave_a_small_one_its_share() {
    let sshd = Sshd::start().await;
    let root = format!("    root: \"{}\"\n", sshd.files().display());
    let lines = format!("{root}    limits: {{rate: 2MiB/s}}\n");
    let gateway = Gateway::start(&Setup::backend(&sshd).with_user("greedy", &lines).with_user("small", &root));
    sshd.place_file("large", vec![b'x'; 16 << 20]);
    sshd.place_file("small", vec![b'y'; 1024]);
    let mut running = Vec::new();
    for _ in 0..8 {
        let mut client = Client::explicit(&gateway).await;
        client.log_in("greedy", MAPPED_PASSWORD).await;
        let address = client.passive().await;
        client.ask("RETR large", 150).await;
        let mut data = client.data(address).await;
        running.push(tokio::spawn(async move {
            let _client = client;
            let mut buffer = vec![0; 64 * 1024];
            while data.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
        }));
    }
    // Of the same user, behind eight pieces; and of another, behind nothing.
    for (user, most) in [("greedy", Duration::from_millis(1500)), ("small", Duration::from_millis(600))] {
        let mut client = Client::explicit(&gateway).await;
        client.log_in(user, MAPPED_PASSWORD).await;
        let mut ticks = interval(Duration::from_millis(50));
        let mut slowest = Duration::ZERO;
        for _ in 0..10 {
            ticks.tick().await;
            let asked = Instant::now();
            assert_eq!(client.retrieve("small").await.len(), 1024);
            assert_eq!(client.lines("NLST").await.len(), 2);
            slowest = slowest.max(asked.elapsed());
        }
        assert!(slowest < most, "{user}: {slowest:?}");
    }
    for task in running {
        task.abort();
    }
    // Somebody with neither is served as ever.
    let mut client = Client::explicit(&gateway).await;
    client.ask(format!("USER {MAPPED_USER}"), 331).await;
}
