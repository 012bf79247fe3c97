//! Transfer parameters (RFC 959 §4.1.2) and the listing facts in force (RFC 3659 §7.9).

use std::time::Duration;

use crate::ftp::argument::TransferType;
use crate::ftp::digest::Algorithm;
use crate::ftp::facts::FactSelection;

/// They persist over transfers.
#[derive(Debug, Clone)]
pub struct Parameters {
    /// TYPE; ASCII until the client says otherwise.
    pub transfer_type: TransferType,
    /// OPTS MLST.
    pub facts: FactSelection,
    /// EPSV ALL was given: no other way to a data connection is taken any more (RFC 2428 §4).
    pub only_extended_passive: bool,
    /// OPTS HASH.
    pub digest: Option<Algorithm>,
    /// It asked for UTF-8 (OPTS UTF8 ON), or was told by FEAT that it is spoken here (RFC 2640 §3.2).
    pub utf8: bool,
    /// SITE UMASK.
    pub umask: Option<u32>,
    /// SITE IDLE.
    pub idle: Option<Duration>,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            transfer_type: TransferType::Ascii,
            facts: FactSelection::default(),
            only_extended_passive: false,
            digest: None,
            utf8: false,
            umask: None,
            idle: None,
        }
    }
}
