//! The forms a stored password hash may have: argon2id in PHC form (RFC 9106), bcrypt and SHA-512-crypt in modular
//! crypt form.
//!
//! Each has a ceiling on its parameters: anyone who can reach the control connection can have a hash computed.

use std::str::FromStr;

use super::PasswordHash;
use super::secret::Secret;

/// Most memory of an argon2id hash, in KiB: RFC 9106 §4 recommends up to 2 GiB, which no server gives each login.
const MAX_ARGON2_MEMORY: u32 = 1024 * 1024;
/// Most work of an argon2id hash, memory in KiB times passes: about three seconds of a core.
const MAX_ARGON2_WORK: u64 = 4 * 1024 * 1024;
/// Highest bcrypt cost: each step doubles the time, and 16 takes about four seconds.
const MAX_BCRYPT_COST: u32 = 16;
/// Most rounds of SHA-512-crypt: the form allows 999,999,999, which takes minutes.
const MAX_SHA512_ROUNDS: u32 = 5_000_000;

/// Why a text is not a password hash that can be used. It holds nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordHashError {
    /// It begins as none of the known forms.
    #[error("is not an argon2id, bcrypt or sha512-crypt hash")]
    UnknownForm,
    /// It begins as this form and then breaks it.
    #[error("is not a complete {0} hash")]
    Malformed(&'static str),
    /// It is well formed and would take too long or too much memory at every login.
    #[error("is too costly: {0}")]
    TooCostly(&'static str),
}

impl PasswordHash {
    /// As it was written.
    pub fn text(&self) -> &Secret {
        match self {
            Self::Argon2id(text) | Self::Bcrypt(text) | Self::Sha512Crypt(text) => text,
        }
    }

    /// Takes a hash in text form.
    ///
    /// # Errors
    /// Where the form is unknown or broken, or its parameters are beyond what a login may cost.
    pub fn parse(text: &str) -> Result<Self, PasswordHashError> {
        if text.starts_with("$argon2id$") {
            argon2_work(text)?;
            Ok(Self::Argon2id(Secret::new(text)))
        } else if ["$2a$", "$2b$", "$2y$"].iter().any(|prefix| text.starts_with(prefix)) {
            bcrypt_cost(text)?;
            Ok(Self::Bcrypt(Secret::new(text)))
        } else if text.starts_with("$6$") {
            sha512_rounds(text)?;
            Ok(Self::Sha512Crypt(Secret::new(text)))
        } else {
            Err(PasswordHashError::UnknownForm)
        }
    }

    /// About how many microseconds of one core a verification takes: good enough to find the costliest of several.
    pub fn work(&self) -> u64 {
        let text = |secret: &Secret| secret.reveal_text().map(str::to_owned).unwrap_or_default();
        // Measured: 0.7 µs for a KiB of argon2id memory and pass, 65 µs for bcrypt at cost 0, 0.32 µs for a round of
        // SHA-512-crypt.
        match self {
            Self::Argon2id(hash) => argon2_work(&text(hash)).unwrap_or(0) * 7 / 10,
            Self::Bcrypt(hash) => 65 << bcrypt_cost(&text(hash)).unwrap_or(0),
            Self::Sha512Crypt(hash) => u64::from(sha512_rounds(&text(hash)).unwrap_or(0)) * 8 / 25,
        }
    }
}

/// Memory in KiB times passes.
fn argon2_work(text: &str) -> Result<u64, PasswordHashError> {
    const MALFORMED: PasswordHashError = PasswordHashError::Malformed("argon2id");
    let hash = argon2::password_hash::phc::PasswordHash::new(text).map_err(|_| MALFORMED)?;
    // What the algorithm itself would refuse (RFC 9106 §3.1) must be refused now: at a login it would be refused
    // without any work, and the clock would tell.
    if hash.hash.is_none() || hash.salt.is_none_or(|salt| salt.len() < argon2::MIN_SALT_LEN) {
        return Err(MALFORMED);
    }
    if !matches!(hash.version, None | Some(0x10 | 0x13)) {
        return Err(PasswordHashError::Malformed("argon2id version 1.3"));
    }
    let parameters = argon2::Params::try_from(&hash).map_err(|_| MALFORMED)?;
    let work = u64::from(parameters.m_cost()) * u64::from(parameters.t_cost());
    if parameters.m_cost() > MAX_ARGON2_MEMORY {
        return Err(PasswordHashError::TooCostly("more than m=1048576 (1 GiB of memory)"));
    }
    if work > MAX_ARGON2_WORK {
        return Err(PasswordHashError::TooCostly("m times t is more than 4194304"));
    }
    Ok(work)
}

fn bcrypt_cost(text: &str) -> Result<u32, PasswordHashError> {
    let parts = bcrypt::HashParts::from_str(text).map_err(|_| PasswordHashError::Malformed("bcrypt"))?;
    match parts.get_cost() {
        0..4 => Err(PasswordHashError::Malformed("bcrypt")),
        cost if cost > MAX_BCRYPT_COST => Err(PasswordHashError::TooCostly("a bcrypt cost above 16")),
        cost => Ok(cost),
    }
}

/// `$6$[rounds=N$]salt$hash`: the salt at most 16 characters, the hash 86.
fn sha512_rounds(text: &str) -> Result<u32, PasswordHashError> {
    const MALFORMED: PasswordHashError = PasswordHashError::Malformed("sha512-crypt");
    let rest = text.strip_prefix("$6$").ok_or(MALFORMED)?;
    let (rounds, rest) = match rest.strip_prefix("rounds=") {
        Some(rest) => {
            let (rounds, rest) = rest.split_once('$').ok_or(MALFORMED)?;
            (rounds.parse().map_err(|_| MALFORMED)?, rest)
        }
        None => (sha_crypt::Params::RECOMMENDED_ROUNDS, rest),
    };
    let (salt, hash) = rest.split_once('$').ok_or(MALFORMED)?;
    let is_crypt_base64 =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'/');
    // 512 bits fill 85 characters and a third of the last, whose other bits are zero.
    let is_whole = hash.len() == 86 && hash.ends_with(['.', '/', '0', '1']);
    if !(1..=16).contains(&salt.len()) || !is_crypt_base64(salt) || !is_whole || !is_crypt_base64(hash) {
        return Err(MALFORMED);
    }
    if rounds < sha_crypt::Params::ROUNDS_MIN {
        return Err(MALFORMED);
    }
    if rounds > MAX_SHA512_ROUNDS {
        return Err(PasswordHashError::TooCostly("more than rounds=5000000"));
    }
    Ok(rounds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ARGON2: &str = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
    const BCRYPT: &str = "$2y$12$L6Bc/AlTQHyd9liGgGEZyOFLPHNgyxeEPfgYfBCVxJ7JIlwxyVU3u";

    fn sha512(prefix: &str) -> String {
        format!("$6${prefix}saltstring${}.", "a".repeat(85))
    }

    #[test]
    fn the_three_forms_are_known() {
        assert!(matches!(PasswordHash::parse(ARGON2), Ok(PasswordHash::Argon2id(_))));
        assert!(matches!(PasswordHash::parse(BCRYPT), Ok(PasswordHash::Bcrypt(_))));
        assert!(matches!(PasswordHash::parse(&sha512("")), Ok(PasswordHash::Sha512Crypt(_))));
        assert!(matches!(PasswordHash::parse(&sha512("rounds=10000$")), Ok(PasswordHash::Sha512Crypt(_))));
    }

    #[test]
    fn work_grows_with_the_parameters() {
        let work = |text: &str| PasswordHash::parse(text).unwrap().work();
        assert!(work(&sha512("")) < work(ARGON2));
        assert!(work(ARGON2) < work(BCRYPT));
        assert!(work(&sha512("rounds=1000000$")) > work(BCRYPT));
    }

    #[test]
    fn broken_forms_are_refused() {
        for text in
            ["", "hunter2", "$1$salt$hash", "$5$salt$hash", "$argon2i$v=19$m=8,t=1,p=1$c2FsdA$aGFzaA", "$2x$12$"]
        {
            assert_eq!(PasswordHash::parse(text).unwrap_err(), PasswordHashError::UnknownForm, "{text}");
        }
        for text in [
            "$argon2id$",
            "$argon2id$v=19$m=19456,t=2,p=1$…",
            "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ",
            "$argon2id$v=19$m=1,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            &BCRYPT[..59],
            "$2b$03$L6Bc/AlTQHyd9liGgGEZyOFLPHNgyxeEPfgYfBCVxJ7JIlwxyVU3u",
            "$6$salt",
            &sha512("rounds=x$"),
            &sha512("rounds=999$"),
            &sha512("")[..90],
            &sha512("").replace("a.", "aa"),
            "$argon2id$v=19$m=19456,t=2,p=1$c29tZXM$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        ] {
            assert!(matches!(PasswordHash::parse(text), Err(PasswordHashError::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn parameters_have_a_ceiling() {
        for text in [
            &ARGON2.replace("m=19456", "m=1048577"),
            &ARGON2.replace("t=2", "t=4000000000"),
            &BCRYPT.replace("$12$", "$18$"),
            &sha512("rounds=999999999$"),
        ] {
            assert!(matches!(PasswordHash::parse(text), Err(PasswordHashError::TooCostly(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(prefix in "|\\$argon2id\\$|\\$2b\\$|\\$6\\$|\\$6\\$rounds=", rest in any::<String>()) {
            let _ = PasswordHash::parse(&format!("{prefix}{rest}"));
        }
    }
}
