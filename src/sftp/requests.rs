//! Requests on their way (draft-ietf-secsh-filexfer-02 §6): each has an id, replies come in any order.
//! What waits is kept here; `tasks` moves the bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::field::Empty;
use tracing::{Span, trace_span};

use super::SftpError;
use super::observer::Observer;
use super::wire::MAX_PACKET_SENT;
use super::wire::packet::{LENGTH_FIELD, Packet, Reply, Request};
use super::wire::status::StatusCode;

/// No reply and no room for so long: the server hangs. For file data, counted from the last progress of the stream.
pub(super) const STALL: Duration = Duration::from_secs(60);

/// Answers owed and none given for so long before a loss: the server did not die, it stood still.
const STANDSTILL: Duration = Duration::from_secs(2);

/// Packets waiting for the writer; beyond it the one who asks waits.
pub(super) const QUEUE: usize = 32;

/// Requests that nobody waits for any more and a server may leave unanswered; one that leaves more does not work.
const MAX_ABANDONED: usize = 256;

/// The pending map gives its memory back when it is empty and was larger than this.
const KEPT_CAPACITY: usize = 32;

/// A reply to one of many requests of a stream; `key` is what the stream named the request.
pub(super) struct Answer {
    pub(super) key: u64,
    pub(super) reply: Result<Reply, SftpError>,
}

/// The requests of one session. When the last owner drops it, the channel is closed and both tasks end.
#[derive(Debug)]
pub(super) struct Requests {
    queue: mpsc::Sender<Outgoing>,
    shared: Arc<Shared>,
}

/// What the tasks of a session need.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) outgoing: mpsc::Receiver<Outgoing>,
    pub(super) shared: Arc<Shared>,
}

/// A packet in the queue; `written` is told when it has left.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) bytes: Bytes,
    pub(super) written: Option<oneshot::Sender<Instant>>,
}

#[derive(Debug)]
pub(super) struct Shared {
    observer: Option<Arc<dyn Observer>>,
    /// Those who ask, the reader task and the writer task contend, each for the length of a map access. Std's mutex:
    /// it is never held across an await, and dropping a file must be able to lock it.
    state: Mutex<State>,
    /// Tells the writer that `State::closing` has something.
    pub(super) closing: Notify,
    /// Tells whoever waits in [`Requests::settled`] that an answer came that nobody wanted any more.
    unwanted: Notify,
    pub(super) gone: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    pending: HashMap<u32, Asked>,
    last_id: u32,
    /// Packets put into the queue so far.
    queued: u64,
    /// Handles to be closed by the writer, each once so many packets have left: a CLOSE that overtook a queued WRITE
    /// would let that WRITE meet another file under the same handle. Bounded by the handles open.
    closing: Vec<(u64, Bytes)>,
    abandoned: usize,
    /// Packets longer than this are not sent, length field included.
    longest_packet: Option<usize>,
    lost: Option<String>,
    /// Since when the server has owed answers without giving one.
    silent_since: Option<Instant>,
    /// It had done so for long when the session was lost.
    stood_still: bool,
}

/// A request without a reply.
#[derive(Debug)]
struct Asked {
    /// The type byte of its packet.
    kind: u8,
    at: Instant,
    waiter: Waiter,
}

/// Who waits for a reply.
#[derive(Debug)]
enum Waiter {
    One(oneshot::Sender<Result<Reply, SftpError>>),
    /// The channel has room for an answer to each of its requests.
    Stream {
        key: u64,
        replies: mpsc::Sender<Answer>,
    },
    /// Nobody, but the server still owes it, and what it opened must be closed.
    Abandoned,
}

