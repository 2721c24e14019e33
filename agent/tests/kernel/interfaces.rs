//! A real agent follows the node's interfaces and addresses.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use weir_agent::maps::Contents;
use weir_agent::maps::kernel::KernelTables;
use weir_agent::maps::pins::Pins;
use weir_ebpf::addr::Addr;
use weir_ebpf::tables::{Interface, NOBODY, PodState, PortRange};

use crate::bed::{self, Bed, Network, index, tcx_programs, try_tcx_programs};
use crate::tun;

const NETWORK: [&str; 2] = ["from_network", "to_network"];
const NETWORK_L3: [&str; 2] = ["from_network_l3", "to_network_l3"];
const POD: [&str; 2] = ["from_pod", "to_pod"];
const NONE: [&str; 0] = [];

/// An agent of the bed's node. Dropping it kills it.
struct Agent {
    process: Child,
    pins: Pins,
    log: std::path::PathBuf,
}

impl Agent {
    fn start(bed: &Bed, flags: &[&str]) -> Self {
        let manifests = bed.run_dir().join("manifests");
        fs::create_dir_all(&manifests).unwrap();
        let log = bed.run_dir().join("agent.log");
        let process = Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(["agent", "--node-name", "worker-0"])
            .arg("--manifests")
            .arg(manifests)
            .arg("--cgroup-root")
            .arg(bed.cgroup())
            .arg("--netns-dir")
            .arg(bed.netns_dir())
            .arg("--bpffs")
            .arg(bed.bpffs())
            .arg("--run-dir")
            .arg(bed.run_dir())
            .arg("--cni-results-dir")
            .arg(bed.run_dir().join("cni/results"))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self {
            process,
            pins: Pins::new(&bed.bpffs()),
            log,
        }
    }

    fn tables(&self) -> Option<Contents> {
        KernelTables::open_read_only(&self.pins).ok()?.read().ok()
    }

    /// Waits until an interface runs these programs.
    fn runs(&self, interface: &str, programs: &[&str]) {
        self.eventually(&format!("{interface} runs {programs:?}"), || {
            try_tcx_programs(interface).is_ok_and(|found| found == programs)
        });
    }

    /// Waits until the tables are as they should be.
    fn holds(&self, what: &str, condition: impl Fn(&Contents) -> bool) {
        self.eventually(what, || self.tables().as_ref().is_some_and(&condition));
    }

