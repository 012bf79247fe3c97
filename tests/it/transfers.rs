//! Files through the gateway to a real OpenSSH server and back: what arrives, and what happens when something is cut.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio_rustls::rustls::SupportedProtocolVersion;
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::support::campaign::rounds;
use crate::support::client::Client;
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, MAPPED_USER, Setup};
use crate::support::real_clients::{Tls, curl, desk, lftp};
use crate::support::sshd::Sshd;
use crate::support::tmpfs::Tmpfs;
use crate::support::transfer::{LOSS_LIMIT, abort, begin, content, end, eventually, fill, names, reset, temporaries};

/// A mapped user whose uploads are written in place.
const DIRECT: &str = "direct";

/// A mapped user whose uploads may end without close_notify.
const LAX: &str = "lax";

/// Larger than every buffer between a client and the backend.
const LARGE: usize = 32 * 1024 * 1024;

/// [`MAPPED_USER`], [`DIRECT`] and [`LAX`] in the same tree.
fn setup(sshd: &Sshd) -> Setup {
    let lines = |policy: &str| format!("    root: \"{}\"\n    policy: {{{policy}}}\n", sshd.files().display());
    Setup::backend(sshd)
        .with_users(&sshd.files())
        .with_user(DIRECT, &lines("upload: direct"))
        .with_user(LAX, &lines("upload_eof: lax"))
}

async fn binary_with(gateway: &Gateway, user: &str, version: &'static SupportedProtocolVersion) -> Client {
    let mut client = Client::explicit_with(gateway, version).await;
    client.log_in(user, MAPPED_PASSWORD).await;
    assert_eq!(client.command("TYPE I").await.code, 200);
    client
}

async fn binary(gateway: &Gateway, user: &str) -> Client {
    binary_with(gateway, user, &TLS13).await
}

/// A file of the backend's user.
fn put(sshd: &Sshd, name: &str, bytes: &[u8]) -> PathBuf {
    let path = sshd.files().join(name);
    fs::write(&path, bytes).unwrap();
    let owner = fs::metadata(sshd.files()).unwrap();
    chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    path
}

/// The session answers and can transfer.
async fn assert_usable(client: &mut Client) {
    assert_eq!(client.command("NOOP").await.code, 200);
    assert_eq!(client.store("STOR usable", b"still here").await.code, 226);
    assert_eq!(client.retrieve("usable").await, b"still here");
}

#[tokio::test]
async fn a_file_goes_up_and_comes_back() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::logged_in(&gateway).await;
    assert_eq!(client.command("TYPE I").await.code, 200);
    let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let reply = client.store("STOR numbers.bin", &content).await;
    assert_eq!(reply.code, 226, "{}", reply.text());
    assert_eq!(std::fs::read(sshd.files().join("numbers.bin")).unwrap(), content);
    assert_eq!(client.retrieve("numbers.bin").await, content);
}

#[tokio::test]
async fn files_of_awkward_sizes_are_whole_under_both_versions_of_tls_and_both_ways_of_storing() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&setup(&sshd));
    // TLS records, SSH packets, WRITE packets with their header of 29 bytes, READs of 255 KiB.
    let borders = [16 * 1024, 32 * 1024, 128 * 1024 - 29, 128 * 1024, 255 * 1024, 4 * 1024 * 1024];
    let around = borders.into_iter().flat_map(|border| [border - 1, border, border + 1]);
    let sizes: Vec<usize> = [0, 1].into_iter().chain(around).collect();
    for version in [&TLS12, &TLS13] {
        for user in [MAPPED_USER, DIRECT] {
            let mut client = binary_with(&gateway, user, version).await;
            for size in &sizes {
                let bytes = content(*size, *size as u64);
                let reply = client.store("STOR file", &bytes).await;
                assert_eq!(reply.code, 226, "{size} bytes of {user}: {}", reply.text());
                assert!(fs::read(sshd.files().join("file")).unwrap() == bytes, "{size} bytes of {user} differ");
                assert!(client.retrieve("file").await == bytes, "{size} bytes of {user} differ coming back");
            }
        }
    }
    assert_eq!(names(&sshd.files()), ["file"]);
}

