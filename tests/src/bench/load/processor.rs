//! Where a process runs, and how much of a processor's time it used.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, gettid};

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

/// Has this thread, and those that it starts from now on, take nobody's processor when something has
/// come for it (`SCHED_BATCH`): it goes on when the others wait.
pub(super) fn interrupt_nobody() -> Result<()> {
    // By util-linux, which every distribution has: libraries that ask the kernel by themselves know
    // of processors and of niceness only.
    let output = Command::new("chrt")
        .args(["--batch", "--pid", "0", &gettid().to_string()])
        .output()
        .context("run chrt, of util-linux")?;
    ensure!(
        output.status.success(),
        "chrt: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// What all threads of this process together have used. Work that the kernel does on their behalf
/// when a call ends (soft interrupts) is theirs, unless the kernel is built to account for it apart.
pub(super) fn used() -> Result<Duration> {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).context("ask for the time used")?;
    Ok(Duration::from(time))
}
