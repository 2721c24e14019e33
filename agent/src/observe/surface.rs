//! What the agent's loop tells the world, and who may ask for it.
//!
//! The loop calls in with what has happened; nothing here makes it wait. Whoever asks gets the
//! present from values that both share: short locks, none of them held while something is
//! awaited.
//!
//! | server | path | answer |
//! |---|---|---|
//! | `--healthz-bind-address` | `/healthz`, `/livez` | [`Health`] |
//! | `--metrics-bind-address` | `/metrics`, `/proxyMode`, `/healthz`, `/configz` | [`Metrics`], fixed texts, the flags |
//! | a service's `healthCheckNodePort` | any | endpoints of this node |

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Result;
use hyper::StatusCode;
use jiff::Timestamp;
use serde_json::json;
use tracing::error;
use weir_ebpf::tables::{Pod, name};

use super::{
    changes::Pending,
    health::{Checked, Health, Now},
    http::{self, Answer, Handler, JSON, PLAIN_TEXT, Response},
    listeners::{Listener, Listeners, Listening, Purpose, Wanted},
    metrics::{self, Dropping, Extent, Metrics, Readings},
    report::{POD_STATES, pod_state},
};
use crate::{
    compile::{Desired, Extent as Compiled, HealthCheck},
    config::Config,
    maps::{Contents, kernel::KernelTables},
    model::{Cluster, Node, ObjectRef, ServiceRef},
    sources::node::node_ports::NodePortAddresses,
};

/// kube-proxy's other modes are `iptables`, `ipvs` and `nftables`.
const PROXY_MODE: &str = "ebpf";

/// The surface: dropping it closes every port.
pub struct Surface {
    metrics: Arc<Metrics>,
    health: Arc<Mutex<Health>>,
    pending: Pending,
    /// The servers that are there whatever the services are.
    fixed: Wanted,
    checks: Arc<Mutex<Checks>>,
    dropping: Dropping,
    /// Health check node ports are served at every address, not at those of node ports alone.
    checks_are_everywhere: bool,
    listeners: Listeners,
}

/// What health check node ports answer.
type Checks = BTreeMap<ServiceRef, HealthCheck>;

/// What there is to say of a synchronisation that succeeded.
#[derive(Clone, Copy, Debug)]
pub struct Synchronised<'a> {
    /// What the tables hold now, and what load balancers may ask about.
    pub desired: &'a Desired,
    /// What of that may be different from the last time.
    pub extent: &'a Compiled,
    /// Entries written or removed.
    pub writes: usize,
    /// Interfaces that carry programs: pods', and those that lead to the network.
    pub interfaces: [usize; 2],
}

impl Surface {
    /// Opens the ports that do not depend on services. All is well while the agent starts.
    #[must_use]
    pub fn open(config: &Config) -> Self {
        let metrics = Arc::new(Metrics::new());
        let health = Arc::new(Mutex::new(Health::default()));
        let mut fixed = Wanted::new();
        for (purpose, address, handler) in [
            (
                Purpose::Health,
                config.healthz_bind_address,
                health_handler(&health, &metrics),
            ),
            (
                Purpose::Metrics,
                config.metrics_bind_address,
                metrics_handler(&metrics, config),
            ),
        ] {
            if let Some(address) = address {
                fixed.insert(Listener { purpose, address }, handler);
            }
        }
        let listeners = Listeners::start();
        listeners.want(fixed.clone());
        Self {
            metrics,
            health,
            pending: Pending::new(Timestamp::now()),
            fixed,
            checks: Arc::default(),
            dropping: Dropping::default(),
            checks_are_everywhere: config.nodeport_addresses == NodePortAddresses::All,
            listeners,
        }
    }

    /// What followers of the API server count.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What the programs count, and how full their tables are, is read there.
    pub fn read_from(&self, tables: KernelTables) {
        self.metrics.own.set_capacities(&tables.capacities());
        self.metrics
            .read_datapath_by(Box::new(move || read(&tables)));
    }

    /// These objects have changed, and are now as the cluster has them.
    pub fn changed(&mut self, objects: &BTreeSet<ObjectRef>, cluster: &Cluster) {
        let seen = self.pending.note(objects, cluster);
        self.metrics.kube_proxy.changed(seen, self.pending.counts());
    }

