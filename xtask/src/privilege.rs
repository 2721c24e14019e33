//! What a program that loads BPF needs from the machine: root's rights and a kernel that can.
//!
//! Nothing is skipped where it is missing: the command fails and says what to do.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::Uid;

use crate::process;

/// How this process gets root's rights.
pub enum Root {
    /// It has them.
    Already,
    /// By this program.
    Sudo(PathBuf),
}

impl Root {
    /// Fails where there is neither.
    pub fn find() -> Result<Self> {
        if Uid::effective().is_root() {
            return Ok(Self::Already);
        }
        process::find("sudo")
            .map(Self::Sudo)
            .context("this needs root: run it as root, or install sudo")
    }

    /// A program to run as root, with these variables in its environment.
    pub fn command(&self, program: &Path, variables: &[(&str, &OsStr)]) -> Command {
        match self {
            Self::Already => {
                let mut command = Command::new(program);
                command.envs(variables.iter().copied());
                command
            }
            Self::Sudo(sudo) => {
                let mut command = Command::new(sudo);
                // sudo cleans the environment, and by policy may refuse to be told otherwise.
                command.arg("env");
                for (name, value) in variables {
                    let mut assignment = OsString::from(name);
                    assignment.push("=");
                    assignment.push(value);
                    command.arg(assignment);
                }
                command.arg(program);
                command
            }
        }
    }
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
    fn sudo_hands_the_variables_on() {
        let root = Root::Sudo(PathBuf::from("/usr/bin/sudo"));
        let command = root.command(Path::new("/t/weir"), &[("NAME", OsStr::new("a value"))]);
        assert_eq!(command.get_program(), "/usr/bin/sudo");
        assert_eq!(
            command.get_args().collect::<Vec<_>>(),
            ["env", "NAME=a value", "/t/weir"]
        );
    }

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
