//! What the API server's answers say.
//!
//! An object is taken out of the answer as text before anybody looks into it, so that one that
//! cannot be read spoils neither the list nor the watch that it came in; only of a line of a watch,
//! which has one, it is first tried to read all of it at once. Of fields of metadata
//! only those are read here that make an object one object and place it in time.

use std::borrow::Cow;

use kube::core::Status;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    model::{DEFAULT_NAMESPACE, Invalid, Kind, Object, ObjectRef},
    sources::decode,
};

/// An object that the API server holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// What it is called, where so much can be read.
    pub reference: Option<ObjectRef>,
    /// It, or why it cannot be read.
    pub outcome: Result<Object, Invalid>,
}

/// A change of an object.
#[allow(
    clippy::large_enum_variant,
    reason = "nearly every one is an object that is there, and none is kept"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is there now.
    Put(Heard),
    /// It is gone.
    Gone(ObjectRef),
}

/// A page of a list.
#[derive(Debug)]
pub struct Page {
    /// Its objects.
    pub objects: Vec<Heard>,
    /// By what the next page is asked for, if there is one.
    pub next: Option<String>,
    /// The version that the whole list is of.
    pub version: Option<String>,
}

/// A line of a watch.
#[allow(
    clippy::large_enum_variant,
    reason = "nearly every one is an object that is there, and none is kept"
)]
#[derive(Debug)]
pub enum Line {
    /// A change, and the version after it.
    Told(Told, Option<String>),
    /// Everything up to this version has been told. The first that says so ends a list that came
    /// by watch.
    Bookmark {
        /// Up to where.
        version: String,
        /// All objects that were there when the watch began have been told.
        ends_list: bool,
    },
    /// The watch is at its end.
    Fault(Box<Status>),
}

/// Reads a page.
///
/// # Errors
/// It is not one.
pub fn page(kind: Kind, text: &str) -> Result<Page, serde_json::Error> {
    #[derive(Default, Deserialize)]
    struct Metadata {
        #[serde(rename = "resourceVersion")]
        version: Option<String>,
        #[serde(rename = "continue")]
        next: Option<String>,
    }
    #[derive(Deserialize)]
    struct List<'a> {
        #[serde(default)]
        metadata: Metadata,
        #[serde(borrow)]
        items: Option<Vec<&'a RawValue>>,
    }
    let List { metadata, items } = serde_json::from_str(text)?;
    let items = items.unwrap_or_default();
    Ok(Page {
        objects: items.iter().map(|item| heard(kind, item.get())).collect(),
        next: metadata.next.filter(|next| !next.is_empty()),
        version: metadata.version.filter(|version| !version.is_empty()),
    })
}

/// Reads a line of a watch.
///
/// # Errors
/// It is none, or the object that it tells of cannot even be named.
pub fn line(kind: Kind, text: &str) -> Result<Line, String> {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(borrow, rename = "type")]
        happened: Cow<'a, str>,
        #[serde(borrow)]
        object: &'a RawValue,
    }
    if let Some((object, version)) = decode::change_of_text(kind, text) {
        let told = Told::Put(Heard {
            reference: Some(object.reference()),
            outcome: Ok(object),
        });
        return Ok(Line::Told(told, version.filter(|it| !it.is_empty())));
    }
    let event: Event<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let object = event.object.get();
    match &*event.happened {
        "ADDED" | "MODIFIED" => {
            let told = Told::Put(heard(kind, object));
            Ok(Line::Told(told, version(object)))
        }
        "DELETED" => {
            let reference = identity(kind, object)
                .ok_or("tells that an object is gone, but not which one".to_owned())?;
            Ok(Line::Told(Told::Gone(reference), version(object)))
        }
        "BOOKMARK" => {
            let metadata: Partial = serde_json::from_str(object).map_err(|it| it.to_string())?;
            let version = metadata.metadata.version;
            let annotations = metadata.metadata.annotations;
            Ok(Line::Bookmark {
                version: version.ok_or("a bookmark without a version")?,
                ends_list: annotations.initial_events_end.as_deref() == Some("true"),
            })
        }
        "ERROR" => {
            let status = serde_json::from_str(object).map_err(|error| error.to_string())?;
            Ok(Line::Fault(Box::new(status)))
        }
        other => Err(format!("{other:?} is not a kind of event")),
    }
}

fn heard(kind: Kind, text: &str) -> Heard {
    let outcome = decode::object_of_text(kind, text);
    let reference = match &outcome {
        Ok(object) => Some(object.reference()),
        Err(_) => identity(kind, text),
    };
    Heard { reference, outcome }
}

#[derive(Deserialize)]
struct Partial {
    #[serde(default)]
    metadata: PartialMetadata,
}

#[derive(Default, Deserialize)]
struct PartialMetadata {
    #[serde(default)]
    annotations: PartialAnnotations,
    #[serde(rename = "resourceVersion")]
    version: Option<String>,
}

#[derive(Default, Deserialize)]
struct PartialAnnotations {
    /// Marks the bookmark after the last object of a list that comes by watch.
    #[serde(rename = "k8s.io/initial-events-end")]
    initial_events_end: Option<String>,
}

fn version(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Versioned {
        metadata: Version,
    }
    #[derive(Deserialize)]
    struct Version {
        #[serde(rename = "resourceVersion")]
        version: Option<String>,
    }
    let versioned: Versioned = serde_json::from_str(text).ok()?;
    versioned.metadata.version.filter(|it| !it.is_empty())
}

