//! Single objects: read, and written over HTTP.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::resource::Target;
use super::status::Status;
use super::store::{Key, Store, identify};

/// The object that a path names.
pub(super) fn get(store: &Store, target: &Target) -> Result<Value, Status> {
    let key = key(target)?;
    let object = store.get(target.resource, &key);
    object.map_or_else(
        || Err(Status::no_such_object(target.resource, &key.1)),
        |object| Ok(Value::clone(&object)),
    )
}

/// Creates, replaces, merges or deletes.
pub(super) fn write(
    store: &mut Store,
    verb: &str,
    target: &Target,
    given: Option<Value>,
) -> Result<(StatusCode, Value), Status> {
    let resource = target.resource;
    if verb == "delete" {
        let key = key(target)?;
        let gone = store.delete(resource, &key);
        let gone = gone.ok_or_else(|| Status::no_such_object(resource, &key.1))?;
        return Ok((StatusCode::OK, Value::clone(&gone)));
    }
    let given = given.filter(Value::is_object);
    let given = given.ok_or_else(|| Status::bad_request("the body is not an object"))?;
    let (code, mut object) = match verb {
        "create" => (StatusCode::CREATED, given),
        "update" => (StatusCode::OK, given),
        // Clients that create by applying patch what is not there.
        _ => match get(store, target) {
            Ok(mut object) => {
                merge(&mut object, given);
                (StatusCode::OK, object)
            }
            Err(_) => (StatusCode::CREATED, given),
        },
    };
    place(&mut object, target, store.version());
    let (of, key) = identify(&object).map_err(|error| Status::invalid(format!("{error:#}")))?;
    if of != resource || target.name.as_ref().is_some_and(|name| *name != key.1) {
        return Err(Status::bad_request(
            "the kind or the name of the object is not that of the URL",
        ));
    }
    let present = store.get(resource, &key);
    let version = |object: &Value| {
        object["metadata"]["resourceVersion"]
            .as_str()
            .map(str::to_owned)
    };
    match (verb, &present) {
        ("create", Some(_)) => return Err(Status::exists(resource, &key.1)),
        ("update", None) => return Err(Status::no_such_object(resource, &key.1)),
        ("update", Some(present))
            if version(&object).is_some_and(|it| Some(it) != version(present)) =>
        {
            return Err(Status::conflict(resource, &key.1));
        }
        _ => {}
    }
    let object = store
        .apply(object)
        .map_err(|error| Status::invalid(format!("{error:#}")))?;
    Ok((code, Value::clone(&object)))
}

fn key(target: &Target) -> Result<Key, Status> {
    let name = target.name.clone();
    let name = name.ok_or_else(|| Status::new(405, "MethodNotAllowed", "no name is given"))?;
    Ok((target.namespace.clone().unwrap_or_default(), name))
}

/// Fills in what the path says, and a name where one is to be made.
fn place(object: &mut Value, target: &Target, version: u64) {
    object["apiVersion"] = json!(target.resource.api_version());
    object["kind"] = json!(target.resource.kind());
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    let metadata = &mut object["metadata"];
    if let Some(namespace) = &target.namespace {
        metadata["namespace"] = json!(namespace);
    }
    if let Some(name) = &target.name
        && metadata["name"].is_null()
    {
        metadata["name"] = json!(name);
    }
    if let Some(prefix) = metadata["generateName"].as_str()
        && metadata["name"].is_null()
    {
        metadata["name"] = json!(format!("{prefix}{version:05}"));
    }
}

/// RFC 7396.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            target.as_object_mut().map(|fields| fields.remove(&name));
        } else {
            merge(&mut target[name.as_str()], value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(port: u16) -> Value {
        json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": port}]}})
    }

    fn target(name: Option<&str>) -> Target {
        let path = name.map_or_else(String::new, |name| format!("/{name}"));
        Target::parse(&format!("/api/v1/namespaces/shop/services{path}")).expect("a path")
    }

    #[test]
    fn an_object_is_made_changed_and_removed() {
        let mut store = Store::default();
        let named = target(Some("web"));
        let made = write(&mut store, "create", &target(None), Some(service(80)));
        let (code, made) = made.expect("made");
        assert_eq!(code, StatusCode::CREATED);
        assert_eq!(made["metadata"]["namespace"], "shop");
        assert_eq!(made["kind"], "Service");
        let again = write(&mut store, "create", &target(None), Some(service(80)));
        assert_eq!(again.expect_err("there").code, 409);

        let patch = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"ports": null}});
        let (_, patched) = write(&mut store, "patch", &named, Some(patch)).expect("patched");
        assert_eq!(patched["metadata"]["labels"]["a"], "b");
        assert!(patched["spec"].get("ports").is_none());
        let late = write(&mut store, "update", &named, Some(made));
        assert_eq!(late.expect_err("changed since").reason, "Conflict");

        write(&mut store, "delete", &named, None).expect("deleted");
        assert_eq!(get(&store, &named).expect_err("gone").code, 404);
        let gone = write(&mut store, "delete", &named, None);
        assert_eq!(gone.expect_err("gone").code, 404);
    }
}
