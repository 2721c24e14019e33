//! The thread that holds a bed's mounts and is parent of its processes.
//!
//! It lives in a mount namespace of its own. Mounts made there, and the BPF file systems and
//! network namespaces that they hold, vanish with the last process in it, whatever ends the
//! test. Its children ask to be ended with it (`PR_SET_PDEATHSIG` follows the thread that made
//! the child, which is why one thread makes them all).

use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs one after the other on the bed's own thread. Clones share the thread; it ends with
/// the last of them.
#[derive(Clone, Debug)]
pub struct Keeper {
    jobs: mpsc::Sender<Job>,
}

impl Keeper {
    /// Starts the thread.
    pub fn start() -> Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, outcome) = mpsc::channel();
        thread::Builder::new()
            .name("bed-keeper".to_owned())
            .spawn(move || {
                let result = leave_mounts();
                let usable = result.is_ok();
                // Whoever starts a keeper waits for the outcome.
                let _ = ready.send(result);
                if usable {
                    for job in queue {
                        job();
                    }
                }
            })
            .context("start the bed's thread")?;
        outcome.recv().context("the bed's thread ended at once")??;
        Ok(Self { jobs })
    }

    /// Runs a job and waits for its result.
    pub fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, result) = mpsc::channel();
        self.jobs
            .send(Box::new(move || {
                // The receiver waits below, unless its thread panicked: then nobody is to be told.
                let _ = sender.send(job());
            }))
            .map_err(|_| anyhow!("the bed's thread has ended"))?;
        result
            .recv()
            .context("the bed's thread ended during a job")?
    }
}

/// A mount namespace whose changes nobody else sees.
fn leave_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace (this needs root)")?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .context("keep mounts to ourselves")
}
