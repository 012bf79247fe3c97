//! What an operator sees: metrics, health, logs, and the end of the process.

use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::client::Client;
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, MAPPED_USER, Setup};
use crate::support::sshd::{PASSWORD, Sshd, USER};
use crate::support::transfer::{begin, content};

/// S-36: where nothing is said of it, the admin listener is for this machine alone; and nothing else listens that nobody
/// asked for.
#[tokio::test]
async fn s36_by_default_the_admin_listener_is_on_loopback_and_nothing_else_listens() {
    // In a network of its own, where the default port is free, and whose loopback is brought up by hand (netdevice(7):
    // SIOCSIFFLAGS with IFF_UP).
    let bring_up = "import fcntl, os, socket, struct, sys\n\
                    s = socket.socket(); fcntl.ioctl(s, 0x8914, struct.pack('16sh14x', b'lo', 1)); s.close()\n\
                    os.execv(sys.argv[1], sys.argv[1:])";
    let setup = Setup {
        wrapper: ["unshare", "--net", "python3", "-c", bring_up].map(str::to_owned).to_vec(),
        without_admin: true,
        ..Setup::backend_at(([127, 0, 0, 1], 22).into(), "SHA256:uNiVztksCsDhcc0u9e8BrJQXVUpKZIDTMczCvj3tD2s")
    };
    let gateway = Gateway::start(&setup.with_passthrough());
    assert_eq!(gateway.admin, ([127, 0, 0, 1], 9105).into());
    // proc_pid_net(5): the address is in the order of the machine's bytes.
    let shown = |address: SocketAddr| {
        let IpAddr::V4(ip) = address.ip() else { panic!("{address}") };
        format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port())
    };
    let mut expected = [gateway.explicit, gateway.implicit, gateway.admin].map(shown).to_vec();
    let mut listening = gateway.listening_at();
    expected.sort();
    listening.sort();
    assert_eq!(listening, expected);
    // Nobody else is in that network: no helper has a socket there, of any kind.
    for table in ["udp", "udp6", "raw", "raw6", "tcp6"] {
        assert_eq!(gateway.process_file(&format!("net/{table}")).lines().count(), 1, "{table}");
    }
}

/// S-36: what the admin listener tells can be asked for, and nothing can be changed by it.
#[tokio::test]
async fn s36_the_admin_listener_only_tells() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut session = Client::logged_in(&gateway).await;
    let configuration = std::fs::read(gateway.file()).unwrap();
    for method in ["POST", "PUT", "DELETE", "PATCH", "CONNECT", "OPTIONS", "TRACE"] {
        for path in ["/", "/metrics", "/readyz", "/api/v1/status", "/api/v1/sessions", "/api/v1/sessions/1"] {
            let mut stream = TcpStream::connect(gateway.admin).await.unwrap();
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut response = String::new();
            stream.read_to_string(&mut response).await.unwrap();
            assert!(response.starts_with("HTTP/1.1 4"), "{method} {path}: {response}");
        }
    }
    session.ask("PWD", 257).await;
    assert_eq!(std::fs::read(gateway.file()).unwrap(), configuration);
}

