//! curl, lftp and Python's ftplib as people run them, each with nothing of this machine's own settings.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::client::latin1;
use super::gateway::{Gateway, MAPPED_PASSWORD, MAPPED_USER};

/// When TLS begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tls {
    Explicit,
    Implicit,
}

impl Tls {
    pub(crate) const BOTH: [Self; 2] = [Self::Explicit, Self::Implicit];

    /// The gateway's root as this client would name it: without a slash at the end.
    pub(crate) fn url(self, gateway: &Gateway) -> String {
        match self {
            Self::Explicit => format!("ftp://{}", gateway.explicit),
            Self::Implicit => format!("ftps://{}", gateway.implicit),
        }
    }
}

/// What a program left behind; text that is not UTF-8 as Latin-1.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) output: String,
    pub(crate) errors: String,
}

impl Ran {
    /// Standard output, of a program that succeeded.
    pub(crate) fn succeeded(self) -> String {
        assert_eq!(self.code, Some(0), "{}\n{}", self.output, self.errors);
        self.output
    }

    /// Standard error, of a program that ended with this code.
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}\n{}", self.output, self.errors);
        self.errors
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap_or_else(|error| latin1(error.as_bytes()));
        Self { code: output.status.code(), output: text(output.stdout), errors: text(output.stderr) }
    }
}

/// Runs a program to its end.
pub(crate) fn run(command: &mut Command) -> Ran {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}")).into()
}

/// A program of the machine, without the settings of whoever runs the tests.
pub(crate) fn program(name: &str, package: &str, home: &Path) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    assert!(
        std::env::split_paths(&path).any(|directory| directory.join(name).is_file()),
        "{name} is missing: apt-get install -y --no-install-recommends {package}"
    );
    let mut command = Command::new(name);
    command.env("HOME", home).env("LC_ALL", "C.UTF-8").env("TZ", "UTC").env("TERM", "dumb").current_dir(home);
    for variable in ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "LFTP_HOME", "CURL_HOME", "NETRC", "SSL_CERT_FILE"] {
        command.env_remove(variable);
    }
    command
}

/// A folder of a client's own on this side of the gateway.
pub(crate) fn desk() -> TempDir {
    tempfile::Builder::new().prefix("client-").tempdir().unwrap()
}

/// curl, trusting the gateway, refusing to go on without TLS, and logged in as [`MAPPED_USER`].
pub(crate) fn curl(gateway: &Gateway, desk: &Path) -> Command {
    let mut command = program("curl", "curl", desk);
    // `--disable` must come first: no .curlrc.
    command.args(["--disable", "--silent", "--show-error", "--ssl-reqd", "--cacert"]).arg(gateway.certificate());
    command.args(["--user", &format!("{MAPPED_USER}:{MAPPED_PASSWORD}")]);
    command
}

/// curl with these arguments and nothing else of interest.
pub(crate) fn curl_with(gateway: &Gateway, desk: &Path, arguments: &[&str]) -> Ran {
    run(curl(gateway, desk).args(arguments))
}

/// lftp that runs a script and stops at what fails first, logged in as [`MAPPED_USER`].
pub(crate) fn lftp(tls: Tls, gateway: &Gateway, desk: &Path, script: &str) -> Command {
    let mut command = program("lftp", "lftp", desk);
    let opening = format!(
        "set ssl:ca-file {}; set ftp:ssl-force true; set cmd:fail-exit true; set net:max-retries 2; set net:timeout 30; \
         set net:reconnect-interval-base 1; open -u '{MAPPED_USER},{MAPPED_PASSWORD}' {}; {script}",
        gateway.certificate().display(),
        tls.url(gateway)
    );
    command.args(["--norc", "-c"]).arg(opening);
    command
}

/// lftp to the end of a script.
pub(crate) fn lftp_with(tls: Tls, gateway: &Gateway, desk: &Path, script: &str) -> Ran {
    run(&mut lftp(tls, gateway, desk, script))
}

/// `clients/ftplib_session.py` under one mode and one version of TLS (`1.2` or `1.3`).
pub(crate) fn ftplib(tls: Tls, version: &str, gateway: &Gateway, desk: &Path) -> Ran {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients/ftplib_session.py");
    let (mode, address) = match tls {
        Tls::Explicit => ("explicit", gateway.explicit),
        Tls::Implicit => ("implicit", gateway.implicit),
    };
    let mut python = program("python3", "python3", desk);
    // Isolated, and without leaving .pyc files.
    python.args(["-I", "-B"]).arg(script).args([mode, version, &address.port().to_string()]);
    run(python.arg(gateway.certificate()).args([MAPPED_USER, MAPPED_PASSWORD]))
}

/// Every file below a folder with its content, and every folder with none; names relative to it.
pub(crate) fn tree(folder: &Path) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let name = path.strip_prefix(folder).unwrap().as_os_str().as_bytes().to_vec();
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
                found.insert(name, None);
            } else {
                found.insert(name, Some(fs::read(path).unwrap()));
            }
        }
    }
    found
}

/// `diff -r` finds nothing between two folders.
pub(crate) fn assert_same(one: &Path, other: &Path) {
    let ran = run(Command::new("diff").arg("-r").arg(one).arg(other));
    assert_eq!((ran.code, ran.output.as_str()), (Some(0), ""), "{}", ran.errors);
}

/// Bytes that no two calls with other numbers have in common, and that do not compress.
pub(crate) fn content(seed: u64, length: usize) -> Vec<u8> {
    // xorshift64*
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
