//! Wildcards: the matcher of one pass agrees with one that tries everything.

use ftps2sftp::ftp::glob::{MAX_PATTERN, Pattern, has_wildcard};

use super::input::unfold;

/// A pattern, then names, each behind a line end.
pub fn run(bytes: &[u8]) {
    let text = unfold(bytes, 4 * MAX_PATTERN);
    let mut lines = text.split(|byte| *byte == b'\n');
    let pattern = lines.next().unwrap_or_default();
    let compiled = Pattern::new(pattern);
    assert_eq!(compiled.is_none(), pattern.len() > MAX_PATTERN);
    let Some(compiled) = compiled else { return };
    // A name of a file has 255 bytes; the slow matcher takes as many steps for each byte of the pattern.
    for name in lines.take(8).filter(|name| name.len() <= 2 * MAX_PATTERN) {
        let (matches, reference) = (compiled.matches(name), reference(pattern, name));
        assert_eq!(matches, reference, "{} and {}", pattern.escape_ascii(), name.escape_ascii());
        if !has_wildcard(pattern) && !pattern.contains(&b'\\') {
            assert_eq!(matches, pattern == name);
        }
    }
}

/// Goes through the pattern once and keeps every place in the name that its front can reach.
fn reference(pattern: &[u8], name: &[u8]) -> bool {
    let mut reached = vec![false; name.len() + 1];
    reached[0] = true;
    let mut rest = pattern;
    while let Some((first, behind)) = rest.split_first() {
        let (accepted, behind): (Box<dyn Fn(u8) -> bool>, &[u8]) = match (first, behind) {
            (b'*', _) => {
                for place in 1..reached.len() {
                    reached[place] |= reached[place - 1];
                }
                rest = behind;
                continue;
            }
            (b'?', _) => (Box::new(|_| true), behind),
            (b'\\', [escaped, behind @ ..]) => (Box::new(move |byte| byte == *escaped), behind),
            (b'[', _) => match set(behind) {
                Some((members, behind)) => (Box::new(move |byte| members.contains(&byte)), behind),
                None => (Box::new(|byte| byte == b'['), behind),
            },
            (own, _) => (Box::new(move |byte| byte == *own), behind),
        };
        for place in (1..reached.len()).rev() {
            reached[place] = reached[place - 1] && accepted(name[place - 1]);
        }
        reached[0] = false;
        rest = behind;
    }
    reached[name.len()]
}

/// The members of a set that begins behind `[`, and what is behind its `]`.
fn set(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let negated = matches!(text.first(), Some(b'!' | b'^'));
    let mut rest = if negated { &text[1..] } else { text };
    let mut members = Vec::new();
    loop {
        if rest.first() == Some(&b']') && !members.is_empty() {
            break;
        }
        let (from, behind) = literal(rest)?;
        rest = behind;
        let mut to = from;
        if let [b'-', end @ ..] = rest
            && !matches!(end.first(), None | Some(b']'))
        {
            (to, rest) = literal(end)?;
        }
        // A range that is written backwards holds nothing, and is a member all the same: a `]` may follow it.
        members.push((from, to));
    }
    let holds = |byte: u8| members.iter().any(|(from, to)| (*from..=*to).contains(&byte));
    Some(((0..=255).filter(|byte| holds(*byte) != negated).collect(), &rest[1..]))
}

fn literal(text: &[u8]) -> Option<(u8, &[u8])> {
    match text {
        [b'\\', escaped, rest @ ..] => Some((*escaped, rest)),
        [byte, rest @ ..] => Some((*byte, rest)),
        [] => None,
    }
}
