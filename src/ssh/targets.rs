//! Every backend of a configuration, each behind the host that it is reached through.

use std::collections::HashMap;
use std::sync::Arc;

use super::authenticate::Credentials;
use super::host_key::HostKeyPolicy;
use super::login_key::LoginKey;
use super::target::Target;
use crate::config::secret::Secret;
use crate::config::{Backend, Config};

/// Why there is no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {what}")]
pub struct TargetError {
    /// Key path of what is wrong.
    pub at: String,
    /// What is wrong with it.
    pub what: String,
}

type Targets = HashMap<String, Arc<Target>>;

/// Reads what proves the backends, and the keys for those that others are reached through.
///
/// # Errors
/// When a file cannot be read, or is not what it should be.
pub fn targets(config: &Config) -> Result<Targets, TargetError> {
    let mut targets = Targets::new();
    for backend in config.backends.values() {
        target(config, backend, &mut targets, config.backends.len())?;
    }
    Ok(targets)
}

/// `depth` ends what the configuration has excluded: jump hosts in a circle.
fn target(
    config: &Config,
    backend: &Arc<Backend>,
    targets: &mut Targets,
    depth: usize,
) -> Result<Arc<Target>, TargetError> {
    if let Some(target) = targets.get(&backend.name) {
        return Ok(Arc::clone(target));
    }
    let wrong = |key: &str, what: String| TargetError { at: format!("backends.{}.{key}", backend.name), what };
    let host_keys = HostKeyPolicy::for_backend(backend).map_err(|error| wrong("known_hosts", error.to_string()))?;
    let mut made = Target::with_transfer_window(Arc::clone(backend), host_keys, config.limits.transfer_window);
    if let Some(jump) = &backend.jump {
        let host = config.backends.get(jump).filter(|_| depth > 0);
        let host = host.ok_or_else(|| wrong("jump", format!("`{jump}` cannot be a jump host")))?;
        let credentials = credentials(host)?;
        made = made.through(target(config, host, targets, depth - 1)?, credentials);
    }
    let made = Arc::new(made);
    targets.insert(backend.name.clone(), Arc::clone(&made));
    Ok(made)
}

/// Who the gateway is to a jump host.
fn credentials(host: &Backend) -> Result<Credentials, TargetError> {
    let at = format!("backends.{}.login", host.name);
    let Some(login) = &host.login else { return Err(TargetError { at, what: "is missing".to_owned() }) };
    let key = login.key.as_ref().map(LoginKey::load).transpose();
    let key = key.map_err(|error| TargetError { at: format!("{at}.{}", error.key()), what: error.to_string() })?;
    Ok(Credentials { user: login.user.clone(), key, password: login.password.clone().map(Secret::seal) })
}
