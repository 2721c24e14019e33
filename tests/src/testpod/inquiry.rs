//! Asking many at once who they are: a row of a table of who reaches whom.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::BufReader;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::protocol::{Carrier, Failure, Inquiry};
use super::sctp::Stack;
use super::sockets;

/// Asks all questions together; the answers are in the questions' order.
pub async fn inquire(sctp: &Stack, questions: &[Inquiry]) -> Vec<Result<String, Failure>> {
    let mut asking = JoinSet::new();
    for (index, &question) in questions.iter().enumerate() {
        let sctp = sctp.clone();
        asking.spawn(async move {
            let limit = Duration::from_millis(question.timeout);
            let answer = timeout(limit, ask(&sctp, question.to, question.by)).await;
            (index, answer.unwrap_or(Err(Failure::TimedOut)))
        });
    }
    let mut answers = vec![Err(Failure::TimedOut); questions.len()];
    while let Some(asked) = asking.join_next().await {
        // Nobody ends these tasks, and they do not panic.
        if let Ok((index, answer)) = asked {
            answers[index] = answer;
        }
    }
    answers
}

async fn ask(sctp: &Stack, to: SocketAddr, by: Carrier) -> Result<String, Failure> {
    match by {
        Carrier::Tcp => {
            let stream = sockets::connect(to, None).await?;
            let answer = sockets::ask_tcp(&mut BufReader::new(stream)).await?;
            Ok(answer.server)
        }
        Carrier::Udp => {
            let any: SocketAddr = match to {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let socket = sockets::open_udp(any, Some(to), false).await?;
            Ok(sockets::ask_udp(&socket, None, 0).await?.server)
        }
        Carrier::Sctp => sctp.ask(to).await,
    }
}
