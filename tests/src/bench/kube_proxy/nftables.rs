//! nftables mode: a verdict map leads from address, protocol and port to a chain for each service port,
//! which translates to one of its endpoints at random.
//!
//! The shape is that of Kubernetes 1.36 (`pkg/proxy/nftables/proxier.go` there). What it has changed
//! counts for every packet and even more for a load, so it is not that of 1.35: no chain for each
//! endpoint, but a map inside the service's rule; no jump for masquerading, but the mark set in place,
//! for clients beyond the cluster once for all services; and a pod that meets itself is known from a set
//! after the translation (`hairpin-connections`, of the node's own endpoints).
//!
//! # What a load costs
//!
//! kube-proxy writes all of it in one transaction, and so does [`Rules::whole`]. The kernel names the map
//! of each rule by looking at all maps that there are, and looks through all that the transaction holds for
//! each reference: with the square of the number of services (kubernetes/kubernetes#139513). In the
//! kernel it comes to the same in several transactions, a fraction of the time each: [`Rules::pieces`],
//! for those who do not measure the loading itself.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use crate::bench::cluster::{SERVICE_PORT, Service, TARGET_PORT};

/// Service ports of one piece: few enough that the transaction's own length does not count.
const PIECE: usize = 1_000;
/// The type of the maps that an address, a protocol and a port are looked up in.
const BY_ADDRESS: &str = "ipv4_addr . inet_proto . inet_service : verdict";
/// That of those that belong to all of the node's addresses.
const BY_PORT: &str = "inet_proto . inet_service : verdict";

/// Hooks, each with its kind, its place and its priority.
const HOOKS: [(&str, &str, &str, i32); 8] = [
    ("filter-prerouting-pre-dnat", "filter", "prerouting", -110),
    ("filter-output-pre-dnat", "filter", "output", -110),
    ("filter-input", "filter", "input", 0),
    ("filter-forward", "filter", "forward", 0),
    ("filter-output", "filter", "output", 0),
    ("nat-prerouting", "nat", "prerouting", -100),
    ("nat-output", "nat", "output", -100),
    ("nat-postrouting", "nat", "postrouting", 100),
];

/// Chains that all services share.
const SHARED: [&str; 7] = [
    "nodeport-endpoints-check",
    "service-endpoints-check",
    "firewall-check",
    "services",
    "masquerading",
    "cluster-ips-check",
    "reject-chain",
];

/// What each hook asks, in this order.
const JUMPS: [(&str, &str); 11] = [
    ("filter-input", "ct state new jump nodeport-endpoints-check"),
    ("filter-input", "ct state new jump service-endpoints-check"),
    (
        "filter-forward",
        "ct state new jump service-endpoints-check",
    ),
    ("filter-output", "ct state new jump service-endpoints-check"),
    (
        "filter-prerouting-pre-dnat",
        "ct state new jump firewall-check",
    ),
    ("filter-output-pre-dnat", "ct state new jump firewall-check"),
    ("nat-output", "jump services"),
    ("nat-prerouting", "jump services"),
    ("nat-postrouting", "jump masquerading"),
    ("filter-forward", "ct state new jump cluster-ips-check"),
    ("filter-output", "ct state new jump cluster-ips-check"),
];

/// Texts for `nft -f`, which belong together in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    frame: String,
    /// A command in each line.
    services: Vec<String>,
}

impl Rules {
    /// Of these services. The pods of the cluster are in `pods`, services in `cidr`, node ports at `node`.
    #[must_use]
    pub fn new(
        services: impl Iterator<Item = Service>,
        cidr: Ipv4Network,
        pods: Ipv4Network,
        node: Ipv4Addr,
    ) -> Self {
        Self {
            frame: frame(cidr, pods, node),
            services: services.map(|service| of_service(&service)).collect(),
        }
    }

    /// All in one transaction.
    #[must_use]
    pub fn whole(&self) -> String {
        self.frame.clone() + &self.services.concat()
    }

    /// The same in several transactions.
    #[must_use]
    pub fn pieces(&self) -> Vec<String> {
        let mut pieces: Vec<String> = self.services.chunks(PIECE).map(<[_]>::concat).collect();
        match pieces.first_mut() {
            Some(first) => first.insert_str(0, &self.frame),
            None => pieces.push(self.frame.clone()),
        }
        pieces
    }
}

/// What kube-proxy writes when the endpoints of a service on other nodes have changed, and nothing else.
#[must_use]
pub fn of_endpoints(service: &Service) -> String {
    let mut text = String::new();
    for protocol in service.transports {
        let chain = Chain::new(service, protocol);
        let _ = writeln!(text, "flush chain ip kube-proxy {}", chain.service());
        text += &chain.translation(service);
    }
    text
}

