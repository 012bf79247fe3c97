//! What a reload replaces.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// A value that is replaced as a whole. Who has taken the old one goes on with it.
pub struct Current<T>(RwLock<Arc<T>>);

impl<T> Current<T> {
    /// The first value.
    pub fn new(value: impl Into<Arc<T>>) -> Self {
        Self(RwLock::new(value.into()))
    }

    /// The value of now.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From here on, another one.
    pub fn replace(&self, value: impl Into<Arc<T>>) {
        // The old one is dropped outside the lock: it may be large.
        let old = std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), value.into());
        drop(old);
    }
}

impl<T: fmt::Debug> fmt::Debug for Current<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(formatter)
    }
}
