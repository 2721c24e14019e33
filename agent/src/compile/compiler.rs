//! What was compiled last, and how much of it has to be compiled again.
//!
//! [`Compiler::desired`] is always what [`compile`] gives of the cluster as it was when
//! [`Compiler::compile`] was called last; how much work that is follows from what was noted in
//! between.

use std::collections::BTreeSet;
use std::sync::Arc;

use weir_ebpf::tables::FrontendKey;

use crate::maps::Contents;
use crate::model::{Cluster, Kind, Node, ObjectRef, ServiceRef};

use super::choice::Place;
use super::endpoints::Slices;
use super::few::{Few, recompile};
use super::policies::recompile_policies;
use super::{Capacities, Desired, Ids, NodeContext, compile};

/// How much of the tables may be different from what they held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Everything.
    Everything,
    /// Some parts of them.
    Parts {
        /// The services that changed themselves or whose endpoints did, those that nobody knows
        /// too.
        services: BTreeSet<ServiceRef>,
        /// What these numbers of theirs have in `SERVICES`, `BACKENDS` and `SERVING`.
        numbers: BTreeSet<u32>,
        /// Where services were or are reached that changed themselves: with them, whatever the
        /// numbers have in any table may be different. `None`: no service has changed itself.
        frontends: Option<BTreeSet<FrontendKey>>,
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
        /// Some services, or their endpoints.
        few: Few,
        /// What policies are made of.
        policies: bool,
    },
}

impl Dirty {
    const NOTHING: Self = Self::Parts {
        few: Few {
            services: BTreeSet::new(),
            endpoints: BTreeSet::new(),
        },
        policies: false,
    };

    /// An object has changed.
    fn note(&mut self, object: &ObjectRef) {
        let Self::Parts { few, policies } = self else {
            return;
        };
        match object.kind {
            // Whose endpoints they are is for others to say.
            Kind::EndpointSlice => {}
            Kind::Service => {
                few.services.insert(ServiceRef {
                    namespace: object.namespace.clone(),
                    name: object.name.clone(),
                });
            }
            Kind::Pod | Kind::Namespace | Kind::NetworkPolicy => *policies = true,
            Kind::Endpoints | Kind::Node | Kind::ServiceCidr => *self = Self::Everything,
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
        let with_other_endpoints = self.slices.note(objects, cluster);
        if let Dirty::Parts { few, .. } = &mut self.dirty {
            few.endpoints.extend(with_other_endpoints);
        }
        for object in objects {
            self.dirty.note(object);
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
            Dirty::Parts { few, policies } => {
                let place = Place {
                    node: node_name,
                    zone: cluster.node(node_name).and_then(Node::zone),
                };
                let recompiled = recompile(
                    Arc::make_mut(&mut self.desired),
                    cluster,
                    &self.slices,
                    &few,
                    (place, &mut self.ids, capacities),
                );
                recompiled.map(|recompiled| {
                    let mut services = few.services;
                    services.extend(few.endpoints);
                    let extent = Extent::Parts {
                        services,
                        numbers: recompiled.numbers,
                        frontends: recompiled.frontends,
                        policies,
                    };
                    (extent, recompiled.before, policies)
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
