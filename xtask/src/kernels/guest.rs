//! A virtual machine: started, watched, and judged by its console.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::Uid;

use crate::process;

/// The emulator's program, and the distribution's package that has it.
const EMULATOR: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";

/// Many times what a machine takes on one busy processor.
const LIMIT: Duration = Duration::from_secs(900);
const INSTALL_LIMIT: Duration = Duration::from_secs(300);

/// Everything the emulator knows but CMPXCHG16B: QEMU 7.2 now and then leaves an address in the
/// flags behind it, and the kernel's allocator, which has other ways, crashes on that.
const PROCESSOR: &str = "max,-cx16";

/// A panic ends the machine: `panic=-1` restarts it, which `-no-reboot` makes its end. The kernel's
/// test of its timer takes an emulated processor that had to wait for a turn for a broken one.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check";

/// A machine that crashes before it has started its first program is booted again: that is the
/// emulator's fault, which was seen in one boot of a hundred and in nothing that follows it.
const BOOTS: usize = 3;

/// The machine prints this when its first program has started, as `weir-kernel-test` says.
const STARTED: &str = "kernel ";
/// This at its end, as `weir-kernel-test` says.
const MARKER: &str = "WEIR-KERNEL-TEST ";
/// And this for each check that holds.
const CHECK: &str = "ok: ";

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything held.
    Passed {
        /// The kernel's release.
        release: String,
        /// How many checks there were.
        checks: usize,
    },
    /// Something did not hold, or the machine did not get so far as to say.
    Failed {
        /// In a line.
        why: String,
        /// All that the machine said.
        console: String,
    },
}

/// The emulator, installed where it is missing and may be installed.
pub fn emulator() -> Result<PathBuf> {
    if let Some(found) = process::find(EMULATOR) {
        return Ok(found);
    }
    if !Uid::effective().is_root() {
        bail!("{EMULATOR} is missing: install it (apt-get install {PACKAGE})");
    }
    let install = || {
        process::step(
            &format!("install {PACKAGE}"),
            Command::new("apt-get")
                .args(["install", "--yes", "--no-install-recommends", PACKAGE])
                .env("DEBIAN_FRONTEND", "noninteractive"),
            Some(INSTALL_LIMIT),
        )
    };
    // The machine's package lists may be missing, or name a version that has gone.
    if install().is_err() {
        process::step(
            "fetch the package lists",
            Command::new("apt-get").arg("update"),
            Some(INSTALL_LIMIT),
        )?;
        install().with_context(|| format!("{EMULATOR} is missing; install it by hand"))?;
    }
    process::find(EMULATOR).with_context(|| format!("{PACKAGE} has brought no {EMULATOR}"))
}

/// Boots a kernel with a disk in memory and waits until the machine is off. `tell` gets each line of
/// the console.
pub fn run(qemu: &Path, kernel: &Path, disk: &Path, mut tell: impl FnMut(&str)) -> Result<Ended> {
    let mut console = boot(qemu, kernel, disk, &mut tell)?;
    for _ in 1..BOOTS {
        if has_started(&console) {
            break;
        }
        tell("it crashed while it booted; once more");
        console = boot(qemu, kernel, disk, &mut tell)?;
    }
    Ok(judge(&console))
}

fn boot(qemu: &Path, kernel: &Path, disk: &Path, tell: impl FnMut(&str)) -> Result<String> {
    let mut command = Command::new(qemu);
    command
        .args(["-accel", "tcg", "-cpu", PROCESSOR, "-m", "1536"])
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-serial", "stdio"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(disk)
        .args(["-append", KERNEL_ARGUMENTS]);
    process::watched(&mut command, LIMIT, tell)
}

fn has_started(console: &str) -> bool {
    console.lines().any(|line| line.starts_with(STARTED))
}

fn judge(console: &str) -> Ended {
    // A serial line ends with a carriage return, too.
    let lines = || console.lines().map(str::trim_end);
    let word = lines().find_map(|line| line.strip_prefix(MARKER));
    match word.and_then(|word| word.split_once(' ')) {
        Some(("OK", release)) => Ended::Passed {
            release: release.to_owned(),
            checks: lines().filter(|line| line.starts_with(CHECK)).count(),
        },
        Some((_, why)) => failed(why, console),
        None => failed("it went off without a word on how it went", console),
    }
}

fn failed(why: &str, console: &str) -> Ended {
    Ended::Failed {
        why: why.to_owned(),
        console: console.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_passes_only_if_it_says_so() {
        let console = "kernel 6.1.0\r\nok: one\r\nok: two\r\nWEIR-KERNEL-TEST OK 6.1.0\r\n";
        assert_eq!(
            judge(console),
            Ended::Passed {
                release: "6.1.0".to_owned(),
                checks: 2
            }
        );
        let why = |console| match judge(console) {
            Ended::Failed { why, .. } => why,
            passed @ Ended::Passed { .. } => panic!("{passed:?}"),
        };
        assert_eq!(
            why("ok: one\r\nWEIR-KERNEL-TEST FAILED not true: two\r\n"),
            "not true: two"
        );
        assert!(has_started(console) && !has_started("[ 0.1] kernel panic\r\n"));
        for broken in ["", "Kernel panic", "x WEIR-KERNEL-TEST OK 6.1"] {
            assert!(why(broken).contains("without a word"), "{broken}");
        }
    }
}
