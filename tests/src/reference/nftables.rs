//! The rules that kube-proxy would write for a [`World`], in its published shape: a second oracle
//! beside the model, run by the kernel.
//!
//! Verdict maps lead from address, protocol and port to a chain for each service port and policy,
//! and from there at random to a chain for each endpoint. What has no endpoint is found in maps of
//! refusals. Only the choice of endpoints is the model's ([`endpoints`]); where packets go, who is
//! masqueraded and what is refused follows from the rules alone.
//!
//! Left out: session affinity, which is a set for each endpoint that changes nothing for a first
//! connection.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;

use super::endpoints::{self, Chosen, Policy};
use super::frontends;
use super::world::{Service, ServicePort, ServiceType, World};

/// The mark of packets whose source is to be masqueraded.
const MASQUERADE_MARK: &str = "0x4000";

/// A text for `nft -f`. The node's pods have addresses in these ranges.
#[must_use]
pub fn rules(world: &World, pods: &[IpNetwork]) -> String {
    [false, true]
        .map(|is_v6| {
            let mut table = Table::new(world, pods, is_v6);
            for service in &world.services {
                if frontends::is_served(service, is_v6) {
                    for port in &service.ports {
                        table.add(service, port);
                    }
                }
            }
            table.print()
        })
        .join("\n")
}

struct Table<'a> {
    world: &'a World,
    is_v6: bool,
    /// `ip` or `ip6`
    family: &'static str,
    pods: Option<&'a IpNetwork>,
    /// Elements of sets and maps by name; of what is claimed twice, the first.
    elements: BTreeMap<&'static str, BTreeMap<String, String>>,
    /// Rules by chain.
    chains: BTreeMap<String, Vec<String>>,
}

/// The sets and maps with their types; `ADDR` is the family's type of address.
const MAPS: [(&str, &str); 7] = [
    ("cluster-ips", "set ADDR"),
    ("nodeport-ips", "set ADDR"),
    (
        "service-ips",
        "map ADDR . inet_proto . inet_service : verdict",
    ),
    (
        "service-nodeports",
        "map inet_proto . inet_service : verdict",
    ),
    (
        "no-endpoint-services",
        "map ADDR . inet_proto . inet_service : verdict",
    ),
    (
        "no-endpoint-nodeports",
        "map inet_proto . inet_service : verdict",
    ),
    (
        "firewall-ips",
        "map ADDR . inet_proto . inet_service : verdict",
    ),
];

/// The hooks: chain, type, hook, priority, and what it does. Refusals see translated packets only,
/// which match nothing; the source ranges have to see them before.
const HOOKS: [(&str, &str, &[&str]); 8] = [
    (
        "filter-prerouting-pre-dnat",
        "filter hook prerouting priority -110",
        &["ct state new jump firewall-check"],
    ),
    (
        "filter-output-pre-dnat",
        "filter hook output priority -110",
        &["ct state new jump firewall-check"],
    ),
    (
        "filter-input",
        "filter hook input priority 0",
        &[
            "ct state new jump nodeport-endpoints-check",
            "ct state new jump service-endpoints-check",
        ],
    ),
    (
        "filter-forward",
        "filter hook forward priority 0",
        &[
            "ct state new jump service-endpoints-check",
            "ct state new jump cluster-ips-check",
        ],
    ),
    (
        "filter-output",
        "filter hook output priority 0",
        &[
            "ct state new jump service-endpoints-check",
            "ct state new jump nodeport-endpoints-check",
            "ct state new jump cluster-ips-check",
        ],
    ),
    (
        "nat-prerouting",
        "nat hook prerouting priority -100",
        &["jump services"],
    ),
    (
        "nat-output",
        "nat hook output priority -100",
        &["jump services"],
    ),
    (
        "nat-postrouting",
        "nat hook postrouting priority 100",
        &["jump masquerading"],
    ),
];

impl<'a> Table<'a> {
    fn new(world: &'a World, pods: &'a [IpNetwork], is_v6: bool) -> Self {
        let mut table = Self {
            world,
            is_v6,
            family: if is_v6 { "ip6" } else { "ip" },
            pods: pods.iter().find(|range| range.is_ipv6() == is_v6),
            elements: BTreeMap::new(),
            chains: BTreeMap::new(),
        };
        table.add_fixed_chains();
        for addr in &world.node.node_port_addresses {
            if addr.is_ipv6() == is_v6 {
                table.put("nodeport-ips", addr.to_string(), String::new());
            }
        }
        table
    }

