//! The gateway as its own process, with a configuration of the test's: bound to free ports, ended with the value.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::sshd::{self, Sshd};

/// The name the gateway's certificate is for.
pub(crate) const SERVER_NAME: &str = "localhost";

/// A user of [`Gateway::before`]: mapped to the sshd's user by its stored password.
pub(crate) const MAPPED_USER: &str = "acme";

/// The mapped user's FTPS password.
pub(crate) const MAPPED_PASSWORD: &str = "swordfish 42";

/// [`MAPPED_PASSWORD`] under cheap parameters, so that tests do not wait for it.
const MAPPED_HASH: &str = include_str!("mapped_password.hash");

/// Passive ports of one gateway; ports that others use are stepped over.
const PASSIVE_PORTS: u16 = 400;

/// How long anything may take that is only waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running gateway. Dropping it ends it; in a failed test it shows its log.
pub(crate) struct Gateway {
    directory: TempDir,
    process: Child,
    log: Arc<Log>,
    pub(crate) explicit: SocketAddr,
    pub(crate) implicit: SocketAddr,
    pub(crate) admin: SocketAddr,
}

/// What can be different about a gateway. Each text is YAML.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setup {
    /// Entries of `backends`, indented by two.
    pub(crate) backends: String,
    /// Entries of `users`, indented by two.
    pub(crate) users: String,
    /// Further top-level keys (`policy`, `limits`, `timeouts` …).
    pub(crate) more: String,
    /// Lines under `tls`, indented by two.
    pub(crate) tls: String,
    /// Further items of `tls.certificates`, each with a comma in front.
    pub(crate) certificates: String,
    /// Lines under `passive`, indented by two.
    pub(crate) passive: String,
    /// Further keys of both listeners, such as `proxy_protocol: required`.
    pub(crate) listeners: String,
    /// So many passive ports, where it matters.
    pub(crate) ports: Option<u16>,
    /// `log.level`.
    pub(crate) level: Option<String>,
    /// Further keys of `admin`.
    pub(crate) admin: String,
    /// There is no `admin` at all.
    pub(crate) without_admin: bool,
    /// Variables of its environment.
    pub(crate) environment: Vec<(String, String)>,
    /// A program with its arguments that becomes the gateway, whose own stand behind.
    pub(crate) wrapper: Vec<String>,
    /// From when it serves nobody reads what it logs, and the pipe stays.
    pub(crate) unread_log: bool,
}

impl Setup {
    /// One backend, `files`, which is this server.
    pub(crate) fn backend(sshd: &Sshd) -> Self {
        Self::backend_at(sshd.address(), &sshd.host_key_fingerprint("ed25519"))
    }

    /// One backend, `files`, which is this server, with further keys of its own such as `idle_release: 1s`.
    pub(crate) fn backend_with(sshd: &Sshd, keys: &str) -> Self {
        let (address, fingerprint) = (sshd.address(), sshd.host_key_fingerprint("ed25519"));
        Self {
            backends: format!("  files: {{address: \"{address}\", host_keys: [\"{fingerprint}\"], {keys}}}\n"),
            ..Self::default()
        }
    }

    /// One backend, `files`, at an address with a pinned host key.
    pub(crate) fn backend_at(address: SocketAddr, fingerprint: &str) -> Self {
        Self {
            backends: format!("  files: {{address: \"{address}\", host_keys: [\"{fingerprint}\"]}}\n"),
            ..Self::default()
        }
    }

    /// Everybody by passthrough, and [`MAPPED_USER`] with the sshd user's files as its root.
    pub(crate) fn with_users(mut self, root: &Path) -> Self {
        self.users.push_str(&format!(
            "  {MAPPED_USER}:\n    password_hash: \"{}\"\n    backend: files\n    \
             login: {{user: {}, password: \"{}\"}}\n    root: \"{}\"\n  \"*\": {{backend: files, login: passthrough}}\n",
            MAPPED_HASH.trim(),
            sshd::USER,
            sshd::PASSWORD,
            root.display()
        ));
        self
    }

    /// Adds a mapped user with its own lines (`root`, `permissions`, `policy` …), indented by four.
    pub(crate) fn with_user(mut self, name: &str, lines: &str) -> Self {
        self.users.push_str(&format!(
            "  {name}:\n    password_hash: \"{}\"\n    backend: files\n    login: {{user: {}, password: \"{}\"}}\n{lines}",
            MAPPED_HASH.trim(),
            sshd::USER,
            sshd::PASSWORD,
        ));
        self
    }

    /// Adds a user with [`MAPPED_PASSWORD`] and a `login` of the test's; further lines are indented by four.
    pub(crate) fn with_login(mut self, name: &str, login: &str, lines: &str) -> Self {
        self.users.push_str(&format!(
            "  {name}:\n    password_hash: \"{}\"\n    backend: files\n    login: {login}\n{lines}",
            MAPPED_HASH.trim()
        ));
        self
    }

    /// Adds everybody else, by passthrough.
    pub(crate) fn with_passthrough(mut self) -> Self {
        self.users.push_str("  \"*\": {backend: files, login: passthrough}\n");
        self
    }

