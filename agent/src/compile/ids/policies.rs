//! Numbers of what policies come to: subject sets, classes of addresses, rules.
//!
//! Promises:
//! - a content that is still used keeps its number, whatever else changes;
//! - a number is never given to another content, over restarts neither: it goes on beyond every
//!   number that the tables hold ([`PolicyIds::from_contents`]). What a number stands for is not
//!   remembered by the tables, so that an agent that starts gives new ones to all;
//! - when there are no more numbers, a subject set is [`NOBODY`] and a class is [`ANYONE`]: what
//!   cannot be told apart is refused.
//!
//! Properties of addresses and versions of policies have numbers, too, that never reach a table:
//! the contents of classes and subject sets are made of them.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use weir_ebpf::tables::{ANYONE, NOBODY, Slots};

use crate::compile::policies::property::Property;
use crate::compile::policies::report::RuleName;
use crate::compile::policies::rule::Version;
use crate::maps::Contents;
use crate::model::{Direction, Protocol};

/// Who has which number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::compile) struct PolicyIds {
    properties: Numbers<Property>,
    versions: Numbers<Version>,
    subjects: Numbers<SubjectKey>,
    classes: Numbers<ClassKey>,
    rules: Numbers<RuleName>,
}

/// What a subject set stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::compile) struct SubjectKey {
    /// Its direction.
    pub direction: Direction,
    /// The policies that isolate, as they are now: numbers of [`Version`]s, at least one.
    pub versions: BTreeSet<u64>,
    /// What the rules' names of ports mean, where they are the subject's own.
    pub named_ports: NamedPorts,
}

/// The numbers of ports by their names, of names that mean something.
pub(in crate::compile) type NamedPorts = BTreeMap<(String, Protocol), BTreeSet<NonZeroU16>>;

/// What a class stands for: the numbers of all properties that its addresses have.
pub(in crate::compile) type ClassKey = BTreeSet<u64>;

/// The content that each number was given to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Numbers<K> {
    given: BTreeMap<K, u64>,
    /// The last number that was given.
    last: u64,
}

impl<K> Default for Numbers<K> {
    fn default() -> Self {
        Self::beyond(0)
    }
}

impl<K> Numbers<K> {
    fn beyond(last: u32) -> Self {
        Self {
            given: BTreeMap::new(),
            last: last.into(),
        }
    }
}

impl<K: Ord + Clone> Numbers<K> {
    /// The number of this content, given now if it has none.
    fn number(&mut self, key: &K) -> u64 {
        if let Some(number) = self.given.get(key) {
            return *number;
        }
        self.last += 1;
        self.given.insert(key.clone(), self.last);
        self.last
    }

    /// The same, where a table has room for it.
    fn in_table(&mut self, key: &K) -> Option<u32> {
        u32::try_from(self.number(key)).ok()
    }

    fn retain(&mut self, used: &BTreeSet<u64>) {
        self.given.retain(|_, number| used.contains(number));
    }

    fn retain_in_table(&mut self, used: &BTreeSet<u32>) {
        let is_used = |number: &u64| u32::try_from(*number).is_ok_and(|it| used.contains(&it));
        self.given.retain(|_, number| is_used(number));
    }
}

/// The numbers that are in use; all others are taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::compile) struct Used {
    /// Of properties.
    pub properties: BTreeSet<u64>,
    /// Of versions of policies.
    pub versions: BTreeSet<u64>,
    /// Of subject sets.
    pub subjects: BTreeSet<u32>,
    /// Of classes.
    pub classes: BTreeSet<u32>,
    /// Of rules.
    pub rules: BTreeSet<u32>,
}

impl PolicyIds {
    /// Goes on beyond all numbers that these tables hold.
    #[must_use]
    pub(in crate::compile) fn from_contents(contents: &Contents) -> Self {
        let slots = |slots: &Slots| slots.0;
        let pods = contents.pods.values();
        let of_pods = pods.flat_map(|pod| [pod.egress, pod.ingress]);
        let subjects = of_pods.flat_map(|it| slots(&it));
        let subjects = subjects.chain(contents.rules.keys().map(|key| key.subject));
        let classes = contents.peers.values().chain(contents.peer_ranges.values());
        let classes = classes.flat_map(|class| slots(&class.0));
        let classes = classes.chain(contents.rules.keys().map(|key| key.class));
        Self {
            subjects: Numbers::beyond(subjects.max().unwrap_or(0).max(NOBODY)),
            classes: Numbers::beyond(classes.max().unwrap_or(0)),
            rules: Numbers::beyond(contents.rules.values().copied().max().unwrap_or(0)),
            ..Self::default()
        }
    }

    /// The number of a property; the same for equal ones.
    pub(in crate::compile) fn property(&mut self, property: &Property) -> u64 {
        self.properties.number(property)
    }

    /// The number of a version of a policy.
    pub(in crate::compile) fn version(&mut self, version: &Version) -> u64 {
        self.versions.number(version)
    }

    /// The number of a subject set.
    pub(in crate::compile) fn subject(&mut self, key: &SubjectKey) -> u32 {
        self.subjects.last = self.subjects.last.max(NOBODY.into());
        self.subjects.in_table(key).unwrap_or(NOBODY)
    }

    /// The number of a class; of no property at all it is [`ANYONE`].
    pub(in crate::compile) fn class(&mut self, key: &ClassKey) -> u32 {
        if key.is_empty() {
            return ANYONE;
        }
        self.classes.in_table(key).unwrap_or(ANYONE)
    }

    /// The number of a rule. Zero, which is no rule's, when there are no more.
    pub(in crate::compile) fn rule(&mut self, name: &RuleName) -> u32 {
        self.rules.in_table(name).unwrap_or(0)
    }

    /// Forgets what is no longer used.
    pub(in crate::compile) fn release_all_but(&mut self, used: &Used) {
        self.properties.retain(&used.properties);
        self.versions.retain(&used.versions);
        self.subjects.retain_in_table(&used.subjects);
        self.classes.retain_in_table(&used.classes);
        self.rules.retain_in_table(&used.rules);
    }
}

#[cfg(test)]
mod tests {
    use weir_ebpf::tables::RuleKey;

    use super::*;

    #[test]
    fn a_number_is_never_given_to_another_content() {
        let mut numbers = Numbers::default();
        assert_eq!([1, 2, 1].map(|key| numbers.number(&key)), [1, 2, 1]);
        numbers.retain(&BTreeSet::from([2]));
        assert_eq!([2, 3, 1].map(|key| numbers.number(&key)), [2, 3, 4]);
        let mut full = Numbers::beyond(u32::MAX - 1);
        let given = [7, 8, 7].map(|key| full.in_table(&key));
        assert_eq!(given, [Some(u32::MAX), None, Some(u32::MAX)]);
    }

    #[test]
    fn an_agent_that_starts_goes_on_beyond_what_the_tables_hold() {
        let mut contents = Contents::default();
        contents.rules.insert(RuleKey::everything(7, 9), 11);
        let mut ids = PolicyIds::from_contents(&contents);
        let subject = SubjectKey {
            direction: Direction::Ingress,
            versions: BTreeSet::from([1]),
            named_ports: NamedPorts::new(),
        };
        assert_eq!(ids.subject(&subject), 8);
        assert_eq!(ids.class(&ClassKey::from([1])), 10);
        assert_eq!(ids.class(&ClassKey::new()), ANYONE);
        let mut first = PolicyIds::from_contents(&Contents::default());
        assert_eq!(first.subject(&subject), NOBODY + 1);
        assert_eq!(PolicyIds::default().subject(&subject), NOBODY + 1);
    }
}
