//! Every packet of a history on its way through the node, judged at each hook.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use k8s_openapi::api::{core::v1 as core, networking::v1 as networking};
use proptest::sample::Index;
use serde::de::DeserializeOwned;
use serde_json::Value;
use weir_agent::compile::{PolicyNames, RuleName};
use weir_agent::model::{Invalid, Object};
use weir_ebpf::datapath::At;
use weir_ebpf::event::Event;
use weir_ebpf::verdict::{DropReason, Hook, Verdict};
use weir_tests::reference::policy::readable::{relates_to, selects_subject};
use weir_tests::reference::policy::world::{Direction, Pod, World as Cluster};
use weir_tests::reference::policy::{Connection, Judgement, Sender, Traffic, evaluate, manifests};
use weir_tests::scenario::Executor;
use weir_tests::scenario::packet::Packet;
use weir_tests::scenario::runner::send_at;
use weir_tests::scenario::told::Told;
use weir_tests::scenario::world::{self, World};

use super::histories::{Happening, History};
use super::met::Met;
use super::place::{Interfaces, sender_at};
use super::record::{Key, Outcome, Records, Seen};
use super::segment::{Conversation, Segment};

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Time passes.
    pub with_time: bool,
}

/// A history, and what becomes of its packets, each compared with the reference. Gives back what
/// was met.
///
/// # Errors
/// Something is not as the reference says.
pub fn compare(executor: &mut impl Executor, history: &History, extent: Extent) -> Result<Met> {
    let mut interfaces = Interfaces::default();
    let context = interfaces.context(&history.world, history.has_records, history.is_kept)?;
    let (world, plan) = World::at(context, read(&manifests::objects(&history.world))?);
    executor.apply(&plan)?;
    let mut comparison = Comparison {
        executor,
        history,
        extent,
        cluster: history.world.clone(),
        world,
        interfaces,
        records: Records::new(history.is_kept),
        now: 0,
        met: Met::default(),
    };
    for (number, happening) in history.events.iter().enumerate() {
        comparison
            .take(number, happening)
            .with_context(|| format!("event {number}: {happening:?}"))?;
    }
    Ok(comparison.met)
}

struct Comparison<'a, E> {
    executor: &'a mut E,
    history: &'a History,
    extent: Extent,
    cluster: Cluster,
    world: World,
    interfaces: Interfaces,
    records: Records,
    /// Seconds since the beginning.
    now: u64,
    met: Met,
}