    /// This node as the cluster has it.
    pub fn see_node(&self, node: Option<&Node>) {
        lock(&self.health).see_node(node);
    }

    /// How much of the sources cannot be used.
    pub fn see_problems(&self, problems: usize) {
        self.metrics.own.set_problems(problems);
    }

    /// Are packets handed over to pods?
    pub fn see_fast_path(&self, is_on: bool) {
        self.metrics.own.set_fast_path(is_on);
    }

    /// Something has to be written, and can be.
    pub fn queued(&self) {
        let now = Now::read();
        lock(&self.health).queued(now);
        self.metrics.kube_proxy.queued(now.time);
    }

    /// A synchronisation has ended, well or not.
    pub fn ended(&self, extent: Extent, took: Duration) {
        self.metrics.kube_proxy.ended(extent, took);
    }

    /// It failed: what it was to write still waits.
    pub fn failed(&self) {
        lock(&self.health).queued(Now::read());
        self.metrics.own.failed();
    }

    /// It succeeded.
    pub fn synchronised(&mut self, done: Synchronised<'_>) {
        let now = Now::read();
        lock(&self.health).updated(now);
        let latencies = self.pending.synchronised(now.time);
        let Metrics {
            kube_proxy, own, ..
        } = &*self.metrics;
        kube_proxy.synchronised(now.time, &latencies);
        let Desired {
            contents,
            health_checks,
            skipped,
            ..
        } = done.desired;
        own.synchronised(done.writes, skipped.len());
        let tables = match done.extent {
            Compiled::Parts {
                frontends: None,
                policies: false,
                ..
            } => &TABLES_OF_ENDPOINTS[..],
            Compiled::Parts { .. } | Compiled::Everything => &TABLES,
        };
        for &table in tables {
            if let Some(entries) = contents.entries(table) {
                own.set_entries(table, entries);
            }
        }
        match done.extent {
            Compiled::Parts {
                services,
                numbers,
                frontends: None,
                policies: false,
            } => {
                if self.dropping.is_different(contents, numbers) {
                    self.dropping = Dropping::of(contents);
                    kube_proxy.set_no_local_endpoints(contents, &self.dropping);
                }
                // Whether a service has a check, and where, follows from the service.
                let mut checks = lock(&self.checks);
                for service in services {
                    if let Some(check) = health_checks.get(service) {
                        checks.insert(service.clone(), *check);
                    }
                }
            }
            Compiled::Parts { .. } | Compiled::Everything => {
                self.dropping = Dropping::of(contents);
                kube_proxy.set_no_local_endpoints(contents, &self.dropping);
                let [of_pods, of_network] = done.interfaces;
                own.set_interfaces("pod", of_pods);
                own.set_interfaces("network", of_network);
                for state in POD_STATES {
                    let is_so = |pod: &&Pod| pod.state == state;
                    let interfaces = contents.pods.values().filter(is_so).count();
                    own.set_pods(pod_state(state), interfaces);
                }
                let addresses = if self.checks_are_everywhere {
                    BTreeSet::from([Ipv4Addr::UNSPECIFIED.into()])
                } else {
                    check_addresses(contents)
                };
                self.serve_checks(health_checks, &addresses);
            }
        }
    }

    /// What listens, once that is different from the last time this was asked.
    pub async fn listeners_changed(&mut self) -> Listening {
        self.listeners.changed().await
    }

    fn serve_checks(&self, checks: &Checks, addresses: &BTreeSet<IpAddr>) {
        lock(&self.checks).clone_from(checks);
        let mut wanted = self.fixed.clone();
        for (service, check) in checks {
            let handler = self.check_handler(service);
            wanted.extend(addresses.iter().map(|&address| {
                let listener = Listener {
                    purpose: Purpose::HealthCheck(service.clone()),
                    address: (address, check.port.get()).into(),
                };
                (listener, Arc::clone(&handler))
            }));
        }
        self.listeners.want(wanted);
    }

    fn check_handler(&self, service: &ServiceRef) -> Handler {
        let (checks, health) = (Arc::clone(&self.checks), Arc::clone(&self.health));
        let service = service.clone();
        http::at_once(move |_| {
            let count = lock(&checks)
                .get(&service)
                .map_or(0, |check| check.local_endpoints);
            answer_check(&service, count, lock(&health).is_healthy(Now::read()))
        })
    }
}

