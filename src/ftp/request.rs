//! A command line as verb and argument (RFC 959 §5.3).

use std::fmt;

use thiserror::Error;

/// Longest verb, in bytes: RFC 959 has four, what is in use beyond it fits easily.
pub const MAX_VERB: usize = 12;

/// Verbs whose argument is a credential; whatever begins with one of them is treated alike in `Debug`.
const SECRET_VERBS: [&str; 3] = ["PASS", "ACCT", "ADAT"];

/// One command.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub verb: Verb,
    /// What stands behind the one space, verbatim: spaces at either end belong to it. `None` without that space.
    pub argument: Option<Vec<u8>>,
}

/// A command's verb in upper case: a letter, then letters, digits and `@`, at most [`MAX_VERB`].
///
/// Digits for `XSHA256` and its like; `@` for `P@SW`, PASV past an old firewall's filter.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Verb(String);

/// Why a line is not a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RequestError {
    /// Nothing on the line.
    #[error("the command line is empty")]
    Empty,
    /// The line does not begin with a verb.
    #[error("the command line does not begin with a verb")]
    NotAVerb,
}

impl Request {
    /// Takes a line, without its line end, apart.
    ///
    /// # Errors
    ///
    /// When there is no verb. A verb that nobody knows is none of this parser's business.
    pub fn parse(line: &[u8]) -> Result<Self, RequestError> {
        if line.is_empty() {
            return Err(RequestError::Empty);
        }
        let mut parts = line.splitn(2, |byte| *byte == b' ');
        let verb = Verb::parse(parts.next().unwrap_or_default())?;
        Ok(Self { verb, argument: parts.next().map(<[u8]>::to_vec) })
    }
}

impl Verb {
    fn parse(bytes: &[u8]) -> Result<Self, RequestError> {
        let starts_with_letter = bytes.first().is_some_and(u8::is_ascii_alphabetic);
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'@';
        if bytes.len() > MAX_VERB || !starts_with_letter || !bytes.iter().all(allowed) {
            return Err(RequestError::NotAVerb);
        }
        Ok(Self(bytes.iter().map(|byte| char::from(byte.to_ascii_uppercase())).collect()))
    }

    /// The verb as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// SECURITY: never the argument of PASS.
impl fmt::Debug for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.verb.as_str())?;
        match &self.argument {
            None => Ok(()),
            Some(_) if SECRET_VERBS.iter().any(|verb| self.verb.as_str().starts_with(verb)) => {
                formatter.write_str(" ****")
            }
            Some(argument) => write!(formatter, " {}", argument.escape_ascii()),
        }
    }
}

impl fmt::Debug for Verb {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(line: &[u8]) -> (String, Option<Vec<u8>>) {
        let request = Request::parse(line).unwrap();
        (request.verb.as_str().to_owned(), request.argument)
    }

    #[test]
    fn verbs_are_upper_case_and_arguments_verbatim() {
        assert_eq!(parse(b"noop"), ("NOOP".into(), None));
        assert_eq!(parse(b"RetR  a "), ("RETR".into(), Some(b" a ".to_vec())));
        assert_eq!(parse(b"LIST "), ("LIST".into(), Some(Vec::new())));
        assert_eq!(parse(b"DELE \xFF\0\r"), ("DELE".into(), Some(b"\xFF\0\r".to_vec())));
        assert_eq!(parse(b"xsha256 f"), ("XSHA256".into(), Some(b"f".to_vec())));
        assert_eq!(parse(b"P@SW"), ("P@SW".into(), None));
    }

    #[test]
    fn refuses_lines_without_a_verb() {
        assert_eq!(Request::parse(b""), Err(RequestError::Empty));
        for line in [
            &b" NOOP"[..],
            b"\tNOOP",
            b"NOOP\t",
            b"RETR\ta",
            b"RETR/a",
            b"1ABC",
            b"@",
            b"ABCDEFGHIJKLM",
            b"\xFFNOOP",
            b"Host:x",
        ] {
            assert_eq!(Request::parse(line), Err(RequestError::NotAVerb), "{}", line.escape_ascii());
        }
        assert!(Request::parse(b"ABCDEFGHIJKL x").is_ok());
    }

    #[test]
    fn debug_hides_credentials_and_escapes_the_rest() {
        for line in [&b"PASS canary"[..], b"pass  canary", b"PASSWORD canary", b"acct canary"] {
            assert!(!format!("{:?}", Request::parse(line)).contains("canary"));
        }
        assert_eq!(format!("{:?}", Request::parse(b"cwd \xE4\x1b").unwrap()), "CWD \\xe4\\x1b");
    }

    proptest! {
        #[test]
        fn what_is_put_together_is_taken_apart(verb in "[A-Z][A-Z0-9@]{0,11}", argument in any::<Option<Vec<u8>>>()) {
            let mut line = verb.to_lowercase().into_bytes();
            if let Some(argument) = &argument {
                line.push(b' ');
                line.extend_from_slice(argument);
            }
            prop_assert_eq!(parse(&line), (verb, argument));
        }

        #[test]
        fn never_fails_otherwise_than_it_says(line in any::<Vec<u8>>()) {
            match Request::parse(&line) {
                Ok(request) => prop_assert!(line.len() >= request.verb.as_str().len()),
                Err(error) => prop_assert_eq!(error == RequestError::Empty, line.is_empty()),
            }
        }
    }
}
