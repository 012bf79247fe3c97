//! One log record as one line, JSON (RFC 8259) or text, with every value bounded and escaped.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::sync::LazyLock;

use tracing::Level;
use tracing::field::{Field, Visit};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// Longest value of one field, in bytes before escaping. A pathname may have 4096; who needs the rest has the audit
/// record, and a client must not be able to write megabytes of log with one command.
pub const MAX_VALUE: usize = 1024;

/// Names that every JSON record has; a field that is called so is shown with [`RENAMED`] in front.
const RESERVED: [&str; 7] =
    ["timestamp", "severity_text", "target", "schema", "service.name", "service.version", "k8s.pod.name"];
const RENAMED: &str = "field.";

/// Where Kubernetes tells a pod its name, if it is asked to.
const POD_NAME: &str = "POD_NAME";

/// Who writes all these records, and by which version of their fields.
static SERVICE: LazyLock<String> = LazyLock::new(|| {
    let mut fields =
        format!(",\"schema\":1,\"service.name\":\"ftps2sftp\",\"service.version\":\"{}\"", env!("CARGO_PKG_VERSION"));
    if let Ok(pod) = std::env::var(POD_NAME) {
        fields.push_str(",\"k8s.pod.name\":");
        push_json_string(&mut fields, &pod);
    }
    fields
});

/// The name under which `tracing` hands over the text of an event.
const MESSAGE: &str = "message";

/// Shape of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// The fields of an event or span, each name once.
#[derive(Debug, Default)]
pub struct Fields {
    values: Vec<(&'static str, Value)>,
    /// Longer than [`MAX_VALUE`] too.
    whole: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Text(String),
    /// A number or a boolean: the same in JSON and in text.
    Literal(String),
}

impl Fields {
    /// Values of any length, escaped all the same: pathnames of audit records are whole.
    pub fn unbounded() -> Self {
        Self { values: Vec::new(), whole: true }
    }

    /// Sets one number with a fraction.
    pub fn decimal(&mut self, name: &'static str, value: f64) {
        self.set(name, Value::Literal(format!("{value:.6}")));
    }

    /// Takes over what `other` has; its values win.
    pub fn merge(&mut self, other: &Fields) {
        for (name, value) in &other.values {
            self.set(name, value.clone());
        }
    }

    /// Sets one text field.
    pub fn text(&mut self, name: &'static str, value: impl fmt::Display) {
        let text = if self.whole { value.to_string() } else { bounded(format_args!("{value}")) };
        self.set(name, Value::Text(text));
    }

    /// Sets one number.
    pub fn number(&mut self, name: &'static str, value: u64) {
        self.set(name, Value::Literal(value.to_string()));
    }

    fn set(&mut self, name: &'static str, value: Value) {
        match self.values.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.values.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field.name(), Value::Text(bounded(format_args!("{value:?}"))));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value);
    }

    fn record_error(&mut self, field: &Field, error: &(dyn std::error::Error + 'static)) {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            if text.len() > MAX_VALUE {
                break;
            }
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        self.text(field.name(), text);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), Value::Literal(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.number(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), Value::Literal(value.to_string()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no NaN and no infinity.
        let value = if value.is_finite() { Value::Literal(value.to_string()) } else { Value::Text(value.to_string()) };
        self.set(field.name(), value);
    }
}

/// The time of a record: RFC 3339, UTC, microseconds.
pub fn now() -> String {
    let mut text = String::with_capacity("2026-11-22T17:58:29.123456Z".len());
    // The clock is formatted into memory: nothing there can fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

/// The record as one line, line end included.
pub fn line(form: Form, timestamp: &str, level: Level, target: &str, fields: &Fields) -> Vec<u8> {
    let mut line = String::with_capacity(256);
    match form {
        Form::Json => json(&mut line, timestamp, level, target, fields),
        Form::Text => text(&mut line, timestamp, level, fields),
    }
    line.push('\n');
    line.into_bytes()
}

fn json(line: &mut String, timestamp: &str, level: Level, target: &str, fields: &Fields) {
    line.push_str("{\"timestamp\":");
    push_json_string(line, timestamp);
    line.push_str(",\"severity_text\":");
    push_json_string(line, level.as_str());
    line.push_str(",\"target\":");
    push_json_string(line, target);
    line.push_str(&SERVICE);
    for (name, value) in &fields.values {
        line.push(',');
        push_json_string(line, &shown_name(name));
        line.push(':');
        match value {
            Value::Text(text) => push_json_string(line, text),
            Value::Literal(literal) => line.push_str(literal),
        }
    }
    line.push('}');
}

fn text(line: &mut String, timestamp: &str, level: Level, fields: &Fields) {
    line.push_str(timestamp);
    // Writing into a `String` cannot fail.
    let _ = write!(line, " {:>5}", level.as_str());
    if let Some((_, Value::Text(message))) = fields.values.iter().find(|(name, _)| *name == MESSAGE) {
        line.push(' ');
        push_escaped(line, message);
    }
    for (name, value) in fields.values.iter().filter(|(name, _)| *name != MESSAGE) {
        line.push(' ');
        line.push_str(name);
        line.push('=');
        match value {
            Value::Literal(literal) => line.push_str(literal),
            Value::Text(text) if is_plain(text) => line.push_str(text),
            Value::Text(text) => {
                line.push('"');
                push_escaped(line, &text.replace('\\', "\\\\").replace('"', "\\\""));
                line.push('"');
            }
        }
    }
}

fn shown_name(name: &str) -> Cow<'_, str> {
    if RESERVED.contains(&name) { Cow::Owned(format!("{RENAMED}{name}")) } else { Cow::Borrowed(name) }
}

