//! The agent's part of a scenario: objects in, writes out, exactly as the agent does it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use weir_agent::compile::{
    Capacities, Compiler, Desired, Extent, InterfaceAddresses, NodeContext, PolicyNames, Skipped,
    compile,
};
use weir_agent::maps::diff::{Limits, diff, diff_parts};
use weir_agent::maps::{Contents, Plan};
use weir_agent::model::{
    Change, Changed, Cluster, Event, Kind, Object, ObjectRef, PodRef, Problem, SourceId,
};
use weir_agent::sources::manifests;
use weir_ebpf::tables::{PolicyFlags, PortRange};

use super::format::{Given, Node};
use super::interfaces::{Interfaces, Plug};

/// A cluster, a node, and what the node's tables hold.
#[derive(Debug)]
pub struct World {
    cluster: Cluster,
    node: NodeContext,
    /// Where the pods' objects say which interfaces there are.
    interfaces: Option<Interfaces>,
    compiler: Compiler,
    contents: Contents,
}

impl World {
    /// A world with these objects, and the writes that fill empty tables for it.
    #[must_use]
    pub fn new(node: &Node, objects: Vec<Object>) -> (Self, Plan) {
        let snat_ports = [Some(node.snat_ports), node.second_snat_ports]
            .map(|said| said.map_or(PortRange::NONE, |(min, max)| PortRange::new(min, max)));
        let context = NodeContext {
            name: node.name.clone(),
            addr_v4: first_v4(&node.addresses),
            addr_v6: first_v6(&node.addresses),
            snat_ports,
            node_port_addresses: node
                .node_port_addresses
                .as_ref()
                .unwrap_or(&node.addresses)
                .iter()
                .copied()
                .collect(),
            interfaces: node
                .interfaces
                .iter()
                .map(|(index, addresses)| {
                    let addresses = InterfaceAddresses {
                        v4: first_v4(addresses),
                        v6: first_v6(addresses),
                    };
                    (*index, addresses)
                })
                .collect(),
            service_cidrs: node.service_cidrs.clone(),
            policy: node.policy(),
            ..NodeContext::default()
        };
        Self::with(context, Some(Interfaces::new(node.claims)), objects)
    }

    /// A world of a node of which everything is said.
    #[must_use]
    pub fn at(context: NodeContext, objects: Vec<Object>) -> (Self, Plan) {
        Self::with(context, None, objects)
    }

    fn with(
        node: NodeContext,
        interfaces: Option<Interfaces>,
        objects: Vec<Object>,
    ) -> (Self, Plan) {
        let named = objects.iter().map(Object::reference).collect();
        let mut world = Self {
            cluster: Cluster::from_objects(objects),
            node,
            interfaces,
            compiler: Compiler::new(&Contents::default()),
            contents: Contents::default(),
        };
        world.compiler.note(&named, &world.cluster);
        let plan = world.sync();
        (world, plan)
    }

    /// Objects appear or change.
    #[must_use]
    pub fn apply(&mut self, objects: Vec<Object>) -> Plan {
        self.change(objects.into_iter().map(Change::apply).collect())
    }

    /// The node has other addresses.
    #[must_use]
    pub fn see_node(&mut self, context: NodeContext) -> Plan {
        self.node = context;
        self.compiler.note_everything();
        self.sync()
    }

    /// Objects disappear.
    #[must_use]
    pub fn delete(&mut self, references: Vec<ObjectRef>) -> Plan {
        self.change(references.into_iter().map(Change::Delete).collect())
    }

    /// A pod's interface appears.
    ///
    /// # Errors
    /// There is one of that name, or the pods' interfaces are said by the node's context.
    pub fn plug(&mut self, plug: &Plug) -> Result<Plan> {
        let interfaces = self.interfaces.as_mut();
        interfaces.context(SAID_BY_CONTEXT)?.plug(plug)?;
        Ok(self.sync())
    }

    /// A pod's interface disappears.
    ///
    /// # Errors
    /// There is none of that name, or the pods' interfaces are said by the node's context.
    pub fn unplug(&mut self, pod: &PodRef) -> Result<Plan> {
        let interfaces = self.interfaces.as_mut();
        interfaces.context(SAID_BY_CONTEXT)?.unplug(pod)?;
        Ok(self.sync())
    }

    /// The pods' interfaces, where the pods' objects say which there are.
    ///
    /// # Errors
    /// They are said by the node's context.
    pub fn interfaces(&self) -> Result<&Interfaces> {
        self.interfaces.as_ref().context(SAID_BY_CONTEXT)
    }

    /// What the tables hold.
    #[must_use]
    pub const fn contents(&self) -> &Contents {
        &self.contents
    }

    /// What the numbers of policies in the tables stand for.
    #[must_use]
    pub fn policies(&self) -> &PolicyNames {
        &self.compiler.desired().policies
    }

    /// What of the cluster did not reach the tables.
    #[must_use]
    pub fn skipped(&self) -> &[Skipped] {
        &self.compiler.desired().skipped
    }

    fn change(&mut self, changes: Vec<Change>) -> Plan {
        let changed = self.cluster.apply(Event {
            source: SourceId::MANIFESTS,
            changes,
        });
        if let Changed::Objects(objects) = changed {
            self.compiler.note(&objects, &self.cluster);
        }
        self.sync()
    }