#[tokio::test]
async fn appe_and_rest_continue_where_they_should() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&setup(&sshd));
    let path = sshd.files().join("log");
    for user in [MAPPED_USER, DIRECT] {
        let mut client = binary(&gateway, user).await;
        let _ = fs::remove_file(&path);
        assert_eq!(client.store("APPE log", b"new file,").await.code, 226);
        assert_eq!(client.store("APPE log", b" appended").await.code, 226);
        assert_eq!(fs::read(&path).unwrap(), b"new file, appended");
        assert_eq!(client.store("APPE log", b"").await.code, 226);
        assert_eq!(fs::read(&path).unwrap(), b"new file, appended");

        assert_eq!(client.command("REST 10").await.code, 350);
        assert_eq!(client.store("STOR log", b"re-written, longer").await.code, 226);
        assert_eq!(fs::read(&path).unwrap(), b"new file, re-written, longer");
        assert_eq!(client.command("REST 4").await.code, 350);
        assert_eq!(client.store("STOR log", b"FILE").await.code, 226);
        assert_eq!(fs::read(&path).unwrap(), b"new FILE, re-written, longer", "what is behind stays");
        assert_eq!(client.command("REST 28").await.code, 350);
        assert_eq!(client.store("STOR log", b"!").await.code, 226, "at the end");
        assert_eq!(client.command("REST 3").await.code, 350);
        assert_eq!(client.store("APPE log", b"-").await.code, 226, "RFC 3659 §5.3: as STOR");
        assert_eq!(fs::read(&path).unwrap(), b"new-FILE, re-written, longer!");

        assert_eq!(client.command("REST 24").await.code, 350);
        assert_eq!(client.retrieve("log").await, b"nger!");
        assert_eq!(client.retrieve("log").await, b"new-FILE, re-written, longer!", "REST holds once");
        assert_eq!(client.command("REST 29").await.code, 350);
        assert_eq!(client.retrieve("log").await, b"");
        for (offset, command) in
            [("30", "RETR log"), ("30", "STOR log"), ("30", "APPE log"), ("1", "STOR none"), ("4294967296", "RETR log")]
        {
            assert_eq!(client.command(format!("REST {offset}")).await.code, 350);
            assert_eq!(client.store(command, b"x").await.code, 554, "{offset} {command}");
        }
        assert_eq!(fs::read(&path).unwrap(), b"new-FILE, re-written, longer!");
        assert_eq!(names(&sshd.files()), ["log"]);
        // What failed was the last that REST touched.
        assert_eq!(client.store("STOR log", b"short").await.code, 226);
        assert_eq!(fs::read(&path).unwrap(), b"short");
    }
}

#[tokio::test]
async fn an_append_that_fails_gives_the_file_its_length_back() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&setup(&sshd));
    let mut client = binary(&gateway, MAPPED_USER).await;
    let path = put(&sshd, "log", b"what was there");
    let mut data = begin(&mut client, "APPE log").await;
    data.write_all(&content(1_000_000, 1)).await.unwrap();
    data.flush().await.unwrap();
    eventually("the file grows", || fs::metadata(&path).unwrap().len() > 14).await;
    reset(data);
    client.expect(426).await;
    assert_eq!(fs::read(&path).unwrap(), b"what was there");
    assert_usable(&mut client).await;
}

#[tokio::test]
async fn the_old_file_is_there_whole_until_the_new_one_is_and_its_mode_is_kept() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&setup(&sshd));
    let mut client = binary(&gateway, MAPPED_USER).await;
    let mut reader = binary(&gateway, MAPPED_USER).await;
    let (old, new) = (content(700_000, 1), content(900_000, 2));
    let path = put(&sshd, "file", &old);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();

    let mut data = begin(&mut client, "STOR file").await;
    data.write_all(&new[..500_000]).await.unwrap();
    data.flush().await.unwrap();
    eventually("something is stored", || {
        temporaries(&sshd.files()).iter().any(|name| fs::metadata(sshd.files().join(name)).unwrap().len() > 0)
    })
    .await;
    assert!(reader.retrieve("file").await == old);
    data.write_all(&new[500_000..]).await.unwrap();
    end(data).await;
    client.expect(226).await;
    assert!(reader.retrieve("file").await == new);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);

    let done = Arc::new(AtomicBool::new(false));
    let looking = {
        let (path, done, versions) = (path.clone(), Arc::clone(&done), [old.clone(), new.clone()]);
        thread::spawn(move || {
            let mut looks = 0;
            while !done.load(Ordering::SeqCst) || looks == 0 {
                let seen = fs::read(&path).expect("the name is never missing");
                assert!(versions.contains(&seen), "a mixture of {} bytes", seen.len());
                looks += 1;
            }
        })
    };
    for round in 0..10 {
        let bytes = if round % 2 == 0 { &old } else { &new };
        assert_eq!(client.store("STOR file", bytes).await.code, 226);
    }
    done.store(true, Ordering::SeqCst);
    looking.join().unwrap();
    assert_eq!(names(&sshd.files()), ["file"]);
}

#[tokio::test]
async fn an_upload_through_a_symbolic_link_reaches_what_it_points_to() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&setup(&sshd));
    for user in [MAPPED_USER, DIRECT] {
        let mut client = binary(&gateway, user).await;
        let target = put(&sshd, "target", b"old");
        for (link, points_to) in [("link", "target"), ("dangling", "not yet"), ("folder", ".")] {
            let link = sshd.files().join(link);
            let _ = fs::remove_file(&link);
            symlink(points_to, &link).unwrap();
        }
        assert_eq!(client.store("STOR link", b"new").await.code, 226);
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(client.store("STOR dangling", b"made").await.code, 226);
        assert_eq!(fs::read(sshd.files().join("not yet")).unwrap(), b"made");
        assert_eq!(client.store("STOR folder", b"no").await.code, 553);
        for link in ["link", "dangling", "folder"] {
            assert!(fs::symlink_metadata(sshd.files().join(link)).unwrap().is_symlink(), "{link}");
        }
        fs::remove_file(sshd.files().join("not yet")).unwrap();
        assert_eq!(temporaries(&sshd.files()), [""; 0]);
    }
}

/// Open descriptors of all sftp-server processes.
fn open_descriptors(sshd: &Sshd) -> usize {
    let servers = sftp_servers(sshd);
    servers.iter().filter_map(|process| Some(fs::read_dir(format!("/proc/{process}/fd")).ok()?.count())).sum()
}

fn sftp_servers(sshd: &Sshd) -> Vec<u32> {
    let name = |process: &u32| fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    sshd.session_processes().into_iter().filter(|process| name(process).trim() == "sftp-server").collect()
}

