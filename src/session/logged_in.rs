//! What only a logged-in user has.

use std::borrow::Cow;
use std::sync::Arc;

use crate::config::{Policy, User};
use crate::ftp::charset::Charset;
use crate::ftp::digest::Algorithm;
use crate::ftp::facts::FactPermissions;
use crate::ftp::path::VirtualPath;
use crate::identity::permissions;
use crate::identity::root::Root;
use crate::identity::session_slots::UserSlot;
use crate::sftp::BackendPath;
use crate::transfer::digest::Digested;
use crate::transfer::endpoint::{DataEndpoint, Declined};
use crate::transfer::sweep::Sweeper;

use super::Front;
use super::backend::BackendLink;
use super::parameters::Parameters;
use super::pending::Pending;
use super::rates::UserRates;

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
    /// Directories it uploaded to: they are swept when it ends.
    pub uploaded_to: Vec<BackendPath>,
    /// The digest of the last file that was transferred whole.
    pub digested: Option<Digested>,
    /// PASV or EPSV was given.
    pub endpoint: Option<DataEndpoint>,
    /// The one before, whose command was refused: kept until the next is opened, for a client that is on its way.
    pub declined: Option<Declined>,
    /// Its place among the sessions of its user.
    pub slot: UserSlot,
    /// How it proved who it is.
    pub proof: ProofKind,
    /// How fast its transfers may be; `None` is as fast as they are.
    pub rates: Option<UserRates>,
}

/// How a client proved who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofKind {
    /// A password.
    Password,
    /// A certificate.
    Certificate,
    /// A certificate and a password.
    Both,
}

/// Directories remembered for the sweep at the end.
const MAX_UPLOADED_TO: usize = 16;

impl LoggedIn {
    /// An upload went to this directory.
    pub fn note_upload_to(&mut self, directory: BackendPath) {
        if self.uploaded_to.len() < MAX_UPLOADED_TO && !self.uploaded_to.contains(&directory) {
            self.uploaded_to.push(directory);
        }
    }

    /// Ends the session on the backend, after what a killed gateway left in its directories was seen to.
    pub async fn close(self, sweeper: &Sweeper) {
        let Self { backend, name, uploaded_to, slot, .. } = self;
        // The client may come back at once.
        drop(slot);
        // One path is another place to another user.
        let whose = format!("{}\0{name}", backend.name());
        let due = uploaded_to.into_iter().filter(|directory| sweeper.is_due(&whose, directory)).collect();
        backend.close(due).await;
    }

    /// The policy in force for this user.
    pub fn policy(&self) -> &Policy {
        &self.user.policy
    }

    /// How HASH makes digests: as OPTS HASH says, or by the first algorithm of the policy; `None` where there is none.
    pub fn selected_digest(&self) -> Option<Algorithm> {
        self.parameters.digest.or(self.policy().hash.first().copied())
    }

    /// Bits removed from the mode of new files and directories: SITE UMASK, or the policy.
    pub fn umask(&self) -> u32 {
        self.parameters.umask.unwrap_or(self.policy().umask)
    }

    /// The charset that this client's names are in; `None` where that is UTF-8.
    pub fn charset(&self) -> Option<Charset> {
        self.policy().charset.filter(|_| !self.parameters.utf8)
    }

    /// A path as this client is told it.
    pub fn shown<'a>(&self, path: &'a VirtualPath) -> Cow<'a, [u8]> {
        match self.charset() {
            Some(charset) => charset.shown_path(path.as_bytes()),
            None => Cow::Borrowed(path.as_bytes()),
        }
    }

    /// What the `perm` facts tell.
    pub fn fact_permissions(&self) -> FactPermissions {
        permissions::for_facts(self.user.permissions)
    }
}
