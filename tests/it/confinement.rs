//! What the process has given up before it serves anyone (S-17, S-39).

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, thread};

use ftps2sftp::app::confinement;

use crate::support::client::Client;
use crate::support::gateway::Gateway;
use crate::support::sshd::Sshd;

/// Set in the process that is to be confined: the directory that it may read.
const INSIDE: &str = "FTPS2SFTP_CONFINED_TO";

#[tokio::test]
async fn s17_and_39_the_gateway_runs_without_new_privileges_programs_or_core_dumps() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::logged_in(&gateway).await;
    assert_eq!(client.store("STOR file", b"content").await.code, 226);
    assert_eq!(gateway.status("NoNewPrivs"), "1");
    assert_eq!(gateway.status("Seccomp"), "2", "a filter");
    let limits = gateway.process_file("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    assert!(!gateway.log().contains("less confined"), "this kernel has everything");
    // It still knows about itself.
    assert!(gateway.metric("process_open_fds").await > 5.0);
}

#[test]
fn s39_what_was_given_up_cannot_be_done() {
    if let Some(directory) = env::var_os(INSIDE) {
        return confined(Path::new(&directory));
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("configuration"), "content").unwrap();
    let status = Command::new(env::current_exe().unwrap())
        .args(["--exact", "confinement::s39_what_was_given_up_cannot_be_done", "--nocapture"])
        .env(INSIDE, folder.path())
        .status()
        .unwrap();
    assert!(status.success());
}

/// In a process of its own: there is no way back.
fn confined(directory: &Path) {
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("secret"), "of another").unwrap();
    assert!(confinement::enter(&BTreeSet::from([PathBuf::from(directory)]), &BTreeSet::new()).is_empty());
    let is_denied =
        |result: std::io::Result<()>| result.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);

    assert_eq!(fs::read(directory.join("configuration")).unwrap(), b"content");
    assert!(fs::read("/etc/hosts").is_ok());
    TcpListener::bind("127.0.0.1:0").unwrap();
    // In threads that begin later too.
    let (directory, elsewhere) = (directory.to_owned(), elsewhere.keep());
    let trials = thread::spawn(move || {
        [
            ("reads a file of others", fs::read(elsewhere.join("secret")).map(drop)),
            ("makes a file", fs::write(directory.join("new"), "")),
            ("changes a file", fs::write(directory.join("configuration"), "")),
            ("removes a file", fs::remove_file(directory.join("configuration"))),
            ("renames a file", fs::rename(directory.join("configuration"), directory.join("other"))),
            ("makes a directory", fs::create_dir(directory.join("directory"))),
            ("makes a link", std::os::unix::fs::symlink("configuration", directory.join("link"))),
            ("starts a program", Command::new("/bin/true").status().map(drop)),
        ]
    });
    for (what, result) in trials.join().unwrap() {
        assert!(is_denied(result), "it {what}");
    }
}
