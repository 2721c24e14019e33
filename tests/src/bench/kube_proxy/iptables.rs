//! iptables mode: one rule for each service port in one chain, which a first packet goes through from
//! the beginning; chains of the service port and of each endpoint behind it.

use std::fmt::Write as _;

use ipnetwork::Ipv4Network;

use crate::bench::cluster::{SERVICE_PORT, Service, TARGET_PORT};

/// The filters that kube-proxy has beside its translation. Chains without rules are those of source
/// ranges and of services without endpoints. kube-proxy's rule for invalid packets has a counter
/// (`nfacct`) besides, which other packets never reach, and which few kernels have.
const FILTER: &str = "\
*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment \"kubernetes health check service ports\" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL -m comment --comment \"block incoming localnet connections\" -d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
";

/// What every translation begins and ends with.
const FRAME: &str = "\
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
";

/// The last rule of the services' chain.
const TO_NODE_PORTS: &str = "-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; \
    NOTE: this must be the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS";

/// A text for `iptables-restore --noflush`. The pods of the cluster are in `pods`.
///
/// kube-proxy's order of services is that of a hash table. The first of these comes in the middle:
/// its packets go through as many rules as those of a service do on average.
#[must_use]
pub fn rules(services: impl Iterator<Item = Service>, pods: Ipv4Network) -> String {
    let mut services: Vec<Service> = services.collect();
    let middle = services.len() / 2;
    services[..=middle].rotate_left(1);
    let mut all = Parts::default();
    for service in &services {
        for protocol in service.transports {
            all.add(service, protocol, pods);
        }
    }
    let Parts { chains, rules, .. } = all;
    format!(
        "{FILTER}*nat
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
{chains}{FRAME}{rules}{TO_NODE_PORTS}
COMMIT
"
    )
}

#[derive(Default)]
struct Parts {
    /// Of the service ports so far: their chains' names are numbers instead of digests.
    count: u32,
    chains: String,
    rules: String,
}