#[tokio::test]
async fn transfers_good_and_bad_in_a_row_leave_no_handle_open() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&setup(&sshd));
    let mut client = binary(&gateway, MAPPED_USER).await;
    put(&sshd, "large", &content(4 * LARGE / 16, 1));
    let small = content(10_000, 2);
    assert_usable(&mut client).await;
    let before = open_descriptors(&sshd);
    assert!(before > 0);
    for round in 0..140 {
        match round % 7 {
            0 => {
                let data = begin(&mut client, "STOR aborted").await;
                abort(&mut client).await;
                drop(data);
            }
            1 => {
                let mut data = begin(&mut client, "STOR reset").await;
                data.write_all(&small).await.unwrap();
                reset(data);
                client.expect(426).await;
            }
            2 => {
                let data = begin(&mut client, "RETR large").await;
                abort(&mut client).await;
                drop(data);
            }
            3 => {
                let mut data = begin(&mut client, "RETR large").await;
                data.read_u8().await.unwrap();
                reset(data);
                client.expect(426).await;
            }
            4 => {
                assert_eq!(client.store("STOR missing/file", &small).await.code, 553);
                assert_eq!(client.fetch("RETR missing").await.0.code, 550);
                assert_eq!(client.fetch("LIST").await.0.code, 226);
            }
            _ => {
                assert_eq!(client.store("STOR small", &small).await.code, 226);
                assert_eq!(client.retrieve("small").await, small);
            }
        }
    }
    eventually("every handle is closed", || open_descriptors(&sshd) <= before).await;
    assert_eq!(names(&sshd.files()), ["large", "small", "usable"]);
}

#[tokio::test]
async fn the_data_connection_may_be_made_at_any_moment() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&setup(&sshd));
    let bytes = content(200_000, 1);
    for version in [&TLS12, &TLS13] {
        let mut client = binary_with(&gateway, MAPPED_USER, version).await;
        // TCP and TLS before the command (aioftp).
        let address = client.passive().await;
        let stream = client.connect(address).await;
        let mut data = client.secure(stream).await.unwrap();
        assert_eq!(client.command("STOR early").await.code, 150);
        data.write_all(&bytes).await.unwrap();
        end(data).await;
        client.expect(226).await;
        let address = client.passive().await;
        let stream = client.connect(address).await;
        let mut data = client.secure(stream).await.unwrap();
        assert_eq!(client.command("RETR early").await.code, 150);
        let mut back = Vec::new();
        data.read_to_end(&mut back).await.unwrap();
        data.shutdown().await.unwrap();
        client.expect(226).await;
        assert!(back == bytes);

        // TCP before the command, TLS only after 150 (P-20).
        let address = client.passive().await;
        let stream = client.connect(address).await;
        assert_eq!(client.command("STOR between").await.code, 150);
        let mut data = client.secure(stream).await.unwrap();
        data.write_all(&bytes).await.unwrap();
        end(data).await;
        client.expect(226).await;

        // Everything after 150.
        let mut data = begin(&mut client, "RETR between").await;
        let mut back = Vec::new();
        data.read_to_end(&mut back).await.unwrap();
        data.shutdown().await.unwrap();
        client.expect(226).await;
        assert!(back == bytes);

        // Other commands between.
        let address = client.passive().await;
        assert_eq!(client.command("SIZE between").await.code, 213);
        assert_eq!(client.command("REST 199999").await.code, 350);
        let stream = client.connect(address).await;
        assert_eq!(client.command("RETR between").await.code, 150);
        let mut data = client.secure(stream).await.unwrap();
        let mut back = Vec::new();
        data.read_to_end(&mut back).await.unwrap();
        data.shutdown().await.unwrap();
        client.expect(226).await;
        assert_eq!(back, bytes[199_999..]);
        // P-26: it is good for one.
        assert_eq!(client.command("RETR between").await.code, 425);
    }
}

#[tokio::test]
async fn an_upload_whose_client_never_connects_changes_nothing() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&setup(&sshd).with("timeouts: {data_connect: 200ms, tls_handshake: 300ms}\n"));
    let old = content(100_000, 1);
    let path = put(&sshd, "old", &old);
    for user in [MAPPED_USER, DIRECT] {
        let mut client = binary(&gateway, user).await;
        for command in ["STOR old", "STOR new", "APPE old", "APPE new"] {
            client.passive().await;
            assert_eq!(client.command(command).await.code, 150);
            client.expect(425).await;
            // Connects, and never begins TLS.
            let address = client.passive().await;
            let stream = client.connect(address).await;
            assert_eq!(client.command(command).await.code, 150);
            client.expect(425).await;
            drop(stream);
        }
        assert!(fs::read(&path).unwrap() == old);
        assert_eq!(names(&sshd.files()), ["old"], "{user}");
        assert_usable(&mut client).await;
        fs::remove_file(sshd.files().join("usable")).unwrap();
    }
}

