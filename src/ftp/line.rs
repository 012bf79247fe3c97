//! Command lines out of the bytes of the control connection: line ends, the length cap, and Telnet (RFC 959 §5.3,
//! RFC 854, RFC 1123 §4.1.2.10).

use std::fmt;
use std::mem;

use zeroize::Zeroize;

/// Longest command line, line end included, in bytes: a path of PATH_MAX and room for the verb and more around it.
pub const MAX_LINE: usize = 4096 + 512;

/// First allocation for a line, in bytes: nearly every line fits, so that a password is not left behind by growing.
const USUAL_LINE: usize = 256;

const NUL: u8 = 0;
const LF: u8 = b'\n';
const CR: u8 = b'\r';

// RFC 854, "Telnet command structure". 240 (SE) to 249 (GA) stand alone.
const SE: u8 = 240;
const GA: u8 = 249;
const SB: u8 = 250;
const WILL: u8 = 251;
const WONT: u8 = 252;
const DO: u8 = 253;
const DONT: u8 = 254;
const IAC: u8 = 255;

/// Takes bytes as they arrive and gives command lines; the result does not depend on how the bytes were cut.
///
/// A line ends with CR LF or a bare LF. CR NUL inside it is the data byte CR (RFC 2640 §3.1), and so is a CR before
/// anything else. Telnet is taken out beneath that: `IAC IAC` is the byte 255, options are refused
/// ([`Decoded::Answer`]), other commands vanish, and 255 before a byte that is no command is Latin-1's `ÿ`.
///
/// No verb begins with a byte above 239, so such bytes at the start of a line are swallowed: the preface of ABOR
/// arrives as `IAC IP IAC DM`, as `IAC IP IAC` where the urgent byte was taken out of band, or as `DM` alone.
///
/// In a charset that has a letter at 255 ([`LineDecoder::take_255_for_a_letter`]), a command stands only there.
///
/// Memory: what was pushed and not yet asked for with [`LineDecoder::next`], and at most [`MAX_LINE`] bytes.
#[derive(Default)]
pub struct LineDecoder {
    /// Bytes as pushed; those before `position` are done with.
    input: Vec<u8>,
    /// 0 <= position <= input.len()
    position: usize,
    telnet: Telnet,
    /// The line so far, without line end; empty once the line is too long.
    line: Vec<u8>,
    /// Bytes of the line so far as [`MAX_LINE`] counts them, those of a subnegotiation included.
    length: usize,
    /// A CR came, and what follows says whether it is data.
    carriage_return: bool,
    /// A byte of any kind came after the last line end.
    begun: bool,
    /// Within a line, only `IAC IAC` is Telnet.
    is_255_a_letter: bool,
}

/// What [`LineDecoder::next`] found.
#[derive(Clone, PartialEq, Eq)]
pub enum Decoded {
    /// A command line without its line end.
    Line(Vec<u8>),
    /// A line longer than [`MAX_LINE`] came to its end; its bytes are gone.
    TooLong,
    /// Send this: a refused Telnet option.
    Answer([u8; 3]),
}

/// Where the Telnet layer stands.
#[derive(Clone, Copy, Default)]
enum Telnet {
    #[default]
    Data,
    /// After IAC.
    Command,
    /// After IAC WILL, WONT, DO or DONT: the refusal to answer with.
    Option(u8),
    /// Between IAC SB and IAC SE.
    Subnegotiation,
    /// After IAC in a subnegotiation.
    SubnegotiationCommand,
}

impl LineDecoder {
    /// A decoder at the start of a line.
    pub fn new() -> Self {
        Self::default()
    }

    /// Does the client write 255 as a letter of its charset (`я` of windows-1251), with letters above 239 behind it?
    ///
    /// Then nothing within a line is Telnet but the pair of 255 that stands for one: clients that send Telnet commands
    /// send them before a line.
    pub fn take_255_for_a_letter(&mut self, is_letter: bool) {
        self.is_255_a_letter = is_letter;
    }

