//! A node on which kube-proxy worked: its rules go, the connections that they translated go on,
//! and new ones are Weir's.

mod fake;
mod iptables;
mod legacy;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::bed::manifests::Manifests;
use weir_tests::bed::wait::wait_for;
use weir_tests::bed::{Agent, AgentOptions, Bed, Family, Node, Pod, Topology, Wiring};
use weir_tests::reference::{self, nftables};
use weir_tests::testpod::client::TestPod;
use weir_tests::testpod::protocol::Handle;

use crate::oracle::cluster;
use crate::world::weir;

/// The program that loads rules, of the package `nftables`.
const NFT: &str = "/usr/sbin/nft";
const LIMIT: Duration = Duration::from_secs(60);
/// Where kube-proxy's IPVS mode has the services' addresses.
const IPVS_INTERFACE: &str = "kube-ipvs0";
/// The service `anywhere`: the last part of its addresses, and its node port.
const NUMBER: u8 = 40;
const NODE_PORT: u16 = 30_040;
/// Of so many streams not all would find their backends by chance.
const STREAMS: usize = 6;

/// Two nodes, the first of them kube-proxy's. Fields are dropped from first to last.
struct Ground {
    client: Pod,
    _backends: [Pod; 2],
    manifests: Manifests,
    bed: Bed,
}

/// A stream from a client through the service.
struct Stream<'a> {
    client: &'a TestPod,
    handle: Handle,
    to: SocketAddr,
}

impl Ground {
    fn build() -> Result<Self> {
        let bed = Bed::start(Topology::two_nodes(Wiring::Routed))?;
        let client = bed.pod_at(0, "client", cluster::CLIENT)?;
        let backends = [
            bed.pod_at(0, "near", cluster::NEAR)?,
            bed.pod_at(1, "far", cluster::FAR)?,
        ];
        for pod in &backends {
            pod.serve_at(cluster::TARGET_PORT)?;
        }
        let manifests = Manifests::create(bed.run_dir().join("manifests"))?;
        let objects = reference::manifests::objects(&cluster::world());
        manifests.put("cluster.yaml", &objects)?;
        Ok(Self {
            client,
            _backends: backends,
            manifests,
            bed,
        })
    }

    fn nft(&self, arguments: &[&str]) -> Result<String> {
        self.bed.node(0).system().run(Path::new(NFT), arguments)
    }

    fn load(&self, rules: &str) -> Result<()> {
        let file = self.bed.run_dir().join("rules.nft");
        std::fs::write(&file, rules).with_context(|| format!("write {}", file.display()))?;
        self.nft(&["-f", file.to_str().context("it is UTF-8")?])?;
        Ok(())
    }

    /// The tables, as `ip nat`.
    fn tables(&self) -> Result<BTreeSet<String>> {
        let text = self.nft(&["list", "tables"])?;
        let names = text.lines().filter_map(|line| line.strip_prefix("table "));
        Ok(names.map(str::to_owned).collect())
    }

    fn options(&self) -> Result<AgentOptions> {
        let mut options = AgentOptions::new(&weir()?, self.manifests.directory());
        options.patience = 2 * LIMIT;
        Ok(options)
    }

    /// Where clients of this node and from outside reach the service.
    fn ways(&self, family: Family) -> [(&TestPod, SocketAddr); 3] {
        let ip = cluster::of(family, [10, 32, 0, NUMBER].into());
        let at = SocketAddr::new(ip, cluster::SERVICE_PORT);
        let node = self.bed.node(0);
        let node_port = SocketAddr::new(node.addresses().of(family), NODE_PORT);
        [
            (&*self.client, at),
            (node.process(), at),
            (self.bed.outside(), node_port),
        ]
    }

    /// What `weir doctor` says of kube-proxy on a node that is fit.
    fn diagnosis(&self) -> Result<String> {
        let node = self.bed.node(0);
        let output = doctor(node, &node.bpffs())?;
        ensure!(
            output.status.success(),
            "weir doctor ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stdout)
        );
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        let findings = answer["findings"].as_array().context("it has findings")?;
        let finding = findings
            .iter()
            .find(|finding| finding["name"] == "kube-proxy")
            .context("it looks for kube-proxy")?;
        Ok(finding["found"].as_str().unwrap_or_default().to_owned())
    }

