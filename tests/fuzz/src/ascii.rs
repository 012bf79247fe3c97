//! Line ends of TYPE A: the same whatever the chunks, and there and back again.

use ftps2sftp::ftp::ascii::{FromNetwork, ToNetwork};

use super::input::Input;

/// Three chunk sizes, which take turns; then the text.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let sizes = [input.byte(), input.byte(), input.byte()].map(|size| usize::from(size % 32));
    let text = input.rest();

    let sent = to_network(text.chunks(text.len().max(1)));
    assert_eq!(sent, reference_to_network(text));
    assert!(sent.len() <= 2 * text.len());
    assert_eq!(to_network(text.chunks(1)), sent);
    assert_eq!(to_network(cut(text, sizes)), sent);

    let stored = from_network(text.chunks(text.len().max(1)));
    assert_eq!(stored, reference_from_network(text));
    assert_eq!(from_network(text.chunks(1)), stored);
    assert_eq!(from_network(cut(text, sizes)), stored);

    let back = from_network(cut(&sent, sizes));
    assert_eq!(back, stored, "sent and stored again, it has lost more than the line ends it came with");
    if !text.contains(&b'\r') {
        assert_eq!(back, text, "text of lines does not come back as it was");
    }
}

fn to_network<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let (mut converter, mut output) = (ToNetwork::new(), Vec::new());
    chunks.for_each(|chunk| converter.convert(chunk, &mut output));
    output
}

fn from_network<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let (mut converter, mut output) = (FromNetwork::new(), Vec::new());
    chunks.for_each(|chunk| converter.convert(chunk, &mut output));
    converter.finish(&mut output);
    output
}

/// Chunks of these sizes in turn, empty ones too.
fn cut(text: &[u8], sizes: [usize; 3]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    let least_one = [sizes[0] + 1, sizes[1], sizes[2]];
    least_one.into_iter().cycle().map_while(move |size| {
        let (chunk, behind) = rest.split_at(size.min(rest.len()));
        let more = !rest.is_empty();
        rest = behind;
        more.then_some(chunk)
    })
}

fn reference_to_network(text: &[u8]) -> Vec<u8> {
    let mut sent = Vec::with_capacity(2 * text.len());
    for byte in text {
        if *byte == b'\n' && sent.last() != Some(&b'\r') {
            sent.push(b'\r');
        }
        sent.push(*byte);
    }
    sent
}

fn reference_from_network(text: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(text.len());
    for byte in text {
        // Of CR CR LF one CR goes: the one that stands before the LF came last.
        if *byte == b'\n' && stored.last() == Some(&b'\r') {
            stored.pop();
        }
        stored.push(*byte);
    }
    stored
}