    /// Takes bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.position > self.input.len() / 2 {
            self.forget_consumed();
        }
        self.input.extend_from_slice(bytes);
    }

    /// The next thing found in the bytes pushed so far; `None` when more bytes are needed.
    #[expect(clippy::should_implement_trait, reason = "`None` is not the end: more may be pushed")]
    pub fn next(&mut self) -> Option<Decoded> {
        while let Some(byte) = self.input.get(self.position).copied() {
            self.position += 1;
            self.begun = true;
            if let Some(decoded) = self.telnet(byte) {
                return Some(decoded);
            }
        }
        self.forget_consumed();
        None
    }

    /// Has nothing come after the last line end?
    ///
    /// SECURITY: asked between the AUTH line and the TLS handshake. Whatever a third party put behind that line, were
    /// it only half a Telnet command, makes this false (command injection, CVE-2011-1575).
    pub fn is_empty(&self) -> bool {
        self.position == self.input.len() && !self.begun
    }

    /// Bytes held.
    pub fn buffered(&self) -> usize {
        self.input.len() - self.position + self.line.len()
    }

    /// The Telnet layer: what one byte is, row by row.
    fn telnet(&mut self, byte: u8) -> Option<Decoded> {
        let (next, decoded) = match (self.telnet, byte) {
            (Telnet::Data, IAC) => (Telnet::Command, None),
            (Telnet::Data, SE..=DONT) if self.at_line_start() => (Telnet::Data, None),
            (Telnet::Data, _) => (Telnet::Data, self.data(byte)),

            (Telnet::Command, SE..=DONT) if self.is_255_a_letter && !self.at_line_start() => {
                // Neither ends a line.
                self.data(IAC);
                (Telnet::Data, self.data(byte))
            }
            (Telnet::Command, SE..=GA) => (Telnet::Data, None),
            (Telnet::Command, SB) => (Telnet::Subnegotiation, None),
            (Telnet::Command, WILL | WONT) => (Telnet::Option(DONT), None),
            (Telnet::Command, DO | DONT) => (Telnet::Option(WONT), None),
            (Telnet::Command, IAC) => (Telnet::Data, self.data(IAC)),
            (Telnet::Command, _) => {
                if !self.at_line_start() {
                    self.data(IAC);
                }
                (Telnet::Data, self.data(byte))
            }

            (Telnet::Option(refusal), option) => (Telnet::Data, Some(Decoded::Answer([IAC, refusal, option]))),

            (Telnet::SubnegotiationCommand, SE) => (Telnet::Data, None),
            // A subnegotiation without end is a line without end.
            (Telnet::Subnegotiation | Telnet::SubnegotiationCommand, _) if self.length >= MAX_LINE => {
                self.telnet = Telnet::Data;
                return self.telnet(byte);
            }
            (Telnet::Subnegotiation, _) => {
                self.length += 1;
                (if byte == IAC { Telnet::SubnegotiationCommand } else { Telnet::Subnegotiation }, None)
            }
            (Telnet::SubnegotiationCommand, _) => {
                self.length += 1;
                (Telnet::Subnegotiation, None)
            }
        };
        self.telnet = next;
        decoded
    }

    /// The line layer: one byte that is no Telnet.
    fn data(&mut self, byte: u8) -> Option<Decoded> {
        self.length = self.length.saturating_add(1);
        let after_carriage_return = mem::take(&mut self.carriage_return);
        match byte {
            LF => return Some(self.end_line()),
            NUL if after_carriage_return => self.append(CR),
            _ => {
                if after_carriage_return {
                    self.append(CR);
                }
                if byte == CR {
                    self.carriage_return = true;
                } else {
                    self.append(byte);
                }
            }
        }
        None
    }

    fn append(&mut self, byte: u8) {
        if self.length > MAX_LINE {
            self.line.zeroize();
            return;
        }
        if self.line.capacity() == 0 {
            self.line.reserve(USUAL_LINE);
        }
        self.line.push(byte);
    }

    fn end_line(&mut self) -> Decoded {
        let line = mem::take(&mut self.line);
        let length = mem::take(&mut self.length);
        self.begun = false;
        if length > MAX_LINE { Decoded::TooLong } else { Decoded::Line(line) }
    }

    fn at_line_start(&self) -> bool {
        self.line.is_empty() && !self.carriage_return && self.length <= MAX_LINE
    }

    /// Drops what was decoded. It is wiped: a password came this way.
    fn forget_consumed(&mut self) {
        if let Some(consumed) = self.input.get_mut(..self.position) {
            consumed.zeroize();
        }
        self.input.drain(..self.position);
        self.position = 0;
    }
}

impl Drop for LineDecoder {
    fn drop(&mut self) {
        self.input.zeroize();
        self.line.zeroize();
    }
}

