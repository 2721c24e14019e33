//! The API server as the agent's loop sees it: what there is to show of it, and what to tell it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Interval, MissedTickBehavior, interval},
};

use crate::{
    model::ServiceRef,
    observe::{
        listeners::{Listening, Purpose},
        status::Source,
    },
    sources::api::{
        Freshness, Server,
        announce::{Announcer, News},
        candidates::Candidate,
    },
};

/// How often what changes with every object is shown.
const SHOW_EVERY: Duration = Duration::from_secs(5);

/// The API server.
pub struct ApiServer {
    freshness: Freshness,
    changes: watch::Receiver<()>,
    used: watch::Receiver<Option<Candidate>>,
    show: Interval,
    announcer: Announcer,
    /// Services whose health checks cannot be answered, which was announced.
    unanswered: BTreeSet<ServiceRef>,
}

impl ApiServer {
    /// Announces the agent's start.
    pub fn new(server: Arc<Server>, freshness: Freshness, node: String) -> Self {
        let mut show = interval(SHOW_EVERY);
        show.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let used = server.used();
        let announcer = Announcer::start(server, node);
        announcer.say(News::Starting);
        Self {
            changes: freshness.changes(),
            freshness,
            used,
            show,
            announcer,
            unanswered: BTreeSet::new(),
        }
    }

    /// There may be something else to show.
    pub async fn changed(&mut self) {
        tokio::select! {
            // Whoever changes it shares it with us.
            Ok(()) = self.changes.changed() => {}
            _ = self.show.tick() => {}
        }
    }

    /// How each kind is.
    pub fn freshness(&self) -> Vec<Source> {
        self.freshness.sources()
    }

    /// Which address is used, and who named it.
    pub fn used(&self) -> Option<String> {
        self.used.borrow().as_ref().map(ToString::to_string)
    }

    /// Announces health check node ports that cannot be opened, each once until it can.
    pub fn see_listeners(&mut self, listening: &Listening) {
        let mut unanswered = BTreeSet::new();
        for (listener, outcome) in listening {
            let (Purpose::HealthCheck(service), Err(error)) = (&listener.purpose, outcome) else {
                continue;
            };
            let port = listener.address.port();
            if unanswered.insert(service.clone()) && !self.unanswered.contains(service) {
                self.announcer.say(News::NoHealthCheck {
                    service: service.reference(),
                    why: format!("\"{service}\" on port {port}: {error}"),
                });
            }
        }
        self.unanswered = unanswered;
    }
}
