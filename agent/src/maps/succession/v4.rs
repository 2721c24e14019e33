//! Layout 4: before a flow was vetted.
//!
//! Layout 5 notes a vetting in a flow's entry and an epoch in that of the policies, both in bytes
//! that were zero; and two of a pod's addresses in its entry, which is longer for that. What the
//! programs of layout 4 write to the tables that they share meanwhile is not vetted; at most they
//! copy a vetting from one direction of a conversation to the other, where it counts for a second.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use bytemuck::{Pod, Zeroable};
use weir_ebpf::addr::Addr;
use weir_ebpf::tables::{Pod as PodEntry, PodAddr, PodState, Present, Slots, name};

use super::{Predecessor, v3};
use crate::maps::Contents;
use crate::maps::kernel::{read_alone, read_older, read_prefixes};
use crate::maps::pins::Pins;

pub(super) const PREDECESSOR: Predecessor = Predecessor {
    handed_over: &[
        name::FLOWS,
        name::SOCKETS,
        name::AFFINITY,
        name::FRAGMENTS,
        name::CONNECTIONS,
        name::COUNTERS,
    ],
    contents,
};

/// The pod at an interface.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Older {
    egress: Slots,
    ingress: Slots,
    netns: i32,
    state: PodState,
    reserved: [u8; 3],
}

impl From<Older> for PodEntry {
    /// Its addresses are in `POD_ADDRS`, all of them.
    fn from(older: Older) -> Self {
        let Older {
            egress,
            ingress,
            netns,
            state,
            reserved,
        } = older;
        Self {
            egress,
            ingress,
            netns,
            state,
            reserved,
            addr_v4: Addr::UNSPECIFIED,
            addr_v6: Addr::UNSPECIFIED,
        }
    }
}

fn contents(pins: &Pins) -> Result<Contents> {
    let node_port_addrs: BTreeMap<Addr, Present> = read_alone(pins, name::NODE_PORT_ADDRS)?;
    let pod_addrs: BTreeMap<PodAddr, Present> = read_alone(pins, name::POD_ADDRS)?;
    let pods: Vec<(u32, Older)> = read_older(pins, name::PODS)?;
    Ok(Contents {
        frontends: read_alone(pins, name::FRONTENDS)?,
        node_port_addrs: keys(node_port_addrs),
        source_ranges: keys(read_prefixes::<_, Present>(pins, name::SOURCE_RANGES)?),
        service_cidrs: keys(read_prefixes::<_, Present>(pins, name::SERVICE_CIDRS)?),
        interfaces: read_alone(pins, name::INTERFACES)?,
        node: only(pins, name::NODE)?,
        pods: pods
            .into_iter()
            .map(|(interface, older)| (interface, older.into()))
            .collect(),
        pod_addrs: keys(pod_addrs),
        // It handed nothing over.
        receivers: BTreeMap::new(),
        peers: read_alone(pins, name::PEERS)?,
        peer_ranges: read_prefixes(pins, name::PEER_RANGES)?,
        rules: read_prefixes(pins, name::RULES)?,
        policy: only(pins, name::POLICY)?,
        // What numbers are in has not changed since.
        ..v3::contents(pins)?
    })
}

/// What is in an array of one.
fn only<V: Pod + Default>(pins: &Pins, name: &'static str) -> Result<V> {
    let entries: BTreeMap<u32, V> = read_alone(pins, name)?;
    Ok(entries.get(&0).copied().unwrap_or_default())
}

fn keys<K: Ord, V>(entries: BTreeMap<K, V>) -> BTreeSet<K> {
    entries.into_keys().collect()
}
