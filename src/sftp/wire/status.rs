//! Status codes (draft-ietf-secsh-filexfer-02 §7), with the later drafts' codes that some version 3 servers send.

use std::fmt;

/// A status code, known or not: an unknown one is kept, never an error of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StatusCode(pub u32);

impl StatusCode {
    /// Done as asked.
    pub const OK: Self = Self(0);
    /// End of file, or of a directory.
    pub const EOF: Self = Self(1);
    /// No such file; OpenSSH also says so for ENOTDIR and ELOOP.
    pub const NO_SUCH_FILE: Self = Self(2);
    /// Not allowed.
    pub const PERMISSION_DENIED: Self = Self(3);
    /// Anything else; OpenSSH folds ENOSPC, EDQUOT, EEXIST, ENOTEMPTY and more into it.
    pub const FAILURE: Self = Self(4);
    /// The packet was not understood; OpenSSH also says so for EINVAL and ENAMETOOLONG.
    pub const BAD_MESSAGE: Self = Self(5);
    /// Never sent by a server in version 3 by the draft: "pseudo-error".
    pub const NO_CONNECTION: Self = Self(6);
    /// Never sent by a server in version 3 by the draft: "pseudo-error".
    pub const CONNECTION_LOST: Self = Self(7);
    /// The server does not do this.
    pub const OP_UNSUPPORTED: Self = Self(8);
    /// The handle is not one of the server's (version 4).
    pub const INVALID_HANDLE: Self = Self(9);
    /// A directory of the path is missing (version 4).
    pub const NO_SUCH_PATH: Self = Self(10);
    /// The target exists (version 4).
    pub const FILE_ALREADY_EXISTS: Self = Self(11);
    /// The medium is write-protected (version 4).
    pub const WRITE_PROTECT: Self = Self(12);
    /// No medium in the drive (version 4).
    pub const NO_MEDIA: Self = Self(13);
    /// The file system is full (version 5).
    pub const NO_SPACE_ON_FILESYSTEM: Self = Self(14);
    /// The user's quota is used up (version 5).
    pub const QUOTA_EXCEEDED: Self = Self(15);

    /// The draft's name, without its prefix.
    pub fn name(self) -> Option<&'static str> {
        const NAMES: [&str; 16] = [
            "OK",
            "EOF",
            "NO_SUCH_FILE",
            "PERMISSION_DENIED",
            "FAILURE",
            "BAD_MESSAGE",
            "NO_CONNECTION",
            "CONNECTION_LOST",
            "OP_UNSUPPORTED",
            "INVALID_HANDLE",
            "NO_SUCH_PATH",
            "FILE_ALREADY_EXISTS",
            "WRITE_PROTECT",
            "NO_MEDIA",
            "NO_SPACE_ON_FILESYSTEM",
            "QUOTA_EXCEEDED",
        ];
        NAMES.get(self.0 as usize).copied()
    }
}

impl fmt::Display for StatusCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(formatter, "{name} ({})", self.0),
            None => write!(formatter, "status {}", self.0),
        }
    }
}

/// The longest message of a server that is shown: enough for a sentence, too little to flood a log.
const MAX_MESSAGE: usize = 256;

/// A server's text made safe to print: bounded, control characters and bytes that are not UTF-8 escaped.
pub fn printable(text: &[u8]) -> String {
    let mut output = String::new();
    for chunk in text.get(..MAX_MESSAGE).unwrap_or(text).utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                output.extend(character.escape_default());
            } else {
                output.push(character);
            }
        }
        output.push_str(&chunk.invalid().escape_ascii().to_string());
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_codes_have_names_and_unknown_codes_keep_their_number() {
        assert_eq!(StatusCode::QUOTA_EXCEEDED.to_string(), "QUOTA_EXCEEDED (15)");
        assert_eq!(StatusCode(4711).to_string(), "status 4711");
    }

    #[test]
    fn messages_are_bounded_and_cannot_break_a_line() {
        assert_eq!(printable(b"r\xe4k\r\n\x1b[2J \xc3\xa4"), "r\\xe4k\\r\\n\\u{1b}[2J ä");
        assert_eq!(printable(&[b'x'; 5000]).len(), MAX_MESSAGE);
    }
}
