//! Who else works on the node's packets, and how its network is set.

use std::{collections::BTreeSet, fs};

use aya::programs::loaded_programs;
use nix::net::if_::if_nameindex;

use super::Finding;
use crate::{
    attach::{AgentLock, Features, OwnPrograms},
    config::{Paths, Places, lock_file},
    fast_path::{self, Choice, judge},
    kube_proxy::{self, Leavings, Presence},
    maps::pins::Pins,
    sources::node,
};

/// Whose programs or interfaces begin with this, and what that means.
const OTHERS: [(&str, Sign, &str, &str); 4] = [
    (
        "Cilium",
        Sign::Interface("cilium_"),
        "it enforces network policies and may translate services",
        "let one of the two do it: Cilium with kubeProxyReplacement=false and \
         policyEnforcementMode=never, or Weir not on this node",
    ),
    (
        "Cilium",
        Sign::Program("cil_"),
        "it enforces network policies and may translate services",
        "let one of the two do it: Cilium with kubeProxyReplacement=false and \
         policyEnforcementMode=never, or Weir not on this node",
    ),
    (
        "Calico's eBPF dataplane",
        Sign::Interface("bpfin.cali"),
        "it translates services and enforces network policies",
        "let one of the two do it: Calico with linuxDataplane=Iptables (bpfEnabled=false), or Weir \
         not on this node",
    ),
    (
        "Calico's eBPF dataplane",
        Sign::Program("cali_"),
        "it translates services and enforces network policies",
        "let one of the two do it: Calico with linuxDataplane=Iptables (bpfEnabled=false), or Weir \
         not on this node",
    ),
];

