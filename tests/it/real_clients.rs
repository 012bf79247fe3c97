//! Real clients through the gateway to a real OpenSSH server: curl, lftp, wget, and the FTP libraries of Python, Perl,
//! PHP, Ruby, Java and JavaScript.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::gateway::{Gateway, MAPPED_PASSWORD, Setup};
use crate::support::real_clients::{
    Answer, Library, Ran, Resumption, Session, Tls, VERSIONS, assert_same, content, curl, curl_with, desk, ftplib,
    lftp, lftp_with, run, tree, wget, wget_url,
};
use crate::support::sshd::Sshd;

/// How long something may take that is only waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A file on the server that belongs to the user there.
fn place(sshd: &Sshd, name: &str, bytes: &[u8]) -> PathBuf {
    let path = sshd.files().join(name);
    fs::write(&path, bytes).unwrap();
    let metadata = fs::metadata(sshd.files()).unwrap();
    let (user, group) =
        (std::os::unix::fs::MetadataExt::uid(&metadata), std::os::unix::fs::MetadataExt::gid(&metadata));
    chown(&path, Some(user), Some(group)).unwrap();
    path
}

fn empty(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            fs::remove_dir_all(entry.path()).unwrap();
        } else {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

/// Direction and bytes of every transfer that was complete, in order.
fn transfers(gateway: &Gateway) -> Vec<(String, u64)> {
    let log = gateway.log();
    log.lines()
        .filter(|line| line.contains("\"transfer complete\""))
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|record| {
            (record["ftp.direction"].as_str().unwrap().to_owned(), record["transfer.bytes"].as_u64().unwrap())
        })
        .collect()
}

/// Replies in a `curl --verbose` trace.
fn replies(trace: &str) -> Vec<u16> {
    trace.lines().filter_map(|line| line.strip_prefix("< ")?.get(..4)?.strip_suffix(' ')?.parse().ok()).collect()
}

#[tokio::test]
async fn curl_sends_and_fetches_under_either_start_and_version_of_tls() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let desk = desk();
    for tls in Tls::BOTH {
        for version in [["--tlsv1.2", "--tls-max", "1.2"], ["--tlsv1.3", "--tls-max", "1.3"]] {
            for size in [0, 1, 300_000] {
                let bytes = content(size, usize::try_from(size).unwrap());
                fs::write(desk.path().join("up.bin"), &bytes).unwrap();
                let url = format!("{}/file.bin", tls.url(&gateway));
                run(curl(&gateway, desk.path()).args(version).args(["-T", "up.bin", &url])).succeeded();
                assert_eq!(fs::read(sshd.files().join("file.bin")).unwrap(), bytes, "{tls:?} {version:?}");
                run(curl(&gateway, desk.path()).args(version).args(["-o", "down.bin", &url])).succeeded();
                assert_eq!(fs::read(desk.path().join("down.bin")).unwrap(), bytes, "{tls:?} {version:?}");
                // PASV, as clients without RFC 2428 do it.
                let pasv = ["--ftp-pasv", "--disable-epsv", "-o", "down.bin", &url];
                run(curl(&gateway, desk.path()).args(version).args(pasv)).succeeded();
                assert_eq!(fs::read(desk.path().join("down.bin")).unwrap(), bytes, "{tls:?} {version:?}");
                empty(desk.path());
                empty(&sshd.files());
            }
        }
    }
    let log = gateway.log();
    assert!(log.contains("\"TLSv1.2\"") && log.contains("\"TLSv1.3\""), "the versions were not what was asked for");
}

#[tokio::test]
async fn curl_resumes_uploads_and_downloads_where_they_ended() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let desk = desk();
    let bytes = content(1, 1_000_000);
    for tls in Tls::BOTH {
        let url = format!("{}/file.bin", tls.url(&gateway));
        fs::write(desk.path().join("whole.bin"), &bytes).unwrap();
        place(&sshd, "file.bin", &bytes[..400_000]);
        curl_with(&gateway, desk.path(), &["-C", "-", "-T", "whole.bin", &url]).succeeded();
        assert_eq!(fs::read(sshd.files().join("file.bin")).unwrap(), bytes, "{tls:?}");
        fs::write(desk.path().join("part.bin"), &bytes[..300_000]).unwrap();
        curl_with(&gateway, desk.path(), &["-C", "-", "-o", "part.bin", &url]).succeeded();
        assert_eq!(fs::read(desk.path().join("part.bin")).unwrap(), bytes, "{tls:?}");
        // Nothing is left to do, and that is no failure.
        curl_with(&gateway, desk.path(), &["-C", "-", "-o", "part.bin", &url]).succeeded();
        assert_eq!(fs::read(desk.path().join("part.bin")).unwrap(), bytes, "{tls:?}");
        // `--append` is APPE too, and grows whatever is there.
        curl_with(&gateway, desk.path(), &["--append", "-T", "part.bin", &url]).succeeded();
        assert_eq!(fs::metadata(sshd.files().join("file.bin")).unwrap().len(), 2_000_000, "{tls:?}");
    }
    let moved: Vec<_> = transfers(&gateway);
    for resumed in [("upload".to_owned(), 600_000), ("download".to_owned(), 700_000)] {
        assert_eq!(moved.iter().filter(|transfer| **transfer == resumed).count(), 2, "{moved:?}");
    }
}

