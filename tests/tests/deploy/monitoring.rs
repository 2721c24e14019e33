//! Alerts and dashboard: whether what they ask for is there.

#![allow(
    clippy::unwrap_used,
    reason = "what is not of the shape that is expected fails the test"
)]

use std::collections::BTreeSet;

use serde_json::Value;

use crate::agent::{is_metric, metrics};
use crate::objects::text;

/// All expressions of alerts and dashboard, each with where it stands.
fn expressions() -> Vec<(String, String)> {
    let alerts: Value = serde_saphyr::from_str(&text("chart/mixin/alerts.yaml").unwrap()).unwrap();
    let mut found = Vec::new();
    for group in alerts["groups"].as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap() {
            let name = rule["alert"].as_str().unwrap().to_owned();
            found.push((name, rule["expr"].as_str().unwrap().to_owned()));
        }
    }
    let board: Value = serde_json::from_str(&text("chart/mixin/dashboard.json").unwrap()).unwrap();
    for panel in board["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let name = panel["title"].as_str().unwrap().to_owned();
            found.push((name, target["expr"].as_str().unwrap().to_owned()));
        }
    }
    found
}

/// The words of an expression that can be metrics, and for each the name that a histogram's part
/// comes from.
fn named(expression: &str) -> BTreeSet<String> {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = expression.split(|letter| !is_word(letter));
    words
        .filter(|word| is_metric(word))
        .map(|word| word.strip_suffix("_bucket").unwrap_or(word).to_owned())
        .collect()
}

#[test]
fn every_metric_that_is_asked_for_is_one_that_the_agent_has() {
    let exported = metrics().unwrap();
    let mut asked = BTreeSet::new();
    for (place, expression) in expressions() {
        for name in named(&expression) {
            assert!(exported.contains(&name), "{place}: there is no {name}");
            asked.insert(name);
        }
    }
    assert!(asked.len() > 15, "only {asked:?} are asked for");
}

#[test]
fn every_expression_asks_for_the_job_of_the_pod_monitor() {
    for (place, expression) in expressions() {
        let selectors = expression.matches('{').count();
        assert!(selectors > 0, "{place}: {expression}");
        assert_eq!(
            expression.matches(r#"job="weir""#).count(),
            selectors,
            "{place}: {expression}"
        );
        let open = |letter| expression.matches(letter).count();
        assert!(
            open('(') == open(')') && open('{') == open('}') && open('[') == open(']'),
            "{place}: {expression}"
        );
    }
}

#[test]
fn every_alert_says_what_it_means_and_what_to_do() {
    let alerts: Value = serde_saphyr::from_str(&text("chart/mixin/alerts.yaml").unwrap()).unwrap();
    let mut names = BTreeSet::new();
    for rule in alerts["groups"][0]["rules"].as_array().unwrap() {
        let name = rule["alert"].as_str().unwrap();
        assert!(names.insert(name), "{name} is there twice");
        for field in ["summary", "description", "runbook"] {
            let text = rule["annotations"][field].as_str().unwrap_or_default();
            assert!(text.len() > 20, "{name} has no {field}");
        }
        let severity = rule["labels"]["severity"].as_str().unwrap_or_default();
        assert!(
            ["critical", "warning", "info"].contains(&severity),
            "{name}"
        );
    }
}
