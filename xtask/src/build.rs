//! `cargo xtask build`: one static binary with the BPF object in it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use indicatif::HumanBytes;

use crate::{build_ebpf, inspect, process, rust::Rust, workspace::Workspace};

/// Builds the BPF object and the binary, and says where it is.
pub fn run(workspace: &Workspace, release: bool) -> Result<()> {
    let weir = build(workspace, release)?;
    let size = fs::metadata(&weir)
        .with_context(|| format!("read {}", weir.display()))?
        .len();
    println!("{} ({}, static)", weir.display(), HumanBytes(size));
    Ok(())
}

/// Builds the BPF object and the binary.
pub fn build(workspace: &Workspace, release: bool) -> Result<PathBuf> {
    build_ebpf::build(workspace)?;
    let profile = if release { "release" } else { "dev" };
    static_binary(workspace, "weir-agent", "weir", profile)
}

/// Builds a binary that needs nothing but the kernel, with the BPF object in reach of build
/// scripts.
pub fn static_binary(
    workspace: &Workspace,
    package: &str,
    name: &str,
    profile: &str,
) -> Result<PathBuf> {
    let target = Rust::ask(workspace.root())?.host;
    process::step(
        &format!("build the static binary {name}"),
        static_cargo(workspace, "build", &target)
            .args(["--package", package, "--bin", name])
            .args(["--profile", profile]),
        None,
    )?;
    // Cargo names the directory of its `dev` profile otherwise.
    let directory = if profile == "dev" { "debug" } else { profile };
    let binary = workspace.target().join(target).join(directory).join(name);
    require_static(&binary)?;
    Ok(binary)
}

/// The explicit target is what keeps procedural macros and build scripts dynamic, as the compiler
/// needs them.
fn static_cargo(workspace: &Workspace, act: &str, target: &str) -> Command {
    let mut command = process::cargo(workspace.root());
    command
        .args([act, "--target", target])
        .arg("--target-dir")
        .arg(workspace.target())
        .env("WEIR_EBPF_OBJECT", workspace.ebpf_object())
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    command
}

fn require_static(binary: &Path) -> Result<()> {
    let bytes = fs::read(binary).with_context(|| format!("read {}", binary.display()))?;
    if !inspect::is_static(&bytes).with_context(|| format!("read {}", binary.display()))? {
        bail!(
            "{} is not static: it asks for a dynamic loader",
            binary.display()
        );
    }
    Ok(())
}
