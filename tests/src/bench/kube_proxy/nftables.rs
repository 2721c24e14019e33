//! nftables mode: verdict maps lead from address, protocol and port to a chain for each service port,
//! and from there at random to a chain for each endpoint.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use crate::bench::cluster::{SERVICE_PORT, Service, TARGET_PORT, TRANSPORTS};

/// What is there without any service: hooks, what they ask, and the chains that services share.
const FRAME: &str = "\
  chain filter-prerouting-pre-dnat {
    type filter hook prerouting priority -110;
    ct state new jump firewall-check
  }
  chain filter-output-pre-dnat {
    type filter hook output priority -110;
    ct state new jump firewall-check
  }
  chain filter-input {
    type filter hook input priority 0;
    ct state new jump nodeport-endpoints-check
    ct state new jump service-endpoints-check
  }
  chain filter-forward {
    type filter hook forward priority 0;
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }
  chain filter-output {
    type filter hook output priority 0;
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }
  chain nat-prerouting {
    type nat hook prerouting priority -100;
    jump services
  }
  chain nat-output {
    type nat hook output priority -100;
    jump services
  }
  chain nat-postrouting {
    type nat hook postrouting priority 100;
    jump masquerading
  }
  chain firewall-check {
    ip daddr . meta l4proto . th dport vmap @firewall-ips
  }
  chain service-endpoints-check {
    ip daddr . meta l4proto . th dport vmap @no-endpoint-services
  }
  chain nodeport-endpoints-check {
    ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
  }
  chain services {
    ip daddr . meta l4proto . th dport vmap @service-ips
    ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
  }
  chain masquerading {
    mark and 0x4000 == 0 return
    mark set mark xor 0x4000
    masquerade fully-random
  }
";

/// A text for `nft -f`. The pods of the cluster are in `pods`, node ports at `node`.
#[must_use]
pub fn rules(
    services: impl Iterator<Item = Service>,
    cidr: Ipv4Network,
    pods: Ipv4Network,
    node: Ipv4Addr,
) -> String {
    let mut all = Parts::default();
    for service in services {
        let _ = write!(all.cluster_ips, "{}, ", service.ip);
        for protocol in TRANSPORTS {
            all.add(&service, &protocol.to_lowercase(), pods);
        }
    }
    let Parts {
        cluster_ips,
        service_ips,
        node_ports,
        chains,
    } = all;
    let map = "ipv4_addr . inet_proto . inet_service : verdict";
    format!(
        "table ip kube-proxy {{
  set cluster-ips {{ type ipv4_addr; elements = {{ {cluster_ips} }}; }}
  set nodeport-ips {{ type ipv4_addr; elements = {{ {node} }}; }}
  map firewall-ips {{ type {map}; }}
  map no-endpoint-services {{ type {map}; }}
  map no-endpoint-nodeports {{ type inet_proto . inet_service : verdict; }}
  chain mark-for-masquerade {{
    mark set mark or 0x4000
  }}
  chain reject-chain {{
    reject
  }}
  chain cluster-ips-check {{
    ip daddr @cluster-ips reject
    ip daddr {cidr} drop
  }}
{chains}  map service-ips {{ type {map}; elements = {{ {service_ips} }}; }}
  map service-nodeports {{ type inet_proto . inet_service : verdict; elements = {{ {node_ports} }}; }}
{FRAME}}}
"
    )
}

#[derive(Default)]
struct Parts {
    cluster_ips: String,
    service_ips: String,
    node_ports: String,
    chains: String,
}

