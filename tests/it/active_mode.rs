//! PORT and EPRT: the gateway connects to the client, and to nobody else.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::campaign::{self, rounds};
use crate::support::client::Client;
use crate::support::gateway::{Gateway, Setup};
use crate::support::sshd::Sshd;
use crate::support::transfer::content;

fn port_command(address: SocketAddr) -> String {
    let [high, low] = address.port().to_be_bytes();
    format!("PORT {},{high},{low}", address.ip().to_string().replace('.', ","))
}

fn eprt_command(address: SocketAddr) -> String {
    let family = if address.is_ipv4() { 1 } else { 2 };
    format!("EPRT |{family}|{}|{}|", address.ip(), address.port())
}

#[tokio::test]
async fn files_and_listings_come_and_go_over_connections_to_the_client() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&Setup::backend(&sshd).with_users(&sshd.files()).with("active: {enabled: true}\n"));
    let mut client = Client::logged_in(&gateway).await;
    assert!(client.ask("FEAT", 211).await.text().contains(" EPRT"));
    client.ask("TYPE I", 200).await;
    let bytes = content(3_000_000, 1);
    for form in [port_command, eprt_command] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        client.ask(form(listener.local_addr().unwrap()), 200).await;
        client.ask("STOR file", 150).await;
        let (stream, from) = listener.accept().await.unwrap();
        assert_eq!(from.ip(), gateway.explicit.ip());
        let mut data = client.secure(stream).await.unwrap();
        data.write_all(&bytes).await.unwrap();
        data.shutdown().await.unwrap();
        assert_eq!(data.read_to_end(&mut Vec::new()).await.unwrap(), 0);
        client.expect(226).await;

        for command in ["RETR file", "NLST"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            client.ask(form(listener.local_addr().unwrap()), 200).await;
            client.ask(command, 150).await;
            let mut data = client.secure(listener.accept().await.unwrap().0).await.unwrap();
            let mut received = Vec::new();
            data.read_to_end(&mut received).await.unwrap();
            data.shutdown().await.unwrap();
            client.expect(226).await;
            assert!(received == if command == "NLST" { b"file\r\n".to_vec() } else { bytes.clone() }, "{command}");
        }
        // Good for one transfer, as a passive one.
        client.ask("RETR file", 425).await;
    }
}

/// S-1: whatever stands behind PORT and EPRT, it is taken only where it names the client's own address and a high port.
#[tokio::test]
async fn s1_no_argument_of_port_or_eprt_names_anybody_but_the_client() {
    const AT_ONCE: usize = 500;
    let sshd = Sshd::start().await;
    let mut setup = Setup::backend(&sshd).with_users(&sshd.files()).with("active: {enabled: true}\n");
    setup.level = Some("warn,ftps2sftp::app=info".to_owned());
    let gateway = Gateway::start(&setup);
    let mut client = Client::logged_in(&gateway).await;
    let mut random = campaign::random(1, usize::MAX);
    let mut taken = 0;
    for _ in 0..rounds(20_000, 1_000_000) / AT_ONCE {
        let commands: Vec<String> = (0..AT_ONCE).map(|_| some_endpoint(&mut random)).collect();
        client.send(commands.join("\r\n")).await;
        for command in commands {
            let reply = client.reply().await;
            assert!([200, 501, 504, 522].contains(&reply.code), "{command}: {}", reply.text());
            assert_eq!(reply.code == 200, names_the_client(&command), "{command}: {}", reply.text());
            taken += u32::from(reply.code == 200);
        }
    }
    assert!(taken > 100, "hardly any of them was right");
    client.ask("NOOP", 200).await;
}

/// Exactly as RFC 959 §5.3.2 and RFC 2428 §2 write it, with 127.0.0.1 and a port from 1024.
fn names_the_client(command: &str) -> bool {
    let is_high = |port: &str| port.parse::<u16>().is_ok_and(|port| port >= 1024) && !port.starts_with(['+', '0']);
    if let Some(port) = command.strip_prefix("PORT 127,0,0,1,") {
        let bytes: Vec<_> = port.split(',').map(|number| number.parse::<u8>().ok()).collect();
        return matches!(bytes.as_slice(), [Some(high), Some(_)] if *high >= 4);
    }
    let own = command.replace('!', "|");
    own.strip_prefix("EPRT |1|127.0.0.1|").and_then(|rest| rest.strip_suffix('|')).is_some_and(is_high)
}

