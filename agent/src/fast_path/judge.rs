//! From what was found to whether packets are handed over: pure.

use std::fmt;

use serde::{Deserialize, Serialize};
use weir_ebpf::tables::PolicyFlags;

use crate::kube_proxy::HOLDER;

/// Whether packets of this node's pods pass the node's IP layer by (`--fast-path`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// Where nothing of the node has a say in what it forwards
    Auto,
    /// Always, whatever rules the node has
    On,
    /// Never
    Off,
}

/// How it stands with the fast path, for `weir status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Are packets handed over?
    pub is_on: bool,
    /// Why they are not, or that they are whatever the node's rules.
    pub reason: Option<String>,
}

impl State {
    /// On, because nothing speaks against it.
    pub const ON: Self = Self {
        is_on: true,
        reason: None,
    };

    /// Off, and why.
    #[must_use]
    pub fn off(reason: impl Into<String>) -> Self {
        Self {
            is_on: false,
            reason: Some(reason.into()),
        }
    }

    /// What the programs have to know.
    #[must_use]
    pub const fn flags(&self) -> PolicyFlags {
        if self.is_on {
            PolicyFlags::HAND_OVER
        } else {
            PolicyFlags::NONE
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_on { "on" } else { "off" })?;
        match &self.reason {
            Some(reason) => write!(f, ": {reason}"),
            None => Ok(()),
        }
    }
}

/// The family of a table of nftables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `ip`
    V4,
    /// `ip6`
    V6,
    /// `inet`
    Inet,
    /// `netdev`
    Device,
}

impl Family {
    /// Those whose packets the fast path may pass by. What a bridge passes on is not forwarded by
    /// the IP layer, and what has come out of a bridge has met its chains.
    pub const ALL: [Self; 4] = [Self::V4, Self::V6, Self::Inet, Self::Device];
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
            Self::Inet => "inet",
            Self::Device => "netdev",
        })
    }
}

/// A chain of nftables to which the kernel itself sends packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NftChain {
    /// The family of its table.
    pub family: Family,
    /// Its table.
    pub table: String,
    /// Its own name.
    pub name: String,
    /// The number of the hook in its family.
    pub hook: u32,
    /// Does it translate addresses (`type nat`)?
    pub translates: bool,
    /// Does it have rules?
    pub has_rules: bool,
    /// Does what no rule speaks of pass?
    pub accepts: bool,
}

/// A hook of a table of `iptables-legacy` that has rules, or does not let everything pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyHook {
    /// Is the table one of `ip6tables`?
    pub is_v6: bool,
    /// The table.
    pub table: String,
    /// The hook's number (`NF_INET_…`).
    pub hook: u32,
}

/// What there is that may have a say in what the node forwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Of nftables.
    pub chains: Vec<NftChain>,
    /// Of iptables-legacy.
    pub legacy: Vec<LegacyHook>,
    /// Virtual servers of IPVS.
    pub servers: usize,
    /// IPsec policies.
    pub ipsec: usize,
    /// Programs of others at the interfaces, for people: what, and where.
    pub programs: Vec<String>,
    /// Interfaces to the network with a routing table of their own.
    pub apart: Vec<String>,
    /// The priorities of rules for routes that go by protocol or port.
    pub rules: Vec<u32>,
    /// The destinations of routes to the network with an MTU of their own.
    pub narrow: Vec<String>,
}

/// Hooks of IPv4 and IPv6 (`include/uapi/linux/netfilter.h`).
const PREROUTING: u32 = 0;
const INPUT: u32 = 1;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;

/// May packets be handed over? `is_supported`: the kernel can. What could not be looked at is an
/// error, which tells why.
#[must_use]
pub fn judge(choice: Choice, is_supported: bool, found: &Result<Found, String>) -> State {
    if choice == Choice::Off {
        return State::off("--fast-path=off");
    }
    if !is_supported {
        return State::off("the kernel cannot hand packets over as they must be (Linux 5.18)");
    }
    let objection = match found {
        Ok(found) => found.objection(),
        Err(error) => Some(format!("cannot look who has a say in forwarding: {error}")),
    };
    match (choice, objection) {
        (Choice::On, Some(objection)) => State {
            is_on: true,
            reason: Some(format!("as --fast-path=on says, although {objection}")),
        },
        (_, Some(objection)) => State::off(objection),
        (_, None) => State::ON,
    }
}

