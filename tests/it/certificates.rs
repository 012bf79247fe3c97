//! Which of several server certificates a client is shown: by the name it asks for, then by what it can verify.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::authority::{Authority, openssl};
use crate::support::client::latin1;
use crate::support::gateway::{Gateway, Setup};
use crate::support::real_clients::{desk, run};
use crate::support::sshd::Sshd;

/// Makes a certificate that is its own authority; an item for `tls.certificates`.
fn make(folder: &Path, name: &str, algorithm: &[&str], host: &str) -> String {
    let (certificate, key) = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
    let mut command = openssl(folder);
    command.args(["req", "-x509", "-nodes", "-days", "30", "-newkey"]).args(algorithm);
    command.args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName=DNS:{host}")]);
    let made = command.arg("-out").arg(&certificate).arg("-keyout").arg(&key).output().unwrap();
    assert!(made.status.success(), "{}", latin1(&made.stderr));
    format!(", {{certificate: \"{}\", key: \"{}\"}}", certificate.display(), key.display())
}

/// What openssl says about a connection on which these lines are sent: its own words and the server's.
fn connect(gateway: &Gateway, folder: &Path, arguments: &[&str], lines: &str) -> String {
    let mut command = openssl(folder);
    command.args(["s_client", "-brief", "-ign_eof", "-connect", &gateway.implicit.to_string()]).args(arguments);
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    format!("{}{}", latin1(&output.stderr), latin1(&output.stdout))
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_33_and_35_the_certificate_is_chosen_by_name_and_algorithm_and_host_agrees_with_it() {
    let sshd = Sshd::start().await;
    let desk = desk();
    let mut setup = Setup::backend(&sshd).with_users(&sshd.files());
    let elliptic = ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
    // Behind the gateway's own, which is ECDSA and for localhost.
    setup.certificates.push_str(&make(desk.path(), "rsa", &["rsa:2048"], "localhost"));
    setup.certificates.push_str(&make(desk.path(), "other", &elliptic, "other.example"));
    setup.certificates.push_str(&make(desk.path(), "other-rsa", &["rsa:2048"], "other.example"));
    let gateway = Gateway::start(&setup);
    const OWN: &str = "CN = rcgen self signed cert";
    let only_rsa: [&[&str]; 2] =
        [&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], &["-tls1_3", "-sigalgs", "RSA-PSS+SHA256"]];
    let any: [&[&str]; 2] = [&["-tls1_2"], &["-tls1_3"]];
    for (name, elliptic, rsa) in [
        ("localhost", OWN, "CN = rsa"),
        ("other.example", "CN = other", "CN = other-rsa"),
        // One that is in none of them: whoever is strict about names refuses by itself.
        ("unknown.example", OWN, "CN = rsa"),
    ] {
        for (able, expected) in [(any, elliptic), (only_rsa, rsa)] {
            for options in able {
                let said = connect(&gateway, desk.path(), &[&["-servername", name], options].concat(), "QUIT\r\n");
                let shown = said.lines().find_map(|line| line.strip_prefix("Peer certificate: "));
                assert_eq!(shown, Some(expected), "{name} {options:?}\n{said}");
                assert!(said.contains("221 "), "{said}");
            }
        }
    }
    let said = connect(&gateway, desk.path(), &["-noservername"], "QUIT\r\n");
    assert!(said.contains(OWN), "{said}");
    // RFC 7151: HOST names what TLS was asked for, in any case of letters.
    let said = connect(
        &gateway,
        desk.path(),
        &["-servername", "other.example", "-crlf"],
        "HOST localhost\nHOST Other.EXAMPLE\nQUIT\n",
    );
    let codes: Vec<&str> = said.lines().filter_map(|line| line.get(..4)).filter(|code| code.ends_with(' ')).collect();
    let codes: Vec<&str> = codes.into_iter().filter(|code| code[..3].parse::<u16>().is_ok()).collect();
    assert_eq!(codes, ["220 ", "504 ", "220 ", "221 "], "{said}");
}

/// RFC 7151 §3: HOST before AUTH chooses the certificate, where TLS is asked for no name.
#[tokio::test(flavor = "multi_thread")]
async fn tls_33_host_before_auth_chooses_the_certificate() {
    let sshd = Sshd::start().await;
    let desk = desk();
    let mut setup = Setup::backend(&sshd).with_users(&sshd.files());
    let elliptic = ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
    setup.certificates.push_str(&make(desk.path(), "other", &elliptic, "other.example"));
    let gateway = Gateway::start(&setup);
    // For an address it asks TLS for no name.
    let script = "import ftplib, ssl, sys\n\
        context = ssl._create_unverified_context()\n\
        client = ftplib.FTP_TLS(context=context)\n\
        client.connect('127.0.0.1', int(sys.argv[1]))\n\
        [client.sendcmd('HOST ' + host) for host in sys.argv[2:]]\n\
        client.auth()\n\
        print(ssl.DER_cert_to_PEM_cert(client.sock.getpeercert(True)))";
    let shown = |hosts: &[&str]| {
        let port = gateway.explicit.port().to_string();
        run(Command::new("python3").args(["-c", script, &port]).args(hosts)).succeeded().trim().to_owned()
    };
    let own = fs::read_to_string(gateway.certificate()).unwrap().replace('\r', "").trim().to_owned();
    let other = fs::read_to_string(desk.path().join("other.crt")).unwrap().trim().to_owned();
    assert_eq!(shown(&["other.example"]), other);
    assert_eq!(shown(&[]), own);
    assert_eq!(shown(&["unknown.example"]), own);
}

/// A gateway that stops to listen because of a date helps nobody: clients that do not look at dates go on, and everybody
/// else hears it from the certificate itself.
#[tokio::test(flavor = "multi_thread")]
async fn tls_62_an_expired_certificate_is_served_and_told() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let authority = Authority::new("Ours");
    let extensions = "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n";
    let dates = "-startdate 20200101000000Z -enddate 20210101000000Z";
    let expired = authority.sign_with("/CN=localhost", extensions, dates);
    assert_eq!(gateway.get("/readyz").await.0, 200);
    fs::copy(&expired.key, gateway.directory().join("tls.key")).unwrap();
    fs::copy(&expired.certificate, gateway.certificate()).unwrap();
    gateway.signal("HUP");
    // 2021-01-01T00:00:00Z
    let not_after = "ftps2sftp_tls_certificate_not_after_timestamp_seconds{listener=\"implicit\"}";
    gateway.wait_for_metric(not_after, 1_609_459_200.0).await;
    let (code, told) = gateway.get("/readyz?verbose").await;
    assert_eq!(code, 503);
    assert!(told.contains("certificate"), "{told}");
    let desk = desk();
    for version in ["-tls1_2", "-tls1_3"] {
        let said = connect(&gateway, desk.path(), &["-servername", "localhost", version], "QUIT\r\n");
        assert!(said.contains("CN = localhost") && said.contains("221 "), "{said}");
    }
    let checked = run(Command::new(env!("CARGO_BIN_EXE_ftps2sftp")).arg("check").arg("--config").arg(gateway.file()));
    assert!(checked.output.contains("has expired"), "{}", checked.output);
}
