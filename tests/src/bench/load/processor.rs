//! Where a process runs, and how much of a processor's time it used.

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// Has every thread of this process run on one processor only; later ones as those that make them.
pub(super) fn pin(processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)
        .with_context(|| format!("there is no processor {processor}"))?;
    let threads = std::fs::read_dir("/proc/self/task").context("list the threads")?;
    for thread in threads {
        let name = thread.context("list the threads")?.file_name();
        let id: i32 = name
            .to_str()
            .and_then(|name| name.parse().ok())
            .context("a thread's name is its number")?;
        sched_setaffinity(Pid::from_raw(id), &set)
            .with_context(|| format!("have thread {id} run on processor {processor}"))?;
    }
    Ok(())
}

/// What all threads of this process together have used. Work that the kernel does on their behalf
/// when a call ends (soft interrupts) is theirs, unless the kernel is built to account for it apart.
pub(super) fn used() -> Result<Duration> {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).context("ask for the time used")?;
    Ok(Duration::from(time))
}