impl Found {
    /// What has a say, if anything has.
    fn objection(&self) -> Option<String> {
        let mut chains = self.chains.iter();
        let mut legacy = self.legacy.iter();
        chains
            .find_map(NftChain::objection)
            .or_else(|| legacy.find_map(LegacyHook::objection))
            .or_else(|| {
                (self.servers > 0).then(|| format!("IPVS has {} virtual servers", self.servers))
            })
            .or_else(|| (self.ipsec > 0).then(|| format!("IPsec has {} policies", self.ipsec)))
            .or_else(|| self.programs.first().cloned())
            .or_else(|| {
                let name = self.apart.first()?;
                Some(format!("{name} has a routing table of its own (VRF)"))
            })
            .or_else(|| {
                let priority = self.rules.first()?;
                Some(format!(
                    "the rule {priority} for routes goes by protocol or port (ip rule)"
                ))
            })
            .or_else(|| {
                let destination = self.narrow.first()?;
                Some(format!(
                    "the route {destination} has an MTU of its own that programs are not told of; \
                     lock it (ip route ... mtu lock)"
                ))
            })
    }
}

impl NftChain {
    fn objection(&self) -> Option<String> {
        let Self {
            family,
            table,
            name,
            ..
        } = self;
        if table == HOLDER {
            return Some(format!(
                "nftables table {family} {table} keeps connections that kube-proxy translated"
            ));
        }
        if self.accepts && !self.has_rules {
            return None;
        }
        // Where anything translates, the kernel translates all that it has, wherever it comes by.
        (self.forwards() || self.translates).then(|| {
            let hook = self.hook_name();
            format!("nftables table {family} {table} has a chain at {hook} ({name})")
        })
    }

    /// Does it see what is forwarded, or what comes or goes at a device?
    fn forwards(&self) -> bool {
        match self.family {
            Family::Device => true,
            // `inet` has ingress, too.
            Family::V4 | Family::V6 | Family::Inet => !matches!(self.hook, INPUT | OUTPUT),
        }
    }

    fn hook_name(&self) -> &'static str {
        match (self.family, self.hook) {
            (Family::Device, 0) => "ingress",
            (Family::Device, _) => "egress",
            (_, hook) => hook_name(hook),
        }
    }
}

impl LegacyHook {
    fn objection(&self) -> Option<String> {
        let Self { is_v6, table, hook } = self;
        let program = match is_v6 {
            false => "iptables-legacy",
            true => "ip6tables-legacy",
        };
        // As with nftables.
        (!matches!(*hook, INPUT | OUTPUT) || table == "nat").then(|| {
            let hook = hook_name(*hook);
            format!("{program} -t {table} has rules at {hook}")
        })
    }
}

