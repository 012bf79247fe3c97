//! How uploads and downloads use a backend: in few round trips, beside what is there, and with what broken ones leave.

use std::fs;
use std::process::Command;
use std::time::Duration;

use ftps2sftp::sftp::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::client::Client;
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, Setup};
use crate::support::scripted_sftp::tree::HOME;
use crate::support::scripted_sftp::{Profile, Script, Then, When};
use crate::support::scripted_sshd::ScriptedSshd;
use crate::support::sshd::Sshd;
use crate::support::transfer::{begin, content, eventually, names, temporaries};

/// Long enough for a flight to leave whole on a busy machine.
const LATENCY: Duration = Duration::from_millis(100);

/// Below a root of its own, so that links are checked.
const ATOMIC: &str = "atomic";
const DIRECT: &str = "direct";
/// `broken_upload: keep`
const KEEPER: &str = "keeper";

fn with_users(setup: Setup, root: &str) -> Setup {
    let lines = |policy: &str| format!("    root: \"{root}\"\n    policy: {{{policy}}}\n");
    setup
        .with_user(ATOMIC, &lines(""))
        .with_user(DIRECT, &lines("upload: direct"))
        .with_user(KEEPER, &lines("broken_upload: keep"))
}

async fn log_in(gateway: &Gateway, user: &str) -> Client {
    let mut client = Client::explicit(gateway).await;
    client.log_in(user, MAPPED_PASSWORD).await;
    assert_eq!(client.command("TYPE I").await.code, 200);
    client
}

struct Scene {
    sshd: ScriptedSshd,
    gateway: Gateway,
}

impl Scene {
    async fn new(profile: Profile) -> Self {
        Self::with_quirks(profile, "").await
    }

    async fn with_quirks(profile: Profile, quirks: &str) -> Self {
        let sshd = ScriptedSshd::start(Script::new(profile)).await;
        let (address, fingerprint) = sshd.address_and_fingerprint();
        let backends =
            format!("  files: {{address: \"{address}\", host_keys: [\"{fingerprint}\"], quirks: [{quirks}]}}\n");
        let setup = Setup { backends, ..sshd.setup() };
        let gateway = Gateway::start(&with_users(setup, std::str::from_utf8(HOME).unwrap()));
        Self { sshd, gateway }
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        self.sshd.sftp().tree().put_file(at_home(name), bytes);
    }

    fn file(&self, name: &str) -> Option<Vec<u8>> {
        self.sshd.sftp().tree().file(at_home(name))
    }

    fn names(&self) -> Vec<String> {
        let prefix = at_home("");
        let names = self.sshd.sftp().tree().names();
        let below = names.iter().filter_map(|name| name.strip_prefix(&*prefix));
        below.map(|name| String::from_utf8(name.to_vec()).unwrap()).collect()
    }

    /// Forgets what was seen.
    fn flights(&self) -> Vec<Vec<&'static str>> {
        let mut flights = self.sshd.sftp().record().flights;
        // A CLOSE that nobody waits for is no round trip.
        flights.retain(|flight| flight.iter().any(|request| *request != "CLOSE"));
        flights
    }
}

fn at_home(name: &str) -> Vec<u8> {
    [HOME, b"/", name.as_bytes()].concat()
}

#[tokio::test]
async fn nothing_takes_more_round_trips_than_it_must() {
    let scene = Scene::new(Profile::openssh()).await;
    let small = content(4096, 1);
    scene.put("there", &small);
    for (user, command, most) in [
        (ATOMIC, "STOR new", 3),
        (ATOMIC, "STOR there", 3),
        (DIRECT, "STOR direct", 2),
        (DIRECT, "STOR direct", 2),
        (ATOMIC, "APPE there", 3),
        (ATOMIC, "RETR new", 2),
        (ATOMIC, "NLST", 2),
        (ATOMIC, "LIST", 2),
        (ATOMIC, "MLSD", 2),
        (ATOMIC, "SIZE new", 1),
        (ATOMIC, "MDTM new", 1),
        (ATOMIC, "CWD /", 1),
        (KEEPER, "SIZE new", 1),
        (KEEPER, "STOR kept", 3),
    ] {
        let mut client = log_in(&scene.gateway, user).await;
        // What is asked once in a session: the server's limits, and where the root is.
        assert_eq!(client.store("STOR first", &small).await.code, 226);
        scene.sshd.sftp().script().latency = LATENCY;
        let before = scene.flights().len();
        match command.split(' ').next().unwrap() {
            "STOR" | "APPE" => assert_eq!(client.store(command, &small).await.code, 226, "{command}"),
            "RETR" | "NLST" | "LIST" | "MLSD" => assert_eq!(client.fetch(command).await.0.code, 226, "{command}"),
            _ => assert!((200..300).contains(&client.command(command).await.code), "{command}"),
        }
        let flights = scene.flights().split_off(before);
        scene.sshd.sftp().script().latency = Duration::ZERO;
        assert_eq!(flights.len(), most, "{user}, {command}: {flights:?}");
    }
}