    fn add_fixed_chains(&mut self) {
        let family = self.family;
        let at_service = format!("{family} daddr . meta l4proto . th dport vmap");
        let at_node_port = format!("{family} daddr @nodeport-ips meta l4proto . th dport vmap");
        let mut check = vec![format!("{family} daddr @cluster-ips reject")];
        check.extend(
            self.world
                .service_cidrs
                .iter()
                .filter(|cidr| cidr.is_ipv6() == self.is_v6)
                .map(|cidr| format!("{family} daddr {cidr} drop")),
        );
        let chains = [
            (
                "services",
                vec![
                    format!("{at_service} @service-ips"),
                    format!("{at_node_port} @service-nodeports"),
                ],
            ),
            (
                "service-endpoints-check",
                vec![format!("{at_service} @no-endpoint-services")],
            ),
            (
                "nodeport-endpoints-check",
                vec![format!("{at_node_port} @no-endpoint-nodeports")],
            ),
            (
                "firewall-check",
                vec![format!("{at_service} @firewall-ips")],
            ),
            ("cluster-ips-check", check),
            ("reject-chain", vec!["reject".to_owned()]),
            (
                "mark-for-masquerade",
                vec![format!("mark set mark or {MASQUERADE_MARK}")],
            ),
            (
                "masquerading",
                vec![
                    format!("mark and {MASQUERADE_MARK} == 0 return"),
                    format!("mark set mark xor {MASQUERADE_MARK}"),
                    "masquerade fully-random".to_owned(),
                ],
            ),
        ];
        for (name, rules) in chains {
            self.chains.insert(name.to_owned(), rules);
        }
    }

    fn put(&mut self, map: &'static str, key: String, value: String) {
        let elements = self.elements.entry(map).or_default();
        elements.entry(key).or_insert(value);
    }

    /// One service port.
    fn add(&mut self, service: &Service, port: &ServicePort) {
        let readings = endpoints::readings(self.world, service, port, self.is_v6);
        let reading = &readings[0];
        let choose = |policy| reading.choose(&self.world.node, policy);
        let (cluster, local) = (choose(Policy::Cluster), choose(Policy::Local));
        let base = format!(
            "{}/{}/{}",
            service.name,
            port.protocol.to_lowercase(),
            port.name
        );
        let cluster = self.policy_chain(format!("service-{base}"), &base, port, cluster);
        let local = self.policy_chain(format!("local-{base}"), &base, port, local);
        let has_endpoints = cluster.is_some();
        let of_policy = |is_local| if is_local { &local } else { &cluster };
        let verdict = if has_endpoints {
            "drop"
        } else {
            "goto reject-chain"
        };

        for addr in self.family_of(&service.cluster_ips) {
            self.put("cluster-ips", addr.to_string(), String::new());
            let key = key_at(addr, port);
            match of_policy(service.internal_is_local) {
                Some(chain) => {
                    let entry = format!("cluster-{base}");
                    self.put("service-ips", key, format!("goto {entry}"));
                    let rules = self.masquerade_unless_pod(addr, chain);
                    self.chains.insert(entry, rules);
                }
                None => self.put("no-endpoint-services", key, verdict.to_owned()),
            }
        }

        let external = cluster.as_ref().map(|cluster| {
            let name = format!("external-{base}");
            let rules = self.external(service.external_is_local, cluster, local.as_deref());
            self.chains.insert(name.clone(), rules);
            name
        });
        let mut addresses = self.family_of(&service.external_ips);
        addresses.extend(self.load_balancer_addresses(service));
        let is_refused = of_policy(service.external_is_local).is_none();
        let mut reach = |map, refusals, key: String| {
            if let Some(chain) = &external {
                self.put(map, key.clone(), format!("goto {chain}"));
            }
            if is_refused {
                self.put(refusals, key, verdict.to_owned());
            }
        };
        for addr in addresses {
            reach("service-ips", "no-endpoint-services", key_at(addr, port));
        }
        if let (Some(number), ServiceType::NodePort | ServiceType::LoadBalancer) =
            (port.node_port, service.service_type)
        {
            let key = format!("{} . {number}", port.protocol.to_lowercase());
            reach("service-nodeports", "no-endpoint-nodeports", key);
        }
        self.add_firewall(service, port, &base);
    }

    fn family_of(&self, all: &[IpAddr]) -> Vec<IpAddr> {
        let is_v6 = self.is_v6;
        let all = all.iter().copied();
        all.filter(|addr| addr.is_ipv6() == is_v6).collect()
    }

    fn load_balancer_addresses(&self, service: &Service) -> Vec<IpAddr> {
        self.family_of(&frontends::load_balancer_addresses(service).collect::<Vec<_>>())
    }

