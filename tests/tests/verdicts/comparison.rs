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

use super::histories::{Happening, History, only_about_all};
use super::met::Met;
use super::place::{Interfaces, sender_at};
use super::record::{Key, Outcome, Records, Seen};
use super::segment::{Conversation, Segment};
use crate::policies::plan::{OUTSIDE, addr};

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
            Happening::Error {
                conversation,
                segment,
                is_of_client,
                is_of_end,
            } => {
                let quoted = Part {
                    conversation: self.conversation(conversation),
                    segment: *segment,
                    is_of_client: *is_of_client,
                };
                self.send_error(quoted, *is_of_end)
            }
            Happening::Begin(conversation) => self.begin(self.conversation(conversation)),
            Happening::Sever(conversation) => {
                let conversation = self.conversation(conversation);
                let before = self.cluster.clone();
                self.change(only_about_all(&before, true))?;
                self.begin(conversation)?;
                self.change(only_about_all(&before, false))?;
                self.send(conversation, Segment::Data, true)?;
                self.send(conversation, Segment::Data, false)?;
                self.change(before)
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

    fn begin(&mut self, conversation: &Conversation) -> Result<()> {
        self.send(conversation, Segment::Opening, true)?;
        self.send(conversation, Segment::Answer, false)?;
        self.send(conversation, Segment::Data, true)
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
        let part = Part {
            conversation,
            segment,
            is_of_client,
        };
        let Connection { from, to, .. } = &conversation.connection;
        let from = if is_of_client {
            from.clone()
        } else {
            sender_at(&self.cluster, *to)
        };
        let packet = conversation.packet(segment, is_of_client);
        self.carry(&from, &packet, |this, at, own, peer| {
            this.expect(at, own, peer, part)
        })
    }

    /// An error about a packet of a conversation goes to who sent that.
    fn send_error(&mut self, part: Part<'_>, is_of_end: bool) -> Result<()> {
        let quoted = part.conversation.packet(part.segment, part.is_of_client);
        let (receiver, sender) = (quoted.dst.ip(), quoted.src.ip());
        if receiver == sender {
            return Ok(());
        }
        let from = if is_of_end {
            sender_at(&self.cluster, receiver)
        } else {
            let [v4, v6] = OUTSIDE[2].map(addr);
            Sender::Outside(if sender.is_ipv4() { v4 } else { v6 })
        };
        let error = part
            .conversation
            .error(part.segment, part.is_of_client, from.addr());
        self.carry(&from, &error, |this, at, own, peer| {
            let is_about_own = own == sender;
            let other = if is_about_own { receiver } else { sender };
            this.expect_of_error(at, own, peer, (other, is_about_own), part)
        })
    }

    /// A packet goes its way; what is expected at a pod's interface says `expect`, which is told
    /// the pod's address and the other one.
    fn carry(
        &mut self,
        from: &Sender,
        packet: &Packet,
        expect: impl Fn(&mut Self, At, IpAddr, IpAddr) -> Outcome,
    ) -> Result<()> {
        // Nobody sends to itself by way of others.
        if packet.src.ip() == packet.dst.ip() && !matches!(from, Sender::Pod(_)) {
            return Ok(());
        }
        let way = self.interfaces.way(&self.cluster, from, packet.dst.ip());
        for at in way.into_iter().flatten() {
            let verdict = self.cross(at, packet, &expect).with_context(|| {
                let (hook, interface) = (at.hook.name(), at.interface);
                format!("{packet} from {from:?} at {hook} of {interface}")
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
        packet: &Packet,
        expect: impl Fn(&mut Self, At, IpAddr, IpAddr) -> Outcome,
    ) -> Result<Verdict> {
        self.executor.take_events()?;
        let (verdict, _) = send_at(self.executor, at, packet)?;
        let events = self.executor.take_events()?;
        let (own, peer) = match at.hook {
            Hook::FromPod => (packet.src.ip(), packet.dst.ip()),
            Hook::ToPod => (packet.dst.ip(), packet.src.ip()),
            Hook::FromNetwork | Hook::ToNetwork | Hook::Socket => return passed(verdict, &events),
        };
        let subject = self.cluster.owner(own).context("a pod is there")?;
        if own == peer {
            self.met.itself();
            return passed(verdict, &events);
        }
        let is_isolated = |direction| is_isolated(&self.cluster, subject, direction);
        if !Direction::ALL.into_iter().any(is_isolated) {
            self.met.unjudged();
            return passed(verdict, &events);
        }
        let outcome = expect(self, at, own, peer);
        judge(&outcome, verdict, &events, self.world.policies())
            .with_context(|| format!("expected {outcome:?}"))?;
        Ok(verdict)
    }

    fn expect(&mut self, at: At, own: IpAddr, peer: IpAddr, part: Part<'_>) -> Outcome {
        let seen = part.seen(at, self.now, self.world.contents().policy.revision);
        let is_pod_client = part.is_of_client == (seen.way == Direction::Egress);
        let key = part.key(at, own, peer, is_pod_client);
        let cluster = &self.cluster;
        let traffic = part.conversation.connection.traffic;
        let ask = |opened| ask(cluster, &key, traffic, opened);
        let outcome = self.records.judge(key, &seen, ask);
        self.met.outcome(seen.way, &outcome);
        outcome
    }

    /// The quoted packet is between the pod and `other`, and its own or the other's.
    fn expect_of_error(
        &mut self,
        at: At,
        own: IpAddr,
        peer: IpAddr,
        (other, is_about_own): (IpAddr, bool),
        part: Part<'_>,
    ) -> Outcome {
        let seen = part.seen(at, self.now, self.world.contents().policy.revision);
        let key = part.key(at, own, other, part.is_of_client == is_about_own);
        let cluster = &self.cluster;
        let traffic = part.conversation.connection.traffic;
        let by_itself = Key { peer, ..key };
        let protocol = if own.is_ipv4() { 1 } else { 58 };
        let outcome = self.records.judge_error(
            &key,
            &seen,
            |opened| ask(cluster, &key, traffic, opened),
            || ask(cluster, &by_itself, Traffic::Other { protocol }, seen.way),
        );
        self.met.error(&outcome);
        outcome
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

/// A packet of a conversation.
#[derive(Clone, Copy, Debug)]
struct Part<'a> {
    conversation: &'a Conversation,
    segment: Segment,
    is_of_client: bool,
}

impl Part<'_> {
    fn seen(self, at: At, now: u64, revision: u32) -> Seen {
        let is_echo = self.conversation.is_echo();
        Seen {
            way: if at.hook == Hook::FromPod {
                Direction::Egress
            } else {
                Direction::Ingress
            },
            segment: self.segment,
            is_echo_reply: is_echo && !self.is_of_client,
            is_echo_request: is_echo && self.is_of_client,
            is_from_node: at.is_from_node,
            revision,
            now,
        }
    }

    /// What the conversation is known by at the interface of a pod that is its client, or not.
    fn key(self, at: At, pod: IpAddr, peer: IpAddr, is_client: bool) -> Key {
        let (client_port, server_port) = self.conversation.ports();
        let (pod_port, peer_port) = if is_client {
            (client_port, server_port)
        } else {
            (server_port, client_port)
        };
        Key {
            interface: at.interface,
            pod,
            peer,
            protocol: self.conversation.protocol(),
            pod_port,
            peer_port,
        }
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