    fn eventually(&self, what: &str, condition: impl FnMut() -> bool) {
        bed::eventually_or(what, condition, || {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            format!("{log}\n{:?}", self.tables())
        });
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

/// IPv6 addresses are usable at once, in interfaces that are made from now on.
fn usable_at_once() {
    fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn programs_follow_the_interfaces() {
    bed::run_async(|bed| async move {
        let network = Network::open();
        let agent = Agent::start(&bed, &[]);
        agent.holds("the agent is there", |tables| {
            tables.node.snat_ports[0] != PortRange::default()
        });

        // The uplink appears after the agent, and is taken into a bridge, and out of it.
        let uplink = network.veth("eth0").await;
        agent.runs("eth0", &NETWORK);
        let bridge = network.bridge("br0").await;
        agent.runs("br0", &NETWORK);
        network.set_master(uplink, bridge).await;
        agent.runs("eth0", &NONE);
        agent.runs("br0", &NETWORK);
        network.set_master(uplink, 0).await;
        agent.runs("eth0", &NETWORK);

        // A bridge is the pods' as soon as it has a pod and nothing else.
        let pod = bed.make_pod(&network, "pod", "veth0").await;
        agent.runs("veth0", &POD);
        network.set_master(pod, bridge).await;
        agent.runs("br0", &NONE);
        agent.runs("veth0", &POD);
        // With anything else, what pods send there past the IP layer is seen there.
        network.set_master(uplink, bridge).await;
        agent.runs("br0", &NETWORK);
        agent.runs("eth0", &["to_network_l2"]);
        agent.runs("veth0", &POD);

        // The pod's namespace is no longer a pod's, and lives on: its interface stays.
        let _kept = File::open(bed.netns_dir().join("pod")).unwrap();
        bed.remove_namespace("pod");
        agent.runs("veth0", &NONE);
        network.set_master(pod, 0).await;
        agent.runs("veth0", &NETWORK);

        let tun = tun::make("tun0");
        agent.runs("tun0", &NETWORK_L3);
        assert_eq!(tcx_programs("lo"), NONE);

        // What goes leaves nothing behind.
        let pins = |index: u32| {
            let pinned = bed.pinned();
            let of_it = format!("-{index}");
            pinned.iter().filter(|name| name.ends_with(&of_it)).count()
        };
        let tun_index = index("tun0");
        agent.eventually("everything is pinned", || {
            (pins(bridge), pins(tun_index)) == (2, 2)
        });
        drop(tun);
        network.remove(bridge).await;
        agent.eventually("the pins go", || pins(bridge) + pins(tun_index) == 0);
        agent.runs("eth0", &NETWORK);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn tables_follow_the_addresses() {
    bed::run_async(|bed| async move {
        usable_at_once();
        let network = Network::open();
        let agent = Agent::start(&bed, &[]);
        let uplink = network.veth("eth0").await;
        let other = network.veth("eth1").await;
        network.up("eth0").await;
        network.add_address(uplink, "10.240.0.11", 24).await;
        network.add_address(uplink, "10.240.0.12", 24).await;
        network.add_address(uplink, "fd00:10:240::11", 64).await;
        network.add_address(other, "10.241.0.11", 24).await;
        network.add_address(index("lo"), "203.0.113.9", 32).await;

        let leaving = |v4: &str, v6: &str| Interface {
            addr_v4: addr(v4),
            addr_v6: addr(v6),
        };
        let interfaces = [
            (uplink, leaving("10.240.0.11", "fd00:10:240::11")),
            (other, leaving("10.241.0.11", "::")),
        ];
        let served = [
            "10.240.0.11",
            "10.240.0.12",
            "10.241.0.11",
            "203.0.113.9",
            "fd00:10:240::11",
        ]
        .map(addr);
        agent.holds("every address but loopback ones", |tables| {
            tables.interfaces == interfaces.into()
                && served
                    .iter()
                    .all(|addr| tables.node_port_addrs.contains(addr))
                && !tables.node_port_addrs.contains(&addr("127.0.0.1"))
                && !tables.node_port_addrs.contains(&addr("::1"))
                && tables.node.addr_v4 == addr("10.240.0.11")
        });

        network.remove_address(uplink, "10.240.0.11", 24).await;
        agent.holds("the next address of the interface", |tables| {
            !tables.node_port_addrs.contains(&addr("10.240.0.11"))
                && tables
                    .interfaces
                    .get(&uplink)
                    .is_some_and(|interface| interface.addr_v4 != addr("10.240.0.11"))
        });

        network.remove(uplink).await;
        agent.holds("the other interface only", |tables| {
            tables.interfaces == [interfaces[1]].into()
                && !tables.node_port_addrs.contains(&addr("fd00:10:240::11"))
                && tables.node_port_addrs.contains(&addr("10.241.0.11"))
        });
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn node_ports_are_served_where_the_flag_says() {
    bed::run_async(|bed| async move {
        usable_at_once();
        let network = Network::open();
        let uplink = network.veth("eth0").await;
        network.add_address(uplink, "10.240.0.11", 24).await;
        network.add_address(uplink, "10.241.0.11", 24).await;
        network.add_address(uplink, "fd00:10:240::11", 64).await;
        for (flag, expected) in [
            ("primary", &["10.240.0.11", "fd00:10:240::11"][..]),
            ("10.241.0.0/24,fd00:10:241::/64", &["10.241.0.11"]),
        ] {
            let agent = Agent::start(&bed, &["--nodeport-addresses", flag]);
            agent.holds(flag, |tables| {
                tables.node_port_addrs == expected.iter().map(|text| addr(text)).collect()
            });
        }
    });
}

const SHOP: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop, uid: u-1, labels: {app: cart}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: shop}
spec: {podSelector: {matchLabels: {app: cart}}, policyTypes: [Egress]}
";

/// A record as libcni writes one.
fn record(bed: &Bed, namespace: &str, pod: &str, uid: &str, addr: &str) -> String {
    let sandbox = bed.netns_dir().join(namespace);
    json!({
        "kind": "cniCacheV1", "containerId": namespace, "config": "e30=", "ifName": "eth0",
        "networkName": "pods", "netns": sandbox,
        "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "shop"],
                    ["K8S_POD_NAME", pod], ["K8S_POD_UID", uid]],
        "result": {
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "v"}, {"name": "eth0", "sandbox": sandbox}],
            "ips": [{"address": format!("{addr}/32"), "interface": 1}],
        },
    })
    .to_string()
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn a_pod_is_known_by_its_record_before_its_object_has_an_address() {
    bed::run_async(|bed| async move {
        let network = Network::open();
        let manifests = bed.run_dir().join("manifests");
        fs::create_dir_all(&manifests).unwrap();
        fs::write(manifests.join("shop.yaml"), SHOP).unwrap();
        let agent = Agent::start(&bed, &[]);
        let state = |tables: &Contents, interface: u32| {
            let pod = tables.pods.get(&interface)?;
            Some((pod.state, pod.egress.0[0] > NOBODY, pod.ingress.0[0]))
        };
        let addrs = |tables: &Contents, interface: u32| -> BTreeSet<Addr> {
            let addrs = tables.pod_addrs.iter();
            addrs
                .filter(|key| key.interface == interface)
                .map(|key| key.addr)
                .collect()
        };

        // Nobody knows whose it is, but it has an address.
        let cart = bed.make_pod(&network, "cni-a", "v").await;
        bed.inside("cni-a", async |inside| {
            inside.add_address(index("vp"), "fe80::7", 64).await;
        });
        agent.holds("an unknown pod and its address", |tables| {
            state(tables, cart) == Some((PodState::UNKNOWN, false, 0))
                && addrs(tables, cart) == [addr("fe80::7")].into()
        });

        // Its record is written, into a directory that was not there before.
        let results = bed.run_dir().join("cni/results");
        fs::create_dir_all(&results).unwrap();
        let file = results.join("pods-a-eth0");
        let text = record(&bed, "cni-a", "cart", "u-1", "10.200.0.7");
        fs::write(&file, text).unwrap();
        agent.holds("the pod under its policy", |tables| {
            state(tables, cart) == Some((PodState::PROGRAMMED, true, 0))
                && addrs(tables, cart) == ["10.200.0.7", "fe80::7"].map(addr).into()
        });

        // One of which only the name is known, in a namespace with policies.
        let late = bed.make_pod(&network, "cni-b", "w").await;
        let text = record(&bed, "cni-b", "late", "u-2", "10.200.0.8");
        fs::write(results.join("pods-b-eth0"), text).unwrap();
        agent.holds("a pod whose labels are not known", |tables| {
            state(tables, late) == Some((PodState::ISOLATED, false, NOBODY))
        });

        fs::remove_file(&file).unwrap();
        agent.holds("an unknown pod again", |tables| {
            state(tables, cart) == Some((PodState::UNKNOWN, false, 0))
        });
        agent.eventually("the status says so", || {
            // It may not have been written yet.
            let status = fs::read(bed.run_dir().join("status.json")).unwrap_or_default();
            let status: Value = serde_json::from_slice(&status).unwrap_or_default();
            let states = status["interfaces"].as_array().into_iter().flatten();
            let states: Vec<_> = states.map(|it| (&it["state"], &it["pod"])).collect();
            states
                == [
                    (&json!("unknown"), &Value::Null),
                    (&json!("isolated"), &json!("shop/late")),
                ]
                && status["policies"] == 1
        });
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn a_value_that_is_no_block_is_refused_with_the_flags_name() {
    bed::run(|bed| {
        let mut agent = Agent::start(bed, &["--nodeport-addresses", "eth0"]);
        assert!(!agent.process.wait().unwrap().success());
        let text = fs::read_to_string(&agent.log).unwrap();
        assert!(text.contains("--nodeport-addresses: \"eth0\""), "{text}");
    });
}
