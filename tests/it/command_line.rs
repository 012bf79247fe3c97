//! The program as a person meets it: what is typed, what is said, and the exit code.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::client::Client;
use crate::support::gateway::{Gateway, Setup};
use crate::support::real_clients::{Ran, desk, program, run};
use crate::support::sshd::{self, Options, Sshd};

/// Stands where a secret does; nothing the program says may hold it.
const CANARY: &str = "Zx9!canary";

/// How long anything may take that is only waited for.
const PATIENCE: Duration = Duration::from_secs(30);

fn ftps2sftp() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ftps2sftp"));
    command.env("LC_ALL", "C.UTF-8");
    command
}

fn type_in(arguments: &[&str]) -> Ran {
    silent_about_secrets(run(ftps2sftp().args(arguments)))
}

/// With this on standard input.
fn with_input(arguments: &[&str], input: &[u8]) -> Ran {
    let mut process = ftps2sftp()
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have ended without reading.
    let _ = process.stdin.take().unwrap().write_all(input);
    silent_about_secrets(process.wait_with_output().unwrap().into())
}

fn silent_about_secrets(ran: Ran) -> Ran {
    assert!(!ran.output.contains(CANARY) && !ran.errors.contains(CANARY), "a secret was told: {ran:?}");
    ran
}

/// A demo that was started, and what it printed.
struct Demo {
    process: Child,
    output: BufReader<ChildStdout>,
    introduction: String,
    /// Where it puts what it makes.
    temporary: TempDir,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let temporary = desk();
        let mut process = ftps2sftp()
            .args(["demo", "--explicit", "0", "--implicit", "0"])
            .args(arguments)
            .env("TMPDIR", temporary.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut introduction = String::new();
        while !introduction.contains("\nlftp ") {
            assert_ne!(output.read_line(&mut introduction).unwrap(), 0, "it ended: {introduction}");
        }
        Self { process, output, introduction, temporary }
    }

    /// What comes after a label in the introduction.
    fn told(&self, label: &str) -> &str {
        let line = self.introduction.lines().find_map(|line| line.strip_prefix(label)).unwrap();
        line.trim_start().split(' ').next().unwrap()
    }

    /// The lines to paste.
    fn lines(&self) -> Vec<&str> {
        self.introduction.lines().filter(|line| line.starts_with("curl ") || line.starts_with("lftp ")).collect()
    }

    fn interrupt(mut self) {
        let process = self.process.id().to_string();
        assert!(Command::new("kill").args(["-INT", &process]).status().unwrap().success());
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "Ctrl-C does not end the demo");
            std::thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(status.code(), Some(0));
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert_eq!(rest.trim(), "", "something was printed after the introduction");
        let left: Vec<_> = fs::read_dir(self.temporary.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A line as a shell takes it that somebody pasted it into.
fn paste(line: &str, home: &Path) -> Ran {
    program("curl", "curl", home);
    program("lftp", "lftp", home);
    run(program("sh", "dash", home).args(["-c", line]))
}

#[test]
fn the_three_lines_of_the_demo_work_as_they_are_printed() {
    let demo = Demo::start(&[]);
    let home = desk();
    for label in ["SFTP server", "FTPS explicit", "FTPS implicit"] {
        let address = demo.told(label).trim_end_matches(',');
        assert!(TcpStream::connect(address).is_ok(), "{label}: {address}");
    }
    let lines = demo.lines();
    assert_eq!(lines.len(), 3, "{}", demo.introduction);
    let [send, fetch, look] = [0, 1, 2].map(|index| paste(lines[index], home.path()));
    send.succeeded();
    let sent = demo.introduction.split(" -T ").nth(1).unwrap().split(' ').next().unwrap();
    let sent = fs::read_to_string(sent).unwrap();
    assert_eq!(fetch.succeeded(), sent);
    let listing = look.succeeded();
    assert!(listing.contains(" hello.txt") && listing.contains(&format!(" {} ", sent.len())), "{listing}");
    demo.interrupt();
}

#[test]
fn the_demo_serves_the_folder_it_is_given_and_leaves_it() {
    let folder = desk();
    let shown = folder.path().join("it's a \"folder\"");
    fs::create_dir(&shown).unwrap();
    fs::write(shown.join("already here.txt"), "content").unwrap();
    let demo = Demo::start(&["--dir", shown.to_str().unwrap(), "--admin", "0"]);
    let home = desk();
    let lines = demo.lines();
    paste(lines[0], home.path()).succeeded();
    let listing = paste(lines[2], home.path()).succeeded();
    assert!(listing.contains(" already here.txt") && listing.contains(" hello.txt"), "{listing}");
    assert!(demo.introduction.contains(shown.to_str().unwrap()), "{}", demo.introduction);

    let metrics = demo.told("Admin").to_owned();
    let metrics = run(program("curl", "curl", home.path()).args(["-q", "-sSf", &metrics])).succeeded();
    assert!(metrics.contains("ftps2sftp_"), "{metrics}");
    // Two at a time, as long as their ports are not the same.
    Demo::start(&[]).interrupt();
    demo.interrupt();
    let mut left: Vec<_> = fs::read_dir(&shown).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["already here.txt", "hello.txt"]);
}

#[test]
fn a_demo_that_cannot_start_says_why_and_leaves_nothing() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for arguments in [
        vec!["demo", "--explicit", &port, "--implicit", "0"],
        vec!["demo", "--explicit", "0", "--implicit", &port],
        vec!["demo", "--explicit", "0", "--implicit", "0", "--dir", "/no/such/folder"],
    ] {
        let temporary = desk();
        let ran = run(ftps2sftp().args(&arguments).env("TMPDIR", temporary.path()));
        let errors = ran.failed(1);
        let culprit = if arguments.contains(&"--dir") { "/no/such/folder" } else { &port };
        assert!(errors.contains(culprit), "{errors}");
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    }
}

