//! What the agent's loop knows, for those who ask.
//!
//! The loop says what has happened; a copy is made when somebody asks, and kept until something has
//! changed. Whoever asks is answered from the copy, beside the loop.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::sync::{mpsc, watch};
use tracing::{error, warn};
use weir_ebpf::{tables::PolicyFlags, verdict::LOST_EVENTS};

use super::{
    account::{Accountant, Told},
    events::{Ask, Events, ReadLost},
    socket::Socket,
    socket_routes,
};
use crate::{
    attach::{Dataplane, EventReader},
    compile::Desired,
    config::Config,
    explain::{Scene, Snapshot},
    model::Cluster,
};

/// What the loop knows.
#[derive(Debug)]
pub struct Present {
    node: String,
    desired: Arc<Desired>,
    /// `None`: something has changed since it was made.
    scene: Option<Arc<Scene>>,
    events: Events,
    asks: mpsc::Receiver<Ask>,
    wanted: watch::Receiver<PolicyFlags>,
    told: Told,
    /// Dropping it ends it.
    _socket: Option<Socket>,
}

/// What somebody wants of the loop.
#[derive(Debug)]
pub enum Wish {
    /// To know what it knows: [`Present::answer`].
    Know(Ask),
    /// That the programs tell of other packets: [`Present::flags`].
    Flags,
}

impl Present {
    /// Reads what the programs tell, and answers at the socket.
    ///
    /// # Errors
    /// The ring buffer cannot be read. Where the socket cannot be made the agent does without.
    pub fn open(config: &Config, dataplane: &Dataplane) -> Result<Self> {
        let (events, asks) = Events::new();
        let reader = EventReader::open(dataplane.pins())?;
        let tables = dataplane.tables()?;
        let read_lost: ReadLost = Arc::new(move || {
            let counters = tables.counters()?;
            let index = usize::try_from(LOST_EVENTS).unwrap_or(usize::MAX);
            counters
                .get(index)
                .copied()
                .context("the programs do not count lost events")
        });
        let reading = events.clone();
        tokio::spawn(async move {
            if let Err(error) = reading.run(reader, read_lost).await {
                error!("what the programs tell is not read any more: {error:#}");
            }
        });
        let told = Told::default();
        let pins = dataplane.pins().clone();
        let accountant = Accountant::new(told.clone(), pins, dataplane.tables()?);
        let handler = socket_routes::handler(events.clone(), Arc::new(accountant));
        let socket = Socket::open(&config.run_dir, handler)
            .inspect_err(|error| {
                warn!(
                    "`weir policy`, `weir flow watch` and `weir top` get no answers, and \
                     `weir status` old ones: {error:#}"
                );
            })
            .ok();
        Ok(Self {
            node: config.node_name.clone(),
            desired: Arc::default(),
            scene: None,
            wanted: events.wanted(),
            events,
            asks,
            told,
            _socket: socket,
        })
    }

    /// Where the agent's account of itself is told to those who ask.
    #[must_use]
    pub fn told(&self) -> Told {
        self.told.clone()
    }

    /// Objects have changed.
    pub fn objects_changed(&mut self) {
        self.scene = None;
        self.events.changed();
    }

    /// This is in the tables now.
    pub fn synchronised(&mut self, desired: Desired) {
        self.desired = Arc::new(desired);
        self.events.changed();
    }

    /// Of what the programs are to tell.
    #[must_use]
    pub fn flags(&self) -> PolicyFlags {
        *self.wanted.borrow()
    }

    /// What somebody wants next.
    pub async fn wish(&mut self) -> Wish {
        tokio::select! {
            Some(ask) = self.asks.recv() => Wish::Know(ask),
            Ok(()) = self.wanted.changed() => Wish::Flags,
        }
    }

    /// Tells what is known now.
    pub fn answer(&mut self, ask: Ask, cluster: &Cluster) {
        let scene = self
            .scene
            .get_or_insert_with(|| Arc::new(Scene::new(cluster.clone())));
        let snapshot = Snapshot {
            scene: Arc::clone(scene),
            desired: Arc::clone(&self.desired),
            node: self.node.clone(),
        };
        if ask.send(Arc::new(snapshot)).is_err() {
            tracing::debug!("whoever asked does not wait any more");
        }
    }
}
