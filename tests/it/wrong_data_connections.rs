//! Every way in which a client's data connection can be wrong: the reply, and the log line that names the setting.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::support::client::{Client, connector, server_name};
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, Setup};
use crate::support::sshd::Sshd;
use crate::support::transfer::{content, eventually, reset};

#[derive(Debug, Clone, Copy)]
enum Wrong {
    NeverComes,
    Silent,
    Garbage,
    OtherName,
    OtherVersion,
    NoSession,
    InClear,
    BeforeProt,
    Reset,
    NoCloseNotify,
    Idle,
}

/// What is wrong, the reply, and what the log says of it.
const CASES: &[(Wrong, u16, &[&str])] = &[
    (Wrong::NeverComes, 425, &["timeouts.data_connect", "passive.address"]),
    (Wrong::Silent, 425, &["timeouts.tls_handshake"]),
    (Wrong::Garbage, 522, &["tls.min_version"]),
    (
        Wrong::OtherName,
        522,
        &["server name (SNI) is none, that of the control connection is localhost", "policy.data_tls_resumption"],
    ),
    (
        Wrong::OtherVersion,
        522,
        &["it came with TLSv1.2, the control connection with TLSv1.3", "policy.data_tls_resumption"],
    ),
    (Wrong::NoSession, 522, &["it offered no session", "policy.data_tls_resumption"]),
    (Wrong::InClear, 521, &["policy.data_tls: optional"]),
    (Wrong::BeforeProt, 522, &["PROT", "policy.data_tls"]),
    (Wrong::Reset, 426, &["the data connection broke"]),
    (Wrong::NoCloseNotify, 426, &["policy.upload_eof: lax"]),
    (Wrong::Idle, 426, &["timeouts.data_idle"]),
];

#[tokio::test]
async fn tls_4_and_5_each_has_its_reply_and_a_log_line_that_names_the_setting() {
    let sshd = Sshd::start().await;
    let short = "timeouts: {data_connect: 8s, tls_handshake: 1s, data_idle: 1s}\n";
    join_all(CASES.iter().map(|(wrong, code, told)| {
        let sshd = &sshd;
        async move {
            // One gateway each: whose log line it is is then beyond doubt.
            let root = sshd.files().display().to_string();
            let policy =
                format!("    root: \"{root}\"\n    policy: {{data_tls: optional, data_tls_resumption: require}}\n");
            let strict = format!("    root: \"{root}\"\n");
            let setup = Setup::backend(sshd).with_user("user", &policy).with_user("strict", &strict).with(short);
            let gateway = Gateway::start(&setup);
            let reply = go_wrong(&gateway, *wrong).await;
            assert_eq!(reply, *code, "{wrong:?}");
            gateway.wait_for_log(|line| told.iter().all(|text| line.contains(text)));
            let name = format!("{wrong:?}");
            assert!(!sshd.files().join(name).exists(), "{wrong:?} stored a file");
        }
    }))
    .await;
}

/// Sends STOR and does that to its data connection; the final reply.
async fn go_wrong(gateway: &Gateway, wrong: Wrong) -> u16 {
    let command = format!("STOR {wrong:?}");
    let mut client = Client::explicit_with(gateway, &TLS13).await;
    match wrong {
        Wrong::InClear => {
            let mut client = Client::clear(gateway).await;
            client.ask("AUTH TLS", 234).await;
            let mut client = client.upgrade().await.unwrap();
            client.log_in("strict", MAPPED_PASSWORD).await;
            client.ask("EPSV", 229).await;
            return client.command(&command).await.code;
        }
        Wrong::BeforeProt => {
            client.log_in("user", MAPPED_PASSWORD).await;
            client.ask("PROT C", 200).await;
            let address = client.passive().await;
            let _data = client.connect(address).await;
            // By the time of some answers the gateway has accepted it, under PROT C.
            for _ in 0..20 {
                client.ask("NOOP", 200).await;
            }
            client.ask_all(&[("PROT P", 200), (&command, 150)]).await;
            return client.reply().await.code;
        }
        _ => {}
    }
    client.log_in("user", MAPPED_PASSWORD).await;
    let address = client.passive().await;
    client.ask(&command, 150).await;
    let held = do_wrong(gateway, &client, wrong, address).await;
    let reply = client.reply().await;
    drop(held);
    reply.code
}

/// What the client holds open until it has its reply.
async fn do_wrong(gateway: &Gateway, client: &Client, wrong: Wrong, address: SocketAddr) -> Option<Box<dyn Send>> {
    let foreign = |version, names_server| async move {
        let mut config = connector(gateway, version).config().as_ref().clone();
        config.enable_sni = names_server;
        let stream = TcpStream::connect(address).await.unwrap();
        let mut data = TlsConnector::from(Arc::new(config)).connect(server_name(), stream).await.unwrap();
        let _ = data.write_all(b"forged").await;
        let _ = data.read_to_end(&mut Vec::new()).await;
    };
    match wrong {
        Wrong::NeverComes | Wrong::InClear | Wrong::BeforeProt => None,
        Wrong::Silent => Some(Box::new(client.connect(address).await)),
        Wrong::Garbage => {
            let mut stream = client.connect(address).await;
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            Some(Box::new(stream))
        }
        Wrong::OtherName => {
            foreign(&TLS13, false).await;
            None
        }
        Wrong::OtherVersion => {
            foreign(&TLS12, true).await;
            None
        }
        Wrong::NoSession => {
            foreign(&TLS13, true).await;
            None
        }
        Wrong::Reset | Wrong::NoCloseNotify | Wrong::Idle => {
            let stream = client.connect(address).await;
            let mut data = client.secure(stream).await.unwrap();
            data.write_all(&content(100_000, 1)).await.unwrap();
            data.flush().await.unwrap();
            match wrong {
                Wrong::Reset => {
                    reset(data);
                    None
                }
                Wrong::NoCloseNotify => {
                    data.get_mut().0.shutdown().await.unwrap();
                    Some(Box::new(data))
                }
                _ => Some(Box::new(data)),
            }
        }
    }
}

#[tokio::test]
async fn who_connects_after_a_refusal_is_shown_out_in_an_orderly_way() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::logged_in(&gateway).await;
    // Perl's Net::FTP sends the command, connects, and makes the handshake before it reads the reply.
    for (command, code) in [("STOR missing/file", 553), ("RETR missing", 550), ("LIST missing", 550)] {
        let address = client.passive().await;
        client.ask(command, code).await;
        let mut data = client.data(address).await;
        let mut bytes = Vec::new();
        // With close_notify: rustls calls anything less an error.
        data.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, b"", "{command}");
        client.ask("NOOP", 200).await;
    }
    // Whoever asks for the next port has no more to do with the one before.
    let former = client.passive().await;
    client.ask("RETR missing", 550).await;
    client.passive().await;
    assert!(TcpStream::connect(former).await.is_err());
    // Nor after ABOR.
    let former = client.passive().await;
    client.ask("ABOR", 226).await;
    eventually("the port is closed", || std::net::TcpStream::connect(former).is_err()).await;
}
