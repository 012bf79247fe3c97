//! `ftps2sftp hash-password`: makes the `password_hash` of a user.

use std::io::{self, BufRead, IsTerminal, Write};

use zeroize::Zeroizing;

use crate::config::secret::Secret;
use crate::identity::password::{self, HashError, MAX_PASSWORD_LENGTH};

/// Why no hash was made.
#[derive(Debug, thiserror::Error)]
pub enum HashPasswordError {
    /// Standard input, the terminal or standard output failed.
    #[error("cannot read the password or write its hash")]
    Io(#[from] io::Error),
    /// Nothing was typed, or the first line of standard input is empty.
    #[error("the password is empty")]
    Empty,
    /// The two that were typed are not the same.
    #[error("the passwords are not the same")]
    Different,
    /// It holds a carriage return, a newline or a NUL.
    #[error("the password holds a character that the FTP command PASS cannot carry")]
    ControlCharacter,
    /// Hashing it failed, or it is too long.
    #[error(transparent)]
    Hash(#[from] HashError),
}

/// Asks for a password twice, or takes the first line of standard input where that is no terminal, and prints its hash.
///
/// # Errors
/// Where there is no usable password, or no way to read it.
pub fn run() -> Result<(), HashPasswordError> {
    let input = io::stdin();
    let password = if input.is_terminal() { typed()? } else { first_line(input.lock())? };
    let hash = password::hash(&password)?;
    let mut output = io::stdout().lock();
    writeln!(output, "{hash}")?;
    Ok(output.flush()?)
}

/// From the terminal, without echo.
fn typed() -> Result<Secret, HashPasswordError> {
    let first = Secret::new(rpassword::prompt_password("Password: ")?);
    let first = checked(first)?;
    let second = Secret::new(rpassword::prompt_password("The same again: ")?);
    if first.reveal() == second.reveal() { Ok(first) } else { Err(HashPasswordError::Different) }
}

/// The first line, without its newline. Bytes are taken as they are: a password need not be UTF-8.
fn first_line(input: impl BufRead) -> Result<Secret, HashPasswordError> {
    // One line ending (CR LF) and one byte too many, so that what is too long is seen to be.
    const MAX_LINE: u64 = MAX_PASSWORD_LENGTH as u64 + 3;
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_PASSWORD_LENGTH + 3));
    input.take(MAX_LINE).read_until(b'\n', &mut line)?;
    let password = match line.strip_suffix(b"\n") {
        Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
        None => &line,
    };
    checked(Secret::new(password))
}

fn checked(password: Secret) -> Result<Secret, HashPasswordError> {
    let bytes = password.reveal();
    if bytes.is_empty() {
        return Err(HashPasswordError::Empty);
    }
    if bytes.len() > MAX_PASSWORD_LENGTH {
        return Err(HashError::TooLong.into());
    }
    if bytes.iter().any(|byte| b"\r\n\0".contains(byte)) {
        return Err(HashPasswordError::ControlCharacter);
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_line_is_the_password() {
        for (input, expected) in [
            (b"Zx9!canary\n".as_slice(), b"Zx9!canary".as_slice()),
            (b"Zx9!canary", b"Zx9!canary"),
            (b"Zx9!canary\r\n", b"Zx9!canary"),
            (b" spaces stay \nsecond line\n", b" spaces stay "),
            (b"not \xff UTF-8\n", b"not \xff UTF-8"),
        ] {
            assert_eq!(first_line(input).unwrap().reveal(), expected);
        }
    }

    #[test]
    fn what_cannot_be_a_password_is_refused() {
        for input in [b"".as_slice(), b"\n", b"\r\n", b"\nsecond\n"] {
            assert!(matches!(first_line(input), Err(HashPasswordError::Empty)), "{input:?}");
        }
        for input in [b"a\0b\n".as_slice(), b"a\rb\n", b"a\r"] {
            assert!(matches!(first_line(input), Err(HashPasswordError::ControlCharacter)), "{input:?}");
        }
    }

    #[test]
    fn a_password_has_a_longest_length() {
        for ending in ["", "\n", "\r\n"] {
            let longest = "a".repeat(MAX_PASSWORD_LENGTH) + ending;
            assert_eq!(first_line(longest.as_bytes()).unwrap().reveal().len(), MAX_PASSWORD_LENGTH);
            let longer = "a".repeat(MAX_PASSWORD_LENGTH + 1) + ending;
            let refused = first_line(longer.as_bytes());
            assert!(matches!(refused, Err(HashPasswordError::Hash(HashError::TooLong))));
        }
        let endless = io::BufReader::new(io::repeat(b'a'));
        assert!(matches!(first_line(endless), Err(HashPasswordError::Hash(HashError::TooLong))));
    }

    proptest! {
        #[test]
        fn any_line_is_taken_whole(password in "[^\r\n\0]{1,200}") {
            let taken = first_line(format!("{password}\n").as_bytes()).unwrap();
            prop_assert_eq!(taken.reveal(), password.as_bytes());
        }
    }
}
