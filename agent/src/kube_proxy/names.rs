//! Which chains and sets kube-proxy makes: Kubernetes 1.10 to 1.36, `pkg/proxy/{iptables,ipvs}`.
//!
//! A list, and not all that begins with `KUBE-`: the kubelet's are its own
//! (`pkg/kubelet/kubelet_network_linux.go`: `KUBE-KUBELET-CANARY`, `KUBE-FIREWALL`,
//! `KUBE-MARK-DROP`, `KUBE-IPTABLES-HINT`), and other proxies and plugins have some, too
//! (`KUBE-ROUTER-*`, `KUBE-NWPLCY-*`, `KUBE-HOSTPORTS`).

/// Marks what is to be masqueraded by [`POSTROUTING`]. Plugins for host ports go to it, too.
pub const MARK: &str = "KUBE-MARK-MASQ";
/// Masquerades what was marked.
pub const POSTROUTING: &str = "KUBE-POSTROUTING";

const CHAINS: &[&str] = &[
    MARK,
    POSTROUTING,
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-FIRE-WALL",
    "KUBE-FORWARD",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
    "KUBE-LOAD-BALANCER",
    "KUBE-NODE-PORT",
    "KUBE-NODEPORTS",
    "KUBE-PROXY-CANARY",
    "KUBE-PROXY-FIREWALL",
    "KUBE-SERVICES",
    "KUBE-SOURCE-RANGES-FIREWALL",
];

/// Those of a service port or an endpoint; a hash follows.
const PREFIXES: &[&str] = &[
    "KUBE-EXT-",
    "KUBE-FW-",
    "KUBE-SEP-",
    "KUBE-SVC-",
    "KUBE-SVL-",
    "KUBE-XLB-",
];

const SETS: &[&str] = &[
    "CLUSTER-IP",
    "EXTERNAL-IP",
    "EXTERNAL-IP-LOCAL",
    "HEALTH-CHECK-NODE-PORT",
    "IPVS-IPS",
    "LOAD-BALANCER",
    "LOAD-BALANCER-FW",
    "LOAD-BALANCER-LOCAL",
    "LOAD-BALANCER-SOURCE-CIDR",
    "LOAD-BALANCER-SOURCE-IP",
    "LOOP-BACK",
    "NODE-PORT-LOCAL-SCTP-HASH",
    "NODE-PORT-LOCAL-TCP",
    "NODE-PORT-LOCAL-UDP",
    "NODE-PORT-SCTP-HASH",
    "NODE-PORT-TCP",
    "NODE-PORT-UDP",
];

/// The longest name of a set; kube-proxy cuts what is longer.
const LONGEST_SET: usize = 31;

/// Is this chain of an iptables table kube-proxy's?
pub fn is_chain(name: &str) -> bool {
    CHAINS.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Is this set kube-proxy's?
pub fn is_set(name: &str) -> bool {
    SETS.iter().any(|set| {
        let v6 = format!("KUBE-6-{set}");
        name.strip_prefix("KUBE-") == Some(set) || name == &v6[..v6.len().min(LONGEST_SET)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chains_of_others_are_not_kube_proxys() {
        for name in [
            "KUBE-KUBELET-CANARY",
            "KUBE-FIREWALL",
            "KUBE-MARK-DROP",
            "KUBE-IPTABLES-HINT",
            "KUBE-ROUTER-INPUT",
            "KUBE-NWPLCY-DEFAULT",
            "KUBE-HOSTPORTS",
            "KUBE-HP-ABCDEFGHIJKLMNOP",
            "PREROUTING",
            "CNI-HOSTPORT-DNAT",
        ] {
            assert!(!is_chain(name), "{name}");
        }
        for name in [
            "KUBE-SERVICES",
            "KUBE-SVC-ERIFXISQEP7F7OF4",
            "KUBE-MARK-MASQ",
        ] {
            assert!(is_chain(name), "{name}");
        }
    }

    #[test]
    fn sets_of_ipv6_have_a_name_of_their_own_which_may_be_cut() {
        for name in [
            "KUBE-CLUSTER-IP",
            "KUBE-6-CLUSTER-IP",
            "KUBE-6-LOAD-BALANCER-SOURCE-CID",
        ] {
            assert!(is_set(name), "{name}");
        }
        for name in ["KUBE-SRC-ABCDEF", "KUBE-6-", "KUBE-", "kube-router-pods"] {
            assert!(!is_set(name), "{name}");
        }
    }
}
