//! Takes a fuzzer's bytes apart: into choices, and into text that may name a long run in three bytes.

/// In front of a count and a byte: that byte, [`STEP`] times the count. A C0 character no client has a use for.
const RUN: u8 = 0x1e;

/// Multiples of it come close to every bound, and literal bytes behind the run exactly there.
const STEP: usize = 16;

/// What is left of the fuzzer's bytes. Behind their end every choice is zero.
#[derive(Debug, Clone)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of them.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number of any size: how many bytes it has, then these.
    pub fn number(&mut self) -> u64 {
        let length = self.byte() % 9;
        (0..length).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    /// As [`Input::number`], as far as 32 bits hold.
    pub fn number32(&mut self) -> u32 {
        u32::try_from(self.number() & u64::from(u32::MAX)).unwrap_or_default()
    }

    /// A piece of at most 255 bytes: its length, then the bytes.
    pub fn piece(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()).min(self.0.len());
        let (piece, rest) = self.0.split_at(length);
        self.0 = rest;
        piece
    }

    /// Everything that is left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Is nothing left?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The text that `bytes` stand for, cut off at `longest`: just beyond the bounds of what reads it.
pub fn unfold(bytes: &[u8], longest: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while text.len() < longest {
        rest = match rest {
            [RUN, count, byte, behind @ ..] => {
                text.resize(text.len() + STEP * usize::from(*count), *byte);
                behind
            }
            [byte, behind @ ..] => {
                text.push(*byte);
                behind
            }
            [] => break,
        };
    }
    text.truncate(longest);
    text
}
