//! Signs that the node has changed. What exactly has is listed afresh, as far as it is doubtful.
//!
//! The kernel tells of interfaces and addresses ([`Events`]), inotify of the files of network
//! namespaces, and `/proc/…/mounts` of namespaces that are bound to them.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use super::events::Events;
use super::stale::Stale;

/// Watches.
pub(super) struct Signs {
    netlink: Events,
    files: Arc<Notify>,
    watcher: RecommendedWatcher,
    netns_dir: PathBuf,
    /// The thread that watches mounts ends when this does.
    _mounts: UnixStream,
}

impl Signs {
    pub(super) fn watch(netns_dir: &Path) -> Result<Self> {
        let files = Arc::new(Notify::new());
        let watcher = {
            let files = Arc::clone(&files);
            let netns_dir = netns_dir.to_path_buf();
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                if event.is_ok_and(|event| matters(&event, &netns_dir)) {
                    files.notify_one();
                }
            })
            .context("watch files")?
        };
        let mut signs = Self {
            netlink: Events::listen().context("listen for netlink events")?,
            _mounts: watch_mounts(Arc::clone(&files)).context("watch the mounts")?,
            files,
            watcher,
            netns_dir: netns_dir.to_path_buf(),
        };
        signs.watch_directory();
        Ok(signs)
    }

    /// Waits for a sign, and notes what it makes doubtful. What was noted stays noted where the
    /// wait is given up.
    pub(super) async fn next(&mut self, stale: &mut Stale) -> Result<()> {
        tokio::select! {
            heard = self.netlink.next(stale) => heard.context("read netlink events")?,
            () = self.files.notified() => {
                stale.files = true;
                self.watch_directory();
            }
        }
        Ok(())
    }

    /// Watches the directory, and its parent for the time when it does not exist. It may have
    /// been made anew, so this is done after each change.
    fn watch_directory(&mut self) {
        for path in [Some(self.netns_dir.as_path()), self.netns_dir.parent()]
            .into_iter()
            .flatten()
        {
            if let Err(error) = self.watcher.watch(path, RecursiveMode::NonRecursive) {
                tracing::debug!(path = %path.display(), %error, "cannot be watched now");
            }
        }
    }
}

/// A namespace is bound to its file by a mount, of which the directory's own watch says nothing.
/// `/proc/…/mounts` becomes urgent with each change; a thread waits for that, because the
/// runtime's own way of waiting for a foreign descriptor is unsafe code.
fn watch_mounts(changed: Arc<Notify>) -> io::Result<UnixStream> {
    let mounts = File::open("/proc/thread-self/mounts")?;
    let (ours, theirs) = UnixStream::pair()?;
    thread::Builder::new()
        .name("mounts".to_owned())
        .spawn(move || {
            loop {
                let mut watched = [
                    PollFd::new(mounts.as_fd(), PollFlags::POLLPRI),
                    PollFd::new(theirs.as_fd(), PollFlags::empty()),
                ];
                match poll(&mut watched, PollTimeout::NONE) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(error) => {
                        tracing::warn!(%error, "the mounts can no longer be watched");
                        return;
                    }
                }
                let [mounts, ours] = watched.map(|descriptor| descriptor.any());
                if ours != Some(false) {
                    return;
                }
                if mounts == Some(true) {
                    changed.notify_one();
                }
            }
        })?;
    Ok(ours)
}

/// Does a file come or go there? Others' events in the parent do not matter, nor does reading,
/// which we do ourselves.
fn matters(event: &notify::Event, netns_dir: &Path) -> bool {
    let comes_or_goes = match event.kind {
        EventKind::Any | EventKind::Create(_) | EventKind::Remove(_) | EventKind::Other => true,
        EventKind::Modify(notify::event::ModifyKind::Name(_)) => true,
        EventKind::Modify(_) | EventKind::Access(_) => false,
    };
    comes_or_goes && event.paths.iter().any(|path| path.starts_with(netns_dir))
        || event.need_rescan()
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{AccessKind, AccessMode, CreateKind, RemoveKind};

    #[test]
    fn only_what_comes_or_goes_in_the_directory_matters() {
        let directory = Path::new("/run/netns");
        let event = |kind, path: &str| notify::Event::new(kind).add_path(path.into());
        let create = EventKind::Create(CreateKind::File);
        assert!(matters(&event(create, "/run/netns/cni-a"), directory));
        assert!(matters(&event(create, "/run/netns"), directory));
        assert!(matters(
            &event(EventKind::Remove(RemoveKind::File), "/run/netns/cni-a"),
            directory
        ));
        assert!(!matters(&event(create, "/run/other"), directory));
        assert!(!matters(
            &event(
                EventKind::Access(AccessKind::Open(AccessMode::Any)),
                "/run/netns/cni-a"
            ),
            directory
        ));
    }
}
