//! What an operator sees and does: audit records, the status, readiness, reload, drain, systemd, probe.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::support::client::Client;
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, MAPPED_USER, Setup};
use crate::support::real_clients::{Ran, run};
use crate::support::sshd::{PASSWORD, Sshd, USER};
use crate::support::tmpfs::Tmpfs;
use crate::support::transfer::{begin, content, end, eventually, names};

/// How long anything may take that is only waited for.
const PATIENCE: Duration = Duration::from_secs(30);

fn program(arguments: &[&str]) -> Ran {
    run(Command::new(env!("CARGO_BIN_EXE_ftps2sftp")).args(arguments))
}

/// Records of a file of JSON lines.
fn records(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

async fn status(gateway: &Gateway) -> Value {
    let (code, text) = gateway.get("/api/v1/status").await;
    assert_eq!(code, 200);
    serde_json::from_str(&text).unwrap()
}

/// The names of all fields, with `[]` behind those of lists.
fn collect_fields(at: &str, value: &Value, fields: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let dot = if at.is_empty() { "" } else { "." };
                collect_fields(&format!("{at}{dot}{name}"), value, fields);
            }
        }
        Value::Array(list) if list.iter().any(Value::is_object) => {
            list.iter().for_each(|value| collect_fields(&format!("{at}[]"), value, fields));
        }
        // An empty list tells of no fields.
        Value::Array(list) if list.is_empty() => {}
        _ => drop(fields.insert(at.to_owned())),
    }
}

#[tokio::test]
async fn who_came_what_was_moved_and_what_was_changed_is_recorded() {
    let sshd = Sshd::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (json, xferlog) = (folder.path().join("audit.jsonl"), folder.path().join("xferlog"));
    let audit = format!("audit: {{path: \"{}\", xferlog: \"{}\"}}\n", json.display(), xferlog.display());
    let gateway = Gateway::start(&Setup::backend(&sshd).with_users(&sshd.files()).with(&audit));
    let mut client = Client::implicit(&gateway).await;
    client.ask(format!("USER {MAPPED_USER}"), 331).await;
    client.ask("PASS wrong", 530).await;
    client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
    client.ask("TYPE I", 200).await;
    let long = format!("{} a\tb", "x".repeat(200));
    assert_eq!(client.store(&format!("STOR {long}"), &content(100_000, 1)).await.code, 226);
    assert_eq!(client.retrieve(&long).await.len(), 100_000);
    client.ask("MKD folder", 257).await;
    client.ask(format!("RNFR {long}"), 350).await;
    client.ask("RNTO folder/new", 250).await;
    client.ask("DELE absent", 550).await;
    sshd.kill_sessions();
    let mut data = begin(&mut client, "STOR broken").await;
    data.write_all(&content(1000, 1)).await.unwrap();
    eventually("the file is begun", || names(&sshd.files()).iter().any(|name| name.contains("broken"))).await;
    sshd.kill_sessions();
    client.expect(451).await;
    drop(data);
    eventually("all is written", || records(&json).len() >= 9).await;
    let records = records(&json);
    let text = |record: &Value, key: &str| record[key].as_str().unwrap_or_default().to_owned();
    let of = |event: &str| -> Vec<&Value> {
        records.iter().filter(|record| record["event.name"] == format!("ftps2sftp.{event}")).collect()
    };
    for record in &records {
        assert_eq!((&record["schema"], text(record, "client.address")), (&1.into(), "127.0.0.1".to_owned()));
        assert_eq!(
            (text(record, "listener"), text(record, "tls.protocol.version")),
            ("implicit".into(), "TLSv1.3".into())
        );
    }
    let logins: Vec<_> = of("login").iter().map(|record| text(record, "login.result")).collect();
    assert_eq!(logins, ["failure", "success"]);
    let transfers = of("transfer");
    let [up, down, broken] = transfers.as_slice() else { panic!("{transfers:?}") };
    for whole in [up, down] {
        assert_eq!(text(whole, "transfer.result"), "success");
        assert!(text(whole, "sftp.status").starts_with("OK"), "{whole}");
        assert!(whole["first_byte_s"].as_f64().unwrap() <= whole["duration_s"].as_f64().unwrap(), "{whole}");
        assert_eq!(text(whole, "file.path"), format!("/{} a\\tb", "x".repeat(200)));
        assert_eq!(
            (&whole["transfer.client_bytes"], &whole["transfer.backend_bytes"]),
            (&100_000.into(), &100_000.into())
        );
        assert_eq!(text(whole, "user.name"), MAPPED_USER);
        assert!(whole["duration_s"].as_f64().is_some());
    }
    assert_eq!((text(up, "ftp.direction"), text(down, "ftp.direction")), ("upload".into(), "download".into()));
    let digest = run(Command::new("sha256sum").arg(sshd.files().join("folder/new"))).output;
    assert_eq!(text(up, "transfer.digest"), digest.split_whitespace().next().unwrap());
    assert_eq!(text(up, "transfer.digest_algorithm"), "SHA-256");
    assert_eq!((text(broken, "transfer.result"), &broken["ftp.reply_code"]), ("backend_error".into(), &451.into()));
    assert!(text(broken, "exception.message").contains("backend"), "{broken}");
    let changes: Vec<_> = of("change")
        .iter()
        .map(|record| (text(record, "ftp.command"), text(record, "ftp.argument"), record["ftp.reply_code"].clone()))
        .collect();
    let change =
        |command: &str, argument: &str, code: u64| (command.to_owned(), argument.to_owned(), Value::from(code));
    assert!(changes.contains(&change("MKD", "folder", 257)), "{changes:?}");
    assert!(changes.contains(&change("RNTO", "folder/new", 250)), "{changes:?}");
    assert!(changes.contains(&change("DELE", "absent", 550)), "{changes:?}");

    let lines = fs::read_to_string(&xferlog).unwrap();
    let ends: Vec<_> = lines.lines().map(|line| line.split_once(" 127.0.0.1 ").unwrap().1.to_owned()).collect();
    let name = format!("/{}_a_b", "x".repeat(200));
    assert_eq!(
        ends,
        [
            format!("100000 {name} b _ i r {MAPPED_USER} ftp 0 * c"),
            format!("100000 {name} b _ o r {MAPPED_USER} ftp 0 * c"),
            format!("1000 /broken b _ i r {MAPPED_USER} ftp 0 * i"),
        ]
    );
    gateway.wait_for_metric("ftps2sftp_audit_records_total{sink=\"xferlog\",result=\"ok\"}", 3.0).await;
    // What moves the file away is followed.
    fs::rename(&json, folder.path().join("moved")).unwrap();
    client.ask("RMD absent", 550).await;
    eventually("the file is made anew", || self::records(&json).len() == 1).await;
}

