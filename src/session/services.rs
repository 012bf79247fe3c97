//! What all sessions share: read-only after start, replaced as a whole by a reload, or with its own small lock.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::secret::Secret;
use crate::config::{Active, Limits, Login, Timeouts, User};
use crate::identity::account::Accounts;
use crate::identity::{FailedLogins, SessionSlots};
use crate::ssh::{Credentials, LoginKey, Target};
use crate::telemetry::audit::Audit;
use crate::telemetry::metrics::ToldUsers;
use crate::tls::ServerTls;
use crate::transfer::announced::Announced;
use crate::transfer::in_place::InPlace;
use crate::transfer::passive::PassivePorts;
use crate::transfer::sweep::Sweeper;

use super::activity::Activity;
use super::backend::Identity;
use super::bequests::Bequests;
use super::current::Current;
use super::digests::Digests;
use super::line::Pool;
use super::rates::Rates;

/// Who may come in, and where their files are. A session takes the one of the time of its login.
#[derive(Debug)]
pub struct Realm {
    /// Who may come in.
    pub accounts: Accounts,
    /// Backends by name, with their host keys. Where those alone change, sessions that are under way follow.
    pub targets: HashMap<String, Arc<Current<Target>>>,
    /// Keys to log in on backends with, by user entry.
    pub login_keys: HashMap<String, LoginKey>,
    /// Connections that sessions share, by user entry.
    pub pools: HashMap<String, Arc<Pool>>,
}

/// Shared by all sessions of the process.
#[derive(Debug)]
pub struct Services {
    /// Who may come in, and where their files are.
    pub realm: Current<Realm>,
    /// Certificates.
    pub tls: Current<ServerTls>,
    /// USER and PASS only under TLS.
    pub require_control_tls: bool,
    /// Passive ports.
    pub passive: Arc<PassivePorts>,
    /// How many there are.
    pub passive_ports: usize,
    /// The address told in reply 227.
    pub announced: Announced,
    /// Active data connections; `None` where they are refused.
    pub active: Option<Active>,
    /// Sessions counted in all, by address and by user.
    pub slots: SessionSlots,
    /// Failed logins counted by address and by name.
    pub failed_logins: FailedLogins,
    /// Rates of users who have one.
    pub rates: Rates,
    /// Who asks for digests.
    pub digests: Digests,
    /// What sessions that ended could not put right.
    pub bequests: Arc<Bequests>,
    /// What is written to under its own name.
    pub in_place: InPlace,
    /// Which directories were swept of files that a killed gateway left.
    pub sweeper: Sweeper,
    /// What all sessions are doing.
    pub activity: Arc<Activity>,
    /// Where audit records go.
    pub audit: Audit,
    /// Configured users whose last login is told.
    pub told_users: Option<ToldUsers>,
    /// Bounds.
    pub limits: Limits,
    /// Deadlines.
    pub timeouts: Timeouts,
}

impl Realm {
    /// The backend of a user entry.
    pub fn target(&self, user: &User) -> Option<Arc<Current<Target>>> {
        self.targets.get(&user.backend.name).cloned()
    }

    /// Whose login on the backend the sessions of a user entry have.
    pub fn identity(&self, user: &User) -> Identity {
        match user.login {
            Login::Passthrough(password) => Identity::Passthrough(password),
            Login::Mapped(_) => Identity::Mapped(self.pools.get(&user.name).cloned()),
        }
    }
}

/// The login of the gateway's own that a user entry has; `None` for passthrough, or where the key is missing.
pub fn mapped_credentials(user: &User, login_keys: &HashMap<String, LoginKey>) -> Option<Credentials> {
    let Login::Mapped(login) = &user.login else { return None };
    let key = match &login.key {
        Some(_) => Some(login_keys.get(&user.name)?.clone()),
        None => None,
    };
    Some(Credentials { user: login.user.clone(), key, password: login.password.clone().map(Secret::seal) })
}