/// What is there without any service.
fn frame(cidr: Ipv4Network, pods: Ipv4Network, node: Ipv4Addr) -> String {
    let mut text = "add table ip kube-proxy { comment \"rules for kube-proxy\" ; }\n".to_owned();
    let mut add = |what: &str, name: &str, more: &str| {
        let _ = writeln!(text, "add {what} ip kube-proxy {name} {more}");
    };
    for (name, kind, hook, priority) in HOOKS {
        let place = format!("{{ type {kind} hook {hook} priority {priority} ; }}");
        add("chain", name, &place);
    }
    for name in SHARED {
        add("chain", name, "");
    }
    for (hook, rule) in JUMPS {
        add("rule", hook, rule);
    }
    for (name, kind) in [
        ("cluster-ips", "ipv4_addr"),
        ("nodeport-ips", "ipv4_addr"),
        (
            "hairpin-connections",
            "ipv4_addr . ipv4_addr . inet_proto . inet_service",
        ),
    ] {
        add("set", name, &format!("{{ type {kind} ; }}"));
    }
    for (name, kind) in [
        ("service-ips", BY_ADDRESS),
        ("service-nodeports", BY_PORT),
        ("firewall-ips", BY_ADDRESS),
        ("no-endpoint-services", BY_ADDRESS),
        ("no-endpoint-nodeports", BY_PORT),
    ] {
        add("map", name, &format!("{{ type {kind} ; }}"));
    }
    add("element", "nodeport-ips", &format!("{{ {node} }}"));
    let by_address = |map| format!("ip daddr . meta l4proto . th dport vmap @{map}");
    let by_port = |map| format!("ip daddr @nodeport-ips meta l4proto . th dport vmap @{map}");
    for (chain, rule) in [
        (
            "services",
            format!("ip daddr @cluster-ips ip saddr != {pods} mark set mark or 0x4000"),
        ),
        ("services", by_address("service-ips")),
        ("services", by_port("service-nodeports")),
        (
            "masquerading",
            "mark and 0x4000 != 0 mark set mark xor 0x4000 masquerade fully-random".to_owned(),
        ),
        (
            "masquerading",
            "ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections \
             masquerade fully-random"
                .to_owned(),
        ),
        (
            "cluster-ips-check",
            "ip daddr @cluster-ips reject".to_owned(),
        ),
        ("cluster-ips-check", format!("ip daddr {{ {cidr} }} drop")),
        ("reject-chain", "reject".to_owned()),
        (
            "service-endpoints-check",
            by_address("no-endpoint-services"),
        ),
        ("nodeport-endpoints-check", by_port("no-endpoint-nodeports")),
        ("firewall-check", by_address("firewall-ips")),
    ] {
        add("rule", chain, &rule);
    }
    text
}

fn of_service(service: &Service) -> String {
    let ip = service.ip;
    let mut text = format!("add element ip kube-proxy cluster-ips {{ {ip} }}\n");
    for name in service.transports {
        let chain = Chain::new(service, name);
        let (inside, outside, protocol) = (chain.service(), chain.external(), &chain.protocol);
        let mut add = |what: &str, more: &str| {
            let _ = writeln!(text, "add {what} ip kube-proxy {more}");
        };
        add("chain", &inside);
        let to_service = format!("{ip} . {protocol} . {SERVICE_PORT} : goto {inside}");
        add("element", &format!("service-ips {{ {to_service} }}"));
        if let Some(port) = service.node_port {
            add("chain", &outside);
            let to_external = format!("{protocol} . {port} : goto {outside}");
            add("element", &format!("service-nodeports {{ {to_external} }}"));
            add("rule", &format!("{outside} mark set mark or 0x4000"));
            add("rule", &format!("{outside} goto {inside}"));
        }
        let here = service.endpoints.iter().filter(|_| service.is_here);
        for addr in here {
            let itself = format!("{addr} . {addr} . {protocol} . {TARGET_PORT}");
            add("element", &format!("hairpin-connections {{ {itself} }}"));
        }
        text += &chain.translation(service);
    }
    text
}

/// The chains of a service port.
struct Chain {
    base: String,
    protocol: String,
}

impl Chain {
    fn new(service: &Service, transport: &str) -> Self {
        let (name, protocol) = (&service.name, transport.to_lowercase());
        // A digest where kube-proxy has one: names are as long as its.
        let digest = service.ip.to_bits();
        Self {
            base: format!("{digest:08X}-default/{name}/{protocol}/{protocol}"),
            protocol,
        }
    }

