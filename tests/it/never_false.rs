//! Campaigns: whatever is cut, and wherever, 226 is said only of a whole file, and the old state is there otherwise.

use std::fs;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::support::campaign::{is_full, random, rounds};
use crate::support::client::Client;
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, MAPPED_USER, Setup};
use crate::support::real_clients::{Tls, curl_with, desk, lftp_with};
use crate::support::sshd::Sshd;
use crate::support::transfer::{ABOR_LIMIT, begin, content, end, eventually, fill, names, reset};

/// What one TLS record holds at most (RFC 8446 §5.1).
const RECORD: usize = 16 * 1024;

async fn log_in(gateway: &Gateway) -> Client {
    let mut client = Client::explicit(gateway).await;
    client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
    assert_eq!(client.command("TYPE I").await.code, 200);
    client
}

#[derive(Debug, Clone, Copy)]
enum Cut {
    /// FIN, and no close_notify before it.
    Fin,
    /// RST.
    Reset,
}

#[tokio::test]
async fn s15_and_tls_10_to_14_an_upload_that_is_cut_at_any_record_is_never_stored() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&Setup::backend(&sshd).with_users(&sshd.files()));
    let (old, bytes) = (content(10_000, 1), content(64 * RECORD, 2));
    let mut client = log_in(&gateway).await;
    let step = rounds(8, 1);
    for (command, before) in [("STOR file", None), ("STOR file", Some(&old)), ("APPE file", Some(&old))] {
        if let Some(old) = before {
            assert_eq!(client.store("STOR file", old).await.code, 226);
        }
        for cut in [Cut::Fin, Cut::Reset] {
            for records in (0..=64).step_by(step) {
                let mut data = begin(&mut client, command).await;
                for record in bytes.chunks(RECORD).take(records) {
                    data.write_all(record).await.unwrap();
                    data.flush().await.unwrap();
                }
                match cut {
                    Cut::Fin => data.get_mut().0.shutdown().await.unwrap(),
                    Cut::Reset => reset(data),
                }
                let reply = client.reply().await;
                let what = format!("{command}, {cut:?} after {records} records: {}", reply.text());
                // A reset may overtake the end of the handshake.
                assert!(reply.code == 426 || records == 0 && reply.code == 522, "{what}");
                let found = fs::read(sshd.files().join("file")).ok();
                assert!(found.as_ref() == before, "{what}: {:?} bytes", found.map(|found| found.len()));
            }
        }
        eventually("nothing else is there", || names(&sshd.files()).iter().all(|name| name == "file")).await;
        let _ = fs::remove_file(sshd.files().join("file"));
    }
    assert_eq!(client.store("STOR file", &bytes).await.code, 226);
    assert!(client.retrieve("file").await == bytes);
}

#[tokio::test]
async fn tls_6_clients_that_close_without_ever_reading_lose_nothing() {
    let sshd = Sshd::start().await;
    let lax = "    root: \"/\"\n    policy: {upload_eof: lax}\n".replace('/', &sshd.files().display().to_string());
    let gateway = Gateway::start(&Setup::backend(&sshd).with_users(&sshd.files()).with_user("lax", &lax));
    let bytes = content(2 * 1024 * 1024, 1);
    let mut orderly = log_in(&gateway).await;
    let mut without_close_notify = Client::explicit(&gateway).await;
    without_close_notify.log_in("lax", MAPPED_PASSWORD).await;
    assert_eq!(without_close_notify.command("TYPE I").await.code, 200);
    for round in 0..rounds(40, 1000) {
        for (announces, client) in [(true, &mut orderly), (false, &mut without_close_notify)] {
            let mut data = begin(client, "STOR file").await;
            data.write_all(&bytes).await.unwrap();
            if announces {
                data.shutdown().await.unwrap();
            } else {
                data.flush().await.unwrap();
            }
            // Closed with whatever came unread: were there anything, the kernel would reset, and drop what it had queued.
            drop(data);
            client.expect(226).await;
            assert!(fs::read(sshd.files().join("file")).unwrap() == bytes, "round {round}, close_notify: {announces}");
        }
    }
}

