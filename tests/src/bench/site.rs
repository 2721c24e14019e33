//! A node that is measured: three pods, a host beside it, and somebody who translates, or nobody.
//!
//! Every site is a bed of its own, in the same shape: routed pods, each with a veth; the host on the
//! network that the node's uplink is on. They are all there at once, so that samples can go from one
//! to the next without a word to the kernel. Only where kube-proxy's rules are does the node's kernel
//! track connections; [`Site::tracked`] says what it found.
//!
//! A pod asks in one way only. To a server a client whose connections are translated at the socket is
//! another one than the same client translated packet by packet: its TCP timestamps begin elsewhere
//! (RFC 7323 asks for one clock for each pair of addresses, and the client's kernel sees another pair).
//! A port that is used both ways in a short time would be taken for an old duplicate, and wait a second.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ipnetwork::Ipv4Network;

use super::cluster::{self, Cluster, NODE_PORT};
use super::kube_proxy::{self, Iptables, NftablesRules};
use super::load::{Cycles, Done, Loader, Softirqs, Work};
use crate::bed::fabric::UPLINK;
use crate::bed::manifests::Manifests;
use crate::bed::process::Place;
use crate::bed::{Agent, AgentOptions, Bed, Sandbox, Topology, Wiring, plan};

/// The numbers of the pods' addresses among the node's.
const SERVER: u8 = 2;
const CLIENT: u8 = 9;
const UNSEEN: u8 = 10;
/// That of the host's on the nodes' network.
const HOST: u8 = 50;
/// All pods, and all services.
const PODS: &str = "10.200.0.0/16";
const SERVICES: &str = "10.32.0.0/16";
/// Ten thousand services are read from a file.
const PATIENCE: Duration = Duration::from_secs(180);
/// What goes before each sample, so that nobody's caches are those of the one before.
pub const WARM_UP: Duration = Duration::from_millis(20);

/// Who translates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// Nobody.
    Nobody,
    /// Weir's agent with these flags.
    Weir(Vec<String>),
    /// kube-proxy's rules for nftables.
    Nftables,
    /// kube-proxy's rules for iptables.
    Iptables(Iptables),
}

/// Who asks, and how the answer is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A pod, at the other pod's address.
    PodToPod,
    /// A pod, at the cluster IP.
    PodToService,
    /// Another pod, whose sockets no program of Weir's sees (as those of a virtual machine), at the
    /// cluster IP.
    PodToServiceByPackets,
    /// The host, at the pod's address.
    HostToPod,
    /// The host, at the node port.
    HostToNodePort,
}

/// Which processors work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processors {
    /// Client and server share one.
    One,
    /// Each has one.
    Two,
}

/// What one sample gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Work by the clock.
    pub per_second: f64,
    /// Work for each second of processor time of the client, the server and the kernel's own threads.
    pub per_processor_second: f64,
    /// Of requests, in microseconds.
    pub median: f64,
    /// Of requests, in microseconds.
    pub percentile_99: f64,
    /// Of the processors that worked, for each piece of work; no number where nothing counts them.
    pub cycles: f64,
}

/// A site. Fields are dropped from first to last.
#[derive(Debug)]
pub struct Site {
    agent: Option<Agent>,
    server: Loader,
    client: Loader,
    unseen: Loader,
    host: Loader,
    softirqs: Softirqs,
    /// Of one processor and of both; or why they cannot be counted.
    cycles: Result<[Cycles; 2], String>,
    cluster: Cluster,
    _pods: [Sandbox; 3],
    bed: Bed,
}

impl Site {
    /// Builds one. `weir` is the agent's binary.
    ///
    /// # Errors
    /// It cannot be built, or the proxy cannot be started.
    pub fn build(weir: &Path, proxy: &Proxy, services: u32, policies: u32) -> Result<Self> {
        let bed = Bed::start(Topology::one_node(Wiring::Routed))?;
        let node = bed.node(0);
        let cluster = Cluster {
            services,
            policies,
            server: node.plan().pod(SERVER),
            client: node.plan().pod(CLIENT),
            unseen: node.plan().pod(UNSEEN),
            host: plan::host(HOST),
        };
        let server = bed.sandbox_at(0, "server", cluster.server)?;
        let client = bed.sandbox_at(0, "client", cluster.client)?;
        let unseen = bed.sandbox_at(0, "unseen", cluster.unseen)?;
        for pod in [&server, &client, &unseen] {
            pod.record(cluster::namespace(), pod.name(), &cluster::uid(pod.name()))?;
        }
        let host = bed.host("host", HOST)?;
        let pods = node.plan().pod_ranges()[0];
        let node_addr = node.plan().v4.into();
        host.run(async move |links| links.add_route(pods, UPLINK, Some(node_addr)).await)?;

        let beyond = |namespace, name: &str| Place {
            group: bed.group().join("beyond").join(name),
            ..node.place(namespace, "system")
        };
        let mut site = Self {
            agent: None,
            server: Loader::start(&server.place())?,
            client: Loader::start(&client.place())?,
            unseen: Loader::start(&beyond(unseen.namespace(), "unseen"))?,
            host: Loader::start(&beyond(&host, "host"))?,
            softirqs: Softirqs::find()?,
            cycles: cycles(),
            cluster,
            _pods: [server, client, unseen],
            bed,
        };
        site.server.serve(cluster.backend())?;
        site.start(weir, proxy)?;
        Ok(site)
    }

