//! What has to be asked of the kernel again: pure.

use std::collections::BTreeSet;

/// What may be different from what was last listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stale {
    /// The node's own interfaces and addresses.
    pub(super) node: bool,
    /// The files of network namespaces.
    pub(super) files: bool,
    /// Which network namespaces these numbers name.
    pub(super) numbers: BTreeSet<i32>,
    /// The addresses inside the network namespaces with these numbers. A number that is no pod's
    /// may be the node's own, by which it knows itself.
    pub(super) within: BTreeSet<i32>,
    /// All of that.
    pub(super) everything: bool,
}

/// A message that the kernel sent to all who listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Of an interface or an address, in the namespace with this number; `None`: in the node's
    /// own.
    Configuration(Option<i32>),
    /// A namespace has got, or had, this number.
    Number(i32),
    /// A message that cannot be understood.
    Unclear,
}

impl Stale {
    /// Nothing is known.
    pub(super) fn everything() -> Self {
        Self {
            everything: true,
            ..Self::default()
        }
    }

    /// What a message makes doubtful.
    pub(super) fn note(&mut self, told: Told) {
        match told {
            Told::Configuration(None) => self.node = true,
            Told::Configuration(Some(number)) => {
                self.within.insert(number);
            }
            Told::Number(number) => {
                self.files = true;
                self.numbers.insert(number);
                self.within.insert(number);
            }
            Told::Unclear => self.everything = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_in_a_pod_makes_nothing_else_doubtful() {
        let mut stale = Stale::default();
        stale.note(Told::Configuration(Some(7)));
        let expected = Stale {
            within: BTreeSet::from([7]),
            ..Stale::default()
        };
        assert_eq!(stale, expected);
    }

    #[test]
    fn a_number_may_name_another_namespace_than_before() {
        let mut stale = Stale::default();
        stale.note(Told::Number(3));
        assert!(stale.files && stale.numbers.contains(&3) && stale.within.contains(&3));
        assert!(!stale.node && !stale.everything);
    }
}
