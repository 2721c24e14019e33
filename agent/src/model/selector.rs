//! Label selectors.
//!
//! A selector is a set of requirements, all of which an object's labels must meet. Equal sets are
//! equal selectors, in whatever order and form (`matchLabels` or `matchExpressions`) they were
//! written. No requirement selects everything. A selector that is absent is not an empty one:
//! what it means is for the field that lacks it to say.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as api;

use super::metadata::{validate_label_key, validate_label_value};
use super::{Invalid, Labels};

/// A `meta/v1` LabelSelector.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabelSelector {
    /// In order, none twice. A selector asks for one or two labels, and there are many.
    requirements: Vec<Requirement>,
}

/// What a selector asks of one label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What is asked of it.
    pub condition: Condition,
}

/// What is asked of a label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// It is there and has one of these values, of which there is at least one.
    In(BTreeSet<String>),
    /// It is not there, or has none of these values, of which there is at least one.
    NotIn(BTreeSet<String>),
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

impl LabelSelector {
    /// The selector that selects whatever it is asked about.
    #[must_use]
    pub const fn everything() -> Self {
        Self {
            requirements: Vec::new(),
        }
    }

    /// Does it select whatever it is asked about?
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Does it select an object with these labels?
    #[must_use]
    pub fn selects(&self, labels: &Labels) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.is_met_by(labels))
    }

    /// What it asks for, by key.
    pub fn requirements(&self) -> impl Iterator<Item = &Requirement> {
        self.requirements.iter()
    }

    /// From the API's form.
    pub(super) fn read(selector: &api::LabelSelector) -> Result<Self, Invalid> {
        let mut requirements = BTreeSet::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            validate_label_key(key)
                .and_then(|()| validate_label_value(value))
                .map_err(|message| Invalid::new("matchLabels", message))?;
            requirements.insert(Requirement {
                key: key.clone(),
                condition: Condition::In(BTreeSet::from([value.clone()])),
            });
        }
        for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
            let requirement = Requirement::read(expression)
                .map_err(|invalid| invalid.at(index).within("matchExpressions"))?;
            requirements.insert(requirement);
        }
        Ok(Self {
            requirements: requirements.into_iter().collect(),
        })
    }
}

impl Requirement {
    /// Do these labels meet it?
    #[must_use]
    pub fn is_met_by(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.condition {
            Condition::In(values) => value.is_some_and(|value| values.contains(value)),
            Condition::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Condition::Exists => value.is_some(),
            Condition::DoesNotExist => value.is_none(),
        }
    }