#[tokio::test]
async fn tls_10_to_14_only_an_upload_that_was_ended_properly_is_stored() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&setup(&sshd));
    let old = content(100_000, 1);
    let bytes = content(300_000, 2);
    let path = put(&sshd, "file", &old);
    for version in [&TLS12, &TLS13] {
        let mut client = binary_with(&gateway, MAPPED_USER, version).await;
        // FIN at the end of a record.
        let mut data = begin(&mut client, "STOR file").await;
        data.write_all(&bytes).await.unwrap();
        data.flush().await.unwrap();
        data.get_mut().0.shutdown().await.unwrap();
        client.expect(426).await;
        // FIN with nothing sent.
        let mut data = begin(&mut client, "STOR file").await;
        data.get_mut().0.shutdown().await.unwrap();
        client.expect(426).await;
        // FIN within a record.
        let mut data = begin(&mut client, "STOR file").await;
        data.write_all(&bytes).await.unwrap();
        data.flush().await.unwrap();
        data.get_mut().0.write_all(b"\x17\x03\x03\x04\x00half of a record").await.unwrap();
        data.get_mut().0.shutdown().await.unwrap();
        client.expect(426).await;
        // What is no record at all.
        let mut data = begin(&mut client, "STOR file").await;
        data.get_mut().0.write_all(&bytes).await.unwrap();
        let reply = client.reply().await;
        assert!([426, 522].contains(&reply.code), "it may come with the last of the handshake: {}", reply.text());
        // A reset, whoever asks.
        for user in [MAPPED_USER, LAX] {
            let mut client = binary_with(&gateway, user, version).await;
            let mut data = begin(&mut client, "STOR file").await;
            data.write_all(&bytes).await.unwrap();
            data.flush().await.unwrap();
            reset(data);
            client.expect(426).await;
        }
        assert!(fs::read(&path).unwrap() == old);
        assert_eq!(names(&sshd.files()), ["file"]);
        assert_usable(&mut client).await;
        fs::remove_file(sshd.files().join("usable")).unwrap();

        let mut client = binary_with(&gateway, LAX, version).await;
        let mut data = begin(&mut client, "STOR file").await;
        data.write_all(&bytes).await.unwrap();
        data.flush().await.unwrap();
        data.get_mut().0.shutdown().await.unwrap();
        client.expect(226).await;
        assert!(fs::read(&path).unwrap() == bytes, "`upload_eof: lax` takes it for the end");
        put(&sshd, "file", &old);
    }
}

#[tokio::test]
async fn garbage_instead_of_a_handshake_is_522_and_stores_nothing() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&setup(&sshd));
    let mut client = binary(&gateway, MAPPED_USER).await;
    for garbage in [&b"GET / HTTP/1.0\r\n\r\n"[..], &[0; 64], b"\x16\x03\x01\x00\x04\x02\x00\x00\x00"] {
        let address = client.passive().await;
        assert_eq!(client.command("STOR file").await.code, 150);
        let mut stream = client.connect(address).await;
        stream.write_all(garbage).await.unwrap();
        let reply = client.reply().await;
        assert_eq!(reply.code, 522, "{}: {}", garbage.escape_ascii(), reply.text());
    }
    assert_eq!(names(&sshd.files()), [""; 0]);
    assert_usable(&mut client).await;
}

#[tokio::test]
async fn a_client_that_never_reads_its_data_connection_loses_nothing() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&setup(&sshd));
    let mut client = binary(&gateway, MAPPED_USER).await;
    let bytes = content(2 * 1024 * 1024, 1);
    for round in 0..30 {
        // With tickets on the way to it, its kernel would answer the close with a reset.
        let mut data = if round % 2 == 0 {
            begin(&mut client, "STOR file").await
        } else {
            let address = client.passive().await;
            let stream = client.connect(address).await;
            let data = client.secure(stream).await.unwrap();
            assert_eq!(client.command("STOR file").await.code, 150);
            data
        };
        data.write_all(&bytes).await.unwrap();
        data.shutdown().await.unwrap();
        drop(data);
        client.expect(226).await;
        assert!(fs::read(sshd.files().join("file")).unwrap() == bytes, "round {round}");
        fs::remove_file(sshd.files().join("file")).unwrap();
    }
}

#[tokio::test]
async fn abor_ends_whatever_runs_within_a_second() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&setup(&sshd));
    let mut client = binary(&gateway, MAPPED_USER).await;
    put(&sshd, "large", &content(LARGE, 1));
    let bytes = content(256 * 1024, 2);
    // Nothing runs; a waiting port goes.
    assert_eq!(client.command("ABOR").await.code, 226);
    client.passive().await;
    assert_eq!(client.command("ABOR").await.code, 226);
    assert_eq!(client.command("STOR file").await.code, 425);

    // Nobody has connected, or nobody begins TLS.
    for command in ["STOR file", "RETR large", "LIST", "APPE large"] {
        client.passive().await;
        assert_eq!(client.command(command).await.code, 150);
        abort(&mut client).await;
        let address = client.passive().await;
        let stream = client.connect(address).await;
        assert_eq!(client.command(command).await.code, 150);
        abort(&mut client).await;
        drop(stream);
    }

    // In the middle.
    let mut data = begin(&mut client, "STOR file").await;
    data.write_all(&bytes).await.unwrap();
    abort(&mut client).await;
    let mut rest = Vec::new();
    assert!(data.read_to_end(&mut rest).await.is_err(), "an aborted upload must not look complete");
    let mut data = begin(&mut client, "RETR large").await;
    data.read_u8().await.unwrap();
    abort(&mut client).await;
    assert!(data.read_to_end(&mut rest).await.is_err(), "an aborted download must not look complete");
    assert!(rest.len() < LARGE);
    assert_eq!(names(&sshd.files()), ["large"]);
    assert_usable(&mut client).await;
    fs::remove_file(sshd.files().join("usable")).unwrap();

    // While the backend does not answer.
    let mut upload = begin(&mut client, "STOR file").await;
    upload.write_all(&bytes).await.unwrap();
    sshd.freeze_sessions();
    fill(&mut upload, &bytes).await;
    abort(&mut client).await;
    sshd.thaw_sessions();
    assert_usable(&mut client).await;
    let mut download = begin(&mut client, "RETR large").await;
    download.read_u8().await.unwrap();
    sshd.freeze_sessions();
    abort(&mut client).await;
    sshd.thaw_sessions();
    assert_usable(&mut client).await;
    eventually("no temporary file is left", || temporaries(&sshd.files()).is_empty()).await;
    assert!(fs::metadata(sshd.files().join("large")).unwrap().len() == LARGE as u64);
}

