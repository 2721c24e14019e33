//! As much HTTP as health checks and metrics need: a listening socket, a function that answers,
//! and an end of both.
//!
//! Promises: an address that was given up is free when [`Server::close`] returns; whoever
//! connects and says nothing is not waited for (hyper closes after 30 s); and no number of clients
//! takes more than 128 file descriptors for each server from an agent that has better use for
//! them.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    header::{self, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt::Ipv6V6Only};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::sleep,
};
use tracing::debug;

/// Connections that one server holds at a time; further ones wait.
const MAX_CONNECTIONS: usize = 128;
/// Connections that the kernel holds for a server that is busy.
const BACKLOG: u32 = 128;
/// After the kernel refused to hand out a connection (no file descriptor was left, say).
const AFTER_A_REFUSAL: Duration = Duration::from_millis(100);

/// An answer.
pub type Response = hyper::Response<Full<Bytes>>;

/// An answer that may take its time.
pub type Answer = Pin<Box<dyn Future<Output = Response> + Send>>;

/// What answers: it gets the path that is asked for.
pub type Handler = Arc<dyn Fn(&str) -> Answer + Send + Sync>;

/// Something that listens and answers. Dropping it ends it and its connections, soon.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Listens at an address (port 0: one that is free) and answers each request.
    ///
    /// The unspecified address of either family means every address of both, as with kube-proxy.
    ///
    /// # Errors
    /// The kernel's, as for an address that is taken.
    pub fn start(address: SocketAddr, handler: Handler) -> io::Result<Self> {
        let listener = listen(address)?;
        Ok(Self {
            address: listener.local_addr()?,
            task: tokio::spawn(accept(listener, handler)),
        })
    }

    /// Where it really listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it and its connections, and waits until its address is free.
    pub async fn close(mut self) {
        self.task.abort();
        // It ends as cancelled, which is what was asked for.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let port = address.port();
    if !address.ip().is_unspecified() {
        return bind(address, false);
    }
    match bind((Ipv6Addr::UNSPECIFIED, port).into(), true) {
        // A kernel without IPv6.
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            bind((Ipv4Addr::UNSPECIFIED, port).into(), false)
        }
        outcome => outcome,
    }
}

fn bind(address: SocketAddr, is_for_both_families: bool) -> io::Result<TcpListener> {
    let socket = match address.ip() {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // An agent that was restarted listens where its predecessor's connections still linger.
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() {
        setsockopt(&socket, Ipv6V6Only, &!is_for_both_families)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(listener: TcpListener, handler: Handler) {
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

async fn serve(stream: TcpStream, handler: &Handler) {
    let service = service_fn(async |request: Request<Incoming>| {
        Ok::<_, Infallible>(handler(request.uri().path()).await)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        debug!(%error, "a connection ended badly");
    }
}

/// A handler whose answers are there at once.
pub fn at_once(answer: impl Fn(&str) -> Response + Send + Sync + 'static) -> Handler {
    Arc::new(move |path| Box::pin(std::future::ready(answer(path))))
}

/// An answer whose type nobody is to guess from its content.
#[must_use]
pub fn response(status: StatusCode, content_type: &'static str, body: String) -> Response {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// The answer with a number in a further header.
#[must_use]
pub fn with_number(mut response: Response, name: &'static str, number: usize) -> Response {
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static(name), HeaderValue::from(number));
    response
}

/// The answer at a path that there is not, in the words of Go's servers.
#[must_use]
pub fn not_found() -> Response {
    response(
        StatusCode::NOT_FOUND,
        PLAIN_TEXT,
        "404 page not found\n".to_owned(),
    )
}

/// Text for people.
pub const PLAIN_TEXT: &str = "text/plain; charset=utf-8";
/// JSON.
pub const JSON: &str = "application/json";
