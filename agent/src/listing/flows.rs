//! Flows that are translated packet by packet: one row each, however many entries it has.
//!
//! A flow has an entry for each tuple that it shows at a hook. The row is made from the one in
//! the direction in which it was opened ([`FlowRole::FORWARD`]); what the entry of its replies
//! knows better is taken from there. A pod's flow to itself has two more entries, which say
//! nothing new.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::Serialize;
use weir_ebpf::{
    conntrack::{self, SECOND},
    tables::{Flow, FlowRole, FlowState, FrontendKey, Nanos, Tuple},
};

use super::{filter::Filter, filter::ServiceReference, services::name_at};
use crate::maps::{
    Contents,
    text::{endpoint, unpadded},
};

/// A flow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowRow {
    /// `TCP`, `UDP` or `SCTP`
    pub protocol: String,
    /// Who opened it.
    pub client: SocketAddr,
    /// The service; `null` if none has this address any more.
    pub service: Option<ServiceName>,
    /// What the client called.
    pub address: SocketAddr,
    /// Who answers.
    pub backend: SocketAddr,
    /// Whom the backend takes for the client: another port, where the client's own was taken.
    pub client_at_backend: SocketAddr,
    /// `OPENING`, `ESTABLISHED`, `CLOSING` or `CLOSED`
    pub state: &'static str,
    /// Seconds since its last packet.
    pub idle_seconds: u64,
    /// Silent for so long that its next packet opens a new one.
    pub expired: bool,
    /// Between a pod and itself.
    pub hairpin: bool,
}

/// The name of a service port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceName {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `spec.ports[].name`; empty where a service has one port.
    pub port_name: String,
}

impl ServiceName {
    /// The service port whose number a flow carries, if it still stands at the address called.
    #[must_use]
    pub fn at(contents: &Contents, frontend: &FrontendKey, number: u32) -> Option<Self> {
        name_at(contents, frontend, number).map(|name| Self {
            namespace: unpadded(&name.namespace).into_owned(),
            name: unpadded(&name.name).into_owned(),
            port_name: unpadded(&name.port_name).into_owned(),
        })
    }

    /// Is it a port of this service?
    #[must_use]
    pub fn is_of(&self, service: &ServiceReference) -> bool {
        self.namespace == service.namespace && self.name == service.name
    }
}

/// The rows of all flows that the filter lets through, in order.
#[must_use]
pub fn flows(
    contents: &Contents,
    entries: &BTreeMap<Tuple, Flow>,
    now: Nanos,
    filter: &Filter,
) -> Vec<FlowRow> {
    let mut rows: Vec<FlowRow> = entries
        .iter()
        .filter(|(_, flow)| flow.role == FlowRole::FORWARD)
        .map(|(tuple, flow)| (tuple, with_replies(tuple, *flow, entries)))
        .filter(|(_, flow)| filter.states.is_empty() || filter.states.contains(&flow.state))
        .map(|(tuple, flow)| row(contents, tuple, &flow, now))
        .filter(|row| passes(filter, row))
        .collect();
    rows.sort_unstable();
    rows
}

/// The entry of the direction in which a flow was opened, as far along as its replies are. Each
/// entry is moved on by the packets it sees and told of the other's at most once a second.
fn with_replies(tuple: &Tuple, flow: Flow, entries: &BTreeMap<Tuple, Flow>) -> Flow {
    match entries.get(&flow.to.reversed()) {
        // It may be another flow's.
        Some(reply) if reply.to == tuple.reversed() => Flow {
            state: flow.state.max(reply.state),
            last_seen: flow.last_seen.max(reply.last_seen),
            ..flow
        },
        Some(_) | None => flow,
    }
}

fn row(contents: &Contents, tuple: &Tuple, flow: &Flow, now: Nanos) -> FlowRow {
    let frontend = FrontendKey::new(tuple.dst, tuple.dst_port, tuple.protocol);
    FlowRow {
        protocol: tuple.protocol.to_string(),
        client: endpoint(tuple.src, tuple.src_port),
        service: ServiceName::at(contents, &frontend, flow.service),
        address: endpoint(tuple.dst, tuple.dst_port),
        backend: endpoint(flow.to.dst, flow.to.dst_port),
        client_at_backend: endpoint(flow.to.src, flow.to.src_port),
        state: state_name(flow.state),
        idle_seconds: now.saturating_sub(flow.last_seen) / SECOND,
        expired: conntrack::is_expired(flow, now),
        hairpin: flow.to.src == flow.to.dst,
    }
}

