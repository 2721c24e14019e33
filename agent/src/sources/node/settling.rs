//! Pairs of interfaces that are about to be a pod's: pure.
//!
//! Many CNI plugins make a pair on the node and then move one end to the pod. In between both
//! look like interfaces to the network. To attach programs there and to remove them again a
//! moment later would only delay what the pod is waiting for, so such a pair is left out for a
//! moment: nothing is sent through it yet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::links::Link;

/// Moving an interface to another namespace takes the kernel some ten milliseconds.
const MOMENT: Duration = Duration::from_millis(100);

/// Interfaces that may be about to be moved, and until when they are left out.
#[derive(Clone, Debug, Default)]
pub(super) struct Settling {
    /// `None` before the first list: what stands there then stays.
    until: Option<BTreeMap<u32, Instant>>,
}

impl Settling {
    /// The interfaces to leave out now.
    pub(super) fn update(&mut self, links: &[Link], now: Instant) -> BTreeSet<u32> {
        let pairs = links
            .iter()
            .filter(|link| link.kind == "veth" && link.peer_namespace.is_none())
            .map(|link| link.index);
        let until = match &self.until {
            None => pairs.map(|index| (index, now)).collect(),
            Some(known) => pairs
                .map(|index| (index, known.get(&index).copied().unwrap_or(now + MOMENT)))
                .collect(),
        };
        let until: &BTreeMap<u32, Instant> = self.until.insert(until);
        until
            .iter()
            .filter(|(_, until)| now < **until)
            .map(|(index, _)| *index)
            .collect()
    }

    /// When the next of those left out no longer is.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let until = self.until.iter().flat_map(BTreeMap::values).copied();
        until.filter(|until| now < *until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::super::links::LinkHeader;
    use super::*;

    fn veth(index: u32, peer_namespace: Option<i32>) -> Link {
        Link {
            index,
            name: format!("veth{index}"),
            kind: "veth".to_owned(),
            header: LinkHeader::Ethernet,
            is_loopback: false,
            master: None,
            has_queue: false,
            peer: Some(index + 1),
            peer_namespace,
        }
    }

    #[test]
    fn a_new_pair_is_left_out_until_it_has_stayed_for_a_moment() {
        let start = Instant::now();
        let mut settling = Settling::default();
        // What is there at first has had its moment.
        assert_eq!(settling.update(&[veth(2, None)], start), BTreeSet::from([]));
        assert_eq!(settling.due(start), None);

        let links = [veth(2, None), veth(4, None), veth(5, None)];
        assert_eq!(settling.update(&links, start), BTreeSet::from([4, 5]));
        assert_eq!(settling.due(start), Some(start + MOMENT));
        let later = start + MOMENT / 2;
        assert_eq!(settling.update(&links, later), BTreeSet::from([4, 5]));
        let end = start + MOMENT;
        assert_eq!(settling.update(&links, end), BTreeSet::from([]));
        assert_eq!(settling.due(end), None);
    }

    #[test]
    fn an_interface_whose_peer_has_moved_is_left_out_no_longer() {
        let start = Instant::now();
        let mut settling = Settling::default();
        settling.update(&[], start);
        assert_eq!(
            settling.update(&[veth(4, None), veth(5, None)], start),
            BTreeSet::from([4, 5])
        );
        assert_eq!(
            settling.update(&[veth(4, Some(1))], start),
            BTreeSet::from([])
        );
        assert_eq!(settling.due(start), None);
    }
}
