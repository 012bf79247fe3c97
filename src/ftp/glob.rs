//! The wildcards of LIST and NLST: `*`, `?`, `[set]` and `\`, over one name, in bounded time.
//!
//! No braces and no recursion, and a `/` never stands in the names matched: what made globbing in FTP servers a denial
//! of service (CVE-2011-0762, CVE-2010-2632) has no form here.

/// Longest pattern, in bytes: a name has 255.
pub const MAX_PATTERN: usize = 256;

/// Does this hold a character that makes it a pattern?
///
/// Also true for `\*`: it takes a [`Pattern`] to read that as the name `*`. A name that has such characters is best
/// looked up as it stands first.
pub fn has_wildcard(bytes: &[u8]) -> bool {
    bytes.iter().any(|byte| matches!(byte, b'*' | b'?' | b'['))
}

/// A pattern, read once and matched against many names.
///
/// `*` is any number of bytes, `?` one byte, `[a-z]` one of a set and `[!a-z]` or `[^a-z]` one outside of it; `]` first
/// in a set is a member, and a `[` that nothing closes is itself. `\` takes the meaning from what follows. Bytes, not
/// characters: a letter of two bytes is `??`.
#[derive(Debug, Clone)]
pub struct Pattern {
    /// Never two [`Token::AnyNumber`] in a row.
    tokens: Vec<Token>,
}

#[derive(Debug, Clone)]
enum Token {
    Byte(u8),
    AnyByte,
    AnyNumber,
    Set(ByteSet),
}

/// Which bytes: bit n of the 256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ByteSet {
    low: u128,
    high: u128,
}

impl Pattern {
    /// Reads a pattern; `None` when it is longer than [`MAX_PATTERN`].
    pub fn new(pattern: &[u8]) -> Option<Self> {
        if pattern.len() > MAX_PATTERN {
            return None;
        }
        let mut tokens = Vec::with_capacity(pattern.len());
        let mut rest = pattern;
        while let [first, behind @ ..] = rest {
            rest = behind;
            let token = match (first, behind) {
                (b'*', _) => Token::AnyNumber,
                (b'?', _) => Token::AnyByte,
                (b'\\', [escaped, behind @ ..]) => {
                    rest = behind;
                    Token::Byte(*escaped)
                }
                (b'[', _) => match ByteSet::parse(behind) {
                    Some((set, behind)) => {
                        rest = behind;
                        Token::Set(set)
                    }
                    None => Token::Byte(b'['),
                },
                (byte, _) => Token::Byte(*byte),
            };
            if !matches!((&token, tokens.last()), (Token::AnyNumber, Some(Token::AnyNumber))) {
                tokens.push(token);
            }
        }
        Some(Self { tokens })
    }

    /// Does the whole name match? Takes at most (pattern + 1) × (name + 1) steps.
    pub fn matches(&self, name: &[u8]) -> bool {
        self.matches_in_steps(name).0
    }

    /// Only the last star seen can be made to take one byte more: what an earlier one could take, the last can too. So
    /// there is one place to come back to, and it moves through the name only once.
    fn matches_in_steps(&self, name: &[u8]) -> (bool, usize) {
        let (mut token_index, mut name_index, mut steps) = (0, 0, 0);
        let mut last_star: Option<(usize, usize)> = None;
        loop {
            steps += 1;
            let byte = name.get(name_index);
            match (self.tokens.get(token_index), byte) {
                (None, None) => return (true, steps),
                (Some(Token::AnyNumber), _) => {
                    token_index += 1;
                    last_star = Some((token_index, name_index));
                }
                (Some(token), Some(byte)) if token.takes(*byte) => {
                    token_index += 1;
                    name_index += 1;
                }
                (_, None) => return (false, steps),
                (_, Some(_)) => {
                    let Some((behind_star, taken)) = last_star else { return (false, steps) };
                    last_star = Some((behind_star, taken + 1));
                    (token_index, name_index) = (behind_star, taken + 1);
                }
            }
        }
    }
}

