//! What can be wrong with an answer of the API server.

use std::time::Duration;

use kube::core::Status;

use super::{resources::Resource, server::in_full_of_client};

/// Longer than this the API server is not left alone, whatever it asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Why a list or watch came to nothing, or to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nobody answers where the API server may be. Whoever tried has said so.
    Nobody(String),
    /// The connection is broken.
    Unreachable(String),
    /// It does not know the credentials (401).
    Unauthorized(String),
    /// It knows them, and does not allow it (403).
    Forbidden(String),
    /// It does not know the kind (404).
    Absent(String),
    /// It does not know the version any more, or not yet (410).
    Expired(String),
    /// It cannot do what was asked, and will not be able to (400, 422).
    Refused(String),
    /// It cannot do it now (429, 5xx), and asks to be left alone for so long.
    Busy(String, Duration),
    /// It was interrupted.
    Cut(String),
    /// What it said cannot be understood.
    Garbled(String),
}

impl Fault {
    /// Nothing came for so long.
    #[must_use]
    pub fn late(patience: Duration) -> Self {
        Self::Unreachable(format!("nothing was heard for {} s", patience.as_secs()))
    }

    /// May it be over with the next attempt, so that nobody need hear of it?
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable(_)
            | Self::Expired(_)
            | Self::Busy(..)
            | Self::Cut(_)
            | Self::Garbled(_) => true,
            Self::Nobody(_)
            | Self::Unauthorized(_)
            | Self::Forbidden(_)
            | Self::Absent(_)
            | Self::Refused(_) => false,
        }
    }

    /// In a word, for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Nobody(_) | Self::Unreachable(_) => "unreachable",
            Self::Unauthorized(_) => "unauthorized",
            Self::Forbidden(_) => "forbidden",
            Self::Absent(_) => "absent",
            Self::Expired(_) => "expired",
            Self::Refused(_) => "refused",
            Self::Busy(..) => "busy",
            Self::Cut(_) => "cut",
            Self::Garbled(_) => "garbled",
        }
    }

    /// In a sentence, with what to do about it.
    #[must_use]
    pub fn explain(&self, resource: &Resource) -> String {
        let name = resource.role_name();
        match self {
            Self::Nobody(why) | Self::Unreachable(why) => {
                format!("the API server cannot be reached: {why}")
            }
            Self::Unauthorized(why) => format!("the API server refuses the credentials: {why}"),
            Self::Forbidden(why) => format!(
                "list and watch of {name} are forbidden; give the agent's ClusterRole both verbs \
                 on {name}: {why}"
            ),
            Self::Absent(_) => format!("the API server does not serve {name} (v1)"),
            Self::Expired(why) => format!("the API server forgot where the watch was: {why}"),
            Self::Refused(why) | Self::Busy(why, _) => format!("the API server: {why}"),
            Self::Cut(why) => why.clone(),
            Self::Garbled(why) => format!("the API server's answer cannot be read: {why}"),
        }
    }
}

impl From<kube::Error> for Fault {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from(*status),
            other => Self::Unreachable(in_full_of_client(&other)),
        }
    }
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        let is_ahead = status.details.iter().any(|details| {
            let mut causes = details.causes.iter();
            causes.any(|cause| cause.reason == "ResourceVersionTooLarge")
        });
        let seconds = status
            .details
            .as_ref()
            .map_or(0, |it| it.retry_after_seconds);
        let text = match status.message.trim() {
            "" => format!("{} {}", status.code, status.reason),
            message => format!("{} {message}", status.code),
        };
        match status.code {
            // An API server that was set back to an earlier state counts from there.
            _ if is_ahead => Self::Expired(text),
            401 => Self::Unauthorized(text),
            403 => Self::Forbidden(text),
            404 => Self::Absent(text),
            410 => Self::Expired(text),
            400 | 422 => Self::Refused(text),
            _ => {
                let wait = Duration::from_secs(seconds.into());
                Self::Busy(text, wait.min(LONGEST_WAIT))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Kind;

    fn fault(status: serde_json::Value) -> Fault {
        Fault::from(serde_json::from_value::<Status>(status).unwrap())
    }

    #[test]
    fn an_answer_is_told_by_its_code() {
        for (code, reason) in [
            (400, "refused"),
            (401, "unauthorized"),
            (403, "forbidden"),
            (404, "absent"),
            (410, "expired"),
            (422, "refused"),
            (429, "busy"),
            (500, "busy"),
            (504, "busy"),
        ] {
            let fault = fault(json!({"code": code, "message": "no"}));
            assert_eq!(fault.reason(), reason, "{code}");
        }
    }

    #[test]
    fn a_version_that_is_yet_to_come_is_no_place_to_go_on_from() {
        let causes = json!([{"reason": "ResourceVersionTooLarge", "message": "Too large"}]);
        let status = json!({"code": 504, "reason": "Timeout", "details": {"causes": causes}});
        assert_eq!(fault(status).reason(), "expired");
    }

    #[test]
    fn it_is_left_alone_for_as_long_as_it_asks_within_reason() {
        for (seconds, expected) in [(0, 0), (7, 7), (4000, 60)] {
            let details = json!({"retryAfterSeconds": seconds});
            let fault = fault(json!({"code": 429, "message": "no", "details": details}));
            let expected = Duration::from_secs(expected);
            assert_eq!(fault, Fault::Busy("429 no".to_owned(), expected));
        }
    }

    #[test]
    fn a_right_that_is_lacking_is_named_with_its_verbs() {
        let text = Fault::Forbidden("no".to_owned()).explain(Resource::of(Kind::NetworkPolicy));
        assert!(
            text.contains("both verbs on networkpolicies.networking.k8s.io"),
            "{text}"
        );
    }
}
