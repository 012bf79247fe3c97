//! Behind a proxy: whose connection it is stands in a PROXY header, which is believed only where it should be (S-37).

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::version::TLS13;

use crate::support::client::{Client, connector, latin1, server_name};
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, MAPPED_USER, Setup};
use crate::support::sshd::Sshd;
use crate::support::transfer::eventually;

/// How long anything may take that is only waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the clients dial: the proxy's address.
const DIALLED: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(198, 51, 100, 9)), 21);

/// The local addresses of these tests are the proxy.
const TRUSTED: &str = "trusted_proxies: [192.0.2.0/24, 127.0.0.0/8]\n";

fn version_1(client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().unwrap();
    let (source, destination) = (client.ip(), DIALLED.ip());
    format!("PROXY TCP4 {source} {destination} {} {}\r\n", client.port(), DIALLED.port()).into_bytes()
}

fn version_2(client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().unwrap();
    let ip = |address: SocketAddr| match address.ip() {
        std::net::IpAddr::V4(address) => address.octets(),
        std::net::IpAddr::V6(_) => panic!("{address}"),
    };
    let checksum_and_name = [0x03, 0, 4, 1, 2, 3, 4, 0x02, 0, 3, b'f', b't', b'p'];
    let rest = [
        &ip(client)[..],
        &ip(DIALLED),
        &client.port().to_be_bytes(),
        &DIALLED.port().to_be_bytes(),
        &checksum_and_name,
    ]
    .concat();
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11", &length[..], &rest].concat()
}

const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

fn behind(sshd: &Sshd, listeners: &str, passive: &str, more: &str) -> Gateway {
    let mut setup = Setup::backend(sshd).with_users(&sshd.files()).with(more);
    setup.listeners = format!("proxy_protocol: {listeners}");
    setup.passive = format!("  proxy_protocol: {passive}\n");
    Gateway::start(&setup)
}

#[tokio::test]
async fn a_client_behind_a_proxy_is_the_one_that_the_header_names() {
    let sshd = Sshd::start().await;
    for (mode, client) in [("required", "203.0.113.7:50001"), ("optional", "203.0.113.8:50002")] {
        let gateway = behind(&sshd, mode, mode, TRUSTED);
        for header in [version_1(client), version_2(client)] {
            let explicit = async {
                let mut client = Client::clear_behind(&gateway, &header).await;
                client.ask("AUTH TLS", 234).await;
                let mut client = client.upgrade().await.unwrap();
                client.ask_all(&[("PBSZ 0", 200), ("PROT P", 200)]).await;
                client.private = true;
                client
            };
            for mut client in [explicit.await, Client::implicit_behind(&gateway, &header).await] {
                client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
                // `auto` is what the client dialled, and not what the proxy did.
                let told = client.ask("PASV", 227).await.text();
                assert!(told.contains("(198,51,100,9,"), "{told}");
                assert_eq!(client.store("STOR file", b"content").await.code, 226);
                assert_eq!(client.retrieve("file").await, b"content");
                client.ask("QUIT", 221).await;
            }
        }
        let (ip, port) = client.split_once(':').unwrap();
        let fields = [format!("\"client.address\":\"{ip}\""), format!("\"client.port\":{port}")];
        gateway.wait_for_log(|line| fields.iter().all(|field| line.contains(field)));
        assert!(!gateway.log().contains("\"client.address\":\"127.0.0.1\""), "{mode}");
    }
}

