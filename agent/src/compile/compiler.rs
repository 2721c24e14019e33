//! What was compiled last, and how much of it has to be compiled again.
//!
//! [`Compiler::desired`] is always what [`compile`] gives of the cluster as it was when
//! [`Compiler::compile`] was called last; how much work that is follows from what was noted in
//! between.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::maps::Contents;
use crate::model::{Cluster, Node, ObjectRef, ServiceRef};

use super::choice::Place;
use super::endpoints::{Slices, recompile};
use super::{Capacities, Desired, Ids, NodeContext, compile};

/// How much of the tables may be different from what they held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Everything.
    Everything,
    /// What these services' numbers have in `SERVICES`, `BACKENDS` and `SERVING`.
    Endpoints {
        /// The services whose endpoints changed, those that nobody knows too.
        services: BTreeSet<ServiceRef>,
        /// The numbers that they have.
        numbers: BTreeSet<u32>,
    },
}

/// What has changed since the last time.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Dirty {
    Everything,
    Endpoints(BTreeSet<ServiceRef>),
}

/// Compiles again what has changed.
#[derive(Clone, Debug)]
pub struct Compiler {
    ids: Ids,
    slices: Slices,
    dirty: Dirty,
    desired: Arc<Desired>,
}

impl Compiler {
    /// Nothing was compiled yet; numbers are as these tables, of an earlier agent, have them.
    #[must_use]
    pub fn new(contents: &Contents) -> Self {
        Self {
            ids: Ids::from_contents(contents),
            slices: Slices::default(),
            dirty: Dirty::Everything,
            desired: Arc::default(),
        }
    }

    /// These objects are now as the cluster has them.
    pub fn note(&mut self, objects: &BTreeSet<ObjectRef>, cluster: &Cluster) {
        let changed = self.slices.note(objects, cluster);
        match (&mut self.dirty, changed) {
            (Dirty::Everything, _) => {}
            (Dirty::Endpoints(services), Some(changed)) => services.extend(changed),
            (Dirty::Endpoints(_), None) => self.dirty = Dirty::Everything,
        }
    }

    /// Something else has changed: the node, what is wanted of it, or what its tables hold.
    pub fn note_everything(&mut self) {
        self.dirty = Dirty::Everything;
    }

    /// What the tables should hold, as of the last time.
    #[must_use]
    pub const fn desired(&self) -> &Arc<Desired> {
        &self.desired
    }

    /// The numbers as they are given now.
    #[must_use]
    pub const fn ids(&self) -> &Ids {
        &self.ids
    }

    /// Brings [`Self::desired`] up to date, and says what of it may be different. The node is asked
    /// for only where it matters, and `finish` adds to what was compiled as a whole.
    pub fn compile(
        &mut self,
        cluster: &Cluster,
        node_name: &str,
        node: impl FnOnce() -> NodeContext,
        capacities: &Capacities,
        finish: impl FnOnce(&mut Desired),
    ) -> Extent {
        // What fails halfway is done again as a whole.
        let dirty = std::mem::replace(&mut self.dirty, Dirty::Everything);
        let few = match dirty {
            Dirty::Everything => None,
            Dirty::Endpoints(services) => {
                let place = Place {
                    node: node_name,
                    zone: cluster.node(node_name).and_then(Node::zone),
                };
                let numbers = recompile(
                    Arc::make_mut(&mut self.desired),
                    cluster,
                    &self.slices,
                    &services,
                    (place, &mut self.ids, capacities),
                );
                numbers.map(|numbers| Extent::Endpoints { services, numbers })
            }
        };
        let extent = match few {
            Some(extent) => extent,
            None => {
                let mut desired = compile(cluster, &node(), &mut self.ids, capacities);
                finish(&mut desired);
                self.desired = Arc::new(desired);
                Extent::Everything
            }
        };
        self.dirty = Dirty::Endpoints(BTreeSet::new());
        extent
    }
}
