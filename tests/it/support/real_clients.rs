//! Clients as people run them, each with nothing of this machine's own settings.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

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

/// The versions of TLS, as the programs below `clients/` take them.
pub(crate) const VERSIONS: [&str; 2] = ["1.2", "1.3"];

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
    without_settings(Command::new(name), home)
}

/// Without the settings of whoever runs the tests.
fn without_settings(mut command: Command, home: &Path) -> Command {
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

/// wget, trusting the gateway and logged in as [`MAPPED_USER`]: it has no more than downloads, listings among them.
pub(crate) fn wget(tls: Tls, version: &str, gateway: &Gateway, desk: &Path) -> Command {
    let mut command = program("wget", "wget", desk);
    command.args(["--no-config", "--no-verbose", "--tries=2", "--timeout=60", "--no-hsts", "--ca-certificate"]);
    // As GnuTLS, which Debian's wget is built with, wants it: `--secure-protocol` names only the lowest version.
    command.arg(gateway.certificate()).arg(format!("--ciphers=NORMAL:-VERS-ALL:+VERS-TLS{version}"));
    command.args([format!("--user={MAPPED_USER}"), format!("--password={MAPPED_PASSWORD}")]);
    if tls == Tls::Implicit {
        command.arg("--ftps-implicit");
    }
    command
}

/// A path as wget is told it: `ftps` is either kind of TLS, and needs wget 1.18.
pub(crate) fn wget_url(tls: Tls, gateway: &Gateway, path: &str) -> String {
    match tls {
        Tls::Explicit => format!("ftps://{}/{path}", gateway.explicit),
        Tls::Implicit => format!("ftps://{}/{path}", gateway.implicit),
    }
}

/// `clients/ftplib_session.py` under one mode and one version of TLS (`1.2` or `1.3`).
pub(crate) fn ftplib(tls: Tls, version: &str, gateway: &Gateway, desk: &Path) -> Ran {
    let mut python = python(desk);
    python.arg(script("ftplib_session.py"));
    run(with_gateway(&mut python, tls, version, gateway, &gateway.certificate(), MAPPED_PASSWORD))
}

/// Python, isolated, and leaving no .pyc files.
fn python(desk: &Path) -> Command {
    let mut python = program("python3", "python3", desk);
    python.args(["-I", "-B"]);
    python
}

/// Adds what every program below `clients/` is told: MODE VERSION PORT AUTHORITY USER PASSWORD.
fn with_gateway<'a>(
    command: &'a mut Command,
    tls: Tls,
    version: &str,
    gateway: &Gateway,
    authority: &Path,
    password: &str,
) -> &'a mut Command {
    let (mode, address) = match tls {
        Tls::Explicit => ("explicit", gateway.explicit),
        Tls::Implicit => ("implicit", gateway.implicit),
    };
    command.args([mode, version, &address.port().to_string()]).arg(authority).args([MAPPED_USER, password])
}

/// A file below `clients/`.
fn script(name: &str) -> PathBuf {
    required(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients").join(name))
}

/// A file that `tests/run` installs.
fn required(path: PathBuf) -> PathBuf {
    assert!(path.exists(), "{} is missing: tests/run installs it", path.display());
    path
}

/// What `tests/run` installs of package registries of other languages.
fn installed(path: &str) -> PathBuf {
    required(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/clients").join(path))
}

/// A client library that has a program below `clients/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Library {
    Aioftp,
    BasicFtp,
    CommonsNet,
    Perl,
    Php,
    Ruby,
}

/// How many data connections of a client resume the session of the control connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resumption {
    /// It may be required to.
    Always,
    Sometimes,
    Never,
}

impl Library {
    /// PHP verifies no certificate.
    pub(crate) fn verifies(self) -> bool {
        self != Self::Php
    }

    /// PHP tells its users the text of a reply, and not its code.
    pub(crate) fn tells_codes(self) -> bool {
        self != Self::Php
    }

