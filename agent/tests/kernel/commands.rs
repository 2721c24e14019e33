//! The commands that read the pinned tables, against tables with known contents.

use std::process::{Command, Output};

use aya::maps::{HashMap, Map, MapData};
use serde_json::{Value, json};
use weir_agent::maps::kernel::KernelTables;
use weir_agent::maps::pins::Pins;
use weir_agent::maps::{Contents, Plan, Write};
use weir_ebpf::addr::{Addr, Port, Protocol};
use weir_ebpf::tables::{
    Backend, BackendKey, Flow, FlowRole, FlowState, Frontend, FrontendKey, Service, ServiceName,
    ServingKey, Tuple, name,
};

use crate::bed::{self, Bed};

fn addr(text: &str) -> Addr {
    text.parse::<std::net::IpAddr>().unwrap().into()
}

fn padded(text: &str) -> [u8; 64] {
    let mut padded = [0; 64];
    padded[..text.len()].copy_from_slice(text.as_bytes());
    padded
}

/// A service with one backend.
fn service() -> Plan {
    let backend = Backend::new(addr("10.200.0.2"), Port::new(8080));
    Plan(vec![
        Write::PutServiceName(
            7,
            Box::new(ServiceName {
                namespace: padded("shop"),
                name: padded("cart"),
                port_name: padded("http"),
                port: Port::new(80),
                protocol: Protocol::TCP,
                family: 4,
                set: weir_ebpf::tables::EndpointSet::CLUSTER,
                reserved: 0,
            }),
        ),
        Write::PutServing(ServingKey {
            service: 7,
            backend,
        }),
        Write::PutBackend(
            BackendKey {
                service: 7,
                slot: 0,
            },
            backend,
        ),
        Write::PutService(
            7,
            Service {
                backend_count: 1,
                revision: 3,
                ..Service::default()
            },
        ),
        Write::PutFrontend(
            FrontendKey::new(addr("10.32.0.140"), Port::new(80), Protocol::TCP),
            Frontend::to(7, weir_ebpf::tables::FrontendFlags::MASQUERADE_OUTSIDE),
        ),
    ])
}

/// A flow to it that has just been seen, as a program writes it.
fn put_flow(bed: &Bed) {
    let called = Tuple {
        src: addr("10.200.0.9"),
        dst: addr("10.32.0.140"),
        src_port: Port::new(4711),
        dst_port: Port::new(80),
        protocol: Protocol::TCP,
        is_beside: 0,
        reserved: [0; 2],
    };
    let flow = Flow {
        to: Tuple {
            dst: addr("10.200.0.2"),
            dst_port: Port::new(8080),
            ..called
        },
        // Of the future, so that it is not idle however slow the machine.
        last_seen: u64::MAX / 2,
        service: 7,
        revision: 3,
        state: FlowState::ESTABLISHED,
        role: FlowRole::FORWARD,
        flags: weir_ebpf::tables::FlowFlags::NONE,
        vetted_late: 0,
        vetted: 0,
    };
    insert_flow(bed, (called, flow));
}

