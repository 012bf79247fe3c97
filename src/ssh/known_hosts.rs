//! OpenSSH known_hosts files: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT".
//!
//! The parser is strict where ssh(1) is lax: a line that cannot be read is an error with its number, because a line
//! that silently never matches is a revocation that never happens. Only lines of key types this program does not
//! speak are passed over.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use russh::keys::{Algorithm, EcdsaCurve, PublicKey};

/// Largest file read: some hundred thousand hosts; a file beyond that is a mistaken path.
pub const MAX_FILE_BYTES: u64 = 32 * 1024 * 1024;

/// Longest line. An RSA key of 16384 bits takes 2.8 KB; the rest is for names and the comment.
pub const MAX_LINE_BYTES: usize = 32 * 1024;

/// Length of an HMAC-SHA1, and of the salt in front of it, in a hashed name.
const HASHED_NAME_BYTES: usize = 20;

/// SSH's own port (RFC 4251 §4.1), the one known_hosts leaves out.
const SSH_PORT: u16 = 22;

/// The lines of a known_hosts file, in order.
#[derive(Debug, Clone, Default)]
pub struct KnownHosts {
    lines: Vec<Line>,
}

/// Why a known_hosts file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KnownHostsError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is larger than [`MAX_FILE_BYTES`].
    #[error("{} is larger than 32 MiB", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A line cannot be understood.
    #[error("line {line}: {problem}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        problem: LineProblem,
    },
}

/// What is wrong with one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineProblem {
    /// Longer than [`MAX_LINE_BYTES`].
    #[error("longer than 32 KiB")]
    TooLong,
    /// `@` followed by a word that is neither `cert-authority` nor `revoked`.
    #[error("unknown marker (known are @cert-authority and @revoked)")]
    UnknownMarker,
    /// Fewer than three fields.
    #[error("a line needs host names, a key type and a key")]
    MissingField,
    /// An empty pattern in the list of names.
    #[error("empty host name pattern")]
    EmptyPattern,
    /// A hashed name that is not `|1|salt|hash`.
    #[error("hashed host name is not of the form |1|salt|hash")]
    BadHash,
    /// The key is not base64.
    #[error("the key is not base64")]
    BadBase64,
    /// The base64 holds no key of the type the line names.
    #[error("the key is not a valid key of the type the line names")]
    BadKey,
}

/// A host key type this program speaks. Wider than [`Algorithm`] on purpose: an RSA key is one key whatever hash signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// `ssh-ed25519`
    Ed25519,
    /// `ecdsa-sha2-nistp256`
    EcdsaP256,
    /// `ecdsa-sha2-nistp384`
    EcdsaP384,
    /// `ecdsa-sha2-nistp521`
    EcdsaP521,
    /// `ssh-rsa`: the name of the key, not of the SHA-1 signature.
    Rsa,
}

/// What the marker in front of a line makes of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    /// No marker: a host key.
    HostKey,
    /// `@cert-authority`: signs host certificates.
    CertAuthority,
    /// `@revoked`: must never be accepted.
    Revoked,
}

/// One line.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) number: usize,
    pub(super) marker: Marker,
    pub(super) key_type: KeyType,
    /// The key as RFC 4253 §6.6 encodes it, re-encoded by us so that equal keys are equal bytes.
    pub(super) blob: Box<[u8]>,
    hosts: Hosts,
}

#[derive(Clone)]
enum Hosts {
    Patterns(Vec<Pattern>),
    Hashed { salt: Box<[u8]>, hash: Box<[u8]> },
}

#[derive(Debug, Clone)]
struct Pattern {
    negated: bool,
    /// Lower case; may hold `*` and `?`.
    text: Box<[u8]>,
}

impl KnownHosts {
    /// Reads a file.
    ///
    /// # Errors
    /// When the file cannot be read (never an empty list instead), or when a line is wrong.
    pub fn load(path: &Path) -> Result<Self, KnownHostsError> {
        let failed = |source| KnownHostsError::Read { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(failed)?;
        let mut content = Vec::new();
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content).map_err(failed)?;
        if content.len() as u64 > MAX_FILE_BYTES {
            return Err(KnownHostsError::TooLarge { path: path.to_owned() });
        }
        Self::parse(&content)
    }

