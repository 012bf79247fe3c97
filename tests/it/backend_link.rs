//! What stands between a session and its backend: how many connections and channels there are, who shares them, and
//! what becomes of them when they hang, are lost, or are not needed.

use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use crate::support::client::Client;
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, MAPPED_USER};
use crate::support::sshd::{PASSWORD, Sshd, USER};
use crate::support::transfer::{abort, begin, content, eventually, fill, names};

/// How long the command after an aborted transfer may take where one process of the server hangs.
const OVERTAKE_LIMIT: Duration = Duration::from_secs(5);

/// More than all buffers between a file and a client hold.
const LONG: usize = 64 * 1024 * 1024;

#[tokio::test]
async fn a_session_has_one_channel_whatever_it_does() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    for (user, password) in [(MAPPED_USER, MAPPED_PASSWORD), (USER, PASSWORD)] {
        let mut client = Client::explicit(&gateway).await;
        client.log_in(user, password).await;
        let servers = sshd.sftp_servers();
        assert_eq!(servers.len(), 1, "{user}");
        client.ask("TYPE I", 200).await;
        let bytes = content(300_000, 1);
        assert_eq!(client.store("STOR file", &bytes).await.code, 226);
        assert!(client.retrieve("file").await == bytes);
        assert_eq!(client.lines("NLST").await, [b"file"]);
        client.ask("DELE file", 250).await;
        assert_eq!(sshd.sftp_servers(), servers, "{user}");
        client.ask("QUIT", 221).await;
        eventually("the server is left", || sshd.sftp_servers().is_empty()).await;
    }
    assert_eq!(sshd.logins(), 2);
}

#[tokio::test]
async fn a_channel_that_hangs_is_left_and_the_next_command_works() {
    let sshd = Sshd::start().await;
    sshd.place_file("long", content(LONG, 1));
    let gateway = Gateway::before(&sshd);
    let mut client = Client::logged_in(&gateway).await;
    client.ask("TYPE I", 200).await;
    for round in 1..=2 {
        let mut data = begin(&mut client, "RETR long").await;
        let mut some = vec![0; 100_000];
        data.read_exact(&mut some).await.unwrap();
        sshd.freeze(&sshd.sftp_servers());
        abort(&mut client).await;
        let asked = Instant::now();
        client.ask("SIZE long", 213).await;
        assert!(asked.elapsed() < OVERTAKE_LIMIT, "{:?}", asked.elapsed());
        assert_eq!(sshd.sftp_servers().len(), round + 1, "another channel beside the one that hangs");
        assert_eq!(sshd.logins(), 1, "on the same connection");
    }

    let mut data = begin(&mut client, "STOR new").await;
    let hanging: Vec<u32> = sshd.sftp_servers();
    sshd.freeze(&hanging);
    fill(&mut data, &content(1_000_000, 2)).await;
    abort(&mut client).await;
    let asked = Instant::now();
    client.ask("SIZE long", 213).await;
    assert!(asked.elapsed() < OVERTAKE_LIMIT, "{:?}", asked.elapsed());
    eventually("the part is removed over the new channel", || names(&sshd.files()) == ["long"]).await;

    // A server that hangs again and again is left for a new connection, and nothing piles up.
    for _ in 0..3 {
        let mut data = begin(&mut client, "RETR long").await;
        data.read_exact(&mut vec![0; 100_000]).await.unwrap();
        sshd.freeze(&sshd.sftp_servers());
        abort(&mut client).await;
        client.ask("SIZE long", 213).await;
    }
    assert_eq!(sshd.logins(), 2);
    sshd.thaw_sessions();
    eventually("all channels but one are closed", || sshd.sftp_servers().len() == 1).await;
    client.ask("SIZE long", 213).await;
}

#[tokio::test]
async fn a_transfer_that_is_aborted_leaves_no_channel_where_the_server_works() {
    let sshd = Sshd::start().await;
    sshd.place_file("long", content(LONG, 1));
    let gateway = Gateway::before(&sshd);
    let mut client = Client::logged_in(&gateway).await;
    client.ask("TYPE I", 200).await;
    let servers = sshd.sftp_servers();
    for _ in 0..5 {
        let mut data = begin(&mut client, "RETR long").await;
        data.read_exact(&mut vec![0; 100_000]).await.unwrap();
        abort(&mut client).await;
        client.ask("SIZE long", 213).await;
    }
    assert_eq!(sshd.sftp_servers(), servers);
}
