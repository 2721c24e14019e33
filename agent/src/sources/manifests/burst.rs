//! What inotify tells of the directory, and when what it tells of can be read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::EventKind;
use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use tokio::time::Instant;

use super::directory::{is_hidden, is_manifest};

/// No change for this long: what is there can be read, and what is not there is gone.
const QUIET: Duration = Duration::from_millis(50);
/// Changes that never cease are read after this long all the same.
const PATIENCE: Duration = Duration::from_millis(500);

/// What inotify tells of a path, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Something is different.
    Changed(PathBuf),
    /// This file is being written.
    Writing(PathBuf),
    /// This is as it is meant to be.
    Whole(PathBuf),
}

/// Changes close together.
#[derive(Debug, Default)]
pub(super) struct Burst {
    /// What may change further.
    pub unsettled: BTreeMap<PathBuf, Unsettled>,
    /// What can be read at once.
    pub whole: BTreeSet<PathBuf>,
}

#[derive(Debug)]
pub(super) struct Unsettled {
    first: Instant,
    last: Instant,
    /// It has been written to and not been closed since.
    is_open: bool,
}

impl Burst {
    pub fn note(&mut self, signal: Signal, now: Instant) {
        let (path, is_written) = match signal {
            Signal::Whole(path) => {
                self.unsettled.remove(&path);
                self.whole.insert(path);
                return;
            }
            Signal::Writing(path) => (path, true),
            Signal::Changed(path) => (path, false),
        };
        if is_written {
            self.whole.remove(&path);
        }
        let unsettled = self.unsettled.entry(path).or_insert(Unsettled {
            first: now,
            last: now,
            is_open: false,
        });
        unsettled.last = now;
        unsettled.is_open |= is_written;
    }

    /// When to read everything; `None` while there is no need to.
    pub fn due(&self) -> Option<Instant> {
        let unsettled = || self.unsettled.values();
        let at_last = unsettled().map(|it| it.first).min()? + PATIENCE;
        if unsettled().any(|it| it.is_open) {
            return Some(at_last);
        }
        let quiet = unsettled().map(|it| it.last).max()? + QUIET;
        Some(at_last.min(quiet))
    }
}

pub(super) fn signal(event: notify::Event, directory: &Path) -> Option<Signal> {
    let path = match event.paths.as_slice() {
        [path] => path.clone(),
        // Each of the two names of what is renamed has been told of already.
        [_, _] => return None,
        // Some events have been lost.
        _ => return Some(Signal::Changed(directory.to_owned())),
    };
    let name = path.file_name().unwrap_or_default();
    // Names that begin with two dots are those behind the links of a mounted ConfigMap.
    let is_behind_links = name.as_encoded_bytes().starts_with(b"..");
    if is_hidden(name) && !is_behind_links {
        // An editor's scratch file.
        return None;
    }
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) if is_manifest(&path) => {
            Some(Signal::Whole(path))
        }
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Signal::Changed(path)),
        // Our own reading is an access too.
        EventKind::Access(_) => None,
        EventKind::Modify(ModifyKind::Data(_)) => Some(Signal::Writing(path)),
        EventKind::Modify(ModifyKind::Name(RenameMode::To))
            if is_manifest(&path) || is_behind_links =>
        {
            Some(Signal::Whole(path))
        }
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => Some(Signal::Changed(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_whole_is_read_at_once_and_all_else_when_it_is_quiet_or_has_lasted() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let [x, y] = ["x.yaml", "y.yaml"].map(PathBuf::from);

        let mut burst = Burst::default();
        assert_eq!(burst.due(), None);
        burst.note(Signal::Changed(x.clone()), at(0));
        assert_eq!(burst.due(), Some(at(50)));
        burst.note(Signal::Writing(y.clone()), at(30));
        assert_eq!(burst.due(), Some(at(500)));
        assert!(burst.whole.is_empty());
        burst.note(Signal::Whole(y.clone()), at(200));
        assert_eq!(burst.whole, BTreeSet::from([y.clone()]));
        assert_eq!(burst.due(), Some(at(50)), "of the other");
        burst.note(Signal::Changed(x.clone()), at(490));
        assert_eq!(burst.due(), Some(at(500)));
        burst.note(Signal::Writing(y.clone()), at(491));
        assert!(burst.whole.is_empty(), "it is not whole any more");
        burst.note(Signal::Whole(y), at(492));
        burst.note(Signal::Whole(x), at(493));
        assert_eq!((burst.due(), burst.whole.len()), (None, 2));
    }

    #[test]
    fn only_what_may_change_a_manifest_is_a_signal() {
        use notify::event::{CreateKind, DataChange};
        let directory = Path::new("/manifests");
        let of = |kind, names: &[&str]| {
            let paths = names.iter().map(PathBuf::from);
            signal(
                paths.fold(notify::Event::new(kind), notify::Event::add_path),
                directory,
            )
        };
        let modify = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let close = |mode| EventKind::Access(AccessKind::Close(mode));
        let create = EventKind::Create(CreateKind::File);
        let rename = |mode| EventKind::Modify(ModifyKind::Name(mode));
        let changed = |path: &str| Some(Signal::Changed(path.into()));
        let whole = |path: &str| Some(Signal::Whole(path.into()));

        assert_eq!(
            of(modify, &["x.yaml"]),
            Some(Signal::Writing("x.yaml".into()))
        );
        assert_eq!(of(close(AccessMode::Write), &["x.yaml"]), whole("x.yaml"));
        assert_eq!(
            of(close(AccessMode::Write), &["of-a-link"]),
            changed("of-a-link")
        );
        assert_eq!(of(create, &["x.yaml"]), changed("x.yaml"));
        assert_eq!(of(rename(RenameMode::From), &["x.yaml"]), changed("x.yaml"));
        assert_eq!(of(rename(RenameMode::To), &["x.yaml"]), whole("x.yaml"));
        assert_eq!(
            of(rename(RenameMode::To), &["of-a-link"]),
            changed("of-a-link")
        );
        assert_eq!(of(rename(RenameMode::To), &["..data"]), whole("..data"));
        assert_eq!(of(rename(RenameMode::Both), &["..tmp", "..data"]), None);
        assert_eq!(of(EventKind::Other, &[]), changed("/manifests"));
        assert_eq!(of(modify, &[".x.yaml.swp"]), None);
        assert_eq!(of(close(AccessMode::Read), &["x.yaml"]), None);
        let open = EventKind::Access(AccessKind::Open(AccessMode::Any));
        assert_eq!(of(open, &["x.yaml"]), None);
    }
}
