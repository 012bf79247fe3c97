//! PORT and EPRT: the gateway connects to the client, and to nobody else.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

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

/// S-1.
#[tokio::test]
async fn only_the_client_itself_is_called_and_only_where_it_is_allowed() {
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
