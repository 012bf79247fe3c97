//! `${env:NAME}` and `${file:/path}`: references in the strings of the file.
//!
//! They are replaced before anything is decoded, in every string and several in one. What a reference stands for is
//! never read for further references, so a value may hold `${` itself.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::decode::{Report, entry_path, item_path};
use super::error::Problem;
use super::raw::{Key, Node};

/// Longest file a reference may name: a secret is a few hundred bytes, and a path such as `/dev/zero` has no end.
const MAX_REFERENCED_FILE: u64 = 1024 * 1024;

/// Where environment variables are looked up.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Replaces every reference below `node`, and reports each that does not resolve.
pub(super) fn interpolate(node: &mut Node, at: &str, environment: Environment<'_>, report: &mut Report) {
    match node {
        Node::Text(text) if text.written().contains("${") => {
            let base = report.base().to_owned();
            match replace(text.written(), environment, &base, &mut report.references) {
                Ok(None) => {}
                Ok(Some(value)) => text.replace(Some(value)),
                Err(mistakes) => {
                    text.replace(None);
                    for mistake in mistakes {
                        report.problem(Problem { at: at.to_owned(), ..mistake });
                    }
                }
            }
        }
        Node::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                interpolate(item, &item_path(at, index), environment, report);
            }
        }
        Node::Mapping(entries) => {
            for (key, value) in entries {
                if let Key::Text(key) = key {
                    interpolate(value, &entry_path(at, key), environment, report);
                }
            }
        }
        _ => {}
    }
}

/// `Ok(None)` where `written` holds no reference; else its value, or every reference that does not resolve. The files
/// that it names are added to `files`.
fn replace(
    written: &str,
    environment: Environment<'_>,
    base: &Path,
    files: &mut Vec<PathBuf>,
) -> Result<Option<Zeroizing<String>>, Vec<Problem>> {
    let mut value = Zeroizing::new(String::new());
    let mut mistakes = Vec::new();
    let mut found = false;
    let mut rest = written;
    while let Some((before, from)) = rest.split_once("${") {
        value.push_str(before);
        match reference(from) {
            Some((Reference::Environment(name), after)) => {
                found = true;
                match environment_variable(name, environment) {
                    Ok(text) => value.push_str(&text),
                    Err(problem) => mistakes.push(problem),
                }
                rest = after;
            }
            Some((Reference::File(path), after)) => {
                found = true;
                files.push(base.join(path));
                match file(path, base) {
                    Ok(text) => value.push_str(&text),
                    Err(problem) => mistakes.push(problem),
                }
                rest = after;
            }
            Some((Reference::Unknown, after)) => {
                // SECURITY: what stands in the braces is not repeated; it may be part of a password.
                mistakes.push(
                    Problem::new("", "`${…}` is neither `${env:NAME}` nor `${file:/path}`")
                        .hint("a value that holds `${` itself can be read from a file with `${file:/path}`"),
                );
                rest = after;
            }
            None => {
                value.push_str("${");
                rest = from;
            }
        }
    }
    value.push_str(rest);
    match (mistakes.is_empty(), found) {
        (false, _) => Err(mistakes),
        (true, true) => Ok(Some(value)),
        (true, false) => Ok(None),
    }
}