    fn sync(&mut self) -> Plan {
        if let Some(interfaces) = &mut self.interfaces {
            interfaces.follow(&self.cluster, &self.node.name);
            let found = interfaces.found();
            if self.node.pod_interfaces != found {
                self.node.pod_interfaces = found;
                self.compiler.note_everything();
            }
        }
        // As if somebody watched, and nothing of the node had a say in forwarding.
        let watched = |desired: &mut Desired| {
            let flags = &mut desired.contents.policy.flags;
            *flags = flags
                .with(PolicyFlags::EVENTS_DENIED)
                .with(PolicyFlags::EVENTS_OPENED)
                .with(PolicyFlags::HAND_OVER);
        };
        let (cluster, node) = (&self.cluster, &self.node);
        let capacities = Capacities::default();
        let extent =
            self.compiler
                .compile(cluster, &node.name, || node.clone(), &capacities, watched);
        let before = Contents {
            policy: self.contents.policy,
            ..self.compiler.take_before()
        };
        let desired = self.compiler.desired();
        let plan = diff(&desired.contents, &self.contents);
        if let Extent::Everything = extent {
            assert_eq!(before, self.contents, "what was desired before");
        }
        if let Extent::Parts {
            numbers,
            frontends,
            policies,
            ..
        } = extent
        {
            let mut whole = compile(cluster, node, &mut self.compiler.ids().clone(), &capacities);
            watched(&mut whole);
            assert_eq!(**desired, whole, "what was compiled in parts");
            // As the agent has it, who keeps only what was desired.
            let limits = Limits::AMPLE;
            let numbers = (&numbers, frontends.as_ref());
            let of_parts = diff_parts(&desired.contents, &before, numbers, policies, limits);
            assert_eq!(of_parts, plan, "writes of some parts");
        }
        for write in &plan.0 {
            write.apply_to(&mut self.contents);
        }
        plan
    }
}

const SAID_BY_CONTEXT: &str = "this node's interfaces do not follow its pods' objects";

fn first_v4(addresses: &[IpAddr]) -> Option<Ipv4Addr> {
    addresses.iter().find_map(|addr| match addr {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    })
}

fn first_v6(addresses: &[IpAddr]) -> Option<Ipv6Addr> {
    addresses.iter().find_map(|addr| match addr {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => Some(*v6),
    })
}

/// Reads objects; file paths are relative to `directory`.
///
/// # Errors
/// A file cannot be read, or holds something that is no valid object.
pub fn read_objects(given: &[Given], directory: &Path) -> Result<Vec<Object>> {
    let mut objects = Vec::new();
    for given in given {
        let (name, text) = match given {
            Given::File(path) => {
                let path = directory.join(path);
                let text = std::fs::read_to_string(&path)
                    .with_context(|| format!("read the manifest {}", path.display()))?;
                (path.display().to_string(), text)
            }
            Given::Inline(object) => ("inline.json".to_owned(), serde_json::to_string(object)?),
        };
        objects.extend(parse(&name, &text)?);
    }
    Ok(objects)
}

/// Reads `shop/cart`.
///
/// # Errors
/// It is no pod's name.
pub fn parse_pod(text: &str) -> Result<PodRef> {
    let (namespace, name) = text
        .split_once('/')
        .with_context(|| format!("{text:?} is not `NAMESPACE/NAME` of a pod"))?;
    Ok(PodRef {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

/// Reads `Service default/web`, `Node worker-0`.
///
/// # Errors
/// It is none of these.
pub fn parse_reference(text: &str) -> Result<ObjectRef> {
    let expected = || format!("{text:?} is not `KIND NAMESPACE/NAME`");
    let (kind, name) = text.split_once(' ').with_context(expected)?;
    let kind = Kind::ALL
        .into_iter()
        .find(|known| known.name() == kind)
        .with_context(expected)?;
    let (namespace, name) = match name.split_once('/') {
        Some(both) if kind.is_namespaced() => both,
        None if !kind.is_namespaced() => ("", name),
        Some(_) | None => bail!(expected()),
    };
    Ok(ObjectRef::new(kind, namespace, name))
}

/// Every object of a text of manifests, by the agent's own parser.
fn parse(name: &str, text: &str) -> Result<Vec<Object>> {
    let parsed = manifests::parse::parse(name, text);
    // Said of a policy that is called so, it is what the scenario is about.
    let is_meant = |problem: &&Problem| match &problem.object {
        Some(object) => object.kind == Kind::NetworkPolicy && object.name == "unreadable",
        None => false,
    };
    let problems = parsed.problems.iter().filter(|it| !is_meant(it));
    let problems = problems.map(ToString::to_string);
    let unknown = parsed
        .unknown_kinds
        .iter()
        .map(|kind| format!("{name}: {kind} is not a kind that Weir reads"));
    let problems: Vec<String> = problems.chain(unknown).collect();
    ensure!(problems.is_empty(), "{}", problems.join("; "));
    ensure!(!parsed.objects.is_empty(), "{name} holds no object");
    Ok(parsed
        .objects
        .into_iter()
        .map(|(object, _)| object)
        .collect())
}