    /// Streams from everyone, in both families.
    fn streams(&self) -> Result<Vec<Stream<'_>>> {
        let mut streams = Vec::new();
        for family in Family::ALL {
            for (client, to) in self.ways(family) {
                for _ in 0..STREAMS / 2 {
                    let stream = client
                        .start_transfer(to)
                        .with_context(|| format!("{} to {to}", client.server_name()))?;
                    let handle = stream.handle;
                    streams.push(Stream { client, handle, to });
                }
            }
        }
        Ok(streams)
    }

    /// Everyone reaches both endpoints by new connections.
    fn expect_served(&self) -> Result<()> {
        for family in Family::ALL {
            for (client, to) in self.ways(family) {
                crate::world::World::expect_answers_from(&["near", "far"], || client.tcp_ask(to))
                    .with_context(|| format!("{} to {to}", client.server_name()))?;
            }
        }
        Ok(())
    }
}

/// Runs `weir doctor` on a node, with this as its BPF file system.
fn doctor(node: &Node, bpffs: &Path) -> Result<Output> {
    let (group, run_dir) = (node.group().to_owned(), node.agent_dir());
    let (netns, records) = (node.netns_dir(), node.cni_results_dir());
    let arguments = [
        "doctor".as_ref(),
        "--output=json".as_ref(),
        "--bpffs".as_ref(),
        bpffs.as_os_str(),
        "--run-dir".as_ref(),
        run_dir.as_os_str(),
        "--cgroup-root".as_ref(),
        group.as_os_str(),
        "--netns-dir".as_ref(),
        netns.as_os_str(),
        "--cni-results-dir".as_ref(),
        records.as_os_str(),
    ];
    node.system().output(&weir()?, &arguments)
}

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn the_doctor_names_what_keeps_weir_from_working() -> Result<()> {
    let bed = Bed::start(Topology::one_node(Wiring::Routed))?;
    let node = bed.node(0);
    let fit = doctor(node, &node.bpffs())?;
    let answer: Value = serde_json::from_slice(&fit.stdout)?;
    ensure!(fit.status.code() == Some(0), "{} {answer}", fit.status);
    let state_of = |answer: &Value, name: &str| {
        let findings = answer["findings"].as_array().into_iter().flatten();
        findings
            .filter(|finding| finding["name"] == name)
            .map(|finding| (finding["state"].clone(), finding["remedy"].is_string()))
            .next()
            .with_context(|| format!("no finding about {name}: {answer}"))
    };
    assert_eq!(state_of(&answer, "BPF file system")?, ("ok".into(), false));
    // The node's tree is a part of the machine's.
    assert_eq!(state_of(&answer, "cgroup v2")?, ("warning".into(), true));

    let unfit = doctor(node, &node.agent_dir())?;
    let answer: Value = serde_json::from_slice(&unfit.stdout)?;
    ensure!(unfit.status.code() == Some(1), "{} {answer}", unfit.status);
    assert_eq!(answer["state"], "error");
    assert_eq!(
        state_of(&answer, "BPF file system")?,
        ("error".into(), true)
    );
    Ok(())
}

