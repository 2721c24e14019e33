//! Packages of the distribution, unpacked without being installed.
//!
//! apt keeps its lists and cache in a directory of ours and reads one source line of ours; the
//! machine's own package state is neither read beyond the archive's address nor written. It needs
//! no privileges.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::process;

/// The distribution's keys, where the machine has them as a file; else apt's own trusted ones.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// How long one download may take.
const LIMIT: Duration = Duration::from_secs(300);

/// apt with a private state.
pub struct Apt {
    directory: PathBuf,
    archives: Vec<Archive>,
    /// The suites whose package lists are fresh.
    updated: RefCell<BTreeSet<String>>,
}

/// One archive that the machine's own apt uses.
struct Archive {
    site: String,
    codename: String,
}

impl Apt {
    /// Learns from the machine's own apt where its archives are.
    pub fn new(directory: PathBuf) -> Result<Self> {
        let targets = process::output(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(SITE) $(CODENAME)",
            "Identifier: Packages",
        ]))
        .context("ask apt for its archives")?;
        let archives = targets
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(site, codename)| Archive {
                site: site.to_owned(),
                codename: codename.to_owned(),
            })
            .collect::<Vec<_>>();
        if archives.is_empty() {
            bail!("apt knows no archive: run `apt-get update` with sources configured");
        }
        Ok(Self {
            directory,
            archives,
            updated: RefCell::default(),
        })
    }

    /// The release this machine runs.
    pub fn codename(&self) -> &str {
        &self.main().codename
    }

    /// The versions of a package that a suite offers, newest first.
    pub fn versions(&self, suite: &str, package: &str) -> Result<Vec<String>> {
        let names = process::output(
            self.apt("apt-cache", &self.updated(suite)?)
                .args(["madison", package]),
        )?;
        Ok(madison(&names)
            .filter(|(name, _)| *name == package)
            .map(|(_, version)| version.to_owned())
            .collect())
    }

    /// The names of a suite's packages that begin so.
    pub fn names(&self, suite: &str, prefix: &str) -> Result<Vec<String>> {
        let names = process::output(
            self.apt("apt-cache", &self.updated(suite)?)
                .args(["pkgnames", prefix]),
        )?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Fetches a package and unpacks it into a directory, which is the caller's to move or remove.
    pub fn unpack(&self, suite: &str, package: &str, version: &str) -> Result<PathBuf> {
        let state = self.updated(suite)?;
        let download = fresh(&state.join("download"))?;
        process::step(
            &format!("fetch {package} {version}"),
            self.apt("apt-get", &state)
                .current_dir(&download)
                .args(["download", &format!("{package}={version}")]),
            Some(LIMIT),
        )?;
        let file = fs::read_dir(&download)
            .with_context(|| format!("list {}", download.display()))?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .with_context(|| format!("apt left no package of {package} {version}"))?;
        let unpacked = fresh(&state.join("unpacked"))?;
        process::step(
            &format!("unpack {package} {version}"),
            Command::new("dpkg").arg("-x").arg(file).arg(&unpacked),
            Some(LIMIT),
        )?;
        fs::remove_dir_all(&download).with_context(|| format!("remove {}", download.display()))?;
        Ok(unpacked)
    }

    /// Fetches a suite's package list, and gives the directory that holds it. Once a process: a list
    /// kept from last week may name packages that the archive no longer has.
    fn updated(&self, suite: &str) -> Result<PathBuf> {
        let state = self.directory.join(suite);
        if self.updated.borrow().contains(suite) {
            return Ok(state);
        }
        for directory in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(state.join(directory))
                .with_context(|| format!("make {directory} in {}", state.display()))?;
        }
        let keyring = if Path::new(KEYRING).is_file() {
            format!("[signed-by={KEYRING}] ")
        } else {
            String::new()
        };
        let site = self.site(suite);
        let sources = state.join("sources.list");
        fs::write(&sources, format!("deb {keyring}{site} {suite} main\n"))
            .with_context(|| format!("write {}", sources.display()))?;
        process::step(
            &format!("fetch the package list of {suite}"),
            self.apt("apt-get", &state).arg("update"),
            Some(LIMIT),
        )?;
        self.updated.borrow_mut().insert(suite.to_owned());
        Ok(state)
    }

    fn apt(&self, program: &str, state: &Path) -> Command {
        let mut command = Command::new(program);
        command.arg("--quiet");
        for (option, value) in [
            ("Dir::Etc::SourceList", state.join("sources.list")),
            ("Dir::Etc::SourceParts", PathBuf::from("/dev/null")),
            ("Dir::State::Lists", state.join("lists")),
            ("Dir::Cache", state.join("cache")),
            ("Acquire::Languages", PathBuf::from("none")),
            // A list that could not be fetched is an error, not a warning.
            ("APT::Update::Error-Mode", PathBuf::from("any")),
        ] {
            command
                .arg("--option")
                .arg(format!("{option}={}", value.display()));
        }
        // The user that apt drops to as root need not be able to reach our directory.
        command.args(["--option", "APT::Sandbox::User=root"]);
        command
    }

    fn site(&self, suite: &str) -> &str {
        // Security updates are an archive of their own.
        let kind = |codename: &str| codename.ends_with("-security");
        self.archives
            .iter()
            .find(|archive| kind(&archive.codename) == kind(suite))
            .map_or(&self.main().site, |archive| &archive.site)
    }

    fn main(&self) -> &Archive {
        self.archives
            .iter()
            .find(|archive| !archive.codename.contains('-'))
            .unwrap_or(&self.archives[0])
    }
}

/// Name and version of each line of `apt-cache madison`.
fn madison(output: &str) -> impl Iterator<Item = (&str, &str)> {
    output.lines().filter_map(|line| {
        let mut columns = line.split('|').map(str::trim);
        Some((columns.next()?, columns.next()?))
    })
}

/// An empty directory of this path.
fn fresh(directory: &Path) -> Result<PathBuf> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("empty {}", directory.display()))?;
    }
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    Ok(directory.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_list() {
        let output = "  rust-src | 1.96.1+dfsg1-2 | http://example.invalid suite/main amd64 Packages\n  \
                      rust-src | 1.95.0+dfsg1-2 | http://example.invalid suite/main amd64 Packages\n";
        assert_eq!(
            madison(output).collect::<Vec<_>>(),
            [
                ("rust-src", "1.96.1+dfsg1-2"),
                ("rust-src", "1.95.0+dfsg1-2")
            ]
        );
    }

    #[test]
    fn security_suites_come_from_the_security_archive() {
        let archive = |site: &str, codename: &str| Archive {
            site: site.to_owned(),
            codename: codename.to_owned(),
        };
        let apt = Apt {
            directory: PathBuf::new(),
            archives: vec![
                archive("security.invalid", "bookworm-security"),
                archive("main.invalid", "bookworm-updates"),
                archive("main.invalid", "bookworm"),
            ],
            updated: RefCell::default(),
        };
        assert_eq!(apt.codename(), "bookworm");
        assert_eq!(apt.site("trixie-backports"), "main.invalid");
        assert_eq!(apt.site("bullseye-security"), "security.invalid");
    }
}
