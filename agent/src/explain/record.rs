//! What the programs tell of a packet, in names: one line for people, one value for programs.
//!
//! Names are those of the moment in which an event is read. A number that is not in force any
//! more is looked up in the state before; what is not found there either is said to have changed.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use weir_ebpf::event::{Direction as Told, Event};
use weir_ebpf::tables::{FrontendKey, NOBODY};
use weir_ebpf::verdict::{DropReason, Hook, Verdict};

use super::{End, Missed, NearMiss, Snapshot, Traffic, reasons};
use crate::maps::text::{endpoint, unpadded};
use crate::model::{Direction, Pod, PodRef};

/// A packet that was refused, or that opened a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowRecord {
    /// When, by RFC 3339.
    pub time: String,
    /// What became of it.
    pub verdict: Outcome,
    /// In which direction the connection was opened, seen from the pod at the interface.
    pub direction: Way,
    /// The verdict's reason, as metrics have it; of what was forwarded `allowed`.
    pub reason: String,
    /// Who opens the connection.
    pub from: Place,
    /// Whom it is opened to: the backend, where it was a service that was called.
    pub to: Place,
    /// `TCP`, `UDP`, `SCTP`, `ICMP`, `protocol 47`
    pub protocol: String,
    /// The service that was called.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub service: Option<Called>,
    /// The index of the interface at which it was seen.
    pub interface: u32,
    /// The policies that isolate the pod in this direction.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub isolated_by: Vec<String>,
    /// The rule that allows it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rule: Option<String>,
    /// The rule that almost does.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub nearest: Option<Nearest>,
    /// Why, in a sentence.
    pub why: String,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It was not passed on.
    Dropped,
    /// It was answered and not passed on.
    Rejected,
    /// It was passed on.
    Forwarded,
}

/// A direction, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Way {
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// The pod, `NAMESPACE/NAME`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<String>,
    /// The node, where it is no pod with a network of its own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<String>,
    /// Its address.
    pub address: IpAddr,
    /// Its port, where the protocol has ports.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub port: Option<u16>,
}

/// A service that was called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Called {
    /// `NAMESPACE/NAME`; absent if no service has the address any more.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// The address that was called.
    pub address: SocketAddr,
}

/// The rule that came nearest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Nearest {
    /// `shop/cart egress[1]`
    pub rule: String,
    /// Which half of it did not match: `ports` or `peers`.
    pub missed: String,
    /// What it allows.
    pub allows: String,
}

impl From<&NearMiss> for Nearest {
    fn from(near: &NearMiss) -> Self {
        Self {
            rule: near.rule.to_string(),
            missed: match near.missed {
                Missed::Ports => "ports".to_owned(),
                Missed::Peers => "peers".to_owned(),
            },
            allows: near.allows.clone(),
        }
    }
}

impl From<Direction> for Way {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Ingress => Self::Ingress,
            Direction::Egress => Self::Egress,
        }
    }
}

impl From<Way> for Direction {
    fn from(way: Way) -> Self {
        match way {
            Way::Ingress => Self::Ingress,
            Way::Egress => Self::Egress,
        }
    }
}