/// SECURITY: a line may hold a password; only its length is shown.
impl fmt::Debug for Decoded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(formatter, "Line({} bytes)", line.len()),
            Self::TooLong => formatter.write_str("TooLong"),
            Self::Answer(answer) => write!(formatter, "Answer({answer:?})"),
        }
    }
}

impl fmt::Debug for LineDecoder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LineDecoder").field("buffered", &self.buffered()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// [`Decoded`] with a `Debug` that shows a line.
    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Event {
        Line(String),
        TooLong,
        Answer([u8; 3]),
    }

    fn as_line(bytes: impl AsRef<[u8]>) -> Event {
        Event::Line(bytes.as_ref().escape_ascii().to_string())
    }

    fn drain(decoder: &mut LineDecoder) -> Vec<Event> {
        let event = |decoded| match decoded {
            Decoded::Line(bytes) => as_line(bytes),
            Decoded::TooLong => Event::TooLong,
            Decoded::Answer(answer) => Event::Answer(answer),
        };
        std::iter::from_fn(|| decoder.next()).map(event).collect()
    }

    fn decode(bytes: &[u8]) -> Vec<Event> {
        let mut decoder = LineDecoder::new();
        decoder.push(bytes);
        drain(&mut decoder)
    }

    #[test]
    fn lines_end_with_lf_with_or_without_cr() {
        assert_eq!(decode(b"USER a\r\nPASS b\nNOOP"), [as_line("USER a"), as_line("PASS b")]);
        assert_eq!(decode(b"\r\n\n"), [as_line(""), as_line("")]);
        assert_eq!(decode(b"RETR  a \r\n"), [as_line("RETR  a ")]);
    }

    #[test]
    fn a_cr_without_lf_is_data() {
        assert_eq!(decode(b"DELE a\r\0b\r\n"), [as_line("DELE a\rb")]);
        assert_eq!(decode(b"DELE a\rb\r\n"), [as_line("DELE a\rb")]);
        assert_eq!(decode(b"a\r\r\n"), [as_line("a\r")]);
        assert_eq!(decode(b"a\r\0\r\n"), [as_line("a\r")]);
        assert_eq!(decode(b"a\0\r\n"), [as_line("a\0")]);
    }

    #[test]
    fn telnet_options_are_refused_and_commands_vanish() {
        assert_eq!(decode(b"\xFF\xFD\x06NOOP\r\n"), [Event::Answer([255, 252, 6]), as_line("NOOP")]);
        assert_eq!(decode(b"\xFF\xFE\x06"), [Event::Answer([255, 252, 6])]);
        assert_eq!(decode(b"\xFF\xFB\x01"), [Event::Answer([255, 254, 1])]);
        assert_eq!(decode(b"\xFF\xFC\xFF"), [Event::Answer([255, 254, 255])]);
        assert_eq!(decode(b"NO\xFF\xF1OP\r\xFF\xF9\n"), [as_line("NOOP")]);
        assert_eq!(decode(b"NO\xFF\xFA\x18\x00\r\n\xFF\xFF\xF0\xFF\xF0OP\r\n"), [as_line("NOOP")]);
    }

    #[test]
    fn byte_255_in_a_name() {
        assert_eq!(decode(b"DELE a\xFF\xFFb\r\n"), [as_line(b"DELE a\xFFb")]);
        assert_eq!(decode(b"DELE a\xFFb\r\n"), [as_line(b"DELE a\xFFb")]);
        assert_eq!(decode(b"DELE a\xFF\r\n"), [as_line(b"DELE a\xFF")]);
        assert_eq!(decode(b"DELE a\xFF\n"), [as_line(b"DELE a\xFF")]);
        assert_eq!(decode(b"DELE \xF0\x9F\x98\x80\r\n"), [as_line(b"DELE \xF0\x9F\x98\x80")]);
    }

    #[test]
    fn byte_255_as_a_letter() {
        let decode = |bytes: &[u8]| {
            let mut decoder = LineDecoder::new();
            decoder.take_255_for_a_letter(true);
            decoder.push(bytes);
            drain(&mut decoder)
        };
        // "STOR объявляющий", "DELE яя" and "DELE я" in windows-1251.
        let name = b"STOR \xEE\xE1\xFA\xFF\xE2\xEB\xFF\xFE\xF9\xE8\xE9";
        assert_eq!(decode(&[&name[..], b"\r\n"].concat()), [as_line(name)]);
        assert_eq!(decode(b"DELE \xFF\xF0\xFF\r\n"), [as_line(b"DELE \xFF\xF0\xFF")]);
        assert_eq!(decode(b"DELE \xFF\xFF\r\n"), [as_line(b"DELE \xFF")]);
        assert_eq!(decode(b"\xFF\xF4\xFF\xF2ABOR\r\n"), [as_line("ABOR")]);
        assert_eq!(decode(b"\xFF\xFD\x06NOOP\r\n"), [Event::Answer([255, 252, 6]), as_line("NOOP")]);
    }

    #[test]
    fn abor_is_found_behind_every_preface() {
        for preface in
            [&b"\xFF\xF4\xFF\xF2"[..], b"\xFF\xF4\xFF", b"\xFF\xF4", b"\xF4\xF2", b"\xFF\xF2", b"\xF2", b"\xFF", b""]
        {
            assert_eq!(decode(&[preface, b"ABOR\r\n"].concat()), [as_line("ABOR")], "{preface:?}");
        }
    }

    #[test]
    fn the_cap_counts_the_line_end() {
        let longest = [b'x'; MAX_LINE];
        assert_eq!(decode(&[&longest[2..], b"\r\n"].concat()), [as_line(&longest[2..])]);
        assert_eq!(decode(&[&longest[1..], b"\n"].concat()), [as_line(&longest[1..])]);
        assert_eq!(decode(&[&longest[1..], b"\r\nNOOP\r\n"].concat()), [Event::TooLong, as_line("NOOP")]);
        assert_eq!(decode(&[&longest[..], b"\nNOOP\r\n"].concat()), [Event::TooLong, as_line("NOOP")]);
    }

    #[test]
    fn a_line_without_end_takes_constant_memory() {
        for endless in [&b"x"[..], b"\xFF\xFF", b"\r\0", b"\r", b"\xFF\xFA\xFF\xFA", b"\xFF\xF1", b"\xF2", b"\0"] {
            let mut decoder = LineDecoder::new();
            let chunk = endless.repeat(8192);
            for _ in 0..64 {
                decoder.push(&chunk);
                assert_eq!(decoder.next(), None);
                assert!(decoder.buffered() <= MAX_LINE);
                assert!(decoder.input.capacity() <= 4 * chunk.len() && decoder.line.capacity() <= 2 * MAX_LINE);
                assert!(!decoder.is_empty());
            }
        }
        let mut decoder = LineDecoder::new();
        for _ in 0..1024 {
            decoder.push(&[b'x'; 1024]);
            assert_eq!(decoder.next(), None);
        }
        decoder.push(b"\r\nNOOP\r\n");
        assert_eq!(drain(&mut decoder), [Event::TooLong, as_line("NOOP")]);
    }

    #[test]
    fn a_subnegotiation_without_end_is_a_line_that_is_too_long() {
        let flood = [&b"\xFF\xFA"[..], &[b'\n'; MAX_LINE], b"x\r\nNOOP\r\n"].concat();
        assert_eq!(decode(&flood), [Event::TooLong, as_line("NOOP")]);
        let late = [&[b'x'; MAX_LINE][..], b"\xFF\xFA\xFF\xFB\x0D\nNOOP\n"].concat();
        assert_eq!(decode(&late), [Event::Answer([255, 254, 13]), Event::TooLong, as_line("NOOP")]);
    }

    #[test]
    fn is_empty_only_at_the_exact_end_of_a_line() {
        for behind in
            [&b"U"[..], b"\r", b"\0", b"\n", b"\xFF", b"\xFF\xF1", b"\xF2", b"\xFF\xFA", b"\xFF\xFD", b"\x16\x03\x01"]
        {
            let mut decoder = LineDecoder::new();
            assert!(decoder.is_empty());
            decoder.push(b"AUTH TLS\r");
            assert!(!decoder.is_empty());
            decoder.push(b"\n");
            assert_eq!(decoder.next(), Some(Decoded::Line(b"AUTH TLS".to_vec())));
            assert!(decoder.is_empty());

            let mut decoder = LineDecoder::new();
            decoder.push(b"AUTH TLS\r\n");
            decoder.push(behind);
            assert_eq!(decoder.next(), Some(Decoded::Line(b"AUTH TLS".to_vec())));
            assert!(!decoder.is_empty(), "{behind:?}");
            if behind != b"\n" {
                drain(&mut decoder);
                assert!(!decoder.is_empty(), "{behind:?}");
            }
        }
    }

    #[test]
    fn debug_shows_no_line() {
        let mut decoder = LineDecoder::new();
        decoder.push(b"PASS canary\r\nPASS can");
        assert!(!format!("{:?} {decoder:?}", decoder.next()).contains("can"));
    }

    /// The rules once more, written for shortness: the whole input is there and everything is looked up by slice.
    fn reference(bytes: &[u8]) -> Vec<Event> {
        let (mut events, mut line, mut length, mut index) = (Vec::new(), Vec::new(), 0, 0);
        while let [first, rest @ ..] = &bytes[index..] {
            let fresh = line.is_empty() && length <= MAX_LINE;
            let (data, used): (&[u8], usize) = match (first, rest) {
                (255, []) | (255, [251..=254]) => break,
                (255, [255, ..]) => (&[255], 2),
                (255, [command @ 251..=254, option, ..]) => {
                    events.push(Event::Answer([255, if *command < 253 { 254 } else { 252 }, *option]));
                    (&[], 3)
                }
                (255, [250, ..]) => {
                    let mut end = index + 2;
                    while length < MAX_LINE && end < bytes.len() && !bytes[end..].starts_with(&[255, 240]) {
                        let pair = if bytes[end] == 255 { 2 } else { 1 };
                        end += pair.min(MAX_LINE - length).min(bytes.len() - end);
                        length += pair.min(MAX_LINE - length);
                    }
                    if length < MAX_LINE && bytes[end..].starts_with(&[255, 240]) {
                        (length, end) = (length + 1, end + 2);
                    }
                    (&[], end - index)
                }
                (255, [240..=249, ..]) => (&[], 2),
                (255, _) if fresh => (&[], 1),
                (240..=254, _) if fresh => (&[], 1),
                _ => (std::slice::from_ref(first), 1),
            };
            index += used;
            for byte in data {
                length += 1;
                line.push(*byte);
                if *byte == b'\n' {
                    let text = line.strip_suffix(b"\r\n").or(line.strip_suffix(b"\n")).unwrap();
                    let after_cr = |index: usize| index > 0 && text[index - 1] == b'\r';
                    let kept = (0..text.len()).filter(|index| text[*index] != 0 || !after_cr(*index));
                    let text: Vec<u8> = kept.map(|index| text[index]).collect();
                    events.push(if length > MAX_LINE { Event::TooLong } else { as_line(text) });
                    (line, length) = (Vec::new(), 0);
                }
            }
        }
        events
    }

    /// Control-connection bytes: mostly the ones the rules are about, now and then a run around the cap.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            4 => prop_oneof![Just(b'\r'), Just(b'\n'), Just(0u8), Just(255u8)],
            3 => 236u8..=255,
            2 => any::<u8>(),
        ];
        let piece = prop_oneof![
            12 => proptest::collection::vec(byte, 0..24),
            1 => (MAX_LINE - 8..MAX_LINE + 8, prop_oneof![Just(b'x'), Just(b'\r')]).prop_map(|(n, b)| vec![b; n]),
            2 => Just(b"ABOR\r\n".to_vec()),
        ];
        proptest::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn agrees_with_the_reference(bytes in stream()) {
            prop_assert_eq!(decode(&bytes), reference(&bytes));
        }

        #[test]
        fn any_chunking_gives_the_same(bytes in stream(), sizes in proptest::collection::vec(1usize..40, 1..20), lazy in any::<bool>()) {
            let mut decoder = LineDecoder::new();
            let (mut events, mut rest, mut sizes) = (Vec::new(), bytes.as_slice(), sizes.iter().cycle());
            while !rest.is_empty() {
                let (chunk, behind) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
                decoder.push(chunk);
                // Half the time one event is taken per push and the rest piles up, as it does while a transfer runs.
                let taken = if lazy { 1 } else { usize::MAX };
                for _ in 0..taken {
                    let Some(decoded) = decoder.next() else { break };
                    events.push(decoded);
                }
                rest = behind;
            }
            while let Some(decoded) = decoder.next() {
                events.push(decoded);
            }
            let mut whole = LineDecoder::new();
            whole.push(&bytes);
            let expected: Vec<Decoded> = std::iter::from_fn(|| whole.next()).collect();
            prop_assert_eq!(events, expected);
            prop_assert_eq!(decoder.is_empty(), whole.is_empty());
        }
    }
}
