//! `cargo xtask demo`: builds everything and becomes the demonstration.
//!
//! It takes this process's place, so that Ctrl-C reaches it, its exit code is ours, and nobody
//! prints a prompt while it still cleans up.

use std::{ffi::OsString, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Result};

use crate::{
    build, build_ebpf,
    privilege::{self, Root},
    workspace::Workspace,
};

/// Runs the demonstration; comes back only when that cannot be started.
pub fn run(workspace: &Workspace, once: bool, arguments: Vec<OsString>) -> Result<()> {
    privilege::require_kernel()?;
    let root = Root::find()?;
    build_ebpf::build(workspace)?;
    let built = build::binaries(workspace)?;
    let error = root
        .command(&built.demo, &[("WEIR_BINARY", built.weir.as_os_str())])
        .args(once.then_some("--once"))
        .args(arguments)
        .exec();
    Err(error).with_context(|| format!("start {}", built.demo.display()))
}
