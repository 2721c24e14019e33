//! Watches: what happens to a kind, line by line, from a version on.
//!
//! A watch follows the store's history; what the faults say is done to each event on its way. Its
//! version is that of the last event or bookmark that it told, so whoever goes on from there
//! misses nothing.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Response, header};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at, sleep, sleep_until};

use super::faults::{Cut, Expiry};
use super::list::{selectors, version_of};
use super::resource::{Resource, Target};
use super::selector::Selectors;
use super::server::{Server, is_true};
use super::status::Status;
use super::store::Event;
use super::wire::{Connection, Hangup};

/// What is asked for.
struct Query {
    selectors: Selectors,
    /// `None`, and zero: from what is there now.
    version: Option<u64>,
    wants_bookmarks: bool,
    /// `sendInitialEvents`
    initial: Option<bool>,
    timeout: Option<Duration>,
}

/// A watch that runs.
struct Watch {
    server: Arc<Server>,
    connection: Connection,
    target: Target,
    selectors: Selectors,
    wants_bookmarks: bool,
    /// All up to here was told, or is of no interest.
    version: u64,
    /// How often watches had been cut when it began.
    cuts: u64,
    lines: mpsc::Sender<Bytes>,
}

/// The reader is gone, or the answer is to end.
struct Ended;

