//! Who is measured side by side, and by which way: the lines of a table, before anybody is there.

use super::kube_proxy::Iptables;
use super::load::Work;
use super::site::{Proxy, Way};

/// From where the service is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// By a pod, at the cluster IP.
    Pod,
    /// By a host beside the node, at the node port.
    Host,
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Pod, Self::Host];

    /// What people read.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pod => "pod → cluster IP",
            Self::Host => "outside → node port",
        }
    }

    const fn direct(self) -> Way {
        match self {
            Self::Pod => Way::PodToPod,
            Self::Host => Way::HostToPod,
        }
    }
}

/// Whether packets may pass the node's own stack by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FastPath {
    /// They are handed over, where they may.
    On,
    /// All go through it.
    Off,
}

/// Who is compared with direct traffic: a site's proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contender {
    /// What people read.
    pub name: String,
    /// Who translates.
    pub proxy: Proxy,
    /// Policies that select the pods.
    pub policies: u32,
    /// Weir, and in which way.
    pub weir: Option<FastPath>,
}

impl Contender {
    /// All of them: Weir with each number of policies, with and without its fast path where it has
    /// one, and kube-proxy's rules, which know no policies.
    #[must_use]
    pub fn all(policies: &[u32], has_fast_path: bool, iptables: Option<&Iptables>) -> Vec<Self> {
        let mut all = Vec::new();
        for number in policies {
            let mut weir = |name: &str, flags: &[&str], way| {
                all.push(Self {
                    name: name.to_owned(),
                    proxy: Proxy::Weir(flags.iter().map(|&flag| flag.to_owned()).collect()),
                    policies: *number,
                    weir: Some(way),
                });
            };
            if has_fast_path {
                weir("Weir", &["--fast-path=off"], FastPath::Off);
                weir("Weir, fast path", &["--fast-path=on"], FastPath::On);
            } else {
                weir("Weir", &[], FastPath::Off);
            }
        }
        let mut rules = |name: &str, proxy| {
            all.push(Self {
                name: name.to_owned(),
                proxy,
                policies: 0,
                weir: None,
            });
        };
        rules("nftables", Proxy::Nftables);
        if let Some(iptables) = iptables {
            rules("iptables", Proxy::Iptables(iptables.clone()));
        }
        all
    }

    /// Its name, with the path that its packets go, and the policies.
    #[must_use]
    pub fn title(&self, path: &str) -> String {
        let name = match self.name.split_once(',') {
            Some((name, rest)) => format!("{name}{path},{rest}"),
            None => format!("{}{path}", self.name),
        };
        match self.policies {
            0 => name,
            more => format!("{name}, {more} policies"),
        }
    }
}

/// One line of a table: whose site, and by which way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// What people read.
    pub name: String,
    /// The number of the contender; `None`: nobody translates.
    pub contender: Option<usize>,
    /// Who asks whom.
    pub way: Way,
}

impl Lane {
    /// Those of one kind of work, direct traffic first.
    #[must_use]
    pub fn all(contenders: &[Contender], side: Side, work: Work) -> Vec<Self> {
        let mut lanes = vec![Self {
            name: "direct".to_owned(),
            contender: None,
            way: side.direct(),
        }];
        for (number, contender) in contenders.iter().enumerate() {
            let mut add = |path: &str, way| {
                lanes.push(Self {
                    name: contender.title(path),
                    contender: Some(number),
                    way,
                });
            };
            match (side, contender.weir) {
                (Side::Host, _) => add("", Way::HostToNodePort),
                (Side::Pod, None) => add("", Way::PodToService),
                // Datagrams of pods are translated packet by packet.
                (Side::Pod, Some(_)) if work == Work::Datagrams => {
                    add(" packet path", Way::PodToService);
                }
                (Side::Pod, Some(_)) => {
                    add(" socket path", Way::PodToService);
                    add(" packet path", Way::PodToServiceByPackets);
                }
            }
        }
        lanes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(lanes: &[Lane]) -> Vec<&str> {
        lanes.iter().map(|lane| lane.name.as_str()).collect()
    }

    #[test]
    fn each_path_of_weirs_has_a_line_of_its_own_with_and_without_policies() {
        let contenders = Contender::all(&[0, 500], true, None);
        let lanes = Lane::all(&contenders, Side::Pod, Work::Connections);
        assert_eq!(
            names(&lanes),
            [
                "direct",
                "Weir socket path",
                "Weir packet path",
                "Weir socket path, fast path",
                "Weir packet path, fast path",
                "Weir socket path, 500 policies",
                "Weir packet path, 500 policies",
                "Weir socket path, fast path, 500 policies",
                "Weir packet path, fast path, 500 policies",
                "nftables",
            ]
        );
    }

    #[test]
    fn datagrams_and_hosts_have_one_path_only() {
        let contenders = Contender::all(&[0], false, None);
        let datagrams = Lane::all(&contenders, Side::Pod, Work::Datagrams);
        assert_eq!(
            names(&datagrams),
            ["direct", "Weir packet path", "nftables"]
        );
        let host = Lane::all(&contenders, Side::Host, Work::Connections);
        assert_eq!(names(&host), ["direct", "Weir", "nftables"]);
        assert_eq!(host[0].way, Way::HostToPod);
    }
}
