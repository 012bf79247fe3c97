//! Log records: one line each, JSON or text, to standard error, never in the way of a transfer.
//!
//! Three rules hold for every record whatever a client or a backend sends. It is exactly one line: control characters
//! and the characters that reorder or hide text are escaped ([`record`]). No value is longer than
//! [`record::MAX_VALUE`]. And writing it never waits: a bounded queue stands between the gateway and a sink that may
//! be stuck, and what does not fit is dropped and counted ([`sink`]).
//!
//! Records that dependencies write with the `log` crate are not shown: SSH and TLS libraries put protocol contents
//! into theirs.

pub mod record;
pub mod sink;

use std::io::IsTerminal;

use tracing::span::{Attributes, Id, Record as SpanRecord};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

#[cfg(feature = "otlp")]
use super::traces::Traces;
use crate::config;
use record::{Fields, Form};
use sink::{Flush, Sink};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// `log.level` is neither a level nor a list of directives.
    #[error("`{level}` is not a log level or filter")]
    Filter {
        /// What was asked for.
        level: String,
        /// What the parser said.
        source: ParseError,
    },
    /// Traces could not be set up.
    #[cfg(feature = "otlp")]
    #[error("traces could not be set up: {0}")]
    Traces(#[source] std::io::Error),
    /// The writer thread could not be started.
    #[error("the log writer could not be started")]
    Thread(#[from] std::io::Error),
}

/// Keeps the log of this process; dropping it writes out what is still queued, waiting a bounded time.
#[derive(Debug, Default)]
#[must_use = "dropping the guard flushes the log"]
pub struct LogGuard {
    // Before the log, which is told where they cannot be delivered.
    #[cfg(feature = "otlp")]
    _traces: Option<Traces>,
    _flush: Option<Flush>,
}

/// Sends the log of the whole process to standard error from here on, and its traces where those go.
///
/// A second call in one process changes nothing: the first one stands.
///
/// # Errors
///
/// A level that cannot be understood, or no thread for the writer.
pub fn install(log: &config::Log, traces: &config::Traces) -> Result<LogGuard, LoggingError> {
    let filter = filter(&log.level)?;
    let form = match log.format {
        config::LogFormat::Text => Form::Text,
        config::LogFormat::Json => Form::Json,
        config::LogFormat::Auto if std::io::stderr().is_terminal() => Form::Text,
        config::LogFormat::Auto => Form::Json,
    };
    if tracing::dispatcher::has_been_set() {
        return Ok(LogGuard::default());
    }
    let (sink, flush) = sink::start(std::io::stderr(), form)?;
    let subscriber = tracing_subscriber::registry().with(RecordLayer::new(sink, form).with_filter(filter));
    #[cfg(feature = "otlp")]
    let sent = traces.endpoint.as_deref().map(Traces::start).transpose().map_err(LoggingError::Traces)?;
    #[cfg(feature = "otlp")]
    let subscriber = subscriber.with(sent.as_ref().map(Traces::layer));
    #[cfg(not(feature = "otlp"))]
    let config::Traces { endpoint: _ } = traces;
    match tracing::subscriber::set_global_default(subscriber) {
        Ok(()) => Ok(LogGuard {
            #[cfg(feature = "otlp")]
            _traces: sent,
            _flush: Some(flush),
        }),
        // Another thread was faster; its log stands.
        Err(_) => Ok(LogGuard::default()),
    }
}

/// Reads `log.level`: a bare level, or levels of modules, which need no regular expressions.
fn filter(level: &str) -> Result<Targets, LoggingError> {
    level.parse().map_err(|source| LoggingError::Filter { level: level.to_owned(), source })
}

/// Turns each event, with the fields of the spans around it, into one line.
struct RecordLayer {
    sink: Sink,
    form: Form,
}

impl RecordLayer {
    fn new(sink: Sink, form: Form) -> Self {
        Self { sink, form }
    }
}

impl<S> Layer<S> for RecordLayer
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().replace(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &SpanRecord<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(of_span) = span.extensions().get::<Fields>() {
                fields.merge(of_span);
            }
        }
        event.record(&mut fields);
        let metadata = event.metadata();
        self.sink.send(record::line(self.form, &record::now(), *metadata.level(), metadata.target(), &fields));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Hostile by `S-18`: colours, a line end, a forged record, a right-to-left override, a C1 control.
    const HOSTILE: &str = "bob\x1b[2J\r\n{\"level\":\"info\"}\u{202e}gpj\u{9b}";

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What `body` logs at `level`, in `form`.
    fn captured(form: Form, level: &str, body: impl FnOnce()) -> String {
        let captured = Captured::default();
        let (sink, flush) = sink::start(captured.clone(), form).unwrap();
        let subscriber = tracing_subscriber::registry().with(filter(level).unwrap()).with(RecordLayer::new(sink, form));
        tracing::subscriber::with_default(subscriber, body);
        drop(flush);
        String::from_utf8(captured.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn json_records_carry_the_fields_of_their_spans_at_the_top() {
        let text = captured(Form::Json, "info", || {
            let session = tracing::info_span!("session", session.id = 7, user.name = tracing::field::Empty);
            let _entered = session.enter();
            session.record("user.name", "acme");
            tracing::info!(transfer.bytes = 3_u64, ok = true, "upload complete");
        });
        let record: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(record["message"], "upload complete");
        assert_eq!(record["severity_text"], "INFO");
        assert_eq!(record["session.id"], 7);
        assert_eq!(record["user.name"], "acme");
        assert_eq!(record["transfer.bytes"], 3);
        assert_eq!(record["ok"], true);
        assert_eq!(record["timestamp"].as_str().unwrap().len(), "2026-11-22T17:58:29.123456Z".len());
    }

    #[test]
    fn a_hostile_name_stays_one_json_line_and_reads_back_as_it_was() {
        for form in [Form::Json, Form::Text] {
            let text = captured(form, "info", || {
                let session = tracing::info_span!("session", user.name = %HOSTILE);
                let _entered = session.enter();
                tracing::info!(path = HOSTILE, debug = ?HOSTILE, "login {HOSTILE}");
            });
            assert_eq!(text.matches('\n').count(), 1, "{text:?}");
            assert!(text.trim_end().chars().all(|c| !record::is_hostile(c)), "{text:?}");
            if form == Form::Json {
                let record: serde_json::Value = serde_json::from_str(&text).unwrap();
                assert_eq!(record["user.name"], HOSTILE);
                assert_eq!(record["path"], HOSTILE);
                assert_eq!(record["message"], format!("login {HOSTILE}"));
            }
        }
    }

    #[test]
    fn the_level_filters_by_module() {
        let text = captured(Form::Text, "warn,ftps2sftp::ssh=debug", || {
            tracing::info!("not this");
            tracing::warn!("this");
            tracing::debug!(target: "ftps2sftp::ssh", "and this");
        });
        assert!(!text.contains("not this") && text.contains(" WARN this") && text.contains("DEBUG and this"), "{text}");
        assert!(filter("info,=").is_err() || filter("no such level=1=2").is_err());
    }

    #[test]
    fn a_second_install_leaves_the_first_in_place() {
        let log = config::Log { format: config::LogFormat::Json, level: "error".to_owned() };
        let first = install(&log, &config::Traces::default()).unwrap();
        let second = install(&log, &config::Traces::default()).unwrap();
        assert!(second._flush.is_none());
        drop((first, second));
    }
}
