//! The connection to the API server.
//!
//! Promises: candidates are tried in order, and whoever answers, whatever it answers, is used until
//! the connection to it fails; then all are tried again. Credentials are read from their files
//! anew whenever that happens and whenever they are refused, and the token at least once a minute.
//! A connection whose other end is gone without a word is noticed in half a minute.

use std::{
    error::Error,
    fmt::Write as _,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use hyper::{
    Request, Uri,
    header::{HeaderValue, USER_AGENT},
};
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt as _},
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::sync::{Mutex, watch};
use tower::ServiceExt as _;
use tracing::{info, warn};

use super::{
    candidates::{Candidate, Origin, in_cluster},
    connection::Paced,
};
use crate::observe::metrics::RestClient;

/// A connection that is not made by then cannot be made.
const CONNECT_PATIENCE: Duration = Duration::from_secs(4);
/// A candidate that has not answered by then does not.
const ANSWER_PATIENCE: Duration = Duration::from_secs(8);
/// A connection on which nothing has come for so long is asked whether it is still there, …
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);
/// … again and again after so long …
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
/// … and so often.
const KEEPALIVE_PROBES: u32 = 3;
/// What was sent and has not been acknowledged by then never will be.
const SEND_PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of an answer that are read before anybody has taken them. Each watch keeps as many for
/// itself once a long list has come by it.
const READ_AHEAD: usize = 32 << 10;

/// What is known of the way to the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// A kubeconfig that names it and holds credentials.
    pub kubeconfig: Option<PathBuf>,
    /// Its address, whatever others say.
    pub api_server: Option<String>,
    /// Where a pod finds the credentials of its service account, without a kubeconfig.
    pub service_account_dir: PathBuf,
    /// Kubeconfigs of the kubelet, for its server's address alone.
    pub kubelet_kubeconfigs: Vec<PathBuf>,
    /// `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`.
    pub environment: (Option<String>, Option<String>),
    /// How long a watch lasts at least, in seconds.
    pub watch_seconds: u32,
}

/// The API server, wherever it is.
pub struct Server {
    access: Access,
    metrics: RestClient,
    present: Mutex<Present>,
    used: watch::Sender<Option<Candidate>>,
}

#[derive(Default)]
struct Present {
    client: Option<Client>,
    /// Counts the clients.
    generation: u64,
    /// When nobody answered the last time, and why.
    failure: Option<(Instant, String)>,
}

/// A client that worked when it was made.
#[derive(Clone)]
pub struct Connection {
    /// The client.
    pub client: Client,
    generation: u64,
}

impl Server {
    /// Nothing is asked, nor read, before somebody wants a connection.
    #[must_use]
    pub fn new(access: Access, metrics: RestClient) -> Arc<Self> {
        Arc::new(Self {
            access,
            metrics,
            present: Mutex::default(),
            used: watch::Sender::new(None),
        })
    }

    /// How long a watch lasts at least, in seconds.
    #[must_use]
    pub const fn watch_seconds(&self) -> u32 {
        self.access.watch_seconds
    }

    /// Which candidate is used.
    #[must_use]
    pub fn used(&self) -> watch::Receiver<Option<Candidate>> {
        self.used.subscribe()
    }

    /// A client of the candidate that is used, or of the first that answers now.
    ///
    /// # Errors
    /// Why none does.
    pub async fn connection(&self) -> Result<Connection> {
        let asked = Instant::now();
        let mut present = self.present.lock().await;
        if let Some(client) = &present.client {
            return Ok(Connection {
                client: client.clone(),
                generation: present.generation,
            });
        }
        // Others have just waited for the same answer.
        if let Some((at, failure)) = &present.failure
            && *at > asked
        {
            bail!("{failure}");
        }
        match self.connect().await {
            Ok((client, candidate)) => {
                self.used.send_if_modified(|used| {
                    let is_other = used.as_ref() != Some(&candidate);
                    if is_other {
                        info!(url = candidate.url, origin = %candidate.origin, "the API server");
                        *used = Some(candidate);
                    }
                    is_other
                });
                present.generation += 1;
                present.failure = None;
                present.client = Some(client.clone());
                Ok(Connection {
                    client,
                    generation: present.generation,
                })
            }
            Err(error) => {
                let text = format!("{error:#}");
                if present.failure.as_ref().map(|(_, text)| text) != Some(&text) {
                    warn!("the API server cannot be reached: {text}");
                }
                present.failure = Some((Instant::now(), text));
                Err(error)
            }
        }
    }

    /// This connection is of no use any more: the next who wants one gets another, with
    /// credentials as they are then.
    pub async fn renounce(&self, connection: &Connection) {
        let mut present = self.present.lock().await;
        if present.generation == connection.generation {
            present.client = None;
        }
    }

    async fn connect(&self) -> Result<(Client, Candidate)> {
        let mut failures = String::new();
        for (candidate, config) in self.candidates().await? {
            let asked = async {
                let client = self.client(config?)?;
                probe(&client).await.map(|()| client)
            };
            match asked.await {
                Ok(client) => return Ok((client, candidate)),
                Err(error) => {
                    if !failures.is_empty() {
                        failures.push_str("; ");
                    }
                    // Writing to a string cannot fail.
                    write!(failures, "{candidate}: {error:#}").ok();
                }
            }
        }
        bail!("{failures}")
    }

