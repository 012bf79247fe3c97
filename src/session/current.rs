//! What a reload replaces.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// A value that is replaced as a whole. Who has taken the old one goes on with it.
pub struct Current<T> {
    value: RwLock<Arc<T>>,
    replaced: Notify,
}

impl<T> Current<T> {
    /// The first value.
    pub fn new(value: impl Into<Arc<T>>) -> Self {
        Self { value: RwLock::new(value.into()), replaced: Notify::new() }
    }

    /// The value of now.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.value.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From here on, another one.
    pub fn replace(&self, value: impl Into<Arc<T>>) {
        // The old one is dropped outside the lock: it may be large.
        let old = std::mem::replace(&mut *self.value.write().unwrap_or_else(PoisonError::into_inner), value.into());
        drop(old);
        self.replaced.notify_waiters();
    }

    /// Completes at the next replacement after this call, however late it is waited for.
    pub fn replaced(&self) -> Notified<'_> {
        self.replaced.notified()
    }
}

impl<T: fmt::Debug> fmt::Debug for Current<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(formatter)
    }
}
