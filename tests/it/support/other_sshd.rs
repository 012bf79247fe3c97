//! SSH servers that are not OpenSSH, with the user and password of [`super::sshd`]: Dropbear, ProFTPD's mod_sftp
//! and asyncssh.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::sshd::{PASSWORD, USER, run};

/// How long a server may take to listen.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Owner of the files of [`USER`].
const USER_ID: u32 = 54_321;

/// Dropbear asks the system who its users are: it gets files of ours mounted over the system's.
const DROPBEAR: &str = r#"
set -e
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
mount --bind "$1/shadow" /etc/shadow
exec dropbear -F -E -m -P "$1/pid" -p "127.0.0.1:$2" -r "$1/dropbear_key"
"#;

/// asyncssh is a library: this is the server that its manual shows, with one user.
const ASYNCSSH: &str = r#"
import asyncio, asyncssh, os, sys
directory, port, user, password = sys.argv[1:]
os.chdir(directory + "/files")

class Server(asyncssh.SSHServer):
    def password_auth_supported(self):
        return True
    def validate_password(self, given_user, given_password):
        return (given_user, given_password) == (user, password)

async def serve():
    server = await asyncssh.create_server(
        Server, "127.0.0.1", int(port), server_host_keys=[directory + "/host_key"],
        authorized_client_keys=directory + "/authorized_keys", sftp_factory=asyncssh.SFTPServer)
    await server.wait_closed()

asyncio.run(serve())
"#;

/// Which program it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Dropbear, with OpenSSH's sftp-server.
    Dropbear,
    /// ProFTPD's mod_sftp, which has an SFTP server of its own.
    Proftpd,
    /// asyncssh, which has one too.
    Asyncssh,
}

/// A running server. Dropping it ends it; in a failed test it shows its log.
pub(crate) struct OtherSshd {
    directory: TempDir,
    process: Child,
    address: SocketAddr,
    fingerprint: String,
}

impl OtherSshd {
    /// Starts it on a free port. `key` logs [`USER`] in, too.
    pub(crate) fn start(kind: Kind, key: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("other-sshd-").tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = |name: &str| directory.path().join(name);
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let files = path("files");
        fs::create_dir(&files).unwrap();
        let hash = run(Command::new("openssl").args(["passwd", "-6", PASSWORD]));
        let (mut command, host_key) = match kind {
            Kind::Dropbear => dropbear(directory.path(), port, &hash, key),
            Kind::Proftpd => proftpd(directory.path(), port, &hash, key),
            Kind::Asyncssh => asyncssh(directory.path(), port, key),
        };
        chown(&files, Some(USER_ID), Some(USER_ID)).unwrap();
        let fingerprint = host_key.split(' ').nth(1).unwrap().to_owned();
        let log = fs::File::create(path("log")).unwrap();
        let process = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut server = Self { directory, process, address, fingerprint };
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect(address).is_err() {
            let ended = server.process.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{kind:?} does not listen: {ended:?}\n{}",
                server.log()
            );
            thread::sleep(Duration::from_millis(10));
        }
        server
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// `SHA256:…` of its host key.
    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Home directory of [`USER`].
    pub(crate) fn files(&self) -> PathBuf {
        self.directory.path().join("files")
    }

    fn log(&self) -> String {
        let log = fs::read(self.directory.path().join("log")).unwrap();
        log.iter().map(|byte| char::from(*byte)).collect()
    }
}

impl Drop for OtherSshd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            eprintln!("--- log of the server on {}\n{}---", self.address, self.log());
        }
    }
}