#[tokio::test]
async fn abor_does_not_wait_for_a_backend_that_hangs_before_150() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&setup(&sshd));
    put(&sshd, "file", b"some content");
    for command in ["RETR file", "LIST", "MLSD", "STOR new", "STOR file", "APPE file"] {
        let mut client = binary(&gateway, MAPPED_USER).await;
        client.passive().await;
        sshd.freeze(&sftp_servers(&sshd));
        client.send(command).await;
        abort(&mut client).await;
        assert_eq!(client.command("NOOP").await.code, 200);
        // The next command goes on over another channel, while the first one still hangs.
        assert_eq!(client.command("SIZE file").await.code, 213, "{command}");
        sshd.thaw_sessions();
        assert_usable(&mut client).await;
        fs::remove_file(sshd.files().join("usable")).unwrap();
        assert_eq!(client.command("QUIT").await.code, 221);
        eventually("the server is left", || sftp_servers(&sshd).is_empty()).await;
        assert_eq!(fs::read(sshd.files().join("file")).unwrap(), b"some content", "{command}");
    }

    // A client that goes away meanwhile is not waited for either.
    let mut client = binary(&gateway, MAPPED_USER).await;
    client.passive().await;
    sshd.freeze(&sftp_servers(&sshd));
    client.send("STOR new").await;
    drop(client);
    gateway.wait_for_log(|line| line.contains("session ended") && line.contains("the client is gone"));
    sshd.thaw_sessions();
}

#[tokio::test]
async fn a_backend_that_stands_still_and_goes_on_costs_nothing() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&setup(&sshd));
    let mut client = binary(&gateway, MAPPED_USER).await;
    let bytes = content(LARGE, 1);
    let mut data = begin(&mut client, "STOR file").await;
    sshd.freeze_sessions();
    let taken = fill(&mut data, &bytes).await;
    assert!(taken < LARGE, "the client is held back");
    assert_eq!(client.command("STAT").await.code, 211);
    sshd.thaw_sessions();
    data.write_all(&bytes[taken..]).await.unwrap();
    end(data).await;
    client.expect(226).await;
    assert!(fs::read(sshd.files().join("file")).unwrap() == bytes);
}

#[tokio::test]
async fn stat_is_answered_during_a_transfer_and_other_commands_after_it() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&setup(&sshd));
    let mut client = binary(&gateway, MAPPED_USER).await;
    let mut data = begin(&mut client, "STOR file").await;
    data.write_all(&[7; 12_345]).await.unwrap();
    data.flush().await.unwrap();
    // The bytes may still be on their way.
    let mut status = client.command("STAT").await;
    while status.code == 211 && !status.text().contains("12345") {
        status = client.command("STAT").await;
    }
    assert_eq!(status.code, 211);
    client.send("NOOP").await;
    client.send("PWD").await;
    client.send("STAT").await;
    data.write_all(&[8; 5]).await.unwrap();
    end(data).await;
    for code in [226, 200, 257, 211] {
        client.expect(code).await;
    }
    assert_eq!(fs::metadata(sshd.files().join("file")).unwrap().len(), 12_350);

    let mut data = begin(&mut client, "STOR last").await;
    client.send("QUIT").await;
    data.write_all(b"finished all the same").await.unwrap();
    end(data).await;
    client.expect(226).await;
    client.expect(221).await;
    assert!(client.try_reply().await.is_err(), "nothing after 221");
    assert_eq!(fs::read(sshd.files().join("last")).unwrap(), b"finished all the same");
}

#[tokio::test]
async fn s33_a_lost_control_connection_ends_its_transfer() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&setup(&sshd));
    let old = content(50_000, 1);
    let path = put(&sshd, "file", &old);
    put(&sshd, "large", &content(LARGE, 1));
    let mut client = binary(&gateway, MAPPED_USER).await;
    let mut data = begin(&mut client, "STOR file").await;
    data.write_all(&content(300_000, 2)).await.unwrap();
    data.flush().await.unwrap();
    assert_eq!(temporaries(&sshd.files()).len(), 1);
    drop(client);
    let mut rest = Vec::new();
    assert!(data.read_to_end(&mut rest).await.is_err());
    eventually("the temporary file is removed", || temporaries(&sshd.files()).is_empty()).await;
    assert!(fs::read(&path).unwrap() == old);

    let mut client = binary(&gateway, MAPPED_USER).await;
    let mut data = begin(&mut client, "RETR large").await;
    drop(client);
    assert!(data.read_to_end(&mut rest).await.is_err());
    assert!(rest.len() < LARGE);
    eventually("the sessions on the backend end", || sftp_servers(&sshd).is_empty()).await;
}

