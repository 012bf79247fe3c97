//! An authority for client certificates as operators have one: `openssl ca` in a folder of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use super::client::latin1;
use super::gateway::Gateway;
use super::real_clients::program;

/// What a client's certificate is good for.
const FOR_CLIENTS: &str = "basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=clientAuth\n";

const CONFIGURATION: &str = "\
[ca]
default_ca = own
[own]
new_certs_dir = .
database = index.txt
serial = serial
crlnumber = crlnumber
certificate = ca.crt
private_key = ca.key
default_md = sha256
default_days = 30
default_crl_days = 30
policy = any
unique_subject = no
[any]
commonName = optional
organizationName = optional
countryName = optional
";

/// An authority and everything it has signed.
pub(crate) struct Authority(TempDir);

/// A certificate and its key.
#[derive(Debug, Clone)]
pub(crate) struct Signed {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, "")
    }

    /// One whose own certificate has further options of `openssl req`, such as `-addext nameConstraints=…`.
    pub(crate) fn with(name: &str, options: &str) -> Self {
        let authority = Self(tempfile::Builder::new().prefix("authority-").tempdir().unwrap());
        fs::write(authority.path("openssl.cnf"), CONFIGURATION).unwrap();
        for (file, content) in [("index.txt", ""), ("serial", "1000\n"), ("crlnumber", "1000\n")] {
            fs::write(authority.path(file), content).unwrap();
        }
        authority.openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -days 30 -subj \
             /CN={name} -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign {options}"
        ));
        authority
    }

    /// Its own certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.path("ca.crt")
    }

    /// Signs a certificate for a client, with this subject (`/CN=acme`).
    pub(crate) fn sign(&self, subject: &str) -> Signed {
        self.sign_with(subject, FOR_CLIENTS, "-days 30")
    }

    /// Signs what says something else about itself: extensions, and options of `openssl ca` such as dates.
    pub(crate) fn sign_with(&self, subject: &str, extensions: &str, options: &str) -> Signed {
        let number = fs::read_dir(self.0.path()).unwrap().count();
        let name = |end: &str| format!("signed-{number}.{end}");
        fs::write(self.path(&name("ext")), extensions).unwrap();
        self.openssl(&format!(
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {} -out {} -subj {subject}",
            name("key"),
            name("csr")
        ));
        self.openssl(&format!(
            "ca -config openssl.cnf -batch -notext -in {} -out {} -extfile {} {options}",
            name("csr"),
            name("crt"),
            name("ext")
        ));
        Signed { certificate: self.path(&name("crt")), key: self.path(&name("key")) }
    }

    /// Signs one with further lines of extensions (`subjectAltName=…`).
    pub(crate) fn sign_also(&self, subject: &str, extensions: &str) -> Signed {
        self.sign_with(subject, &format!("{FOR_CLIENTS}{extensions}\n"), "-days 30")
    }

    pub(crate) fn revoke(&self, signed: &Signed) {
        self.openssl(&format!("ca -config openssl.cnf -revoke {}", signed.certificate.display()));
    }

    /// Writes its revocation list, good for a time such as `-crldays 30`.
    pub(crate) fn revocation_list(&self, options: &str) -> PathBuf {
        self.openssl(&format!("ca -config openssl.cnf -gencrl -out ca.crl {options}"));
        self.path("ca.crl")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, arguments: &str) {
        run_openssl(self.0.path(), &arguments.split_whitespace().collect::<Vec<_>>());
    }
}

fn run_openssl(folder: &Path, arguments: &[&str]) -> String {
    let output = openssl(folder).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}\n{}", latin1(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The program, without the settings of the machine.
pub(crate) fn openssl(folder: &Path) -> Command {
    program("openssl", "openssl", folder)
}

impl Signed {
    /// SHA-256 as openssl prints it, behind the `=`.
    pub(crate) fn fingerprint(&self) -> String {
        let file = self.certificate.display().to_string();
        let arguments = ["x509", "-noout", "-fingerprint", "-sha256", "-in", &file];
        let printed = run_openssl(self.certificate.parent().unwrap(), &arguments);
        printed.trim().split_once('=').unwrap().1.to_owned()
    }

    /// TLS that trusts the gateway and shows this certificate.
    pub(crate) fn connector(&self, gateway: &Gateway, version: &'static SupportedProtocolVersion) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(gateway.certificate()).unwrap()).unwrap();
        let chain = vec![CertificateDer::from_pem_file(&self.certificate).unwrap()];
        let key = PrivateKeyDer::from_pem_file(&self.key).unwrap();
        let config = ClientConfig::builder_with_protocol_versions(&[version])
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        TlsConnector::from(std::sync::Arc::new(config))
    }
}
