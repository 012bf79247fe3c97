//! The one table from errors to replies. No layer below speaks in reply codes, and no `_` arm hides a new error.
//!
//! 425 no data connection, 426 the client's data connection broke, 451 ours or the backend's fault, 452 and 552 no
//! room, 450 try later, 550 no such thing or no access, 553 this name not, 421 the whole service not now.

use crate::config::Permissions;
use crate::ftp::argument::ArgumentError;
use crate::ftp::path::PathError;
use crate::ftp::reply::Reply;
use crate::identity::failed_logins::Banned;
use crate::session::backend::BackendError;
use crate::sftp::{SftpError, StatusCode};
use crate::ssh::ConnectError;
use crate::transfer::commit::Shortage;
use crate::transfer::data_connection::DataError;
use crate::transfer::outcome::{StopReason, TransferError, TransferKind};
use crate::transfer::passive::PortsExhausted;

/// What a command wanted of a name; the reply code depends on it (RFC 959 §5.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Something that should exist: RETR, LIST, SIZE, MDTM, MLST, DELE, RNFR.
    Existing,
    /// CWD, MKD, RMD: RFC 959 lists no 4yz for them.
    Directory,
    /// STOR, APPE.
    Store,
    /// RNTO.
    RenameTo,
}

/// Why a command fails before its preliminary reply, or without one.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The argument is not what the syntax says.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    /// The pathname cannot be one.
    #[error("{1}")]
    Path(Purpose, #[source] PathError),
    /// The backend said no, or could not be asked.
    #[error("backend: {1}")]
    Backend(Purpose, #[source] BackendError),
    /// A symbolic link on the path leads out of the user's root, or is not to be followed at all.
    #[error("the path leads over a symbolic link that the policy does not follow")]
    Outside(Purpose),
    /// No room is left for a new file.
    #[error("backend: {0} ({1})")]
    StorageFull(Shortage, #[source] SftpError),
    /// No new name may be made where the upload goes: its temporary name is one.
    #[error("the backend refuses the temporary name of the upload; `policy.upload: direct` does without ({0})")]
    NewNameRefused(#[source] SftpError),
    /// The name is one of ours for files under way.
    #[error("the name is reserved for files under way")]
    Reserved(Purpose),
    /// The user may not do this.
    #[error("not permitted: {1}")]
    NotPermitted(Purpose, &'static str),
    /// It is there, and it is not what the command is for; the text says what it is.
    #[error("{1}")]
    WrongKind(Purpose, &'static str),
    /// A wildcard matched nothing.
    #[error("no name matches")]
    NoMatch,
    /// REST and this file or mode do not go together.
    #[error("{0}")]
    Restart(&'static str),
    /// All passive ports are taken.
    #[error(transparent)]
    Ports(#[from] PortsExhausted),
    /// PASS failed.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// A fixed refusal that the protocol state demands.
    #[error("{1}")]
    Refused(u16, &'static str),
}

/// Why a login failed.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// Unknown user or wrong password: nobody outside learns which.
    #[error("unknown user or wrong password")]
    BadCredentials,
    /// The backend does not accept the user. Told like a wrong password.
    #[error("the backend refused the login: {0}")]
    RefusedByBackend(#[source] ConnectError),
    /// The backend does not accept what the gateway logs in with, which is the operator's to mend. Told like a wrong
    /// password.
    #[error("the backend refused the gateway's own login for the user: {0}")]
    GatewayRefused(#[source] ConnectError),
    /// The backend went away instead of saying yes or no to a password that nobody else has checked.
    #[error("the backend did not say whether the password is right: {0}")]
    Undecided(#[source] ConnectError),
    /// They may not come from where they do. Told like a wrong password.
    #[error("the user may not come from this address (users.*.from)")]
    NotFromHere,
    /// The certificate that the client showed is not that of the user, or it is somebody else's.
    #[error("the client certificate is not that of the user (users.*.client_certificate)")]
    WrongCertificate,
    /// The user logs in by certificate, and the client showed none. Told like a wrong password.
    #[error("the user needs a client certificate, and the client showed none (users.*.client_certificate)")]
    NoCertificate,
    /// Refused because of those that failed before. Told like a wrong password.
    #[error("refused unasked: {0}")]
    Banned(#[source] Banned),
    /// As often as a session may fail; the connection ends. The last failure.
    #[error("{0}; too many failed logins, closing")]
    TooMany(#[source] Box<LoginError>),
    /// The backend cannot be used now; nothing is wrong with the credentials.
    #[error("the backend is unavailable: {source}")]
    BackendUnavailable {
        /// Why.
        source: BackendError,
        /// The gateway itself knew the client to be who it says.
        is_proven: bool,
    },
    /// The user has as many sessions as it may.
    #[error("too many sessions of this user")]
    TooManySessions,
}

impl LoginError {
    /// Does it count as a failed login? What the backend or a bound of ours is the reason of does not.
    pub fn is_the_clients_fault(&self) -> bool {
        match self {
            Self::BadCredentials
            | Self::RefusedByBackend(_)
            // SECURITY: some servers do so where it is wrong.
            | Self::Undecided(_)
            | Self::NotFromHere
            | Self::WrongCertificate
            | Self::NoCertificate => true,
            Self::Banned(_)
            | Self::GatewayRefused(_)
            | Self::TooMany(_)
            | Self::BackendUnavailable { .. }
            | Self::TooManySessions => false,
        }
    }

    /// Is the reply put off all the same? SECURITY: what may have been a guess is not answered sooner than one that was.
    pub fn is_put_off(&self) -> bool {
        matches!(self, Self::GatewayRefused(_) | Self::BackendUnavailable { is_proven: false, .. })
    }
}

/// A reply, and whether the control connection closes after it.
#[derive(Debug)]
pub struct Answer {
    /// The reply.
    pub reply: Reply,
    /// The control connection closes after it.
    pub close: bool,
}

impl Answer {
    fn stay(code: u16, text: impl AsRef<[u8]>) -> Self {
        Self { reply: Reply::new(code, text), close: false }
    }

    fn close(code: u16, text: impl AsRef<[u8]>) -> Self {
        Self { reply: Reply::new(code, text), close: true }
    }
}

/// The reply for an error before the preliminary reply.
pub fn reply_for(error: &CommandError) -> Answer {
    match error {
        CommandError::Argument(ArgumentError::Missing) => Answer::stay(501, "An argument is required"),
        CommandError::Argument(ArgumentError::Syntax) => Answer::stay(501, "Syntax error in the argument"),
        CommandError::Argument(ArgumentError::Unsupported) => Answer::stay(504, "Not implemented for that argument"),
        CommandError::Path(purpose, error) => match error {
            PathError::Empty => Answer::stay(501, "A pathname is required"),
            PathError::ControlCharacter => Answer::stay(501, "NUL, CR and LF are not allowed in a pathname"),
            PathError::NotAName => Answer::stay(501, "Not a name"),
            PathError::TooLong => Answer::stay(501, "The pathname is too long"),
            PathError::SegmentTooLong => Answer::stay(not_allowed(*purpose), "A name in the path is too long"),
        },
        CommandError::Backend(purpose, BackendError::Sftp(error)) => sftp_reply(*purpose, error),
        CommandError::Backend(_, BackendError::Connect(ConnectError::NothingKept | ConnectError::Rejected { .. })) => {
            Answer::close(421, "The connection to the file server was lost; log in again")
        }
        CommandError::Backend(purpose, BackendError::Connect(_)) => {
            Answer::stay(temporarily(*purpose), "The backend cannot be reached, try again later")
        }
        CommandError::Outside(purpose) => {
            Answer::stay(not_allowed(*purpose), "Leads over a symbolic link that is not followed here")
        }
        CommandError::StorageFull(shortage, _) => Answer::stay(452, full(*shortage)),
        CommandError::NewNameRefused(_) => {
            Answer::stay(553, "The file server lets no new file be made here, not even for the time of the upload")
        }
        CommandError::Reserved(purpose) => Answer::stay(not_allowed(*purpose), "That name is reserved"),
        CommandError::NotPermitted(purpose, what) => Answer::stay(not_allowed(*purpose), what),
        CommandError::WrongKind(purpose, what) => Answer::stay(not_allowed(*purpose), what),
        CommandError::NoMatch => Answer::stay(450, "No names match"),
        CommandError::Restart(what) => Answer::stay(554, what),
        CommandError::Ports(PortsExhausted) => Answer::stay(425, "No passive port is free, try again later"),
        CommandError::Login(error) => match error {
            LoginError::BadCredentials
            | LoginError::RefusedByBackend(_)
            | LoginError::GatewayRefused(_)
            | LoginError::NotFromHere
            | LoginError::NoCertificate
            | LoginError::Banned(_) => Answer::stay(530, "Login incorrect"),
            LoginError::WrongCertificate => Answer::stay(530, "That is not the user of your certificate"),
            LoginError::TooMany(_) => Answer::close(421, "Too many failed logins, closing"),
            LoginError::BackendUnavailable { .. } | LoginError::Undecided(_) => {
                Answer::close(421, "The file server is not available, try again later")
            }
            LoginError::TooManySessions => Answer::close(421, "Too many sessions of this user, try again later"),
        },
        CommandError::Refused(code, text) => Answer::stay(*code, text),
    }
}

/// The final reply of a transfer that failed after its preliminary reply.
pub fn transfer_reply(kind: TransferKind, error: &TransferError) -> Reply {
    match error {
        TransferError::Data(error) => data_reply(kind, error),
        TransferError::Backend(SftpError::TimedOut) => Reply::new(451, "The file server did not answer in time"),
        TransferError::Backend(SftpError::Lost(_)) => Reply::new(451, "The connection to the file server was lost"),
        TransferError::Backend(SftpError::Status { .. } | SftpError::Protocol(_) | SftpError::Unsupported(_)) => {
            Reply::new(451, "The file server failed")
        }
        TransferError::StorageFull(shortage, _) => Reply::new(552, full(*shortage)),
        TransferError::SizeDiffers { .. } => Reply::new(451, "The file was not stored whole"),
        TransferError::EndedEarly { .. } => Reply::new(451, "The file server ended the file too early"),
        TransferError::Stopped(StopReason::Aborted | StopReason::ControlLost | StopReason::ControlTimedOut) => {
            Reply::new(426, "Transfer aborted")
        }
        TransferError::Stopped(StopReason::CertificateRefused) => {
            Reply::new(426, "Your certificate is not accepted any more")
        }
        TransferError::Stopped(StopReason::Drained) => Reply::new(426, "The service is shutting down"),
    }
}

fn data_reply(kind: TransferKind, error: &DataError) -> Reply {
    match error {
        DataError::NotOpened => Reply::new(425, "No data connection was opened"),
        DataError::NotReached(_) => Reply::new(425, "Your data port could not be reached"),
        DataError::PortClosed => Reply::new(425, "The data port was closed"),
        DataError::HandshakeTimedOut => Reply::new(425, "The TLS handshake of the data connection took too long"),
        DataError::Handshake(_) => Reply::new(522, "The TLS handshake of the data connection failed"),
        DataError::OtherCertificate => {
            Reply::new(522, "The data connection did not show the client certificate of the control connection")
        }
        DataError::NotResumed(_) => {
            Reply::new(522, "The data connection must resume the TLS session of the control connection")
        }
        DataError::WrongProtection => Reply::new(522, "The data connection was opened under another PROT level"),
        DataError::Broken(_) => Reply::new(426, "The data connection was broken"),
        DataError::NoCloseNotify => match kind {
            TransferKind::Upload => {
                Reply::new(426, "The data connection ended without TLS closure; the file was not stored")
            }
            TransferKind::Download | TransferKind::Listing => Reply::new(426, "The data connection was broken"),
        },
        DataError::Idle => Reply::new(426, "The data connection was idle too long"),
    }
}

fn sftp_reply(purpose: Purpose, error: &SftpError) -> Answer {
    match error {
        SftpError::Status { code, .. } => match *code {
            StatusCode::NO_SUCH_FILE => match purpose {
                Purpose::Existing | Purpose::Directory => Answer::stay(550, "No such file or directory"),
                Purpose::Store | Purpose::RenameTo => Answer::stay(553, "No such directory"),
            },
            StatusCode::PERMISSION_DENIED | StatusCode::WRITE_PROTECT => {
                Answer::stay(not_allowed(purpose), "Permission denied")
            }
            StatusCode::BAD_MESSAGE => Answer::stay(not_allowed(purpose), "The file server does not take this name"),
            StatusCode::FILE_ALREADY_EXISTS => Answer::stay(not_allowed(purpose), "It exists already"),
            StatusCode::OP_UNSUPPORTED => Answer::stay(502, "The file server cannot do this"),
            StatusCode::NO_SPACE_ON_FILESYSTEM => Answer::stay(no_room(purpose), full(Shortage::Space)),
            StatusCode::QUOTA_EXCEEDED => Answer::stay(no_room(purpose), full(Shortage::Quota)),
            // FAILURE, whose cause OpenSSH does not tell, and all codes we do not know.
            _ => Answer::stay(failed(purpose), "The file server refused"),
        },
        SftpError::Unsupported(_) => Answer::stay(502, "The file server cannot do this"),
        SftpError::Lost(_) => Answer::stay(temporarily(purpose), "The connection to the file server was lost"),
        SftpError::TimedOut => Answer::stay(temporarily(purpose), "The file server did not answer in time"),
        SftpError::Protocol(_) => {
            Answer::stay(temporarily(purpose), "The file server gave an answer that makes no sense")
        }
    }
}

fn full(shortage: Shortage) -> &'static str {
    match shortage {
        Shortage::Space | Shortage::Inodes => "Insufficient storage space",
        Shortage::Quota => "Your quota is used up",
    }
}

/// This name not.
fn not_allowed(purpose: Purpose) -> u16 {
    match purpose {
        Purpose::Existing | Purpose::Directory => 550,
        Purpose::Store | Purpose::RenameTo => 553,
    }
}

fn no_room(purpose: Purpose) -> u16 {
    match purpose {
        Purpose::Store => 452,
        Purpose::Existing | Purpose::Directory => 550,
        Purpose::RenameTo => 553,
    }
}

/// FAILURE of unknown cause.
fn failed(purpose: Purpose) -> u16 {
    match purpose {
        Purpose::Existing | Purpose::Store => 450,
        Purpose::Directory => 550,
        Purpose::RenameTo => 553,
    }
}

/// The backend is away.
fn temporarily(purpose: Purpose) -> u16 {
    match purpose {
        Purpose::Existing | Purpose::Directory | Purpose::Store => 450,
        // Whether the rename happened is not known.
        Purpose::RenameTo => 451,
    }
}

/// Wraps errors of the layers below with what the command wanted.
pub trait For<T> {
    /// Adds the purpose.
    ///
    /// # Errors
    /// The same error, now as a [`CommandError`].
    fn purpose(self, purpose: Purpose) -> Result<T, CommandError>;
}

impl<T> For<T> for Result<T, SftpError> {
    fn purpose(self, purpose: Purpose) -> Result<T, CommandError> {
        self.map_err(|error| CommandError::Backend(purpose, error.into()))
    }
}

impl<T> For<T> for Result<T, BackendError> {
    fn purpose(self, purpose: Purpose) -> Result<T, CommandError> {
        self.map_err(|error| CommandError::Backend(purpose, error))
    }
}

impl<T> For<T> for Result<T, ConnectError> {
    fn purpose(self, purpose: Purpose) -> Result<T, CommandError> {
        self.map_err(|error| CommandError::Backend(purpose, error.into()))
    }
}

impl<T> For<T> for Result<T, PathError> {
    fn purpose(self, purpose: Purpose) -> Result<T, CommandError> {
        self.map_err(|error| CommandError::Path(purpose, error))
    }
}

/// Whether a backend error says that the name does not exist.
pub fn is_missing(error: &BackendError) -> bool {
    matches!(error, BackendError::Sftp(SftpError::Status { code: StatusCode::NO_SUCH_FILE, .. }))
}

/// Refuses what the user may not do.
///
/// # Errors
/// [`CommandError::NotPermitted`] where the flag is not set.
pub fn permit(
    permissions: Permissions,
    flag: fn(&Permissions) -> bool,
    purpose: Purpose,
    what: &'static str,
) -> Result<(), CommandError> {
    if flag(&permissions) { Ok(()) } else { Err(CommandError::NotPermitted(purpose, what)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: StatusCode) -> SftpError {
        SftpError::Status { code, message: String::new() }
    }

    #[test]
    fn status_codes_follow_the_table() {
        use Purpose::{Directory, Existing, RenameTo, Store};
        let cases = [
            (StatusCode::NO_SUCH_FILE, [550, 550, 553, 553]),
            (StatusCode::PERMISSION_DENIED, [550, 550, 553, 553]),
            (StatusCode::FAILURE, [450, 550, 450, 553]),
            (StatusCode::BAD_MESSAGE, [550, 550, 553, 553]),
            (StatusCode::OP_UNSUPPORTED, [502, 502, 502, 502]),
            (StatusCode::NO_SPACE_ON_FILESYSTEM, [550, 550, 452, 553]),
            (StatusCode::QUOTA_EXCEEDED, [550, 550, 452, 553]),
            (StatusCode(4711), [450, 550, 450, 553]),
        ];
        for (code, expected) in cases {
            for (purpose, expected) in [Existing, Directory, Store, RenameTo].into_iter().zip(expected) {
                let error = CommandError::Backend(purpose, status(code).into());
                let answer = reply_for(&error);
                assert_eq!(answer.reply.code(), expected, "{code:?} for {purpose:?}");
                assert!(!answer.close);
            }
        }
    }

    #[test]
    fn a_wrong_password_and_a_backend_that_refuses_sound_the_same() {
        let wrong = reply_for(&LoginError::BadCredentials.into());
        let refused = reply_for(
            &LoginError::RefusedByBackend(ConnectError::Rejected { accepted: Vec::new(), remaining: Vec::new() })
                .into(),
        );
        assert_eq!(wrong.reply.to_bytes(), refused.reply.to_bytes());
    }

    #[test]
    fn the_side_that_failed_is_in_the_code() {
        let code = |error: TransferError| transfer_reply(TransferKind::Upload, &error).code();
        assert_eq!(code(DataError::NoCloseNotify.into()), 426);
        assert_eq!(code(DataError::NotOpened.into()), 425);
        assert_eq!(code(status(StatusCode::FAILURE).into()), 451);
        assert_eq!(code(SftpError::Lost(String::new()).into()), 451);
        assert_eq!(code(TransferError::StorageFull(Shortage::Space, status(StatusCode::FAILURE))), 552);
        assert_eq!(code(TransferError::SizeDiffers { expected: 2, found: 1 }), 451);
        assert_eq!(code(StopReason::Aborted.into()), 426);
    }
}
