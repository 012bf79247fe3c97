//! How uploads and downloads use a backend: in few round trips, beside what is there, and with what broken ones leave.

use std::fs;
use std::process::Command;
use std::time::Duration;

use ftps2sftp::sftp::wire::extensions::{FSYNC, POSIX_RENAME};
use ftps2sftp::sftp::wire::packet::Reply;
use ftps2sftp::sftp::{Attributes, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::support::client::Client;
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, Setup};
use crate::support::scripted_sftp::tree::{HOME, MODIFIED};
use crate::support::scripted_sftp::{Profile, Script, ScriptedSftp, Then, When};
use crate::support::scripted_sshd::ScriptedSshd;
use crate::support::sshd::Sshd;
use crate::support::transfer::{ABOR_LIMIT, abort, begin, content, end, eventually, names, temporaries};

/// Long enough for a flight to leave whole on a busy machine.
const LATENCY: Duration = Duration::from_millis(100);

/// Below a root of its own, so that links are checked.
const ATOMIC: &str = "atomic";
const DIRECT: &str = "direct";
/// `broken_upload: keep`
const KEEPER: &str = "keeper";
/// The same, without the permission to replace files.
const CAREFUL: &str = "careful keeper";

fn with_users(setup: Setup, root: &str) -> Setup {
    let lines = |policy: &str| format!("    root: \"{root}\"\n    policy: {{{policy}}}\n");
    setup
        .with_user(ATOMIC, &lines(""))
        .with_user(DIRECT, &lines("upload: direct"))
        .with_user(KEEPER, &lines("broken_upload: keep"))
        .with_user(CAREFUL, &format!("{}    permissions: [list, read, write, rename]\n", lines("broken_upload: keep")))
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

    fn sftp(&self) -> &ScriptedSftp {
        self.sshd.sftp()
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        self.sftp().tree().put_file(at_home(name), bytes);
    }

    fn file(&self, name: &str) -> Option<Vec<u8>> {
        self.sftp().tree().file(at_home(name))
    }

    fn names(&self) -> Vec<String> {
        let prefix = at_home("");
        let names = self.sftp().tree().names();
        let below = names.iter().filter_map(|name| name.strip_prefix(&*prefix));
        below.map(|name| String::from_utf8(name.to_vec()).unwrap()).collect()
    }

    /// Forgets what was seen.
    fn flights(&self) -> Vec<Vec<&'static str>> {
        let mut flights = self.sftp().record().flights;
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
        scene.sftp().script().latency = LATENCY;
        let before = scene.flights().len();
        match command.split(' ').next().unwrap() {
            "STOR" | "APPE" => assert_eq!(client.store(command, &small).await.code, 226, "{command}"),
            "RETR" | "NLST" | "LIST" | "MLSD" => assert_eq!(client.fetch(command).await.0.code, 226, "{command}"),
            _ => assert!((200..300).contains(&client.command(command).await.code), "{command}"),
        }
        let flights = scene.flights().split_off(before);
        scene.sftp().script().latency = Duration::ZERO;
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
    // As long as the new file, so that nothing but its content tells what was continued.
    let old = content(whole.len(), 9);
    for profile in [Profile::openssh(), Profile::bare(), Profile::windows_like()] {
        for existing in [false, true] {
            for resume in ["APPE file", "STOR file"] {
                let scene = Scene::new(profile.clone()).await;
                if existing {
                    scene.put("file", &old);
                }
                let mut client = log_in(&scene.gateway, KEEPER).await;
                break_off(&mut client, "STOR file", &whole[..2_000_000]).await;
                let expected: &[&str] = if existing { &["file", "file.part"] } else { &["file.part"] };
                eventually("the part is kept", || scene.names() == expected).await;
                assert!(scene.file("file") == existing.then(|| old.clone()));
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
async fn what_is_stopped_in_the_last_rename_is_kept_whole() {
    let scene = Scene::new(Profile::openssh()).await;
    let (old, whole) = (content(1000, 1), content(500_000, 2));
    scene.put("file", &old);
    let mut client = log_in(&scene.gateway, KEEPER).await;
    scene.sftp().script().faults = vec![(When::Nth(POSIX_RENAME, 0), Then::Silence)];
    let mut data = begin(&mut client, "STOR file").await;
    data.write_all(&whole).await.unwrap();
    end(data).await;
    eventually("the name is asked for", || scene.sftp().record().count(POSIX_RENAME) == 1).await;
    abort(&mut client).await;
    assert_eq!(scene.names(), ["file", "file.part"]);
    assert!(scene.file("file").unwrap() == old);
    assert!(scene.file("file.part").unwrap() == whole);
    client.ask(&format!("REST {}", whole.len()), 350).await;
    assert_eq!(client.store("STOR file", b"").await.code, 226);
    assert!(scene.file("file").unwrap() == whole);
    assert_eq!(scene.names(), ["file"]);
}

#[tokio::test]
async fn abor_is_answered_while_it_is_found_out_whether_an_upload_is_stored() {
    let scene = Scene::new(Profile::openssh()).await;
    let mut client = log_in(&scene.gateway, ATOMIC).await;
    scene.sftp().script().faults =
        vec![(When::Nth(POSIX_RENAME, 0), Then::Disconnect), (When::Every("REMOVE"), Then::Silence)];
    let mut data = begin(&mut client, "STOR file").await;
    data.write_all(b"all of it").await.unwrap();
    end(data).await;
    eventually("it is asked over another connection", || scene.sftp().record().count("REMOVE") == 1).await;
    let asked = Instant::now();
    client.send("ABOR").await;
    client.expect(426).await;
    client.expect(226).await;
    assert!(asked.elapsed() < ABOR_LIMIT);
    scene.sftp().script().faults.clear();
    assert_eq!(client.store("STOR file", b"again").await.code, 226);
    assert_eq!(scene.file("file").unwrap(), b"again");
}

#[tokio::test]
async fn an_upload_in_place_may_follow_a_broken_one_at_once() {
    let scene = Scene::new(Profile::openssh()).await;
    scene.put("file", &content(10_000, 1));
    // The answers to what was written last are under way when the upload breaks.
    scene.sftp().script().latency = Duration::from_millis(50);
    for command in ["STOR file", "APPE file"] {
        let mut broken = log_in(&scene.gateway, DIRECT).await;
        let mut other = log_in(&scene.gateway, DIRECT).await;
        break_off(&mut broken, command, &content(1_000_000, 2)).await;
        assert_eq!(other.store(command, b"whole").await.code, 226, "{command}");
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
    let writes = scene.sftp().record().count("WRITE");
    let (acknowledged, rest) = whole.split_at(1_000_000);
    data.write_all(acknowledged).await.unwrap();
    scene.sftp().until(|record| record.count("WRITE") > writes).await;
    // What a loss overtakes is not acknowledged, and without an acknowledgement there is nothing to keep.
    scene.gateway.wait_for_metric("ftps2sftp_backend_requests_in_flight{backend=\"files\"}", 0.0).await;
    let writes = scene.sftp().record().count("WRITE");
    scene.sftp().script().faults = vec![(When::Nth("WRITE", writes + 3), Then::Disconnect)];
    let _ = data.write_all(rest).await;
    let _ = data.read_to_end(&mut Vec::new()).await;
    client.expect(451).await;
    scene.sftp().script().faults.clear();
    let kept = size(&mut client, "file").await;
    assert!(kept > 0);
    assert_eq!(scene.names(), ["file.part"]);
    assert_eq!(client.store("APPE file", &whole[kept..]).await.code, 226);
    assert!(scene.file("file").unwrap() == whole);
}

#[tokio::test]
async fn what_is_kept_ends_before_a_write_that_failed() {
    let whole = content(3_000_000, 1);
    let scene = Scene::new(Profile::openssh()).await;
    let mut client = log_in(&scene.gateway, KEEPER).await;
    // Whatever is in flight behind it is stored.
    scene.sftp().script().latency = Duration::from_millis(50);
    let writes = scene.sftp().record().count("WRITE");
    scene.sftp().script().faults = vec![(When::Nth("WRITE", writes + 2), Then::Fail(StatusCode::FAILURE))];
    let mut data = begin(&mut client, "STOR file").await;
    let _ = data.write_all(&whole).await;
    client.expect(451).await;
    scene.sftp().script().faults.clear();
    eventually("the part is kept", || scene.names() == ["file.part"]).await;
    let kept = size(&mut client, "file").await;
    assert!(kept > 0);
    assert!(scene.file("file.part").unwrap() == whole[..kept]);
    assert!(scene.sftp().record().count("WRITE") > writes + 3, "more was in flight");
    assert_eq!(client.store("APPE file", &whole[kept..]).await.code, 226);
    assert!(scene.file("file").unwrap() == whole);
}

#[tokio::test]
async fn a_part_is_void_when_another_file_takes_its_name() {
    for profile in [Profile::openssh(), Profile::bare()] {
        let scene = Scene::new(profile).await;
        let mut client = log_in(&scene.gateway, KEEPER).await;
        break_off(&mut client, "STOR file", &content(1_000_000, 1)).await;
        eventually("the part is kept", || scene.names() == ["file.part"]).await;
        assert_eq!(client.store("STOR file.new", b"whole").await.code, 226);
        client.ask_all(&[("RNFR file.new", 350), ("RNTO file", 250)]).await;
        assert_eq!(size(&mut client, "file").await, 5);
        assert_eq!(scene.names(), ["file"]);
        assert_eq!(client.store("APPE file", b", appended").await.code, 226);
        assert_eq!(scene.file("file").unwrap(), b"whole, appended");
        // A folder has no parts.
        scene.put("folder.part", b"a file");
        client.ask_all(&[("MKD new", 257), ("RNFR new", 350), ("RNTO folder", 250)]).await;
        assert_eq!(scene.names(), ["file", "folder", "folder.part"]);
    }
}

#[tokio::test]
async fn a_part_that_is_older_than_its_name_is_void() {
    for resume in ["APPE file", "STOR file"] {
        let scene = Scene::new(Profile::openssh()).await;
        let mut client = log_in(&scene.gateway, KEEPER).await;
        scene.put("file.part", b"an older part of it");
        scene.put("file", b"whole");
        scene.sftp().tree().date(at_home("file"), MODIFIED + 1);
        assert_eq!(size(&mut client, "file").await, 5);
        if resume == "STOR file" {
            client.ask("REST 5", 350).await;
        }
        assert_eq!(client.store(resume, b", appended").await.code, 226);
        assert_eq!(scene.file("file").unwrap(), b"whole, appended");
        assert_eq!(client.store("STOR file", b"new").await.code, 226);
        assert_eq!(scene.names(), ["file"]);
        // Of the same second it may be what broke last.
        scene.put("file.part", b"part");
        scene.sftp().tree().date(at_home("file"), MODIFIED);
        assert_eq!(size(&mut client, "file").await, 4);
        assert_eq!(client.store("APPE file", b", resumed").await.code, 226);
        assert_eq!(scene.file("file").unwrap(), b"part, resumed");
        assert_eq!(scene.names(), ["file"]);
    }
}

#[tokio::test]
async fn a_part_that_is_void_goes_though_the_backend_is_lost() {
    for (request, then) in
        [("REMOVE", Then::Disconnect), ("REMOVE", Then::DoneAndDisconnect), (POSIX_RENAME, Then::DoneAndDisconnect)]
    {
        let scene = Scene::new(Profile::openssh()).await;
        let mut client = log_in(&scene.gateway, KEEPER).await;
        scene.put("file.part", b"part");
        scene.sftp().script().faults = vec![(When::Nth(request, 0), then.clone())];
        assert_eq!(client.store("STOR file", b"whole").await.code, 226, "{request}, {then:?}");
        assert_eq!(size(&mut client, "file").await, 5, "{request}, {then:?}");
        assert_eq!(scene.names(), ["file"], "{request}, {then:?}");
    }
    // Where the new file did not get its name, the part is as good as before.
    let scene = Scene::new(Profile::openssh()).await;
    let mut client = log_in(&scene.gateway, KEEPER).await;
    scene.put("file.part", b"part");
    scene.sftp().script().faults = vec![(When::Nth(POSIX_RENAME, 0), Then::Disconnect)];
    assert_eq!(client.store("STOR file", b"whole").await.code, 451);
    assert_eq!(size(&mut client, "file").await, 4);
    assert_eq!(scene.names(), ["file.part"]);
}

#[tokio::test]
async fn no_part_is_touched_without_the_permission_to_replace_files() {
    for profile in [Profile::openssh(), Profile::bare()] {
        let scene = Scene::new(profile).await;
        scene.put("file.part", b"of somebody else");
        let mut client = log_in(&scene.gateway, CAREFUL).await;
        break_off(&mut client, "STOR file", &content(1_000_000, 1)).await;
        eventually("nothing of it is kept", || scene.names() == ["file.part"]).await;
        client.ask_all(&[("SIZE file", 550), ("REST 3", 350)]).await;
        assert_eq!(client.store("STOR file", b"no").await.code, 554);
        assert_eq!(client.store("APPE file", b"mine").await.code, 226);
        assert_eq!(client.store("STOR other", b"mine").await.code, 226);
        scene.put("renamed.part", b"of somebody else");
        client.ask_all(&[("RNFR other", 350), ("RNTO renamed", 250)]).await;
        assert_eq!(scene.names(), ["file", "file.part", "renamed", "renamed.part"]);
        assert_eq!(scene.file("file").unwrap(), b"mine");
        assert_eq!(scene.file("file.part").unwrap(), b"of somebody else");
    }
}

#[tokio::test]
async fn nothing_is_kept_or_continued_on_a_server_that_cannot_cut_a_file_or_write_at_an_offset() {
    for (quirk, restart) in [("no-setstat", 554), ("no-append", 554)] {
        let scene = Scene::with_quirks(Profile::openssh(), quirk).await;
        scene.put("file.part", b"part");
        let mut client = log_in(&scene.gateway, KEEPER).await;
        scene.sftp().script().faults = ["SETSTAT", "FSETSTAT"]
            .map(|request| (When::Every(request), Then::Fail(StatusCode::OP_UNSUPPORTED)))
            .to_vec();
        client.ask_all(&[("SIZE file", 550), ("REST 3", 350)]).await;
        assert_eq!(client.store("STOR file", b"no").await.code, restart, "{quirk}");
        break_off(&mut client, "STOR file", &content(1_000_000, 1)).await;
        eventually("nothing of it is kept", || scene.names() == ["file.part"]).await;
        assert_eq!(client.store("STOR file", b"whole").await.code, 226, "{quirk}");
        assert_eq!(scene.file("file").unwrap(), b"whole", "{quirk}");
        assert_eq!(scene.file("file.part").unwrap(), b"part", "{quirk}");
    }
}

#[tokio::test]
async fn a_resume_that_never_begins_leaves_the_part_as_it_is() {
    let part = content(2_000_000, 1);
    let scene = Scene::new(Profile::openssh()).await;
    scene.put("file.part", &part);
    scene.sftp().tree().date(at_home("file.part"), MODIFIED + 7);
    let mut client = log_in(&scene.gateway, KEEPER).await;
    for how in ["no port", "no TLS", "ABOR", "lost"] {
        let address = if how == "no port" { None } else { Some(client.passive().await) };
        client.ask("REST 10", 350).await;
        match address {
            None => drop(client.ask("STOR file", 425).await),
            Some(address) => {
                client.ask("STOR file", 150).await;
                match how {
                    "no TLS" => {
                        client.connect(address).await.write_all(b"in clear").await.unwrap();
                        client.expect(522).await;
                    }
                    "ABOR" => abort(&mut client).await,
                    _ => client = log_in(&scene.gateway, KEEPER).await,
                }
            }
        }
        eventually("the part is back", || scene.names() == ["file.part"]).await;
        assert_eq!(size(&mut client, "file").await, part.len(), "{how}");
        assert!(scene.file("file.part").unwrap() == part, "{how}");
    }
}

#[tokio::test]
async fn nothing_is_continued_whose_length_the_server_does_not_tell() {
    let scene = Scene::new(Profile::openssh()).await;
    let permissions = Some(0o100_644);
    let told = Then::Reply(Reply::Attributes(Attributes { permissions, ..Attributes::default() }));
    for (user, name) in [(ATOMIC, "file"), (DIRECT, "file"), (KEEPER, "file")] {
        scene.put(name, b"old");
        let mut client = log_in(&scene.gateway, user).await;
        scene.sftp().script().faults = vec![(When::Every("LSTAT"), told.clone())];
        assert_eq!(client.store("APPE file", b"new").await.code, 550, "{user}, {name}");
        client.ask("REST 3", 350).await;
        assert_eq!(client.store("STOR file", b"new").await.code, 550, "{user}, {name}");
        assert_eq!(scene.file(name).unwrap(), b"old", "{user}, {name}");
        scene.sftp().script().faults.clear();
    }
}

#[tokio::test]
async fn what_a_server_cannot_do_is_not_asked_of_it() {
    let bytes = content(100_000, 1);
    let scene =
        Scene::with_quirks(Profile::openssh(), "no-rename, no-setstat, no-fsync, no-stat-after-close, no-append").await;
    for user in [ATOMIC, DIRECT, KEEPER] {
        let mut client = log_in(&scene.gateway, user).await;
        scene.sftp().script().faults = ["RENAME", POSIX_RENAME, "SETSTAT", "FSETSTAT", FSYNC, "FSTAT", "STAT"]
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
async fn each_quirk_keeps_its_requests_back_and_nothing_else_does() {
    let (old, new) = (content(50_000, 9), content(100_000, 1));
    for (quirk, requests) in [
        ("no-rename", &["RENAME", POSIX_RENAME][..]),
        ("no-setstat", &["SETSTAT", "FSETSTAT"]),
        ("no-fsync", &[FSYNC]),
        ("no-stat-after-close", &["STAT"]),
    ] {
        for quirks in ["", quirk] {
            let scene = Scene::with_quirks(Profile::openssh(), quirks).await;
            let mut asked = Vec::new();
            for user in [ATOMIC, DIRECT, KEEPER] {
                scene.put("file", &old);
                let mut client = log_in(&scene.gateway, user).await;
                // A length that is not told over the handle is asked for by name.
                scene.sftp().script().faults = vec![(When::Every("FSTAT"), Then::Fail(StatusCode::FAILURE))];
                let before = scene.sftp().record().requests.len();
                assert_eq!(client.store("STOR file", &new).await.code, 226, "{quirk}, {user}");
                asked.extend(scene.sftp().record().requests.split_off(before));
                assert!(scene.file("file").unwrap() == new, "{quirk}, {user}");
            }
            let is_asked = requests.iter().any(|request| asked.contains(request));
            assert_eq!(is_asked, quirks.is_empty(), "{quirk}: {asked:?}");
        }
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
