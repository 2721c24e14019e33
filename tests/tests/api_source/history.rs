//! Random clusters that follow one another, told by a server that fails at random.
//!
//! The same seed has the same clusters and the same faults; what meets what is up to the machine.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use proptest::strategy::{Strategy, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};
use weir_tests::fake_api::{Chance, Cut, Expiry, FakeApi, Faults, Options, Refusal, Resource};
use weir_tests::reference;

use super::clusters::worlds;
use super::listener::{Listener, NODE};
use super::policies;

/// Clusters of a history.
const CLUSTERS: usize = 12;
/// After so many of them the server behaves until the agent knows all.
const UNTIL_REST: usize = 3;
/// Objects of each kind that are there from the first moment to the last.
const ALWAYS: usize = 40;

#[tokio::test]
async fn after_any_history_the_model_is_what_the_server_holds() -> Result<()> {
    run(1, false).await
}

#[tokio::test]
async fn so_it_is_where_lists_do_not_come_as_streams() -> Result<()> {
    run(2, true).await
}

async fn run(seed: u64, has_no_streams: bool) -> Result<()> {
    let result = history(seed, has_no_streams).await;
    result.with_context(|| format!("with the seed {seed}"))
}

async fn history(seed: u64, has_no_streams: bool) -> Result<()> {
    let api = FakeApi::start(&Options {
        seed,
        bookmark_interval: Duration::from_millis(50),
        ..Options::default()
    })?;
    let mut chance = Chance::new(seed);
    let mut clusters = Clusters::new(seed);
    let always = always();
    api.apply(always.iter().cloned())?;
    api.set_faults(|faults| {
        faults.has_no_streams = has_no_streams;
        faults.errors = 0.2;
        faults.slowness = Some(Duration::ZERO..Duration::from_millis(30));
    });
    let mut listener = Listener::start(&api, &format!("history-{seed}"), &always, 2)?;
    let mut present: BTreeMap<String, Value> = BTreeMap::new();
    for round in 1..=CLUSTERS {
        let next = clusters.next()?;
        let mut changes: Vec<Option<Value>> = Vec::new();
        let gone = present.iter().filter(|(name, _)| !next.contains_key(*name));
        let mut gone: Vec<Value> = gone.map(|(_, object)| object.clone()).collect();
        changes.extend(next.values().cloned().map(Some));
        changes.extend(gone.iter().map(|_| None));
        while !changes.is_empty() {
            match changes.swap_remove(chance.below(changes.len())) {
                Some(object) => apply(&api, object, &mut chance)?,
                None => {
                    let object = gone.swap_remove(chance.below(gone.len()));
                    api.delete(&object)?;
                }
            }
            misbehave(&api, &mut chance)?;
            // Agent and server have their turn, now and then in the middle of everything.
            tokio::time::sleep(Duration::from_micros(100 + chance.draw() % 4_000)).await;
        }
        present = next;
        if round % UNTIL_REST == 0 {
            api.come_back()?;
            api.set_faults(|faults| {
                *faults = Faults {
                    has_no_streams,
                    ..Faults::default()
                };
            });
            listener.wait_same(&api).await?;
        }
    }
    Ok(())
}

/// An object that is there, now and then after a version of it that cannot be read.
fn apply(api: &FakeApi, object: Value, chance: &mut Chance) -> Result<()> {
    if chance.is(0.05) {
        let mut broken = object.clone();
        broken["metadata"]["labels"] = json!({ "broken": 1 });
        api.apply([broken])?;
    }
    api.apply([object])
}

