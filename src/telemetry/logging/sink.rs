//! Where log lines go: a bounded queue and one thread that writes.
//!
//! Standard error may be a pipe that nobody reads. A line that finds the queue full is dropped and counted, so the
//! gateway never waits for its own log.

use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tracing::Level;

use super::record::{self, Fields, Form};
use crate::telemetry::metrics;

/// Lines that may wait. At some 300 bytes each about a megabyte, and a second or two of a busy gateway's log.
pub const QUEUE: usize = 4096;

/// Bytes written with one system call when lines have piled up.
const BATCH: usize = 64 * 1024;

/// How long the end of the process waits for the last lines: a sink that is stuck must not hold the exit up.
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);

/// How often it looks whether a queue that was full has room for its last word.
const FLUSH_RETRY: Duration = Duration::from_millis(5);

/// The sending end; cheap to clone.
#[derive(Clone)]
pub struct Sink {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
    counts: Counts,
}

/// Told of each line, and whether it was lost: because the queue was full, or because it could not be written.
type Counts = Arc<dyn Fn(bool) + Send + Sync>;

/// Writes out what is queued when dropped.
pub struct Flush(SyncSender<Message>);

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Starts the thread that writes the log to `output`.
///
/// # Errors
///
/// The thread cannot be started.
pub fn start(output: impl Write + Send + 'static, form: Form) -> std::io::Result<(Sink, Flush)> {
    start_for(output, Some(form), |is_dropped| {
        if is_dropped {
            metrics::log_record_dropped();
        }
    })
}

/// The same for other records than the log's. Each is told to `counts`, and whether it was lost; with a `form` the reader
/// is told of those that found no room in a line of their own.
///
/// # Errors
///
/// The thread cannot be started.
pub fn start_for(
    output: impl Write + Send + 'static,
    form: Option<Form>,
    counts: impl Fn(bool) + Send + Sync + 'static,
) -> std::io::Result<(Sink, Flush)> {
    let (queue, lines) = sync_channel(QUEUE);
    let dropped = Arc::new(AtomicU64::new(0));
    let counts: Counts = Arc::new(counts);
    let sink = Sink { queue: queue.clone(), dropped: Arc::clone(&dropped), counts: Arc::clone(&counts) };
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || write_lines(output, form, &lines, &dropped, &counts))?;
    Ok((sink, Flush(queue)))
}

impl Sink {
    /// Queues one line, or drops and counts it. Never waits.
    pub fn send(&self, line: Vec<u8>) {
        match self.queue.try_send(Message::Line(line)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                (self.counts)(true);
            }
        }
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Sink")
    }
}

impl fmt::Debug for Flush {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Flush")
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        let (done, written) = sync_channel(1);
        let deadline = Instant::now() + FLUSH_DEADLINE;
        let mut flush = Message::Flush(done);
        // A queue that is full may be that of a sink that is stuck, or of one that has much to write.
        while let Err(TrySendError::Full(unsent)) = self.0.try_send(flush) {
            if Instant::now() > deadline {
                return;
            }
            flush = unsent;
            thread::sleep(FLUSH_RETRY);
        }
        let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// The thread: takes lines in order until every sender is gone.
fn write_lines(
    mut output: impl Write,
    form: Option<Form>,
    lines: &Receiver<Message>,
    dropped: &AtomicU64,
    counts: &Counts,
) {
    let mut batch = Vec::with_capacity(BATCH);
    // The last batch ended within a line, perhaps.
    let mut is_broken = false;
    let mut waiting = Vec::new();
    while let Ok(first) = lines.recv() {
        let (mut next, mut count) = (Some(first), 0);
        if is_broken {
            batch.push(b'\n');
        }
        while let Some(message) = next {
            match message {
                Message::Line(line) => {
                    batch.extend_from_slice(&line);
                    count += 1;
                }
                Message::Flush(done) => waiting.push(done),
            }
            next = if batch.len() < BATCH { lines.try_recv().ok() } else { None };
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0
            && let Some(form) = form
        {
            batch.extend_from_slice(&lost_line(form, lost));
        }
        // Where the log itself cannot be written there is nothing left to report it by but the count.
        is_broken = output.write_all(&batch).and_then(|()| output.flush()).is_err();
        (0..count).for_each(|_| counts(is_broken));
        batch.clear();
        for done in waiting.drain(..) {
            let _ = done.try_send(());
        }
    }
}

fn lost_line(form: Form, lost: u64) -> Vec<u8> {
    let mut fields = Fields::default();
    fields.text("message", "log records were dropped because the log was not read in time");
    fields.number("dropped", lost);
    record::line(form, &record::now(), Level::WARN, module_path!(), &fields)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A sink that is stuck until it is told to go on, and says when it got stuck.
    struct Gate {
        reached: mpsc::Sender<()>,
        open: mpsc::Receiver<()>,
        written: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.reached.send(()).unwrap();
            let _ = self.open.recv();
            self.written.send(bytes.to_vec()).unwrap();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_sink_never_blocks_and_what_is_lost_is_told() {
        let (reached, is_reached) = mpsc::channel();
        let (open, is_open) = mpsc::channel();
        let (written, is_written) = mpsc::channel();
        let (sink, flush) = start(Gate { reached, open: is_open, written }, Form::Json).unwrap();

        sink.send(b"first\n".to_vec());
        is_reached.recv().unwrap();
        for _ in 0..QUEUE + 10 {
            sink.send(b"line\n".to_vec());
        }
        assert_eq!(sink.dropped.load(Ordering::Relaxed), 10);

        drop(open);
        drop(sink);
        drop(flush);
        let all: Vec<u8> = is_written.iter().flatten().collect();
        let text = String::from_utf8(all).unwrap();
        assert_eq!(text.matches("line\n").count(), QUEUE);
        assert!(text.starts_with("first\n") && text.contains("\"dropped\":10}"), "{}", text.len());
    }

    #[test]
    fn a_queue_that_is_full_is_written_out_all_the_same_when_the_guard_goes() {
        let (reached, is_reached) = mpsc::channel();
        let (open, is_open) = mpsc::channel::<()>();
        let (written, is_written) = mpsc::channel();
        let (sink, flush) = start(Gate { reached, open: is_open, written }, Form::Text).unwrap();
        sink.send(b"first\n".to_vec());
        is_reached.recv().unwrap();
        for _ in 0..QUEUE {
            sink.send(b"line\n".to_vec());
        }
        let opener = thread::spawn(move || {
            thread::sleep(FLUSH_RETRY * 4);
            drop(open);
        });
        drop(flush);
        let all: Vec<u8> = is_written.try_iter().flatten().collect();
        assert_eq!(all.iter().filter(|byte| **byte == b'\n').count(), QUEUE + 1);
        opener.join().unwrap();
    }

    #[test]
    fn lines_keep_their_order_and_are_out_when_the_guard_is_gone() {
        let (written, is_written) = mpsc::channel();
        let (reached, _is_reached) = mpsc::channel();
        let (open, is_open) = mpsc::channel::<()>();
        drop(open);
        let (sink, flush) = start(Gate { reached, open: is_open, written }, Form::Text).unwrap();
        for number in 0..100 {
            sink.send(format!("{number}\n").into_bytes());
        }
        drop(flush);
        let text: Vec<u8> = is_written.try_iter().flatten().collect();
        let expected: String = (0..100).map(|number| format!("{number}\n")).collect();
        assert_eq!(text, expected.into_bytes());
    }
}