const fn hook_name(hook: u32) -> &'static str {
    match hook {
        PREROUTING => "prerouting",
        INPUT => "input",
        FORWARD => "forward",
        OUTPUT => "output",
        POSTROUTING => "postrouting",
        _ => "ingress",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(family: Family, hook: u32) -> NftChain {
        NftChain {
            family,
            table: "filter".to_owned(),
            name: "chain".to_owned(),
            hook,
            translates: false,
            has_rules: true,
            accepts: true,
        }
    }

    fn of(chain: NftChain) -> State {
        let chains = vec![chain];
        let found = Found {
            chains,
            ..Found::default()
        };
        judge(Choice::Auto, true, &Ok(found))
    }

    #[test]
    fn where_nothing_has_a_say_packets_are_handed_over() {
        let nothing = Ok(Found::default());
        assert_eq!(judge(Choice::Auto, true, &nothing), State::ON);
        assert_eq!(judge(Choice::On, true, &nothing), State::ON);
        assert_eq!(State::ON.to_string(), "on");
    }

    #[test]
    fn a_rule_for_routes_by_port_is_named() {
        let found = Found {
            rules: vec![100],
            ..Found::default()
        };
        let state = judge(Choice::Auto, true, &Ok(found));
        assert_eq!(
            state.to_string(),
            "off: the rule 100 for routes goes by protocol or port (ip rule)"
        );
    }

    #[test]
    fn a_narrow_route_is_named() {
        let found = Found {
            narrow: vec!["203.0.113.0/24".to_owned()],
            ..Found::default()
        };
        let state = judge(Choice::Auto, true, &Ok(found));
        assert_eq!(
            state.to_string(),
            "off: the route 203.0.113.0/24 has an MTU of its own that programs are not told of; \
             lock it (ip route ... mtu lock)"
        );
    }

    #[test]
    fn a_chain_with_a_say_in_forwarding_is_named() {
        let state = of(chain(Family::Inet, FORWARD));
        assert_eq!(
            state.to_string(),
            "off: nftables table inet filter has a chain at forward (chain)"
        );
    }

    #[test]
    fn a_chain_counts_where_packets_are_forwarded_and_not_where_they_are_the_nodes_own() {
        for family in [Family::V4, Family::V6, Family::Inet] {
            for hook in [PREROUTING, FORWARD, POSTROUTING] {
                assert!(!of(chain(family, hook)).is_on, "{family} {hook}");
            }
            for hook in [INPUT, OUTPUT] {
                assert!(of(chain(family, hook)).is_on, "{family} {hook}");
                let nat = NftChain {
                    translates: true,
                    ..chain(family, hook)
                };
                assert!(!of(nat).is_on, "{family} {hook}");
            }
        }
        assert!(!of(chain(Family::Inet, 5)).is_on);
        for hook in [0, 1] {
            assert!(!of(chain(Family::Device, hook)).is_on);
        }
    }

    #[test]
    fn a_chain_without_rules_counts_by_its_policy_alone() {
        let idle = NftChain {
            has_rules: false,
            ..chain(Family::V4, FORWARD)
        };
        assert!(of(idle.clone()).is_on);
        let drops = NftChain {
            accepts: false,
            ..idle
        };
        assert!(!of(drops).is_on);
    }

    #[test]
    fn our_own_table_counts_for_as_long_as_it_keeps_connections() {
        let held = NftChain {
            table: HOLDER.to_owned(),
            has_rules: false,
            ..chain(Family::V4, INPUT)
        };
        assert!(!of(held).is_on);
    }

    #[test]
    fn each_other_thing_with_a_say_is_told() {
        let legacy = |table: &str, hook| {
            let hook = LegacyHook {
                is_v6: true,
                table: table.to_owned(),
                hook,
            };
            Found {
                legacy: vec![hook],
                ..Found::default()
            }
        };
        for (found, expected) in [
            (
                legacy("filter", FORWARD),
                Some("ip6tables-legacy -t filter has rules at forward"),
            ),
            (legacy("filter", INPUT), None),
            (
                legacy("nat", OUTPUT),
                Some("ip6tables-legacy -t nat has rules at output"),
            ),
            (
                Found {
                    servers: 2,
                    ..Found::default()
                },
                Some("IPVS has 2 virtual servers"),
            ),
            (
                Found {
                    ipsec: 1,
                    ..Found::default()
                },
                Some("IPsec has 1 policies"),
            ),
            (
                Found {
                    programs: vec!["eth0 has a program of others (shape) at ingress".to_owned()],
                    ..Found::default()
                },
                Some("eth0 has a program of others (shape) at ingress"),
            ),
            (
                Found {
                    apart: vec!["eth1".to_owned()],
                    ..Found::default()
                },
                Some("eth1 has a routing table of its own (VRF)"),
            ),
        ] {
            let state = judge(Choice::Auto, true, &Ok(found));
            assert_eq!(state.reason.as_deref(), expected);
            assert_eq!(state.is_on, expected.is_none());
        }
    }

    #[test]
    fn not_to_be_able_to_look_is_off() {
        let state = judge(Choice::Auto, true, &Err("no right to".to_owned()));
        assert!(!state.is_on);
        assert!(state.to_string().contains("no right to"), "{state}");
    }

    #[test]
    fn who_asks_for_it_has_it_and_is_told_what_it_passes_by() {
        let rules = Found {
            chains: vec![chain(Family::V4, FORWARD)],
            ..Found::default()
        };
        let state = judge(Choice::On, true, &Ok(rules.clone()));
        assert!(state.is_on);
        assert!(state.to_string().contains("filter"), "{state}");
        assert!(!judge(Choice::Off, true, &Ok(rules)).is_on);
        assert!(!judge(Choice::Off, true, &Ok(Found::default())).is_on);
    }

    #[test]
    fn a_kernel_that_cannot_is_never_asked_to() {
        for choice in [Choice::Auto, Choice::On] {
            assert!(!judge(choice, false, &Ok(Found::default())).is_on);
        }
    }
}