fn passes(filter: &Filter, row: &FlowRow) -> bool {
    let Filter {
        from,
        to,
        service,
        protocol,
        states: _,
        expired,
    } = filter;
    from.is_none_or(|from| from.contain(row.client.ip()))
        && to.is_none_or(|to| to.contains(row.address) || to.contains(row.backend))
        && service.as_ref().is_none_or(|service| {
            row.service
                .as_ref()
                .is_some_and(|present| present.is_of(service))
        })
        && protocol.is_none_or(|protocol| row.protocol == protocol.to_string())
        && (*expired || !row.expired)
}

const fn state_name(state: FlowState) -> &'static str {
    match state {
        FlowState::OPENING => "OPENING",
        FlowState::ESTABLISHED => "ESTABLISHED",
        FlowState::CLOSING => "CLOSING",
        FlowState::CLOSED => "CLOSED",
        _ => "UNKNOWN",
    }
}

#[cfg(test)]
mod tests {
    use weir_ebpf::addr::{Port, Protocol};

    use super::*;
    use crate::listing::testing::{World, tuple};

    const NOW: Nanos = 1_000 * SECOND;
    const CLIENT: &str = "10.200.0.9:4711";

    fn contents() -> Contents {
        World::default()
            .service(
                3,
                "default/web:http",
                "10.32.0.140:80",
                &["10.200.0.2:8080"],
            )
            .service(4, "shop/cart:", "[fd00::8c]:80", &["[fd01::2]:8080"])
            .contents
    }

    /// Both entries of a flow, silent for so many seconds.
    fn flow(
        entries: &mut BTreeMap<Tuple, Flow>,
        service: u32,
        called: Tuple,
        to: Tuple,
        silent: [u64; 2],
    ) {
        let forward = Flow {
            to,
            last_seen: NOW - silent[0] * SECOND,
            service,
            revision: 1,
            state: FlowState::OPENING,
            role: FlowRole::FORWARD,
            flags: weir_ebpf::tables::FlowFlags::NONE,
            vetted_late: 0,
            vetted: 0,
        };
        let reply = Flow {
            to: called.reversed(),
            last_seen: NOW - silent[1] * SECOND,
            state: FlowState::ESTABLISHED,
            role: FlowRole::REPLY,
            ..forward
        };
        entries.insert(called, forward);
        entries.insert(to.reversed(), reply);
    }

    fn to_web(entries: &mut BTreeMap<Tuple, Flow>, protocol: Protocol, silent: [u64; 2]) {
        let called = tuple(protocol, CLIENT, "10.32.0.140:80");
        let to = tuple(protocol, CLIENT, "10.200.0.2:8080");
        flow(entries, 3, called, to, silent);
    }

    fn list(entries: &BTreeMap<Tuple, Flow>, filter: &Filter) -> Vec<FlowRow> {
        flows(&contents(), entries, NOW, filter)
    }

    #[test]
    fn a_flow_and_its_replies_are_one_row_as_far_along_as_either() {
        let mut entries = BTreeMap::new();
        to_web(&mut entries, Protocol::TCP, [9, 2]);
        let rows = list(&entries, &Filter::default());
        assert_eq!(
            serde_json::to_value(&rows).unwrap(),
            serde_json::json!([{
                "protocol": "TCP",
                "client": "10.200.0.9:4711",
                "service": {"namespace": "default", "name": "web", "portName": "http"},
                "address": "10.32.0.140:80",
                "backend": "10.200.0.2:8080",
                "clientAtBackend": "10.200.0.9:4711",
                "state": "ESTABLISHED",
                "idleSeconds": 2,
                "expired": false,
                "hairpin": false,
            }])
        );
    }

    #[test]
    fn the_replies_of_another_flow_say_nothing_of_this_one() {
        let mut entries = BTreeMap::new();
        to_web(&mut entries, Protocol::TCP, [9, 2]);
        let other = tuple(Protocol::TCP, CLIENT, "10.32.0.99:80").reversed();
        let reply = tuple(Protocol::TCP, CLIENT, "10.200.0.2:8080").reversed();
        entries.get_mut(&reply).unwrap().to = other;
        let rows = list(&entries, &Filter::default());
        assert_eq!((rows[0].state, rows[0].idle_seconds), ("OPENING", 9));
    }

