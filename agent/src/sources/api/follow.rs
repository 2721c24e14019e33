//! One kind of object, listed and watched without end.
//!
//! The list comes as a stream where the API server has that (`sendInitialEvents`), so that neither
//! side holds all of it as text, and else in pages. After it the watch goes on from where it was
//! interrupted, and only where the API server has forgotten that place (410) is everything listed
//! again.
//!
//! What is heard at once is told at once, and how often it is listened while changes do not cease to
//! come is the connection's business.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{AsyncBufReadExt as _, FutureExt as _, StreamExt as _};
use kube::{
    Client,
    api::{ListParams, Request, WatchParams},
};
use tokio::{
    sync::mpsc,
    task::yield_now,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{
    Freshness, Resource, Server,
    backoff::Backoff,
    fault::Fault,
    merge::News,
    protocol::{self, Heard, Line, Told},
    resources::Need,
};
use crate::{
    model::{Kind, ObjectRef},
    observe::status::SourceState,
};

/// Objects of a page.
const PAGE: u32 = 500;
/// Lines of a watch that are told together at most.
const AT_ONCE: usize = 1024;
/// An answer that has not begun by then does not come.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);
/// A page that is not complete by then never will be.
const PAGE_PATIENCE: Duration = Duration::from_secs(60);
/// By how much the API server may be late to end a watch before the connection counts as dead.
const END_PATIENCE: Duration = Duration::from_secs(10);
/// Within a list that comes as a stream nothing keeps the API server from going on.
const STREAM_PATIENCE: Duration = Duration::from_secs(30);
/// A watch that ends sooner is no good.
const SHORT: Duration = Duration::from_secs(1);
/// So many refusals in a row are meant. An API server that has just started may refuse what its
/// roles allow before it has read them.
const REFUSALS: u32 = 3;
/// After so many answers in a row that cannot be read from the same place, everything is listed.
const GARBLED: u32 = 3;

/// Follows one kind.
pub struct Follower {
    resource: &'static Resource,
    fields: Option<String>,
    server: Arc<Server>,
    news: mpsc::Sender<(Kind, News)>,
    freshness: Freshness,
    /// Up to where everything is known; `None`: a list is needed.
    version: Option<String>,
    /// Does the API server stream lists? Until it says that it does not.
    has_streams: bool,
    page: Option<u32>,
    was_listed: bool,
    names: Names,
    backoff: Backoff,
    /// How often it was forgotten where the watch was, without a word of it in between.
    forgotten: Backoff,
    refusals: u32,
    garbled: u32,
    /// What was last complained of.
    complaint: Option<String>,
}

impl Follower {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(
        resource: &'static Resource,
        node: &str,
        server: Arc<Server>,
        news: mpsc::Sender<(Kind, News)>,
        freshness: Freshness,
    ) -> Self {
        Self {
            resource,
            fields: resource
                .is_own_node
                .then(|| format!("metadata.name={node}")),
            server,
            news,
            freshness,
            version: None,
            has_streams: true,
            page: Some(PAGE),
            was_listed: false,
            names: Names::default(),
            backoff: Backoff::default(),
            forgotten: Backoff::default(),
            refusals: 0,
            garbled: 0,
            complaint: None,
        }
    }

    /// Lists and watches until nobody listens.
    pub async fn run(mut self) {
        if let Need::InsteadOf(other) = self.resource.need {
            self.wait_for_absence(other).await;
        }
        self.freshness.listing(self.resource.kind);
        while !self.news.is_closed() {
            if let Err(fault) = self.turn().await {
                let wait = self.failed(fault).await;
                sleep(wait).await;
            }
        }
    }

    async fn wait_for_absence(&self, other: Kind) {
        let mut changes = self.freshness.changes();
        while self.freshness.state(other) != Some(SourceState::Absent) {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// One list, or one watch to its end.
    async fn turn(&mut self) -> Result<(), Fault> {
        let connection = self.server.connection().await;
        let connection = connection.map_err(|error| Fault::Nobody(format!("{error:#}")))?;
        let result = match self.version.clone() {
            None if self.has_streams => self.watch(&connection.client, None).await,
            None => self.list(&connection.client).await,
            Some(version) => self.watch(&connection.client, Some(version)).await,
        };
        if let Err(Fault::Unreachable(_) | Fault::Unauthorized(_)) = &result {
            self.server.renounce(&connection).await;
        }
        result
    }

    async fn list(&mut self, client: &Client) -> Result<(), Fault> {
        let mut objects = Vec::new();
        let mut params = ListParams {
            label_selector: self.resource.labels.map(str::to_owned),
            field_selector: self.fields.clone(),
            limit: self.page,
            ..ListParams::default()
        };
        loop {
            let request = Request::new(self.resource.path()).list(&params);
            let request = request.map_err(|error| Fault::Garbled(error.to_string()))?;
            let text = match timeout(PAGE_PATIENCE, client.request_text(request)).await {
                Ok(answer) => answer.map_err(Fault::from),
                Err(_) => Err(Fault::late(PAGE_PATIENCE)),
            };
            if let Err(Fault::Expired(_)) = &text
                && params.continue_token.is_some()
            {
                // The list is longer than the API server's memory: next time in one piece.
                self.page = None;
            }
            let page = protocol::page(self.resource.kind, &text?)
                .map_err(|error| Fault::Garbled(error.to_string()))?;
            objects.extend(page.objects);
            params.continue_token = page.next;
            if params.continue_token.is_none() {
                let version = page.version;
                let version = version.ok_or(Fault::Garbled("a list without version".to_owned()))?;
                self.page = Some(PAGE);
                self.listed(objects, version).await;
                return Ok(());
            }
        }
    }

    /// Watches from a version, or from nothing: then the list comes first.
    async fn watch(&mut self, client: &Client, from: Option<String>) -> Result<(), Fault> {
        // Up to a fifth more, so that not all end at once.
        let least = self.server.watch_seconds();
        let seconds = fastrand::u32(least..=least + least / 5);
        let params = WatchParams {
            label_selector: self.resource.labels.map(str::to_owned),
            field_selector: self.fields.clone(),
            timeout: Some(seconds),
            bookmarks: true,
            send_initial_events: from.is_none(),
        };
        let request = Request::new(self.resource.path());
        let request = request.watch(&params, from.as_deref().unwrap_or_default());
        let request = request.map_err(|error| Fault::Garbled(error.to_string()))?;
        let start = Instant::now();
        let answer = match timeout(ANSWER_PATIENCE, client.request_stream(request)).await {
            Ok(answer) => answer.map_err(Fault::from),
            Err(_) => Err(Fault::late(ANSWER_PATIENCE)),
        };
        let stream = match answer {
            Err(Fault::Refused(why)) if from.is_none() => {
                debug!(kind = %self.resource.kind, "lists are not streamed: {why}");
                self.has_streams = false;
                return Ok(());
            }
            // A version that is no version to it was given by an API server before this one.
            Err(Fault::Refused(why)) => return Err(Fault::Expired(why)),
            answer => answer?,
        };
        let mut listing = from.is_none().then(Vec::new);
        if listing.is_none() {
            self.synced();
        }
        let mut lines = Box::pin(stream).lines().ready_chunks(AT_ONCE);
        let mut was_told = false;
        loop {
            let patience = match listing {
                Some(_) => STREAM_PATIENCE,
                None => Duration::from_secs(seconds.into()) + END_PATIENCE,
            };
            let mut told = match timeout(patience, lines.next()).await {
                Ok(Some(told)) => told,
                Ok(None) => break,
                Err(_) => {
                    self.has_streams &= listing.is_none();
                    return Err(Fault::late(patience));
                }
            };
            was_told = true;
            // The connection hands out what came together piece by piece: whenever one was taken
            // the next is there once it has had its turn.
            while told.len() < AT_ONCE {
                yield_now().await;
                match lines.next().now_or_never() {
                    Some(Some(more)) => told.extend(more),
                    Some(None) | None => break,
                }
            }
            self.hear(told, &mut listing).await?;
        }
        if listing.is_some() {
            return Err(Fault::Cut(
                "the list ended before it was complete".to_owned(),
            ));
        }
        if !was_told && start.elapsed() < SHORT {
            return Err(Fault::Cut("the watch ended at once".to_owned()));
        }
        Ok(())
    }

    /// Takes in lines that came together. What is before a fault counts.
    async fn hear(
        &mut self,
        lines: Vec<std::io::Result<String>>,
        listing: &mut Option<Vec<Heard>>,
    ) -> Result<(), Fault> {
        let mut told = match listing {
            Some(_) => Vec::new(),
            None => Vec::with_capacity(lines.len()),
        };
        let mut result = Ok(());
        for line in lines {
            let line = match line {
                Ok(line) => line,
                Err(error) => {
                    result = Err(Fault::Unreachable(super::server::in_full(&error)));
                    break;
                }
            };
            if line.is_empty() {
                continue;
            }
            let is_watching = listing.is_none();
            match protocol::line(self.resource.kind, &line) {
                Ok(Line::Told(change, version)) => match listing {
                    Some(listing) => add(listing, change),
                    None => {
                        self.names.note(&change);
                        self.version = version.or(self.version.take());
                        told.push(change);
                    }
                },
                Ok(Line::Bookmark { version, ends_list }) => match listing.take() {
                    Some(objects) if ends_list => {
                        self.listed(objects, version).await;
                        self.synced();
                    }
                    unfinished @ Some(_) => *listing = unfinished,
                    None => self.version = Some(version),
                },
                Ok(Line::Fault(status)) => {
                    result = Err(Fault::from(*status));
                    break;
                }
                Err(error) => {
                    result = Err(Fault::Garbled(error));
                    break;
                }
            }
            self.garbled = 0;
            self.backoff.reset();
            if is_watching {
                self.forgotten.reset();
            }
        }
        if !told.is_empty() {
            self.tell(News::Changed(told)).await;
        }
        if listing.is_none() {
            let version = self.version.as_deref();
            self.freshness
                .heard(self.resource.kind, self.names.len(), version);
            if self.fields.is_some() && result.is_ok() {
                self.synced();
            }
        }
        result
    }

    async fn listed(&mut self, objects: Vec<Heard>, version: String) {
        let kind = self.resource.kind;
        self.names = objects
            .iter()
            .filter_map(|it| it.reference.as_ref())
            .collect();
        if std::mem::replace(&mut self.was_listed, true) {
            self.freshness.listed_again(kind);
        }
        debug!(%kind, objects = objects.len(), version, "listed");
        if let Some(oddity) = self.oddity() {
            warn!("{oddity}");
        }
        self.freshness.listed(kind, self.names.len(), &version);
        self.version = Some(version);
        self.refusals = 0;
        self.garbled = 0;
        self.backoff.reset();
        self.tell(News::Listed(objects)).await;
    }

    fn synced(&mut self) {
        if self.complaint.take().is_some() {
            info!(kind = %self.resource.kind, "the API server tells of it again");
        }
        self.refusals = 0;
        self.freshness.synced(self.resource.kind, self.oddity());
    }

    /// An agent under another name than its node's takes no pod for its own.
    fn oddity(&self) -> Option<String> {
        let fields = self.fields.as_deref()?;
        let is_missing = self.names.len() == 0;
        is_missing.then(|| {
            format!(
                "there is no Node with {fields}; if it has another name, give the agent that as \
                 --node-name"
            )
        })
    }

    /// Says what is wrong, and gives how long to wait.
    async fn failed(&mut self, fault: Fault) -> Duration {
        let has_forgotten = matches!(fault, Fault::Expired(_)) && self.version.take().is_some();
        let backoff = if has_forgotten {
            // It answers: what failed before is over. One that has just started has forgotten
            // everything, and is not to be kept waiting for as long as it was away.
            self.backoff.reset();
            &mut self.forgotten
        } else {
            &mut self.backoff
        };
        let mut wait = backoff.next(fastrand::f64());
        let is_first = backoff.failures() == 1;
        let mut state = SourceState::Failing;
        match &fault {
            // Nobody is to blame, the first time.
            Fault::Expired(_) if has_forgotten && is_first => wait = Duration::ZERO,
            Fault::Forbidden(_) => {
                state = SourceState::Forbidden;
                self.refusals += 1;
                if self.refusals == REFUSALS {
                    self.tell(News::Forbidden).await;
                }
            }
            Fault::Absent(_) => {
                state = SourceState::Absent;
                self.tell(News::Absent).await;
            }
            Fault::Garbled(_) => {
                self.garbled += 1;
                if self.garbled >= GARBLED {
                    self.version = None;
                }
            }
            Fault::Busy(_, until) => wait = wait.max(*until),
            Fault::Nobody(_)
            | Fault::Unreachable(_)
            | Fault::Unauthorized(_)
            | Fault::Refused(_)
            | Fault::Expired(_)
            | Fault::Cut(_) => {}
        }
        let complaint = fault.explain(self.resource);
        if fault.is_passing() && self.was_listed && is_first {
            debug!(kind = %self.resource.kind, "{complaint}");
            self.freshness
                .interrupted(self.resource.kind, fault.reason());
            return wait;
        }
        self.complain(&fault, &complaint);
        self.freshness
            .failed(self.resource.kind, state, fault.reason(), complaint);
        wait
    }

    /// The same complaint is made once.
    fn complain(&mut self, fault: &Fault, complaint: &str) {
        if self.complaint.as_deref() == Some(complaint) {
            return;
        }
        let kind = self.resource.kind;
        match fault {
            Fault::Nobody(_) => debug!(%kind, "{complaint}"),
            Fault::Absent(_) => info!(%kind, "{complaint}"),
            Fault::Unreachable(_)
            | Fault::Unauthorized(_)
            | Fault::Forbidden(_)
            | Fault::Expired(_)
            | Fault::Refused(_)
            | Fault::Busy(..)
            | Fault::Cut(_)
            | Fault::Garbled(_) => warn!(%kind, "{complaint}"),
        }
        self.complaint = Some(complaint.to_owned());
    }

    async fn tell(&self, news: News) {
        // Nobody listens any more: the agent is about to end.
        self.news.send((self.resource.kind, news)).await.ok();
    }
}

fn add(listing: &mut Vec<Heard>, change: Told) {
    match change {
        Told::Put(heard) => listing.push(heard),
        Told::Gone(reference) => {
            listing.retain(|heard| heard.reference.as_ref() != Some(&reference));
        }
    }
}

/// Which objects there are, to count them: eight bytes for each. Two of the same number, which is
/// one case in 2^64, are counted as one.
#[derive(Debug, Default)]
struct Names {
    hasher: RandomState,
    names: HashSet<u64>,
}

impl Names {
    fn note(&mut self, told: &Told) {
        match told {
            Told::Put(heard) => {
                if let Some(reference) = &heard.reference {
                    self.names.insert(self.hasher.hash_one(name(reference)));
                }
            }
            Told::Gone(reference) => {
                self.names.remove(&self.hasher.hash_one(name(reference)));
            }
        }
    }

    fn len(&self) -> usize {
        self.names.len()
    }
}

fn name(reference: &ObjectRef) -> (&str, &str) {
    (&reference.namespace, &reference.name)
}

impl<'a> FromIterator<&'a ObjectRef> for Names {
    fn from_iter<I: IntoIterator<Item = &'a ObjectRef>>(references: I) -> Self {
        let hasher = RandomState::new();
        let names = references.into_iter().map(|it| hasher.hash_one(name(it)));
        Self {
            names: names.collect(),
            hasher,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{observe::metrics::Metrics, sources::api::server::Access};

    /// One that has listed everything. Its API server is nowhere.
    fn follower() -> Follower {
        let metrics = Metrics::new();
        let access = Access {
            kubeconfig: None,
            api_server: None,
            service_account_dir: "/nowhere".into(),
            kubelet_kubeconfigs: Vec::new(),
            environment: (None, None),
            watch_seconds: 300,
        };
        let server = Server::new(access, metrics.rest_client.clone());
        let freshness = Freshness::new(metrics.sources.clone());
        let (news, _) = mpsc::channel(1);
        let resource = Resource::of(Kind::Service);
        let mut follower = Follower::new(resource, "n", server, news, freshness);
        follower.was_listed = true;
        follower.version = Some("7".to_owned());
        follower
    }

    fn state(follower: &Follower) -> Option<SourceState> {
        follower.freshness.state(Kind::Service)
    }

    #[tokio::test]
    async fn an_api_server_that_comes_back_and_has_forgotten_all_is_asked_at_once() {
        let mut follower = follower();
        for _ in 0..8 {
            let gone = Fault::Unreachable("connection refused".to_owned());
            follower.failed(gone).await;
        }
        assert_eq!(state(&follower), Some(SourceState::Failing));
        follower.synced();
        let forgotten = || Fault::Expired("too old resource version".to_owned());
        assert_eq!(follower.failed(forgotten()).await, Duration::ZERO);
        assert_eq!(follower.version, None, "everything is to be listed");
        assert_eq!(state(&follower), Some(SourceState::Synced));
    }

    #[tokio::test]
    async fn an_api_server_that_forgets_what_it_has_just_told_is_asked_ever_less() {
        let mut follower = follower();
        let mut waits = Vec::new();
        for _ in 0..6 {
            let forgotten = Fault::Expired("too old resource version".to_owned());
            waits.push(follower.failed(forgotten).await);
            follower.listed(Vec::new(), "8".to_owned()).await;
        }
        assert_eq!(waits[0], Duration::ZERO);
        // Each is at least as long as the one before at most.
        assert!(waits.is_sorted() && waits[5] > 4 * waits[1], "{waits:?}");
        assert_eq!(state(&follower), Some(SourceState::Failing));

        let bookmark = r#"{"type":"BOOKMARK","object":{"kind":"Service","apiVersion":"v1","metadata":{"resourceVersion":"9"}}}"#;
        follower
            .hear(vec![Ok(bookmark.to_owned())], &mut None)
            .await
            .unwrap();
        let forgotten = Fault::Expired("too old resource version".to_owned());
        assert_eq!(follower.failed(forgotten).await, Duration::ZERO);
    }
}
