//! Rules of `iptables-legacy`: whether kube-proxy has some there.
//!
//! They are not changed here: this old interface replaces a table as a whole, and whatever somebody
//! else writes meanwhile would be lost, since its lock is a file of the tool's
//! (`/run/xtables.lock`) on the host. The commands that remove them are told.

use anyhow::Result;

use super::{names, ruleset::Family};
use crate::attach::xtables;

const TABLES: [&str; 3] = ["nat", "filter", "mangle"];

/// The tables with chains of kube-proxy's, as `iptables-legacy -t nat`.
///
/// # Errors
/// The kernel does not tell them.
pub fn tables() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for family in Family::ALL {
        let (is_v6, program) = match family {
            Family::V4 => (false, "iptables-legacy"),
            Family::V6 => (true, "ip6tables-legacy"),
        };
        let present = xtables::tables(is_v6)?;
        for table in TABLES
            .iter()
            .filter(|&&table| present.iter().any(|one| one == table))
        {
            let chains = xtables::chains(is_v6, table)?;
            if chains.iter().any(|chain| names::is_chain(chain)) {
                found.push(format!("{program} -t {table}"));
            }
        }
    }
    Ok(found)
}

/// What removes them, for a shell on the host.
pub fn remedy(tables: &[String]) -> String {
    let programs: std::collections::BTreeSet<&str> = tables
        .iter()
        .filter_map(|table| table.split_whitespace().next())
        .collect();
    let commands: Vec<String> = programs
        .into_iter()
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
        let tables = ["iptables-legacy -t nat", "iptables-legacy -t filter"].map(str::to_owned);
        let text = remedy(&tables);
        assert!(text.starts_with("iptables-legacy-save | "), "{text}");
        assert_eq!(text.matches("-restore").count(), 1, "{text}");
    }
}