/// Begins a watch.
pub(super) fn answer(
    server: &Arc<Server>,
    connection: &Connection,
    target: &Target,
    parameters: &BTreeMap<String, String>,
) -> Result<Response<Body>, Status> {
    let query = Query::read(target, parameters)?;
    if query.initial.is_some() && server.faults().borrow().has_no_streams {
        return Err(Status::invalid(
            "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
        ));
    }
    let (lines, receiver) = mpsc::channel(16);
    // Before anything is looked at, so that nothing is missed.
    let cuts = server.cuts().subscribe();
    let deadline = query.timeout.map(|timeout| Instant::now() + timeout);
    let mut watch = Watch {
        server: Arc::clone(server),
        connection: connection.clone(),
        target: target.clone(),
        selectors: query.selectors.clone(),
        wants_bookmarks: query.wants_bookmarks,
        version: 0,
        cuts: cuts.borrow().0,
        lines,
    };
    match watch.begin(&query) {
        Ok(first) => {
            tokio::spawn(watch.run(first, cuts, deadline));
        }
        Err(status) if server.faults().borrow().expiry == Expiry::Event && status.code == 410 => {
            let line = line("ERROR", &status.object());
            // The channel is new and has room.
            let _ = watch.lines.try_send(line);
        }
        Err(status) => return Err(status),
    }
    let body = stream::unfold(receiver, async |mut receiver| {
        let line = receiver.recv().await?;
        Some((Ok::<_, io::Error>(line), receiver))
    });
    let mut response = Response::new(Body::from_stream(body));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

impl Query {
    fn read(target: &Target, parameters: &BTreeMap<String, String>) -> Result<Self, Status> {
        let given = |name| {
            let text = parameters.get(name).map(String::as_str);
            text.filter(|text| !text.is_empty())
        };
        let initial = given("sendInitialEvents").map(is_true);
        match (initial, given("resourceVersionMatch")) {
            (Some(_), Some("NotOlderThan")) | (None, None) => {}
            (Some(_), _) => {
                return Err(Status::invalid(
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ));
            }
            (None, Some(_)) => {
                return Err(Status::invalid(
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is \
                     provided",
                ));
            }
        }
        let seconds = given("timeoutSeconds").map(|text| {
            let seconds = text.parse();
            seconds.map_err(|_| Status::bad_request(format!("{text:?} is not a time")))
        });
        Ok(Self {
            selectors: selectors(target, parameters)?,
            version: given("resourceVersion").map(version_of).transpose()?,
            wants_bookmarks: given("allowWatchBookmarks").is_some_and(is_true),
            initial,
            timeout: seconds.transpose()?.map(Duration::from_secs),
        })
    }
}

impl Watch {
    /// Where it goes on from, and what it tells before that.
    fn begin(&mut self, query: &Query) -> Result<Vec<Bytes>, Status> {
        let from = query.version.filter(|version| *version != 0);
        let is_expired = from.is_some()
            && query.initial != Some(true)
            && self.server.take(|faults| &mut faults.expired_watches);
        let store = self.server.store();
        if from.is_some_and(|from| from > store.version()) && query.initial == Some(true) {
            return Err(Status::too_large(from.unwrap_or(0), store.version()));
        }
        let wants_objects = query.initial.unwrap_or(from.is_none());
        if !wants_objects {
            self.version = from.unwrap_or(store.version());
            return if self.version < store.oldest() || is_expired {
                Err(Status::too_old(self.version, store.oldest()))
            } else {
                Ok(Vec::new())
            };
        }
        self.version = store.version();
        let objects = store.objects(self.target.resource);
        drop(store);
        let namespace = self.target.namespace.as_ref();
        let mut lines: Vec<Bytes> = objects
            .iter()
            .filter(|(key, _)| namespace.is_none_or(|it| *it == key.0))
            .filter(|(_, object)| self.selectors.select(object))
            .map(|(_, object)| line("ADDED", object))
            .collect();
        if query.initial == Some(true) && query.wants_bookmarks {
            let annotations = json!({"k8s.io/initial-events-end": "true"});
            lines.push(self.bookmark(Some(annotations)));
        }
        Ok(lines)
    }

    async fn run(
        mut self,
        first: Vec<Bytes>,
        mut cuts: tokio::sync::watch::Receiver<(u64, Option<Cut>)>,
        deadline: Option<Instant>,
    ) {
        let (lines, connection) = (self.lines.clone(), self.connection.clone());
        let cut = async {
            // The server lives as long as its watches.
            let _ = cuts.changed().await;
            cuts.borrow().1
        };
        let over = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = lines.closed() => {}
            cut = cut => match cut {
                None | Some(Cut::End) => {}
                // The answer must not end well meanwhile.
                Some(Cut::Close) => {
                    connection.hang_up(Hangup::Close);
                    lines.closed().await;
                }
                Some(Cut::Reset) => {
                    connection.hang_up(Hangup::Reset);
                    lines.closed().await;
                }
                Some(Cut::Silence) => lines.closed().await,
            },
            () = over => {}
            _ = self.follow(first) => {}
        }
    }

    async fn follow(&mut self, first: Vec<Bytes>) -> Result<(), Ended> {
        for line in first {
            self.send(line).await?;
        }
        let mut versions = self.server.versions();
        let mut faults = self.server.faults().subscribe();
        let pause = self.server.bookmark_interval;
        let mut bookmarks = interval_at(Instant::now() + pause, pause);
        loop {
            // What changes from here on is looked at the next time.
            versions.borrow_and_update();
            let delay = faults.borrow_and_update().delay.clone();
            if let Some(delay) = &delay
                && self.has_news()
            {
                sleep(self.server.chance(|it| it.within(delay))).await;
            }
            // A watch that is too far behind is ended, as a real server does it.
            let (events, version) = self.news().ok_or(Ended)?;
            // After the news: what happens after events are held is not among them.
            if !self.server.faults().borrow().holds_events {
                self.tell(events, version).await?;
            }
            tokio::select! {
                _ = versions.changed() => {}
                _ = faults.changed() => {}
                _ = bookmarks.tick(), if self.wants_bookmarks => {
                    self.send(self.bookmark(None)).await?;
                }
            }
        }
    }

    fn has_news(&self) -> bool {
        self.news().is_none_or(|(events, _)| !events.is_empty())
    }

    /// What is to be told, each with its version, and the version up to which that is all.
    fn news(&self) -> Option<(Vec<(u64, Event)>, u64)> {
        let store = self.server.store();
        let (changes, version) = store.changes_after(self.target.resource, self.version)?;
        drop(store);
        let namespace = self.target.namespace.as_deref();
        let events = changes.iter().filter_map(|change| {
            let event = change.event(namespace, &self.selectors)?;
            Some((change.version, event))
        });
        Some((events.collect(), version))
    }

    async fn tell(&mut self, events: Vec<(u64, Event)>, version: u64) -> Result<(), Ended> {
        for (version, event) in events {
            let line = line(event.kind, &event.object);
            if self.server.take(|faults| &mut faults.truncated) {
                self.send(line.slice(..line.len() / 2)).await?;
                return Err(Ended);
            }
            let duplicates = self.server.faults().borrow().duplicates;
            if self.server.chance(|it| it.is(duplicates)) {
                self.send(line.clone()).await?;
            }
            if self.server.faults().borrow().splits_lines {
                let middle = line.len() / 2;
                self.send(line.slice(..middle)).await?;
                tokio::task::yield_now().await;
                self.send(line.slice(middle..)).await?;
            } else {
                self.send(line).await?;
            }
            self.version = version;
        }
        self.version = version;
        Ok(())
    }

    async fn send(&self, line: Bytes) -> Result<(), Ended> {
        // What happens after a cut is not told, even where this task was at work meanwhile.
        if self.server.cuts().borrow().0 != self.cuts {
            std::future::pending::<()>().await;
        }
        self.lines.send(line).await.map_err(|_| Ended)
    }

    fn bookmark(&self, annotations: Option<Value>) -> Bytes {
        let mut object = empty(self.target.resource);
        object["kind"] = json!(self.target.resource.kind());
        object["apiVersion"] = json!(self.target.resource.api_version());
        object["metadata"] = json!({
            "resourceVersion": self.version.to_string(),
            "creationTimestamp": null,
        });
        if let Some(annotations) = annotations {
            object["metadata"]["annotations"] = annotations;
        }
        line("BOOKMARK", &object)
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    let mut text = json!({"type": kind, "object": object}).to_string();
    text.push('\n');
    text.into()
}

/// What an object of a kind is when nobody has filled it in: bookmarks are such, and not valid.
fn empty(resource: Resource) -> Value {
    match resource {
        Resource::Services => json!({"spec": {}, "status": {"loadBalancer": {}}}),
        Resource::Pods => json!({"spec": {"containers": null}, "status": {}}),
        Resource::EndpointSlices => json!({"addressType": "", "endpoints": null, "ports": null}),
        Resource::Nodes => json!({
            "spec": {},
            "status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 0}}, "nodeInfo": {}},
        }),
        Resource::NetworkPolicies => json!({"spec": {"podSelector": {}}}),
        Resource::Namespaces | Resource::ServiceCidrs => json!({"spec": {}, "status": {}}),
        Resource::Endpoints | Resource::CoreEvents | Resource::Events => json!({}),
    }
}
