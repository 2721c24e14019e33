//! What the programs say of single packets.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};

/// Passes the programs' records on to the log, as long as the runtime lives.
///
/// # Errors
///
/// The programs' ring buffer cannot be read.
pub fn follow_log(ebpf: &mut Ebpf) -> Result<()> {
    let logger = EbpfLogger::init(ebpf).context("read the programs' log")?;
    // SAFETY: the logger owns its file descriptor, which stays the same and open until the
    // logger is dropped; that happens in `AsyncFd`, after it has let go of it.
    let registered = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    let mut logger = registered.context("wait for the programs' log")?;
    tokio::spawn(async move {
        // An error means that the runtime ends.
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
    Ok(())
}
