//! The client: does one thing over and over until its time is up.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::serve::{self, DATAGRAM, ECHO, ONCE, SINK};
use super::{Done, Work, processor};

/// An answer that takes longer will not come.
const PATIENCE: Duration = Duration::from_secs(5);
/// Datagrams that are sent before one is confirmed: few enough for a socket's buffer.
const GROUP: u32 = 32;
/// A group that was not confirmed by then has lost its last datagram.
const CONFIRMATION: Duration = Duration::from_millis(200);
/// What one call hands over.
const CHUNK: usize = 128 * 1024;

/// Works for this long, and until something was done.
pub(super) fn run(work: Work, to: SocketAddr, time: Duration) -> Result<Done> {
    let mut latencies = Vec::new();
    let prepared = Prepared::new(work, to)?;
    let used = processor::used()?;
    let start = Instant::now();
    let end = start + time;
    let count = match prepared {
        Prepared::Nothing => connections(to, end)?,
        Prepared::Stream(stream) if work == Work::Requests => {
            requests(stream, end, &mut latencies)?
        }
        Prepared::Stream(stream) => bytes(stream, end)?,
        Prepared::Socket(socket) => datagrams(&socket, end)?,
    };
    let elapsed = start.elapsed();
    let used = processor::used()?.saturating_sub(used);
    ensure!(count > 0, "nothing was done");
    latencies.sort_unstable();
    Ok(Done {
        count,
        elapsed,
        used,
        median: part(&latencies, 50),
        percentile_99: part(&latencies, 99),
    })
}

/// What is there before the clock starts.
enum Prepared {
    Nothing,
    Stream(TcpStream),
    Socket(UdpSocket),
}

impl Prepared {
    fn new(work: Work, to: SocketAddr) -> Result<Self> {
        match work {
            Work::Connections => Ok(Self::Nothing),
            Work::Requests => {
                let mut stream = connect(to)?;
                stream.set_nodelay(true).context("send at once")?;
                ask(&mut stream, ECHO)?;
                Ok(Self::Stream(stream))
            }
            Work::Bytes => {
                let mut stream = connect(to)?;
                stream.write_all(&[SINK]).context("begin a transfer")?;
                Ok(Self::Stream(stream))
            }
            Work::Datagrams => {
                let socket =
                    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("open a socket")?;
                socket
                    .connect(to)
                    .with_context(|| format!("send to {to}"))?;
                socket
                    .set_read_timeout(Some(CONFIRMATION))
                    .context("wait no longer")?;
                Ok(Self::Socket(socket))
            }
        }
    }
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to).with_context(|| format!("connect to {to}"))?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .context("wait no longer")?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream, byte: u8) -> Result<()> {
    stream.write_all(&[byte]).context("ask")?;
    let mut answer = [0];
    stream.read_exact(&mut answer).context("wait for an answer")
}

/// The server closes first, so that the client's ports are free again at once.
fn connections(to: SocketAddr, end: Instant) -> Result<u64> {
    let mut count = 0;
    while count == 0 || Instant::now() < end {
        let mut stream = TcpStream::connect(to).with_context(|| format!("connect to {to}"))?;
        ask(&mut stream, ONCE)?;
        let rest = stream.read(&mut [0]).context("wait for the end")?;
        ensure!(rest == 0, "the server said more than it was asked");
        count += 1;
    }
    Ok(count)
}

fn requests(mut stream: TcpStream, end: Instant, latencies: &mut Vec<Duration>) -> Result<u64> {
    latencies.reserve(1 << 16);
    let mut before = Instant::now();
    while latencies.is_empty() || before < end {
        ask(&mut stream, ECHO)?;
        let now = Instant::now();
        latencies.push(now - before);
        before = now;
    }
    Ok(latencies.len() as u64)
}

fn datagrams(socket: &UdpSocket, end: Instant) -> Result<u64> {
    let (mut count, mut group) = (0, 0);
    let mut answer = [0; DATAGRAM];
    let limit = end + PATIENCE;
    while Instant::now() < if count == 0 { limit } else { end } {
        group += 1;
        for place in 0..GROUP {
            socket
                .send(&serve::write([group, place, GROUP]))
                .context("send a datagram")?;
        }
        loop {
            match socket.recv(&mut answer) {
                Ok(DATAGRAM) => {
                    let [of, came, _] = serve::fields(&answer);
                    // That of an earlier group may come late.
                    if of == group {
                        count += u64::from(came);
                        break;
                    }
                }
                Ok(_) => {}
                Err(error) if is_lost(&error) => break,
                Err(error) => return Err(error).context("wait for a confirmation"),
            }
        }
    }
    Ok(count)
}

fn is_lost(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Until the server has taken everything.
fn bytes(mut stream: TcpStream, end: Instant) -> Result<u64> {
    let chunk = vec![0; CHUNK];
    let mut count = 0;
    while count == 0 || Instant::now() < end {
        stream.write_all(&chunk).context("send")?;
        count += CHUNK as u64;
    }
    stream
        .shutdown(Shutdown::Write)
        .context("end the transfer")?;
    let rest = stream.read(&mut [0]).context("wait for the end")?;
    ensure!(rest == 0, "the server said something");
    Ok(count)
}

/// The time within which this many of a hundred were done.
fn part(sorted: &[Duration], percent: usize) -> Duration {
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A port of the loopback that TCP and UDP are free to use.
    fn served() -> SocketAddr {
        for _ in 0..100 {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let at = listener.local_addr().unwrap();
            drop(listener);
            // Somebody else may have taken it meanwhile.
            if serve::start(at).is_ok() {
                return at;
            }
        }
        panic!("no port of the loopback can be had");
    }

    #[test]
    fn each_work_is_done_by_a_server_of_ours() {
        let at = served();
        for work in Work::ALL {
            let done = run(work, at, Duration::from_millis(20)).unwrap();
            assert!(done.count > 0, "{work:?}: {done:?}");
            assert_eq!(
                done.median > Duration::ZERO,
                work == Work::Requests,
                "{work:?}: {done:?}"
            );
            assert!(done.median <= done.percentile_99, "{work:?}: {done:?}");
        }
    }

    #[test]
    fn the_part_of_a_list_is_the_time_within_which_so_many_were_done() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(part(&times, 50), Duration::from_millis(100));
        assert_eq!(part(&times, 99), Duration::from_millis(198));
        assert_eq!(part(&times[..1], 99), Duration::from_millis(1));
        assert_eq!(part(&[], 99), Duration::ZERO);
    }
}
