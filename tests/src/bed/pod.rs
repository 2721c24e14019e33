//! A pod of a bed: a sandbox on a node, and the process that lives in it.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Deref;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::namespace::Namespace;
use super::node::Node;
use super::plan::Family;
use super::process::Place;
use super::sandbox::Sandbox;
use super::wiring::Wiring;
use crate::testpod::client::TestPod;
use crate::testpod::protocol::Transport;

/// A pod, and through [`Deref`] the process in it. Dropping it ends the process; its interface
/// stays until [`Pod::remove`] or the bed's end.
#[derive(Debug)]
pub struct Pod {
    sandbox: Sandbox,
    process: TestPod,
}

impl Pod {
    /// Makes a pod on a node.
    pub fn start(node: &Node, wiring: Wiring, name: &str, addr: Ipv4Addr) -> Result<Self> {
        Self::start_in(Sandbox::create(node, wiring, name, addr)?)
    }

    /// Starts the process in a sandbox that is there.
    pub fn start_in(sandbox: Sandbox) -> Result<Self> {
        let process = TestPod::start(&sandbox.place(), sandbox.name())?;
        Ok(Self { sandbox, process })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.sandbox.name()
    }

    /// The node it is on.
    #[must_use]
    pub fn node(&self) -> &Node {
        self.sandbox.node()
    }

    /// Its address of a family.
    #[must_use]
    pub fn addr(&self, family: Family) -> IpAddr {
        self.sandbox.addr(family)
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
                self.serve(transport, to).with_context(|| {
                    format!("serve {transport:?} at {to} in pod {}", self.name())
                })?;
            }
        }
        Ok(())
    }

    /// The name of its link's end at the node.
    #[must_use]
    pub fn link(&self) -> &str {
        self.sandbox.link()
    }

    /// Its network namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        self.sandbox.namespace()
    }

    /// Its place on the node.
    #[must_use]
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// A further process that the node's socket programs do not see: in the pod's network
    /// namespace, outside the node's cgroup, as that of a virtual machine would be.
    pub fn outside_the_cgroup(&self) -> Result<TestPod> {
        let group = self
            .node()
            .group()
            .parent()
            .context("a node's group has a parent")?;
        let place = Place {
            group: foreign_group(group, self.name()),
            ..self.node().place(self.namespace(), "system")
        };
        TestPod::start(&place, self.name())
    }

    /// Deletes its link and ends its process, as a runtime does with a pod.
    pub fn remove(self) -> Result<()> {
        let Self { sandbox, process } = self;
        sandbox.remove()?;
        drop(process);
        Ok(())
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
