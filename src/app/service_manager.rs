//! systemd: readiness, state and watchdog (sd_notify(3)), and sockets that it holds for us (sd_listen_fds(3)). Does nothing
//! where there is no systemd.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tracing::warn;

/// Sockets that were handed over, by name; those without one are called `unknown` by systemd.
#[derive(Debug, Default)]
pub(super) struct Handed(HashMap<String, std::net::TcpListener>);

impl Handed {
    /// Takes what was handed over: each name once (`FileDescriptorName=` of the socket unit).
    ///
    /// # Errors
    /// One of them is no listening TCP socket.
    pub(super) fn take() -> io::Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut sockets = ListenFd::from_env();
        let mut handed = Self::default();
        for (index, name) in (0..sockets.len()).zip(names.split(':').chain(std::iter::repeat("unknown"))) {
            if let Some(socket) = sockets.take_tcp_listener(index)? {
                handed.0.insert(name.to_owned(), socket);
            }
        }
        Ok(handed)
    }

    /// The one of this name.
    pub(super) fn listener(&mut self, name: &str) -> Option<io::Result<tokio::net::TcpListener>> {
        let socket = self.0.remove(name)?;
        Some(socket.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(socket)))
    }

    /// Says which nobody asked for.
    pub(super) fn warn_of_rest(&self) {
        for name in self.0.keys() {
            warn!(name, "a socket of systemd is called so, and no listener is");
        }
    }
}

/// Tells the service manager.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(exception.message = %error, "systemd cannot be told");
    }
}

/// Clients are served from here on.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// What an operator asked for is being read; [`reloaded`] ends it, whatever came of it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => warn!(exception.message = %error, "systemd cannot be told of a reload"),
    }
}

/// The reload is over.
pub(super) fn reloaded() {
    tell(&[NotifyState::Ready]);
}

/// The drain has begun, and may take as long as this.
pub(super) fn stopping(drain: Duration) {
    let microseconds = u32::try_from(drain.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(microseconds), NotifyState::Status("draining")]);
}

/// How it goes, in a few words.
pub(super) fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

/// A sign of life.
pub(super) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// Is there a watchdog that waits for signs of life?
pub(super) fn has_watchdog() -> bool {
    sd_notify::watchdog_enabled().is_some()
}
