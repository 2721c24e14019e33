//! All files of the directory: what they said, what they say, and what that changes.
//!
//! Pure: a scan goes in, changes come out. Promises: an object whose document can no longer be
//! read keeps its last good version; while a file cannot be read, or holds something that cannot
//! even be named, nothing that came from it is deleted; while the directory cannot be read,
//! nothing at all is. Of an object in two files the first file by name counts, and a version that
//! can be read now before one that could be once.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::parse::{Parsed, parse};
use crate::model::{Change, Object, ObjectRef, Problem, Report};

/// What was found in the directory: for each file its text or why it cannot be read; or why the
/// directory cannot be.
pub type Scan = Result<BTreeMap<String, Result<String, String>>, String>;

/// What is known of all files.
#[derive(Clone, Debug, Default)]
pub struct Files {
    files: BTreeMap<String, File>,
    directory_fault: Option<String>,
    /// What was last told.
    objects: BTreeMap<ObjectRef, Arc<Object>>,
    report: Report,
    is_ready: bool,
}

#[derive(Clone, Debug, Default)]
struct File {
    /// Of the text last read, so that a file is parsed only when it has changed.
    digest: Option<u64>,
    objects: BTreeMap<ObjectRef, Held>,
    problems: Vec<Problem>,
    unknown_kinds: BTreeSet<String>,
}

/// An object of a file.
#[derive(Clone, Debug)]
struct Held {
    object: Arc<Object>,
    line: u64,
    /// It is the last good version of something that cannot be read now.
    is_stale: bool,
}

impl Files {
    /// Takes in what the directory holds now and says what that changes.
    pub fn update(&mut self, scan: Scan) -> Vec<Change> {
        let was_listed = scan.is_ok();
        match scan {
            Ok(found) => {
                self.directory_fault = None;
                self.files.retain(|name, _| found.contains_key(name));
                for (name, content) in found {
                    let file = self.files.entry(name.clone()).or_default();
                    match content {
                        Ok(text) => file.read(&name, &text),
                        Err(fault) => file.cannot_be_read(&name, fault),
                    }
                }
            }
            Err(fault) => self.directory_fault = Some(fault),
        }
        let (objects, report) = self.merge();
        let mut changes = self.changes(&objects, &report);
        if was_listed && !self.is_ready {
            self.is_ready = true;
            changes.push(Change::Ready);
        }
        self.objects = objects;
        self.report = report;
        changes
    }

    /// All that is wrong now.
    #[must_use]
    pub const fn report(&self) -> &Report {
        &self.report
    }

    /// What all files say together.
    fn merge(&self) -> (BTreeMap<ObjectRef, Arc<Object>>, Report) {
        let mut report = Report::default();
        if let Some(fault) = &self.directory_fault {
            report.problems.push(Problem::new(fault.clone()));
        }
        let mut winners: BTreeMap<&ObjectRef, (&str, &Held)> = BTreeMap::new();
        for (name, file) in &self.files {
            report.problems.extend(file.problems.iter().cloned());
            report
                .unknown_kinds
                .extend(file.unknown_kinds.iter().cloned());
            for (reference, held) in file.objects.iter().filter(|(_, held)| !held.is_stale) {
                if let Some((first, winner)) = winners.get(reference) {
                    report
                        .problems
                        .push(twice(reference, (name, held.line), (first, winner.line)));
                } else {
                    winners.insert(reference, (name, held));
                }
            }
        }
        for (name, file) in &self.files {
            for (reference, held) in &file.objects {
                winners.entry(reference).or_insert((name, held));
            }
        }
        let objects = winners
            .into_iter()
            .map(|(reference, (_, held))| (reference.clone(), Arc::clone(&held.object)))
            .collect();
        (objects, report)
    }

    fn changes(&self, objects: &BTreeMap<ObjectRef, Arc<Object>>, report: &Report) -> Vec<Change> {
        let applied = objects
            .iter()
            .filter(|(reference, object)| self.objects.get(*reference) != Some(*object))
            .map(|(_, object)| Change::Apply(Object::clone(object)));
        let deleted = self
            .objects
            .keys()
            .filter(|reference| !objects.contains_key(*reference))
            .map(|reference| Change::Delete(reference.clone()));
        let reported = (self.report != *report).then(|| Change::Report(report.clone()));
        applied.chain(deleted).chain(reported).collect()
    }
}

impl File {
    fn read(&mut self, name: &str, text: &str) {
        let digest = digest(text);
        if self.digest == Some(digest) {
            return;
        }
        let Parsed {
            objects: parsed,
            mut problems,
            unknown_kinds,
            has_unreadable,
        } = parse(name, text);
        let mut objects: BTreeMap<ObjectRef, Held> = BTreeMap::new();
        for (object, line) in parsed {
            let reference = object.reference();
            if let Some(first) = objects.get(&reference) {
                problems.push(twice(&reference, (name, line), (name, first.line)));
                continue;
            }
            let held = Held {
                object: Arc::new(object),
                line,
                is_stale: false,
            };
            objects.insert(reference, held);
        }
        let rejected: BTreeSet<&ObjectRef> = problems
            .iter()
            .filter_map(|problem| problem.object.as_ref())
            .collect();
        for (reference, mut held) in std::mem::take(&mut self.objects) {
            if has_unreadable || rejected.contains(&reference) {
                held.is_stale = true;
                objects.entry(reference).or_insert(held);
            }
        }
        problems.sort_by_key(|problem| problem.line);
        *self = Self {
            digest: Some(digest),
            objects,
            problems,
            unknown_kinds,
        };
    }

    fn cannot_be_read(&mut self, name: &str, fault: String) {
        self.digest = None;
        self.problems = vec![Problem::new(fault).in_file(name)];
        for held in self.objects.values_mut() {
            held.is_stale = true;
        }
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
