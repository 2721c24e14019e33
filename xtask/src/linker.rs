//! bpf-linker: found, or installed into the target directory.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{process, workspace::Workspace};

/// The version the programs are tested with. Another one generates other code, and the verifier
/// judges code, not sources.
const VERSION: &str = "0.10.3";

/// The directory that holds a bpf-linker of exactly our version.
pub fn get(workspace: &Workspace) -> Result<PathBuf> {
    if let Some(found) = process::find("bpf-linker").filter(|path| is_ours(path)) {
        return directory_of(&found);
    }
    let root = workspace.tools(&format!("bpf-linker-{VERSION}"))?;
    let installed = root.join("bin").join("bpf-linker");
    if !is_ours(&installed) {
        process::step(
            &format!("install bpf-linker {VERSION}"),
            process::cargo(workspace.root())
                .args(["install", "bpf-linker", "--locked", "--version", VERSION])
                // What takes its time in it is LLVM, which is the compiler's own: not optimised it
                // links as fast, and is there in half the time.
                .arg("--debug")
                .env("CARGO_PROFILE_DEV_DEBUG", "none")
                .arg("--root")
                .arg(&root)
                .arg("--target-dir")
                .arg(root.join("build"))
                // Flags meant for the workspace's own crates are not meant for this one.
                .env_remove("RUSTFLAGS")
                .env_remove("CARGO_ENCODED_RUSTFLAGS"),
            None,
        )
        .with_context(|| {
            format!(
                "bpf-linker {VERSION} cannot be installed; put one on PATH: \
                 cargo install bpf-linker --version {VERSION} --locked"
            )
        })?;
        // The intermediate results are of no further use.
        let _ = std::fs::remove_dir_all(root.join("build"));
    }
    directory_of(&installed)
}

fn is_ours(path: &Path) -> bool {
    process::output(Command::new(path).arg("--version"))
        .is_ok_and(|version| version.trim() == format!("bpf-linker {VERSION}"))
}

fn directory_of(path: &Path) -> Result<PathBuf> {
    path.parent()
        .map(Path::to_owned)
        .with_context(|| format!("{} is in no directory", path.display()))
}