impl Parts {
    fn add(&mut self, service: &Service, protocol: &str, pods: Ipv4Network) {
        let Service {
            name,
            ip,
            node_port,
            endpoints,
        } = service;
        let base = format!("{name}-default/{name}/{protocol}/{protocol}");
        let mut choices = String::new();
        for (number, addr) in endpoints.iter().enumerate() {
            let chain = format!("endpoint-{base}__{addr}/{TARGET_PORT}");
            let _ = writeln!(
                self.chains,
                "  chain {chain} {{
    ip saddr {addr} jump mark-for-masquerade
    meta l4proto {protocol} dnat to {addr}:{TARGET_PORT}
  }}"
            );
            let _ = write!(choices, "{number} : goto {chain}, ");
        }
        let _ = writeln!(
            self.chains,
            "  chain service-{base} {{
    ip daddr {ip} {protocol} dport {SERVICE_PORT} ip saddr != {pods} jump mark-for-masquerade
    numgen random mod {} vmap {{ {choices}}}
  }}",
            endpoints.len()
        );
        let _ = write!(
            self.service_ips,
            "{ip} . {protocol} . {SERVICE_PORT} : goto service-{base}, "
        );
        if let Some(number) = node_port {
            let _ = writeln!(
                self.chains,
                "  chain external-{base} {{
    jump mark-for-masquerade
    goto service-{base}
  }}"
            );
            let _ = write!(
                self.node_ports,
                "{protocol} . {number} : goto external-{base}, "
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(node_port: Option<u16>) -> Service {
        Service {
            name: "web".to_owned(),
            ip: Ipv4Addr::new(10, 32, 0, 10),
            node_port,
            endpoints: [[10, 200, 0, 2], [10, 200, 128, 2]]
                .map(Ipv4Addr::from)
                .into(),
        }
    }

    fn of(service: Service) -> String {
        rules(
            [service].into_iter(),
            "10.32.0.0/16".parse().unwrap(),
            "10.200.0.0/16".parse().unwrap(),
            Ipv4Addr::new(10, 240, 0, 11),
        )
    }

    /// The rules of a chain.
    fn chain(rules: &str, name: &str) -> Vec<String> {
        let (_, rest) = rules.split_once(&format!("  chain {name} {{")).unwrap();
        let (inside, _) = rest.split_once("\n  }").unwrap();
        let lines = inside.lines().map(|line| line.trim().to_owned());
        lines.filter(|line| !line.is_empty()).collect()
    }

    #[test]
    fn a_service_port_has_a_chain_that_chooses_among_those_of_its_endpoints() {
        let rules = of(service(None));
        let base = "web-default/web/tcp/tcp";
        assert!(rules.contains(&format!("10.32.0.10 . tcp . 80 : goto service-{base}")));
        assert_eq!(
            chain(&rules, &format!("service-{base}")),
            [
                "ip daddr 10.32.0.10 tcp dport 80 ip saddr != 10.200.0.0/16 jump mark-for-masquerade"
                    .to_owned(),
                format!(
                    "numgen random mod 2 vmap {{ 0 : goto endpoint-{base}__10.200.0.2/8080, \
                     1 : goto endpoint-{base}__10.200.128.2/8080, }}"
                ),
            ]
        );
        assert_eq!(
            chain(&rules, &format!("endpoint-{base}__10.200.0.2/8080")),
            [
                "ip saddr 10.200.0.2 jump mark-for-masquerade",
                "meta l4proto tcp dnat to 10.200.0.2:8080",
            ]
        );
        assert!(!rules.contains("external-"));
    }

    #[test]
    fn a_node_port_is_masqueraded_and_goes_on_to_the_service() {
        let rules = of(service(Some(30_080)));
        let base = "web-default/web/udp/udp";
        assert!(rules.contains(&format!("udp . 30080 : goto external-{base}")));
        assert_eq!(
            chain(&rules, &format!("external-{base}")),
            [
                "jump mark-for-masquerade".to_owned(),
                format!("goto service-{base}"),
            ]
        );
    }

    #[test]
    fn both_hooks_of_translation_ask_the_maps_in_this_order() {
        let rules = of(service(None));
        for hook in ["nat-prerouting", "nat-output"] {
            assert_eq!(chain(&rules, hook)[1], "jump services");
        }
        assert_eq!(
            chain(&rules, "services"),
            [
                "ip daddr . meta l4proto . th dport vmap @service-ips",
                "ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports",
            ]
        );
    }
}