    /// Reads the content of a file.
    ///
    /// # Errors
    /// At the first line that is wrong. Lines of unknown key types are passed over.
    pub fn parse(content: &[u8]) -> Result<Self, KnownHostsError> {
        const UTF8_BOM: &[u8] = b"\xef\xbb\xbf";
        let content = content.strip_prefix(UTF8_BOM).unwrap_or(content);
        let mut lines = Vec::new();
        for (index, text) in content.split(|&byte| byte == b'\n').enumerate() {
            let number = index + 1;
            let line = Line::parse(number, text).map_err(|problem| KnownHostsError::Line { line: number, problem })?;
            lines.extend(line);
        }
        Ok(Self { lines })
    }

    /// How many lines are in use.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Is there no line in use?
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The lines whose names match `name`, as [`lookup_name`] makes it.
    pub(super) fn matching<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Line> {
        self.lines.iter().filter(move |line| line.hosts.matches(name.as_bytes()))
    }
}

impl Line {
    /// `None` for blank lines, comments and key types we do not speak.
    fn parse(number: usize, text: &[u8]) -> Result<Option<Self>, LineProblem> {
        let text = text.trim_ascii();
        if text.is_empty() || text.starts_with(b"#") {
            return Ok(None);
        }
        if text.len() > MAX_LINE_BYTES {
            return Err(LineProblem::TooLong);
        }
        let mut fields = text.split(|byte| matches!(byte, b' ' | b'\t')).filter(|field| !field.is_empty()).peekable();
        let marker = match fields.next_if(|field| field.starts_with(b"@")) {
            None => Marker::HostKey,
            Some(b"@cert-authority") => Marker::CertAuthority,
            Some(b"@revoked") => Marker::Revoked,
            Some(_) => return Err(LineProblem::UnknownMarker),
        };
        let (Some(hosts), Some(key_type), Some(key)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(LineProblem::MissingField);
        };
        let hosts = Hosts::parse(hosts)?;
        let Some(key_type) = KeyType::named(key_type) else {
            return Ok(None);
        };
        let blob = STANDARD.decode(key).map_err(|_| LineProblem::BadBase64)?;
        let key = PublicKey::from_bytes(&blob).map_err(|_| LineProblem::BadKey)?;
        if KeyType::of(&key.algorithm()) != Some(key_type) {
            return Err(LineProblem::BadKey);
        }
        let blob = key.to_bytes().map_err(|_| LineProblem::BadKey)?.into_boxed_slice();
        Ok(Some(Self { number, marker, key_type, blob, hosts }))
    }
}

impl Hosts {
    fn parse(field: &[u8]) -> Result<Self, LineProblem> {
        if let Some(hashed) = field.strip_prefix(b"|") {
            let mut parts = hashed.split(|&byte| byte == b'|');
            let (Some(b"1"), Some(salt), Some(hash), None) = (parts.next(), parts.next(), parts.next(), parts.next())
            else {
                return Err(LineProblem::BadHash);
            };
            let decode = |part| STANDARD.decode(part).map(Vec::into_boxed_slice).map_err(|_| LineProblem::BadHash);
            let (salt, hash) = (decode(salt)?, decode(hash)?);
            if salt.len() != HASHED_NAME_BYTES || hash.len() != HASHED_NAME_BYTES {
                return Err(LineProblem::BadHash);
            }
            return Ok(Self::Hashed { salt, hash });
        }
        let patterns = field.split(|&byte| byte == b',').map(Pattern::parse).collect::<Result<_, _>>()?;
        Ok(Self::Patterns(patterns))
    }

    fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::Hashed { salt, hash } => {
                // The file format fixes HMAC-SHA1; it hides names and guards nothing else.
                let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, salt);
                hmac::sign(&key, name).as_ref() == &**hash
            }
            Self::Patterns(patterns) => {
                let matching = |negated| {
                    patterns.iter().any(|pattern| pattern.negated == negated && glob_matches(&pattern.text, name))
                };
                // sshd(8): "if the hostname matches a negated pattern, it is not accepted (by that line) even if it
                // matched another pattern on the line".
                matching(false) && !matching(true)
            }
        }
    }
}

impl fmt::Debug for Hosts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hashed { .. } => formatter.write_str("Hashed"),
            Self::Patterns(patterns) => formatter.debug_tuple("Patterns").field(patterns).finish(),
        }
    }
}

impl Pattern {
    fn parse(text: &[u8]) -> Result<Self, LineProblem> {
        let (negated, text) = match text.strip_prefix(b"!") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if text.is_empty() {
            return Err(LineProblem::EmptyPattern);
        }
        Ok(Self { negated, text: text.to_ascii_lowercase().into_boxed_slice() })
    }
}