    /// What its data connections do about the session of the control connection.
    ///
    /// Under TLS 1.3 PHP and Ruby leave it to OpenSSL, which uses a ticket once, and uploads are given no new ones. Java
    /// keeps sessions by host and port, and a data connection has a port of its own; Perl gives its data connections a
    /// context with no sessions in it.
    pub(crate) fn resumption(self, version: &str) -> Resumption {
        match (self, version) {
            (Self::Aioftp | Self::BasicFtp, _) | (Self::Php | Self::Ruby, "1.2") => Resumption::Always,
            (Self::Php | Self::Ruby, _) => Resumption::Sometimes,
            (Self::CommonsNet | Self::Perl, _) => Resumption::Never,
        }
    }

    /// Its program, with all it takes to run one, but for the arguments.
    fn command(self, version: &str, desk: &Path) -> Command {
        match self {
            Self::Aioftp => {
                let mut command = python_of_clients(desk);
                command.arg(script("aioftp_session.py"));
                command
            }
            Self::BasicFtp => {
                let mut command = program("node", "nodejs", desk);
                command.env("NODE_PATH", installed("node/node_modules"));
                command.arg(script("basic_ftp_session.cjs"));
                command
            }
            Self::CommonsNet => {
                let mut command = java(desk);
                command.arg(script("CommonsNetSession.java"));
                command
            }
            Self::Perl => {
                let mut command = program("perl", "perl", desk);
                command.arg(script("perl_session.pl"));
                command
            }
            Self::Php => {
                let mut command = program("php", "php-cli", desk);
                command.arg(script("php_session.php"));
                command.env("OPENSSL_CONF", openssl_configuration(version, desk));
                command
            }
            Self::Ruby => {
                let mut command = program("ruby", "ruby", desk);
                command.arg(script("ruby_session.rb"));
                command
            }
        }
    }
}

/// Java that compiles and runs a single file that uses commons-net. It runs for a moment: the quick compiler is enough.
fn java(desk: &Path) -> Command {
    let mut command = program("java", "default-jdk-headless", desk);
    let library = required(PathBuf::from("/usr/share/java/commons-net.jar"));
    command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m", "--class-path"]).arg(library);
    command
}

/// Python with the packages of `clients/requirements.txt`.
fn python_of_clients(desk: &Path) -> Command {
    let mut command = without_settings(Command::new(installed("python/bin/python")), desk);
    command.args(["-I", "-B"]);
    command
}

/// A program below `clients/` that lists a directory: as `MODE VERSION PORT AUTHORITY USER PASSWORD`, and further words.
pub(crate) fn listing(name: &str, gateway: &Gateway, desk: &Path, words: &[&str]) -> Ran {
    let mut command = match name {
        "CommonsNetListing.java" => java(desk),
        "aioftp_listing.py" => python_of_clients(desk),
        _ => python(desk),
    };
    command.arg(script(name));
    with_gateway(&mut command, Tls::Explicit, "1.3", gateway, &gateway.certificate(), MAPPED_PASSWORD);
    run(command.args(words))
}

/// Settings of OpenSSL for a program that has none of its own for the version of TLS.
fn openssl_configuration(version: &str, desk: &Path) -> PathBuf {
    let path = desk.join(format!("openssl-{version}.cnf"));
    let settings = format!(
        "openssl_conf = library\n[library]\nssl_conf = tls\n[tls]\nsystem_default = only\n\
         [only]\nMinProtocol = TLSv{version}\nMaxProtocol = TLSv{version}\n"
    );
    fs::write(&path, settings).unwrap();
    path
}

/// A program below `clients/` that is logged in and takes one step after the other.
///
/// A step is a line of words with tabs between them:
///
/// | step | words |
/// |---|---|
/// | `upload`, `append`, `upload-text` | local file, remote file |
/// | `download`, `download-text` | remote file, local file |
/// | `continue-upload` | local file, remote file that holds its beginning |
/// | `continue-download` | remote file, local file that holds its beginning |
/// | `list` | remote directory |
/// | `rename` | old name, new name |
/// | `delete`, `mkdir`, `rmdir` | name |
///
/// The answer is a line `entry TYPE SIZE NAME` for each entry of a listing (TYPE is `file` or `dir`, whose SIZE is `-`),
/// and then `done`, `refused CODE` for a reply of 4xx or 5xx, or `failed WHY` for anything else, again with tabs. What
/// the program does before its first step, to log in, is answered like one. It ends with its standard input.
pub(crate) struct Session {
    client: Library,
    process: Child,
    steps: ChildStdin,
    answers: BufReader<ChildStdout>,
    errors: File,
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// With the entries of a listing: type, size, name.
    Done(BTreeSet<(String, String, String)>),
    /// With the code, where the client tells it.
    Refused(String),
    Failed(String),
}

