//! Everything a first transfer needs beside the two servers: a certificate authority, a server certificate
//! (RFC 5280), a configuration, a file to send, and the lines to try it with.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use tempfile::TempDir;

use super::{PASSWORD, USER};

/// What the server certificate is good for.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Certificates begin a day early, for clocks that are slow.
const EARLY: Duration = Duration::from_secs(24 * 3600);

/// And end after a month. Long enough for any trial, short enough for clients that refuse long-lived ones.
const VALIDITY: Duration = Duration::from_secs(30 * 24 * 3600);

/// Name and contents of the file to send first.
const UPLOAD_NAME: &str = "hello.txt";
const UPLOAD_CONTENTS: &str = "Hello from an FTPS client. This file is stored by an SFTP server.\n";

/// The material could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// A file could not be written.
    #[error("{}: cannot be written", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A certificate could not be made.
    #[error("no certificate could be made")]
    Certificate(#[from] rcgen::Error),
}

/// A folder with the certificates and the file to send; it is removed when this is dropped.
#[derive(Debug)]
pub struct Material {
    folder: TempDir,
}

/// The ports of the gateway; 0 stands for a free one where a port is asked for.
#[derive(Debug, Clone)]
pub struct Ports {
    /// Where TLS begins with AUTH TLS.
    pub explicit: u16,
    /// Where TLS begins at once.
    pub implicit: u16,
    /// For passive data connections.
    pub passive: RangeInclusive<u16>,
    /// The admin listener; `None` for none.
    pub admin: Option<u16>,
}

/// Makes all of it in a new temporary folder that only this user can enter.
///
/// # Errors
///
/// The folder cannot be written to, or there is no randomness to be had.
pub fn create() -> Result<Material, MaterialError> {
    let write_error = |path: &Path| {
        let path = path.to_owned();
        move |source| MaterialError::Write { path, source }
    };
    // SECURITY: nobody else may enter, whatever the umask.
    let folder = tempfile::Builder::new()
        .prefix("ftps2sftp-demo-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir()
        .map_err(write_error(&std::env::temp_dir()))?;
    let material = Material { folder };

    let authority_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let authority_parameters = authority_parameters()?;
    let authority = authority_parameters.self_signed(&authority_key)?;
    // The authority's key is not written anywhere: nothing more can be signed in its name.
    let issuer = Issuer::new(authority_parameters, authority_key);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = server_parameters()?.signed_by(&key, &issuer)?;

    let files = [
        (material.authority(), authority.pem(), 0o644),
        (material.certificate(), certificate.pem(), 0o644),
        (material.key(), key.serialize_pem(), 0o600),
        (material.upload(), UPLOAD_CONTENTS.to_owned(), 0o644),
    ];
    for (path, contents, mode) in files {
        write_file(&path, &contents, mode).map_err(write_error(&path))?;
    }
    Ok(material)
}

impl Material {
    /// The folder itself.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The certificate that clients are told to trust.
    pub fn authority(&self) -> PathBuf {
        self.folder().join("ca.pem")
    }

    /// The gateway's certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder().join("server.pem")
    }

    /// The gateway's private key.
    pub fn key(&self) -> PathBuf {
        self.folder().join("server.key")
    }

    /// A small file to send.
    pub fn upload(&self) -> PathBuf {
        self.folder().join(UPLOAD_NAME)
    }

    /// The gateway's configuration, as YAML, for the embedded server at `backend` with this host key.
    pub fn configuration(&self, backend: SocketAddr, host_key_fingerprint: &str, ports: &Ports) -> String {
        let admin = match ports.admin {
            Some(port) => format!("\"127.0.0.1:{port}\""),
            None => "null".to_owned(),
        };
        format!(
            r#"listeners:
  - name: explicit
    address: "127.0.0.1:{explicit}"
    tls: explicit
  - name: implicit
    address: "127.0.0.1:{implicit}"
    tls: implicit
tls:
  certificates:
    - certificate: {certificate}
      key: {key}
passive:
  ports: {first}-{last}
  address: auto
backends:
  demo:
    address: "{backend}"
    host_keys: ["{host_key_fingerprint}"]
users:
  {USER}:
    backend: demo
    login: passthrough
    root: /
admin:
  address: {admin}
"#,
            explicit = ports.explicit,
            implicit = ports.implicit,
            certificate = yaml_string(&self.certificate()),
            key = yaml_string(&self.key()),
            first = ports.passive.start(),
            last = ports.passive.end(),
        )
    }

    /// Three lines to paste into a shell: send a file, fetch it back, look at the folder. `explicit` and `implicit`
    /// are the ports that were bound.
    pub fn lines(&self, explicit: u16, implicit: u16) -> [String; 3] {
        let authority = shell_word(&self.authority().display().to_string());
        let upload = shell_word(&self.upload().display().to_string());
        // With `-c`, not `-e`: the authority must be set before lftp opens anything.
        let script = shell_word(&format!(
            "set ssl:ca-file {}; open -u {USER},{PASSWORD} ftps://127.0.0.1:{implicit}; ls",
            lftp_word(&self.authority())
        ));
        [
            format!(
                "curl --ssl-reqd --cacert {authority} -u {USER}:{PASSWORD} -T {upload} ftp://127.0.0.1:{explicit}/"
            ),
            format!(
                "curl --ssl-reqd --cacert {authority} -u {USER}:{PASSWORD} ftp://127.0.0.1:{explicit}/{UPLOAD_NAME}"
            ),
            format!("lftp -c {script}"),
        ]
    }
}