/// A command that is right, nearly right, or nonsense.
fn some_endpoint(random: &mut impl Iterator<Item = usize>) -> String {
    const ADDRESSES: [&str; 9] = [
        "127.0.0.1",
        "127.0.0.2",
        "10.0.0.1",
        "::1",
        "::ffff:127.0.0.2",
        "localhost",
        "2130706433",
        "0.0.0.0",
        "127.1",
    ];
    const NUMBERS: [&str; 9] = ["0", "1", "3", "4", "22", "127", "255", "256", "-1"];
    const PORTS: [&str; 8] = ["0", "22", "1023", "1024", "50000", "65535", "65536", "x"];
    let mut pick = |bound: usize| random.next().unwrap() % bound;
    if pick(2) == 0 {
        let mut numbers: Vec<&str> = vec!["127", "0", "0", "1", "200", "1"];
        for _ in 0..pick(3) {
            let place = pick(numbers.len());
            numbers[place] = NUMBERS[pick(NUMBERS.len())];
        }
        match pick(12) {
            0 => numbers.truncate(pick(6)),
            1 => numbers.push("1"),
            _ => {}
        }
        return format!("PORT {}", numbers.join(","));
    }
    let family = ["1", "1", "1", "2", "3", ""][pick(6)];
    let address = if pick(2) == 0 { "127.0.0.1" } else { ADDRESSES[pick(ADDRESSES.len())] };
    let (port, delimiter) = (PORTS[pick(PORTS.len())], ["|", "|", "|", "|", "!", "||"][pick(6)]);
    let end = if pick(10) == 0 { "" } else { delimiter };
    format!("EPRT {delimiter}{family}{delimiter}{address}{delimiter}{port}{end}")
}

/// S-1.
#[tokio::test]
async fn s1_only_the_client_itself_is_called_and_only_where_it_is_allowed() {
    let sshd = Sshd::start().await;
    let setup = Setup::backend(&sshd).with_users(&sshd.files());
    let gateway = Gateway::start(&setup.with("active: {enabled: true}\ntimeouts: {data_connect: 2s}\n"));
    let mut client = Client::logged_in(&gateway).await;
    client
        .ask_all(&[
            ("PORT 127,0,0,2,200,0", 501),
            ("PORT 10,0,0,1,200,0", 501),
            ("EPRT |1|127.0.0.2|50000|", 501),
            ("EPRT |2|::1|50000|", 501),
            ("PORT 127,0,0,1,3,255", 504),
            ("EPRT |1|127.0.0.1|22|", 504),
            ("EPRT |3|127.0.0.1|50000|", 522),
            ("PORT 127,0,0,1", 501),
            ("PORT 127,0,0,256,200,0", 501),
            ("EPRT |1|127.0.0.1|50000", 501),
            ("PORT", 501),
            ("LIST", 425),
        ])
        .await;
    // A port at which nobody listens: only the transfer finds out.
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    client.ask(port_command(unused), 200).await;
    client.ask("STOR file", 150).await;
    client.expect(425).await;
    gateway.wait_for_log(|line| line.contains("active.enabled"));
    assert!(!sshd.files().join("file").exists());
    // One endpoint replaces the other.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    client.ask(port_command(listener.local_addr().unwrap()), 200).await;
    assert!(client.lines("NLST").await.is_empty(), "the passive one counts, which came later");
    client.ask_all(&[("EPSV ALL", 200), ("PORT 127,0,0,1,200,0", 501), ("EPRT |1|127.0.0.1|50000|", 501)]).await;

    let gateway = Gateway::before(&sshd);
    let mut client = Client::logged_in(&gateway).await;
    client.ask_all(&[("PORT 127,0,0,1,200,0", 502), ("EPRT |1|127.0.0.1|50000|", 502)]).await;
    assert!(!client.ask("FEAT", 211).await.text().contains("EPRT"));
}
