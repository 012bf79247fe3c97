//! Digests, computed while the bytes pass, or from a file on the backend.

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA512};
use md5::Digest as _;
use md5::Md5;

use crate::ftp::digest::Algorithm;
use crate::sftp::{BackendPath, File, ReadStream, SftpError};

/// Bytes in flight while a file is read for its digest: it competes with transfers, so it gets less.
const READ_WINDOW: usize = 2 * 1024 * 1024;

/// A digest in the making.
#[derive(Clone)]
pub struct Hasher {
    algorithm: Algorithm,
    state: State,
}

#[derive(Clone)]
enum State {
    Sha(Context),
    Md5(Md5),
    Crc32(crc32fast::Hasher),
}

impl Hasher {
    /// Of no bytes yet.
    pub fn new(algorithm: Algorithm) -> Self {
        let state = match algorithm {
            Algorithm::Sha256 => State::Sha(Context::new(&SHA256)),
            Algorithm::Sha512 => State::Sha(Context::new(&SHA512)),
            Algorithm::Sha1 => State::Sha(Context::new(&SHA1_FOR_LEGACY_USE_ONLY)),
            Algorithm::Md5 => State::Md5(Md5::new()),
            Algorithm::Crc32 => State::Crc32(crc32fast::Hasher::new()),
        };
        Self { algorithm, state }
    }

    /// How it is made.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Takes the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Sha(context) => context.update(bytes),
            State::Md5(hasher) => hasher.update(bytes),
            State::Crc32(hasher) => hasher.update(bytes),
        }
    }

    /// The digest; a checksum in network byte order.
    pub fn finish(self) -> Vec<u8> {
        match self.state {
            State::Sha(context) => context.finish().as_ref().to_vec(),
            State::Md5(hasher) => hasher.finalize().to_vec(),
            State::Crc32(hasher) => hasher.finalize().to_be_bytes().to_vec(),
        }
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Hasher").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// The digest of a whole file as it was transferred, and how to know it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digested {
    /// Where the file is.
    pub path: BackendPath,
    /// Its length.
    pub size: u64,
    /// Its last modification, as the backend told it then.
    pub modified: u32,
    /// How the digest was made.
    pub algorithm: Algorithm,
    /// The digest.
    pub digest: Vec<u8>,
}

impl Digested {
    /// The digest in hexadecimal digits.
    pub fn digest_text(&self) -> String {
        self.digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Reads a file from `start` up to `end`, not included, and makes its digest. Also gives the number of bytes read.
///
/// # Errors
/// What the backend says to READ.
pub async fn of_file(
    file: File,
    algorithm: Algorithm,
    start: u64,
    end: Option<u64>,
) -> Result<(Vec<u8>, u64), SftpError> {
    let mut hasher = Hasher::new(algorithm);
    let mut source = ReadStream::new(file, start, READ_WINDOW);
    if let Some(end) = end {
        source = source.expecting(end);
    }
    let (most, mut read) = (end.map_or(u64::MAX, |end| end.saturating_sub(start)), 0);
    while read < most
        && let Some(mut bytes) = source.next().await?
    {
        bytes.truncate(usize::try_from(most - read).unwrap_or(usize::MAX));
        read += bytes.len() as u64;
        hasher.update(&bytes);
        // Hashing takes the processor for as long as bytes come: others have their turn.
        tokio::task::yield_now().await;
    }
    drop(source);
    Ok((hasher.finish(), read))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_digests_however_the_bytes_are_cut() {
        for (algorithm, expected) in [
            (Algorithm::Md5, "900150983cd24fb0d6963f7d28e17f72"),
            (Algorithm::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (Algorithm::Sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (Algorithm::Crc32, "352441c2"),
            (
                Algorithm::Sha512,
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                 2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            ),
        ] {
            for cut in 0..=3 {
                let mut hasher = Hasher::new(algorithm);
                let (first, second) = b"abc".split_at(cut);
                hasher.update(first);
                hasher.update(second);
                let digest: String = hasher.finish().iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!(digest, expected, "{algorithm:?}");
            }
        }
    }
}
