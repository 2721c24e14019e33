//! Which entries of the datapath's own tables a change makes stale.
//!
//! A flow whose *backend* has gone finds that out by itself, with its next packet. What it does not
//! find out is that its *frontend* has gone, leads to other endpoints now, masquerades no more, or
//! does not let its client in: the programs look at a frontend only when a flow begins. So the
//! agent removes the entries that no flow that begins now would get. A client that goes on sending
//! begins anew with its next datagram.
//!
//! Only where nobody holds a connection: UDP, and SCTP until it is answered. TCP goes on until it
//! ends, whatever has become of the address (as in kube-proxy). Replies are left alone, since an
//! endpoint may still answer what it was asked.
//!
//! Whether an entry is stale is seen in the tables alone, not in what has changed: an agent that
//! was killed before it came to remove them is followed by one that does.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use weir_ebpf::addr::{Addr, Port, Protocol};
use weir_ebpf::tables::{
    Flow, FlowFlags, FlowRole, FlowState, Frontend, FrontendFlags, FrontendKey, SocketFlow,
    SocketKey, SourceRange, Tuple,
};

use super::{Contents, Plan, Write};

/// What the tables hold, to be asked about many entries.
#[derive(Debug)]
pub struct Judge<'a> {
    contents: &'a Contents,
    ranges: BTreeMap<u32, Vec<&'a SourceRange>>,
}

/// May this plan, for tables that hold this, leave anything stale behind?
#[must_use]
pub fn may_leave_stale(plan: &Plan, before: &Contents) -> bool {
    let is_sticky = |key: &FrontendKey| matches!(key.protocol, Protocol::UDP | Protocol::SCTP);
    plan.0.iter().any(|write| match write {
        Write::PutFrontend(key, _) => {
            is_sticky(key) && frontend(before, key.addr, key.port, key.protocol).is_some()
        }
        Write::RemoveFrontend(key) => is_sticky(key),
        Write::RemoveNodePortAddr(_) | Write::RemoveSourceRange(_) => true,
        Write::PutService(..)
        | Write::PutBackend(..)
        | Write::RemoveBackend(_)
        | Write::PutServing(_)
        | Write::RemoveServing(_)
        | Write::PutServiceName(..)
        | Write::RemoveServiceName(_)
        | Write::PutNodePortAddr(_)
        | Write::PutSourceRange(_)
        | Write::PutServiceCidr(_)
        | Write::RemoveServiceCidr(_)
        | Write::PutInterface(..)
        | Write::RemoveInterface(_)
        | Write::PutNode(_)
        | Write::PutPod(..)
        | Write::RemovePod(_)
        | Write::PutPodAddr(_)
        | Write::RemovePodAddr(_)
        | Write::PutReceiver(..)
        | Write::RemoveReceiver(_)
        | Write::PutPeer(..)
        | Write::RemovePeer(_)
        | Write::PutPeerRange(..)
        | Write::RemovePeerRange(_)
        | Write::PutRule(..)
        | Write::RemoveRule(_)
        | Write::PutPolicy(_) => false,
    })
}

/// May this plan, for tables that hold this, take its backend from a connected UDP socket?
#[must_use]
pub fn may_strand_sockets(plan: &Plan, before: &Contents) -> bool {
    plan.0.iter().any(|write| match write {
        Write::RemoveServing(key) => {
            let name = before.service_names.get(&key.service);
            name.is_none_or(|name| name.protocol == Protocol::UDP)
        }
        _ => false,
    })
}

impl<'a> Judge<'a> {
    /// Asks these tables.
    #[must_use]
    pub fn new(contents: &'a Contents) -> Self {
        let mut ranges: BTreeMap<u32, Vec<&SourceRange>> = BTreeMap::new();
        for range in &contents.source_ranges {
            ranges.entry(range.service).or_default().push(range);
        }
        Self { contents, ranges }
    }

