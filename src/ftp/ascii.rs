//! Line ends of TYPE A: CR LF on the wire, LF in the file (RFC 959 §3.1.1.1).
//!
//! Only complete line ends are touched. A lone CR stays in both directions, a lone LF that was uploaded stays, and a
//! CR LF that is already in a file is sent as it is, so that files from DOS are not sent with CR CR LF.

use memchr::memchr_iter;

/// File to wire: LF becomes CR LF, unless a CR stands before it.
#[derive(Debug, Clone, Default)]
pub struct ToNetwork {
    /// The last byte converted was CR.
    after_carriage_return: bool,
}

/// Wire to file: CR LF becomes LF.
#[derive(Debug, Clone, Default)]
pub struct FromNetwork {
    /// The last byte was CR, and what follows says whether it is kept.
    held_carriage_return: bool,
}

impl ToNetwork {
    /// At the start of a file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends what `input`, the next bytes of the file, is on the wire: at most twice as much.
    pub fn convert(&mut self, input: &[u8], output: &mut Vec<u8>) {
        output.reserve(input.len());
        let mut start = 0;
        for line_feed in memchr_iter(b'\n', input) {
            let line = input.get(start..line_feed).unwrap_or_default();
            output.extend_from_slice(line);
            if !line.last().map_or(self.after_carriage_return, |byte| *byte == b'\r') {
                output.push(b'\r');
            }
            output.push(b'\n');
            start = line_feed + 1;
            self.after_carriage_return = false;
        }
        let rest = input.get(start..).unwrap_or_default();
        output.extend_from_slice(rest);
        if let Some(last) = rest.last() {
            self.after_carriage_return = *last == b'\r';
        }
    }
}

impl FromNetwork {
    /// At the start of a file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends what `input`, the next bytes from the wire, is in the file: at most one byte more. A CR at the end of
    /// `input` is held until more is known.
    pub fn convert(&mut self, input: &[u8], output: &mut Vec<u8>) {
        let Some(first) = input.first() else { return };
        output.reserve(input.len() + 1);
        if self.held_carriage_return && *first != b'\n' {
            output.push(b'\r');
        }
        self.held_carriage_return = input.ends_with(b"\r");
        let end = input.len() - usize::from(self.held_carriage_return);
        let mut start = 0;
        for line_feed in memchr_iter(b'\n', input) {
            let line = input.get(start..line_feed).unwrap_or_default();
            output.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
            output.push(b'\n');
            start = line_feed + 1;
        }
        output.extend_from_slice(input.get(start..end).unwrap_or_default());
    }

    /// At the end of the file: appends a CR that was held.
    pub fn finish(&mut self, output: &mut Vec<u8>) {
        if std::mem::take(&mut self.held_carriage_return) {
            output.push(b'\r');
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn down<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let (mut converter, mut output) = (ToNetwork::new(), Vec::new());
        chunks.into_iter().for_each(|chunk| converter.convert(chunk, &mut output));
        output
    }

    fn up<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let (mut converter, mut output) = (FromNetwork::new(), Vec::new());
        chunks.into_iter().for_each(|chunk| converter.convert(chunk, &mut output));
        converter.finish(&mut output);
        output
    }

    #[test]
    fn downloads() {
        for (file, wire) in [
            (&b"a\nb\n"[..], &b"a\r\nb\r\n"[..]),
            (b"a\r\nb", b"a\r\nb"),
            (b"\n\n", b"\r\n\r\n"),
            (b"\r\n\n", b"\r\n\r\n"),
            (b"a\rb\r", b"a\rb\r"),
            (b"\r\r\n", b"\r\r\n"),
            (b"", b""),
        ] {
            assert_eq!(down([file]), wire);
            assert_eq!(down(file.chunks(1)), wire);
        }
    }

    #[test]
    fn uploads() {
        for (wire, file) in [
            (&b"a\r\nb\r\n"[..], &b"a\nb\n"[..]),
            (b"a\nb", b"a\nb"),
            (b"a\rb", b"a\rb"),
            (b"a\r", b"a\r"),
            (b"\r\r\n", b"\r\n"),
            (b"\r\r", b"\r\r"),
            (b"\r\n\r\n", b"\n\n"),
            (b"", b""),
        ] {
            assert_eq!(up([wire]), file);
            assert_eq!(up(wire.chunks(1)), file);
        }
    }

    #[test]
    fn a_held_cr_survives_an_empty_chunk() {
        assert_eq!(up([&b"a\r"[..], b"", b"\nb"]), b"a\nb");
        assert_eq!(down([&b"a\r"[..], b"", b"\nb"]), b"a\r\nb");
    }

    fn text() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'x'), any::<u8>()], 0..200)
    }

    /// Cuts at the given places, empty chunks included.
    fn cut<'a>(bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
        let mut rest = bytes;
        let mut chunks = Vec::new();
        for size in sizes {
            let (chunk, behind) = rest.split_at((*size).min(rest.len()));
            chunks.push(chunk);
            rest = behind;
        }
        chunks.push(rest);
        chunks
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same(bytes in text(), sizes in proptest::collection::vec(0usize..9, 0..60)) {
            prop_assert_eq!(down(cut(&bytes, &sizes)), down([&bytes[..]]));
            prop_assert_eq!(up(cut(&bytes, &sizes)), up([&bytes[..]]));
        }

        #[test]
        fn agrees_with_replacing_in_the_whole_text(bytes in text()) {
            let (mut wire, mut file) = (Vec::new(), Vec::new());
            for (index, byte) in bytes.iter().enumerate() {
                if *byte == b'\n' && (index == 0 || bytes[index - 1] != b'\r') {
                    wire.push(b'\r');
                }
                wire.push(*byte);
                if *byte != b'\r' || bytes.get(index + 1) != Some(&b'\n') {
                    file.push(*byte);
                }
            }
            prop_assert_eq!(down([&bytes[..]]), wire);
            prop_assert_eq!(up([&bytes[..]]), file);
        }

        #[test]
        fn text_with_lf_only_comes_back(bytes in text()) {
            let file: Vec<u8> = bytes.into_iter().filter(|byte| *byte != b'\r').collect();
            prop_assert_eq!(up([&down([&file[..]])[..]]), file);
        }
    }
}
