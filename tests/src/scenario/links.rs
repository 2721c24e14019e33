//! Links that stand for pods' interfaces where no pod is: a packet that is run through a program
//! has an interface, and the kernel wants to see it.
//!
//! They are in a network namespace of this process, which nothing else enters, and which goes
//! with the process. No packet is ever sent there.

use std::fs::File;
use std::sync::OnceLock;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::LinkBridge;

use super::interfaces::{FIRST, ROOM};

/// Runs `work` where there is a link of every index that a pod's interface may have.
///
/// # Errors
/// The links cannot be made, or the thread cannot go there and back.
pub fn among<T>(work: impl FnOnce() -> T) -> Result<T> {
    static NAMESPACE: OnceLock<Result<File>> = OnceLock::new();
    let there = NAMESPACE.get_or_init(make);
    let there = there.as_ref().map_err(|error| anyhow!("{error:#}"))?;
    let here = own_namespace()?;
    setns(there, CloneFlags::CLONE_NEWNET).context("enter the links' network namespace")?;
    let result = work();
    setns(&here, CloneFlags::CLONE_NEWNET).context("leave the links' network namespace")?;
    Ok(result)
}

fn make() -> Result<File> {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace (this needs root)")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start a runtime")?;
        runtime.block_on(async {
            let (connection, handle, _) =
                rtnetlink::new_connection().context("open a netlink socket")?;
            tokio::spawn(connection);
            for index in FIRST..FIRST + ROOM {
                // Of all links that need no other the one that every kernel here has.
                let link = LinkBridge::new(&format!("pod{index}")).index(index).build();
                let made = handle.link().add(link).execute().await;
                made.with_context(|| format!("make the link {index}"))?;
            }
            anyhow::Ok(())
        })?;
        own_namespace()
    });
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

fn own_namespace() -> Result<File> {
    File::open("/proc/thread-self/ns/net").context("open the thread's network namespace")
}
