//! Clients whose TLS is too old to be served: they get the right alert, and the operator learns who they are.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::support::client::latin1;
use crate::support::gateway::Gateway;
use crate::support::sshd::Sshd;

/// Where to and with which options; what the client is told; the labels; what the log says of its version and a suite.
type Case = (SocketAddr, &'static [&'static str], &'static str, [&'static str; 3], [&'static str; 2]);

/// What openssl's client prints when it connects with these options, and says nothing itself.
fn s_client(address: SocketAddr, options: &[&str]) -> String {
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string(), "-servername", "files.example"])
        .args(options)
        // Debian's own configuration rules out what is old.
        .env("OPENSSL_CONF", "/dev/null")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    latin1(&[output.stdout, output.stderr].concat())
}

#[tokio::test]
async fn who_cannot_be_served_is_told_so_counted_and_logged() {
    const WEAK: &str = "DEFAULT:@SECLEVEL=0";
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let (implicit, explicit) = (gateway.implicit, gateway.explicit);
    let cases: [Case; 8] = [
        (
            implicit,
            &["-tls1", "-cipher", WEAK],
            "alert protocol version",
            ["version", "1.0", "ecdhe_cbc"],
            ["1.0", "TLS_RSA_WITH_AES_128_CBC_SHA"],
        ),
        (
            implicit,
            &["-tls1_1", "-cipher", "AES128-SHA:@SECLEVEL=0"],
            "alert protocol version",
            ["version", "1.1", "rsa"],
            ["1.1", "TLS_RSA_WITH_AES_128_CBC_SHA"],
        ),
        (
            explicit,
            &["-starttls", "ftp", "-tls1_1", "-cipher", "DHE-RSA-AES256-SHA:@SECLEVEL=0"],
            "alert protocol version",
            ["version", "1.1", "dhe"],
            ["1.1", "TLS_DHE_RSA_WITH_AES_256_CBC_SHA"],
        ),
        (
            implicit,
            &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"],
            "alert handshake failure",
            ["suite", "1.2", "ecdhe_cbc"],
            ["1.2", "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"],
        ),
        (
            explicit,
            &["-starttls", "ftp", "-tls1_2", "-cipher", "AES128-GCM-SHA256"],
            "alert handshake failure",
            ["suite", "1.2", "rsa"],
            ["1.2", "TLS_RSA_WITH_AES_128_GCM_SHA256"],
        ),
        (
            implicit,
            &["-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256"],
            "alert handshake failure",
            ["suite", "1.2", "dhe"],
            ["1.2", "TLS_DHE_RSA_WITH_AES_128_GCM_SHA256"],
        ),
        // ALPACA: a browser that was led here (TLS-30).
        (
            implicit,
            &["-alpn", "h2,http/1.1"],
            "alert no application protocol",
            ["protocol", "1.3", "ecdhe_aead"],
            ["1.3", "TLS13_AES_128_GCM_SHA256"],
        ),
        (
            implicit,
            &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256", "-curves", "secp521r1"],
            "alert handshake failure",
            ["suite", "1.2", "ecdhe_aead"],
            ["1.2", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"],
        ),
    ];
    for (address, options, alert, [reason, version, suite], [shown_version, shown_suite]) in cases {
        let series =
            format!("ftps2sftp_tls_refused_total{{reason=\"{reason}\",version=\"{version}\",suite=\"{suite}\"}}");
        let before = gateway.metric(&series).await;
        let told = s_client(address, options);
        assert!(told.contains(alert), "{options:?}: {told}");
        gateway.wait_for_metric(&series, before + 1.0).await;
        let line = gateway.wait_for_log(|line| {
            line.contains("a client cannot be served")
                && line.contains(&format!("\"tls.client.version\":\"{shown_version}\""))
                && line.contains(shown_suite)
        });
        assert!(line.contains("\"client.address\":\"127.0.0.1\""), "{line}");
        assert!(line.contains("\"tls.client.server_name\":\"files.example\""), "{options:?}: {line}");
    }
    // One that can be served leaves no such trace.
    assert!(s_client(implicit, &["-tls1_2"]).contains("ECDHE-ECDSA-AES256-GCM-SHA384"));
}

#[tokio::test]
async fn who_speaks_in_clear_on_the_implicit_port_is_counted_as_such() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut stream = std::net::TcpStream::connect(gateway.implicit).unwrap();
    stream.write_all(b"USER somebody\r\nPASS canary\r\n").unwrap();
    let series = "ftps2sftp_tls_refused_total{reason=\"not_tls\",version=\"none\",suite=\"none\"}";
    gateway.wait_for_metric(series, 1.0).await;
    assert!(!gateway.log().contains("canary"));
}
