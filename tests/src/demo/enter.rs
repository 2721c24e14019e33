//! Finding a running demonstration's pods and nodes, and running a program among them.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::bed::identity::Identity;
use crate::bed::process;

/// Where members are recorded, below the bed's directory.
const MEMBERS: &str = "members";

/// A pod or node of a running demonstration.
#[derive(Debug, Serialize, Deserialize)]
struct Member {
    /// The process that lives in it.
    pid: u32,
    /// Its cgroup.
    group: std::path::PathBuf,
}

/// Writes down where a pod or node is.
pub fn record(run_dir: &Path, name: &str, pid: u32, group: &Path) -> Result<()> {
    let directory = run_dir.join(MEMBERS);
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let member = Member {
        pid,
        group: group.to_owned(),
    };
    let path = directory.join(name);
    fs::write(&path, serde_json::to_vec(&member)?)
        .with_context(|| format!("write {}", path.display()))
}

/// Becomes a program, or a shell, in a pod or on a node of the demonstration that runs.
pub fn enter(name: &str, program: &[OsString]) -> Result<()> {
    let mut names = Vec::new();
    for bed in Identity::all_on_this_machine()? {
        let Ok(entries) = fs::read_dir(bed.run_dir().join(MEMBERS)) else {
            continue;
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_name() == *name {
                let text = fs::read(entry.path())?;
                let member: Member = serde_json::from_slice(&text)
                    .with_context(|| format!("read {}", entry.path().display()))?;
                let shell = [std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into())];
                let program = if program.is_empty() { &shell } else { program };
                return process::join(member.pid, &member.group, program);
            }
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    if names.is_empty() {
        bail!("no demonstration runs; start one: cargo xtask demo");
    }
    bail!("there is no {name}; there are {}", names.join(", "))
}
