//! Labels, as short as they are.
//!
//! Pods are many and have a handful of labels each: an ordered map of these would be half empty,
//! and larger than the rest of the pod.

use std::collections::BTreeMap;

/// Values by keys, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Labels {
    /// The value of this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.binary_search_by(|(own, _)| (**own).cmp(key));
        found.ok().map(|place| &*self.0[place].1)
    }

    /// Each key and its value, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

impl From<BTreeMap<String, String>> for Labels {
    fn from(labels: BTreeMap<String, String>) -> Self {
        let labels = labels.into_iter();
        Self(
            labels
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_found_by_its_key_and_listed_in_order() {
        let map: BTreeMap<String, String> = (0..20)
            .map(|number| (format!("key-{number}"), format!("value-{number}")))
            .collect();
        let labels = Labels::from(map.clone());
        for (key, value) in &map {
            assert_eq!(labels.get(key), Some(value.as_str()));
        }
        assert_eq!(labels.get("key"), None);
        let listed = labels
            .iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert!(listed.eq(map));
    }
}