/// The tables that the agent fills.
const TABLES: [&str; 9] = [
    name::FRONTENDS,
    name::SERVICES,
    name::BACKENDS,
    name::SERVING,
    name::SERVICE_NAMES,
    name::SOURCE_RANGES,
    name::SERVICE_CIDRS,
    name::NODE_PORT_ADDRS,
    name::INTERFACES,
];

/// Those of them that hold others when endpoints change.
const TABLES_OF_ENDPOINTS: [&str; 3] = [name::SERVICES, name::BACKENDS, name::SERVING];

/// The addresses of node ports, but link-local ones: those mean nothing without an interface, and
/// no load balancer asks there.
fn check_addresses(contents: &Contents) -> BTreeSet<IpAddr> {
    let addresses = contents.node_port_addrs.iter().copied().map(IpAddr::from);
    addresses
        .filter(|addr| match addr {
            IpAddr::V4(_) => true,
            IpAddr::V6(v6) => !v6.is_unicast_link_local(),
        })
        .collect()
}

/// Counts entries by listing them: the kernel keeps no count.
fn read(tables: &KernelTables) -> Result<Readings> {
    Ok(Readings {
        counters: tables.counters()?,
        entries: BTreeMap::from([
            (name::FLOWS, tables.flows().flatten().count()),
            (name::SOCKETS, tables.sockets().flatten().count()),
            (name::AFFINITY, tables.affinity().flatten().count()),
        ]),
    })
}

fn health_handler(health: &Arc<Mutex<Health>>, metrics: &Arc<Metrics>) -> Handler {
    let (health, metrics) = (Arc::clone(health), Arc::clone(metrics));
    http::at_once(move |path| {
        let now = Now::read();
        match path {
            "/healthz" => {
                let checked = lock(&health).healthz(now);
                let status = status(&checked);
                metrics.kube_proxy.answered_healthz(status.as_str());
                http::response(status, JSON, checked.body)
            }
            "/livez" => {
                let checked = lock(&health).livez(now);
                let status = status(&checked);
                metrics.kube_proxy.answered_livez(status.as_str());
                http::response(status, JSON, checked.body)
            }
            _ => http::not_found(),
        }
    })
}

fn metrics_handler(metrics: &Arc<Metrics>, config: &Config) -> Handler {
    let metrics = Arc::clone(metrics);
    let configuration = json!({ "weir": config.flags }).to_string();
    Arc::new(move |path| -> Answer {
        let text = |content_type, body: &str| {
            let response = http::response(StatusCode::OK, content_type, body.to_owned());
            Box::pin(std::future::ready(response))
        };
        match path {
            "/metrics" => Box::pin(answer_metrics(Arc::clone(&metrics))),
            "/proxyMode" => text(PLAIN_TEXT, PROXY_MODE),
            "/healthz" => text(PLAIN_TEXT, "ok"),
            "/configz" => text(JSON, &configuration),
            _ => Box::pin(std::future::ready(http::not_found())),
        }
    })
}

/// Reads the kernel's tables, on a thread where that keeps nobody waiting.
async fn answer_metrics(metrics: Arc<Metrics>) -> Response {
    let text = tokio::task::spawn_blocking(move || metrics.text()).await;
    match text.map_err(anyhow::Error::from).and_then(|text| Ok(text?)) {
        Ok(text) => http::response(StatusCode::OK, metrics::CONTENT_TYPE, text),
        Err(error) => {
            error!("the metrics cannot be shown: {error:#}");
            http::response(
                StatusCode::INTERNAL_SERVER_ERROR,
                PLAIN_TEXT,
                format!("{error:#}\n"),
            )
        }
    }
}

/// In kube-proxy's form, blanks and all.
fn answer_check(service: &ServiceRef, count: usize, is_healthy: bool) -> Response {
    let ServiceRef { namespace, name } = service;
    let status = if count > 0 && is_healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\
         \t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": {is_healthy}\n}}"
    );
    http::with_number(
        http::response(status, JSON, body),
        "x-load-balancing-endpoint-weight",
        count,
    )
}

const fn status(checked: &Checked) -> StatusCode {
    if checked.is_well {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

/// Whoever panicked with one of these left it whole: they are changed by single assignments.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
