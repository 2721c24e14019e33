//! How a test knows that an agent has taken in a version of the manifests.
//!
//! A marker goes with each version: a service port that has to be left out of the tables, and is
//! therefore named by the very synchronisation that took the version in.

use std::fmt;

use serde_json::{Value, json};

/// The marker of one version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marker {
    version: u32,
}

impl Marker {
    /// Goes on to the next version.
    pub fn advance(&mut self) {
        self.version += 1;
    }

    /// Two services that want one address. It is the holder's, whose name comes first: the
    /// marker does not get it, and is named.
    #[must_use]
    pub fn objects(self) -> [Value; 2] {
        [service("holder"), service(&self.name())]
    }

    /// Whether `weir status` tells of this version.
    #[must_use]
    pub fn is_in(self, status: &Value) -> bool {
        let reference = self.to_string();
        let skipped = status["skipped"].as_array();
        skipped.is_some_and(|all| {
            all.iter().any(|one| {
                let object = one["object"].as_str().unwrap_or_default();
                object.split(" port ").next() == Some(&reference)
            })
        })
    }

    fn name(self) -> String {
        format!("version-{}", self.version)
    }
}

/// What is left out of the tables.
impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service marker/{}", self.name())
    }
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "namespace": "marker" },
        // Nobody else's: the last of the services' addresses.
        "spec": { "clusterIP": "10.32.0.254", "ports": [{ "port": 9, "protocol": "SCTP" }] },
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::scenario::format::{Given, Node};
    use crate::scenario::world::{World, read_objects};

    #[test]
    fn a_marker_is_left_out_of_the_tables_and_named() {
        let mut marker = Marker::default();
        for _ in 0..2 {
            marker.advance();
            let given = marker
                .objects()
                .map(|object| Given::Inline(object.as_object().unwrap().clone()));
            let objects = read_objects(&given, Path::new(".")).unwrap();
            let (world, _) = World::new(&Node::default(), objects);
            let left_out: Vec<String> = world
                .skipped()
                .iter()
                .map(|skipped| skipped.object.to_string())
                .collect();
            assert_eq!(left_out, [marker.to_string()]);
        }
    }
}
