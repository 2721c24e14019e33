//! YAML with the line of every value.
//!
//! A document becomes a tree first, then JSON, then an API type: so that a field that is found
//! wrong at any of these steps has a line, and that one object of a list can be wrong alone.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{MessageFormatter, Spanned, UserMessageFormatter};

use crate::model::{FieldPath, Step};

/// What a document may hold. The limits protect from documents made to be expensive; a list of a
/// whole cluster's objects is far below them.
const MAX_NODES: usize = 50_000_000;

/// A value and where it is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// The line where it begins; of a field's value the line of the field's name.
    pub line: u64,
    pub value: Value,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Scalar(serde_json::Value),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// Text that is no YAML.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub line: Option<u64>,
    pub message: String,
}

/// Parses one document. Nothing at all is [`Value::Null`].
pub(super) fn parse_document(text: &str) -> Result<Node, SyntaxError> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        // YAML 1.2: a namespace called `n` and a port called `on` are text.
        strict_booleans: true,
        budget: serde_saphyr::budget! {
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES,
        },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| SyntaxError {
        line: error.location().map(|location| location.line()),
        message: UserMessageFormatter
            .format_message(error.without_snippet())
            .into_owned(),
    })
}

impl Node {
    /// The value of this field, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(fields) => fields
                .iter()
                .find(|(name, _)| name == key)
                .map(|(_, value)| value),
            Value::Null | Value::Scalar(_) | Value::List(_) => None,
        }
    }

    /// The text of this field, if this is a map that has it and it is text.
    pub fn get_text(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.value {
            Value::Scalar(scalar) => scalar.as_str(),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// The line of this field, or of the nearest that holds it.
    pub fn line_of(&self, field: &FieldPath) -> u64 {
        let mut node = self;
        for step in &field.0 {
            let next = match (step, &node.value) {
                (Step::Key(key), Value::Map(_)) => node.get(key),
                (Step::Index(index), Value::List(items)) => items.get(*index),
                (Step::Key(_) | Step::Index(_), _) => None,
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node.line
    }

    /// The same value without lines.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Scalar(scalar) => scalar.clone(),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(fields) => fields
                .iter()
                .map(|(key, value)| (key.clone(), value.to_json()))
                .collect(),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self {
            // Of an alias the place where it is used, not where its anchor is.
            line: spanned.referenced.line(),
            value: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Scalar(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Scalar(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Scalar(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Scalar(value.into()))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Scalar(value.into()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some((key, value)) = entries.next_entry::<Spanned<String>, Node>()? {
            let line = match key.referenced.line() {
                0 => value.line,
                line => line,
            };
            map.push((key.value, Node { line, ..value }));
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# a comment
kind: Service
spec:
  clusterIP: 10.32.0.140
  ports:
    - name: http
      port: 80
    - {name: admin,
       port: 8080}
  empty:
  ready: true
  name: on
  anchored: &addr [1, 2.5]
  alias: *addr
";

    fn line(path: &[Step]) -> u64 {
        let node = parse_document(TEXT).unwrap();
        node.line_of(&FieldPath(path.to_vec()))
    }

    fn key(key: &str) -> Step {
        Step::Key(key.to_owned())
    }

    #[test]
    fn every_field_has_its_line() {
        assert_eq!(line(&[key("kind")]), 2);
        assert_eq!(line(&[key("spec")]), 3);
        assert_eq!(line(&[key("spec"), key("ports")]), 5);
        let ports =
            |index, field: &str| line(&[key("spec"), key("ports"), Step::Index(index), key(field)]);
        assert_eq!(ports(0, "name"), 6);
        assert_eq!(ports(0, "port"), 7);
        assert_eq!(ports(1, "port"), 9);
        assert_eq!(ports(1, "missing"), 8, "the nearest that holds it");
        assert_eq!(ports(7, "port"), 5);
        assert_eq!(line(&[key("spec"), key("alias")]), 14);
    }

    #[test]
    fn values_are_those_of_yaml_1_2() {
        let json = parse_document(TEXT).unwrap().to_json();
        assert_eq!(json["spec"]["clusterIP"], "10.32.0.140");
        assert_eq!(json["spec"]["ports"][1]["port"], 8080);
        assert_eq!(json["spec"]["empty"], serde_json::Value::Null);
        assert_eq!(json["spec"]["ready"], true);
        assert_eq!(json["spec"]["name"], "on");
        assert_eq!(json["spec"]["alias"], serde_json::json!([1, 2.5]));
    }

    #[test]
    fn nothing_is_null_and_no_yaml_has_a_line() {
        assert_eq!(parse_document("# nothing\n").unwrap().value, Value::Null);
        let error = parse_document("kind: Service\nspec: [1, 2\nmetadata: {}\n").unwrap_err();
        assert!(error.line.is_some_and(|line| line >= 2), "{error:?}");
        let error = parse_document("kind: Service\nkind: Node\n").unwrap_err();
        assert_eq!(error.line, Some(2));
        assert!(error.message.contains("kind"), "{error:?}");
        assert!(!error.message.contains("line"), "{error:?}");
    }
}