#[tokio::test]
async fn counters_move_with_what_happened() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    for path in ["/livez", "/readyz", "/startz"] {
        assert_eq!(gateway.get(path).await, (200, "ok\n".to_owned()), "{path}");
    }
    assert_eq!(gateway.get("/elsewhere").await.0, 404);
    let logins = |result: &str| format!("ftps2sftp_logins_total{{method=\"password\",result=\"{result}\"}}");
    let transfers = |direction: &str, result: &str| {
        format!("ftps2sftp_transfers_total{{direction=\"{direction}\",backend=\"files\",result=\"{result}\"}}")
    };
    let bytes = |direction: &str, side: &str| {
        format!("ftps2sftp_transfer_bytes_total{{direction=\"{direction}\",side=\"{side}\"}}")
    };
    let series = [logins("success"), transfers("upload", "success"), bytes("upload", "client")];
    for name in &series {
        assert_eq!(gateway.metric(name).await, 0.0);
        assert!(gateway.get("/metrics").await.1.contains(name.as_str()), "{name} is not there from the start");
    }

    let mut client = Client::logged_in(&gateway).await;
    client.ask("TYPE I", 200).await;
    assert_eq!(client.store("STOR a", &[7; 5000]).await.code, 226);
    assert_eq!(client.retrieve("a").await.len(), 5000);
    client.lines("NLST").await;
    client.ask_all(&[("XYZZY", 500), ("NOOP", 200), ("NOOP", 200), ("SIZE missing", 550)]).await;
    let mut wrong = Client::explicit(&gateway).await;
    wrong.ask("USER nobody", 331).await;
    wrong.ask("PASS wrong", 530).await;

    for (name, value) in [
        ("ftps2sftp_connections_total{listener=\"explicit\",result=\"accepted\"}".to_owned(), 2.0),
        ("ftps2sftp_sessions{listener=\"explicit\",state=\"idle\"}".to_owned(), 1.0),
        ("ftps2sftp_sessions{listener=\"explicit\",state=\"login\"}".to_owned(), 1.0),
        (logins("success"), 1.0),
        (logins("backend_denied"), 1.0),
        (transfers("upload", "success"), 1.0),
        (transfers("download", "success"), 1.0),
        (transfers("list", "success"), 1.0),
        (bytes("upload", "client"), 5000.0),
        (bytes("upload", "backend"), 5000.0),
        (bytes("download", "client"), 5000.0),
        (bytes("list", "client"), 3.0),
        ("ftps2sftp_commands_total{command=\"NOOP\",reply=\"2xx\"}".to_owned(), 2.0),
        ("ftps2sftp_commands_total{command=\"SIZE\",reply=\"5xx\"}".to_owned(), 1.0),
        ("ftps2sftp_commands_total{command=\"OTHER\",reply=\"5xx\"}".to_owned(), 1.0),
        ("ftps2sftp_data_connections_total{mode=\"epsv\",result=\"ok\"}".to_owned(), 3.0),
        ("ftps2sftp_tls_handshakes_total{channel=\"control\",version=\"1.3\",result=\"full\"}".to_owned(), 2.0),
        ("ftps2sftp_tls_handshakes_total{channel=\"data\",version=\"1.3\",result=\"resumed\"}".to_owned(), 3.0),
        ("ftps2sftp_backend_connects_total{backend=\"files\",result=\"ok\"}".to_owned(), 1.0),
        ("ftps2sftp_backend_connects_total{backend=\"files\",result=\"auth\"}".to_owned(), 1.0),
        ("ftps2sftp_backend_up{backend=\"files\"}".to_owned(), 1.0),
        ("ftps2sftp_passive_ports".to_owned(), 400.0),
        ("ftps2sftp_draining".to_owned(), 0.0),
    ] {
        gateway.wait_for_metric(&name, value).await;
    }
    client.ask("QUIT", 221).await;
    gateway.wait_for_metric("ftps2sftp_sessions{listener=\"explicit\",state=\"idle\"}", 0.0).await;
    gateway.wait_for_metric("ftps2sftp_session_duration_seconds_count{listener=\"explicit\"}", 1.0).await;
    gateway.wait_for_log(|line| line.contains("\"logged in\"") && line.contains("\"user.name\":\"acme\""));
    gateway
        .wait_for_log(|line| line.contains("\"transfer complete\"") && line.contains("\"ftp.direction\":\"upload\""));
}

