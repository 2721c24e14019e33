//! Which properties the addresses of a range have.
//!
//! Every range that a rule names is an entry, and every one that it leaves out of another: what an
//! entry says is computed from all blocks that cover it. IPv4 ranges are among the mapped
//! addresses, which no range of IPv6 may seem to cover.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;
use weir_ebpf::addr::Addr;
use weir_ebpf::tables::Cidr;

use crate::compile::ids::policies::ClassKey;
use crate::compile::ranges::cidr;
use crate::maps::prefixes::LongestPrefix;
use crate::model::{Family, IpBlock};

/// All IPv4 addresses among the mapped ones.
fn all_v4() -> Cidr {
    Cidr {
        prefix_len: 96,
        addr: Addr::from(Ipv4Addr::UNSPECIFIED),
    }
}

/// The ranges whose addresses have other properties than those around them, by what these are.
#[derive(Debug)]
pub(super) struct Ranges {
    /// The properties of what lies in a range and in no longer one.
    pub classes: BTreeMap<Cidr, ClassKey>,
    longest: LongestPrefix,
}

impl Ranges {
    /// Of these blocks by their properties' numbers.
    pub(super) fn new<'a>(blocks: impl Iterator<Item = (u64, &'a IpBlock)>) -> Self {
        let mut classes = BTreeMap::new();
        let (v4, v6): (Vec<_>, Vec<_>) =
            blocks.partition(|(_, block)| Family::of(&block.cidr.ip()) == Family::V4);
        insert_family(&mut classes, &v4);
        insert_family(&mut classes, &v6);
        if !v6.is_empty() {
            // No range of IPv6 speaks of the addresses that stand for those of IPv4.
            let covers_v4 = |range: &Cidr| {
                range.prefix_len < 96 && all_v4().addr.has_prefix(range.addr, range.prefix_len)
            };
            if classes.keys().any(covers_v4) {
                classes.entry(all_v4()).or_default();
            }
        }
        let longest = classes.keys().collect();
        Self { classes, longest }
    }

    /// The longest of them that an address lies in.
    pub(super) fn range_of(&self, addr: IpAddr) -> Option<Cidr> {
        self.longest.of(Addr::from(addr))
    }
}

/// What of a block comes into or goes out of force in a range.
#[derive(Debug, Default)]
struct Step {
    added: BTreeSet<u64>,
    removed: BTreeSet<u64>,
}

/// Adds what the blocks of one family say.
fn insert_family(classes: &mut BTreeMap<Cidr, ClassKey>, blocks: &[(u64, &IpBlock)]) {
    // By address and then length: a range comes after those around it.
    let mut steps: BTreeMap<(Addr, u32), Step> = BTreeMap::new();
    let place = |network: &IpNetwork| {
        let range = cidr(network);
        (in_order(range.addr), range.prefix_len)
    };
    for (property, block) in blocks {
        let step = steps.entry(place(&block.cidr)).or_default();
        step.added.insert(*property);
        for except in &block.except {
            let step = steps.entry(place(except)).or_default();
            step.removed.insert(*property);
        }
    }
    let mut around: Vec<(Cidr, ClassKey)> = Vec::new();
    for ((addr, prefix_len), step) in steps {
        let addr = in_order(addr);
        while around
            .last()
            .is_some_and(|(outer, _)| !outer.contains(addr))
        {
            around.pop();
        }
        let outer = around.last().map(|(_, class)| class);
        let mut class = outer.cloned().unwrap_or_default();
        class.extend(step.added);
        class.retain(|property| !step.removed.contains(property));
        let is_like_around = match outer {
            Some(outer) => *outer == class,
            None => class.is_empty(),
        };
        let range = Cidr { prefix_len, addr };
        if !is_like_around {
            classes.insert(range, class.clone());
        }
        around.push((range, class));
    }
}

/// An address whose words sort as its bits do, and back again.
fn in_order(addr: Addr) -> Addr {
    Addr(addr.0.map(u32::to_be))
}
