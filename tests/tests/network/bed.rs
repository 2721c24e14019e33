//! The bed itself, without an agent: it is a network, and it leaves nothing behind.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use weir_tests::bed::namespace::Namespace;
use weir_tests::bed::wait::wait_for;
use weir_tests::bed::{Bed, Between, Family, Firewall, Narrow, Pod, Topology, Wiring, plan};
use weir_tests::testpod::client::TestPod;
use weir_tests::testpod::protocol::{Failure, Transport};

const PORT: u16 = 8080;
/// A datagram that may be lost is sent again after this.
const SHORT: Duration = Duration::from_millis(300);
/// What has to come comes by then, however busy the machine is.
const LIMIT: Duration = Duration::from_secs(60);

/// Makes tests that everyone reaches everyone in beds of different kinds.
macro_rules! everyone_reaches_everyone {
    ($($name:ident: $topology:expr),+ $(,)?) => {
        mod everyone_reaches_everyone {
            use weir_tests::bed::{Between, Firewall, Narrow, ReversePath, Topology, Wiring};
            $(
                #[test]
                #[ignore = "needs root: cargo xtask test network"]
                fn $name() -> anyhow::Result<()> {
                    super::everyone_reaches_everyone($topology)
                }
            )+
        }
    };
}

everyone_reaches_everyone!(
    when_routed: Topology::two_nodes(Wiring::Routed),
    when_bridged: Topology::two_nodes(Wiring::Bridged),
    over_an_overlay: Topology {
        between: Between::Overlay,
        // Else what a pod sends to another node is not what the other would send back this way.
        firewall: Firewall::Masquerades,
        ..Topology::two_nodes(Wiring::Bridged)
    },
    over_a_tunnel: Topology {
        between: Between::Tunnel,
        reverse_path: ReversePath::Loose,
        ..Topology::two_nodes(Wiring::Routed)
    },
    through_a_narrow_router: Topology {
        between: Between::Router,
        narrow: Narrow::Everywhere(1_400),
        ..Topology::two_nodes(Wiring::Routed)
    },
    behind_a_firewall: Topology {
        firewall: Firewall::DropsInvalid,
        ..Topology::two_nodes(Wiring::Routed)
    },
    beside_a_plugin_that_masquerades: Topology {
        firewall: Firewall::Masquerades,
        ..Topology::two_nodes(Wiring::Bridged)
    },
);

fn everyone_reaches_everyone(topology: Topology) -> Result<()> {
    let bed = Bed::start(topology)?;
    let pods = [
        bed.pod(0, "a", 2)?,
        bed.pod(0, "b", 3)?,
        bed.pod(1, "c", 1)?,
    ];
    let node = bed.node(0);
    for family in Family::ALL {
        let outside = match family {
            Family::V4 => plan::OUTSIDE_V4.into(),
            Family::V6 => plan::OUTSIDE_V6.into(),
        };
        let mut everyone = vec![
            (bed.outside(), outside),
            (node.process(), node.addresses().of(family)),
        ];
        everyone.extend(pods.iter().map(|pod| (&**pod, pod.addr(family))));
        for &(server, addr) in &everyone {
            for transport in Transport::ALL {
                server.serve(transport, (addr, PORT).into())?;
            }
        }
        for &(client, source) in &everyone {
            for &(server, addr) in &everyone {
                let to = SocketAddr::from((addr, PORT));
                let answers = [
                    client.tcp_ask(to),
                    client.udp_ask(to),
                    client.udp_ask_connected(to),
                ];
                for answer in answers {
                    let answer =
                        answer.with_context(|| format!("{} to {to}", client.server_name()))?;
                    assert_eq!(answer.server, server.server_name());
                    let seen = answer.client.ip();
                    let expected = seen_as(&bed, &pods, source, addr);
                    ensure!(
                        expected.contains(&seen),
                        "{} to {to} was seen as {seen}, not as one of {expected:?}",
                        client.server_name()
                    );
                    assert_eq!(answer.from, to);
                }
            }
        }
    }
    Ok(())
}