    /// Adds top-level keys.
    pub(crate) fn with(mut self, yaml: &str) -> Self {
        self.more.push_str(yaml);
        self
    }
}

impl Gateway {
    /// In front of a server: everybody by passthrough, and [`MAPPED_USER`].
    pub(crate) fn before(sshd: &Sshd) -> Self {
        Self::start(&Setup::backend(sshd).with_users(&sshd.files()))
    }

    /// With a configuration of the test's.
    pub(crate) fn start(setup: &Setup) -> Self {
        let directory = tempfile::tempdir().unwrap();
        write_certificate(directory.path());
        // Tests are faster than clients are, and fail more often; whoever has bounds of its own says what it wants to be held to.
        let bounds =
            "limits: {commands_per_second: 1000000, failed_logins: {per_ip: null, per_user: null, window: 1s}}\n";
        let limits = if setup.more.contains("limits: ") { "" } else { bounds };
        let ports = setup.ports.map_or_else(passive_ports, few_passive_ports);
        let admin = if setup.without_admin {
            String::new()
        } else {
            format!("admin: {{address: \"127.0.0.1:0\", {}}}\n", setup.admin)
        };
        let configuration = format!(
            "listeners:\n  - {{name: explicit, address: \"127.0.0.1:0\", tls: explicit, {listeners}}}\n  - {{name: \
             implicit, address: \"127.0.0.1:0\", tls: implicit, {listeners}}}\ntls:\n  certificates: [{{certificate: tls.crt, key: \
             tls.key}}{}]\n{}passive:\n  ports: {}-{}\n{}backends:\n{}users:\n{}{admin}log: \
             {{format: json, level: \"{}\"}}\n{limits}{}",
            setup.certificates,
            setup.tls,
            ports.start(),
            ports.end(),
            setup.passive,
            setup.backends,
            setup.users,
            setup.level.as_deref().unwrap_or("debug"),
            setup.more,
            listeners = setup.listeners,
        );
        let file = directory.path().join("gateway.yaml");
        fs::write(&file, &configuration).unwrap();
        let program = [env!("CARGO_BIN_EXE_ftps2sftp").to_owned()];
        let mut words = setup.wrapper.iter().chain(&program);
        let mut process = Command::new(words.next().unwrap())
            .args(words)
            .args(["run", "--config"])
            .envs(setup.environment.iter().cloned())
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Log::default());
        let errors = BufReader::new(process.stderr.take().unwrap());
        let (sink, unread) = (Arc::clone(&log), setup.unread_log);
        thread::spawn(move || {
            let mut errors = errors;
            for line in errors.by_ref().split(b'\n').map_while(Result::ok) {
                let line: String = line.iter().map(|byte| char::from(*byte)).collect();
                let is_last = unread && line.contains("admin listening");
                sink.push(line);
                if is_last {
                    break;
                }
            }
            sink.end();
            if unread {
                // As long as this process lives: an end that is closed would be another thing.
                std::mem::forget(errors);
            }
        });
        let address = |listener: &str| {
            let marker = format!("\"listener\":\"{listener}\",\"server.address\":\"");
            log.wait_for(|line| line.contains("\"listening\"") && line.contains(&marker))
                .and_then(|line| line.split(&marker).nth(1)?.split('"').next()?.parse().ok())
                .unwrap_or_else(|| panic!("the gateway does not start:\n{configuration}\n{}", log.text()))
        };
        let (explicit, implicit) = (address("explicit"), address("implicit"));
        let admin = log
            .wait_for(|line| line.contains("admin listening"))
            .and_then(|line| line.split("server.address\":\"").nth(1)?.split('"').next()?.parse().ok())
            .unwrap();
        Self { directory, process, log, explicit, implicit, admin }
    }

    /// Where its files are.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its configuration.
    pub(crate) fn file(&self) -> PathBuf {
        self.directory().join("gateway.yaml")
    }

    /// PEM file of the certificate, which is its own authority.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.directory.path().join("tls.crt")
    }

    /// Everything it has logged.
    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    /// Waits for a log line.
    pub(crate) fn wait_for_log(&self, wanted: impl Fn(&str) -> bool) -> String {
        self.log.wait_for(wanted).unwrap_or_else(|| panic!("no such log line:\n{}", self.log.text()))
    }

    /// A field of /proc/PID/status in KiB, such as `VmHWM` or `VmRSS`.
    pub(crate) fn memory(&self, field: &str) -> u64 {
        self.status(field).parse().unwrap()
    }

    /// A field of /proc/PID/status, without its unit.
    pub(crate) fn status(&self, field: &str) -> String {
        let status = self.process_file("status");
        let mut lines = status.lines().filter_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        lines.next().unwrap().split_whitespace().next().unwrap().to_owned()
    }

    /// A file of /proc/PID.
    pub(crate) fn process_file(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.process.id())).unwrap()
    }

    /// Where bytes stand in the memory that it can write to, on any heap or stack: address, mapping and surroundings.
    pub(crate) fn find_in_memory(&self, wanted: &[u8]) -> Vec<String> {
        let memory = fs::File::open(format!("/proc/{}/mem", self.process.id())).unwrap();
        let mut found = Vec::new();
        for mapping in self.process_file("maps").lines() {
            let mut words = mapping.split_whitespace();
            let (start, end) = words.next().unwrap().split_once('-').unwrap();
            if !words.next().unwrap().starts_with("rw") {
                continue;
            }
            let start = u64::from_str_radix(start, 16).unwrap();
            let length = u64::from_str_radix(end, 16).unwrap() - start;
            let mut bytes = vec![0; length.try_into().unwrap()];
            // A mapping that is gone since holds nothing.
            if memory.read_exact_at(&mut bytes, start).is_err() {
                continue;
            }
            for at in memchr::memmem::find_iter(&bytes, wanted) {
                let around = &bytes[at.saturating_sub(64)..bytes.len().min(at + wanted.len() + 64)];
                found.push(format!("{:#x} in {mapping}: {}", start + at as u64, around.escape_ascii()));
            }
        }
        found
    }

    /// How many TCP sockets it listens on.
    pub(crate) fn listening(&self) -> usize {
        self.listening_at().len()
    }

    /// The TCP sockets it listens on, each as /proc/net has its address, such as `0100007F:2391`.
    pub(crate) fn listening_at(&self) -> Vec<String> {
        let mut listening = Vec::new();
        for table in ["tcp", "tcp6"] {
            // proc_pid_net(5): the second column is the address, the fourth the state, 0A for LISTEN, and the tenth the
            // inode.
            listening.extend(self.process_file(&format!("net/{table}")).lines().skip(1).filter_map(|line| {
                let columns: Vec<&str> = line.split_whitespace().collect();
                (columns[3] == "0A").then(|| (format!("socket:[{}]", columns[9]), columns[1].to_owned()))
            }));
        }
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap();
        let targets = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        targets
            .filter_map(|target| listening.iter().find(|(socket, _)| target.as_os_str() == socket.as_str()))
            .map(|(_, address)| address.clone())
            .collect()
    }

    /// Its number.
    pub(crate) fn process(&self) -> u32 {
        self.process.id()
    }

    /// From now on it may have so many descriptors (RLIMIT_NOFILE).
    pub(crate) fn limit_descriptors(&self, most: u64) {
        let process = self.process.id().to_string();
        let limit = format!("--nofile={most}:{most}");
        assert!(Command::new("prlimit").args(["--pid", &process, &limit]).status().unwrap().success());
    }

    /// What it has used of the processor.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        // proc_pid_stat(5): behind the name, user and system time are the 12th and 13th field, in hundredths of a second.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    /// Begins to count its peak, `VmHWM`, anew (proc(5): 5 to `clear_refs`).
    pub(crate) fn forget_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5").unwrap();
    }

    /// Sends it a signal by number name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.process.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// GET from the admin listener: status and body.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = tokio::net::TcpStream::connect(self.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// The value of one metric, named with its labels; 0 where it does not exist.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let (_, text) = self.get("/metrics").await;
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Waits until a metric has a value.
    pub(crate) async fn wait_for_metric(&self, series: &str, wanted: f64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.metric(series).await;
            if value == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{series} is {value} and not {wanted}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the gateway does not end:\n{}", self.log.text());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            eprintln!("log of the gateway:\n{}", self.log.text());
        }
    }
}

