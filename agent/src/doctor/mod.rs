//! Is this node fit for Weir?
//!
//! Each look gives [`Finding`]s: what was looked at, how it is, what was found, and what to do
//! about it. Nothing is changed, and nothing is guessed from a version that can be tried.
//!
//! | file | what |
//! |---|---|
//! | `kernel` | the kernel and what it can do |
//! | `privileges` | what this process may do |
//! | `places` | directories and file systems |
//! | `neighbours` | kube-proxy, other programs, settings of the network, the fast path |

mod kernel;
mod neighbours;
mod places;
mod privileges;

use serde::Serialize;

use crate::config::{Paths, Places};

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Weir works, but perhaps not as is meant.
    Warning,
    /// Weir does not work.
    Error,
}

/// What a look has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What was looked at.
    pub name: String,
    /// How it is.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(name: &str, found: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            state: State::Ok,
            found: found.into(),
            remedy: None,
        }
    }

    fn warning(name: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            state: State::Warning,
            remedy: Some(remedy.into()),
            ..Self::ok(name, found)
        }
    }

    fn error(name: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            state: State::Error,
            remedy: Some(remedy.into()),
            ..Self::ok(name, found)
        }
    }
}

/// Looks at everything, the gravest first where it is all about one thing.
pub async fn examine(paths: &Paths, places: &Places) -> Vec<Finding> {
    let mut findings = kernel::examine();
    findings.extend(privileges::examine());
    findings.extend(places::examine(paths, places));
    findings.extend(neighbours::examine(paths, places).await);
    findings
}

/// How the worst of them is.
#[must_use]
pub fn worst(findings: &[Finding]) -> State {
    let states = findings.iter().map(|finding| finding.state);
    states.max().unwrap_or(State::Ok)
}