#[tokio::test]
async fn a_backend_killed_in_an_upload_is_451_and_never_a_partial_file() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&setup(&sshd));
    let old = content(50_000, 1);
    let path = put(&sshd, "old", &old);
    let bytes = content(3_000_000, 2);
    for (command, name) in [("STOR old", "old"), ("STOR new", "new")] {
        for busy in [true, false] {
            let mut client = binary(&gateway, MAPPED_USER).await;
            let mut data = begin(&mut client, command).await;
            data.write_all(&bytes[..1_000_000]).await.unwrap();
            data.flush().await.unwrap();
            eventually("it is on its way", || temporaries(&sshd.files()).len() == 1).await;
            sshd.kill_sessions();
            let killed = Instant::now();
            if busy {
                // Until it is told.
                while data.write_all(&bytes[..65_536]).await.is_ok() {}
            }
            client.expect(451).await;
            assert!(killed.elapsed() < LOSS_LIMIT, "{:?}", killed.elapsed());
            drop(data);
            assert!(fs::read(&path).unwrap() == old);
            assert!(!sshd.files().join("new").exists());

            assert_eq!(client.command("CWD /").await.code, 250);
            eventually("what was left behind is removed", || temporaries(&sshd.files()).is_empty()).await;
            let reply = client.store(command, &bytes).await;
            assert_eq!(reply.code, 226, "{}", reply.text());
            assert!(fs::read(sshd.files().join(name)).unwrap() == bytes);
            fs::write(&path, &old).unwrap();
            let _ = fs::remove_file(sshd.files().join("new"));
        }
    }
}

#[tokio::test]
async fn an_sftp_server_that_dies_alone_is_a_lost_backend_too() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&setup(&sshd));
    let mut client = binary(&gateway, MAPPED_USER).await;
    let bytes = content(1_000_000, 2);
    let mut data = begin(&mut client, "STOR file").await;
    data.write_all(&bytes).await.unwrap();
    data.flush().await.unwrap();
    let writes = |process: &u32| {
        let open = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
        open.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|file| file.starts_with(sshd.files()))
    };
    let server = sftp_servers(&sshd).into_iter().find(writes).unwrap();
    assert!(Command::new("kill").args(["-9", &server.to_string()]).status().unwrap().success());
    let killed = Instant::now();
    client.expect(451).await;
    assert!(killed.elapsed() < LOSS_LIMIT, "{:?}", killed.elapsed());
    drop(data);
    assert_eq!(client.command("CWD /").await.code, 250);
    eventually("what was left behind is removed", || temporaries(&sshd.files()).is_empty()).await;
    assert_eq!(client.store("STOR file", &bytes).await.code, 226);
    assert!(fs::read(sshd.files().join("file")).unwrap() == bytes);
    assert_eq!(names(&sshd.files()), ["file"]);
}

#[tokio::test]
async fn a_backend_killed_in_a_download_is_451_and_looks_cut() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&setup(&sshd));
    let bytes = content(LARGE, 1);
    put(&sshd, "large", &bytes);
    let mut client = binary(&gateway, MAPPED_USER).await;
    let mut data = begin(&mut client, "RETR large").await;
    let mut received = vec![0; 65_536];
    data.read_exact(&mut received).await.unwrap();
    sshd.kill_sessions();
    let killed = Instant::now();
    assert!(data.read_to_end(&mut received).await.is_err(), "no close_notify");
    client.expect(451).await;
    assert!(killed.elapsed() < LOSS_LIMIT, "{:?}", killed.elapsed());
    assert!(received.len() < LARGE && bytes.starts_with(&received));

    assert_eq!(client.command(format!("REST {}", received.len())).await.code, 350);
    received.extend(client.retrieve("large").await);
    assert!(received == bytes, "the rest, over a new connection");
}

#[tokio::test]
async fn a_backend_lost_between_commands_is_reconnected_silently() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&setup(&sshd));
    let mut client = binary(&gateway, MAPPED_USER).await;
    let bytes = content(100_000, 1);
    assert_eq!(client.store("STOR file", &bytes).await.code, 226);
    for command in ["RETR file", "STOR other", "LIST", "APPE file"] {
        let address = client.passive().await;
        sshd.kill_sessions();
        let opening = client.command(command).await;
        assert_eq!(opening.code, 150, "{command}: {}", opening.text());
        let mut data = client.data(address).await;
        data.shutdown().await.unwrap();
        let mut received = Vec::new();
        data.read_to_end(&mut received).await.unwrap();
        client.expect(226).await;
        assert!(command != "RETR file" || received == bytes);
    }
    sshd.kill_sessions();
    assert_eq!(client.command("SIZE file").await.code, 213);
    sshd.kill_sessions();
    assert_eq!(client.command("MKD folder").await.code / 100, 2);
    assert_eq!(names(&sshd.files()), ["file", "folder", "other"]);
}

/// A version of a file that tells by itself whether it is whole: a number, and what follows from it.
fn version(number: u64) -> Vec<u8> {
    let length = usize::try_from(50_000 + number * 7919 % 300_000).unwrap();
    [number.to_le_bytes().to_vec(), content(length, number)].concat()
}

/// Which one it is, where it is whole.
fn version_of(bytes: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(bytes.get(..8)?.try_into().unwrap());
    // As many as there are at most; anything else is no number of a version.
    (number < 1 << 20 && bytes == version(number)).then_some(number)
}

