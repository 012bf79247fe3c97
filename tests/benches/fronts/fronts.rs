//! The fronts that are compared, each set up as well as we know how, and what is known of each.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::SupportedProtocolVersion;

use super::Outcome;
use super::client::{Access, Protection};
use super::place::{Link, PASSWORD, Place, USER, local};
use super::process::{Process, run};

/// Ports for data connections, the same for all: one front runs at a time.
const PASSIVE_FIRST: u16 = 10_000;
const PASSIVE_LAST: u16 = 29_999;

const PORT: u16 = 2121;
const ADMIN_PORT: u16 = 9105;

/// Who can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Front {
    /// The gateway as it is by default; users by passthrough, each with an SSH connection.
    Ours,
    /// The gateway, one upload over four channels.
    OursStriped,
    /// The gateway, a mapped identity with `connections: shared`.
    OursShared,
    /// rclone `serve ftp` over an sftp remote.
    Rclone,
    /// vsftpd on a directory that sshfs mounts.
    VsftpdSshfs,
    /// Limit: vsftpd on the directory itself.
    VsftpdLocal,
    /// Limit: OpenSSH's sftp and ssh, straight to the server.
    OpenSsh,
    /// Limit: logins of the library that the gateway uses for SSH.
    Russh,
}

impl Front {
    pub(crate) const ALL: [Self; 8] = [
        Self::Ours,
        Self::OursStriped,
        Self::OursShared,
        Self::Rclone,
        Self::VsftpdSshfs,
        Self::VsftpdLocal,
        Self::OpenSsh,
        Self::Russh,
    ];

    /// As `--fronts` takes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::OursStriped => "ours-striped",
            Self::OursShared => "ours-shared",
            Self::Rclone => "rclone",
            Self::VsftpdSshfs => "vsftpd-sshfs",
            Self::VsftpdLocal => "vsftpd-local",
            Self::OpenSsh => "openssh",
            Self::Russh => "russh",
        }
    }
}

/// Where the programs are.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) gateway: PathBuf,
    pub(crate) rclone: PathBuf,
    pub(crate) vsftpd: PathBuf,
    /// What the load client speaks to them.
    pub(crate) tls: &'static SupportedProtocolVersion,
}

/// A front that runs.
pub(crate) struct Running {
    pub(crate) access: Access,
    /// Ended in this order.
    processes: Vec<Process>,
    /// Ended after the others: what they are mounted on.
    mounted: Option<Mounted>,
}

/// A directory mounted by sshfs.
struct Mounted {
    at: PathBuf,
    process: Process,
}

impl Running {
    /// Starts it in front of the SSH server.
    pub(crate) fn start(front: Front, link: Link, place: &Place, programs: &Programs) -> Outcome<Self> {
        let mut running = Self {
            access: Access {
                address: local(PORT),
                protection: if front == Front::Rclone { Protection::ControlOnly } else { Protection::Full },
                user: USER.to_owned(),
                password: PASSWORD.to_owned(),
                roots: place.roots.clone(),
                version: programs.tls,
            },
            processes: Vec::new(),
            mounted: None,
        };
        let mut command = match front {
            Front::Ours | Front::OursStriped | Front::OursShared => gateway(front, link, place, programs)?,
            Front::Rclone => rclone(link, place, programs),
            Front::VsftpdSshfs => {
                let mounted = Mounted::mount(link, place)?;
                let command = vsftpd(&mounted.at, place, programs)?;
                running.mounted = Some(mounted);
                command
            }
            Front::VsftpdLocal => vsftpd(&place.home("."), place, programs)?,
            Front::OpenSsh | Front::Russh => return Err("this is no server".into()),
        };
        let mut process = Process::start(&mut command, &place.path("logs/front"))?;
        process.listens(running.access.address)?;
        running.processes.push(process);
        Ok(running)
    }

    fn all(&self) -> impl Iterator<Item = &Process> {
        self.processes.iter().chain(self.mounted.iter().map(|mounted| &mounted.process))
    }

    /// CPU time of all its processes so far.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.all().map(Process::cpu_seconds).sum()
    }

    /// Memory of all its processes, in KiB.
    pub(crate) fn memory(&self) -> f64 {
        self.all().map(Process::memory).sum()
    }

    /// What the gateway says of itself.
    pub(crate) async fn metrics(&self) -> Outcome<String> {
        let mut stream = TcpStream::connect(local(ADMIN_PORT)).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// See [`Process::forget_peak`].
    pub(crate) fn forget_peak(&self) -> f64 {
        self.all().map(Process::forget_peak).sum()
    }

    /// See [`Process::peak`].
    pub(crate) fn peak(&self) -> f64 {
        self.all().map(Process::peak).sum()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.processes.clear();
    }
}

