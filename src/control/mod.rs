//! The control connection (RFC 959 §2.3): the loop that reads commands, the only writer of replies, and the place
//! where what happened is counted and logged.

mod during;
mod pace;
mod record;
mod records;
pub mod stream;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{Instrument, Span, debug};

use crate::command::admit::admit;
use crate::command::failure::{self, Answer, CommandError};
use crate::command::spec::{self, CommandSpec, Handler, PendingEffect, Theme};
use crate::command::{Argument, Step};
use crate::config::TlsMode;
use crate::ftp::line::{Decoded, LineDecoder};
use crate::ftp::reply::Reply;
use crate::ftp::request::Request;
use crate::identity::session_slots::ConnectionSlot;
use crate::session::services::Services;
use crate::session::{Session, Stage};
use crate::shutdown::Shutdown;
use crate::tls::ServerTls;

use self::during::{Handled, Then};
use self::pace::Pace;
use self::record::Recorder;
use self::stream::ControlStream;

/// One read from the control connection, in bytes. Idle sessions hold this much.
const READ_BUFFER: usize = 1024;

/// Lines in a row that are no commands, before login, that end the session: it is not an FTP client.
const MAX_BAD_COMMANDS: u32 = 10;

/// Too long lines in a row that end the session.
const MAX_LONG_LINES: u32 = 3;