#[tokio::test]
async fn the_status_tells_what_runs_and_what_went_wrong() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::logged_in(&gateway).await;
    client.ask("TYPE I", 200).await;
    let mut data = begin(&mut client, "STOR slow <b>&").await;
    data.write_all(&content(50_000, 1)).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let seen = loop {
        let seen = status(&gateway).await;
        if seen["transfers"][0]["bytes"] == 50_000 {
            break seen;
        }
        assert!(Instant::now() < deadline, "{seen}");
    };
    assert_eq!((&seen["state"], &seen["schema"]), (&"ready".into(), &1.into()));
    assert_eq!(seen["transfers"][0]["path"], "/slow <b>&");
    assert_eq!(seen["transfers"][0]["direction"], "upload");
    let session = &seen["sessions"][0];
    assert_eq!((&session["user"], &session["backend"]), (&MAPPED_USER.into(), &"files".into()));
    assert_eq!((&session["listener"], &session["transfer"]), (&"explicit".into(), &"upload".into()));
    assert_eq!((&seen["backends"][0]["name"], &seen["backends"][0]["up"]), (&"files".into(), &true.into()));
    assert!(seen["certificates"][0]["days_left"].as_f64().unwrap() > 1.0, "{seen}");
    assert!(seen["passive_ports"]["in_use"].as_u64().unwrap() <= seen["passive_ports"]["total"].as_u64().unwrap());
    let while_it_ran = seen;
    end(data).await;
    client.expect(226).await;
    let mut other = Client::explicit(&gateway).await;
    other.ask("USER nobody", 331).await;
    other.ask("PASS wrong", 530).await;
    let seen = status(&gateway).await;
    assert_eq!(seen["transfers"].as_array().unwrap().len(), 0);
    assert_eq!(seen["sessions"].as_array().unwrap().len(), 2);
    let mut fields = BTreeSet::new();
    for told in [&while_it_ran, &seen] {
        collect_fields("", told, &mut fields);
    }
    let document = include_str!("../../deploy/status-api.md");
    let documented: BTreeSet<String> =
        document.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned())).collect();
    // Nothing has been reloaded.
    let missing: Vec<_> =
        documented.symmetric_difference(&fields).filter(|field| !field.starts_with("reload")).collect();
    assert_eq!(missing, Vec::<&String>::new(), "deploy/status-api.md and the status differ");
    let failure = &seen["failures"][0];
    assert!(failure["what"].as_str().unwrap().starts_with("login failed"), "{failure}");
    assert_eq!(failure["count"], 1);
    drop((client, other));
    let deadline = Instant::now() + PATIENCE;
    while !status(&gateway).await["sessions"].as_array().unwrap().is_empty() {
        assert!(Instant::now() < deadline, "sessions that have ended are told");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (code, part) = gateway.get("/api/v1/backends").await;
    assert_eq!(code, 200);
    assert!(part.starts_with('['), "{part}");
}

