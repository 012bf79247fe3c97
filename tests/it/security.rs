//! TLS, the protection of data connections, and hostile bytes on the control connection.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ftps2sftp::command::spec::{self, Handler};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConnection, HandshakeKind, SupportedProtocolVersion};

use crate::support::client::{Client, connect_from, connector, latin1, server_name};
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, MAPPED_USER, Setup};
use crate::support::real_clients::run;
use crate::support::sshd::Sshd;

/// How long anything may take that is only waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest command line, line end included, in bytes.
const MAX_LINE: usize = 4096 + 512;

/// What openssl's client shows of a connection on which it is told to do this, one line each; a line of a single letter is
/// an order to the client itself (`openssl-s_client(1)`, connected commands).
///
/// Also whether the connection was over before all had been said.
async fn orders_to_openssl(gateway: &Gateway, version: &str, orders: &[&str]) -> (String, bool) {
    let mut client = tokio::process::Command::new("openssl")
        .args(["s_client", version, "-msg", "-connect", &gateway.implicit.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut orders_to = client.stdin.take().unwrap();
    let mut output = client.stdout.take().unwrap();
    let mut said = Vec::new();
    let mut piece = [0; 4096];
    // Before the handshake is over nothing is an order.
    while !latin1(&said).contains("220 ") {
        let count = timeout(PATIENCE, output.read(&mut piece)).await.unwrap().unwrap();
        assert!(count > 0, "{}", latin1(&said));
        said.extend_from_slice(&piece[..count]);
    }
    let listening = tokio::spawn(async move { output.read_to_end(&mut said).await.map(|_| said) });
    let mut is_over = false;
    for order in orders {
        // It looks at the first letter of what it reads at once.
        tokio::time::sleep(Duration::from_millis(50)).await;
        is_over = client.try_wait().unwrap().is_some();
        if is_over || orders_to.write_all(format!("{order}\n").as_bytes()).await.is_err() {
            break;
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    is_over |= client.try_wait().unwrap().is_some();
    drop(orders_to);
    let said = timeout(PATIENCE, listening).await.unwrap().unwrap().unwrap();
    let errors = client.wait_with_output().await.unwrap().stderr;
    (latin1(&[said, errors].concat()), is_over)
}

/// TLS-23: a client that wants to negotiate anew under TLS 1.2 hears that this is not done, and nothing is negotiated.
#[tokio::test]
async fn tls_23_nothing_is_negotiated_twice() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let (said, _) = orders_to_openssl(&gateway, "-tls1_2", &["R", "NOOP"]).await;
    assert_eq!(said.matches("], ClientHello").count(), 2, "{said}");
    assert_eq!(said.matches("], ServerHello\n").count(), 1, "{said}");
    assert!(said.contains("no_renegotiation"), "{said}");
    Client::logged_in(&gateway).await.ask("NOOP", 200).await;
}

/// TLS-24: key updates without end, each of which costs both sides a derivation, end the connection.
#[tokio::test]
async fn tls_24_a_flood_of_key_updates_ends_the_connection() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let (few, is_over) = orders_to_openssl(&gateway, "-tls1_3", &["K", "K", "K"]).await;
    let taken = few.matches("KeyUpdate").count();
    assert!(taken > 0 && !is_over, "a few are taken:\n{few}");
    let (many, is_over) = orders_to_openssl(&gateway, "-tls1_3", &["K"; 100]).await;
    let sent = many.matches(">>> TLS 1.3, Handshake [length 0005], KeyUpdate").count();
    assert!(is_over && sent > 10, "{sent} of them were taken:\n{many}");
    Client::logged_in(&gateway).await.ask("NOOP", 200).await;
}

/// TLS-24: so do warnings.
#[tokio::test]
async fn tls_24_a_flood_of_warnings_ends_the_connection() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients/gnutls_flood.py");
    for version in ["TLS1.2", "TLS1.3"] {
        for (count, ends) in [("3", "answered"), ("200", "closed")] {
            let port = gateway.implicit.port().to_string();
            let ran = run(Command::new("python3").arg(&script).args([&port, version, count])).succeeded();
            assert_eq!(ran.trim(), ends, "{version}, {count} warnings");
        }
    }
    Client::logged_in(&gateway).await.ask("NOOP", 200).await;
}

#[tokio::test]
async fn both_tls_modes_serve_both_tls_versions() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    for (version, name) in [(&TLS12, "TLSv1.2"), (&TLS13, "TLSv1.3")] {
        let clients = [Client::explicit_with(&gateway, version).await, Client::implicit_with(&gateway, version).await];
        for (mut client, mode) in clients.into_iter().zip(["explicit", "implicit"]) {
            client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
            let status = client.ask("STAT", 211).await.text();
            assert!(status.contains(&format!(" Control connection: {name}, ")), "{status}");
            assert!(status.contains("PROT P"), "{status}");
            client.ask("TYPE I", 200).await;
            let file = format!("{mode} {name}");
            let content = file.repeat(10_000);
            assert_eq!(client.store(format!("STOR {file}"), content.as_bytes()).await.code, 226);
            assert_eq!(client.retrieve(&file).await, content.as_bytes());
            assert!(client.lines("NLST").await.contains(&file.into_bytes()));
            client.ask("QUIT", 221).await;
            client.expect_closed().await;
        }
    }
}