/// By what somebody is known.
#[derive(Clone, Copy, Debug)]
enum Sign {
    /// An interface's name begins with this.
    Interface(&'static str),
    /// A loaded program's name begins with this.
    Program(&'static str),
}

pub(super) async fn examine(paths: &Paths, places: &Places) -> Vec<Finding> {
    // Then it is the agent who answers health checks.
    let agent_runs = AgentLock::is_held(&lock_file(&paths.run_dir)).unwrap_or(false);
    let presence = kube_proxy::presence(!agent_runs, true).await;
    let mut findings = vec![match kube_proxy::survey() {
        Ok(left) => judge_kube_proxy(&presence, &left),
        Err(error) => Finding::warning(
            "kube-proxy",
            format!("what it may have left is not told: {error:#}"),
            "run as root",
        ),
    }];
    findings.extend(others(&interfaces(), &programs()));
    findings.push(forwarding());
    findings.push(fast_path(paths, places).await);
    findings
}

/// What an agent with `--fast-path=auto` would do.
async fn fast_path(paths: &Paths, places: &Places) -> Finding {
    let found = node::list(&places.netns_dir).await.and_then(|node| {
        let interfaces = fast_path::Places::of(&node);
        let own = &mut OwnPrograms::default();
        fast_path::look(&Pins::new(&paths.bpffs), &interfaces, own)
    });
    let is_supported = Features::probe().is_ok_and(|features| features.redirect_peer);
    let state = judge(
        Choice::Auto,
        is_supported,
        &found.map_err(|error| format!("{error:#}")),
    );
    // Nothing is wrong with the long way.
    Finding::ok("fast path", state.to_string())
}

fn judge_kube_proxy(presence: &Presence, left: &Leavings) -> Finding {
    let name = "kube-proxy";
    let what = left.describe().join(", ");
    match (presence, left.remedy()) {
        (Presence::Running(reason), _) => Finding::warning(
            name,
            match what.as_str() {
                "" => format!("one runs ({reason})"),
                what => format!("one runs ({reason}): {what}"),
            },
            "once the agent is ready, end it: kubectl -n kube-system delete daemonset kube-proxy \
             (or start the cluster without); its rules are removed then",
        ),
        (Presence::Absent, Some(remedy)) => Finding::warning(
            name,
            format!("none runs, but it has left {what}"),
            format!("once the agent is ready, on the host: {remedy}"),
        ),
        (Presence::Absent, None) if left.is_removable() => Finding::ok(
            name,
            format!("none runs; the agent removes what one has left: {what}"),
        ),
        (Presence::Absent, None) => Finding::ok(name, "none runs, and none has left anything"),
    }
}

fn interfaces() -> BTreeSet<String> {
    let all = if_nameindex().map(|all| {
        all.iter()
            .map(|one| one.name().to_string_lossy().into_owned())
            .collect()
    });
    all.unwrap_or_default()
}

/// The names of all loaded programs, where this process may ask for them (CAP_SYS_ADMIN).
fn programs() -> BTreeSet<String> {
    loaded_programs()
        .filter_map(|program| program.ok()?.name_as_str().map(str::to_owned))
        .collect()
}

fn others(interfaces: &BTreeSet<String>, programs: &BTreeSet<String>) -> Vec<Finding> {
    let name = "other programs";
    let mut findings = Vec::<Finding>::new();
    for (who, sign, does, remedy) in OTHERS {
        let (what, names, prefix) = match sign {
            Sign::Interface(prefix) => ("interface", interfaces, prefix),
            Sign::Program(prefix) => ("program", programs, prefix),
        };
        let is_told = |finding: &Finding| finding.found.starts_with(who);
        if let Some(one) = names.iter().find(|one| one.starts_with(prefix))
            && !findings.iter().any(is_told)
        {
            let found = format!("{who} is here ({what} {one}): {does}");
            findings.push(Finding::warning(name, found, remedy));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(name, "none of another service proxy"));
    }
    findings
}

fn forwarding() -> Finding {
    let is_off = |setting: &str| {
        let path = format!("/proc/sys/net/{setting}");
        fs::read_to_string(path).is_ok_and(|text| text.trim() == "0")
    };
    judge_forwarding(
        is_off("ipv4/ip_forward"),
        is_off("ipv6/conf/all/forwarding"),
    )
}

fn judge_forwarding(is_v4_off: bool, is_v6_off: bool) -> Finding {
    let name = "forwarding";
    let off = match (is_v4_off, is_v6_off) {
        (false, false) => return Finding::ok(name, "on"),
        (false, true) => return Finding::ok(name, "on for IPv4, off for IPv6"),
        (true, true) => "off",
        (true, false) => "off for IPv4, on for IPv6",
    };
    Finding::warning(
        name,
        format!("{off}: the node passes no packets on between pods and to other nodes"),
        "the CNI plugin sets it; else sysctl -w net.ipv4.ip_forward=1 \
         net.ipv6.conf.all.forwarding=1",
    )
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;
    use crate::kube_proxy::{Family, TableName};

    fn names(all: &[&str]) -> BTreeSet<String> {
        all.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn another_proxy_is_named_once() {
        let findings = others(&names(&["lo", "cilium_host"]), &names(&["cil_from_netdev"]));
        assert_eq!(findings.len(), 1);
        assert!(findings[0].found.contains("cilium_host"), "{findings:?}");
        let findings = others(&names(&["cali123"]), &names(&["from_pod"]));
        assert_eq!(
            findings[0].state,
            State::Ok,
            "Calico without eBPF: {findings:?}"
        );
    }

    #[test]
    fn what_kube_proxy_left_is_the_agents_business_unless_it_cannot_remove_it() {
        let runs = Presence::Running("process 7".to_owned());
        let rules = Leavings {
            rules: vec!["nftables table ip kube-proxy".to_owned()],
            ..Leavings::default()
        };
        let legacy = Leavings {
            legacy: vec![TableName::new(Family::V4, "nat")],
            ..Leavings::default()
        };
        let servers = Leavings {
            servers: 2,
            ..Leavings::default()
        };
        for (presence, left, state) in [
            (&Presence::Absent, &Leavings::default(), State::Ok),
            (&Presence::Absent, &rules, State::Ok),
            (&Presence::Absent, &legacy, State::Ok),
            (&Presence::Absent, &servers, State::Warning),
            (&runs, &rules, State::Warning),
            (&runs, &Leavings::default(), State::Warning),
        ] {
            let finding = judge_kube_proxy(presence, left);
            assert_eq!(finding.state, state, "{finding:?}");
        }
    }

    #[test]
    fn a_cluster_of_ipv4_needs_no_forwarding_of_ipv6() {
        assert_eq!(judge_forwarding(false, true).state, State::Ok);
        assert_eq!(judge_forwarding(true, true).state, State::Warning);
    }
}
