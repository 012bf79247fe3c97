//! The rates of users who have one (`users.NAME.limits.rate`): shared by all sessions of a name, apart for each direction.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::transfer::rate::Rate;

/// The rates of one name.
#[derive(Debug, Clone)]
pub struct UserRates {
    /// From the client.
    pub up: Arc<Rate>,
    /// To the client.
    pub down: Arc<Rate>,
}

/// The rates that are in use. There are no more of them than sessions.
#[derive(Debug, Default)]
pub struct Rates(Mutex<HashMap<String, InUse>>);

/// Up and down, as long as a session has them.
type InUse = (Weak<Rate>, Weak<Rate>);

impl Rates {
    /// Those of a name, which sessions of it that are there have already.
    pub fn of(&self, name: &str, bytes_per_second: u64) -> UserRates {
        let mut rates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((up, down)) = rates.get(name)
            && let (Some(up), Some(down)) = (up.upgrade(), down.upgrade())
        {
            return UserRates { up, down };
        }
        rates.retain(|_, (up, _)| up.strong_count() > 0);
        let new = UserRates { up: Arc::new(Rate::new(bytes_per_second)), down: Arc::new(Rate::new(bytes_per_second)) };
        rates.insert(name.to_owned(), (Arc::downgrade(&new.up), Arc::downgrade(&new.down)));
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_of_a_name_share_and_what_nobody_uses_is_forgotten() {
        let rates = Rates::default();
        let (one, two, other) = (rates.of("a", 1), rates.of("a", 1), rates.of("b", 1));
        assert!(Arc::ptr_eq(&one.up, &two.up) && Arc::ptr_eq(&one.down, &two.down));
        assert!(!Arc::ptr_eq(&one.up, &other.up) && !Arc::ptr_eq(&one.up, &one.down));
        drop((one, two, other));
        let _new = rates.of("c", 1);
        assert_eq!(rates.0.lock().unwrap().len(), 1);
    }
}