/// As whom a server may see a client.
fn seen_as(bed: &Bed, pods: &[Pod], client: IpAddr, server: IpAddr) -> BTreeSet<IpAddr> {
    let is_node = |addr| bed.addresses_of(0).contains(&addr);
    // A node speaks to pods by the address that it has among them.
    if is_node(client) {
        return bed.addresses_of(0);
    }
    let client_pod = pods.iter().find(|pod| pod.has(client));
    let server_is_pod = pods.iter().any(|pod| pod.has(server));
    match (bed.topology().firewall, client_pod) {
        (Firewall::Masquerades, Some(pod)) if !server_is_pod => {
            let node = usize::from(pod.node().name() != bed.node(0).name());
            // What stays on the node leaves by no link that is masqueraded at.
            if node == 0 && is_node(server) {
                return BTreeSet::from([client]);
            }
            bed.addresses_of(node)
        }
        _ => BTreeSet::from([client]),
    }
}

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn a_transfer_is_compared_at_both_ends() -> Result<()> {
    let bed = Bed::start(Topology::two_nodes(Wiring::Routed))?;
    let (client, server) = (bed.pod(0, "client", 2)?, bed.pod(1, "server", 1)?);
    let to = SocketAddr::from((server.addr(Family::V4), PORT));
    server.serve(Transport::Tcp, to)?;
    let bulk = client.bulk(to, 10_000_000)?;
    assert!(bulk.is_complete(), "{bulk:?}");
    let stream = client.start_transfer(to)?;
    wait_for(
        || "the stream to advance".to_owned(),
        LIMIT,
        || Ok(client.transfer_progress(stream.handle)? > 0),
    )?;
    let stream = client.finish_transfer(stream.handle)?;
    assert!(stream.is_complete(), "{stream:?}");
    Ok(())
}

