//! The two tasks of a session: a reader that matches replies, and a writer that sends.
//!
//! One task doing both could wait for room to send while the server waits for us to read.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc::{self, error::TryRecvError};
use tokio::time::{Instant, timeout};

use super::SftpError;
use super::requests::{Outgoing, QUEUE, STALL, Shared, Work};
use super::stream::{PacketSink, PacketSource};
use super::wire::frame::{Frame, FrameDecoder};
use super::wire::packet::{Packet, Reply};

/// Packets up to this size leave together: one SSH packet instead of many.
const JOIN_UP_TO: usize = 1024;

/// How long the writer waits for the stream's end to be sent.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// Starts both; they end with the stream, or when the last owner of the requests is gone.
pub(super) fn spawn(source: impl PacketSource, sink: impl PacketSink, decoder: FrameDecoder, work: Work) {
    tokio::spawn(write_packets(sink, work.outgoing, Arc::clone(&work.shared)));
    tokio::spawn(read_packets(source, decoder, work.shared));
}

async fn read_packets(mut source: impl PacketSource, mut decoder: FrameDecoder, shared: Arc<Shared>) {
    let reason = loop {
        match decoder.next_frame() {
            Ok(Some(frame)) => {
                dispatch(frame, &shared);
                continue;
            }
            Ok(None) => {}
            Err(error) => break error.to_string(),
        }
        tokio::select! {
            biased;
            () = shared.gone.cancelled() => break String::new(),
            chunk = source.next() => match chunk {
                Some(chunk) => decoder.push(chunk),
                None => break "the server closed the channel".to_owned(),
            },
        }
    };
    shared.lose(&reason);
}

fn dispatch(frame: Frame, shared: &Shared) {
    match Packet::decode(frame) {
        // The handle outlives the chunk it came in: a copy of its own, so that it does not keep the chunk alive.
        Ok(Packet::Reply { id, reply: Reply::Handle(handle) }) => {
            shared.complete(id, Ok(Reply::Handle(Bytes::copy_from_slice(&handle))));
        }
        Ok(Packet::Reply { id, reply }) => shared.complete(id, Ok(reply)),
        Err(error) => {
            if let Some(id) = error.id {
                shared.complete(id, Err(SftpError::Protocol(error.to_string())));
            }
        }
        // Neither belongs here; the framing is intact, so nothing is lost by going on.
        Ok(Packet::Init { .. } | Packet::Version { .. } | Packet::Request { .. } | Packet::Unknown { .. }) => {}
    }
}

async fn write_packets(mut sink: impl PacketSink, mut queue: mpsc::Receiver<Outgoing>, shared: Arc<Shared>) {
    let mut written = 0;
    let reason = loop {
        let first = tokio::select! {
            biased;
            () = shared.gone.cancelled() => break "",
            outgoing = queue.recv() => outgoing,
            () = shared.closing.notified() => match queue.try_recv() {
                Ok(outgoing) => Some(outgoing),
                Err(TryRecvError::Empty) => {
                    match send_closes(&mut sink, &shared, written).await {
                        Ok(()) => continue,
                        Err(reason) => break reason,
                    }
                }
                Err(TryRecvError::Disconnected) => None,
            },
        };
        let result = match first {
            Some(first) => send_batch(&mut sink, &shared, &mut queue, first, &mut written).await,
            // Everyone let go of the session: what they left open is closed, then the channel.
            None => send_closes(&mut sink, &shared, u64::MAX).await.and(Err("it is closed")),
        };
        if let Err(reason) = result.and(Ok(())) {
            break reason;
        }
        if let Err(reason) = send_closes(&mut sink, &shared, written).await {
            break reason;
        }
    };
    shared.lose(reason);
    let _ = timeout(CLOSE_WAIT, sink.close()).await;
}

/// Sends a packet, and small ones that wait behind it in the same buffer. A packet with file data leaves as the very
/// buffer the data was read into.
async fn send_batch(
    sink: &mut impl PacketSink,
    shared: &Shared,
    queue: &mut mpsc::Receiver<Outgoing>,
    first: Outgoing,
    written: &mut u64,
) -> Result<(), &'static str> {
    let mut next = Some(first);
    while let Some(packet) = next.take() {
        let mut tell: Vec<_> = packet.written.into_iter().collect();
        let mut bytes = packet.bytes;
        let mut count = 1;
        if bytes.len() <= JOIN_UP_TO {
            let mut joined = BytesMut::new();
            while let Ok(later) = queue.try_recv() {
                if later.bytes.len() > JOIN_UP_TO {
                    next = Some(later);
                    break;
                }
                if joined.is_empty() {
                    joined.extend_from_slice(&bytes);
                }
                joined.extend_from_slice(&later.bytes);
                tell.extend(later.written);
                count += 1;
                if count >= QUEUE as u64 {
                    break;
                }
            }
            if !joined.is_empty() {
                bytes = joined.freeze();
            }
        }
        send(sink, shared, bytes).await?;
        *written += count;
        let now = Instant::now();
        for sender in tell {
            let _ = sender.send(now);
        }
    }
    Ok(())
}

async fn send_closes(sink: &mut impl PacketSink, shared: &Shared, written: u64) -> Result<(), &'static str> {
    for packet in shared.due_closes(written) {
        send(sink, shared, packet).await?;
    }
    Ok(())
}

async fn send(sink: &mut impl PacketSink, shared: &Shared, bytes: Bytes) -> Result<(), &'static str> {
    tokio::select! {
        biased;
        () = shared.gone.cancelled() => Err(""),
        sent = timeout(STALL, sink.send(bytes)) => match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("the server closed the channel"),
            Err(_) => Err("the server takes no more data"),
        },
    }
}