/// What speaks HTTP or SMTP at us before login is somebody else's client, perhaps made to by a web page (ALPACA). And
/// S-37: a PROXY header that stands here is one that nobody is to believe.
const FOREIGN_VERBS: &[&[u8]] =
    &[b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT", b"TRACE", b"PRI", b"PROXY", b"EHLO", b"HELO", b"HOST:"];

/// How long a command may take in all, its transfer excepted: each request to the backend has its own limit, and this
/// one ends what takes many (a wildcard over a huge directory).
const COMMAND_LIMIT: Duration = Duration::from_secs(180);

/// For commands whose requests are few and limited each.
const NO_LIMIT: Duration = Duration::MAX;

/// How long the last reply may take to leave.
const CLOSING_PATIENCE: Duration = Duration::from_secs(5);

/// Why the loop ends; the client has been told whatever there was to tell.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// QUIT, or a reply that closes.
    #[error("closed by reply")]
    Closed,
    /// The client closed or its connection broke.
    #[error("the client is gone: {0}")]
    Gone(#[from] io::Error),
    /// Silence for too long.
    #[error("idle for too long")]
    Idle,
    /// No successful PASS in time.
    #[error("no login in time")]
    LoginTimedOut,
    /// Newer connections wanted its place, and nobody had logged in on it.
    #[error("pushed out by newer connections before login")]
    Evicted,
    /// The certificate it came with counts no more.
    #[error("the client's certificate is not accepted any more")]
    CertificateRefused,
    /// The gateway stops.
    #[error("shutting down")]
    Drained,
}

/// What waits to be answered in its turn.
#[derive(Debug)]
enum Waiting {
    /// A command line.
    Line(Vec<u8>),
    /// A line that was too long to be kept.
    TooLong,
}

/// A running control connection.
pub struct Control<'a, S> {
    stream: ControlStream<S>,
    decoder: LineDecoder,
    waiting: VecDeque<Waiting>,
    session: Session,
    slot: ConnectionSlot,
    pace: Pace,
    services: &'a Services,
    shutdown: Shutdown,
    recorder: Recorder<'a>,
    login_deadline: Instant,
    /// The settings by which the client's certificate was looked at last.
    looked_at_by: Option<Arc<ServerTls>>,
    bad_commands: u32,
    long_lines: u32,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin + Send> Control<'a, S> {
    /// A connection that was just accepted, to be served in `span`.
    pub fn new(
        stream: S,
        session: Session,
        slot: ConnectionSlot,
        services: &'a Services,
        shutdown: Shutdown,
        span: Span,
    ) -> Self {
        let recorder = Recorder::new(&session.front, services, span);
        Self {
            stream: ControlStream::Clear(stream),
            decoder: LineDecoder::new(),
            waiting: VecDeque::new(),
            session,
            slot,
            pace: Pace::new(),
            services,
            shutdown,
            recorder,
            login_deadline: Instant::now() + services.timeouts.login,
            looked_at_by: None,
            bad_commands: 0,
            long_lines: 0,
        }
    }

    /// Serves it to its end.
    pub async fn run(mut self) {
        let ended = match self.converse().await {
            Ok(never) => match never {},
            Err(ended) => ended,
        };
        match ended {
            Ended::Idle | Ended::LoginTimedOut => self.last_words("Timed out, closing").await,
            Ended::Evicted => self.last_words("Too many connections wait for a login, closing").await,
            Ended::CertificateRefused => self.last_words("Your certificate is not accepted any more, closing").await,
            Ended::Drained => self.last_words("The service is shutting down").await,
            Ended::Closed | Ended::Gone(_) => {}
        }
        self.recorder.session_ended(&self.session, &ended);
        let _ = timeout(CLOSING_PATIENCE, self.stream.shutdown()).await;
        if let Stage::LoggedIn(state) = self.session.stage {
            // Boxed for the same reason as commands: it may hold a whole login.
            Box::pin(state.close(&self.services.sweeper)).await;
        }
    }

    async fn converse(&mut self) -> Result<std::convert::Infallible, Ended> {
        if self.session.front.listener.tls == TlsMode::Implicit {
            Box::pin(self.begin_tls()).await?;
        }
        self.write(&Reply::new(220, "FTP server ready")).await?;
        loop {
            let waiting = match self.waiting.pop_front() {
                Some(waiting) => waiting,
                None => self.next_line().await?,
            };
            self.keep_pace().await;
            if !self.certificate_counts() {
                return Err(Ended::CertificateRefused);
            }
            match waiting {
                Waiting::Line(line) => {
                    self.long_lines = 0;
                    let span = record::command_span(&line);
                    // Boxed, so that a session that waits holds no room for the state of a command.
                    Box::pin(self.command(&line)).instrument(span).await?;
                }
                Waiting::TooLong => self.too_long().await?,
            }
        }
    }

    /// Nothing is read while a client is ahead of its pace, so that TCP holds it back. It waits for one command's time at
    /// most, which no deadline notices.
    async fn keep_pace(&mut self) {
        sleep_until(self.pace.ready_at()).await;
        let rate = self.session.logged_in().is_some().then_some(self.services.limits.commands_per_second);
        self.pace.count(rate);
    }

    /// SECURITY: a certificate that was revoked since, or whose authority was taken out, ends its session and what runs in it.
    fn certificate_counts(&mut self) -> bool {
        let secured = self.session.secured.as_ref();
        let Some(certificate) = secured.and_then(|secured| secured.client_certificate.as_ref()) else { return true };
        let tls = self.services.tls.get();
        if self.looked_at_by.as_ref().is_some_and(|looked_at_by| Arc::ptr_eq(looked_at_by, &tls)) {
            return true;
        }
        let counts = tls.accepts(certificate);
        self.looked_at_by = Some(tls);
        counts
    }

    /// TLS from here on; what was said in clear is forgotten.
    async fn begin_tls(&mut self) -> Result<(), Ended> {
        // SECURITY: a byte that came in clear behind AUTH must not be taken for one that came under TLS.
        if !self.decoder.is_empty() || !self.waiting.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "bytes in clear after AUTH").into());
        }
        let config = Arc::clone(&self.session.front.tls.control);
        let started = Instant::now();
        let turns = self.session.front.tls.turns.clone();
        let secured = tokio::select! {
            secured = turns.take(self.stream.upgrade(config, self.services.timeouts.tls_handshake)) => secured,
            () = self.slot.evicted() => return Err(Ended::Evicted),
        };
        self.recorder.control_handshake(secured.as_ref(), started.elapsed());
        self.session.secure(secured.map_err(|failed| failed.error)?);
        self.recorder.entered(&self.session);
        Ok(())
    }

    /// The next command line while no transfer runs, within the deadlines.
    async fn next_line(&mut self) -> Result<Waiting, Ended> {
        let idle = Instant::now() + self.session.parameters().idle.unwrap_or(self.services.timeouts.idle);
        let logged_in = self.session.logged_in().is_some();
        let (deadline, late) = match logged_in {
            false if self.login_deadline < idle => (self.login_deadline, Ended::LoginTimedOut),
            _ => (idle, Ended::Idle),
        };
        let drain = self.shutdown.drain.clone();
        let begun = Instant::now();
        loop {
            // Made before the look, so that no replacement in between is missed.
            let replaced = self.services.tls.replaced();
            if !self.certificate_counts() {
                return Err(Ended::CertificateRefused);
            }
            let release_after = self.session.logged_in().and_then(|state| state.backend.release_after());
            let release_at = release_after.map_or(deadline, |after| begun + after);
            // The deadlines come first: a client that never stops sending does not get around them.
            let decoded = tokio::select! {
                biased;
                () = drain.cancelled() => return Err(Ended::Drained),
                () = sleep_until(deadline) => return Err(late),
                () = self.slot.evicted() => return Err(Ended::Evicted),
                () = replaced => continue,
                () = sleep_until(release_at), if release_after.is_some() => {
                    if let Some(state) = self.session.logged_in() {
                        // Boxed, as commands are.
                        Box::pin(state.backend.release()).await;
                    }
                    continue;
                }
                decoded = next_decoded(&mut self.stream, &mut self.decoder) => decoded?,
            };
            match decoded {
                Decoded::Line(line) => return Ok(Waiting::Line(line)),
                Decoded::TooLong => return Ok(Waiting::TooLong),
                Decoded::Answer(bytes) => {
                    self.keep_pace().await;
                    tokio::select! {
                    biased;
                    () = drain.cancelled() => return Err(Ended::Drained),
                    () = sleep_until(deadline) => return Err(late),
                    answered = self.answer(bytes) => answered?,
                    }
                }
            }
        }
    }

    /// The next thing the client sent. May be dropped and called again without loss.
    async fn decoded(&mut self) -> io::Result<Decoded> {
        next_decoded(&mut self.stream, &mut self.decoder).await
    }

    /// Answers a Telnet option (RFC 1123 §4.1.2.12).
    async fn answer(&mut self, bytes: [u8; 3]) -> io::Result<()> {
        self.stream.write_all(&bytes).await?;
        self.stream.flush().await
    }

    async fn too_long(&mut self) -> Result<(), Ended> {
        self.long_lines += 1;
        if self.long_lines >= MAX_LONG_LINES {
            return self.close(&Reply::new(421, "Too many long lines, closing")).await;
        }
        self.write(&Reply::new(500, "Command line too long")).await
    }

    /// Carries out one command line to its final reply.
    async fn command(&mut self, line: &[u8]) -> Result<(), Ended> {
        let started = Instant::now();
        let logged_in = self.session.logged_in().is_some();
        if !logged_in && is_foreign(line) {
            return self.close(&Reply::new(421, "This is an FTP server, closing")).await;
        }
        let request = Request::parse(line).ok();
        let row = request.as_ref().and_then(|request| spec::find(request.verb.as_str()));
        let (Some(request), Some(row)) = (&request, row) else {
            self.bad_commands += 1;
            if !logged_in && self.bad_commands >= MAX_BAD_COMMANDS {
                return self.close(&Reply::new(421, "Too many bad commands, closing")).await;
            }
            let text = match &request {
                Some(request) => format!("'{}' not understood", request.verb.as_str()),
                None => "Not understood".to_owned(),
            };
            // RFC 959 §4.1.3: RNTO comes immediately after RNFR.
            if let Some(state) = self.session.logged_in() {
                state.pending.take_rename_from();
            }
            let reply = Reply::new(500, text);
            self.recorder.command(None, reply.code(), started.elapsed());
            return self.write(&reply).await;
        };
        self.bad_commands = 0;
        debug!(command = row.verb, "command");
        self.recorder.asked(row, request.argument.as_deref().unwrap_or_default());
        let result = match admit(row, &mut self.session, self.services) {
            Ok(()) => {
                let argument = Argument::new(request.argument.as_deref());
                // RNTO is a few requests with a limit each, and half an exchange of names is worse than a long one.
                let unlimited = row.pending == PendingEffect::TakesRename || row.is_long;
                let limit = if unlimited { NO_LIMIT } else { COMMAND_LIMIT };
                match self.handle(row, argument, limit).await? {
                    Handled::Done(result) => result,
                    Handled::Aborted => Err(CommandError::Refused(426, "Aborted")),
                    Handled::TookTooLong => Ok(Step::Close(Reply::new(421, "The file server takes too long, closing"))),
                }
            }
            Err(refusal) => {
                self.recorder.refusal(row, &refusal);
                Ok(Step::Reply(refusal))
            }
        };
        // Before the client hears of it: from then on its place is its own.
        if self.session.logged_in().is_some() && self.slot.logged_in().is_err() {
            return Err(Ended::Evicted);
        }
        self.clear_data(row, &result);
        if row.theme == Theme::Access {
            self.recorder.login(&self.session, &result);
        }
        let step = match result {
            Ok(step) => step,
            Err(error) => {
                self.recorder.failure(row, &error);
                let Answer { reply, close } = failure::reply_for(&error);
                if close { Step::Close(reply) } else { Step::Reply(reply) }
            }
        };
        if let (Step::Reply(reply) | Step::Close(reply), Theme::Change, Some(state)) =
            (&step, row.theme, self.session.logged_in())
        {
            let argument = request.argument.as_deref().unwrap_or_default();
            self.recorder.changed(row, argument, state.directory.as_bytes(), reply.code());
        }
        let carried_out = self.carry_out(row, step, started).await;
        if let Some(state) = self.session.logged_in() {
            state.backend.transfer_ended();
            let is_letter = state.charset().is_some_and(|charset| charset.has_letter_255());
            self.decoder.take_255_for_a_letter(is_letter);
        }
        carried_out
    }

    /// P-26: a data endpoint is good for one transfer command, also for one that is refused, and so is REST.
    fn clear_data(&mut self, row: &CommandSpec, result: &Result<Step, CommandError>) {
        let refused = row.uses_data && !matches!(result, Ok(Step::Transfer { .. }));
        if let Some(state) = self.session.logged_in().filter(|_| refused) {
            state.pending.take_restart();
            if let Some(endpoint) = state.endpoint.take() {
                state.declined = endpoint.decline();
            }
        }
    }

    async fn carry_out(&mut self, row: &'static CommandSpec, step: Step, started: Instant) -> Result<(), Ended> {
        match step {
            Step::Reply(reply) => {
                self.final_reply(row, &reply, started).await?;
                self.recorder.entered(&self.session);
                Ok(())
            }
            Step::Close(reply) => {
                self.final_reply(row, &reply, started).await?;
                Err(Ended::Closed)
            }
            Step::UpgradeToTls(reply) => {
                self.final_reply(row, &reply, started).await?;
                self.begin_tls().await
            }
            Step::ClearControl(reply) => {
                self.final_reply(row, &reply, started).await?;
                // SECURITY: what came under TLS behind CCC must not be mixed with what comes in clear.
                if !self.decoder.is_empty() || !self.waiting.is_empty() {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "bytes under TLS after CCC").into());
                }
                Ok(self.stream.clear(self.services.timeouts.tls_handshake).await?)
            }
            Step::Transfer { opening, transfer } => {
                let transferred = self.transfer(&opening, transfer).await;
                self.final_reply(row, &transferred.reply, started).await?;
                match transferred.then {
                    Then::GoOn => Ok(()),
                    Then::Quit => self.close(&Reply::new(221, "Goodbye")).await,
                    Then::End(ended) => Err(ended),
                }
            }
        }
    }

    async fn final_reply(&mut self, row: &'static CommandSpec, reply: &Reply, started: Instant) -> Result<(), Ended> {
        debug_assert!(
            row.replies.contains(&reply.code()) || [421, 530, 550].contains(&reply.code()),
            "{} answered {}, which its row does not name",
            row.verb,
            reply.code()
        );
        self.recorder.command(Some(row), reply.code(), started.elapsed());
        self.write(reply).await
    }

    /// One reply, in one write.
    async fn write(&mut self, reply: &Reply) -> Result<(), Ended> {
        let bytes = reply.to_bytes();
        let written = async {
            self.stream.write_all(&bytes).await?;
            self.stream.flush().await
        };
        // A client that takes no replies must not hold a session for ever.
        match timeout(self.services.timeouts.idle, written).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(Ended::Idle),
        }
    }

    async fn close(&mut self, reply: &Reply) -> Result<(), Ended> {
        self.write(reply).await?;
        Err(Ended::Closed)
    }

    async fn last_words(&mut self, text: &str) {
        let _ = timeout(CLOSING_PATIENCE, self.write(&Reply::new(421, text))).await;
    }
}

async fn call(
    row: &CommandSpec,
    session: &mut Session,
    services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    match row.handler {
        Handler::Anytime(handler) => handler(session, services, argument).await,
        Handler::LoggedIn(handler) => match session.logged_in() {
            Some(state) => handler(state, services, argument).await,
            None => Err(CommandError::Refused(530, "Please login with USER and PASS")),
        },
        Handler::NotOffered(code, why) => Err(CommandError::Refused(code, why)),
    }
}

/// The next thing the client sent. May be dropped and called again without loss.
async fn next_decoded<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut ControlStream<S>,
    decoder: &mut LineDecoder,
) -> io::Result<Decoded> {
    loop {
        if let Some(decoded) = decoder.next() {
            return Ok(decoded);
        }
        let mut buffer = [0_u8; READ_BUFFER];
        match stream.read(&mut buffer).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => decoder.push(buffer.get(..count).unwrap_or_default()),
        }
    }
}

fn is_foreign(line: &[u8]) -> bool {
    let verb = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    let is_host_line = verb.eq_ignore_ascii_case(b"HOST:");
    FOREIGN_VERBS.iter().any(|foreign| verb.eq_ignore_ascii_case(foreign)) && (is_host_line || line.contains(&b' '))
}
