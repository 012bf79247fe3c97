//! Who is this, and what may they do?

pub mod account;
mod bounded_map;
mod certificate;
pub mod failed_logins;
pub mod password;
pub mod permissions;
mod remembered;
pub mod root;
pub mod session_slots;

pub use account::Accounts;
pub use failed_logins::FailedLogins;
pub use session_slots::SessionSlots;
