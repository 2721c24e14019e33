//! `cargo xtask demo`: builds everything and becomes the demonstration.
//!
//! It takes this process's place, so that Ctrl-C reaches it, its exit code is ours, and nobody
//! prints a prompt while it still cleans up.

use std::{ffi::OsString, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Result};

use crate::{build, build_ebpf, privilege, workspace::Workspace};

/// Runs the demonstration; comes back only when that cannot be started.
pub fn run(workspace: &Workspace, once: bool, arguments: Vec<OsString>) -> Result<()> {
    privilege::require_kernel()?;
    build_ebpf::build(workspace)?;
    let built = build::binaries(workspace)?;
    let arguments = once.then(|| "--once".into()).into_iter().chain(arguments);
    let error = privilege::as_root(
        &built.demo,
        &[("WEIR_BINARY", built.weir.as_os_str())],
        arguments,
    )?
    .exec();
    Err(error).with_context(|| format!("start {}", built.demo.display()))
}
