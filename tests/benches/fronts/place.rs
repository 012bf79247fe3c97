//! Where everything happens: namespaces of our own, so that ports, mounts, users and processes are nobody else's and
//! are gone at the end however it comes; files in memory; and the one SSH server that all fronts stand before.

use std::env;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use super::Outcome;
use super::content::Content;
use super::delay::DelayProxy;
use super::process::{Process, run};

/// The user of the SSH server and of every front.
pub(crate) const USER: &str = "bench";

/// Its password. Nothing of this is reachable from outside of its namespaces.
pub(crate) const PASSWORD: &str = "correct-horse-battery-staple";

/// The name in the certificate of the fronts.
pub(crate) const SERVER_NAME: &str = "localhost";

/// A number no machine gives out by itself.
const USER_ID: u32 = 54_321;

/// The network namespace is new, so every port is free.
const SSHD_PORT: u16 = 2200;
const DELAYED_PORT: u16 = 2201;
const ECHO_PORT: u16 = 2202;

/// Half of the round trip that the delayed link adds.
const ONE_WAY: Duration = Duration::from_millis(20);

/// Set inside of the namespaces.
const INSIDE: &str = "FTPS2SFTP_BENCH_INSIDE";

/// A directory of every system, over which the files in memory are mounted, for us alone.
const DIRECTORY: &str = "/mnt";

/// The bound of the files in memory is the longest file, and what is sent beside it.
const ENTER: &str = r#"
set -e
ip link set lo up
mount -t tmpfs -o mode=755,size=6g tmpfs /mnt
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/sshd /run/vsftpd/empty
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"
exec "$@"
"#;

/// How far the SSH server is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// On the same machine.
    Near,
    /// Behind the delaying proxy.
    Far,
}

/// The place, ready.
pub(crate) struct Place {
    directory: PathBuf,
    pub(crate) content: Arc<Content>,
    pub(crate) host_key_fingerprint: String,
    pub(crate) roots: Arc<RootCertStore>,
    /// What a byte and its answer take over the delayed link.
    pub(crate) round_trip: Duration,
    _sshd: Process,
    _delay: DelayProxy,
}

/// Starts this program again inside of new namespaces; `None` if this is there already.
pub(crate) fn enter() -> Outcome<Option<ExitCode>> {
    if env::var_os(INSIDE).is_some() {
        return Ok(None);
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut inside = tokio::process::Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", ENTER, "sh"])
            .arg(env::current_exe()?)
            .args(env::args_os().skip(1))
            .env(INSIDE, "yes")
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        // Whoever leaves here ends `unshare`, and with it everything in the namespaces.
        let code = tokio::select! {
            status = inside.wait() => status?.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
            _ = interrupt.recv() => 130,
            _ = terminate.recv() => 143,
        };
        Ok(Some(ExitCode::from(code)))
    })
}

impl Place {
    /// Users, keys, certificate, sshd and the delayed link.
    pub(crate) async fn prepare() -> Outcome<Self> {
        let directory = PathBuf::from(DIRECTORY);
        let path = |name: &str| directory.join(name);
        for name in ["home", "mount", "logs", "etc", "local"] {
            fs::create_dir(path(name))?;
        }
        chown(path("home"), Some(USER_ID), Some(USER_ID))?;
        write_users(&directory)?;
        write_keys(&directory)?;
        let roots = write_certificate(&directory)?;
        let fingerprint = run("ssh-keygen", [Path::new("-lf"), &path("host_key.pub")])?;
        let fingerprint = fingerprint.split(' ').nth(1).ok_or("no fingerprint")?.to_owned();
        write_sshd_config(&directory)?;
        let mut sshd = Process::start(
            Command::new("/usr/sbin/sshd").args(["-D", "-e", "-f"]).arg(path("sshd_config")),
            &path("logs/sshd"),
        )?;
        sshd.listens(local(SSHD_PORT))?;
        let delay = DelayProxy::start(local(DELAYED_PORT), local(SSHD_PORT), ONE_WAY).await?;
        let round_trip = measure_round_trip().await?;
        let content = Arc::new(Content::new());
        let host_key_fingerprint = fingerprint;
        Ok(Self { directory, content, host_key_fingerprint, roots, round_trip, _sshd: sshd, _delay: delay })
    }

    /// A path in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A path in the home directory of the user of the SSH server.
    pub(crate) fn home(&self, name: &str) -> PathBuf {
        self.directory.join("home").join(name)
    }

    /// Where the SSH server is to be reached.
    pub(crate) fn sshd(&self, link: Link) -> SocketAddr {
        match link {
            Link::Near => local(SSHD_PORT),
            Link::Far => local(DELAYED_PORT),
        }
    }

    /// A file of the user with the content from `start` on.
    pub(crate) fn provide(&self, name: &str, start: u64, length: u64) -> Outcome<()> {
        let path = self.home(name);
        self.content.write(&path, start, length)?;
        Ok(chown(&path, Some(USER_ID), Some(USER_ID))?)
    }

    /// A directory of the user with so many empty files.
    pub(crate) fn provide_directory(&self, name: &str, files: usize) -> Outcome<()> {
        let path = self.home(name);
        fs::create_dir(&path)?;
        chown(&path, Some(USER_ID), Some(USER_ID))?;
        for number in 0..files {
            let file = path.join(format!("invoice-{number:06}.xml"));
            fs::File::create(&file)?;
            chown(&file, Some(USER_ID), Some(USER_ID))?;
        }
        Ok(())
    }

