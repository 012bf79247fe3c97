//! Reads the configuration: the file, its references, the typed truth, and every mistake in one go.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::decode::{self, Report};
use super::error::Problem;
use super::fingerprint::{self, Fingerprint};
use super::interpolate::{Environment, interpolate};
use super::raw::Node;
use super::{Config, KeyHolder, LoginKey, files};

/// Largest configuration file: fifty thousand users are some 16 MiB.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// What came of reading a configuration.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration; only where `problems` is empty.
    pub config: Option<Config>,
    /// Every mistake in it.
    pub problems: Vec<Problem>,
    /// What is accepted, and worth to be said.
    pub warnings: Vec<Problem>,
    /// The files it names, where they can be read: their content is for the rooms that know them. They are listed
    /// when there are problems too, so that all mistakes can be told in one go.
    pub materials: Vec<Material>,
    /// Files that `${file:…}` named.
    pub references: Vec<PathBuf>,
    /// What stands under each top-level key.
    pub sections: BTreeMap<String, Fingerprint>,
}

/// A file that the configuration names, with the key path of the mention.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "`at` is the key path, the others are paths")]
pub enum Material {
    /// A certificate chain and its key: `tls.certificates[0]`.
    Certificate { at: String, certificate: PathBuf, key: PathBuf },
    /// The authorities of client certificates and their revocation lists: `tls.client_ca`, `tls.client_crl`.
    ClientAuthorities { at: String, crl_at: String, ca: PathBuf, crl: Option<PathBuf> },
    /// Host keys of a backend: `backends.warehouse.known_hosts`.
    KnownHosts { at: String, path: PathBuf },
    /// A key for logging in on a backend, and its certificate: `users.acme.login`.
    LoginKey { at: String, key: LoginKey },
}

impl Material {
    /// The files that are read for it.
    pub fn files(&self) -> Vec<&Path> {
        match self {
            Self::Certificate { certificate, key, .. } => vec![certificate, key],
            Self::ClientAuthorities { ca, crl, .. } => {
                [Some(ca), crl.as_ref()].into_iter().flatten().map(PathBuf::as_path).collect()
            }
            Self::KnownHosts { path, .. } => vec![path],
            Self::LoginKey { key, .. } => {
                let of_holder = match &key.holder {
                    KeyHolder::File { path, .. } => Some(path),
                    KeyHolder::Agent { public_key, .. } => public_key.as_ref(),
                };
                of_holder.into_iter().chain(&key.certificate).map(PathBuf::as_path).collect()
            }
        }
    }
}

/// Reads the configuration file at `path`.
pub fn load(path: &Path) -> Loaded {
    match read(path) {
        Ok(text) => load_text(&text, path.parent().unwrap_or(Path::new(""))),
        Err(problem) => Loaded {
            config: None,
            problems: vec![problem],
            warnings: Vec::new(),
            materials: Vec::new(),
            references: Vec::new(),
            sections: BTreeMap::new(),
        },
    }
}

/// Reads a configuration; relative paths in it begin at `base`.
pub fn load_text(text: &str, base: &Path) -> Loaded {
    load_with(text, base, &|name| std::env::var_os(name))
}

fn load_with(text: &str, base: &Path, environment: Environment<'_>) -> Loaded {
    let mut report = Report::new(base);
    let mut sections = BTreeMap::new();
    let config = match parse(text) {
        Ok(mut root) => {
            interpolate(&mut root, "", environment, &mut report);
            sections = fingerprint::sections(&root);
            decode::configuration(&root, &mut report)
        }
        Err(problem) => {
            report.problem(problem);
            None
        }
    };
    let Report { mut problems, warnings, materials, references, .. } = report;
    if config.is_none() && problems.is_empty() {
        // Unreachable as long as every `None` of the decoder is reported; without it such a slip would pass as success.
        problems.push(Problem::new("", "the configuration is not complete"));
    }
    Loaded { config: config.filter(|_| problems.is_empty()), problems, warnings, materials, references, sections }
}

fn read(path: &Path) -> Result<Zeroizing<String>, Problem> {
    let shown = path.display();
    let mut bytes = Zeroizing::new(Vec::new());
    let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return Err(Problem::new("", format!("cannot read the configuration `{shown}`: {}", files::reason(&error)))
            .hint("name the file with --config, or let the account that the gateway runs as read it"));
    }
    if bytes.len() as u64 > MAX_FILE {
        return Err(Problem::new("", format!("the configuration `{shown}` is larger than {MAX_FILE} bytes"))
            .hint("is it the configuration? fifty thousand users are some 16 MiB"));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(error) => {
            let line = bytes.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count() + 1;
            Err(Problem::new("", format!("the configuration `{shown}` is not UTF-8 text: see line {line}"))
                .hint("save the file as UTF-8"))
        }
    }
}

fn parse(text: &str) -> Result<Node, Problem> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.contains('\0') {
        return Err(Problem::new("", "not YAML: the text holds a NUL character").hint("save the file as UTF-8"));
    }
    // A file of comments only is an empty mapping; the library calls it an unexpected end.
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Node::Null);
    }
    Node::read(serde_yaml::Deserializer::from_str(text)).map_err(|error| {
        let message = error.to_string();
        // SECURITY: these two messages of the library repeat the value, and it may be a password; the others do not.
        let message = if message.contains("invalid value: ") || message.contains("invalid type: ") {
            match error.location() {
                Some(location) => {
                    format!("a value does not fit its tag at line {} column {}", location.line(), location.column())
                }
                None => "a value does not fit its tag".to_owned(),
            }
        } else {
            message
        };
        Problem::new("", format!("not YAML: {message}"))
            .hint("indent with spaces; quote text that begins with a special character or holds `: ` or ` #`")
    })
}