#[tokio::test]
async fn a_backend_that_stands_still_for_a_moment_costs_nothing() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&Setup::backend(&sshd).with_users(&sshd.files()));
    let (old, bytes) = (content(10_000, 1), content(32 * 1024 * 1024, 2));
    let mut client = log_in(&gateway).await;
    for (command, before) in [("STOR file", &[][..]), ("APPE file", &old[..])] {
        sshd.place_file("file", &old);
        let mut data = begin(&mut client, command).await;
        data.write_all(&bytes[..100_000]).await.unwrap();
        sshd.freeze_sessions();
        let taken = 100_000 + fill(&mut data, &bytes[100_000..]).await;
        assert!(taken < bytes.len(), "the client is held back");
        sshd.thaw_sessions();
        data.write_all(&bytes[taken..]).await.unwrap();
        end(data).await;
        client.expect(226).await;
        assert!(fs::read(sshd.files().join("file")).unwrap() == [before, &bytes].concat(), "{command}");
    }

    sshd.place_file("file", &bytes);
    let mut data = begin(&mut client, "RETR file").await;
    let mut received = vec![0; 100_000];
    data.read_exact(&mut received).await.unwrap();
    sshd.freeze_sessions();
    let moment = Duration::from_millis(300);
    while timeout(moment, data.read_buf(&mut received)).await.is_ok_and(|count| count.unwrap() > 0) {}
    assert!(received.len() < bytes.len(), "the client is kept waiting");
    sshd.thaw_sessions();
    data.read_to_end(&mut received).await.unwrap();
    client.expect(226).await;
    assert!(received == bytes);
}

#[tokio::test]
async fn what_a_hanging_server_may_still_store_never_meets_the_next_upload_to_the_file() {
    let sshd = Sshd::start().await;
    let in_place = "policy: {upload: direct}\n";
    for (policy, command, kept) in [("", "APPE file", true), (in_place, "STOR file", false)] {
        let gateway = Gateway::start(&Setup::backend(&sshd).with_users(&sshd.files()).with(policy));
        let (old, lost, bytes) = (content(10_000, 1), content(8 * 1024 * 1024, 2), content(1_000_000, 3));
        sshd.place_file("file", &old);
        let mut hanging = log_in(&gateway).await;
        let mut data = begin(&mut hanging, command).await;
        data.write_all(&lost[..100_000]).await.unwrap();
        sshd.freeze(&sshd.sftp_servers());
        fill(&mut data, &lost[100_000..]).await;
        hanging.send("ABOR").await;
        hanging.expect_within(426, ABOR_LIMIT).await;
        hanging.expect(226).await;

        // Over other channels everything works, but that file is left alone.
        let mut client = log_in(&gateway).await;
        for client in [&mut hanging, &mut client] {
            let refused = client.store(command, &bytes).await;
            assert_eq!(refused.code, 450, "{command}: {}", refused.text());
            assert_eq!(client.store("STOR other", &bytes).await.code, 226);
        }
        sshd.thaw_sessions();
        if kept {
            eventually("it is as long as before", || fs::metadata(sshd.files().join("file")).unwrap().len() == 10_000)
                .await;
        }
        let mut last = 450;
        let deadline = Instant::now() + Duration::from_secs(20);
        while last == 450 {
            assert!(Instant::now() < deadline, "{command} stays refused");
            last = client.store(command, &bytes).await.code;
        }
        assert_eq!(last, 226, "{command}");
        let whole = if kept { [&old[..], &bytes].concat() } else { bytes };
        assert!(fs::read(sshd.files().join("file")).unwrap() == whole, "{command}");
    }
}

