//! What the control connection does while a command works or a transfer runs: it goes on listening, acts on ABOR, STAT
//! and QUIT, and keeps everything else for its turn (P-8: one final reply for each command, in their order).

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, interval, sleep_until, timeout};

use crate::command::failure::{self, CommandError};
use crate::command::spec::{self, CommandSpec, DuringTransfer};
use crate::command::{Argument, Step, information};
use crate::ftp::argument::TransferType;
use crate::ftp::line::Decoded;
use crate::ftp::reply::Reply;
use crate::ftp::request::Request;
use crate::telemetry::metrics::Side;
use crate::transfer::outcome::{Outcome, Progress, Stop, StopReason, Transfer, TransferKind, Unsettled};

use super::record::TransferBegun;
use super::{Control, Ended, Waiting, call, next_decoded};

/// Lines kept while a transfer runs (P-8); then reading stops and TCP holds the client back.
const MAX_QUEUED_LINES: usize = 16;

/// How often the byte counters of a running transfer are brought up to date.
const METER_INTERVAL: Duration = Duration::from_secs(1);

/// No byte for so long, and a transfer counts as stalled.
const STALLED: Duration = Duration::from_secs(60);

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Control<'_, S> {
    /// Lets the handler of a command work. What leads to a transfer may be aborted from the beginning: the backend may
    /// hang before the client has heard 150. What a handler leaves that is dropped is seen to as after a lost backend.
    pub(super) async fn handle(
        &mut self,
        row: &CommandSpec,
        argument: Argument<'_>,
        limit: Duration,
    ) -> Result<Handled, Ended> {
        let Self { stream, decoder, waiting, session, services, slot, .. } = self;
        let mut handling = std::pin::pin!(timeout(limit, call(row, session, services, argument)));
        loop {
            let listening = (row.uses_data || row.is_long) && waiting.len() < MAX_QUEUED_LINES;
            let decoded = tokio::select! {
                biased;
                result = &mut handling => return Ok(result.map_or(Handled::TookTooLong, Handled::Done)),
                // A login under way is one that nobody has logged in on yet.
                () = slot.evicted() => return Err(Ended::Evicted),
                decoded = next_decoded(stream, decoder), if listening => decoded?,
            };
            if queue(waiting, decoded) {
                return Ok(Handled::Aborted);
            }
        }
    }

    /// Runs a transfer while the control connection is watched. It is run even where the client is gone already: what
    /// was opened for it on the backend has to be put back.
    pub(super) async fn transfer(&mut self, opening: &Reply, transfer: Transfer) -> Transferred {
        let kind = transfer.kind;
        let (subject, told) = (transfer.subject.clone(), transfer.told.clone());
        let (stop, progress) = (Stop::default(), Progress::default());
        let is_ascii = self.session.parameters().transfer_type == TransferType::Ascii;
        let begun = TransferBegun { kind, subject: &subject, is_ascii, size: transfer.size };
        let mut meter = self.recorder.transfer_started(&begun, &progress);
        let mut running = transfer.run(stop.clone(), progress.clone());
        let mut watch = Watch { ended: self.write(opening).await.err(), ..Watch::default() };
        watch.stop_if_ended(&stop);
        let now = self.shutdown.now.clone();
        let mut ticks = interval(METER_INTERVAL);
        let mut moved = (0, Instant::now());
        let mut outcome = loop {
            let ready_at = self.pace.ready_at();
            let is_ahead = ready_at > Instant::now();
            let listening = watch.ended.is_none() && !watch.quit && !is_ahead && self.waiting.len() < MAX_QUEUED_LINES;
            tokio::select! {
                biased;
                outcome = &mut running => break outcome,
                () = now.cancelled(), if !watch.draining => {
                    watch.draining = true;
                    stop.trip(StopReason::Drained);
                }
                decoded = self.decoded(), if listening => match decoded {
                    Ok(decoded) => self.meanwhile(decoded, &mut watch, &stop, &progress).await,
                    Err(error) => watch.ended = Some(Ended::Gone(error)),
                },
                () = sleep_until(ready_at), if is_ahead => {}
                _ = ticks.tick() => {
                    if !watch.refused && !self.certificate_counts() {
                        watch.refused = true;
                        stop.trip(StopReason::CertificateRefused);
                    }
                }
            }
            watch.stop_if_ended(&stop);
            meter.progress(progress.bytes(), progress.backend_bytes());
            meter.stalled(self.stalled(&mut moved, progress.bytes()));
        };
        self.settle(&mut outcome).await;
        if let Some(at) = progress.first_byte() {
            meter.first_byte(at);
        }
        let mut is_digested = false;
        if let Some(state) = self.session.logged_in()
            && let Some(digested) = outcome.digested.take()
            && outcome.result.is_ok()
        {
            state.digested = Some(digested);
            is_digested = true;
        }
        let reply = match &outcome.result {
            Ok(()) if kind == TransferKind::Listing => Reply::new(226, "Listing complete"),
            Ok(()) => Reply::new(226, told.as_deref().unwrap_or(b"Transfer complete")),
            Err(error) => failure::transfer_reply(kind, error),
        };
        let digested = self.session.logged_in().and_then(|state| state.digested.as_ref()).filter(|_| is_digested);
        self.recorder.transfer_ended(meter, &begun, &outcome, &progress, digested, &reply);
        let then = match watch.ended {
            Some(ended) => Then::End(ended),
            None if watch.refused => Then::End(Ended::CertificateRefused),
            None if watch.draining => Then::End(Ended::Drained),
            None if watch.quit => Then::Quit,
            None => Then::GoOn,
        };
        Transferred { reply, then }
    }

    /// Who is waited for where no byte has moved for a while. A backend that owes no answer waits for the client.
    fn stalled(&mut self, (bytes, since): &mut (u64, Instant), now_at: u64) -> Option<Side> {
        if *bytes != now_at {
            (*bytes, *since) = (now_at, Instant::now());
        }
        let is_quiet = self.session.logged_in().is_none_or(|state| state.backend.is_quiet());
        (since.elapsed() >= STALLED).then_some(if is_quiet { Side::Client } else { Side::Backend })
    }

    /// What the client says while a transfer runs: ABOR, STAT and QUIT are acted on, the rest waits its turn.
    async fn meanwhile(&mut self, decoded: Decoded, watch: &mut Watch, stop: &Stop, progress: &Progress) {
        let line = match decoded {
            Decoded::Line(line) => line,
            // Its 500 would be taken for the result of the transfer.
            Decoded::TooLong => return self.waiting.push_back(Waiting::TooLong),
            // To refuse an option is a courtesy that must not hold a transfer up.
            Decoded::Answer(_) => return,
        };
        let request = Request::parse(&line).ok();
        let row = request.as_ref().and_then(|request| spec::find(request.verb.as_str()));
        let bare = request.as_ref().is_some_and(|request| request.argument.as_ref().is_none_or(Vec::is_empty));
        match row.map(|row| row.during_transfer) {
            // The order of replies is the order of commands: nothing overtakes a line that waits.
            Some(DuringTransfer::Aborts) => {
                stop.trip(StopReason::Aborted);
                // Its own reply, 226, comes in its turn after that of the transfer.
                self.waiting.push_back(Waiting::Line(line));
            }
            Some(DuringTransfer::Tells) if bare && self.waiting.is_empty() => {
                self.pace.count(Some(self.services.limits.commands_per_second));
                let reply = information::status(&mut self.session, Some(progress.bytes()));
                if let Err(ended) = self.write(&reply).await {
                    watch.ended = Some(ended);
                }
            }
            Some(DuringTransfer::Quits) if self.waiting.is_empty() => watch.quit = true,
            _ => self.waiting.push_back(Waiting::Line(line)),
        }
    }

    /// F-4: a backend that is lost between the last byte and its last answer has perhaps stored the file. A client that
    /// does not want to wait for that is told 426, and what is left is seen to later. What was written in place cannot
    /// be seen to later, so that is waited for.
    async fn settle(&mut self, outcome: &mut Outcome) {
        let Some(unsettled) = outcome.unsettled.take() else { return };
        let Self { stream, decoder, waiting, session, .. } = self;
        let Some(state) = session.logged_in() else { return };
        let may_be_left = matches!(unsettled, Unsettled::Renamed { .. });
        // Boxed, so that a session that waits holds no room for the state of a login.
        let mut settling = Box::pin(state.backend.settle(unsettled));
        let mut listening = may_be_left;
        loop {
            tokio::select! {
                biased;
                is_whole = &mut settling => {
                    if is_whole {
                        outcome.result = Ok(());
                    }
                    return;
                }
                decoded = next_decoded(stream, decoder), if listening && waiting.len() < MAX_QUEUED_LINES => {
                    match decoded.map(|decoded| queue(waiting, decoded)) {
                        Ok(true) => {
                            outcome.result = Err(StopReason::Aborted.into());
                            return;
                        }
                        Ok(false) => {}
                        // A client that is gone is noticed where its reply is written.
                        Err(_) => listening = false,
                    }
                }
            }
        }
    }
}