#[tokio::test]
async fn a_lower_version_than_the_configured_one_is_refused() {
    let sshd = Sshd::start().await;
    let mut setup = Setup::backend(&sshd).with_users(&sshd.files());
    setup.tls.push_str("  min_version: \"1.3\"\n");
    let gateway = Gateway::start(&setup);
    let stream = TcpStream::connect(gateway.implicit).await.unwrap();
    assert!(connector(&gateway, &TLS12).connect(server_name(), stream).await.is_err());
    Client::implicit_with(&gateway, &TLS13).await.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
}

#[tokio::test]
async fn s16_in_clear_nothing_of_value_is_said_or_heard() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::clear(&gateway).await;
    for row in spec::rows() {
        let code = match row.handler {
            Handler::NotOffered(code, _) => code,
            _ if !row.before_tls => 530,
            Handler::LoggedIn(_) => panic!("{} needs a login and is let in before TLS", row.verb),
            Handler::Anytime(_) => continue,
        };
        for verb in std::iter::once(&row.verb).chain(row.aliases) {
            client.ask(format!("{verb} x"), code).await;
        }
    }
    client
        .ask_all(&[
            ("USER acme", 530),
            ("PASS swordfish 42", 530),
            ("FEAT", 211),
            ("SYST", 215),
            ("STAT", 211),
            ("STAT x", 530),
            ("HELP", 214),
            ("NOOP", 200),
            ("CLNT x", 200),
            ("OPTS UTF8 ON", 200),
            ("PBSZ 0", 503),
            ("PROT P", 503),
            ("AUTH", 501),
            ("AUTH KERBEROS_V4", 504),
            ("AUTH TLS-P", 504),
            ("QUIT", 221),
        ])
        .await;
    client.expect_closed().await;
}

#[tokio::test]
async fn tls_44_auth_takes_its_three_spellings_and_is_given_once() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    for mechanism in ["TLS", "tls-c", "SSL"] {
        let mut client = secured(&gateway, mechanism).await;
        client.ask("AUTH TLS", 503).await;
        client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
        client.ask_all(&[("AUTH TLS", 503), ("CCC", 534), ("REIN", 502), ("PWD", 257)]).await;
    }
    Client::implicit(&gateway).await.ask("AUTH TLS", 503).await;
}

#[tokio::test]
async fn pbsz_and_prot_follow_their_order_and_take_only_what_tls_has() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    for mut client in [secured(&gateway, "TLS").await, Client::implicit(&gateway).await] {
        client
            .ask_all(&[
                ("PROT P", 503),
                ("PBSZ", 501),
                ("PBSZ x", 501),
                ("PBSZ -1", 501),
                ("PBSZ 4294967296", 501),
                ("PROT P", 503),
            ])
            .await;
        assert_eq!(client.ask("PBSZ 4294967295", 200).await.text(), "200 PBSZ=0");
        client
            .ask_all(&[
                ("PROT", 501),
                ("PROT PP", 501),
                ("PROT S", 536),
                ("PROT E", 536),
                ("PROT X", 504),
                ("prot p", 200),
                ("PROT C", 200),
            ])
            .await;
        client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
        // What was chosen before the login holds after it; the policy is the user's, and known only now.
        client.ask_all(&[("EPSV", 229), ("LIST", 521), ("PROT C", 534), ("EPSV", 229), ("LIST", 521)]).await;
        client.ask("PROT P", 200).await;
        client.private = true;
        client.ask_all(&[("PROT C", 534), ("PROT S", 536)]).await;
        assert_eq!(client.lines("LIST").await, Vec::<Vec<u8>>::new());
    }
}

#[tokio::test]
async fn s16_no_data_command_goes_in_clear_where_data_must_be_protected() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    sshd.place_file("a", "content");
    let mut client = secured(&gateway, "TLS").await;
    client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
    for command in ["RETR a", "STOR b", "APPE a", "LIST", "NLST", "MLSD"] {
        let address = client.passive().await;
        client.ask(command, 521).await;
        assert_closed_unread(TcpStream::connect(address).await).await;
    }
    assert!(!sshd.files().join("b").exists());
    // The implicit port begins at PROT P: some clients never say so there.
    let mut client = Client::implicit(&gateway).await;
    client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
    assert_eq!(client.retrieve("a").await, b"content");
}