    /// Who comes from outside to a cluster IP is masqueraded, since the backend may be elsewhere.
    fn masquerade_unless_pod(&self, addr: IpAddr, chain: &str) -> Vec<String> {
        let family = self.family;
        let mut rules = Vec::new();
        if let Some(pods) = self.pods {
            rules.push(format!(
                "{family} daddr {addr} {family} saddr != {pods} jump mark-for-masquerade"
            ));
        }
        rules.push(format!("goto {chain}"));
        rules
    }

    /// The chain of everything but the cluster IP, for a service port that has endpoints.
    fn external(&self, is_local: bool, cluster: &str, local: Option<&str>) -> Vec<String> {
        let family = self.family;
        if !is_local {
            return vec![
                "jump mark-for-masquerade".to_owned(),
                format!("goto {cluster}"),
            ];
        }
        let mut rules = Vec::new();
        if let Some(pods) = self.pods {
            rules.push(format!("{family} saddr {pods} goto {cluster}"));
        }
        rules.push("fib saddr type local jump mark-for-masquerade".to_owned());
        rules.push(format!("fib saddr type local goto {cluster}"));
        rules.extend(local.map(|local| format!("goto {local}")));
        rules
    }

    fn add_firewall(&mut self, service: &Service, port: &ServicePort, base: &str) {
        let ranges: BTreeSet<String> = service
            .source_ranges
            .iter()
            .filter(|range| range.is_ipv6() == self.is_v6)
            .map(ToString::to_string)
            .collect();
        if ranges.is_empty() {
            return;
        }
        let name = format!("firewall-{base}");
        for addr in self.load_balancer_addresses(service) {
            self.put("firewall-ips", key_at(addr, port), format!("goto {name}"));
        }
        let ranges: Vec<String> = ranges.into_iter().collect();
        let rule = format!("{} saddr != {{ {} }} drop", self.family, ranges.join(", "));
        self.chains.insert(name, vec![rule]);
    }

    /// The chain of a policy and those of its endpoints; `None` where it chooses none.
    fn policy_chain(
        &mut self,
        name: String,
        base: &str,
        port: &ServicePort,
        chosen: Chosen,
    ) -> Option<String> {
        let Chosen::These(endpoints) = chosen else {
            return None;
        };
        let mut choices = Vec::new();
        for (index, at) in endpoints.iter().enumerate() {
            let endpoint = format!("endpoint-{base}__{}/{}", in_name(at.ip()), at.port());
            choices.push(format!("{index} : goto {endpoint}"));
            let rules = self.endpoint(*at, port);
            self.chains.insert(endpoint, rules);
        }
        let rule = format!(
            "numgen random mod {} vmap {{ {} }}",
            endpoints.len(),
            choices.join(", ")
        );
        self.chains.insert(name.clone(), vec![rule]);
        Some(name)
    }

    fn endpoint(&self, at: SocketAddr, port: &ServicePort) -> Vec<String> {
        vec![
            format!("{} saddr {} jump mark-for-masquerade", self.family, at.ip()),
            format!("meta l4proto {} dnat to {at}", port.protocol.to_lowercase()),
        ]
    }

    fn print(&self) -> String {
        let addr = if self.is_v6 { "ipv6_addr" } else { "ipv4_addr" };
        let mut text = format!("table {} kube-proxy {{\n", self.family);
        // Chains are named before they are gone to.
        for name in self.chains.keys() {
            let _ = writeln!(text, "  chain {name} {{\n  }}");
        }
        for (name, kind) in MAPS {
            let (kind, type_of) = kind.split_once(' ').expect("a kind and a type");
            let type_of = type_of.replace("ADDR", addr);
            let _ = writeln!(text, "  {kind} {name} {{\n    type {type_of}");
            let elements = self.elements.get(name).into_iter().flatten();
            let elements: Vec<String> = elements
                .map(|(key, value)| match value.as_str() {
                    "" => key.clone(),
                    value => format!("{key} : {value}"),
                })
                .collect();
            if !elements.is_empty() {
                let _ = writeln!(text, "    elements = {{ {} }}", elements.join(", "));
            }
            text.push_str("  }\n");
        }
        for (name, hook, rules) in HOOKS {
            let _ = writeln!(text, "  chain {name} {{\n    type {hook};");
            for rule in rules {
                let _ = writeln!(text, "    {rule}");
            }
            text.push_str("  }\n");
        }
        for (name, rules) in &self.chains {
            let _ = writeln!(text, "  chain {name} {{");
            for rule in rules {
                let _ = writeln!(text, "    {rule}");
            }
            text.push_str("  }\n");
        }
        text.push_str("}\n");
        text
    }
}

fn key_at(addr: IpAddr, port: &ServicePort) -> String {
    format!("{addr} . {} . {}", port.protocol.to_lowercase(), port.port)
}

/// An address as a part of a chain's name.
fn in_name(addr: IpAddr) -> String {
    addr.to_string().replace(':', ".")
}
