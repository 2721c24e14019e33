//! A test's end of the dialogue with the process in a pod.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::process::{ChildStdin, ChildStdout};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::protocol::{
    Answer, Ends, Failure, Handle, Inquiry, Numbered, Page, Probed, Pulsed, Request, Response,
    Swept, Transferred, Transport,
};
use crate::bed::process::{Place, Process, Streams};

/// A question that is not answered within this has failed, unless the caller says otherwise: long
/// enough for TCP to repeat what was lost four times, and for a machine that has much else to do.
pub const TIMEOUT: Duration = Duration::from_secs(20);
/// A transfer's end may take longer.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(120);
/// A question of a sweep is asked again after this.
const SWEEP_STEP: Duration = Duration::from_secs(1);
/// Tens of thousands of questions take a while.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(600);
/// Given to the process beyond a request's own time.
const GRACE: Duration = Duration::from_secs(60);

/// What an operation in a pod gives.
pub type Outcome<T> = Result<T, Failure>;

/// A running process and the way to talk to it. Several threads may ask at once.
#[derive(Debug)]
pub struct TestPod {
    name: String,
    input: Mutex<ChildStdin>,
    waiting: Arc<Mutex<Waiting>>,
    next: AtomicU64,
    process: Mutex<Process>,
}

/// Who waits for the answer of which number; `None` once no answer can come any more.
type Waiting = Option<BTreeMap<u64, mpsc::Sender<Response>>>;

impl TestPod {
    /// Starts the process in a place and waits until it is there.
    pub fn start(place: &Place, name: &str) -> Result<Self> {
        let mut process = place
            .start(&place.helper, &["serve", name], Streams::Dialogue)
            .with_context(|| format!("start the process of {name}"))?;
        let child = process.child()?;
        let input = child.stdin.take().context("the process has an input")?;
        let output = child.stdout.take().context("the process has an output")?;
        let waiting = Arc::new(Mutex::new(Some(BTreeMap::new())));
        let readers = Arc::clone(&waiting);
        thread::Builder::new()
            .name(format!("answers of {name}"))
            .spawn(move || read_answers(output, &readers))
            .context("start a thread")?;
        let pod = Self {
            name: name.to_owned(),
            input: Mutex::new(input),
            waiting,
            next: AtomicU64::new(0),
            process: Mutex::new(process),
        };
        pod.call(Request::Hello, TIMEOUT)?;
        Ok(pod)
    }

    /// The name by which its servers answer.
    #[must_use]
    pub fn server_name(&self) -> &str {
        &self.name
    }

