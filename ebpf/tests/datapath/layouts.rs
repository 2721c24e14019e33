//! The layouts of all tables, pinned: programs and agents of two builds share them.

use std::mem::{align_of, offset_of, size_of};

use weir_ebpf::event::{Direction, Event};
use weir_ebpf::tables::{
    ANYONE, Affinity, AffinityKey, Backend, BackendFlags, BackendKey, Cidr, Class, Connection,
    ConnectionFlags, ConnectionKey, Cover, EndpointSet, Flow, FlowFlags, FlowRole, FlowState,
    Fragment, FragmentKey, Frontend, FrontendFlags, FrontendKey, Interface, LAYOUT_VERSION, NOBODY,
    Node, Pod, PodAddr, PodState, Policy, PolicyFlags, PortRange, Present, RuleKey, Service,
    ServiceFlags, ServiceName, ServingKey, Slots, SocketFlow, SocketKey, SourceRange, Tuple, name,
};

/// The version whose layouts stand below.
const PINNED: u32 = 5;

/// Panics unless the type has this size and alignment and these fields, at these offsets and of
/// these sizes, one directly behind the other.
macro_rules! assert_layout {
    ($type:ident: $size:literal, align $align:literal { $($field:ident: $offset:literal + $length:literal),+ $(,)? }) => {{
        const CHANGED: &str = concat!(
            stringify!($type),
            " has another layout than pinned maps have: raise LAYOUT_VERSION, then pin the new layout in this test",
        );
        assert_eq!(LAYOUT_VERSION, PINNED, "pin the layouts of the new version in this test");
        assert_eq!(size_of::<$type>(), $size, "{CHANGED}");
        assert_eq!(align_of::<$type>(), $align, "{CHANGED}");
        let mut end = 0;
        $(
            assert_eq!(offset_of!($type, $field), $offset, "{CHANGED}: {}", stringify!($field));
            assert_eq!(end, $offset, "padding before {} of {}", stringify!($field), stringify!($type));
            // The length of a field without an instance of it.
            let length = length_of(|value: &$type| value.$field);
            assert_eq!(length, $length, "{CHANGED}: {}", stringify!($field));
            end += length;
        )+
        assert_eq!(end, $size, "padding at the end of {}", stringify!($type));
    }};
}

