//! A real ssh-agent on a socket of the test's, and a PKCS#11 token that it holds open.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::sshd::run;

/// How long the agent may take to listen.
const START_LIMIT: Duration = Duration::from_secs(30);

/// SoftHSM, as Debian installs it.
const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// The PIN of the token.
const PIN: &str = "4711";

/// A running agent. Dropping it ends it.
pub(crate) struct SshAgent {
    process: Child,
    directory: TempDir,
}

impl SshAgent {
    /// An agent without keys.
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let process = spawn(directory.path());
        Self { process, directory }
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// Adds a key; its certificate too, where there is one beside it.
    pub(crate) fn add(&self, key: &Path) {
        run(self.command("ssh-add").arg("-q").arg(key));
    }

    /// Adds the keys of a token with one new EC key. The line of its public key.
    pub(crate) fn add_token(&self) -> String {
        for (file, package) in [(SOFTHSM, "softhsm2"), ("/usr/bin/pkcs11-tool", "opensc")] {
            assert!(Path::new(file).exists(), "{file} is missing: install the package {package}");
        }
        let directory = self.directory.path();
        run(self
            .command("softhsm2-util")
            .args(["--init-token", "--free", "--label", "gateway"])
            .args(["--pin", PIN, "--so-pin", "0815"]));
        run(self.command("pkcs11-tool").args(["--module", SOFTHSM, "--login", "--pin", PIN, "--keypairgen"]).args([
            "--key-type",
            "EC:prime256v1",
            "--label",
            "key",
            "--id",
            "01",
        ]));
        let ask = directory.join("ask");
        fs::write(&ask, format!("#!/bin/sh\necho {PIN}\n")).unwrap();
        fs::set_permissions(&ask, fs::Permissions::from_mode(0o700)).unwrap();
        let mut add = self.command("ssh-add");
        run(add.env("SSH_ASKPASS", &ask).env("SSH_ASKPASS_REQUIRE", "force").args(["-s", SOFTHSM]));
        run(self.command("ssh-keygen").args(["-D", SOFTHSM])).lines().next().unwrap().to_owned()
    }

    /// Ends the agent, as if its machine were started again.
    pub(crate) fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(self.socket());
    }

    /// Another agent on the same socket, without keys.
    pub(crate) fn start_again(&mut self) {
        self.stop();
        self.process = spawn(self.directory.path());
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("SSH_AUTH_SOCK", self.socket()).env("SOFTHSM2_CONF", self.directory.path().join("softhsm2.conf"));
        command
    }
}

impl Drop for SshAgent {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(directory: &Path) -> Child {
    let tokens = directory.join("tokens");
    fs::create_dir_all(&tokens).unwrap();
    let configuration = directory.join("softhsm2.conf");
    let lines = format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display());
    fs::write(&configuration, lines).unwrap();
    let socket = directory.join("socket");
    // The agent starts the library in a process of its own, which reads SoftHSM's configuration.
    let process = Command::new("ssh-agent")
        .args(["-D", "-a"])
        .arg(&socket)
        .env("SOFTHSM2_CONF", &configuration)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + START_LIMIT;
    while UnixStream::connect(&socket).is_err() {
        assert!(Instant::now() < deadline, "ssh-agent does not listen");
        thread::sleep(Duration::from_millis(10));
    }
    process
}