fn expect_progress(streams: &[Stream<'_>], when: &str) -> Result<()> {
    for Stream { client, handle, to } in streams {
        let before = client.transfer_progress(*handle)?;
        wait_for(
            || {
                format!(
                    "the stream of {} to {to} to go on {when}",
                    client.server_name()
                )
            },
            LIMIT,
            || Ok(client.transfer_progress(*handle)? > before + 100_000),
        )?;
    }
    Ok(())
}

/// Both ends have seen the same bytes.
fn finish(streams: Vec<Stream<'_>>) -> Result<()> {
    for Stream { client, handle, to } in streams {
        let transferred = client.finish_transfer(handle)?;
        ensure!(
            transferred.is_complete(),
            "{} to {to}: {transferred:?}",
            client.server_name()
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn kube_proxys_tables_go_when_it_ends_and_its_connections_live_on() -> Result<()> {
    let ground = Ground::build()?;
    let node = ground.bed.node(0).clone();
    ground.load(&nftables::rules(&cluster::world(), &cluster::pods()))?;
    ground.load("table inet firewall { chain input { type filter hook input priority 0; }; }")?;
    let rules = ground.tables()?;
    let kube_proxy = fake::FakeKubeProxy::start(&node)?;
    let streams = ground.streams()?;
    expect_progress(&streams, "by the rules")?;

    let mut agent = Agent::start(&node, &ground.options()?)?;
    let result = (|| {
        agent.wait_status(
            "kube-proxy to be seen, and its ports to be taken",
            |status| {
                status["kubeProxy"]["running"].is_string()
                    && status["listeners"].as_array().is_some_and(|all| {
                        all.len() >= 2 && all.iter().any(|one| one["error"].is_string())
                    })
            },
        )?;
        assert_eq!(
            ground.tables()?,
            rules,
            "while kube-proxy runs its rules stay"
        );
        expect_progress(&streams, "beside kube-proxy")?;
        ground.expect_served()?;

        kube_proxy.end()?;
        wait_until_gone(&mut agent)?;
        let left = BTreeSet::from(["inet firewall", "ip weir-takeover", "ip6 weir-takeover"]);
        assert_eq!(
            ground.tables()?,
            left.into_iter().map(str::to_owned).collect()
        );
        expect_progress(&streams, "without the rules")?;
        ground.expect_served()?;
        let metrics = "127.0.0.1:10249".parse()?;
        wait_for(
            || "the ports to be taken over".to_owned(),
            LIMIT,
            || {
                let page = node.process().http_get(metrics, "/proxyMode");
                Ok(page.is_ok_and(|page| page.body == "ebpf"))
            },
        )?;
        // Another agent knows whose these connections are.
        agent.kill()?;
        agent.restart()?;
        expect_progress(&streams, "under another agent")?;
        finish(streams)?;
        wait_for(
            || "translation by the kernel to end".to_owned(),
            // It is looked for once a minute at worst.
            3 * LIMIT,
            || Ok(ground.tables()?.iter().eq(["inet firewall"])),
        )?;
        agent.wait_status("nothing to be left to the kernel", |status| {
            status["kubeProxy"]["leavesConnections"] == false
        })?;
        ground.expect_served()
    })();
    result.with_context(|| agent.log_tail(20))
}

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn kube_proxys_chains_go_from_among_those_of_others() -> Result<()> {
    let ground = Ground::build()?;
    let node = ground.bed.node(0).clone();
    for family in Family::ALL {
        ground.load(&iptables::rules(family, Some(&service(family))))?;
    }
    let streams = ground.streams()?;
    expect_progress(&streams, "by the rules")?;
    let before = ground.diagnosis()?;
    ensure!(
        before.contains("iptables chains in table ip nat"),
        "{before}"
    );
    let mut agent = Agent::start(&node, &ground.options()?)?;
    let result = (|| {
        wait_until_gone(&mut agent)?;
        let after = ground.diagnosis()?;
        ensure!(!after.contains("iptables"), "{after}");
        for word in ["ip", "ip6"] {
            for (table, chains) in iptables::OTHERS {
                let text = ground.nft(&["list", "table", word, table])?;
                assert_eq!(
                    names(&text),
                    BTreeSet::from_iter(chains.iter().copied()),
                    "{text}"
                );
                // Their rules are untouched, in their order.
                let expected: Vec<&str> = match table {
                    "nat" => vec!["CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-MASQ"],
                    "filter" => vec!["CNI-FORWARD", "KUBE-FIREWALL", "KUBE-FIREWALL"],
                    _ => Vec::new(),
                };
                let mut jumps: Vec<&str> = text
                    .lines()
                    .filter_map(|line| Some(line.split_once("jump ")?.1))
                    .collect();
                jumps.sort_unstable();
                assert_eq!(jumps, expected, "{text}");
            }
        }
        expect_progress(&streams, "without the rules")?;
        ground.expect_served()?;
        finish(streams)?;
        agent.stop()?;
        let said = node.cleanup(&weir()?)?;
        ensure!(!said.contains("nothing"), "{said}");
        let tables = ground.tables()?;
        ensure!(
            !tables.iter().any(|table| table.contains("weir")),
            "{tables:?}"
        );
        Ok(())
    })();
    result.with_context(|| agent.log_tail(20))
}

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn kube_proxys_chains_go_from_iptables_legacy_and_what_others_have_there_stays() -> Result<()> {
    let ground = Ground::build()?;
    let node = ground.bed.node(0).clone();
    let programs = legacy::Programs::find()?;
    programs.make_set(&node, Family::V4, legacy::OTHER_SET)?;
    for family in Family::ALL {
        let set = legacy::set(family == Family::V6);
        programs.make_set(&node, family, set)?;
        programs.load(&node, family, &legacy::rules(&service(family)))?;
    }
    // Of its IPVS mode, with the addresses of services; there of another type of link.
    node.namespace().run(async |netlink| {
        netlink.add_bridge(IPVS_INTERFACE).await?;
        let address = IpAddr::from([10, 32, 0, 99]);
        netlink.add_address(IPVS_INTERFACE, address, 32).await
    })?;
    let streams = ground.streams()?;
    expect_progress(&streams, "by the rules")?;
    let before = ground.diagnosis()?;
    for part in ["ip6tables-legacy -t nat", "2 ipsets", IPVS_INTERFACE] {
        ensure!(before.contains(part), "{part} is not in: {before}");
    }
    let mut agent = Agent::start(&node, &ground.options()?)?;
    let result = (|| {
        wait_until_gone(&mut agent)?;
        let after = ground.diagnosis()?;
        for part in ["legacy", "ipsets", IPVS_INTERFACE] {
            ensure!(!after.contains(part), "{after}");
        }
        let sets = programs.sets(&node)?;
        assert_eq!(sets, BTreeSet::from([legacy::OTHER_SET.to_owned()]));
        for family in Family::ALL {
            for (table, others) in legacy::OTHERS {
                let saved = programs.save(&node, family, table)?;
                assert_eq!(legacy::told(&saved), legacy::told(others), "{saved}");
            }
        }
        expect_progress(&streams, "without the rules")?;
        ground.expect_served()?;
        // Another agent knows whose these connections are.
        agent.kill()?;
        agent.restart()?;
        expect_progress(&streams, "under another agent")?;
        finish(streams)
    })();
    result.with_context(|| agent.log_tail(20))
}

fn service(family: Family) -> iptables::Service {
    iptables::Service {
        ip: cluster::of(family, [10, 32, 0, NUMBER].into()),
        port: cluster::SERVICE_PORT,
        node_port: NODE_PORT,
        endpoints: [cluster::NEAR, cluster::FAR].map(|v4| -> IpAddr { cluster::of(family, v4) }),
        target_port: cluster::TARGET_PORT,
        pods: match family {
            Family::V4 => "10.200.0.0/17",
            Family::V6 => "fd00:10:200::/64",
        },
    }
}

/// The names of chains in what `nft list table` says.
fn names(text: &str) -> BTreeSet<&str> {
    let lines = text.lines().map(str::trim);
    lines
        .filter_map(|line| line.strip_prefix("chain ")?.strip_suffix(" {"))
        .collect()
}

fn wait_until_gone(agent: &mut Agent) -> Result<Value> {
    agent.wait_status("what kube-proxy left to be removed", |status| {
        let kube_proxy = &status["kubeProxy"];
        kube_proxy["left"] == Value::Array(Vec::new())
            && kube_proxy["removed"]
                .as_array()
                .is_some_and(|removed| !removed.is_empty())
            && kube_proxy["error"].is_null()
    })
}