    /// Who is asked, and how.
    async fn candidates(&self) -> Result<Vec<(Candidate, Result<Config>)>> {
        if let Some(file) = &self.access.kubeconfig {
            let config = self.of_kubeconfig(file).await?;
            let origin = match self.access.api_server {
                Some(_) => Origin::Flag,
                None => Origin::Kubeconfig,
            };
            let url = config.cluster_url.to_string();
            return Ok(vec![(Candidate { url, origin }, Ok(config))]);
        }
        let (host, port) = &self.access.environment;
        let kubelets = self.access.kubelet_kubeconfigs.iter().filter_map(|file| {
            // Most nodes have one of them, some none.
            let text = std::fs::read_to_string(file).ok()?;
            Some((file.display().to_string(), text))
        });
        let candidates = in_cluster(
            self.access.api_server.as_deref(),
            (host.as_deref(), port.as_deref()),
            &kubelets.collect::<Vec<_>>(),
        );
        if candidates.is_empty() {
            bail!(
                "nobody says where the API server is: KUBERNETES_SERVICE_HOST is not set and there \
                 is no kubeconfig of a kubelet; name it with --api-server"
            );
        }
        let with_config = |candidate: Candidate| {
            let config = self.of_service_account(&candidate.url);
            (candidate, config)
        };
        Ok(candidates.into_iter().map(with_config).collect())
    }

    async fn of_kubeconfig(&self, file: &PathBuf) -> Result<Config> {
        let said = || format!("--kubeconfig {}", file.display());
        let kubeconfig = Kubeconfig::read_from(file).with_context(said)?;
        let has_proxy = kubeconfig
            .clusters
            .iter()
            .filter_map(|cluster| cluster.cluster.as_ref())
            .any(|cluster| cluster.proxy_url.is_some());
        if has_proxy {
            warn!(
                "{}: proxy-url is not used: the API server is asked directly",
                said()
            );
        }
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .with_context(said)?;
        if let Some(url) = &self.access.api_server {
            config.cluster_url = parse_url(url)?;
        }
        Ok(config)
    }

    fn of_service_account(&self, url: &str) -> Result<Config> {
        let directory = &self.access.service_account_dir;
        let mut config = Config::new(parse_url(url)?);
        let token = directory.join("token");
        config.auth_info.token_file = Some(token.display().to_string());
        if config.cluster_url.scheme_str() == Some("https") {
            let authority = directory.join("ca.crt");
            if !authority.is_file() {
                bail!("{} is not there", authority.display());
            }
            // Without any, the client would ask for the system's, of which an image that holds
            // nothing but the binary has none, and fail; the file's are used in their place.
            config.root_cert = Some(Vec::new());
            // Read again every minute, as the token is.
            config.root_cert_file = Some(authority);
        }
        Ok(config)
    }

    fn client(&self, mut config: Config) -> Result<Client> {
        let agent = HeaderValue::from_static(concat!("weir/", env!("CARGO_PKG_VERSION")));
        config.headers.push((USER_AGENT, agent));
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_PATIENCE));
        connector.set_keepalive(Some(KEEPALIVE_AFTER));
        connector.set_keepalive_interval(Some(KEEPALIVE_EVERY));
        connector.set_keepalive_retries(Some(KEEPALIVE_PROBES));
        connector.set_tcp_user_timeout(Some(SEND_PATIENCE));
        let connector = config
            .rustls_https_connector_with_connector(connector.map_response(Paced::made))
            .context("prepare TLS")?;
        let http = HttpClient::builder(TokioExecutor::new())
            .http1_max_buf_size(READ_AHEAD)
            .build(connector);
        let builder = ClientBuilder::new(http, config.default_namespace.clone())
            .with_layer(&self.metrics)
            .with_layer(&config.extra_headers_layer().context("prepare headers")?);
        let base = config.base_uri_layer();
        Ok(match config.auth_layer().context("read the credentials")? {
            Some(auth) => builder.with_layer(&auth).with_layer(&base).build(),
            None => builder.with_layer(&base).build(),
        })
    }
}

/// The address of a server.
///
/// # Errors
/// It is none.
pub fn parse_url(url: &str) -> Result<Uri> {
    let uri: Uri = url
        .parse()
        .with_context(|| format!("{url} is not a URL, as in https://10.240.0.10:6443"))?;
    match uri.scheme_str() {
        Some("http" | "https") => Ok(uri),
        Some(_) | None => bail!("{url} does not begin with https://"),
    }
}

/// Does anybody answer? What, does not matter: who may not ask this may still ask for objects.
async fn probe(client: &Client) -> Result<()> {
    let request = Request::get("/version")
        .body(Body::empty())
        .context("prepare a request")?;
    match tokio::time::timeout(ANSWER_PATIENCE, client.send(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(anyhow!("{}", in_full_of_client(&error))),
        Err(_) => bail!("no answer in {} s", ANSWER_PATIENCE.as_secs()),
    }
}

/// An error of the client with what caused it.
#[must_use]
pub fn in_full_of_client(error: &kube::Error) -> String {
    match error {
        // It has nothing to add.
        kube::Error::Service(cause) => in_full(&**cause),
        other => in_full(other),
    }
}

/// An error with what caused it, said once: clients wrap each other's errors.
#[must_use]
pub fn in_full(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
