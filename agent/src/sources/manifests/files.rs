//! All files of the directory: what they said, what they say, and what that changes.
//!
//! Pure: what files hold goes in, changes come out. Promises: an object whose document can no longer
//! be read keeps its last good version; while a file cannot be read, or holds something that cannot
//! even be named, nothing that came from it is deleted; while the directory cannot be read,
//! nothing at all is. Of an object in two files the first file by name counts, and a version that
//! can be read now before one that could be once.
//!
//! What a file no longer says may be on its way to another file: it counts until
//! [`Files::forget`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::parse::{Parsed, parse};
use crate::model::{ByName, Change, ObjectRef, Problem, Report};

/// What was found in the directory: for each file its text or why it cannot be read; or why the
/// directory cannot be.
pub type Scan = Result<BTreeMap<String, Result<String, String>>, String>;

/// What is known of all files.
#[derive(Clone, Debug, Default)]
pub struct Files {
    files: BTreeMap<Arc<str>, File>,
    directory_fault: Option<String>,
    /// All objects, as they were last told where they were.
    known: HashMap<ByName, Known>,
    /// Objects that may be others than were last told.
    touched: BTreeSet<ByName>,
    /// What is wrong with objects that are in two files.
    twice: BTreeMap<ObjectRef, Vec<Problem>>,
    /// Files of which something is [`Standing::Leaving`], or that are gone.
    leaving: BTreeSet<Arc<str>>,
    report: Report,
    was_listed: bool,
    is_ready: bool,
}

/// What is known of an object of any file.
#[derive(Clone, Debug, Default)]
struct Known {
    is_told: bool,
    /// The files that hold it, by name. There are many objects, of which most are in one.
    files: Box<[Arc<str>]>,
}

#[derive(Clone, Debug, Default)]
struct File {
    /// Of the text last read, so that a file is parsed only when it has changed.
    digest: Option<u64>,
    objects: BTreeMap<ByName, Held>,
    problems: Vec<Problem>,
    unknown_kinds: BTreeSet<String>,
    /// It is not there any more.
    is_gone: bool,
}

/// How a file holds an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    line: u64,
    standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// The file says so.
    Sound,
    /// It is the last good version of something that cannot be read now.
    Stale,
    /// The file does not hold it any more. Another may.
    Leaving,
}

impl Files {
    /// Takes in what the directory holds now and says what that changes.
    pub fn update(&mut self, scan: Scan) -> Vec<Change> {
        match scan {
            Ok(found) => {
                self.listed(&found.keys().cloned().collect());
                for (name, content) in found {
                    self.take(&name, Some(content));
                }
                self.forget();
            }
            Err(fault) => self.cannot_be_listed(fault),
        }
        self.changes()
    }

    /// The directory holds files of these names, and no others.
    pub fn listed(&mut self, names: &BTreeSet<String>) {
        self.directory_fault = None;
        self.was_listed = true;
        let known = self.files.keys();
        let gone = known.filter(|name| !names.contains(&***name)).cloned();
        for name in gone.collect::<Vec<_>>() {
            self.take(&name, None);
        }
    }

    /// The directory cannot be read, for this reason.
    pub fn cannot_be_listed(&mut self, fault: String) {
        self.directory_fault = Some(fault);
    }

    /// Why the directory could not be read the last time.
    #[must_use]
    pub fn directory_fault(&self) -> Option<&str> {
        self.directory_fault.as_deref()
    }

    /// Takes in the text of one file, or why it cannot be read; `None` if it is not there any more.
    pub fn take(&mut self, name: &str, content: Option<Result<String, String>>) {
        let name = match self.files.get_key_value(name) {
            Some((name, _)) => Arc::clone(name),
            None if content.is_none() => return,
            None => Arc::from(name),
        };
        let file = self.files.entry(Arc::clone(&name)).or_default();
        file.is_gone = content.is_none();
        let touched = match content {
            Some(Ok(text)) => file.read(&name, &text),
            Some(Err(fault)) => file.cannot_be_read(&name, fault),
            None => file.is_not_there(),
        };
        let is_leaving = |held: &Held| held.standing == Standing::Leaving;
        if file.is_gone || file.objects.values().any(is_leaving) {
            self.leaving.insert(Arc::clone(&name));
        } else {
            self.leaving.remove(&name);
        }
        for object in touched {
            let known = self.known.entry(object.clone()).or_default();
            if !known.files.contains(&name) {
                let mut files = std::mem::take(&mut known.files).into_vec();
                files.push(Arc::clone(&name));
                files.sort();
                known.files = files.into();
            }
            self.touched.insert(object);
        }
    }

    /// What files no longer say has not come with another: it is gone, unless the directory cannot
    /// be read now.
    pub fn forget(&mut self) {
        if self.directory_fault.is_some() {
            return;
        }
        for name in std::mem::take(&mut self.leaving) {
            let Some(file) = self.files.get_mut(&name) else {
                continue;
            };
            let is_leaving = |held: &mut Held| held.standing == Standing::Leaving;
            let gone = file.objects.extract_if(.., |_, held| is_leaving(held));
            for (object, _) in gone {
                if let Some(known) = self.known.get_mut(&object) {
                    let files = std::mem::take(&mut known.files).into_iter();
                    known.files = files.filter(|holder| *holder != name).collect();
                }
                self.touched.insert(object);
            }
            if file.is_gone {
                self.files.remove(&name);
            }
        }
    }

    /// Is there something to [`forget`](Self::forget)?
    #[must_use]
    pub fn has_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// How many objects [`Files::changes`] may tell of.
    #[must_use]
    pub fn untold(&self) -> usize {
        self.touched.len()
    }