#[tokio::test]
async fn curl_lists_names_and_long_lines() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let desk = desk();
    let names = ["-dash", ".hidden", "grüße 日本", "plain", "two  spaces", &"x".repeat(255)];
    for name in names {
        place(&sshd, name, name.as_bytes());
    }
    fs::create_dir(sshd.files().join("a directory")).unwrap();
    for tls in Tls::BOTH {
        let url = format!("{}/", tls.url(&gateway));
        let listed = run(curl(&gateway, desk.path()).args(["--list-only", "-o", "names", &url]));
        listed.succeeded();
        let listed = fs::read_to_string(desk.path().join("names")).unwrap();
        let mut listed: Vec<&str> = listed.lines().collect();
        listed.sort_unstable();
        let mut expected: Vec<&str> = names.into_iter().chain(["a directory"]).collect();
        expected.sort_unstable();
        assert_eq!(listed, expected, "{tls:?}");

        curl_with(&gateway, desk.path(), &["-o", "lines", &url]).succeeded();
        let lines = fs::read_to_string(desk.path().join("lines")).unwrap();
        assert_eq!(lines.lines().count(), expected.len(), "{lines}");
        for name in names {
            let line = lines.lines().find(|line| line.ends_with(&format!(" {name}"))).expect(name);
            assert!(line.starts_with("-rw"), "{line}");
            assert!(line.split_whitespace().any(|field| field == name.len().to_string()), "{line}");
        }
        assert!(lines.lines().any(|line| line.starts_with("drwx") && line.ends_with(" a directory")), "{lines}");

        // An empty directory is an empty listing, not a failure.
        let url = format!("{}/a%20directory/", tls.url(&gateway));
        assert_eq!(curl_with(&gateway, desk.path(), &["--list-only", &url]).succeeded(), "");
        assert_eq!(curl_with(&gateway, desk.path(), &[&url]).succeeded(), "");
        // Size and time without the content.
        let head = curl_with(&gateway, desk.path(), &["--head", &format!("{}/plain", tls.url(&gateway))]).succeeded();
        assert!(head.contains("Content-Length: 5\r\n") && head.contains("Last-Modified: "), "{head}");
    }
}

#[tokio::test]
async fn curl_takes_a_range_and_the_gateway_answers_the_broken_download_once() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let desk = desk();
    // More than all buffers on the way hold: the download cannot be complete before curl has seen enough.
    let bytes = content(2, 32_000_000);
    place(&sshd, "long.bin", &bytes);
    for tls in Tls::BOTH {
        let url = format!("{}/long.bin", tls.url(&gateway));
        let ran = curl_with(&gateway, desk.path(), &["-v", "-r", "0-99", "-o", "one", &url, "-o", "two", &url]);
        let trace = ran.errors.clone();
        ran.succeeded();
        for part in ["one", "two"] {
            assert_eq!(fs::read(desk.path().join(part)).unwrap(), &bytes[..100], "{tls:?}");
        }
        let after: Vec<u16> = replies(&trace).into_iter().filter(|code| [150, 426, 226].contains(code)).collect();
        // Opened; broken off; and curl's ABOR, with nothing left to abort. For each of the two.
        assert_eq!(after, [150, 426, 226, 150, 426, 226], "{trace}");

        curl_with(&gateway, desk.path(), &["-r", "31000000-31000999", "-o", "one", &url]).succeeded();
        assert_eq!(fs::read(desk.path().join("one")).unwrap(), &bytes[31_000_000..31_001_000], "{tls:?}");
        curl_with(&gateway, desk.path(), &["-r", "-500", "-o", "one", &url]).succeeded();
        assert_eq!(fs::read(desk.path().join("one")).unwrap(), &bytes[31_999_500..], "{tls:?}");
    }
}

#[tokio::test]
async fn curl_creates_directories_and_renames_and_deletes() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let desk = desk();
    fs::write(desk.path().join("up.bin"), "content").unwrap();
    for tls in Tls::BOTH {
        let url = tls.url(&gateway);
        let deep = format!("{url}/a/b%20c/%C3%BC/file.bin");
        curl_with(&gateway, desk.path(), &["--ftp-create-dirs", "-T", "up.bin", &deep]).succeeded();
        assert_eq!(fs::read(sshd.files().join("a/b c/ü/file.bin")).unwrap(), b"content", "{tls:?}");
        for method in ["multicwd", "singlecwd", "nocwd"] {
            let fetched = curl_with(&gateway, desk.path(), &["--ftp-method", method, &deep]).succeeded();
            assert_eq!(fetched, "content", "{tls:?} {method}");
        }
        let top = format!("{url}/");
        let rename = ["-Q", "RNFR /a/b c/ü/file.bin", "-Q", "RNTO /moved.bin", "--list-only", &top];
        let listed = curl_with(&gateway, desk.path(), &rename).succeeded();
        assert_eq!(listed.lines().collect::<BTreeSet<_>>(), ["a", "moved.bin"].into(), "{tls:?}");
        // After the transfer: fetched, then deleted.
        let fetched = curl_with(&gateway, desk.path(), &["-Q", "-DELE moved.bin", &format!("{url}/moved.bin")]);
        assert_eq!(fetched.succeeded(), "content", "{tls:?}");
        let remove = ["-Q", "RMD /a/b c/ü", "-Q", "RMD a/b c", "-Q", "RMD a", "--list-only", &top];
        assert_eq!(curl_with(&gateway, desk.path(), &remove).succeeded(), "", "{tls:?}");
        // CURLE_QUOTE_ERROR
        curl_with(&gateway, desk.path(), &["-Q", "DELE missing", &top]).failed(21);
        assert_eq!(fs::read_dir(sshd.files()).unwrap().count(), 0, "{tls:?}");
    }
}

