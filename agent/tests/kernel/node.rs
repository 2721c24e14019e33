//! The node as a source.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tokio::sync::watch::{Receiver, channel};
use tokio::time::timeout;
use weir_agent::sources::SourceId;
use weir_agent::sources::node::snat_ports::snat_ports;
use weir_agent::sources::node::{self, NodeState};
use weir_agent::sources::row::Row;

use crate::bed::{self, Network, index};

/// What has to come comes by then, however busy the machine is.
const LIMIT: Duration = Duration::from_secs(60);

async fn until(
    states: &mut Receiver<Option<NodeState>>,
    what: &str,
    condition: impl Fn(&NodeState) -> bool,
) -> NodeState {
    let reached = timeout(
        LIMIT,
        states.wait_for(|state| state.as_ref().is_some_and(&condition)),
    )
    .await
    .map(|state| state.expect("the watch goes on").clone());
    match reached {
        Ok(state) => state.unwrap(),
        Err(_) => panic!("never came true: {what}; last: {:?}", states.borrow()),
    }
}

fn row() -> Row {
    Row::new(SourceId::NETLINK, "Interface")
}

fn namespaces(state: &NodeState) -> Vec<(u32, &str, &str)> {
    state
        .pod_interfaces
        .iter()
        .map(|(index, interface)| {
            (
                *index,
                interface.name.as_str(),
                interface.namespaces.first().unwrap().as_str(),
            )
        })
        .collect()
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn pods_come_and_go() {
    bed::run_async(|bed| async move {
        let network = Network::open();
        let early = bed.make_pod(&network, "early", "vearly").await;
        // Interfaces of nobody's pod: one pair at home, one to a namespace without a file.
        network.veth("vhome").await;

        let (sender, mut states) = channel(None);
        let watch = tokio::spawn(node::watch(bed.netns_dir(), sender, row()));
        let first = until(&mut states, "a first state", |_| true).await;
        assert_eq!(namespaces(&first), [(early, "vearly", "early")]);

        let late = bed.make_pod(&network, "late", "vlate").await;
        let state = until(&mut states, "two pods", |state| {
            state.pod_interfaces.len() == 2
        })
        .await;
        assert_eq!(
            namespaces(&state),
            [(early, "vearly", "early"), (late, "vlate", "late")]
        );

        network.remove(early).await;
        until(&mut states, "one pod", |state| {
            namespaces(state) == [(late, "vlate", "late")]
        })
        .await;

        bed.remove_namespace("late");
        until(&mut states, "no pod", |state| {
            state.pod_interfaces.is_empty()
        })
        .await;

        drop(states);
        timeout(LIMIT, watch)
            .await
            .expect("the watch ends with its last listener")
            .unwrap()
            .unwrap();
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn a_namespace_that_is_bound_to_its_file_last_is_seen() {
    bed::run_async(|bed| async move {
        let network = Network::open();
        let pod = bed.make_pod(&network, "pod", "vpod").await;
        // The file alone is no namespace.
        let elsewhere = bed.run_dir().join("kept");
        File::create(&elsewhere).unwrap();
        bind(&bed.netns_dir().join("pod"), &elsewhere);
        bed.remove_namespace("pod");
        File::create(bed.netns_dir().join("pod")).unwrap();

        let (sender, mut states) = channel(None);
        tokio::spawn(node::watch(bed.netns_dir(), sender, row()));
        let first = until(&mut states, "a first state", |_| true).await;
        assert_eq!(namespaces(&first), []);

        // From now on nothing happens but a mount.
        bind(&elsewhere, &bed.netns_dir().join("pod"));
        until(&mut states, "the pod", |state| {
            namespaces(state) == [(pod, "vpod", "pod")]
        })
        .await;
        nix::mount::umount2(&elsewhere, nix::mount::MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn another_name_for_a_pods_namespace_takes_nothing_from_the_first() {
    bed::run_async(|bed| async move {
        let network = Network::open();
        let pod = bed.make_pod(&network, "pod", "vpod").await;
        let (sender, mut states) = channel(None);
        tokio::spawn(node::watch(bed.netns_dir(), sender, row()));
        until(&mut states, "a first state", |_| true).await;
        // As `ip netns attach` does.
        let alias = bed.netns_dir().join("a-look-inside");
        File::create(&alias).unwrap();
        bind(&bed.netns_dir().join("pod"), &alias);
        let both = BTreeSet::from(["a-look-inside", "pod"].map(ToOwned::to_owned));
        until(&mut states, "both names", |state| {
            state
                .pod_interfaces
                .get(&pod)
                .is_some_and(|interface| interface.namespaces == both)
        })
        .await;
    });
}

fn bind(from: &std::path::Path, to: &std::path::Path) {
    nix::mount::mount(
        Some(from),
        to,
        None::<&str>,
        nix::mount::MsFlags::MS_BIND,
        None::<&str>,
    )
    .unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn a_directory_made_later_is_watched() {
    bed::run_async(|bed| async move {
        let network = Network::open();
        fs::remove_dir(bed.netns_dir()).unwrap();
        let (sender, mut states) = channel(None);
        tokio::spawn(node::watch(bed.netns_dir(), sender, row()));
        let first = until(&mut states, "a first state", |_| true).await;
        assert_eq!(namespaces(&first), []);

        fs::create_dir(bed.netns_dir()).unwrap();
        let pod = bed.make_pod(&network, "pod", "vpod").await;
        until(&mut states, "the pod", |state| {
            namespaces(state) == [(pod, "vpod", "pod")]
        })
        .await;
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn addresses_are_the_nodes_global_ones() {
    bed::run_async(|bed| async move {
        let network = Network::open();
        fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap();
        let (sender, mut states) = channel(None);
        tokio::spawn(node::watch(bed.netns_dir(), sender, row()));
        let first = until(&mut states, "a first state", |_| true).await;
        assert!(first.addresses.is_empty(), "{first:?}");

        let uplink = network.veth("uplink").await;
        network.add_address(uplink, "10.240.0.11", 24).await;
        network.add_address(uplink, "fd00:10:240::11", 64).await;
        network.add_address(uplink, "fe80::11", 64).await;
        network.add_address(index("lo"), "203.0.113.9", 32).await;
        let expected: Vec<IpAddr> = ["10.240.0.11", "fd00:10:240::11"]
            .map(|addr| addr.parse().unwrap())
            .into();
        until(&mut states, "two addresses", |state| {
            state.addresses == expected
        })
        .await;

        network.remove(uplink).await;
        until(&mut states, "no address", |state| {
            state.addresses.is_empty()
        })
        .await;
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn an_address_that_may_be_anothers_is_not_the_nodes_yet() {
    bed::run_async(|bed| async move {
        let network = Network::open();
        let (sender, mut states) = channel(None);
        tokio::spawn(node::watch(bed.netns_dir(), sender, row()));
        let uplink = network.veth("uplink").await;
        network.add_address(uplink, "10.240.0.11", 24).await;
        network.add_address(uplink, "fd00:10:240::11", 64).await;
        let v6: IpAddr = "fd00:10:240::11".parse().unwrap();
        let state = until(
            &mut states,
            "the address that needs no detection",
            |state| !state.addresses.is_empty(),
        )
        .await;
        // While the link is down nobody can be asked.
        assert!(!state.local_addresses.contains(&v6), "{state:?}");
        network.up("uplink").await;
        network.up("uplinkp").await;
        until(&mut states, "the other address", |state| {
            state.local_addresses.contains(&v6) && state.addresses.contains(&v6)
        })
        .await;
    });
}

fn addrs(state: &NodeState, interface: u32) -> BTreeSet<IpAddr> {
    state
        .pod_interfaces
        .get(&interface)
        .map(|interface| interface.addrs.clone())
        .unwrap_or_default()
}

fn set(addrs: &[&str]) -> BTreeSet<IpAddr> {
    addrs.iter().map(|addr| addr.parse().unwrap()).collect()
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn the_addresses_inside_a_pod_are_followed_and_each_end_has_its_own() {
    bed::run_async(|bed| async move {
        let network = Network::open();
        let pod = bed.make_pod(&network, "pod", "vpod").await;
        let other = bed.make_pod(&network, "other", "vother").await;
        // A pod with two interfaces.
        let second = network.veth("vsecond").await;
        let file = File::open(bed.netns_dir().join("pod")).unwrap();
        network.move_peer("vsecond", &file).await;
        bed.inside("pod", async |inside| {
            inside.up("lo").await;
            inside.add_address(index("vpodp"), "10.200.0.7", 32).await;
        });

        let (sender, mut states) = channel(None);
        tokio::spawn(node::watch(bed.netns_dir(), sender, row()));
        let first = until(&mut states, "a first state", |_| true).await;
        assert_eq!(addrs(&first, pod), set(&["10.200.0.7"]));
        assert_eq!(addrs(&first, second), set(&[]));
        assert_eq!(addrs(&first, other), set(&[]));
        let numbers: BTreeSet<i32> = [pod, second, other]
            .map(|index| first.pod_interfaces[&index].netns)
            .into();
        assert_eq!(numbers.len(), 2, "{first:?}");
        assert!(numbers.iter().all(|number| *number >= 0), "{first:?}");

        // From now on nothing happens on the node.
        bed.inside("pod", async |inside| {
            inside
                .add_address(index("vpodp"), "fd00:10:200::7", 128)
                .await;
            inside.add_address(index("vsecondp"), "10.9.0.1", 32).await;
            inside.add_address(index("lo"), "203.0.113.7", 32).await;
        });
        let state = until(&mut states, "an address of each end", |state| {
            addrs(state, pod).len() == 2 && !addrs(state, second).is_empty()
        })
        .await;
        assert_eq!(addrs(&state, pod), set(&["10.200.0.7", "fd00:10:200::7"]));
        assert_eq!(addrs(&state, second), set(&["10.9.0.1"]));
        assert_eq!(addrs(&state, other), set(&[]));

        bed.inside("pod", async |inside| {
            inside
                .remove_address(index("vpodp"), "10.200.0.7", 32)
                .await;
        });
        until(&mut states, "the address is gone", |state| {
            addrs(state, pod) == set(&["fd00:10:200::7"])
        })
        .await;
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn a_namespace_of_a_former_ones_name_and_number_has_its_own_addresses() {
    bed::run_async(|bed| async move {
        let network = Network::open();
        let (sender, mut states) = channel(None);
        tokio::spawn(node::watch(bed.netns_dir(), sender, row()));
        for round in 0..3_u8 {
            let pod = bed.make_pod(&network, "pod", "vpod").await;
            let addr = format!("10.200.0.{}", 10 + round);
            bed.inside("pod", async |inside| {
                inside.add_address(index("vpodp"), &addr, 32).await;
            });
            let state = until(&mut states, "the pod and its address", |state| {
                addrs(state, pod) == set(&[&addr])
            })
            .await;
            assert_eq!(namespaces(&state), [(pod, "vpod", "pod")]);
            network.remove(pod).await;
            bed.remove_namespace("pod");
        }
    });
}

/// What a new pair is given to be moved (`MOMENT` in `sources/node/settling.rs`).
const GIVEN: Duration = Duration::from_millis(100);
/// Of so many pairs one is made within that.
const TRIES: u32 = 50;

/// The names of interfaces to the network from now on, until there is a pod.
async fn networks_until_a_pod(mut states: Receiver<Option<NodeState>>) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    while states.changed().await.is_ok() {
        let state = states.borrow_and_update().clone().unwrap();
        seen.extend(state.network_interfaces.into_values().map(|it| it.name));
        if !state.pod_interfaces.is_empty() {
            break;
        }
    }
    seen
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn a_pod_is_no_network_while_its_interface_is_being_made() {
    bed::run_async(|bed| async move {
        let network = Network::open();
        let (sender, mut states) = channel(None);
        tokio::spawn(node::watch(bed.netns_dir(), sender, row()));
        until(&mut states, "a first state", |_| true).await;
        let mut was_quick = false;
        // A machine that has much else to do may need longer than a pair is given.
        for _ in 0..TRIES {
            bed.make_namespace("pod");
            let seen = tokio::spawn(networks_until_a_pod(states.clone()));
            // Made on the node, and its end moved a while later, as many plugins do.
            let start = Instant::now();
            let pod = network.veth("vpod").await;
            let file = File::open(bed.netns_dir().join("pod")).unwrap();
            network.move_peer("vpod", &file).await;
            was_quick = start.elapsed() < GIVEN / 2;
            until(&mut states, "the pod", |state| {
                namespaces(state) == [(pod, "vpod", "pod")]
            })
            .await;
            let seen = seen.await.unwrap();
            if was_quick {
                assert_eq!(seen, BTreeSet::new());
                break;
            }
            network.remove(pod).await;
            bed.remove_namespace("pod");
            until(&mut states, "no pod", |state| {
                state.pod_interfaces.is_empty() && state.network_interfaces.is_empty()
            })
            .await;
        }
        assert!(was_quick, "no pair was ever made in time");

        // One that stays is one.
        network.veth("vstays").await;
        until(&mut states, "both ends", |state| {
            state.network_interfaces.len() == 2
        })
        .await;
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn masquerading_follows_this_namespaces_port_range() {
    bed::run(|_| {
        let file = "/proc/sys/net/ipv4/ip_local_port_range";
        let node_ports = 30_000..=32_767;
        fs::write(file, "9000 60000").unwrap();
        let ports = snat_ports(&node_ports).unwrap();
        assert_eq!(ports.ranges, [1024..=8999, 60_001..=65_535]);
        assert_eq!(ports.shared, None);
        fs::write(file, "1024 65535").unwrap();
        let text = snat_ports(&node_ports).unwrap().shared.unwrap().to_string();
        assert!(text.contains("1024-65535"), "{text}");
        assert!(text.contains("sysctl"), "{text}");
    });
}
