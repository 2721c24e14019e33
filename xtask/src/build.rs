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
    process::step(
        "build weir",
        static_cargo(workspace, "build")?
            .args(["--package", "weir-agent", "--bin", "weir"])
            .args(["--profile", profile]),
        None,
    )?;
    binary(workspace, "weir", profile)
}

/// Builds the BPF object, which is the same for all processors, and the binary for other ones than
/// this machine's. It needs their standard library and a C compiler for them.
pub fn cross(workspace: &Workspace, target: &str, release: bool) -> Result<PathBuf> {
    let architecture = target.split('-').next().unwrap_or(target);
    let compiler = format!("{architecture}-linux-gnu-gcc");
    let libraries = process::output(Command::new("rustc").current_dir(workspace.root()).args([
        "--print",
        "target-libdir",
        "--target",
        target,
    ]))?;
    let mut missing = Vec::new();
    if !Path::new(libraries.trim()).is_dir() {
        missing.push(format!("the standard library: rustup target add {target}"));
    }
    if process::find(&compiler).is_none() {
        let package = architecture.replace('_', "-");
        missing.push(format!(
            "{compiler}: apt-get install gcc-{package}-linux-gnu"
        ));
    }
    if !missing.is_empty() {
        bail!("building for {target} needs\n- {}", missing.join("\n- "));
    }
    build_ebpf::build(workspace)?;
    let profile = if release { "release" } else { "dev" };
    let variable = target.replace('-', "_");
    process::step(
        &format!("build weir for {architecture}"),
        process::cargo(workspace.root())
            .args(["build", "--package", "weir-agent", "--bin", "weir"])
            .args(["--profile", profile, "--target", target])
            .arg("--target-dir")
            .arg(workspace.target())
            .env("WEIR_EBPF_OBJECT", workspace.ebpf_object())
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env(format!("CC_{variable}"), &compiler)
            .env(
                format!("CARGO_TARGET_{}_LINKER", variable.to_uppercase()),
                &compiler,
            ),
        None,
    )?;
    let binary = workspace
        .target()
        .join(target)
        .join(if release { "release" } else { "debug" })
        .join("weir");
    require_static(&binary)?;
    Ok(binary)
}

/// The binary and what demonstrates it.
pub struct Binaries {
    /// `weir` itself.
    pub weir: PathBuf,
    /// The demonstration, which finds its helpers beside it.
    pub demo: PathBuf,
    /// The helper that plays the processes of a test bed.
    pub testpod: PathBuf,
    /// The first program of a machine that tries a kernel.
    pub kernel_test: PathBuf,
}

/// Builds the binary, the demonstration and the test bed's helpers in one go, so that they share
/// what they depend on. The BPF object must be there.
pub fn binaries(workspace: &Workspace) -> Result<Binaries> {
    binaries_with(workspace, &[])
}

/// The same with these settings of cargo's.
pub fn binaries_with(workspace: &Workspace, settings: &[&str]) -> Result<Binaries> {
    process::step(
        "build weir and the test bed",
        static_cargo(workspace, "build")?
            .args(settings.iter().flat_map(|setting| ["--config", setting]))
            .args(["--package", "weir-agent", "--package", "weir-tests"])
            .arg("--bins"),
        None,
    )?;
    Ok(Binaries {
        weir: binary(workspace, "weir", "dev")?,
        demo: binary(workspace, "weir-demo", "dev")?,
        testpod: binary(workspace, "weir-testpod", "dev")?,
        kernel_test: binary(workspace, "weir-kernel-test", "dev")?,
    })
}

/// Cargo, for programs that need nothing but the kernel, with the BPF object in reach of build
/// scripts. The explicit target is what keeps procedural macros and build scripts dynamic, as the
/// compiler needs them.
pub fn static_cargo(workspace: &Workspace, act: &str) -> Result<Command> {
    let mut command = process::cargo(workspace.root());
    command
        .args([act, "--target", &Rust::ask(workspace.root())?.host])
        .arg("--target-dir")
        .arg(workspace.target())
        .env("WEIR_EBPF_OBJECT", workspace.ebpf_object())
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    Ok(command)
}

/// The path of a static binary that was built.
pub fn binary(workspace: &Workspace, name: &str, profile: &str) -> Result<PathBuf> {
    // Cargo names the directory of its `dev` profile otherwise.
    let directory = if profile == "dev" { "debug" } else { profile };
    let binary = workspace
        .target()
        .join(Rust::ask(workspace.root())?.host)
        .join(directory)
        .join(name);
    require_static(&binary)?;
    Ok(binary)
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
