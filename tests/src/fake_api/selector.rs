//! Label and field selectors, as they stand in a query.

use std::collections::BTreeMap;

use serde_json::Value;

use super::status::Status;

/// Both selectors of a list or a watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selectors {
    labels: Vec<Requirement>,
    fields: Vec<FieldRequirement>,
}

/// One part of a label selector; all have to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Exists,
    DoesNotExist,
    In(Vec<String>),
    NotIn(Vec<String>),
}

/// One part of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldRequirement {
    path: String,
    value: String,
    is_equal: bool,
}

impl Selectors {
    /// Reads both; none, and an empty one, select everything.
    ///
    /// # Errors
    /// One of them is not a selector, or names a field that nothing can be selected by.
    pub fn parse(labels: Option<&str>, fields: Option<&str>) -> Result<Self, Status> {
        let unreadable = |text: &str| Status::bad_request(format!("unable to parse {text:?}"));
        let labels = labels.unwrap_or_default();
        let fields = fields.unwrap_or_default();
        Ok(Self {
            labels: parts(labels)
                .map(|part| Requirement::parse(part).ok_or_else(|| unreadable(part)))
                .collect::<Result<_, _>>()?,
            fields: parts(fields)
                .map(|part| FieldRequirement::parse(part).ok_or_else(|| unreadable(part)))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Do they select everything?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Is this object selected?
    #[must_use]
    pub fn select(&self, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"][key].as_str();
        self.labels.iter().all(|it| it.holds(label(&it.key)))
            && self.fields.iter().all(|it| it.holds(object))
    }
}

/// The parts between commas that stand in no parentheses.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_u32;
    text.split(move |character| {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        character == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
}

impl Requirement {
    fn parse(text: &str) -> Option<Self> {
        let (key, test) = if let Some(key) = text.strip_prefix('!') {
            (key, Test::DoesNotExist)
        } else if let Some((key, value)) = text.split_once("!=") {
            (key, Test::NotIn(vec![value.trim().to_owned()]))
        } else if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
            (key, Test::In(vec![value.trim().to_owned()]))
        } else if let Some((key, values)) = text.split_once(" notin ") {
            (key, Test::NotIn(set(values)?))
        } else if let Some((key, values)) = text.split_once(" in ") {
            (key, Test::In(set(values)?))
        } else {
            (text, Test::Exists)
        };
        let key = key.trim();
        let is_key = !key.is_empty() && !key.contains(|it: char| it.is_whitespace() || it == '(');
        is_key.then(|| Self {
            key: key.to_owned(),
            test,
        })
    }

    fn holds(&self, value: Option<&str>) -> bool {
        match &self.test {
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
            Test::In(values) => value.is_some_and(|value| values.iter().any(|it| it == value)),
            Test::NotIn(values) => !value.is_some_and(|value| values.iter().any(|it| it == value)),
        }
    }
}

/// `(a,b)`
fn set(text: &str) -> Option<Vec<String>> {
    let inside = text.trim().strip_prefix('(')?.strip_suffix(')')?;
    Some(
        inside
            .split(',')
            .map(|value| value.trim().to_owned())
            .collect(),
    )
}

impl FieldRequirement {
    /// The fields of which `kube-apiserver` keeps an index for the kinds held here.
    const FIELDS: [&str; 8] = [
        "metadata.name",
        "metadata.namespace",
        "spec.nodeName",
        "spec.clusterIP",
        "spec.type",
        "spec.unschedulable",
        "status.phase",
        "status.podIP",
    ];

    fn parse(text: &str) -> Option<Self> {
        let (path, value, is_equal) = if let Some((path, value)) = text.split_once("!=") {
            (path, value, false)
        } else {
            let (path, value) = text.split_once("==").or_else(|| text.split_once('='))?;
            (path, value, true)
        };
        Self::FIELDS.contains(&path).then(|| Self {
            path: path.to_owned(),
            value: value.to_owned(),
            is_equal,
        })
    }

    fn holds(&self, object: &Value) -> bool {
        let field = self.path.split('.').fold(object, |value, key| &value[key]);
        // A field that is not there is selected by the empty value.
        (field.as_str().unwrap_or_default() == self.value) == self.is_equal
    }
}

/// The parameters of a query, decoded. Where one stands twice, its first value counts.
#[must_use]
pub fn query(text: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        all.entry(decode(key)).or_insert_with(|| decode(value));
    }
    all
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = after
            .get(..2)
            .filter(|_| first == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        rest = match escaped {
            Some(byte) => {
                bytes.push(byte);
                &after[2..]
            }
            None => {
                bytes.push(if first == b'+' { b' ' } else { first });
                after
            }
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selects(labels: &str, object: &Value) -> bool {
        Selectors::parse(Some(labels), None)
            .expect("a selector")
            .select(object)
    }

    #[test]
    fn every_form_of_a_label_selector_is_understood() {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": ""}}});
        for selector in [
            "",
            "app",
            "app=web",
            "app==web",
            "app in (web, db)",
            "app notin (db),tier",
            "tier=",
            "!other",
            "app!=db,other!=1,!service.kubernetes.io/service-proxy-name",
            "other notin (a,b)",
        ] {
            assert!(selects(selector, &object), "{selector}");
        }
        for selector in [
            "other",
            "app=db",
            "!app",
            "app!=web",
            "app in (db)",
            "app notin (db,web)",
            "app=web,!tier",
            "other=",
        ] {
            assert!(!selects(selector, &object), "{selector}");
        }
    }

    #[test]
    fn a_field_selector_compares_text() {
        let object = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "worker-0"}});
        let selects = |fields| {
            Selectors::parse(None, Some(fields))
                .expect("a selector")
                .select(&object)
        };
        assert!(selects("metadata.name=a"));
        assert!(selects("spec.nodeName=worker-0,metadata.name!=b"));
        assert!(!selects("spec.nodeName=worker-1"));
        assert!(selects("status.phase="));
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for (labels, fields) in [
            (Some("app in web"), None),
            (Some("a b"), None),
            (None, Some("spec.containers=1")),
            (None, Some("metadata.name")),
        ] {
            let status = Selectors::parse(labels, fields).expect_err("not a selector");
            assert_eq!(status.code, 400, "{labels:?} {fields:?}");
        }
    }

    #[test]
    fn a_query_is_decoded() {
        let query = query("labelSelector=%21a%2Cb%20in+%28c%29&watch=true&limit");
        assert_eq!(query["labelSelector"], "!a,b in (c)");
        assert_eq!(query["watch"], "true");
        assert_eq!(query["limit"], "");
    }
}
