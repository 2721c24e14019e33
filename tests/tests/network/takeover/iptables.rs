//! The rules that kube-proxy's iptables mode makes for one service, where `iptables` is the program
//! that makes them nftables', between those of the kubelet and of a CNI plugin.

use std::net::IpAddr;

use weir_tests::bed::Family;

/// Chains that must not be touched, by table.
pub const OTHERS: [(&str, &[&str]); 3] = [
    (
        "nat",
        &[
            "CNI-HOSTPORT-DNAT",
            "CNI-HOSTPORT-MASQ",
            "KUBE-KUBELET-CANARY",
            "KUBE-MARK-DROP",
            "OUTPUT",
            "POSTROUTING",
            "PREROUTING",
        ],
    ),
    (
        "filter",
        &[
            "CNI-FORWARD",
            "FORWARD",
            "INPUT",
            "KUBE-FIREWALL",
            "KUBE-KUBELET-CANARY",
            "OUTPUT",
        ],
    ),
    ("mangle", &["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"]),
];

/// A service port and where it is served.
pub struct Service {
    /// Cluster IP.
    pub ip: IpAddr,
    /// Its port there.
    pub port: u16,
    /// At the node.
    pub node_port: u16,
    /// Two endpoints.
    pub endpoints: [IpAddr; 2],
    /// Where they serve.
    pub target_port: u16,
    /// The pods of the node.
    pub pods: &'static str,
}

/// The rules of a family: those of others only, or kube-proxy's, too.
pub fn rules(family: Family, service: Option<&Service>) -> String {
    let word = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    let if_any = |text: &str| match service {
        Some(_) => text.to_owned(),
        None => String::new(),
    };
    let jump = |to: &str| if_any(&format!("counter jump {to}"));
    let own = service.map(|service| chains(word, service));
    let text = format!(
        "table {word} nat {{
  chain KUBE-KUBELET-CANARY {{ }}
  chain KUBE-MARK-DROP {{ meta mark set mark or 0x8000 }}
  chain CNI-HOSTPORT-DNAT {{ tcp dport 9 counter return }}
  chain CNI-HOSTPORT-MASQ {{ meta mark 0x2000 counter masquerade }}
{own}
  chain PREROUTING {{ type nat hook prerouting priority -100; policy accept;
    {services}
    counter jump CNI-HOSTPORT-DNAT }}
  chain OUTPUT {{ type nat hook output priority -100; policy accept;
    {services} }}
  chain POSTROUTING {{ type nat hook postrouting priority 100; policy accept;
    {postrouting}
    counter jump CNI-HOSTPORT-MASQ }}
}}
table {word} filter {{
  chain KUBE-KUBELET-CANARY {{ }}
  chain KUBE-FIREWALL {{ meta mark and 0x8000 == 0x8000 counter drop }}
  chain CNI-FORWARD {{ counter accept }}
{filter}
  chain INPUT {{ type filter hook input priority 0; policy accept;
    {nodeports}
    counter jump KUBE-FIREWALL }}
  chain FORWARD {{ type filter hook forward priority 0; policy accept;
    {forward}
    counter jump CNI-FORWARD }}
  chain OUTPUT {{ type filter hook output priority 0; policy accept;
    counter jump KUBE-FIREWALL }}
}}
table {word} mangle {{
  chain KUBE-IPTABLES-HINT {{ }}
  chain KUBE-KUBELET-CANARY {{ }}
{canary}
}}
",
        own = own.unwrap_or_default(),
        services = jump("KUBE-SERVICES"),
        postrouting = jump("KUBE-POSTROUTING"),
        nodeports = if_any("ct state new counter jump KUBE-NODEPORTS"),
        forward = jump("KUBE-FORWARD"),
        filter = if_any(
            "  chain KUBE-NODEPORTS { }
  chain KUBE-FORWARD { ct state invalid counter drop
    ct state related,established counter accept }"
        ),
        canary = if_any("  chain KUBE-PROXY-CANARY { }"),
    );
    // A rule ends with its line or a semicolon.
    text.replace(" }", "; }").replace("{; }", "{ }")
}

fn chains(word: &str, service: &Service) -> String {
    let Service {
        ip,
        port,
        node_port,
        endpoints,
        target_port,
        pods,
    } = service;
    let to_endpoint = |at: IpAddr| {
        format!(
            "{word} saddr {at} counter jump KUBE-MARK-MASQ
    meta l4proto tcp counter dnat to {}",
            std::net::SocketAddr::new(at, *target_port)
        )
    };
    let [first, second] = endpoints.map(to_endpoint);
    format!(
        "  chain KUBE-PROXY-CANARY {{ }}
  chain KUBE-MARK-MASQ {{ counter meta mark set mark or 0x4000 }}
  chain KUBE-POSTROUTING {{ meta mark and 0x4000 != 0x4000 counter return
    counter meta mark set mark xor 0x4000
    counter masquerade fully-random }}
  chain KUBE-SEP-AAAAAAAAAAAAAAAA {{ {first} }}
  chain KUBE-SEP-BBBBBBBBBBBBBBBB {{ {second} }}
  chain KUBE-SVC-CCCCCCCCCCCCCCCC {{
    {word} saddr != {pods} {word} daddr {ip} tcp dport {port} counter jump KUBE-MARK-MASQ
    numgen random mod 2 0 counter jump KUBE-SEP-AAAAAAAAAAAAAAAA
    counter jump KUBE-SEP-BBBBBBBBBBBBBBBB }}
  chain KUBE-EXT-CCCCCCCCCCCCCCCC {{ counter jump KUBE-MARK-MASQ
    counter jump KUBE-SVC-CCCCCCCCCCCCCCCC }}
  chain KUBE-NODEPORTS {{ tcp dport {node_port} counter jump KUBE-EXT-CCCCCCCCCCCCCCCC }}
  chain KUBE-SERVICES {{ {word} daddr {ip} tcp dport {port} counter jump KUBE-SVC-CCCCCCCCCCCCCCCC
    fib daddr type local counter jump KUBE-NODEPORTS }}"
    )
}