    /// The process's id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        lock(&self.process).id()
    }

    /// Serves TCP or UDP at an address.
    pub fn serve(&self, transport: Transport, address: SocketAddr) -> Outcome<Ends> {
        self.open(Request::Serve { transport, address }, TIMEOUT)
    }

    /// Serves DNS at an address.
    pub fn serve_dns(
        &self,
        address: SocketAddr,
        records: BTreeMap<String, Vec<IpAddr>>,
    ) -> Outcome<Ends> {
        self.open(Request::ServeDns { address, records }, TIMEOUT)
    }

    /// Opens a connection.
    pub fn connect(&self, to: SocketAddr) -> Outcome<Ends> {
        self.connect_from(None, to)
    }

    /// Opens a connection from a local address.
    pub fn connect_from(&self, bind: Option<SocketAddr>, to: SocketAddr) -> Outcome<Ends> {
        self.connect_within(bind, to, TIMEOUT)
    }

    /// The same within a time.
    pub fn connect_within(
        &self,
        bind: Option<SocketAddr>,
        to: SocketAddr,
        limit: Duration,
    ) -> Outcome<Ends> {
        let timeout = millis(limit);
        self.open(Request::Connect { to, bind, timeout }, limit)
    }

    /// Opens a connection, asks who is there, and closes it.
    pub fn tcp_ask(&self, to: SocketAddr) -> Outcome<Answer> {
        let ends = self.connect(to)?;
        let answer = self.ask(ends.handle);
        self.close(ends.handle)?;
        answer
    }

    /// Opens a UDP socket that is not connected, at a local address.
    pub fn open_udp(&self, bind: SocketAddr) -> Outcome<Ends> {
        self.udp(bind, None, false)
    }

    /// Opens a UDP socket that is connected to a peer.
    pub fn connect_udp(&self, to: SocketAddr) -> Outcome<Ends> {
        self.udp(any_port(to), Some(to), false)
    }

    /// Opens a UDP socket that sends without checksums (IPv4 only).
    pub fn open_udp_without_checksum(&self) -> Outcome<Ends> {
        self.udp((Ipv4Addr::UNSPECIFIED, 0).into(), None, true)
    }

    /// Opens a UDP socket at a local address, connected if a peer is given.
    pub fn udp(
        &self,
        bind: SocketAddr,
        connect: Option<SocketAddr>,
        no_checksum: bool,
    ) -> Outcome<Ends> {
        let request = Request::OpenUdp {
            bind,
            connect,
            no_checksum,
        };
        self.open(request, TIMEOUT)
    }

    /// Asks by a new unconnected UDP socket.
    pub fn udp_ask(&self, to: SocketAddr) -> Outcome<Answer> {
        let ends = self.open_udp(any_port(to))?;
        let answer = self.ask_at(ends.handle, to);
        self.close(ends.handle)?;
        answer
    }

    /// Asks by a new connected UDP socket.
    pub fn udp_ask_connected(&self, to: SocketAddr) -> Outcome<Answer> {
        let ends = self.connect_udp(to)?;
        let answer = self.ask(ends.handle);
        self.close(ends.handle)?;
        answer
    }

    /// Asks the peer of an open socket.
    pub fn ask(&self, socket: Handle) -> Outcome<Answer> {
        self.ask_with(socket, None, 0, TIMEOUT)
    }

    /// Asks somebody by an open UDP socket.
    pub fn ask_at(&self, socket: Handle, to: SocketAddr) -> Outcome<Answer> {
        self.ask_with(socket, Some(to), 0, TIMEOUT)
    }

    /// Asks with a question of some length, within a time.
    pub fn ask_with(
        &self,
        socket: Handle,
        to: Option<SocketAddr>,
        length: usize,
        limit: Duration,
    ) -> Outcome<Answer> {
        let request = Request::Ask {
            socket,
            to,
            length,
            timeout: millis(limit),
        };
        match self.call(request, limit)? {
            Response::Answered(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }

    /// What an open socket says of its ends now.
    pub fn names(&self, socket: Handle) -> Outcome<Ends> {
        self.open(Request::Names { socket }, TIMEOUT)
    }

    /// Closes a socket, server or probe.
    pub fn close(&self, handle: Handle) -> Outcome<()> {
        match self.call(Request::Close { handle }, TIMEOUT)? {
            Response::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Fetches a page.
    pub fn http_get(&self, to: SocketAddr, path: &str) -> Outcome<Page> {
        let request = Request::HttpGet {
            to,
            path: path.to_owned(),
            timeout: millis(TIMEOUT),
        };
        match self.call(request, TIMEOUT)? {
            Response::Page(page) => Ok(page),
            other => Err(unexpected(&other)),
        }
    }

    /// Resolves a name.
    pub fn resolve(
        &self,
        server: SocketAddr,
        transport: Transport,
        name: &str,
        ipv6: bool,
    ) -> Outcome<Vec<IpAddr>> {
        let request = Request::Resolve {
            server,
            name: name.to_owned(),
            transport,
            ipv6,
            timeout: millis(TIMEOUT),
        };
        match self.call(request, TIMEOUT)? {
            Response::Resolved(addresses) => Ok(addresses),
            other => Err(unexpected(&other)),
        }
    }

    /// Begins a stream that goes on until [`TestPod::finish_transfer`].
    pub fn start_transfer(&self, to: SocketAddr) -> Outcome<Ends> {
        let timeout = millis(TIMEOUT);
        self.open(Request::StartTransfer { to, timeout }, TIMEOUT)
    }

    /// Bytes that a stream has sent so far.
    pub fn transfer_progress(&self, transfer: Handle) -> Outcome<u64> {
        match self.call(Request::TransferProgress { transfer }, TIMEOUT)? {
            Response::Progress(bytes) => Ok(bytes),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends a stream and compares its ends.
    pub fn finish_transfer(&self, transfer: Handle) -> Outcome<Transferred> {
        let timeout = millis(TRANSFER_TIMEOUT);
        let request = Request::FinishTransfer { transfer, timeout };
        self.transferred(request)
    }

    /// Sends bytes and fetches as many.
    pub fn bulk(&self, to: SocketAddr, bytes: u64) -> Outcome<Transferred> {
        let timeout = millis(TRANSFER_TIMEOUT);
        self.transferred(Request::Bulk { to, bytes, timeout })
    }

    fn transferred(&self, request: Request) -> Outcome<Transferred> {
        match self.call(request, TRANSFER_TIMEOUT)? {
            Response::Transferred(transferred) => Ok(transferred),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks once over UDP from each of these local ports.
    pub fn sweep(&self, to: SocketAddr, ports: RangeInclusive<u16>) -> Outcome<Swept> {
        let request = Request::Sweep {
            to,
            first: *ports.start(),
            last: *ports.end(),
            timeout: millis(SWEEP_STEP),
        };
        match self.call(request, SWEEP_TIMEOUT)? {
            Response::Swept(swept) => Ok(swept),
            other => Err(unexpected(&other)),
        }
    }

    /// Serves SCTP at an address.
    pub fn serve_sctp(&self, address: SocketAddr) -> Outcome<()> {
        match self.call(Request::ServeSctp { address }, TIMEOUT)? {
            Response::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks many at once; for each question the name of the server that answered.
    pub fn inquire(&self, questions: Vec<Inquiry>) -> Outcome<Vec<Outcome<String>>> {
        let longest = questions.iter().map(|question| question.timeout).max();
        let limit = Duration::from_millis(longest.unwrap_or(0));
        match self.call(Request::Inquire { questions }, limit)? {
            Response::Inquired(answers) => Ok(answers),
            other => Err(unexpected(&other)),
        }
    }

    /// Begins to ask again and again, each time by a new socket.
    pub fn start_probe(
        &self,
        to: SocketAddr,
        transport: Transport,
        interval: Duration,
    ) -> Outcome<Handle> {
        self.start_probe_within(to, transport, interval, TIMEOUT)
    }

    /// The same, where a question fails after a time.
    pub fn start_probe_within(
        &self,
        to: SocketAddr,
        transport: Transport,
        interval: Duration,
        limit: Duration,
    ) -> Outcome<Handle> {
        let request = Request::StartProbe {
            to,
            transport,
            interval: millis(interval),
            timeout: millis(limit),
        };
        Ok(self.open(request, TIMEOUT)?.handle)
    }

    /// What a probe has seen since its start.
    pub fn read_probe(&self, probe: Handle) -> Outcome<Probed> {
        match self.call(Request::ReadProbe { probe }, TIMEOUT)? {
            Response::Probed(probed) => Ok(probed),
            other => Err(unexpected(&other)),
        }
    }

    /// Begins to send a numbered datagram at each tick from one socket.
    pub fn start_pulse(&self, to: SocketAddr, interval: Duration) -> Outcome<Handle> {
        let interval = u64::try_from(interval.as_micros()).unwrap_or(u64::MAX);
        let request = Request::StartPulse { to, interval };
        Ok(self.open(request, TIMEOUT)?.handle)
    }

    /// What a pulse has seen since its start.
    pub fn read_pulse(&self, pulse: Handle) -> Outcome<Pulsed> {
        self.pulsed(Request::ReadPulse { pulse })
    }

    /// Ends a pulse, waits for its last answers, and gives its account.
    pub fn finish_pulse(&self, pulse: Handle) -> Outcome<Pulsed> {
        self.pulsed(Request::FinishPulse { pulse })
    }

    fn pulsed(&self, request: Request) -> Outcome<Pulsed> {
        match self.call(request, TRANSFER_TIMEOUT)? {
            Response::Pulsed(pulsed) => Ok(pulsed),
            other => Err(unexpected(&other)),
        }
    }

    /// For how many datagrams had sockets of this network namespace no room?
    pub fn full_buffers(&self) -> Outcome<u64> {
        match self.call(Request::FullBuffers, TIMEOUT)? {
            Response::Progress(count) => Ok(count),
            other => Err(unexpected(&other)),
        }
    }

    fn open(&self, request: Request, limit: Duration) -> Outcome<Ends> {
        match self.call(request, limit)? {
            Response::Opened(ends) => Ok(ends),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends a request and waits for its answer.
    pub fn call(&self, request: Request, limit: Duration) -> Outcome<Response> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = mpsc::channel();
        match &mut *lock(&self.waiting) {
            Some(waiting) => waiting.insert(id, sender),
            None => return Err(self.gone("it has ended")),
        };
        let mut line = serde_json::to_vec(&Numbered { id, body: request })
            .map_err(|error| self.gone(&error.to_string()))?;
        line.push(b'\n');
        lock(&self.input)
            .write_all(&line)
            .map_err(|error| self.gone(&error.to_string()))?;
        match answer.recv_timeout(limit + GRACE) {
            Ok(Response::Failed(failure)) => Err(failure),
            Ok(response) => Ok(response),
            Err(error) => Err(self.gone(&error.to_string())),
        }
    }

    fn gone(&self, why: &str) -> Failure {
        Failure::Gone(format!("{}: {why}", self.name))
    }
}

fn read_answers(output: ChildStdout, waiting: &Mutex<Waiting>) {
    for line in BufReader::new(output).lines() {
        let Ok(line) = line else { break };
        let Ok(Numbered { id, body }) = serde_json::from_str(&line) else {
            break;
        };
        if let Some(waiting) = &mut *lock(waiting)
            && let Some(asker) = waiting.remove(&id)
        {
            // An asker that has given up does not want it any more.
            let _ = asker.send(body);
        }
    }
    // Dropping the senders tells everyone who waits.
    *lock(waiting) = None;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn unexpected(response: &Response) -> Failure {
    Failure::Garbled(format!("{response:?}"))
}

/// Any port of the unspecified address of a peer's family.
#[must_use]
pub fn any_port(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
