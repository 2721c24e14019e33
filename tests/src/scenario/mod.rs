//! Scenarios: what the product does, one behaviour a file, and the executors that show it.
//!
//! A scenario file under `tests/scenarios` gives objects, a node, packets, socket calls and
//! conversations, and what is expected of each. [`runner`] takes its steps: objects go through the agent's own
//! parser, model, compiler and diff ([`world`]), packets through an [`Executor`]: [`memory`]
//! (the library over ordered maps) or [`program`] (the loaded programs, by `BPF_PROG_TEST_RUN`).
//! Conversations are played there as the packets and calls they consist of ([`talk`]); a scenario
//! that consists of them runs in a [`network`] of real sockets and agents, too.
//! What the datapath tells of packets is read by [`told`].
//! Whatever a scenario expects, [`judge`] has every checksum of a changed frame taken anew and
//! allows no byte to change that should not.
//!
//! Addresses mean the same everywhere: as in [`crate::bed::plan`], the packets' node is its
//! `worker-0`, and services are in `10.32.0.0/24` and `fd00:10:32::/112`.
#![forbid(unsafe_code)]

mod describe;
pub mod format;
pub mod frame;
pub mod interfaces;
pub mod journey;
pub mod judge;
mod links;
pub mod memory;
pub mod network;
pub mod notation;
pub mod packet;
pub mod places;
pub mod program;
pub mod runner;
pub mod talk;
pub mod told;
pub mod world;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

pub use format::Scenario;
pub use runner::{Executor, run};

/// A scenario and where it was read.
#[derive(Debug)]
pub struct ScenarioFile {
    /// The path from `tests/scenarios`, without extension: the test's name.
    pub name: String,
    /// What its relative paths are relative to.
    pub directory: PathBuf,
    /// What it says, or why it cannot be read.
    pub scenario: Result<Scenario>,
}

/// Every scenario of the repository, by name.
///
/// # Errors
/// The folder cannot be listed.
pub fn all() -> Result<Vec<ScenarioFile>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut files = Vec::new();
    for group in list(&root)? {
        // Manifests that several scenarios share.
        if !group.is_dir() || group.ends_with("common") {
            continue;
        }
        for path in list(&group)? {
            if path
                .extension()
                .is_some_and(|extension| extension == "yaml")
            {
                files.push(read(&root, &path)?);
            }
        }
    }
    ensure!(!files.is_empty(), "no scenario under {}", root.display());
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

fn read(root: &Path, path: &Path) -> Result<ScenarioFile> {
    let relative = path.strip_prefix(root)?.with_extension("");
    let scenario = std::fs::read_to_string(path)
        .with_context(|| format!("read {}", path.display()))
        .and_then(|text| {
            serde_saphyr::from_str(&text).with_context(|| format!("in {}", path.display()))
        });
    Ok(ScenarioFile {
        name: relative.display().to_string(),
        directory: path.parent().unwrap_or(root).to_owned(),
        scenario,
    })
}

fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    std::fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .with_context(|| format!("list {}", directory.display()))
}
