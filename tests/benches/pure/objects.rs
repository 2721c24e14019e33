//! The object's way: decoding, compiling, comparing.

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, bail};
use criterion::BatchSize;
use serde_json::Value;
use weir_agent::compile::{Capacities, Compiler, Extent, Ids, NodeContext, compile};
use weir_agent::maps::Contents;
use weir_agent::maps::diff::{Limits, diff, diff_parts};
use weir_agent::model::Cluster as Model;
use weir_agent::model::{Change, Changed, Event, Kind, Object, ObjectRef, SourceId};
use weir_agent::sources::decode;
use weir_tests::bed::NodePlan;
use weir_tests::bench::cluster::Cluster;
use weir_tests::scenario::interfaces::Interfaces;

use crate::estimates::{Estimates, Unit};

const WHO: &str = "agent";
/// The service whose endpoints change.
const CHANGED: u32 = 7;

/// All of it, in clusters of these sizes.
pub fn measure(estimates: &mut Estimates, sizes: &[(u32, u32)]) -> Result<()> {
    let cluster = of(10, 10);
    estimates.begin("one object");
    for (name, manifest) in kinds(&cluster)? {
        let text = manifest.to_string();
        let kind = kind(&manifest)?;
        estimates.measure(
            WHO,
            &format!("decode: {name}"),
            Unit::Microseconds,
            |bencher| {
                bencher.iter(|| decode::object_of_text(kind, black_box(&text)));
            },
        )?;
    }
    for (services, policies) in sizes {
        of_size(estimates, *services, *policies)?;
    }
    Ok(())
}

fn of_size(estimates: &mut Estimates, services: u32, policies: u32) -> Result<()> {
    let cluster = of(services, policies);
    let (model, node) = modelled(&cluster)?;
    let capacities = Capacities::default();
    estimates.begin(&format!("{services} services, {policies} policies"));
    estimates.measure(WHO, "compile, whole", Unit::Milliseconds, |bencher| {
        bencher.iter_batched(
            Ids::default,
            |mut ids| compile(&model, &node, &mut ids, &capacities),
            BatchSize::PerIteration,
        );
    })?;
    let desired = compile(&model, &node, &mut Ids::default(), &capacities).contents;
    estimates.measure(WHO, "diff, nothing to do", Unit::Milliseconds, |bencher| {
        bencher.iter(|| diff(black_box(&desired), black_box(&desired)));
    })?;
    let nothing = Contents::default();
    estimates.measure(
        WHO,
        "diff, everything to do",
        Unit::Milliseconds,
        |bencher| {
            bencher.iter(|| diff(black_box(&desired), black_box(&nothing)));
        },
    )?;
    let mut changing = Changing::new(&cluster, model, node)?;
    estimates.measure(
        WHO,
        "one endpoint: applied, compiled, compared",
        Unit::Microseconds,
        |bencher| bencher.iter(|| changing.turn()),
    )
}

/// A cluster whose service [`CHANGED`] has one endpoint, then another.
struct Changing {
    model: Model,
    node: NodeContext,
    compiler: Compiler,
    slices: [Object; 2],
    turn: usize,
}

impl Changing {
    fn new(cluster: &Cluster, model: Model, node: NodeContext) -> Result<Self> {
        let before = slice(cluster)?;
        let mut after = before.clone();
        after["endpoints"][0]["addresses"] = serde_json::json!(["10.200.255.1"]);
        let mut compiler = Compiler::new(&Contents::default());
        // As the agent has heard of everything.
        let all: BTreeSet<ObjectRef> = objects(cluster)?.iter().map(Object::reference).collect();
        compiler.note(&all, &model);
        let mut changing = Self {
            model,
            node,
            compiler,
            slices: [decoded(&before)?, decoded(&after)?],
            turn: 0,
        };
        changing.compile();
        let writes = changing.turn();
        anyhow::ensure!(writes > 0, "a change of an endpoint changes no table");
        Ok(changing)
    }

