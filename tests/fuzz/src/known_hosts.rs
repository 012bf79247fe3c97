//! known_hosts: a file is read or refused, whatever is in it, and a revocation holds whatever else is there.

use std::sync::OnceLock;

use ftps2sftp::ssh::host_key::{HostKeyError, HostKeyPolicy, HostKeyVerdict};
use ftps2sftp::ssh::known_hosts::{KnownHosts, KnownHostsError};
use russh::keys::{PublicKey, PublicKeyOrCertificate, parse_public_key_base64};

/// A key that seeds list too; nobody has its private half.
const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS";

const HOST: &str = "Sftp.Example.com";

/// What 2026-01-01 was in seconds: when the key is shown.
const NOW: u64 = 1_767_225_600;

/// The content of a file.
pub fn run(bytes: &[u8]) {
    static SHOWN: OnceLock<PublicKey> = OnceLock::new();
    let shown = PublicKeyOrCertificate::from(SHOWN.get_or_init(|| parse_public_key_base64(KEY).unwrap()).clone());
    let content = bytes;
    let lines = content.split(|byte| *byte == b'\n').count();
    let known = match KnownHosts::parse(content) {
        Ok(known) => known,
        Err(KnownHostsError::Line { line, .. }) => return assert!((1..=lines).contains(&line)),
        Err(other) => panic!("{other} of what is in memory"),
    };
    assert!(known.len() <= lines);
    // Blank lines and comments count for nothing.
    let with_comment = KnownHosts::parse(&[content, &b"\n\n# nothing\r\n"[..]].concat()).unwrap();
    assert_eq!(with_comment.len(), known.len());

    let judge =
        |known: KnownHosts, port| HostKeyPolicy::new(Some(known), Vec::new()).unwrap().verify(HOST, port, &shown, NOW);
    for port in [22, 2222] {
        match judge(known.clone(), port) {
            Ok(HostKeyVerdict::Listed { line }) => assert!((1..=lines).contains(&line)),
            Ok(other) => panic!("{other:?} of a bare key"),
            Err(error) => assert!(!error.to_string().chars().any(char::is_control)),
        }
    }
    let revoked = KnownHosts::parse(&[content, format!("\n@revoked * ssh-ed25519 {KEY}").as_bytes()].concat()).unwrap();
    assert_eq!(revoked.len(), known.len() + 1);
    assert!(matches!(judge(revoked, 22), Err(HostKeyError::Revoked { .. })));
}