impl Requests {
    /// No requests yet; the other half is for the tasks that move them.
    pub(super) fn new(observer: Option<Arc<dyn Observer>>) -> (Self, Work) {
        let (queue, outgoing) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            observer,
            state: Mutex::new(State::default()),
            closing: Notify::new(),
            unwanted: Notify::new(),
            gone: CancellationToken::new(),
        });
        (Self { queue, shared: Arc::clone(&shared) }, Work { outgoing, shared })
    }

    /// Packets longer than this (length field included) are refused from now on.
    pub(super) fn limit_packets(&self, longest: usize) {
        self.shared.lock().longest_packet = Some(longest);
    }

    /// The longest packet that may be sent, length field included.
    pub(super) fn longest_packet(&self) -> usize {
        self.shared.lock().longest_packet()
    }

    /// Waits for room in the queue. Nothing has happened until the turn is used.
    pub(super) async fn turn(&self) -> Result<Turn<'_>, SftpError> {
        let permit = self.queue.reserve().await.map_err(|_| self.loss())?;
        Ok(Turn { permit, shared: &self.shared })
    }

    /// A turn if there is room right now.
    pub(super) fn try_turn(&self) -> Option<Turn<'_>> {
        self.queue.try_reserve().ok().map(|permit| Turn { permit, shared: &self.shared })
    }

    /// Closes a handle without waiting, after everything queued so far. Nobody waits for the reply; an id that is not
    /// pending is ignored.
    pub(super) fn close_behind(&self, handle: Bytes) {
        let permit = self.queue.try_reserve();
        let mut state = self.shared.lock();
        if state.lost.is_some() {
            return;
        }
        if let Ok(permit) = permit {
            let id = state.next_id();
            state.queued += 1;
            permit.send(Outgoing { bytes: close_packet(id, handle), written: None });
        } else {
            let after = state.queued;
            drop(state);
            self.shared.close_after(after, handle);
        }
    }

    /// Does the server owe answers that nobody waits for?
    pub(super) fn owes_answers(&self) -> bool {
        self.shared.lock().owes_answers()
    }

    /// Is every request answered?
    pub(super) fn is_quiet(&self) -> bool {
        let state = self.shared.lock();
        state.pending.is_empty() && state.closing.is_empty()
    }

    /// Waits until it owes none, or is gone.
    pub(super) async fn settled(&self) {
        loop {
            let mut answered = std::pin::pin!(self.shared.unwanted.notified());
            // An answer that comes between the look and the wait counts.
            answered.as_mut().enable();
            if !self.owes_answers() {
                return;
            }
            answered.await;
        }
    }

    /// Tells whoever waits for a reply that it is lost. What the server owes is still waited for by
    /// [`Requests::settled`].
    pub(super) fn leave(&self) {
        self.shared.leave();
    }

    pub(super) fn is_lost(&self) -> bool {
        self.shared.lock().lost.is_some()
    }

    /// Did the server stand still before the session was lost? What it was sent it may then have before it yet.
    pub(super) fn stood_still(&self) -> bool {
        self.shared.lock().stood_still
    }

    pub(super) async fn lost(&self) {
        self.shared.gone.cancelled().await;
    }

    /// Why the session is lost.
    pub(super) fn loss(&self) -> SftpError {
        let reason = self.shared.lock().lost.clone();
        SftpError::Lost(reason.unwrap_or_else(|| "it is closing".to_owned()))
    }
}

/// Room for one packet in the queue.
pub(super) struct Turn<'a> {
    permit: mpsc::Permit<'a, Outgoing>,
    shared: &'a Arc<Shared>,
}

impl Turn<'_> {
    /// Sends a request that has one reply.
    pub(super) fn send(self, request: Request) -> Result<Pending, SftpError> {
        let span = trace_span!("request", otel.name = request.name(), otel.kind = "client", sftp.status = Empty);
        let (reply_sender, reply) = oneshot::channel();
        let (written_sender, written) = oneshot::channel();
        let shared = Arc::clone(self.shared);
        let waiter = Waiter::One(reply_sender);
        let id = self.enqueue(waiter, Some(written_sender), |id| Packet::Request { id, request }.encode())?;
        Ok(Pending { id, shared, written: Some(written), written_at: None, reply: Some(reply), span })
    }

    /// Sends one of many requests of a stream; its reply goes to `replies` under `key`.
    pub(super) fn send_streamed(
        self,
        key: u64,
        replies: &mpsc::Sender<Answer>,
        encode: impl FnOnce(u32) -> Bytes,
    ) -> Result<(), SftpError> {
        self.enqueue(Waiter::Stream { key, replies: replies.clone() }, None, encode)?;
        Ok(())
    }

    /// The waiter is registered and the packet queued under one lock: `queued` counts in the order of the queue.
    fn enqueue(
        self,
        waiter: Waiter,
        written: Option<oneshot::Sender<Instant>>,
        encode: impl FnOnce(u32) -> Bytes,
    ) -> Result<u32, SftpError> {
        let mut state = self.shared.lock();
        if let Some(reason) = &state.lost {
            return Err(SftpError::Lost(reason.clone()));
        }
        let id = state.next_id();
        let bytes = encode(id);
        if bytes.len() > state.longest_packet() {
            // SECURITY: OpenSSH's server exits on a packet above its limit, and everything open in the session with it.
            let message = "the pathname is longer than a packet to this server may be".to_owned();
            return Err(SftpError::Status { code: StatusCode::BAD_MESSAGE, message });
        }
        let at = Instant::now();
        if state.pending.is_empty() {
            state.silent_since = Some(at);
        }
        let kind = bytes.get(LENGTH_FIELD).copied().unwrap_or_default();
        state.pending.insert(id, Asked { kind, at, waiter });
        state.queued += 1;
        self.permit.send(Outgoing { bytes, written });
        // Under the lock: nobody hears of the answer before.
        if let Some(observer) = &self.shared.observer {
            observer.sent();
        }
        Ok(id)
    }
}

