//! Network namespaces: made, named by a file, entered by a thread.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, thread};

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::keeper::Keeper;
use super::links::Links;

/// A network namespace, bound to a file as container runtimes bind theirs. It lives while the
/// file, this value or a process in it does.
#[derive(Clone, Debug)]
pub struct Namespace {
    file: PathBuf,
    open: Arc<File>,
}

impl Namespace {
    /// Makes an empty namespace and binds it to `file` in the keeper's mounts.
    pub fn create(keeper: &Keeper, file: PathBuf) -> Result<Self> {
        let path = file.clone();
        let open = keeper
            .run(move || {
                // On a thread of its own: the keeper stays where it is.
                join(thread::spawn(move || bind_new(&path)))
            })
            .with_context(|| format!("make network namespace {}", file.display()))?;
        let namespace = Self {
            file,
            open: Arc::new(open),
        };
        namespace.run(async |links| links.up("lo").await)?;
        Ok(namespace)
    }

    /// Takes its file away, as a runtime does when a pod ends; it lives while this value's clones
    /// or processes in it do.
    pub fn remove(self, keeper: &Keeper) -> Result<()> {
        let file = self.file;
        keeper.run(move || {
            umount2(&file, MntFlags::MNT_DETACH)
                .with_context(|| format!("unmount {}", file.display()))?;
            fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))
        })
    }

    /// Where it is bound.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Valid while this value is.
    #[must_use]
    pub fn as_raw_fd(&self) -> RawFd {
        self.open.as_raw_fd()
    }

    /// The number by which the kernel tells namespaces apart.
    pub fn inode(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;
        Ok(self.open.metadata()?.ino())
    }

    /// Works on links, addresses and routes inside.
    pub fn run<T: Send>(&self, work: impl AsyncFnOnce(Links) -> Result<T> + Send) -> Result<T> {
        self.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("start a runtime")?;
            runtime.block_on(async { work(Links::connect()?).await })
        })
    }

    /// Sets `net.*` parameters inside, each a path below `/proc/sys/net`.
    pub fn set_sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (name, value) in settings {
                let path = Path::new("/proc/sys/net").join(name);
                fs::write(&path, value)
                    .with_context(|| format!("write {value} to {}", path.display()))?;
            }
            Ok(())
        })
    }

    /// Runs `work` on a thread inside.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&*self.open, CloneFlags::CLONE_NEWNET).with_context(|| {
                        format!("enter network namespace {}", self.file.display())
                    })?;
                    work()
                })
                .join()
                .map_err(|_| anyhow!("a thread in {} panicked", self.file.display()))?
        })
    }
}

fn join<T>(thread: thread::JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

/// Leaves the thread's network namespace for a new one and binds that to `file`.
fn bind_new(file: &Path) -> Result<File> {
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    File::create_new(file).with_context(|| format!("create {}", file.display()))?;
    unshare(CloneFlags::CLONE_NEWNET).context("leave the network namespace (this needs root)")?;
    mount(
        Some("/proc/thread-self/ns/net"),
        file,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .with_context(|| format!("bind to {}", file.display()))?;
    File::open("/proc/thread-self/ns/net").context("open the new namespace")
}
