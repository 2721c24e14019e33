//! The rules that kube-proxy's iptables mode makes for one service with `iptables-legacy`, between
//! those of the kubelet and of a CNI plugin, with a set of its IPVS mode; and the programs that make
//! them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use weir_tests::bed::{Family, Node};

use super::iptables::Service;

/// `iptables-legacy`, `ip6tables-legacy` and `ipset`.
pub struct Programs {
    /// Where the packages were unpacked.
    tree: PathBuf,
}

impl Programs {
    /// Those that `cargo xtask test network` has fetched.
    pub fn find() -> Result<Self> {
        let tree = std::env::var_os("WEIR_IPTABLES_LEGACY")
            .context("WEIR_IPTABLES_LEGACY is not set: run `cargo xtask test network`")?;
        Ok(Self { tree: tree.into() })
    }

    /// Loads rules in the format of `iptables-save` on a node, beside those that are there.
    pub fn load(&self, node: &Node, family: Family, rules: &str) -> Result<()> {
        let mut file = tempfile::NamedTempFile::new().context("make a file for rules")?;
        file.write_all(rules.as_bytes())
            .context("write the rules")?;
        let arguments = ["--noflush".into(), "--counters".into(), file.path().into()];
        self.iptables(node, family, "restore", &arguments).map(drop)
    }

    /// A table in that format: rules with what they have counted.
    pub fn save(&self, node: &Node, family: Family, table: &str) -> Result<String> {
        let arguments = ["--counters".into(), "--table".into(), table.into()];
        self.iptables(node, family, "save", &arguments)
    }

    /// Makes a set of addresses and ports.
    pub fn make_set(&self, node: &Node, family: Family, name: &str) -> Result<()> {
        let word = match family {
            Family::V4 => "inet",
            Family::V6 => "inet6",
        };
        let arguments = ["create", name, "hash:ip,port", "family", word];
        self.run(node, "usr/sbin/ipset", &arguments.map(OsString::from))
            .map(drop)
    }

    /// The names of all sets.
    pub fn sets(&self, node: &Node) -> Result<BTreeSet<String>> {
        let arguments = ["list", "-name"].map(OsString::from);
        let names = self.run(node, "usr/sbin/ipset", &arguments)?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    fn iptables(
        &self,
        node: &Node,
        family: Family,
        what: &str,
        arguments: &[OsString],
    ) -> Result<String> {
        let word = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        let mut all = vec![OsString::from(format!("{word}-{what}"))];
        all.extend(arguments.iter().cloned());
        self.run(node, "usr/sbin/xtables-legacy-multi", &all)
    }

    fn run(&self, node: &Node, program: &str, arguments: &[OsString]) -> Result<String> {
        let libraries = self.libraries()?;
        let setting = |name: &str, value: &Path| {
            let mut text = OsString::from(format!("{name}="));
            text.push(value);
            text
        };
        let mut all = vec![
            setting("LD_LIBRARY_PATH", &libraries),
            setting("XTABLES_LIBDIR", &libraries.join("xtables")),
            self.tree.join(program).into_os_string(),
        ];
        all.extend(arguments.iter().cloned());
        node.system().run(Path::new("/usr/bin/env"), &all)
    }

    /// The directory of libraries, whose name is the machine's.
    fn libraries(&self) -> Result<PathBuf> {
        let parent = self.tree.join("usr/lib");
        let entries =
            std::fs::read_dir(&parent).with_context(|| format!("list {}", parent.display()))?;
        entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.join("xtables").is_dir())
            .with_context(|| format!("no extensions of iptables in {}", parent.display()))
    }
}

/// A set of kube-proxy's IPVS mode, to which a rule refers.
pub const fn set(is_v6: bool) -> &'static str {
    match is_v6 {
        false => "KUBE-CLUSTER-IP",
        true => "KUBE-6-CLUSTER-IP",
    }
}

/// A set of somebody else's.
pub const OTHER_SET: &str = "KUBE-ROUTER-PODS";

/// The rules of others, by table: what is to be left, with what it has counted.
pub const OTHERS: [(&str, &str); 3] = [
    (
        "nat",
        ":CNI-HOSTPORT-DNAT - [0:0]
:CNI-HOSTPORT-MASQ - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-MARK-DROP - [0:0]
[7:420] -A PREROUTING -p tcp -m tcp --dport 9 -j CNI-HOSTPORT-DNAT
[0:0] -A POSTROUTING -m mark --mark 0x2000 -j CNI-HOSTPORT-MASQ
[1:60] -A CNI-HOSTPORT-DNAT -p tcp -m tcp --dport 9 -m comment --comment \"of others\" -j RETURN
[2:120] -A CNI-HOSTPORT-MASQ -j MASQUERADE
[3:180] -A KUBE-MARK-DROP -j MARK --set-xmark 0x8000/0x8000",
    ),
    (
        "filter",
        ":KUBE-FIREWALL - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
[4:240] -A INPUT -p udp -m udp --dport 9 -j KUBE-FIREWALL
[0:0] -A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP",
    ),
    (
        "mangle",
        ":KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]",
    ),
];

