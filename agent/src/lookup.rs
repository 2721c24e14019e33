//! A map that can be asked and not listed.
//!
//! An ordered map of ten thousand names reads a dozen of them to find one, each elsewhere in memory
//! and, where it was not looked at for long, in no cache. This one finds a key by its hash. The order
//! in which it would list them is another in each process, so it does not: what follows from it is
//! the same in all of them.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap, hash_map::Entry},
    hash::Hash,
};

/// Values by keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup<K: Eq + Hash, V>(HashMap<K, V>);

impl<K: Eq + Hash, V> Default for Lookup<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash, V> Lookup<K, V> {
    /// What this key has.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key)
    }

    /// Has this key anything?
    pub fn contains_key<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.contains_key(key)
    }

    /// Has no key anything?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives a key a value, and what it had before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.0.insert(key, value)
    }

    /// Takes away what a key has.
    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.0.remove(key)
    }

    /// The place of a key.
    pub fn entry(&mut self, key: K) -> Entry<'_, K, V> {
        self.0.entry(key)
    }

    /// Keeps those of which this is true. They come in any order: whatever else `keep` does must be
    /// the same in each.
    pub fn retain(&mut self, keep: impl FnMut(&K, &mut V) -> bool) {
        self.0.retain(keep);
    }

    /// What is made of each key and its value, in an order that follows from it.
    pub fn ordered<'a, A: Ord, B>(
        &'a self,
        mut make: impl FnMut(&'a K, &'a V) -> (A, B),
    ) -> BTreeMap<A, B> {
        self.0.iter().map(|(key, value)| make(key, value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_of_it_is_in_order_however_it_came() {
        let mut lookup = Lookup::default();
        for number in (0..100).rev() {
            assert_eq!(lookup.insert(number.to_string(), number), None);
        }
        lookup.retain(|_, number| *number % 2 == 0);
        assert_eq!(lookup.remove("0"), Some(0));
        assert_eq!((lookup.get("4"), lookup.get("5")), (Some(&4), None));
        let ordered = lookup.ordered(|name, number| (*number, name.as_str()));
        assert!(ordered.into_keys().eq((2..100).step_by(2)));
    }
}
