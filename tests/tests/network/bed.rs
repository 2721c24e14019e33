//! The bed itself, without an agent: it is a network, and it leaves nothing behind.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use weir_tests::bed::wait::wait_for;
use weir_tests::bed::{Bed, Family, Pod, Topology, Wiring, plan};
use weir_tests::testpod::client::TestPod;
use weir_tests::testpod::protocol::{Failure, Transport};

const PORT: u16 = 8080;

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn everyone_reaches_everyone_when_routed() -> Result<()> {
    everyone_reaches_everyone(Wiring::Routed)
}

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn everyone_reaches_everyone_when_bridged() -> Result<()> {
    everyone_reaches_everyone(Wiring::Bridged)
}

fn everyone_reaches_everyone(wiring: Wiring) -> Result<()> {
    let bed = Bed::start(Topology::two_nodes(wiring))?;
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
                    // Where the node has an address among its pods it speaks to them by that one.
                    let node_among_pods = wiring == Wiring::Bridged
                        && client.server_name() == node.name()
                        && (addr == pods[0].addr(family) || addr == pods[1].addr(family));
                    let source = match family {
                        Family::V4 if node_among_pods => node.plan().gateway_v4().into(),
                        Family::V6 if node_among_pods => node.plan().gateway_v6().into(),
                        Family::V4 | Family::V6 => source,
                    };
                    assert_eq!(
                        answer.client.ip(),
                        source,
                        "{} to {to}",
                        client.server_name()
                    );
                    assert_eq!(answer.from, to);
                }
            }
        }
    }
    Ok(())
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
        Duration::from_secs(10),
        || Ok(client.transfer_progress(stream.handle)? > 0),
    )?;
    let stream = client.finish_transfer(stream.handle)?;
    assert!(stream.is_complete(), "{stream:?}");
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
    let namespaces = [
        pod.namespace().inode()?,
        bed.node(0).namespace().inode()?,
        bed.node(1).namespace().inode()?,
    ];
    assert!(lives(pod.pid()), "the pod's process runs");
    let pids = [pod.pid(), bed.node(0).process().pid(), bed.outside().pid()];
    ensure!(run_dir.exists() && group.exists());
    ensure!(
        namespaces_of_processes()?.is_superset(&BTreeSet::from(namespaces)),
        "the bed's processes are in its namespaces"
    );
    drop(bed);
    assert_eq!(remains(&run_dir, &group), Vec::<PathBuf>::new());
    assert!(pod.ask_nobody(), "the pod's process is gone");
    drop(pod);
    for pid in pids {
        assert!(!lives(pid), "process {pid} lives on");
    }
    let left = namespaces_of_processes()?;
    assert!(
        namespaces.iter().all(|inode| !left.contains(inode)),
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
            Duration::from_secs(15),
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
    held.end(Signal::SIGKILL)?;
    wait_for(
        || format!("the guardian {guardian} to end"),
        Duration::from_secs(10),
        || Ok(!runs(guardian)),
    )?;
    ensure!(
        !remains(&run_dir, &group).is_empty(),
        "nobody was left to remove it"
    );
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
