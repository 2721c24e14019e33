//! What dashboards and alerts read.
//!
//! [`KubeProxy`] has kube-proxy's names, labels, buckets and help texts wherever Weir has the
//! quantity, so that what was made for kube-proxy goes on working; [`Own`] is what only Weir has;
//! what the programs count is read from the kernel when somebody asks; and `process_*` comes from
//! the library; [`RestClient`] has the names of Kubernetes' own clients.
//!
//! Left out, because nothing has them yet: bytes (the programs count packets).

use std::sync::{Mutex, OnceLock, PoisonError};

use prometheus::{Registry, TextEncoder, process_collector::ProcessCollector};

mod datapath;
mod kube_proxy;
mod own;
mod rest_client;
mod sources;

use datapath::Datapath;
pub use datapath::{Read, Readings};
pub use kube_proxy::{Dropping, Extent, KubeProxy, NoLocalEndpoints};
pub use own::Own;
pub use rest_client::RestClient;
pub use sources::Sources;

/// Of the text that [`Metrics::text`] gives.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// kube-proxy's.
    pub kube_proxy: KubeProxy,
    /// Weir's.
    pub own: Own,
    /// Of the API server as a source.
    pub sources: Sources,
    /// Of requests to it.
    pub rest_client: RestClient,
    datapath: OnceLock<Datapath>,
    /// Those who ask take turns.
    turn: Mutex<()>,
}

impl Metrics {
    /// All of them, at zero.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        register(&registry, ProcessCollector::for_self());
        Self {
            kube_proxy: KubeProxy::new(&registry),
            own: Own::new(&registry),
            sources: Sources::new(&registry),
            rest_client: RestClient::new(&registry),
            registry,
            datapath: OnceLock::new(),
            turn: Mutex::new(()),
        }
    }

    /// From now on what the programs count is there, too, and is read so.
    pub fn read_datapath_by(&self, read: Read) {
        self.datapath
            .get_or_init(|| Datapath::new(&self.registry, read));
    }

    /// All of them in Prometheus' text format. Reads the kernel's tables, so it may block.
    ///
    /// # Errors
    /// A metric that the format cannot express.
    pub fn text(&self) -> prometheus::Result<String> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(datapath) = self.datapath.get() {
            datapath.refresh(&self.own);
        }
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn register(registry: &Registry, collector: impl prometheus::core::Collector + 'static) {
    registry
        .register(Box::new(collector))
        .expect("each metric has a name of its own");
}

/// Makes a metric and adds it to the registry.
fn add<M: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<M>,
) -> M {
    let metric = metric.expect("names of metrics and labels are well-formed");
    register(registry, metric.clone());
    metric
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