#[tokio::test]
async fn what_was_made_in_haste_is_undone() {
    let sshd = Sshd::start().await;
    let root = sshd.files().join("root");
    fs::create_dir(sshd.place_directory("root").join("folder")).unwrap();
    let outside = sshd.place_directory("outside");
    std::os::unix::fs::symlink(&outside, root.join("leads out")).unwrap();
    assert!(Command::new("mkfifo").arg(root.join("pipe")).status().unwrap().success());
    let setup = with_users(Setup::backend(&sshd), root.to_str().unwrap());
    let lines = format!("    root: \"{}\"\n    permissions: [list, read, write]\n", root.display());
    let gateway = Gateway::start(&setup.with_user("careful", &lines));
    for user in [ATOMIC, DIRECT, KEEPER, "careful"] {
        let mut client = log_in(&gateway, user).await;
        assert_eq!(client.store(format!("STOR by {user}"), b"mine").await.code, 226);
        assert_eq!(client.store("STOR folder", b"no").await.code, 553, "{user}");
        assert_eq!(client.store("STOR leads out/new", b"no").await.code, 553, "{user}");
        assert_eq!(client.fetch("RETR folder").await.0.code, 550, "{user}");
        if user == "careful" {
            assert_eq!(client.store("STOR by careful", b"no").await.code, 553);
            assert_eq!(fs::read(root.join("by careful")).unwrap(), b"mine");
        }
        // A FIFO waits for its other end: nothing else does.
        assert_eq!(client.fetch("RETR pipe").await.0.code, 550, "{user}");
        assert_eq!(client.store("STOR pipe", b"no").await.code, 553, "{user}");
        assert_eq!(client.retrieve(format!("by {user}")).await, b"mine", "{user}");
        assert_eq!(names(&outside), [""; 0], "{user}");
        assert_eq!(temporaries(&root), [""; 0], "{user}");
        assert_eq!(client.command("QUIT").await.code, 221);
    }
    // No server of theirs is left waiting at the FIFO.
    eventually("all sessions end", || sshd.session_processes().is_empty()).await;
}

/// Sends `bytes` and breaks off: TCP ends, and TLS did not.
async fn break_off(client: &mut Client, command: &str, bytes: &[u8]) {
    let mut data = begin(client, command).await;
    data.write_all(bytes).await.unwrap();
    data.flush().await.unwrap();
    data.get_mut().0.shutdown().await.unwrap();
    let reply = client.reply().await;
    assert_eq!(reply.code, 426, "{}", reply.text());
}

