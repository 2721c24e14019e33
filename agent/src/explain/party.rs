//! Who is asked about, as it is written on the command line, and which connections that makes.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use weir_ebpf::addr::Protocol as Number;

use super::{Connection, Explainer, Scene, Sender, Traffic};
use crate::model::{Pod, PodRef, Protocol, ServiceRef};

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Party {
    /// `NAMESPACE/POD`
    Pod(PodRef),
    /// `service/NAMESPACE/NAME`, `svc/NAMESPACE/NAME`
    Service(ServiceRef),
    /// `node/NAME`
    Node(String),
    /// An address: a pod's, a node's, a service's, or one beyond.
    Address(IpAddr),
}

impl FromStr for Party {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(addr) = text.parse::<IpAddr>() {
            return Ok(Self::Address(addr.to_canonical()));
        }
        let parts: Vec<&str> = text.split('/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(wrong(text));
        }
        match parts.as_slice() {
            ["node", name] => Ok(Self::Node((*name).to_owned())),
            ["service" | "svc", namespace, name] => Ok(Self::Service(ServiceRef {
                namespace: (*namespace).to_owned(),
                name: (*name).to_owned(),
            })),
            ["pod", namespace, name] | [namespace, name] => Ok(Self::Pod(PodRef {
                namespace: (*namespace).to_owned(),
                name: (*name).to_owned(),
            })),
            _ => Err(wrong(text)),
        }
    }
}

fn wrong(text: &str) -> String {
    format!("{text:?} is not NAMESPACE/POD, service/NAMESPACE/NAME, node/NAME or an address")
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(pod) => pod.fmt(f),
            Self::Service(service) => write!(f, "service/{service}"),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Address(addr) => addr.fmt(f),
        }
    }
}

/// What is sent: `tcp`, `UDP`, `icmp`, `47`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// A protocol with ports.
    Ported(Protocol),
    /// The echo requests of either family.
    Icmp,
    /// A protocol without ports.
    Other(u8),
}

impl FromStr for Sent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_uppercase().as_str() {
            "TCP" => Ok(Self::Ported(Protocol::Tcp)),
            "UDP" => Ok(Self::Ported(Protocol::Udp)),
            "SCTP" => Ok(Self::Ported(Protocol::Sctp)),
            "ICMP" | "ICMPV6" => Ok(Self::Icmp),
            number => match number.parse() {
                // Those that extend the header of IPv6 (IANA's list) are no protocols of a payload.
                Ok(0 | 43 | 44 | 51 | 59 | 60 | 135 | 139 | 140 | 253 | 254) | Err(_) => Err(
                    format!("{text:?} is not TCP, UDP, SCTP, ICMP or the number of a protocol"),
                ),
                Ok(number) => Ok(match Traffic::of(Number(number), 0) {
                    Traffic::Ports { protocol, .. } => Self::Ported(protocol),
                    Traffic::Other { protocol: 1 | 58 } => Self::Icmp,
                    Traffic::Other { protocol } => Self::Other(protocol),
                }),
            },
        }
    }
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Who opens the connection.
    pub from: Party,
    /// To whom.
    pub to: Party,
    /// To which port: its number, or its name at the pod or service.
    pub port: Option<String>,
    /// By which protocol.
    pub sent: Sent,
}

/// A connection that answers a question.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// The connection, to a backend where a service is called.
    pub connection: Connection,
    /// The service's address and port.
    pub service: Option<(IpAddr, u16)>,
}

/// All connections that a question means: one for each family that both ends have, for each
/// port of a name, and for each backend of a service.
///
/// # Errors
/// Says what is not known, or missing in the question.
pub fn connections(
    explainer: &mut Explainer<'_>,
    scene: &Scene,
    question: &Question,
) -> Result<Vec<Asked>, String> {
    let senders = senders(scene, &question.from)?;
    let mut found = BTreeSet::new();
    let mut without_backend = None;
    for sender in &senders {
        let node = match sender {
            Sender::Pod(pod, _) => scene.pod(pod).and_then(|pod| pod.node.clone()),
            Sender::Node(name, _) => Some(name.clone()),
            Sender::Outside(_) => None,
        };
        for (to, port) in destinations(scene, question)? {
            if to.is_ipv4() != sender.addr().is_ipv4() {
                continue;
            }
            let traffic = traffic(question.sent, to, port);
            let backends = explainer.judge(node.as_deref()).backends(to, traffic);
            let (service, targets) = match backends {
                None => (None, vec![(to, port)]),
                Some(backends) if backends.is_empty() => {
                    without_backend = Some(to);
                    continue;
                }
                Some(backends) => (Some((to, port)), backends),
            };
            found.extend(targets.into_iter().map(|(to, port)| Asked {
                connection: Connection {
                    from: sender.clone(),
                    to,
                    traffic: traffic.to_port(port),
                },
                service,
            }));
        }
    }
    match (found.is_empty(), without_backend) {
        (false, _) => Ok(found.into_iter().collect()),
        (true, Some(address)) => Err(format!(
            "the service at {address} has no endpoint for this port that {} could be led to",
            question.from
        )),
        (true, None) => Err(format!(
            "{} and {} have no address of the same family",
            question.from, question.to
        )),
    }
}

