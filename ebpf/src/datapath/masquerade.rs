//! A packet that leaves the node with the node's address.
//!
//! Promises: a flow keeps its address and port for as long as it lives; two flows never have the
//! same towards one backend; no port is the node's own, whose connections use the kernel's range
//! (`net.ipv4.ip_local_port_range`).

use super::{Decision, Workspace, open};
use crate::{
    addr::{Addr, Port},
    tables::{FlowRole, Tables, Tuple},
    verdict::DropReason,
};

/// Ports tried before one that another flow has left is looked for. Of 33,500 ports with 28,000
/// in use by flows to one backend, one in 100,000 new flows finds none of these free.
const QUICK_TRIES: u32 = 64;
/// Ports tried after that.
const TRIES: u32 = 4;

/// Decides about a packet whose flow is in `work`: gives it its source, now if it has none yet.
#[inline(never)]
pub(super) fn translate<T: Tables>(tables: &T, work: &mut Workspace, interface: u32) -> Decision {
    let Tuple { src, dst, .. } = work.headers.tuple;
    if src == dst {
        // On its way back into the pod it came from, by a bridge that holds the node's uplink, too:
        // its source is translated at the pod's interface.
        return Decision::PASS;
    }
    if !work.flow.to.src.is_unspecified() {
        return Decision::TRANSLATE;
    }
    let is_v4 = work.headers.is_v4;
    // As Linux's MASQUERADE: the address of the interface, so that the backend's node finds the
    // way back by the interface it came in by.
    let addr = match tables.interface(interface) {
        Some(interface) => interface.addr(is_v4),
        None => Addr::UNSPECIFIED,
    };
    let addr = if addr.is_unspecified() {
        tables.node(|node| node.addr(is_v4))
    } else {
        addr
    };
    if addr.is_unspecified() {
        return Decision::drop(DropReason::NoNodeAddress);
    }
    work.flow.to.src = addr;
    if !claim(tables, work) {
        return Decision::drop(DropReason::NoSourcePort);
    }
    let Workspace { headers, flow, .. } = work;
    // Another processor may have been quicker: then its choice counts, and this one's ages.
    tables.update_flow(&headers.tuple, |present| {
        if present.to.src.is_unspecified() {
            present.to = flow.to;
        } else {
            flow.to = present.to;
        }
    });
    Decision::TRANSLATE
}

/// Takes a port, and with it the tuple of the answers.
#[inline(always)]
fn claim<T: Tables>(tables: &T, work: &mut Workspace) -> bool {
    let Workspace {
        headers,
        flow,
        spare,
        ..
    } = work;
    spare.oppose(&headers.tuple, flow);
    spare.entry.role = FlowRole::SNAT_REPLY;
    for _ in 0..QUICK_TRIES {
        let port = open::random_port(tables);
        if port == Port(0) {
            return false;
        }
        spare.key.dst_port = port;
        if tables.add_flow(&spare.key, &spare.entry) {
            flow.to.src_port = port;
            return true;
        }
    }
    for _ in 0..TRIES {
        flow.to.src_port = open::random_port(tables);
        if open::claim_reply(&headers.tuple, flow, spare, tables) {
            return true;
        }
    }
    false
}