/// Now and then something goes wrong, or right again.
fn misbehave(api: &FakeApi, chance: &mut Chance) -> Result<()> {
    let all = [Cut::End, Cut::Close, Cut::Reset];
    let cut = all[chance.below(all.len())];
    let kinds = [
        Resource::Services,
        Resource::EndpointSlices,
        Resource::Pods,
        Resource::Namespaces,
        Resource::NetworkPolicies,
    ];
    let kind = kinds[chance.below(kinds.len())];
    let millisecond = Duration::from_millis(1);
    match chance.below(120) {
        0 | 1 => api.cut_watches(cut),
        2 => {
            api.forget_history();
            api.cut_watches(cut);
        }
        3 => api.set_history(1 + chance.below(20)),
        4 => api.set_faults(|faults| faults.expired_watches = 2),
        5 => api.set_faults(|faults| faults.expired_pages = 2),
        6 => api.set_faults(|faults| faults.truncated = 1),
        7 => api.set_faults(|faults| faults.duplicates = 0.5),
        8 => api.set_faults(|faults| faults.splits_lines = !faults.splits_lines),
        9 => api.set_faults(|faults| faults.errors = 0.3),
        10 | 11 => api.set_faults(|faults| faults.errors = 0.0),
        12 => api.set_faults(|faults| faults.too_many = 1),
        13 => api.set_faults(|faults| faults.delay = Some(millisecond..30 * millisecond)),
        14 => api.set_faults(|faults| faults.holds_events = true),
        15 | 16 => api.set_faults(|faults| faults.holds_events = false),
        17 => api.set_faults(|faults| {
            faults.refused.insert(kind, Refusal::Forbidden);
        }),
        18 | 19 => api.set_faults(|faults| faults.refused.clear()),
        20 => api.set_faults(|faults| {
            faults.expiry = match faults.expiry {
                Expiry::Event => Expiry::Status,
                Expiry::Status => Expiry::Event,
            };
        }),
        21 => api.leave()?,
        22 | 23 => api.come_back()?,
        _ => {}
    }
    Ok(())
}

/// Random clusters by a seed: services of one, policies of the other kind.
struct Clusters(TestRunner);

impl Clusters {
    fn new(seed: u64) -> Self {
        let mut bytes = [0x5a; 16];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::XorShift, &bytes);
        Self(TestRunner::new_with_rng(Config::default(), rng))
    }

    fn draw<S: Strategy>(&mut self, strategy: S) -> Result<S::Value> {
        let tree = strategy.new_tree(&mut self.0);
        let tree = tree.map_err(|reason| anyhow::anyhow!("a random value: {reason}"))?;
        Ok(tree.current())
    }

    /// A cluster's objects, by what they are called.
    fn next(&mut self) -> Result<BTreeMap<String, Value>> {
        let mut services = self.draw(worlds::world())?;
        services.node.name = NODE.to_owned();
        let policies = self.draw(policies::worlds::world())?;
        let of_policies = reference::policy::manifests::objects(&policies);
        // Both have nodes; the own one says more among the services.
        let of_policies = of_policies.into_iter().filter(|it| it["kind"] != "Node");
        let objects = reference::manifests::objects(&services);
        let all = objects.into_iter().chain(of_policies);
        Ok(all
            .map(|object| {
                let metadata = &object["metadata"];
                let name = format!(
                    "{} {} {}",
                    object["kind"], metadata["namespace"], metadata["name"]
                );
                (name, object)
            })
            .collect())
    }
}

/// What is always there.
fn always() -> Vec<Value> {
    let mut all = Vec::new();
    for index in 0..ALWAYS {
        let name = format!("always-{index}");
        all.extend([
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": name, "namespace": "always"},
                "spec": {
                    "clusterIP": format!("10.33.0.{index}"),
                    "clusterIPs": [format!("10.33.0.{index}")],
                    "ports": [{"port": 80}],
                },
            }),
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": name, "namespace": "always",
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": "IPv4",
                "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
                "endpoints": [{"addresses": [format!("10.201.0.{index}")]}],
            }),
            json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name},
            }),
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "namespace": "always"},
                "spec": {"containers": []},
            }),
            json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"name": name, "namespace": "always"},
                "spec": {"podSelector": {"matchLabels": {"app": name}}},
            }),
        ]);
    }
    all
}
