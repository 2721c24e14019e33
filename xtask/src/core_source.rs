//! The source of `core`, of the compiler's own version: the BPF target has no compiled one.
//!
//! It is looked for where rustup and distributions put it, then in the target directory. Where it
//! is missing, rustup adds it; where rustup cannot, it comes from the distribution's package of
//! the same version, unpacked into the target directory.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{apt::Apt, process, rust::Rust, workspace::Workspace};

/// How long rustup may take for the 4 MB of the component.
const RUSTUP_LIMIT: Duration = Duration::from_secs(90);

/// Suites of other releases that may carry the package. It holds sources only, so any release's
/// will do.
const SUITES: [&str; 4] = ["trixie-backports", "trixie", "forky", "sid"];

/// Where cargo finds the source.
pub enum CoreSource {
    /// In the compiler's own directory, where cargo looks by itself.
    Sysroot,
    /// In this `library` directory.
    Library(PathBuf),
}

/// Finds the source, or gets it.
pub fn get(workspace: &Workspace, rust: &Rust) -> Result<CoreSource> {
    let in_sysroot = rust.sysroot.join("lib/rustlib/src/rust/library");
    if is_complete(&in_sysroot) {
        return Ok(CoreSource::Sysroot);
    }
    let tools = workspace.tools(&format!("rust-src-{}", rust.release))?;
    let library = tools.join("library");
    if is_complete(&library) {
        return Ok(CoreSource::Library(library));
    }

    let by_rustup = match from_rustup(workspace) {
        Ok(()) if is_complete(&in_sysroot) => return Ok(CoreSource::Sysroot),
        Ok(()) => format!("rustup did not put it to {}", in_sysroot.display()),
        Err(error) => format!("{error:#}"),
    };
    match from_package(workspace, rust, &tools) {
        Ok(()) => Ok(CoreSource::Library(library)),
        Err(by_package) => bail!(
            "core's source for rustc {release} cannot be had.\n\
             What to do: `rustup component add rust-src`, or install your distribution's \
             rust-src of version {release}, or put a `library` directory of that version at {}\n\
             Tried rustup: {by_rustup}\n\
             Tried the distribution's package: {by_package:#}",
            library.display(),
            release = rust.release,
        ),
    }
}

fn is_complete(library: &Path) -> bool {
    library.join("Cargo.lock").is_file() && library.join("core/src/lib.rs").is_file()
}

fn from_rustup(workspace: &Workspace) -> Result<()> {
    let rustup = process::find("rustup").context("rustup is not installed")?;
    // Set by rustup's own cargo. Without it the compiler is not rustup's to extend.
    let toolchain =
        env::var("RUSTUP_TOOLCHAIN").context("this compiler does not come from rustup")?;
    process::step(
        "add rust-src with rustup",
        Command::new(rustup).current_dir(workspace.root()).args([
            "component",
            "add",
            "rust-src",
            "--toolchain",
            &toolchain,
        ]),
        Some(RUSTUP_LIMIT),
    )?;
    Ok(())
}

fn from_package(workspace: &Workspace, rust: &Rust, tools: &Path) -> Result<()> {
    let apt = Apt::new(workspace.tools("apt")?)?;
    let mut reasons = Vec::new();
    for suite in suites(apt.codename()) {
        let versions = match apt.versions(&suite, "rust-src") {
            Ok(versions) => versions,
            Err(error) => {
                reasons.push(format!("{suite}: {error:#}"));
                continue;
            }
        };
        let Some(version) = versions
            .iter()
            .find(|version| upstream(version) == rust.release)
        else {
            reasons.push(format!("{suite} has {}", list(&versions)));
            continue;
        };
        let unpacked = apt.unpack(&suite, "rust-src", version)?;
        return keep_library(&unpacked, tools);
    }
    bail!(
        "no suite has version {}: {}",
        rust.release,
        reasons.join("; ")
    )
}

/// Moves the one directory that is needed to its place, complete or not at all, and drops the
/// rest.
fn keep_library(unpacked: &Path, tools: &Path) -> Result<()> {
    let sources = unpacked.join("usr/src");
    let library = fs::read_dir(&sources)
        .with_context(|| format!("list {}", sources.display()))?
        .filter_map(Result::ok)
        .map(|entry| entry.path().join("library"))
        .find(|library| is_complete(library))
        .with_context(|| format!("the package has no library below {}", sources.display()))?;
    let place = tools.join("library");
    if place.exists() {
        fs::remove_dir_all(&place).with_context(|| format!("remove {}", place.display()))?;
    }
    fs::rename(&library, &place)
        .with_context(|| format!("move {} to {}", library.display(), place.display()))?;
    fs::remove_dir_all(unpacked).with_context(|| format!("remove {}", unpacked.display()))
}

/// Where to look, the short lists of the backports first.
fn suites(codename: &str) -> Vec<String> {
    let mut suites = Vec::new();
    let own = [format!("{codename}-backports"), codename.to_owned()];
    for suite in own.into_iter().chain(SUITES.map(str::to_owned)) {
        if !suites.contains(&suite) {
            suites.push(suite);
        }
    }
    suites.sort_by_key(|suite| !suite.ends_with("-backports"));
    suites
}

/// `1.95.0` of `1.95.0+dfsg1-2~bpo13+1`.
fn upstream(version: &str) -> &str {
    let version = version
        .split_once(':')
        .map_or(version, |(_epoch, rest)| rest);
    version.split(['+', '-', '~']).next().unwrap_or(version)
}

fn list(versions: &[String]) -> String {
    if versions.is_empty() {
        "none".to_owned()
    } else {
        versions.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backports_are_asked_first_and_no_suite_twice() {
        assert_eq!(
            suites("trixie"),
            ["trixie-backports", "trixie", "forky", "sid"]
        );
        assert_eq!(
            suites("bookworm")[..3],
            ["bookworm-backports", "trixie-backports", "bookworm"]
        );
    }

    #[test]
    fn the_upstream_version_is_what_the_compiler_calls_itself() {
        assert_eq!(upstream("1.95.0+dfsg1-2~bpo13+1"), "1.95.0");
        assert_eq!(upstream("1.63.0-2"), "1.63.0");
        assert_eq!(upstream("2:1.85.0"), "1.85.0");
        assert_eq!(upstream("1.97.0~beta.1+dfsg1-1"), "1.97.0");
    }
}
