//! What stands between a session and its backend: how many connections and channels there are, who shares them, and
//! what becomes of them when they hang, are lost, or are not needed.

use std::fs;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::client::Client;
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, MAPPED_USER, Setup};
use crate::support::sshd::{Options, PASSWORD, Sshd, USER};
use crate::support::transfer::{Data, abort, begin, content, end, eventually, fill, names};

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

/// Reads until nothing more comes: then the gateway waits for the server, and not for the client.
async fn take_what_comes(data: &mut Data) {
    let moment = Duration::from_millis(300);
    let mut taken = Vec::new();
    while timeout(moment, data.read_buf(&mut taken)).await.is_ok_and(|count| count.unwrap() > 0) {}
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
        take_what_comes(&mut data).await;
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
        take_what_comes(&mut data).await;
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

/// A gateway whose mapped sessions share connections.
fn sharing(sshd: &Sshd) -> Gateway {
    Gateway::start(&Setup::backend_with(sshd, "connections: shared").with_users(&sshd.files()))
}

/// So many sessions of one user, opened at the same time, each with a channel.
async fn crowd(gateway: &Gateway, user: &str, password: &str, count: usize) -> Vec<Client> {
    let mut logins = JoinSet::new();
    for _ in 0..count {
        let mut client = Client::explicit(gateway).await;
        let (user, password) = (user.to_owned(), password.to_owned());
        logins.spawn(async move {
            client.log_in(&user, &password).await;
            client.ask("MDTM nothing", 550).await;
            client
        });
    }
    logins.join_all().await
}

#[tokio::test]
async fn sessions_of_one_mapped_user_share_a_connection_and_no_others_do() {
    let sshd = Sshd::start().await;
    let setup = Setup::backend_with(&sshd, "connections: shared").with_users(&sshd.files());
    let gateway = Gateway::start(&setup.with_user("other", &format!("    root: \"{}\"\n", sshd.files().display())));
    let mut clients = crowd(&gateway, MAPPED_USER, MAPPED_PASSWORD, 5).await;
    assert_eq!((sshd.logins(), sshd.sftp_servers().len()), (1, 5));
    // The same login on the backend, and yet another user.
    clients.extend(crowd(&gateway, "other", MAPPED_PASSWORD, 2).await);
    assert_eq!((sshd.logins(), sshd.sftp_servers().len()), (2, 7));
    clients.extend(crowd(&gateway, USER, PASSWORD, 3).await);
    assert_eq!((sshd.logins(), sshd.sftp_servers().len()), (5, 10));
    for (number, client) in clients.iter_mut().enumerate() {
        client.ask("TYPE I", 200).await;
        let bytes = content(200_000, number as u64);
        assert_eq!(client.store(format!("STOR {number}"), &bytes).await.code, 226);
        assert!(client.retrieve(number.to_string()).await == bytes);
    }
    for client in &mut clients {
        client.ask("QUIT", 221).await;
    }
    eventually("nothing is left but what is kept for a while", || sshd.sftp_servers().is_empty()).await;
    eventually("and then nothing at all", || sshd.session_processes().is_empty()).await;
}

/// S-30: whose password was changed at the backend is not let in with the old one, whatever connections there are.
#[tokio::test]
async fn s30_a_password_that_was_changed_at_the_backend_is_refused_at_once() {
    const NEW: &str = "wrong horse, other battery";
    let sshd = Sshd::start().await;
    let ways = [("shared", "passthrough"), ("per-session", "passthrough"), ("shared", "passthrough-once")];
    let mut gateways = Vec::new();
    for (connections, login) in ways {
        let setup = Setup::backend_with(&sshd, &format!("connections: {connections}"));
        let users = format!("  \"*\": {{backend: files, login: {login}}}\n");
        let gateway = Gateway::start(&Setup { users, ..setup });
        let there = crowd(&gateway, USER, PASSWORD, 2).await;
        gateways.push((gateway, there, format!("{connections}, {login}")));
    }
    assert_eq!(sshd.logins(), 6);
    let log_in = async |gateway: &Gateway, password: &str, code: u16| {
        let mut client = Client::explicit(gateway).await;
        client.ask_all(&[(&format!("USER {USER}"), 331), (&format!("PASS {password}"), code)]).await;
        client
    };
    sshd.change_password(NEW);
    let refused = gateways.iter().map(async |(gateway, ..)| {
        // Before anybody has shown the new one, and behind.
        log_in(gateway, PASSWORD, 530).await.ask("PWD", 530).await;
    });
    join_all(refused).await;
    assert_eq!(sshd.logins(), 6);
    join_all(gateways.iter_mut().map(async |(gateway, there, way)| {
        let mut new = log_in(gateway, NEW, 230).await;
        new.ask("MDTM nothing", 550).await;
        log_in(gateway, PASSWORD, 530).await;
        // Whoever was in stays in, as with the server itself.
        for client in there {
            let reply = client.command("MDTM nothing").await;
            assert_eq!(reply.code, 550, "{way}: {}", reply.text());
        }
    }))
    .await;
    assert_eq!(sshd.logins(), 9);
    // But comes to no new connection by what it was let in with.
    sshd.kill_sessions();
    join_all(gateways.iter_mut().flat_map(|(_, there, way)| {
        let way = way.as_str();
        there.iter_mut().map(move |client| async move {
            let reply = client.command("RMD nothing").await;
            assert!(matches!(reply.code, 421 | 450..=459), "{way}: {}", reply.text());
        })
    }))
    .await;
    assert_eq!(sshd.logins(), 9);
}

#[tokio::test]
async fn a_login_over_a_shared_connection_takes_no_channel_before_its_first_command() {
    let sshd = Sshd::start().await;
    sshd.place_directory("inner");
    let gateway = sharing(&sshd);
    let mut first = Client::logged_in(&gateway).await;
    assert_eq!((sshd.logins(), sshd.sftp_servers().len()), (1, 1));
    let mut second = Client::logged_in(&gateway).await;
    assert!(second.ask("PWD", 257).await.text().contains("\"/\""));
    assert_eq!(sshd.sftp_servers().len(), 1);
    second.ask("CWD inner", 250).await;
    assert_eq!((sshd.logins(), sshd.sftp_servers().len()), (1, 2));

    // Without a connection that lives a login is one again, and says so where it cannot be had.
    first.ask("QUIT", 221).await;
    sshd.kill_sessions();
    let mut third = Client::logged_in(&gateway).await;
    // Where the login came before the loss was seen, it is the first command that connects again.
    third.ask("CWD inner", 250).await;
    eventually("sshd has logged a second login", || sshd.logins() == 2).await;
}

#[tokio::test]
async fn a_backend_that_is_away_is_told_to_all_that_wait_for_it_at_once() {
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sshd = Sshd::start().await;
    let (address, pin) = (silent.local_addr().unwrap(), sshd.host_key_fingerprint("ed25519"));
    let keys = "connections: shared, connect_timeout: 1s";
    let backends = format!("  files: {{address: \"{address}\", host_keys: [\"{pin}\"], {keys}}}\n");
    let gateway = Gateway::start(&Setup { backends, ..Setup::default() }.with_users(&sshd.files()));
    let mut logins = JoinSet::new();
    for _ in 0..8 {
        let mut client = Client::explicit(&gateway).await;
        client.ask(format!("USER {MAPPED_USER}"), 331).await;
        logins.spawn(async move {
            let asked = Instant::now();
            assert_eq!(client.command(format!("PASS {MAPPED_PASSWORD}")).await.code, 421);
            asked.elapsed()
        });
    }
    // In turn they would take eight times as long.
    for waited in logins.join_all().await {
        assert!(waited < Duration::from_secs(4), "{waited:?}");
    }
}

#[tokio::test]
async fn a_channel_that_is_given_back_serves_the_next_session() {
    let sshd = Sshd::start().await;
    sshd.place_directory("inner");
    let gateway = sharing(&sshd);
    let mut servers = Vec::new();
    for round in 0..5 {
        let mut client = Client::logged_in(&gateway).await;
        // Nothing of the session before is seen.
        assert!(client.ask("PWD", 257).await.text().contains("\"/\""), "round {round}");
        client.ask("CWD inner", 250).await;
        if round == 0 {
            servers = sshd.sftp_servers();
        }
        assert_eq!(sshd.sftp_servers(), servers, "round {round}");
        client.ask("QUIT", 221).await;
        client.expect_closed().await;
    }
    assert_eq!(sshd.logins(), 1);
}

#[tokio::test]
async fn a_server_that_gives_few_channels_gets_further_connections() {
    let options = Options { config: vec!["MaxSessions 4".to_owned()], ..Options::default() };
    let sshd = Sshd::with(options).await;
    let gateway = sharing(&sshd);
    let mut clients = crowd(&gateway, MAPPED_USER, MAPPED_PASSWORD, 10).await;
    assert_eq!((sshd.logins(), sshd.sftp_servers().len()), (3, 10));
    for client in &mut clients {
        client.ask("MDTM nothing", 550).await;
    }
    assert_eq!(sshd.logins(), 3);
}

#[tokio::test]
async fn sessions_over_a_shared_connection_that_is_lost_go_on_over_one_new_one() {
    let sshd = Sshd::start().await;
    sshd.place_directory("inner");
    let gateway = sharing(&sshd);
    let mut clients = crowd(&gateway, MAPPED_USER, MAPPED_PASSWORD, 5).await;
    for client in &mut clients {
        client.ask("CWD inner", 250).await;
    }
    assert_eq!(sshd.logins(), 1);
    sshd.kill_sessions();
    let mut commands = JoinSet::new();
    for mut client in clients {
        commands.spawn(async move {
            client.ask("RMD /nothing", 550).await;
            assert!(client.ask("PWD", 257).await.text().contains("\"/inner\""));
            client
        });
    }
    let _clients = commands.join_all().await;
    assert_eq!((sshd.logins(), sshd.sftp_servers().len()), (2, 5));
}

#[tokio::test]
async fn transfers_beyond_two_at_a_time_get_a_connection_of_their_own() {
    let sshd = Sshd::start().await;
    sshd.place_file("long", content(LONG, 1));
    let gateway = sharing(&sshd);
    let mut clients = crowd(&gateway, MAPPED_USER, MAPPED_PASSWORD, 5).await;
    let mut transfers = Vec::new();
    for client in &mut clients {
        client.ask("TYPE I", 200).await;
        let mut data = begin(client, "RETR long").await;
        data.read_exact(&mut vec![0; 100_000]).await.unwrap();
        transfers.push(data);
    }
    assert_eq!(sshd.logins(), 3);
    for client in &mut clients {
        abort(client).await;
    }
    drop(transfers);
    // There is room again.
    for client in &mut clients {
        let data = begin(client, "STOR small").await;
        end(data).await;
        client.expect(226).await;
    }
    assert_eq!(sshd.logins(), 3);
}

#[tokio::test]
async fn an_idle_session_gives_its_channel_back_and_goes_on_where_it_was() {
    for (connections, processes_stay) in [("per-session", false), ("shared", true)] {
        let sshd = Sshd::start().await;
        sshd.place_directory("inner");
        sshd.place_file("inner/old", b"old content");
        let keys = format!("connections: {connections}, idle_release: 1s");
        let gateway = Gateway::start(&Setup::backend_with(&sshd, &keys).with_users(&sshd.files()));
        let mut client = Client::logged_in(&gateway).await;
        let mut own = Client::explicit(&gateway).await;
        own.log_in(USER, PASSWORD).await;
        client.ask_all(&[("TYPE I", 200), ("CWD inner", 250), ("RNFR old", 350)]).await;
        let (logins, servers) = (sshd.logins(), sshd.sftp_servers().len());
        assert_eq!((logins, servers), (2, 2));
        // A client's own login is not the gateway's to repeat: it is kept.
        eventually("the channel is given back", || sshd.sftp_servers().len() == 1).await;
        own.ask("SIZE nothing", 550).await;
        client.ask("RNTO new", 250).await;
        assert!(client.ask("PWD", 257).await.text().contains("\"/inner\""), "{connections}");
        client.ask("REST 4", 350).await;
        assert_eq!(names(&sshd.files().join("inner")), ["new"]);
        if !processes_stay {
            eventually("it is given back again", || sshd.sftp_servers().len() == 1).await;
            assert_eq!(sshd.logins(), 3);
        }
        assert_eq!(client.retrieve("new").await, b"content", "{connections}");
        assert_eq!(sshd.logins(), if processes_stay { 3 } else { 4 });
    }
}

/// A gateway with a user whose uploads may take four channels.
fn striping(sshd: &Sshd) -> Gateway {
    let lines = format!("    root: \"{}\"\n    policy: {{upload_streams: 4}}\n", sshd.files().display());
    Gateway::start(&Setup::backend(sshd).with_user("far", &lines))
}

#[tokio::test]
async fn a_long_upload_is_spread_over_several_channels_and_a_short_one_is_not() {
    let sshd = Sshd::start().await;
    let gateway = striping(&sshd);
    let mut client = Client::explicit(&gateway).await;
    client.log_in("far", MAPPED_PASSWORD).await;
    client.ask("TYPE I", 200).await;
    let short = content(1_000_000, 1);
    assert_eq!(client.store("STOR short", &short).await.code, 226);
    assert_eq!(sshd.sftp_servers().len(), 1);
    let long = content(LONG, 2);
    for _ in 0..2 {
        assert_eq!(client.store("STOR long", &long).await.code, 226);
        assert!(fs::read(sshd.files().join("long")).unwrap() == long);
        // They are kept for the next upload.
        assert_eq!(sshd.sftp_servers().len(), 4);
    }
    client.ask("REST 3000000", 350).await;
    assert_eq!(client.store("STOR long", &long[3_000_000..]).await.code, 226);
    assert_eq!(client.store("APPE long", &long).await.code, 226);
    assert!(fs::read(sshd.files().join("long")).unwrap() == [&*long, &*long].concat());
    assert_eq!((sshd.sftp_servers().len(), sshd.logins()), (4, 1));
    assert!(client.retrieve("short").await == short);
    client.ask("QUIT", 221).await;
    eventually("all are closed", || sshd.sftp_servers().is_empty()).await;
    assert_eq!(names(&sshd.files()), ["long", "short"]);
}

#[tokio::test]
async fn an_upload_whose_further_channels_are_lost_or_refused_is_whole_or_not_there() {
    let sshd = Sshd::start().await;
    let gateway = striping(&sshd);
    let mut client = Client::explicit(&gateway).await;
    client.log_in("far", MAPPED_PASSWORD).await;
    client.ask("TYPE I", 200).await;
    let first = sshd.sftp_servers();
    // Long enough for the further channels to come while it runs.
    let long = content(4 * LONG, 1);
    let mut data = begin(&mut client, "STOR long").await;
    let mut sent = 0;
    let further = loop {
        data.write_all(&long[sent..sent + 500_000]).await.unwrap();
        sent += 500_000;
        let mut further = sshd.sftp_servers();
        further.retain(|process| !first.contains(process));
        if further.len() == 3 && sshd.have_written(&further, 100_000) {
            break further;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    sshd.kill(&further[..1]);
    // Whatever is written from here on: it ends.
    let _ = async {
        data.write_all(&long[sent..]).await?;
        data.shutdown().await
    }
    .await;
    client.expect(451).await;
    eventually("nothing is left of it", || names(&sshd.files()).is_empty()).await;
    drop(data);
    assert_eq!(client.store("STOR long", &long).await.code, 226);
    assert!(fs::read(sshd.files().join("long")).unwrap() == long);

    let options = Options { config: vec!["MaxSessions 2".to_owned()], ..Options::default() };
    let sshd = Sshd::with(options).await;
    let gateway = striping(&sshd);
    let mut client = Client::explicit(&gateway).await;
    client.log_in("far", MAPPED_PASSWORD).await;
    client.ask("TYPE I", 200).await;
    assert_eq!(client.store("STOR long", &long).await.code, 226);
    assert!(fs::read(sshd.files().join("long")).unwrap() == long);
    assert_eq!(sshd.sftp_servers().len(), 2);
}

#[tokio::test]
async fn keys_that_are_exchanged_again_in_mid_transfer_are_not_noticed() {
    let options = Options { config: vec!["RekeyLimit 1M".to_owned()], ..Options::default() };
    let sshd = Sshd::with(options).await;
    for keys in ["connections: per-session", "connections: shared"] {
        let gateway = Gateway::start(&Setup::backend_with(&sshd, keys).with_users(&sshd.files()));
        let bytes = content(LONG, 1);
        // Two at a time are what a shared connection carries.
        let clients = crowd(&gateway, MAPPED_USER, MAPPED_PASSWORD, 2).await;
        let transfers = clients.into_iter().enumerate().map(async |(number, mut client)| {
            client.ask("TYPE I", 200).await;
            assert_eq!(client.store(format!("STOR {number}"), &bytes).await.code, 226);
            assert!(client.retrieve(number.to_string()).await == bytes);
        });
        join_all(transfers).await;
    }
}

#[tokio::test]
async fn a_long_upload_in_place_has_one_channel() {
    let sshd = Sshd::start().await;
    let gateway = striping(&sshd);
    let mut client = Client::explicit(&gateway).await;
    client.log_in("far", MAPPED_PASSWORD).await;
    client.ask("TYPE I", 200).await;
    let long = content(LONG, 2);
    sshd.place_file("long", &long[..1000]);
    assert_eq!(client.store("APPE long", &long[1000..]).await.code, 226);
    assert_eq!(sshd.sftp_servers().len(), 1);
    assert!(fs::read(sshd.files().join("long")).unwrap() == long);
    client.ask("REST 3000000", 350).await;
    assert_eq!(client.store("STOR long", &long[3_000_000..]).await.code, 226);
    assert_eq!(sshd.sftp_servers().len(), 1);
    assert!(fs::read(sshd.files().join("long")).unwrap() == long);
}
