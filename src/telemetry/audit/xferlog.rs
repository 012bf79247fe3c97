//! The transfer log as wu-ftpd writes it (xferlog(5)): what partner reports have parsed for decades.

use jiff::ZonedDateTime;

use super::super::metrics::{Direction, TransferResult};
use super::{Subject, Transfer};

/// One line of 14 fields; `None` for a listing, which is none of its subjects.
pub(super) fn line(subject: &Subject<'_>, transfer: &Transfer<'_>, now: &ZonedDateTime) -> Option<Vec<u8>> {
    let direction = match transfer.direction {
        Direction::Upload => 'i',
        Direction::Download => 'o',
        Direction::List => return None,
    };
    let line = format!(
        "{time} {seconds} {host} {size} {name} {kind} _ {direction} {access} {user} ftp 0 * {completion}\n",
        // ctime(3), in local time.
        time = now.strftime("%a %b %e %H:%M:%S %Y"),
        seconds = transfer.elapsed.as_secs(),
        host = subject.client.ip(),
        size = transfer.client_bytes,
        name = word(transfer.path),
        kind = if transfer.is_ascii { 'a' } else { 'b' },
        access = if subject.user.eq_ignore_ascii_case("anonymous") { 'a' } else { 'r' },
        user = word(subject.user.as_bytes()),
        completion = if transfer.result == TransferResult::Success { 'c' } else { 'i' },
    );
    Some(line.into_bytes())
}

/// Blanks and control characters become `_`, as the fields are told apart by blanks; what is not UTF-8 is replaced.
fn word(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "_".to_owned();
    }
    let mut word = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        let is_blank = |letter: char| letter.is_whitespace() || letter.is_control();
        word.extend(chunk.valid().chars().map(|letter| if is_blank(letter) { '_' } else { letter }));
        if !chunk.invalid().is_empty() {
            word.push(char::REPLACEMENT_CHARACTER);
        }
    }
    word
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn transfer(path: &[u8], direction: Direction, result: TransferResult) -> String {
        let subject = Subject {
            session: 1,
            client: "192.0.2.7:50000".parse().unwrap(),
            listener: "explicit",
            user: "acme gmbh",
            backend: "files",
            tls: "TLSv1.3",
        };
        let transfer = Transfer {
            direction,
            path,
            is_ascii: false,
            client_bytes: 1048,
            backend_bytes: 1048,
            elapsed: Duration::from_millis(3900),
            first_byte: None,
            commit: None,
            client_close: "close_notify",
            backend_status: "SSH_FX_OK".to_owned(),
            result,
            reply: 226,
            failure: None,
            digest: None,
        };
        let now = "2026-11-05T04:03:02[UTC]".parse().unwrap();
        line(&subject, &transfer, &now).map(|line| String::from_utf8(line).unwrap()).unwrap_or_default()
    }

    #[test]
    fn a_line_is_as_partners_parse_it() {
        assert_eq!(
            transfer(b"/in/a file\r\n.txt", Direction::Upload, TransferResult::Success),
            "Thu Nov  5 04:03:02 2026 3 192.0.2.7 1048 /in/a_file__.txt b _ i r acme_gmbh ftp 0 * c\n"
        );
        assert!(
            transfer(b"/x", Direction::Download, TransferResult::BackendError)
                .ends_with(" /x b _ o r acme_gmbh ftp 0 * i\n")
        );
        assert_eq!(transfer(b"/", Direction::List, TransferResult::Success), "");
    }

    #[test]
    fn every_line_has_its_fields_whatever_a_name_is() {
        for name in [&b""[..], b" ", b"\n", b"a\tb", b"\xff\xfe", "\u{2028}\u{202e}x".as_bytes()] {
            let line = transfer(name, Direction::Upload, TransferResult::Success);
            // The time is five of them.
            assert_eq!(line.split_whitespace().count(), 5 + 13, "{line:?}");
            assert_eq!(line.lines().count(), 1, "{line:?}");
        }
    }
}