#[tokio::test]
async fn curl_fails_where_it_should() {
    const REMOTE_ACCESS_DENIED: i32 = 9;
    const UPLOAD_FAILED: i32 = 25;
    const PEER_FAILED_VERIFICATION: i32 = 60;
    const LOGIN_DENIED: i32 = 67;
    const REMOTE_FILE_NOT_FOUND: i32 = 78;

    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let desk = desk();
    fs::write(desk.path().join("up.bin"), "content").unwrap();
    fs::create_dir(sshd.files().join("directory")).unwrap();
    for tls in Tls::BOTH {
        let url = tls.url(&gateway);
        let failed = |arguments: &[&str], code| {
            let arguments: Vec<&str> = arguments.iter().copied().chain(["-v"]).collect();
            let trace = curl_with(&gateway, desk.path(), &arguments).failed(code);
            assert!(!replies(&trace).contains(&150), "{arguments:?}: {trace}");
            replies(&trace)
        };
        assert!(failed(&[&format!("{url}/missing/")], REMOTE_ACCESS_DENIED).contains(&550));
        assert!(failed(&["--list-only", &format!("{url}/missing/")], REMOTE_ACCESS_DENIED).contains(&550));
        assert!(failed(&[&format!("{url}/missing/file")], REMOTE_ACCESS_DENIED).contains(&550));
        assert!(failed(&[&format!("{url}/missing")], REMOTE_FILE_NOT_FOUND).contains(&550));
        // RETR of a directory, and a listing of what is not there.
        assert!(failed(&[&format!("{url}/directory")], REMOTE_FILE_NOT_FOUND).contains(&550));
        assert!(
            failed(&["-X", "MLSD missing", &format!("{url}/")], 19).contains(&550),
            "CURLE_FTP_COULDNT_RETR_FILE for MLSD"
        );
        assert!(failed(&["-T", "up.bin", &format!("{url}/missing/file")], REMOTE_ACCESS_DENIED).contains(&550));
        assert!(failed(&["-T", "up.bin", &format!("{url}/directory")], UPLOAD_FAILED).contains(&553));
        assert!(failed(&["-u", "acme:wrong", &format!("{url}/")], LOGIN_DENIED).contains(&530));
        let untrusting =
            curl_with(&gateway, desk.path(), &["--cacert", "/dev/null", "--capath", "/", &format!("{url}/")]);
        assert!([Some(PEER_FAILED_VERIFICATION), Some(77)].contains(&untrusting.code), "{untrusting:?}");
    }
    // Without TLS the user name is refused already: the password never leaves the client.
    let url = format!("ftp://{}/", gateway.explicit);
    let mut clear = crate::support::real_clients::program("curl", "curl", desk.path());
    let trace = run(clear.args(["-q", "-sS", "-v", "-u", "acme:canary", &url])).failed(LOGIN_DENIED);
    assert!(trace.contains("< 530 ") && !trace.contains("> PASS"), "{trace}");
    assert!(fs::read_dir(sshd.files()).unwrap().count() == 1);
}

#[tokio::test]
async fn curl_moves_many_small_files_over_one_control_connection() {
    const FILES: usize = 200;
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let desk = desk();
    for (session, tls) in Tls::BOTH.into_iter().enumerate() {
        let (out, back) = (desk.path().join("out"), desk.path().join("back"));
        for directory in [&out, &back] {
            let _ = fs::remove_dir_all(directory);
            fs::create_dir(directory).unwrap();
        }
        for number in 1..=FILES {
            fs::write(out.join(format!("file{number}")), number.to_string()).unwrap();
        }
        let url = tls.url(&gateway);
        let connections = |arguments: &[&str]| {
            let mut command = curl(&gateway, desk.path());
            // With NOOP between its files: curl 7.88 waits for a second whenever the answer to EPSV is there before it
            // looks, which is a matter of luck.
            let output = run(command.args(["-Q", "NOOP", "-w", "%{num_connects}\\n"]).args(arguments)).succeeded();
            let counts: Vec<usize> = output.lines().map(|line| line.parse().unwrap()).collect();
            assert_eq!(counts.len(), FILES);
            // The data connection of each, and one control connection.
            assert_eq!(counts.iter().sum::<usize>(), FILES + 1, "{counts:?}");
        };
        let names: Vec<String> = (1..=FILES).map(|number| format!("out/file{number}")).collect();
        connections(&["-T", &format!("{{{}}}", names.join(",")), &format!("{url}/")]);
        connections(&["-o", "back/file#1", &format!("{url}/file[1-{FILES}]")]);
        assert_same(&out, &back);
        assert_same(&out, &sshd.files());
        let logins = gateway.log().matches("\"logged in\"").count();
        assert_eq!(logins, 2 * (session + 1), "{tls:?}");
        empty(&sshd.files());
    }
}