    /// The other endpoint: how many entries are to be written.
    fn turn(&mut self) -> usize {
        self.turn += 1;
        let object = self.slices[self.turn % 2].clone();
        let changed = self.model.apply(Event {
            source: SourceId::MANIFESTS,
            changes: vec![Change::apply(object)],
        });
        if let Changed::Objects(objects) = changed {
            self.compiler.note(&objects, &self.model);
        }
        let extent = self.compile();
        let before = self.compiler.take_before();
        let desired = &self.compiler.desired().contents;
        let plan = match extent {
            Extent::Parts {
                numbers,
                frontends,
                policies,
                ..
            } => {
                let numbers = (&numbers, frontends.as_ref());
                diff_parts(desired, &before, numbers, policies, Limits::AMPLE)
            }
            Extent::Everything => diff(desired, &before),
        };
        plan.0.len()
    }

    fn compile(&mut self) -> Extent {
        let node = &self.node;
        self.compiler.compile(
            &self.model,
            &node.name,
            || node.clone(),
            &Capacities::default(),
            |_| {},
        )
    }
}

fn of(services: u32, policies: u32) -> Cluster {
    let plan = NodePlan::new(0);
    Cluster {
        services,
        policies,
        server: plan.pod(2),
        client: plan.pod(9),
        unseen: plan.pod(10),
        host: Ipv4Addr::new(10, 240, 0, 50),
    }
}

/// The cluster as the agent knows it, on the node that its pods are on.
fn modelled(cluster: &Cluster) -> Result<(Model, NodeContext)> {
    let plan = NodePlan::new(0);
    let model = Model::from_objects(objects(cluster)?);
    let mut interfaces = Interfaces::new(true);
    interfaces.follow(&model, &plan.name);
    let node = NodeContext {
        name: plan.name.clone(),
        addr_v4: Some(plan.v4),
        node_port_addresses: [plan.v4.into()].into(),
        pod_interfaces: interfaces.found(),
        ..NodeContext::default()
    };
    Ok((model, node))
}

fn objects(cluster: &Cluster) -> Result<Vec<Object>> {
    manifests(cluster).iter().map(decoded).collect()
}

fn manifests(cluster: &Cluster) -> Vec<Value> {
    let files = cluster.objects(&NodePlan::new(0));
    files.into_iter().flat_map(|(_, objects)| objects).collect()
}

/// One object of each kind that a cluster has many of.
fn kinds(cluster: &Cluster) -> Result<BTreeMap<&'static str, Value>> {
    let all = manifests(cluster);
    ["Service", "EndpointSlice", "Pod", "NetworkPolicy"]
        .into_iter()
        .map(|name| {
            let last = all.iter().rfind(|object| object["kind"] == name);
            let object = last.with_context(|| format!("the cluster has a {name}"))?;
            Ok((name, object.clone()))
        })
        .collect()
}

fn slice(cluster: &Cluster) -> Result<Value> {
    let name = format!("service-{CHANGED}-v4");
    let mut all = manifests(cluster).into_iter();
    all.find(|object| object["metadata"]["name"] == name.as_str())
        .with_context(|| format!("the cluster has {name}"))
}

fn kind(manifest: &Value) -> Result<Kind> {
    Ok(match manifest["kind"].as_str() {
        Some("Node") => Kind::Node,
        Some("Service") => Kind::Service,
        Some("EndpointSlice") => Kind::EndpointSlice,
        Some("Pod") => Kind::Pod,
        Some("NetworkPolicy") => Kind::NetworkPolicy,
        other => bail!("a cluster that is measured has no {other:?}"),
    })
}

fn decoded(manifest: &Value) -> Result<Object> {
    decode::object(kind(manifest)?, manifest)
        .map_err(|error| anyhow::anyhow!("{error:?}: {manifest}"))
}
