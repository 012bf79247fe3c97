//! The users of the configuration, found by the name a client sends.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::certificate;
use super::password::Verifier;
use crate::config::secret::Secret;
use crate::config::{Config, User};
use crate::tls::client_certificate::ClientCertificate;

/// Everyone who may log in.
pub struct Accounts {
    users: HashMap<Vec<u8>, Arc<User>>,
    any_user: Option<Arc<User>>,
    verifier: Verifier,
}

/// What a client certificate, or that there is none, says about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Nothing: the name asks for none, and what was shown is nobody else's.
    NotNeeded,
    /// It is the user's.
    Proven,
    /// It is not the user's, or it is somebody else's.
    Refuted,
    /// The user must show one, and the client did not.
    Missing,
}

impl Accounts {
    /// The users of a configuration.
    pub fn new(config: &Config) -> Self {
        let users = config.users.iter().map(|(name, user)| (name.clone().into_bytes(), Arc::clone(user))).collect();
        let everyone = config.users.values().chain(&config.any_user);
        let verifier = Verifier::new(everyone.filter_map(|user| user.password_hash.as_ref()));
        Self { users, any_user: config.any_user.clone(), verifier }
    }

    /// The entry of exactly this name, byte for byte, and else that of `"*"`.
    pub fn find(&self, user: &[u8]) -> Option<Arc<User>> {
        self.users.get(user).or(self.any_user.as_ref()).cloned()
    }

    /// The entry of exactly this name.
    pub fn named(&self, user: &[u8]) -> Option<Arc<User>> {
        self.users.get(user).cloned()
    }

    /// Does the name go with the certificate? `user` is what [`Accounts::find`] found for the name.
    pub fn claim(&self, user: Option<&User>, certificate: Option<&ClientCertificate>) -> Claim {
        let rule = user.and_then(|user| user.client_certificate.as_ref());
        let Some(certificate) = certificate else {
            return if rule.is_some() { Claim::Missing } else { Claim::NotNeeded };
        };
        let names = certificate.names();
        let fits = |rule| certificate::fits(rule, certificate, &names);
        match rule {
            Some(rule) if fits(rule) => Claim::Proven,
            Some(_) => Claim::Refuted,
            // TLS-51: whose certificate it is cannot be anybody else.
            None if self.users.values().filter_map(|user| user.client_certificate.as_ref()).any(fits) => Claim::Refuted,
            None => Claim::NotNeeded,
        }
    }

    /// Is this the password that the user's entry holds the hash of?
    ///
    /// Where there is no user, or no hash to check against, it takes as long and the answer is no; see [`Verifier::verify`]. A user
    /// with `login: passthrough` and no hash is for the backend to check, not for this.
    pub async fn verify(&self, user: Option<&User>, password: &Secret) -> bool {
        if user.is_some_and(|user| user.takes_any_password) {
            return true;
        }
        self.verifier.verify(user.and_then(|user| user.password_hash.as_ref()), password).await
    }
}

impl fmt::Debug for Accounts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Accounts").field("users", &self.users.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use argon2::password_hash::PasswordHasher;
    use argon2::{Algorithm, Argon2, Params, Version};
    use proptest::prelude::*;

    use super::*;
    use crate::config::load_text;

    const USERS: &str = "
  acme: {backend: b, login: passthrough, password_hash: 'HASH'}
  Acme: {backend: b, login: passthrough}
  'jos\u{e9}': {backend: b, login: passthrough}
";

    /// The hash of `password`, of the least memory and work, to keep the tests quick.
    fn hash() -> String {
        let parameters = Params::new(8, 1, 1, None).unwrap();
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters);
        argon2.hash_password(b"password").unwrap().to_string()
    }

    fn accounts(users: &str) -> Accounts {
        let users = users.replace("HASH", &hash());
        let folder = tempfile::tempdir().unwrap();
        for name in ["c", "k", "h"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let text = format!(
            "tls: {{certificates: [{{certificate: c, key: k}}]}}\n\
             backends: {{b: {{address: localhost, known_hosts: h}}}}\nusers:{users}"
        );
        let loaded = load_text(&text, folder.path());
        assert_eq!(loaded.problems, []);
        Accounts::new(&loaded.config.unwrap())
    }

    fn found(accounts: &Accounts, user: &[u8]) -> Option<String> {
        accounts.find(user).map(|user| user.name.clone())
    }

    #[test]
    fn names_match_byte_for_byte() {
        let accounts = accounts(USERS);
        assert_eq!(found(&accounts, b"acme").as_deref(), Some("acme"));
        assert_eq!(found(&accounts, b"Acme").as_deref(), Some("Acme"));
        assert_eq!(found(&accounts, "jos\u{e9}".as_bytes()).as_deref(), Some("jos\u{e9}"));
        for user in [
            b"".as_slice(),
            b"ACME",
            b"acme ",
            b"acme\0",
            b"*",
            b"jos\xe9",
            "jose\u{301}".as_bytes(),
            b"a' OR 1=1--",
            b"*)(uid=*",
        ] {
            assert_eq!(found(&accounts, user), None, "{user:?}");
        }
    }

    #[test]
    fn an_exact_name_comes_before_any_name() {
        let accounts = accounts(&format!("{USERS}  '*': {{backend: b, login: passthrough}}\n"));
        assert_eq!(found(&accounts, b"acme").as_deref(), Some("acme"));
        for user in [b"".as_slice(), b"*", b"acmE", b"\xff", b"a' OR 1=1--"] {
            assert_eq!(found(&accounts, user).as_deref(), Some("*"), "{user:?}");
        }
    }

    #[tokio::test]
    async fn only_a_user_with_a_hash_and_its_password_is_verified() {
        let accounts = accounts(USERS);
        let acme = accounts.find(b"acme");
        assert!(accounts.verify(acme.as_deref(), &Secret::new("password")).await);
        assert!(!accounts.verify(acme.as_deref(), &Secret::new("Password")).await);
        let no_hash = accounts.find(b"Acme");
        assert!(!accounts.verify(no_hash.as_deref(), &Secret::new("password")).await);
        assert!(!accounts.verify(None, &Secret::new("password")).await);
    }

    #[test]
    fn nothing_of_the_users_is_printed() {
        assert_eq!(format!("{:?}", accounts(USERS)), "Accounts { users: 3, .. }");
    }

    proptest! {
        #[test]
        fn without_any_name_only_the_names_themselves_are_found(user in prop::collection::vec(any::<u8>(), 0..12)) {
            thread_local!(static ACCOUNTS: Accounts = accounts(USERS));
            let known = [b"acme".as_slice(), b"Acme", "jos\u{e9}".as_bytes()].contains(&user.as_slice());
            prop_assert_eq!(ACCOUNTS.with(|accounts| accounts.find(&user).is_some()), known);
        }
    }
}