impl Token {
    fn takes(&self, byte: u8) -> bool {
        match self {
            Self::Byte(own) => *own == byte,
            Self::AnyByte | Self::AnyNumber => true,
            Self::Set(set) => set.contains(byte),
        }
    }
}

impl ByteSet {
    /// Reads a set behind its `[`, and gives what stands behind its `]`.
    fn parse(text: &[u8]) -> Option<(Self, &[u8])> {
        let (negated, mut rest) = match text {
            [b'!' | b'^', rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        let mut set = Self { low: 0, high: 0 };
        let mut first = true;
        loop {
            if let ([b']', behind @ ..], false) = (rest, first) {
                let set = if negated { Self { low: !set.low, high: !set.high } } else { set };
                return Some((set, behind));
            }
            first = false;
            let (from, behind) = member(rest)?;
            (rest, set) = match behind {
                [b'-', end @ ..] if !end.is_empty() && !end.starts_with(b"]") => {
                    let (to, behind) = member(end)?;
                    (behind, set.with(from, to))
                }
                _ => (behind, set.with(from, from)),
            };
        }
    }

    fn with(mut self, from: u8, to: u8) -> Self {
        for byte in from..=to {
            let bit = 1 << (byte % 128);
            if byte < 128 {
                self.low |= bit;
            } else {
                self.high |= bit;
            }
        }
        self
    }

    fn contains(self, byte: u8) -> bool {
        let half = if byte < 128 { self.low } else { self.high };
        half >> (byte % 128) & 1 == 1
    }
}

/// One member of a set, its escape removed.
fn member(text: &[u8]) -> Option<(u8, &[u8])> {
    match text {
        [b'\\', escaped, rest @ ..] => Some((*escaped, rest)),
        [byte, rest @ ..] => Some((*byte, rest)),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &[u8], name: &[u8]) -> bool {
        Pattern::new(pattern).unwrap().matches(name)
    }

    #[test]
    fn wildcards() {
        type Names<'a> = &'a [&'a [u8]];
        let table: &[(&[u8], Names<'_>, Names<'_>)] = &[
            (b"*", &[b"", b"a", b".hidden", b"\xFF"], &[]),
            (b"*.txt", &[b".txt", b"a.txt", b"a.txt.txt"], &[b"a.txt~", b"txt"]),
            (b"a*b*c", &[b"abc", b"aXbXc", b"abbcc"], &[b"ab", b"acb", b"abcd"]),
            (b"?", &[b"a", b"*"], &[b"", b"ab"]),
            (b"a?c", &[b"abc", b"a?c"], &[b"ac", b"abbc"]),
            (b"[a-c]x", &[b"ax", b"cx"], &[b"dx", b"x", b"-x"]),
            (b"[!a-c]", &[b"d", b"-", b"\xE4"], &[b"a", b""]),
            (b"[^a]", &[b"b", b"^"], &[b"a"]),
            (b"[]a]", &[b"]", b"a"], &[b"b"]),
            (b"[!]a]", &[b"b"], &[b"]", b"a"]),
            (b"[a-]", &[b"a", b"-"], &[b"b"]),
            (b"[\\]-a]", &[b"]", b"^", b"a"], &[b"\\", b"b"]),
            (b"[z-a]", &[], &[b"a", b"m", b"z", b"-"]),
            (b"[\x00-\xFF]", &[b"a", b"\xFF"], &[b"", b"ab"]),
            (b"[ab", &[b"[ab"], &[b"a"]),
            (b"[", &[b"["], &[b""]),
            (b"[]", &[b"[]"], &[b"["]),
            (b"\\*", &[b"*"], &[b"a", b"\\*"]),
            (b"a\\", &[b"a\\"], &[b"a"]),
            (b"", &[b""], &[b"a"]),
            (b"{a,b}", &[b"{a,b}"], &[b"a"]),
        ];
        for (pattern, matching, other) in table {
            for name in *matching {
                assert!(matches(pattern, name), "{} {}", pattern.escape_ascii(), name.escape_ascii());
            }
            for name in *other {
                assert!(!matches(pattern, name), "{} {}", pattern.escape_ascii(), name.escape_ascii());
            }
        }
    }

    #[test]
    fn finds_wildcards() {
        for pattern in [&b"*"[..], b"a?", b"[", b"\\*"] {
            assert!(has_wildcard(pattern));
        }
        for name in [&b""[..], b"a", b"]", b"{a,b}", b"a\\b", b"~"] {
            assert!(!has_wildcard(name));
        }
    }

    #[test]
    fn long_patterns_are_refused() {
        assert!(Pattern::new(&[b'*'; MAX_PATTERN]).is_some());
        assert!(Pattern::new(&[b'a'; MAX_PATTERN + 1]).is_none());
    }

    #[test]
    fn the_worst_patterns_take_bounded_steps() {
        let name = [b'a'; 255];
        for pattern in [
            b"*".repeat(255),
            [b"*".repeat(255), b"b".to_vec()].concat(),
            [b"*a".repeat(127), b"*b".to_vec()].concat(),
            [b"*?".repeat(127), b"b".to_vec()].concat(),
            [b"*".to_vec(), b"a".repeat(127), b"b".to_vec()].concat(),
            [b"*[a-z]".repeat(42), b"b".to_vec()].concat(),
        ] {
            let (_, steps) = Pattern::new(&pattern).unwrap().matches_in_steps(&name);
            assert!(steps <= (pattern.len() + 1) * (name.len() + 1), "{} {steps}", pattern.escape_ascii());
        }
    }

    /// What the tokens mean, by recursion.
    fn reference(tokens: &[Token], name: &[u8]) -> bool {
        match (tokens, name) {
            ([], []) => true,
            ([Token::AnyNumber, rest @ ..], _) => (0..=name.len()).any(|taken| reference(rest, &name[taken..])),
            ([token, rest @ ..], [byte, behind @ ..]) => token.takes(*byte) && reference(rest, behind),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_reference(pattern in "[ab*?]{0,10}(\\[[!^]?[ab\\]-]{0,3}\\]?)?[ab*?]{0,4}", name in "[ab\\]-]{0,12}") {
            let pattern = Pattern::new(pattern.as_bytes()).unwrap();
            prop_assert_eq!(pattern.matches(name.as_bytes()), reference(&pattern.tokens, name.as_bytes()));
        }

        #[test]
        fn steps_are_bounded(pattern in proptest::collection::vec(prop_oneof![Just(b'*'), Just(b'a'), Just(b'?'), any::<u8>()], 0..=256),
                             name in proptest::collection::vec(prop_oneof![8 => Just(b'a'), 1 => any::<u8>()], 0..=255)) {
            let (_, steps) = Pattern::new(&pattern).unwrap().matches_in_steps(&name);
            prop_assert!(steps <= (pattern.len() + 1) * (name.len() + 1));
        }

        #[test]
        fn an_escaped_name_matches_itself_only(name in proptest::collection::vec(any::<u8>(), 0..100), other in any::<Vec<u8>>()) {
            let pattern: Vec<u8> = name.iter().flat_map(|byte| [b'\\', *byte]).collect();
            prop_assert!(matches(&pattern, &name));
            prop_assert_eq!(matches(&pattern, &other), name == other);
        }

        #[test]
        fn a_set_is_its_ranges(from in any::<u8>(), to in any::<u8>(), byte in any::<u8>()) {
            let pattern = [b'[', b'\\', from, b'-', b'\\', to, b']'];
            prop_assert_eq!(matches(&pattern, &[byte]), (from..=to).contains(&byte));
            let negated = [b'[', b'!', b'\\', from, b'-', b'\\', to, b']'];
            prop_assert_eq!(matches(&negated, &[byte]), !(from..=to).contains(&byte));
        }
    }
}