async fn size(client: &mut Client, name: &str) -> usize {
    let reply = client.command(format!("SIZE {name}")).await;
    assert_eq!(reply.code, 213, "{}", reply.text());
    reply.text().trim().rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_broken_upload_is_kept_and_resumed() {
    let whole = content(3_000_000, 1);
    for profile in [Profile::openssh(), Profile::bare()] {
        for existing in [false, true] {
            for resume in ["APPE file", "STOR file"] {
                let scene = Scene::new(profile.clone()).await;
                if existing {
                    scene.put("file", b"old");
                }
                let mut client = log_in(&scene.gateway, KEEPER).await;
                break_off(&mut client, "STOR file", &whole[..2_000_000]).await;
                let expected: &[&str] = if existing { &["file", "file.part"] } else { &["file.part"] };
                eventually("the part is kept", || scene.names() == expected).await;
                assert_eq!(scene.file("file"), existing.then(|| b"old".to_vec()));
                let kept = size(&mut client, "file").await;
                assert_eq!(kept, 2_000_000);
                assert!(scene.file("file.part").unwrap() == whole[..kept]);

                // Broken once more: no byte of it is lost, none is there twice.
                client = log_in(&scene.gateway, KEEPER).await;
                if resume == "STOR file" {
                    assert_eq!(client.command(format!("REST {kept}")).await.code, 350);
                }
                break_off(&mut client, resume, &whole[kept..kept + 500_000]).await;
                eventually("the part is kept", || scene.names() == expected).await;
                let kept = size(&mut client, "file").await;
                assert_eq!(kept, 2_500_000);
                assert!(scene.file("file.part").unwrap() == whole[..kept]);

                if resume == "STOR file" {
                    assert_eq!(client.command(format!("REST {}", whole.len())).await.code, 350);
                    assert_eq!(client.store(resume, b"").await.code, 554);
                    // From before its end: what is beyond that goes.
                    assert_eq!(client.command(format!("REST {}", kept - 1000)).await.code, 350);
                    assert_eq!(client.store(resume, &whole[kept - 1000..]).await.code, 226);
                } else {
                    assert_eq!(client.store(resume, &whole[kept..]).await.code, 226);
                }
                assert!(scene.file("file").unwrap() == whole);
                assert_eq!(scene.names(), ["file"]);
                assert_eq!(size(&mut client, "file").await, whole.len());
            }
        }
    }
}

#[tokio::test]
async fn a_whole_upload_makes_an_older_part_void() {
    let scene = Scene::new(Profile::openssh()).await;
    let mut client = log_in(&scene.gateway, KEEPER).await;
    break_off(&mut client, "STOR file", &content(1_000_000, 1)).await;
    eventually("the part is kept", || scene.names() == ["file.part"]).await;
    // A fetch is of the whole file or of none.
    assert_eq!(client.fetch("RETR file").await.0.code, 550);
    assert_eq!(client.store("STOR file", b"another").await.code, 226);
    assert_eq!(scene.names(), ["file"]);
    // Nothing came: there is nothing to keep, and an older part stays.
    scene.put("file.part", b"part");
    let mut data = begin(&mut client, "STOR file").await;
    data.get_mut().0.shutdown().await.unwrap();
    client.expect(426).await;
    eventually("only the part stays", || scene.names() == ["file", "file.part"]).await;
    assert_eq!(scene.file("file.part").unwrap(), b"part");
}

#[tokio::test]
async fn a_part_is_kept_over_the_loss_of_the_backend() {
    let scene = Scene::new(Profile::openssh()).await;
    let whole = content(3_000_000, 1);
    let mut client = log_in(&scene.gateway, KEEPER).await;
    let mut data = begin(&mut client, "STOR file").await;
    let writes = scene.sshd.sftp().record().count("WRITE");
    scene.sshd.sftp().script().faults = vec![(When::Nth("WRITE", writes + 10), Then::Disconnect)];
    let _ = data.write_all(&whole).await;
    let mut rest = Vec::new();
    let _ = data.read_to_end(&mut rest).await;
    client.expect(451).await;
    scene.sshd.sftp().script().faults.clear();
    let kept = size(&mut client, "file").await;
    assert!(kept > 0);
    assert_eq!(scene.names(), ["file.part"]);
    assert_eq!(client.store("APPE file", &whole[kept..]).await.code, 226);
    assert!(scene.file("file").unwrap() == whole);
}

#[tokio::test]
async fn a_part_ends_before_a_write_that_failed_though_later_ones_are_stored() {
    let whole = content(3_000_000, 1);
    for profile in [Profile::openssh(), Profile::bare()] {
        let scene = Scene::new(profile).await;
        let mut client = log_in(&scene.gateway, KEEPER).await;
        let mut data = begin(&mut client, "STOR file").await;
        let writes = scene.sshd.sftp().record().count("WRITE");
        {
            let mut script = scene.sshd.sftp().script();
            // Many are under way at a time.
            script.latency = LATENCY;
            script.faults = vec![(When::Nth("WRITE", writes + 2), Then::Fail(StatusCode::FAILURE))];
        }
        let _ = data.write_all(&whole).await;
        let mut rest = Vec::new();
        let _ = data.read_to_end(&mut rest).await;
        client.expect(451).await;
        {
            let mut script = scene.sshd.sftp().script();
            script.latency = Duration::ZERO;
            script.faults.clear();
        }
        eventually("the part is kept", || scene.names() == ["file.part"]).await;
        let kept = size(&mut client, "file").await;
        assert!(kept > 0 && kept < 1_000_000, "{kept}");
        assert!(scene.file("file.part").unwrap() == whole[..kept]);
        assert_eq!(client.store("APPE file", &whole[kept..]).await.code, 226);
        assert!(scene.file("file").unwrap() == whole);
    }
}

#[tokio::test]
async fn what_a_server_cannot_do_is_not_asked_of_it() {
    let bytes = content(100_000, 1);
    let scene =
        Scene::with_quirks(Profile::openssh(), "no-rename, no-setstat, no-fsync, no-stat-after-close, no-append").await;
    for user in [ATOMIC, DIRECT, KEEPER] {
        let mut client = log_in(&scene.gateway, user).await;
        scene.sshd.sftp().script().faults =
            ["RENAME", "posix-rename@openssh.com", "SETSTAT", "FSETSTAT", "fsync@openssh.com", "FSTAT", "STAT"]
                .map(|request| (When::Every(request), Then::Fail(StatusCode::FAILURE)))
                .to_vec();
        for _ in 0..2 {
            assert_eq!(client.store("STOR file", &bytes).await.code, 226, "{user}");
            assert!(scene.file("file").unwrap() == bytes, "{user}");
        }
        assert_eq!(client.store("STOR file", b"short").await.code, 226, "{user}");
        assert_eq!(scene.file("file").unwrap(), b"short", "{user}");
        assert_eq!(client.store("APPE file", &bytes).await.code, 502, "{user}");
        assert_eq!(scene.names(), ["file"], "{user}");
    }
}

#[tokio::test]
async fn a_folder_that_takes_no_new_names_is_553_with_the_setting_that_helps() {
    let sshd = Sshd::start().await;
    let root = sshd.place_directory("root");
    let gateway = Gateway::start(&with_users(Setup::backend(&sshd), root.to_str().unwrap()));
    sshd.place_file("root/drop", b"old");
    let mut permissions = fs::metadata(&root).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o555);
    fs::set_permissions(&root, permissions).unwrap();
    let mut client = log_in(&gateway, ATOMIC).await;
    assert_eq!(client.store("STOR drop", b"new").await.code, 553);
    gateway.wait_for_log(|log| log.contains("policy.upload: direct"));
    let mut client = log_in(&gateway, DIRECT).await;
    assert_eq!(client.store("STOR drop", b"new").await.code, 226);
    assert_eq!(fs::read(root.join("drop")).unwrap(), b"new");
}