/// Keeps what the client sends meanwhile for its turn. Is it ABOR, which is answered after what it aborts?
fn queue(waiting: &mut VecDeque<Waiting>, decoded: Decoded) -> bool {
    match decoded {
        Decoded::Line(line) => {
            let aborts = Request::parse(&line).is_ok_and(|request| {
                let row = spec::find(request.verb.as_str());
                row.is_some_and(|row| row.during_transfer == DuringTransfer::Aborts)
            });
            waiting.push_back(Waiting::Line(line));
            aborts
        }
        Decoded::TooLong => {
            waiting.push_back(Waiting::TooLong);
            false
        }
        // To refuse an option is a courtesy that must not hold anything up.
        Decoded::Answer(_) => false,
    }
}

/// What happened on the control connection while a transfer ran.
#[derive(Debug, Default)]
struct Watch {
    quit: bool,
    draining: bool,
    /// The client's certificate counts no more.
    refused: bool,
    ended: Option<Ended>,
}

impl Watch {
    /// Ends the transfer of a client that is gone.
    fn stop_if_ended(&self, stop: &Stop) {
        match &self.ended {
            None => {}
            Some(Ended::Gone(error)) if !is_silence(error) => stop.trip(StopReason::ControlLost),
            Some(_) => stop.trip(StopReason::ControlTimedOut),
        }
    }
}

/// A transfer that is over.
pub(super) struct Transferred {
    pub(super) reply: Reply,
    pub(super) then: Then,
}

/// What follows its reply.
pub(super) enum Then {
    GoOn,
    Quit,
    End(Ended),
}

/// Is this the kernel's word that the client's host does not answer, and not that host's own that the client is gone?
fn is_silence(error: &io::Error) -> bool {
    use io::ErrorKind::{HostUnreachable, NetworkDown, NetworkUnreachable, TimedOut};
    matches!(error.kind(), TimedOut | HostUnreachable | NetworkUnreachable | NetworkDown)
}

/// How the handler of a command ended.
pub(super) enum Handled {
    Done(Result<Step, CommandError>),
    /// By ABOR, which waits for its answer.
    Aborted,
    TookTooLong,
}