/// Text that needs no quotes: nothing in it could be taken for the next field.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|c| (c.is_ascii_graphic() && !matches!(c, '"' | '=' | '\\')) || c.is_alphanumeric())
}

/// Pushes a JSON string. RFC 8259 §7 asks for `"`, `\` and C0 to be escaped; the other hostile characters may be.
fn push_json_string(line: &mut String, text: &str) {
    line.push('"');
    for character in text.chars() {
        match character {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            character if is_hostile(character) => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let _ = write!(line, "\\u{unit:04x}");
                }
            }
            character => line.push(character),
        }
    }
    line.push('"');
}

fn push_escaped(line: &mut String, text: &str) {
    for character in text.chars() {
        if is_hostile(character) {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
}

/// SECURITY: characters that end a line, drive a terminal, or make text look like other text: C0, DEL, C1, line and
/// paragraph separators, bidirectional controls, zero-width characters and tags. They never stand in a record as they
/// are, so no name can forge a record or hide in one.
pub fn is_hostile(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{061c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Formats no more than [`MAX_VALUE`] bytes, and says where it cut.
fn bounded(arguments: fmt::Arguments<'_>) -> String {
    struct Bounded(String);

    impl Write for Bounded {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let room = MAX_VALUE.saturating_sub(self.0.len());
            if text.len() <= room {
                self.0.push_str(text);
                return Ok(());
            }
            let end = (0..=room).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
            self.0.push_str(text.get(..end).unwrap_or_default());
            self.0.push('…');
            // The rest is not formatted at all.
            Err(fmt::Error)
        }
    }

    let mut text = Bounded(String::new());
    let _ = text.write_fmt(arguments);
    text.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(name: &'static str, value: &str) -> Fields {
        let mut fields = Fields::default();
        fields.text(name, value);
        fields
    }

    #[test]
    fn a_field_cannot_take_the_name_of_what_every_record_has() {
        let line = line(Form::Json, "now", Level::INFO, "t", &one("timestamp", "forged"));
        let record: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!((&record["timestamp"], &record["field.timestamp"]), (&"now".into(), &"forged".into()));
    }

    #[test]
    fn a_later_value_of_a_field_replaces_the_earlier() {
        let mut fields = one("user.name", "old");
        fields.merge(&one("user.name", "new"));
        assert_eq!(fields.values.len(), 1);
        assert!(
            String::from_utf8(line(Form::Text, "now", Level::INFO, "t", &fields)).unwrap().contains("user.name=new")
        );
    }

    #[test]
    fn text_quotes_what_could_be_taken_for_another_field() {
        let line = line(Form::Text, "now", Level::WARN, "t", &one("path", "a b=\"c\"\n"));
        assert_eq!(String::from_utf8(line).unwrap(), "now  WARN path=\"a b=\\\"c\\\"\\n\"\n");
    }

    #[test]
    fn a_long_value_is_cut_on_a_character() {
        let long = "é".repeat(MAX_VALUE);
        let cut = bounded(format_args!("{long}"));
        assert!(cut.len() <= MAX_VALUE + '…'.len_utf8() && cut.ends_with("é…"), "{}", cut.len());
        assert_eq!(bounded(format_args!("{}", "a".repeat(MAX_VALUE))).len(), MAX_VALUE);
    }

    #[test]
    fn numbers_that_json_has_not_become_text() {
        let mut fields = Fields::default();
        fields.number("n", u64::MAX);
        fields.set("nan", Value::Text(f64::NAN.to_string()));
        let line = line(Form::Json, "now", Level::INFO, "t", &fields);
        let record: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(record["n"], u64::MAX);
        assert_eq!(record["nan"], "NaN");
    }

    proptest! {
        #[test]
        fn any_text_is_one_parsable_line_without_hostile_characters(value in "\\PC*|(?s).{0,64}") {
            for form in [Form::Json, Form::Text] {
                let line = String::from_utf8(line(form, "now", Level::INFO, "t", &one("path", &value))).unwrap();
                let body = line.strip_suffix('\n').unwrap();
                prop_assert!(!body.chars().any(is_hostile));
                if form == Form::Json && value.len() <= MAX_VALUE {
                    let record: serde_json::Value = serde_json::from_str(body).unwrap();
                    prop_assert_eq!(record["path"].as_str().unwrap(), value.as_str());
                }
            }
        }
    }
}
