//! The server-DTP (RFC 959 §2.3): data endpoints, and the transfers that run over them.

pub mod announced;
pub mod commit;
pub mod data_connection;
pub mod digest;
pub mod download;
pub mod endpoint;
pub mod in_place;
pub mod landing;
pub mod left_behind;
pub mod listing;
pub mod outcome;
pub mod passive;
pub mod prompt_socket;
pub mod rate;
mod receipt;
pub mod sweep;
pub mod temporary;
pub mod upload;