/// Longer than the narrow router takes, and than any link does.
const LENGTHS: [usize; 2] = [1_440, 4_000];

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn a_narrow_router_says_how_long_a_packet_may_be() -> Result<()> {
    let bed = Bed::start(Topology {
        between: Between::Router,
        narrow: Narrow::Everywhere(1_400),
        ..Topology::two_nodes(Wiring::Routed)
    })?;
    let (near, far) = (bed.pod(0, "near", 2)?, bed.pod(1, "far", 1)?);
    for family in Family::ALL {
        for client in [&*near, bed.outside()] {
            let to = SocketAddr::from((far.addr(family), PORT));
            for transport in Transport::ALL {
                // Already served for the first client.
                let _ = far.serve(transport, to);
            }
            let bulk = client.bulk(to, 1_000_000)?;
            assert!(
                bulk.is_complete(),
                "{} to {to}: {bulk:?}",
                client.server_name()
            );
            for length in LENGTHS {
                let socket = client.connect_udp(to)?.handle;
                // The first may be lost: by it the way is learnt, and back by the answer.
                wait_for(
                    || format!("an answer to {length} bytes from {to}"),
                    LIMIT,
                    || Ok(client.ask_with(socket, None, length, SHORT).is_ok()),
                )?;
            }
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn a_failure_is_told_by_its_name() -> Result<()> {
    let bed = Bed::start(Topology::one_node(Wiring::Routed))?;
    let (client, other) = (bed.pod(0, "client", 2)?, bed.pod(0, "other", 3)?);
    for family in Family::ALL {
        let to = SocketAddr::from((other.addr(family), PORT));
        assert_eq!(client.tcp_ask(to), Err(Failure::refused()));
        assert_eq!(client.udp_ask_connected(to), Err(Failure::refused()));
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn two_beds_at_once_do_not_meet() -> Result<()> {
    let beds = [
        Bed::start(Topology::one_node(Wiring::Bridged))?,
        Bed::start(Topology::one_node(Wiring::Bridged))?,
    ];
    let pods: Vec<(Pod, Pod)> = beds
        .iter()
        .enumerate()
        .map(|(number, bed)| {
            let server = bed.pod(0, &format!("server-{number}"), 2)?;
            server.serve(Transport::Tcp, (server.addr(Family::V4), PORT).into())?;
            Ok((bed.pod(0, "client", 3)?, server))
        })
        .collect::<Result<_>>()?;
    for (client, server) in &pods {
        let answer = client.tcp_ask((server.addr(Family::V4), PORT).into())?;
        assert_eq!(answer.server, server.name());
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn a_dropped_bed_leaves_nothing() -> Result<()> {
    let bed = Bed::start(Topology::two_nodes(Wiring::Routed))?;
    let pod = bed.pod(0, "pod", 2)?;
    let (run_dir, group) = (bed.run_dir().to_owned(), bed.group().to_owned());
    // Kept to the end, so that the kernel gives their numbers to no other test's meanwhile.
    let kept = [
        pod.namespace().clone(),
        bed.node(0).namespace().clone(),
        bed.node(1).namespace().clone(),
    ];
    let namespaces = kept
        .iter()
        .map(Namespace::inode)
        .collect::<Result<BTreeSet<u64>>>()?;
    assert!(lives(pod.pid()), "the pod's process runs");
    let pids = [pod.pid(), bed.node(0).process().pid(), bed.outside().pid()];
    ensure!(run_dir.exists() && group.exists());
    ensure!(
        namespaces_of_processes()?.is_superset(&namespaces),
        "the bed's processes are in its namespaces"
    );
    drop(bed);
    assert_eq!(remains(&run_dir, &group), Vec::<PathBuf>::new());
    assert!(pod.ask_nobody(), "the pod's process is gone");
    drop(pod);
    for pid in pids {
        assert!(!lives(pid), "process {pid} lives on");
    }
    assert!(
        namespaces_of_processes()?.is_disjoint(&namespaces),
        "a namespace is in use"
    );
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let name = run_dir.to_string_lossy().into_owned();
    assert!(!mounts.contains(&name), "{mounts}");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn a_bed_whose_owner_is_killed_leaves_nothing() -> Result<()> {
    for signal in [Signal::SIGKILL, Signal::SIGINT, Signal::SIGTERM] {
        let held = Held::start()?;
        let (run_dir, group) = (held.run_dir.clone(), held.group.clone());
        ensure!(run_dir.exists() && group.exists());
        held.end(signal)?;
        wait_for(
            || format!("{run_dir:?} and {group:?} to go after {signal}"),
            LIMIT,
            || Ok(remains(&run_dir, &group).is_empty()),
        )?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn a_bed_whose_guardian_is_killed_too_is_removed_by_the_next() -> Result<()> {
    let held = Held::start()?;
    let (run_dir, group) = (held.run_dir.clone(), held.group.clone());
    let guardian = held.guardian;
    send(guardian, Signal::SIGKILL)?;
    wait_for(
        || format!("the guardian {guardian} to end"),
        LIMIT,
        || Ok(!runs(guardian)),
    )?;
    ensure!(
        !remains(&run_dir, &group).is_empty(),
        "the owner lives, and so does its bed"
    );
    // From here on whichever bed begins next removes it, be it another test's.
    held.end(Signal::SIGKILL)?;
    let _next = Bed::start(Topology::one_node(Wiring::Routed))?;
    assert_eq!(remains(&run_dir, &group), Vec::<PathBuf>::new());
    Ok(())
}

/// A bed in a process of its own.
struct Held {
    owner: Child,
    run_dir: PathBuf,
    group: PathBuf,
    guardian: u32,
}

impl Held {
    fn start() -> Result<Self> {
        let mut owner = Command::new(env!("CARGO_BIN_EXE_weir-testpod"))
            .arg("hold")
            .stdout(Stdio::piped())
            .spawn()?;
        let output = owner.stdout.take().context("the owner has an output")?;
        let mut lines = BufReader::new(output).lines();
        let mut line = || -> Result<String> { Ok(lines.next().context("the owner says more")??) };
        Ok(Self {
            run_dir: line()?.into(),
            group: line()?.into(),
            guardian: line()?.parse()?,
            owner,
        })
    }

    fn end(mut self, signal: Signal) -> Result<()> {
        send(self.owner.id(), signal)?;
        self.owner.wait()?;
        Ok(())
    }
}

fn send(pid: u32, signal: Signal) -> Result<()> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid)?);
    nix::sys::signal::kill(pid, signal).with_context(|| format!("send {signal} to {pid}"))
}

trait Gone {
    /// Does nobody answer any more?
    fn ask_nobody(&self) -> bool;
}

impl Gone for TestPod {
    fn ask_nobody(&self) -> bool {
        matches!(
            self.tcp_ask(([127, 0, 0, 1], PORT).into()),
            Err(Failure::Gone(_))
        )
    }
}

fn remains(run_dir: &Path, group: &Path) -> Vec<PathBuf> {
    [run_dir, group]
        .into_iter()
        .filter(|path| path.exists())
        .map(Path::to_owned)
        .collect()
}

/// As [`lives`], but not as a process that has ended and whose parent has not noticed.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // After the name, which is in brackets, comes the state.
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    state.is_some_and(|state| state != 'Z')
}

fn lives(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// The network namespaces that some process is in.
fn namespaces_of_processes() -> Result<BTreeSet<u64>> {
    use std::os::unix::fs::MetadataExt;
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc")? {
        // A process may end while we look.
        if let Ok(metadata) = fs::metadata(entry?.path().join("ns/net")) {
            found.insert(metadata.ino());
        }
    }
    Ok(found)
}
