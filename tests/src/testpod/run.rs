//! The process's loop: a line in, work, a line out.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use hickory_server::Server;
use hickory_server::zone_handler::Catalog;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::probe::Probe;
use super::protocol::{Ends, Failure, Handle, Numbered, Request, Response};
use super::pulse::Pulse;
use super::sockets::Socket;
use super::transfer::Transfer;
use super::{dns, http, inquiry, pulse, sctp, serve, sockets, sweep, transfer};

/// Serves requests until the input ends.
pub fn run(name: &str) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?
        .block_on(work(Arc::from(name)))
}

async fn work(name: Arc<str>) -> Result<()> {
    let pod = Arc::new(State {
        sctp: sctp::Stack::new(Arc::clone(&name)),
        name,
        open: Mutex::default(),
    });
    let (answers, mut outgoing) = mpsc::unbounded_channel::<Numbered<Response>>();
    tokio::spawn(async move {
        let mut output = tokio::io::stdout();
        while let Some(answer) = outgoing.recv().await {
            let Ok(mut line) = serde_json::to_vec(&answer) else {
                continue;
            };
            line.push(b'\n');
            if output.write_all(&line).await.is_err() || output.flush().await.is_err() {
                return;
            }
        }
    });
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await.context("read a request")? {
        let Numbered { id, body } = serde_json::from_str(&line)
            .with_context(|| format!("the request {line:?} is not understood"))?;
        let (pod, answers) = (Arc::clone(&pod), answers.clone());
        tokio::spawn(async move {
            let body = match pod.perform(body).await {
                Ok(response) => response,
                Err(failure) => Response::Failed(failure),
            };
            // Nobody is left to be told when this fails.
            let _ = answers.send(Numbered { id, body });
        });
    }
    Ok(())
}

struct State {
    name: Arc<str>,
    sctp: sctp::Stack,
    open: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    last: u64,
    things: BTreeMap<Handle, Thing>,
}