const fn traffic(sent: Sent, to: IpAddr, port: u16) -> Traffic {
    match (sent, to) {
        (Sent::Ported(protocol), _) => Traffic::Ports { protocol, port },
        (Sent::Other(protocol), _) => Traffic::Other { protocol },
        (Sent::Icmp, IpAddr::V4(_)) => Traffic::Other {
            protocol: Number::ICMP.0,
        },
        (Sent::Icmp, IpAddr::V6(_)) => Traffic::Other {
            protocol: Number::ICMPV6.0,
        },
    }
}

fn senders(scene: &Scene, party: &Party) -> Result<Vec<Sender>, String> {
    match party {
        Party::Pod(name) => {
            let pod = known_pod(scene, name)?;
            if pod.is_host_network {
                let node = pod.node.clone().unwrap_or_default();
                return node_addrs(scene, &node)
                    .map(|addrs| addrs.map(|addr| Sender::Node(node.clone(), addr)).collect());
            }
            Ok(addrs(pod)?
                .iter()
                .map(|addr| Sender::Pod(pod.id.clone(), *addr))
                .collect())
        }
        Party::Node(name) => node_addrs(scene, name)
            .map(|addrs| addrs.map(|addr| Sender::Node(name.clone(), addr)).collect()),
        Party::Address(addr) => Ok(vec![match (scene.owner(*addr), scene.node_at(*addr)) {
            (Some(pod), _) => Sender::Pod(pod.id.clone(), *addr),
            (None, Some(node)) => Sender::Node(node.to_owned(), *addr),
            (None, None) => Sender::Outside(*addr),
        }]),
        Party::Service(service) => Err(format!(
            "service/{service} opens no connections; name one of its pods"
        )),
    }
}

/// Addresses, and the port at each; zero where the protocol has none.
fn destinations(scene: &Scene, question: &Question) -> Result<BTreeSet<(IpAddr, u16)>, String> {
    let Question { to, port, sent, .. } = question;
    let protocol = match sent {
        Sent::Ported(protocol) => *protocol,
        Sent::Icmp | Sent::Other(_) => {
            if port.is_some() {
                return Err("this protocol has no ports".to_owned());
            }
            return Ok(addresses(scene, to)?
                .into_iter()
                .map(|addr| (addr, 0))
                .collect());
        }
    };
    let text = port.as_deref().ok_or("say which port: --port")?;
    let ports = match (text.parse::<u16>(), to) {
        (Ok(0), _) => return Err("0 is no port".to_owned()),
        (Ok(number), _) => BTreeSet::from([number]),
        (Err(_), Party::Pod(pod)) => named_ports(known_pod(scene, pod)?, text, protocol),
        (Err(_), Party::Address(addr)) => scene
            .owner(*addr)
            .map(|pod| named_ports(pod, text, protocol))
            .unwrap_or_default(),
        (Err(_), Party::Service(service)) => service_ports(scene, service, text, protocol),
        (Err(_), Party::Node(_)) => BTreeSet::new(),
    };
    if ports.is_empty() {
        return Err(format!("{to} has no {protocol} port {text:?}"));
    }
    let addresses = addresses(scene, to)?;
    Ok(addresses
        .into_iter()
        .flat_map(|addr| ports.iter().map(move |port| (addr, *port)))
        .collect())
}

fn named_ports(pod: &Pod, name: &str, protocol: Protocol) -> BTreeSet<u16> {
    pod.ports
        .iter()
        .filter(|port| port.name == name && port.protocol == protocol)
        .map(|port| port.port.get())
        .collect()
}

fn service_ports(
    scene: &Scene,
    service: &ServiceRef,
    name: &str,
    protocol: Protocol,
) -> BTreeSet<u16> {
    let mut services = scene.cluster().services();
    let found = services.find(|known| known.id == *service);
    found
        .iter()
        .flat_map(|service| &service.ports)
        .filter(|port| port.name == name && port.protocol == protocol)
        .map(|port| port.port.get())
        .collect()
}

fn addresses(scene: &Scene, party: &Party) -> Result<Vec<IpAddr>, String> {
    match party {
        Party::Pod(name) => {
            let pod = known_pod(scene, name)?;
            match (pod.is_host_network, &pod.node) {
                (true, Some(node)) => Ok(node_addrs(scene, node)?.collect()),
                (true, None) | (false, _) => Ok(addrs(pod)?.to_vec()),
            }
        }
        Party::Node(name) => Ok(node_addrs(scene, name)?.collect()),
        Party::Address(addr) => Ok(vec![*addr]),
        Party::Service(name) => {
            let mut services = scene.cluster().services();
            services
                .find(|service| service.id == *name)
                .map(|service| service.cluster_ips.clone())
                .ok_or_else(|| format!("no service {name} with a cluster IP is known"))
        }
    }
}

fn known_pod<'a>(scene: &'a Scene, name: &PodRef) -> Result<&'a Pod, String> {
    scene
        .pod(name)
        .ok_or_else(|| format!("no pod {name} is known"))
}

fn addrs(pod: &Pod) -> Result<&[IpAddr], String> {
    match pod.own_addrs() {
        [] if pod.is_completed => Err(format!("the pod {} has completed", pod.id)),
        [] => Err(format!("the pod {} has no address yet", pod.id)),
        addrs => Ok(addrs),
    }
}

fn node_addrs(scene: &Scene, name: &str) -> Result<impl Iterator<Item = IpAddr>, String> {
    match scene.cluster().node(name) {
        Some(node) => Ok(node.addrs.clone().into_iter()),
        None => Err(format!("no node {name:?} is known")),
    }
}
