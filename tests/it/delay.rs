//! The proxy of tests/bench that makes a link longer: what it delays, keeps in order, holds back and passes on.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use crate::support::transfer::content;

#[path = "../benches/fronts/delay.rs"]
mod proxy;

use proxy::{DelayProxy, Ending, carry};

const ONE_WAY: Duration = Duration::from_millis(20);

/// The clock of tokio's timers goes in steps of this.
const STEP: Duration = Duration::from_millis(1);

/// Both ends of a connection through a proxy.
async fn connected() -> (DelayProxy, TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let proxy = DelayProxy::start(free, listener.local_addr().unwrap(), ONE_WAY).await.unwrap();
    let client = TcpStream::connect(proxy.address()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    (proxy, client, server)
}

#[tokio::test(start_paused = true)]
async fn bytes_arrive_when_their_time_has_come_and_not_before() {
    let (mut sender, mut inlet) = duplex(1024);
    let (mut outlet, mut receiver) = duplex(1024);
    let link = tokio::spawn(async move { carry(&mut inlet, &mut outlet, ONE_WAY).await });
    let start = Instant::now();
    for letter in *b"abc" {
        sender.write_u8(letter).await.unwrap();
        sleep(5 * STEP).await;
    }
    drop(sender);
    for (letter, sent) in b"abc".iter().zip([Duration::ZERO, 5 * STEP, 10 * STEP]) {
        assert_eq!(receiver.read_u8().await.unwrap(), *letter);
        let passed = start.elapsed();
        assert!(
            passed >= sent + ONE_WAY && passed <= sent + ONE_WAY + 2 * STEP,
            "{passed:?} for what was sent at {sent:?}"
        );
    }
    assert_eq!(receiver.read(&mut [0]).await.unwrap(), 0);
    let passed = start.elapsed();
    assert!(passed >= 15 * STEP + ONE_WAY, "the end came after {passed:?}");
    assert_eq!(link.await.unwrap(), Ending::Finished);
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_is_bounded() {
    const BOUND: usize = 64 * 1024 * 1024;
    let (mut sender, mut inlet) = duplex(64 * 1024);
    // Nobody reads at the other end.
    let (mut outlet, _receiver) = duplex(1024);
    let _link = tokio::spawn(async move { carry(&mut inlet, &mut outlet, ONE_WAY).await });
    let block = vec![0; 64 * 1024];
    let mut taken = 0;
    while let Ok(count) = timeout(Duration::from_secs(1), sender.write(&block)).await {
        taken += count.unwrap();
        assert!(taken < 2 * BOUND, "it takes everything");
    }
    assert!(taken >= BOUND, "held back after {taken} bytes");
}

#[tokio::test]
async fn both_directions_keep_their_order_and_one_ends_without_the_other() {
    let (_proxy, mut client, mut server) = connected().await;
    let (request, response) = (content(3_000_001, 1), content(5_000_003, 2));
    let (sent, answered) = (request.clone(), response.clone());
    let serve = tokio::spawn(async move {
        let mut received = Vec::new();
        // Reads to the end of what the client sends, and answers only then.
        server.read_to_end(&mut received).await.unwrap();
        server.write_all(&answered).await.unwrap();
        received
    });
    client.write_all(&sent).await.unwrap();
    client.shutdown().await.unwrap();
    let mut received = Vec::new();
    client.read_to_end(&mut received).await.unwrap();
    assert!(received == response, "another response");
    assert!(serve.await.unwrap() == request, "another request");
}

#[tokio::test]
async fn a_reset_is_passed_on_as_a_reset() {
    for client_resets in [true, false] {
        let (_proxy, mut client, mut server) = connected().await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'x');
        let (resets, mut other) = if client_resets { (client, server) } else { (server, client) };
        socket2::SockRef::from(&resets).set_linger(Some(Duration::ZERO)).unwrap();
        drop(resets);
        let end = other.read(&mut [0]).await;
        assert_eq!(end.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset));
    }
}