    fn service(&self) -> String {
        format!("service-{}", self.base)
    }

    fn external(&self) -> String {
        format!("external-{}", self.base)
    }

    /// The rule that chooses an endpoint.
    fn translation(&self, service: &Service) -> String {
        let mut choices = String::new();
        for (number, addr) in service.endpoints.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            let _ = write!(choices, "{comma}{number} : {addr} . {TARGET_PORT}");
        }
        format!(
            "add rule ip kube-proxy {} meta l4proto {} dnat ip addr . port to numgen random mod {} \
             map {{ {choices} }}\n",
            self.service(),
            self.protocol,
            service.endpoints.len(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::cluster::TRANSPORTS;

    fn service(number: u8, node_port: Option<u16>) -> Service {
        Service {
            name: "web".to_owned(),
            ip: Ipv4Addr::new(10, 32, 0, number),
            node_port,
            transports: &TRANSPORTS,
            endpoints: [[10, 200, 0, 2], [10, 200, 128, 2]]
                .map(Ipv4Addr::from)
                .into(),
            is_here: node_port.is_some(),
        }
    }

    fn of(services: impl Iterator<Item = Service>) -> Rules {
        Rules::new(
            services,
            "10.32.0.0/16".parse().unwrap(),
            "10.200.0.0/16".parse().unwrap(),
            Ipv4Addr::new(10, 240, 0, 11),
        )
    }

    /// The rules of a chain.
    fn chain<'a>(rules: &'a str, name: &str) -> Vec<&'a str> {
        let start = format!("add rule ip kube-proxy {name} ");
        let lines = rules.lines();
        lines.filter_map(|line| line.strip_prefix(&start)).collect()
    }

    #[test]
    fn a_service_port_has_one_chain_with_one_rule_that_chooses_among_its_endpoints() {
        let rules = of([service(10, None)].into_iter()).whole();
        let base = "0A20000A-default/web/tcp/tcp";
        assert!(rules.contains(&format!(
            "add element ip kube-proxy service-ips {{ 10.32.0.10 . tcp . 80 : goto service-{base} }}"
        )));
        assert_eq!(
            chain(&rules, &format!("service-{base}")),
            [
                "meta l4proto tcp dnat ip addr . port to numgen random mod 2 \
                 map { 0 : 10.200.0.2 . 8080, 1 : 10.200.128.2 . 8080 }"
            ]
        );
        for absent in [
            " external-",
            " endpoint-",
            "add element ip kube-proxy hairpin",
        ] {
            assert!(!rules.contains(absent), "{absent}");
        }
    }

    #[test]
    fn a_node_port_is_masqueraded_and_goes_on_to_the_service() {
        let rules = of([service(10, Some(30_080))].into_iter()).whole();
        let base = "0A20000A-default/web/udp/udp";
        assert!(rules.contains(&format!("udp . 30080 : goto external-{base}")));
        assert_eq!(
            chain(&rules, &format!("external-{base}")),
            ["mark set mark or 0x4000", &format!("goto service-{base}")]
        );
        assert!(rules.contains("hairpin-connections { 10.200.0.2 . 10.200.0.2 . udp . 8080 }"));
    }

    #[test]
    fn both_hooks_of_translation_ask_for_strangers_first_and_for_node_ports_last() {
        let rules = of([service(10, None)].into_iter()).whole();
        for hook in ["nat-prerouting", "nat-output"] {
            assert_eq!(chain(&rules, hook), ["jump services"]);
        }
        assert_eq!(
            chain(&rules, "services"),
            [
                "ip daddr @cluster-ips ip saddr != 10.200.0.0/16 mark set mark or 0x4000",
                "ip daddr . meta l4proto . th dport vmap @service-ips",
                "ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports",
            ]
        );
    }

    #[test]
    fn pieces_together_are_the_whole() {
        let services =
            || (0..2_500_u32).map(|number| service(u8::try_from(number % 250).unwrap(), None));
        let rules = of(services());
        assert_eq!(rules.pieces().len(), 3);
        assert_eq!(rules.pieces().concat(), rules.whole());
        assert_eq!(of(std::iter::empty()).pieces().len(), 1);
    }

    #[test]
    fn a_change_of_endpoints_rewrites_the_chain_of_that_service_alone() {
        let text = of_endpoints(&service(10, None));
        let verbs: Vec<&str> = text
            .lines()
            .map(|line| line.split(" ip kube-proxy ").next().unwrap())
            .collect();
        assert_eq!(
            verbs,
            ["flush chain", "add rule", "flush chain", "add rule"]
        );
        assert!(text.lines().all(|line| line.contains("service-0A20000A-")));
    }
}