    /// Removes everything of the user, and what OpenSSH's client fetched.
    pub(crate) fn clear(&self) -> Outcome<()> {
        for directory in [self.home("."), self.path("local")] {
            for entry in fs::read_dir(directory)? {
                let path = entry?.path();
                if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
            }
        }
        Ok(())
    }
}

/// An address of this machine.
pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Users of our own, mounted over those of the system in this namespace only.
fn write_users(directory: &Path) -> Outcome<()> {
    let etc = directory.join("etc");
    let home = directory.join("home");
    fs::write(
        etc.join("passwd"),
        format!(
            "root:x:0:0:root:/root:/bin/sh\nsshd:x:54320:65534::/run/sshd:/usr/sbin/nologin\n\
             nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n{USER}:x:{USER_ID}:{USER_ID}::{}:/bin/sh\n",
            home.display()
        ),
    )?;
    fs::write(etc.join("group"), format!("root:x:0:\nshadow:x:42:\nnogroup:x:65534:\n{USER}:x:{USER_ID}:\n"))?;
    let hash = run("openssl", ["passwd", "-6", PASSWORD])?;
    let shadow = etc.join("shadow");
    fs::write(&shadow, format!("root:*:20000:0:99999:7:::\n{USER}:{hash}:20000:0:99999:7:::\n"))?;
    fs::set_permissions(&shadow, fs::Permissions::from_mode(0o600))?;
    fs::create_dir(etc.join("pam.d"))?;
    let pam = "auth required pam_unix.so nodelay\naccount required pam_unix.so\nsession required pam_permit.so\n";
    fs::write(etc.join("pam.d/vsftpd"), pam)?;
    fs::write(etc.join("pam.d/other"), "auth required pam_deny.so\naccount required pam_deny.so\n")?;
    for name in ["passwd", "group", "shadow", "pam.d"] {
        run("mount", [Path::new("--bind"), &etc.join(name), &Path::new("/etc").join(name)])?;
    }
    Ok(())
}

/// Keys of server and user, and the configuration with which OpenSSH's client finds the server near and far.
fn write_keys(directory: &Path) -> Outcome<()> {
    for name in ["host_key", "user_key"] {
        let file = directory.join(name);
        run("ssh-keygen", ["-q", "-N", "", "-t", "ed25519", "-f"].map(Path::new).into_iter().chain([file.as_path()]))?;
    }
    fs::copy(directory.join("user_key.pub"), directory.join("authorized_keys"))?;
    let key = fs::read_to_string(directory.join("host_key.pub"))?;
    let known: String = [SSHD_PORT, DELAYED_PORT].map(|port| format!("[127.0.0.1]:{port} {key}")).concat();
    fs::write(directory.join("known_hosts"), known)?;
    let mut config = String::new();
    for (host, port) in [("near", SSHD_PORT), ("far", DELAYED_PORT)] {
        config.push_str(&format!("Host {host}\n  HostName 127.0.0.1\n  Port {port}\n"));
    }
    config.push_str(&format!(
        "Host *\n  User {USER}\n  IdentityFile {0}/user_key\n  IdentitiesOnly yes\n  UserKnownHostsFile {0}/known_hosts\n  \
         StrictHostKeyChecking yes\n  BatchMode yes\n  Compression no\n  Ciphers aes128-gcm@openssh.com\n",
        directory.display()
    ));
    Ok(fs::write(directory.join("ssh_config"), config)?)
}

/// One certificate for all fronts.
fn write_certificate(directory: &Path) -> Outcome<Arc<RootCertStore>> {
    let names = vec![SERVER_NAME.to_owned(), Ipv4Addr::LOCALHOST.to_string()];
    let made = rcgen::generate_simple_self_signed(names)?;
    let pem = made.cert.pem();
    fs::write(directory.join("tls.crt"), &pem)?;
    fs::write(directory.join("tls.key"), made.signing_key.serialize_pem())?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes())?)?;
    Ok(Arc::new(roots))
}

fn write_sshd_config(directory: &Path) -> Outcome<()> {
    let config = format!(
        "Port {SSHD_PORT}\nListenAddress 127.0.0.1\nPidFile none\nHostKey {0}/host_key\n\
         AuthorizedKeysFile {0}/authorized_keys\nStrictModes no\nUsePAM no\nPasswordAuthentication yes\n\
         KbdInteractiveAuthentication no\nSubsystem sftp /usr/lib/openssh/sftp-server\n\
         MaxStartups 10000\nMaxSessions 10000\nLogLevel ERROR\nPrintLastLog no\nUseDNS no\n{1}",
        directory.display(),
        if has_source_penalties()? { "PerSourcePenalties no\n" } else { "" }
    );
    Ok(fs::write(directory.join("sshd_config"), config)?)
}

/// OpenSSH 9.8 began to shut out addresses that fail to log in, or that leave before they do.
fn has_source_penalties() -> Outcome<bool> {
    let output = Command::new("ssh").arg("-V").output()?;
    let version = String::from_utf8(output.stderr)?;
    let number = version.strip_prefix("OpenSSH_").unwrap_or_default();
    let mut parts = number.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    Ok((parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (9, 8))
}

/// The median of what a byte and its answer take over a proxy like the delayed link's.
async fn measure_round_trip() -> Outcome<Duration> {
    let listener = TcpListener::bind(local(ECHO_PORT)).await?;
    let proxy = DelayProxy::start(local(0), local(ECHO_PORT), ONE_WAY).await?;
    let mut near = TcpStream::connect(proxy.address()).await?;
    let (mut far, _) = listener.accept().await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let mut times = Vec::new();
    for _ in 0..9 {
        let start = Instant::now();
        near.write_u8(1).await?;
        far.read_u8().await?;
        far.write_u8(1).await?;
        near.read_u8().await?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}
