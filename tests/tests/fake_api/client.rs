//! A server and a client, and what they talk about.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::{Stream, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{WatchEvent, WatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use weir_tests::fake_api::{FakeApi, Options};

/// Longest wait for something that has to come.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A server on loopback without TLS, with frequent bookmarks.
pub fn server() -> Result<FakeApi> {
    FakeApi::start(&Options {
        bookmark_interval: Duration::from_millis(20),
        ..Options::default()
    })
}

/// A client of it without a token.
pub fn client(api: &FakeApi) -> Result<Client> {
    let config = kube::Config::new(api.url().parse().context("its URL")?);
    Ok(Client::try_from(config)?)
}

/// Its pods.
pub fn pods(api: &FakeApi) -> Result<Api<Pod>> {
    Ok(Api::all(client(api)?))
}

/// A pod with a label.
pub fn pod(name: &str, app: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": app}},
        "spec": {"nodeName": "worker-0", "containers": []},
    })
}

/// The code of an answer that says no.
pub fn code<T>(answer: kube::Result<T>) -> Result<u16> {
    match answer {
        Ok(_) => anyhow::bail!("answered well"),
        Err(kube::Error::Api(status)) => Ok(status.code),
        Err(error) => Err(error.into()),
    }
}

/// Begins a watch from a version.
pub async fn watch(
    pods: &Api<Pod>,
    params: &WatchParams,
    version: &str,
) -> Result<impl Stream<Item = kube::Result<WatchEvent<Pod>>> + Unpin + use<>> {
    Ok(Box::pin(pods.watch(params, version).await?))
}

/// The next event, `None` at the stream's end.
pub async fn next(
    stream: &mut (impl Stream<Item = kube::Result<WatchEvent<Pod>>> + Unpin),
) -> Result<Option<WatchEvent<Pod>>> {
    let event = tokio::time::timeout(LIMIT, stream.try_next()).await;
    Ok(event.context("an event, in time")??)
}

/// As [`next`], without bookmarks, in words: `ADDED a`.
pub async fn next_change(
    stream: &mut (impl Stream<Item = kube::Result<WatchEvent<Pod>>> + Unpin),
) -> Result<String> {
    loop {
        let event = next(stream).await?.context("an event before the end")?;
        let (kind, pod) = match event {
            WatchEvent::Added(pod) => ("ADDED", pod),
            WatchEvent::Modified(pod) => ("MODIFIED", pod),
            WatchEvent::Deleted(pod) => ("DELETED", pod),
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(status) => return Ok(format!("ERROR {}", status.code)),
        };
        return Ok(format!("{kind} {}", pod.name_any()));
    }
}

/// The next bookmark's version and annotations.
pub async fn next_bookmark(
    stream: &mut (impl Stream<Item = kube::Result<WatchEvent<Pod>>> + Unpin),
) -> Result<(u64, BTreeMap<String, String>)> {
    loop {
        let event = next(stream).await?.context("an event before the end")?;
        if let WatchEvent::Bookmark(bookmark) = event {
            let metadata = bookmark.metadata;
            return Ok((metadata.resource_version.parse()?, metadata.annotations));
        }
    }
}