/// Its default configuration, but for the bounds on sessions of one address, and for what the front is about.
fn gateway(front: Front, link: Link, place: &Place, programs: &Programs) -> Outcome<Command> {
    let directory = place.path("gateway");
    fs::create_dir_all(&directory)?;
    let user = if front == Front::OursShared {
        let plain = place.path("password");
        fs::write(&plain, format!("{PASSWORD}\n"))?;
        let hash = Command::new(&programs.gateway).arg("hash-password").stdin(fs::File::open(plain)?).output()?;
        format!(
            "  {USER}:\n    password_hash: \"{}\"\n    backend: files\n    login: {{user: {USER}, private_key: \"{}\"}}\n    \
             root: \"{}\"\n",
            String::from_utf8(hash.stdout)?.trim(),
            place.path("user_key").display(),
            place.home("").display()
        )
    } else {
        "  \"*\": {backend: files, login: passthrough}\n".to_owned()
    };
    let configuration = format!(
        "listeners: [{{name: explicit, address: \"127.0.0.1:{PORT}\", tls: explicit}}]\n\
         tls: {{certificates: [{{certificate: ../tls.crt, key: ../tls.key}}]}}\n\
         passive: {{ports: {PASSIVE_FIRST}-{PASSIVE_LAST}}}\n\
         backends:\n  files: {{address: \"{}\", host_keys: [\"{}\"]{}}}\n\
         users:\n{user}{}\
         limits: {{sessions: 100000, sessions_per_ip: 100000}}\nadmin: {{address: \"127.0.0.1:{ADMIN_PORT}\"}}\n\
         log: {{format: text, level: warn}}\n",
        place.sshd(link),
        place.host_key_fingerprint,
        if front == Front::OursShared { ", connections: shared" } else { "" },
        if front == Front::OursStriped { "policy: {upload_streams: 4}\n" } else { "" },
    );
    let file = directory.join("config.yaml");
    fs::write(&file, configuration)?;
    let mut command = Command::new(&programs.gateway);
    command.args(["run", "--config"]).arg(file);
    Ok(command)
}

/// No cache of its own on disk, as many requests in flight and as large as the server takes, the cheapest cipher, and
/// nothing that only costs round trips (hashes, times, a shell). It knows no PROT: its data connections are in clear.
fn rclone(link: Link, place: &Place, programs: &Programs) -> Command {
    let mut command = Command::new(&programs.rclone);
    let address = place.sshd(link);
    for (name, value) in [
        ("TYPE", OsString::from("sftp")),
        ("HOST", address.ip().to_string().into()),
        ("PORT", address.port().to_string().into()),
        ("USER", USER.into()),
        ("KEY_FILE", place.path("user_key").into()),
        ("KNOWN_HOSTS_FILE", place.path("known_hosts").into()),
        ("SHELL_TYPE", "none".into()),
        ("DISABLE_HASHCHECK", "true".into()),
        ("SET_MODTIME", "false".into()),
        ("CONCURRENCY", "64".into()),
        ("CHUNK_SIZE", "255k".into()),
        ("CIPHERS", "aes128-gcm@openssh.com".into()),
        ("IDLE_TIMEOUT", "0".into()),
    ] {
        command.env(format!("RCLONE_CONFIG_BENCH_{name}"), value);
    }
    command.env("HOME", place.path("local")).args(["serve", "ftp"]);
    command.arg(format!("bench:{}", place.home("").display()));
    command.arg("--addr").arg(local(PORT).to_string());
    command.args(["--user", USER, "--pass", PASSWORD]);
    command.arg("--cert").arg(place.path("tls.crt")).arg("--key").arg(place.path("tls.key"));
    command.args(["--passive-port", &format!("{PASSIVE_FIRST}-{PASSIVE_LAST}")]);
    command.args(["--vfs-cache-mode", "off", "--vfs-read-chunk-size", "off", "--buffer-size", "16M"]);
    command.args(["--no-checksum", "--no-modtime", "--log-level", "ERROR"]);
    command
}

/// Without what costs and secures nothing here: namespaces of its own, lookups of names, its log.
fn vsftpd(root: &Path, place: &Place, programs: &Programs) -> Outcome<Command> {
    let configuration = format!(
        "listen=YES\nlisten_address=127.0.0.1\nlisten_port={PORT}\nbackground=NO\nanonymous_enable=NO\nlocal_enable=YES\n\
         write_enable=YES\nlocal_umask=022\nlocal_root={}\npam_service_name=vsftpd\nsecure_chroot_dir=/run/vsftpd/empty\n\
         max_clients=0\nmax_per_ip=0\npasv_min_port={PASSIVE_FIRST}\npasv_max_port={PASSIVE_LAST}\nxferlog_enable=NO\n\
         session_support=NO\nisolate=NO\nisolate_network=NO\nseccomp_sandbox=NO\n\
         tcp_wrappers=NO\nssl_enable=YES\nssl_tlsv1=YES\nssl_sslv2=NO\nssl_sslv3=NO\nforce_local_logins_ssl=YES\n\
         force_local_data_ssl=YES\nrequire_ssl_reuse=NO\nssl_ciphers=HIGH\nrsa_cert_file={}\nrsa_private_key_file={}\n",
        root.display(),
        place.path("tls.crt").display(),
        place.path("tls.key").display(),
    );
    let file = place.path("vsftpd.conf");
    fs::write(&file, configuration)?;
    let mut command = Command::new(&programs.vsftpd);
    command.arg(file);
    Ok(command)
}

impl Mounted {
    /// With sshfs' own caches of names and attributes, as it comes.
    fn mount(link: Link, place: &Place) -> Outcome<Self> {
        let at = place.path("mount");
        let host = if link == Link::Near { "near" } else { "far" };
        let mut command = Command::new("sshfs");
        command.arg("-f").arg("-F").arg(place.path("ssh_config"));
        command.args(["-o", "allow_other"]);
        command.arg(format!("{host}:{}", place.home("").display())).arg(&at);
        let mut process = Process::start(&mut command, &place.path("logs/sshfs"))?;
        let mounts = || fs::read_to_string("/proc/mounts").unwrap_or_default();
        process.becomes(|| mounts().contains(&format!(" {} fuse.sshfs ", at.display())))?;
        Ok(Self { at, process })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a session of the FTP server may not be gone yet.
        let _ = run("umount", [Path::new("-l"), &self.at]);
    }
}
