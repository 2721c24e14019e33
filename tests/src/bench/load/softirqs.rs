//! The kernel's own threads for soft interrupts, which do the work of others where there is much of it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// One thread for each processor.
#[derive(Debug)]
pub struct Softirqs {
    accounts: Vec<PathBuf>,
}

impl Softirqs {
    /// Finds them.
    ///
    /// # Errors
    /// The processes cannot be listed.
    pub fn find() -> Result<Self> {
        let mut accounts = Vec::new();
        for entry in std::fs::read_dir("/proc").context("list the processes")? {
            let path = entry.context("list the processes")?.path();
            // A process may end while it is looked at; these do not.
            let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
            if name.starts_with("ksoftirqd/") {
                accounts.push(path.join("schedstat"));
            }
        }
        Ok(Self { accounts })
    }

    /// The processor time that they used since the machine's start.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn used(&self) -> Result<Duration> {
        let mut sum = Duration::ZERO;
        for file in &self.accounts {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("read {}", file.display()))?;
            let nanos = text
                .split(' ')
                .next()
                .and_then(|text| text.parse().ok())
                .with_context(|| format!("{} begins with no number", file.display()))?;
            sum += Duration::from_nanos(nanos);
        }
        Ok(sum)
    }
}