impl<E: Executor> Comparison<'_, E> {
    fn take(&mut self, number: usize, happening: &Happening) -> Result<()> {
        match happening {
            Happening::Packet {
                conversation,
                segment,
                is_of_client,
            } => self.send(self.conversation(conversation), *segment, *is_of_client),
            Happening::Begin(conversation) => {
                let conversation = self.conversation(conversation);
                self.send(conversation, Segment::Opening, true)?;
                self.send(conversation, Segment::Answer, false)?;
                self.send(conversation, Segment::Data, true)
            }
            Happening::Forgery(pod, of) => self.forge(pod, self.conversation(of)),
            Happening::Time(seconds) => {
                if self.extent.with_time {
                    self.met.time();
                    self.now += seconds;
                    self.executor.advance(Duration::from_secs(*seconds))?;
                }
                Ok(())
            }
            Happening::Change(change) => {
                let mut next = self.cluster.clone();
                change.apply_to(&mut next, number);
                self.change(next)
            }
        }
    }

    fn conversation<'h>(&self, index: &Index) -> &'h Conversation
    where
        Self: 'h,
    {
        index.get(&self.history.conversations)
    }

    fn change(&mut self, next: Cluster) -> Result<()> {
        let before = manifests::objects(&self.cluster);
        let now = manifests::objects(&next);
        let History {
            has_records,
            is_kept,
            ..
        } = self.history;
        let context = self.interfaces.context(&next, *has_records, *is_kept)?;
        let names: BTreeSet<String> = now.iter().map(name).collect();
        let gone = before.iter().map(name).filter(|it| !names.contains(it));
        let gone = gone.map(|name| world::parse_reference(&name));
        let gone = gone.collect::<Result<Vec<_>>>()?;
        let there: Vec<Value> = now.into_iter().filter(|it| !before.contains(it)).collect();
        for plan in [
            self.world.see_node(context),
            self.world.apply(read(&there)?),
            self.world.delete(gone),
        ] {
            self.executor.apply(&plan)?;
        }
        self.cluster = next;
        Ok(())
    }

    /// A packet of a conversation goes its way.
    fn send(
        &mut self,
        conversation: &Conversation,
        segment: Segment,
        is_of_client: bool,
    ) -> Result<()> {
        let Connection { from, to, .. } = &conversation.connection;
        let from = if is_of_client {
            from.clone()
        } else {
            sender_at(&self.cluster, *to)
        };
        let packet = conversation.packet(segment, is_of_client);
        // Nobody sends to itself by way of others.
        if packet.src.ip() == packet.dst.ip() && !matches!(from, Sender::Pod(_)) {
            return Ok(());
        }
        let way = self.interfaces.way(&self.cluster, &from, packet.dst.ip());
        let Some(way) = way else { return Ok(()) };
        for at in way {
            let verdict = self
                .cross(at, conversation, segment, is_of_client, &packet)
                .with_context(|| {
                    format!(
                        "{packet} from {from:?} at {} of {}",
                        at.hook.name(),
                        at.interface
                    )
                })?;
            if matches!(verdict, Verdict::Drop(_)) {
                break;
            }
        }
        Ok(())
    }

    fn cross(
        &mut self,
        at: At,
        conversation: &Conversation,
        segment: Segment,
        is_of_client: bool,
        packet: &Packet,
    ) -> Result<Verdict> {
        self.executor.take_events()?;
        let (verdict, _) = send_at(self.executor, at, packet)?;
        let events = self.executor.take_events()?;
        let direction = match at.hook {
            Hook::FromPod => Direction::Egress,
            Hook::ToPod => Direction::Ingress,
            _ => {
                ensure!(
                    verdict == Verdict::Pass && events.is_empty(),
                    "{verdict:?}, {events:?}: beyond the pods nobody judges"
                );
                return Ok(verdict);
            }
        };
        let (own, peer) = match direction {
            Direction::Egress => (packet.src.ip(), packet.dst.ip()),
            Direction::Ingress => (packet.dst.ip(), packet.src.ip()),
        };
        let subject = self.cluster.owner(own).context("a pod is there")?;
        if own == peer {
            self.met.itself();
            return passed(verdict, &events);
        }
        if !Direction::ALL
            .iter()
            .any(|direction| is_isolated(&self.cluster, subject, *direction))
        {
            self.met.unjudged();
            return passed(verdict, &events);
        }
        // The pod's port and the other's, whichever of them is the client.
        let (client_port, server_port) = conversation.ports();
        let is_pod_client = is_of_client == (direction == Direction::Egress);
        let (pod_port, peer_port) = if is_pod_client {
            (client_port, server_port)
        } else {
            (server_port, client_port)
        };
        let key = Key {
            interface: at.interface,
            pod: own,
            peer,
            protocol: conversation.protocol(),
            pod_port,
            peer_port,
        };
        let seen = Seen {
            way: direction,
            segment,
            is_echo_reply: conversation.is_echo() && !is_of_client,
            is_echo_request: conversation.is_echo() && is_of_client,
            is_from_node: at.is_from_node,
            now: self.now,
        };
        let cluster = &self.cluster;
        let traffic = conversation.connection.traffic;
        let outcome = self
            .records
            .judge(key, &seen, |opened| ask(cluster, &key, traffic, opened));
        self.met.outcome(direction, &outcome);
        judge(&outcome, verdict, &events, self.world.policies())
            .with_context(|| format!("expected {outcome:?}"))?;
        Ok(verdict)
    }

    /// A pod of the node sends what another would.
    fn forge(&mut self, pod: &Index, conversation: &Conversation) -> Result<()> {
        let packet = conversation.packet(Segment::Opening, true);
        let own: Vec<(u32, IpAddr)> = self
            .cluster
            .pods
            .iter()
            .flat_map(|pod| &pod.addresses)
            .filter_map(|addr| Some((self.interfaces.of(&self.cluster, *addr)?, *addr)))
            .collect();
        if own.is_empty() {
            return Ok(());
        }
        let (interface, _) = own[pod.index(own.len())];
        if own.contains(&(interface, packet.src.ip())) {
            return Ok(());
        }
        let (verdict, _) = send_at(self.executor, At::new(Hook::FromPod, interface), &packet)?;
        self.met.forged();
        ensure!(
            verdict == Verdict::Drop(DropReason::ForgedSource),
            "{packet} by the interface {interface}: {verdict:?}"
        );
        Ok(())
    }
}

