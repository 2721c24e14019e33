//! From a kernel that has just started its first program to a machine that a node can live on.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::utsname::uname;
use nix::unistd::getpid;

/// The kernel's modules, in the order in which they need each other.
const MODULES: &str = "/modules";

/// (what, where) of the file systems that programs expect.
const MOUNTS: [(&str, &str); 5] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/run"),
    ("cgroup2", "/sys/fs/cgroup"),
];

/// Are we the first program of a machine, and not somebody's call by hand?
#[must_use]
pub fn is_ours() -> bool {
    getpid().as_raw() == 1 && Path::new(MODULES).is_dir()
}

/// The kernel under test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    release: String,
    version: (u32, u32),
}

impl Kernel {
    fn running() -> Result<Self> {
        let names = uname().context("ask for the kernel's release")?;
        Self::parse(&names.release().to_string_lossy())
    }

    fn parse(release: &str) -> Result<Self> {
        let mut numbers = release
            .split(|character: char| !character.is_ascii_digit())
            .map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok(Self {
                release: release.to_owned(),
                version: (major, minor),
            }),
            _ => anyhow::bail!("the kernel's release {release:?} does not begin with its version"),
        }
    }

    /// Is it Linux `major.minor` or later?
    #[must_use]
    pub fn is_at_least(&self, major: u32, minor: u32) -> bool {
        self.version >= (major, minor)
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.release)
    }
}

/// Mounts what programs expect, and loads the modules.
pub fn prepare() -> Result<Kernel> {
    for (kind, directory) in MOUNTS {
        fs::create_dir_all(directory).with_context(|| format!("create {directory}"))?;
        mount(
            Some(kind),
            directory,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("mount {kind} on {directory}"))?;
    }
    for module in modules()? {
        let file = File::open(&module).with_context(|| format!("open {}", module.display()))?;
        finit_module(file, c"", ModuleInitFlags::empty())
            .with_context(|| format!("load the module {}", module.display()))?;
    }
    Kernel::running()
}

/// In the order of their names.
fn modules() -> Result<Vec<PathBuf>> {
    let mut files = fs::read_dir(MODULES)
        .with_context(|| format!("list {MODULES}"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

/// Ends everything at once. Comes back only with the reason why it could not.
pub fn switch_off() -> anyhow::Error {
    match reboot(RebootMode::RB_POWER_OFF) {
        Ok(never) => match never {},
        Err(error) => anyhow::Error::new(error).context("switch the machine off"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_begins_with_its_version() {
        for (release, version) in [
            ("5.10.0-32-cloud-amd64", (5, 10)),
            ("6.12.107+deb13-cloud-amd64", (6, 12)),
            ("6.1", (6, 1)),
        ] {
            assert_eq!(Kernel::parse(release).unwrap().version, version);
        }
        assert!(Kernel::parse("linux-6.1").is_err());
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let kernel = Kernel::parse("5.10.0").unwrap();
        assert!(kernel.is_at_least(5, 9) && kernel.is_at_least(5, 10));
        assert!(!kernel.is_at_least(5, 18) && !kernel.is_at_least(6, 6));
    }
}
