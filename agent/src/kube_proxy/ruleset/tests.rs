use proptest::prelude::*;

use super::*;

fn table(name: &str) -> TableName {
    TableName::new(Family::V4, name)
}

fn chain(is_base: bool, jumps: &[(u64, &str)]) -> Chain {
    Chain {
        is_base,
        jumps: jumps
            .iter()
            .map(|&(handle, to)| Jump {
                handle,
                to: to.to_owned(),
            })
            .collect(),
    }
}

/// A chain's name, whether the kernel sends packets there, and where its rules lead.
type Written<'a> = (&'a str, bool, &'a [(u64, &'a str)]);

fn chains(all: &[Written<'_>]) -> BTreeMap<String, Chain> {
    all.iter()
        .map(|&(name, is_base, jumps)| (name.to_owned(), chain(is_base, jumps)))
        .collect()
}

fn nat(all: &[Written<'_>]) -> Ruleset {
    Ruleset::from([(table("nat"), chains(all))])
}

/// What is left of a ruleset; panics where the kernel would refuse.
fn performed(rules: &Ruleset, changes: &[Change]) -> Ruleset {
    let mut rules = rules.clone();
    let mut empty = BTreeSet::new();
    for change in changes {
        match change {
            Change::Hold(family) => {
                rules.insert(TableName::new(*family, HOLDER), BTreeMap::new());
            }
            Change::RemoveRule(table, chain, handle) => {
                let jumps = &mut rules.get_mut(table).unwrap().get_mut(chain).unwrap().jumps;
                let before = jumps.len();
                jumps.retain(|jump| jump.handle != *handle);
                assert_eq!(jumps.len() + 1, before, "{change:?}");
            }
            Change::EmptyChain(table, chain) => {
                let chain_now = rules.get_mut(table).unwrap().get_mut(chain).unwrap();
                chain_now.jumps.clear();
                empty.insert(chain.clone());
            }
            Change::RemoveChain(table, chain) => {
                let chains = rules.get_mut(table).unwrap();
                assert!(empty.contains(chain), "{chain} has rules");
                let leads_there = |other: &Chain| other.jumps.iter().any(|it| it.to == *chain);
                assert!(!chains.values().any(leads_there), "{chain} is in use");
                assert!(chains.remove(chain).is_some());
            }
            Change::RemoveTable(table) => assert!(rules.remove(table).is_some()),
        }
    }
    rules
}

#[test]
fn a_table_of_its_own_goes_as_a_whole_and_leaves_translation_at_work() {
    let v6 = TableName::new(Family::V6, "kube-proxy");
    let rules = Ruleset::from([
        (table("kube-proxy"), BTreeMap::new()),
        (v6.clone(), BTreeMap::new()),
        (table("firewall"), BTreeMap::new()),
    ]);
    assert_eq!(
        removal(&rules),
        [
            Change::Hold(Family::V4),
            Change::Hold(Family::V6),
            Change::RemoveTable(table("kube-proxy")),
            Change::RemoveTable(v6),
        ]
    );
    let after = performed(&rules, &removal(&rules));
    assert!(is_held(&after));
    assert!(removal(&after).is_empty());
    assert!(!is_held(&performed(&after, &release(&after))));
}

#[test]
fn chains_go_with_the_jumps_to_them_and_others_stay() {
    let rules = nat(&[
        (
            "PREROUTING",
            true,
            &[(1, "KUBE-SERVICES"), (2, "CNI-HOSTPORT-DNAT")],
        ),
        (
            "POSTROUTING",
            true,
            &[(3, "KUBE-POSTROUTING"), (4, "FLANNEL-POSTRTG")],
        ),
        ("CNI-HOSTPORT-DNAT", false, &[]),
        ("FLANNEL-POSTRTG", false, &[]),
        ("KUBE-KUBELET-CANARY", false, &[]),
        ("KUBE-MARK-DROP", false, &[]),
        ("KUBE-MARK-MASQ", false, &[]),
        ("KUBE-POSTROUTING", false, &[]),
        ("KUBE-SERVICES", false, &[(5, "KUBE-SVC-A")]),
        (
            "KUBE-SVC-A",
            false,
            &[(6, "KUBE-MARK-MASQ"), (7, "KUBE-SEP-B")],
        ),
        ("KUBE-SEP-B", false, &[(8, "KUBE-MARK-MASQ")]),
    ]);
    let mut after = performed(&rules, &removal(&rules));
    assert!(after.remove(&TableName::new(Family::V4, HOLDER)).is_some());
    assert_eq!(
        after,
        nat(&[
            ("PREROUTING", true, &[(2, "CNI-HOSTPORT-DNAT")]),
            ("POSTROUTING", true, &[(4, "FLANNEL-POSTRTG")]),
            ("CNI-HOSTPORT-DNAT", false, &[]),
            ("FLANNEL-POSTRTG", false, &[]),
            ("KUBE-KUBELET-CANARY", false, &[]),
            ("KUBE-MARK-DROP", false, &[]),
        ])
    );
    assert_eq!(
        describe(&removal(&rules)),
        ["5 iptables chains in table ip nat"]
    );
}

#[test]
fn what_another_chain_leads_to_stays_with_what_reads_its_mark() {
    let rules = nat(&[
        (
            "PREROUTING",
            true,
            &[(1, "KUBE-SERVICES"), (2, "KUBE-HOSTPORTS")],
        ),
        ("POSTROUTING", true, &[(3, "KUBE-POSTROUTING")]),
        ("KUBE-HOSTPORTS", false, &[(4, "KUBE-HP-A")]),
        ("KUBE-HP-A", false, &[(5, "KUBE-MARK-MASQ")]),
        ("KUBE-MARK-MASQ", false, &[]),
        ("KUBE-POSTROUTING", false, &[]),
        ("KUBE-SERVICES", false, &[]),
    ]);
    let after = performed(&rules, &removal(&rules));
    let left = &after[&table("nat")];
    assert!(left.contains_key("KUBE-MARK-MASQ") && left.contains_key("KUBE-POSTROUTING"));
    assert_eq!(left["POSTROUTING"].jumps.len(), 1);
    assert!(!left.contains_key("KUBE-SERVICES"));
    assert!(removal(&after).is_empty(), "done once is done");
}

const NAMES: [&str; 9] = [
    "PREROUTING",
    "OTHER",
    "KUBE-FIREWALL",
    "KUBE-SERVICES",
    "KUBE-SVC-A",
    "KUBE-SEP-A",
    "KUBE-MARK-MASQ",
    "KUBE-POSTROUTING",
    "KUBE-NODEPORTS",
];

proptest! {
    #[test]
    fn no_step_is_one_that_the_kernel_would_refuse_and_nothing_is_left(
        jumps in proptest::collection::vec((0..NAMES.len(), 0..NAMES.len()), 0..24)
    ) {
        let mut all: BTreeMap<String, Chain> = NAMES
            .iter()
            .map(|&name| (name.to_owned(), chain(name == "PREROUTING", &[])))
            .collect();
        for (handle, (from, to)) in (1..).zip(jumps) {
            let to = NAMES[to].to_owned();
            all.get_mut(NAMES[from]).unwrap().jumps.push(Jump { handle, to });
        }
        let rules = Ruleset::from([(table("nat"), all)]);
        let after = performed(&rules, &removal(&rules));
        prop_assert!(removal(&after).is_empty());
        for name in ["PREROUTING", "OTHER", "KUBE-FIREWALL"] {
            prop_assert!(after[&table("nat")].contains_key(name));
        }
        // Nobody else's chain has lost a jump.
        for name in ["OTHER", "KUBE-FIREWALL"] {
            prop_assert_eq!(&after[&table("nat")][name], &rules[&table("nat")][name]);
        }
    }
}
