//! Where things are: the workspace and its target directory.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The directories that the commands work in.
pub struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// The workspace this command was built from; `CARGO_TARGET_DIR` is respected.
    pub fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask has no parent directory")?
            .to_owned();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(directory) => env::current_dir()
                .context("find the current directory")?
                .join(directory),
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// The workspace's root, where its `Cargo.toml` is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target directory for the host's crates.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Cargo's target directory for the BPF object: its own, so that neither build disturbs the
    /// other's cache.
    pub fn ebpf_target(&self) -> PathBuf {
        self.target.join("ebpf")
    }

    /// Cargo's target directory for what is checked and not built.
    pub fn lint_target(&self) -> PathBuf {
        self.target.join("lint")
    }

    /// The finished BPF object.
    pub fn ebpf_object(&self) -> PathBuf {
        self.ebpf_target().join("dataplane.o")
    }

    /// A directory for something fetched or installed; made where it is missing.
    pub fn tools(&self, name: &str) -> Result<PathBuf> {
        let directory = self.target.join("tools").join(name);
        fs::create_dir_all(&directory)
            .with_context(|| format!("make the directory {}", directory.display()))?;
        Ok(directory)
    }
}