#[tokio::test]
async fn a_user_with_optional_data_protection_may_change_it_at_any_time() {
    let sshd = Sshd::start().await;
    let root = format!("    root: \"{}\"\n    policy: {{data_tls: optional}}\n", sshd.files().display());
    let gateway = Gateway::start(&Setup::backend(&sshd).with_user("old", &root));
    let mut client = secured(&gateway, "TLS").await;
    client.log_in("old", MAPPED_PASSWORD).await;
    assert_eq!(client.store("STOR a", b"in clear").await.code, 226);
    client.ask_all(&[("PBSZ 0", 200), ("PROT P", 200)]).await;
    client.private = true;
    assert_eq!(client.retrieve("a").await, b"in clear");
    client.ask("PROT C", 200).await;
    client.private = false;
    assert_eq!(client.retrieve("a").await, b"in clear");
    // Between PASV and the transfer, too: what counts is PROT when the connection comes.
    let address = client.passive().await;
    client.ask_all(&[("PROT P", 200), ("RETR a", 150)]).await;
    client.private = true;
    let mut data = client.data(address).await;
    let mut bytes = Vec::new();
    data.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, b"in clear");
    drop(data);
    client.expect(226).await;
}

#[tokio::test]
async fn s13_and_tls_40_41_and_45_bytes_behind_auth_never_survive_into_tls() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let injected = b"AUTH TLS\r\nUSER acme\r\nPASS swordfish 42\r\n";
    for position in 1..injected.len() {
        let (first, second) = injected.split_at(position);
        no_tls_after(&gateway, first, second).await;
    }
    for behind in [&b"\n"[..], b"\r\n", b"\r", b" ", b"N", b"\xff", b"\xff\xfa", b"\xf2", b"\0"] {
        no_tls_after(&gateway, &[b"AUTH TLS\r\n", behind].concat(), b"").await;
        no_tls_after(&gateway, &[b"NOOP\nauth tls\n", behind].concat(), b"").await;
    }
    // And no TLS at all after 234.
    no_tls_after(&gateway, b"AUTH TLS\r\n", b"NOOP\r\n").await;
    assert!(!sshd.log().contains("Accepted"), "{}", sshd.log());
}

/// TLS-42: nor does any other command that leaves a mark before a login, whether it comes with AUTH, behind it, or behind
/// the answer to it. TLS-43: what was said before it is answered in clear, and forgotten.
#[tokio::test]
async fn tls_42_and_43_nothing_that_is_said_in_clear_has_an_effect_or_an_answer_under_tls() {
    let sshd = Sshd::start().await;
    sshd.place_file("a", "content");
    let mode = || std::fs::metadata(sshd.files().join("a")).unwrap().permissions().mode();
    let before = mode();
    let gateway = Gateway::before(&sshd);
    for command in [
        "HOST elsewhere.example",
        "SITE CHMOD 777 a",
        "SITE HELP",
        "OPTS MLST type;",
        "OPTS UTF8 OFF",
        "CLNT somebody else",
        "PBSZ 0",
        "PROT C",
        "PBSZ 0\r\nPROT C",
        "CCC",
        "REIN",
        "AUTH TLS",
        "USER acme",
        "PASS swordfish 42",
        "ACCT x",
        "FEAT",
        "NOOP",
        "QUIT",
        "\r\n",
    ] {
        let command = format!("{command}\r\n");
        no_tls_after(&gateway, format!("AUTH TLS\r\n{command}").as_bytes(), b"").await;
        no_tls_after(&gateway, b"AUTH TLS\r\n", command.as_bytes()).await;
        // Half of it with AUTH, half behind it.
        let (first, second) = command.split_at(command.len() / 2);
        no_tls_after(&gateway, format!("AUTH TLS\r\n{first}").as_bytes(), second.as_bytes()).await;
        // Once 234 was read.
        let mut stream = TcpStream::connect(gateway.explicit).await.unwrap();
        read_line(&mut stream).await;
        stream.write_all(b"AUTH TLS\r\n").await.unwrap();
        assert!(read_line(&mut stream).await.starts_with(b"234 "));
        // It may be closed by now.
        let _ = stream.write_all(command.as_bytes()).await;
        let tls = timeout(PATIENCE, connector(&gateway, &TLS13).connect(server_name(), stream)).await.expect("closed");
        assert!(tls.is_err(), "TLS after {command}");
    }
    // What was said before AUTH in the same piece is forgotten as well, and TLS begins.
    let mut stream = TcpStream::connect(gateway.explicit).await.unwrap();
    read_line(&mut stream).await;
    let said = [
        ("OPTS MLST type;", "200 "),
        ("HOST elsewhere.example", "220 "),
        ("SITE CHMOD 777 a", "530 "),
        ("CWD /", "530 "),
        ("PBSZ 0", "503 "),
        ("PROT C", "503 "),
        ("USER acme", "530 "),
        ("AUTH TLS", "234 "),
    ];
    let lines: String = said.iter().map(|(line, _)| format!("{line}\r\n")).collect();
    stream.write_all(lines.as_bytes()).await.unwrap();
    for (line, code) in said {
        let answer = latin1(&read_line(&mut stream).await);
        assert!(answer.starts_with(code), "{line}: {answer}");
    }
    let tls = connector(&gateway, &TLS13);
    let mut client = Client::over(Box::new(stream), tls, gateway.explicit).upgrade().await.unwrap();
    client.ask_all(&[("PASS swordfish 42", 503), ("PROT P", 503)]).await;
    assert!(client.ask("FEAT", 211).await.text().contains("MLST type*;size*;"));
    assert_eq!(mode(), before);
    assert!(!sshd.log().contains("Accepted"), "{}", sshd.log());
    client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
    client.ask_all(&[("EPSV", 229), ("LIST", 521), ("PBSZ 0", 200), ("PROT P", 200)]).await;
}

