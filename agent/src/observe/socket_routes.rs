//! What the agent's socket answers.
//!
//! | | |
//! |---|---|
//! | `GET /v1/status` | how the agent is, and what it has done ([`Account`](super::account::Account)) |
//! | `POST /v1/policy/explain` | a question ([`Written`]) → [`Answer`](crate::explain::answer::Answer) |
//! | `POST /v1/policy/test` | manifests ([`Proposal`]) → [`Tested`](crate::explain::proposal::Tested) |
//! | `GET /v1/policies` | the policies, and which pods of this node they isolate ([`PolicyRow`](crate::listing::policies::PolicyRow)) |
//! | `GET /v1/flows` | records of packets, one a line as they come ([`Line`]); the query is a [`WatchFilter`], and `sample=N`: of what was forwarded each Nth; `last=N`: first the last so many that were dropped |

use std::{convert::Infallible, pin::Pin, sync::Arc};

use futures_util::stream;
use hyper::{
    Method, StatusCode,
    body::{Bytes, Frame},
};
use serde::{Deserialize, Serialize};

use super::{
    account::Accountant,
    events::{Events, Told, Watcher},
    socket::{self, Handler, Question, Response},
};
use crate::{
    explain::{
        FlowRecord, Snapshot,
        answer::{Written, answer},
        proposal::{Proposal, test},
        record::Outcome,
    },
    listing::{policies::policies, watch::WatchFilter, watch::pairs},
};

/// A line of `GET /v1/flows`: a record, or how many were lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// So many records were lost here.
    Lost {
        /// How many.
        lost: u64,
    },
    /// A packet.
    Packet(Box<FlowRecord>),
}

/// What answers.
#[must_use]
pub fn handler(events: Events, accountant: Arc<Accountant>) -> Handler {
    Arc::new(move |question| {
        let (events, accountant) = (events.clone(), Arc::clone(&accountant));
        Box::pin(async move { respond(&events, accountant, question).await })
    })
}

async fn respond(events: &Events, accountant: Arc<Accountant>, question: Question) -> Response {
    let Question {
        method,
        path,
        query,
        body,
    } = question;
    match (method, path.as_str()) {
        (Method::GET, "/v1/status") => account(accountant).await,
        (Method::POST, "/v1/policy/explain") => {
            compute(events, body, |now, written: Written| {
                answer(&now.scene, &written.read()?)
            })
            .await
        }
        (Method::POST, "/v1/policy/test") => {
            compute(events, body, |now, proposal: Proposal| {
                test(&now.scene, &proposal)
            })
            .await
        }
        (Method::GET, "/v1/policies") => {
            compute(events, Bytes::from_static(b"null"), |now, (): ()| {
                Ok(policies(now))
            })
            .await
        }
        (Method::GET, "/v1/flows") => watch(events, &query).await,
        (
            _,
            "/v1/status" | "/v1/policy/explain" | "/v1/policy/test" | "/v1/policies" | "/v1/flows",
        ) => socket::text(
            StatusCode::METHOD_NOT_ALLOWED,
            "another method\n".to_owned(),
        ),
        (_, path) => socket::text(StatusCode::NOT_FOUND, format!("there is no {path}\n")),
    }
}

/// Answers without the agent's loop, which may be at work.
async fn account(accountant: Arc<Accountant>) -> Response {
    match tokio::task::spawn_blocking(move || accountant.account()).await {
        Ok(Some(account)) => socket::json(&account),
        Ok(None) => {
            let text = "the agent starts\n".to_owned();
            socket::text(StatusCode::SERVICE_UNAVAILABLE, text)
        }
        Err(error) => socket::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// Answers with what a function makes of the present, on a thread where that keeps nobody waiting.
async fn compute<Q, A>(
    events: &Events,
    body: Bytes,
    make: impl FnOnce(&Snapshot, Q) -> Result<A, String> + Send + 'static,
) -> Response
where
    Q: for<'de> Deserialize<'de> + Send + 'static,
    A: Serialize + Send + 'static,
{
    let asked: Q = match serde_json::from_slice(&body) {
        Ok(asked) => asked,
        Err(error) => return socket::text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    };
    let Some(now) = events.snapshot().await else {
        let text = "the agent ends\n".to_owned();
        return socket::text(StatusCode::SERVICE_UNAVAILABLE, text);
    };
    match tokio::task::spawn_blocking(move || make(&now, asked)).await {
        Ok(Ok(answer)) => socket::json(&answer),
        Ok(Err(why)) => socket::text(StatusCode::UNPROCESSABLE_ENTITY, format!("{why}\n")),
        Err(error) => socket::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// What a watcher asks for.
struct Wanted {
    filter: WatchFilter,
    sample: u64,
    last: usize,
}

fn wanted(query: &str) -> Result<Wanted, String> {
    let mut wanted = Wanted {
        filter: WatchFilter::default(),
        sample: 1,
        last: 0,
    };
    for (name, value) in pairs(query) {
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("{name}: {value:?} is not a number"))
        };
        match name.as_str() {
            "sample" => wanted.sample = number()?.max(1),
            "last" => wanted.last = usize::try_from(number()?).unwrap_or(usize::MAX),
            _ if wanted.filter.take(&name, &value)? => {}
            _ => return Err(format!("{name}: nothing is known of this")),
        }
    }
    Ok(wanted)
}

async fn watch(events: &Events, query: &str) -> Response {
    let Wanted {
        filter,
        sample,
        last,
    } = match wanted(query) {
        Ok(wanted) => wanted,
        Err(why) => return socket::text(StatusCode::BAD_REQUEST, format!("{why}\n")),
    };
    let verdicts = &filter.verdicts;
    let wants_opened = verdicts.is_empty() || verdicts.contains(&Outcome::Forwarded);
    let (watcher, past) = events.watch(wants_opened, last).await;
    let past = past
        .into_iter()
        .filter(|record| filter.lets_through(record));
    let past: Vec<_> = past
        .map(|record| frame(&Line::Packet(Box::new(record))))
        .collect();
    let following = Following {
        watcher,
        filter,
        sample,
        forwarded: 0,
    };
    let coming = stream::unfold(following, |mut following| async move {
        let frame = following.next().await?;
        Some((frame, following))
    });
    let all = futures_util::StreamExt::chain(stream::iter(past), coming);
    socket::lines(Box::pin(all) as Pin<Box<_>>)
}

/// The lines of one watcher.
struct Following {
    watcher: Watcher,
    filter: WatchFilter,
    sample: u64,
    forwarded: u64,
}

impl Following {
    async fn next(&mut self) -> Option<Result<Frame<Bytes>, Infallible>> {
        loop {
            let record = match self.watcher.next().await? {
                Told::Lost(lost) => return Some(frame(&Line::Lost { lost })),
                Told::Packet(record) => record,
            };
            if !self.filter.lets_through(&record) {
                continue;
            }
            if record.verdict == Outcome::Forwarded {
                let is_chosen = self.forwarded.is_multiple_of(self.sample);
                self.forwarded += 1;
                if !is_chosen {
                    continue;
                }
            }
            return Some(frame(&Line::Packet(Box::new(record.as_ref().clone()))));
        }
    }
}

fn frame(line: &Line) -> Result<Frame<Bytes>, Infallible> {
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    Ok(Frame::data(text.into()))
}