/// Each table with the rules of others between kube-proxy's own.
pub fn rules(service: &Service) -> String {
    let own = [nat(service), filter(), mangle()];
    OTHERS
        .into_iter()
        .zip(own)
        .map(|((table, others), (heads, before, after))| {
            let (others, rest): (Vec<&str>, Vec<&str>) =
                others.lines().partition(|line| line.starts_with(':'));
            let lines = [
                heads.as_str(),
                &others.join("\n"),
                &before,
                &rest.join("\n"),
                &after,
            ];
            format!("*{table}\n{}\nCOMMIT\n", lines.join("\n"))
        })
        .collect()
}

/// Chains, the rules before others', and those behind.
type Own = (String, String, String);

fn nat(service: &Service) -> Own {
    let Service {
        ip,
        port,
        node_port,
        endpoints,
        target_port,
        pods,
    } = service;
    let heads = [
        "KUBE-SERVICES",
        "KUBE-NODEPORTS",
        "KUBE-POSTROUTING",
        "KUBE-MARK-MASQ",
        "KUBE-PROXY-CANARY",
        "KUBE-SEP-AAAAAAAAAAAAAAAA",
        "KUBE-SEP-BBBBBBBBBBBBBBBB",
        "KUBE-SVC-CCCCCCCCCCCCCCCC",
        "KUBE-EXT-CCCCCCCCCCCCCCCC",
    ]
    .map(|chain| format!(":{chain} - [0:0]"));
    let before = "-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING";
    let [first, second] = endpoints.map(|at| SocketAddr::new(at, *target_port));
    let after = format!(
        "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-SEP-AAAAAAAAAAAAAAAA -s {} -j KUBE-MARK-MASQ
-A KUBE-SEP-AAAAAAAAAAAAAAAA -p tcp -j DNAT --to-destination {first}
-A KUBE-SEP-BBBBBBBBBBBBBBBB -s {} -j KUBE-MARK-MASQ
-A KUBE-SEP-BBBBBBBBBBBBBBBB -p tcp -j DNAT --to-destination {second}
-A KUBE-SVC-CCCCCCCCCCCCCCCC ! -s {pods} -d {ip} -p tcp --dport {port} -j KUBE-MARK-MASQ
-A KUBE-SVC-CCCCCCCCCCCCCCCC -m statistic --mode random --probability 0.5 \
-j KUBE-SEP-AAAAAAAAAAAAAAAA
-A KUBE-SVC-CCCCCCCCCCCCCCCC -j KUBE-SEP-BBBBBBBBBBBBBBBB
-A KUBE-EXT-CCCCCCCCCCCCCCCC -j KUBE-MARK-MASQ
-A KUBE-EXT-CCCCCCCCCCCCCCCC -j KUBE-SVC-CCCCCCCCCCCCCCCC
-A KUBE-NODEPORTS -p tcp --dport {node_port} -j KUBE-EXT-CCCCCCCCCCCCCCCC
-A KUBE-SERVICES -d {ip} -p tcp --dport {port} -j KUBE-SVC-CCCCCCCCCCCCCCCC
-A KUBE-SERVICES -m set --match-set {set} dst,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",
        first.ip(),
        second.ip(),
        set = set(service.ip.is_ipv6()),
    );
    (heads.join("\n"), before.to_owned(), after)
}

fn filter() -> Own {
    let heads = ":KUBE-FORWARD - [0:0]\n:KUBE-NODEPORTS - [0:0]";
    let before =
        "-A INPUT -m conntrack --ctstate NEW -j KUBE-NODEPORTS\n-A FORWARD -j KUBE-FORWARD";
    let after = "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";
    (heads.to_owned(), before.to_owned(), after.to_owned())
}

fn mangle() -> Own {
    let heads = ":KUBE-PROXY-CANARY - [0:0]";
    (heads.to_owned(), String::new(), String::new())
}

/// The lines of a saved table that tell something: rules, and chains but the hooks'.
pub fn told(saved: &str) -> BTreeSet<&str> {
    let is_hook = |line: &str| {
        ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]
            .iter()
            .any(|hook| {
                line.strip_prefix(':')
                    .is_some_and(|line| line.starts_with(hook))
            })
    };
    saved
        .lines()
        .filter(|line| line.starts_with(':') && !is_hook(line) || line.contains("-A "))
        .collect()
}
