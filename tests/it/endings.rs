//! How downloads and listings end: 226 says that the client's kernel has every byte, and nothing less does.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::support::client::Client;
use crate::support::gateway::{Gateway, Setup};
use crate::support::real_clients::run;
use crate::support::sshd::Sshd;
use crate::support::transfer::{Data, begin, content, reset};

/// What a client that reads little lets into its kernel, before Linux doubles it.
const NARROW: u32 = 8 * 1024;

/// More than fits into the kernel of such a client, and less than fits into the gateway's.
const SOME: usize = 150_000;

const MEBIBYTE: usize = 1024 * 1024;

/// What waits for room in the kernel while the rest is in it: the end, whose receipt is asked for.
const HELD_BACK: usize = 4 * 1024;

/// What a slow client leaves unread, at least.
const UNREAD: usize = MEBIBYTE;

/// `timeouts.data_idle` where it is waited for.
const IDLE: Duration = Duration::from_secs(1);

/// How long a condition may take that is only waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway whose data connections may be idle for [`IDLE`], and a client.
async fn impatient(sshd: &Sshd) -> (Gateway, Client) {
    let setup = Setup::backend(sshd).with_users(&sshd.files());
    let gateway = Gateway::start(&setup.with(&format!("timeouts: {{data_idle: {}s}}\n", IDLE.as_secs())));
    let client = binary(&gateway).await;
    (gateway, client)
}

async fn binary(gateway: &Gateway) -> Client {
    let mut client = Client::logged_in(gateway).await;
    client.ask("TYPE I", 200).await;
    client
}

/// A transfer command up to a data connection whose client takes in little that it has not read.
async fn begin_narrow(client: &mut Client, command: &str) -> Data {
    let address = client.passive().await;
    client.ask(command, 150).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(NARROW).unwrap();
    let stream = socket.connect(address).await.unwrap();
    client.secure(stream).await.unwrap()
}

/// Waits until the gateway's kernel has all of a transfer: STAT tells of so many bytes.
async fn everything_is_on_its_way(client: &mut Client, bytes: usize) {
    let deadline = Instant::now() + PATIENCE;
    while !client.ask("STAT", 211).await.text().contains(&bytes.to_string()) {
        assert!(Instant::now() < deadline, "never {bytes} bytes on their way");
    }
}

#[tokio::test]
async fn tls_15_a_client_that_resets_what_it_has_not_read_hears_426() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let bytes = content(SOME, 1);
    sshd.place_file("file", &bytes);
    let mut client = binary(&gateway).await;
    for read in [0, SOME / 2] {
        let mut data = begin_narrow(&mut client, "RETR file").await;
        everything_is_on_its_way(&mut client, SOME).await;
        let mut half = vec![0; read];
        data.read_exact(&mut half).await.unwrap();
        assert!(half == bytes[..read]);
        reset(data);
        client.expect(426).await;
    }
    assert!(client.retrieve("file").await == bytes);
}

/// How much of a file the gateway sends to a client that reads nothing: what both kernels take, and its TLS.
async fn taken_without_reading(client: &mut Client, file: &str) -> usize {
    let data = begin_narrow(client, &format!("RETR {file}")).await;
    let (mut before, mut since) = (0, Instant::now());
    while since.elapsed() < IDLE / 3 {
        let status = client.ask("STAT", 211).await.text();
        let bytes = status.split(' ').filter_map(|word| word.parse().ok()).max().unwrap();
        if bytes != before {
            (before, since) = (bytes, Instant::now());
        }
    }
    reset(data);
    client.expect(426).await;
    before
}

/// Reads until the gateway's kernel has all there is, FIN included.
async fn read_until_the_end_is_in_the_kernel(data: &mut Data) -> Vec<u8> {
    let (gateway, client) = {
        let socket = data.get_ref().0;
        (socket.peer_addr().unwrap(), socket.local_addr().unwrap())
    };
    let deadline = Instant::now() + PATIENCE;
    let mut read = Vec::new();
    while !has_sent_fin(gateway, client) {
        assert!(Instant::now() < deadline, "the gateway's kernel never has all of it");
        let mut piece = [0; 8 * 1024];
        data.read_exact(&mut piece).await.unwrap();
        read.extend(piece);
    }
    read
}

/// Is the gateway's end of a connection in FIN-WAIT-1? Nothing is given to the kernel after that. By ss(8), which asks the
/// kernel for the one: /proc/net/tcp has all of them, and other tests leave tens of thousands.
fn has_sent_fin(gateway: SocketAddr, client: SocketAddr) -> bool {
    let mut ss = Command::new("ss");
    ss.args([
        "--no-header",
        "--tcp",
        "--numeric",
        "state",
        "fin-wait-1",
        "src",
        &gateway.to_string(),
        "dst",
        &client.to_string(),
    ]);
    !run(&mut ss).succeeded().trim().is_empty()
}