/// A folder with a configuration for a server, its certificate and key, and a key that belongs to nothing.
struct Written {
    folder: TempDir,
    text: String,
}

impl Written {
    fn before(address: &str, fingerprint: &str) -> Self {
        let folder = desk();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        fs::write(folder.path().join("tls.crt"), made.cert.pem()).unwrap();
        fs::write(folder.path().join("tls.key"), made.signing_key.serialize_pem()).unwrap();
        fs::write(folder.path().join("other.key"), rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let text = format!(
            "listeners:\n  - {{name: only, address: \"127.0.0.1:0\", tls: explicit}}\n\
             tls:\n  certificates: [{{certificate: tls.crt, key: tls.key}}]\n\
             backends:\n  files: {{address: \"{address}\", host_keys: [\"{fingerprint}\"]}}\n\
             users:\n  acme:\n    password_hash: \"{HASH}\"\n    backend: files\n    \
             login: {{user: {}, password: \"{}\"}}\n    root: /\n\
             admin: {{address: null}}\n",
            sshd::USER,
            sshd::PASSWORD,
        );
        Self { folder, text }
    }

    fn changed(&self, from: &str, to: &str) -> Self {
        assert!(self.text.contains(from), "{from} is not in\n{}", self.text);
        let folder = desk();
        for file in ["tls.crt", "tls.key", "other.key"] {
            fs::copy(self.folder.path().join(file), folder.path().join(file)).unwrap();
        }
        Self { folder, text: self.text.replace(from, to) }
    }

    fn file(&self) -> PathBuf {
        let file = self.folder.path().join("config.yaml");
        fs::write(&file, &self.text).unwrap();
        file
    }

    fn check(&self) -> Ran {
        type_in(&["check", "--config", self.file().to_str().unwrap()])
    }

    fn probe(&self) -> Ran {
        type_in(&["check", "--probe", "--config", self.file().to_str().unwrap()])
    }
}

/// Of no password that anybody knows.
const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$gXF06bnyQu2/HyTqnjtFjw$GufRKxqEX6FYxHz5h4ocqVbYqhs4ye4MmSNeK76RDFU";

/// A pin that no server's key has.
const NO_KEY: &str = "SHA256:uNiVztksCsDhcc0u9e8BrJQXVUpKZIDTMczCvj3tD2s";

#[test]
fn five_mistakes_are_five_errors_with_key_paths_and_hints_and_nothing_listens() {
    // Bound by the test while the gateway runs: had it tried to listen, it would have failed with another error.
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let written = Written::before("127.0.0.1:22", NO_KEY)
        .changed("127.0.0.1:0", &taken.local_addr().unwrap().to_string())
        // The key is another certificate's.
        .changed("key: tls.key", "key: other.key")
        // Of the wrong type.
        .changed("admin:", "passive: {ports: many}\nadmin:")
        // Of the wrong form.
        .changed("admin:", "trusted_proxies: [10.0.0.1/8]\nadmin:")
        // A file that is missing.
        .changed("host_keys:", "known_hosts: absent, host_keys:")
        // An unknown key.
        .changed("    root: /", "    rooot: /")
        .changed(sshd::PASSWORD, CANARY);
    for command in ["run", "check"] {
        let file = written.file();
        let ran = type_in(&[command, "--config", file.to_str().unwrap()]);
        assert_eq!(ran.output, "");
        let errors = ran.failed(2);
        let told: Vec<&str> = errors.split("\n\n").collect();
        for at in [
            "error: tls.certificates[0]: the key does not belong",
            "error: passive.ports: expected a range of ports such as 30000-30047, found `many`",
            "error: trusted_proxies[0]: `10.0.0.1/8` has bits set behind its prefix",
            "error: backends.files.known_hosts: no such file: `",
            "error: users.acme.rooot: unknown key",
        ] {
            let paragraph =
                told.iter().find(|paragraph| paragraph.starts_with(at)).unwrap_or_else(|| panic!("{at}\n{errors}"));
            let (_, hint) = paragraph.split_once("\n  hint: ").unwrap_or_else(|| panic!("no hint:\n{paragraph}"));
            assert!(!hint.is_empty());
        }
        assert_eq!(errors.matches("error: ").count(), 5, "{errors}");
        assert!(errors.ends_with(": 5 errors\n"), "{errors}");
    }
}

#[test]
fn a_configuration_that_cannot_be_read_is_one_error() {
    let folder = desk();
    let (latin1, broken) = (folder.path().join("latin1.yaml"), folder.path().join("broken.yaml"));
    fs::write(&latin1, b"# r\xe4t\n").unwrap();
    fs::write(&broken, format!("users: {{acme: {{login: {{password: \"{CANARY}\"}}\nbackends: [")).unwrap();
    for (file, words) in [
        (folder.path().join("absent.yaml"), "no such file"),
        (folder.path().to_owned(), "is a folder"),
        (latin1, "not UTF-8"),
        (broken, "not YAML"),
    ] {
        for command in ["run", "check"] {
            let errors = type_in(&[command, "--config", file.to_str().unwrap()]).failed(2);
            assert!(errors.contains(words) && errors.contains("\n  hint: "), "{errors}");
            assert!(errors.ends_with(": 1 error\n"), "{errors}");
        }
    }
}

#[test]
fn what_is_typed_wrong_is_answered_with_how_to_type_it() {
    for arguments in [&["run"][..], &["check"], &["frobnicate"], &["demo", "--explicit", "many"], &[]] {
        let errors = type_in(arguments).failed(2);
        assert!(errors.contains("--help") || errors.contains("Usage: "), "{errors}");
    }
    assert_eq!(type_in(&["--version"]).succeeded(), concat!("ftps2sftp ", env!("CARGO_PKG_VERSION"), "\n"));
    let help = type_in(&["--help"]).succeeded();
    for command in ["run", "check", "demo", "hash-password", "commands"] {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
        assert!(type_in(&[command, "--help"]).succeeded().contains("Usage: "));
    }
}

#[tokio::test]
async fn check_says_that_everything_is_well() {
    let sshd = Sshd::start().await;
    let written = Written::before(&sshd.address().to_string(), &sshd.host_key_fingerprint("ed25519"))
        .changed("admin:", "  \"*\": {backend: files, login: passthrough}\nadmin:");
    let table = written.check().succeeded();
    let row = |subject: &str| table.lines().find(|line| line.starts_with(subject)).unwrap_or_else(|| panic!("{table}"));
    for subject in ["configuration ", "certificate ", "backend files ", "user acme "] {
        assert!(row(subject)[subject.len()..].trim_start().starts_with("ok "), "{table}");
    }
    assert!(row("user *").contains("passthrough"), "{table}");
    let backend = row("backend files ");
    assert!(backend.contains(&sshd.address().to_string()) && backend.contains("SSH-2.0-OpenSSH_"), "{backend}");
    assert!(backend.contains(&sshd.host_key_fingerprint("ed25519")), "{backend}");
    assert!(row("user acme ").contains("posix-rename"), "{table}");
    assert!(!table.contains("FAILED") && !table.contains(sshd::PASSWORD), "{table}");
}

#[tokio::test]
async fn check_says_what_is_wrong_and_what_to_do() {
    let sshd = Sshd::start().await;
    let fingerprint = sshd.host_key_fingerprint("ed25519");
    let good = Written::before(&sshd.address().to_string(), &fingerprint);
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    for (wrong, subject, words) in [
        (good.changed(&fingerprint, NO_KEY), "backend files", [fingerprint.as_str(), "hint: compare the fingerprint"]),
        (
            good.changed(&sshd.address().to_string(), &nobody.to_string()),
            "backend files",
            ["Connection refused", "hint: check `address`"],
        ),
        (
            good.changed(sshd::PASSWORD, CANARY),
            "user acme",
            ["login rejected", "hint: check the name and the password"],
        ),
        (
            good.changed("root: /", "root: /no/such/directory"),
            "user acme",
            ["/no/such/directory", "hint: create it, or set `root`"],
        ),
    ] {
        let ran = wrong.check();
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let failed = ran.output.lines().find(|line| line.contains("  FAILED  ")).unwrap_or_else(|| panic!("{ran:?}"));
        assert!(failed.starts_with(subject), "{failed}");
        for words in words {
            assert!(ran.output.contains(words), "{words}: {}", ran.output);
        }
        assert!(!ran.output.contains(sshd::PASSWORD), "{}", ran.output);
    }
    // Nothing was said to the server whose key is not the one.
    let before = sshd.log().matches("Failed password").count();
    assert_eq!(before, 1, "only the wrong password was one:\n{}", sshd.log());
    let errors = good.changed("key: tls.key", "key: other.key").check().failed(2);
    assert!(errors.contains("error: tls.certificates[0]: the key does not belong") && errors.contains("  hint: "));
}

#[tokio::test]
async fn check_says_of_a_certificate_that_it_is_not_valid_yet_or_no_more() {
    let sshd = Sshd::start().await;
    let written = Written::before(&sshd.address().to_string(), &sshd.host_key_fingerprint("ed25519"));
    for (from, to, words) in [(2090, 2091, "is not valid yet, for "), (2001, 2002, "has expired")] {
        let mut parameters = rcgen::CertificateParams::new(["ftp.example".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(from, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(to, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        fs::write(written.folder.path().join("tls.crt"), certificate.pem()).unwrap();
        fs::write(written.folder.path().join("tls.key"), key.serialize_pem()).unwrap();
        let ran = written.check();
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let failed = ran.output.lines().find(|line| line.contains("  FAILED  ")).unwrap_or_else(|| panic!("{ran:?}"));
        assert!(failed.starts_with("certificate ") && failed.contains(words), "{failed}");
        assert!(ran.output.contains("hint: clients that look at it will refuse it"), "{ran:?}");
    }
}

/// What OpenSSH's server is told to refuse (sftp-server(8), `-P`) is found out and told as YAML to paste.
#[tokio::test]
async fn check_probes_what_a_server_cannot_do() {
    let cases: [(&str, &[&str]); 5] = [
        // It offers fsync@openssh.com no more then, and nobody asks for it.
        (" -P fsync", &[]),
        ("", &[]),
        (" -P rename,posix-rename", &["no-rename"]),
        (" -P setstat,fsetstat", &["no-setstat"]),
        (" -P setstat,fsetstat,rename,posix-rename", &["no-setstat", "no-rename"]),
    ];
    for (refused, quirks) in cases {
        let config = vec![format!("Subsystem sftp /usr/lib/openssh/sftp-server -e{refused}")];
        let sshd = Sshd::with(Options { config, ..Options::default() }).await;
        let written = Written::before(&sshd.address().to_string(), &sshd.host_key_fingerprint("ed25519"));
        let written = written.changed("root: /", &format!("root: {}", sshd.files().display()));
        let listed = quirks.join(", ");
        let ran = written.probe();
        if quirks.is_empty() {
            let table = ran.succeeded();
            assert!(table.contains("probed: no quirks needed"), "{table}");
        } else {
            let yaml = format!("probed: backends: {{files: {{quirks: [{listed}]}}}}");
            assert_eq!(ran.code, Some(1), "{ran:?}");
            assert!(
                ran.output.lines().any(|line| line.ends_with(&yaml) && line.contains("FAILED")),
                "{refused}: {ran:?}"
            );
            let pasted = written.changed("\"]}", &format!("\"], quirks: [{listed}]}}")).probe().succeeded();
            assert!(pasted.contains(&format!("{yaml}, as configured")), "{pasted}");
        }
        assert_eq!(fs::read_dir(sshd.files()).unwrap().count(), 0, "{refused}: nothing is left behind");
        // Nothing is written for whoever may not write and delete, or without being told to.
        let reader = written.changed("    root:", "    permissions: read-only\n    root:").probe().succeeded();
        assert!(reader.contains("not probed: this user may not write and delete"), "{reader}");
        assert!(!written.check().succeeded().contains("probed"));
    }
}

#[tokio::test]
async fn a_hashed_password_logs_in() {
    let hash = with_input(&["hash-password"], format!("{CANARY}\n").as_bytes()).succeeded();
    let hash = hash.strip_suffix('\n').unwrap();
    assert!(hash.starts_with("$argon2id$") && !hash.contains('\n'), "{hash}");
    // Salted: the same password again looks different.
    assert_ne!(with_input(&["hash-password"], CANARY.as_bytes()).succeeded().trim_end(), hash);
    let sshd = Sshd::start().await;
    let mut setup = Setup::backend(&sshd);
    setup.users = format!(
        "  acme: {{password_hash: \"{hash}\", backend: files, login: {{user: {}, password: \"{}\"}}}}\n",
        sshd::USER,
        sshd::PASSWORD
    );
    let gateway = Gateway::start(&setup);
    let mut client = Client::explicit(&gateway).await;
    assert_eq!(client.command("USER acme").await.code, 331);
    assert_eq!(client.command("PASS not the canary").await.code, 530);
    client.log_in("acme", CANARY).await;
    assert!(!gateway.log().contains(CANARY) && !gateway.log().contains(sshd::PASSWORD), "{}", gateway.log());
}

#[test]
fn what_cannot_be_a_password_gets_no_hash() {
    let too_long = format!("{CANARY}{}", "x".repeat(100_000));
    for input in [&b""[..], b"\n", b"\r\n", b"Zx9!canary\0\n", b"Zx9!\rcanary\n", too_long.as_bytes()] {
        let ran = with_input(&["hash-password"], input);
        assert_eq!(ran.output, "", "{}", input.escape_ascii());
        let errors = ran.failed(1);
        assert!(errors.starts_with("error: ") && errors.contains("password"), "{errors}");
    }
}

#[test]
fn the_commands_are_listed_plainly_and_as_markdown() {
    let plain = type_in(&["commands"]).succeeded();
    let markdown = type_in(&["commands", "--markdown"]).succeeded();
    for row in ftps2sftp::command::table::TABLE {
        let line = plain.lines().find(|line| line.split(' ').next() == Some(row.verb)).expect(row.verb);
        assert!(line.contains(row.syntax) && line.contains(row.reference), "{line}");
        for code in row.replies {
            assert!(line.contains(&code.to_string()), "{line}");
        }
        for verb in std::iter::once(&row.verb).chain(row.aliases) {
            assert!(plain.contains(verb), "{verb}");
            // The table is for the documentation, which tells what there is.
            assert_eq!(markdown.contains(&format!("`{verb}`")), row.is_offered(), "{verb}");
        }
    }
    let widths: Vec<usize> = markdown.lines().map(|line| line.replace("\\|", "").matches('|').count()).collect();
    assert!(widths.iter().all(|width| *width == widths[0]), "a row has another number of columns:\n{markdown}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let binary = env!("CARGO_BIN_EXE_ftps2sftp");
    for command in ["commands", "commands --markdown", "--help"] {
        // The pipe is closed before anything is written to it.
        let script = format!("{{ \"$0\" {command}; echo $? >&2; }} | true");
        let ran = run(Command::new("sh").args(["-c", &script, binary]));
        assert_eq!((ran.code, ran.errors.as_str()), (Some(0), "0\n"), "{command}");
    }
    let first = run(Command::new("sh").args(["-c", "\"$0\" commands | head -1", binary]));
    assert!(first.succeeded().starts_with("USER "));
}