#[tokio::test]
async fn tls_1_data_connections_that_must_resume_do_so_in_curl_and_lftp() {
    let sshd = Sshd::start().await;
    let gateway = requiring_resumption(&sshd);
    let desk = desk();
    for name in ["one", "two", "three"] {
        fs::write(desk.path().join(name), name).unwrap();
    }
    for tls in Tls::BOTH {
        // OpenSSL uses a TLS 1.3 ticket once, curl keeps one of them, and uploads are given none (their clients would
        // lose data): under 1.3 one data connection of curl's resumes, under 1.2 all.
        let url = format!("{}/", tls.url(&gateway));
        curl_with(&gateway, desk.path(), &["--tlsv1.3", "-T", "one", &url]).succeeded();
        curl_with(&gateway, desk.path(), &["--tls-max", "1.2", "-T", "{one,two,three}", &url]).succeeded();
        let listed = curl_with(&gateway, desk.path(), &["--tls-max", "1.2", "--list-only", &url]).succeeded();
        assert_eq!(listed.lines().count(), 3, "{tls:?} {listed}");
        let script = "put one -o four; put two -o five; cat four five; cls -1; rm four five";
        let said = lftp_with(tls, &gateway, desk.path(), script).succeeded();
        assert!(said.starts_with("onetwo") && said.contains("five"), "{tls:?} {said}");
        empty(&sshd.files());
    }
}

/// Names that clients, shells and servers like to get wrong.
const ODD_NAMES: [&[u8]; 17] = [
    b" lead and trail ",
    "grüße-日本".as_bytes(),
    b"-leading",
    b"it's \"quoted\"",
    b"back\\slash",
    b"a;b&c|d",
    b"*star?[x]",
    b"#hash%20",
    b"~tilde",
    b"tab\there",
    b".hidden",
    b"two  spaces",
    b"$HOME`id`",
    b"plus+",
    b"comma,",
    b"equals=;",
    b"x -> y",
];

/// A tree of so many files in nested directories, with the odd names among them, empty files, and names of 255 bytes.
fn plant(folder: &Path, files: usize) {
    fs::create_dir(folder).unwrap();
    let path = |parent: &Path, name: &[u8]| parent.join(OsStr::from_bytes(name));
    let mut directories = vec![folder.to_owned()];
    for name in ODD_NAMES {
        let directory = path(folder, &[name, b".d"].concat());
        fs::create_dir(&directory).unwrap();
        directories.push(directory);
    }
    for number in 0..25 {
        let parent = directories[number * 7 % directories.len()].clone();
        let directory = parent.join(format!("nested {number}"));
        fs::create_dir(&directory).unwrap();
        directories.push(directory);
    }
    fs::create_dir(folder.join("empty directory")).unwrap();
    let longest: [Vec<u8>; 2] = [vec![b'x'; 255], "ß".repeat(127).into_bytes()];
    for name in longest.iter().map(Vec::as_slice).chain(ODD_NAMES) {
        fs::write(path(&directories[3], name), name).unwrap();
    }
    for number in ODD_NAMES.len() + longest.len()..files {
        let name = match number % 4 {
            0 => [ODD_NAMES[number % ODD_NAMES.len()], number.to_string().as_bytes()].concat(),
            _ => format!("file {number}").into_bytes(),
        };
        let length = [0, 1, 100, 1_000, 5_000][number % 5];
        let directory = &directories[number % directories.len()];
        fs::write(path(directory, &name), content(number as u64, length)).unwrap();
    }
    let planted = tree(folder);
    assert_eq!(planted.values().filter(|content| content.is_some()).count(), files);
}

async fn lftp_mirrors(tls: Tls, files: usize, options: &str) {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let desk = desk();
    let (out, back) = (desk.path().join("out"), desk.path().join("back"));
    plant(&out, files);
    let script = format!("mirror -R {options} out tree; mirror {options} tree back");
    lftp_with(tls, &gateway, desk.path(), &script).succeeded();
    assert_same(&out, &back);
    // By names and bytes on the server, too: not merely undone on the way back.
    assert!(tree(&out) == tree(&sshd.files().join("tree")), "the tree on the server differs");
    // And a second time there is nothing to do: sizes and times are the same.
    let uploads = transfers(&gateway).iter().filter(|(direction, _)| direction == "upload").count();
    assert_eq!(uploads, files, "each file once");
    let again = format!("mirror -R --verbose {options} out tree; mirror --verbose {options} tree back");
    let said = lftp_with(tls, &gateway, desk.path(), &again).succeeded();
    assert!(!said.contains("Transferring file"), "{said}");
    assert_same(&out, &back);
}

#[tokio::test]
async fn lftp_mirrors_two_thousand_files_up_and_down_under_explicit_tls() {
    lftp_mirrors(Tls::Explicit, 2_000, "").await;
}

#[tokio::test]
async fn lftp_mirrors_two_thousand_files_up_and_down_under_implicit_tls() {
    lftp_mirrors(Tls::Implicit, 2_000, "").await;
}

#[tokio::test]
async fn lftp_mirrors_over_four_connections() {
    lftp_mirrors(Tls::Explicit, 400, "--parallel=4").await;
    lftp_mirrors(Tls::Implicit, 400, "--parallel=4").await;
}

