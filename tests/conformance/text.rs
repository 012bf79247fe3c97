//! Bytes as a table writes them, and patterns for what is told.

/// What `{name}` stands for.
pub(crate) type Meanings<'a> = &'a dyn Fn(&str) -> Option<Vec<u8>>;

/// Undoes the escapes: `\r \n \t \0 \s` (space), `\xHH`, `\` and another character for itself, `{text*count}`, and
/// `{name}` for what only the run knows.
pub(crate) fn bytes(text: &str, meanings: Meanings<'_>) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        rest = &rest[first.len_utf8()..];
        match first {
            '\\' => {
                let escaped = rest.chars().next().ok_or_else(|| format!("`{text}` ends in the middle of an escape"))?;
                rest = &rest[escaped.len_utf8()..];
                match escaped {
                    'r' => bytes.push(b'\r'),
                    'n' => bytes.push(b'\n'),
                    't' => bytes.push(b'\t'),
                    '0' => bytes.push(0),
                    's' => bytes.push(b' '),
                    'x' => {
                        let digits = rest.get(..2).ok_or_else(|| format!("`{text}`: two digits after \\x"))?;
                        bytes.push(u8::from_str_radix(digits, 16).map_err(|error| format!("`{text}`: {error}"))?);
                        rest = &rest[2..];
                    }
                    other => bytes.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
                }
            }
            '{' => {
                let end = rest.find('}').ok_or_else(|| format!("`{text}`: no }} behind {{"))?;
                let inner = &rest[..end];
                rest = &rest[end + 1..];
                match inner.rsplit_once('*') {
                    Some((repeated, count)) => {
                        let count = count.parse().map_err(|error| format!("`{text}`: {error}"))?;
                        bytes.extend(self::bytes(repeated, meanings)?.repeat(count));
                    }
                    None => bytes.extend(meanings(inner).ok_or_else(|| format!("`{text}`: no {{{inner}}} is known"))?),
                }
            }
            other => bytes.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Ok(bytes)
}

/// For texts without `{name}`.
pub(crate) fn no_meanings(_name: &str) -> Option<Vec<u8>> {
    None
}

/// Does `told` contain these texts in this order? They are what stands between the `*` of a pattern.
pub(crate) fn contains(told: &[u8], pattern: &str, meanings: Meanings<'_>) -> Result<bool, String> {
    let mut rest = told;
    for piece in pieces(pattern) {
        let piece = bytes(piece, meanings)?;
        let Some(at) = rest.windows(piece.len().max(1)).position(|window| piece.is_empty() || window == piece) else {
            if piece.is_empty() {
                continue;
            }
            return Ok(false);
        };
        rest = &rest[at + piece.len()..];
    }
    Ok(true)
}

/// Is this name what the pattern says from end to end? One `*` at most.
pub(crate) fn is_named(name: &[u8], pattern: &str) -> Result<bool, String> {
    match pieces(pattern).as_slice() {
        [whole] => Ok(name == bytes(whole, &no_meanings)?),
        [begin, end] => {
            let (begin, end) = (bytes(begin, &no_meanings)?, bytes(end, &no_meanings)?);
            Ok(name.len() >= begin.len() + end.len() && name.starts_with(&begin) && name.ends_with(&end))
        }
        _ => Err(format!("`{pattern}`: more than one *")),
    }
}

/// At each `*` that is not inside of braces.
fn pieces(pattern: &str) -> Vec<&str> {
    let mut inside = false;
    pattern
        .split(|character| {
            match character {
                '{' => inside = true,
                '}' => inside = false,
                _ => {}
            }
            character == '*' && !inside
        })
        .collect()
}

/// Words between spaces; what is in quotes is of one word, quotes included.
pub(crate) fn words(text: &str) -> Vec<&str> {
    let (mut words, mut begin, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ' ' if !quoted => {
                words.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    words.push(&text[begin..]);
    words.into_iter().filter(|word| !word.is_empty()).collect()
}

/// `"…"` without its quotes.
pub(crate) fn unquoted(text: &str) -> Result<&str, String> {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).ok_or_else(|| format!("`{text}` is not in quotes"))
}