/// The command, and the fingerprint line of its host key.
fn dropbear(directory: &Path, port: u16, hash: &str, key: &Path) -> (Command, String) {
    let path = |name: &str| directory.join(name);
    let home = path("files");
    fs::write(
        path("passwd"),
        format!("root:x:0:0:root:/root:/bin/sh\n{USER}:x:{USER_ID}:{USER_ID}::{}:/bin/sh\n", home.display()),
    )
    .unwrap();
    fs::write(path("group"), format!("root:x:0:\nshadow:x:42:\ntty:x:5:\n{USER}:x:{USER_ID}:\n")).unwrap();
    fs::write(path("shadow"), format!("root:*:20000:0:99999:7:::\n{USER}:{hash}:20000:0:99999:7:::\n")).unwrap();
    let ssh = home.join(".ssh");
    fs::create_dir(&ssh).unwrap();
    fs::copy(key.with_extension("pub"), ssh.join("authorized_keys")).unwrap();
    for (path, mode) in [(ssh.clone(), 0o700), (ssh.join("authorized_keys"), 0o600), (home, 0o755)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        chown(&path, Some(USER_ID), Some(USER_ID)).unwrap();
    }
    let host_key = path("dropbear_key");
    run(Command::new("dropbearkey").args(["-t", "ed25519", "-f"]).arg(&host_key));
    let public = run(Command::new("dropbearkey").arg("-y").arg("-f").arg(&host_key));
    let public = public.lines().find(|line| line.starts_with("ssh-ed25519 ")).unwrap().to_owned();
    fs::write(path("host.pub"), public).unwrap();
    let fingerprint = run(Command::new("ssh-keygen").arg("-lf").arg(path("host.pub")));
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", DROPBEAR, "dropbear"]);
    command.arg(directory).arg(port.to_string());
    (command, fingerprint)
}

fn proftpd(directory: &Path, port: u16, hash: &str, key: &Path) -> (Command, String) {
    let path = |name: &str| directory.join(name);
    let shown = |name: &str| path(name).display().to_string();
    let host_key = path("host_key");
    run(Command::new("ssh-keygen").args(["-q", "-N", "", "-t", "rsa", "-b", "2048", "-m", "PEM", "-f"]).arg(&host_key));
    let fingerprint = run(Command::new("ssh-keygen").arg("-lf").arg(&host_key));
    fs::write(path("passwd"), format!("{USER}:{hash}:{USER_ID}:{USER_ID}::{}:/bin/sh\n", shown("files"))).unwrap();
    fs::set_permissions(path("passwd"), fs::Permissions::from_mode(0o600)).unwrap();
    // RFC 4716 is how it wants public keys.
    let public = run(Command::new("ssh-keygen").args(["-e", "-m", "RFC4716", "-f"]).arg(key.with_extension("pub")));
    fs::write(path("authorized_keys"), format!("{public}\n")).unwrap();
    let lines = [
        "ServerType standalone".to_owned(),
        "DefaultAddress 127.0.0.1".to_owned(),
        "SocketBindTight on".to_owned(),
        format!("Port {port}"),
        "UseReverseDNS off".to_owned(),
        "User nobody".to_owned(),
        "Group nogroup".to_owned(),
        "ModulePath /usr/lib/proftpd".to_owned(),
        "LoadModule mod_sftp.c".to_owned(),
        "AuthOrder mod_auth_file.c".to_owned(),
        format!("AuthUserFile {}", shown("passwd")),
        "RequireValidShell off".to_owned(),
        format!("PidFile {}", shown("pid")),
        format!("ScoreboardFile {}", shown("scoreboard")),
        "DelayEngine off".to_owned(),
        "WtmpLog off".to_owned(),
        "AllowOverwrite on".to_owned(),
        "AllowStoreRestart on".to_owned(),
        format!("SystemLog {}", shown("log")),
        "SFTPEngine on".to_owned(),
        format!("SFTPLog {}", shown("log")),
        format!("SFTPHostKey {}", host_key.display()),
        "SFTPAuthMethods publickey password".to_owned(),
        format!("SFTPAuthorizedUserKeys file:{}", shown("authorized_keys")),
    ];
    fs::write(path("proftpd.conf"), lines.join("\n") + "\n").unwrap();
    let mut command = Command::new("proftpd");
    command.arg("-n").arg("-c").arg(path("proftpd.conf"));
    (command, fingerprint)
}

fn asyncssh(directory: &Path, port: u16, key: &Path) -> (Command, String) {
    let host_key = directory.join("host_key");
    run(Command::new("ssh-keygen").args(["-q", "-N", "", "-t", "ed25519", "-f"]).arg(&host_key));
    let fingerprint = run(Command::new("ssh-keygen").arg("-lf").arg(&host_key));
    fs::copy(key.with_extension("pub"), directory.join("authorized_keys")).unwrap();
    // Debian's own, which Debian's packages are for.
    let mut command = Command::new("/usr/bin/python3");
    command.arg("-c").arg(ASYNCSSH).arg(directory).args([&port.to_string(), USER, PASSWORD]);
    (command, fingerprint)
}
