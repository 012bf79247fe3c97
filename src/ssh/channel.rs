//! An SSH channel as the two ends an SFTP session reads and writes (RFC 4254 §5.2).

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use russh::client::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio_util::sync::CancellationToken;

use crate::sftp::{PacketSink, PacketSource, SinkClosed};

/// How many messages of the server's standard error are logged, and how much of each: enough to tell a misconfigured
/// server, too little to fill a disk.
const MAX_LOGGED_MESSAGES: u32 = 8;
const MAX_LOGGED_BYTES: usize = 200;

/// What the server sends.
pub(super) struct ChannelSource {
    channel: ChannelReadHalf,
    subsystem: Arc<OnceLock<Subsystem>>,
    logged: u32,
}

/// The server's answer to the request for the subsystem (RFC 4254 §6.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subsystem {
    Started,
    Refused,
}

/// What we send.
pub(super) struct ChannelSink {
    pub(super) channel: ChannelWriteHalf<Msg>,
    /// The connection is gone. The library leaves those that wait for the window waiting.
    pub(super) lost: CancellationToken,
}

impl ChannelSource {
    /// `subsystem` is filled with the server's answer, which may come after we have begun to speak.
    pub(super) fn new(channel: ChannelReadHalf, subsystem: Arc<OnceLock<Subsystem>>) -> Self {
        Self { channel, subsystem, logged: 0 }
    }

    fn log(&mut self, text: &[u8]) {
        if self.logged < MAX_LOGGED_MESSAGES {
            self.logged += 1;
            let text = text.get(..MAX_LOGGED_BYTES).unwrap_or(text);
            tracing::debug!(text = %text.escape_ascii(), "backend wrote to standard error");
        }
    }
}

impl PacketSource for ChannelSource {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.channel.wait().await? {
                ChannelMsg::Data { data } => return Some(data),
                ChannelMsg::ExtendedData { data, .. } => self.log(&data),
                ChannelMsg::Eof | ChannelMsg::Close => return None,
                ChannelMsg::Success => {
                    let _ = self.subsystem.set(Subsystem::Started);
                }
                ChannelMsg::Failure => {
                    let _ = self.subsystem.set(Subsystem::Refused);
                    return None;
                }
                ChannelMsg::ExitStatus { exit_status } => tracing::debug!(exit_status, "backend's SFTP server ended"),
                ChannelMsg::ExitSignal { signal_name, .. } => {
                    tracing::debug!(?signal_name, "backend's SFTP server was killed");
                }
                _ => {}
            }
        }
    }
}

impl PacketSink for ChannelSink {
    async fn send(&mut self, bytes: Bytes) -> Result<(), SinkClosed> {
        tokio::select! {
            biased;
            sent = self.channel.data_bytes(bytes) => sent.map_err(|_| SinkClosed),
            () = self.lost.cancelled() => Err(SinkClosed),
        }
    }

    async fn close(&mut self) {
        // The server may be gone already; then there is nothing left to close.
        let _ = self.channel.eof().await;
        let _ = self.channel.close().await;
    }
}