/// How a ClientHello is cut.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// Each piece is a record of its own (RFC 8446 §5.1), and all are sent at once.
    Records,
    /// The same, and each is sent by itself.
    RecordsApart,
    /// One record, of which each piece is sent by itself.
    Segments,
}

impl Cut {
    /// Sends a record's content in pieces of at most so many bytes.
    async fn send(self, to: &mut TcpStream, record: &[u8], piece: usize) {
        let (head, content) = record.split_at(5);
        let as_record = |piece: &[u8]| {
            let length = u16::try_from(piece.len()).unwrap().to_be_bytes();
            [&head[..3], &length, piece].concat()
        };
        let pieces: Vec<Vec<u8>> = match self {
            Self::Records => vec![content.chunks(piece).flat_map(as_record).collect()],
            Self::RecordsApart => content.chunks(piece).map(as_record).collect(),
            Self::Segments => record.chunks(piece).map(<[u8]>::to_vec).collect(),
        };
        for piece in pieces {
            to.write_all(&piece).await.unwrap();
            to.flush().await.unwrap();
            // The gateway's turn, mostly.
            tokio::task::yield_now().await;
        }
    }
}

/// Makes a stream over which a client's first record arrives cut, and everything else as it is.
fn cutting(mut gateway: TcpStream, cut: Cut, piece: usize) -> DuplexStream {
    gateway.set_nodelay(true).unwrap();
    let (client, mut own) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        let mut record = vec![0; 5];
        own.read_exact(&mut record).await?;
        record.resize(5 + usize::from(u16::from_be_bytes([record[3], record[4]])), 0);
        own.read_exact(&mut record[5..]).await?;
        cut.send(&mut gateway, &record, piece).await;
        tokio::io::copy_bidirectional(&mut own, &mut gateway).await
    });
    client
}

/// TLS-22: a ClientHello means the same however it comes.
#[tokio::test]
async fn tls_22_a_client_hello_in_pieces_of_any_size_begins_a_session() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&Setup::backend_with(&sshd, "connections: shared").with_users(&sshd.files()));
    let _stays = Client::logged_in(&gateway).await;
    for version in [&TLS12, &TLS13] {
        for cut in [Cut::Segments, Cut::Records, Cut::RecordsApart] {
            for piece in [1, 2, 3, 5, 16, 100, 255] {
                for is_implicit in [true, false] {
                    let at = format!("{:?}, {cut:?} of {piece} bytes", version.version);
                    let to = if is_implicit { gateway.implicit } else { gateway.explicit };
                    let mut stream = TcpStream::connect(to).await.unwrap();
                    if !is_implicit {
                        read_line(&mut stream).await;
                        stream.write_all(b"AUTH TLS\r\n").await.unwrap();
                        assert!(read_line(&mut stream).await.starts_with(b"234 "));
                    }
                    let clear = cutting(stream, cut, piece);
                    let tls = connector(&gateway, version);
                    let client = timeout(PATIENCE, Client::over(Box::new(clear), tls, to).upgrade()).await;
                    let mut client = client.expect("in time").unwrap_or_else(|error| panic!("{at}: {error}"));
                    if is_implicit {
                        client.expect(220).await;
                    }
                    client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
                    client.ask_all(&[("PBSZ 0", 200), ("PROT P", 200)]).await;
                    client.private = true;
                    assert_eq!(client.lines("NLST").await, Vec::<Vec<u8>>::new(), "{at}");
                }
            }
        }
    }
}

