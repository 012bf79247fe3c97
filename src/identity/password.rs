//! Passwords: hashing a new one with argon2id (RFC 9106), and checking one against argon2id, bcrypt or SHA-512-crypt.

use std::fmt;
use std::sync::Arc;
use std::thread::available_parallelism;

use argon2::password_hash::PasswordHasher;
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use zeroize::Zeroize;

use super::remembered::Remembered;
use crate::config::PasswordHash;
use crate::config::secret::Secret;

/// Longest password, in bytes. SHA-512-crypt hashes the whole password once a round, so its length is work that the
/// client chooses; no one types a thousand bytes.
pub const MAX_PASSWORD_LENGTH: usize = 1024;

/// Most verifications at once, whatever the machine: each holds the memory its hash asks for (19 MiB with the
/// parameters of [`hash`]), so sixteen are 304 MiB.
const MAX_VERIFICATIONS: usize = 16;

/// What a hash needs of the stack, and more: argon2id was seen to need 16 KiB. A thread has two megabytes.
const STACK_OF_A_HASH: usize = 64 * 1024;

/// Parameters of [`hash`]: the first that OWASP's Password Storage Cheat Sheet recommends for argon2id.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// What an unknown user's password is checked against when no user has a hash: of [`hash`]'s parameters, and of no
/// known password, since its output was drawn at random.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$z8zXTrx2jyO2IisIelnJGA$Atz+bJV9Jwiqbf/BfqjcU8TnyO0CqWEeMVxDW/xZYVQ";

/// Checks passwords, a bounded number at a time and off the threads that serve clients.
pub struct Verifier {
    /// SECURITY: the costliest hash in use. What has no hash of its own is checked against it, so that an unknown user
    /// costs what a known one does and cannot be told from one by the clock (CVE-2018-15473, CVE-2016-6210).
    dummy: PasswordHash,
    /// One permit a core: more at once would each take longer and hold more memory, and end no sooner.
    permits: Arc<Semaphore>,
    remembered: Arc<Remembered>,
}

impl Verifier {
    /// A verifier for users with these hashes.
    pub fn new<'a>(hashes: impl Iterator<Item = &'a PasswordHash>) -> Self {
        let costliest = hashes.max_by_key(|hash| hash.work()).cloned();
        let cores = available_parallelism().map_or(1, usize::from);
        Self {
            dummy: costliest.unwrap_or_else(|| PasswordHash::Argon2id(Secret::new(NOBODY))),
            permits: Arc::new(Semaphore::new(cores.min(MAX_VERIFICATIONS))),
            remembered: Arc::new(Remembered::new()),
        }
    }

    /// Is this the password that `hash` was made of? Without a hash it takes as long as the costliest, and it is not.
    ///
    /// A caller that stops waiting does not stop the work: the permit goes back when it is done.
    pub async fn verify(&self, hash: Option<&PasswordHash>, password: &Secret) -> bool {
        let is_known = hash.is_some_and(|hash| self.remembered.knows(hash.text().reveal(), password.reveal()));
        wipe_stack();
        if is_known {
            return true;
        }
        // Closed never; were it so, nobody would get in.
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { return false };
        let is_known = hash.is_some();
        let hash = hash.unwrap_or(&self.dummy).clone();
        let password = password.clone();
        let remembered = Arc::clone(&self.remembered);
        let work = spawn_blocking(move || {
            let is_right = verify_now(&hash, &password);
            if is_right & is_known {
                remembered.remember(hash.text().reveal(), password.reveal());
            }
            wipe_stack();
            drop(permit);
            is_right
        });
        // SECURITY: the dummy is somebody's hash, so its answer must not count.
        work.await.unwrap_or(false) & is_known
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Verifier").finish_non_exhaustive()
    }
}

/// Overwrites what those that were called before, from the same caller, have left on the stack.
///
/// SECURITY: S-17. Hash functions put the password into blocks there, and the thread may do nothing for a while.
#[inline(never)]
fn wipe_stack() {
    let mut frame = [0_u8; STACK_OF_A_HASH];
    frame.zeroize();
    std::hint::black_box(&frame);
}

/// The hashing libraries compare in constant time.
fn verify_now(hash: &PasswordHash, password: &Secret) -> bool {
    let password = password.reveal();
    let bounded = password.get(..MAX_PASSWORD_LENGTH).unwrap_or(password);
    let is_right = match hash {
        PasswordHash::Argon2id(hash) => hash.reveal_text().is_some_and(|hash| {
            argon2::PasswordVerifier::<str>::verify_password(&Argon2::default(), bounded, hash).is_ok()
        }),
        PasswordHash::Bcrypt(hash) => {
            hash.reveal_text().is_some_and(|hash| bcrypt::verify(bounded, hash).unwrap_or(false))
        }
        PasswordHash::Sha512Crypt(hash) => hash.reveal_text().is_some_and(|hash| {
            sha_crypt::PasswordVerifier::<str>::verify_password(&sha_crypt::ShaCrypt::SHA512, bounded, hash).is_ok()
        }),
    };
    is_right & (bounded.len() == password.len())
}

/// A password could not be hashed.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// It is longer than [`MAX_PASSWORD_LENGTH`].
    #[error("a password has at most {MAX_PASSWORD_LENGTH} bytes")]
    TooLong,
    /// The library refused, or the system gave no randomness for the salt.
    #[error("the password could not be hashed: {0}")]
    Failed(String),
}

