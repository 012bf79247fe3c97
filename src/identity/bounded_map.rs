//! A map that strangers fill and that has a bound all the same: when it is full, what was longest untouched is forgotten.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// A map of so many entries.
#[derive(Debug)]
pub(super) struct BoundedMap<K, V> {
    entries: HashMap<K, (u64, V)>,
    /// The keys in the order they were last touched.
    by_age: BTreeMap<u64, K>,
    /// Counts touches; 0 is the age of an entry that is being made.
    touches: u64,
    most: usize,
}

impl<K: Eq + Hash + Clone, V: Default> BoundedMap<K, V> {
    /// An empty map that will hold `most` entries.
    pub(super) fn new(most: usize) -> Self {
        Self { entries: HashMap::new(), by_age: BTreeMap::new(), touches: 0, most }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|(_, value)| value)
    }

    /// The value of a key, made where there is none; it is the last to be forgotten from now on.
    pub(super) fn touch(&mut self, key: K) -> &mut V {
        if self.entries.len() >= self.most
            && !self.entries.contains_key(&key)
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.entries.remove(&oldest);
        }
        self.touches += 1;
        self.by_age.insert(self.touches, key.clone());
        let (age, value) = self.entries.entry(key).or_default();
        self.by_age.remove(age);
        *age = self.touches;
        value
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some((age, _)) = self.entries.remove(key) {
            self.by_age.remove(&age);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.entries.len(), self.by_age.len());
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_longest_untouched_is_forgotten() {
        let mut map = BoundedMap::new(3);
        for key in [1, 2, 3] {
            *map.touch(key) = key * 10;
        }
        map.touch(1);
        map.touch(4);
        assert_eq!([1, 2, 3, 4].map(|key| map.get(&key).copied()), [Some(10), None, Some(30), Some(0)]);
        map.remove(&3);
        map.touch(5);
        assert_eq!(map.get(&1), Some(&10), "there was room");
        assert_eq!(map.len(), 3);
        for key in 0..1000 {
            map.touch(key);
        }
        assert_eq!(map.len(), 3);
    }
}