impl KeyType {
    /// Every type, in the order we like them.
    pub const ALL: [Self; 5] = [Self::Ed25519, Self::EcdsaP256, Self::EcdsaP384, Self::EcdsaP521, Self::Rsa];

    /// The name in a known_hosts line and in the key itself (RFC 4253 §6.6, RFC 5656 §3.1, RFC 8709 §4).
    pub fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ssh-ed25519",
            Self::EcdsaP256 => "ecdsa-sha2-nistp256",
            Self::EcdsaP384 => "ecdsa-sha2-nistp384",
            Self::EcdsaP521 => "ecdsa-sha2-nistp521",
            Self::Rsa => "ssh-rsa",
        }
    }

    fn named(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|key_type| key_type.name().as_bytes() == name)
    }

    pub(super) fn of(algorithm: &Algorithm) -> Option<Self> {
        match algorithm {
            Algorithm::Ed25519 => Some(Self::Ed25519),
            Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 } => Some(Self::EcdsaP256),
            Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 } => Some(Self::EcdsaP384),
            Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 } => Some(Self::EcdsaP521),
            Algorithm::Rsa { .. } => Some(Self::Rsa),
            _ => None,
        }
    }
}

/// The name a host is listed under: `host`, or `[host]:port` where the port is not 22; lower case.
pub(super) fn lookup_name(host: &str, port: u16) -> String {
    let host = host.to_ascii_lowercase();
    if port == SSH_PORT { host } else { format!("[{host}]:{port}") }
}

