//! What becomes of a request: the token, the faults, and who answers it.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, Response, StatusCode, Uri, header};
use axum::routing::get;
use axum::{Extension, Router};
use serde_json::Value;
use tokio::sync::watch;

use super::faults::{Chance, Cut, Faults, Refusal};
use super::resource::{Resource, Target};
use super::selector::query;
use super::status::{Status, json_response};
use super::store::Store;
use super::wire::Connection;
use super::{discovery, list, watches, write};

/// Largest object that a client may send: etcd's limit.
const LARGEST_OBJECT: usize = 1_500_000;

/// What all requests share.
#[derive(Debug)]
pub struct Server {
    store: Mutex<Store>,
    /// Tells watches that there is something new.
    versions: watch::Sender<u64>,
    faults: watch::Sender<Faults>,
    chance: Mutex<Chance>,
    /// How often connections were cut, and how the last time.
    cuts: watch::Sender<(u64, Option<Cut>)>,
    /// Valid tokens; `None` where nobody needs one.
    tokens: Mutex<Option<BTreeSet<String>>>,
    requests: Mutex<Vec<Asked>>,
    /// How often watches that asked for bookmarks get one.
    pub(super) bookmark_interval: Duration,
}

/// A request that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `GET`, …
    pub method: String,
    /// With its query, as it was sent.
    pub uri: String,
    /// What it asks for: `list`, `watch`, `get`, `create`, `update`, `patch`, `delete`.
    pub verb: &'static str,
    /// The kind, where it asks for one.
    pub resource: Option<Resource>,
    /// The status of the answer.
    pub code: u16,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    pub(super) fn new(seed: u64, bookmark_interval: Duration) -> Self {
        let store = Store::default();
        Self {
            versions: watch::Sender::new(store.version()),
            store: Mutex::new(store),
            faults: watch::Sender::new(Faults::default()),
            chance: Mutex::new(Chance::new(seed)),
            cuts: watch::Sender::new((0, None)),
            tokens: Mutex::new(None),
            requests: Mutex::default(),
            bookmark_interval,
        }
    }

    /// Works on the objects, and tells watches.
    pub(super) fn change<T>(&self, work: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = locked(&self.store);
        let result = work(&mut store);
        let version = store.version();
        drop(store);
        self.versions.send_replace(version);
        result
    }

    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        locked(&self.store)
    }

    pub(super) fn versions(&self) -> watch::Receiver<u64> {
        self.versions.subscribe()
    }

    pub(super) const fn faults(&self) -> &watch::Sender<Faults> {
        &self.faults
    }

    pub(super) const fn cuts(&self) -> &watch::Sender<(u64, Option<Cut>)> {
        &self.cuts
    }

    pub(super) fn requests(&self) -> Vec<Asked> {
        locked(&self.requests).clone()
    }

    /// Only these tokens are valid from now on.
    pub(super) fn set_tokens(&self, tokens: Option<BTreeSet<String>>) {
        *locked(&self.tokens) = tokens;
    }

    pub(super) fn chance<T>(&self, draw: impl FnOnce(&mut Chance) -> T) -> T {
        draw(&mut locked(&self.chance))
    }

    /// Takes one of a number of faults, if any is left.
    pub(super) fn take(&self, count: impl FnOnce(&mut Faults) -> &mut u32) -> bool {
        let mut is_taken = false;
        self.faults.send_if_modified(|faults| {
            is_taken = Faults::take(count(faults));
            is_taken
        });
        is_taken
    }

    fn is_authorized(&self, request: &Request) -> bool {
        let tokens = locked(&self.tokens);
        let Some(tokens) = &*tokens else {
            return true;
        };
        let value = request.headers().get(header::AUTHORIZATION);
        value
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .is_some_and(|token| tokens.contains(token))
    }
}

type Shared = std::sync::Arc<Server>;

