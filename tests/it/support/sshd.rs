//! A real OpenSSH server of our own: own port, host keys, users and passwords, gone with the value.
//!
//! Users with real passwords need /etc/passwd and /etc/shadow. The server runs as root in a mount namespace of its own,
//! with files of ours mounted over those, so nothing on the machine changes.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ftps2sftp::config::algorithms::Algorithms;
use ftps2sftp::config::{Backend, HostPort, Quirks};
use tempfile::TempDir;

/// A user of every server: logs in with [`PASSWORD`] and with the keys of [`Sshd::client_key`].
pub(crate) const USER: &str = "alice";

/// The password of [`USER`].
pub(crate) const PASSWORD: &str = "correct horse, battery staple";

/// Owner of the tree of [`USER`]: a number no machine gives out by itself.
const USER_ID: u32 = 54_321;

const SSHD: &str = "/usr/sbin/sshd";
const SFTP_SERVER: &str = "/usr/lib/openssh/sftp-server";

/// How long a server may take to listen.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Mounts `$1/…` over the system's, then becomes the server: the process keeps its id.
const IN_NAMESPACE: &str = r#"
set -e
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
mount --bind "$1/shadow" /etc/shadow
mount --bind "$1/pam" /etc/pam.d/sshd
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -m 755 /run/sshd
exec /usr/sbin/sshd -D -e -f "$1/sshd_config"
"#;

/// A running server. Dropping it ends it and its sessions; in a failed test it shows its log first.
pub(crate) struct Sshd {
    directory: TempDir,
    process: Child,
    address: SocketAddr,
    host_keys: Vec<&'static str>,
}

/// What can be different about a server.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// `ssh-keygen -t` names.
    pub(crate) host_keys: Vec<&'static str>,
    /// Further sshd_config lines; they win over ours.
    pub(crate) config: Vec<String>,
    /// Passwords only by keyboard-interactive, through PAM.
    pub(crate) keyboard_interactive: bool,
    /// `-n` and `-V` of `ssh-keygen -s`: the first host key gets a certificate.
    pub(crate) host_certificate: Option<(String, String)>,
    /// There is an authority for user certificates, see [`Sshd::certify`].
    pub(crate) user_authority: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            host_keys: vec!["ed25519", "ecdsa"],
            config: Vec::new(),
            keyboard_interactive: false,
            host_certificate: None,
            user_authority: false,
        }
    }
}

impl Sshd {
    /// Starts a server with passwords, public keys and `sftp-server`.
    pub(crate) async fn start() -> Self {
        Self::with(Options::default()).await
    }

    /// Starts a server that differs from that.
    pub(crate) async fn with(options: Options) -> Self {
        require_tools();
        // A port that is free now may be taken by the time the server binds it.
        let mut last_log = String::new();
        for _ in 0..5 {
            match Self::try_start(&options).await {
                Ok(sshd) => return sshd,
                Err(log) => last_log = log,
            }
            assert!(last_log.contains("Address already in use"), "sshd did not start:\n{last_log}");
        }
        panic!("sshd found no free port:\n{last_log}");
    }