fn authority_parameters() -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = valid_now(CertificateParams::new(Vec::<String>::new())?);
    parameters.distinguished_name.push(DnType::CommonName, "ftps2sftp demo authority");
    // It signs end certificates only.
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(parameters)
}

fn server_parameters() -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = valid_now(CertificateParams::new(NAMES.map(str::to_owned))?);
    parameters.distinguished_name.push(DnType::CommonName, "ftps2sftp demo");
    parameters.use_authority_key_identifier_extension = true;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(parameters)
}

fn valid_now(mut parameters: CertificateParams) -> CertificateParams {
    let now = SystemTime::now();
    parameters.not_before = (now - EARLY).into();
    parameters.not_after = (now + VALIDITY).into();
    parameters
}

/// SECURITY: a key is never readable by others, not even for the moment between creation and a change of mode.
fn write_file(path: &Path, contents: &str, mode: u32) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(contents.as_bytes())
}

/// A double-quoted YAML scalar.
fn yaml_string(path: &Path) -> String {
    let mut quoted = String::from("\"");
    for character in path.display().to_string().chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            character => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// One word for a POSIX shell.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_');
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// One word for lftp's own command line.
fn lftp_word(path: &Path) -> String {
    let text = path.display().to_string();
    if text.contains([' ', '"', '\\', ';', '\'']) {
        format!("\"{}\"", text.replace('\\', r"\\").replace('"', r#"\""#))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_certificate_is_good_for_every_name_of_this_machine() {
        let material = create().unwrap();
        for name in [["-verify_hostname", "localhost"], ["-verify_ip", "127.0.0.1"], ["-verify_ip", "::1"]] {
            let output = Command::new("openssl")
                .args(["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile"])
                .arg(material.authority())
                .args(name)
                .arg(material.certificate())
                .output()
                .unwrap();
            assert!(output.status.success(), "{name:?}: {output:?}");
        }
        let output = Command::new("openssl")
            .args(["verify", "-verify_hostname", "example.org", "-CAfile"])
            .arg(material.authority())
            .arg(material.certificate())
            .output()
            .unwrap();
        assert!(!output.status.success());
    }

    #[test]
    fn only_this_user_can_enter_the_folder_and_it_goes_with_the_material() {
        let material = create().unwrap();
        let folder = material.folder().to_owned();
        assert_eq!((mode(&folder), mode(&material.key())), (0o700, 0o600));
        drop(material);
        assert!(!folder.exists());
    }

    #[test]
    fn the_configuration_names_what_was_made() {
        let material = create().unwrap();
        let ports = Ports { explicit: 2121, implicit: 2990, passive: 30000..=30047, admin: None };
        let fingerprint = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";
        let text = material.configuration("127.0.0.1:2222".parse().unwrap(), fingerprint, &ports);
        for part in [
            "address: \"127.0.0.1:2121\"\n    tls: explicit",
            "address: \"127.0.0.1:2990\"\n    tls: implicit",
            "ports: 30000-30047",
            "address: \"127.0.0.1:2222\"\n    host_keys: [\"SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU\"]",
            "users:\n  demo:\n    backend: demo\n    login: passthrough",
            "admin:\n  address: null",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        assert!(text.contains(&format!("- certificate: \"{}\"", material.certificate().display())));
        let with_admin = Ports { admin: Some(9105), ..ports };
        let text = material.configuration("127.0.0.1:2222".parse().unwrap(), fingerprint, &with_admin);
        assert!(text.contains("address: \"127.0.0.1:9105\""));
    }

    #[test]
    fn the_lines_are_what_a_shell_understands() {
        let material = create().unwrap();
        let [send, fetch, look] = material.lines(2121, 2990);
        assert!(send.starts_with("curl --ssl-reqd --cacert /") && send.ends_with("/hello.txt ftp://127.0.0.1:2121/"));
        assert!(fetch.ends_with("ftp://127.0.0.1:2121/hello.txt"), "{fetch}");
        assert!(
            look.starts_with("lftp -c 'set ssl:ca-file /") && look.ends_with("ftps://127.0.0.1:2990; ls'"),
            "{look}"
        );
        assert_eq!(shell_word("it's here"), r"'it'\''s here'");
        assert_eq!(yaml_string(Path::new(r#"/a "b"\c"#)), r#""/a \"b\"\\c""#);
    }
}