/// TLS-22: on a port on which several sessions wait, too, where a ClientHello tells whose the connection is.
#[tokio::test]
async fn tls_22_a_client_hello_in_pieces_tells_whose_a_data_connection_is() {
    let sshd = Sshd::start().await;
    let names = ["one", "two"];
    let strict = format!("    root: \"{}\"\n    policy: {{data_tls_resumption: require}}\n", sshd.files().display());
    let mut setup = Setup::backend_with(&sshd, "connections: shared");
    for name in names {
        sshd.place_file(name, name);
        setup = setup.with_user(name, &strict);
    }
    setup.ports = Some(1);
    let gateway = Gateway::start(&setup);
    for version in [&TLS12, &TLS13] {
        for cut in [Cut::Segments, Cut::Records, Cut::RecordsApart] {
            for piece in [1, 2, 5, 100] {
                let mut clients = Vec::new();
                for name in names {
                    let mut client = logged_in(&gateway, version, name).await;
                    let address = client.passive().await;
                    client.ask(format!("RETR {name}"), 150).await;
                    clients.push((name, client, address));
                }
                assert_eq!(clients[0].2, clients[1].2);
                for (name, mut client, address) in clients {
                    let at = format!("{:?}, {cut:?} of {piece} bytes, {name}", version.version);
                    let clear = cutting(TcpStream::connect(address).await.unwrap(), cut, piece);
                    let data = timeout(PATIENCE, client.tls().connect(server_name(), clear)).await.expect("in time");
                    let mut data = data.unwrap_or_else(|error| panic!("{at}: {error}"));
                    let mut bytes = Vec::new();
                    data.read_to_end(&mut bytes).await.unwrap();
                    assert_eq!(bytes, name.as_bytes(), "{at}");
                    drop(data);
                    client.expect(226).await;
                }
            }
        }
    }
}

/// TLS-22: what is no ClientHello is refused, in whatever pieces it comes, and costs nobody else anything.
#[tokio::test]
async fn tls_22_what_is_no_client_hello_ends_its_connection_alone() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut hello = Vec::new();
    let tls = connector(&gateway, &TLS13);
    ClientConnection::new(Arc::clone(tls.config()), server_name()).unwrap().write_tls(&mut hello).unwrap();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a record of nothing", [&[22, 3, 1, 0, 0][..], &hello].concat()),
        ("nothing but such records", [22, 3, 1, 0, 0].repeat(5000)),
        ("a record that is too long", [&[22, 3, 1, 0xff, 0xff][..], &[b'x'; 70_000]].concat()),
        ("another version of records", [&[22, 9, 9], &hello[3..]].concat()),
        ("a message that is never whole", [&[22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff][..], &[0; 16_380]].concat()),
        ("two of them", [hello.clone(), hello.clone()].concat()),
        ("another message of a handshake", [&[22, 3, 1, 0, 5, 2, 0, 0, 1, 0][..], &hello].concat()),
        ("data", [&[23, 3, 3, 0, 1, 0][..], &hello].concat()),
        ("half of it and the end", hello[..hello.len() / 2].to_vec()),
    ];
    for (what, bytes) in &cases {
        for piece in [1, 5, bytes.len()] {
            let mut stream = TcpStream::connect(gateway.implicit).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut said = Vec::new();
            let (mut reading, mut writing) = stream.split();
            let speak = async {
                // A piece by itself as long as that is not all there is to do.
                for part in bytes.chunks(piece.max(bytes.len() / 2000)) {
                    if writing.write_all(part).await.is_err() {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
                let _ = writing.shutdown().await;
            };
            let hear = timeout(PATIENCE, reading.read_to_end(&mut said));
            let (heard, ()) = tokio::join!(hear, speak);
            assert!(heard.is_ok(), "{what}, {piece} at a time: it goes on");
            assert!(!latin1(&said).contains("220 "), "{what}, {piece} at a time: {}", said.escape_ascii());
        }
    }
    Client::logged_in(&gateway).await.ask("PWD", 257).await;
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
}

#[tokio::test]
async fn s13_and_tls_46_auth_forgets_everything_that_was_said_in_clear() {
    let sshd = Sshd::start().await;
    let mut setup = Setup::backend(&sshd).with_users(&sshd.files());
    setup.tls.push_str("  require_control: false\n");
    let gateway = Gateway::start(&setup);
    let mut client = Client::clear(&gateway).await;
    let feat = client.ask("FEAT", 211).await;
    client.ask_all(&[("OPTS MLST type;", 200), ("PBSZ 0", 503), ("PROT P", 503)]).await;
    assert_ne!(client.ask("FEAT", 211).await, feat);
    client.ask(format!("USER {MAPPED_USER}"), 331).await;
    client.ask("AUTH TLS", 234).await;
    let mut client = client.upgrade().await.unwrap();
    client.ask(format!("PASS {MAPPED_PASSWORD}"), 503).await;
    client.ask("PROT P", 503).await;
    assert_eq!(client.ask("FEAT", 211).await, feat);
    client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
    client.ask_all(&[("EPSV", 229), ("LIST", 521)]).await;

    // Logged in in clear, where that is allowed, it is too late; and data is no more allowed in clear than before.
    let mut client = Client::clear(&gateway).await;
    client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
    client.ask_all(&[("AUTH TLS", 503), ("PROT P", 503), ("EPSV", 229), ("LIST", 521)]).await;
}

#[tokio::test]
async fn tls_1_a_data_connection_resumes_its_own_session_and_nobody_elses() {
    let sshd = Sshd::start().await;
    let root = format!("    root: \"{}\"\n    policy: {{data_tls_resumption: require}}\n", sshd.files().display());
    let gateway = Gateway::start(&Setup::backend(&sshd).with_user("strict", &root));
    sshd.place_file("secret", "for the rightful only");
    for (version, number) in [(&TLS12, "1.2"), (&TLS13, "1.3")] {
        let mut client = logged_in(&gateway, version, "strict").await;
        let mut thief = logged_in(&gateway, version, "strict").await;
        for _ in 0..12 {
            assert_eq!(client.retrieve("secret").await, b"for the rightful only");
        }
        assert_eq!(client.store("STOR mine", b"mine").await.code, 226);
        let own = secure_data(&mut client, "RETR secret").await;
        assert_eq!(own.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed), "{number}");
        drop(own);
        let _ = client.reply().await;

        // Somebody else's session, none at all, and what the thief was given when it was turned away the time before.
        assert_eq!(thief.retrieve("secret").await, b"for the rightful only");
        let stranger = connector(&gateway, version);
        for tls in [thief.tls(), &stranger] {
            let address = client.passive().await;
            client.ask("RETR secret", 150).await;
            assert_gets_nothing(tls, address, b"").await;
            // The rightful connection after it is served.
            let mut data = client.data(address).await;
            let mut bytes = Vec::new();
            data.read_to_end(&mut bytes).await.unwrap();
            assert_eq!(bytes, b"for the rightful only");
            drop(data);
            client.expect(226).await;

            let address = client.passive().await;
            client.ask("STOR mine", 150).await;
            assert_gets_nothing(tls, address, b"forged").await;
            let mut data = client.data(address).await;
            data.write_all(b"mine again").await.unwrap();
            data.shutdown().await.unwrap();
            client.expect(226).await;
            assert_eq!(std::fs::read(sshd.files().join("mine")).unwrap(), b"mine again");
        }
        // Where nobody else comes, the client learns why.
        let address = client.passive().await;
        client.ask("STOR mine", 150).await;
        assert_gets_nothing(thief.tls(), address, b"forged").await;
        client.expect(522).await;
        assert_eq!(std::fs::read(sshd.files().join("mine")).unwrap(), b"mine again");
        client.ask("NOOP", 200).await;
        let resumed =
            format!("ftps2sftp_tls_handshakes_total{{channel=\"data\",version=\"{number}\",result=\"resumed\"}}");
        assert!(gateway.metric(&resumed).await >= 18.0);
    }
}

