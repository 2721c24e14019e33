//! All that a kube-proxy has left on the node, and its removal.

use anyhow::{Result, bail};

use super::{
    connections, ipsets, ipvs, legacy,
    nftables::{self, Outcome},
    ruleset::{self, Change, Ruleset, TableName},
};

/// How often rules that keep changing are changed.
const ATTEMPTS: usize = 8;

/// What is there. What a kernel has not is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leavings {
    /// Rules of nftables, and of iptables where its program makes those of them, for people.
    pub rules: Vec<String>,
    /// Sets of addresses.
    pub sets: Vec<String>,
    /// The interface with the services' addresses.
    pub interface: bool,
    /// The tables of iptables-legacy that hold chains of its.
    pub legacy: Vec<TableName>,
    /// Virtual servers, which are not removed; only where that interface or those sets are.
    pub servers: usize,
    /// Open connections through them, for which that interface stays.
    pub connections: usize,
    /// Is [`HOLDER`](super::HOLDER) there?
    pub is_held: bool,
}

impl Leavings {
    /// Is there something that can be removed?
    #[must_use]
    pub fn is_removable(&self) -> bool {
        let Self {
            rules,
            sets,
            interface,
            legacy,
            servers: _,
            connections,
            is_held: _,
        } = self;
        let is_interface_unused = *interface && *connections == 0;
        !rules.is_empty() || !legacy.is_empty() || !sets.is_empty() || is_interface_unused
    }

    /// May there be connections that are translated by what is, or was, there?
    #[must_use]
    pub fn may_have_connections(&self) -> bool {
        self.is_held || !self.rules.is_empty() || !self.legacy.is_empty() || self.connections > 0
    }

    /// What is there, for people.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let mut all = self.rules.clone();
        if !self.legacy.is_empty() {
            let tables: Vec<String> = self.legacy.iter().map(legacy::describe).collect();
            all.push(format!("rules of {}", tables.join(", ")));
        }
        if !self.sets.is_empty() {
            all.push(format!("{} ipsets", self.sets.len()));
        }
        if self.interface && self.connections == 0 {
            all.push(format!("the interface {}", ipvs::INTERFACE));
        }
        all.extend(self.lasting());
        all
    }

    /// What is not removed now, for people.
    #[must_use]
    pub fn lasting(&self) -> Vec<String> {
        let mut all = Vec::new();
        if self.interface && self.connections > 0 {
            let (interface, count) = (ipvs::INTERFACE, self.connections);
            all.push(format!(
                "the interface {interface}, until {count} connections through IPVS have ended"
            ));
        }
        if self.servers > 0 {
            all.push(format!("{} IPVS virtual servers", self.servers));
        }
        all
    }

    /// What removes by hand what only so can be removed, on the host.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        (self.servers > 0 && self.connections == 0).then(|| "ipvsadm --clear".to_owned())
    }

    /// Removes what can be: rules in one transaction a kind, then the sets that they refer to.
    ///
    /// # Errors
    /// The kernel's. What came before is gone.
    pub fn remove(&self) -> Result<()> {
        if !self.rules.is_empty() {
            transact(ruleset::removal)?;
        }
        if !self.legacy.is_empty() {
            hold(&self.legacy)?;
            legacy::remove(&self.legacy)?;
        }
        if !self.sets.is_empty() {
            ipsets::remove(&self.sets)?;
        }
        if self.interface && self.connections == 0 {
            ipvs::remove_interface()?;
        }
        Ok(())
    }
}

/// Looks for what kube-proxy has left in the calling thread's network namespace.
///
/// # Errors
/// The kernel does not tell.
pub fn survey() -> Result<Leavings> {
    let rules = nftables::read()?
        .map(|(rules, _)| rules)
        .unwrap_or_default();
    let sets = ipsets::list()?;
    let interface = ipvs::has_interface()?;
    let servers = if interface || !sets.is_empty() {
        ipvs::servers()?
    } else {
        0
    };
    Ok(Leavings {
        rules: ruleset::describe(&ruleset::removal(&rules)),
        sets,
        interface,
        legacy: legacy::tables()?,
        servers,
        connections: if interface { ipvs::connections()? } else { 0 },
        is_held: ruleset::is_held(&rules),
    })
}

/// Removes [`HOLDER`](super::HOLDER), with which connections that kube-proxy translated end.
///
/// # Errors
/// The kernel's.
pub fn release() -> Result<bool> {
    transact(ruleset::release)
}

/// Keeps the connections that these tables have translated known as the kernel's.
fn hold(tables: &[TableName]) -> Result<()> {
    let holds: Vec<Change> = tables
        .iter()
        .filter(|table| table.name == "nat")
        .map(|table| Change::Hold(table.family))
        .collect();
    if holds.is_empty() || transact(|_| holds.clone())? {
        return Ok(());
    }
    match connections::translated()? {
        0 => Ok(()),
        count => bail!(
            "the kernel has no nf_tables, by which {count} connections that kube-proxy translated \
             would be known: its rules go when the last of them has ended"
        ),
    }
}

/// Changes the rules as they are; tells whether there was anything to change.
fn transact(changes: impl Fn(&Ruleset) -> Vec<Change>) -> Result<bool> {
    for _ in 0..ATTEMPTS {
        let Some((rules, generation)) = nftables::read()? else {
            return Ok(false);
        };
        let changes = changes(&rules);
        if changes.is_empty() {
            return Ok(false);
        }
        match nftables::apply(&changes, generation)? {
            Outcome::Done => return Ok(true),
            Outcome::Outdated => {}
        }
    }
    bail!("somebody else keeps changing the rules of nftables; it is tried again")
}
