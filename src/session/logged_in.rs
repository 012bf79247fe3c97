//! What only a logged-in user has.

use std::sync::Arc;

use crate::config::{Policy, User};
use crate::ftp::facts::FactPermissions;
use crate::ftp::path::VirtualPath;
use crate::identity::permissions;
use crate::identity::root::Root;
use crate::identity::session_slots::UserSlot;
use crate::transfer::endpoint::DataEndpoint;

use super::Front;
use super::backend::BackendLink;
use super::parameters::Parameters;
use super::pending::Pending;

/// The state of a session after PASS.
#[derive(Debug)]
pub struct LoggedIn {
    /// What never changes.
    pub front: Arc<Front>,
    /// The name the client gave.
    pub name: String,
    /// The entry it was found under.
    pub user: Arc<User>,
    /// Where its files are.
    pub backend: BackendLink,
    /// What it sees as `/`.
    pub root: Arc<Root>,
    /// Its working directory.
    pub directory: VirtualPath,
    /// TYPE and the like.
    pub parameters: Parameters,
    /// RNFR and REST.
    pub pending: Pending,
    /// PASV or EPSV was given.
    pub endpoint: Option<DataEndpoint>,
    /// Its place among the sessions of its user.
    pub slot: UserSlot,
}

impl LoggedIn {
    /// The policy in force for this user.
    pub fn policy(&self) -> &Policy {
        &self.user.policy
    }

    /// What the `perm` facts tell.
    pub fn fact_permissions(&self) -> FactPermissions {
        permissions::for_facts(self.user.permissions)
    }
}
