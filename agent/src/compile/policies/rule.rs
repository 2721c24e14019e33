//! From the rules of a policy to entries of `RULES`.

use std::collections::{BTreeMap, BTreeSet};

use weir_ebpf::addr::{Port, Protocol as Number};
use weir_ebpf::tables::RuleKey;

use crate::compile::ids::policies::NamedPorts;
use crate::model::{Direction, PolicyPort, PolicyRef, PortMatch, Protocol};

/// A policy as it is now, in one direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The policy.
    pub policy: PolicyRef,
    /// The direction.
    pub direction: Direction,
    /// Its rules in order; none where it cannot be read, or does not fit.
    pub rules: Vec<Rule>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// The numbers of the properties of which a peer must have one; `None`: everyone is a peer.
    pub peers: Option<BTreeSet<u64>>,
    /// The ports; `None`: everything, without ports too.
    pub ports: Option<BTreeSet<PolicyPort>>,
}

impl Rule {
    /// The names of ports in it.
    pub(super) fn names(&self) -> impl Iterator<Item = (&String, Protocol)> {
        self.ports
            .iter()
            .flatten()
            .filter_map(|item| match &item.port {
                PortMatch::Named(name) => Some((name, item.protocol)),
                PortMatch::Any | PortMatch::Range { .. } => None,
            })
    }

    /// What it allows where names of ports mean this.
    pub(super) fn allowed(&self, named: &NamedPorts) -> BTreeSet<Allowed> {
        let Some(ports) = &self.ports else {
            return BTreeSet::from([Allowed::Everything]);
        };
        let mut allowed = BTreeSet::new();
        for PolicyPort { protocol, port } in ports {
            match port {
                PortMatch::Any => {
                    allowed.insert(Allowed::of(*protocol, 0, 0));
                }
                PortMatch::Range { first, last } => {
                    let prefixes = prefixes(first.get(), last.get());
                    allowed.extend(prefixes.map(|(port, bits)| Allowed::of(*protocol, port, bits)));
                }
                PortMatch::Named(name) => {
                    let ports = named.get(&(name.clone(), *protocol)).into_iter().flatten();
                    allowed.extend(ports.map(|port| Allowed::of(*protocol, port.get(), 16)));
                }
            }
        }
        allowed
    }
}

/// What an entry of `RULES` allows, whoever the subject and the peer are. What allows more sorts
/// before what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Allowed {
    /// Every protocol.
    Everything,
    /// The ports of a protocol that share the first bits.
    Ports {
        /// Its number.
        protocol: Number,
        /// How many bits; zero: every port.
        bits: u32,
        /// The first of them, in host byte order.
        port: u16,
    },
}

impl Allowed {
    const fn of(protocol: Protocol, port: u16, bits: u32) -> Self {
        Self::Ports {
            protocol: number(protocol),
            bits,
            port,
        }
    }

    /// The entry of a subject set and a class.
    pub(super) const fn key(self, subject: u32, class: u32) -> RuleKey {
        match self {
            Self::Everything => RuleKey::everything(subject, class),
            Self::Ports {
                protocol,
                bits,
                port,
            } => RuleKey::ports(subject, class, protocol, Port::new(port), bits),
        }
    }

    /// What allows more than this and this as well, by one step.
    const fn wider(self) -> Option<Self> {
        match self {
            Self::Everything => None,
            Self::Ports { bits: 0, .. } => Some(Self::Everything),
            Self::Ports {
                protocol,
                bits,
                port,
            } => Some(Self::Ports {
                protocol,
                bits: bits - 1,
                port: port & !(0x8000 >> (bits - 1)),
            }),
        }
    }

    /// Is it allowed by one of these that allows more?
    pub(super) fn is_covered<V>(self, by: &BTreeMap<Self, V>) -> bool {
        let mut wider = std::iter::successors(self.wider(), |it| it.wider());
        wider.any(|it| by.contains_key(&it))
    }
}

/// The number of a protocol in packets.
const fn number(protocol: Protocol) -> Number {
    match protocol {
        Protocol::Tcp => Number::TCP,
        Protocol::Udp => Number::UDP,
        Protocol::Sctp => Number::SCTP,
    }
}

/// The fewest prefixes that make up a range: the first port and the number of bits of each.
fn prefixes(first: u16, last: u16) -> impl Iterator<Item = (u16, u32)> {
    let mut next = Some(u32::from(first));
    std::iter::from_fn(move || {
        let start = next.filter(|start| *start <= u32::from(last))?;
        // As large as the alignment of its start and the end of the range let it be.
        let mut size = 1_u32 << start.trailing_zeros().min(16);
        while start + size - 1 > u32::from(last) {
            size /= 2;
        }
        next = Some(start + size);
        let port = u16::try_from(start).ok()?;
        Some((port, 16 - size.trailing_zeros()))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_range_is_few_prefixes_that_hold_its_ports_and_no_other(
            one in any::<u16>(), other in any::<u16>(),
        ) {
            let (first, last) = (one.min(other), one.max(other));
            let mut expected = u32::from(first);
            let mut count = 0;
            for (port, bits) in prefixes(first, last) {
                let size = 1_u32 << (16 - bits);
                prop_assert_eq!(u32::from(port), expected);
                prop_assert_eq!(u32::from(port) % size, 0);
                expected += size;
                count += 1;
            }
            prop_assert_eq!(expected, u32::from(last) + 1);
            prop_assert!(count <= 30);
        }
    }

    #[test]
    fn whole_and_single_ranges_are_one_prefix() {
        assert_eq!(prefixes(0, u16::MAX).collect::<Vec<_>>(), [(0, 0)]);
        assert_eq!(prefixes(80, 80).collect::<Vec<_>>(), [(80, 16)]);
        assert_eq!(
            prefixes(u16::MAX, u16::MAX).collect::<Vec<_>>(),
            [(u16::MAX, 16)]
        );
        assert_eq!(prefixes(1, u16::MAX).count(), 16);
    }

    #[test]
    fn what_allows_more_covers() {
        let tcp = |port, bits| Allowed::of(Protocol::Tcp, port, bits);
        let covers =
            |wide: Allowed, narrow: Allowed| narrow.is_covered(&BTreeMap::from([(wide, 0)]));
        assert!(covers(Allowed::Everything, tcp(80, 16)) && covers(tcp(0, 0), tcp(80, 16)));
        assert!(covers(tcp(80, 12), tcp(95, 16)) && !covers(tcp(80, 12), tcp(96, 16)));
        assert!(!covers(tcp(80, 16), tcp(80, 16)) && !covers(tcp(80, 16), Allowed::Everything));
        assert!(!covers(Allowed::of(Protocol::Udp, 0, 0), tcp(80, 16)));
        assert!(Allowed::Everything < tcp(0, 0) && tcp(0, 0) < tcp(0, 16));
    }
}
