//! `policy`: how transfers and names are treated, for everyone and again per user.

use super::super::raw::Node;
use super::super::{AsciiMode, Policy, Resumption, Symlinks, UploadMode, scalar};
use super::Report;
use super::cursor::Cursor;
use crate::ftp::digest::Algorithm;
use crate::ftp::list;
use crate::ftp::time::Zone;

/// Most channels of one upload: each is a process on the server, and OpenSSH gives ten to a connection.
const MAX_UPLOAD_STREAMS: u32 = 4;

/// The default of every key.
pub(super) fn default() -> Policy {
    Policy {
        data_tls_required: true,
        data_tls_resumption: Resumption::Prefer,
        data_peer_check: true,
        upload: UploadMode::Atomic,
        keep_broken_uploads: false,
        upload_streams: 1,
        upload_eof_strict: true,
        fsync: true,
        ascii: AsciiMode::Convert,
        symlinks: Symlinks::Inside,
        umask: 0o022,
        available_space: false,
        hash: vec![Algorithm::Sha256, Algorithm::Sha1, Algorithm::Md5, Algorithm::Crc32],
        charset: None,
        list_form: list::Form { style: list::Style::Unix, zone: Zone::UTC },
        clear_control: false,
    }
}

fn algorithms(cursor: &Cursor<'_>, report: &mut Report) -> Option<Vec<Algorithm>> {
    let choices = Algorithm::ALL.map(|algorithm| (algorithm.name(), algorithm));
    let items = cursor.list("a list of digest algorithms such as [SHA-256, CRC32]", report)?;
    items.iter().map(|item| item.choice(&choices, report)).collect()
}

/// The keys that are written, over `defaults`.
pub(super) fn policy(cursor: Option<Cursor<'_>>, defaults: &Policy, report: &mut Report) -> Policy {
    let mut policy = defaults.clone();
    let Some(mut fields) = cursor.and_then(|cursor| cursor.fields(report)) else { return policy };
    policy.data_tls_required = fields.or("data_tls", policy.data_tls_required, report, |cursor, report| {
        cursor.choice(&[("required", true), ("optional", false)], report)
    });
    policy.data_tls_resumption =
        fields.or("data_tls_resumption", policy.data_tls_resumption, report, |cursor, report| {
            let choices = [("off", Resumption::Off), ("prefer", Resumption::Prefer), ("require", Resumption::Require)];
            cursor.choice(&choices, report)
        });
    let mut unchecked = None;
    policy.data_peer_check = fields.or("data_peer_check", policy.data_peer_check, report, |cursor, report| {
        let is_checked = cursor.flag(report)?;
        unchecked = (!is_checked).then(|| cursor.at.clone());
        Some(is_checked)
    });
    if let Some(at) = unchecked
        && policy.data_tls_resumption != Resumption::Require
    {
        report.warn(&at, "is off: whoever reaches a passive port first gets the transfer; only `data_tls_resumption: require` stops that");
    }
    policy.upload = fields.or("upload", policy.upload, report, |cursor, report| {
        cursor.choice(&[("atomic", UploadMode::Atomic), ("direct", UploadMode::Direct)], report)
    });
    policy.keep_broken_uploads = fields.or("broken_upload", policy.keep_broken_uploads, report, |cursor, report| {
        cursor.choice(&[("discard", false), ("keep", true)], report)
    });
    policy.upload_streams = fields.or("upload_streams", policy.upload_streams, report, |cursor, report| {
        cursor.count(MAX_UPLOAD_STREAMS, report).and_then(|count| usize::try_from(count).ok())
    });
    policy.upload_eof_strict = fields.or("upload_eof", policy.upload_eof_strict, report, |cursor, report| {
        cursor.choice(&[("strict", true), ("lax", false)], report)
    });
    policy.fsync = fields.or("fsync", policy.fsync, report, Cursor::flag);
    policy.ascii = fields.or("ascii", policy.ascii, report, |cursor, report| {
        let choices = [("convert", AsciiMode::Convert), ("binary", AsciiMode::Binary), ("refuse", AsciiMode::Refuse)];
        cursor.choice(&choices, report)
    });
    policy.symlinks = fields.or("symlinks", policy.symlinks, report, |cursor, report| {
        let choices = [("inside", Symlinks::Inside), ("follow", Symlinks::Follow), ("hide", Symlinks::Hide)];
        cursor.choice(&choices, report)
    });
    policy.umask = fields.or("umask", policy.umask, report, |cursor, report| {
        const EXPECTED: &str = "octal digits in quotes, such as \"022\"";
        if matches!(cursor.node, Node::Integer(_) | Node::Float(_)) {
            // To one YAML library 22 and 0o22 are numbers, to another 022 is eighteen: only text says what is meant.
            cursor.wrong_with_hint(format!("expected {EXPECTED}, found a number"), "write it in quotes", report);
            return None;
        }
        cursor.parsed(EXPECTED, scalar::umask, report)
    });
    policy.available_space = fields.or("available_space", policy.available_space, report, Cursor::flag);
    policy.charset = fields.or("charset", policy.charset, report, |cursor, report| {
        cursor.parsed("the name of a charset, such as latin1", scalar::charset, report)
    });
    policy.list_form.zone = fields.or("list_time_zone", policy.list_form.zone.clone(), report, |cursor, report| {
        cursor.parsed("the name of a time zone, such as Europe/Berlin", scalar::time_zone, report)
    });
    policy.list_form.style = fields.or("list_style", policy.list_form.style, report, |cursor, report| {
        cursor.choice(&[("unix", list::Style::Unix), ("dos", list::Style::Dos)], report)
    });
    policy.hash = fields.or("hash", std::mem::take(&mut policy.hash), report, algorithms);
    policy.clear_control = fields.or("ccc", policy.clear_control, report, Cursor::flag);
    fields.finish(report);
    policy
}
