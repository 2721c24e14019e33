//! Names and labels: what every object has.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

use super::{Invalid, Kind, ObjectRef};

/// The namespace of an object that names none, as in the API's clients.
pub const DEFAULT_NAMESPACE: &str = "default";

/// What an object's metadata tells us.
pub(super) struct Metadata {
    pub reference: ObjectRef,
    pub created: Option<Timestamp>,
    pub labels: BTreeMap<String, String>,
}

impl Metadata {
    /// Reads the metadata of an object of this kind.
    pub fn read(kind: Kind, metadata: ObjectMeta) -> Result<Self, Invalid> {
        Ok(Self {
            reference: Self::reference(
                kind,
                metadata.name.as_deref(),
                metadata.namespace.as_deref(),
            )?,
            created: metadata.creation_timestamp.map(|time| time.0),
            labels: metadata.labels.unwrap_or_default(),
        })
    }

    /// What an object of this kind is called, by its metadata.
    pub fn reference(
        kind: Kind,
        name: Option<&str>,
        namespace: Option<&str>,
    ) -> Result<ObjectRef, Invalid> {
        let invalid = |field: &str, message| Invalid::new(field, message).within("metadata");
        let name = match name {
            Some(name) if !name.is_empty() => name,
            Some(_) | None => return Err(invalid("name", "is missing".to_owned())),
        };
        match kind {
            // Services give their names to tables, whose fields hold a label; so do namespaces.
            Kind::Service | Kind::Namespace => validate_label(name),
            Kind::EndpointSlice
            | Kind::Endpoints
            | Kind::Node
            | Kind::ServiceCidr
            | Kind::Pod
            | Kind::NetworkPolicy => validate_subdomain(name),
        }
        .map_err(|message| invalid("name", message))?;
        let namespace = if kind.is_namespaced() {
            let namespace = namespace.filter(|namespace| !namespace.is_empty());
            let namespace = namespace.unwrap_or(DEFAULT_NAMESPACE);
            validate_label(namespace).map_err(|message| invalid("namespace", message))?;
            namespace
        } else {
            ""
        };
        Ok(ObjectRef::new(kind, namespace, name))
    }
}

/// Is this a DNS label (RFC 1123): 1 to 63 of `a-z`, `0-9` and `-`, beginning and ending with a
/// letter or digit?
///
/// # Errors
/// Says what is wrong.
pub fn validate_label(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if text.len() > 63 {
        return Err(format!("{text:?} is longer than 63 characters"));
    }
    if is_label_of_any_length(text) {
        Ok(())
    } else {
        Err(format!(
            "{text:?} is not a name of lower-case letters, digits and inner '-'"
        ))
    }
}

/// Is this a DNS subdomain (RFC 1123): labels joined by dots, at most 253 characters?
///
/// # Errors
/// Says what is wrong.
pub fn validate_subdomain(text: &str) -> Result<(), String> {
    if text.len() > 253 {
        return Err(format!("{text:?} is longer than 253 characters"));
    }
    // The API bounds the whole name only, not each label of it.
    if text.split('.').all(is_label_of_any_length) {
        Ok(())
    } else {
        Err(format!(
            "{text:?} is not a name of lower-case letters, digits, and inner '.' and '-'"
        ))
    }
}

/// Can a selector ask for this key: a name of at most 63 characters, with or without a DNS
/// subdomain and `/` before it?
pub(super) fn validate_label_key(text: &str) -> Result<(), String> {
    let name = match text.split_once('/') {
        Some((prefix, name)) => {
            validate_subdomain(prefix)
                .map_err(|message| format!("{text:?} is not a label's key: {message}"))?;
            name
        }
        None => text,
    };
    if is_label_text(name) {
        Ok(())
    } else {
        Err(format!("{text:?} is not a label's key"))
    }
}

/// Can a selector ask for this value: nothing, or at most 63 characters?
pub(super) fn validate_label_value(text: &str) -> Result<(), String> {
    if text.is_empty() || is_label_text(text) {
        Ok(())
    } else {
        Err(format!("{text:?} is not a label's value"))
    }
}

/// The first of these labels that no object in the API has. It is kept: a selector cannot name
/// it, and to leave it out would change what `Exists` selects.
pub(super) fn unusual_label(labels: &BTreeMap<String, String>) -> Option<Invalid> {
    labels.iter().find_map(|(key, value)| {
        let message = validate_label_key(key)
            .and_then(|()| validate_label_value(value))
            .err()?;
        Some(Invalid::new(
            "metadata.labels",
            format!("{message}; no selector can ask for it"),
        ))
    })
}

fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

fn is_label_of_any_length(text: &str) -> bool {
    let is_alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(is_alphanumeric)
        && bytes.last().is_some_and(is_alphanumeric)
        && bytes
            .iter()
            .all(|byte| is_alphanumeric(byte) || *byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_rfc_1123() {
        for text in ["a", "0", "kube-dns", &"a".repeat(63)] {
            assert_eq!(validate_label(text), Ok(()), "{text}");
            assert_eq!(validate_subdomain(text), Ok(()), "{text}");
        }
        for text in ["", "-a", "a-", "A", "a_b", "a\0b", "ä", &"a".repeat(64)] {
            assert!(validate_label(text).is_err(), "{text}");
        }
        assert_eq!(validate_subdomain("worker-0.example"), Ok(()));
        for text in ["", ".", "a..b", "a.", "A.b", &"a.".repeat(127)] {
            assert!(validate_subdomain(text).is_err(), "{text}");
        }
    }
    #[test]
    fn keys_and_values_of_labels_are_those_of_the_api() {
        for key in ["app", "App_1.x", "kubernetes.io/metadata.name", "a/b"] {
            assert_eq!(validate_label_key(key), Ok(()), "{key}");
        }
        for key in ["", "/a", "a/", "a/b/c", "A/b", "-a", "a b", &"a".repeat(64)] {
            assert!(validate_label_key(key).is_err(), "{key}");
        }
        for value in ["", "1", "A-b_c.d", &"a".repeat(63)] {
            assert_eq!(validate_label_value(value), Ok(()), "{value}");
        }
        for value in ["-", "a/b", "a ", &"a".repeat(64)] {
            assert!(validate_label_value(value).is_err(), "{value}");
        }
    }
}