#[tokio::test]
async fn a_header_may_come_in_pieces_and_nothing_behind_it_is_taken() {
    let sshd = Sshd::start().await;
    let gateway = behind(&sshd, "required", "\"off\"", TRUSTED);
    for header in [version_1("203.0.113.7:1"), version_2("203.0.113.7:1")] {
        let mut stream = TcpStream::connect(gateway.explicit).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for byte in &header {
            stream.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        stream.write_all(b"NOOP\r\n").await.unwrap();
        let mut said = vec![0; b"220 FTP server ready\r\n200 OK\r\n".len()];
        timeout(PATIENCE, stream.read_exact(&mut said)).await.unwrap().unwrap();
        assert_eq!(said, b"220 FTP server ready\r\n200 OK\r\n");
    }
    // In one segment with the ClientHello: `implicit_behind` does not wait in between either.
    Client::implicit_behind(&gateway, &version_2("203.0.113.7:1")).await.ask("NOOP", 200).await;
}

/// S-37.
#[tokio::test]
async fn s37_nobody_elses_header_is_believed() {
    let sshd = Sshd::start().await;
    let elsewhere = "trusted_proxies: [192.0.2.0/24, 127.0.0.2]\n";
    let refused = "ftps2sftp_connections_total{listener=\"explicit\",result=\"proxy_header\"}";
    for (mode, count) in [("required", 2.0), ("optional", 0.0), ("\"off\"", 0.0)] {
        let gateway = behind(&sshd, mode, "\"off\"", elsewhere);
        for header in [version_1("203.0.113.7:50000"), version_2("203.0.113.7:50000")] {
            for address in [gateway.explicit, gateway.implicit] {
                let mut stream = TcpStream::connect(address).await.unwrap();
                // What stands behind the header is not reached either.
                let _ = stream.write_all(&[&header[..], b"\r\nNOOP\r\nNOOP\r\n"].concat()).await;
                let mut said = Vec::new();
                let _ = timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("closed");
                let said = latin1(&said);
                match (mode, address == gateway.explicit) {
                    ("required", _) => assert_eq!(said, ""),
                    (_, true) => assert!(!said.contains("200 OK"), "{said}"),
                    (_, false) => assert!(!said.contains("220 "), "{said}"),
                }
            }
        }
        gateway.wait_for_metric(refused, count).await;
        assert!(!gateway.log().contains("203.0.113.7"), "{}", gateway.log());
        // Who is no proxy is a client, where that is allowed.
        if mode != "required" {
            let mut client = Client::logged_in(&gateway).await;
            assert!(client.ask("PASV", 227).await.text().contains("(127,0,0,1,"));
            assert_eq!(client.store("STOR file", b"content").await.code, 226);
        }
    }
}

#[tokio::test]
async fn what_is_no_header_is_refused_and_counted_and_health_checks_are_no_news() {
    let sshd = Sshd::start().await;
    let gateway = behind(&sshd, "required", "\"off\"", TRUSTED);
    let refused = "ftps2sftp_connections_total{listener=\"explicit\",result=\"proxy_header\"}";
    let mut count = 0.0;
    let wrong_family = [&version_2("203.0.113.7:1")[..13], b"\x12\x00\x0c"].concat();
    for bytes in [&b""[..], b"PROXY TCP4", b"USER acme\r\n", b"PROXY TCP4 a b c d\r\n", &wrong_family] {
        let mut stream = TcpStream::connect(gateway.explicit).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut said = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("closed");
        assert_eq!(said, b"");
        count += 1.0;
        gateway.wait_for_metric(refused, count).await;
    }
    // The log is written behind the count.
    eventually("three are told of", || gateway.log().matches("connection refused: ").count() == 3).await;
    let log = gateway.log();
    let is_news = |line: &str| line.contains("onnection") && (line.contains("\"WARN\"") || line.contains("\"ERROR\""));
    assert!(!log.lines().any(is_news), "{log}");
    // The proxy's own connections have its own address.
    let mut client = Client::clear_behind(&gateway, LOCAL).await;
    client.ask("NOOP", 200).await;
    gateway.wait_for_log(|line| line.contains("\"client.address\":\"127.0.0.1\""));
}

#[tokio::test]
async fn an_optional_header_may_be_missing() {
    let sshd = Sshd::start().await;
    let gateway = behind(&sshd, "optional", "optional", TRUSTED);
    for mut client in [Client::explicit(&gateway).await, Client::implicit(&gateway).await] {
        client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
        // As a header of version 1 begins, so does a ZIP archive.
        assert_eq!(client.store("STOR file", b"PK\x03\x04").await.code, 226);
        assert_eq!(client.retrieve("file").await, b"PK\x03\x04");
    }
}

#[tokio::test]
async fn bounds_count_the_clients_and_not_their_proxy() {
    let sshd = Sshd::start().await;
    let gateway = behind(&sshd, "required", "\"off\"", &format!("{TRUSTED}limits: {{sessions_per_ip: 1}}\n"));
    let mut one = Client::implicit_behind(&gateway, &version_1("203.0.113.7:1")).await;
    one.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
    let mut other = Client::implicit_behind(&gateway, &version_1("203.0.113.8:1")).await;
    other.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
    let mut stream = TcpStream::connect(gateway.explicit).await.unwrap();
    stream.write_all(&version_2("203.0.113.7:2")).await.unwrap();
    let mut said = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("closed");
    assert!(said.starts_with(b"421 "), "{}", said.escape_ascii());
    one.ask("NOOP", 200).await;
    other.ask("NOOP", 200).await;
}

/// S-2 behind a proxy, with the ports shared: one port, and each client gets what is its own.
#[tokio::test]
async fn s2_data_connections_go_to_the_client_that_their_header_names() {
    let sshd = Sshd::start().await;
    let mut setup = Setup::backend(&sshd).with_users(&sshd.files()).with(TRUSTED);
    setup.listeners = "proxy_protocol: required".to_owned();
    setup.passive = "  proxy_protocol: required\n".to_owned();
    setup.ports = Some(1);
    let gateway = Gateway::start(&setup);
    let mut clients = Vec::new();
    for source in ["203.0.113.7:1", "203.0.113.8:1"] {
        let mut client = Client::implicit_behind(&gateway, &version_2(source)).await;
        client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
        assert_eq!(client.store(format!("STOR {source}"), source.as_bytes()).await.code, 226);
        clients.push((source, client));
    }
    let mut addresses = Vec::new();
    for (source, client) in &mut clients {
        addresses.push(client.passive().await);
        client.ask(format!("RETR {source}"), 150).await;
    }
    assert_eq!(addresses[0], addresses[1]);
    // A client nobody waits for, one without a header, and one that is no proxy's.
    for bytes in [version_1("203.0.113.9:1"), b"\x16\x03\x01\x02\x00\x01".to_vec(), b"PROXY TCP4 x\r\n".to_vec()] {
        let mut stream = TcpStream::connect(addresses[0]).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut said = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("closed");
        assert_eq!(said, b"");
    }
    // The other way round than they asked.
    for (source, client) in clients.iter_mut().rev() {
        let mut data = client.data(addresses[0]).await;
        let mut bytes = Vec::new();
        data.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, source.as_bytes());
        drop(data);
        client.expect(226).await;
    }
    gateway.wait_for_metric("ftps2sftp_data_connections_total{mode=\"pasv\",result=\"wrong_peer\"}", 3.0).await;
    gateway.wait_for_log(|line| line.contains("data connection dropped") && line.contains("passive.proxy_protocol"));
}

