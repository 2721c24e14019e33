use proptest::prelude::*;

use super::*;
use crate::kube_proxy::ruleset::{Family, Ruleset, TableName, removal};

/// A chain's name and its rules.
type Chains = Vec<(String, Vec<Rule>)>;

/// A rule: what tells it from others, and what it does.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    mark: u8,
    action: Action,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    /// As `-j ACCEPT`.
    Verdict,
    /// As `-j KUBE-SERVICES`.
    Jump(String),
    /// Without a target: the next rule is asked.
    Next,
    /// As `-j DNAT`.
    Extension,
}

/// The bytes of a table, whose first chain is the hook OUTPUT's, as the tools lay them out.
fn written(layout: Layout, chains: &Chains) -> Content {
    const ACCEPT: i32 = -2;
    const RETURN: i32 = -5;
    let entry = |mark: u8, target: &str, data: &[u8]| {
        let mut bytes = vec![0; layout.length];
        bytes[0] = mark;
        // Counters: forgotten when they are read.
        bytes[layout.length - 1] = 7;
        let target_at = u16::try_from(layout.length).unwrap();
        let mut end = vec![0; TARGET];
        end[2..2 + target.len()].copy_from_slice(target.as_bytes());
        end.extend_from_slice(data);
        end.resize(end.len().next_multiple_of(8), 0);
        let next = target_at + u16::try_from(end.len()).unwrap();
        let at = layout.target_at;
        bytes[at..at + 2].copy_from_slice(&target_at.to_ne_bytes());
        bytes[at + 2..at + 4].copy_from_slice(&next.to_ne_bytes());
        bytes.extend(end);
        bytes
    };
    let head = |name: &str| {
        let mut data = [0; 32];
        data[..name.len()].copy_from_slice(name.as_bytes());
        entry(0, ERROR, &data)
    };
    let verdict = |mark: u8, number: i32| entry(mark, "", &number.to_ne_bytes());
    // Where each chain's first rule lies: all entries but heads' have sizes that jumps do not
    // change.
    let size = |rule: &Rule| match rule.action {
        Action::Extension => entry(0, "DNAT", &[0; 24]).len(),
        Action::Verdict | Action::Jump(_) | Action::Next => verdict(0, 0).len(),
    };
    let mut first = BTreeMap::new();
    let mut at = 0;
    for (index, (name, rules)) in chains.iter().enumerate() {
        at += if index == 0 { 0 } else { head(name).len() };
        first.insert(name.as_str(), at);
        at += rules.iter().map(size).sum::<usize>() + verdict(0, 0).len();
    }
    let mut content = Content {
        hooks: 1 << 3,
        ..Content::default()
    };
    let mut policy = 0;
    for (index, (name, rules)) in chains.iter().enumerate() {
        if index > 0 {
            content.entries.extend(head(name));
            content.count += 1;
        }
        for rule in rules {
            let end = content.entries.len() + size(rule);
            let bytes = match &rule.action {
                Action::Verdict => verdict(rule.mark, ACCEPT),
                Action::Jump(to) => verdict(rule.mark, i32::try_from(first[to.as_str()]).unwrap()),
                Action::Next => verdict(rule.mark, i32::try_from(end).unwrap()),
                Action::Extension => entry(rule.mark, "DNAT", &[rule.mark; 24]),
            };
            content.entries.extend(bytes);
            content.count += 1;
        }
        if index == 0 {
            policy = content.entries.len();
        }
        content
            .entries
            .extend(verdict(0, if index == 0 { ACCEPT } else { RETURN }));
        content.count += 1;
    }
    content.entries.extend(head(ERROR));
    content.count += 1;
    content.policies[3] = u32::try_from(policy).unwrap();
    content
}

fn rule(mark: u8, action: Action) -> Rule {
    Rule { mark, action }
}

fn jump(mark: u8, to: &str) -> Rule {
    rule(mark, Action::Jump(to.to_owned()))
}

fn chains(all: &[(&str, &[Rule])]) -> Chains {
    all.iter()
        .map(|(name, rules)| ((*name).to_owned(), rules.to_vec()))
        .collect()
}

fn read(layout: Layout, chains: &Chains) -> Table {
    Table::read(layout, written(layout, chains)).unwrap()
}

/// The table without what is kube-proxy's.
fn cleaned(layout: Layout, table: &Table) -> Table {
    let rules = Ruleset::from([(TableName::new(Family::V4, "nat"), table.chains())]);
    let (content, stays) = table.without(&removal(&rules));
    assert_eq!(
        stays.iter().filter(|stays| **stays).count(),
        usize::try_from(content.count).unwrap()
    );
    Table::read(layout, content).unwrap()
}

