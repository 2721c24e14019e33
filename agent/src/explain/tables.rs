//! The verdict, as the programs give it: the compiler's tables, in memory, and the code that
//! judges packets.

use std::collections::BTreeMap;
use std::net::IpAddr;

use weir_ebpf::addr::Port;
use weir_ebpf::datapath::{self, At};
use weir_ebpf::event::Event;
use weir_ebpf::tables::{ANYONE, FrontendKey, PolicyFlags, RuleKey, Tables as _};
use weir_ebpf::verdict::{Hook, Verdict};

use super::{Scene, Traffic, probe};
use crate::compile::{Capacities, Claimed, Desired, Ids, NodeContext, PodInterface, compile};
use crate::maps::Contents;
use crate::maps::memory::MemoryTables;
use crate::maps::text::endpoint;
use crate::model::{Direction, Pod, PodRef};

/// What the tables would hold if these pods had interfaces.
pub struct Judge {
    tables: MemoryTables,
    desired: Desired,
    interfaces: BTreeMap<PodRef, u32>,
}

/// What the programs say of the first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// What becomes of it.
    pub verdict: Verdict,
    /// The subject set of the pod in that direction; zero: it is not isolated.
    pub subject: u32,
    /// The rule that allows it; zero: none, or none is needed.
    pub rule: u32,
    /// What is told of it, if anything is.
    pub event: Option<Event>,
}

impl Judge {
    /// The tables of a node, where all its pods are known.
    #[must_use]
    pub fn of_node(scene: &Scene, node: Option<&str>) -> Self {
        let is_there = |pod: &Pod| pod.node.as_deref() == node;
        Self::new(
            scene,
            node.unwrap_or_default(),
            is_there,
            &mut Ids::default(),
        )
    }

    /// Tables as of one node that had all pods of the cluster: what they say of two pods is what
    /// the two pods' nodes say together.
    #[must_use]
    pub fn of_all(scene: &Scene, ids: &mut Ids) -> Self {
        Self::new(scene, "", |_| true, ids)
    }

    fn new(scene: &Scene, node: &str, is_there: impl Fn(&Pod) -> bool, ids: &mut Ids) -> Self {
        let mut context = NodeContext {
            name: node.to_owned(),
            ..NodeContext::default()
        };
        let mut interfaces = BTreeMap::new();
        let pods = scene.cluster().pods().filter(|pod| is_there(pod));
        for (index, pod) in (1..).zip(pods.filter(|pod| scene.has_network(pod))) {
            let is_its_own = |addr: &IpAddr| scene.owner(*addr).is_some_and(|it| it.id == pod.id);
            let addrs = pod.own_addrs().iter().copied();
            let interface = PodInterface {
                netns: -1,
                addrs: addrs.filter(is_its_own).collect(),
                is_direct: false,
                pod: Some(Claimed {
                    pod: pod.id.clone(),
                    uid: pod.uid.clone(),
                }),
            };
            context.pod_interfaces.insert(index, interface);
            interfaces.insert(pod.id.clone(), index);
        }
        // No table is too small for what is only imagined.
        let mut desired = compile(
            scene.cluster(),
            &context,
            ids,
            &Capacities::with_room_for_policies(),
        );
        let flags = &mut desired.contents.policy.flags;
        *flags = flags
            .with(PolicyFlags::EVENTS_DENIED)
            .with(PolicyFlags::EVENTS_OPENED);
        Self {
            tables: MemoryTables::new(std::mem::take(&mut desired.contents), 0),
            desired,
            interfaces,
        }
    }

    /// What the tables' numbers stand for. Its contents are [`Self::contents`].
    #[must_use]
    pub const fn desired(&self) -> &Desired {
        &self.desired
    }

    /// What the tables hold.
    #[must_use]
    pub const fn contents(&self) -> &Contents {
        &self.tables.contents
    }

    /// The interface that a pod has here.
    #[must_use]
    pub fn interface(&self, pod: &PodRef) -> Option<u32> {
        self.interfaces.get(pod).copied()
    }

    /// The first packet of a connection meets the programs at a pod's interface.
    pub fn judge(
        &mut self,
        interface: u32,
        direction: Direction,
        is_from_node: bool,
        from: IpAddr,
        to: IpAddr,
        traffic: Traffic,
    ) -> Judged {
        // Of no question a trace may be left for the next.
        let contents = std::mem::take(&mut self.tables.contents);
        self.tables = MemoryTables::new(contents, 0);
        let hook = match direction {
            Direction::Egress => Hook::FromPod,
            Direction::Ingress => Hook::ToPod,
        };
        let at = At {
            is_from_node,
            is_from_itself: from == to,
            ..At::new(hook, interface)
        };
        let mut packet = probe::packet(from, to, traffic);
        let (verdict, _) = datapath::run(&mut packet, &self.tables, at);
        let event = self.tables.take_events().pop();
        let slot = self.tables.contents.policy.slot();
        let pod = self.tables.contents.pods.get(&interface);
        let subject = pod.map_or(0, |pod| match direction {
            Direction::Egress => pod.egress.get(slot),
            Direction::Ingress => pod.ingress.get(slot),
        });
        let peer = match direction {
            Direction::Egress => to,
            Direction::Ingress => from,
        };
        Judged {
            verdict,
            subject,
            // Of a packet that opens nothing, as most of ICMP, nothing is told when it passes.
            rule: match event {
                Some(event) => event.rule,
                None => self.rule(subject, peer, traffic),
            },
            event,
        }
    }

    /// The rule that allows a subject set this traffic with an address; zero: none does.
    fn rule(&self, subject: u32, peer: IpAddr, traffic: Traffic) -> u32 {
        let slot = self.tables.contents.policy.slot();
        let class = self.tables.class(&peer.into(), slot);
        let port = Port::new(traffic.port().unwrap_or(0));
        let rule = |class| {
            let question = RuleKey::new(subject, class, traffic.protocol(), port);
            self.tables.rule(&question)
        };
        rule(class).or_else(|| rule(ANYONE)).unwrap_or(0)
    }

    /// The backends of a service at this address: `None` where there is no service.
    #[must_use]
    pub fn backends(&self, to: IpAddr, traffic: Traffic) -> Option<Vec<(IpAddr, u16)>> {
        let Traffic::Ports { protocol: _, port } = traffic else {
            return None;
        };
        let contents = self.contents();
        let key = FrontendKey::new(to.into(), Port::new(port), traffic.protocol());
        let number = contents.frontends.get(&key)?.service;
        let count = contents.services.get(&number)?.backend_count;
        let slots = contents.backends_of(number);
        let backends = slots.filter(|(slot, _)| *slot < count);
        let mut found: Vec<_> = backends
            .map(|(_, backend)| endpoint(backend.addr, backend.port))
            .map(|at| (at.ip(), at.port()))
            .collect();
        found.sort_unstable();
        found.dedup();
        Some(found)
    }
}
