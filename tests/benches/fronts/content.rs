//! What is in the files: bytes that no part of the way can make shorter, known at every position, so that whatever
//! arrives can be compared while it arrives, at the price of a comparison in memory.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

/// Length of what is repeated. Not a multiple of any block on the way: a block in the wrong place is seen.
const PERIOD: usize = 1024 * 1024 + 4099;

/// Bytes handed out at a time.
const PIECE: usize = 256 * 1024;

/// Endless content.
pub(crate) struct Content(Vec<u8>);

impl Content {
    pub(crate) fn new() -> Self {
        let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut bytes = Vec::with_capacity(PERIOD + 8);
        while bytes.len() < PERIOD {
            // Xorshift (Marsaglia 2003).
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend(state.to_le_bytes());
        }
        bytes.truncate(PERIOD);
        Self(bytes)
    }

    /// Some bytes from `position` on, at least one and at most `limit`.
    pub(crate) fn piece(&self, position: u64, limit: u64) -> &[u8] {
        let start = usize::try_from(position % PERIOD as u64).unwrap_or(0);
        let length = usize::try_from(limit).unwrap_or(usize::MAX).min(PIECE).min(PERIOD - start);
        &self.0[start..start + length]
    }

    /// Are these the bytes from `position` on?
    pub(crate) fn matches(&self, mut position: u64, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let expected = self.piece(position, bytes.len() as u64);
            let (front, rest) = bytes.split_at(expected.len());
            if front != expected {
                return false;
            }
            position += front.len() as u64;
            bytes = rest;
        }
        true
    }

    /// Makes a file of `length` bytes from `start` on.
    pub(crate) fn write(&self, path: &Path, start: u64, length: u64) -> io::Result<()> {
        let mut file = File::create(path)?;
        let mut position = start;
        while position < start + length {
            let piece = self.piece(position, start + length - position);
            file.write_all(piece)?;
            position += piece.len() as u64;
        }
        Ok(())
    }

    /// Does the file hold `length` bytes from `start` on, and nothing else?
    pub(crate) fn check(&self, path: &Path, start: u64, length: u64) -> super::Outcome<()> {
        let mut file = File::open(path)?;
        let mut buffer = vec![0; PIECE];
        let mut position = start;
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            if !self.matches(position, &buffer[..count]) {
                return Err(format!("{}: wrong bytes after {}", path.display(), position - start).into());
            }
            position += count as u64;
        }
        if position - start == length {
            Ok(())
        } else {
            Err(format!("{}: {} bytes and not {length}", path.display(), position - start).into())
        }
    }
}