/// Runs lftp until a condition holds, and then kills it.
fn cut(tls: Tls, gateway: &Gateway, desk: &Path, script: &str, enough: impl Fn() -> bool) {
    let mut command = lftp(tls, gateway, desk, &format!("set net:limit-rate 500000; {script}"));
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !enough() {
        assert!(Instant::now() < deadline, "{script}: never got far enough");
        assert_eq!(process.try_wait().unwrap(), None, "{script}: ended by itself");
        thread::sleep(Duration::from_millis(10));
    }
    process.kill().unwrap();
    process.wait().unwrap();
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test]
async fn lftp_fetches_in_pieces_and_goes_on_after_a_cut() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let desk = desk();
    let bytes = content(3, 6_000_000);
    for tls in Tls::BOTH {
        empty(&sshd.files());
        empty(desk.path());
        fs::write(desk.path().join("out"), &bytes).unwrap();
        place(&sshd, "file", &bytes);
        lftp_with(tls, &gateway, desk.path(), "pget -n 4 file -o pieces").succeeded();
        assert!(fs::read(desk.path().join("pieces")).unwrap() == bytes, "{tls:?}");

        // A download that is cut stays as far as it came, and reget fetches the rest.
        let part = desk.path().join("part");
        cut(tls, &gateway, desk.path(), "get file -o part", || {
            fs::metadata(&part).is_ok_and(|metadata| metadata.len() > 100_000)
        });
        let length = fs::metadata(&part).unwrap().len();
        assert!(length < 6_000_000);
        lftp_with(tls, &gateway, desk.path(), "reget file -o part").succeeded();
        assert!(fs::read(&part).unwrap() == bytes, "{tls:?}");
        // The end of the one that was cut may be logged after it.
        let logged = transfers(&gateway);
        assert!(logged.contains(&("download".to_owned(), 6_000_000 - length)), "{tls:?}: {logged:?}");

        // An upload that is cut leaves nothing, under no name; reput sends it all.
        let files = || fs::read_dir(sshd.files()).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
        cut(tls, &gateway, desk.path(), "put out -o sent", || {
            files().iter().any(|path| {
                !path.ends_with("file") && fs::metadata(path).is_ok_and(|metadata| metadata.len() > 100_000)
            })
        });
        wait_until("the cut upload was not cleaned up", || files().len() == 1);
        assert!(files()[0].ends_with("file"));
        lftp_with(tls, &gateway, desk.path(), "reput out -o sent").succeeded();
        assert!(fs::read(sshd.files().join("sent")).unwrap() == bytes, "{tls:?}");

        // What another server left half done is gone on with.
        place(&sshd, "half", &bytes[..2_500_000]);
        lftp_with(tls, &gateway, desk.path(), "reput out -o half").succeeded();
        assert!(fs::read(sshd.files().join("half")).unwrap() == bytes, "{tls:?}");
        let last = transfers(&gateway).pop();
        assert_eq!(last, Some(("upload".to_owned(), 3_500_000)), "{tls:?}");
    }
}

#[tokio::test]
async fn lftp_moves_removes_lists_and_is_told_what_cannot_be_done() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let desk = desk();
    for tls in Tls::BOTH {
        empty(&sshd.files());
        let said = |script: &str| lftp_with(tls, &gateway, desk.path(), script);
        let lines = |ran: Ran| {
            let mut lines: Vec<String> = ran.succeeded().lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        plant(&desk.path().join("out"), 60);
        place(&sshd, "one", b"1");
        place(&sshd, "two", b"22");
        assert_eq!(
            lines(said("mkdir -p a/b/c; mv one a/; mv two 'a/b/zwei drei'; find a")),
            ["a/", "a/b/", "a/b/c/", "a/b/zwei drei", "a/one"]
        );
        assert_eq!(lines(said("cls -1 a")), ["a/b/", "a/one"]);
        let long = said("cls -l a/one; ls a").succeeded();
        assert!(long.contains("a/one") && long.contains("drwx") && long.lines().count() == 3, "{long}");
        assert_eq!(lines(said("set ftp:use-mlsd false; set ftp:prefer-epsv false; cls -1 a")), ["a/b/", "a/one"]);
        assert_eq!(said("cat 'a/b/zwei drei'").succeeded(), "22");
        // lftp turns back to PROT P when PROT C is refused.
        assert_eq!(
            lines(said("set ftp:ssl-protect-data false; cls -1 a; cls -1 a/b")),
            ["a/b/", "a/b/c/", "a/b/zwei drei", "a/one"]
        );

        lftp_with(tls, &gateway, desk.path(), "mirror -R out out; rm -r out").succeeded();
        assert_eq!(lines(said("cls -1")), ["a/"]);
        fs::remove_dir_all(desk.path().join("out")).unwrap();
        assert_eq!(lines(said("mrm a/on*; rmdir a/b/c; cls -1 a a/b")).join("|"), "a/b/|a/b/zwei drei");

        said("chmod 600 'a/b/zwei drei'").succeeded();
        assert_eq!(fs::metadata(sshd.files().join("a/b/zwei drei")).unwrap().permissions().mode() & 0o777, 0o600);

        // Refused, and the session goes on.
        for (command, code) in [
            ("cd missing", "550"),
            ("cat missing", "550"),
            ("rm missing", "550"),
            ("rmdir a", "550"),
            ("mkdir a", "550"),
            ("mv missing elsewhere", "550"),
            ("ls missing", "550"),
        ] {
            let ran = said(&format!("set cmd:fail-exit false; {command}; cls -1"));
            assert!(ran.errors.contains(&format!("Access failed: {code} ")), "{command}: {ran:?}");
            assert_eq!(ran.output, "a/\n", "{command}: {ran:?}");
        }
    }
}

