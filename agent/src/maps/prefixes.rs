//! Which of many ranges an address lies in, as the kernel's longest-prefix tables find it.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use weir_ebpf::addr::Addr;
use weir_ebpf::tables::Cidr;

/// Ranges, by length: there are many of them, and of few lengths.
#[derive(Clone, Debug, Default)]
pub struct LongestPrefix {
    by_length: BTreeMap<u32, BTreeSet<u128>>,
}

impl LongestPrefix {
    /// The longest range that this address lies in.
    #[must_use]
    pub fn of(&self, addr: Addr) -> Option<Cidr> {
        self.shorter_than(129, addr)
    }

    /// The longest range around this one.
    #[must_use]
    pub fn around(&self, range: Cidr) -> Option<Cidr> {
        self.shorter_than(range.prefix_len, range.addr)
    }

    fn shorter_than(&self, length: u32, addr: Addr) -> Option<Cidr> {
        let shorter = self.by_length.range(..length).rev();
        shorter
            .map(|(length, networks)| (*length, networks, network(addr, *length)))
            .find(|(_, networks, network)| networks.contains(network))
            .map(|(prefix_len, _, network)| Cidr {
                prefix_len,
                addr: Addr(bytemuck::cast(network.to_be_bytes())),
            })
    }
}

impl<'a> FromIterator<&'a Cidr> for LongestPrefix {
    fn from_iter<T: IntoIterator<Item = &'a Cidr>>(ranges: T) -> Self {
        let mut this = Self::default();
        for range in ranges {
            let networks = this.by_length.entry(range.prefix_len).or_default();
            networks.insert(network(range.addr, range.prefix_len));
        }
        this
    }
}

/// The first bits of an address; the others zero.
fn network(addr: Addr, length: u32) -> u128 {
    let bits = u128::from_be_bytes(bytemuck::cast(addr.0));
    bits & !u128::MAX.checked_shr(length).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_longest_of_all_that_contain_is_found(
            ranges in proptest::collection::btree_set((0_u32..=128, 0_u8..4), 0..12),
            asked in 0_u8..4,
        ) {
            // Few addresses that share the first or the first and the last bits.
            let addr = |number: u8| {
                let bits = u128::from(number & 1) | u128::from(number >> 1) << 100;
                Addr(bytemuck::cast(bits.to_be_bytes()))
            };
            let ranges: BTreeSet<Cidr> = ranges
                .into_iter()
                .map(|(prefix_len, number)| Cidr {
                    prefix_len,
                    addr: Addr(bytemuck::cast(network(addr(number), prefix_len).to_be_bytes())),
                })
                .collect();
            let longest: LongestPrefix = ranges.iter().collect();
            let slow = |addr: Addr, below: u32| {
                let covering = ranges.iter().filter(|it| it.prefix_len < below && it.contains(addr));
                covering.max_by_key(|it| it.prefix_len).copied()
            };
            prop_assert_eq!(longest.of(addr(asked)), slow(addr(asked), 129));
            for range in &ranges {
                prop_assert_eq!(longest.around(*range), slow(range.addr, range.prefix_len));
            }
        }
    }
}