    fn read(expression: &api::LabelSelectorRequirement) -> Result<Self, Invalid> {
        let api::LabelSelectorRequirement {
            key,
            operator,
            values,
        } = expression;
        validate_label_key(key).map_err(|message| Invalid::new("key", message))?;
        let values = values.as_deref().unwrap_or_default();
        let some_values = || {
            if values.is_empty() {
                let message = format!("is empty; {operator} needs a value");
                return Err(Invalid::new("values", message));
            }
            for (index, value) in values.iter().enumerate() {
                validate_label_value(value)
                    .map_err(|message| Invalid::new("", message).at(index).within("values"))?;
            }
            Ok(values.iter().cloned().collect())
        };
        let no_values = |condition| {
            if values.is_empty() {
                Ok(condition)
            } else {
                let message = format!("is not empty; {operator} takes no values");
                Err(Invalid::new("values", message))
            }
        };
        let condition = match operator.as_str() {
            "In" => Condition::In(some_values()?),
            "NotIn" => Condition::NotIn(some_values()?),
            "Exists" => no_values(Condition::Exists)?,
            "DoesNotExist" => no_values(Condition::DoesNotExist)?,
            other => {
                return Err(Invalid::new(
                    "operator",
                    format!("{other:?} is not In, NotIn, Exists or DoesNotExist"),
                ));
            }
        };
        Ok(Self {
            key: key.clone(),
            condition,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(selector: serde_json::Value) -> Result<LabelSelector, Invalid> {
        LabelSelector::read(&serde_json::from_value(selector).unwrap())
    }

    fn labels(labels: &[(&str, &str)]) -> Labels {
        let labels = labels.iter();
        let labels = labels.map(|&(key, value)| (key.to_owned(), value.to_owned()));
        labels.collect::<BTreeMap<_, _>>().into()
    }

    #[test]
    fn an_empty_selector_selects_everything() {
        for empty in [
            json!({}),
            json!({"matchLabels": {}, "matchExpressions": []}),
            json!({"matchLabels": null, "matchExpressions": null}),
        ] {
            let selector = read(empty).unwrap();
            assert_eq!(selector, LabelSelector::everything());
            assert!(selector.is_everything());
            assert!(selector.selects(&labels(&[])) && selector.selects(&labels(&[("a", "b")])));
        }
    }

    #[test]
    fn a_label_that_is_missing_is_in_no_list_and_not_in_every_list() {
        for (operator, values, missing, empty, listed, other) in [
            ("In", json!(["x", "y"]), false, false, true, false),
            ("In", json!([""]), false, true, false, false),
            ("NotIn", json!(["x", "y"]), true, true, false, true),
            ("NotIn", json!([""]), true, false, true, true),
            ("Exists", json!([]), false, true, true, true),
            ("DoesNotExist", json!(null), true, false, false, false),
        ] {
            let expression = json!({"key": "app", "operator": operator, "values": values});
            let selector = read(json!({"matchExpressions": [expression]})).unwrap();
            for (labels, expected) in [
                (labels(&[("tier", "x")]), missing),
                (labels(&[("app", "")]), empty),
                (labels(&[("app", "y")]), listed),
                (labels(&[("app", "z")]), other),
            ] {
                assert_eq!(
                    selector.selects(&labels),
                    expected,
                    "{selector:?} {labels:?}"
                );
            }
        }
    }

    #[test]
    fn the_form_does_not_matter() {
        let by_labels = read(json!({"matchLabels": {"a": "1", "b": "2"}})).unwrap();
        let by_expressions = read(json!({"matchExpressions": [
            {"key": "b", "operator": "In", "values": ["2", "2"]},
            {"key": "a", "operator": "In", "values": ["1"]},
        ]}))
        .unwrap();
        assert_eq!(by_labels, by_expressions);
        assert_eq!(by_labels.requirements().count(), 2);
    }

    #[test]
    fn what_is_wrong_names_its_field() {
        let expression = |key: &str, operator: &str, values: serde_json::Value| {
            json!({"matchExpressions": [
                {"key": "fine", "operator": "Exists"},
                {"key": key, "operator": operator, "values": values},
            ]})
        };
        for (selector, expected) in [
            (
                expression("a", "Equals", json!(["b"])),
                "matchExpressions[1].operator: \"Equals\" is not In, NotIn, Exists or DoesNotExist",
            ),
            (
                expression("a", "", json!(["b"])),
                "matchExpressions[1].operator: \"\" is not In, NotIn, Exists or DoesNotExist",
            ),
            (
                expression("a", "In", json!([])),
                "matchExpressions[1].values: is empty; In needs a value",
            ),
            (
                expression("a", "NotIn", json!(null)),
                "matchExpressions[1].values: is empty; NotIn needs a value",
            ),
            (
                expression("a", "Exists", json!(["b"])),
                "matchExpressions[1].values: is not empty; Exists takes no values",
            ),
            (
                expression("a", "DoesNotExist", json!([""])),
                "matchExpressions[1].values: is not empty; DoesNotExist takes no values",
            ),
            (
                expression("", "Exists", json!([])),
                "matchExpressions[1].key: \"\" is not a label's key",
            ),
            (
                expression("a", "In", json!(["fine", "a b"])),
                "matchExpressions[1].values[1]: \"a b\" is not a label's value",
            ),
            (
                json!({"matchLabels": {"": "b"}}),
                "matchLabels: \"\" is not a label's key",
            ),
            (
                json!({"matchLabels": {"a": "b/c"}}),
                "matchLabels: \"b/c\" is not a label's value",
            ),
        ] {
            assert_eq!(read(selector).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn ten_thousand_labels_are_read_and_each_counts() {
        let many: BTreeMap<String, String> = (0..10_000)
            .map(|n| (format!("key-{n}"), format!("value-{n}")))
            .collect();
        let values: Vec<_> = many.values().collect();
        let selector = read(json!({
            "matchLabels": many,
            "matchExpressions": [{"key": "key-7", "operator": "In", "values": values}],
        }))
        .unwrap();
        assert_eq!(selector.requirements().count(), 10_001);
        assert!(selector.selects(&many.clone().into()));
        let mut other = many;
        other.insert("key-9999".to_owned(), "other".to_owned());
        assert!(!selector.selects(&other.into()));
    }

    /// A requirement as written, of few keys and values so that they often meet.
    fn expressions() -> impl Strategy<Value = Vec<(u8, u8, Vec<u8>)>> {
        let values = proptest::collection::vec(0_u8..3, 1..4);
        proptest::collection::vec((0_u8..3, 0_u8..5, values), 0..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn a_selector_selects_what_the_api_says(
            expressions in expressions(),
            present in proptest::collection::btree_map(0_u8..3, 0_u8..3, 0..4),
        ) {
            let key = |key: u8| format!("k{key}");
            let value = |value: u8| ["", "a", "b"][usize::from(value)].to_owned();
            let mut selector = api::LabelSelector::default();
            let mut expected = true;
            for (about, operator, values) in &expressions {
                let has = present.get(about);
                let is_listed = has.is_some_and(|has| values.contains(has));
                // One sentence of the API's text each.
                let (name, is_met) = match operator {
                    0 => ("In", is_listed),
                    1 => ("NotIn", !is_listed),
                    2 => ("Exists", has.is_some()),
                    3 => ("DoesNotExist", has.is_none()),
                    _ => {
                        let labels = selector.match_labels.get_or_insert_default();
                        if labels.insert(key(*about), value(values[0])).is_none() {
                            expected &= has == Some(&values[0]);
                        } else {
                            // The map holds one value a key: keep the one that was judged.
                            prop_assume!(false);
                        }
                        continue;
                    }
                };
                expected &= is_met;
                let takes_values = *operator < 2;
                selector.match_expressions.get_or_insert_default().push(
                    api::LabelSelectorRequirement {
                        key: key(*about),
                        operator: name.to_owned(),
                        values: takes_values
                            .then(|| values.iter().map(|&v| value(v)).collect()),
                    },
                );
            }
            let labels = present.iter().map(|(&k, &v)| (key(k), value(v)));
            let labels = labels.collect::<BTreeMap<_, _>>().into();
            let selector = LabelSelector::read(&selector).unwrap();
            prop_assert_eq!(selector.selects(&labels), expected);
        }
    }
}
