//! What the agent has of a server: its own source, feeding its own model.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use weir_agent::model::{Cluster, Kind, Object, ObjectRef, SourceId};
use weir_agent::observe::metrics::Metrics;
use weir_agent::observe::status::{Source, SourceState};
use weir_agent::sources::api::{self, Access, Freshness, Server};
use weir_agent::sources::decode;
use weir_tests::fake_api::{FakeApi, ServiceAccount};

/// Longest wait for something that has to come; the agent waits half a minute between attempts
/// when many have failed.
pub const LIMIT: Duration = Duration::from_secs(180);
/// Between two looks at what is not announced.
const PAUSE: Duration = Duration::from_millis(20);
/// The node that the agent is of.
pub const NODE: &str = "worker-0";

/// The source and the model behind it. Dropping it ends them.
pub struct Listener {
    heard: watch::Receiver<Heard>,
    freshness: Freshness,
    metrics: Metrics,
    pub account: ServiceAccount,
    directory: PathBuf,
    _tasks: JoinSet<Result<()>>,
}

/// What was heard so far.
#[derive(Default)]
pub struct Heard {
    pub cluster: Cluster,
    /// The first event after which one of those that are always there was not.
    lost: Option<String>,
}

impl Listener {
    /// Listens to a server. These objects are there all the time, so that whoever has everything
    /// has them.
    pub fn start(api: &FakeApi, name: &str, always: &[Value], watch_seconds: u32) -> Result<Self> {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("api-source-{name}-{}", std::process::id()));
        let account = api.service_account(&directory)?;
        let always: Vec<ObjectRef> = always
            .iter()
            .map(|object| {
                Ok(read(object)?
                    .context("an object of a kind that Weir reads")?
                    .0)
            })
            .collect::<Result<_>>()?;
        let metrics = Metrics::new();
        let freshness = Freshness::new(metrics.sources.clone());
        let access = Access {
            kubeconfig: None,
            api_server: Some(api.url()),
            service_account_dir: directory.clone(),
            kubelet_kubeconfigs: Vec::new(),
            environment: (None, None),
            watch_seconds,
        };
        let server = Server::new(access, metrics.rest_client.clone());
        let (sender, mut events) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        tasks.spawn(api::run(server, NODE.to_owned(), freshness.clone(), sender));
        let (hears, heard) = watch::channel(Heard::default());
        tasks.spawn(async move {
            while let Some(event) = events.recv().await {
                hears.send_modify(|heard| {
                    heard.cluster.apply(event);
                    heard.look_for(&always);
                });
            }
            bail!("the source ended")
        });
        Ok(Self {
            heard,
            freshness,
            metrics,
            account,
            directory,
            _tasks: tasks,
        })
    }

    /// Waits until what was heard is as `condition` says.
    pub async fn wait(&mut self, what: &str, condition: impl Fn(&Cluster) -> bool) -> Result<()> {
        let wanted = self
            .heard
            .wait_for(|heard| heard.lost.is_some() || condition(&heard.cluster));
        match tokio::time::timeout(LIMIT, wanted).await {
            Ok(heard) => match &heard?.lost {
                None => Ok(()),
                Some(lost) => bail!("{lost}"),
            },
            Err(_) => bail!(
                "waited for {what}, in vain\n{:#?}",
                self.freshness.sources()
            ),
        }
    }

    /// Waits until the first lists are there.
    pub async fn wait_ready(&mut self) -> Result<()> {
        self.wait("the first lists", |cluster| cluster.is_ready(SourceId::API))
            .await
    }

    /// Waits until the model is what the server holds now.
    pub async fn wait_same(&mut self, api: &FakeApi) -> Result<()> {
        let expected = expected(api)?;
        let result = self
            .wait("the server's objects", |cluster| {
                cluster.is_ready(SourceId::API) && difference(cluster, &expected).is_empty()
            })
            .await;
        result.with_context(|| difference(&self.heard.borrow().cluster, &expected).join("\n"))
    }

    /// Waits until a kind is as `condition` says.
    pub async fn wait_kind(&self, kind: Kind, condition: impl Fn(&Source) -> bool) -> Result<()> {
        let look = || {
            let sources = self.freshness.sources();
            let name = kind.to_string();
            let source = sources.into_iter().find(|source| source.kind == name);
            source.is_some_and(|source| condition(&source))
        };
        let mut changes = self.freshness.changes();
        let wanted = async {
            // How many objects there are is not announced.
            while !look() {
                let _ = tokio::time::timeout(PAUSE, changes.changed()).await;
            }
        };
        if tokio::time::timeout(LIMIT, wanted).await.is_err() {
            bail!(
                "{kind} is not as it should:\n{:#?}",
                self.freshness.sources()
            );
        }
        Ok(())
    }

    /// Waits until a kind is in this state.
    pub async fn wait_state(&self, kind: Kind, state: SourceState) -> Result<()> {
        self.wait_kind(kind, |source| source.state == state).await
    }

    /// Has it every kind that it needs?
    pub fn is_ready(&self) -> bool {
        self.heard.borrow().cluster.is_ready(SourceId::API)
    }

    /// What is wrong with objects, in words.
    pub fn problems(&self) -> Vec<String> {
        let reports = self.heard.borrow().cluster.reports();
        let problems = reports.get(&SourceId::API).map(|it| it.problems.as_slice());
        problems
            .unwrap_or_default()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    /// Waits until the metrics' page has these lines, which follow what was heard: gives the page.
    pub async fn wait_page(&self, lines: &[&str]) -> Result<String> {
        let start = Instant::now();
        loop {
            let page = self.metrics.text()?;
            let missing = lines
                .iter()
                .find(|line| page.lines().all(|it| it != **line));
            match missing {
                None => return Ok(page),
                Some(line) if start.elapsed() > LIMIT => bail!("{line} is not in\n{page}"),
                Some(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // What remains is in the build's own directory.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Heard {
    fn look_for(&mut self, always: &[ObjectRef]) {
        let lost = always.iter().find(|it| self.cluster.get(it).is_none());
        if let Some(lost) = lost
            && self.cluster.is_ready(SourceId::API)
            && self.lost.is_none()
        {
            self.lost = Some(format!(
                "{lost} was always there, and is not in what was heard: a part of a list was \
                 taken for all of it"
            ));
        }
    }
}

/// What the model should have of a server: what the agent asks for and can read.
pub fn expected(api: &FakeApi) -> Result<BTreeMap<ObjectRef, Object>> {
    let mut expected = BTreeMap::new();
    for object in api.objects() {
        let label = |name: &str| object["metadata"]["labels"].get(name).is_some();
        let is_asked_for = match object["kind"].as_str() {
            Some("Service") => !label("service.kubernetes.io/service-proxy-name"),
            Some("EndpointSlice") => !label("service.kubernetes.io/headless"),
            Some("Node") => object["metadata"]["name"] == NODE,
            Some("Endpoints") => false,
            _ => true,
        };
        if let Some((reference, object)) = read(&object)?.filter(|_| is_asked_for)
            && let Some(object) = object
        {
            expected.insert(reference, object);
        }
    }
    Ok(expected)
}

/// An object's name, and the object where it can be read.
fn read(value: &Value) -> Result<Option<(ObjectRef, Option<Object>)>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let Some(kind) = Kind::of(&text(&value["apiVersion"]), &text(&value["kind"])) else {
        return Ok(None);
    };
    let name = value["metadata"]["name"].as_str().context("a name")?;
    let namespace = match kind.is_namespaced() {
        true => value["metadata"]["namespace"].as_str().unwrap_or("default"),
        false => "",
    };
    let reference = ObjectRef::new(kind, namespace, name);
    Ok(Some((reference, decode::object(kind, value).ok())))
}

/// In what the model is not as expected.
fn difference(cluster: &Cluster, expected: &BTreeMap<ObjectRef, Object>) -> Vec<String> {
    let wrong = expected
        .iter()
        .filter_map(|(reference, object)| match cluster.get(reference) {
            Some(present) if present == object => None,
            Some(present) => Some(format!("{reference} is {present:?} instead of {object:?}")),
            None => Some(format!("{reference} is missing")),
        });
    let mut counts: BTreeMap<Kind, usize> = BTreeMap::new();
    for reference in expected.keys() {
        *counts.entry(reference.kind).or_default() += 1;
    }
    let present = cluster.counts(SourceId::API);
    let counted = (present != counts)
        .then(|| format!("of each kind there are {present:?} instead of {counts:?}"));
    wrong.chain(counted).collect()
}