#[tokio::test]
async fn ftplib_goes_through_its_repertoire_under_explicit_tls_1_2() {
    ftplib_goes_through_its_repertoire(Tls::Explicit, "1.2").await;
}

#[tokio::test]
async fn ftplib_goes_through_its_repertoire_under_explicit_tls_1_3() {
    ftplib_goes_through_its_repertoire(Tls::Explicit, "1.3").await;
}

#[tokio::test]
async fn ftplib_goes_through_its_repertoire_under_implicit_tls_1_2() {
    ftplib_goes_through_its_repertoire(Tls::Implicit, "1.2").await;
}

#[tokio::test]
async fn ftplib_goes_through_its_repertoire_under_implicit_tls_1_3() {
    ftplib_goes_through_its_repertoire(Tls::Implicit, "1.3").await;
}

async fn ftplib_goes_through_its_repertoire(tls: Tls, version: &str) {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let desk = desk();
    let ran = ftplib(tls, version, &gateway, desk.path());
    assert_eq!((ran.code, ran.errors.as_str()), (Some(0), ""));
}

/// Waits until a transfer of so many bytes is logged as complete.
fn wait_for_transfer(gateway: &Gateway, direction: &str, bytes: u64) {
    wait_until(&format!("no {direction} of {bytes} bytes"), || {
        transfers(gateway).contains(&(direction.to_owned(), bytes))
    });
}

/// Every data connection so far went by this version of TLS; how many of them resumed the session, and how many not.
async fn data_handshakes(gateway: &Gateway, version: &str) -> (f64, f64) {
    let series = |version: &str, result: &str| {
        format!("ftps2sftp_tls_handshakes_total{{channel=\"data\",version=\"{version}\",result=\"{result}\"}}")
    };
    for other in VERSIONS.into_iter().filter(|other| *other != version) {
        for result in ["resumed", "full"] {
            assert_eq!(gateway.metric(&series(other, result)).await, 0.0, "{other} is not what was asked for");
        }
    }
    (gateway.metric(&series(version, "resumed")).await, gateway.metric(&series(version, "full")).await)
}

#[tokio::test]
async fn aioftp_takes_its_steps_under_explicit_tls() {
    takes_its_steps(Library::Aioftp, Tls::Explicit).await;
}

#[tokio::test]
async fn aioftp_takes_its_steps_under_implicit_tls() {
    takes_its_steps(Library::Aioftp, Tls::Implicit).await;
}

#[tokio::test]
async fn basic_ftp_takes_its_steps_under_explicit_tls() {
    takes_its_steps(Library::BasicFtp, Tls::Explicit).await;
}

#[tokio::test]
async fn basic_ftp_takes_its_steps_under_implicit_tls() {
    takes_its_steps(Library::BasicFtp, Tls::Implicit).await;
}

#[tokio::test]
async fn commons_net_takes_its_steps_under_explicit_tls() {
    takes_its_steps(Library::CommonsNet, Tls::Explicit).await;
}

#[tokio::test]
async fn commons_net_takes_its_steps_under_implicit_tls() {
    takes_its_steps(Library::CommonsNet, Tls::Implicit).await;
}

#[tokio::test]
async fn perl_takes_its_steps_under_explicit_tls() {
    takes_its_steps(Library::Perl, Tls::Explicit).await;
}

#[tokio::test]
async fn perl_takes_its_steps_under_implicit_tls() {
    takes_its_steps(Library::Perl, Tls::Implicit).await;
}

/// ext-ftp has explicit TLS only.
#[tokio::test]
async fn php_takes_its_steps_under_explicit_tls() {
    takes_its_steps(Library::Php, Tls::Explicit).await;
}

/// net-ftp 0.1 has explicit TLS only.
#[tokio::test]
async fn ruby_takes_its_steps_under_explicit_tls() {
    takes_its_steps(Library::Ruby, Tls::Explicit).await;
}

/// What one client library does of everything, under each version of TLS; looked at from the server's side as well.
async fn takes_its_steps(library: Library, tls: Tls) {
    let sshd = Sshd::start().await;
    let desk = desk();
    for version in VERSIONS {
        let gateway = match library.resumption(version) {
            Resumption::Always => requiring_resumption(&sshd),
            Resumption::Sometimes | Resumption::Never => Gateway::before(&sshd),
        };
        takes_its_steps_under(library, (tls, version), &sshd, &gateway, desk.path());
        let (resumed, full) = data_handshakes(&gateway, version).await;
        let seen = match (resumed > 0.0, full > 0.0) {
            (true, false) => Resumption::Always,
            (true, true) => Resumption::Sometimes,
            (false, _) => Resumption::Never,
        };
        assert_eq!(seen, library.resumption(version), "{library:?} {tls:?} {version}: {resumed} {full}");
        empty(&sshd.files());
        empty(desk.path());
    }
    is_turned_away(library, tls, &sshd, desk.path());
}