#[tokio::test]
async fn prefer_and_off_take_data_connections_that_resume_nothing() {
    let sshd = Sshd::start().await;
    let root = format!("    root: \"{}\"\n", sshd.files().display());
    let off = format!("{root}    policy: {{data_tls_resumption: \"off\"}}\n");
    let gateway = Gateway::start(&Setup::backend(&sshd).with_user("prefer", &root).with_user("off", &off));
    sshd.place_file("a", "content");
    for version in [&TLS12, &TLS13] {
        for user in ["prefer", "off"] {
            let mut client = logged_in(&gateway, version, user).await;
            let address = client.passive().await;
            client.ask("RETR a", 150).await;
            let stream = client.connect(address).await;
            let mut data = connector(&gateway, version).connect(server_name(), stream).await.unwrap();
            assert_eq!(data.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
            let mut bytes = Vec::new();
            data.read_to_end(&mut bytes).await.unwrap();
            assert_eq!(bytes, b"content", "{user}");
            drop(data);
            client.expect(226).await;
            // What resumes where it may, makes a whole handshake under `off`.
            for _ in 0..3 {
                let data = secure_data(&mut client, "RETR a").await;
                let expected = if user == "off" { HandshakeKind::Full } else { HandshakeKind::Resumed };
                assert_eq!(data.get_ref().1.handshake_kind(), Some(expected), "{user}");
                drop(data);
                let _ = client.reply().await;
            }
        }
    }
}

#[tokio::test]
async fn s3_strangers_at_the_clients_address_do_not_cost_it_its_turn() {
    let sshd = Sshd::start().await;
    let strict = format!("    root: \"{}\"\n    policy: {{data_tls_resumption: require}}\n", sshd.files().display());
    let gateway = Gateway::start(&Setup::backend(&sshd).with_user("strict", &strict));
    sshd.place_file("a", "content");
    let mut client = logged_in(&gateway, &TLS13, "strict").await;
    // One comes and is turned away long before the transfer command.
    let address = client.passive().await;
    assert_gets_nothing(&connector(&gateway, &TLS13), address, b"").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    client.ask("RETR a", 150).await;
    let mut data = client.data(address).await;
    let mut bytes = Vec::new();
    data.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, b"content");
    drop(data);
    client.expect(226).await;

    // More of them than there may be handshakes, and none says a word.
    let address = client.passive().await;
    let mut silent = Vec::new();
    for _ in 0..12 {
        silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    let asked = Instant::now();
    client.ask("RETR a", 150).await;
    let mut data = client.data(address).await;
    let mut bytes = Vec::new();
    data.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, b"content");
    drop(data);
    client.expect(226).await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

/// S-2.
#[tokio::test]
async fn s2_a_data_connection_from_another_address_is_dropped_and_the_rightful_one_served() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    sshd.place_file("a", "content");
    let mut client = Client::logged_in(&gateway).await;
    for _ in 0..2 {
        let address = client.passive().await;
        assert_closed_unread(connect_from([127, 0, 0, 2], address).await).await;
        client.ask("RETR a", 150).await;
        assert_closed_unread(connect_from([127, 0, 0, 3], address).await).await;
        let mut data = client.data(address).await;
        let mut bytes = Vec::new();
        data.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, b"content");
        drop(data);
        client.expect(226).await;
    }
}

