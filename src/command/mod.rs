//! Commands: one table of rows ([`spec`]), one gate before every handler ([`admit`]), one table from errors to replies
//! ([`failure`]), and the handlers by theme. Handlers return; only `control` writes, counts and logs.

pub mod access;
pub mod admit;
pub mod attributes;
pub mod digest;
pub mod failure;
pub mod file;
mod flight;
pub mod information;
pub mod listing;
pub mod navigation;
pub mod parameters;
pub mod port;
pub mod security;
pub mod spec;
pub mod store;
pub mod table;
pub mod transfer;

use crate::ftp::argument::ArgumentError;
use crate::ftp::reply::Reply;
use crate::transfer::outcome::Transfer;

/// What a handler asks the control loop to do.
#[derive(Debug)]
pub enum Step {
    /// Send the final reply.
    Reply(Reply),
    /// Send the preliminary reply, run the transfer, and send what came of it.
    Transfer {
        /// 150.
        opening: Reply,
        /// The job.
        transfer: Transfer,
    },
    /// Send the reply, then begin TLS.
    UpgradeToTls(Reply),
    /// Send the reply, then end TLS on the control connection.
    ClearControl(Reply),
    /// Send the reply, then close the control connection.
    Close(Reply),
}

impl Step {
    /// A final reply.
    pub fn reply(code: u16, text: impl AsRef<[u8]>) -> Self {
        Self::Reply(Reply::new(code, text))
    }
}

/// What came after the verb: nothing, or the bytes after exactly one space.
#[derive(Clone, Copy)]
pub struct Argument<'a>(Option<&'a [u8]>);

impl<'a> Argument<'a> {
    /// Wraps it.
    pub fn new(bytes: Option<&'a [u8]>) -> Self {
        Self(bytes)
    }

    /// The bytes, where something was given.
    ///
    /// # Errors
    /// [`ArgumentError::Missing`]: reply 501.
    pub fn required(self) -> Result<&'a [u8], ArgumentError> {
        self.0.filter(|bytes| !bytes.is_empty()).ok_or(ArgumentError::Missing)
    }

    /// The bytes, where something was given.
    pub fn optional(self) -> Option<&'a [u8]> {
        self.0.filter(|bytes| !bytes.is_empty())
    }

    /// The bytes verbatim, perhaps none: a password may be empty.
    pub fn verbatim(self) -> &'a [u8] {
        self.0.unwrap_or_default()
    }
}