/// Overrides and S-38, by clients from everywhere.
#[tokio::test]
async fn pasv_tells_each_client_the_address_that_is_meant_for_it() {
    let sshd = Sshd::start().await;
    let mut setup = Setup::backend(&sshd).with_users(&sshd.files()).with(TRUSTED);
    setup.listeners = "proxy_protocol: required".to_owned();
    setup.passive = "  overrides:\n    - {clients: 10.1.0.0/16, address: 10.1.2.3}\n    - {clients: 10.0.0.0/8, \
                     address: localhost}\n"
        .to_owned();
    let gateway = Gateway::start(&setup);
    let warning = "PASV tells clients on the internet a private address";
    for (source, dialled, told) in [
        ("10.1.9.9", "10.1.0.1", "(10,1,2,3,"),
        ("10.2.9.9", "10.1.0.1", "(127,0,0,1,"),
        ("203.0.113.7", "198.51.100.9", "(198,51,100,9,"),
        ("192.168.1.1", "192.168.0.5", "(192,168,0,5,"),
    ] {
        let header = format!("PROXY TCP4 {source} {dialled} 50000 21\r\n");
        let mut client = Client::implicit_behind(&gateway, header.as_bytes()).await;
        client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
        let reply = client.ask("PASV", 227).await.text();
        assert!(reply.contains(told), "{source}: {reply}");
    }
    assert!(!gateway.log().contains(warning));
    for _ in 0..2 {
        let mut client = Client::implicit_behind(&gateway, b"PROXY TCP4 203.0.113.7 192.168.0.5 50000 21\r\n").await;
        client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
        for _ in 0..2 {
            assert!(client.ask("PASV", 227).await.text().contains("(192,168,0,5,"));
        }
    }
    gateway.wait_for_log(|line| line.contains(warning));
    assert_eq!(gateway.log().matches(warning).count(), 1);
    // Over IPv6 there is no address to tell.
    let header = b"PROXY TCP6 2001:db8::7 2001:db8::9 50000 21\r\n";
    let mut client = Client::implicit_behind(&gateway, header).await;
    client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
    client.ask_all(&[("PASV", 522), ("EPSV 1", 522), ("EPSV 2", 229), ("EPSV", 229)]).await;
}

#[tokio::test]
async fn many_connections_that_wait_for_their_header_keep_nobody_out() {
    let sshd = Sshd::start().await;
    let gateway = behind(&sshd, "required", "\"off\"", TRUSTED);
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(gateway.implicit).await.unwrap());
    }
    let mut client = Client::implicit_behind(&gateway, &version_1("203.0.113.7:1")).await;
    client.ask("NOOP", 200).await;
    // And are sent away in time.
    let mut said = Vec::new();
    for mut stream in silent {
        let _ = timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("closed");
    }
    assert_eq!(said, b"");
    // Without a proxy in front, the TLS handshake is refused.
    let stream = TcpStream::connect(gateway.implicit).await.unwrap();
    assert!(connector(&gateway, &TLS13).connect(server_name(), stream).await.is_err());
}
