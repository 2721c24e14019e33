//! The files of the directory: which there are, what they hold, and whether they have changed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::files::Scan;

/// A file may change twice within one tick of the clock that gives it its times: of a file this
/// young they do not show it. Network file systems have clocks of whole seconds.
const TICK: Duration = Duration::from_secs(2);
/// A larger file is not a manifest.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// What a file was, links followed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    /// Device, inode, size, and the times of its content and of its inode.
    of: [i128; 5],
    /// It is that young that a further change may not show.
    is_young: bool,
}

impl Stamp {
    pub fn shows_that_nothing_changed(&self, since: Option<&Self>) -> bool {
        !self.is_young && Some(self) == since
    }
}

/// A file has the same stamp as long as nothing shows that it has changed, whatever its age.
impl PartialEq for Stamp {
    fn eq(&self, other: &Self) -> bool {
        self.of == other.of
    }
}

impl Eq for Stamp {}

/// What each manifest's file is; nothing of one that cannot be looked at.
///
/// # Errors
/// Why the directory cannot be read.
pub(super) fn stamps(directory: &Path) -> Result<BTreeMap<PathBuf, Option<Stamp>>, String> {
    let paths = manifests(directory)?.into_iter();
    Ok(paths.map(|path| (path.clone(), stamp(&path))).collect())
}

pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    let stat = fs::metadata(path).ok()?;
    let time = |seconds: i64, nanoseconds: i64| {
        i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
    };
    let changed = time(stat.ctime(), stat.ctime_nsec());
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()?;
    let age = i128::try_from(now.as_nanos()).ok()? - changed;
    Some(Stamp {
        of: [
            stat.dev().into(),
            stat.ino().into(),
            stat.len().into(),
            time(stat.mtime(), stat.mtime_nsec()),
            changed,
        ],
        is_young: age < i128::try_from(TICK.as_nanos()).ok()?,
    })
}

pub(super) fn identity(directory: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(directory).map(|stat| (stat.dev(), stat.ino()))
}

/// Reads every manifest of the directory once. What cannot be read is said in the result.
pub fn scan(directory: &Path) -> Scan {
    let mut scan = BTreeMap::new();
    for path in manifests(directory)? {
        if let Some(content) = read(&path) {
            scan.insert(name(&path), content);
        }
    }
    Ok(scan)
}

/// What a file is called.
pub(super) fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The paths that have a manifest's name, or why the directory cannot be read.
fn manifests(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let read = || -> io::Result<Vec<PathBuf>> {
        let paths = fs::read_dir(directory)?.map(|entry| Ok(entry?.path()));
        paths.collect()
    };
    let mut paths =
        read().map_err(|error| format!("directory {}: {error}", directory.display()))?;
    paths.retain(|path| is_manifest(path));
    Ok(paths)
}

/// Does the path have a manifest's name?
pub(super) fn is_manifest(path: &Path) -> bool {
    !path.file_name().is_none_or(is_hidden)
        && path.extension().is_some_and(|extension| {
            ["yaml", "yml", "json"]
                .iter()
                .any(|known| extension == *known)
        })
}

pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// The text of a file or why it cannot be read; `None` for what is no file, or not any more.
pub(super) fn read(path: &Path) -> Option<Result<String, String>> {
    let text = |stat: fs::Metadata| {
        if stat.len() > MAX_FILE_BYTES {
            return Err(format!("is larger than {} MiB", MAX_FILE_BYTES >> 20));
        }
        let bytes = fs::read(path).map_err(|error| error.to_string())?;
        String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            format!("is not UTF-8 text (byte {at})")
        })
    };
    match fs::metadata(path) {
        Ok(stat) if stat.is_file() => Some(text(stat)),
        Ok(_) => None,
        Err(error) if error.kind() == ErrorKind::NotFound && is_not_there(path) => None,
        Err(error) => Some(Err(error.to_string())),
    }
}

/// Neither a file nor a link, not even one to nothing.
pub(super) fn is_not_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_has_changed_in_any_way_is_read_again() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.yaml");
        fs::write(&path, "1").unwrap();
        let young = stamp(&path).unwrap();
        assert!(young.is_young && !young.shows_that_nothing_changed(Some(&young)));
        let old = Stamp {
            is_young: false,
            ..young
        };
        assert!(old.shows_that_nothing_changed(Some(&young)));
        assert!(!old.shows_that_nothing_changed(None));
        fs::write(root.path().join("y.yaml"), "2").unwrap();
        fs::rename(root.path().join("y.yaml"), &path).unwrap();
        assert!(!old.shows_that_nothing_changed(stamp(&path).as_ref()));
    }
}