/// Puts an event into names. `None`: it is of another version of the programs.
///
/// `time` is the event's time by the clock on the wall; `before` is the state that was in force
/// before the present one.
#[must_use]
pub fn record(
    event: &Event,
    time: String,
    now: &Snapshot,
    before: Option<&Snapshot>,
) -> Option<FlowRecord> {
    let verdict = *Verdict::ALL.get(usize::from(event.verdict))?;
    let hook = *Hook::ALL.get(usize::from(event.hook))?;
    let tuple = &event.tuple;
    let source = (IpAddr::from(tuple.src), tuple.src_port.number());
    let destination = (IpAddr::from(tuple.dst), tuple.dst_port.number());
    let (of_pod, of_peer) = match hook {
        Hook::ToPod | Hook::ToNetwork => (destination, source),
        Hook::FromPod | Hook::Socket | Hook::FromNetwork => (source, destination),
    };
    // Whichever way the packet goes, its connection is judged the way it was opened.
    let way = match (event.direction, hook) {
        (Told::EGRESS, _) => Way::Egress,
        (Told::INGRESS, _) | (_, Hook::ToPod | Hook::FromNetwork) => Way::Ingress,
        (_, Hook::FromPod | Hook::Socket | Hook::ToNetwork) => Way::Egress,
    };
    let (from, to) = match way {
        Way::Egress => (of_pod, of_peer),
        Way::Ingress => (of_peer, of_pod),
    };
    let at_interface = now
        .desired
        .pods
        .get(&event.interface)
        .and_then(|report| report.pod.as_ref());
    let has_ports = tuple.protocol.has_ports();
    let place = |(address, port): (IpAddr, u16), is_subject: bool| {
        let subject = at_interface.filter(|_| is_subject).cloned();
        let pod: Option<PodRef> =
            subject.or_else(|| now.scene.owner(address).map(|pod| pod.id.clone()));
        Place {
            node: pod
                .is_none()
                .then(|| now.scene.node_at(address).map(ToOwned::to_owned))
                .flatten(),
            pod: pod.as_ref().map(ToString::to_string),
            address,
            port: has_ports.then_some(port),
        }
    };
    let subject = at_interface
        .and_then(|pod| now.scene.pod(pod))
        .or_else(|| now.scene.owner(of_pod.0));
    let judged = Judged {
        event,
        verdict,
        way,
        subject,
        pod_addr: of_pod.0,
        peer: of_peer.0,
        to,
    };
    let because = judged.because(now, before);
    Some(FlowRecord {
        time,
        verdict: match verdict {
            Verdict::Pass | Verdict::Translate | Verdict::PassFragment => Outcome::Forwarded,
            Verdict::Reject(_) => Outcome::Rejected,
            Verdict::Drop(_) => Outcome::Dropped,
        },
        direction: way,
        reason: match verdict {
            Verdict::Pass | Verdict::Translate | Verdict::PassFragment => "allowed",
            Verdict::Reject(reason) => reason.name(),
            Verdict::Drop(reason) => reason.name(),
        }
        .to_owned(),
        from: place(from, way == Way::Egress),
        to: place(to, way == Way::Ingress),
        protocol: tuple.protocol.to_string(),
        service: called(event, now),
        interface: event.interface,
        isolated_by: because.isolated_by,
        rule: because.rule,
        nearest: because.nearest,
        why: because.why,
    })
}

fn called(event: &Event, now: &Snapshot) -> Option<Called> {
    if event.service_addr.is_unspecified() {
        return None;
    }
    let contents = &now.desired.contents;
    let key = FrontendKey::new(event.service_addr, event.service_port, event.tuple.protocol);
    let frontend = contents.frontends.get(&key);
    let name = frontend.and_then(|frontend| contents.service_names.get(&frontend.service));
    Some(Called {
        name: name.map(|it| format!("{}/{}", unpadded(&it.namespace), unpadded(&it.name))),
        address: endpoint(event.service_addr, event.service_port),
    })
}

/// An event whose numbers are understood.
struct Judged<'a> {
    event: &'a Event,
    verdict: Verdict,
    way: Way,
    subject: Option<&'a Pod>,
    pod_addr: IpAddr,
    peer: IpAddr,
    to: (IpAddr, u16),
}

/// Why.
#[derive(Default)]
struct Because {
    isolated_by: Vec<String>,
    rule: Option<String>,
    nearest: Option<Nearest>,
    why: String,
}

