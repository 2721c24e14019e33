//! A kernel: its image and the modules the tests need, taken out of the distribution's package.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::modules;
use crate::apt::Apt;

/// The packages of kernels for virtual machines: half the size, and they have all we need.
const FLAVOUR: &str = "-cloud-amd64";

const IMAGE: &str = "vmlinuz";
const MODULES: &str = "modules";

/// A line of kernels, and the release that carries it.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    /// The first two numbers.
    pub version: &'static str,
    /// The release's name.
    pub suite: &'static str,
}

/// Files of a kernel that was fetched.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// What the machine boots.
    pub image: PathBuf,
    /// In the order in which they are to be loaded, which is that of their names.
    pub modules: Vec<PathBuf>,
}

impl Kernel {
    /// The kernel in a directory that [`fetch`] has made; none where it is not there, or lacks a
    /// module that is needed by now.
    pub fn kept(directory: &Path) -> Result<Option<Self>> {
        let image = directory.join(IMAGE);
        if !image.is_file() {
            return Ok(None);
        }
        let mut modules = files(&directory.join(MODULES))?;
        modules.sort();
        let has = |needed: &&str| {
            modules
                .iter()
                .any(|file| module_of(file).as_deref() == Some(*needed))
        };
        let is_complete = modules::NEEDED.iter().all(has);
        Ok(is_complete.then_some(Self { image, modules }))
    }
}

/// Fetches the newest kernel of a series and keeps of it what is needed.
pub fn fetch(apt: &Apt, series: Series, directory: &Path) -> Result<Kernel> {
    let names = apt.names(series.suite, &format!("linux-image-{}.", series.version))?;
    let package = newest(&names).with_context(|| {
        format!(
            "the archive has no package linux-image-{}.*{FLAVOUR} in {}",
            series.version, series.suite
        )
    })?;
    let versions = apt.versions(series.suite, package)?;
    let version = versions
        .first()
        .with_context(|| format!("the archive names {package} but has no version of it"))?;
    let unpacked = apt.unpack(series.suite, package, version)?;

    let fresh = directory.with_extension("new");
    for old in [&fresh, directory] {
        if old.exists() {
            fs::remove_dir_all(old).with_context(|| format!("remove {}", old.display()))?;
        }
    }
    fs::create_dir_all(fresh.join(MODULES)).with_context(|| format!("make {}", fresh.display()))?;
    let image = files(&unpacked.join("boot"))?
        .into_iter()
        .find(|path| name_of(path).starts_with(IMAGE))
        .with_context(|| format!("{package} holds no boot/{IMAGE}-*"))?;
    copy(&image, &fresh.join(IMAGE))?;
    let loaded = modules::in_order(&files(&unpacked)?, modules::NEEDED)?;
    for (number, (name, bytes)) in loaded.iter().enumerate() {
        let path = fresh.join(MODULES).join(format!("{number:02}-{name}.ko"));
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
    }
    fs::rename(&fresh, directory).with_context(|| format!("make {}", directory.display()))?;
    fs::remove_dir_all(&unpacked).with_context(|| format!("remove {}", unpacked.display()))?;
    Kernel::kept(directory)?.with_context(|| format!("{} is not complete", directory.display()))
}

/// The kernel with the highest numbers in its name.
fn newest(names: &[String]) -> Option<&String> {
    let numbers = |name: &String| -> Vec<u32> {
        name.split(|character: char| !character.is_ascii_digit())
            .filter_map(|digits| digits.parse().ok())
            .collect()
    };
    names
        .iter()
        .filter(|name| name.ends_with(FLAVOUR))
        .max_by_key(|name| numbers(name))
}

/// `veth` of `07-veth.ko`.
fn module_of(file: &Path) -> Option<String> {
    let name = name_of(file);
    let (_number, module) = name.strip_suffix(".ko")?.split_once('-')?;
    Some(module.to_owned())
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// All files below a directory.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(directory);
    for entry in entries.with_context(|| format!("list {}", directory.display()))? {
        let entry = entry.with_context(|| format!("list {}", directory.display()))?;
        let kind = entry.file_type().context("look at an unpacked file")?;
        if kind.is_dir() {
            found.extend(files(&entry.path())?);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .with_context(|| format!("copy {} to {}", from.display(), to.display()))
        .map(|_bytes| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn the_newest_kernel_is_found_by_its_numbers() {
        let names = names(&[
            "linux-image-6.12.94+deb13-cloud-amd64",
            "linux-image-6.12.107+deb13-cloud-amd64",
            "linux-image-6.12.107+deb13-cloud-amd64-dbg",
            "linux-image-6.12.107+deb13-cloud-amd64-unsigned",
            "linux-image-6.12.107+deb13-rt-amd64",
        ]);
        assert_eq!(
            newest(&names).map(String::as_str),
            Some("linux-image-6.12.107+deb13-cloud-amd64")
        );
        assert_eq!(newest(&[]), None);
    }

    #[test]
    fn a_kept_modules_name_is_behind_its_number() {
        let module = |file| module_of(Path::new(file));
        assert_eq!(
            module("/k/07-sch_ingress.ko").as_deref(),
            Some("sch_ingress")
        );
        assert_eq!(module("/k/veth.ko"), None);
    }

    #[test]
    fn a_kernel_that_lacks_a_module_is_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let kept = || Kernel::kept(directory.path()).unwrap();
        assert!(kept().is_none());
        fs::write(directory.path().join(IMAGE), "").unwrap();
        fs::create_dir(directory.path().join(MODULES)).unwrap();
        for (number, name) in modules::NEEDED.iter().enumerate() {
            assert!(kept().is_none(), "without {name}");
            let file = format!("{MODULES}/{number:02}-{name}.ko");
            fs::write(directory.path().join(file), "").unwrap();
        }
        let kernel = kept().unwrap();
        assert_eq!(kernel.modules.len(), modules::NEEDED.len());
    }
}
