//! Logging in: password (RFC 4252 §8), keyboard-interactive (RFC 4256), public key (RFC 4252 §7, RFC 8332).

use std::sync::Arc;

use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse, Prompt};
use russh::keys::{HashAlg, PrivateKeyWithHashAlg};
use russh::{MethodKind, MethodSet};

use super::ConnectError;
use super::client::{Client, Ending, Facts};
use super::private_key::PrivateKey;
use crate::config::secret::Secret;

/// Rounds of questions answered. One asks for the password, some servers add an empty one, the rest is not for us.
const MAX_ROUNDS: usize = 4;

/// Who logs in, and what proves it.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Name on the backend.
    pub user: String,
    /// The proof.
    pub method: Method,
}

/// What proves who logs in.
#[derive(Debug, Clone)]
pub enum Method {
    /// A password: by method `password`, or where the server does not have that, as the answer to the one question
    /// of `keyboard-interactive`.
    Password(Secret),
    /// A private key.
    PrivateKey(Arc<PrivateKey>),
}

/// A session that is not logged in yet.
pub(super) struct Login<'a> {
    pub(super) handle: &'a mut Handle<Client>,
    pub(super) facts: &'a Facts,
}

/// How one attempt ended that did not end the login.
struct Refusal {
    remaining: MethodSet,
    partial_success: bool,
}

impl Login<'_> {
    /// Logs in, or says why not.
    pub(super) async fn run(mut self, credentials: &Credentials) -> Result<(), ConnectError> {
        match &credentials.method {
            Method::Password(password) => self.password(&credentials.user, password).await,
            Method::PrivateKey(key) => self.private_key(&credentials.user, key).await,
        }
    }

    async fn password(&mut self, user: &str, password: &Secret) -> Result<(), ConnectError> {
        // RFC 4252 §8 has passwords in UTF-8: other bytes are no password of theirs.
        let Some(password) = password.reveal_text() else {
            return Err(ConnectError::Rejected { remaining: Vec::new() });
        };
        let result = self.handle.authenticate_password(user, password).await;
        let Some(refusal) = self.settle(result).await? else { return Ok(()) };
        // Where the server has `password` and it was wrong, asking again in another form would only count twice
        // against the account.
        let worth_asking = refusal.partial_success || !refusal.remaining.contains(&MethodKind::Password);
        if !worth_asking || !refusal.remaining.contains(&MethodKind::KeyboardInteractive) {
            return Err(refusal.into());
        }
        self.keyboard_interactive(user, password).await
    }

    async fn keyboard_interactive(&mut self, user: &str, password: &str) -> Result<(), ConnectError> {
        let mut response = self.handle.authenticate_keyboard_interactive_start(user, None).await;
        let mut password = Some(password);
        for _ in 0..MAX_ROUNDS {
            let prompts = match response {
                Ok(KeyboardInteractiveAuthResponse::Success) => return Ok(()),
                Ok(KeyboardInteractiveAuthResponse::Failure { remaining_methods, partial_success }) => {
                    let refusal = AuthResult::Failure { remaining_methods, partial_success };
                    return match self.settle(Ok(refusal)).await? {
                        Some(refusal) => Err(refusal.into()),
                        None => Ok(()),
                    };
                }
                Ok(KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. }) => prompts,
                Err(_) => return Err(self.lost().await),
            };
            let answers = match prompts.as_slice() {
                [] => Vec::new(),
                // SECURITY: the password is given once, and only where it would not be shown on a screen.
                [Prompt { echo: false, .. }] => match password.take() {
                    Some(password) => vec![password.to_owned()],
                    None => break,
                },
                _ => break,
            };
            response = self.handle.authenticate_keyboard_interactive_respond(answers).await;
        }
        // A second question is one we have no answer to.
        Err(Refusal { remaining: [MethodKind::KeyboardInteractive].as_slice().into(), partial_success: false }.into())
    }

    async fn private_key(&mut self, user: &str, key: &PrivateKey) -> Result<(), ConnectError> {
        // RFC 8308 §3.1: server-sig-algs. Servers that do not say get both hashes tried; none gets SHA-1.
        let hashes: &[Option<HashAlg>] = if !key.is_rsa() {
            &[None]
        } else {
            match self.handle.best_supported_rsa_hash().await {
                Ok(Some(Some(HashAlg::Sha256))) => &[Some(HashAlg::Sha256)],
                Ok(Some(_)) => &[Some(HashAlg::Sha512)],
                Ok(None) => &[Some(HashAlg::Sha512), Some(HashAlg::Sha256)],
                Err(_) => return Err(self.lost().await),
            }
        };
        let mut refused = None;
        for hash in hashes {
            let key = PrivateKeyWithHashAlg::new(key.key(), *hash);
            let result = self.handle.authenticate_publickey(user, key).await;
            match self.settle(result).await? {
                None => return Ok(()),
                Some(refusal) if refusal.partial_success => return Err(refusal.into()),
                Some(refusal) => refused = Some(refusal),
            }
        }
        Err(refused.map_or(ConnectError::Rejected { remaining: Vec::new() }, Into::into))
    }

    /// Tells a refusal from a connection that went away: the library reports both as a failure, the latter with no
    /// method remaining.
    async fn settle(&mut self, result: Result<AuthResult, russh::Error>) -> Result<Option<Refusal>, ConnectError> {
        match result {
            Ok(AuthResult::Success) => Ok(None),
            Ok(AuthResult::Failure { remaining_methods, partial_success }) if !remaining_methods.is_empty() => {
                Ok(Some(Refusal { remaining: remaining_methods, partial_success }))
            }
            Ok(AuthResult::Failure { .. }) | Err(_) => Err(self.lost().await),
        }
    }

    /// The session is over; only its ending says whether the server refused or vanished.
    async fn lost(&mut self) -> ConnectError {
        let _ = (&mut *self.handle).await;
        match self.facts.ending.get() {
            // An SSH_MSG_USERAUTH_FAILURE without methods: the server did answer.
            Some(Ending::NoMoreMethods) => ConnectError::Rejected { remaining: Vec::new() },
            _ => ConnectError::Lost(self.facts.ending_text()),
        }
    }
}

impl From<Refusal> for ConnectError {
    fn from(refusal: Refusal) -> Self {
        Self::Rejected { remaining: refusal.remaining.iter().map(String::from).collect() }
    }
}