/// `*` stands for any run of bytes, `?` for one; nothing else is special (ssh_config(5), PATTERNS). Both lower case.
///
/// At most pattern × name steps: only the last `*` is ever tried again.
pub(super) fn glob_matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at_pattern, mut at_name) = (0, 0);
    let mut star = None;
    while let Some(&byte) = name.get(at_name) {
        match pattern.get(at_pattern) {
            Some(b'*') => {
                star = Some((at_pattern + 1, at_name));
                at_pattern += 1;
            }
            Some(&wanted) if wanted == b'?' || wanted == byte => {
                at_pattern += 1;
                at_name += 1;
            }
            _ => match &mut star {
                Some((after_star, from)) => {
                    *from += 1;
                    (at_pattern, at_name) = (*after_star, *from);
                }
                None => return false,
            },
        }
    }
    pattern.get(at_pattern..).is_some_and(|rest| rest.iter().all(|&byte| byte == b'*'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    fn parse(text: &str) -> KnownHosts {
        KnownHosts::parse(text.as_bytes()).unwrap()
    }

    fn numbers(known_hosts: &KnownHosts, host: &str, port: u16) -> Vec<usize> {
        known_hosts.matching(&lookup_name(host, port)).map(|line| line.number).collect()
    }

    fn problem(text: &str) -> (usize, LineProblem) {
        match KnownHosts::parse(text.as_bytes()) {
            Err(KnownHostsError::Line { line, problem }) => (line, problem),
            other => panic!("{text:?} gave {other:?}"),
        }
    }

    #[test]
    fn finds_plain_names_without_regard_to_case() {
        let known_hosts = parse(&format!("# comment\n\n  sftp.example.com,10.0.0.7\t{ED25519} a comment\r\n"));
        assert_eq!(numbers(&known_hosts, "SFTP.example.com", 22), [3]);
        assert_eq!(numbers(&known_hosts, "10.0.0.7", 22), [3]);
        assert!(numbers(&known_hosts, "10.0.0.70", 22).is_empty());
        assert!(numbers(&known_hosts, "sftp.example.com", 2222).is_empty());
    }

    #[test]
    fn finds_names_with_a_port() {
        let known_hosts = parse(&format!("[sftp.example.com]:2222,[::1]:2022 {ED25519}"));
        assert_eq!(numbers(&known_hosts, "sftp.example.com", 2222), [1]);
        assert_eq!(numbers(&known_hosts, "::1", 2022), [1]);
        assert!(numbers(&known_hosts, "sftp.example.com", 22).is_empty());
    }

    #[test]
    fn a_negated_pattern_wins_wherever_it_stands() {
        for names in ["*.example.com,!bad.example.com", "!bad.example.com,*.example.com"] {
            let known_hosts = parse(&format!("{names} {ED25519}"));
            assert_eq!(numbers(&known_hosts, "good.example.com", 22), [1]);
            assert!(numbers(&known_hosts, "bad.example.com", 22).is_empty());
        }
        assert!(numbers(&parse(&format!("!bad.example.com {ED25519}")), "good.example.com", 22).is_empty());
    }

    #[test]
    fn finds_hashed_names() {
        let salt = [7_u8; 20];
        let hash = |name: &str| {
            let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
            format!("|1|{}|{}", STANDARD.encode(salt), STANDARD.encode(hmac::sign(&key, name.as_bytes())))
        };
        let known_hosts =
            parse(&format!("{} {ED25519}\n{} {ED25519}\n", hash("sftp.example.com"), hash("[sftp.example.com]:2222")));
        assert_eq!(numbers(&known_hosts, "SFTP.example.com", 22), [1]);
        assert_eq!(numbers(&known_hosts, "sftp.example.com", 2222), [2]);
        assert!(numbers(&known_hosts, "other.example.com", 22).is_empty());
    }

    #[test]
    fn reads_markers() {
        let known_hosts =
            parse(&format!("@cert-authority *.example.com {ED25519}\n@revoked * {ED25519}\nplain {ED25519}"));
        let markers: Vec<_> = known_hosts.lines.iter().map(|line| line.marker).collect();
        assert_eq!(markers, [Marker::CertAuthority, Marker::Revoked, Marker::HostKey]);
    }

    #[test]
    fn passes_over_key_types_it_does_not_speak() {
        let known_hosts = parse("a ssh-dss AAAA\nb sk-ssh-ed25519@openssh.com AAAA\nc 1024 35 1234567\n");
        assert!(known_hosts.is_empty());
    }

    #[test]
    fn tells_the_number_of_a_bad_line() {
        let (key_type, key) = ED25519.split_once(' ').unwrap();
        assert_eq!(problem("\nhost\n"), (2, LineProblem::MissingField));
        assert_eq!(problem("host ssh-ed25519"), (1, LineProblem::MissingField));
        assert_eq!(problem(&format!("# x\n@revokd * {ED25519}")), (2, LineProblem::UnknownMarker));
        assert_eq!(problem(&format!("a,,b {ED25519}")), (1, LineProblem::EmptyPattern));
        assert_eq!(problem(&format!("a,! {ED25519}")), (1, LineProblem::EmptyPattern));
        assert_eq!(problem(&format!("|2|AAAA|AAAA {ED25519}")), (1, LineProblem::BadHash));
        assert_eq!(problem(&format!("|1|AAAA|AAAA {ED25519}")), (1, LineProblem::BadHash));
        assert_eq!(problem("host ssh-ed25519 AAA*"), (1, LineProblem::BadBase64));
        assert_eq!(problem(&format!("host {key_type} {}", &key[..key.len() - 4])), (1, LineProblem::BadKey));
        assert_eq!(problem(&format!("host ssh-rsa {key}")), (1, LineProblem::BadKey));
        assert_eq!(problem(&format!("{} {ED25519}", "a".repeat(MAX_LINE_BYTES))), (1, LineProblem::TooLong));
    }

    #[test]
    fn an_unreadable_file_is_an_error() {
        let error = KnownHosts::load(Path::new("/nonexistent/known_hosts")).unwrap_err();
        assert!(matches!(error, KnownHostsError::Read { .. }), "{error:?}");
    }

    #[test]
    fn wildcards_match_as_a_shell_would_without_classes() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("*", "anything", true),
            ("?", "", false),
            ("a?c", "abc", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcdef", false),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("[ab]", "a", false),
            ("a**", "a", true),
        ] {
            assert_eq!(glob_matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    fn glob_by_definition(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => {
                (0..=name.len()).any(|taken| glob_by_definition(rest, name.get(taken..).unwrap()))
            }
            (Some((wanted, pattern)), Some((byte, name))) if *wanted == b'?' || wanted == byte => {
                glob_by_definition(pattern, name)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn wildcards_agree_with_their_definition(pattern in "[ab?*]{0,8}", name in "[ab]{0,8}") {
            prop_assert_eq!(
                glob_matches(pattern.as_bytes(), name.as_bytes()),
                glob_by_definition(pattern.as_bytes(), name.as_bytes())
            );
        }

        #[test]
        fn any_bytes_are_a_list_or_an_error(content in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = KnownHosts::parse(&content);
        }

        #[test]
        fn a_host_is_found_under_the_name_ssh_would_write(host in "[a-zA-Z0-9.-]{1,20}", port in 1_u16..) {
            let name = lookup_name(&host, port);
            let known_hosts = parse(&format!("{name} {ED25519}"));
            prop_assert_eq!(numbers(&known_hosts, &host, port), [1]);
        }
    }
}
