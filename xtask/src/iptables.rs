//! `iptables-legacy` and `ipset`, with which tests write rules and sets as a kube-proxy on an older
//! host does: of the distribution's packages, unpacked and not installed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{apt::Apt, workspace::Workspace};

/// The programs and extensions, and the libraries that they need beside those of `nft`, which the
/// tests run, too.
const PACKAGES: [&str; 5] = ["iptables", "ipset", "libip4tc2", "libip6tc2", "libipset13"];
/// One that the tree of the packages has.
const PROGRAM: &str = "usr/sbin/ipset";

/// The tree of the packages, fetched if it is not there.
pub fn get(workspace: &Workspace) -> Result<PathBuf> {
    let directory = workspace.tools("iptables")?;
    let tree = directory.join("tree");
    if !tree.join(PROGRAM).is_file() {
        fetch(&directory, &tree).context("get iptables-legacy")?;
    }
    Ok(tree)
}

fn fetch(directory: &Path, tree: &Path) -> Result<()> {
    // Of this process alone: two that fetch at once do not meet.
    let scratch = directory.join(format!("fetch-{}", std::process::id()));
    let apt = Apt::new(scratch.join("apt"))?;
    let suite = apt.codename().to_owned();
    for package in PACKAGES {
        let versions = apt.versions(&suite, package)?;
        let version = versions
            .first()
            .with_context(|| format!("the archive has no package {package} in {suite}"))?;
        let unpacked = apt.unpack(&suite, package, version)?;
        take(&unpacked, &scratch.join("tree"))?;
    }
    // Whole or not at all.
    match fs::rename(scratch.join("tree"), tree) {
        Err(_) if tree.join(PROGRAM).is_file() => {}
        result => result.with_context(|| format!("make {}", tree.display()))?,
    }
    fs::remove_dir_all(&scratch).with_context(|| format!("remove {}", scratch.display()))
}

/// Moves what lies in a directory into another that has some of it already.
fn take(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
        let entry = entry.with_context(|| format!("list {}", from.display()))?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() && !from.is_symlink() {
            take(&from, &to)?;
        } else {
            fs::rename(&from, &to).with_context(|| format!("move {}", from.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_become_one_tree() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for (file, text) in [("a/usr/sbin/x", "x"), ("b/usr/lib/y", "y")] {
            fs::create_dir_all(path(file).parent().unwrap()).unwrap();
            fs::write(path(file), text).unwrap();
        }
        for tree in ["a", "b"] {
            take(&path(tree), &path("all")).unwrap();
        }
        assert_eq!(fs::read_to_string(path("all/usr/sbin/x")).unwrap(), "x");
        assert_eq!(fs::read_to_string(path("all/usr/lib/y")).unwrap(), "y");
    }
}
