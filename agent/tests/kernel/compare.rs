//! Whether the tables hold what was written there.

use std::net::Ipv4Addr;

use bytemuck::Zeroable as _;
use weir_agent::maps::diff::diff;
use weir_agent::maps::kernel::{KernelTables, Part};
use weir_agent::maps::{Contents, Plan, Write};
use weir_ebpf::addr::{Addr, Port, Protocol};
use weir_ebpf::tables::{
    Backend, BackendKey, Cidr, Class, Frontend, FrontendFlags, FrontendKey, Interface, Node, Pod,
    PodAddr, PodState, Policy, PolicyFlags, Receiver, RuleKey, Service, ServiceName, ServingKey,
    Slots, SourceRange, name,
};

use crate::bed;

fn addr(host: u8) -> Addr {
    Addr::from(Ipv4Addr::new(10, 32, 0, host))
}

fn cidr(host: u8) -> Cidr {
    Cidr {
        prefix_len: 96 + 32,
        addr: addr(host),
    }
}

fn frontend(host: u8) -> FrontendKey {
    FrontendKey::new(addr(host), Port::new(80), Protocol::TCP)
}

fn backend(host: u8) -> Backend {
    Backend::new(addr(host), Port::new(8080))
}

fn service(revision: u32) -> Service {
    Service {
        backend_count: 1,
        revision,
        ..Service::default()
    }
}

fn service_name(port: u16) -> ServiceName {
    ServiceName {
        port: Port::new(port),
        protocol: Protocol::TCP,
        family: 4,
        ..ServiceName::zeroed()
    }
}

fn range(host: u8) -> SourceRange {
    SourceRange {
        prefix_len: 32 + 96 + 32,
        service: 3,
        addr: addr(host),
    }
}

fn pod(state: PodState) -> Pod {
    Pod {
        state,
        ..Pod::zeroed()
    }
}

fn class(number: u32) -> Class {
    Class(Slots::both(number))
}

const BACKEND: BackendKey = BackendKey {
    service: 3,
    slot: 0,
};

fn serving(host: u8) -> ServingKey {
    ServingKey {
        service: 3,
        backend: backend(host),
    }
}

fn pod_addr(host: u8) -> PodAddr {
    PodAddr {
        interface: 7,
        addr: addr(host),
    }
}

/// Something in every table.
fn contents() -> Contents {
    Contents {
        frontends: [(frontend(1), Frontend::to(3, FrontendFlags::NONE))].into(),
        services: [(3, service(1))].into(),
        backends: [(BACKEND, backend(1))].into(),
        serving: [serving(1)].into(),
        service_names: [(3, service_name(80))].into(),
        node_port_addrs: [addr(1)].into(),
        source_ranges: [range(1)].into(),
        service_cidrs: [cidr(1)].into(),
        interfaces: [(7, Interface::default())].into(),
        node: Node {
            addr_v4: addr(1),
            ..Node::default()
        },
        pods: [(7, pod(PodState::PROGRAMMED))].into(),
        pod_addrs: [pod_addr(1)].into(),
        receivers: [(addr(1), Receiver { interface: 7 })].into(),
        peers: [(addr(1), class(2))].into(),
        peer_ranges: [(cidr(1), class(2))].into(),
        rules: [(RuleKey::everything(1, 2), 1)].into(),
        policy: Policy {
            flags: PolicyFlags::DENY_UNKNOWN,
            ..Policy::default()
        },
    }
}

