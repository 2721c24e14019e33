//! Asking once from each of many local ports: as many flows as a crowd of clients makes.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::protocol::{Failure, Swept};
use super::sockets;

/// Questions that wait for their answers at a time.
const AT_ONCE: usize = 64;
/// How often a port asks: one of so many datagrams may be lost.
const TRIES: usize = 3;

/// Asks from each port, and closes its socket.
pub async fn sweep(to: SocketAddr, ports: RangeInclusive<u16>, limit: Duration) -> Swept {
    let mut swept = Swept::default();
    let mut asking = JoinSet::new();
    for port in ports {
        if asking.len() == AT_ONCE {
            take_in(&mut swept, asking.join_next().await);
        }
        asking.spawn(async move { (port, ask(to, port, limit).await) });
    }
    while !asking.is_empty() {
        take_in(&mut swept, asking.join_next().await);
    }
    swept
}

type Asked = (u16, Result<SocketAddr, Failure>);

fn take_in(swept: &mut Swept, asked: Option<Result<Asked, tokio::task::JoinError>>) {
    match asked {
        Some(Ok((port, Ok(client)))) => {
            swept.seen.insert(port, client);
        }
        Some(Ok((port, Err(failure)))) => {
            swept.failed += 1;
            if swept.failures.len() < Swept::KEPT {
                swept.failures.push((port, failure));
            }
        }
        // Nobody ends these tasks, and they do not panic.
        Some(Err(_)) | None => {}
    }
}

/// As whom the server sees this port.
async fn ask(to: SocketAddr, port: u16, limit: Duration) -> Result<SocketAddr, Failure> {
    let local: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
    };
    let socket = sockets::open_udp(local, Some(to), false).await?;
    for _ in 0..TRIES {
        if let Ok(answer) = timeout(limit, sockets::ask_udp(&socket, None, 0)).await {
            return answer.map(|answer| answer.client);
        }
    }
    Err(Failure::TimedOut)
}
