//! `cargo xtask lint` and `cargo xtask ci`: what a change has to pass.

use anyhow::Result;

use crate::{build_ebpf, process, test, workspace::Workspace};

/// The lints and then every test.
pub fn run(workspace: &Workspace) -> Result<()> {
    lint(workspace)?;
    test::run(workspace, &[])
}

/// Formatting, lints of both targets, documentation. Warnings are errors.
///
/// In a target directory of its own: nothing that is only checked is shared with what is built, and
/// so both can be done at a time.
pub fn lint(workspace: &Workspace) -> Result<()> {
    let cargo = || process::cargo(workspace.root());
    let target = workspace.lint_target();
    process::step(
        "formatting",
        cargo().args(["fmt", "--all", "--", "--check"]),
        None,
    )?;
    process::step(
        "clippy",
        cargo()
            .args(["clippy", "--workspace", "--all-targets", "--all-features"])
            .arg("--target-dir")
            .arg(&target)
            .args(["--", "-D", "warnings"]),
        None,
    )?;
    build_ebpf::clippy(workspace)?;
    process::step(
        "documentation",
        cargo()
            .args(["doc", "--workspace", "--no-deps", "--target-dir"])
            .arg(&target)
            .env("RUSTDOCFLAGS", "-Dwarnings"),
        None,
    )?;
    Ok(())
}