fn insert_flow(bed: &Bed, (called, flow): (Tuple, Flow)) {
    let map = MapData::from_pin(Pins::new(&bed.bpffs()).map(name::FLOWS)).unwrap();
    let mut map: HashMap<_, [u8; size_of::<Tuple>()], [u8; size_of::<Flow>()]> =
        Map::from_map_data(map).unwrap().try_into().unwrap();
    map.insert(
        bytemuck::cast::<_, [u8; size_of::<Tuple>()]>(called),
        bytemuck::cast::<_, [u8; size_of::<Flow>()]>(flow),
        0,
    )
    .unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn flows_through_an_address_that_is_gone_are_forgotten() {
    bed::run(|bed| {
        let dataplane = bed.load();
        let mut tables = dataplane.tables().unwrap();
        tables.apply(&service()).unwrap();
        // TCP, through the address that is there.
        put_flow(bed);
        let (tcp, flow) = tables.flows().next().unwrap().unwrap();
        let udp = |dst: Addr| {
            let protocol = Protocol::UDP;
            (
                Tuple {
                    dst,
                    protocol,
                    ..tcp
                },
                flow,
            )
        };
        insert_flow(bed, udp(tcp.dst));
        insert_flow(bed, udp(addr("10.32.0.141")));
        let mut contents = tables.read().unwrap();
        let key = FrontendKey::new(tcp.dst, tcp.dst_port, Protocol::UDP);
        contents.frontends.insert(
            key,
            Frontend::to(flow.service, weir_ebpf::tables::FrontendFlags::NONE),
        );
        let known = |tables: &KernelTables| tables.flows().count();
        assert_eq!(known(&tables), 3);
        assert_eq!(tables.forget_stale(&contents).unwrap(), 1);
        assert_eq!(tables.forget_stale(&contents).unwrap(), 0);
        contents.frontends.clear();
        assert_eq!(tables.forget_stale(&contents).unwrap(), 1);
        let left = tables.flows().next().unwrap().unwrap();
        assert_eq!((left.0, known(&tables)), (tcp, 1));
    });
}

fn weir(bed: &Bed, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(arguments)
        .arg("--bpffs")
        .arg(bed.bpffs())
        .arg("--run-dir")
        .arg(bed.run_dir())
        .output()
        .unwrap()
}

fn answer(bed: &Bed, arguments: &[&str]) -> Value {
    let output = weir(bed, &[arguments, &["-o", "json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn commands_show_what_was_written() {
    bed::run(|bed| {
        let dataplane = bed.load();
        dataplane.tables().unwrap().apply(&service()).unwrap();
        put_flow(bed);

        let list = answer(bed, &["service", "list"]);
        let port = json!({
            "namespace": "shop", "name": "cart", "portName": "http", "port": 80, "protocol": "TCP",
            "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": null,
            "affinitySeconds": null,
            "addresses": [{
                "kind": "clusterIP", "address": "10.32.0.140:80", "number": 7, "outsideNumber": 7,
                "masquerade": "outside", "sourceRanges": null,
            }],
            "families": [{
                "family": "IPv4", "trafficPolicy": "Cluster", "number": 7, "revision": 3,
                "changing": false, "refuses": false, "drops": false,
                "addresses": ["10.32.0.140:80"],
                "backends": [{"slot": 0, "address": "10.200.0.2:8080", "local": false}],
            }],
        });
        assert_eq!(list, json!({"servicePorts": [port]}));
        let get = answer(bed, &["service", "get", "shop/cart"]);
        assert_eq!(get["ports"], json!([port]));
        let missing = weir(bed, &["service", "get", "cart"]);
        assert!(!missing.status.success(), "default/cart: {missing:?}");

        let flows = answer(bed, &["flow", "list", "--service", "shop/cart"]);
        assert_eq!(
            flows,
            json!({"flows": [{
                "protocol": "TCP",
                "client": "10.200.0.9:4711",
                "service": {"namespace": "shop", "name": "cart", "portName": "http"},
                "address": "10.32.0.140:80",
                "backend": "10.200.0.2:8080",
                "clientAtBackend": "10.200.0.9:4711",
                "state": "ESTABLISHED",
                "idleSeconds": 0,
                "expired": false,
                "hairpin": false,
            }]})
        );
        let none = answer(bed, &["flow", "list", "--from", "10.200.0.8"]);
        assert_eq!(none, json!({"flows": []}));

        let table = weir(bed, &["flow", "list", "-o", "wide"]);
        let text = String::from_utf8(table.stdout).unwrap();
        assert!(
            text.contains("shop/cart") && text.contains("HAIRPIN"),
            "{text}"
        );
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn tables_opened_for_reading_cannot_be_written() {
    bed::run(|bed| {
        let dataplane = bed.load();
        let mut tables = KernelTables::open_read_only(&Pins::new(&bed.bpffs())).unwrap();
        let error = tables.apply(&service()).unwrap_err();
        assert_eq!(error.error.raw_os_error(), Some(libc::EPERM), "{error}");
        assert_eq!(
            dataplane.tables().unwrap().read().unwrap(),
            Contents::default()
        );
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn without_tables_the_commands_ask_whether_an_agent_has_run() {
    bed::run(|bed| {
        for arguments in [
            &["service", "list"][..],
            &["service", "get", "shop/cart"],
            &["flow", "list", "--watch"],
        ] {
            let output = weir(bed, arguments);
            let text = String::from_utf8(output.stderr).unwrap();
            assert!(!output.status.success(), "{arguments:?}: {text}");
            assert!(text.contains("has an agent run here?"), "{text}");
            assert!(text.contains(&bed.bpffs().display().to_string()), "{text}");
        }
        assert!(bed.pinned().is_empty(), "a command that reads made a pin");
    });
}
