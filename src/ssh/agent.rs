//! Keys in an ssh-agent (draft-ietf-sshm-ssh-agent), and so in PKCS#11 tokens and smartcards that it holds open.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use russh::keys::agent::client::AgentClient;
use russh::keys::agent::{AgentIdentity, AgentSessionBinding};
use russh::keys::{self, HashAlg, PublicKey};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::login_key::Identity;

/// How long an agent may take for one answer: a signature on a slow card takes a second or two.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// A connection to an agent.
pub(super) struct Agent {
    socket: Arc<Path>,
    client: AgentClient<UnixStream>,
}

/// Why an agent is of no use. It is on our side: no backend is to blame.
#[derive(Debug, thiserror::Error)]
#[error("ssh-agent at {}: {problem}", socket.display())]
pub struct AgentError {
    /// Its socket.
    socket: PathBuf,
    problem: AgentProblem,
}

/// What is the matter with an agent.
#[derive(Debug, thiserror::Error)]
pub(super) enum AgentProblem {
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    #[error("no answer in time")]
    Silent,
    #[error("it holds no key")]
    Empty,
    #[error("it does not hold the key {0}")]
    LacksKey(String),
    #[error("it does not sign with the key")]
    RefusesToSign,
    #[error("{0}")]
    Protocol(keys::Error),
}

impl Agent {
    /// Connects, and tells the agent which server the signatures are for (OpenSSH PROTOCOL.agent §1), which keys with
    /// destination constraints need.
    pub(super) async fn connect(socket: &Arc<Path>, binding: Option<&AgentSessionBinding>) -> Result<Self, AgentError> {
        let error = |problem| AgentError { socket: socket.to_path_buf(), problem };
        let stream = timeout(ANSWER_LIMIT, UnixStream::connect(socket))
            .await
            .map_err(|_| error(AgentProblem::Silent))?
            .map_err(|source| error(AgentProblem::Connect(source)))?;
        let mut agent = Self { socket: Arc::clone(socket), client: AgentClient::connect(stream) };
        if let Some(binding) = binding {
            let bound = timeout(ANSWER_LIMIT, agent.client.bind_session(binding, false)).await;
            match bound {
                // Agents that do not know the extension say so, and go on.
                Ok(Ok(()) | Err(keys::Error::AgentFailure)) => {}
                Ok(Err(source)) => return Err(error(AgentProblem::Protocol(source))),
                Err(_) => return Err(error(AgentProblem::Silent)),
            }
        }
        Ok(agent)
    }

    /// The keys and certificates it holds.
    pub(super) async fn identities(&mut self) -> Result<Vec<Identity>, AgentError> {
        let listed = timeout(ANSWER_LIMIT, self.client.request_identities()).await;
        let listed = listed
            .map_err(|_| self.error(AgentProblem::Silent))?
            .map_err(|source| self.error(AgentProblem::Protocol(source)))?;
        Ok(listed
            .into_iter()
            .map(|identity| match identity {
                AgentIdentity::PublicKey { key, .. } => Identity::Key(key),
                AgentIdentity::Certificate { certificate, .. } => Identity::Certificate(Box::new(certificate)),
            })
            .collect())
    }

    /// `data` with the signature behind it.
    pub(super) async fn sign(
        &mut self,
        identity: &AgentIdentity,
        hash: Option<HashAlg>,
        data: Vec<u8>,
    ) -> Result<Vec<u8>, AgentError> {
        if let AgentIdentity::Certificate { certificate, .. } = identity {
            // The certificate may be ours alone, and the agent know nothing but the key.
            let key: AgentIdentity = PublicKey::new(certificate.public_key().clone(), "").into();
            match self.try_sign(&key, hash, data.clone()).await {
                Err(AgentError { problem: AgentProblem::RefusesToSign, .. }) => {}
                result => return result,
            }
        }
        self.try_sign(identity, hash, data).await
    }

    async fn try_sign(
        &mut self,
        identity: &AgentIdentity,
        hash: Option<HashAlg>,
        data: Vec<u8>,
    ) -> Result<Vec<u8>, AgentError> {
        match timeout(ANSWER_LIMIT, self.client.sign_request(identity, hash, data)).await {
            Ok(Ok(signed)) => Ok(signed),
            Ok(Err(keys::Error::AgentFailure)) => Err(self.error(AgentProblem::RefusesToSign)),
            Ok(Err(source)) => Err(self.error(AgentProblem::Protocol(source))),
            Err(_) => Err(self.error(AgentProblem::Silent)),
        }
    }

    pub(super) fn error(&self, problem: AgentProblem) -> AgentError {
        AgentError { socket: self.socket.to_path_buf(), problem }
    }
}