/// A request that was sent and not answered. Dropping it forgets the reply, and closes what the reply opens.
#[derive(Debug)]
pub(super) struct Pending {
    id: u32,
    shared: Arc<Shared>,
    written: Option<oneshot::Receiver<Instant>>,
    written_at: Option<Instant>,
    reply: Option<oneshot::Receiver<Result<Reply, SftpError>>>,
    /// From the moment it was sent until nobody asks for the reply any more.
    span: Span,
}

impl Pending {
    /// Waits for the reply, `time` at most from the moment the request was written. What waits in our own queue is
    /// bounded by the writer, which gives up on a stream that takes nothing for [`STALL`]. Cancel-safe.
    pub(super) async fn reply(&mut self, time: Duration) -> Result<Reply, SftpError> {
        if let Some(written) = &mut self.written {
            // The writer ends without a word only with the session; the reply then says so.
            self.written_at = written.await.ok();
            self.written = None;
        }
        self.reply_by(self.written_at.unwrap_or_else(Instant::now) + time).await
    }

    /// Waits for the reply until `deadline`. Cancel-safe.
    pub(super) async fn reply_by(&mut self, deadline: Instant) -> Result<Reply, SftpError> {
        let Some(reply) = &mut self.reply else {
            return Err(SftpError::Protocol("the reply was already taken".to_owned()));
        };
        let answer = match timeout_at(deadline, reply).await {
            Ok(answer) => {
                self.reply = None;
                answer.unwrap_or_else(|_| Err(self.shared.loss()))
            }
            Err(_) => Err(SftpError::TimedOut),
        };
        self.tell_trace(&answer);
        answer
    }

    /// How it ended, for its trace.
    fn tell_trace(&self, answer: &Result<Reply, SftpError>) {
        match answer {
            Ok(Reply::Status(status)) => self.span.record("sftp.status", tracing::field::display(status.code)),
            Ok(reply) => self.span.record("sftp.status", reply.name()),
            Err(error) => self.span.record("sftp.status", tracing::field::display(error)),
        };
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let Some(mut reply) = self.reply.take() else {
            return;
        };
        if self.shared.abandon(self.id) {
            return;
        }
        // The reader has taken the waiter: either the reply is here, or the reader will find nobody and close.
        reply.close();
        if let Ok(Ok(Reply::Handle(handle))) = reply.try_recv() {
            self.shared.close_after(0, handle);
        }
    }
}

