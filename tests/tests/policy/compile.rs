//! The compiler of policies against the evaluator that was written from the API's text.
//!
//! Random clusters are compiled for both of their nodes, and what the tables say of a connection
//! is compared with what the evaluator says of it: the verdict and the reason.

mod history;
mod node;

use crate::cases;
use crate::policies::connections::connections;
use crate::policies::worlds::world;
use history::{Agent, Agents, Question, edits};
use node::Judge;
use proptest::prelude::*;
use weir_agent::maps::diff::{Limits, diff_within};
use weir_agent::maps::{Contents, Plan};
use weir_tests::reference::policy::world::World;
use weir_tests::reference::policy::{Connection, evaluate};

/// Worlds that are compared.
const WORLDS: u32 = 10_000;

/// Histories of worlds whose changes are followed write by write.
const HISTORIES: u32 = 500;

proptest! {
    #![proptest_config(cases(WORLDS))]

    #[test]
    fn the_tables_say_what_the_evaluator_says(
        world in world(), asked in connections(), has_records in any::<bool>(),
    ) {
        check(&Judge::new(&world, has_records), &world, &asked)?;
    }
}

proptest! {
    #![proptest_config(cases(HISTORIES))]

    #[test]
    fn every_prefix_of_a_change_judges_all_as_before_or_all_as_after(
        worlds in history(), asked in connections(), has_records in any::<bool>(),
        stop in any::<prop::sample::Index>(), is_tight in prop::bool::weighted(0.3),
    ) {
        let mut agent = Agent::default();
        for world in &worlds {
            let desired = agent.compile(world, has_records);
            let questions = Question::all(&agent.actual, &desired, &asked);
            let limits = if is_tight { tight(&desired, &agent.actual) } else { Limits::AMPLE };
            let plan = diff_within(&desired, &agent.actual, limits);
            let before = Question::answers(&questions, &agent.actual);
            let after = Question::answers(&questions, &desired);
            let mut tables = agent.actual.clone();
            let mut prefixes = vec![tables.clone()];
            for write in &plan.0 {
                write.apply_to(&mut tables);
                prefixes.push(tables.clone());
            }
            for (made, tables) in prefixes.iter().enumerate() {
                let now = Question::answers(&questions, tables);
                let seen = Seen { before: &before, after: &after, now: &now };
                seen.check(&questions, is_tight, made, &plan)?;
                prop_assert!(!is_tight || fits(tables, limits), "after {made} of {plan:#?}");
            }
            check_reached(&tables, &desired)?;
            prop_assert_eq!(&diff_within(&desired, &tables, limits), &Plan::default());
            // An agent that was killed somewhere, and another that goes on.
            agent.actual = prefixes[stop.index(prefixes.len())].clone();
            let plan = diff_within(&desired, &agent.actual, limits);
            for write in &plan.0 {
                write.apply_to(&mut agent.actual);
            }
            check_reached(&agent.actual, &desired)?;
            // What was killed may have got no further.
            if stop.index(2) == 0 {
                agent.actual = prefixes[stop.index(prefixes.len())].clone();
            }
            if stop.index(3) == 0 {
                agent.restart();
            }
        }
    }

    #[test]
    fn in_whatever_order_changes_arrive_the_tables_say_what_the_evaluator_says(
        worlds in history(), asked in connections(), has_records in any::<bool>(),
        order in any::<prop::sample::Index>(),
    ) {
        let mut agents = Agents::default();
        for world in &worlds {
            agents.follow(world, has_records, order);
            check(&agents.judge(), world, &asked)?;
        }
    }
}

/// The tables say of all connections what the evaluator says.
fn check(judge: &Judge, world: &World, asked: &[Connection]) -> Result<(), TestCaseError> {
    for connection in asked {
        let expected = evaluate(world, connection);
        let seen = judge.ask(world, connection);
        for (direction, answer) in [
            (&expected.egress, &seen.egress),
            (&expected.ingress, &seen.ingress),
        ] {
            prop_assert!(
                answer.agrees(direction),
                "{connection:?}\nexpected {direction:?}\nbut the tables say {answer:?}"
            );
        }
    }
    Ok(())
}

/// Clusters that follow one another.
fn history() -> impl Strategy<Value = Vec<World>> {
    (world(), edits()).prop_map(|(first, edits)| {
        let mut worlds = vec![first];
        for edit in edits {
            let last = worlds.last().expect("there is a first");
            worlds.push(edit.apply(last));
        }
        worlds
    })
}

/// The answers to the same questions at three times.
struct Seen<'a> {
    before: &'a [bool],
    after: &'a [bool],
    now: &'a [bool],
}

impl Seen<'_> {
    fn check(
        &self,
        questions: &[Question],
        is_tight: bool,
        made: usize,
        plan: &Plan,
    ) -> Result<(), TestCaseError> {
        let Self { before, after, now } = *self;
        let shown = || format!("after {made} of {plan:#?}");
        if is_tight {
            // No more than before or after.
            for ((now, before), after) in now.iter().zip(before).zip(after) {
                prop_assert!(!now || *before || *after, "{}", shown());
            }
            return Ok(());
        }
        // Interfaces that nobody knew, or will know, change each by itself.
        let of_known = |answers: &[bool]| -> Vec<bool> {
            let all = questions.iter().zip(answers);
            all.filter(|(question, _)| question.is_known)
                .map(|(_, answer)| *answer)
                .collect()
        };
        let known = of_known(now);
        prop_assert!(
            known == of_known(before) || known == of_known(after),
            "{}",
            shown()
        );
        for ((now, before), after) in now.iter().zip(before).zip(after) {
            prop_assert!(now == before || now == after, "{}", shown());
        }
        Ok(())
    }
}

/// As small as it may be.
fn tight(desired: &Contents, actual: &Contents) -> Limits {
    let most = |entries: fn(&Contents) -> usize| entries(desired).max(entries(actual));
    Limits {
        pods: most(|it| it.pods.len()),
        pod_addrs: most(|it| it.pod_addrs.len()),
        peers: most(|it| it.peers.len()),
        peer_ranges: most(|it| it.peer_ranges.len()),
        rules: most(|it| it.rules.len()),
        ..Limits::AMPLE
    }
}

fn fits(tables: &Contents, limits: Limits) -> bool {
    tables.pods.len() <= limits.pods
        && tables.pod_addrs.len() <= limits.pod_addrs
        && tables.peers.len() <= limits.peers
        && tables.peer_ranges.len() <= limits.peer_ranges
        && tables.rules.len() <= limits.rules
}

/// The tables are as desired, but for revision and epoch.
fn check_reached(tables: &Contents, desired: &Contents) -> Result<(), TestCaseError> {
    let mut desired = desired.clone();
    desired.policy.revision = tables.policy.revision;
    desired.policy.epoch = tables.policy.epoch;
    prop_assert_eq!(tables, &desired);
    Ok(())
}