impl Parts {
    fn add(&mut self, service: &Service, protocol: &str, pods: Ipv4Network) {
        let Service {
            name,
            ip,
            node_port,
            endpoints,
            ..
        } = service;
        let lower = protocol.to_lowercase();
        let (number, comment) = (self.count, format!("default/{name}:{lower}"));
        self.count += 1;
        let chain = format!("KUBE-SVC-{number:016}");
        let transport = format!("-m {lower} -p {lower}");
        let mut rule = |text: String| {
            let _ = writeln!(self.rules, "-A {text}");
        };
        let _ = writeln!(self.chains, ":{chain} - [0:0]");
        let to_cluster_ip = format!(
            "-m comment --comment \"{comment} cluster IP\" {transport} -d {ip}/32 \
             --dport {SERVICE_PORT}"
        );
        rule(format!("KUBE-SERVICES {to_cluster_ip} -j {chain}"));
        rule(format!(
            "{chain} {to_cluster_ip} ! -s {pods} -j KUBE-MARK-MASQ"
        ));
        for (place, addr) in endpoints.iter().enumerate() {
            let endpoint = format!("KUBE-SEP-{:016}", number as usize * 100 + place);
            let _ = writeln!(self.chains, ":{endpoint} - [0:0]");
            // Each takes its share of what those before it have left.
            let chance = match endpoints.len() - place {
                1 => String::new(),
                left => format!(
                    " -m statistic --mode random --probability {:.10}",
                    1.0 / f64::from(u32::try_from(left).unwrap_or(u32::MAX))
                ),
            };
            rule(format!(
                "{chain} -m comment --comment \"{comment} -> {addr}:{TARGET_PORT}\"{chance} \
                 -j {endpoint}"
            ));
            rule(format!(
                "{endpoint} -m comment --comment {comment} -s {addr} -j KUBE-MARK-MASQ"
            ));
            rule(format!(
                "{endpoint} -m comment --comment {comment} {transport} -j DNAT \
                 --to-destination {addr}:{TARGET_PORT}"
            ));
        }
        if let Some(port) = node_port {
            let external = format!("KUBE-EXT-{number:016}");
            let _ = writeln!(self.chains, ":{external} - [0:0]");
            // One rule for those of the node's own loopback, so that they can be counted.
            for of in [" -d 127.0.0.0/8", ""] {
                rule(format!(
                    "KUBE-NODEPORTS -m comment --comment {comment} {transport}{of} --dport {port} \
                     -j {external}"
                ));
            }
            rule(format!(
                "{external} -m comment --comment \"masquerade traffic for {comment} external \
                 destinations\" -j KUBE-MARK-MASQ"
            ));
            rule(format!("{external} -j {chain}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::bench::cluster::TRANSPORTS;

    fn services(count: u8) -> impl Iterator<Item = Service> {
        (0..count).map(|number| Service {
            name: format!("s{number}"),
            ip: Ipv4Addr::new(10, 32, 0, number),
            node_port: (number == 0).then_some(30_080),
            transports: &TRANSPORTS,
            is_here: false,
            endpoints: vec![
                Ipv4Addr::new(10, 200, 1, number),
                Ipv4Addr::new(10, 200, 2, number),
            ],
        })
    }

    fn of(count: u8) -> String {
        rules(services(count), "10.200.0.0/16".parse().unwrap())
    }

    /// The rules of a chain in the table of translations.
    fn chain<'a>(rules: &'a str, name: &str) -> Vec<&'a str> {
        let (_, nat) = rules.split_once("*nat").unwrap();
        let start = format!("-A {name} ");
        nat.lines()
            .filter(|line| line.starts_with(&start))
            .collect()
    }

    #[test]
    fn the_first_service_comes_in_the_middle_and_node_ports_last() {
        let rules = of(4);
        let all = chain(&rules, "KUBE-SERVICES");
        let names: Vec<bool> = all
            .iter()
            .map(|rule| rule.contains("default/s0:"))
            .collect();
        assert_eq!(
            names,
            [false, false, false, false, true, true, false, false, false]
        );
        assert!(all[8].ends_with("-j KUBE-NODEPORTS"), "{}", all[8]);
    }

    #[test]
    fn a_service_port_chooses_among_its_endpoints_with_equal_chances() {
        let rules = of(1);
        let all = chain(&rules, "KUBE-SVC-0000000000000000");
        assert!(all[0].contains("! -s 10.200.0.0/16 -j KUBE-MARK-MASQ"));
        assert!(all[1].contains("--probability 0.5000000000 -j KUBE-SEP-"));
        assert!(all[2].contains("-> 10.200.2.0:8080") && !all[2].contains("--probability"));
        let endpoint = chain(&rules, "KUBE-SEP-0000000000000001");
        assert!(endpoint[0].ends_with("-s 10.200.2.0 -j KUBE-MARK-MASQ"));
        assert!(endpoint[1].ends_with("-m tcp -p tcp -j DNAT --to-destination 10.200.2.0:8080"));
    }

    #[test]
    fn a_node_port_is_masqueraded_and_goes_on_to_the_service() {
        let rules = of(1);
        let udp = chain(&rules, "KUBE-NODEPORTS")[3];
        assert!(udp.ends_with("-m udp -p udp --dport 30080 -j KUBE-EXT-0000000000000001"));
        let external = chain(&rules, "KUBE-EXT-0000000000000001");
        assert!(external[0].ends_with("-j KUBE-MARK-MASQ"));
        assert!(external[1].ends_with("-j KUBE-SVC-0000000000000001"));
    }

    #[test]
    fn every_chain_that_is_gone_to_is_there() {
        let rules = of(3);
        let (_, nat) = rules.split_once("*nat").unwrap();
        for line in nat.lines() {
            if let Some((_, to)) = line.split_once(" -j KUBE-") {
                assert!(nat.contains(&format!(":KUBE-{to} - ")), "{line}");
            }
        }
    }
}
