//! What is asked about two: all ports, in ranges that nobody tells apart.

use std::collections::{BTreeMap, BTreeSet};

use weir_ebpf::addr::Protocol as Number;
use weir_ebpf::tables::{ANYONE, RuleKey};

use crate::explain::Traffic;
use crate::maps::Contents;
use crate::model::Protocol;

/// Ports of a protocol that nobody tells apart; of a protocol without ports all there is.
pub(super) struct Asked {
    pub(super) protocol: Option<Protocol>,
    first: u16,
    last: u16,
}

impl Asked {
    pub(super) const fn traffic(&self, family: usize) -> Traffic {
        match self.protocol {
            Some(protocol) => Traffic::Ports {
                protocol,
                port: self.first,
            },
            None => Traffic::Other {
                protocol: [Number::ICMP.0, Number::ICMPV6.0][family],
            },
        }
    }
}

/// The entries of `RULES`, by subject set and class.
#[derive(Default)]
pub(super) struct Entries(BTreeMap<(u32, u32), Vec<RuleKey>>);

impl Entries {
    /// Those of a table.
    pub(super) fn of(contents: &Contents) -> Self {
        let mut entries = Self::default();
        for key in contents.rules.keys() {
            let of_pair = entries.0.entry((key.subject, key.class)).or_default();
            of_pair.push(*key);
        }
        entries
    }

    /// All that can decide between a subject set and an address of a class.
    pub(super) fn deciding(&self, subject: u32, class: u32) -> impl Iterator<Item = &RuleKey> {
        let classes = BTreeSet::from([class, ANYONE]);
        let entries = classes
            .into_iter()
            .filter_map(move |class| self.0.get(&(subject, class)));
        entries.flatten()
    }
}

/// What there is to ask where these entries decide: all ports of all protocols, and the protocols
/// without ports.
pub(super) fn questions<'a>(entries: impl Iterator<Item = &'a RuleKey>) -> Vec<Asked> {
    // Where ports begin that differ from the one before them.
    let mut borders = PROTOCOLS.map(|(_, number)| (number, BTreeSet::from([1_u32])));
    for entry in entries.filter(|entry| entry.prefix_len > RuleKey::PROTOCOL) {
        let first = u32::from(entry.port.number());
        let ports = 1 << (RuleKey::PORT - entry.prefix_len);
        let of_protocol = borders.iter_mut().find(|(it, _)| *it == entry.protocol);
        if let Some((_, borders)) = of_protocol {
            borders.extend([first.max(1), first + ports]);
        }
    }
    let mut questions = Vec::new();
    for ((protocol, _), (_, borders)) in PROTOCOLS.into_iter().zip(&borders) {
        let starts = borders.iter().filter_map(|it| u16::try_from(*it).ok());
        let ends = starts.clone().skip(1).map(|next| next - 1);
        let ranges = starts.zip(ends.chain([u16::MAX]));
        questions.extend(ranges.map(|(first, last)| Asked {
            protocol: Some(protocol),
            first,
            last,
        }));
    }
    questions.push(Asked {
        protocol: None,
        first: 0,
        last: 0,
    });
    questions
}

/// The protocols with ports, and their numbers.
const PROTOCOLS: [(Protocol, Number); 3] = [
    (Protocol::Tcp, Number::TCP),
    (Protocol::Udp, Number::UDP),
    (Protocol::Sctp, Number::SCTP),
];

/// `80 TCP`, `1-79, 81-65535 UDP`, `every SCTP port`, `ICMP and other protocols without ports`
pub(super) fn what(protocol: Option<Protocol>, asked: &[&Asked]) -> String {
    let Some(protocol) = protocol else {
        return "ICMP and other protocols without ports".to_owned();
    };
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for asked in asked {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(asked.first) => *last = asked.last,
            _ => ranges.push((asked.first, asked.last)),
        }
    }
    if ranges == [(1, u16::MAX)] {
        return format!("every {protocol} port");
    }
    let ranges: Vec<_> = ranges
        .iter()
        .map(|(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        })
        .collect();
    format!("{} {protocol}", ranges.join(", "))
}
