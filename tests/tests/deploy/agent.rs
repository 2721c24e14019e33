//! What the agent says of itself: its flags, the kinds that it reads, its metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::CommandFactory as _;
use weir_agent::cli::Cli;

/// A command's flags by the variables that they can come from.
pub fn flags_by_variable(command: &str) -> Result<BTreeMap<String, String>> {
    let cli = Cli::command();
    let found = cli
        .find_subcommand(command)
        .with_context(|| format!("there is no command {command}"))?;
    let arguments = cli.get_arguments().chain(found.get_arguments());
    Ok(arguments
        .filter_map(|argument| {
            let variable = argument.get_env()?.to_str()?.to_owned();
            Some((variable, argument.get_long()?.to_owned()))
        })
        .collect())
}

/// The names that the agent's source gives to metrics.
pub fn metrics() -> Result<BTreeSet<String>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/src");
    let mut names = BTreeSet::new();
    read(&source, &mut names)?;
    Ok(names)
}

fn read(directory: &Path, names: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            read(&path, names)?;
            continue;
        }
        // What tests expect is not what is exported.
        if path.ends_with("tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let own = text.split("#[cfg(test)]").next().unwrap_or_default();
        let literals = own.split('"').skip(1).step_by(2);
        names.extend(literals.filter(|it| is_metric(it)).map(str::to_owned));
    }
    Ok(())
}

/// Is it a name as the agent's metrics have?
pub fn is_metric(name: &str) -> bool {
    ["weir_", "kubeproxy_"]
        .iter()
        .any(|prefix| name.len() > prefix.len() && name.starts_with(prefix))
        && name
            .chars()
            .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
}