#[tokio::test]
async fn what_a_server_stores_after_its_connection_was_lost_is_undone() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&Setup::backend_with(&sshd, "keepalive: 1s").with_users(&sshd.files()));
    let (old, lost) = (content(10_000, 1), content(20_000, 2));
    sshd.place_file("file", &old);
    let mut client = log_in(&gateway).await;
    let mut data = begin(&mut client, "APPE file").await;
    let frozen = sshd.sftp_servers();
    sshd.freeze(&frozen);
    // One WRITE, which the pipe to the process takes as a whole.
    data.write_all(&lost).await.unwrap();
    end(data).await;
    let handed_on = || sshd.session_processes().iter().any(|&process| sshd.have_written(&[process], 20_000));
    eventually("sshd has handed it on", handed_on).await;
    sshd.freeze_sessions();
    client.expect_within(451, Duration::from_secs(20)).await;
    assert!(fs::read(sshd.files().join("file")).unwrap() == old, "before the client is told");
    let mut other = log_in(&gateway).await;
    for client in [&mut client, &mut other] {
        assert_eq!(client.store("APPE file", b"more").await.code, 450);
        assert_eq!(client.store("STOR other", b"goes on").await.code, 226);
    }
    // What is still done to the file is undone, also if nobody is there any more.
    drop(client);
    drop(other);
    let length = || fs::metadata(sshd.files().join("file")).unwrap().len();
    sshd.thaw(&frozen);
    eventually("the old server carries out what it has", || length() > 10_000).await;
    eventually("the file is what it was", || fs::read(sshd.files().join("file")).unwrap() == old).await;
}

#[tokio::test]
async fn what_takes_the_place_of_such_a_file_is_left_as_it_is() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&Setup::backend_with(&sshd, "keepalive: 1s").with_users(&sshd.files()));
    sshd.place_file("file", content(10_000, 1));
    let mut client = log_in(&gateway).await;
    let mut data = begin(&mut client, "APPE file").await;
    data.write_all(&content(20_000, 2)).await.unwrap();
    sshd.freeze(&sshd.sftp_servers());
    end(data).await;
    sshd.freeze_sessions();
    client.expect_within(451, Duration::from_secs(20)).await;
    // As long as the other may have become.
    let newer = content(15_000, 3);
    assert_eq!(client.store("STOR file", &newer).await.code, 226);
    // That nothing happens is seen in no other way: the file is looked at after a second, and after two more.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(fs::read(sshd.files().join("file")).unwrap() == newer);
}

/// When the backend stops.
#[derive(Debug, Clone, Copy)]
enum Frozen {
    Amid,
    /// All has been sent, and its end has not been announced.
    BeforeTheEnd,
}

/// An upload whose backend stands still longer than any timer.
async fn freeze_for_long(command: &str, when: Frozen) {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&Setup::backend(&sshd).with_users(&sshd.files()));
    let (old, bytes) = (content(10_000, 1), content(1_000_000, 2));
    sshd.place_file("file", &old);
    let mut client = log_in(&gateway).await;
    let mut data = begin(&mut client, command).await;
    data.write_all(&bytes[..100_000]).await.unwrap();
    data.flush().await.unwrap();
    if let Frozen::BeforeTheEnd = when {
        data.write_all(&bytes[100_000..]).await.unwrap();
        data.flush().await.unwrap();
    }
    sshd.freeze_sessions();
    if let Frozen::Amid = when {
        let _ = timeout(Duration::from_secs(170), data.write_all(&bytes[100_000..])).await;
    }
    let _ = timeout(Duration::from_secs(170), data.shutdown()).await;
    client.expect_within(451, Duration::from_secs(200)).await;
    sshd.thaw_sessions();
    assert_eq!(client.store("STOR other", b"goes on").await.code, 226);
    let what = format!("{command}, {when:?}: only the old file is there, and what was acknowledged");
    eventually(&what, || names(&sshd.files()) == ["file", "other"]).await;
    eventually(&what, || fs::read(sshd.files().join("file")).unwrap() == old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_stands_still_for_longer_than_the_timers_is_451() {
    if !is_full() {
        // Minutes of silence: only in the long run. What is shorter than the timers is tested always.
        return;
    }
    let cases = ["STOR file", "STOR new", "APPE file"]
        .into_iter()
        .flat_map(|command| [Frozen::Amid, Frozen::BeforeTheEnd].map(|when| freeze_for_long(command, when)));
    join_all(cases).await;

    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&Setup::backend(&sshd).with_users(&sshd.files()));
    sshd.place_file("file", content(32 * 1024 * 1024, 1));
    let mut client = log_in(&gateway).await;
    let mut data = begin(&mut client, "RETR file").await;
    data.read_exact(&mut vec![0; 100_000]).await.unwrap();
    sshd.freeze_sessions();
    assert!(data.read_to_end(&mut Vec::new()).await.is_err(), "a cut download looks cut");
    client.expect_within(451, Duration::from_secs(200)).await;
}

