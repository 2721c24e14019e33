//! A pod of a bed: a network namespace on a node, and the process that lives in it.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Deref;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::namespace::Namespace;
use super::node::Node;
use super::plan::{Addresses, Family};
use super::process::Place;
use super::wiring::{Wiring, connect_pod};
use crate::testpod::client::TestPod;
use crate::testpod::protocol::Transport;

/// Longest name of a link that the kernel takes.
const LINK_NAME_MAX: usize = 15;

/// A pod, and through [`Deref`] the process in it. Dropping it ends the process; its interface
/// stays until [`Pod::remove`] or the bed's end.
#[derive(Debug)]
pub struct Pod {
    name: String,
    node: Node,
    addresses: Addresses,
    link: String,
    namespace: Namespace,
    process: TestPod,
}

impl Pod {
    /// Makes a pod on a node.
    pub fn start(node: &Node, wiring: Wiring, name: &str, addr: Ipv4Addr) -> Result<Self> {
        let link = format!("veth-{name}");
        ensure!(
            link.len() <= LINK_NAME_MAX,
            "pod {name}: {link} is longer than a link's name may be ({LINK_NAME_MAX} bytes)"
        );
        let addresses = Addresses::twins(addr);
        let namespace = Namespace::create(node.keeper(), node.netns_dir().join(name))?;
        connect_pod(
            wiring,
            node.namespace(),
            node.plan(),
            &namespace,
            addresses,
            &link,
        )
        .with_context(|| format!("connect pod {name} to {}", node.name()))?;
        node.links().push(link.clone());
        let process = TestPod::start(&node.place(&namespace, &format!("pods/{name}")), name)?;
        Ok(Self {
            name: name.to_owned(),
            node: node.clone(),
            addresses,
            link,
            namespace,
            process,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node it is on.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its address of a family.
    #[must_use]
    pub fn addr(&self, family: Family) -> IpAddr {
        self.addresses.of(family)
    }

    /// Is this one of its addresses?
    #[must_use]
    pub fn has(&self, addr: IpAddr) -> bool {
        Family::ALL.iter().any(|family| self.addr(*family) == addr)
    }

    /// Serves TCP and UDP at a port of its addresses of both families.
    pub fn serve_at(&self, port: u16) -> Result<()> {
        for family in Family::ALL {
            for transport in Transport::ALL {
                let to = (self.addr(family), port).into();
                self.serve(transport, to)
                    .with_context(|| format!("serve {transport:?} at {to} in pod {}", self.name))?;
            }
        }
        Ok(())
    }

    /// The name of its link's end at the node.
    #[must_use]
    pub fn link(&self) -> &str {
        &self.link
    }

    /// Its network namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// A further process that the node's socket programs do not see: in the pod's network
    /// namespace, outside the node's cgroup, as that of a virtual machine would be.
    pub fn outside_the_cgroup(&self) -> Result<TestPod> {
        let group = self
            .node
            .group()
            .parent()
            .context("a node's group has a parent")?;
        let place = Place {
            group: foreign_group(group, &self.name),
            ..self.node.place(&self.namespace, "system")
        };
        TestPod::start(&place, &self.name)
    }

    /// Deletes its link and ends its process, as a runtime does with a pod.
    pub fn remove(self) -> Result<()> {
        let link = self.link.as_str();
        self.node.links().retain(|other| other != link);
        self.node
            .namespace()
            .run(async |links| links.delete(link).await)
    }
}

impl Deref for Pod {
    type Target = TestPod;

    fn deref(&self) -> &TestPod {
        &self.process
    }
}

fn foreign_group(bed: &std::path::Path, pod: &str) -> PathBuf {
    bed.join("foreign").join(pod)
}
