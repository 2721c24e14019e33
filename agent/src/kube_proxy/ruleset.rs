//! Which of the node's rules have to go for kube-proxy to be gone, and in which order.
//!
//! - Tables named `kube-proxy` go as a whole: its nftables mode has no others.
//! - Of the tables that it shares as `iptables` its chains go, and the jumps to them from the
//!   hooks' own chains.
//! - A chain of its that somebody else's chain leads to stays, with all that it leads to.
//!
//! Pure: what is there comes as a [`Ruleset`], what is to be done leaves as a list of [`Change`]s,
//! which belong into one transaction.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::names::{self, MARK, POSTROUTING};

/// The table of ours that keeps the kernel's address translation at work.
pub const HOLDER: &str = "weir-takeover";
/// The table of kube-proxy's nftables mode.
const OWN: &str = "kube-proxy";
/// The tables of iptables in which kube-proxy has chains.
const SHARED: [&str; 3] = ["nat", "filter", "mangle"];

/// A table's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// `ip`
    V4,
    /// `ip6`
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        })
    }
}

/// A table's family and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableName {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: String,
}

impl TableName {
    /// This table.
    pub fn new(family: Family, name: &str) -> Self {
        Self {
            family,
            name: name.to_owned(),
        }
    }

    /// May chains of kube-proxy's lie in it beside others'?
    pub fn is_shared(&self) -> bool {
        SHARED.contains(&self.name.as_str())
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

/// What is there: tables and their chains. The chains of tables that are not
/// [shared](TableName::is_shared) need not be told.
pub type Ruleset = BTreeMap<TableName, BTreeMap<String, Chain>>;

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Does the kernel itself send packets there?
    pub is_base: bool,
    /// Its rules that lead to other chains.
    pub jumps: Vec<Jump>,
}

/// A rule that leads to another chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump {
    /// The rule's number.
    pub handle: u64,
    /// Where it leads.
    pub to: String,
}

/// A step of the transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Make [`HOLDER`], if it is not there.
    Hold(Family),
    /// Remove a rule.
    RemoveRule(TableName, String, u64),
    /// Remove all rules of a chain.
    EmptyChain(TableName, String),
    /// Remove a chain.
    RemoveChain(TableName, String),
    /// Remove a table with all that is in it.
    RemoveTable(TableName),
}

/// What has to be done, in order. Empty: kube-proxy has left nothing.
pub fn removal(rules: &Ruleset) -> Vec<Change> {
    let mut holds = BTreeSet::new();
    let mut changes = Vec::new();
    for (table, chains) in rules {
        if table.name == OWN {
            holds.insert(table.family);
            changes.push(Change::RemoveTable(table.clone()));
        } else if table.is_shared() {
            let removed = removal_of_chains(table, chains);
            if !removed.is_empty() && table.name == "nat" {
                holds.insert(table.family);
            }
            changes.extend(removed);
        }
    }
    let holds = holds.into_iter().map(Change::Hold);
    holds.chain(changes).collect()
}

/// The removal of [`HOLDER`].
pub fn release(rules: &Ruleset) -> Vec<Change> {
    let ours = rules.keys().filter(|table| table.name == HOLDER);
    ours.cloned().map(Change::RemoveTable).collect()
}

/// Is [`HOLDER`] there?
pub fn is_held(rules: &Ruleset) -> bool {
    rules.keys().any(|table| table.name == HOLDER)
}

/// What a removal removes, for people.
pub fn describe(changes: &[Change]) -> Vec<String> {
    let mut tables = Vec::new();
    let mut chains = BTreeMap::<&TableName, usize>::new();
    for change in changes {
        match change {
            Change::RemoveTable(table) => tables.push(format!("nftables table {table}")),
            Change::RemoveChain(table, _) => *chains.entry(table).or_default() += 1,
            Change::Hold(_) | Change::RemoveRule(..) | Change::EmptyChain(..) => {}
        }
    }
    let chains = chains
        .into_iter()
        .map(|(table, count)| format!("{count} iptables chains in table {table}"));
    tables.into_iter().chain(chains).collect()
}

fn removal_of_chains(table: &TableName, chains: &BTreeMap<String, Chain>) -> Vec<Change> {
    let kept = kept(chains);
    let goes = |name: &str| names::is_chain(name) && !kept.contains(name);
    let going: Vec<&String> = chains.keys().filter(|name| goes(name)).collect();
    let mut changes = Vec::new();
    for (name, chain) in chains.iter().filter(|(name, _)| !goes(name)) {
        for jump in chain.jumps.iter().filter(|jump| goes(&jump.to)) {
            changes.push(Change::RemoveRule(table.clone(), name.clone(), jump.handle));
        }
    }
    // They lead to each other: none can go before all are empty.
    changes.extend(
        going
            .iter()
            .map(|&name| Change::EmptyChain(table.clone(), name.clone())),
    );
    changes.extend(
        going
            .iter()
            .map(|&name| Change::RemoveChain(table.clone(), name.clone())),
    );
    changes
}

/// The chains of kube-proxy's that somebody else relies on.
fn kept(chains: &BTreeMap<String, Chain>) -> BTreeSet<String> {
    let mut waiting: Vec<&str> = Vec::new();
    for (name, chain) in chains.iter().filter(|(name, _)| !names::is_chain(name)) {
        let others = chain.jumps.iter().map(|jump| jump.to.as_str());
        // From a hook's chain kube-proxy itself goes to its chains, but not to that one.
        waiting.extend(others.filter(|to| names::is_chain(to) && (!chain.is_base || *to == MARK)));
        debug_assert!(!names::is_chain(name));
    }
    let mut kept = BTreeSet::new();
    while let Some(name) = waiting.pop() {
        if !names::is_chain(name) || !kept.insert(name.to_owned()) {
            continue;
        }
        if name == MARK {
            // A mark is for those who read it.
            waiting.push(POSTROUTING);
        }
        let jumps = chains.get(name).into_iter().flat_map(|chain| &chain.jumps);
        waiting.extend(jumps.map(|jump| jump.to.as_str()));
    }
    kept
}

#[cfg(test)]
mod tests;
