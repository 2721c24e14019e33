//! The agent's binary as of another version: a copy that says of itself that its tables have
//! another layout.
//!
//! The number stands behind a label in the binary (`weir_agent::maps::layout`). It takes no second
//! build, and what is tried is the way from one layout's pins to another's, not the difference.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};

use super::process;

/// What stands before the number.
const LABEL: &[u8] = b"weir tables have the layout ";
/// How many digits the number has.
const DIGITS: usize = 5;

/// A copy, removed when dropped.
#[derive(Debug)]
pub struct Upgrade {
    path: PathBuf,
}

impl Upgrade {
    /// Copies the binary and gives the copy a layout's version.
    pub fn to_layout(weir: &Path, version: u32) -> Result<Self> {
        // A test's own: another may make the same version meanwhile, and remove it.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("weir-layout-{version}-{}-{number}", std::process::id());
        // Beside the binary: there is room for it, and programs may run there.
        let path = weir.with_file_name(name);
        let upgrade = Self { path };
        // By a process of its own: whatever another thread starts meanwhile would hold the copy
        // open for writing, and the kernel would refuse to run it.
        let output = Command::new(process::helper()?)
            .arg("relabel")
            .args([weir, &upgrade.path])
            .arg(version.to_string())
            .output()
            .context("run the test bed's helper")?;
        ensure!(
            output.status.success(),
            "copy {}: {}",
            weir.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(upgrade)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Upgrade {
    fn drop(&mut self) {
        // Absent where it could not be made.
        let _ = fs::remove_file(&self.path);
    }
}

/// The helper's part: copies the binary and alters the copy.
pub fn relabel(weir: &Path, copy: &Path, version: u32) -> Result<()> {
    let bytes = fs::read(weir).with_context(|| format!("read {}", weir.display()))?;
    let place = match *places(&bytes).as_slice() {
        [place] => place + LABEL.len(),
        ref places => bail!("{} has {} labels", weir.display(), places.len()),
    };
    let digits = format!("{version:0DIGITS$}");
    ensure!(digits.len() == DIGITS, "{version} has too many digits");
    fs::copy(weir, copy).with_context(|| format!("write {}", copy.display()))?;
    File::options()
        .write(true)
        .open(copy)
        .and_then(|file| file.write_all_at(digits.as_bytes(), place as u64))
        .with_context(|| format!("alter {}", copy.display()))
}

/// Where labels with a number stand. The files are large: this looks at one byte of each length
/// of a label, and closer only where the byte is in it (Horspool).
fn places(bytes: &[u8]) -> Vec<usize> {
    let last = LABEL.len() - 1;
    let mut skips = [LABEL.len(); 256];
    for (index, byte) in LABEL[..last].iter().enumerate() {
        skips[usize::from(*byte)] = last - index;
    }
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(window) = bytes.get(at..at + LABEL.len()) {
        let digits = || bytes.get(at + LABEL.len()..at + LABEL.len() + DIGITS);
        if window == LABEL && digits().is_some_and(|it| it.iter().all(u8::is_ascii_digit)) {
            found.push(at);
        }
        at += skips[usize::from(window[last])];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_found_where_a_number_follows() {
        let text = "..weir tables have the layout 00004 weir tables have the layout none";
        assert_eq!(places(text.as_bytes()), [2]);
        assert_eq!(
            places(b"weir tables have the layout 0000"),
            Vec::<usize>::new()
        );
    }
}