#[tokio::test]
async fn a_password_appears_in_no_log_and_no_metric() {
    let sshd = Sshd::start().await;
    let mut setup = Setup::backend(&sshd).with_users(&sshd.files());
    setup.level = Some("trace".to_owned());
    let gateway = Gateway::start(&setup);
    // As it is, and as text and debug output would change it.
    let canary = "Zx9!canary";
    let spellings: [&[u8]; 20] = [
        b"PASS Zx9!canary",
        b"pass Zx9!canary",
        b"PaSs Zx9!canary",
        b"PASS  Zx9!canary ",
        b"PASS \xff\xff Zx9!canary",
        b"PASS \xff\xf4\xff\xf2Zx9!canary",
        b"\xff\xf4\xff\xf2PASS Zx9!canary",
        b"\xf2PASS Zx9!canary",
        b"PA\xff\xf1SS Zx9!canary",
        b"PASS Zx9!canary\x00",
        b"PASS Zx9!canary\r\x00",
        b"PASS -Zx9!canary",
        b"PASS \x1b[2JZx9!canary",
        b"PASS\tZx9!canary",
        b" PASS Zx9!canary",
        b"PASSZx9!canary",
        b"PASS:Zx9!canary",
        b"PASSWORD Zx9!canary",
        b"ACCT Zx9!canary",
        b"ADAT Zx9!canary",
    ];
    for in_tls in [false, true] {
        for spelling in spellings {
            let mut client = if in_tls { Client::implicit(&gateway).await } else { Client::clear(&gateway).await };
            // Without USER it costs no second, and is read and judged all the same.
            client.command(spelling).await;
            client.ask("NOOP", 200).await;
        }
    }
    // With USER, to the backend and back: passthrough and mapped, alone and twice over.
    let attempt = |user: &'static str, lines: &'static [u8]| {
        let gateway = &gateway;
        async move {
            let mut client = Client::explicit(gateway).await;
            client.ask(format!("USER {user}"), 331).await;
            client.send_raw(lines).await;
            for _ in 0..lines.iter().filter(|byte| **byte == b'\n').count() {
                assert!(client.reply().await.code >= 500);
            }
        }
    };
    tokio::join!(
        attempt(USER, b"PASS Zx9!canary\r\n"),
        attempt(MAPPED_USER, b"PASS Zx9!canary\r\n"),
        attempt(USER, b"PASS Zx9!canary\nPASS Zx9!canary\n"),
        attempt(MAPPED_USER, b"pass \xff\xf4Zx9!canary\r\npass Zx9!canary\r\n"),
    );
    // And the passwords that do let somebody in, the gateway's own for the backend among them.
    for (user, password) in [(USER, PASSWORD), (MAPPED_USER, MAPPED_PASSWORD)] {
        let mut client = Client::explicit(&gateway).await;
        client.log_in(user, password).await;
        client.ask("PASS Zx9!canary", 503).await;
        client.ask("QUIT", 221).await;
        client.expect_closed().await;
    }
    let (status, metrics) = gateway.get("/metrics").await;
    assert_eq!(status, 200);
    let log = gateway.log();
    assert!(log.contains("\"command\":\"PASS\""), "the log is not as full as it can be");
    for secret in [canary, PASSWORD, MAPPED_PASSWORD] {
        let forms = [secret.to_owned(), format!("{:?}", secret.as_bytes()), hex(secret.as_bytes())];
        for form in forms {
            // Debug output of bytes stands between brackets, of which only the inside is looked for.
            let form = form.trim_matches(['[', ']']);
            assert!(!log.contains(form), "the log holds {form}");
            assert!(!metrics.contains(form), "the metrics hold {form}");
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn s18_every_log_line_is_one_record_whatever_a_client_sends() {
    let sshd = Sshd::start().await;
    let mut setup = Setup::backend(&sshd).with_users(&sshd.files());
    setup.level = Some("debug".to_owned());
    let gateway = Gateway::start(&setup);
    let mut client = Client::logged_in(&gateway).await;
    let name = b"x\x1b[2J\",\"level\":\"ERROR\x7f\xe4".as_slice();
    assert_eq!(client.store([b"STOR ", name].concat(), b"x").await.code, 226);
    client.ask([b"MKD ", name].concat(), 550).await;
    client.ask([b"CLNT ", name].concat(), 200).await;
    client.ask(name, 500).await;
    client.ask("QUIT", 221).await;
    client.expect_closed().await;
    gateway.wait_for_log(|line| line.contains("session ended"));
    for line in gateway.log().lines() {
        // Bytes of the log were read as Latin-1.
        let bytes: Vec<u8> = line.chars().map(|character| u8::try_from(u32::from(character)).unwrap()).collect();
        let record: serde_json::Value =
            serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(record.get("level").is_none(), "{line}");
        assert!(!line.chars().any(|character| character.is_ascii_control()), "{line:?}");
    }
}

#[tokio::test]
async fn sigterm_lets_running_transfers_finish_and_sends_idle_sessions_away() {
    let sshd = Sshd::start().await;
    let mut gateway = Gateway::before(&sshd);
    let content = vec![7; 20_000_000];
    sshd.place_file("big", &content);
    let mut idle = Client::logged_in(&gateway).await;
    let mut fresh = Client::clear(&gateway).await;
    let mut busy = Client::logged_in(&gateway).await;
    busy.ask("TYPE I", 200).await;
    let address = busy.passive().await;
    busy.ask("RETR big", 150).await;
    let mut data = busy.data(address).await;
    let mut bytes = vec![0; 1000];
    data.read_exact(&mut bytes).await.unwrap();

    gateway.signal("TERM");
    idle.expect(421).await;
    idle.expect_closed().await;
    fresh.expect(421).await;
    fresh.expect_closed().await;
    assert_eq!(gateway.get("/readyz").await, (503, "draining\n".to_owned()));
    assert_eq!(gateway.get("/livez").await.0, 200);
    assert_eq!(gateway.metric("ftps2sftp_draining").await, 1.0);
    // The listening socket closes when its task is told so, a moment later perhaps; then nobody is let in any more.
    while tokio::net::TcpStream::connect(gateway.explicit).await.is_ok() {
        tokio::task::yield_now().await;
    }

    data.read_to_end(&mut bytes).await.unwrap();
    drop(data);
    assert!(bytes == content);
    busy.expect(226).await;
    busy.expect(421).await;
    busy.expect_closed().await;
    assert_eq!(gateway.wait().code(), Some(0));
}

/// What was cut at the end is told to who scrapes: the process stays until it has been, and no longer.
#[tokio::test]
async fn sessions_that_a_drain_cuts_are_seen_in_a_last_scrape() {
    let sshd = Sshd::start().await;
    let mut gateway = Gateway::start(&Setup::backend(&sshd).with_users(&sshd.files()).with("shutdown: {drain: 1s}\n"));
    let drained = |outcome| format!("ftps2sftp_drained_sessions_total{{outcome=\"{outcome}\"}}");
    let mut idle = Client::logged_in(&gateway).await;
    let mut busy = Client::logged_in(&gateway).await;
    busy.ask("TYPE I", 200).await;
    let mut data = begin(&mut busy, "STOR file").await;
    data.write_all(b"begun").await.unwrap();
    gateway.metric(&drained("clean")).await;
    gateway.signal("TERM");
    idle.expect(421).await;
    busy.expect(426).await;
    // Whoever asks again may find nobody any more.
    let seen = loop {
        let (_, text) = gateway.get("/metrics").await;
        if text.contains(&format!("{} 1\n", drained("forced"))) {
            break text;
        }
    };
    assert!(seen.contains(&format!("{} 1\n", drained("clean"))));
    assert!(gateway.wait().success());
}

#[tokio::test]
async fn sigterm_without_sessions_ends_at_once_with_success() {
    let sshd = Sshd::start().await;
    let mut gateway = Gateway::before(&sshd);
    gateway.signal("TERM");
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(gateway.log().contains("\"stopped\""));
}

/// A client that takes nothing holds one window, which is told while it does.
#[tokio::test]
async fn file_data_under_way_is_told_and_bounded() {
    const WINDOW: f64 = 8.0 * 1024.0 * 1024.0;
    let sshd = Sshd::start().await;
    sshd.place_file("large", content(40_000_000, 1));
    let gateway = Gateway::before(&sshd);
    assert_eq!(gateway.metric("ftps2sftp_buffer_bytes_limit").await, 10_000.0 * WINDOW);
    let mut client = Client::logged_in(&gateway).await;
    client.ask("TYPE I", 200).await;
    let data = begin(&mut client, "RETR large").await;
    let mut most = 0.0_f64;
    for _ in 0..300 {
        let now = gateway.metric("ftps2sftp_buffer_bytes").await;
        assert!(now <= WINDOW, "{now} bytes");
        most = most.max(now);
        if most > WINDOW / 8.0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(most > WINDOW / 8.0, "{most} bytes at most");
    drop(data);
    client.reply().await;
    gateway.wait_for_metric("ftps2sftp_buffer_bytes", 0.0).await;
}
