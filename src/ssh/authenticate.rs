//! Logging in: public key and user certificate (RFC 4252 §7, RFC 8332), password (RFC 4252 §8), keyboard-interactive
//! (RFC 4256), one after the other where a server wants more than one (RFC 4252 §5.1, partial success).

use std::collections::VecDeque;
use std::sync::Arc;

use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse, Prompt};
use russh::keys::HashAlg;
use russh::{MethodKind, MethodSet};

use super::ConnectError;
use super::client::{Client, Ending, Facts};
use super::login_key::{Identity, LoginKey, SignError, Signer};
use crate::config::secret::{Sealed, Secret};

/// Rounds of questions answered. One asks for the password, some servers add an empty one, the rest is not for us.
const MAX_ROUNDS: usize = 4;

/// Who logs in, and what proves it: a key, a password, or both.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Name on the backend.
    pub user: String,
    /// A key, which comes first.
    pub key: Option<LoginKey>,
    /// A password: by method `password`, or where the server does not have that, as the answer to the one question of
    /// `keyboard-interactive`. It outlasts the login, for a lost connection is made again with it.
    pub password: Option<Sealed>,
}

impl Credentials {
    /// A password alone.
    pub fn password(user: impl Into<String>, password: Secret) -> Self {
        Self { user: user.into(), key: None, password: Some(password.seal()) }
    }

    /// A key alone.
    pub fn key(user: impl Into<String>, key: LoginKey) -> Self {
        Self { user: user.into(), key: Some(key), password: None }
    }
}

/// A session that is not logged in yet.
pub(super) struct Login<'a> {
    pub(super) handle: &'a mut Handle<Client>,
    pub(super) facts: &'a Facts,
    /// RSA keys may sign with SHA-1, where the server knows nothing better.
    pub(super) sha1: bool,
    /// The server is asked which methods it has (`none`, RFC 4252 §5.2) before one is tried: a round trip.
    pub(super) asks_first: bool,
    pub(super) proofs: Proofs,
}

/// How many proofs the server was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proofs {
    None,
    /// One, whose method it had not named.
    Guess,
    More,
}

/// How one attempt ended that did not end the login.
struct Refusal {
    remaining: MethodSet,
    partial_success: bool,
}

impl Refusal {
    /// It was not even looked at: this method is not one that the server takes now.
    fn ignores(&self, method: MethodKind) -> bool {
        !self.partial_success && !self.remaining.contains(&method)
    }
}

/// What was not tried yet. Each proof is tried once, so a login ends whatever a server says.
struct Untried<'a> {
    signer: Option<Signer>,
    identities: VecDeque<Identity>,
    password: Option<&'a str>,
    interactive: Option<&'a str>,
}

/// What is tried next.
enum Attempt<'a> {
    Key(Identity),
    Password(&'a str),
    Interactive(&'a str),
}

impl<'a> Untried<'a> {
    /// The next proof that the server would accept, as far as it has said; a key before a password.
    fn next(&mut self, remaining: Option<&MethodSet>) -> Option<Attempt<'a>> {
        let accepts = |method| remaining.is_none_or(|remaining| remaining.contains(&method));
        if accepts(MethodKind::PublicKey)
            && let Some(identity) = self.identities.pop_front()
        {
            return Some(Attempt::Key(identity));
        }
        if accepts(MethodKind::Password)
            && let Some(password) = self.password.take()
        {
            return Some(Attempt::Password(password));
        }
        if accepts(MethodKind::KeyboardInteractive)
            && let Some(password) = self.interactive.take()
        {
            return Some(Attempt::Interactive(password));
        }
        None
    }
}

