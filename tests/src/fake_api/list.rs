//! Lists, whole and in pages.
//!
//! All pages of a list are of one moment: the token that asks for the next one names that moment
//! and the object to go on from. A moment that is forgotten is `410 Expired`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::resource::Target;
use super::selector::Selectors;
use super::status::Status;
use super::store::{Key, Objects, Store};

type Parameters = BTreeMap<String, String>;

/// What is asked for.
struct Query {
    selectors: Selectors,
    /// `limit`; zero is none.
    limit: usize,
    /// The moment and the first object of a further page.
    page: Option<(u64, Key)>,
    version: Option<u64>,
    is_exact: bool,
}

/// The list that is asked for.
pub(super) fn answer(
    store: &mut Store,
    target: &Target,
    parameters: &Parameters,
    is_expired: bool,
) -> Result<Value, Status> {
    let query = Query::read(target, parameters)?;
    let resource = target.resource;
    let (objects, version) = match (&query.page, query.version) {
        (Some(_), _) if is_expired => return Err(Status::continue_expired()),
        (Some((version, _)), _) => {
            let kept = store.snapshot(resource, *version);
            (kept.ok_or_else(Status::continue_expired)?, *version)
        }
        (None, Some(version)) if query.is_exact && version != store.version() => {
            let kept = store.snapshot(resource, version);
            let oldest = store.version();
            (
                kept.ok_or_else(|| Status::too_old(version, oldest))?,
                version,
            )
        }
        (None, Some(version)) if version > store.version() => {
            return Err(Status::too_large(version, store.version()));
        }
        (None, _) => (store.objects(resource), store.version()),
    };
    let (items, rest) = query.select(target, &objects);
    let mut metadata = json!({ "resourceVersion": version.to_string() });
    if let Some(next) = rest.first() {
        if query.page.is_none() {
            store.keep_snapshot(resource);
        }
        metadata["continue"] = json!(token(version, next));
        // What a selector leaves out is not counted, so nothing is said.
        if query.selectors.is_empty() {
            metadata["remainingItemCount"] = json!(rest.len());
        }
    }
    Ok(json!({
        "kind": format!("{}List", resource.kind()),
        "apiVersion": resource.api_version(),
        "metadata": metadata,
        "items": items.iter().map(|object| item(object)).collect::<Vec<_>>(),
    }))
}