    /// Has all been told once?
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// What is different from what was last told.
    pub fn changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut deleted = Vec::new();
        for object in std::mem::take(&mut self.touched) {
            match self.settle(&object) {
                Some(change @ Change::Delete(_)) => deleted.push(change),
                Some(change) => changes.push(change),
                None => {}
            }
        }
        changes.append(&mut deleted);
        let report = self.reported();
        if report != self.report {
            changes.push(Change::Report(report.clone()));
            self.report = report;
        }
        if self.was_listed && !self.is_ready && self.directory_fault.is_none() {
            self.is_ready = true;
            changes.push(Change::Ready);
        }
        changes
    }

    /// All that is wrong now, as last told.
    #[must_use]
    pub const fn report(&self) -> &Report {
        &self.report
    }

    /// Finds which version of the object of this name counts; says so if another was told.
    fn settle(&mut self, name: &ByName) -> Option<Change> {
        let (before, known) = self.known.remove_entry(name)?;
        let holders = || {
            known.files.iter().filter_map(|file| {
                let (object, held) = self.files.get(file)?.objects.get_key_value(name)?;
                Some((&**file, object, held))
            })
        };
        let mut sound = holders().filter(|(_, _, held)| held.standing == Standing::Sound);
        let first = sound.next();
        let reference = name.reference();
        let twice: Vec<Problem> = first.map_or_else(Vec::new, |(first, _, winner)| {
            sound
                .map(|(file, _, held)| twice(&reference, (file, held.line), (first, winner.line)))
                .collect()
        });
        let counts = first.or_else(|| holders().next());
        let counts = counts.map(|(_, object, _)| object.clone());
        if twice.is_empty() {
            self.twice.remove(&reference);
        } else {
            self.twice.insert(reference.clone(), twice);
        }
        let Some(object) = counts else {
            return known.is_told.then_some(Change::Delete(reference));
        };
        let is_news = !known.is_told || before.0 != object.0;
        let known = Known {
            is_told: true,
            ..known
        };
        self.known.insert(object.clone(), known);
        is_news.then_some(Change::Apply(object.0))
    }

    /// All that is wrong, in the order of the files.
    fn reported(&self) -> Report {
        let mut report = Report::default();
        for file in self.files.values() {
            report.problems.extend(file.problems.iter().cloned());
            report
                .unknown_kinds
                .extend(file.unknown_kinds.iter().cloned());
        }
        report
            .problems
            .extend(self.twice.values().flatten().cloned());
        // Of one file those come first that tell of it alone.
        report
            .problems
            .sort_by(|one, other| one.file.cmp(&other.file));
        if let Some(fault) = &self.directory_fault {
            report.problems.insert(0, Problem::new(fault.clone()));
        }
        report
    }
}

impl File {
    /// What the text changes.
    fn read(&mut self, name: &str, text: &str) -> Vec<ByName> {
        let digest = digest(text);
        if self.digest == Some(digest) {
            return Vec::new();
        }
        let Parsed {
            objects: parsed,
            mut problems,
            unknown_kinds,
            has_unreadable,
        } = parse(name, text);
        let mut before = std::mem::take(&mut self.objects);
        let mut touched = Vec::new();
        let mut objects: BTreeMap<ByName, Held> = BTreeMap::new();
        for (object, line) in parsed {
            let object = ByName(Arc::new(object));
            if let Some(first) = objects.get(&object) {
                problems.push(twice(&object.reference(), (name, line), (name, first.line)));
                continue;
            }
            let held = Held {
                line,
                standing: Standing::Sound,
            };
            match before.remove_entry(&object) {
                Some((same, was)) if was == held && same.0 == object.0 => {
                    objects.insert(same, held);
                }
                _ => {
                    touched.push(object.clone());
                    objects.insert(object, held);
                }
            }
        }
        let rejected: BTreeSet<&ObjectRef> = problems
            .iter()
            .filter_map(|problem| problem.object.as_ref())
            .collect();
        for (object, mut held) in before {
            held.standing = if has_unreadable || rejected.contains(&object.reference()) {
                Standing::Stale
            } else {
                Standing::Leaving
            };
            touched.push(object.clone());
            objects.insert(object, held);
        }
        problems.sort_by_key(|problem| problem.line);
        *self = Self {
            digest: Some(digest),
            // One that is made of all at once has no gaps.
            objects: objects.into_iter().collect(),
            problems,
            unknown_kinds,
            is_gone: false,
        };
        touched
    }

    fn cannot_be_read(&mut self, name: &str, fault: String) -> Vec<ByName> {
        self.problems = vec![Problem::new(fault).in_file(name)];
        self.all_are(Standing::Stale)
    }

    fn is_not_there(&mut self) -> Vec<ByName> {
        self.problems.clear();
        self.unknown_kinds.clear();
        self.all_are(Standing::Leaving)
    }

    fn all_are(&mut self, standing: Standing) -> Vec<ByName> {
        self.digest = None;
        for held in self.objects.values_mut() {
            held.standing = standing;
        }
        self.objects.keys().cloned().collect()
    }
}

/// The object at the one place is at the other, which counts, as well.
fn twice(reference: &ObjectRef, here: (&str, u64), counts: (&str, u64)) -> Problem {
    let (file, line) = counts;
    Problem::new(format!(
        "is at {file}:{line} as well, which counts; remove one of the two"
    ))
    .about(reference.clone())
    .in_file(here.0)
    .at_line(here.1)
}

/// Equal texts have equal digests, in this process; different ones have different digests but for
/// one case in 2^64.
fn digest(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
