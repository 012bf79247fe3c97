//! What the SSH library calls back for: the verdict on the host key, and how a connection ended.

use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use russh::client::{ChannelOpenHandle, DisconnectReason, Handler, Msg, Session};
use russh::keys::{PublicKey, PublicKeyOrCertificate};
use russh::{Channel, Disconnect, Names};
use tokio_util::sync::CancellationToken;

use super::algorithms;
use super::host_key::{self, HostKeyError, HostKeyPolicy, HostKeyVerdict, PresentedKey};
use crate::config::HostPort;

/// Longest text of a server that is kept for a message.
const MAX_TEXT: usize = 256;

/// The handler of one connection.
pub(super) struct Client {
    pub(super) server: HostPort,
    pub(super) host_keys: Arc<HostKeyPolicy>,
    /// What Terrapin breaks is not spoken without strict key exchange.
    pub(super) needs_strict: bool,
    pub(super) facts: Arc<Facts>,
}

/// The library drops the handler when a connection is over, however it ended.
impl Drop for Client {
    fn drop(&mut self) {
        self.facts.lost.cancel();
    }
}

/// What is learned about a connection while it lives.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) host_key: OnceLock<(PresentedKey, HostKeyVerdict)>,
    /// Key exchange and cipher.
    pub(super) agreed: OnceLock<String>,
    pub(super) ending: OnceLock<Ending>,
    /// Cancelled when the connection is gone.
    pub(super) lost: CancellationToken,
}

/// How a connection ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// The server said that no authentication method is left: the last word on this login.
    NoMoreMethods,
    /// SSH_MSG_DISCONNECT, in words; does its reason (RFC 4253 §11.1) say that this login was the matter?
    Disconnected { of_the_login: bool, text: String },
    /// Anything else, in words.
    Other(String),
}

/// Why the handler, or the library under it, gave a connection up.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error(transparent)]
    Ssh(#[from] russh::Error),
    #[error(transparent)]
    HostKey(HostKeyError),
    #[error("{cipher} without strict key exchange")]
    NotStrict { cipher: &'static str },
}

impl Facts {
    pub(super) fn ending_text(&self) -> String {
        match self.ending.get() {
            Some(Ending::Other(text) | Ending::Disconnected { text, .. }) => text.clone(),
            Some(Ending::NoMoreMethods) => "the server offers no authentication method".to_owned(),
            None => "connection closed".to_owned(),
        }
    }
}

impl Handler for Client {
    type Error = ClientError;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, ClientError> {
        // SECURITY: the only place that says yes to a server; an error ends the connection before authentication.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let HostPort { host, port } = &self.server;
        let verdict = self.host_keys.verify(host, *port, shown, now).map_err(ClientError::HostKey)?;
        let _ = self.facts.host_key.set((host_key::presented(shown), verdict));
        Ok(true)
    }

    async fn kex_done(
        &mut self,
        _shared_secret: Option<&[u8]>,
        names: &Names,
        _session: &mut Session,
    ) -> Result<(), ClientError> {
        // SECURITY: S-28, before authentication begins.
        if self.needs_strict
            && let Some(cipher) = algorithms::broken_by_terrapin(names)
        {
            return Err(ClientError::NotStrict { cipher });
        }
        let _ = self.facts.agreed.set(format!("{}, {}", names.kex.as_ref(), names.cipher.as_ref()));
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<ClientError>) -> Result<(), ClientError> {
        let ending = match reason {
            DisconnectReason::Error(ClientError::Ssh(russh::Error::NoAuthMethod)) => Ending::NoMoreMethods,
            DisconnectReason::Error(error) => Ending::Other(printable(&error.to_string())),
            DisconnectReason::ReceivedDisconnect(info) => {
                let text = format!("server disconnected ({:?}): {}", info.reason_code, printable(&info.message));
                // OpenSSH calls too many failures a protocol error.
                let of_the_login = matches!(
                    info.reason_code,
                    Disconnect::ProtocolError
                        | Disconnect::AuthCancelledByUser
                        | Disconnect::NoMoreAuthMethodsAvailable
                        | Disconnect::IllegalUserName
                );
                Ending::Disconnected { of_the_login, text }
            }
        };
        let _ = self.facts.ending.set(ending);
        Ok(())
    }

    async fn openssh_ext_host_keys_announced(
        &mut self,
        _keys: Vec<PublicKey>,
        _session: &mut Session,
    ) -> Result<(), ClientError> {
        // SECURITY: keys are listed by the operator, never learned.
        Ok(())
    }

    // SECURITY: the library accepts channels that a server opens unless told otherwise. Dropping the reply is the
    // refusal (RFC 4254 §5.1, SSH_OPEN_ADMINISTRATIVELY_PROHIBITED).

    async fn server_channel_open_session(
        &mut self,
        _channel: Channel<Msg>,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), ClientError> {
        Ok(())
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        _connected_address: &str,
        _connected_port: u32,
        _originator_address: &str,
        _originator_port: u32,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), ClientError> {
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _channel: Channel<Msg>,
        _socket_path: &str,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), ClientError> {
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _channel: Channel<Msg>,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), ClientError> {
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        _host_to_connect: &str,
        _port_to_connect: u32,
        _originator_address: &str,
        _originator_port: u32,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), ClientError> {
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _channel: Channel<Msg>,
        _socket_path: &str,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), ClientError> {
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        _channel: Channel<Msg>,
        _originator_address: &str,
        _originator_port: u32,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), ClientError> {
        Ok(())
    }
}

/// A server's words, fit for a log line: escaped and bounded.
pub(super) fn printable(text: &str) -> String {
    text.chars().take(MAX_TEXT).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_words_are_escaped_and_bounded() {
        assert_eq!(printable("a\r\n\u{1b}[2J"), "a\\r\\n\\u{1b}[2J");
        assert_eq!(printable(&"x".repeat(10_000)).len(), MAX_TEXT);
    }
}