#[tokio::test]
async fn s14_and_tls_30_to_32_a_protocol_that_is_not_ftp_is_refused_by_alpn() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let dial = |protocols: &'static [&'static str]| {
        let gateway = &gateway;
        async move {
            let mut config = connector(gateway, &TLS13).config().as_ref().clone();
            config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
            let stream = TcpStream::connect(gateway.implicit).await.unwrap();
            let stream = TlsConnector::from(Arc::new(config)).connect(server_name(), stream).await?;
            io::Result::Ok(stream.get_ref().1.alpn_protocol().map(latin1))
        }
    };
    assert!(dial(&["h2", "http/1.1"]).await.is_err());
    assert!(dial(&["smtp"]).await.is_err());
    assert_eq!(dial(&[]).await.unwrap(), None);
    assert_eq!(dial(&["ftp"]).await.unwrap().as_deref(), Some("ftp"));
    assert_eq!(dial(&["x-filezilla-ftp", "ftp"]).await.unwrap().as_deref(), Some("ftp"));
}

#[tokio::test]
async fn s14_and_tls_34_what_speaks_another_protocol_is_sent_away_before_login() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let foreign = [
        "GET / HTTP/1.1",
        "get /x HTTP/1.0",
        "POST / HTTP/1.1",
        "PUT /a HTTP/1.1",
        "HEAD / HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "CONNECT a:21 HTTP/1.1",
        "TRACE / HTTP/1.1",
        "PRI * HTTP/2.0",
        "Host: localhost",
        "EHLO me",
        "HELO me",
    ];
    for line in foreign {
        for mut client in [Client::clear(&gateway).await, Client::implicit(&gateway).await] {
            // The commands in the body are never seen.
            client.send_raw(format!("{line}\r\nNOOP\r\n").as_bytes()).await;
            client.expect(421).await;
            client.expect_closed().await;
        }
    }
    let mut client = Client::implicit(&gateway).await;
    for _ in 0..9 {
        client.ask("XYZZY", 500).await;
    }
    client.ask("XYZZY", 421).await;
    client.expect_closed().await;
    // A known command in between begins the count anew, and a user who is logged in may mistype for ever.
    let mut client = Client::implicit(&gateway).await;
    for _ in 0..2 {
        for _ in 0..9 {
            client.ask("XYZZY", 500).await;
        }
        client.ask("NOOP", 200).await;
    }
    client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
    for line in foreign.into_iter().chain(["", " ", "\u{1}", "123", " NOOP", "NOOP\tx", "AVERYLONGVERBINDEED x"]) {
        client.ask(line, 500).await;
    }
}

#[tokio::test]
async fn s8_a_line_has_a_greatest_length_and_its_excess_is_thrown_away() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::logged_in(&gateway).await;
    let line = |length: usize| [&b"NOOP "[..], &vec![b'x'; length - "NOOP \r\n".len()]].concat();
    client.ask(line(MAX_LINE), 200).await;
    client.ask(line(MAX_LINE + 1), 500).await;
    client.ask("NOOP", 200).await;
    client.ask(line(1_000_000), 500).await;
    client.ask(line(MAX_LINE + 1), 500).await;
    client.ask(line(MAX_LINE + 1), 421).await;
    client.expect_closed().await;
}

