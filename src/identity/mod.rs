//! Who is this, and what may they do?

pub mod account;
pub mod password;
pub mod permissions;
mod remembered;
pub mod root;
pub mod session_slots;

pub use account::Accounts;
pub use session_slots::SessionSlots;
