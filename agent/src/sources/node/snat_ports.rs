//! Source ports for masqueraded flows.
//!
//! None of them is given by the kernel to a socket of the node, or used as a node port, so that a
//! masqueraded flow never meets one of the node's own. The ports that
//! `net.ipv4.ip_local_reserved_ports` keeps from sockets are good for us.

use std::fmt;
use std::fs;
use std::ops::RangeInclusive;

use anyhow::{Context as _, Result};
use weir_ebpf::tables::PortRange;

/// Ports above those that need privileges.
const CANDIDATES: RangeInclusive<u16> = 1024..=u16::MAX;
/// What is used where too little is left: above the kernel's own range, as it is by default.
const UPPER: RangeInclusive<u16> = 61_000..=u16::MAX;
/// Fewer are too few.
const ENOUGH: usize = 1024;

const FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Which ports masqueraded flows use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnatPorts {
    /// One range or two, in ascending order.
    pub ranges: Vec<RangeInclusive<u16>>,
    /// Why the node's own connections may use them too.
    pub shared: Option<SharedPorts>,
}

impl SnatPorts {
    /// As the table `NODE` has them.
    #[must_use]
    pub fn in_table(&self) -> [PortRange; 2] {
        let mut ranges = self
            .ranges
            .iter()
            .map(|range| PortRange::new(*range.start(), *range.end()));
        [(); 2].map(|()| ranges.next().unwrap_or(PortRange::NONE))
    }
}

/// The kernel and the cluster leave too few ports for masquerading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedPorts {
    left: usize,
    local: RangeInclusive<u16>,
    node_ports: RangeInclusive<u16>,
}

impl fmt::Display for SharedPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "net.ipv4.ip_local_port_range ({}-{}) and --service-node-port-range ({}-{}) leave {} ports of \
             {}-{} for masquerading, which are too few: {}-{} are used, though a connection of the \
             node itself may have the same; leave more, for example with \
             `sysctl -w net.ipv4.ip_local_port_range=\"32768 60999\"`",
            self.local.start(),
            self.local.end(),
            self.node_ports.start(),
            self.node_ports.end(),
            self.left,
            CANDIDATES.start(),
            CANDIDATES.end(),
            UPPER.start(),
            UPPER.end(),
        )
    }
}

/// The ports for masquerading in the calling process's network namespace.
///
/// # Errors
///
/// The kernel's own range cannot be read.
pub fn snat_ports(node_ports: &RangeInclusive<u16>) -> Result<SnatPorts> {
    let text = fs::read_to_string(FILE).with_context(|| format!("read {FILE}"))?;
    let local = parse_port_range(&text).with_context(|| format!("{FILE} holds {text:?}"))?;
    Ok(ports_beside(&local, node_ports))
}

fn parse_port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last)), None) => Some(first..=last),
        _ => None,
    }
}

/// The two largest parts that the kernel's own range and the node ports leave of the candidates.
#[must_use]
pub fn ports_beside(local: &RangeInclusive<u16>, node_ports: &RangeInclusive<u16>) -> SnatPorts {
    let mut parts: Vec<RangeInclusive<u16>> = without(&CANDIDATES, local)
        .flat_map(|part| without(&part, node_ports).collect::<Vec<_>>())
        .collect();
    parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
    parts.truncate(2);
    parts.sort_by_key(|part| *part.start());
    let left = parts.iter().map(ExactSizeIterator::len).sum();
    if left >= ENOUGH {
        return SnatPorts {
            ranges: parts,
            shared: None,
        };
    }
    SnatPorts {
        ranges: vec![UPPER],
        shared: Some(SharedPorts {
            left,
            local: local.clone(),
            node_ports: node_ports.clone(),
        }),
    }
}

/// What is left of a range below and above another one that is not empty.
fn without(
    range: &RangeInclusive<u16>,
    other: &RangeInclusive<u16>,
) -> impl Iterator<Item = RangeInclusive<u16>> {
    let (first, last) = (*range.start(), *range.end());
    let below = other
        .start()
        .checked_sub(1)
        .map(|end| first..=last.min(end));
    let above = other
        .end()
        .checked_add(1)
        .map(|start| first.max(start)..=last);
    [below, above]
        .into_iter()
        .flatten()
        .filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;

    #[test]
    fn both_sides_of_the_kernels_own_range_are_used() {
        for (local, expected) in [
            (32_768..=60_999, vec![1024..=29_999, 61_000..=65_535]),
            (10_000..=65_535, vec![1024..=9_999]),
            (1_024..=20_000, vec![20_001..=29_999, 32_768..=65_535]),
            (5_000..=20_000, vec![20_001..=29_999, 32_768..=65_535]),
            (40_000..=50_000, vec![1024..=29_999, 50_001..=65_535]),
            (31_000..=32_000, vec![1024..=29_999, 32_768..=65_535]),
            (1..=64_511, vec![64_512..=65_535]),
        ] {
            let found = ports_beside(&local, &NODE_PORTS);
            assert_eq!(found.ranges, expected, "{local:?}");
            assert_eq!(found.shared, None, "{local:?}");
        }
    }

    #[test]
    fn by_default_there_are_more_than_28_000() {
        let found = ports_beside(&(32_768..=60_999), &NODE_PORTS);
        let [lower, upper] = found.in_table();
        assert_eq!(lower.count() + upper.count(), 33_512);
    }

    #[test]
    fn too_few_ports_are_shared_with_the_node_and_it_says_what_to_do() {
        for (local, node_ports) in [
            (1_024..=65_535, NODE_PORTS),
            (1..=65_535, NODE_PORTS),
            (1_024..=64_600, NODE_PORTS),
            (32_768..=60_999, 1..=65_535),
        ] {
            let found = ports_beside(&local, &node_ports);
            assert_eq!(found.ranges, [61_000..=65_535], "{local:?}");
            let in_table = [PortRange::new(61_000, 65_535), PortRange::NONE];
            assert_eq!(found.in_table(), in_table, "{local:?}");
            let text = found.shared.unwrap().to_string();
            assert!(
                text.contains(&format!("({}-{})", local.start(), local.end())),
                "{text}"
            );
            assert!(text.contains("sysctl -w"), "{text}");
        }
    }

    #[test]
    fn the_kernels_range_is_two_numbers() {
        assert_eq!(parse_port_range("32768\t60999\n"), Some(32_768..=60_999));
        assert_eq!(parse_port_range("32768\n"), None);
        assert_eq!(parse_port_range("a b"), None);
    }

    proptest! {
        #[test]
        fn no_port_is_the_kernels_or_a_node_port(
            local in any::<(u16, u16)>(),
            node_ports in any::<(u16, u16)>(),
        ) {
            let ordered = |(a, b): (u16, u16)| a.min(b)..=a.max(b);
            let (local, node_ports) = (ordered(local), ordered(node_ports));
            let found = ports_beside(&local, &node_ports);
            prop_assert!((1..=2).contains(&found.ranges.len()));
            let free = |port: u16| {
                port >= 1024 && !local.contains(&port) && !node_ports.contains(&port)
            };
            if found.shared.is_none() {
                for port in found.ranges.iter().cloned().flatten() {
                    prop_assert!(free(port), "{}", port);
                }
                let ports: usize = found.ranges.iter().map(ExactSizeIterator::len).sum();
                let all = (1..=u16::MAX).filter(|port| free(*port)).count();
                // Of three parts the smallest is left out.
                prop_assert!(ports >= all * 2 / 3);
            }
        }
    }
}
