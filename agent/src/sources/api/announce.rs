//! What the agent tells the cluster: `events.k8s.io` Events, as kube-proxy makes them.
//!
//! Nothing waits for them and nothing depends on them: one that cannot be made is logged.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;
use tracing::warn;

use super::Server;
use crate::model::{Kind, ObjectRef};

/// The group and resource of events, and what is done with them: for the role.
pub const EVENTS: (&str, &str, [&str; 2]) = ("events.k8s.io", "events", ["create", "patch"]);

/// Announcements that wait at most. Those beyond are dropped.
const WAITING: usize = 64;

/// Something to announce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The agent of this node starts.
    Starting,
    /// A service's health checks cannot be answered at its `healthCheckNodePort`.
    NoHealthCheck {
        /// The service.
        service: ObjectRef,
        /// Where, and why not.
        why: String,
    },
}

/// Where to say it.
#[derive(Clone, Debug)]
pub struct Announcer(mpsc::Sender<News>);

impl Announcer {
    /// Announces for a node; what is said before there is a connection waits for it.
    #[must_use]
    pub fn start(server: Arc<Server>, node: String) -> Self {
        let (sender, news) = mpsc::channel(WAITING);
        tokio::spawn(announce(server, node, news));
        Self(sender)
    }

    /// Says it, unless too much waits to be said.
    pub fn say(&self, news: News) {
        if let Err(error) = self.0.try_send(news) {
            warn!("an event is not made: {error}");
        }
    }
}

async fn announce(server: Arc<Server>, node: String, mut news: mpsc::Receiver<News>) {
    let mut used = server.used();
    while let Some(news) = news.recv().await {
        // Followers look for the API server; there is no need for one more who does.
        if used.wait_for(Option::is_some).await.is_err() {
            return;
        }
        let (event, about) = event(&node, &news);
        let result = match server.connection().await {
            Ok(connection) => {
                let reporter = Reporter {
                    controller: "weir".to_owned(),
                    instance: Some(node.clone()),
                };
                let recorder = Recorder::new(connection.client, reporter);
                let published = recorder.publish(&event, &about).await;
                published.map_err(anyhow::Error::from)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            warn!(reason = event.reason, "the event cannot be made: {error:#}");
        }
    }
}

/// With kube-proxy's reasons and words.
fn event(node: &str, news: &News) -> (Event, ObjectReference) {
    let (type_, reason, action, note, about) = match news {
        News::Starting => (
            EventType::Normal,
            "Starting",
            "StartWeir",
            None,
            ObjectRef::new(Kind::Node, "", node),
        ),
        News::NoHealthCheck { service, why } => (
            EventType::Warning,
            "FailedToStartServiceHealthcheck",
            "Listen",
            Some(format!("node {node} failed to start healthcheck {why}")),
            service.clone(),
        ),
    };
    let event = Event {
        type_,
        reason: reason.to_owned(),
        note,
        action: action.to_owned(),
        secondary: None,
    };
    let is_node = about.kind == Kind::Node;
    let about = ObjectReference {
        api_version: Some(about.kind.api_version().to_owned()),
        kind: Some(about.kind.name().to_owned()),
        namespace: (!about.namespace.is_empty()).then_some(about.namespace),
        // `kubectl describe node` looks for the name here, too.
        uid: is_node.then(|| about.name.clone()),
        name: Some(about.name),
        ..ObjectReference::default()
    };
    (event, about)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_about_the_node_or_the_service() {
        let (starting, node) = event("worker-0", &News::Starting);
        assert_eq!(starting.reason, "Starting");
        assert_eq!((node.kind.as_deref(), node.namespace), (Some("Node"), None));
        assert_eq!(node.uid.as_deref(), Some("worker-0"));

        let service = ObjectRef::new(Kind::Service, "shop", "web");
        let why = "\"shop/web\" on port 30000: taken".to_owned();
        let (failed, service) = event("worker-0", &News::NoHealthCheck { service, why });
        assert_eq!(failed.reason, "FailedToStartServiceHealthcheck");
        assert_eq!(
            failed.note.as_deref(),
            Some("node worker-0 failed to start healthcheck \"shop/web\" on port 30000: taken")
        );
        assert_eq!(service.namespace.as_deref(), Some("shop"));
        assert_eq!(service.uid, None);
    }
}
