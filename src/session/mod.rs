//! The server-PI's state (RFC 959 §2.3) as a typed machine: what a session is before and after login.
//!
//! A session belongs to its control task and is never shared. What only a logged-in user has is in [`LoggedIn`], so a
//! handler that needs a user cannot be called without one.

pub mod activity;
pub mod backend;
pub mod bequests;
pub mod current;
pub mod digests;
pub mod line;
pub mod logged_in;
pub mod parameters;
pub mod pending;
pub mod rates;
pub mod services;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::config::{Listener, TlsMode};
use crate::proxy_protocol::Ends;
use crate::tls::{Secured, SessionTls};
use crate::transfer::endpoint::DataProtection;

use self::logged_in::LoggedIn;
use self::parameters::Parameters;

/// What never changes during a session.
#[derive(Debug)]
pub struct Front {
    /// Number of the session in this process; the `session` field of every log line.
    pub id: u64,
    /// The client, IPv4-mapped addresses as IPv4.
    pub peer: SocketAddr,
    /// The address it dialled: ours, or that of a proxy which says so.
    pub dialled: SocketAddr,
    /// Ours, where its control connection arrived. Its data connections arrive there and leave from there.
    pub local: IpAddr,
    /// Where it came in.
    pub listener: Arc<Listener>,
    /// Its own TLS configurations.
    pub tls: SessionTls,
    /// PROT, shared with data endpoints.
    pub protection: DataProtection,
}

impl Front {
    /// A session that begins: PROT is C until the client says otherwise.
    pub fn new(id: u64, ends: Ends, local: IpAddr, listener: Arc<Listener>, tls: SessionTls) -> Self {
        let Ends { client: peer, dialled } = ends;
        Self { id, peer, dialled, local, listener, tls, protection: DataProtection::default() }
    }
}

/// A control session.
#[derive(Debug)]
pub struct Session {
    /// What never changes.
    pub front: Arc<Front>,
    /// TLS of the control connection, once it has it.
    pub secured: Option<Secured>,
    /// It was taken off again (CCC).
    pub is_cleared: bool,
    /// PBSZ was given (RFC 4217 §8): PROT may follow.
    pub buffer_size_set: bool,
    /// How far the login is.
    pub stage: Stage,
    /// PASS commands that failed.
    pub failed_logins: u32,
    /// Before login; they move into [`LoggedIn`] then.
    parameters: Parameters,
}

/// How far the login is.
#[derive(Debug)]
pub enum Stage {
    /// Nobody yet.
    New,
    /// USER was given.
    Named(Vec<u8>),
    /// PASS was right.
    LoggedIn(Box<LoggedIn>),
}

impl Session {
    /// A session whose connection was just accepted.
    pub fn new(front: Front) -> Self {
        Self {
            front: Arc::new(front),
            secured: None,
            is_cleared: false,
            buffer_size_set: false,
            stage: Stage::New,
            failed_logins: 0,
            parameters: Parameters::default(),
        }
    }

    /// The control connection is under TLS now. Everything the client said in clear is forgotten (RFC 4217 §4.2).
    pub fn secure(&mut self, secured: Secured) {
        self.front.tls.established(&secured);
        self.secured = Some(secured);
        self.stage = Stage::New;
        self.parameters = Parameters::default();
        self.buffer_size_set = false;
        // On the implicit port old clients send neither PBSZ nor PROT and expect protected data.
        self.front.protection.set_private(self.front.listener.tls == TlsMode::Implicit);
    }

    /// The logged-in user's state.
    pub fn logged_in(&mut self) -> Option<&mut LoggedIn> {
        match &mut self.stage {
            Stage::LoggedIn(state) => Some(state),
            Stage::New | Stage::Named(_) => None,
        }
    }

    /// TYPE and the like, wherever they are kept now.
    pub fn parameters(&mut self) -> &mut Parameters {
        match &mut self.stage {
            Stage::LoggedIn(state) => &mut state.parameters,
            Stage::New | Stage::Named(_) => &mut self.parameters,
        }
    }

    /// Completes the login.
    pub fn log_in(&mut self, mut state: LoggedIn) {
        state.parameters = std::mem::take(&mut self.parameters);
        self.stage = Stage::LoggedIn(Box::new(state));
    }
}
