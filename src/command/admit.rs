//! The gate before every handler: TLS, login, permission, and the data connection a transfer needs.

use crate::config::Permissions;
use crate::ftp::reply::Reply;
use crate::session::logged_in::LoggedIn;
use crate::session::services::Services;
use crate::session::{Session, Stage};

use super::spec::{CommandSpec, Effect, Handler, PendingEffect};

/// Lets a command through, or says why not. What the command makes void becomes void either way.
///
/// SECURITY: the only way to a handler; a row cannot forget a check.
///
/// # Errors
/// The reply that refuses it.
pub fn admit(row: &CommandSpec, session: &mut Session, services: &Services) -> Result<(), Reply> {
    let under_tls = session.secured.is_some();
    if services.require_control_tls && !under_tls && !row.before_tls {
        return Err(Reply::new(530, "TLS required: use AUTH TLS first"));
    }
    if let Stage::LoggedIn(state) = &mut session.stage {
        void_pending(row.pending, state);
    }
    if let Handler::NotOffered(code, why) = row.handler {
        return Err(Reply::new(code, why));
    }
    match &mut session.stage {
        Stage::LoggedIn(state) => {
            if let Handler::LoggedIn(_) = row.handler {
                check_permission(row.effect, state.user.permissions)?;
            }
            if row.uses_data { check_data(state) } else { Ok(()) }
        }
        Stage::New | Stage::Named(_) => match row.handler {
            Handler::LoggedIn(_) => Err(Reply::new(530, "Please login with USER and PASS")),
            Handler::Anytime(_) | Handler::NotOffered(..) => Ok(()),
        },
    }
}

fn void_pending(effect: PendingEffect, state: &mut LoggedIn) {
    match effect {
        PendingEffect::KeepsRestart | PendingEffect::TakesRestart => {
            state.pending.take_rename_from();
        }
        PendingEffect::ClearsAll => {
            state.pending.take_rename_from();
            state.pending.take_restart();
        }
        PendingEffect::TakesRename => {}
    }
}

fn check_permission(effect: Effect, permissions: Permissions) -> Result<(), Reply> {
    let (allowed, code, what) = match effect {
        Effect::Free => return Ok(()),
        Effect::Lists => (permissions.list, 550, "You may not list"),
        Effect::Reads => (permissions.read, 550, "You may not read files"),
        Effect::Writes => (permissions.write, 550, "You may not write files"),
        Effect::Deletes => (permissions.delete, 550, "You may not delete"),
        Effect::Renames => (permissions.rename, 550, "You may not rename"),
        Effect::MakesDirectory => (permissions.mkdir, 550, "You may not make directories"),
    };
    if allowed { Ok(()) } else { Err(Reply::new(code, what)) }
}

fn check_data(state: &LoggedIn) -> Result<(), Reply> {
    if state.policy().data_tls_required && !state.front.protection.is_private() {
        return Err(Reply::new(521, "Data connections must be protected: use PBSZ 0 and PROT P"));
    }
    if state.endpoint.is_none() {
        return Err(Reply::new(425, "Use PASV or EPSV first"));
    }
    Ok(())
}