fn length_of<T, F>(_field: impl Fn(&T) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn the_agents_tables_have_the_layouts_of_their_version() {
    assert_layout!(FrontendKey: 20, align 4 { addr: 0 + 16, port: 16 + 2, protocol: 18 + 1, reserved: 19 + 1 });
    assert_layout!(Frontend: 12, align 4 { service: 0 + 4, from_outside: 4 + 4, flags: 8 + 4 });
    // The first two are read by one load of eight bytes.
    assert_layout!(Service: 24, align 4 {
        backend_count: 0 + 4, revision: 4 + 4, flags: 8 + 4, affinity_timeout: 12 + 4, affinity: 16 + 4,
        reserved: 20 + 4,
    });
    assert_layout!(BackendKey: 8, align 4 { service: 0 + 4, slot: 4 + 4 });
    assert_layout!(Backend: 20, align 4 { addr: 0 + 16, port: 16 + 2, flags: 18 + 2 });
    assert_layout!(ServingKey: 24, align 4 { service: 0 + 4, backend: 4 + 20 });
    assert_layout!(Present: 4, align 4 { reserved: 0 + 4 });
    assert_layout!(ServiceName: 198, align 2 {
        namespace: 0 + 64, name: 64 + 64, port_name: 128 + 64, port: 192 + 2, protocol: 194 + 1, family: 195 + 1, set: 196 + 1,
        reserved: 197 + 1,
    });
    assert_layout!(SourceRange: 24, align 4 { prefix_len: 0 + 4, service: 4 + 4, addr: 8 + 16 });
    assert_layout!(Cidr: 20, align 4 { prefix_len: 0 + 4, addr: 4 + 16 });
    assert_layout!(Interface: 32, align 4 { addr_v4: 0 + 16, addr_v6: 16 + 16 });
    assert_layout!(Cover: 32, align 4 { prefix: 0 + 16, mask: 16 + 16 });
    assert_layout!(PortRange: 4, align 2 { min: 0 + 2, max: 2 + 2 });
    assert_layout!(Node: 108, align 4 {
        addr_v4: 0 + 16, addr_v6: 16 + 16, cover_v4: 32 + 32, cover_v6: 64 + 32, snat_ports: 96 + 8, node_ports: 104 + 4,
    });
}

#[test]
fn the_tables_of_policies_have_the_layouts_of_their_version() {
    assert_layout!(Policy: 8, align 4 { revision: 0 + 4, flags: 4 + 2, epoch: 6 + 2 });
    assert_layout!(Pod: 56, align 4 {
        egress: 0 + 8, ingress: 8 + 8, netns: 16 + 4, state: 20 + 1, reserved: 21 + 3, addr_v4: 24 + 16, addr_v6: 40 + 16,
    });
    assert_layout!(PodAddr: 20, align 4 { interface: 0 + 4, addr: 4 + 16 });
    assert_eq!((size_of::<Class>(), size_of::<Slots>()), (8, 8));
    assert_layout!(RuleKey: 16, align 4 {
        prefix_len: 0 + 4, subject: 4 + 4, class: 8 + 4, protocol: 12 + 1, reserved: 13 + 1, port: 14 + 2,
    });
    assert_layout!(ConnectionKey: 44, align 4 {
        pod: 0 + 16, peer: 16 + 16, interface: 32 + 4, pod_port: 36 + 2, peer_port: 38 + 2, protocol: 40 + 1,
        reserved: 41 + 3,
    });
    assert_layout!(Connection: 24, align 8 {
        last_seen: 0 + 8, revision: 8 + 4, rule: 12 + 4, state: 16 + 1, flags: 17 + 1, reserved: 18 + 6,
    });
    assert_layout!(Event: 96, align 8 {
        time: 0 + 8, tuple: 8 + 40, service_addr: 48 + 16, service_port: 64 + 2, verdict: 66 + 1, hook: 67 + 1,
        interface: 68 + 4, direction: 72 + 1, reserved: 73 + 3, subject: 76 + 4, class: 80 + 4, rule: 84 + 4,
        revision: 88 + 4, reserved_tail: 92 + 4,
    });
    assert_eq!((ANYONE, NOBODY), (0, 1));
    assert_eq!(
        (RuleKey::EVERYTHING, RuleKey::PROTOCOL, RuleKey::PORT),
        (64, 80, 96)
    );
}

#[test]
fn the_programs_tables_have_the_layouts_of_their_version() {
    assert_layout!(Tuple: 40, align 4 {
        src: 0 + 16, dst: 16 + 16, src_port: 32 + 2, dst_port: 34 + 2, protocol: 36 + 1, is_beside: 37 + 1,
        reserved: 38 + 2,
    });
    assert_layout!(Flow: 64, align 8 {
        to: 0 + 40, last_seen: 40 + 8, service: 48 + 4, revision: 52 + 4, state: 56 + 1, role: 57 + 1, flags: 58 + 1,
        vetted_late: 59 + 1, vetted: 60 + 4,
    });
    assert_layout!(FragmentKey: 40, align 4 {
        src: 0 + 16, dst: 16 + 16, identification: 32 + 4, protocol: 36 + 1, is_entering: 37 + 1, reserved: 38 + 2,
    });
    assert_layout!(Fragment: 40, align 8 { src: 0 + 16, dst: 16 + 16, first_seen: 32 + 8 });
    assert_layout!(AffinityKey: 20, align 4 { client: 0 + 16, affinity: 16 + 4 });
    assert_layout!(Affinity: 32, align 8 { backend: 0 + 20, reserved: 20 + 4, last_used: 24 + 8 });
    assert_layout!(SocketKey: 32, align 8 {
        cookie: 0 + 8, addr: 8 + 16, port: 24 + 2, protocol: 26 + 1, role: 27 + 1, reserved: 28 + 4,
    });
    assert_layout!(SocketFlow: 40, align 8 {
        addr: 0 + 16, port: 16 + 2, reserved: 18 + 2, service: 20 + 4, revision: 24 + 4, reserved_tail: 28 + 4,
        last_seen: 32 + 8,
    });
}

#[test]
fn the_numbers_in_tables_keep_their_meaning() {
    let states = [
        FlowState::OPENING,
        FlowState::ESTABLISHED,
        FlowState::CLOSING,
        FlowState::CLOSED,
    ];
    assert_eq!(states.map(|state| state.0), [0, 1, 2, 3]);
    let roles = [
        FlowRole::FORWARD,
        FlowRole::REPLY,
        FlowRole::SNAT_FORWARD,
        FlowRole::SNAT_REPLY,
    ];
    assert_eq!(roles.map(|role| role.0), [0, 1, 2, 3]);
    assert_eq!(ServiceFlags::DROPS_WITHOUT_BACKEND.0, 1);
    assert_eq!(BackendFlags::LOCAL.0, 1);
    assert_eq!(FlowFlags::SNAT.0, 1);
    assert_eq!((EndpointSet::CLUSTER.0, EndpointSet::LOCAL.0), (0, 1));
    let flags = [
        FrontendFlags::MASQUERADE_OUTSIDE,
        FrontendFlags::MASQUERADE_PODS,
        FrontendFlags::SOURCE_RANGES,
    ];
    assert_eq!(flags.map(|flags| flags.0), [1, 2, 4]);
    let flags = [
        PolicyFlags::DENY_UNKNOWN,
        PolicyFlags::NO_SOURCE_CHECK,
        PolicyFlags::KEEP_ESTABLISHED,
        PolicyFlags::EVENTS_DENIED,
        PolicyFlags::EVENTS_OPENED,
        PolicyFlags::LEAVE_TRACKED,
        PolicyFlags::HAND_OVER,
    ];
    assert_eq!(flags.map(|flags| flags.0), [1, 2, 4, 8, 16, 32, 64]);
    let flags = [
        ConnectionFlags::OPENED_BY_POD,
        ConnectionFlags::DENIED,
        ConnectionFlags::FROM_NODE,
    ];
    assert_eq!(flags.map(|flags| flags.0), [1, 2, 4]);
    let states = [PodState::UNKNOWN, PodState::ISOLATED, PodState::PROGRAMMED];
    assert_eq!(states.map(|state| state.0), [0, 1, 2]);
    let directions = [Direction::NONE, Direction::EGRESS, Direction::INGRESS];
    assert_eq!(directions.map(|direction| direction.0), [0, 1, 2]);
}

#[test]
fn the_maps_keep_their_names() {
    // The programs' statics carry them, and the kernel cuts names after fifteen bytes.
    let names = [
        (name::FRONTENDS, "FRONTENDS"),
        (name::SERVICES, "SERVICES"),
        (name::BACKENDS, "BACKENDS"),
        (name::SERVING, "SERVING"),
        (name::SERVICE_NAMES, "SERVICE_NAMES"),
        (name::NODE_PORT_ADDRS, "NODE_PORT_ADDRS"),
        (name::SOURCE_RANGES, "SOURCE_RANGES"),
        (name::SERVICE_CIDRS, "SERVICE_CIDRS"),
        (name::INTERFACES, "INTERFACES"),
        (name::NODE, "NODE"),
        (name::AFFINITY, "AFFINITY"),
        (name::FLOWS, "FLOWS"),
        (name::SOCKETS, "SOCKETS"),
        (name::FRAGMENTS, "FRAGMENTS"),
        (name::PODS, "PODS"),
        (name::POD_ADDRS, "POD_ADDRS"),
        (name::RECEIVERS, "RECEIVERS"),
        (name::NEXT_PROGRAMS, "NEXT_PROGRAMS"),
        (name::PEERS, "PEERS"),
        (name::PEER_RANGES, "PEER_RANGES"),
        (name::RULES, "RULES"),
        (name::POLICY, "POLICY"),
        (name::CONNECTIONS, "CONNECTIONS"),
        (name::EVENTS, "EVENTS"),
        (name::WORKSPACE, "WORKSPACE"),
        (name::CLOCK, "CLOCK"),
        (name::COUNTERS, "COUNTERS"),
    ];
    for (ours, pinned) in names {
        assert_eq!(ours, pinned);
        assert!(ours.len() <= 15);
    }
}
