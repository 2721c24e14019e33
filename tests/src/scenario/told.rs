//! What the datapath has told of packets, in the words of policies.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use weir_agent::compile::{PolicyNames, RuleName};
use weir_agent::model::{Direction, PolicyRef};
use weir_ebpf::event::{self, Event};
use weir_ebpf::tables::NOBODY;
use weir_ebpf::verdict::{DropReason, Verdict};

/// What was told of a packet on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The rules by which it has opened a conversation.
    pub rules: BTreeSet<RuleName>,
    /// The policies that isolate who was not allowed to send or receive it. `None`: it was not
    /// refused by policy.
    pub isolated_by: Option<BTreeSet<PolicyRef>>,
}

impl Told {
    /// What events say of a packet that ended with a verdict.
    ///
    /// # Errors
    /// They speak of something else, or of numbers that stand for nothing.
    pub fn read(events: &[Event], verdict: Verdict, names: &PolicyNames) -> Result<Self> {
        let mut told = Self::default();
        for event in events {
            let ended = verdict_of(event)?;
            match ended {
                Verdict::Drop(DropReason::EgressPolicy | DropReason::IngressPolicy) => {
                    ensure!(
                        ended == verdict,
                        "{event:?} tells of {ended:?}, not {verdict:?}"
                    );
                    ensure!(
                        told.isolated_by.is_none(),
                        "a packet was refused twice: {events:?}"
                    );
                    told.isolated_by = Some(isolating(event, ended, names)?);
                }
                Verdict::Drop(_) | Verdict::Reject(_) => {
                    ensure!(
                        ended == verdict,
                        "{event:?} tells of {ended:?}, not {verdict:?}"
                    );
                }
                Verdict::Pass | Verdict::PassFragment | Verdict::Translate => {
                    if event.rule != 0 {
                        told.rules.insert(rule(event, names)?);
                    }
                }
            }
        }
        let is_refused = matches!(
            verdict,
            Verdict::Drop(DropReason::EgressPolicy | DropReason::IngressPolicy)
        );
        ensure!(
            is_refused == told.isolated_by.is_some(),
            "{verdict:?}, of which was told {events:?}"
        );
        Ok(told)
    }
}

/// The verdict that an event tells of.
///
/// # Errors
/// There is none of this number.
pub fn verdict_of(event: &Event) -> Result<Verdict> {
    let number = usize::from(event.verdict);
    let verdict = Verdict::ALL.get(number).copied();
    verdict.with_context(|| format!("no verdict has the number {number}"))
}

/// The direction in which an event's packet was judged.
///
/// # Errors
/// In none.
pub fn direction_of(event: &Event) -> Result<Direction> {
    match event.direction {
        event::Direction::EGRESS => Ok(Direction::Egress),
        event::Direction::INGRESS => Ok(Direction::Ingress),
        _ => anyhow::bail!("{event:?} was judged in no direction"),
    }
}

fn isolating(event: &Event, verdict: Verdict, names: &PolicyNames) -> Result<BTreeSet<PolicyRef>> {
    let direction = direction_of(event)?;
    let expected = match direction {
        Direction::Egress => Verdict::Drop(DropReason::EgressPolicy),
        Direction::Ingress => Verdict::Drop(DropReason::IngressPolicy),
    };
    ensure!(
        verdict == expected && event.rule == 0,
        "{event:?} contradicts itself"
    );
    if event.subject == NOBODY {
        return Ok(BTreeSet::new());
    }
    let subject = names.subjects.get(&event.subject);
    let subject = subject.with_context(|| format!("no subject set is meant by {event:?}"))?;
    ensure!(
        subject.direction == direction,
        "{event:?} names {subject:?}, which is of the other direction"
    );
    Ok(subject.policies.clone())
}

fn rule(event: &Event, names: &PolicyNames) -> Result<RuleName> {
    let rule = names.rules.get(&event.rule);
    let rule = rule.with_context(|| format!("no rule is meant by {event:?}"))?;
    ensure!(
        rule.direction == direction_of(event)?,
        "{event:?} names {rule}, which is of the other direction"
    );
    Ok(rule.clone())
}