#[test]
fn what_is_left_lies_as_if_it_had_been_written_alone() {
    for layout in [Layout::V4, Layout::V6] {
        let before = chains(&[
            (
                "OUTPUT",
                &[
                    jump(1, "KUBE-SERVICES"),
                    rule(2, Action::Next),
                    jump(3, "OTHER"),
                ],
            ),
            ("KUBE-SEP-A", &[rule(4, Action::Extension)]),
            ("KUBE-SERVICES", &[jump(5, "KUBE-SVC-A")]),
            ("OTHER", &[rule(6, Action::Verdict), jump(7, "THIRD")]),
            ("KUBE-SVC-A", &[jump(8, "KUBE-SEP-A")]),
            ("THIRD", &[rule(9, Action::Extension)]),
        ]);
        let after = chains(&[
            ("OUTPUT", &[rule(2, Action::Next), jump(3, "OTHER")]),
            ("OTHER", &[rule(6, Action::Verdict), jump(7, "THIRD")]),
            ("THIRD", &[rule(9, Action::Extension)]),
        ]);
        assert_eq!(
            cleaned(layout, &read(layout, &before)),
            read(layout, &after)
        );
    }
}

#[test]
fn a_table_tells_its_chains_and_where_they_lead() {
    let table = read(
        Layout::V4,
        &chains(&[
            ("OUTPUT", &[rule(1, Action::Next), jump(2, "KUBE-SERVICES")]),
            ("KUBE-SERVICES", &[]),
        ]),
    );
    let chains = table.chains();
    assert_eq!(
        chains.keys().collect::<Vec<_>>(),
        ["KUBE-SERVICES", "OUTPUT"]
    );
    assert!(chains["OUTPUT"].is_base && !chains["KUBE-SERVICES"].is_base);
    let leads: Vec<&str> = chains["OUTPUT"]
        .jumps
        .iter()
        .map(|jump| jump.to.as_str())
        .collect();
    assert_eq!(leads, ["KUBE-SERVICES"]);
}

#[test]
fn bytes_that_are_no_table_are_refused() {
    let whole = written(
        Layout::V4,
        &chains(&[("OUTPUT", &[jump(1, "A")]), ("A", &[])]),
    );
    for cut in 0..whole.entries.len() {
        let entries = whole.entries[..cut].to_vec();
        let content = Content {
            entries,
            ..whole.clone()
        };
        assert!(Table::read(Layout::V4, content).is_err(), "{cut}");
    }
    let mut astray = whole;
    astray.begins[3] = 8;
    assert!(Table::read(Layout::V4, astray).is_err());
}

const NAMES: [&str; 8] = [
    "OUTPUT",
    "OTHER",
    "KUBE-FIREWALL",
    "KUBE-SERVICES",
    "KUBE-SVC-A",
    "KUBE-SEP-A",
    "KUBE-MARK-MASQ",
    "KUBE-POSTROUTING",
];

proptest! {
    #[test]
    fn whatever_goes_the_rest_is_the_same(
        rules in proptest::collection::vec((0..NAMES.len(), any::<u8>(), 0..NAMES.len() + 2), 0..24)
    ) {
        let mut all: Chains = NAMES.iter().map(|&name| (name.to_owned(), Vec::new())).collect();
        for (from, mark, does) in rules {
            let action = match NAMES.get(does) {
                // No rule leads to a hook's chain.
                Some(&"OUTPUT") => Action::Verdict,
                Some(&to) => Action::Jump(to.to_owned()),
                None if does == NAMES.len() => Action::Next,
                None => Action::Extension,
            };
            all[from].1.push(Rule { mark, action });
        }
        let table = read(Layout::V6, &all);
        let found = Ruleset::from([(TableName::new(Family::V4, "nat"), table.chains())]);
        let goes: BTreeSet<String> = removal(&found)
            .into_iter()
            .filter_map(|change| match change {
                Change::RemoveChain(_, chain) => Some(chain),
                _ => None,
            })
            .collect();
        let left: Chains = all
            .into_iter()
            .filter(|(name, _)| !goes.contains(name))
            .map(|(name, mut rules)| {
                rules.retain(|rule| match &rule.action {
                    Action::Jump(to) => !goes.contains(to),
                    _ => true,
                });
                (name, rules)
            })
            .collect();
        let after = cleaned(Layout::V6, &table);
        prop_assert_eq!(after, read(Layout::V6, &left));
    }
}