    /// The entries to remove where this is one of a flow that would not begin like this now: itself,
    /// and the one that translates its source where it leaves the node, which the flow that
    /// follows may not want.
    #[must_use]
    pub fn stale_entries(&self, tuple: &Tuple, flow: &Flow) -> Vec<Tuple> {
        if !self.is_stale(tuple, flow) {
            return Vec::new();
        }
        let inner = flow.flags.contains(FlowFlags::SNAT).then_some(flow.to);
        [*tuple].into_iter().chain(inner).collect()
    }

    fn is_stale(&self, tuple: &Tuple, flow: &Flow) -> bool {
        let is_connection = match tuple.protocol {
            Protocol::UDP => false,
            Protocol::SCTP => flow.state != FlowState::OPENING,
            _ => true,
        };
        if flow.role != FlowRole::FORWARD || is_connection {
            return false;
        }
        let (addr, port) = (tuple.dst, tuple.dst_port);
        let frontend = frontend(self.contents, addr, port, tuple.protocol);
        // Number 0 is no service's: it goes where it would go by itself, from another port.
        if flow.service == 0 {
            return frontend.is_some();
        }
        let Some(frontend) = frontend else {
            return true;
        };
        let is_hairpin = flow.to.src == flow.to.dst;
        let masquerades = FrontendFlags::MASQUERADE_OUTSIDE;
        ![frontend.service, frontend.from_outside].contains(&flow.service)
            || (flow.flags.contains(FlowFlags::SNAT)
                && !is_hairpin
                && !frontend.flags.contains(masquerades))
            || !self.may_come(&frontend, tuple.src)
    }

    /// The entries to remove where this is what a socket, which names its peer in each call, is no
    /// more to be told.
    #[must_use]
    pub fn stale_peers(&self, key: &SocketKey, peer: &SocketFlow) -> Vec<SocketKey> {
        let is_stale = key.protocol == Protocol::UDP
            && key.role == FlowRole::FORWARD
            && !self.leads(key.addr, key.port, peer.service);
        is_stale.then_some(*key).into_iter().collect()
    }

    /// Is this connected UDP socket, which the programs connected to `peer`, to be closed?
    #[must_use]
    pub fn is_stale_connection(&self, peer: &SocketFlow) -> bool {
        !self.leads(peer.addr, peer.port, peer.service)
    }

    /// Are the node's own processes led to this service port's endpoints there?
    fn leads(&self, addr: Addr, port: Port, service: u32) -> bool {
        let frontend = frontend(self.contents, addr, port, Protocol::UDP);
        frontend.is_some_and(|frontend| frontend.service == service)
    }

    fn may_come(&self, frontend: &Frontend, client: Addr) -> bool {
        let mut ranges = self.ranges.get(&frontend.service).into_iter().flatten();
        !frontend.flags.contains(FrontendFlags::SOURCE_RANGES)
            || ranges.any(|range| range.contains(client))
    }
}

