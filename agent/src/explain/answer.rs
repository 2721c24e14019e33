//! An explanation in words: for people, for programs, and between agent and command line.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::party::{Asked, Question, connections};
use super::record::{Nearest, Place, isolated};
use super::{Explainer, Judgement, Scene, Sender};
use crate::model::{Direction, PodRef};
use weir_ebpf::verdict::Verdict;

/// A question as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Written {
    /// Who opens the connection: `NAMESPACE/POD`, `node/NAME` or an address.
    pub from: String,
    /// To whom: the same, or `service/NAMESPACE/NAME`.
    pub to: String,
    /// To which port, by its number or name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub port: Option<String>,
    /// By which protocol.
    #[serde(default = "tcp")]
    pub protocol: String,
}

fn tcp() -> String {
    "TCP".to_owned()
}

impl Written {
    /// What it asks.
    ///
    /// # Errors
    /// Says what cannot be read.
    pub fn read(&self) -> Result<Question, String> {
        Ok(Question {
            from: self.from.parse()?,
            to: self.to.parse()?,
            port: self.port.clone(),
            sent: self.protocol.parse()?,
        })
    }
}

/// The answer to a question: one for each connection that it means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Is all of it allowed?
    pub allowed: bool,
    /// What becomes of each.
    pub connections: Vec<Explained>,
}

/// What becomes of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// Do both ends let it pass?
    pub allowed: bool,
    /// Who opens it.
    pub from: Place,
    /// To whom: the backend, where a service is called.
    pub to: Place,
    /// `TCP`, `UDP`, `SCTP`, `ICMP`, `protocol 47`
    pub protocol: String,
    /// The service's address that is called.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub service: Option<SocketAddr>,
    /// The sender's end.
    pub egress: Told,
    /// The receiver's end.
    pub ingress: Told,
    /// Tables and objects disagree: a fault of Weir's.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub doubt: Option<String>,
}

/// What is said of one end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// Does it let the connection pass?
    pub allowed: bool,
    /// `noSubject`, `itself`, `ownNode`, `notIsolated`, `rules`, `policies`; or the reason of a
    /// verdict that has nothing to do with policies, as metrics have it.
    pub reason: String,
    /// The rule that decides.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rule: Option<String>,
    /// All rules that allow it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub rules: Vec<String>,
    /// The policies that isolate the pod, where no rule allows it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub isolated_by: Vec<String>,
    /// The rule that almost allows it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub nearest: Option<Nearest>,
    /// Why, in a sentence.
    pub why: String,
}

/// Answers a question.
///
/// # Errors
/// Says what in the question is not known.
pub fn answer(scene: &Scene, question: &Question) -> Result<Answer, String> {
    let mut explainer = Explainer::new(scene);
    let asked = connections(&mut explainer, scene, question)?;
    let connections: Vec<_> = asked
        .iter()
        .map(|asked| explained(&mut explainer, scene, asked))
        .collect();
    Ok(Answer {
        allowed: connections.iter().all(|one| one.allowed),
        connections,
    })
}

fn explained(explainer: &mut Explainer<'_>, scene: &Scene, asked: &Asked) -> Explained {
    let connection = &asked.connection;
    let explanation = explainer.explain(connection);
    let receiver = scene.owner(connection.to).map(|pod| &pod.id);
    let (sender, node) = match &connection.from {
        Sender::Pod(pod, _) => (Some(pod), None),
        Sender::Node(name, _) => (None, Some(name.clone())),
        Sender::Outside(_) => (None, None),
    };
    Explained {
        allowed: explanation.is_allowed(),
        from: Place {
            pod: sender.map(ToString::to_string),
            node,
            address: connection.from.addr(),
            port: None,
        },
        to: Place {
            pod: receiver.map(ToString::to_string),
            node: match receiver {
                Some(_) => None,
                None => scene.node_at(connection.to).map(ToOwned::to_owned),
            },
            address: connection.to,
            port: connection.traffic.port(),
        },
        protocol: connection.traffic.protocol().to_string(),
        service: asked.service.map(SocketAddr::from),
        egress: told(&explanation.egress, sender, Direction::Egress),
        ingress: told(&explanation.ingress, receiver, Direction::Ingress),
        doubt: explanation.doubt,
    }
}

/// What is said of one end.
#[must_use]
pub fn told(judgement: &Judgement, pod: Option<&PodRef>, direction: Direction) -> Told {
    let mut told = Told {
        allowed: judgement.is_allowed(),
        reason: String::new(),
        rule: None,
        rules: Vec::new(),
        isolated_by: Vec::new(),
        nearest: None,
        why: String::new(),
    };
    let (reason, why) = match judgement {
        Judgement::NoSubject => (
            "noSubject",
            match pod {
                Some(pod) => format!("{pod} has no network of its own"),
                None => "it is no pod, and no policy is about it".to_owned(),
            },
        ),
        Judgement::Itself => ("itself", "a pod may always talk to itself".to_owned()),
        Judgement::OwnNode => (
            "ownNode",
            "a node may always talk to its own pods".to_owned(),
        ),
        Judgement::NotIsolated => (
            "notIsolated",
            format!("no policy isolates it for {direction}"),
        ),
        Judgement::ByRules { decided, all } => {
            told.rule = decided.as_ref().map(ToString::to_string);
            told.rules = all.iter().map(ToString::to_string).collect();
            let rules = match told.rules.as_slice() {
                [] => told.rule.clone().unwrap_or_else(|| "a rule".to_owned()),
                rules => rules.join(", "),
            };
            ("rules", format!("allowed by {rules}"))
        }
        Judgement::Refused {
            isolated_by,
            nearest,
        } => {
            told.isolated_by = isolated_by.iter().map(ToString::to_string).collect();
            told.nearest = nearest.as_ref().map(Nearest::from);
            ("policies", isolated(&told.isolated_by, nearest.as_ref()))
        }
        Judgement::Otherwise(verdict) => match verdict {
            Verdict::Reject(reason) => (reason.name(), reason.sentence().to_owned()),
            Verdict::Drop(reason) => (reason.name(), reason.sentence().to_owned()),
            Verdict::Pass | Verdict::Translate | Verdict::PassFragment => {
                (verdict.name(), "it passes".to_owned())
            }
        },
    };
    told.reason = reason.to_owned();
    told.why = why;
    told
}

impl Explained {
    /// `shop/cart-1 → 10.200.3.7:5432 TCP (db/pg-0)`
    #[must_use]
    pub fn title(&self) -> String {
        let from = self
            .from
            .name()
            .unwrap_or_else(|| self.from.address.to_string());
        let mut known: Vec<String> = self.to.name().into_iter().collect();
        known.extend(
            self.service
                .map(|service| format!("by the service at {service}")),
        );
        let known = match known.join(" ") {
            nobody if nobody.is_empty() => nobody,
            known => format!(" ({known})"),
        };
        format!(
            "{from} → {} {}{known}",
            self.to.address_text(),
            self.protocol
        )
    }

    /// Everything but addresses: what is the same in both families is told once.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let of = |it: &Self| {
            (
                it.allowed,
                it.from.name(),
                it.to.name(),
                it.to.port,
                it.protocol.replace("v6", ""),
                it.egress.clone(),
                it.ingress.clone(),
            )
        };
        of(self) == of(other) && self.to.name().is_some() && self.from.name().is_some()
    }
}