enum Thing {
    Socket(Socket),
    Server(#[expect(dead_code, reason = "held for its drop")] Serving),
    Dns(#[expect(dead_code, reason = "held for its drop")] Box<Server<Catalog>>),
    Transfer(Transfer),
    Probe(Probe),
    Pulse(Pulse),
}

/// A server's task; it stops accepting when this is dropped.
struct Serving(AbortHandle);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl State {
    async fn perform(&self, request: Request) -> Result<Response, Failure> {
        match request {
            Request::Hello => Ok(Response::Done),
            Request::Serve { transport, address } => self.serve(transport, address).await,
            Request::ServeSctp { address } => {
                self.sctp.serve(address)?;
                Ok(Response::Done)
            }
            Request::Inquire { questions } => Ok(Response::Inquired(
                inquiry::inquire(&self.sctp, &questions).await,
            )),
            Request::ServeDns { address, records } => {
                let server = dns::serve(address, &records).await?;
                Ok(self.opened(Thing::Dns(Box::new(server)), address, None))
            }
            Request::Connect { to, bind, timeout } => {
                let stream = within(timeout, sockets::connect(to, bind)).await?;
                let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
                let stream = tokio::sync::Mutex::new(BufReader::new(stream));
                let socket = Socket::Tcp(Arc::new(stream));
                Ok(self.opened(Thing::Socket(socket), local, Some(peer)))
            }
            Request::OpenUdp {
                bind,
                connect,
                no_checksum,
            } => {
                let socket = sockets::open_udp(bind, connect, no_checksum).await?;
                let socket = Socket::Udp(Arc::new(socket));
                let (local, peer) = socket.names().await?;
                Ok(self.opened(Thing::Socket(socket), local, peer))
            }
            Request::Ask {
                socket,
                to,
                length,
                timeout,
            } => {
                let socket = self.socket(socket)?;
                let answer = within(timeout, socket.ask(to, length)).await?;
                Ok(Response::Answered(answer))
            }
            Request::Names { socket: handle } => {
                let (local, peer) = self.socket(handle)?.names().await?;
                Ok(Response::Opened(Ends {
                    handle,
                    local,
                    peer,
                }))
            }
            Request::Close { handle } => {
                self.take(handle)?;
                Ok(Response::Done)
            }
            Request::HttpGet { to, path, timeout } => {
                Ok(Response::Page(within(timeout, http::get(to, &path)).await?))
            }
            Request::Resolve {
                server,
                name,
                transport,
                ipv6,
                timeout,
            } => {
                let question = dns::resolve(server, &name, transport, ipv6);
                Ok(Response::Resolved(within(timeout, question).await?))
            }
            Request::StartTransfer { to, timeout } => {
                let (transfer, (local, peer)) = within(timeout, Transfer::start(to)).await?;
                Ok(self.opened(Thing::Transfer(transfer), local, Some(peer)))
            }
            Request::TransferProgress { transfer } => self.progress(transfer).await,
            Request::FinishTransfer { transfer, timeout } => {
                let transfer = self.take_transfer(transfer)?;
                let transferred = within(timeout, transfer.finish()).await?;
                Ok(Response::Transferred(transferred))
            }
            Request::Bulk { to, bytes, timeout } => {
                let transferred = within(timeout, transfer::bulk(to, bytes)).await?;
                Ok(Response::Transferred(transferred))
            }
            Request::Sweep {
                to,
                first,
                last,
                timeout,
            } => Ok(Response::Swept(
                sweep::sweep(to, first..=last, millis(timeout)).await,
            )),
            Request::StartProbe {
                to,
                transport,
                interval,
                timeout,
            } => {
                let (every, limit) = (millis(interval), millis(timeout));
                let probe = Probe::start(to, transport, every, limit);
                Ok(self.opened(Thing::Probe(probe), to, Some(to)))
            }
            Request::StartPulse { to, interval } => {
                let every = Duration::from_micros(interval);
                let (pulse, local, peer) = Pulse::start(to, every).await?;
                Ok(self.opened(Thing::Pulse(pulse), local, peer))
            }
            Request::ReadPulse { pulse } => match self.table().things.get(&pulse) {
                Some(Thing::Pulse(pulse)) => Ok(Response::Pulsed(pulse.seen())),
                _ => Err(unknown(pulse)),
            },
            Request::FinishPulse { pulse } => match self.take(pulse)? {
                Thing::Pulse(pulse) => Ok(Response::Pulsed(pulse.finish().await)),
                other => {
                    self.table().things.insert(pulse, other);
                    Err(unknown(pulse))
                }
            },
            Request::FullBuffers => Ok(Response::Progress(pulse::full_buffers()?)),
            Request::ReadProbe { probe } => {
                let table = self.table();
                match table.things.get(&probe) {
                    Some(Thing::Probe(probe)) => Ok(Response::Probed(probe.seen())),
                    _ => Err(unknown(probe)),
                }
            }
        }
    }

    async fn serve(
        &self,
        transport: super::protocol::Transport,
        address: SocketAddr,
    ) -> Result<Response, Failure> {
        use super::protocol::Transport;
        let name = Arc::clone(&self.name);
        let (task, local) = match transport {
            Transport::Tcp => {
                let listener = TcpListener::bind(address).await?;
                let local = listener.local_addr()?;
                (tokio::spawn(serve::serve_tcp(listener, name)), local)
            }
            Transport::Udp => {
                let socket = UdpSocket::bind(address).await?;
                pulse::enlarge_buffer(&socket)?;
                let local = socket.local_addr()?;
                (tokio::spawn(serve::serve_udp(socket, local, name)), local)
            }
        };
        Ok(self.opened(Thing::Server(Serving(task.abort_handle())), local, None))
    }

    async fn progress(&self, handle: Handle) -> Result<Response, Failure> {
        let mut transfer = self.take_transfer(handle)?;
        let progress = transfer.progress().await;
        self.table()
            .things
            .insert(handle, Thing::Transfer(transfer));
        progress.map(Response::Progress)
    }

    fn opened(&self, thing: Thing, local: SocketAddr, peer: Option<SocketAddr>) -> Response {
        let mut table = self.table();
        table.last += 1;
        let handle = Handle(table.last);
        table.things.insert(handle, thing);
        Response::Opened(Ends {
            handle,
            local,
            peer,
        })
    }

    fn socket(&self, handle: Handle) -> Result<Socket, Failure> {
        match self.table().things.get(&handle) {
            Some(Thing::Socket(socket)) => Ok(socket.clone()),
            _ => Err(unknown(handle)),
        }
    }

    fn take(&self, handle: Handle) -> Result<Thing, Failure> {
        self.table()
            .things
            .remove(&handle)
            .ok_or_else(|| unknown(handle))
    }

    fn take_transfer(&self, handle: Handle) -> Result<Transfer, Failure> {
        match self.take(handle)? {
            Thing::Transfer(transfer) => Ok(transfer),
            other => {
                self.table().things.insert(handle, other);
                Err(unknown(handle))
            }
        }
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unknown(handle: Handle) -> Failure {
    Failure::Garbled(format!("there is no such thing as number {}", handle.0))
}

fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

async fn within<T>(
    limit: u64,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match timeout(millis(limit), work).await {
        Ok(result) => result,
        Err(_) => Err(Failure::TimedOut),
    }
}
