//! The whole gateway against a backend that misbehaves by script: nothing that is partial is ever told as whole.

use std::time::{Duration, Instant};

use ftps2sftp::sftp::wire::packet::Reply;
use ftps2sftp::sftp::{Attributes, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::campaign::is_full;
use crate::support::client::Client;
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, MAPPED_USER, Setup};
use crate::support::scripted_sftp::tree::HOME;
use crate::support::scripted_sftp::{Profile, Record, Script, ScriptedSftp, Then, When};
use crate::support::scripted_sshd::ScriptedSshd;
use crate::support::transfer::{ABOR_LIMIT, Data, LOSS_LIMIT, abort, begin, content, end, eventually, reset};

/// A mapped user whose uploads are written in place.
const DIRECT: &str = "direct";

/// A mapped user whose broken uploads are kept.
const KEEPER: &str = "keeper";

/// Every kind of server.
fn profiles() -> [(&'static str, Profile); 4] {
    [
        ("openssh", Profile::openssh()),
        ("bare", Profile::bare()),
        ("binary handles", Profile::binary_handles()),
        ("windows-like", Profile::windows_like()),
    ]
}

struct Scene {
    sshd: ScriptedSshd,
    gateway: Gateway,
}

impl Scene {
    async fn new(profile: Profile) -> Self {
        let sshd = ScriptedSshd::start(Script::new(profile)).await;
        let home = std::str::from_utf8(HOME).unwrap();
        let lines = |policy: &str| format!("    root: \"{home}\"\n    policy: {{{policy}}}\n");
        let setup = sshd.setup().with_user(DIRECT, &lines("upload: direct"));
        let gateway = Gateway::start(&setup.with_user(KEEPER, &lines("broken_upload: keep")));
        Self { sshd, gateway }
    }

    async fn client(&self, user: &str) -> Client {
        let mut client = Client::explicit(&self.gateway).await;
        client.log_in(user, MAPPED_PASSWORD).await;
        assert_eq!(client.command("TYPE I").await.code, 200);
        client
    }

    fn sftp(&self) -> &ScriptedSftp {
        self.sshd.sftp()
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        self.sftp().tree().put_file(at_home(name), bytes);
    }

    fn file(&self, name: &str) -> Option<Vec<u8>> {
        self.sftp().tree().file(at_home(name))
    }

    /// Names at home.
    fn names(&self) -> Vec<String> {
        let prefix = at_home("");
        let names = self.sftp().tree().names();
        names
            .iter()
            .filter_map(|name| Some(String::from_utf8(name.strip_prefix(&*prefix)?.to_vec()).unwrap()))
            .collect()
    }

    /// From here on.
    fn fault(&self, when: When, then: Then) {
        self.sftp().script().faults = vec![(when, then)];
    }

    /// At the n-th of these requests from here on.
    fn fault_at_next(&self, request: &'static str, nth: usize, then: Then) {
        let before = self.sftp().record().count(request);
        self.fault(When::Nth(request, before + nth), then);
    }

    fn heal(&self) {
        self.sftp().script().faults.clear();
    }

    /// The session answers and can transfer.
    async fn assert_usable(&self, client: &mut Client) {
        self.heal();
        assert_eq!(client.store("STOR usable", b"still here").await.code, 226);
        assert_eq!(client.retrieve("usable").await, b"still here");
        assert_eq!(client.command("DELE usable").await.code, 250);
    }
}

fn at_home(name: &str) -> Vec<u8> {
    [HOME, b"/", name.as_bytes()].concat()
}

#[tokio::test]
async fn every_kind_of_server_serves_a_whole_session() {
    for (kind, profile) in profiles() {
        let scene = Scene::new(profile).await;
        for user in [MAPPED_USER, DIRECT] {
            let mut client = scene.client(user).await;
            let (one, two) = (content(300_000, 1), content(200_001, 2));
            for bytes in [&one, &two] {
                // The second replaces the first, also where the server's RENAME does not.
                let reply = client.store("STOR file", bytes).await;
                assert_eq!(reply.code, 226, "{kind}, {user}: {}", reply.text());
                assert!(client.retrieve("file").await == *bytes, "{kind}, {user}");
            }
            assert_eq!(client.store("STOR other", &one).await.code, 226, "{kind}, {user}");
            assert_eq!(client.command("RNFR other").await.code, 350, "{kind}, {user}");
            let reply = client.command("RNTO file").await;
            assert_eq!(reply.code, 250, "{kind}, {user}: {}", reply.text());
            assert!(client.retrieve("file").await == one, "{kind}, {user}");
            assert_eq!(client.store("APPE file", b"more").await.code, 226, "{kind}, {user}");
            assert_eq!(client.command("REST 299999").await.code, 350);
            assert_eq!(client.retrieve("file").await, [&one[299_999..], b"more"].concat(), "{kind}, {user}");
            let (reply, listing) = client.fetch("NLST").await;
            assert_eq!((reply.code, &*listing), (226, &b"file\r\n"[..]), "{kind}, {user}: {}", reply.text());
            assert_eq!(client.command("MKD folder").await.code, 257, "{kind}, {user}");
            assert_eq!(client.command("CWD folder").await.code, 250, "{kind}, {user}");
            assert_eq!(client.command("CDUP").await.code, 250, "{kind}, {user}");
            assert_eq!(client.command("RMD folder").await.code, 250, "{kind}, {user}");
            assert_eq!(client.command("DELE file").await.code, 250, "{kind}, {user}");
            assert_eq!(scene.names(), [""; 0], "{kind}, {user}");
        }
        scene.sftp().until(|record| record.open_handles == 0).await;
        assert_eq!(scene.sftp().record().strays, 0, "{kind}");
    }
}

#[tokio::test]
async fn short_and_reordered_replies_give_the_same_bytes() {
    for (kind, profile) in profiles() {
        let scene = Scene::new(profile).await;
        let mut client = scene.client(MAPPED_USER).await;
        for seed in 1..=8 {
            {
                let mut script = scene.sftp().script();
                (script.reorder, script.short_reads) = (Some(seed), Some(seed));
                script.latency = Duration::from_millis(seed % 3);
            }
            let bytes = content(700_000 + usize::try_from(seed).unwrap(), seed);
            assert_eq!(client.store("STOR file", &bytes).await.code, 226, "{kind}, seed {seed}");
            assert!(scene.file("file").unwrap() == bytes, "{kind}, seed {seed}");
            assert!(client.retrieve("file").await == bytes, "{kind}, seed {seed}");
        }
    }
}

#[tokio::test]
async fn a_write_that_fails_is_451_and_the_client_is_not_read_any_further() {
    let scene = Scene::new(Profile::openssh()).await;
    let old = content(10_000, 9);
    let bytes = content(64 * 1024 * 1024, 1);
    for user in [MAPPED_USER, DIRECT] {
        for nth in 0..20 {
            scene.put("file", &old);
            let mut client = scene.client(user).await;
            scene.fault_at_next("WRITE", nth, Then::Fail(StatusCode::FAILURE));
            let before = scene.sftp().record().count("WRITE");
            let mut data = begin(&mut client, "STOR file").await;
            assert!(data.write_all(&bytes).await.is_err(), "the data connection ends");
            client.expect(451).await;
            let writes = scene.sftp().record().count("WRITE") - before;
            assert!(writes < 100, "{writes} WRITEs");
            if user == MAPPED_USER {
                assert!(scene.file("file").unwrap() == old);
            }
            assert_eq!(scene.names(), ["file"]);
            scene.assert_usable(&mut client).await;
        }
    }
    scene.sftp().until(|record| record.open_handles == 0).await;
}

#[tokio::test]
async fn whatever_fails_after_the_last_byte_is_451() {
    let old = content(10_000, 9);
    let bytes = content(200_000, 1);
    let fail = || Then::Fail(StatusCode::FAILURE);
    for (request, profile, then) in [
        ("CLOSE", Profile::openssh(), fail()),
        ("CLOSE", Profile::openssh(), Then::DoneButFail(StatusCode::FAILURE)),
        ("RENAME", Profile::bare(), fail()),
        ("RENAME", Profile::bare(), Then::Fail(StatusCode::PERMISSION_DENIED)),
        ("RENAME", Profile::bare(), Then::Fail(StatusCode::OP_UNSUPPORTED)),
        ("WRITE", Profile::bare(), Then::Reply(Reply::Handle(b"?"[..].into()))),
        ("WRITE", Profile::bare(), Then::Raw(b"\0\0\0\x05\x65....".to_vec())),
    ] {
        for existing in [true, false] {
            let scene = Scene::new(profile.clone()).await;
            if existing {
                scene.put("file", &old);
            }
            let mut client = scene.client(MAPPED_USER).await;
            let mut data = begin(&mut client, "STOR file").await;
            // Only now: the way to 150 may ask the same things.
            scene.fault(When::Every(request), then.clone());
            let _ = data.write_all(&bytes).await;
            let _ = data.shutdown().await;
            let reply = client.reply().await;
            assert_eq!(reply.code, 451, "{request}, {then:?}: {}", reply.text());
            assert_eq!(scene.file("file"), existing.then(|| old.clone()), "{request}, {then:?}");
            drop(data);
            scene.assert_usable(&mut client).await;
            let names: &[&str] = if existing { &["file"] } else { &[] };
            eventually("no temporary file is left", || scene.names() == names).await;
        }
    }
}

#[tokio::test]
async fn a_length_that_does_not_fit_is_451_and_one_that_is_told_late_is_not() {
    let bytes = content(200_000, 1);
    let told = |size| Then::Reply(Reply::Attributes(Attributes { size, ..Attributes::default() }));
    let fail = || Then::Fail(StatusCode::FAILURE);
    for (over_handle, by_name, code) in [
        (told(Some(199_999)), told(Some(199_999)), 451),
        (told(Some(200_001)), told(Some(200_001)), 451),
        (told(Some(199_999)), fail(), 451),
        (fail(), told(Some(199_999)), 451),
        (told(None), told(Some(0)), 451),
        // Counted when the file is closed.
        (told(Some(0)), told(Some(200_000)), 226),
        (fail(), told(Some(200_000)), 226),
        (told(None), told(None), 226),
    ] {
        let scene = Scene::new(Profile::openssh()).await;
        let mut client = scene.client(MAPPED_USER).await;
        let mut data = begin(&mut client, "STOR file").await;
        scene.sftp().script().faults =
            vec![(When::Every("FSTAT"), over_handle.clone()), (When::Every("STAT"), by_name.clone())];
        data.write_all(&bytes).await.unwrap();
        end(data).await;
        let reply = client.reply().await;
        assert_eq!(reply.code, code, "{over_handle:?}, {by_name:?}: {}", reply.text());
        assert_eq!(scene.file("file"), (code == 226).then(|| bytes.clone()), "{over_handle:?}, {by_name:?}");
        scene.assert_usable(&mut client).await;
    }
}

#[tokio::test]
async fn an_extension_that_fails_is_451() {
    for extension in ["posix-rename@openssh.com", "fsync@openssh.com"] {
        for code in [StatusCode::FAILURE, StatusCode::PERMISSION_DENIED, StatusCode::OP_UNSUPPORTED] {
            for existing in [true, false] {
                let scene = Scene::new(Profile::openssh()).await;
                if existing {
                    scene.put("file", b"old");
                }
                let mut client = scene.client(MAPPED_USER).await;
                scene.fault(When::Every(extension), Then::Fail(code));
                assert_eq!(client.store("STOR file", b"new").await.code, 451, "{extension}, {code:?}");
                assert_eq!(scene.file("file"), existing.then(|| b"old".to_vec()), "{extension}, {code:?}");
                let names: &[&str] = if existing { &["file"] } else { &[] };
                assert_eq!(scene.names(), names, "{extension}, {code:?}");
                scene.assert_usable(&mut client).await;
            }
        }
    }
}

#[tokio::test]
async fn an_exchange_of_names_that_fails_at_any_step_leaves_the_old_file() {
    // The first one is refused because the name is taken. Then: the old file aside, its successor into its place, and
    // back again where that fails.
    for failing in [&[1][..], &[2], &[2, 3]] {
        let scene = Scene::new(Profile::bare()).await;
        scene.put("file", b"old");
        let mut client = scene.client(MAPPED_USER).await;
        let renames = scene.sftp().record().count("RENAME");
        scene.sftp().script().faults = failing
            .iter()
            .map(|nth| (When::Nth("RENAME", renames + nth), Then::Fail(StatusCode::PERMISSION_DENIED)))
            .collect();
        assert_eq!(client.store("STOR file", b"new").await.code, 451, "{failing:?}");
        scene.heal();
        // What could not be put back at once is, before the next command sees the directory.
        client.ask("SIZE file", 213).await;
        assert_eq!(scene.file("file").unwrap(), b"old", "{failing:?}");
        eventually("nothing else is left", || scene.names() == ["file"]).await;
        scene.assert_usable(&mut client).await;
    }
}

#[tokio::test]
async fn a_server_that_names_a_full_disk_or_a_quota_is_understood() {
    let scene = Scene::new(Profile::windows_like()).await;
    let mut client = scene.client(MAPPED_USER).await;
    for code in [StatusCode::NO_SPACE_ON_FILESYSTEM, StatusCode::QUOTA_EXCEEDED] {
        scene.fault(When::Every("WRITE"), Then::Fail(code));
        assert_eq!(client.store("STOR file", &content(100_000, 1)).await.code, 552, "{code:?}");
        scene.fault(When::Every("OPEN"), Then::Fail(code));
        assert_eq!(client.store("STOR file", &content(100_000, 1)).await.code, 452, "{code:?}");
        assert_eq!(scene.names(), [""; 0]);
        scene.assert_usable(&mut client).await;
    }
    // OpenSSH says FAILURE, and statvfs says why; some bytes of the WRITE that failed are stored all the same.
    let scene = Scene::new(Profile::openssh()).await;
    let mut client = scene.client(MAPPED_USER).await;
    scene.sftp().tree().capacity = Some(1_000_000);
    assert_eq!(client.store("STOR file", &content(1_500_000, 1)).await.code, 552);
    assert_eq!(scene.names(), [""; 0]);
    scene.assert_usable(&mut client).await;
}

#[tokio::test]
async fn a_failed_read_is_451_and_looks_cut() {
    let scene = Scene::new(Profile::openssh()).await;
    let bytes = content(3_000_000, 1);
    scene.put("file", &bytes);
    let mut client = scene.client(MAPPED_USER).await;
    let long = Reply::Data(vec![vec![0; 300 * 1024].into()]);
    for then in [
        Then::Fail(StatusCode::FAILURE),
        Then::Fail(StatusCode::PERMISSION_DENIED),
        Then::Reply(long),
        Then::Reply(Reply::Handle(b"?"[..].into())),
        Then::Disconnect,
    ] {
        for nth in [0, 3] {
            scene.fault_at_next("READ", nth, then.clone());
            let mut data = begin(&mut client, "RETR file").await;
            let mut received = Vec::new();
            assert!(data.read_to_end(&mut received).await.is_err(), "{then:?}: no close_notify");
            client.expect(451).await;
            assert!(bytes.starts_with(&received) && received.len() < bytes.len(), "{then:?}");
            scene.heal();
            assert!(client.retrieve("file").await == bytes, "{then:?}");
        }
    }
}

#[tokio::test]
async fn an_end_of_file_before_the_end_is_451_and_looks_cut() {
    let scene = Scene::new(Profile::openssh()).await;
    let bytes = content(3_000_000, 1);
    scene.put("file", &bytes);
    let mut client = scene.client(MAPPED_USER).await;
    for (start, nth) in [(0, 0), (0, 2), (1_000_000, 2)] {
        scene.fault_at_next("READ", nth, Then::Fail(StatusCode::EOF));
        client.ask(format!("REST {start}"), 350).await;
        let mut data = begin(&mut client, "RETR file").await;
        let mut received = Vec::new();
        assert!(data.read_to_end(&mut received).await.is_err(), "READ {nth}: no close_notify");
        client.expect(451).await;
        assert!(bytes[start..].starts_with(&received) && received.len() < bytes.len() - start, "READ {nth}");
        scene.heal();
        let questions = scene.sftp().record().count("FSTAT");
        assert!(client.retrieve("file").await == bytes, "READ {nth}");
        assert_eq!(scene.sftp().record().count("FSTAT"), questions, "a whole file costs no further question");
    }
}

#[tokio::test]
async fn a_file_that_was_truncated_meanwhile_is_sent_as_it_is() {
    let scene = Scene::new(Profile::openssh()).await;
    let bytes = content(64 * 1024 * 1024, 1);
    scene.put("file", &bytes);
    let mut client = scene.client(MAPPED_USER).await;
    let mut data = begin(&mut client, "RETR file").await;
    let mut received = vec![0; 1_000_000];
    data.read_exact(&mut received).await.unwrap();
    let shorter = Attributes { size: Some(60 * 1024 * 1024), ..Attributes::default() };
    let node = scene.sftp().tree().find(&at_home("file"), true).unwrap();
    node.lock().unwrap().change(&shorter);
    data.read_to_end(&mut received).await.unwrap();
    client.expect(226).await;
    assert!(received == bytes[..60 * 1024 * 1024]);
}

#[tokio::test]
async fn replies_that_come_twice_never_change_a_byte() {
    for request in ["READ", "WRITE", "STAT", "LSTAT", "REALPATH", "OPEN", "CLOSE"] {
        let scene = Scene::new(Profile::openssh()).await;
        let bytes = content(1_000_000, 1);
        scene.put("old", &bytes);
        let mut client = scene.client(MAPPED_USER).await;
        scene.fault(When::Every(request), Then::Twice);
        let stored = client.store("STOR new", &bytes).await;
        assert!(stored.code != 226 || scene.file("new").unwrap() == bytes, "{request}");
        let (fetched, received) = client.fetch("RETR old").await;
        assert!(fetched.code != 226 || received == bytes, "{request}");
        scene.assert_usable(&mut client).await;
    }
}

#[tokio::test]
async fn a_silent_backend_is_450_after_its_time_and_abor_does_not_wait_for_it() {
    let sshd = ScriptedSshd::start(Script::new(Profile::openssh())).await;
    let (address, fingerprint) = sshd.address_and_fingerprint();
    let backends =
        format!("  files: {{address: \"{address}\", host_keys: [\"{fingerprint}\"], request_timeout: 300ms}}\n");
    let gateway = Gateway::start(&Setup { backends, ..sshd.setup() });
    let scene = Scene { sshd, gateway };
    scene.put("file", b"content");
    let mut client = scene.client(MAPPED_USER).await;
    for request in ["REALPATH", "STAT"] {
        scene.fault(When::Every(request), Then::Silence);
        assert_eq!(client.command("SIZE file").await.code, 450, "{request}");
        scene.heal();
        assert_eq!(client.command("SIZE file").await.code, 213, "{request}");
    }
    for request in ["WRITE", "CLOSE", "FSTAT"] {
        let mut data = begin(&mut client, "STOR new").await;
        scene.fault(When::Every(request), Then::Silence);
        let asked = scene.sftp().record().count(request);
        data.write_all(b"content").await.unwrap();
        end(data).await;
        scene.sftp().until(|record| record.count(request) > asked).await;
        abort(&mut client).await;
        scene.heal();
        eventually("no temporary file is left", || scene.names() == ["file"]).await;
    }
    let mut data = begin(&mut client, "RETR file").await;
    drop(data.shutdown().await);
    client.reply().await;
    scene.assert_usable(&mut client).await;
}

#[tokio::test]
async fn an_upload_that_is_all_there_is_stored_though_its_control_connection_is_lost() {
    let scene = Scene::new(Profile::openssh()).await;
    let mut client = scene.client(MAPPED_USER).await;
    let bytes = content(100_000, 1);
    let mut data = begin(&mut client, "STOR file").await;
    // Time for the loss to be noticed between the last byte and the last reply.
    scene.fault(When::Every("CLOSE"), Then::Late(Duration::from_millis(300)));
    data.write_all(&bytes).await.unwrap();
    data.shutdown().await.unwrap();
    scene.sftp().until(|record| record.count("CLOSE") > 0).await;
    drop(client);
    eventually("it is stored", || scene.names() == ["file"]).await;
    assert!(scene.file("file").unwrap() == bytes);
}

/// REST with the length of the file, and STOR.
const CONTINUED: &str = "STOR file after REST";

/// One upload with the backend lost at one request of its dialogue.
#[derive(Debug, Clone, Copy)]
struct Cut {
    kind: &'static str,
    user: &'static str,
    command: &'static str,
    existing: bool,
    /// The request is carried out before the loss.
    done: bool,
    /// Which request.
    nth: usize,
}

/// Carries it out; `false` when the dialogue was over before.
async fn upload_cut(scene: &Scene, client: &mut Client, cut: Cut) -> bool {
    let (old, new) = (content(40_000, 1), content(150_000, 2));
    let continues = cut.command == CONTINUED || cut.command.starts_with("APPE") && cut.existing;
    let whole = if continues { [&*old, &*new].concat() } else { new.clone() };
    if cut.existing {
        scene.put("file", &old);
    } else {
        let _ = scene.sftp().tree().remove(&at_home("file"));
    }
    let before = scene.sftp().record();
    let then = if cut.done { Then::DoneAndDisconnect } else { Then::Disconnect };
    scene.fault(When::Request(before.requests.len() + cut.nth), then);
    let started = Instant::now();
    let command = if cut.command == CONTINUED {
        assert_eq!(client.command(format!("REST {}", old.len())).await.code, 350);
        "STOR file"
    } else {
        cut.command
    };
    let reply = client.store(command, &new).await;
    assert!(started.elapsed() < LOSS_LIMIT * 2, "{cut:?}: {:?}", started.elapsed());
    scene.heal();
    let struck = scene.sftp().record().connections_ended > before.connections_ended
        || scene.sftp().record().requests.len() > before.requests.len() + cut.nth;

    let after = scene.file("file");
    if reply.code == 226 {
        assert!(after.as_ref() == Some(&whole), "{cut:?}: 226, and the file is not whole");
    } else {
        assert!([451, 450].contains(&reply.code), "{cut:?}: {}", reply.text());
    }
    // What is written in place over an old file is lost with it.
    let in_place = cut.user == DIRECT && cut.existing;
    let good = |file: &Option<Vec<u8>>| {
        file.as_ref() == Some(&whole) || if cut.existing { file.as_ref() == Some(&old) } else { file.is_none() }
    };
    if !in_place {
        // A server that cannot replace lets the old file step aside for a moment.
        let requests = scene.sftp().record().requests.split_off(before.requests.len());
        let length = after.as_ref().map(Vec::len);
        assert!(
            good(&after) || (cut.kind == "bare" && after.is_none()),
            "{cut:?}: a part under the final name ({length:?} bytes) after {reply:?} and {requests:?}"
        );
    }

    // The next command finds everything in order.
    assert_eq!(client.command("CWD /").await.code, 250, "{cut:?}");
    if !in_place {
        assert!(good(&scene.file("file")), "{cut:?}: the file did not come back");
    }
    let what = format!("{cut:?}: what was left behind is removed");
    eventually(&what, || scene.names().iter().all(|name| name == "file")).await;
    struck
}

#[tokio::test]
async fn no_loss_at_any_request_of_an_upload_makes_a_part_look_whole() {
    for (kind, profile) in [("openssh", Profile::openssh()), ("bare", Profile::bare())] {
        for keeps_connection in [false, true] {
            let scene = Scene::new(profile.clone()).await;
            if keeps_connection {
                scene.sshd.keep_connections();
            }
            for (user, command, existing) in [
                (MAPPED_USER, "STOR file", true),
                (MAPPED_USER, "STOR file", false),
                (MAPPED_USER, "APPE file", true),
                (MAPPED_USER, "APPE file", false),
                (MAPPED_USER, CONTINUED, true),
                (DIRECT, "STOR file", true),
                (DIRECT, "STOR file", false),
            ] {
                for done in [false, true] {
                    let mut client = scene.client(user).await;
                    // Both channels are there.
                    assert_eq!(client.store("STOR file", b"first").await.code, 226);
                    let mut nth = 0;
                    while upload_cut(&scene, &mut client, Cut { kind, user, command, existing, done, nth }).await {
                        nth += 1;
                        assert!(nth < 100, "the dialogue has no end");
                    }
                    assert!(nth >= 5, "{kind} {user} {command}: {nth} requests");
                }
            }
        }
    }
}

/// F-1, F-4: a server that dies and starts again refuses for a moment.
#[tokio::test]
async fn a_server_that_refuses_for_a_moment_is_asked_again_before_the_client_is_told() {
    let scene = Scene::new(Profile::openssh()).await;
    let (old, new) = (content(40_000, 1), content(150_000, 2));
    for (user, command, existing, request, reply, whole) in [
        (MAPPED_USER, "APPE file", true, "WRITE", 451, false),
        (DIRECT, "STOR file", false, "WRITE", 451, false),
        (MAPPED_USER, "STOR file", true, "posix-rename@openssh.com", 226, true),
    ] {
        let mut client = scene.client(user).await;
        assert_eq!(client.command("CWD /").await.code, 250);
        if existing {
            scene.put("file", &old);
        } else {
            let _ = scene.sftp().tree().remove(&at_home("file"));
        }
        scene.fault_at_next(request, 0, Then::DoneAndDisconnect);
        scene.sshd.refuse(1);
        let what = format!("{user} {command} {request}");
        assert_eq!(client.store(command, &new).await.code, reply, "{what}");
        scene.heal();
        assert_eq!(scene.sshd.to_refuse(), 0, "{what}");
        let after = scene.file("file");
        let expected = match whole {
            true => Some(new.clone()),
            false => existing.then(|| old.clone()),
        };
        assert!(after == expected, "{what}: {:?} bytes", after.map(|bytes| bytes.len()));
    }
}

#[tokio::test]
async fn no_loss_at_any_request_of_a_rename_loses_a_file() {
    for (kind, profile) in [("openssh", Profile::openssh()), ("bare", Profile::bare())] {
        let scene = Scene::new(profile).await;
        let mut client = scene.client(MAPPED_USER).await;
        for done in [false, true] {
            for nth in 0.. {
                scene.put("from", b"moved");
                scene.put("to", b"replaced");
                assert_eq!(client.command("RNFR from").await.code, 350);
                let before = scene.sftp().record().requests.len();
                let then = if done { Then::DoneAndDisconnect } else { Then::Disconnect };
                scene.fault(When::Request(before + nth), then);
                let reply = client.command("RNTO to").await;
                let over = scene.sftp().record().requests.len() <= before + nth;
                scene.heal();
                assert_eq!(client.command("CWD /").await.code, 250);
                let what = format!("{kind}, request {nth}, done: {done}: {}", reply.text());
                let (from, to) = (scene.file("from"), scene.file("to"));
                match reply.code {
                    250 => assert!(from.is_none() && to.as_deref() == Some(b"moved"), "{what}"),
                    450 | 451 => {
                        assert_eq!(from.as_deref(), Some(&b"moved"[..]), "{what}");
                        assert_eq!(to.as_deref(), Some(&b"replaced"[..]), "{what}");
                    }
                    _ => panic!("{what}"),
                }
                eventually("nothing else is left", || scene.names().iter().all(|name| name == "from" || name == "to"))
                    .await;
                let _ = scene.sftp().tree().remove(&at_home("from"));
                if over {
                    assert!(nth >= 3, "{what}");
                    break;
                }
            }
        }
    }
}

/// Where nothing is kept to connect again with, the next session of the same login puts right what was left: a file that has
/// stepped aside for its successor is nobody's loss.
#[tokio::test]
async fn what_a_session_cannot_put_right_is_put_right_by_the_next_one_of_its_login() {
    let sshd = ScriptedSshd::start(Script::new(Profile::bare())).await;
    let home = std::str::from_utf8(HOME).unwrap();
    let mut setup = sshd.setup();
    setup.users = format!("  \"*\": {{backend: files, login: passthrough-once, root: \"{home}\"}}\n");
    let scene = Scene { gateway: Gateway::start(&setup), sshd };
    let log_in = async || {
        let mut client = Client::explicit(&scene.gateway).await;
        client.log_in("somebody", "secret").await;
        client.ask("TYPE I", 200).await;
        client
    };
    for done in [false, true] {
        for nth in 0..2 {
            scene.put("file", b"what was there");
            let mut client = log_in().await;
            let then = if done { Then::DoneAndDisconnect } else { Then::Disconnect };
            scene.fault_at_next("RENAME", nth, then);
            let reply = client.store("STOR file", b"new").await;
            assert_eq!(reply.code, 451, "{done} {nth}: {}", reply.text());
            client.ask("SIZE file", 421).await;
            client.expect_closed().await;
            scene.heal();
            let mut next = log_in().await;
            next.ask("CWD /", 250).await;
            let what = format!("rename {nth}, done: {done}");
            let file = scene.file("file").unwrap_or_else(|| panic!("{what}: it is gone: {:?}", scene.names()));
            assert!([&b"what was there"[..], b"new"].contains(&&*file), "{what}");
            eventually("nothing else is left", || scene.names() == ["file"]).await;
        }
    }
}

/// RMD answers FAILURE for whatever reason: that the reason cannot be found out is not that there is no such directory.
#[tokio::test]
async fn a_directory_that_cannot_be_looked_at_is_not_a_missing_one() {
    let scene = Scene::new(Profile::openssh()).await;
    let mut client = scene.client(MAPPED_USER).await;
    client.ask("MKD folder", 257).await;
    scene.fault(When::Every("RMDIR"), Then::Fail(StatusCode::FAILURE));
    client.ask("RMD folder", 550).await;
    let failing = (When::Every("RMDIR"), Then::Fail(StatusCode::FAILURE));
    scene.sftp().script().faults = vec![failing, (When::Every("LSTAT"), Then::Disconnect)];
    let reply = client.command("RMD folder").await;
    assert!(!reply.text().contains("No such directory"), "{}", reply.text());
    scene.assert_usable(&mut client).await;
}

#[tokio::test]
async fn a_loss_before_a_transfer_begins_is_not_seen() {
    let scene = Scene::new(Profile::openssh()).await;
    let mut client = scene.client(MAPPED_USER).await;
    let bytes = content(50_000, 1);
    scene.put("file", &bytes);
    assert!(client.retrieve("file").await == bytes);
    for request in ["REALPATH", "STAT", "OPEN"] {
        scene.fault_at_next(request, 0, Then::Disconnect);
        assert!(client.retrieve("file").await == bytes, "{request}");
    }
    for request in ["REALPATH", "LSTAT", "OPEN"] {
        scene.fault_at_next(request, 0, Then::Disconnect);
        assert_eq!(client.store("STOR new", &bytes).await.code, 226, "{request}");
    }
    for request in ["REALPATH", "OPENDIR"] {
        scene.fault_at_next(request, 0, Then::Disconnect);
        let (reply, listing) = client.fetch("NLST").await;
        assert_eq!((reply.code, &*listing), (226, &b"file\r\nnew\r\n"[..]), "{request}");
    }
    // A backend that goes at every attempt is given up.
    scene.fault(When::Every("STAT"), Then::Disconnect);
    assert_eq!(client.command("SIZE file").await.code, 450);
    scene.assert_usable(&mut client).await;
    let Record { open_handles, .. } = scene.sftp().record();
    assert!(open_handles <= 1, "{open_handles} handles");
}

#[tokio::test]
async fn an_upload_in_place_that_is_undone_late_never_undoes_the_next_one() {
    let (old, broken, new) = (b"what was there".to_vec(), content(1_000_000, 1), content(700_000, 2));
    let lates: &[u64] = if is_full() { &[100, 450, 800, 1500] } else { &[800] };
    for late in lates.iter().copied().map(Duration::from_millis) {
        for (user, command, existing) in [
            (MAPPED_USER, "APPE file", true),
            (MAPPED_USER, CONTINUED, true),
            (DIRECT, "APPE file", true),
            (DIRECT, "STOR file", false),
        ] {
            for request in ["STAT", "SETSTAT", "REMOVE"] {
                let what = format!("{user}, {command}, {request} {late:?} late");
                let scene = Scene::new(Profile::openssh()).await;
                if existing {
                    scene.put("file", &old);
                }
                let mut client = scene.client(user).await;
                let mut data = begin_upload(&mut client, command, old.len()).await;
                data.write_all(&broken).await.unwrap();
                data.flush().await.unwrap();
                let whole = broken.len() + if existing { old.len() } else { 0 };
                // But for what waits to fill a WRITE.
                let most = whole - 128 * 1024;
                eventually("most of it is stored", || scene.file("file").is_some_and(|file| file.len() > most)).await;
                scene.fault_at_next(request, 0, Then::Late(late));
                reset(data);
                client.expect(426).await;

                // What the client does then.
                let restored = scene.file("file");
                let before = if command == "STOR file" { Vec::new() } else { restored.clone().unwrap_or_default() };
                if late < Duration::from_millis(1000) {
                    assert_eq!(restored, existing.then(|| old.clone()), "{what}: not undone");
                }
                let mut data = begin_upload(&mut client, command, before.len()).await;
                data.write_all(&new).await.unwrap();
                end(data).await;
                let reply = client.reply().await;
                assert_eq!(reply.code, 226, "{what}: {}", reply.text());
                tokio::time::sleep(late).await;
                assert!(scene.file("file") == Some([&*before, &*new].concat()), "{what}: 226, and it is not whole");
                scene.assert_usable(&mut client).await;
            }
        }
    }
}

/// [`begin`], for [`CONTINUED`] too.
async fn begin_upload(client: &mut Client, command: &str, length: usize) -> Data {
    if command != CONTINUED {
        return begin(client, command).await;
    }
    let address = client.passive().await;
    assert_eq!(client.command(format!("REST {length}")).await.code, 350);
    assert_eq!(client.command("STOR file").await.code, 150);
    let stream = client.connect(address).await;
    client.secure(stream).await.unwrap()
}

#[tokio::test]
async fn abor_while_an_upload_gets_its_name_is_told_what_became_of_it() {
    let late = |time| Then::Late(Duration::from_millis(time));
    for (profile, existing) in [(Profile::openssh(), true), (Profile::openssh(), false), (Profile::bare(), false)] {
        for then in [late(100), late(300), Then::Silence] {
            let scene = Scene::new(profile.clone()).await;
            let mut client = scene.client(MAPPED_USER).await;
            let rename = if profile.extensions.posix_rename { "posix-rename@openssh.com" } else { "RENAME" };
            let old = existing.then(|| b"what was there".to_vec());
            if let Some(old) = &old {
                scene.put("file", old);
            }
            let bytes = content(100_000, 1);
            let mut data = begin(&mut client, "STOR file").await;
            let asked = scene.sftp().record().count(rename);
            scene.fault_at_next(rename, 0, then.clone());
            data.write_all(&bytes).await.unwrap();
            end(data).await;
            scene.sftp().until(|record| record.count(rename) > asked).await;
            let aborted = Instant::now();
            client.send("ABOR").await;
            let reply = client.reply().await;
            client.expect(226).await;
            let what = format!("{rename}, existing: {existing}, {then:?}: {}", reply.text());
            assert!(aborted.elapsed() < ABOR_LIMIT, "{what}: {:?}", aborted.elapsed());
            let expected = match reply.code {
                226 => Some(bytes),
                426 => old,
                _ => panic!("{what}"),
            };
            assert!(scene.file("file") == expected, "{what}");
            eventually("no temporary file is left", || scene.names().iter().all(|name| name == "file")).await;
            scene.assert_usable(&mut client).await;
            assert!(scene.file("file") == expected, "{what}: afterwards");
        }
    }
}

#[tokio::test]
async fn abor_does_not_wait_for_a_server_that_cannot_replace_and_hangs() {
    for existing in [true, false] {
        for request in ["RENAME", "LSTAT"] {
            let scene = Scene::new(Profile::bare()).await;
            if existing {
                scene.put("file", b"what was there");
            }
            let mut client = scene.client(MAPPED_USER).await;
            let mut data = begin(&mut client, "STOR file").await;
            let renames = scene.sftp().record().count("RENAME");
            scene.fault(When::Every(request), Then::Silence);
            data.write_all(b"new").await.unwrap();
            end(data).await;
            scene.sftp().until(|record| record.count("RENAME") > renames).await;
            if request == "RENAME" || existing {
                abort(&mut client).await;
                assert_eq!(scene.file("file"), existing.then(|| b"what was there".to_vec()), "{request}");
            } else {
                client.expect(226).await;
                scene.heal();
                assert_eq!(client.command("DELE file").await.code, 250);
            }
            scene.heal();
            eventually("no temporary file is left", || scene.names().iter().all(|name| name == "file")).await;
            scene.assert_usable(&mut client).await;
        }
    }
}

#[tokio::test]
async fn an_upload_that_has_its_name_does_not_wait_for_an_older_part_to_be_removed() {
    let scene = Scene::new(Profile::openssh()).await;
    scene.put("file.part", b"older");
    let mut client = scene.client(KEEPER).await;
    scene.fault(When::Every("REMOVE"), Then::Silence);
    let asked = Instant::now();
    assert_eq!(client.store("STOR file", b"new").await.code, 226);
    assert!(asked.elapsed() < ABOR_LIMIT, "{:?}", asked.elapsed());
    scene.heal();
    let reply = client.command("SIZE file").await;
    assert!(reply.code == 213 && reply.text().ends_with(" 3"), "not of the part: {}", reply.text());
    assert_eq!(scene.names(), ["file"]);
    scene.assert_usable(&mut client).await;
}

/// Each WRITE of an upload fails in its turn, the last one too, behind which the client has ended its side already.
#[tokio::test]
async fn a_write_that_fails_at_any_place_leaves_the_old_state() {
    let (old, bytes) = (content(40_000, 1), content(1_500_000, 2));
    for (profile, step) in [(Profile::openssh(), 1), (Profile::bare(), if is_full() { 1 } else { 11 })] {
        for (user, command, existing) in [
            (MAPPED_USER, "STOR file", false),
            (MAPPED_USER, "STOR file", true),
            (MAPPED_USER, "APPE file", true),
            (MAPPED_USER, CONTINUED, true),
            (DIRECT, "STOR file", false),
            (DIRECT, "APPE file", true),
        ] {
            let scene = Scene::new(profile.clone()).await;
            let mut client = scene.client(user).await;
            let place = |scene: &Scene| {
                let _ = scene.sftp().tree().remove(&at_home("file"));
                if existing {
                    scene.put("file", &old);
                }
            };
            // How many there are.
            place(&scene);
            let before = scene.sftp().record().count("WRITE");
            let data = begin_upload(&mut client, command, old.len()).await;
            assert_eq!(finish(&mut client, data, &bytes).await, 226);
            let writes = scene.sftp().record().count("WRITE") - before;
            assert!(writes >= 12, "{writes}");
            for nth in (0..writes).step_by(step).chain([writes - 1]) {
                let what = format!("{user}, {command}, existing: {existing}, WRITE {nth} of {writes}");
                place(&scene);
                let data = begin_upload(&mut client, command, old.len()).await;
                scene.fault_at_next("WRITE", nth, Then::Fail(StatusCode::FAILURE));
                assert_eq!(finish(&mut client, data, &bytes).await, 451, "{what}");
                assert!(scene.file("file") == existing.then(|| old.clone()), "{what}");
                assert!(scene.names().iter().all(|name| name == "file"), "{what}");
                scene.assert_usable(&mut client).await;
            }
            scene.sftp().until(|record| record.open_handles == 0).await;
        }
    }
}

/// Sends it all, as far as it is taken, and ends it properly; the code of the final reply.
async fn finish(client: &mut Client, mut data: Data, bytes: &[u8]) -> u16 {
    let _ = async {
        data.write_all(bytes).await?;
        data.shutdown().await
    }
    .await;
    let _ = data.read_to_end(&mut Vec::new()).await;
    client.reply().await.code
}

#[tokio::test]
async fn a_close_that_fails_in_place_leaves_the_old_state() {
    let (old, bytes) = (content(40_000, 1), content(300_000, 2));
    for then in [Then::Fail(StatusCode::FAILURE), Then::DoneButFail(StatusCode::FAILURE)] {
        for (user, command, existing) in
            [(MAPPED_USER, "APPE file", true), (MAPPED_USER, CONTINUED, true), (DIRECT, "STOR file", false)]
        {
            let scene = Scene::new(Profile::openssh()).await;
            if existing {
                scene.put("file", &old);
            }
            let mut client = scene.client(user).await;
            let data = begin_upload(&mut client, command, old.len()).await;
            scene.fault(When::Every("CLOSE"), then.clone());
            assert_eq!(finish(&mut client, data, &bytes).await, 451, "{user}, {command}, {then:?}");
            assert!(scene.file("file") == existing.then(|| old.clone()), "{user}, {command}, {then:?}");
            scene.assert_usable(&mut client).await;
        }
    }
}

#[tokio::test]
async fn a_listing_that_fails_at_any_page_is_451_and_looks_cut() {
    let scene = Scene::new(Profile::openssh()).await;
    for number in 0..350 {
        scene.put(&format!("file {number}"), b"");
    }
    for command in ["MLSD", "LIST", "NLST"] {
        // Four pages, and the end.
        for nth in 1..5 {
            let mut client = scene.client(MAPPED_USER).await;
            scene.fault_at_next("READDIR", nth, Then::Fail(StatusCode::FAILURE));
            let mut data = begin(&mut client, command).await;
            let mut received = Vec::new();
            assert!(data.read_to_end(&mut received).await.is_err(), "{command}, page {nth}: no close_notify");
            client.expect(451).await;
            scene.assert_usable(&mut client).await;
        }
    }
}
