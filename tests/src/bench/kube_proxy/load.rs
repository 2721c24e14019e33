//! Loads rules on a node with the distribution's tools.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::bed::Node;

/// The program that loads rules, of the package `nftables`.
const NFT: &str = "/usr/sbin/nft";
/// That of the package `iptables`, as distributions have it today.
const IPTABLES: &str = "usr/sbin/iptables-nft-restore";
/// The environment variable that names a directory in which the package is unpacked.
const UNPACKED: &str = "WEIR_BENCH_IPTABLES";

/// Loads a text for `nft -f`.
///
/// # Errors
/// There is no such program, or it refuses.
pub fn load_nftables(node: &Node, rules: &str) -> Result<()> {
    ensure!(
        Path::new(NFT).is_file(),
        "there is no {NFT}; install the package nftables"
    );
    load(node, NFT.into(), &["-f".into()], rules)
}

/// Loads a text for `iptables-restore`.
///
/// # Errors
/// The program refuses.
pub fn load_iptables(node: &Node, iptables: &Iptables, rules: &str) -> Result<()> {
    // Paths of libraries go with an unpacked program.
    let mut arguments = iptables.environment.clone();
    arguments.push(iptables.restore.clone().into());
    arguments.push("--noflush".into());
    load(node, "/usr/bin/env".into(), &arguments, rules)
}

/// Where iptables is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Iptables {
    restore: PathBuf,
    environment: Vec<OsString>,
}

impl Iptables {
    /// Installed, or unpacked where the environment says.
    #[must_use]
    pub fn find() -> Option<Self> {
        let installed = Path::new("/").join(IPTABLES);
        if installed.is_file() {
            return Some(Self {
                restore: installed,
                environment: Vec::new(),
            });
        }
        let root = PathBuf::from(std::env::var_os(UNPACKED)?);
        // Below the architecture's name, of which both directories have one.
        let extensions = std::fs::read_dir(root.join("usr/lib"))
            .ok()?
            .flatten()
            .map(|entry| entry.path().join("xtables"))
            .find(|path| path.is_dir())?;
        let architecture = extensions.parent()?.file_name()?;
        let libraries = std::env::join_paths(
            ["lib", "usr/lib"].map(|directory| root.join(directory).join(architecture)),
        )
        .ok()?;
        let restore = root.join(IPTABLES);
        restore.is_file().then(|| {
            let assign = |name: &str, value: &OsStr| {
                let mut assignment = OsString::from(name);
                assignment.push("=");
                assignment.push(value);
                assignment
            };
            Self {
                restore,
                environment: vec![
                    assign("LD_LIBRARY_PATH", &libraries),
                    assign("XTABLES_LIBDIR", extensions.as_os_str()),
                ],
            }
        })
    }
}

fn load(node: &Node, program: PathBuf, arguments: &[OsString], rules: &str) -> Result<()> {
    let file = node.run_dir().join("kube-proxy.rules");
    std::fs::write(&file, rules).with_context(|| format!("write {}", file.display()))?;
    let mut arguments = arguments.to_vec();
    arguments.push(file.into());
    let output = node.system().output(&program, &arguments)?;
    ensure!(
        output.status.success(),
        "{arguments:?} of {} ({}): {}",
        program.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