enum Reference<'a> {
    Environment(&'a str),
    File(&'a str),
    /// It has the shape of a reference but names no known source, or lacks the closing brace.
    Unknown,
}

/// What follows `${`; `None` where it does not look like a reference, as in a password that happens to hold `${`.
fn reference(from: &str) -> Option<(Reference<'_>, &str)> {
    let source = from.len() - from.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_').len();
    let (source, rest) = from.split_at(source);
    if source.is_empty() {
        return None;
    }
    if let Some(rest) = rest.strip_prefix('}') {
        return Some((Reference::Unknown, rest));
    }
    let rest = rest.strip_prefix(':')?;
    let Some((name, after)) = rest.split_once('}') else {
        return Some((Reference::Unknown, ""));
    };
    match source {
        "env" if !name.is_empty() && !name.contains(['=', '\0']) => Some((Reference::Environment(name), after)),
        "file" if !name.is_empty() => Some((Reference::File(name), after)),
        _ => Some((Reference::Unknown, after)),
    }
}

fn environment_variable(name: &str, environment: Environment<'_>) -> Result<Zeroizing<String>, Problem> {
    let shown = name.escape_debug();
    let Some(value) = environment(name) else {
        return Err(Problem::new("", format!("environment variable `{shown}` is not set"))
            .hint("set it for the gateway, or read the value from a file with `${file:/path}`"));
    };
    match value.into_string() {
        Ok(value) => Ok(without_newline(value)),
        Err(_) => Err(Problem::new("", format!("environment variable `{shown}` is not UTF-8"))),
    }
}

fn file(path: &str, base: &Path) -> Result<Zeroizing<String>, Problem> {
    let shown = path.escape_debug();
    let mut bytes = Zeroizing::new(Vec::new());
    let full = base.join(path);
    let read = File::open(&full).and_then(|file| file.take(MAX_REFERENCED_FILE + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return Err(Problem::new("", format!("cannot read `{shown}`: {}", super::files::reason(&error)))
            .hint(super::files::unreadable_hint(&error)));
    }
    if bytes.len() as u64 > MAX_REFERENCED_FILE {
        return Err(Problem::new("", format!("`{shown}` is larger than {MAX_REFERENCED_FILE} bytes"))
            .hint("`${file:}` is for one value, such as a password"));
    }
    match String::from_utf8(std::mem::take(&mut *bytes)) {
        Ok(value) => Ok(without_newline(value)),
        Err(error) => {
            drop(Zeroizing::new(error.into_bytes()));
            Err(Problem::new("", format!("`{shown}` is not UTF-8 text")))
        }
    }
}

/// Editors and `echo` end a file with a newline that no password has.
fn without_newline(mut value: String) -> Zeroizing<String> {
    if value.ends_with('\n') {
        value.pop();
        if value.ends_with('\r') {
            value.pop();
        }
    }
    Zeroizing::new(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<OsString> {
        match name {
            "ONE" => Some("1".into()),
            "LINE" => Some("two\n".into()),
            "NESTED" => Some("${env:ONE}".into()),
            _ => None,
        }
    }

    fn replaced(written: &str) -> Result<Option<String>, Vec<String>> {
        replace(written, &environment, Path::new("/nowhere"), &mut Vec::new())
            .map(|value| value.map(|value| value.to_string()))
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn several_references_in_one_string() {
        assert_eq!(replaced("a${env:ONE}b${env:LINE}c").unwrap().as_deref(), Some("a1btwoc"));
    }

    #[test]
    fn a_value_is_not_read_for_references() {
        assert_eq!(replaced("${env:NESTED}").unwrap().as_deref(), Some("${env:ONE}"));
    }

    #[test]
    fn what_is_no_reference_stays() {
        for text in ["$argon2id$v=19$m=19456", "pa${ss", "${", "${}", "${-x}", "$$", "${$x}", "${a-b:c}"] {
            assert_eq!(replaced(text).unwrap(), None, "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_a_reference_is_refused() {
        for text in ["${HOME}", "${ENV:ONE}", "${env:}", "${file:}", "${env:ONE", "x${vault:a}y"] {
            let problems = replaced(text).unwrap_err();
            assert_eq!(problems.len(), 1, "{text}");
            assert!(problems[0].contains("${env:NAME}"), "{problems:?}");
        }
    }

    #[test]
    fn every_unresolved_reference_is_named() {
        let problems = replaced("${env:ABSENT}${file:missing.txt}").unwrap_err();
        assert!(problems[0].contains("`ABSENT` is not set"), "{problems:?}");
        assert!(problems[1].contains("cannot read `missing.txt`: no such file"), "{problems:?}");
    }

    #[test]
    fn a_file_loses_one_trailing_newline() {
        let folder = tempfile::tempdir().unwrap();
        for (content, expected) in [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("", "")] {
            std::fs::write(folder.path().join("secret"), content).unwrap();
            let value = replace("${file:secret}", &environment, folder.path(), &mut Vec::new()).unwrap().unwrap();
            assert_eq!(value.as_str(), expected);
        }
        std::fs::write(folder.path().join("secret"), b"\xff").unwrap();
        assert!(replace("${file:secret}", &environment, folder.path(), &mut Vec::new()).is_err());
        assert!(
            replace("${file:/dev/zero}", &environment, folder.path(), &mut Vec::new()).unwrap_err()[0]
                .what
                .contains("larger")
        );
    }
}