#[tokio::test]
async fn what_a_killed_gateway_left_goes_when_it_is_stale() {
    let sshd = Sshd::start().await;
    let root = sshd.place_directory("root");
    let gateway = Gateway::start(&with_users(Setup::backend(&sshd), root.to_str().unwrap()));
    let digits = "0123456789abcdef0123456789abcdef";
    let fresh = format!(".a.{digits}.f2s-part");
    let old = |name: &str, content: &str| {
        let file = sshd.place_file(format!("root/{name}"), content);
        assert!(Command::new("touch").args(["-d", "2 days ago"]).arg(&file).status().unwrap().success());
    };
    sshd.place_file(format!("root/{fresh}"), "under way");
    old(&format!(".b.{digits}.f2s-part"), "stale");
    // The only copy of a file whose successor did not come.
    old(&format!(".only.{digits}.f2s-aside"), "only copy");
    old(&format!(".there.{digits}.f2s-aside"), "replaced");
    sshd.place_file("root/there", "new");
    old(".mine.f2s-part", "a client's own");
    let mut client = log_in(&gateway, ATOMIC).await;
    assert_eq!(client.store("STOR new", b"new").await.code, 226);
    assert_eq!(client.command("QUIT").await.code, 221);
    let mut left = vec![fresh, ".mine.f2s-part".to_owned(), "new".to_owned(), "only".to_owned(), "there".to_owned()];
    left.sort();
    eventually("what is stale is gone", || names(&root) == left).await;
    assert_eq!(fs::read(root.join("only")).unwrap(), b"only copy");
    assert_eq!(fs::read(root.join("there")).unwrap(), b"new");
    end_of_all(&sshd).await;
}

async fn end_of_all(sshd: &Sshd) {
    eventually("all sessions end", || sshd.session_processes().is_empty()).await;
}
