//! Namespaces.

use k8s_openapi::api::core::v1 as api;

use super::metadata::{Metadata, unusual_label};
use super::{Invalid, Kind, Labels, Object};

/// The label that the API server gives every namespace: its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A namespace. Its labels always hold its name, as `kubernetes.io/metadata.name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name, a DNS label.
    pub name: String,
    /// Its labels, as selectors see them.
    pub labels: Labels,
    /// What is wrong in it; the rest of it is in force.
    pub ignored: Vec<Invalid>,
}

impl TryFrom<api::Namespace> for Object {
    type Error = Invalid;

    fn try_from(namespace: api::Namespace) -> Result<Self, Invalid> {
        let Metadata {
            reference,
            mut labels,
            ..
        } = Metadata::read(Kind::Namespace, namespace.metadata)?;
        // A manifest has met no API server, which would overwrite this one.
        labels.insert(NAME_LABEL.to_owned(), reference.name.clone());
        Ok(Self::Namespace(Namespace {
            name: reference.name,
            ignored: unusual_label(&labels).into_iter().collect(),
            labels: labels.into(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(metadata: serde_json::Value) -> Result<Namespace, Invalid> {
        let api: api::Namespace = serde_json::from_value(json!({"metadata": metadata})).unwrap();
        match Object::try_from(api)? {
            Object::Namespace(namespace) => Ok(namespace),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn its_name_is_always_among_its_labels() {
        for labels in [
            json!({}),
            json!({"kubernetes.io/metadata.name": "other"}),
            json!(null),
        ] {
            let namespace = read(json!({"name": "shop", "labels": labels})).unwrap();
            assert_eq!(namespace.labels.get(NAME_LABEL), Some("shop"));
            assert_eq!(namespace.labels.iter().count(), 1);
        }
        let namespace = read(json!({"name": "shop", "labels": {"team": "a"}})).unwrap();
        assert_eq!(namespace.labels.get("team"), Some("a"));
        assert_eq!(
            Object::Namespace(namespace).reference().to_string(),
            "Namespace shop"
        );
    }

    #[test]
    fn a_name_that_is_none_is_refused() {
        let invalid = read(json!({"name": "a.b"})).unwrap_err();
        assert!(
            invalid.to_string().starts_with("metadata.name: \"a.b\""),
            "{invalid}"
        );
        assert!(read(json!({"name": ""})).is_err());
    }
}