    fn start(&mut self, weir: &Path, proxy: &Proxy) -> Result<()> {
        let node = self.bed.node(0);
        let pods: Ipv4Network = PODS.parse().context("a range")?;
        let services: Ipv4Network = SERVICES.parse().context("a range")?;
        match proxy {
            Proxy::Nobody => {}
            Proxy::Weir(flags) => self.agent = Some(self.start_agent(weir, flags)?),
            Proxy::Nftables => {
                let all = self.cluster.services();
                let rules = NftablesRules::new(all, services, pods, node.plan().v4);
                for piece in rules.pieces() {
                    kube_proxy::load_nftables(node, &piece)?;
                }
            }
            Proxy::Iptables(iptables) => {
                let rules = kube_proxy::iptables_rules(self.cluster.services(), pods);
                kube_proxy::load_iptables(node, iptables, &rules)?;
            }
        }
        Ok(())
    }

    fn start_agent(&self, weir: &Path, flags: &[String]) -> Result<Agent> {
        let node = self.bed.node(0);
        let manifests = Manifests::create(self.bed.run_dir().join("manifests"))?;
        for (file, objects) in self.cluster.objects(node.plan()) {
            manifests.put(file, &objects)?;
        }
        let mut options = AgentOptions::new(weir, manifests.directory());
        options.flags = flags.to_vec();
        options.patience = PATIENCE;
        let mut agent = Agent::start(node, &options)?;
        // An agent may be ready before a pod is known, and then no policy selects it.
        let (links, policies) = (node.pod_links(), self.cluster.policies as usize);
        agent.wait_status("all policies to be in force at the pods", |status| {
            let is_judged = |link: &String| {
                let interfaces = status["interfaces"].as_array();
                interfaces.is_some_and(|all| {
                    all.iter().any(|one| {
                        one["name"] == link.as_str()
                            && one["state"] == "programmed"
                            && ["ingress", "egress"].iter().all(|direction| {
                                one[direction].as_array().map_or(0, Vec::len) == policies
                            })
                    })
                })
            };
            links.iter().all(is_judged)
        })?;
        Ok(agent)
    }

    /// The connections that the node's kernel tracks now: none where no rule asks for it.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn tracked(&self) -> Result<u64> {
        self.bed.node(0).namespace().enter(|| {
            let file = "/proc/sys/net/netfilter/nf_conntrack_count";
            match std::fs::read_to_string(file) {
                Ok(text) => text.trim().parse().with_context(|| format!("read {file}")),
                // The kernel's module is not there at all.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
                Err(error) => Err(error).with_context(|| format!("read {file}")),
            }
        })
    }

    /// Works this way for so long.
    ///
    /// # Errors
    /// Somebody did not answer.
    pub fn sample(
        &mut self,
        way: Way,
        work: Work,
        processors: Processors,
        time: Duration,
    ) -> Result<Sample> {
        let to = match way {
            Way::PodToPod | Way::HostToPod => self.cluster.backend(),
            Way::PodToService | Way::PodToServiceByPackets => self.cluster.cluster_ip(),
            Way::HostToNodePort => (self.bed.node(0).plan().v4, NODE_PORT).into(),
        };
        let client = match way {
            Way::PodToPod | Way::PodToService => &mut self.client,
            Way::PodToServiceByPackets => &mut self.unseen,
            Way::HostToPod | Way::HostToNodePort => &mut self.host,
        };
        // The first processor serves most of the machine's interrupts.
        let [last, other] = last_processors()?;
        self.server.pin(last)?;
        client.pin(match processors {
            Processors::One => last,
            Processors::Two => other,
        })?;
        let mut cycles = self.cycles.as_mut().ok().map(|[of_one, of_two]| {
            // What both do at once, no other counter looks at meanwhile.
            match processors {
                Processors::One => of_one,
                Processors::Two => of_two,
            }
        });
        client
            .run(work, to, WARM_UP)
            .with_context(|| format!("{way:?}, {work:?}"))?;
        let others = self.server.used()? + self.softirqs.used()?;
        if let Some(cycles) = &mut cycles {
            cycles.start()?;
        }
        let done = client
            .run(work, to, time)
            .with_context(|| format!("{way:?}, {work:?}"))?;
        let cycles = cycles.map(Cycles::stop).transpose()?;
        let others = (self.server.used()? + self.softirqs.used()?).saturating_sub(others);
        Ok(Sample::of(&done, others, cycles))
    }

    /// Why no cycles are counted, where they are not.
    #[must_use]
    pub fn why_no_cycles(&self) -> Option<&str> {
        self.cycles.as_ref().err().map(String::as_str)
    }

    /// What an agent said last, where there is one, for a failure's report.
    #[must_use]
    pub fn last_words(&self) -> String {
        let agent = self.agent.as_ref();
        agent.map_or_else(String::new, |agent| agent.log_tail(10))
    }
}

impl Sample {
    #[expect(clippy::cast_precision_loss, reason = "a sample is short")]
    fn of(done: &Done, others: Duration, cycles: Option<u64>) -> Self {
        let count = done.count as f64;
        Self {
            per_second: count / done.elapsed.as_secs_f64(),
            per_processor_second: count / (done.used + others).as_secs_f64(),
            median: done.median.as_secs_f64() * 1e6,
            percentile_99: done.percentile_99.as_secs_f64() * 1e6,
            cycles: cycles.map_or(f64::NAN, |cycles| cycles as f64 / count),
        }
    }
}

/// The numbers of the last processor and of the one before it.
fn last_processors() -> Result<[usize; 2]> {
    let count = std::thread::available_parallelism().context("count the processors")?;
    let last = count.get() - 1;
    Ok([last, last.saturating_sub(1)])
}

/// Counters of cycles, where the machine has them.
fn cycles() -> Result<[Cycles; 2], String> {
    let find = || {
        let [last, other] = last_processors()?;
        anyhow::Ok([Cycles::of(&[last])?, Cycles::of(&[last, other])?])
    };
    find().map_err(|error| format!("{error:#}"))
}
