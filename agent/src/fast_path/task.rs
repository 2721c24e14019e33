//! The task beside the agent's loop that looks whether packets may be handed over.
//!
//! The loop tells it which interfaces there are, and learns from it what the programs have to know.

use std::{io, time::Duration};

use anyhow::{Context as _, Result};
use netlink_sys::{
    AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket, protocols::NETLINK_NETFILTER,
};
use tokio::{
    sync::watch,
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep_until, timeout_at},
};
use tracing::{info, warn};

use super::{
    judge::{Choice, Found, State, judge},
    look::{Places, look},
};
use crate::{attach::OwnPrograms, maps::pins::Pins, news};

/// Between two looks, where nothing tells of a change: programs of others, IPVS, IPsec and
/// iptables-legacy tell nobody.
const EVERY: Duration = Duration::from_secs(10);
/// Rules that change all the time are looked at so often.
const PAUSE: Duration = Duration::from_millis(200);
/// `NFNLGRP_NFTABLES`
const NFTABLES: u32 = 7;

/// The task. Dropping it ends it.
#[derive(Debug)]
pub struct FastPath {
    places: watch::Sender<Option<Places>>,
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
}

impl FastPath {
    /// Begins. Packets take the long way until the interfaces are told, and were looked at.
    #[must_use]
    pub fn start(choice: Choice, is_supported: bool, pins: Pins) -> Self {
        let (places, told) = watch::channel(None);
        let first = match choice {
            Choice::Auto if is_supported => State::off("the node's interfaces are not known yet"),
            // None of these waits for anything.
            Choice::Auto | Choice::On | Choice::Off => {
                judge(choice, is_supported, &Ok(Found::default()))
            }
        };
        let (sender, state) = watch::channel(first);
        let task = async move {
            if choice == Choice::Off || !is_supported {
                // Whoever waits for news waits for ever.
                sender.closed().await;
            } else {
                run(choice, pins, told, sender).await;
            }
        };
        Self {
            places,
            state,
            task: tokio::spawn(task),
        }
    }

    /// The node has these interfaces.
    pub fn note(&self, places: Places) {
        news::tell(&self.places, Some(places));
    }

    /// Waits until it stands otherwise than the last time this was waited for.
    pub async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            // The task has ended, which it does not unless the runtime does.
            std::future::pending().await
        }
    }

    /// How it stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }
}

impl Drop for FastPath {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    choice: Choice,
    pins: Pins,
    mut told: watch::Receiver<Option<Places>>,
    state: watch::Sender<State>,
) {
    // Before the first look, so that no change falls between the two.
    let mut news = News::listen()
        .inspect_err(|error| warn!("changes of nftables are seen after seconds only: {error:#}"))
        .ok();
    let mut own = OwnPrograms::default();
    loop {
        let places = told.borrow_and_update().clone();
        let start = Instant::now();
        if let Some(places) = places {
            let now = judge(choice, true, &found(&pins, places, &mut own).await);
            state.send_if_modified(|before| {
                let is_news = *before != now;
                if is_news {
                    info!("fast path: {now}");
                }
                *before = now;
                is_news
            });
        }
        tokio::select! {
            changed = told.changed() => if changed.is_err() {
                return;
            },
            () = next(&mut news) => {}
            () = sleep_until(start + EVERY) => {}
        }
        // What is told in the meantime is seen by one look.
        let not_before = start + PAUSE;
        while timeout_at(not_before, next(&mut news)).await.is_ok() {}
    }
}

async fn found(pins: &Pins, places: Places, own: &mut OwnPrograms) -> Result<Found, String> {
    let pins = pins.clone();
    let mut known = std::mem::take(own);
    let looked = spawn_blocking(move || {
        let found = look(&pins, &places, &mut known);
        (found, known)
    });
    let looked = looked.await.context("a task panicked");
    let looked = looked.and_then(|(found, known)| {
        *own = known;
        found
    });
    looked.map_err(|error| format!("{error:#}"))
}

async fn next(news: &mut Option<News>) {
    match news {
        Some(heard) => {
            if let Err(error) = heard.next().await {
                warn!("changes of nftables are seen after seconds only: {error}");
                *news = None;
            }
        }
        None => std::future::pending().await,
    }
}

/// What nftables tell of their changes.
struct News(TokioSocket);

impl News {
    /// Listens from now on. The calling thread's network namespace is the node's.
    fn listen() -> Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER).context("open a netlink socket")?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        socket
            .socket_mut()
            .add_membership(NFTABLES)
            .context("listen to nftables")?;
        Ok(Self(socket))
    }

    /// Waits for a message.
    async fn next(&mut self) -> io::Result<()> {
        match self.0.recv_from_full().await {
            Ok(_) => Ok(()),
            // Some were lost, which is news as well.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