    async fn try_start(options: &Options) -> Result<Self, String> {
        let directory = tempfile::Builder::new().prefix("sshd-").tempdir().unwrap();
        // Users must be able to walk through to their files.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let address = {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            listener.local_addr().unwrap()
        };
        write_files(directory.path(), address.port(), options);
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let process = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", IN_NAMESPACE, "sshd"])
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut sshd = Self { directory, process, address, host_keys: options.host_keys.clone() };
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = sshd.process.try_wait().unwrap() {
                return Err(format!("{status}\n{}", sshd.log()));
            }
            if TcpStream::connect(address).is_ok() {
                return Ok(sshd);
            }
            assert!(Instant::now() < deadline, "sshd does not listen after {START_LIMIT:?}:\n{}", sshd.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Home directory of [`USER`], which is where SFTP starts; owned by that user.
    pub(crate) fn files(&self) -> PathBuf {
        self.directory.path().join("files")
    }

    /// A line of known_hosts for the first host key.
    pub(crate) fn known_hosts_line(&self) -> String {
        format!("[{}]:{} {}\n", self.address.ip(), self.address.port(), self.host_key(self.host_keys[0]))
    }

    /// Type and key of a host key, as in a public key file.
    pub(crate) fn host_key(&self, key_type: &str) -> String {
        public_key(&self.directory.path().join(format!("host_{key_type}.pub")))
    }

    /// `SHA256:…` of a host key, by `ssh-keygen -l`.
    pub(crate) fn host_key_fingerprint(&self, key_type: &str) -> String {
        let file = self.directory.path().join(format!("host_{key_type}.pub"));
        let output = run(Command::new("ssh-keygen").arg("-lf").arg(file));
        output.split(' ').nth(1).unwrap().to_owned()
    }

    /// Type and key of the authority that signed the host certificate.
    pub(crate) fn authority(&self) -> String {
        public_key(&self.directory.path().join("authority.pub"))
    }

    /// A backend that trusts this server by [`Sshd::known_hosts_line`].
    pub(crate) fn backend(&self) -> Arc<Backend> {
        let known_hosts = self.directory.path().join("known_hosts");
        fs::write(&known_hosts, self.known_hosts_line()).unwrap();
        Arc::new(Backend {
            name: "sshd".to_owned(),
            addresses: vec![HostPort { host: self.address.ip().to_string(), port: self.address.port() }],
            known_hosts: Some(known_hosts),
            host_keys: Vec::new(),
            keepalive: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(30),
            quirks: Quirks::default(),
            shared: false,
            idle_release: None,
            algorithms: Algorithms::modern(),
            jump: None,
            login: None,
        })
    }

    /// A new private key that logs [`USER`] in. `arguments` go to `ssh-keygen`, such as `-t rsa -m PEM`.
    pub(crate) fn client_key(&self, arguments: &[&str], passphrase: &str) -> PathBuf {
        let file = self.strange_key(arguments, passphrase);
        self.authorize(&public_key(&file.with_extension("pub")));
        file
    }

    /// A new private key that the server knows nothing of.
    pub(crate) fn strange_key(&self, arguments: &[&str], passphrase: &str) -> PathBuf {
        let keys = self.directory.path().join("client_keys");
        fs::create_dir_all(&keys).unwrap();
        let file = keys.join(format!("key{}", fs::read_dir(&keys).unwrap().count()));
        run(Command::new("ssh-keygen").args(["-q", "-N", passphrase, "-f"]).arg(&file).args(arguments));
        file
    }

    /// Gives [`USER`] another password.
    pub(crate) fn change_password(&self, password: &str) {
        // Written into, not replaced: the server has this very file mounted over its own.
        fs::write(self.directory.path().join("shadow"), shadow(password)).unwrap();
    }

    /// Lets [`USER`] in with the key of this line.
    pub(crate) fn authorize(&self, key: &str) {
        let authorized = self.directory.path().join("authorized_keys").join(USER);
        let lines = fs::read_to_string(&authorized).unwrap();
        fs::write(&authorized, format!("{lines}{key}\n")).unwrap();
    }

    /// Signs a key: the file of the certificate. `validity` is what `ssh-keygen -V` takes.
    pub(crate) fn certify(&self, key: &Path, principal: &str, validity: &str) -> PathBuf {
        let public = if key.extension().is_some() { key.to_owned() } else { key.with_extension("pub") };
        let mut sign = Command::new("ssh-keygen");
        sign.arg("-q").arg("-s").arg(self.directory.path().join("user_authority"));
        run(sign.args(["-I", "user", "-n", principal, "-V", validity]).arg(&public));
        PathBuf::from(format!("{}-cert.pub", public.with_extension("").display()))
    }

    /// A path beside the server's own files, gone with it.
    pub(crate) fn directory_file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file below [`Sshd::files`] that belongs to [`USER`].
    pub(crate) fn place_file(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.files().join(name);
        fs::write(&path, content).unwrap();
        chown(&path, Some(USER_ID), Some(USER_ID)).unwrap();
        path
    }

    /// A directory below [`Sshd::files`] that belongs to [`USER`].
    pub(crate) fn place_directory(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.files().join(name);
        fs::create_dir(&path).unwrap();
        chown(&path, Some(USER_ID), Some(USER_ID)).unwrap();
        path
    }

    /// Waits until the server has written this.
    pub(crate) async fn wait_for_log(&self, wanted: &str) {
        let deadline = Instant::now() + START_LIMIT;
        while !self.log().contains(wanted) {
            assert!(Instant::now() < deadline, "sshd never wrote {wanted:?}:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What the server wrote.
    pub(crate) fn log(&self) -> String {
        let log = fs::read(self.directory.path().join("log")).unwrap();
        log.iter().map(|&byte| char::from(byte)).collect()
    }

    /// Processes of the connections: for each of them sshd's own and what it started.
    pub(crate) fn session_processes(&self) -> Vec<u32> {
        descendants(self.process.id())
    }

    /// Kills every connection, by process id; the server goes on listening.
    pub(crate) fn kill_sessions(&self) {
        // Frozen first: a process that is told to die may have a child before it hears of it.
        self.freeze_sessions();
        signal("KILL", &self.session_processes());
    }

    /// Stops every connection where it stands: the sockets stay open and nothing answers any more.
    pub(crate) fn freeze_sessions(&self) {
        // sshd starts the process that serves a user after it has told the client of its success. Processes that are
        // stopped start no others, so this ends.
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let running: Vec<u32> =
                self.session_processes().into_iter().filter(|process| is_running(*process)).collect();
            if running.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "processes that do not stop: {running:?}");
            signal("STOP", &running);
        }
    }

    /// One process for each SFTP channel that is open.
    pub(crate) fn sftp_servers(&self) -> Vec<u32> {
        let is_sftp_server = |process: &u32| {
            fs::read_to_string(format!("/proc/{process}/comm")).is_ok_and(|name| name.trim_end() == "sftp-server")
        };
        self.session_processes().into_iter().filter(is_sftp_server).collect()
    }

    /// Has each of these written so many bytes, to files or to its client?
    pub(crate) fn have_written(&self, processes: &[u32], bytes: u64) -> bool {
        processes.iter().all(|process| {
            let counters = fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
            let written = counters.lines().find_map(|line| line.strip_prefix("wchar: "));
            written.is_some_and(|written| written.parse::<u64>().unwrap() >= bytes)
        })
    }

    /// How many clients have logged in so far, each over a connection of its own.
    pub(crate) fn logins(&self) -> usize {
        // For a key there are further lines: "Accepted key …", "Accepted certificate …".
        self.log().lines().filter(|line| line.starts_with("Accepted ") && line.contains(" for ")).count()
    }

    /// Stops some processes of [`Sshd::session_processes`] where they stand.
    pub(crate) fn freeze(&self, processes: &[u32]) {
        signal("STOP", processes);
        let deadline = Instant::now() + START_LIMIT;
        while processes.iter().any(|process| is_running(*process)) {
            assert!(Instant::now() < deadline, "processes that do not stop: {processes:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Kills some processes of [`Sshd::session_processes`].
    pub(crate) fn kill(&self, processes: &[u32]) {
        signal("KILL", processes);
    }

    /// Lets some of them go on.
    pub(crate) fn thaw(&self, processes: &[u32]) {
        signal("CONT", processes);
    }

    /// Undoes [`Sshd::freeze_sessions`] and [`Sshd::freeze`].
    pub(crate) fn thaw_sessions(&self) {
        signal("CONT", &self.session_processes());
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.kill_sessions();
        // What was stopped does not hear that its parent is gone, and is nobody's descendant any more. It is in the mount
        // namespace that is this server's alone, as long as the server is: then its number is given to the next.
        let server = self.process.id();
        if let Some(place) = namespace(server).filter(|place| Some(place) != namespace(std::process::id()).as_ref()) {
            let is_left = |process: &u32| *process != server && namespace(*process).as_ref() == Some(&place);
            signal("KILL", &processes().filter(is_left).collect::<Vec<_>>());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- log of sshd on {}\n{}---", self.address, self.log());
        }
    }
}

/// The mount namespace of a process.
fn namespace(process: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/mnt")).ok()
}

/// Every process there is.
fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn write_files(directory: &Path, port: u16, options: &Options) {
    let path = |name: &str| directory.join(name);
    let files = path("files");
    fs::create_dir(&files).unwrap();
    chown(&files, Some(USER_ID), Some(USER_ID)).unwrap();

    fs::write(
        path("passwd"),
        format!(
            "root:x:0:0:root:/root:/bin/sh\n\
             sshd:x:54320:65534::/run/sshd:/usr/sbin/nologin\n\
             nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n\
             {USER}:x:{USER_ID}:{USER_ID}::{}:/bin/sh\n",
            files.display()
        ),
    )
    .unwrap();
    fs::write(path("group"), format!("root:x:0:\nshadow:x:42:\nnogroup:x:65534:\n{USER}:x:{USER_ID}:\n")).unwrap();
    fs::write(path("shadow"), shadow(PASSWORD)).unwrap();
    fs::set_permissions(path("shadow"), fs::Permissions::from_mode(0o600)).unwrap();
    let pam = "auth required pam_unix.so nodelay\naccount required pam_unix.so\nsession required pam_permit.so\n";
    fs::write(path("pam"), pam).unwrap();
    fs::create_dir(path("authorized_keys")).unwrap();
    fs::write(path("authorized_keys").join(USER), "").unwrap();

    // sshd takes the first value of each keyword.
    let mut config = options.config.clone();
    for key_type in &options.host_keys {
        let key = path(&format!("host_{key_type}"));
        run(Command::new("ssh-keygen").args(["-q", "-N", "", "-t", key_type, "-f"]).arg(&key));
        config.push(format!("HostKey {}", key.display()));
    }
    if let Some((principals, validity)) = &options.host_certificate {
        let (authority, key) = (path("authority"), path(&format!("host_{}.pub", options.host_keys[0])));
        run(Command::new("ssh-keygen").args(["-q", "-N", "", "-t", "ed25519", "-f"]).arg(&authority));
        let mut sign = Command::new("ssh-keygen");
        sign.arg("-q").arg("-s").arg(&authority).args(["-h", "-I", "host", "-n", principals, "-V", validity]);
        run(sign.arg(&key));
        config.push(format!("HostCertificate {}-cert.pub", key.with_extension("").display()));
    }
    if options.user_authority {
        let authority = path("user_authority");
        run(Command::new("ssh-keygen").args(["-q", "-N", "", "-t", "ed25519", "-f"]).arg(&authority));
        config.push(format!("TrustedUserCAKeys {}.pub", authority.display()));
    }
    let passwords = if options.keyboard_interactive {
        ["UsePAM yes", "PasswordAuthentication no", "KbdInteractiveAuthentication yes"]
    } else {
        ["UsePAM no", "PasswordAuthentication yes", "KbdInteractiveAuthentication no"]
    };
    config.extend(passwords.map(str::to_owned));
    config.push(format!("Port {port}"));
    config.push(format!("AuthorizedKeysFile {}/%u", path("authorized_keys").display()));
    // The one keyword that may not come twice.
    if !config.iter().any(|line| line.starts_with("Subsystem ")) {
        config.push(format!("Subsystem sftp {SFTP_SERVER} -e"));
    }
    config.extend(
        [
            "ListenAddress 127.0.0.1",
            "PidFile none",
            "StrictModes no",
            "MaxStartups 10000",
            "MaxSessions 10000",
            "LogLevel VERBOSE",
            "PrintLastLog no",
            "UseDNS no",
        ]
        .map(str::to_owned),
    );
    if has_source_penalties() {
        config.push("PerSourcePenalties no".to_owned());
    }
    fs::write(path("sshd_config"), config.join("\n") + "\n").unwrap();
}

/// What shadow(5) says where [`USER`] has this password.
fn shadow(password: &str) -> String {
    let hash = run(Command::new("openssl").args(["passwd", "-6", password]));
    format!("root:*:20000:0:99999:7:::\n{USER}:{hash}:20000:0:99999:7:::\n")
}

/// OpenSSH 9.8 began to shut out addresses that fail to log in.
fn has_source_penalties() -> bool {
    let output = Command::new("ssh").arg("-V").output().unwrap();
    let version = String::from_utf8(output.stderr).unwrap();
    let number = version.strip_prefix("OpenSSH_").unwrap_or_default();
    let mut parts = number.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (9, 8)
}

fn require_tools() {
    for (file, package) in [
        (SSHD, "openssh-server"),
        (SFTP_SERVER, "openssh-sftp-server"),
        ("/usr/bin/ssh-keygen", "openssh-client"),
        ("/usr/bin/openssl", "openssl"),
        ("/usr/bin/unshare", "util-linux"),
    ] {
        assert!(Path::new(file).exists(), "{file} is missing: install the package {package}");
    }
    let user = run(Command::new("id").arg("-u"));
    assert_eq!(user, "0", "the sshd of the tests needs root: it mounts its own /etc/passwd and switches users");
}

pub(crate) fn public_key(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let mut fields = text.split(' ');
    format!("{} {}", fields.next().unwrap(), fields.next().unwrap().trim())
}

/// Standard output of a command that must succeed, without the last line end.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", output.stderr.escape_ascii());
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// Every process below `root`, by /proc.
fn descendants(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = processes().filter_map(|process| Some((process, stat(process)?.1))).collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(process, _)| *process));
        next += 1;
    }
    found.split_off(1)
}

/// Neither stopped nor dead.
fn is_running(process: u32) -> bool {
    stat(process).is_some_and(|(state, _)| !"TtZX".contains(state))
}

/// State and parent: proc(5), "pid (comm) state ppid …", where comm may hold anything.
fn stat(process: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn signal(name: &str, processes: &[u32]) {
    if !processes.is_empty() {
        // A process may be gone by now; then kill fails, and that is as good. The shell has a kill of its own.
        let processes = processes.iter().map(ToString::to_string);
        let mut command = Command::new("sh");
        command.args(["-c", "kill -s \"$@\"", "kill", name]).args(processes);
        let _ = command.stderr(Stdio::null()).status();
    }
}