/// S-25: whoever reads what many write at once gets one version whole, and one of them stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s25_readers_of_a_name_that_many_write_get_one_whole_version() {
    let (parties, versions) = (rounds(10, 50), rounds(8, 40) as u64);
    let sshd = Sshd::start().await;
    put(&sshd, "file", &version(0));
    let root = format!("    root: \"{}\"\n", sshd.files().display());
    let setup = Setup::backend_with(&sshd, "connections: shared").with_user("many", &root);
    let gateway = Gateway::start(&setup.with("limits: {sessions_per_ip: 1000}\n"));
    let (written, is_over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (mut writers, mut readers) = (JoinSet::new(), JoinSet::new());
    for party in 0..parties as u64 {
        let (mut writer, mut reader) = (binary(&gateway, "many").await, binary(&gateway, "many").await);
        let (written, is_over) = (Arc::clone(&written), Arc::clone(&is_over));
        writers.spawn(async move {
            for round in 0..versions {
                let reply = writer.store("STOR file", &version(1 + party * versions + round)).await;
                assert_eq!(reply.code, 226, "{}", reply.text());
                written.fetch_add(1, Ordering::SeqCst);
            }
        });
        readers.spawn(async move {
            let mut seen = BTreeSet::new();
            loop {
                let is_last = is_over.load(Ordering::SeqCst);
                let (reply, bytes) = reader.fetch("RETR file").await;
                assert_eq!(reply.code, 226, "{}", reply.text());
                let version = version_of(&bytes);
                seen.insert(version.unwrap_or_else(|| panic!("{} bytes of no version", bytes.len())));
                if is_last {
                    return seen;
                }
            }
        });
    }
    writers.join_all().await;
    is_over.store(true, Ordering::SeqCst);
    let seen = readers.join_all().await;
    assert_eq!(written.load(Ordering::SeqCst) as u64, parties as u64 * versions);
    assert!(seen.iter().any(|seen| seen.len() > 2), "nobody read while they wrote: {seen:?}");
    let last = version_of(&fs::read(sshd.files().join("file")).unwrap()).expect("a whole version");
    assert!(last > 0 && seen.iter().all(|seen| seen.contains(&last)), "all is over, and it is another one");
    assert_eq!(names(&sshd.files()), ["file"]);
}

#[tokio::test]
async fn a_full_disk_is_552_and_452_and_leaves_nothing() {
    let full = Tmpfs::mount("size=1m,nr_inodes=6,mode=777");
    let sshd = Sshd::start().await;
    let user = |name: &str, policy: &str| {
        Setup::backend(&sshd)
            .with_users(&sshd.files())
            .with_user(name, &format!("    root: \"{}\"\n    policy: {{{policy}}}\n", full.path().display()))
    };
    for policy in ["upload: atomic", "upload: direct"] {
        let gateway = Gateway::start(&user("small", policy));
        let mut client = binary(&gateway, "small").await;
        let old = content(100_000, 1);
        assert_eq!(client.store("STOR old", &old).await.code, 226);
        let reply = client.store("STOR file", &content(3 * 1024 * 1024, 1)).await;
        assert_eq!(reply.code, 552, "{policy}: {}", reply.text());
        assert_eq!(names(full.path()), ["old"], "{policy}");
        if policy == "upload: atomic" {
            let reply = client.store("STOR old", &content(3 * 1024 * 1024, 1)).await;
            assert_eq!(reply.code, 552, "{}", reply.text());
            assert!(fs::read(full.path().join("old")).unwrap() == old);
        }
        let reply = client.store("APPE old", &content(3 * 1024 * 1024, 1)).await;
        assert_eq!(reply.code, 552, "{policy}: {}", reply.text());
        assert!(fs::read(full.path().join("old")).unwrap() == old, "{policy}");
        assert_usable(&mut client).await;

        // No inode is left for a new file: refused before 150.
        let mut fillers = Vec::new();
        for number in 0.. {
            let filler = full.path().join(format!("filler {number}"));
            if fs::write(&filler, b"").is_err() {
                break;
            }
            fillers.push(filler);
        }
        let reply = client.store("STOR file", b"small").await;
        assert_eq!(reply.code, 452, "{policy}: {}", reply.text());
        for filler in fillers {
            fs::remove_file(filler).unwrap();
        }
        assert_usable(&mut client).await;
        for name in names(full.path()) {
            fs::remove_file(full.path().join(name)).unwrap();
        }
    }
}

#[tokio::test]
async fn a_stop_lets_a_running_upload_finish() {
    let sshd = Sshd::start().await;
    let mut gateway = Gateway::start(&setup(&sshd).with("shutdown: {drain: 30s}\n"));
    let mut idle = binary(&gateway, MAPPED_USER).await;
    let mut client = binary(&gateway, MAPPED_USER).await;
    let bytes = content(2_000_000, 1);
    let mut data = begin(&mut client, "STOR file").await;
    data.write_all(&bytes[..1_000_000]).await.unwrap();
    gateway.signal("TERM");
    idle.expect(421).await;
    assert!(idle.try_reply().await.is_err());
    data.write_all(&bytes[1_000_000..]).await.unwrap();
    end(data).await;
    client.expect(226).await;
    client.expect(421).await;
    assert!(client.try_reply().await.is_err());
    assert!(gateway.wait().success());
    assert!(fs::read(sshd.files().join("file")).unwrap() == bytes);
}

