//! How long it takes until a packet meets a change.
//!
//! A pod asks a service by UDP, again and again, each time from a socket of its own, and looks at
//! who answers. The change is made in the same thread right before, so what is measured is
//! everything: the API server's telling, the agent's work, the kernel's writing, and the packet.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, ppoll};
use weir_tests::bed::Sandbox;
use weir_tests::bed::namespace::Namespace;

use crate::world::TARGET_PORT;

/// A question that is not answered by then was refused, or met nobody: it is asked again.
const ANSWER: Duration = Duration::from_micros(500);
/// The same where it must not be a matter of a busy machine.
const SURE_ANSWER: Duration = Duration::from_millis(5);
/// A change that is not met by then never will be.
const LIMIT: Duration = Duration::from_secs(60);

/// A pod that answers each question with its name.
#[derive(Debug)]
pub struct Server {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Server {
    /// Answers in this sandbox until it is dropped.
    pub fn start(sandbox: &Sandbox) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (namespace, name) = (sandbox.namespace().clone(), sandbox.name().to_owned());
        let flag = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            namespace.enter(|| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, TARGET_PORT))?;
                socket.set_read_timeout(Some(Duration::from_millis(100)))?;
                let mut question = [0; 16];
                while !flag.load(Ordering::Relaxed) {
                    if let Ok((_, client)) = socket.recv_from(&mut question) {
                        // A client that has gone is none of its business.
                        let _ = socket.send_to(name.as_bytes(), client);
                    }
                }
                Ok(())
            })
        });
        Self {
            is_over,
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // What it failed with has shown in the answers.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Makes a change, and gives how long it took until `name` answered at a service's address.
pub fn first_answer(
    client: &Namespace,
    to: SocketAddr,
    name: &str,
    change: impl FnOnce() -> Result<()> + Send,
) -> Result<Duration> {
    client.enter(|| {
        let start = Instant::now();
        change()?;
        while start.elapsed() < LIMIT {
            if ask(to, ANSWER)?.as_deref() == Some(name.as_bytes()) {
                return Ok(start.elapsed());
            }
        }
        bail!("{name} did not answer at {to} within {LIMIT:?}")
    })
}

/// Waits until nobody answers at a service's address.
pub fn no_answer(client: &Namespace, to: SocketAddr) -> Result<()> {
    client.enter(|| {
        let start = Instant::now();
        // One question may be lost without any reason.
        let mut silent = 0;
        while silent < 5 {
            silent = match ask(to, SURE_ANSWER)? {
                Some(_) => 0,
                None => silent + 1,
            };
            ensure!(
                start.elapsed() < LIMIT,
                "{to} was still answered after {LIMIT:?}"
            );
        }
        Ok(())
    })
}

fn ask(to: SocketAddr, patience: Duration) -> Result<Option<Vec<u8>>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("open a socket")?;
    let asked = socket.connect(to).and_then(|()| socket.send(b"?"));
    let mut answer = [0; 16];
    let answered = asked
        .and_then(|_| wait_for(&socket, patience))
        .and_then(|()| socket.recv(&mut answer));
    match answered {
        Ok(length) => Ok(Some(answer[..length].to_vec())),
        Err(error) => match error.kind() {
            // Refused before there is anybody, or by a policy.
            ErrorKind::WouldBlock
            | ErrorKind::TimedOut
            | ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::PermissionDenied => Ok(None),
            _ => Err(error).with_context(|| format!("ask {to}")),
        },
    }
}

/// Waits for an answer, or that there is none. A socket's own time limit is counted in ticks of the
/// kernel's clock: of 4 ms, which is longer than most of what is measured here.
fn wait_for(socket: &UdpSocket, patience: Duration) -> io::Result<()> {
    let mut sockets = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    match ppoll(&mut sockets, Some(patience.into()), None)? {
        0 => Err(ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}
