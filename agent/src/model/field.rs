//! Where in an object something is, and what is wrong there.

use std::fmt;

use serde::{Serialize, Serializer};

/// One step into an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Into the field of this name.
    Key(String),
    /// To the item of this index.
    Index(usize),
}

/// A field of an object, as `spec.ports[1].port`. Empty: the object itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldPath(pub Vec<Step>);

impl FieldPath {
    /// A path of keys, written with dots.
    #[must_use]
    pub fn keys(dotted: &str) -> Self {
        Self(
            dotted
                .split('.')
                .filter(|key| !key.is_empty())
                .map(|key| Step::Key(key.to_owned()))
                .collect(),
        )
    }

    /// Is this the object itself?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if depth == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

impl Serialize for FieldPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why an object is not valid: which field, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The field at fault.
    pub field: FieldPath,
    /// What is wrong, to be read after the field's name.
    pub message: String,
}

impl Invalid {
    /// A fault of the field at these dotted keys.
    #[must_use]
    pub fn new(dotted: &str, message: impl Into<String>) -> Self {
        Self {
            field: FieldPath::keys(dotted),
            message: message.into(),
        }
    }

    /// The same fault, seen from the object that holds this one at these dotted keys. Paths are
    /// put together on the way out, so that a valid object costs none.
    #[must_use]
    pub fn within(mut self, dotted: &str) -> Self {
        self.field.0.splice(0..0, FieldPath::keys(dotted).0);
        self
    }

    /// The same fault, seen from the list that holds this one as the item of this index.
    #[must_use]
    pub fn at(mut self, index: usize) -> Self {
        self.field.0.insert(0, Step::Index(index));
        self
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.field, self.message)
        }
    }
}

impl std::error::Error for Invalid {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_in_the_api_documentation() {
        let invalid = Invalid::new("port", "70000 is not a port (1-65535)")
            .at(1)
            .within("spec.ports");
        assert_eq!(
            invalid.to_string(),
            "spec.ports[1].port: 70000 is not a port (1-65535)"
        );
        assert_eq!(Invalid::new("", "is empty").to_string(), "is empty");
    }
}
