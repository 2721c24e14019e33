//! What the bytes of an `iptables-legacy` table mean, and the same without some chains and rules.
//!
//! A table is a list of entries: rules, and between them the heads of chains. Rules lead to others
//! by their distance from the table's beginning, so that each one that goes moves what is behind
//! it. Every other byte stays as the kernel told it, which is how the tools change a table, too.
//!
//! Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fmt,
};

use super::super::ruleset::{Chain, Change, Jump};
use crate::attach::xtables::{Content, HOOKS};

/// How entries look in this family: `struct ipt_entry` and `struct ip6t_entry`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The bytes before the matches.
    length: usize,
    /// Where the target's offset is; the next entry's follows.
    target_at: usize,
}

impl Layout {
    /// IPv4
    pub const V4: Self = Self {
        length: 112,
        target_at: 88,
    };
    /// IPv6
    pub const V6: Self = Self {
        length: 168,
        target_at: 140,
    };
}

/// `XT_EXTENSION_MAXNAMELEN` with the length before it and the revision after it: what a target
/// has behind that.
const TARGET: usize = 32;
/// The target that begins a chain, and whose text is the chain's name; or its own, at the end.
const ERROR: &str = "ERROR";
/// The hooks' chains, in the order of their numbers.
const BASES: [&str; HOOKS] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// A table that was understood. What its rules have counted is no part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    content: Content,
    entries: Vec<Entry>,
}

/// Where an entry is, the chain that it belongs to, and where it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    at: usize,
    size: usize,
    /// The entry at the table's end belongs to none.
    chain: Option<String>,
    leads: Leads,
}

/// What an entry leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Leads {
    /// Nothing that lies in the table.
    Nowhere,
    /// An entry. The number is there.
    To { target: usize, number_at: usize },
}

/// Bytes that are no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(usize);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the table is laid out in an unknown way at byte {}",
            self.0
        )
    }
}

impl Error for Malformed {}

impl Table {
    /// Reads the bytes.
    ///
    /// # Errors
    /// They are no table.
    pub fn read(layout: Layout, content: Content) -> Result<Self, Malformed> {
        let mut content = content;
        let mut entries = Vec::new();
        let mut chain = None;
        let mut at = 0;
        while at < content.entries.len() {
            forget_counters(layout, &mut content.entries[at..]);
            let entry = RawEntry::read(layout, &content.entries, at).ok_or(Malformed(at))?;
            if let Some(name) = entry.head() {
                chain = (name != ERROR).then(|| name.to_owned());
            }
            entries.push(Entry {
                at,
                size: entry.bytes.len(),
                chain: base(&content, at).or_else(|| chain.clone()),
                leads: entry.leads(at),
            });
            at += entry.bytes.len();
        }
        let table = Self { content, entries };
        match table.fault() {
            Some(at) => Err(Malformed(at)),
            None => Ok(table),
        }
    }

    /// Where something points at nothing.
    fn fault(&self) -> Option<usize> {
        let begins: BTreeSet<usize> = self.entries.iter().map(|entry| entry.at).collect();
        let leads = self.entries.iter().find(|entry| match entry.leads {
            Leads::Nowhere => false,
            Leads::To { target, .. } => !begins.contains(&target),
        });
        let hooks = hooks(self.content.hooks)
            .flat_map(|hook| [self.content.begins[hook], self.content.policies[hook]])
            .map(|at| usize::try_from(at).unwrap_or(usize::MAX))
            .find(|at| !begins.contains(at));
        let count = usize::try_from(self.content.count).unwrap_or(usize::MAX);
        let miscounted = (count != self.entries.len()).then_some(self.content.entries.len());
        leads.map(|entry| entry.at).or(hooks).or(miscounted)
    }

    /// What the kernel told.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// Its chains, as far as it matters where they lead. A rule's number is where it lies.
    pub fn chains(&self) -> BTreeMap<String, Chain> {
        let mut chains = BTreeMap::<String, Chain>::new();
        for entry in &self.entries {
            let Some(name) = &entry.chain else {
                continue;
            };
            let chain = chains.entry(name.clone()).or_default();
            chain.is_base = base(&self.content, entry.at).is_some();
            if let Some(to) = self.target_of(entry) {
                chain.jumps.push(Jump {
                    handle: entry.at as u64,
                    to: to.to_owned(),
                });
            }
        }
        chains
    }

    /// The chain that a rule leads to; a rule without a target leads to the next one.
    fn target_of(&self, entry: &Entry) -> Option<&str> {
        match entry.leads {
            Leads::To { target, .. } if target != entry.at + entry.size => {
                let found = self.entries.binary_search_by_key(&target, |one| one.at);
                found.ok().and_then(|it| self.entries[it].chain.as_deref())
            }
            Leads::To { .. } | Leads::Nowhere => None,
        }
    }