/// Ports that other gateways may use too, here and there.
fn passive_ports() -> RangeInclusive<u16> {
    let first = 20_000 + u16::try_from(std::process::id() % 24).unwrap() * PASSIVE_PORTS;
    first..=first + PASSIVE_PORTS - 1
}

/// So few that none may be another's: below the ports that the system gives to connections, and free.
fn few_passive_ports(count: u16) -> RangeInclusive<u16> {
    static TRIES: AtomicU16 = AtomicU16::new(0);
    loop {
        let place = std::process::id() as u16 % 256 + TRIES.fetch_add(17, Ordering::Relaxed) % 256;
        let first = 29_700 + place % 256 * 11;
        let range = first..=first + count - 1;
        if range.clone().all(|port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return range;
        }
    }
}

#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

impl Log {
    fn push(&self, line: String) {
        self.lines.lock().unwrap().0.push(line);
        self.changed.notify_all();
    }

    fn end(&self) {
        self.lines.lock().unwrap().1 = true;
        self.changed.notify_all();
    }

    fn text(&self) -> String {
        self.lines.lock().unwrap().0.join("\n")
    }

    fn wait_for(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let lines = self.lines.lock().unwrap();
        let found = |lines: &Vec<String>| lines.iter().find(|line| wanted(line)).cloned();
        let (lines, _) = self
            .changed
            .wait_timeout_while(lines, PATIENCE, |(lines, ended)| !*ended && found(lines).is_none())
            .unwrap();
        found(&lines.0)
    }
}

/// A new certificate and its key, as `tls.crt` and `tls.key`.
pub(crate) fn write_certificate(directory: &Path) {
    let names = vec![SERVER_NAME.to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    fs::write(directory.join("tls.crt"), made.cert.pem()).unwrap();
    fs::write(directory.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
}
