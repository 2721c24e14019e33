//! The agent's Unix socket, `weir.sock` in the run directory: HTTP for `weir policy` and
//! `weir flow watch`.
//!
//! Promises: only root may connect (mode 0600); whoever connects and says nothing is not waited for
//! (hyper closes after 30 s); no number of clients takes more than 64 file
//! descriptors; and the socket that stands at the path is always one that answers, or nobody's.
//! What is answered is [`socket_routes`](super::socket_routes)' business.

use std::{
    convert::Infallible,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures_util::Stream;
use http_body_util::{BodyExt as _, Either, Full, Limited, StreamBody};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Frame, Incoming},
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::sleep,
};
use tracing::debug;

use super::http::{JSON, PLAIN_TEXT};

/// Connections that are served at a time; further ones wait.
const MAX_CONNECTIONS: usize = 64;
/// Bytes of a question: manifests of a large cluster are some megabytes.
const MAX_QUESTION: usize = 64 << 20;
/// After the kernel refused to hand out a connection (no file descriptor was left, say).
const AFTER_A_REFUSAL: Duration = Duration::from_millis(100);

/// Lines that come as they happen.
pub type Lines = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;

/// An answer, whole or as it happens.
pub type Response = hyper::Response<Either<Full<Bytes>, StreamBody<Lines>>>;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// `GET` or `POST`, mostly.
    pub method: Method,
    /// The path.
    pub path: String,
    /// What stands behind the question mark.
    pub query: String,
    /// The body.
    pub body: Bytes,
}

/// What answers.
pub type Handler =
    Arc<dyn Fn(Question) -> Pin<Box<dyn Future<Output = Response> + Send>> + Send + Sync>;

/// The socket. Dropping it ends it and its connections.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    task: JoinHandle<()>,
}

/// Where the agent of a run directory answers.
#[must_use]
pub fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("weir.sock")
}

impl Socket {
    /// Listens and answers. What an earlier agent left there is replaced; the caller holds the
    /// agent's lock.
    ///
    /// # Errors
    /// The socket cannot be made; it says which.
    pub fn open(run_dir: &Path, handler: Handler) -> Result<Self> {
        let path = path(run_dir);
        // Made beside its place: whoever finds it finds it with its mode.
        let beside = path.with_extension("sock.new");
        let make = || -> Result<UnixListener> {
            if let Err(error) = fs::remove_file(&beside)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                return Err(error.into());
            }
            let listener = UnixListener::bind(&beside)?;
            fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
            fs::rename(&beside, &path)?;
            Ok(listener)
        };
        let listener = make().with_context(|| format!("listen at {}", path.display()))?;
        Ok(Self {
            path,
            task: tokio::spawn(accept(listener, handler)),
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.task.abort();
        if let Err(error) = fs::remove_file(&self.path) {
            debug!(%error, path = %self.path.display(), "the socket is gone already");
        }
    }
}

async fn accept(listener: UnixListener, handler: Handler) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // They end with this task.
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let handler = Arc::clone(&handler);
                connections.spawn(async move {
                    serve(stream, &handler).await;
                    drop(place);
                });
            }
            Err(error) => {
                debug!(%error, "no connection could be accepted");
                sleep(AFTER_A_REFUSAL).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: UnixStream, handler: &Handler) {
    let service = service_fn(async |request: Request<Incoming>| {
        let (head, body) = request.into_parts();
        let answer = match Limited::new(body, MAX_QUESTION).collect().await {
            Ok(body) => {
                let question = Question {
                    method: head.method,
                    path: head.uri.path().to_owned(),
                    query: head.uri.query().unwrap_or_default().to_owned(),
                    body: body.to_bytes(),
                };
                handler(question).await
            }
            Err(error) => text(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the question cannot be read: {error}\n"),
            ),
        };
        Ok::<_, Infallible>(answer)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        debug!(%error, "a connection ended badly");
    }
}

/// A sentence.
#[must_use]
pub fn text(status: StatusCode, body: String) -> Response {
    whole(status, PLAIN_TEXT, body)
}

/// A value.
#[must_use]
pub fn json(value: &impl serde::Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(body) => whole(StatusCode::OK, JSON, body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn whole(status: StatusCode, content_type: &'static str, body: String) -> Response {
    answer(status, content_type, Either::Left(Full::from(body)))
}

/// One JSON value a line, as they come.
#[must_use]
pub fn lines(lines: Lines) -> Response {
    let body = Either::Right(StreamBody::new(lines));
    answer(StatusCode::OK, "application/jsonl", body)
}

fn answer(
    status: StatusCode,
    content_type: &'static str,
    body: Either<Full<Bytes>, StreamBody<Lines>>,
) -> Response {
    let mut response = hyper::Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