#[tokio::test]
async fn readiness_needs_a_backend_only_where_it_is_told_to() {
    let sshd = Sshd::start().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = nobody.local_addr().unwrap();
    drop(nobody);
    let fingerprint = sshd.host_key_fingerprint("ed25519");
    let away = Setup::backend_at(closed, &fingerprint).with_users(Path::new("/"));
    let patient = Gateway::start(&away);
    assert_eq!(patient.get("/readyz").await.0, 200);
    let strict = "readiness_needs_backend: true";
    let gateway = Gateway::start(&Setup { admin: strict.to_owned(), ..away });
    let (code, text) = gateway.get("/readyz").await;
    assert_eq!((code, text.as_str()), (503, "not ready: a backend answers\n"));
    assert_eq!(gateway.get("/livez").await.0, 200);
    let here = Setup { admin: strict.to_owned(), ..Setup::backend(&sshd).with_users(Path::new("/")) };
    let gateway = Gateway::start(&here);
    let deadline = Instant::now() + PATIENCE;
    while gateway.get("/readyz").await.0 != 200 {
        assert!(Instant::now() < deadline, "it never becomes ready");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    gateway.wait_for_metric("ftps2sftp_backend_up{backend=\"files\"}", 1.0).await;
    let connects = gateway.metric("ftps2sftp_backend_connects_total{backend=\"files\",result=\"ok\"}").await;
    assert_eq!(connects, 0.0, "nobody has logged in");
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_says_whether_it_worked() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::start(&Setup::backend(&sshd).with_users(&sshd.files()));
    let file = gateway.file();
    // The port is a free one, so the file that reload reads names it.
    let told = fs::read_to_string(&file).unwrap();
    let beside = gateway.directory().join("told.yaml");
    let admin = format!("admin: {{address: \"{}\"", gateway.admin);
    fs::write(&beside, told.replace("admin: {address: \"127.0.0.1:0\"", &admin)).unwrap();
    let reload = || program(&["reload", "--config", beside.to_str().unwrap()]);
    let ran = reload();
    assert_eq!((ran.code, ran.output.as_str()), (Some(0), "reloaded: nothing had changed\n"), "{ran:?}");
    fs::write(&file, told.replace("users:\n", "users:\n  \"new\": {backend: files, login: passthrough}\n")).unwrap();
    let ran = reload();
    assert_eq!((ran.code, ran.output.as_str()), (Some(0), "reloaded: users\n"), "{ran:?}");
    fs::write(&file, told.replace("users:\n", "users:\n  \"new\": {backend: absent, login: passthrough}\n")).unwrap();
    let ran = reload();
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.errors.contains("users.new.backend") && ran.errors.contains("stays in use"), "{ran:?}");
    drop(gateway);
    let ran = reload();
    assert_eq!(ran.code, Some(2), "the configuration is gone: {ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_goes_all_the_way_and_says_where_it_fails() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let ca = gateway.certificate();
    let ca = ca.to_str().unwrap();
    let explicit = format!("ftp://{MAPPED_USER}:{MAPPED_PASSWORD}@localhost:{}", gateway.explicit.port());
    let implicit = format!("ftps://{MAPPED_USER}:{MAPPED_PASSWORD}@127.0.0.1:{}", gateway.implicit.port());
    for url in [&explicit, &implicit] {
        for more in [&[][..], &["--size", "0"], &["--size", "3000000"]] {
            let ran = program(&[&["probe", url, "--ca", ca], more].concat());
            assert_eq!(ran.code, Some(0), "{url} {more:?}: {ran:?}");
            assert_eq!(ran.output.lines().count(), 1, "{ran:?}");
            for step in ["ok: ", "login", "upload", "download", "list", "delete"] {
                assert!(ran.output.contains(step), "{step}: {ran:?}");
            }
        }
    }
    assert_eq!(names(&sshd.files()), Vec::<String>::new());
    let ran = program(&["probe", &implicit, "--ca", ca, "--login-only"]);
    assert!(ran.code == Some(0) && !ran.output.contains("upload"), "{ran:?}");
    for (scheme, port) in [("ftps", gateway.implicit.port()), ("ftpes", gateway.explicit.port())] {
        let ran = program(&["probe", &format!("{scheme}://localhost:{port}"), "--ca", ca, "--tls-only"]);
        assert!(ran.code == Some(0) && !ran.output.contains("login"), "{ran:?}");
    }
    let failed = |arguments: &[&str], words: &str| {
        let ran = program(&[&["probe"], arguments].concat());
        assert_eq!(ran.code, Some(1), "{arguments:?}: {ran:?}");
        assert!(ran.output.starts_with("failed: ") && ran.output.contains(words), "{arguments:?}: {ran:?}");
        assert!(!ran.output.contains(MAPPED_PASSWORD), "{ran:?}");
    };
    failed(&[&implicit.replace(MAPPED_PASSWORD, "wrong"), "--ca", ca], "login: the server said: 530");
    failed(&[&format!("{implicit}/absent"), "--ca", ca], "login: the server said: 550");
    failed(&[&implicit], "connect: ");
    failed(&[&format!("ftps://127.0.0.1:{}", gateway.explicit.port()), "--insecure"], "connect: ");
    failed(&["ftp://u:p@127.0.0.1:1", "--insecure"], "connect: ");
    let without = format!("ftps://{MAPPED_USER}@127.0.0.1:{}", gateway.implicit.port());
    failed(&[&without, "--insecure"], "login: the user has no password");
    let file = gateway.directory().join("password");
    fs::write(&file, format!("{MAPPED_PASSWORD}\n")).unwrap();
    let ran = program(&["probe", &without, "--insecure", "--password-file", file.to_str().unwrap()]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(program(&["probe", "http://x"]).code, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_whose_time_is_over_leaves_no_file() {
    let sshd = Sshd::start().await;
    let lines = format!("    root: \"{}\"\n    limits: {{rate: 1MiB/s}}\n", sshd.files().display());
    let gateway = Gateway::start(&Setup::backend(&sshd).with_user("slow", &lines));
    let url = format!("ftps://slow:{MAPPED_PASSWORD}@127.0.0.1:{}", gateway.implicit.port());
    // The time is over in the middle of the download; where this machine is slow, before.
    let ran = program(&["probe", &url, "--insecure", "--size", "2500000", "--timeout", "3"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.output.contains("load: not done within 3 s"), "{ran:?}");
    assert_eq!(gateway.log().matches("\"logged in\"").count(), 2, "one to go through, one to remove");
    eventually("nothing is left", || names(&sshd.files()).is_empty()).await;
}

/// What came over the socket that systemd would hold, without an end in sight.
fn told(socket: &UnixDatagram, wanted: &str) -> Vec<String> {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut all, mut buffer) = (Vec::new(), vec![0; 4096]);
    while !all.iter().any(|line: &String| line.starts_with(wanted)) {
        let count = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {wanted}: {error}, but {all:?}"));
        all.extend(std::str::from_utf8(&buffer[..count]).unwrap().lines().map(str::to_owned));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_and_its_sockets_are_taken() {
    let sshd = Sshd::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let port = folder.path().join("port");
    // systemd-socket-activate, in five lines.
    let hand_over = format!(
        "import os, socket, sys\ns = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(16)\n\
         open('{}', 'w').write(str(s.getsockname()[1])); os.dup2(s.fileno(), 3); os.set_inheritable(3, True)\n\
         os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='explicit', WATCHDOG_PID=str(os.getpid()))\n\
         os.execv(sys.argv[1], sys.argv[1:])",
        port.display()
    );
    let setup = Setup {
        wrapper: ["python3", "-c", &hand_over].map(str::to_owned).to_vec(),
        environment: vec![
            ("NOTIFY_SOCKET".to_owned(), path.display().to_string()),
            ("WATCHDOG_USEC".to_owned(), "10000000".to_owned()),
        ],
        ..Setup::backend(&sshd).with_users(&sshd.files())
    };
    let mut gateway = Gateway::start(&setup);
    assert_eq!(gateway.explicit.port().to_string(), fs::read_to_string(&port).unwrap());
    told(&socket, "READY=1");
    told(&socket, "WATCHDOG=1");
    let client = Client::logged_in(&gateway).await;
    told(&socket, "STATUS=ready, 1 sessions");
    gateway.signal("HUP");
    assert!(told(&socket, "MONOTONIC_USEC=").contains(&"RELOADING=1".to_owned()));
    told(&socket, "READY=1");
    gateway.signal("TERM");
    let all = told(&socket, "STOPPING=1");
    assert!(all.len() < 100);
    drop(client);
    assert!(gateway.wait().success());
}

/// Whoever was told 226 has its file; whoever was not has left nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_during_fifty_uploads_loses_none_and_leaves_no_part() {
    const UPLOADS: usize = 50;
    let sshd = Sshd::start().await;
    let mut gateway = Gateway::start(&Setup::backend(&sshd).with_users(&sshd.files()).with("shutdown: {drain: 3s}\n"));
    let bytes = content(400_000, 7);
    let mut uploads = Vec::new();
    for number in 0..UPLOADS {
        let mut client = Client::logged_in(&gateway).await;
        client.ask("TYPE I", 200).await;
        let mut data = begin(&mut client, &format!("STOR file{number}")).await;
        data.write_all(&bytes[..number * 4000]).await.unwrap();
        uploads.push((number, client, data));
    }
    gateway.signal("TERM");
    gateway.wait_for_log(|line| line.contains("\"draining\""));
    let ended = uploads.into_iter().map(async |(number, mut client, mut data)| {
        // Every third one is too slow.
        if number % 3 > 0 {
            data.write_all(&bytes[number * 4000..]).await.unwrap();
            end(data).await;
        }
        (number, client.reply().await.code)
    });
    let replies = futures_util::future::join_all(ended).await;
    assert!(gateway.wait().success());
    let mut stored: Vec<String> = Vec::new();
    for (number, code) in replies {
        assert_eq!(code, if number % 3 > 0 { 226 } else { 426 }, "file{number}");
        if code == 226 {
            stored.push(format!("file{number}"));
            assert!(fs::read(sshd.files().join(format!("file{number}"))).unwrap() == bytes, "file{number}");
        }
    }
    stored.sort();
    assert_eq!(names(&sshd.files()), stored);
}

/// While `shutdown.delay` runs nothing has changed for clients; a second signal ends all of it.
#[tokio::test(flavor = "multi_thread")]
async fn until_the_delay_is_over_clients_get_in_and_a_second_signal_ends_everything() {
    let sshd = Sshd::start().await;
    // Longer than anybody would wait.
    let times = "shutdown: {delay: 1h, drain: 1h}\n";
    let mut gateway = Gateway::start(&Setup::backend(&sshd).with_users(&sshd.files()).with(times));
    let mut early = Client::logged_in(&gateway).await;
    let mut data = begin(&mut early, "STOR early").await;
    data.write_all(&content(100_000, 1)).await.unwrap();
    gateway.signal("TERM");
    gateway.wait_for_log(|line| line.contains("\"draining\""));
    // Whoever sends clients here is told, and those it has sent meanwhile are served.
    assert_eq!(gateway.get("/readyz").await.0, 503);
    for tls in ["explicit", "implicit"] {
        let mut client =
            if tls == "explicit" { Client::explicit(&gateway).await } else { Client::implicit(&gateway).await };
        client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
        assert_eq!(client.store(format!("STOR {tls}"), b"content").await.code, 226);
        assert_eq!(client.retrieve(tls).await, b"content");
        early.ask("STAT", 211).await;
        client.ask("QUIT", 221).await;
    }
    gateway.signal("TERM");
    assert!(gateway.wait().success());
    early.expect(426).await;
    assert_eq!(names(&sshd.files()), ["explicit", "implicit"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_drain_early() {
    let sshd = Sshd::start().await;
    let times = "shutdown: {drain: 1h}\n";
    let mut gateway = Gateway::start(&Setup::backend(&sshd).with_users(&sshd.files()).with(times));
    let mut clients = Vec::new();
    for number in 0..5 {
        let mut client = Client::logged_in(&gateway).await;
        let mut data = begin(&mut client, &format!("STOR {number}")).await;
        data.write_all(&content(100_000, number)).await.unwrap();
        clients.push((client, data));
    }
    let mut idle = Client::logged_in(&gateway).await;
    gateway.signal("TERM");
    // Idle sessions go at once, and nobody new comes; whoever is at work goes on.
    idle.expect(421).await;
    idle.expect_closed().await;
    let deadline = Instant::now() + PATIENCE;
    while tokio::net::TcpStream::connect(gateway.explicit).await.is_ok() {
        assert!(Instant::now() < deadline, "it goes on listening");
    }
    let (mut first, mut data) = clients.pop().unwrap();
    data.write_all(&content(100_000, 9)).await.unwrap();
    end(data).await;
    first.expect(226).await;
    gateway.signal("INT");
    assert!(gateway.wait().success());
    for (mut client, _data) in clients {
        client.expect(426).await;
    }
    assert_eq!(names(&sshd.files()), ["4"]);
    gateway.wait_for_log(|line| line.contains("ending the sessions that are left"));
}

/// A log that nobody reads holds nothing up: what finds no room is counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_costs_records_and_nothing_else() {
    let sshd = Sshd::start().await;
    let setup =
        Setup { level: Some("trace".to_owned()), unread_log: true, ..Setup::backend(&sshd).with_users(&sshd.files()) };
    let mut gateway = Gateway::start(&setup);
    let large = content(64 << 20, 1);
    let dropped = "ftps2sftp_log_records_dropped_total";
    let (mut client, mut talking) = (Client::logged_in(&gateway).await, Client::logged_in(&gateway).await);
    client.ask("TYPE I", 200).await;
    let transfers = async {
        assert_eq!(client.store("STOR large", &large).await.code, 226);
        assert!(client.retrieve("large").await == large);
    };
    // A record or two for each command.
    let commands = async {
        let deadline = Instant::now() + PATIENCE;
        while gateway.metric(dropped).await == 0.0 {
            talking.send_raw("NOOP\r\n".repeat(1000).as_bytes()).await;
            for _ in 0..1000 {
                talking.expect(200).await;
            }
            assert!(Instant::now() < deadline, "all of them had room");
        }
    };
    tokio::join!(transfers, commands);
    let before = gateway.metric(dropped).await;
    assert_eq!(client.store("STOR large", &large).await.code, 226);
    let mut other = Client::logged_in(&gateway).await;
    assert_eq!(other.store("STOR small", b"content").await.code, 226);
    other.ask("QUIT", 221).await;
    assert!(gateway.metric(dropped).await > before);
    assert_eq!(fs::metadata(sshd.files().join("large")).unwrap().len(), large.len() as u64);
    // Nor the end.
    gateway.signal("TERM");
    assert!(gateway.wait().success());
}

/// A disk without room for audit records holds no transfer up; as soon as there is some, they are written again.
#[tokio::test(flavor = "multi_thread")]
async fn audit_records_that_find_no_room_are_counted_and_transfers_go_on() {
    let full = Tmpfs::mount("size=64k,mode=755");
    let sshd = Sshd::start().await;
    let (audit, xferlog) = (full.path().join("audit"), full.path().join("xferlog"));
    let lines = format!("audit: {{path: \"{}\", xferlog: \"{}\"}}\n", audit.display(), xferlog.display());
    let gateway = Gateway::start(&Setup::backend(&sshd).with_users(&sshd.files()).with(&lines));
    let records =
        |sink: &str, result: &str| format!("ftps2sftp_audit_records_total{{sink=\"{sink}\",result=\"{result}\"}}");
    let mut client = Client::logged_in(&gateway).await;
    gateway.wait_for_metric(&records("file", "ok"), 1.0).await;
    let filler = full.path().join("filler");
    // Every page of it, so that what there is of the files' own has no more room than they have taken.
    assert!(fs::write(&filler, vec![b'x'; 1 << 20]).is_err(), "it is full");
    let mut transfers = 0;
    let deadline = Instant::now() + PATIENCE;
    for (sink, least) in [("file", 20.0), ("xferlog", 20.0)] {
        while gateway.metric(&records(sink, "dropped")).await < least {
            let content = format!("transfer {transfers}");
            assert_eq!(client.store("STOR file", content.as_bytes()).await.code, 226);
            assert_eq!(client.retrieve("file").await, content.as_bytes());
            transfers += 1;
            assert!(Instant::now() < deadline, "{sink}: all of it had room");
        }
    }
    fs::remove_file(filler).unwrap();
    let text = |file: &Path| fs::read_to_string(file).unwrap();
    let before = text(&audit).lines().count();
    assert_eq!(client.store("STOR after", b"content").await.code, 226);
    eventually("they are written again", || text(&audit).contains("/after") && text(&xferlog).contains("/after")).await;
    // At most one of those that were cut is no record.
    let broken = text(&audit).lines().filter(|line| serde_json::from_str::<Value>(line).is_err()).count();
    assert!(broken <= 1, "{broken} of more than {before}:\n{}", text(&audit));
    assert_eq!(fs::read(sshd.files().join("after")).unwrap(), b"content");
}

#[test]
fn there_is_a_page_for_every_command_and_completions_for_every_shell() {
    let folder = tempfile::tempdir().unwrap();
    let ran = program(&["manual", folder.path().to_str().unwrap()]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let pages = names(folder.path());
    for command in ["", "-run", "-check", "-reload", "-probe", "-demo", "-hash-password", "-commands"] {
        let page = format!("ftps2sftp{command}.1");
        assert!(pages.contains(&page), "{page} in {pages:?}");
        assert!(fs::read_to_string(folder.path().join(&page)).unwrap().contains(".SH NAME"), "{page}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = program(&["completions", shell]);
        assert!(ran.code == Some(0) && ran.output.contains("hash-password"), "{shell}: {ran:?}");
    }
}

#[tokio::test]
async fn what_keeps_a_migration_from_ending_is_counted() {
    let sshd = Sshd::start().await;
    let setup = Setup::backend(&sshd).with_users(&sshd.files()).with("metrics: {per_user: true}\n");
    let gateway = Gateway::start(&setup);
    let mut client = Client::implicit(&gateway).await;
    client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
    client.ask("TYPE A", 200).await;
    client.ask("PASV", 227).await;
    assert_eq!(client.store("STOR text", b"a\r\n").await.code, 226);
    client.ask("QUIT", 221).await;
    let mut clear = Client::clear(&gateway).await;
    clear.ask(format!("USER {USER}"), 530).await;
    for feature in ["implicit_tls", "ascii", "plain_refused"] {
        gateway.wait_for_metric(&format!("ftps2sftp_legacy_use_total{{feature=\"{feature}\"}}"), 1.0).await;
    }
    let (_, metrics) = gateway.get("/metrics").await;
    let line = metrics.lines().find(|line| line.starts_with("ftps2sftp_user_last_login_timestamp_seconds{"));
    assert!(line.is_some_and(|line| line.contains(MAPPED_USER)), "{line:?}");
    let mut other = Client::implicit(&gateway).await;
    other.log_in(USER, PASSWORD).await;
    let (_, metrics) = gateway.get("/metrics").await;
    assert_eq!(
        metrics.matches("ftps2sftp_user_last_login_timestamp_seconds{").count(),
        1,
        "passthrough users are any number"
    );
    for series in [
        "ftps2sftp_backend_requests_total{backend=\"files\",op=\"write\",status=\"ok\"}",
        "ftps2sftp_backend_request_duration_seconds_count{backend=\"files\",class=\"data\"}",
        "ftps2sftp_tls_certificate_not_after_timestamp_seconds{listener=\"implicit\"}",
        "ftps2sftp_backend_last_success_timestamp_seconds{backend=\"files\"}",
        "ftps2sftp_sessions_limit{listener=\"explicit\"}",
        "ftps2sftp_transfer_first_byte_seconds_count{direction=\"upload\"}",
    ] {
        assert!(metrics.lines().any(|line| line.starts_with(series)), "{series}");
    }
}