/// The server's paths.
pub(super) fn router(server: Shared) -> Router {
    Router::new()
        .route("/version", get(guarded))
        .route("/api", get(guarded))
        .route("/apis", get(guarded))
        .fallback(guarded)
        .with_state(server)
}

async fn guarded(
    State(server): State<Shared>,
    Extension(connection): Extension<Connection>,
    request: Request,
) -> Response<Body> {
    if connection.is_over() {
        // A server that has left answers nobody.
        return std::future::pending().await;
    }
    let mut asked = asked(request.method(), request.uri());
    let answer = answer(&server, &connection, &asked, request).await;
    let response = answer.unwrap_or_else(|status| status.response());
    asked.code = response.status().as_u16();
    locked(&server.requests).push(asked);
    response
}

fn asked(method: &Method, uri: &Uri) -> Asked {
    let target = Target::parse(uri.path()).ok();
    let query = query(uri.query().unwrap_or_default());
    let is_named = target.as_ref().is_some_and(|it| it.name.is_some());
    let verb = match method.as_str() {
        "GET" if query.get("watch").is_some_and(|it| is_true(it)) => "watch",
        "GET" if is_named => "get",
        "GET" => "list",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        _ => "delete",
    };
    Asked {
        method: method.to_string(),
        uri: uri.to_string(),
        verb,
        resource: target.map(|it| it.resource),
        code: 0,
    }
}

pub(super) fn is_true(text: &str) -> bool {
    matches!(text, "true" | "1" | "True" | "TRUE" | "t" | "T")
}

async fn answer(
    server: &Shared,
    connection: &Connection,
    asked: &Asked,
    request: Request,
) -> Result<Response<Body>, Status> {
    let faults = server.faults().borrow().clone();
    if let Some(slowness) = &faults.slowness {
        tokio::time::sleep(server.chance(|it| it.within(slowness))).await;
    }
    if !server.is_authorized(&request) {
        return Err(Status::unauthorized());
    }
    if server.take(|faults| &mut faults.too_many) {
        let message = "too many requests, please try again later";
        return Err(Status {
            retry_after: Some(faults.retry_after),
            ..Status::new(429, "TooManyRequests", message)
        });
    }
    if server.chance(|it| it.is(faults.errors)) {
        let message = "Internal error occurred: etcdserver: leader changed";
        return Err(Status::new(500, "InternalError", message));
    }
    if request.method() == Method::GET
        && let Some(object) = discovery::answer(request.uri().path(), &faults)
    {
        return Ok(json_response(StatusCode::OK, &object));
    }
    let target = Target::parse(request.uri().path())?;
    match faults.refused.get(&target.resource) {
        Some(Refusal::Forbidden) => return Err(Status::forbidden(target.resource, asked.verb)),
        Some(Refusal::Unknown) => return Err(Status::no_such_path()),
        None => {}
    }
    match asked.verb {
        "watch" | "list" => {
            let parameters = query(request.uri().query().unwrap_or_default());
            if asked.verb == "watch" {
                watches::answer(server, connection, &target, &parameters)
            } else {
                let is_expired = parameters.contains_key("continue")
                    && server.take(|faults| &mut faults.expired_pages);
                let list = list::answer(&mut server.store(), &target, &parameters, is_expired)?;
                Ok(json_response(StatusCode::OK, &list))
            }
        }
        "get" => {
            let object = write::get(&server.store(), &target)?;
            Ok(json_response(StatusCode::OK, &object))
        }
        verb => {
            let body = axum::body::to_bytes(request.into_body(), LARGEST_OBJECT)
                .await
                .map_err(|error| Status::bad_request(error.to_string()))?;
            let object: Option<Value> = match body.is_empty() {
                true => None,
                false => Some(
                    serde_json::from_slice(&body)
                        .map_err(|error| Status::bad_request(error.to_string()))?,
                ),
            };
            let (code, object) =
                server.change(|store| write::write(store, verb, &target, object))?;
            Ok(json_response(code, &object))
        }
    }
}