/// Logins that must fail: with a wrong password, and at a gateway that is not the one the client trusts.
fn is_turned_away(library: Library, tls: Tls, sshd: &Sshd, desk: &Path) {
    let gateway = Gateway::before(sshd);
    let wrong = (&*gateway.certificate(), "not the password");
    let (session, answer) = Session::try_begin(library, (tls, "1.3"), &gateway, wrong, desk);
    let told = if library.tells_codes() { "530" } else { "-" };
    assert_eq!(answer, Answer::Refused(told.to_owned()), "{library:?} {tls:?}");
    session.end();
    if library.verifies() {
        let other = Gateway::before(sshd);
        let untrusted = (&*other.certificate(), MAPPED_PASSWORD);
        let (session, answer) = Session::try_begin(library, (tls, "1.3"), &gateway, untrusted, desk);
        assert!(matches!(answer, Answer::Failed(_)), "{library:?} {tls:?}: {answer:?}");
        session.end();
        assert!(!gateway.log().contains("\"logged in\""), "{library:?} {tls:?}");
    }
}

/// A gateway that takes no data connection that does not resume the session.
fn requiring_resumption(sshd: &Sshd) -> Gateway {
    let setup = Setup::backend(sshd).with_users(&sshd.files());
    Gateway::start(&setup.with("policy: {data_tls_resumption: require}\n"))
}

fn takes_its_steps_under(library: Library, tls: (Tls, &str), sshd: &Sshd, gateway: &Gateway, desk: &Path) {
    let entry = |kind: &str, size: &str, name: &str| (kind.to_owned(), size.to_owned(), name.to_owned());
    let stored = |name: &str| fs::read(sshd.files().join(name)).unwrap();
    let local = |name: &str| fs::read(desk.join(name)).unwrap();
    let bytes = content(7, 1_000_000);
    fs::write(desk.join("up.bin"), &bytes).unwrap();
    fs::write(desk.join("empty.bin"), "").unwrap();
    fs::write(desk.join("tail.bin"), &bytes[..1_234]).unwrap();
    fs::write(desk.join("lines.txt"), "one\n\ntwo\nthree\n").unwrap();

    let mut session = Session::begin(library, tls, gateway, desk);
    for name in ["empty.bin", "up.bin"] {
        session.done(&["upload", name, name]);
        assert!(stored(name) == local(name), "{library:?} {tls:?} {name}");
        session.done(&["download", name, "down.bin"]);
        assert!(local("down.bin") == local(name), "{library:?} {tls:?} {name}");
    }
    // What is there is replaced.
    session.done(&["upload", "tail.bin", "up.bin"]);
    assert!(stored("up.bin") == bytes[..1_234], "{library:?} {tls:?}");

    // Only what is missing crosses the wire.
    place(sshd, "half.bin", &bytes[..400_000]);
    session.done(&["continue-upload", "up.bin", "half.bin"]);
    assert!(stored("half.bin") == bytes, "{library:?} {tls:?}");
    wait_for_transfer(gateway, "upload", 600_000);
    fs::write(desk.join("part.bin"), &bytes[..300_000]).unwrap();
    session.done(&["continue-download", "half.bin", "part.bin"]);
    assert!(local("part.bin") == bytes, "{library:?} {tls:?}");
    wait_for_transfer(gateway, "download", 700_000);
    session.done(&["append", "tail.bin", "half.bin"]);
    assert!(stored("half.bin") == [&bytes[..], &bytes[..1_234]].concat(), "{library:?} {tls:?}");

    // CR LF on the way, LF on the server; and whatever type was in force before is so again.
    session.done(&["upload-text", "lines.txt", "lines.txt"]);
    assert_eq!(stored("lines.txt"), local("lines.txt"), "{library:?} {tls:?}");
    wait_for_transfer(gateway, "upload", 19);
    session.done(&["download-text", "lines.txt", "down.txt"]);
    assert_eq!(local("down.txt"), local("lines.txt"), "{library:?} {tls:?}");
    wait_for_transfer(gateway, "download", 19);
    session.done(&["download", "lines.txt", "down.txt"]);
    assert_eq!(local("down.txt"), stored("lines.txt"), "{library:?} {tls:?}");

    session.done(&["mkdir", "a directory"]);
    assert!(sshd.files().join("a directory").is_dir());
    assert_eq!(session.list("a directory"), BTreeSet::new());
    let names = ["-dash", ".hidden", "grüße 日本", "plain", "two  spaces", "100% #1", "semi;colon", &"x".repeat(255)];
    for (index, name) in names.into_iter().enumerate() {
        fs::write(desk.join("up.txt"), &bytes[..index * 1_000]).unwrap();
        session.done(&["upload", "up.txt", &format!("a directory/{name}")]);
    }
    session.done(&["mkdir", "a directory/sub"]);
    let mut expected: BTreeSet<_> =
        names.iter().enumerate().map(|(index, name)| entry("file", &(index * 1_000).to_string(), name)).collect();
    expected.insert(entry("dir", "-", "sub"));
    assert_eq!(session.list("a directory"), expected, "{tls:?}");

    session.done(&["rename", "a directory/plain", "moved"]);
    session.done(&["rename", "a directory/two  spaces", "a directory/plain"]);
    assert_eq!(stored("moved"), bytes[..3_000]);
    assert_eq!(stored("a directory/plain"), bytes[..4_000]);
    // Onto what is there.
    session.done(&["rename", "moved", "a directory/plain"]);
    assert_eq!(stored("a directory/plain"), bytes[..3_000]);
    session.done(&["rmdir", "a directory/sub"]);
    assert_eq!(session.list("a directory").len(), names.len() - 1);

    // Refused, and the session goes on.
    session.refused(&["delete", "missing"], "550");
    session.refused(&["rename", "missing", "elsewhere"], "550");
    session.refused(&["mkdir", "a directory"], "550");
    session.refused(&["rmdir", "a directory"], "550");
    session.refused(&["download", "missing", "down.bin"], "550");
    session.refused(&["upload", "up.bin", "missing/file"], "553");
    session.refused(&["download", "a directory", "down.bin"], "550");
    for name in names.into_iter().filter(|name| *name != "two  spaces") {
        session.done(&["delete", &format!("a directory/{name}")]);
    }
    session.done(&["rmdir", "a directory"]);
    session.done(&["download", "half.bin", "down.bin"]);
    assert!(local("down.bin") == stored("half.bin"), "{library:?} {tls:?}");
    let left = ["empty.bin", "half.bin", "lines.txt", "up.bin"]
        .map(|name| entry("file", &fs::metadata(sshd.files().join(name)).unwrap().len().to_string(), name));
    assert_eq!(session.list("/"), left.into(), "{tls:?}");
    session.end();
}

