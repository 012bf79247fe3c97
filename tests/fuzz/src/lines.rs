//! Control-connection bytes to command lines, Telnet included: however they are cut, the same lines, in bounded memory.

use ftps2sftp::ftp::line::{Decoded, LineDecoder, MAX_LINE};
use ftps2sftp::ftp::request::{MAX_VERB, Request};

use super::input::{Input, unfold};

/// Three chunk sizes, which take turns, the first byte's lowest bit for a charset with a letter at 255; then the bytes.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let sizes = [input.byte(), input.byte(), input.byte()].map(|size| usize::from(size) + 1);
    let is_255_a_letter = sizes[0] % 2 == 0;
    let decode = |stream: &[u8], sizes: &[usize], at_a_time| decode(stream, sizes, at_a_time, is_255_a_letter);
    let stream = unfold(input.rest(), MAX_LINE + 64);

    let whole = decode(&stream, &[stream.len().max(1)], usize::MAX);
    // One thing is taken for each chunk and the rest piles up, as it does while a transfer runs.
    assert!(decode(&stream, &sizes, 1) == whole, "chunks of {sizes:?} make other lines");
    if stream.len() < 256 {
        assert!(decode(&stream, &[1], usize::MAX) == whole, "single bytes make other lines");
    }

    for decoded in whole.0 {
        match decoded {
            Decoded::Line(line) => request(&line),
            Decoded::TooLong => {}
            Decoded::Answer(answer) => assert!(matches!(answer, [255, 252 | 254, _]), "{answer:?} refuses nothing"),
        }
    }
}

/// What is found, and whether the decoder then stands at the start of a line.
fn decode(stream: &[u8], sizes: &[usize], at_a_time: usize, is_255_a_letter: bool) -> (Vec<Decoded>, bool) {
    let mut decoder = LineDecoder::new();
    decoder.take_255_for_a_letter(is_255_a_letter);
    let mut found = Vec::new();
    let mut rest = stream;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, behind) = rest.split_at((*size).min(rest.len()));
        decoder.push(chunk);
        rest = behind;
        for _ in 0..at_a_time {
            let Some(decoded) = decoder.next() else {
                assert!(decoder.buffered() <= MAX_LINE, "{} bytes are held for one line", decoder.buffered());
                break;
            };
            found.push(decoded);
        }
    }
    found.extend(std::iter::from_fn(|| decoder.next()));
    (found, decoder.is_empty())
}

fn request(line: &[u8]) {
    assert!(line.len() < MAX_LINE && !line.contains(&b'\n'), "this is no line");
    let Ok(request) = Request::parse(line) else { return };
    let verb = request.verb.as_str();
    assert!((1..=MAX_VERB).contains(&verb.len()) && verb.bytes().all(|byte| !byte.is_ascii_lowercase()));
    let (written, behind) = line.split_at(verb.len());
    assert!(written.eq_ignore_ascii_case(verb.as_bytes()));
    assert_eq!(behind.strip_prefix(b" "), request.argument.as_deref(), "the argument is not verbatim");
}
