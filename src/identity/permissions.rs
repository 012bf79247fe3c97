//! What a user may do, as the `perm` fact tells it (RFC 3659 §7.5.5).

use crate::config::Permissions;
use crate::ftp::facts::FactPermissions;

/// The same flags in the words of `ftp`.
pub fn for_facts(permissions: Permissions) -> FactPermissions {
    let Permissions { list, read, write, overwrite, delete, rename, mkdir, chmod } = permissions;
    FactPermissions { list, read, write, overwrite, delete, rename, mkdir, chmod }
}