/// The entries of wget's page for a directory: kind, size and name, by the parser that its recursion goes by.
fn entries_of_page(page: &str) -> BTreeSet<(String, String, String)> {
    page.lines()
        .filter_map(|line| {
            let (columns, link) = line.split_once("<a href=\"")?;
            let (name, rest) = link.split_once("\">")?.1.split_once("</a>")?;
            let kind = columns.split_whitespace().last()?;
            let size = rest.split_once('(').map_or("-", |(_, size)| size.split_once(' ').unwrap().0);
            Some((kind.to_owned(), size.replace(',', ""), name.trim_end_matches('/').replace("&#32;", " ")))
        })
        .collect()
}

#[tokio::test]
async fn wget_lists_fetches_and_resumes_under_explicit_tls() {
    wget_lists_fetches_and_resumes(Tls::Explicit).await;
}

#[tokio::test]
async fn wget_lists_fetches_and_resumes_under_implicit_tls() {
    wget_lists_fetches_and_resumes(Tls::Implicit).await;
}

async fn wget_lists_fetches_and_resumes(tls: Tls) {
    let sshd = Sshd::start().await;
    let desk = desk();
    let bytes = content(8, 1_000_000);
    place(&sshd, "file.bin", &bytes);
    place(&sshd, "lines.txt", b"one\ntwo\n");
    let folder = sshd.place_directory("folder");
    for (name, length) in [("-dash", 0), (".hidden", 1), ("grüße 日本", 2_000), ("two  spaces", 30_000), ("100% #1", 5)]
    {
        sshd.place_file(Path::new("folder").join(name), &bytes[..length]);
    }
    sshd.place_directory("folder/sub");
    sshd.place_file("folder/sub/deep", "deep");
    let other = Gateway::before(&sshd);
    for version in VERSIONS {
        let gateway = requiring_resumption(&sshd);
        let wget = |arguments: &[&str], path: &str| {
            run(wget(tls, version, &gateway, desk.path()).args(arguments).arg(wget_url(tls, &gateway, path)))
        };
        wget(&["-O", "down.bin"], "file.bin").succeeded();
        assert!(fs::read(desk.path().join("down.bin")).unwrap() == bytes, "{tls:?} {version}");
        fs::write(desk.path().join("file.bin"), &bytes[..300_000]).unwrap();
        wget(&["--continue"], "file.bin").succeeded();
        assert!(fs::read(desk.path().join("file.bin")).unwrap() == bytes, "{tls:?} {version}");
        wait_for_transfer(&gateway, "download", 700_000);
        // As it crosses the wire: wget leaves the ends of lines to others.
        wget(&["-O", "down.txt"], "lines.txt;type=a").succeeded();
        assert_eq!(fs::read(desk.path().join("down.txt")).unwrap(), b"one\r\ntwo\r\n", "{tls:?} {version}");

        wget(&["-O", "page"], "folder/").succeeded();
        let page = fs::read_to_string(desk.path().join("page")).unwrap();
        let mut expected: BTreeSet<_> = fs::read_dir(&folder)
            .unwrap()
            .map(Result::unwrap)
            .filter(|entry| entry.file_type().unwrap().is_file())
            .map(|entry| {
                let name = entry.file_name().into_string().unwrap();
                ("File".to_owned(), entry.metadata().unwrap().len().to_string(), name)
            })
            .collect();
        expected.insert(("Directory".to_owned(), "-".to_owned(), "sub".to_owned()));
        assert_eq!(entries_of_page(&page), expected, "{tls:?} {version}\n{page}");
        // By its own listings, down to the last file.
        wget(&["--recursive", "--no-host-directories"], "folder/").succeeded();
        assert_same(&folder, &desk.path().join("folder"));

        // wget's exit codes: 8 for a reply that is an error, 6 for a login, 5 for TLS.
        wget(&["-O", "missing"], "missing").failed(8);
        if version == "1.3" {
            wget(&["-O", "missing", "--password=wrong"], "file.bin").failed(6);
        }
        let authority = format!("--ca-certificate={}", other.certificate().display());
        wget(&["-O", "missing", &authority], "file.bin").failed(5);
        let (resumed, full) = data_handshakes(&gateway, version).await;
        assert!(resumed > 0.0 && full == 0.0, "{tls:?} {version}: {resumed} {full}");
        empty(desk.path());
    }
}
