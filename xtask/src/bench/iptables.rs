//! The distribution's iptables, for kube-proxy's rules in its older mode: the machine's own, or else
//! unpacked without being installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{apt::Apt, process, workspace::Workspace};

/// The program that loads rules.
const RESTORE: &str = "usr/sbin/iptables-nft-restore";
/// The package, and what it needs that a machine without it may lack.
const PACKAGES: [&str; 8] = [
    "iptables",
    "libxtables12",
    "libip4tc2",
    "libip6tc2",
    "libmnl0",
    "libnftnl11",
    "libnfnetlink0",
    "libnetfilter-conntrack3",
];

/// Where it is unpacked; `None` where the machine has it, or it cannot be had, which is said.
pub fn get(workspace: &Workspace) -> Result<Option<PathBuf>> {
    if Path::new("/").join(RESTORE).is_file() {
        return Ok(None);
    }
    let directory = workspace.tools("iptables")?;
    let root = directory.join("root");
    if root.join(RESTORE).is_file() {
        return Ok(Some(root));
    }
    match unpack(&directory, &root) {
        Ok(()) => Ok(Some(root)),
        // The comparison with it is worth less than the rest.
        Err(error) => {
            println!("without iptables, which cannot be had: {error:#}");
            Ok(None)
        }
    }
}

fn unpack(directory: &Path, root: &Path) -> Result<()> {
    let apt = Apt::new(directory.join("apt"))?;
    let suite = apt.codename().to_owned();
    let new = directory.join("new");
    fs::create_dir_all(&new).with_context(|| format!("make {}", new.display()))?;
    for package in PACKAGES {
        let versions = apt.versions(&suite, package)?;
        let version = versions
            .first()
            .with_context(|| format!("{suite} has no package {package}"))?;
        let unpacked = apt.unpack(&suite, package, version)?;
        process::output(
            Command::new("cp")
                .arg("--archive")
                .arg(unpacked.join("."))
                .arg(&new),
        )?;
    }
    // What is there is whole.
    fs::rename(&new, root).with_context(|| format!("make {}", root.display()))
}