    /// The same without some rules and chains, and which entries are still there.
    pub fn without(&self, changes: &[Change]) -> (Content, Vec<bool>) {
        let mut rules = BTreeSet::new();
        let mut chains = BTreeSet::new();
        for change in changes {
            match change {
                Change::RemoveRule(_, _, handle) => {
                    rules.insert(*handle);
                }
                Change::RemoveChain(_, chain) => {
                    chains.insert(chain.as_str());
                }
                Change::Hold(_) | Change::EmptyChain(..) | Change::RemoveTable(_) => {}
            }
        }
        let stays: Vec<bool> = self
            .entries
            .iter()
            .map(|entry| {
                let goes = |chain: &String| chains.contains(chain.as_str());
                !rules.contains(&(entry.at as u64)) && !entry.chain.as_ref().is_some_and(goes)
            })
            .collect();
        (self.keeping(&stays), stays)
    }

    fn keeping(&self, stays: &[bool]) -> Content {
        // Where each entry comes to lie; of one that goes, what follows it.
        let mut moved = BTreeMap::new();
        let mut length = 0;
        for (entry, &stays) in self.entries.iter().zip(stays) {
            moved.insert(entry.at, length);
            length += if stays { entry.size } else { 0 };
        }
        let moved = |at: usize| moved.get(&at).copied().unwrap_or(length);
        let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        let mut entries = Vec::with_capacity(length);
        for (entry, _) in self.entries.iter().zip(stays).filter(|(_, stays)| **stays) {
            let start = entries.len();
            entries.extend_from_slice(&self.content.entries[entry.at..entry.at + entry.size]);
            if let Leads::To { target, number_at } = entry.leads {
                let at = start + number_at - entry.at;
                entries[at..at + 4].copy_from_slice(&narrow(moved(target)).to_ne_bytes());
            }
        }
        let mut content = Content {
            count: narrow(stays.iter().filter(|stays| **stays).count()),
            entries,
            ..self.content.clone()
        };
        for hook in hooks(content.hooks) {
            for at in [&mut content.begins[hook], &mut content.policies[hook]] {
                *at = narrow(moved(usize::try_from(*at).unwrap_or(usize::MAX)));
            }
        }
        content
    }
}

/// The numbers of the hooks in a set.
fn hooks(set: u32) -> impl Iterator<Item = usize> {
    (0..HOOKS).filter(move |hook| set & (1 << hook) != 0)
}

/// The hook's chain that the entry at this place belongs to.
fn base(content: &Content, at: usize) -> Option<String> {
    let at = u32::try_from(at).ok()?;
    hooks(content.hooks)
        .find(|&hook| (content.begins[hook]..=content.policies[hook]).contains(&at))
        .map(|hook| BASES[hook].to_owned())
}

/// Clears what an entry's rule has counted, which the kernel does with each entry that it is given,
/// and the kernel's own note beside the offsets.
fn forget_counters(layout: Layout, entry: &mut [u8]) {
    const COUNTERS: usize = 16;
    for at in [
        layout.target_at + 4..layout.target_at + 8,
        layout.length - COUNTERS..layout.length,
    ] {
        if let Some(bytes) = entry.get_mut(at) {
            bytes.fill(0);
        }
    }
}

/// An entry's bytes.
struct RawEntry<'a> {
    bytes: &'a [u8],
    /// Where its target begins.
    target: usize,
}

impl<'a> RawEntry<'a> {
    fn read(layout: Layout, entries: &'a [u8], at: usize) -> Option<Self> {
        let rest = entries.get(at..)?;
        let offset = |at: usize| {
            let bytes = rest.get(at..at + 2)?.try_into().ok()?;
            Some(usize::from(u16::from_ne_bytes(bytes)))
        };
        let target = offset(layout.target_at)?;
        let next = offset(layout.target_at + 2)?;
        let is_sound = target >= layout.length && next >= target + TARGET;
        Some(Self {
            bytes: rest.get(..next).filter(|_| is_sound)?,
            target,
        })
    }

    /// What its target is called; the one that leads somewhere has no name.
    fn target(&self) -> Option<&'a str> {
        text(self.bytes.get(self.target + 2..self.target + TARGET)?)
    }

    /// The name of the chain that it begins.
    fn head(&self) -> Option<&'a str> {
        (self.target() == Some(ERROR))
            .then(|| text(self.bytes.get(self.target + TARGET..)?))
            .flatten()
    }

    fn leads(&self, at: usize) -> Leads {
        let number_at = self.target + TARGET;
        let number = self.bytes.get(number_at..number_at + 4);
        let number = number.and_then(|bytes| bytes.try_into().ok().map(i32::from_ne_bytes));
        match (self.target(), number.map(usize::try_from)) {
            // A verdict is below zero.
            (Some(""), Some(Ok(target))) => Leads::To {
                target,
                number_at: at + number_at,
            },
            _ => Leads::Nowhere,
        }
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes.split(|&byte| byte == 0).next()?).ok()
}

#[cfg(test)]
mod tests;
