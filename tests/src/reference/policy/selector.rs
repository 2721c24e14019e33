//! Which labels a selector selects.

use super::world::{Labels, Requirement, Selector};

/// "The result of `matchLabels` and `matchExpressions` are `ANDed`. An empty label selector matches
/// all objects."
#[must_use]
pub fn selects(selector: &Selector, labels: &Labels) -> bool {
    let mut pairs = selector.match_labels.iter();
    let mut requirements = selector.match_expressions.iter();
    pairs.all(|(key, value)| labels.get(key) == Some(value))
        && requirements.all(|requirement| holds(requirement, labels))
}

/// "In, `NotIn`, Exists and `DoesNotExist`." What has not got the key at all is `NotIn` any values.
/// A requirement that cannot be read holds for nothing.
fn holds(requirement: &Requirement, labels: &Labels) -> bool {
    let value = labels.get(&requirement.key);
    let is_listed = value.is_some_and(|value| requirement.values.contains(value));
    match requirement.operator.as_str() {
        "In" => is_listed,
        "NotIn" => !is_listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}