impl State {
    fn next_id(&mut self) -> u32 {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if !self.pending.contains_key(&self.last_id) {
                return self.last_id;
            }
        }
    }

    /// One that somebody waits for is not counted: that one has a time limit of its own.
    fn owes_answers(&self) -> bool {
        self.pending.values().any(|asked| match &asked.waiter {
            Waiter::One(_) => false,
            Waiter::Stream { replies, .. } => replies.is_closed(),
            Waiter::Abandoned => true,
        })
    }

    fn longest_packet(&self) -> usize {
        self.longest_packet.unwrap_or(MAX_PACKET_SENT + LENGTH_FIELD)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a reply to the one who waits; one that nobody asked for is ignored.
    pub(super) fn complete(&self, id: u32, reply: Result<Reply, SftpError>) {
        let now = Instant::now();
        let asked = {
            let mut state = self.lock();
            let asked = state.pending.remove(&id);
            state.silent_since = (!state.pending.is_empty()).then_some(now);
            if matches!(asked, Some(Asked { waiter: Waiter::Abandoned, .. })) {
                state.abandoned -= 1;
            }
            if state.pending.is_empty() && state.pending.capacity() > KEPT_CAPACITY {
                state.pending.shrink_to(0);
            }
            asked
        };
        if let (Some(observer), Some(asked)) = (&self.observer, &asked) {
            observer.answered(asked.kind, reply.as_ref(), now.saturating_duration_since(asked.at));
        }
        let unwanted = match asked.map(|asked| asked.waiter) {
            Some(Waiter::One(sender)) => sender.send(reply).err(),
            Some(Waiter::Abandoned) => {
                self.unwanted.notify_waiters();
                Some(reply)
            }
            Some(Waiter::Stream { key, replies }) => {
                // Fails only if the stream was dropped: there is room for all its answers.
                if replies.try_send(Answer { key, reply }).is_err() {
                    self.unwanted.notify_waiters();
                }
                None
            }
            None => None,
        };
        if let Some(Ok(Reply::Handle(handle))) = unwanted {
            // Nothing queued can use a handle that nobody saw.
            self.close_after(0, handle);
        }
    }

    /// Forgets a request; `false` if its reply was already taken in.
    fn abandon(&self, id: u32) -> bool {
        let overdue = {
            let mut state = self.lock();
            match state.pending.get_mut(&id) {
                None => return false,
                // It was left.
                Some(Asked { waiter: Waiter::Abandoned, .. }) => return true,
                Some(asked) => asked.waiter = Waiter::Abandoned,
            }
            state.abandoned += 1;
            state.abandoned > MAX_ABANDONED
        };
        if overdue {
            self.lose("the server leaves requests unanswered");
        }
        true
    }

    fn leave(&self) {
        let mut waiters = Vec::new();
        let mut state = self.lock();
        for asked in state.pending.values_mut() {
            if !matches!(asked.waiter, Waiter::Abandoned) {
                waiters.push(std::mem::replace(&mut asked.waiter, Waiter::Abandoned));
            }
        }
        state.abandoned = state.pending.len();
        drop(state);
        tell(waiters, &SftpError::Lost("it was left with answers owing".to_owned()));
    }

    fn close_after(&self, queued: u64, handle: Bytes) {
        let mut state = self.lock();
        if state.lost.is_none() {
            state.closing.push((queued, handle));
            drop(state);
            self.closing.notify_one();
        }
    }

    /// The CLOSE packets that may leave now that `written` packets have.
    pub(super) fn due_closes(&self, written: u64) -> Vec<Bytes> {
        let mut state = self.lock();
        let due: Vec<_> = state.closing.extract_if(.., |(after, _)| *after <= written).collect();
        if state.closing.is_empty() {
            state.closing = Vec::new();
        }
        due.into_iter().map(|(_, handle)| close_packet(state.next_id(), handle)).collect()
    }

    /// Ends the session: everyone who waits is told, and so is everyone who asks later. The first reason stays.
    pub(super) fn lose(&self, reason: &str) {
        let pending = {
            let mut state = self.lock();
            if state.lost.is_none() {
                state.lost = Some(reason.to_owned());
                state.stood_still = state.silent_since.is_some_and(|since| since.elapsed() >= STANDSTILL);
            }
            state.closing = Vec::new();
            state.abandoned = 0;
            std::mem::take(&mut state.pending)
        };
        self.gone.cancel();
        let loss = self.loss();
        if let Some(observer) = &self.observer {
            for asked in pending.values() {
                observer.answered(asked.kind, Err(&loss), asked.at.elapsed());
            }
        }
        tell(pending.into_values().map(|asked| asked.waiter), &loss);
        self.unwanted.notify_waiters();
    }

    fn loss(&self) -> SftpError {
        SftpError::Lost(self.lock().lost.clone().unwrap_or_default())
    }
}

fn tell(waiters: impl IntoIterator<Item = Waiter>, error: &SftpError) {
    for waiter in waiters {
        match waiter {
            Waiter::One(reply) => {
                let _ = reply.send(Err(error.clone()));
            }
            Waiter::Stream { key, replies } => {
                let _ = replies.try_send(Answer { key, reply: Err(error.clone()) });
            }
            Waiter::Abandoned => {}
        }
    }
}

fn close_packet(id: u32, handle: Bytes) -> Bytes {
    Packet::Request { id, request: Request::Close { handle } }.encode()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Wake};

    use super::*;

    struct Look {
        requests: Requests,
        was_lost: AtomicBool,
    }

    impl Wake for Look {
        fn wake(self: Arc<Self>) {
            self.was_lost.store(self.requests.is_lost(), Ordering::SeqCst);
        }
    }

    /// Another thread may go on before the one that tells it does: what failed for the loss must not look alive.
    #[test]
    fn whoever_is_told_of_a_loss_finds_the_session_lost() {
        let (requests, work) = Requests::new(None);
        let (sender, reply) = oneshot::channel();
        let asked = Asked { kind: 0, at: Instant::now(), waiter: Waiter::One(sender) };
        work.shared.lock().pending.insert(1, asked);
        let look = Arc::new(Look { requests, was_lost: AtomicBool::new(false) });
        let waker = Arc::clone(&look).into();
        let reply = std::pin::pin!(reply);
        assert!(reply.poll(&mut Context::from_waker(&waker)).is_pending());
        work.shared.lose("it ended");
        assert!(look.was_lost.load(Ordering::SeqCst));
    }
}
