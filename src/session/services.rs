//! What all sessions share: read-only after start, or with its own small lock.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::{Active, Limits, Login, Timeouts, User};
use crate::identity::SessionSlots;
use crate::identity::account::Accounts;
use crate::ssh::{Credentials, Method, PrivateKey, Target};
use crate::tls::ServerTls;
use crate::transfer::announced::Announced;
use crate::transfer::in_place::InPlace;
use crate::transfer::passive::PassivePorts;
use crate::transfer::sweep::Sweeper;

use super::backend::Identity;
use super::digests::Digests;
use super::line::Pool;

/// Shared by all sessions of the process.
#[derive(Debug)]
pub struct Services {
    /// Who may come in.
    pub accounts: Accounts,
    /// Backends by name, with their host keys.
    pub targets: HashMap<String, Arc<Target>>,
    /// Private keys by user entry.
    pub private_keys: HashMap<String, Arc<PrivateKey>>,
    /// Connections that sessions share, by user entry.
    pub pools: HashMap<String, Arc<Pool>>,
    /// Certificates.
    pub tls: ServerTls,
    /// USER and PASS only under TLS.
    pub require_control_tls: bool,
    /// Passive ports.
    pub passive: Arc<PassivePorts>,
    /// The address told in reply 227.
    pub announced: Announced,
    /// Active data connections; `None` where they are refused.
    pub active: Option<Active>,
    /// Sessions counted in all, by address and by user.
    pub slots: SessionSlots,
    /// Who asks for digests.
    pub digests: Digests,
    /// What is written to under its own name.
    pub in_place: InPlace,
    /// Which directories were swept of files that a killed gateway left.
    pub sweeper: Sweeper,
    /// Bounds.
    pub limits: Limits,
    /// Deadlines.
    pub timeouts: Timeouts,
}

impl Services {
    /// The backend of a user entry.
    pub fn target(&self, user: &User) -> Option<Arc<Target>> {
        self.targets.get(&user.backend.name).cloned()
    }

    /// Whose login on the backend the sessions of a user entry have.
    pub fn identity(&self, user: &User) -> Identity {
        match user.login {
            Login::Passthrough => Identity::Passthrough,
            Login::Password { .. } | Login::PrivateKey { .. } => Identity::Mapped(self.pools.get(&user.name).cloned()),
        }
    }
}

/// The login of the gateway's own that a user entry has; `None` for passthrough, or where the key is missing.
pub fn mapped_credentials(user: &User, private_keys: &HashMap<String, Arc<PrivateKey>>) -> Option<Credentials> {
    match &user.login {
        Login::Passthrough => None,
        Login::Password { user, password } => {
            Some(Credentials { user: user.clone(), method: Method::Password(password.clone()) })
        }
        Login::PrivateKey { user: backend_user, .. } => {
            let key = private_keys.get(&user.name)?;
            Some(Credentials { user: backend_user.clone(), method: Method::PrivateKey(Arc::clone(key)) })
        }
    }
}