impl Query {
    fn read(target: &Target, parameters: &Parameters) -> Result<Self, Status> {
        let text = |name| parameters.get(name).map(String::as_str);
        let given = |name| text(name).filter(|text| !text.is_empty());
        let version = given("resourceVersion").map(version_of).transpose()?;
        let matching = given("resourceVersionMatch");
        let page = given("continue").map(read_token).transpose()?;
        match (matching, version) {
            (Some(_), _) if page.is_some() => {
                return Err(Status::invalid(
                    "resourceVersionMatch is forbidden with continue",
                ));
            }
            (Some(_), None) => {
                return Err(Status::invalid(
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            (Some("Exact"), Some(0)) => {
                return Err(Status::invalid(
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
            (None | Some("Exact" | "NotOlderThan"), _) => {}
            (Some(other), _) => {
                return Err(Status::invalid(format!(
                    "resourceVersionMatch: Unsupported value: {other:?}"
                )));
            }
        }
        if page.is_some() && version.is_some_and(|version| version != 0) {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        if given("sendInitialEvents").is_some() {
            return Err(Status::invalid("sendInitialEvents is forbidden for list"));
        }
        let limit = given("limit").map_or(Ok(0), |text| {
            let limit = text.parse();
            limit.map_err(|_| Status::bad_request(format!("{text:?} is not a limit")))
        })?;
        Ok(Self {
            selectors: selectors(target, parameters)?,
            // From its cache, which is what version 0 asks for, a server gives everything at once.
            limit: if version == Some(0) { 0 } else { limit },
            page,
            version,
            is_exact: matching == Some("Exact"),
        })
    }

    /// The objects of this page, and the keys of those that follow.
    fn select<'a>(
        &self,
        target: &Target,
        objects: &'a Objects,
    ) -> (Vec<&'a Arc<Value>>, Vec<&'a Key>) {
        let first = self.page.as_ref().map(|(_, first)| first);
        let mut selected = objects
            .iter()
            .skip_while(|(key, _)| first.is_some_and(|first| *key < first))
            .filter(|(key, _)| target.namespace.as_ref().is_none_or(|it| *it == key.0))
            .filter(|(_, object)| self.selectors.select(object));
        let limit = if self.limit == 0 {
            usize::MAX
        } else {
            self.limit
        };
        let items = selected.by_ref().take(limit).map(|(_, object)| object);
        let items = items.collect();
        (items, selected.map(|(key, _)| key).collect())
    }
}

/// The selectors that a list or a watch asks for.
pub(super) fn selectors(target: &Target, parameters: &Parameters) -> Result<Selectors, Status> {
    let text = |name| parameters.get(name).map(String::as_str);
    // A watch of one object by its path is one by its name.
    match &target.name {
        Some(name) => {
            let field = format!("metadata.name={name}");
            Selectors::parse(text("labelSelector"), Some(&field))
        }
        None => Selectors::parse(text("labelSelector"), text("fieldSelector")),
    }
}

/// A version in a query.
pub(super) fn version_of(text: &str) -> Result<u64, Status> {
    let version = text.parse();
    version.map_err(|_| Status::bad_request(format!("Invalid value: {text:?}")))
}

/// As objects stand in lists of the kinds that are built in: their kind is the list's.
fn item(object: &Value) -> Value {
    let fields = object.as_object().cloned().unwrap_or_default();
    let rest = fields
        .into_iter()
        .filter(|(name, _)| name != "kind" && name != "apiVersion");
    Value::Object(rest.collect::<Map<_, _>>())
}

fn token(version: u64, next: &Key) -> String {
    format!("{version}:{}/{}", next.0, next.1)
}

fn read_token(text: &str) -> Result<(u64, Key), Status> {
    let read = || {
        let (version, key) = text.split_once(':')?;
        let (namespace, name) = key.split_once('/')?;
        Some((
            version.parse().ok()?,
            (namespace.to_owned(), name.to_owned()),
        ))
    };
    read().ok_or_else(|| Status::bad_request(format!("continue key is not valid: {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::super::resource::Resource;
    use super::*;

    fn store(pods: usize) -> Store {
        let mut store = Store::default();
        for index in 0..pods {
            let parity = if index % 2 == 0 { "even" } else { "odd" };
            let pod = json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": format!("pod-{index}"), "labels": {"parity": parity}},
            });
            store.apply(pod).expect("a pod");
        }
        store
    }

    fn list(store: &mut Store, parameters: &[(&str, &str)]) -> Result<Value, Status> {
        let target = Target::parse("/api/v1/pods").expect("a path");
        let parameters = parameters
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        answer(store, &target, &parameters, false)
    }

    fn names(list: &Value) -> Vec<&str> {
        let items = list["items"].as_array().expect("items");
        let names = items.iter().map(|it| it["metadata"]["name"].as_str());
        names.map(|name| name.expect("a name")).collect()
    }

    #[test]
    fn pages_are_of_one_moment() {
        let mut store = store(3);
        let first = list(&mut store, &[("limit", "2")]).expect("a page");
        assert_eq!(names(&first), ["pod-0", "pod-1"]);
        assert_eq!(first["metadata"]["remainingItemCount"], 1);
        assert_eq!(first["kind"], "PodList");
        assert!(first["items"][0].get("kind").is_none());
        let next = first["metadata"]["continue"].as_str().expect("a token");
        store.delete(Resource::Pods, &("default".to_owned(), "pod-2".to_owned()));
        let second = list(&mut store, &[("limit", "2"), ("continue", next)]).expect("a page");
        assert_eq!(names(&second), ["pod-2"]);
        assert_eq!(
            second["metadata"]["resourceVersion"],
            first["metadata"]["resourceVersion"]
        );
        assert!(second["metadata"].get("continue").is_none());
        store.forget();
        let late = list(&mut store, &[("limit", "2"), ("continue", next)]);
        assert_eq!(late.expect_err("forgotten").code, 410);
    }

    #[test]
    fn a_selected_list_does_not_count_what_remains() {
        let mut store = store(5);
        let parameters = [("limit", "1"), ("labelSelector", "parity=even")];
        let page = list(&mut store, &parameters).expect("a page");
        assert_eq!(names(&page), ["pod-0"]);
        assert!(page["metadata"].get("remainingItemCount").is_none());
        assert!(page["metadata"]["continue"].is_string());
    }

    #[test]
    fn version_zero_has_no_pages() {
        let mut store = store(3);
        let all = list(&mut store, &[("limit", "1"), ("resourceVersion", "0")]);
        assert_eq!(names(&all.expect("a list")).len(), 3);
    }

    #[test]
    fn parameters_that_do_not_go_together_are_refused() {
        let mut store = store(1);
        for (parameters, code) in [
            (&[("resourceVersionMatch", "Exact")][..], 422),
            (&[("resourceVersion", "999999")], 504),
            (
                &[
                    ("resourceVersion", "1000"),
                    ("resourceVersionMatch", "Exact"),
                ],
                410,
            ),
            (&[("resourceVersion", "1"), ("continue", "1:a/b")], 400),
            (&[("continue", "nothing")], 400),
            (&[("limit", "many")], 400),
            (&[("resourceVersion", "yesterday")], 400),
        ] {
            let status = list(&mut store, parameters).expect_err("refused");
            assert_eq!(status.code, code, "{parameters:?}: {status:?}");
        }
    }
}
