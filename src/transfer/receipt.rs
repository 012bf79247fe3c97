//! Has the client's kernel taken in the end of what we sent? (RFC 9293 §3.4: an acknowledgement is for all bytes before.)
//!
//! A client that breaks its connection after everything is in *our* kernel is otherwise not told from one that has it
//! all. Linux tells of an acknowledgement by a message in the socket's error queue (`SOF_TIMESTAMPING_TX_ACK`), which
//! stays there even after a reset.
//!
//! One thing stays undecided: a client that closes with our close_notify unread, and sends none of its own, makes its
//! kernel reset at once, sometimes before that has acknowledged the last segment. It hears 426 for a file that it has.
//! Any byte it sends before (its own close_notify) brings the acknowledgement along.

use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SetSockOpt, TimestampingFlag, recv, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// `SOF_TIMESTAMPING_TX_ACK` of linux/net_tstamp.h: tell when all data of a write was acknowledged.
const TX_ACK: u32 = 1 << 9;

/// The promise of a receipt for the one next write.
///
/// That write must be small and find room, so that it is one for the kernel too: the first message means that all bytes
/// before it were acknowledged. And tokio takes the pending message for a sign that writing is over: a write that had
/// to wait for room would not wait but spin.
#[derive(Debug)]
pub(super) struct Receipt(());

impl Receipt {
    /// Asks for it as soon as the socket has room; `None` where the kernel has no such thing. The kernel ends the
    /// connection of a client that takes nothing (TCP_USER_TIMEOUT).
    pub(super) async fn ask(socket: &TcpStream) -> Option<Self> {
        // Linux says so when a third of the buffer is free (sk_stream_is_writeable), or when the connection is over.
        let has_room = || match poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&Timespec::default())) {
            Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
            Ok(_) => Ok(()),
            Err(error) => Err(io::Error::from(error)),
        };
        socket.async_io(Interest::WRITABLE, has_room).await.ok()?;
        let flags = TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE
            | TimestampingFlag::SOF_TIMESTAMPING_OPT_TSONLY
            | TimestampingFlag::from_bits_retain(TX_ACK);
        sockopt::Timestamping.set(socket, &flags).ok().map(|()| Self(()))
    }

    /// Has it come?
    pub(super) fn is_here(&self, socket: &TcpStream) -> bool {
        self.take(socket).is_ok()
    }

    /// Waits for it. A slow client has all the time it needs as long as it takes something now and then: the kernel
    /// ends the connection of one that does not (TCP_USER_TIMEOUT).
    ///
    /// # Errors
    /// The connection ended without it.
    pub(super) async fn comes(&self, socket: &TcpStream) -> io::Result<()> {
        let take = || match self.take(socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // What ended the connection; without it, the wait goes on.
                Err(socket.take_error()?.unwrap_or(error))
            }
            other => other,
        };
        socket.async_io(Interest::ERROR, take).await
    }

    /// Nothing else puts messages into the error queue of a TCP socket that has no other options for it.
    fn take(&self, socket: &TcpStream) -> io::Result<()> {
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        recv(socket.as_raw_fd(), &mut [], flags).map(|_| ()).map_err(Errno::into)
    }
}
