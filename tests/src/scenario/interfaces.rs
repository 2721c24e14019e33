//! The interfaces of the node's pods, as the agent would find them.
//!
//! A pod of the node that has an address and has not ended has an interface, from the moment its
//! object says so until the object goes; a scenario may also say itself when an interface appears
//! and goes ([`Plug`]), before its pod is known for example. No index is used twice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use weir_agent::compile::{Claimed, PodInterface};
use weir_agent::model::{Cluster, PodRef};

/// The index of the first pod's interface.
pub const FIRST: u32 = 101;

/// How many interfaces there may be, one after the other.
pub const ROOM: u32 = 64;

/// An interface that a scenario makes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plug {
    /// Whose it is; as whose it is spoken of in any case.
    pub pod: PodRef,
    /// The UID in the record.
    pub uid: String,
    /// The addresses in the pod's namespace.
    pub addresses: BTreeSet<IpAddr>,
    /// Does a record of the plugin say whose it is?
    pub is_claimed: bool,
}

#[derive(Clone, Debug)]
struct Plugged {
    index: u32,
    plug: Plug,
    /// It comes and goes with the pod's object.
    is_automatic: bool,
}

/// The interfaces of pods.
#[derive(Clone, Debug)]
pub struct Interfaces {
    plugged: BTreeMap<PodRef, Plugged>,
    next: u32,
    are_claimed: bool,
}

impl Interfaces {
    /// None yet. Is there a record of each that says whose it is?
    #[must_use]
    pub const fn new(are_claimed: bool) -> Self {
        Self {
            plugged: BTreeMap::new(),
            next: FIRST,
            are_claimed,
        }
    }

    /// What the pods' objects say has come true.
    pub fn follow(&mut self, cluster: &Cluster, node: &str) {
        let mut wanted: BTreeMap<PodRef, Plug> = cluster
            .pods()
            .filter(|pod| pod.node.as_deref() == Some(node) && !pod.own_addrs().is_empty())
            .map(|pod| {
                let plug = Plug {
                    pod: pod.id.clone(),
                    uid: pod.uid.clone(),
                    addresses: pod.own_addrs().iter().copied().collect(),
                    is_claimed: self.are_claimed,
                };
                (pod.id.clone(), plug)
            })
            .collect();
        self.plugged.retain(|pod, plugged| {
            let object = wanted.get(pod);
            !plugged.is_automatic || object.is_some_and(|object| object.uid == plugged.plug.uid)
        });
        for (pod, plugged) in &mut self.plugged {
            if let Some(object) = wanted.remove(pod)
                && plugged.is_automatic
            {
                plugged.plug = object;
            }
        }
        for plug in wanted.into_values() {
            self.insert(plug, true);
        }
    }

    /// An interface appears.
    ///
    /// # Errors
    /// There is one of that name.
    pub fn plug(&mut self, plug: &Plug) -> Result<()> {
        ensure!(
            !self.plugged.contains_key(&plug.pod),
            "{} has an interface already",
            plug.pod
        );
        self.insert(plug.clone(), false);
        Ok(())
    }

    /// An interface disappears.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn unplug(&mut self, pod: &PodRef) -> Result<()> {
        let plugged = self.plugged.remove(pod);
        plugged.with_context(|| format!("{pod} has no interface"))?;
        Ok(())
    }

    /// The index of a pod's interface.
    ///
    /// # Errors
    /// It has none.
    pub fn index(&self, pod: &PodRef) -> Result<u32> {
        let plugged = self.plugged.get(pod);
        plugged
            .map(|plugged| plugged.index)
            .with_context(|| format!("{pod} has no interface"))
    }

    /// The index of the interface to which the node sends what is for an address: of several the
    /// youngest.
    #[must_use]
    pub fn at(&self, addr: IpAddr) -> Option<u32> {
        self.plugged
            .values()
            .filter(|plugged| plugged.plug.addresses.contains(&addr))
            .map(|plugged| plugged.index)
            .max()
    }

    /// What the agent finds.
    #[must_use]
    pub fn found(&self) -> BTreeMap<u32, PodInterface> {
        let found = self.plugged.values().map(|Plugged { index, plug, .. }| {
            let claimed = plug.is_claimed.then(|| Claimed {
                pod: plug.pod.clone(),
                uid: plug.uid.clone(),
            });
            let interface = PodInterface {
                // Not known: there are no sockets behind it.
                netns: -1,
                addrs: plug.addresses.clone(),
                is_direct: true,
                pod: claimed,
            };
            (*index, interface)
        });
        found.collect()
    }

    fn insert(&mut self, plug: Plug, is_automatic: bool) {
        let index = self.next;
        self.next += 1;
        let plugged = Plugged {
            index,
            plug,
            is_automatic,
        };
        self.plugged.insert(plugged.plug.pod.clone(), plugged);
    }
}
