//! Audit records: who logged in, what was transferred and what was changed, one line each, to a file of JSON lines, to a
//! file as wu-ftpd writes it, or with neither to the log.
//!
//! Writing never waits, as with the log: what finds the queue of a file full is dropped and counted in
//! `ftps2sftp_audit_records_total{result="dropped"}`.

mod file;
mod xferlog;

use std::net::SocketAddr;
use std::time::Duration;

use tracing::Level;

use super::logging::record::{self, Fields, Form};
use super::logging::sink::{self, Flush, Sink};
use super::metrics::{self, AuditResult, AuditSink, Direction, TransferResult};
use crate::config;
use file::LogFile;

/// Where audit records of this process go.
#[derive(Debug, Default)]
pub struct Audit {
    json: Option<Sink>,
    xferlog: Option<Sink>,
}

/// Writes out what is queued when dropped.
#[derive(Debug, Default)]
#[must_use = "dropping the guard flushes the records"]
pub struct AuditGuard {
    _flushes: Vec<Flush>,
}

/// Whose record it is.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Number of the session.
    pub session: u64,
    /// The client.
    pub client: SocketAddr,
    /// Where it came in.
    pub listener: &'a str,
    /// The name it gave.
    pub user: &'a str,
    /// Where its files are; empty before login.
    pub backend: &'a str,
    /// TLS of the control connection; empty where there is none.
    pub tls: &'a str,
}

/// A transfer that ended.
#[derive(Debug)]
pub struct Transfer<'a> {
    /// Which way.
    pub direction: Direction,
    /// The pathname as the client sees it.
    pub path: &'a [u8],
    /// TYPE A.
    pub is_ascii: bool,
    /// Bytes on the data connection.
    pub client_bytes: u64,
    /// Bytes that the backend acknowledged or gave.
    pub backend_bytes: u64,
    /// From the transfer command to its end.
    pub elapsed: Duration,
    /// From the transfer command to the first byte on the data connection.
    pub first_byte: Option<Duration>,
    /// Of an upload, from the client's end of it to what the backend made of it.
    pub commit: Option<Duration>,
    /// How the client ended the data connection: `close_notify`, `fin`, `acknowledged` (a download it has all of), `reset`,
    /// `timeout`, or `none` where it did not.
    pub client_close: &'static str,
    /// The last word of the backend: a status as the draft names it, `lost` or `timeout`; `none` where it was not the
    /// matter.
    pub backend_status: String,
    /// How it ended.
    pub result: TransferResult,
    /// How the client heard of it.
    pub reply: u16,
    /// Why it failed.
    pub failure: Option<String>,
    /// Algorithm and digest of the whole file, where one was made.
    pub digest: Option<(&'static str, String)>,
}

impl Audit {
    /// Opens the files.
    ///
    /// # Errors
    /// One cannot be opened, or its thread cannot be started.
    pub fn open(audit: &config::Audit) -> std::io::Result<(Self, AuditGuard)> {
        let (mut opened, mut guard) = (Self::default(), AuditGuard::default());
        for (path, form, kind, place) in [
            (&audit.path, Some(Form::Json), AuditSink::File, &mut opened.json),
            (&audit.xferlog, None, AuditSink::Xferlog, &mut opened.xferlog),
        ] {
            let Some(path) = path else { continue };
            let file = LogFile::open(path, audit.max_size, audit.keep)?;
            let (sink, flush) = sink::start_for(file, form, move |is_dropped| {
                metrics::audit_record(kind, if is_dropped { AuditResult::Dropped } else { AuditResult::Ok });
            })?;
            *place = Some(sink);
            guard._flushes.push(flush);
        }
        Ok((opened, guard))
    }

    /// Do records go to the log alone?
    pub fn is_in_log(&self) -> bool {
        self.json.is_none()
    }

    /// A transfer ended.
    pub fn transfer(&self, subject: Subject<'_>, transfer: &Transfer<'_>) {
        self.write(subject, "ftps2sftp.transfer", |fields| {
            fields.text("ftp.direction", transfer.direction.as_str());
            fields.text("ftp.type", if transfer.is_ascii { "A" } else { "I" });
            fields.text("file.path", transfer.path.escape_ascii());
            fields.text("transfer.result", transfer.result.as_str());
            fields.number("ftp.reply_code", transfer.reply.into());
            fields.number("transfer.client_bytes", transfer.client_bytes);
            fields.number("transfer.backend_bytes", transfer.backend_bytes);
            fields.text("client.close", transfer.client_close);
            fields.text("sftp.status", &transfer.backend_status);
            fields.decimal("duration_s", transfer.elapsed.as_secs_f64());
            for (name, time) in [("first_byte_s", transfer.first_byte), ("commit_s", transfer.commit)] {
                if let Some(time) = time {
                    fields.decimal(name, time.as_secs_f64());
                }
            }
            if let Some(failure) = &transfer.failure {
                fields.text("exception.message", failure);
            }
            if let Some((algorithm, digest)) = &transfer.digest {
                fields.text("transfer.digest_algorithm", algorithm);
                fields.text("transfer.digest", digest);
            }
        });
        if let Some(xferlog) = &self.xferlog
            && let Some(line) = xferlog::line(&subject, transfer, &jiff::ZonedDateTime::now())
        {
            xferlog.send(line);
        }
    }

    /// A login was let in, or refused for this reason.
    pub fn login(&self, subject: Subject<'_>, method: &str, failure: Option<&str>) {
        self.write(subject, "ftps2sftp.login", |fields| {
            fields.text("login.method", method);
            fields.text("login.result", if failure.is_none() { "success" } else { "failure" });
            if let Some(failure) = failure {
                fields.text("exception.message", failure);
            }
        });
    }

    /// Something was changed, or was not, by this command.
    pub fn change(&self, subject: Subject<'_>, command: &str, argument: &[u8], directory: &[u8], reply: u16) {
        self.write(subject, "ftps2sftp.change", |fields| {
            fields.text("ftp.command", command);
            fields.text("ftp.argument", argument.escape_ascii());
            fields.text("ftp.working_directory", directory.escape_ascii());
            fields.number("ftp.reply_code", reply.into());
        });
    }

    fn write(&self, subject: Subject<'_>, event: &str, fill: impl FnOnce(&mut Fields)) {
        let Some(json) = &self.json else { return };
        let mut fields = Fields::unbounded();
        fields.text("event.name", event);
        fields.number("session.id", subject.session);
        fields.text("client.address", subject.client.ip());
        fields.number("client.port", subject.client.port().into());
        fields.text("listener", subject.listener);
        fields.text("user.name", subject.user);
        fields.text("backend.name", subject.backend);
        fields.text("tls.protocol.version", subject.tls);
        fill(&mut fields);
        json.send(record::line(Form::Json, &record::now(), Level::INFO, "audit", &fields));
    }
}