/// What the object is called, if that much can be read.
fn identity(kind: Kind, text: &str) -> Option<ObjectRef> {
    #[derive(Deserialize)]
    struct Named {
        metadata: Name,
    }
    #[derive(Deserialize)]
    struct Name {
        name: String,
        namespace: Option<String>,
    }
    let Named { metadata } = serde_json::from_str(text).ok()?;
    let namespace = metadata.namespace.filter(|it| !it.is_empty());
    let namespace = match kind.is_namespaced() {
        true => namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE),
        false => "",
    };
    (!metadata.name.is_empty()).then(|| ObjectRef::new(kind, namespace, &metadata.name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn namespace(name: &str, version: &str) -> serde_json::Value {
        json!({"metadata": {"name": name, "resourceVersion": version, "labels": {"a": "b"}}})
    }

    #[test]
    fn one_object_of_a_list_that_cannot_be_read_leaves_the_others() {
        let broken = json!({"metadata": {"name": "b", "labels": {"a": 1}}});
        let nameless = json!({"metadata": {"name": 7}});
        let list = json!({
            "kind": "NamespaceList",
            "metadata": {"resourceVersion": "12", "continue": "more", "remainingItemCount": 3},
            "items": [namespace("a", "3"), broken, nameless, namespace("c", "4")],
        });
        let page = page(Kind::Namespace, &list.to_string()).unwrap();
        assert_eq!(page.version.as_deref(), Some("12"));
        assert_eq!(page.next.as_deref(), Some("more"));
        let names: Vec<_> = page
            .objects
            .iter()
            .map(|it| it.reference.as_ref().map(|it| it.name.as_str()))
            .collect();
        assert_eq!(names, [Some("a"), Some("b"), None, Some("c")]);
        let fault = page.objects[1].outcome.as_ref().unwrap_err();
        assert_eq!(fault.field.to_string(), "metadata.labels.a");
        assert!(page.objects[2].outcome.is_err());
    }

    #[test]
    fn a_list_of_nothing_has_no_items_or_none() {
        for items in [json!([]), json!(null)] {
            let list =
                json!({"metadata": {"resourceVersion": "1", "continue": ""}, "items": items});
            let page = page(Kind::Pod, &list.to_string()).unwrap();
            assert!(page.objects.is_empty() && page.next.is_none());
        }
    }

    #[test]
    fn events_are_read_in_either_order_of_their_fields() {
        let object = namespace("a", "7");
        let texts = [
            format!(r#"{{"type":"MODIFIED","object":{object}}}"#),
            format!(r#"{{"object":{object},"type":"ADDED"}}"#),
        ];
        for text in texts {
            let Line::Told(Told::Put(heard), Some(version)) = line(Kind::Namespace, &text).unwrap()
            else {
                panic!("{text}")
            };
            assert_eq!(version, "7");
            assert!(heard.outcome.is_ok());
        }
    }

    #[test]
    fn a_change_is_the_same_whether_it_is_read_at_once_or_in_detail() {
        let slice = |version: serde_json::Value| {
            json!({
                "metadata": {
                    "name": "web-1", "namespace": "shop", "resourceVersion": version,
                    "labels": {"kubernetes.io/service-name": "web"},
                },
                "addressType": "IPv4", "ports": [{"port": 80}],
                "endpoints": [{"addresses": ["10.200.0.5"]}],
            })
        };
        for (version, expected) in [
            (json!("7"), Some("7")),
            (json!(""), None),
            (json!(null), None),
            // Only read in detail: of metadata nothing else is known.
            (json!(7), None),
        ] {
            let object = slice(version);
            for happened in ["ADDED", "MODIFIED"] {
                let text = json!({"type": happened, "object": object}).to_string();
                let Line::Told(Told::Put(told), version) =
                    line(Kind::EndpointSlice, &text).unwrap()
                else {
                    panic!("{text}")
                };
                assert_eq!(version.as_deref(), expected, "{text}");
                assert_eq!(told, heard(Kind::EndpointSlice, &object.to_string()));
            }
        }
    }

    #[test]
    fn what_is_gone_need_not_be_readable() {
        let object = json!({"metadata": {"name": "web", "namespace": "shop", "resourceVersion": "9"},
                            "spec": {"ports": 1}});
        let text = json!({"type": "DELETED", "object": object}).to_string();
        let Line::Told(Told::Gone(reference), version) = line(Kind::Service, &text).unwrap() else {
            panic!("{text}")
        };
        assert_eq!(reference, ObjectRef::new(Kind::Service, "shop", "web"));
        assert_eq!(version.as_deref(), Some("9"));
        let nameless = json!({"type": "DELETED", "object": {}}).to_string();
        assert!(line(Kind::Service, &nameless).is_err());
    }

    #[test]
    fn a_bookmark_tells_a_version_and_may_end_a_list() {
        let bookmark = |annotations| {
            let metadata = json!({"resourceVersion": "40", "annotations": annotations});
            json!({"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": metadata}}).to_string()
        };
        for (annotations, expected) in [
            (json!({}), false),
            (json!({"k8s.io/initial-events-end": "true"}), true),
        ] {
            let text = bookmark(annotations);
            let Line::Bookmark { version, ends_list } = line(Kind::Pod, &text).unwrap() else {
                panic!("{text}")
            };
            assert_eq!((version.as_str(), ends_list), ("40", expected));
        }
    }

    #[test]
    fn a_fault_tells_its_code_and_a_cut_line_is_none() {
        let status = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "old"});
        let text = json!({"type": "ERROR", "object": status}).to_string();
        let Line::Fault(status) = line(Kind::Pod, &text).unwrap() else {
            panic!("{text}")
        };
        assert_eq!(status.code, 410);
        for length in 0..text.len() {
            assert!(line(Kind::Pod, &text[..length]).is_err(), "{length}");
        }
        assert!(line(Kind::Pod, r#"{"type":"OTHER","object":{}}"#).is_err());
    }
}