#[tokio::test]
async fn pipelined_commands_are_answered_in_order_however_the_bytes_are_cut() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    sshd.place_file("a", "content");
    let dialogue = [
        ("SYST", 215),
        ("noop", 200),
        ("PWD", 257),
        ("TYPE I", 200),
        ("TYPE X", 501),
        ("CWD missing", 550),
        ("MKD p", 257),
        ("CWD p", 250),
        ("XYZZY", 500),
        ("CDUP", 250),
        ("RMD p", 250),
        ("SIZE none", 550),
        ("SIZE a", 213),
        ("REIN", 502),
    ];
    let (lines, codes): (Vec<&str>, Vec<u16>) = dialogue.into_iter().unzip();
    let mut client = Client::logged_in(&gateway).await;
    for end in ["\r\n", "\n"] {
        let bytes = format!("{}{end}", lines.join(end)).into_bytes();
        for piece in [1, 3, bytes.len()] {
            for part in bytes.chunks(piece) {
                client.send_raw(part).await;
            }
            for code in &codes {
                client.expect(*code).await;
            }
        }
    }
    // More than is ever kept waiting, and behind a transfer.
    let address = client.passive().await;
    let flood = format!("RETR a\r\n{}PWD\r\n", "NOOP\r\n".repeat(500));
    client.send_raw(flood.as_bytes()).await;
    client.expect(150).await;
    let mut data = client.data(address).await;
    let mut bytes = Vec::new();
    data.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, b"content");
    drop(data);
    client.expect(226).await;
    for _ in 0..500 {
        client.expect(200).await;
    }
    client.expect(257).await;
}

#[tokio::test]
async fn s24_telnet_is_taken_out_of_commands() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::logged_in(&gateway).await;
    for preface in [&b"\xff\xf4\xff\xf2"[..], b"\xff\xf4\xff", b"\xff\xf4", b"\xf2", b"\xff\xf2\xff\xf2", b""] {
        client.ask([preface, b"ABOR"].concat(), 226).await;
        client.ask([preface, b"NOOP"].concat(), 200).await;
    }
    client.ask(b"NO\xff\xf1OP", 200).await;
    client.ask(b"\xff\xfa\x18\x01\r\nPWD\r\n\xff\xf0NOOP", 200).await;

    // Options are refused, in their place among the replies.
    let mut raw = TcpStream::connect(gateway.explicit).await.unwrap();
    read_line(&mut raw).await;
    raw.write_all(b"\xff\xfd\x06NOOP\r\n\xff\xfb\x01NO\xff\xfe\x05OP\r\n").await.unwrap();
    assert_eq!(read_line(&mut raw).await, b"\xff\xfc\x06200 OK\r\n");
    assert_eq!(read_line(&mut raw).await, b"\xff\xfe\x01\xff\xfc\x05200 OK\r\n");
}

/// AUTH, and neither PBSZ nor PROT.
async fn secured(gateway: &Gateway, mechanism: &str) -> Client {
    let mut client = Client::clear(gateway).await;
    client.ask(format!("AUTH {mechanism}"), 234).await;
    client.upgrade().await.unwrap()
}

async fn logged_in(gateway: &Gateway, version: &'static SupportedProtocolVersion, user: &str) -> Client {
    let mut client = Client::explicit_with(gateway, version).await;
    client.log_in(user, MAPPED_PASSWORD).await;
    client
}

/// A transfer whose data connection is up.
async fn secure_data(client: &mut Client, command: &str) -> TlsStream<TcpStream> {
    let address = client.passive().await;
    client.ask(command, 150).await;
    let stream = client.connect(address).await;
    client.secure(stream).await.unwrap()
}

/// What connects this way is turned away without a byte, whatever it sends.
async fn assert_gets_nothing(tls: &TlsConnector, address: SocketAddr, forged: &[u8]) {
    let stream = TcpStream::connect(address).await.unwrap();
    let Ok(mut stream) = tls.connect(server_name(), stream).await else { return };
    assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    let _ = stream.write_all(forged).await;
    let mut bytes = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("turned away");
    assert_eq!(bytes, b"");
}

/// Not connected at all, or closed without a byte.
async fn assert_closed_unread(stream: io::Result<TcpStream>) {
    let Ok(mut stream) = stream else { return };
    let mut bytes = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("closed");
    assert_eq!(bytes, b"");
}

/// Sends this in clear, then lets the client whose connection it is begin TLS: there must be none.
async fn no_tls_after(gateway: &Gateway, first: &[u8], second: &[u8]) {
    let mut stream = TcpStream::connect(gateway.explicit).await.unwrap();
    stream.set_nodelay(true).unwrap();
    assert!(read_line(&mut stream).await.starts_with(b"220 "));
    stream.write_all(first).await.unwrap();
    // It may be closed by now.
    let _ = stream.write_all(second).await;
    loop {
        let line = read_line(&mut stream).await;
        if line.is_empty() {
            return;
        }
        if line.starts_with(b"234 ") {
            break;
        }
        assert_eq!(line, b"200 OK\r\n");
    }
    let tls = timeout(PATIENCE, connector(gateway, &TLS13).connect(server_name(), stream)).await.expect("closed");
    assert!(tls.is_err(), "TLS after {} | {}", first.escape_ascii(), second.escape_ascii());
}

/// A line with its end, byte by byte so that nothing behind it is taken; what there is when the connection ends.
async fn read_line(stream: &mut TcpStream) -> Vec<u8> {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        match timeout(PATIENCE, stream.read_u8()).await.expect("a line in time") {
            Ok(byte) => line.push(byte),
            Err(_) => break,
        }
    }
    line
}