/// Who answers there: a frontend of its own, or a node port's.
fn frontend(contents: &Contents, addr: Addr, port: Port, protocol: Protocol) -> Option<Frontend> {
    let frontends = &contents.frontends;
    let exact = frontends.get(&FrontendKey::new(addr, port, protocol));
    let node_port = || {
        let is_here = contents.node_port_addrs.contains(&addr);
        let key = FrontendKey::node_port(addr.is_v4(), port, protocol);
        is_here.then(|| frontends.get(&key)).flatten()
    };
    exact.or_else(node_port).copied()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use weir_ebpf::tables::Nanos;

    use super::*;

    const CLIENT: &str = "203.0.113.9";
    const SERVICE: &str = "203.0.113.7";
    const NODE: &str = "10.240.0.11";

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn flow_to(dst: &str, protocol: Protocol) -> (Tuple, Flow) {
        let tuple = Tuple {
            src: addr(CLIENT),
            dst: addr(dst),
            src_port: Port::new(40_000),
            dst_port: Port::new(53),
            protocol,
            is_beside: 0,
            reserved: [0; 2],
        };
        let flow = Flow {
            to: Tuple {
                dst: addr("10.200.1.2"),
                ..tuple
            },
            last_seen: Nanos::default(),
            service: 1,
            revision: 1,
            state: FlowState::ESTABLISHED,
            role: FlowRole::FORWARD,
            flags: FlowFlags::NONE,
            vetted_late: 0,
            vetted: 0,
        };
        (tuple, flow)
    }

    fn tables(key: FrontendKey, frontend: Frontend) -> Contents {
        let mut contents = Contents::default();
        contents.frontends.insert(key, frontend);
        contents.node_port_addrs.insert(addr(NODE));
        contents
    }

    fn exact(protocol: Protocol) -> FrontendKey {
        FrontendKey::new(addr(SERVICE), Port::new(53), protocol)
    }

    fn is_stale(contents: &Contents, (tuple, flow): (Tuple, Flow)) -> bool {
        Judge::new(contents).is_stale(&tuple, &flow)
    }

    #[test]
    fn a_flow_lasts_while_its_frontend_leads_to_the_same_endpoints() {
        let flow = || flow_to(SERVICE, Protocol::UDP);
        let to = |service, from_outside| {
            let frontend = Frontend {
                service,
                from_outside,
                flags: FrontendFlags::NONE,
            };
            tables(exact(Protocol::UDP), frontend)
        };
        assert!(!is_stale(&to(1, 1), flow()));
        // Of which origin it is cannot be seen.
        assert!(!is_stale(&to(1, 2), flow()) && !is_stale(&to(2, 1), flow()));
        assert!(is_stale(&to(2, 2), flow()));
        assert!(is_stale(&Contents::default(), flow()));
    }

    #[test]
    fn a_flow_past_all_services_lasts_while_none_has_the_address() {
        let (tuple, flow) = flow_to("10.200.1.2", Protocol::UDP);
        let direct = Flow { service: 0, ..flow };
        assert!(!is_stale(&Contents::default(), (tuple, direct)));
        let key = FrontendKey::new(tuple.dst, tuple.dst_port, Protocol::UDP);
        let taken = tables(key, Frontend::to(1, FrontendFlags::NONE));
        assert!(is_stale(&taken, (tuple, direct)));
    }

    #[test]
    fn a_node_port_ends_with_its_address() {
        let key = FrontendKey::node_port(true, Port::new(53), Protocol::UDP);
        let mut contents = tables(key, Frontend::to(1, FrontendFlags::NONE));
        assert!(!is_stale(&contents, flow_to(NODE, Protocol::UDP)));
        assert!(is_stale(&contents, flow_to(SERVICE, Protocol::UDP)));
        contents.node_port_addrs.clear();
        assert!(is_stale(&contents, flow_to(NODE, Protocol::UDP)));
    }

    #[test]
    fn a_frontend_may_leave_stale_what_it_takes_over_and_nothing_else() {
        let node_port = FrontendKey::node_port(true, Port::new(53), Protocol::UDP);
        let before = tables(node_port, Frontend::to(1, FrontendFlags::NONE));
        let may_leave = |addr_text: &str, protocol| {
            let key = FrontendKey::new(addr(addr_text), Port::new(53), protocol);
            let put = Write::PutFrontend(key, Frontend::to(2, FrontendFlags::NONE));
            may_leave_stale(&Plan(vec![put]), &before)
        };
        assert!(may_leave(NODE, Protocol::UDP));
        assert!(!may_leave(NODE, Protocol::TCP));
        assert!(!may_leave(SERVICE, Protocol::UDP));
        let to_others = Write::PutFrontend(node_port, Frontend::to(2, FrontendFlags::NONE));
        assert!(may_leave_stale(&Plan(vec![to_others]), &before));
    }

    #[test]
    fn who_holds_a_connection_is_left_alone() {
        let gone = Contents::default();
        assert!(!is_stale(&gone, flow_to(SERVICE, Protocol::TCP)));
        let (tuple, established) = flow_to(SERVICE, Protocol::SCTP);
        let opening = Flow {
            state: FlowState::OPENING,
            ..established
        };
        assert!(!is_stale(&gone, (tuple, established)));
        assert!(is_stale(&gone, (tuple, opening)));
    }

    #[test]
    fn replies_are_left_alone() {
        let (tuple, flow) = flow_to(SERVICE, Protocol::UDP);
        for role in [
            FlowRole::REPLY,
            FlowRole::SNAT_FORWARD,
            FlowRole::SNAT_REPLY,
        ] {
            assert!(!is_stale(
                &Contents::default(),
                (tuple, Flow { role, ..flow })
            ));
        }
    }

    #[test]
    fn a_masqueraded_flow_ends_where_the_source_is_kept_from_now_on() {
        let (tuple, flow) = flow_to(SERVICE, Protocol::UDP);
        let masqueraded = Flow {
            flags: FlowFlags::SNAT,
            ..flow
        };
        let with = |flags| tables(exact(Protocol::UDP), Frontend::to(1, flags));
        let keeps = with(FrontendFlags::NONE);
        let masquerades = with(FrontendFlags::MASQUERADE_OUTSIDE);
        let entries = Judge::new(&keeps).stale_entries(&tuple, &masqueraded);
        assert_eq!(entries, [tuple, masqueraded.to]);
        assert!(!is_stale(&masquerades, (tuple, masqueraded)));
        // A pod that reaches itself.
        let mut hairpin = masqueraded;
        hairpin.to.src = hairpin.to.dst;
        assert!(!is_stale(&keeps, (tuple, hairpin)));
    }

    #[test]
    fn a_flow_ends_when_its_client_may_not_come_any_more() {
        let flags = FrontendFlags::SOURCE_RANGES;
        let mut contents = tables(exact(Protocol::UDP), Frontend::to(1, flags));
        let flow = || flow_to(SERVICE, Protocol::UDP);
        assert!(is_stale(&contents, flow()));
        let range = |service| SourceRange {
            prefix_len: 32 + 96 + 24,
            service,
            addr: addr("203.0.113.0"),
        };
        contents.source_ranges.insert(range(2));
        assert!(is_stale(&contents, flow()));
        contents.source_ranges.insert(range(1));
        assert!(!is_stale(&contents, flow()));
    }

    #[test]
    fn sockets_of_the_node_follow_the_endpoints_for_the_node() {
        let key = |role| SocketKey {
            cookie: 7,
            addr: addr(SERVICE),
            port: Port::new(53),
            protocol: Protocol::UDP,
            role,
            reserved: 0,
        };
        let peer = SocketFlow {
            addr: addr(SERVICE),
            port: Port::new(53),
            reserved: 0,
            service: 1,
            revision: 1,
            reserved_tail: 0,
            last_seen: 0,
        };
        let stale = |frontend| {
            let contents = tables(exact(Protocol::UDP), frontend);
            let judge = Judge::new(&contents);
            assert_eq!(judge.stale_peers(&key(FlowRole::REPLY), &peer), []);
            let is_stale = !judge.stale_peers(&key(FlowRole::FORWARD), &peer).is_empty();
            assert_eq!(judge.is_stale_connection(&peer), is_stale);
            is_stale
        };
        assert!(!stale(Frontend::to(1, FrontendFlags::NONE)));
        assert!(stale(Frontend {
            service: 2,
            from_outside: 1,
            flags: FrontendFlags::NONE
        }));
    }

    #[test]
    fn a_plan_that_only_adds_leaves_nothing_stale() {
        let frontend = Frontend::to(1, FrontendFlags::NONE);
        let put = |protocol| Plan(vec![Write::PutFrontend(exact(protocol), frontend)]);
        let before = tables(exact(Protocol::UDP), frontend);
        assert!(may_leave_stale(&put(Protocol::UDP), &before));
        assert!(!may_leave_stale(&put(Protocol::SCTP), &before));
        assert!(!may_leave_stale(&put(Protocol::UDP), &Contents::default()));
        let remove = |protocol| Plan(vec![Write::RemoveFrontend(exact(protocol))]);
        assert!(may_leave_stale(&remove(Protocol::SCTP), &before));
        assert!(!may_leave_stale(&remove(Protocol::TCP), &before));
    }
}