    #[test]
    fn a_pod_that_reaches_itself_is_one_row() {
        let mut entries = BTreeMap::new();
        let called = tuple(Protocol::TCP, "10.200.0.2:4711", "10.32.0.140:80");
        let to = tuple(Protocol::TCP, "10.200.0.2:4711", "10.200.0.2:8080");
        flow(&mut entries, 3, called, to, [0, 0]);
        let inner = tuple(Protocol::TCP, "10.240.0.1:1024", "10.200.0.2:8080");
        let inner_forward = Flow {
            to: inner,
            role: FlowRole::SNAT_FORWARD,
            ..entries[&called]
        };
        let inner_reply = Flow {
            to: to.reversed(),
            role: FlowRole::SNAT_REPLY,
            ..inner_forward
        };
        entries.insert(to, inner_forward);
        entries.insert(inner.reversed(), inner_reply);
        let rows = list(&entries, &Filter::default());
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert!(rows[0].hairpin);
        assert_eq!(rows[0].state, "ESTABLISHED");
    }

    #[test]
    fn an_expired_flow_shows_only_when_asked_for() {
        let mut entries = BTreeMap::new();
        to_web(&mut entries, Protocol::UDP, [130, 121]);
        assert_eq!(list(&entries, &Filter::default()), []);
        let all = Filter {
            expired: true,
            ..Filter::default()
        };
        let rows = list(&entries, &all);
        assert_eq!((rows[0].expired, rows[0].idle_seconds), (true, 121));
    }

    #[test]
    fn a_flow_whose_address_is_no_services_any_more_has_no_name() {
        let mut entries = BTreeMap::new();
        to_web(&mut entries, Protocol::TCP, [0, 0]);
        let called = tuple(Protocol::TCP, CLIENT, "10.32.0.140:80");
        entries.get_mut(&called).unwrap().service = 4;
        let rows = list(&entries, &Filter::default());
        assert_eq!(rows[0].service, None, "4 is the number of another service");
    }

    #[test]
    fn a_clock_behind_the_last_packet_is_no_idle_time() {
        let mut entries = BTreeMap::new();
        to_web(&mut entries, Protocol::TCP, [0, 0]);
        let rows = flows(&contents(), &entries, NOW - SECOND, &Filter::default());
        assert_eq!(rows[0].idle_seconds, 0);
    }

    #[test]
    fn each_filter_takes_what_it_names() {
        let mut entries = BTreeMap::new();
        to_web(&mut entries, Protocol::TCP, [0, 0]);
        let called = tuple(Protocol::TCP, "[fd01::9]:4711", "[fd00::8c]:80");
        let mut to = tuple(Protocol::TCP, "[fd01::9]:4711", "[fd01::2]:8080");
        to.src_port = Port::new(1024);
        flow(&mut entries, 4, called, to, [0, 0]);
        let second = entries.get_mut(&called).unwrap();
        second.state = FlowState::CLOSED;

        let all = Filter::default();
        let web = "10.32.0.140:80";
        let cart = "[fd00::8c]:80";
        let filter = |change: &dyn Fn(&mut Filter)| {
            let mut filter = all.clone();
            change(&mut filter);
            list(&entries, &filter)
                .iter()
                .map(|row| row.address.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(filter(&|_| {}), [web, cart]);
        assert_eq!(filter(&|it| it.from = "10.0.0.0/8".parse().ok()), [web]);
        assert_eq!(filter(&|it| it.from = "fd01::9".parse().ok()), [cart]);
        assert_eq!(filter(&|it| it.to = "10.32.0.140:80".parse().ok()), [web]);
        assert_eq!(filter(&|it| it.to = "[fd01::2]:8080".parse().ok()), [cart]);
        assert!(filter(&|it| it.to = "10.32.0.140:81".parse().ok()).is_empty());
        assert_eq!(filter(&|it| it.service = "shop/cart".parse().ok()), [cart]);
        assert!(filter(&|it| it.service = "cart".parse().ok()).is_empty());
        assert_eq!(filter(&|it| it.states = vec![FlowState::CLOSED]), [cart]);
        assert!(filter(&|it| it.protocol = Some(Protocol::UDP)).is_empty());
        assert_eq!(filter(&|it| it.protocol = Some(Protocol::TCP)), [web, cart]);
    }
}
