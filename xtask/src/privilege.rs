//! What a program that loads BPF needs from the machine: root's rights and a kernel that can.
//!
//! Nothing is skipped where it is missing: the command fails and says what to do.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::Uid;

use crate::process;

/// A program to run as root, with these variables in its environment.
pub fn as_root(
    program: &Path,
    variables: &[(&str, &OsStr)],
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Command> {
    if Uid::effective().is_root() {
        let mut command = Command::new(program);
        command.envs(variables.iter().copied()).args(arguments);
        return Ok(command);
    }
    let Some(sudo) = process::find("sudo") else {
        bail!(
            "{} must run as root: run this command as root, or install sudo",
            program.display()
        );
    };
    let mut command = Command::new(sudo);
    // sudo cleans the environment, and by policy may refuse to be told otherwise.
    command.arg("env");
    for (name, value) in variables {
        let mut assignment = OsString::from(name);
        assignment.push("=");
        assignment.push(value);
        command.arg(assignment);
    }
    command.arg(program).args(arguments);
    Ok(command)
}

/// Fails where the running kernel cannot load, pin and attach the programs.
pub fn require_kernel() -> Result<()> {
    let missing = missing(
        Path::new("/sys/kernel/btf/vmlinux").is_file(),
        &read("/proc/filesystems")?,
        &read("/proc/self/mounts")?,
    );
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "this kernel cannot run the programs:\n- {}",
        missing.join("\n- ")
    )
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {path}"))
}

fn missing(btf: bool, filesystems: &str, mounts: &str) -> Vec<&'static str> {
    let has_filesystem = |name| {
        filesystems
            .lines()
            .any(|line| line.split_whitespace().last() == Some(name))
    };
    let has_mount = |name| {
        mounts
            .lines()
            .any(|line| line.split(' ').nth(2) == Some(name))
    };
    let mut missing = Vec::new();
    if !btf {
        missing.push(
            "no /sys/kernel/btf/vmlinux: the kernel needs CONFIG_DEBUG_INFO_BTF, and sysfs mounted",
        );
    }
    if !has_filesystem("bpf") {
        missing.push("no BPF file system: the kernel needs CONFIG_BPF_SYSCALL");
    }
    if !has_mount("cgroup2") {
        missing.push("no cgroup v2: mount -t cgroup2 none /sys/fs/cgroup/unified");
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILESYSTEMS: &str = "nodev\tsysfs\nnodev\tbpf\n\text4\n";
    const MOUNTS: &str = "none /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";

    #[test]
    fn a_kernel_with_everything_lacks_nothing() {
        assert!(missing(true, FILESYSTEMS, MOUNTS).is_empty());
    }

    #[test]
    fn each_thing_missing_is_named() {
        let all = missing(
            false,
            "nodev\tsysfs\n",
            "none /sys/fs/cgroup cgroup rw 0 0\n",
        );
        assert_eq!(all.len(), 3, "{all:?}");
        assert_eq!(missing(true, FILESYSTEMS, "").len(), 1);
        assert_eq!(missing(true, "", MOUNTS).len(), 1);
        assert_eq!(missing(false, FILESYSTEMS, MOUNTS).len(), 1);
    }
}