/// What somebody else may have done: one entry has another value, is gone, or is more than wanted.
fn meddlings() -> Vec<(&'static str, Write)> {
    let to_other = Frontend::to(4, FrontendFlags::NONE);
    let interface = Interface {
        addr_v4: addr(9),
        ..Interface::default()
    };
    let receiver = Receiver { interface: 9 };
    let all = RuleKey::everything;
    vec![
        (name::FRONTENDS, Write::PutFrontend(frontend(1), to_other)),
        (name::FRONTENDS, Write::PutFrontend(frontend(9), to_other)),
        (name::FRONTENDS, Write::RemoveFrontend(frontend(1))),
        (name::SERVICES, Write::PutService(3, service(2))),
        (name::SERVICES, Write::PutService(3, Service::default())),
        (name::SERVICES, Write::PutService(2, service(1))),
        (name::BACKENDS, Write::PutBackend(BACKEND, backend(9))),
        (name::BACKENDS, Write::RemoveBackend(BACKEND)),
        (name::SERVING, Write::PutServing(serving(9))),
        (name::SERVING, Write::RemoveServing(serving(1))),
        (
            name::SERVICE_NAMES,
            Write::PutServiceName(3, Box::new(service_name(81))),
        ),
        (
            name::SERVICE_NAMES,
            Write::PutServiceName(9, Box::new(service_name(80))),
        ),
        (name::SERVICE_NAMES, Write::RemoveServiceName(3)),
        (name::NODE_PORT_ADDRS, Write::PutNodePortAddr(addr(9))),
        (name::NODE_PORT_ADDRS, Write::RemoveNodePortAddr(addr(1))),
        (name::SOURCE_RANGES, Write::PutSourceRange(range(9))),
        (name::SOURCE_RANGES, Write::RemoveSourceRange(range(1))),
        (name::SERVICE_CIDRS, Write::PutServiceCidr(cidr(9))),
        (name::SERVICE_CIDRS, Write::RemoveServiceCidr(cidr(1))),
        (name::INTERFACES, Write::PutInterface(7, interface)),
        (name::INTERFACES, Write::RemoveInterface(7)),
        (name::NODE, Write::PutNode(Box::default())),
        (name::PODS, Write::PutPod(7, pod(PodState::ISOLATED))),
        (name::PODS, Write::RemovePod(7)),
        (name::POD_ADDRS, Write::PutPodAddr(pod_addr(9))),
        (name::POD_ADDRS, Write::RemovePodAddr(pod_addr(1))),
        (name::RECEIVERS, Write::PutReceiver(addr(1), receiver)),
        (name::RECEIVERS, Write::RemoveReceiver(addr(1))),
        (name::PEERS, Write::PutPeer(addr(1), class(9))),
        (name::PEERS, Write::RemovePeer(addr(1))),
        (name::PEER_RANGES, Write::PutPeerRange(cidr(1), class(9))),
        (name::PEER_RANGES, Write::RemovePeerRange(cidr(1))),
        (name::RULES, Write::PutRule(all(1, 2), 9)),
        (name::RULES, Write::PutRule(all(9, 2), 1)),
        (name::RULES, Write::RemoveRule(all(1, 2))),
        (name::POLICY, Write::PutPolicy(Policy::default())),
    ]
}

/// The tables that hold something else.
fn differing(tables: &KernelTables, contents: &Contents, policy: Policy) -> Vec<&'static str> {
    let of_part = |part| tables.differing(part, contents, policy).unwrap();
    Part::ALL.into_iter().filter_map(of_part).collect()
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn a_table_that_somebody_else_wrote_to_is_named_whatever_was_done() {
    bed::run(|bed| {
        let dataplane = bed.load();
        let mut tables = dataplane.tables().unwrap();
        let contents = contents();
        let plan = diff(&contents, &tables.read().unwrap());
        let policy = plan.policy().unwrap();
        tables.apply(&plan).unwrap();
        assert_eq!(differing(&tables, &contents, policy), Vec::<&str>::new());
        let as_written = tables.read().unwrap();
        for (table, meddling) in meddlings() {
            tables.apply(&Plan(vec![meddling.clone()])).unwrap();
            let differing = differing(&tables, &contents, policy);
            assert_eq!(differing, [table], "after {meddling:?}");
            // The entry alone: a plan would raise what it raises.
            undo(&mut tables, &as_written, meddling);
        }
        assert_eq!(differing(&tables, &contents, policy), Vec::<&str>::new());
    });
}

/// Every table as it was.
fn undo(tables: &mut KernelTables, as_written: &Contents, meddling: Write) {
    let removal = match meddling {
        Write::PutFrontend(key, _) => Some(Write::RemoveFrontend(key)),
        Write::PutService(number, _) => Some(Write::PutService(number, Service::default())),
        Write::PutServing(key) => Some(Write::RemoveServing(key)),
        Write::PutServiceName(number, _) => Some(Write::RemoveServiceName(number)),
        Write::PutNodePortAddr(addr) => Some(Write::RemoveNodePortAddr(addr)),
        Write::PutSourceRange(range) => Some(Write::RemoveSourceRange(range)),
        Write::PutServiceCidr(cidr) => Some(Write::RemoveServiceCidr(cidr)),
        Write::PutPodAddr(addr) => Some(Write::RemovePodAddr(addr)),
        Write::PutRule(key, _) => Some(Write::RemoveRule(key)),
        _ => None,
    };
    tables.apply(&Plan(removal.into_iter().collect())).unwrap();
    let mut plan = diff(as_written, &Contents::default());
    plan.0.push(Write::PutPolicy(as_written.policy));
    tables.apply(&plan).unwrap();
    assert_eq!(tables.read().unwrap(), *as_written);
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn numbers_that_were_never_given_are_not_looked_at() {
    bed::run(|bed| {
        let dataplane = bed.load();
        let mut tables = dataplane.tables().unwrap();
        tables
            .apply(&Plan(vec![Write::PutService(9, service(1))]))
            .unwrap();
        let policy = Policy::default();
        let mut contents = Contents::default();
        assert_eq!(differing(&tables, &contents, policy), Vec::<&str>::new());
        contents.services.insert(10, service(1));
        assert_eq!(differing(&tables, &contents, policy), [name::SERVICES]);
    });
}