impl Judged<'_> {
    fn because(&self, now: &Snapshot, before: Option<&Snapshot>) -> Because {
        match self.verdict {
            Verdict::Drop(DropReason::EgressPolicy | DropReason::IngressPolicy) => {
                self.refused(now, before)
            }
            Verdict::Drop(DropReason::ForgedSource) => Because {
                why: format!(
                    "the pod sent it from {}, which is not its own",
                    self.pod_addr
                ),
                ..Because::default()
            },
            Verdict::Drop(reason) => Because {
                why: reason.sentence().to_owned(),
                ..Because::default()
            },
            Verdict::Reject(reason) => Because {
                why: reason.sentence().to_owned(),
                ..Because::default()
            },
            Verdict::Pass | Verdict::Translate | Verdict::PassFragment => self.allowed(now, before),
        }
    }

    fn refused(&self, now: &Snapshot, before: Option<&Snapshot>) -> Because {
        let number = self.event.subject;
        if number == NOBODY {
            return Because {
                why: "isolated: nothing is known of the pod yet but its name".to_owned(),
                ..Because::default()
            };
        }
        let set = |state: &Snapshot| {
            let set = state.desired.policies.subjects.get(&number)?;
            Some(set.policies.iter().map(ToString::to_string).collect())
        };
        let isolated_by: Vec<String> = set(now).or_else(|| set(before?)).unwrap_or_default();
        let nearest = self.subject.and_then(|subject| {
            let end = End {
                subject,
                direction: self.way.into(),
                peer: self.peer,
                to: self.to.0,
                traffic: Traffic::of(self.event.tuple.protocol, self.to.1),
            };
            reasons(&now.scene, end).nearest
        });
        Because {
            why: isolated(&isolated_by, nearest.as_ref()),
            nearest: nearest.as_ref().map(Nearest::from),
            isolated_by,
            rule: None,
        }
    }

    fn allowed(&self, now: &Snapshot, before: Option<&Snapshot>) -> Because {
        let number = self.event.rule;
        if number == 0 {
            // Whoever is isolated is reached without a rule by the node alone.
            let why = if self.event.subject == 0 {
                "not isolated"
            } else {
                "it comes from the pod's own node"
            };
            return Because {
                why: why.to_owned(),
                ..Because::default()
            };
        }
        let name = |state: &Snapshot| {
            let rule = state.desired.policies.rules.get(&number)?;
            Some(rule.to_string())
        };
        let rule = name(now).or_else(|| name(before?));
        Because {
            why: match &rule {
                Some(rule) => format!("allowed by {rule}"),
                None => "allowed by a rule that has changed since".to_owned(),
            },
            rule,
            ..Because::default()
        }
    }
}

/// `isolated by shop/default-deny, shop/cart; nearest: shop/cart egress[1] allows db pods on 5433`
#[must_use]
pub fn isolated(policies: &[String], nearest: Option<&NearMiss>) -> String {
    let by = if policies.is_empty() {
        "isolated by policies that have changed since".to_owned()
    } else {
        format!("isolated by {}", policies.join(", "))
    };
    match nearest {
        Some(nearest) => format!("{by}; nearest: {nearest}"),
        None => format!("{by}; no rule comes near"),
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Dropped => "dropped",
            Self::Rejected => "rejected",
            Self::Forwarded => "forwarded",
        })
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Direction::from(*self).fmt(f)
    }
}

impl Place {
    /// The address, with the port where there is one.
    #[must_use]
    pub fn address_text(&self) -> String {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).to_string(),
            None => self.address.to_string(),
        }
    }

    /// The pod or the node.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        let node = || self.node.as_ref().map(|node| format!("node {node}"));
        self.pod.clone().or_else(node)
    }
}

/// `dropped egress shop/cart-1 → 10.200.3.7:5432 TCP (db/pg-0): isolated by …`
impl fmt::Display for FlowRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = self
            .from
            .name()
            .unwrap_or_else(|| self.from.address.to_string());
        write!(
            f,
            "{} {} {from} → {} {}",
            self.verdict,
            self.direction,
            self.to.address_text(),
            self.protocol
        )?;
        let service = self.service.as_ref().map(|service| match &service.name {
            Some(name) => format!("by {name} {}", service.address),
            None => format!("by {}", service.address),
        });
        match (self.to.name(), service) {
            (Some(name), Some(service)) => write!(f, " ({name} {service})")?,
            (Some(known), None) | (None, Some(known)) => write!(f, " ({known})")?,
            (None, None) => {}
        }
        write!(f, ": {}", self.why)
    }
}