impl Session {
    /// Starts a client that trusts `authority` and logs in as [`MAPPED_USER`] with a password; how that went.
    pub(crate) fn try_begin(
        library: Library,
        (tls, version): (Tls, &str),
        gateway: &Gateway,
        (authority, password): (&Path, &str),
        desk: &Path,
    ) -> (Self, Answer) {
        let errors = tempfile::tempfile().unwrap();
        let mut command = library.command(version, desk);
        with_gateway(&mut command, tls, version, gateway, authority, password);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors.try_clone().unwrap());
        let mut process = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (steps, answers) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        let mut session = Self { client: library, process, steps, answers, errors };
        let answer = session.answer("log in");
        (session, answer)
    }

    /// A client that is logged in.
    pub(crate) fn begin(library: Library, tls: (Tls, &str), gateway: &Gateway, desk: &Path) -> Self {
        let (session, answer) = Self::try_begin(library, tls, gateway, (&gateway.certificate(), MAPPED_PASSWORD), desk);
        assert_eq!(answer, Answer::Done(BTreeSet::new()), "{library:?} {tls:?}");
        session
    }

    /// One step and its answer.
    pub(crate) fn step(&mut self, words: &[&str]) -> Answer {
        writeln!(self.steps, "{}", words.join("\t")).unwrap();
        self.answer(&words.join(" "))
    }

    /// A step that succeeds and lists nothing.
    pub(crate) fn done(&mut self, words: &[&str]) {
        let answer = self.step(words);
        assert_eq!(answer, Answer::Done(BTreeSet::new()), "{:?}: {words:?}", self.client);
    }

    /// The entries of a directory.
    pub(crate) fn list(&mut self, directory: &str) -> BTreeSet<(String, String, String)> {
        match self.step(&["list", directory]) {
            Answer::Done(entries) => entries,
            other => panic!("{:?}: list {directory}: {other:?}", self.client),
        }
    }

    /// A step that is refused with this code.
    pub(crate) fn refused(&mut self, words: &[&str], code: &str) {
        let told = if self.client.tells_codes() { code } else { "-" };
        let answer = self.step(words);
        assert_eq!(answer, Answer::Refused(told.to_owned()), "{:?}: {words:?}", self.client);
    }

    fn answer(&mut self, step: &str) -> Answer {
        let mut entries = BTreeSet::new();
        loop {
            let mut line = Vec::new();
            self.answers.read_until(b'\n', &mut line).unwrap();
            let line = String::from_utf8(line).unwrap();
            let words: Vec<&str> = line.trim_end_matches('\n').split('\t').collect();
            match *words.as_slice() {
                ["entry", kind, size, name] => {
                    let is_new = entries.insert((kind.to_owned(), size.to_owned(), name.to_owned()));
                    assert!(is_new, "{:?}: {step}: twice {name}", self.client);
                }
                ["done"] => return Answer::Done(entries),
                ["refused", code] | ["refused", code, _] => return Answer::Refused(code.to_owned()),
                ["failed", ref why @ ..] => return Answer::Failed(why.join(" ")),
                _ => panic!("{:?}: {step}: answered {line:?}\n{}", self.client, text(&mut self.errors)),
            }
        }
    }

    /// Ends it: it must have nothing to complain of.
    pub(crate) fn end(self) {
        let Self { client: library, mut process, steps, mut answers, mut errors } = self;
        drop(steps);
        let mut rest = String::new();
        answers.read_to_string(&mut rest).unwrap();
        let status = process.wait().unwrap();
        assert!(status.success() && rest.is_empty(), "{library:?}: {status} {rest}\n{}", text(&mut errors));
        assert_eq!(text(&mut errors), "", "{library:?}");
    }
}

/// Everything in a file that was written from elsewhere.
fn text(file: &mut File) -> String {
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
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