/// The argon2id hash of a password, for `password_hash` in the configuration. It takes some tens of milliseconds.
///
/// # Errors
/// Where the password is too long, or the system has no randomness.
pub fn hash(password: &Secret) -> Result<String, HashError> {
    if password.reveal().len() > MAX_PASSWORD_LENGTH {
        return Err(HashError::TooLong);
    }
    let parameters =
        Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| HashError::Failed(error.to_string()))?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters);
    match argon2.hash_password(password.reveal()) {
        Ok(hash) => Ok(hash.to_string()),
        Err(error) => Err(HashError::Failed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Vectors of others: `openssl passwd -6` (and, for the first two, the specification of SHA-crypt), bcrypt's
    /// reference implementation (crypt_blowfish), and argon2's.
    const VECTORS: [(&str, &str); 8] = [
        (
            "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
            "Hello world!",
        ),
        (
            "$6$rounds=10000$saltstringsaltst$OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/UrjmM0Dp8vOuZeHBy/YTBmSK6H9qs/y3RnOaw5v.",
            "Hello world!",
        ),
        (
            "$6$abc.DEF/12$9d5eTqDVugr2SOfT8Dgoj.NPCeNDJ9l6idpzxBu2LK.KsnR0sO.EEaJl5brHeLHzG1389mupEfe2JVTcCuisA.",
            "p\u{e4}ssw\u{f6}rd",
        ),
        ("$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"),
        ("$2b$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK", "U*U*"),
        ("$2y$05$XXXXXXXXXXXXXXXXXXXXXOAcXxm9kjPGEMsLznoKqmqw7tc8WCx4a", "U*U*U"),
        ("$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4", "password"),
        ("$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc", "password"),
    ];

    fn verifier() -> Verifier {
        Verifier::new(std::iter::empty())
    }

    #[tokio::test]
    async fn known_hashes_take_their_password_and_no_other() {
        for (hash, password) in VECTORS {
            let hash = PasswordHash::parse(hash).unwrap();
            assert!(verifier().verify(Some(&hash), &Secret::new(password)).await, "{password}");
            for wrong in [String::new(), format!("{password} "), password.to_uppercase() + "x"] {
                assert!(!verifier().verify(Some(&hash), &Secret::new(wrong)).await, "{password}");
            }
        }
    }

    #[tokio::test]
    async fn a_new_hash_takes_its_password_and_no_other() {
        let password = Secret::new("Zx9!canary");
        let text = hash(&password).unwrap();
        assert!(text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
        assert_ne!(text, hash(&password).unwrap(), "a salt of its own each time");
        let hash = PasswordHash::parse(&text).unwrap();
        assert!(verifier().verify(Some(&hash), &password).await);
        assert!(!verifier().verify(Some(&hash), &Secret::new("Zx9!canarY")).await);
    }

    #[tokio::test]
    async fn without_a_hash_nobody_gets_in() {
        let (hash, password) = VECTORS[0];
        let hash = PasswordHash::parse(hash).unwrap();
        // The dummy is this very hash.
        let verifier = Verifier::new(std::iter::once(&hash));
        assert!(!verifier.verify(None, &Secret::new(password)).await);
        assert!(!self::verifier().verify(None, &Secret::new(password)).await);
        assert!(PasswordHash::parse(NOBODY).is_ok());
    }

    #[test]
    fn the_dummy_is_the_costliest_hash() {
        let hashes = VECTORS.map(|(hash, _)| PasswordHash::parse(hash).unwrap());
        let dummy = Verifier::new(hashes.iter()).dummy;
        assert_eq!(dummy.work(), hashes.iter().map(PasswordHash::work).max().unwrap());
    }

    #[tokio::test]
    async fn a_password_beyond_the_bound_is_wrong_and_not_truncated() {
        let longest = Secret::new("a".repeat(MAX_PASSWORD_LENGTH));
        let text = hash(&longest).unwrap();
        let hash = PasswordHash::parse(&text).unwrap();
        assert!(verifier().verify(Some(&hash), &longest).await);
        let longer = Secret::new("a".repeat(MAX_PASSWORD_LENGTH + 1));
        assert!(!verifier().verify(Some(&hash), &longer).await);
        assert!(matches!(super::hash(&longer), Err(HashError::TooLong)));
    }

    #[tokio::test]
    async fn a_verification_nobody_waits_for_keeps_its_permit_until_it_is_done() {
        let verifier = verifier();
        let all = verifier.permits.available_permits();
        let password = Secret::new("x");
        let hash = PasswordHash::parse(VECTORS[1].0).unwrap();
        {
            let mut waiting = std::pin::pin!(verifier.verify(Some(&hash), &password));
            assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        }
        // Every permit can be had again, so the one of the abandoned verification came back.
        let permits = verifier.permits.acquire_many(u32::try_from(all).unwrap()).await.unwrap();
        assert_eq!(permits.num_permits(), all);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_can_be_a_password(password: Vec<u8>, other: Vec<u8>) {
            let parameters = Params::new(8, 1, 1, None).unwrap();
            let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters);
            let text = argon2.hash_password(&password).unwrap().to_string();
            let hash = PasswordHash::parse(&text).unwrap();
            prop_assert!(verify_now(&hash, &Secret::new(password.clone())));
            prop_assert_eq!(verify_now(&hash, &Secret::new(other.clone())), password == other);
        }
    }
}
