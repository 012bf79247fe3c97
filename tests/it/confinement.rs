//! What the process has given up before it serves anyone (S-17, S-39).

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, parent_id};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, thread};

use ftps2sftp::app::confinement;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open, pivot_root};
use rustix::thread::{move_into_link_name_space, set_thread_groups};

use crate::support::client::Client;
use crate::support::gateway::Gateway;
use crate::support::real_clients::run;
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

/// S-39: system calls that somebody brings into the running gateway are refused to it, and not because of what they ask.
#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn s39_a_thread_of_the_gateway_that_is_made_to_do_other_things_is_refused() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::logged_in(&gateway).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients/inject_syscalls.py");
    let told = run(Command::new("python3").arg(script).arg(gateway.process().to_string())).succeeded();
    let calls: Vec<Vec<&str>> = told.lines().map(|line| line.split(' ').collect()).collect();
    // What is refused to whoever runs the tests says nothing, and there may be some of it in a container.
    let (telling, others): (Vec<_>, Vec<_>) = calls.iter().partition(|call| call[2] != "EPERM");
    assert!(telling.len() > 10, "{told}");
    for call in telling.iter().chain(&others) {
        assert_eq!(call[1], "EPERM", "{told}");
    }
    // It is none the worse.
    assert_eq!(client.store("STOR file", b"content").await.code, 226);
    Client::logged_in(&gateway).await.ask("PWD", 257).await;
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
    let namespace = fs::File::open("/proc/self/ns/net").unwrap();
    let of_parent = |file: &str| format!("/proc/{}/{file}", parent_id());
    let take_descriptor = || {
        let parent = Pid::from_raw(i32::try_from(parent_id()).unwrap()).unwrap();
        let parent = pidfd_open(parent, PidfdFlags::empty())?;
        pidfd_getfd(parent, 0, PidfdGetfdFlags::empty()).map(drop)
    };
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
            // One that would fail, if it took the place of this test.
            ("becomes another program", Err(Command::new("/bin/false").exec())),
            ("has another root", std::os::unix::fs::chroot("/")),
            ("turns the root around", pivot_root("/", "/").map_err(Into::into)),
            ("goes into a namespace", move_into_link_name_space(namespace.as_fd(), None).map_err(Into::into)),
            ("is in other groups", set_thread_groups(&[]).map_err(Into::into)),
            ("looks through another process's root", fs::read_dir(of_parent("root/etc")).map(drop)),
            ("reads another process's memory", fs::File::open(of_parent("mem")).map(drop)),
            ("takes another process's descriptor", take_descriptor().map_err(Into::into)),
        ]
    });
    for (what, result) in trials.join().unwrap() {
        assert!(is_denied(result), "it {what}");
    }
}