/// What the policies in force say of a conversation at the pod's end, opened in a direction.
fn ask(cluster: &Cluster, key: &Key, traffic: Traffic, opened: Direction) -> Judgement {
    // What was asked for decides; where the other side asks, its port is the client's.
    let with_port = |port| match traffic {
        Traffic::Ports { protocol, .. } => Traffic::Ports { protocol, port },
        other @ Traffic::Other { .. } => other,
    };
    match opened {
        Direction::Egress => {
            let connection = Connection {
                from: Sender::Pod(key.pod),
                to: key.peer,
                traffic: with_port(key.peer_port),
            };
            evaluate(cluster, &connection).egress
        }
        Direction::Ingress => {
            let connection = Connection {
                from: Sender::Outside(key.peer),
                to: key.pod,
                traffic: with_port(key.pod_port),
            };
            evaluate(cluster, &connection).ingress
        }
    }
}

fn is_isolated(cluster: &Cluster, pod: &Pod, direction: Direction) -> bool {
    let mut policies = cluster.policies.iter();
    policies.any(|policy| relates_to(policy, direction) && selects_subject(policy, pod))
}

fn passed(verdict: Verdict, events: &[Event]) -> Result<Verdict> {
    ensure!(
        verdict == Verdict::Pass && events.is_empty(),
        "{verdict:?}, {events:?}: nobody judges this"
    );
    Ok(verdict)
}

/// Are the verdict and what is told of it as expected?
fn judge(outcome: &Outcome, verdict: Verdict, events: &[Event], names: &PolicyNames) -> Result<()> {
    let expected = match outcome {
        Outcome::Part | Outcome::Opens(_) | Outcome::Alone => Verdict::Pass,
        Outcome::Refused { direction, .. } => Verdict::Drop(match direction {
            Direction::Egress => DropReason::EgressPolicy,
            Direction::Ingress => DropReason::IngressPolicy,
        }),
    };
    ensure!(verdict == expected, "{verdict:?}, {events:?}");
    let told = Told::read(events, verdict, names)?;
    let rules: BTreeSet<String> = told.rules.iter().map(RuleName::to_string).collect();
    match outcome {
        Outcome::Part | Outcome::Alone => {
            ensure!(
                events.is_empty(),
                "of what opens nothing was told {events:?}"
            );
        }
        Outcome::Opens(why) => {
            ensure!(
                events.len() == 1,
                "of what opens something was told {events:?}"
            );
            let allowing: BTreeSet<String> = match why {
                Judgement::ByRules(rules) => rules.iter().map(ToString::to_string).collect(),
                _ => BTreeSet::new(),
            };
            ensure!(
                rules.is_subset(&allowing) && rules.is_empty() == allowing.is_empty(),
                "allowed by {rules:?}, not one of {allowing:?}"
            );
        }
        Outcome::Refused { why, .. } => {
            let Judgement::Refused { isolated_by, .. } = why else {
                bail!("refused because of {why:?}");
            };
            let expected: BTreeSet<String> = isolated_by.iter().map(ToString::to_string).collect();
            let actual = told.isolated_by.unwrap_or_default();
            let actual: BTreeSet<String> = actual.iter().map(ToString::to_string).collect();
            ensure!(
                actual == expected,
                "isolated by {actual:?}, not {expected:?}"
            );
        }
    }
    Ok(())
}

/// `Pod shop/cart`, `Node worker-0`.
fn name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, metadata) = (text(&object["kind"]), &object["metadata"]);
    match text(&metadata["namespace"]).as_str() {
        "" => format!("{kind} {}", text(&metadata["name"])),
        namespace => format!("{kind} {namespace}/{}", text(&metadata["name"])),
    }
}

fn read(objects: &[Value]) -> Result<Vec<Object>> {
    let read = |object: &Value| match object["kind"].as_str() {
        Some("Namespace") => typed::<core::Namespace>(object),
        Some("Node") => typed::<core::Node>(object),
        Some("Pod") => typed::<core::Pod>(object),
        Some("NetworkPolicy") => typed::<networking::NetworkPolicy>(object),
        other => bail!("{other:?} is none of a world's kinds"),
    };
    objects.iter().map(read).collect()
}

fn typed<T: DeserializeOwned>(object: &Value) -> Result<Object>
where
    Object: TryFrom<T, Error = Invalid>,
{
    let typed = T::deserialize(object).with_context(|| format!("read {object}"))?;
    Object::try_from(typed).map_err(|invalid| anyhow!("{} {invalid:?}", name(object)))
}