#[tokio::test]
async fn a_slow_client_that_resets_or_stalls_before_the_end_hears_426() {
    let sshd = Sshd::start().await;
    let (_gateway, mut client) = impatient(&sshd).await;
    sshd.place_file("large", content(16 * MEBIBYTE, 1));
    let taken = taken_without_reading(&mut client, "large").await;
    // The kernel is full when the end is given to TLS.
    let bytes = content(taken - 64 * 1024, 1);
    sshd.place_file("file", &bytes);
    for resets in [true, false] {
        let mut data = begin_narrow(&mut client, "RETR file").await;
        everything_is_on_its_way(&mut client, bytes.len() - HELD_BACK).await;
        let read = read_until_the_end_is_in_the_kernel(&mut data).await;
        assert!(!read.is_empty() && bytes.starts_with(&read) && bytes.len() - read.len() > UNREAD, "{}", read.len());
        if resets {
            reset(data);
            client.expect(426).await;
        } else {
            client.expect(426).await;
            drop(data);
        }
    }
    // Slow to the end, it gets everything.
    let mut data = begin_narrow(&mut client, "RETR file").await;
    everything_is_on_its_way(&mut client, bytes.len() - HELD_BACK).await;
    let mut read = read_until_the_end_is_in_the_kernel(&mut data).await;
    data.read_to_end(&mut read).await.unwrap();
    assert!(read == bytes);
    data.shutdown().await.unwrap();
    client.expect(226).await;
}

#[tokio::test]
async fn a_listing_whose_client_resets_what_it_has_not_read_is_426() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let directory = sshd.place_directory("many");
    for number in 0..500 {
        std::fs::write(directory.join(format!("{number:0200}")), b"").unwrap();
    }
    let mut client = binary(&gateway).await;
    let whole: usize = client.lines("NLST many").await.iter().map(|line| line.len() + 2).sum();
    let data = begin_narrow(&mut client, "NLST many").await;
    everything_is_on_its_way(&mut client, whole).await;
    reset(data);
    client.expect(426).await;
    assert_eq!(client.lines("NLST many").await.len(), 500);
}

#[tokio::test]
async fn a_client_that_knows_the_size_and_closes_with_the_last_byte_hears_226() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = binary(&gateway).await;
    for size in [4096, 20_000, 1_000_000] {
        let bytes = content(size, 1);
        sshd.place_file("file", &bytes);
        for _ in 0..20 {
            let mut data = begin(&mut client, "RETR file").await;
            let mut read = vec![0; size];
            data.read_exact(&mut read).await.unwrap();
            assert!(read == bytes);
            // close_notify, as every client's library sends it, and no look at ours.
            data.shutdown().await.unwrap();
            drop(data);
            client.expect(226).await;
        }
    }
}

#[tokio::test]
async fn tls_15_a_client_that_vanishes_at_the_end_without_close_notify_hears_226() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = binary(&gateway).await;
    for size in [4096, 20_000, 1_000_000] {
        let bytes = content(size, 1);
        sshd.place_file("file", &bytes);
        for _ in 0..20 {
            let mut data = begin(&mut client, "RETR file").await;
            let mut read = Vec::new();
            data.read_to_end(&mut read).await.unwrap();
            assert!(read == bytes);
            drop(data);
            client.expect(226).await;
        }
    }
}

#[tokio::test]
async fn an_empty_file_and_an_empty_listing_end_well() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    sshd.place_file("nothing", b"");
    sshd.place_directory("empty");
    let mut client = binary(&gateway).await;
    assert_eq!(client.retrieve("nothing").await, b"");
    assert!(client.lines("LIST empty").await.is_empty());
}

#[tokio::test]
async fn a_slow_reader_may_take_longer_than_the_idle_time_in_all() {
    let sshd = Sshd::start().await;
    let (_gateway, mut client) = impatient(&sshd).await;
    let bytes = content(SOME, 1);
    sshd.place_file("file", &bytes);
    let mut data = begin_narrow(&mut client, "RETR file").await;
    let mut read = Vec::new();
    let (step, pause) = (SOME / 20, IDLE / 8);
    while read.len() < SOME {
        tokio::time::sleep(pause).await;
        let mut piece = vec![0; step];
        data.read_exact(&mut piece).await.unwrap();
        read.extend(piece);
    }
    assert!(read == bytes);
    assert_eq!(data.read(&mut [0]).await.unwrap(), 0);
    data.shutdown().await.unwrap();
    client.expect(226).await;
}

#[tokio::test]
async fn a_client_that_reads_no_more_hears_426_after_the_idle_time() {
    let sshd = Sshd::start().await;
    let (_gateway, mut client) = impatient(&sshd).await;
    sshd.place_file("some", content(SOME, 1));
    sshd.place_file("large", content(32 * 1024 * 1024, 1));
    for file in ["some", "large"] {
        let data = begin_narrow(&mut client, &format!("RETR {file}")).await;
        client.expect(426).await;
        drop(data);
    }
}
