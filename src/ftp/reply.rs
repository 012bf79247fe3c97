//! Replies on the control connection: their form on the wire, and what text may hold (RFC 959 §4.2).

use std::fmt;

/// One reply, preliminary or final, with one line or more.
///
/// SECURITY: this is the only way text reaches the control connection. CR, LF, NUL and the other C0 characters become
/// `?` when it is made, so that no name can add a line of its own.
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    bytes: Vec<u8>,
}

impl Reply {
    /// `ddd text`
    pub fn new(code: u16, text: impl AsRef<[u8]>) -> Self {
        let mut bytes = Vec::with_capacity(text.as_ref().len() + 6);
        append_coded(&mut bytes, code, b' ', text.as_ref());
        Self { code, bytes }
    }

    /// `ddd-first`, the inner lines, `ddd last`.
    ///
    /// An inner line that begins with a digit gets a space in front: it must not look like the end of the reply
    /// (RFC 959 §4.2: "the server must pad the front").
    pub fn lines(code: u16, first: impl AsRef<[u8]>, inner: Vec<Vec<u8>>, last: impl AsRef<[u8]>) -> Self {
        let mut bytes = Vec::new();
        append_coded(&mut bytes, code, b'-', first.as_ref());
        for line in inner {
            if line.first().is_some_and(u8::is_ascii_digit) {
                bytes.push(b' ');
            }
            append_text(&mut bytes, &line);
        }
        append_coded(&mut bytes, code, b' ', last.as_ref());
        Self { code, bytes }
    }

    /// The three digits.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The whole reply, with its line ends, for one write.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.bytes.clone()
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Reply(\"{}\")", self.bytes.escape_ascii())
    }
}

fn append_coded(bytes: &mut Vec<u8>, code: u16, separator: u8, text: &[u8]) {
    debug_assert!((100..700).contains(&code), "{code} is no reply code");
    bytes.extend_from_slice(format!("{code:03}").as_bytes());
    bytes.push(separator);
    append_text(bytes, text);
}

fn append_text(bytes: &mut Vec<u8>, text: &[u8]) {
    bytes.extend(text.iter().map(|byte| if *byte < b' ' { b'?' } else { *byte }));
    bytes.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_line() {
        let reply = Reply::new(200, "NOOP ok");
        assert_eq!(reply.code(), 200);
        assert_eq!(reply.to_bytes(), b"200 NOOP ok\r\n");
        assert_eq!(Reply::new(226, "").to_bytes(), b"226 \r\n");
    }

    #[test]
    fn several_lines() {
        let inner = vec![b" SIZE".to_vec(), b"226 forged".to_vec(), b"plain".to_vec(), Vec::new()];
        assert_eq!(
            Reply::lines(211, "Features:", inner, "End").to_bytes(),
            b"211-Features:\r\n SIZE\r\n 226 forged\r\nplain\r\n\r\n211 End\r\n"
        );
        assert_eq!(Reply::lines(211, "a", vec![], "b").to_bytes(), b"211-a\r\n211 b\r\n");
    }

    #[test]
    fn a_name_cannot_add_a_line() {
        assert_eq!(Reply::new(257, "\"/x\r\n226 OK\0\x1b\"").to_bytes(), b"257 \"/x??226 OK??\"\r\n");
        assert_eq!(
            Reply::lines(213, "\n", vec![b"\r\n213 x".to_vec()], "\r").to_bytes(),
            b"213-?\r\n??213 x\r\n213 ?\r\n"
        );
    }

    #[test]
    fn names_keep_their_bytes() {
        assert_eq!(Reply::new(250, b"\xE4\xFF\xC3\xA4").to_bytes(), b"250 \xE4\xFF\xC3\xA4\r\n");
    }

    proptest! {
        /// A client that counts lines as RFC 959 §4.2 says finds exactly one reply.
        #[test]
        fn is_read_back_as_exactly_one_reply(
            code in 100u16..600,
            first in any::<Vec<u8>>(),
            inner in proptest::collection::vec(any::<Vec<u8>>(), 0..6),
            last in any::<Vec<u8>>(),
        ) {
            let count = inner.len();
            let bytes = Reply::lines(code, first, inner, last).to_bytes();
            let body = bytes.strip_suffix(b"\r\n").unwrap();
            prop_assert!(!body.contains(&0));
            let lines: Vec<&[u8]> = body.split(|byte| *byte == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l)).collect();
            prop_assert_eq!(lines.len(), count + 2);
            prop_assert!(lines.iter().all(|line| line.iter().all(|byte| *byte >= b' ')));
            let end = format!("{code} ").into_bytes();
            let ends: Vec<usize> = (0..lines.len()).filter(|index| lines[*index].starts_with(&end)).collect();
            prop_assert_eq!(ends, [lines.len() - 1]);
        }
    }
}
