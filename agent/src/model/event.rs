//! What sources tell the model.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::{FieldPath, Invalid, Kind, Object, ObjectRef};

/// Where objects come from. Where two sources hold the same object, the one whose name sorts
/// first is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceId(pub &'static str);

impl SourceId {
    /// The API server.
    pub const API: Self = Self("api");
    /// The records of CNI plugins. They hold no objects, only what is wrong with them comes so.
    pub const CNI: Self = Self("cni");
    /// A directory of manifests.
    pub const MANIFESTS: Self = Self("manifests");
    /// The kernel's account of the node's interfaces. It holds no objects either.
    pub const NETLINK: Self = Self("netlink");
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

impl Serialize for SourceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// News of one source. Its changes happen together: nobody compiles between two of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whose news.
    pub source: SourceId,
    /// In order.
    pub changes: Vec<Change>,
}

/// One piece of news.
#[allow(
    clippy::large_enum_variant,
    reason = "nearly every change is an object that is there, and none is kept"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A complete list begins. What was known of this source stays in force until it is complete.
    Reset,
    /// An object is there, or has changed.
    Apply(Arc<Object>),
    /// An object is gone. Unknown ones are no error.
    Delete(ObjectRef),
    /// All objects of one kind that the source holds, of a source that lists each kind for itself.
    /// Those that are not among them are gone, but for what the last report names: that cannot be
    /// read now.
    Replace(Kind, Vec<Object>),
    /// All that is wrong with this source now, instead of what it reported before.
    Report(Report),
    /// The list is complete: what it holds is now what the source holds.
    Ready,
}

impl Change {
    /// An object is there, or has changed.
    pub fn apply(object: impl Into<Arc<Object>>) -> Self {
        Self::Apply(object.into())
    }
}

/// What a source cannot use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order in which a reader would look for them.
    pub problems: Vec<Problem>,
    /// Kinds it was given and does not read, as `apiVersion/Kind`.
    pub unknown_kinds: BTreeSet<String>,
}

/// Something that is wrong with an object, a document or a file.
///
/// The object's last good version, if there was one, stays in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The object, if so much could be read.
    pub object: Option<ObjectRef>,
    /// The file, if it came from one.
    pub file: Option<String>,
    /// The line in it, from 1.
    pub line: Option<u64>,
    /// The field at fault, if it is one.
    pub field: Option<FieldPath>,
    /// What is wrong, and where it helps what to do.
    pub message: String,
}

impl Problem {
    /// A problem with nothing but its message; add what is known.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            object: None,
            file: None,
            line: None,
            field: None,
            message: message.into(),
        }
    }

    /// An object that is not valid.
    #[must_use]
    pub fn invalid(object: Option<ObjectRef>, invalid: Invalid) -> Self {
        Self {
            object,
            field: (!invalid.field.is_empty()).then_some(invalid.field),
            ..Self::new(invalid.message)
        }
    }

    /// In this file.
    #[must_use]
    pub fn in_file(mut self, file: &str) -> Self {
        self.file = Some(file.to_owned());
        self
    }

    /// At this line.
    #[must_use]
    pub const fn at_line(mut self, line: u64) -> Self {
        self.line = Some(line);
        self
    }

    /// About this object.
    #[must_use]
    pub fn about(mut self, object: ObjectRef) -> Self {
        self.object = Some(object);
        self
    }
}

/// `services.yaml:14: spec.ports[0].port: 70000 is not a port (1-65535) (Service default/web)`
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, "{file}:{line}: ")?,
            (Some(file), None) => write!(f, "{file}: ")?,
            (None, Some(_) | None) => {}
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(object) = &self.object {
            write!(f, " ({object})")?;
        }
        Ok(())
    }
}
