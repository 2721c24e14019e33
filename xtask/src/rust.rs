//! The compiler that is there.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::process;

/// What `rustc` says about itself.
pub struct Rust {
    /// `1.95.0`
    pub release: String,
    /// The host's target triple.
    pub host: String,
    /// Where its libraries are.
    pub sysroot: PathBuf,
}

impl Rust {
    /// Asks the compiler that cargo would use.
    pub fn ask(root: &Path) -> Result<Self> {
        let rustc = || {
            let mut command = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
            command.current_dir(root);
            command
        };
        let version = process::output(rustc().arg("-vV"))?;
        let sysroot = process::output(rustc().args(["--print", "sysroot"]))?;
        let field = |name: &str| {
            version
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .map(str::to_owned)
                .with_context(|| format!("`rustc -vV` does not tell its {name}:\n{version}"))
        };
        Ok(Self {
            release: field("release")?,
            host: field("host")?,
            sysroot: PathBuf::from(sysroot.trim()),
        })
    }
}
