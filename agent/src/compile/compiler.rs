//! What was compiled last, and how much of it has to be compiled again.
//!
//! [`Compiler::desired`] is always what [`compile`] gives of the cluster as it was when
//! [`Compiler::compile`] was called last; how much work that is follows from what was noted in
//! between.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::maps::Contents;
use crate::model::{Cluster, Kind, Node, ObjectRef, ServiceRef};

use super::choice::Place;
use super::endpoints::{Slices, recompile};
use super::policies::recompile_policies;
use super::{Capacities, Desired, Ids, NodeContext, compile};

/// How much of the tables may be different from what they held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Everything.
    Everything,
    /// Some parts of them.
    Parts {
        /// The services whose endpoints changed, those that nobody knows too.
        services: BTreeSet<ServiceRef>,
        /// What these numbers of theirs have in `SERVICES`, `BACKENDS` and `SERVING`.
        numbers: BTreeSet<u32>,
        /// The tables of policies.
        policies: bool,
    },
}

/// What was desired before, of all that may be different now.
#[derive(Clone, Debug)]
enum Before {
    Everything(Arc<Desired>),
    Parts(Box<Contents>),
}

/// What has changed since the last time.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Dirty {
    Everything,
    Parts {
        /// The endpoints of these services.
        endpoints: BTreeSet<ServiceRef>,
        /// What policies are made of.
        policies: bool,
    },
}

impl Dirty {
    const NOTHING: Self = Self::Parts {
        endpoints: BTreeSet::new(),
        policies: false,
    };

    /// What changes with an object of this kind.
    const fn of(kind: Kind) -> Self {
        match kind {
            // Whose endpoints they are is for others to say.
            Kind::EndpointSlice => Self::NOTHING,
            Kind::Pod | Kind::Namespace | Kind::NetworkPolicy => Self::Parts {
                endpoints: BTreeSet::new(),
                policies: true,
            },
            Kind::Service | Kind::Endpoints | Kind::Node | Kind::ServiceCidr => Self::Everything,
        }
    }

    /// Both.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Everything, _) | (_, Self::Everything) => Self::Everything,
            (
                Self::Parts {
                    mut endpoints,
                    policies,
                },
                Self::Parts {
                    endpoints: others,
                    policies: also,
                },
            ) => {
                endpoints.extend(others);
                Self::Parts {
                    endpoints,
                    policies: policies || also,
                }
            }
        }
    }
}

/// Compiles again what has changed.
#[derive(Clone, Debug)]
pub struct Compiler {
    ids: Ids,
    slices: Slices,
    dirty: Dirty,
    desired: Arc<Desired>,
    before: Option<Before>,
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
            before: None,
        }
    }

    /// These objects are now as the cluster has them.
    pub fn note(&mut self, objects: &BTreeSet<ObjectRef>, cluster: &Cluster) {
        let of_slices = Dirty::Parts {
            endpoints: self.slices.note(objects, cluster),
            policies: false,
        };
        let kinds = objects.iter().map(|object| Dirty::of(object.kind));
        let before = std::mem::replace(&mut self.dirty, Dirty::NOTHING);
        self.dirty = kinds.fold(before.and(of_slices), Dirty::and);
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

    /// What was desired before the last time, of all that may be different since then. Whoever
    /// takes it gets it once: nobody else keeps it.
    #[must_use]
    pub fn take_before(&mut self) -> Contents {
        match self.before.take() {
            None => Contents::default(),
            Some(Before::Everything(desired)) => {
                Arc::try_unwrap(desired).map_or_else(|it| it.contents.clone(), |it| it.contents)
            }
            Some(Before::Parts(contents)) => *contents,
        }
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
        let parts = match dirty {
            Dirty::Everything => None,
            Dirty::Parts {
                endpoints,
                policies,
            } => {
                let place = Place {
                    node: node_name,
                    zone: cluster.node(node_name).and_then(Node::zone),
                };
                let recompiled = recompile(
                    Arc::make_mut(&mut self.desired),
                    cluster,
                    &self.slices,
                    &endpoints,
                    (place, &mut self.ids, capacities),
                );
                recompiled.map(|(numbers, before)| {
                    let extent = Extent::Parts {
                        services: endpoints,
                        numbers,
                        policies,
                    };
                    (extent, before, policies)
                })
            }
        };
        let (extent, before) = match parts {
            Some((extent, before, false)) => (extent, Before::Parts(Box::new(before))),
            Some((extent, before, true)) => {
                let desired = Arc::make_mut(&mut self.desired);
                let tables =
                    recompile_policies(desired, cluster, &node(), &mut self.ids, capacities);
                finish(desired);
                (
                    extent,
                    Before::Parts(Box::new(before.with_policies(tables))),
                )
            }
            None => {
                let mut desired = compile(cluster, &node(), &mut self.ids, capacities);
                finish(&mut desired);
                let before = std::mem::replace(&mut self.desired, Arc::new(desired));
                (Extent::Everything, Before::Everything(before))
            }
        };
        self.before = Some(before);
        self.dirty = Dirty::NOTHING;
        extent
    }
}
