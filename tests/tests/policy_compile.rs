//! The compiler of policies against the evaluator that was written from the API's text.
//!
//! Random clusters are compiled for both of their nodes, and what the tables say of a connection
//! is compared with what the evaluator says of it: the verdict and the reason.

mod policies;
#[path = "policy_compile/node.rs"]
mod node;

use node::{Answer, Judge};
use policies::connections::connections;
use policies::worlds::world;
use proptest::prelude::*;
use weir_tests::reference::policy::evaluate;

/// Worlds that are compared.
const WORLDS: u32 = 10_000;

proptest! {
    #![proptest_config(ProptestConfig {
        cases: WORLDS,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_tables_say_what_the_evaluator_says(
        world in world(), asked in connections(), has_records in any::<bool>(),
    ) {
        let judge = Judge::new(&world, has_records);
        for connection in &asked {
            let expected = evaluate(&world, connection);
            let seen = judge.ask(&world, connection);
            for (direction, answer) in [
                (&expected.egress, &seen.egress),
                (&expected.ingress, &seen.ingress),
            ] {
                prop_assert!(
                    Answer::agrees(answer, direction),
                    "{connection:?}\nexpected {direction:?}\nbut the tables say {answer:?}"
                );
            }
        }
    }
}
