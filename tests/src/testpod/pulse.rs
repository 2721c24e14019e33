//! A numbered datagram at each tick from one socket that stays open, each answered by the server:
//! what is lost shows exactly.
//!
//! A loss may be the receiver's own, whose buffer was full because its process did not get to run.
//! Buffers are as large as the kernel lets them be, and [`full_buffers`] tells of the rest.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::protocol::{Failure, Pulsed};
use super::serve::{DATAGRAM_MAX, Said};
use super::sockets;

/// Bytes a socket may hold for a process that does not get to run: some thousand datagrams.
const BUFFER: usize = 16 << 20;
/// Answers are on their way for as long as some arrive within this.
const QUIET: Duration = Duration::from_secs(2);

/// Gives a socket a large buffer, whatever the machine's limits are.
pub fn enlarge_buffer(socket: &UdpSocket) -> Result<(), Failure> {
    setsockopt(socket, sockopt::RcvBufForce, &BUFFER).map_err(std::io::Error::from)?;
    Ok(())
}

/// How many datagrams this network namespace's sockets had no room for since it was made.
pub fn full_buffers() -> Result<u64, Failure> {
    let mut sum = 0;
    let garbled = |what: &str| Failure::Garbled(what.to_owned());
    let v4 = std::fs::read_to_string("/proc/self/net/snmp")?;
    let mut lines = v4.lines().filter_map(|line| line.strip_prefix("Udp:"));
    let (names, values) = (lines.next(), lines.next());
    let (names, values) = names.zip(values).ok_or_else(|| garbled("no Udp in snmp"))?;
    let mut fields = names.split_whitespace().zip(values.split_whitespace());
    let value = fields.find(|(name, _)| *name == "RcvbufErrors");
    sum += value
        .and_then(|(_, value)| value.parse::<u64>().ok())
        .ok_or_else(|| garbled("no RcvbufErrors in snmp"))?;
    let v6 = std::fs::read_to_string("/proc/self/net/snmp6")?;
    let line = v6
        .lines()
        .find_map(|line| line.strip_prefix("Udp6RcvbufErrors"));
    sum += line
        .and_then(|value| value.trim().parse::<u64>().ok())
        .ok_or_else(|| garbled("no Udp6RcvbufErrors in snmp6"))?;
    Ok(sum)
}

/// A running pulse. It ends when dropped.
#[derive(Debug)]
pub struct Pulse {
    account: Arc<Mutex<Account>>,
    is_ended: Arc<AtomicBool>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Account {
    seen: Pulsed,
    unanswered: BTreeSet<u64>,
}

impl Pulse {
    /// Opens a socket and starts. Gives its ends, too.
    pub async fn start(
        to: SocketAddr,
        every: Duration,
    ) -> Result<(Self, SocketAddr, Option<SocketAddr>), Failure> {
        let any = super::client::any_port(to);
        let socket = Arc::new(sockets::open_udp(any, Some(to), false).await?);
        enlarge_buffer(&socket)?;
        let ends = (socket.local_addr()?, socket.peer_addr().ok());
        let account = Arc::new(Mutex::new(Account::default()));
        let is_ended = Arc::new(AtomicBool::new(false));
        let sender = send(
            Arc::clone(&socket),
            every,
            Arc::clone(&account),
            Arc::clone(&is_ended),
        );
        let sender = tokio::spawn(sender);
        let receiver = tokio::spawn(receive(socket, Arc::clone(&account)));
        let pulse = Self {
            account,
            is_ended,
            sender,
            receiver,
        };
        Ok((pulse, ends.0, ends.1))
    }

    /// What was seen so far.
    pub fn seen(&self) -> Pulsed {
        lock(&self.account).seen.clone()
    }

    /// Sends no more, and waits for the answers that are on their way.
    pub async fn finish(mut self) -> Pulsed {
        // Not by aborting it, which might be between counting a datagram and sending it.
        self.is_ended.store(true, Ordering::Relaxed);
        let _ = (&mut self.sender).await;
        let mut before = None;
        loop {
            let seen = self.seen();
            if seen.answered() == seen.sent || before == Some(seen.answered()) {
                return seen;
            }
            before = Some(seen.answered());
            // Ends early where everything is there.
            let _ = timeout(QUIET, async {
                while self.seen().answered() < seen.sent {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
            .await;
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.sender.abort();
        self.receiver.abort();
    }
}

async fn send(
    socket: Arc<UdpSocket>,
    every: Duration,
    account: Arc<Mutex<Account>>,
    is_ended: Arc<AtomicBool>,
) {
    let mut ticks = interval(every);
    // A process that did not get to run makes up for it: the number is what counts.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0_u64.. {
        ticks.tick().await;
        if is_ended.load(Ordering::Relaxed) {
            return;
        }
        // Before it leaves: the answer may be quicker than we are.
        {
            let mut account = lock(&account);
            account.unanswered.insert(number);
            account.seen.sent += 1;
        }
        if let Err(error) = socket.send(&number.to_be_bytes()).await {
            let mut account = lock(&account);
            account.unanswered.remove(&number);
            account.seen.sent -= 1;
            account.seen.fail(error.into());
        }
    }
}

async fn receive(socket: Arc<UdpSocket>, account: Arc<Mutex<Account>>) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let said = match socket.recv(&mut buffer).await {
            Ok(length) => serde_json::from_slice::<Said>(&buffer[..length]),
            Err(error) => {
                lock(&account).seen.fail(error.into());
                continue;
            }
        };
        let mut account = lock(&account);
        match said {
            Ok(said) if account.unanswered.remove(&said.number) => {
                *account.seen.answers.entry(said.server).or_default() += 1;
            }
            Ok(said) => {
                let what = format!("a second answer to {}", said.number);
                account.seen.fail(Failure::Garbled(what));
            }
            Err(error) => account.seen.fail(Failure::Garbled(error.to_string())),
        }
    }
}

fn lock(account: &Mutex<Account>) -> MutexGuard<'_, Account> {
    account.lock().unwrap_or_else(PoisonError::into_inner)
}
