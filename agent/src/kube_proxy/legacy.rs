//! Rules of `iptables-legacy`: those of kube-proxy's, and their removal.
//!
//! This old interface replaces a table as a whole, and whatever somebody else writes meanwhile
//! would be lost. So a table is changed under the lock that every such tool takes, and only if it
//! is still, byte for byte, the one that was read.
//!
//! The kernel keeps translating what it has translated: a table of translation that has become
//! empty is still there.

mod table;

use std::{
    collections::BTreeSet,
    env,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use self::table::{Layout, Table};
use super::ruleset::{self, Change, Family, Ruleset, TableName};
use crate::attach::xtables;

const TABLES: [&str; 3] = ["nat", "filter", "mangle"];
/// Where the tools have their lock, unless `XTABLES_LOCKFILE` says otherwise, to them as to us.
const LOCK: &str = "/run/xtables.lock";
/// How long somebody else's change of a table is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);
/// How often a table that keeps changing is changed.
const ATTEMPTS: usize = 8;

/// The tables with chains of kube-proxy's that can go.
///
/// # Errors
/// The kernel does not tell them.
pub fn tables() -> Result<Vec<TableName>> {
    let mut found = Vec::new();
    for family in Family::ALL {
        let present = xtables::tables(family == Family::V6)?;
        for name in TABLES {
            if !present.iter().any(|one| one == name) {
                continue;
            }
            let name = TableName::new(family, name);
            let table = read(&open(&name)?, &name)?;
            if !removal(&name, &table).is_empty() {
                found.push(name);
            }
        }
    }
    Ok(found)
}

/// Such a table, for people: `iptables-legacy -t nat`.
pub fn describe(table: &TableName) -> String {
    format!("{} -t {}", program(table.family), table.name)
}

/// Removes kube-proxy's chains from these tables.
///
/// # Errors
/// The lock cannot be had, a table keeps changing, or the kernel refuses. Each table is either
/// changed or as it was.
pub fn remove(tables: &[TableName]) -> Result<()> {
    let remedy = || format!("by hand, on the host: {}", remedy(tables));
    let _lock = lock().with_context(remedy)?;
    for name in tables {
        remove_from(name)
            .with_context(|| format!("change the table {}", describe(name)))
            .with_context(remedy)?;
    }
    Ok(())
}

fn remove_from(name: &TableName) -> Result<()> {
    let kernel = open(name)?;
    for _ in 0..ATTEMPTS {
        let table = read(&kernel, name)?;
        let changes = removal(name, &table);
        if changes.is_empty() {
            return Ok(());
        }
        let (content, stays) = table.without(&changes);
        // Whoever does not know the lock may have written meanwhile. The kernel itself compares
        // no more than the number of entries.
        if table != read(&kernel, name)? {
            continue;
        }
        match kernel.replace(&content, table.content().count) {
            Ok(counters) => {
                let kept = counters.into_iter().zip(stays);
                let kept: Vec<_> = kept
                    .filter_map(|(one, stays)| stays.then_some(one))
                    .collect();
                // Somebody may have changed the table in between; then its counters are his.
                return match kernel.add(&kept) {
                    Err(error) if error.raw_os_error() != Some(libc::EINVAL) => {
                        Err(error).context("put back what its rules have counted")
                    }
                    _ => Ok(()),
                };
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("replace it"),
        }
    }
    bail!("somebody else keeps changing it; it is tried again")
}

fn open(name: &TableName) -> Result<xtables::Table> {
    xtables::Table::open(name.family == Family::V6, &name.name)
        .with_context(|| format!("open a socket for {}", describe(name)))
}

fn read(kernel: &xtables::Table, name: &TableName) -> Result<Table> {
    let mut attempts = 0;
    let content = loop {
        match kernel.read() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && attempts < ATTEMPTS => {
                attempts += 1;
            }
            result => break result,
        }
    };
    let content =
        content.with_context(|| format!("read {} (this needs CAP_NET_ADMIN)", describe(name)))?;
    let layout = match name.family {
        Family::V4 => Layout::V4,
        Family::V6 => Layout::V6,
    };
    Table::read(layout, content).with_context(|| format!("read {}", describe(name)))
}

/// What has to be done, of which the kernel's translation is not a part: see above.
fn removal(name: &TableName, table: &Table) -> Vec<Change> {
    ruleset::removal(&Ruleset::from([(name.clone(), table.chains())]))
}

/// Keeps the tools from writing.
fn lock() -> Result<Flock<File>> {
    let path = env::var_os("XTABLES_LOCKFILE").map_or_else(|| LOCK.into(), PathBuf::from);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| {
            format!(
                "open {}, the lock of iptables (in a container the host's has to be mounted there)",
                path.display()
            )
        });
    let mut file = file?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((again, Errno::EWOULDBLOCK | Errno::EINTR)) if Instant::now() < deadline => {
                file = again;
                thread::sleep(PAUSE);
            }
            Err((_, Errno::EWOULDBLOCK)) => bail!(
                "some other process holds {}, the lock of iptables; it is tried again",
                path.display()
            ),
            Err((_, error)) => {
                return Err(error).with_context(|| format!("lock {}", path.display()));
            }
        }
    }
}

const fn program(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables-legacy",
        Family::V6 => "ip6tables-legacy",
    }
}

/// What removes them, for a shell on the host.
fn remedy(tables: &[TableName]) -> String {
    let families: BTreeSet<Family> = tables.iter().map(|table| table.family).collect();
    let commands: Vec<String> = families
        .into_iter()
        .map(program)
        .map(|program| {
            format!(
                "{program}-save | awk '!/KUBE-(SERVICES|EXTERNAL-SERVICES|NODEPORTS|POSTROUTING|\
                 MARK-MASQ|FORWARD|PROXY-|EXT-|FW-|SEP-|SVC-|SVL-|XLB-)/' | {program}-restore"
            )
        })
        .collect();
    commands.join(" && ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_names_each_program_once() {
        let tables = ["nat", "filter"].map(|name| TableName::new(Family::V4, name));
        let text = remedy(&tables);
        assert!(text.starts_with("iptables-legacy-save | "), "{text}");
        assert_eq!(text.matches("-restore").count(), 1, "{text}");
    }
}