#[tokio::test]
async fn a_stop_ends_an_upload_that_outlasts_the_drain_time() {
    let sshd = Sshd::start().await;
    let mut gateway = Gateway::start(&setup(&sshd).with("shutdown: {drain: 300ms}\n"));
    let mut client = binary(&gateway, MAPPED_USER).await;
    let mut data = begin(&mut client, "STOR file").await;
    data.write_all(b"the first half").await.unwrap();
    gateway.signal("TERM");
    client.expect(426).await;
    client.expect(421).await;
    assert!(client.try_reply().await.is_err());
    assert!(gateway.wait().success());
    assert_eq!(names(&sshd.files()), [""; 0]);
}

#[tokio::test]
async fn rest_under_type_a_may_skip_more_than_one_write_takes() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&setup(&sshd));
    let line = "a line of sixteen\n";
    put(&sshd, "text", line.repeat(2_000_000 / line.len()).as_bytes());
    let mut client = binary(&gateway, MAPPED_USER).await;
    client.ask("TYPE A", 200).await;
    let whole = client.retrieve("text").await;
    for offset in [1, 1_000_000, whole.len() - 1, whole.len()] {
        client.ask(format!("REST {offset}"), 350).await;
        assert!(client.retrieve("text").await == whole[offset..], "from {offset}");
    }
}

/// APPE, REST and STOR, and a new file of a user whose uploads are written in place; `true` for those that continue.
const IN_PLACE: [(&str, &str, bool); 3] =
    [(MAPPED_USER, "APPE log", true), (MAPPED_USER, "STOR log", true), (DIRECT, "STOR log", false)];

#[tokio::test]
async fn an_upload_in_place_is_undone_when_its_client_is_gone_whatever_is_closed_first() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&setup(&sshd));
    let old = content(10_000, 1);
    let path = sshd.files().join("log");
    let stored = || fs::metadata(&path).map_or(0, |found| found.len());
    for round in 0..4 {
        for (user, command, continues) in IN_PLACE {
            let before = if continues { Some(&old) } else { None };
            let _ = fs::remove_file(&path);
            if let Some(old) = before {
                put(&sshd, "log", old);
            }
            let mut client = binary(&gateway, user).await;
            let address = client.passive().await;
            if command == "STOR log" && continues {
                assert_eq!(client.command("REST 10000").await.code, 350);
            }
            assert_eq!(client.command(command).await.code, 150);
            let stream = client.connect(address).await;
            let mut data = client.secure(stream).await.unwrap();
            data.write_all(&content(3_000_000, 2)).await.unwrap();
            data.flush().await.unwrap();
            eventually("the file grows", || stored() > 1_000_000).await;
            match round {
                0 => {
                    drop(client);
                    let mut rest = Vec::new();
                    assert!(data.read_to_end(&mut rest).await.is_err());
                }
                1 => {
                    reset(data);
                    drop(client);
                }
                2 => {
                    drop(data);
                    client.expect(426).await;
                    assert!(fs::read(&path).ok().as_ref() == before, "{command}: before the reply");
                    drop(client);
                }
                _ => {
                    drop(client);
                    reset(data);
                }
            }
            let what = format!("round {round}, {user}, {command}: the old state comes back");
            eventually(&what, || fs::read(&path).ok().as_ref() == before).await;
            eventually("the session ends", || sftp_servers(&sshd).is_empty()).await;
            assert!(fs::read(&path).ok().as_ref() == before, "{what}, and stays");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_and_lftp_that_are_killed_leave_what_was_there_before() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&setup(&sshd));
    let desk = desk();
    let (old, whole) = (content(100_000, 1), content(LARGE, 2));
    fs::write(desk.path().join("whole"), &whole).unwrap();
    let path = sshd.files().join("log");
    let stored = || fs::metadata(&path).map_or(0, |found| found.len());
    for round in 0..rounds(3, 30) {
        for kind in ["curl --append", "lftp reput", "curl, direct"] {
            let before = if kind == "curl, direct" { None } else { Some(&whole[..old.len()]) };
            let _ = fs::remove_file(&path);
            if let Some(old) = before {
                put(&sshd, "log", old);
            }
            let url = format!("{}/log", Tls::Explicit.url(&gateway));
            let mut command = if kind == "lftp reput" {
                lftp(Tls::Explicit, &gateway, desk.path(), "set net:limit-rate 8M; reput whole -o log")
            } else {
                let mut command = curl(&gateway, desk.path());
                command.args(["--limit-rate", "8M", "-T", "whole", &url]);
                match before {
                    Some(_) => command.arg("--append"),
                    None => command.args(["--user", &format!("{DIRECT}:{MAPPED_PASSWORD}")]),
                };
                command
            };
            let mut process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let enough = 500_000 * (round as u64 + 1);
            eventually(&format!("{kind} gets so far"), || {
                assert_eq!(process.try_wait().unwrap(), None, "{kind} ended by itself");
                stored() > enough
            })
            .await;
            // SIGKILL.
            process.kill().unwrap();
            process.wait().unwrap();
            let what = format!("round {round}, {kind}: the old state comes back");
            eventually(&what, || fs::read(&path).ok().as_deref() == before).await;
            eventually("the session ends", || sftp_servers(&sshd).is_empty()).await;
            assert!(fs::read(&path).ok().as_deref() == before, "{what}, and stays");
        }
    }
    assert_eq!(temporaries(&sshd.files()), [""; 0]);
}