impl Login<'_> {
    /// Logs in, or says why not.
    pub(super) async fn run(&mut self, credentials: &Credentials) -> Result<(), ConnectError> {
        // RFC 4252 §8 has passwords in UTF-8: other bytes are no password of theirs.
        let password = credentials.password.as_ref().map(Sealed::open);
        let password = password.as_ref().and_then(Secret::reveal_text);
        let (signer, identities) = match &credentials.key {
            Some(key) => {
                let (signer, identities) = key.identities(self.handle.agent_session_binding()).await?;
                (Some(signer), identities.into())
            }
            None => (None, VecDeque::new()),
        };
        let mut untried = Untried { signer, identities, password, interactive: password };
        let mut remaining: Option<MethodSet> = None;
        if self.asks_first {
            let result = self.handle.authenticate_none(credentials.user.as_str()).await;
            let Some(refusal) = self.settle(result).await? else { return Ok(()) };
            remaining = Some(refusal.remaining);
        }
        let mut accepted = Vec::new();
        while let Some(attempt) = untried.next(remaining.as_ref()) {
            // The first method is a guess. Where the server does not take it yet, its proof is kept for later.
            let guessed = remaining.is_none();
            self.proofs = if guessed { Proofs::Guess } else { Proofs::More };
            let (method, refusal) = match attempt {
                Attempt::Key(identity) => {
                    let Some(signer) = &mut untried.signer else { continue };
                    let refusal = self.sign(&credentials.user, &identity, signer).await?;
                    if guessed && refusal.as_ref().is_some_and(|refusal| refusal.ignores(MethodKind::PublicKey)) {
                        untried.identities.push_front(identity);
                    }
                    ("publickey", refusal)
                }
                Attempt::Password(password) => {
                    let result = self.handle.authenticate_password(credentials.user.as_str(), password).await;
                    let refusal = self.settle(result).await?;
                    // Where the server has `password` and it was wrong, asking again in another form would only count
                    // twice against the account.
                    if refusal.as_ref().is_some_and(|refusal| {
                        !refusal.partial_success && refusal.remaining.contains(&MethodKind::Password)
                    }) {
                        untried.interactive = None;
                    }
                    if guessed && refusal.as_ref().is_some_and(|refusal| refusal.ignores(MethodKind::Password)) {
                        untried.password = Some(password);
                    }
                    ("password", refusal)
                }
                Attempt::Interactive(password) => {
                    ("keyboard-interactive", self.keyboard_interactive(&credentials.user, password).await?)
                }
            };
            let Some(refusal) = refusal else { return Ok(()) };
            if refusal.partial_success {
                accepted.push(method.to_owned());
            }
            remaining = Some(refusal.remaining);
        }
        let remaining = remaining.iter().flat_map(|methods| methods.iter()).map(String::from).collect();
        Err(ConnectError::Rejected { accepted, remaining })
    }

    /// Proves one key or certificate.
    async fn sign(
        &mut self,
        user: &str,
        identity: &Identity,
        signer: &mut Signer,
    ) -> Result<Option<Refusal>, ConnectError> {
        let mut refused = None;
        for hash in self.hashes(identity).await? {
            let result = match identity.clone() {
                Identity::Key(key) => self.handle.authenticate_publickey_with(user, key, hash, signer).await,
                Identity::Certificate(certificate) => {
                    self.handle.authenticate_certificate_with(user, *certificate, hash, signer).await
                }
            };
            let result = match result {
                Ok(result) => Ok(result),
                Err(SignError::Lost(_)) => Err(russh::Error::SendError),
                Err(SignError::Key(error)) => return Err(error.into()),
                Err(SignError::Signature(error)) => {
                    return Err(ConnectError::Credentials(Arc::new(
                        super::PrivateKeyError::Sign { source: error }.into(),
                    )));
                }
            };
            match self.settle(result).await? {
                None => return Ok(None),
                Some(refusal) if refusal.partial_success => return Ok(Some(refusal)),
                Some(refusal) => refused = Some(refusal),
            }
        }
        Ok(refused)
    }

    /// The hashes a key may sign with, best first. RFC 8308 §3.1: server-sig-algs tells which the server has. Servers
    /// that do not say get them all tried.
    async fn hashes(&mut self, identity: &Identity) -> Result<Vec<Option<HashAlg>>, ConnectError> {
        if !identity.is_rsa() {
            return Ok(vec![None]);
        }
        let mut hashes = match self.handle.best_supported_rsa_hash().await {
            Ok(Some(Some(HashAlg::Sha256))) => vec![Some(HashAlg::Sha256)],
            Ok(Some(Some(_))) => vec![Some(HashAlg::Sha512)],
            Ok(Some(None)) => vec![],
            Ok(None) => vec![Some(HashAlg::Sha512), Some(HashAlg::Sha256)],
            Err(_) => return Err(self.lost().await),
        };
        // SECURITY: a signature with SHA-1 only where the operator asked for old algorithms.
        if self.sha1 {
            hashes.push(None);
        }
        if hashes.is_empty() {
            hashes.push(Some(HashAlg::Sha512));
        }
        Ok(hashes)
    }

    async fn keyboard_interactive(&mut self, user: &str, password: &str) -> Result<Option<Refusal>, ConnectError> {
        let mut response = self.handle.authenticate_keyboard_interactive_start(user, None).await;
        let mut password = Some(password);
        for _ in 0..MAX_ROUNDS {
            let prompts = match response {
                Ok(KeyboardInteractiveAuthResponse::Success) => return Ok(None),
                Ok(KeyboardInteractiveAuthResponse::Failure { remaining_methods, partial_success }) => {
                    return self.settle(Ok(AuthResult::Failure { remaining_methods, partial_success })).await;
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
        // A second question is one we have no answer to, and the server waits for it: nothing else can be tried.
        Err(ConnectError::Rejected {
            accepted: Vec::new(),
            remaining: vec![String::from(&MethodKind::KeyboardInteractive)],
        })
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
            Some(Ending::NoMoreMethods) => ConnectError::Rejected { accepted: Vec::new(), remaining: Vec::new() },
            // SECURITY: a server that allows one attempt hangs up where others refuse. Taken for a lost connection a wrong
            // password would cost nothing.
            Some(Ending::Disconnected { of_the_login: true, .. }) if self.proofs != Proofs::None => {
                ConnectError::Rejected { accepted: Vec::new(), remaining: Vec::new() }
            }
            _ if self.proofs != Proofs::None => ConnectError::Unanswered(self.facts.ending_text()),
            _ => ConnectError::Lost(self.facts.ending_text()),
        }
    }
}
