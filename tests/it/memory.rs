//! What a gateway needs: for a file of any size a bounded amount of memory, for an idle session a small one.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::support::campaign::{is_full, rounds};
use crate::support::client::Client;
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, MAPPED_USER, Setup};
use crate::support::sshd::Sshd;
use crate::support::transfer::{begin, content, end};

/// Resident memory a gateway may have reached after a large file went up and down, in KiB.
const PEAK_LIMIT: u64 = 64 * 1024;

/// How much of that a transfer in either direction may take above the idle gateway, in KiB, whatever the file's size.
const TRANSFER_LIMIT: u64 = 16 * 1024;

/// Resident memory an idle session may cost, in KiB.
const SESSION_LIMIT: u64 = 100;

/// Sessions of the measurement; under `tests/run --full` four times as many, for which the SSH server needs 8 GB.
const SESSIONS: usize = 500;

/// How many are there before the counting begins.
const WARM_UP: usize = 50;

/// How many log in at a time.
const AT_A_TIME: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_gibibytes_is_the_same_up_and_down_within_bounded_memory() {
    const BLOCK: usize = 1024 * 1024;
    // Four times as much in the long run: memory does not grow with the file.
    let blocks: u64 = if is_full() { 4096 } else { 1024 };
    // In memory where there is such a file system: the disk is not what is tested.
    let shared_memory = Path::new("/dev/shm");
    let parent = if shared_memory.is_dir() { shared_memory.to_owned() } else { std::env::temp_dir() };
    let directory = tempfile::Builder::new().prefix("gibibyte-").tempdir_in(parent).unwrap();
    let sshd = Sshd::start().await;
    let owner = fs::metadata(sshd.files()).unwrap();
    chown(directory.path(), Some(owner.uid()), Some(owner.gid())).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let setup = Setup::backend(&sshd).with_users(directory.path());

    let (gateway, mut client, idle) = idle_session(&setup).await;
    let mut block = content(BLOCK, 1);
    let mut sent = Context::new(&SHA256);
    let mut data = begin(&mut client, "STOR gibibyte").await;
    for number in 0..blocks {
        block[..8].copy_from_slice(&number.to_le_bytes());
        sent.update(&block);
        data.write_all(&block).await.unwrap();
    }
    end(data).await;
    client.expect(226).await;
    let sent = sent.finish();
    let up = gateway.memory("VmHWM") - idle;
    assert_eq!(fs::metadata(directory.path().join("gibibyte")).unwrap().len(), blocks * BLOCK as u64);

    // Another process: what the allocator has not given back yet after an upload is not this transfer's.
    drop(client);
    drop(gateway);
    let (gateway, mut client, idle) = idle_session(&setup).await;
    let mut received = Context::new(&SHA256);
    let mut data = begin(&mut client, "RETR gibibyte").await;
    loop {
        let count = data.read(&mut block).await.unwrap();
        if count == 0 {
            break;
        }
        received.update(&block[..count]);
    }
    data.shutdown().await.unwrap();
    client.expect(226).await;
    assert_eq!(received.finish().as_ref(), sent.as_ref());
    let peak = gateway.memory("VmHWM");
    let down = peak - idle;
    println!("resident memory: {idle} KiB idle, {up} KiB more for the upload and {down} KiB for the download");
    assert!(up <= TRANSFER_LIMIT && down <= TRANSFER_LIMIT, "{up} KiB up, {down} KiB down");
    assert!(peak < PEAK_LIMIT, "{peak} KiB");
}

/// A new gateway with one session, and what it needs so far in KiB.
async fn idle_session(setup: &Setup) -> (Gateway, Client, u64) {
    let gateway = Gateway::start(setup);
    let mut client = Client::logged_in(&gateway).await;
    assert_eq!(client.command("TYPE I").await.code, 200);
    let idle = gateway.memory("VmRSS");
    gateway.forget_peak();
    (gateway, client, idle)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_idle_sessions_stay_and_each_costs_at_most_100_kibibytes() {
    let sessions = rounds(SESSIONS, 4 * SESSIONS);
    let sshd = Sshd::start().await;
    // All come from one address.
    let limits = format!("limits: {{sessions_per_ip: {}}}\n", sessions + WARM_UP);
    let setup = Setup { level: Some("info".to_owned()), ..Setup::backend(&sshd).with_users(&sshd.files()) };
    let setup = setup.with(&limits);
    let gateway = Gateway::start(&setup);
    // What the process needs once, however many sessions there are (code that is read in, what the allocator keeps
    // for its threads), is not counted.
    let mut clients = Vec::new();
    log_in(&gateway, &mut clients, WARM_UP).await;
    let before = gateway.memory("VmRSS");
    log_in(&gateway, &mut clients, sessions).await;
    let after = gateway.memory("VmRSS");
    for client in &mut clients {
        assert_eq!(client.command("NOOP").await.code, 200);
    }
    let each = (after - before).div_ceil((sessions - WARM_UP) as u64);
    println!("an idle session: {each} KiB resident ({before} KiB before, {after} KiB after {sessions} logins)");
    assert!(each <= SESSION_LIMIT, "{each} KiB");
}

/// Logs in until there are so many.
async fn log_in(gateway: &Gateway, clients: &mut Vec<Client>, wanted: usize) {
    while clients.len() < wanted {
        let mut logins = JoinSet::new();
        for _ in 0..AT_A_TIME.min(wanted - clients.len()) {
            let unencrypted = Client::explicit(gateway).await;
            logins.spawn(finish_log_in(unencrypted));
        }
        clients.extend(logins.join_all().await);
    }
}

async fn finish_log_in(mut client: Client) -> Client {
    client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
    client
}