/// The tree with a user whose broken uploads are kept.
fn keeping(sshd: &Sshd) -> Setup {
    Setup::backend(sshd).with_users(&sshd.files()).with("policy: {broken_upload: keep}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_and_lftp_resume_wherever_they_were_cut() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&keeping(&sshd));
    let desk = desk();
    let whole = content(1_500_000, 1);
    fs::write(desk.path().join("whole"), &whole).unwrap();
    sshd.place_file("stored", &whole);
    let url = Tls::Explicit.url(&gateway);
    for (round, cut) in random(20_261_123, whole.len()).take(rounds(6, 200)).enumerate() {
        let name = format!("file{round}");
        // An upload that breaks at that point: whatever of it was kept, the next client goes on from there.
        for resume in ["curl", "lftp"] {
            let mut client = log_in(&gateway).await;
            let mut data = begin(&mut client, &format!("STOR {name}")).await;
            data.write_all(&whole[..cut]).await.unwrap();
            data.flush().await.unwrap();
            data.get_mut().0.shutdown().await.unwrap();
            client.expect(426).await;
            drop(client);
            let part = sshd.files().join(format!("{name}.part"));
            eventually("all that came is kept", || fs::metadata(&part).is_ok_and(|part| part.len() == cut as u64))
                .await;
            let ran = match resume {
                "curl" => curl_with(&gateway, desk.path(), &["-C", "-", "-T", "whole", &format!("{url}/{name}")]),
                _ => lftp_with(Tls::Explicit, &gateway, desk.path(), &format!("reput whole -o {name}")),
            };
            ran.succeeded();
            let stored = fs::read(sshd.files().join(&name)).unwrap();
            assert!(stored == whole, "{resume}, cut at {cut}: {} bytes", stored.len());
            fs::remove_file(sshd.files().join(&name)).unwrap();
        }
        for resume in ["curl", "lftp"] {
            fs::write(desk.path().join("fetched"), &whole[..cut]).unwrap();
            let ran = match resume {
                "curl" => curl_with(&gateway, desk.path(), &["-C", "-", "-o", "fetched", &format!("{url}/stored")]),
                _ => lftp_with(Tls::Explicit, &gateway, desk.path(), "reget stored -o fetched"),
            };
            ran.succeeded();
            assert!(fs::read(desk.path().join("fetched")).unwrap() == whole, "{resume}, cut at {cut}");
        }
    }
    assert_eq!(names(&sshd.files()), ["stored"]);
}

#[tokio::test]
async fn an_upload_that_is_all_there_is_whole_however_it_was_cut_before() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&keeping(&sshd));
    let whole = content(600_000, 1);
    for cut in random(7, whole.len()).take(rounds(10, 200)) {
        let mut client = log_in(&gateway).await;
        let mut data = begin(&mut client, "STOR file").await;
        data.write_all(&whole[..cut]).await.unwrap();
        data.flush().await.unwrap();
        // Killed at the other end: what was acknowledged is the part.
        sshd.kill_sessions();
        let _ = data.shutdown().await;
        client.expect(451).await;
        drop(data);
        let reply = client.command("SIZE file").await;
        let kept = if reply.code == 213 { reply.text().trim().rsplit(' ').next().unwrap().parse().unwrap() } else { 0 };
        assert!(kept <= cut, "{kept} of {cut}");
        assert_eq!(client.command(format!("REST {kept}")).await.code, 350);
        let mut data = begin(&mut client, "STOR file").await;
        data.write_all(&whole[kept..]).await.unwrap();
        end(data).await;
        client.expect(226).await;
        assert!(fs::read(sshd.files().join("file")).unwrap() == whole, "cut at {cut}");
        assert_eq!(names(&sshd.files()), ["file"]);
        fs::remove_file(sshd.files().join("file")).unwrap();
    }
}
