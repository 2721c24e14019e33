//! Connections: accepted, with TLS or without, and ended as roughly as one likes.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::{Backlog, Shutdown, listen, setsockopt, shutdown, sockopt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Callers who wait to be accepted.
const BACKLOG: i32 = 128;
/// How often an address is looked for that nobody else takes meanwhile.
const TRIES: usize = 16;

/// How a connection ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hangup {
    /// Not yet.
    #[default]
    Never,
    /// With what TCP has for it, in the middle of an answer.
    Close,
    /// With a reset.
    Reset,
}

/// A client's connection.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    own: Arc<watch::Sender<Hangup>>,
    /// How often all were hung up on, and how the last time.
    all: watch::Receiver<(u64, Hangup)>,
    /// How often that had been when it was accepted.
    born: u64,
}

impl Connection {
    /// Ends it.
    pub(super) fn hang_up(&self, how: Hangup) {
        self.own.send_replace(how);
    }

    /// Was it hung up on, though nobody may have done it yet?
    pub(super) fn is_over(&self) -> bool {
        *self.own.borrow() != Hangup::Never || self.all.borrow().0 != self.born
    }

    /// How it ends, once it does.
    async fn over(self) -> Hangup {
        let (mut own, mut all) = (self.own.subscribe(), self.all);
        // Both senders outlive it, this one by itself and that one in the server.
        tokio::select! {
            how = own.wait_for(|how| *how != Hangup::Never) => {
                how.map_or(Hangup::Close, |how| *how)
            }
            how = all.wait_for(|(count, _)| *count != self.born) => {
                how.map_or(Hangup::Close, |all| all.1)
            }
        }
    }
}

/// Where the server is reached. The address stays taken while nobody listens there.
pub(super) struct Listening {
    socket: TcpListener,
    router: Router,
    tls: Option<TlsAcceptor>,
    runtime: Handle,
    accepting: Option<JoinHandle<()>>,
    /// How often all connections were hung up on, and how the last time.
    all: watch::Sender<(u64, Hangup)>,
}

/// A socket at this address; where its port is 0, at one that is free. The port is chosen by the
/// socket's owner in either case, so that it keeps it while it does not listen.
pub(super) fn bind(address: SocketAddr) -> Result<TcpListener> {
    if address.port() != 0 {
        return TcpListener::bind(address).with_context(|| format!("listen at {address}"));
    }
    let mut last = None;
    for _ in 0..TRIES {
        let free = TcpListener::bind(address).and_then(|probe| probe.local_addr());
        let free = free.with_context(|| format!("find a free port at {address}"))?;
        match TcpListener::bind(free) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = Some(error),
        }
    }
    let error = last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into());
    Err(error).with_context(|| format!("find a port that stays free at {address}"))
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listening")
            .field("socket", &self.socket)
            .field("is_secure", &self.tls.is_some())
            .field("is_accepting", &self.accepting.is_some())
            .finish_non_exhaustive()
    }
}

impl Listening {
    pub(super) fn start(
        socket: TcpListener,
        router: Router,
        tls: Option<TlsAcceptor>,
        runtime: Handle,
    ) -> Result<Self> {
        let mut listening = Self {
            socket,
            router,
            tls,
            runtime,
            accepting: None,
            all: watch::Sender::new((0, Hangup::Never)),
        };
        listening.accept()?;
        Ok(listening)
    }

    /// Nobody is accepted any more, and whoever was, is hung up on.
    pub(super) fn leave(&mut self, how: Hangup) -> Result<()> {
        let Some(accepting) = self.accepting.take() else {
            return Ok(());
        };
        accepting.abort();
        // A listening socket that is shut down refuses callers, and keeps its address.
        shutdown(self.socket.as_raw_fd(), Shutdown::Read).context("listen no more")?;
        self.all.send_modify(|(count, last)| {
            *count += 1;
            *last = how;
        });
        Ok(())
    }

    /// Accepts again.
    pub(super) fn come_back(&mut self) -> Result<()> {
        if self.accepting.is_some() {
            return Ok(());
        }
        let backlog = Backlog::new(BACKLOG).context("a backlog")?;
        listen(&self.socket, backlog).context("listen again")?;
        self.accept()
    }

    fn accept(&mut self) -> Result<()> {
        let socket = self.socket.try_clone().context("share the socket")?;
        socket.set_nonblocking(true)?;
        let _entered = self.runtime.enter();
        let socket = tokio::net::TcpListener::from_std(socket)?;
        let (router, tls, all) = (self.router.clone(), self.tls.clone(), self.all.subscribe());
        let born = all.borrow().0;
        self.accepting = Some(self.runtime.spawn(async move {
            // Ends when the socket is shut down.
            while let Ok((stream, _)) = socket.accept().await {
                let connection = Connection {
                    own: Arc::new(watch::Sender::new(Hangup::Never)),
                    all: all.clone(),
                    born,
                };
                tokio::spawn(serve(stream, router.clone(), tls.clone(), connection));
            }
        }));
        Ok(())
    }
}

/// Serves a connection to its end. Nobody is told of a failure but the client.
async fn serve(
    stream: TcpStream,
    router: Router,
    tls: Option<TlsAcceptor>,
    connection: Connection,
) {
    let Ok(socket) = stream.as_fd().try_clone_to_owned() else {
        return;
    };
    // Small lines are to arrive at once.
    let _ = stream.set_nodelay(true);
    let over = connection.clone().over();
    let router = router.layer(Extension(connection));
    let how = tokio::select! {
        biased;
        how = over => how,
        () = talk(stream, router, tls) => Hangup::Close,
    };
    if how == Hangup::Reset {
        // The last close of a socket that does not linger is a reset.
        let at_once = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        let _ = setsockopt(&socket, sockopt::Linger, &at_once);
    }
}

async fn talk(stream: TcpStream, router: Router, tls: Option<TlsAcceptor>) {
    match tls {
        None => converse(stream, router).await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                converse(stream, router).await;
            }
        }
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // A client that leaves in the middle is none of the server's business.
    let _ = connection.await;
}
