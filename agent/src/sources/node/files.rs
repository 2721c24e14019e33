//! The files to which a container runtime binds the network namespaces of pods.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

/// A file that may be a network namespace's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamespaceFile {
    /// Device and inode: those of the namespace once it is bound there.
    pub(super) identity: (u64, u64),
    /// The number by which links name the namespace, if one leads there.
    pub(super) number: Option<i32>,
}

impl NamespaceFile {
    /// Opens it; `None` where it has gone, or is no namespace.
    pub(super) fn open(&self, directory: &Path, name: &str) -> Option<File> {
        let file = File::open(directory.join(name)).ok()?;
        let status = fstatfs(&file).ok()?;
        (status.filesystem_type() == NSFS_MAGIC).then_some(file)
    }
}

/// The files of a directory, by name, without their numbers; none where there is no directory.
pub(super) fn list(directory: &Path) -> Result<BTreeMap<String, NamespaceFile>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries.with_context(|| format!("list {}", directory.display()))?,
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", directory.display()))?;
        // It may go at any moment. The entry's own account would be of what is mounted over.
        let Ok(status) = fs::metadata(entry.path()) else {
            continue;
        };
        let file = NamespaceFile {
            identity: (status.dev(), status.ino()),
            number: None,
        };
        files.insert(entry.file_name().to_string_lossy().into_owned(), file);
    }
    Ok(files)
}
