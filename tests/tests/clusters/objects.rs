//! Objects as the agent reads them.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::{
    core::v1 as core, discovery::v1 as discovery, networking::v1 as networking,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use weir_agent::model::{Invalid, Object};
use weir_tests::scenario::format::Given;
use weir_tests::scenario::world;

/// How objects come to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// In the API's types, as from an API server: quick.
    Api,
    /// As the text of manifests.
    Manifests,
}

/// `Service default/web`, `Node worker-0`.
#[must_use]
pub fn name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, metadata) = (text(&object["kind"]), &object["metadata"]);
    match text(&metadata["namespace"]).as_str() {
        "" => format!("{kind} {}", text(&metadata["name"])),
        namespace => format!("{kind} {namespace}/{}", text(&metadata["name"])),
    }
}

/// The objects in the agent's own types.
///
/// # Errors
/// One is not valid.
pub fn read(objects: &[Value], way: Way) -> Result<Vec<Object>> {
    match way {
        Way::Api => objects.iter().map(of_api).collect(),
        Way::Manifests => {
            let given = objects.iter().map(|object| {
                let object = object.as_object().context("an object")?;
                Ok(Given::Inline(object.clone()))
            });
            world::read_objects(&given.collect::<Result<Vec<_>>>()?, Path::new("."))
        }
    }
}

fn of_api(object: &Value) -> Result<Object> {
    match object["kind"].as_str() {
        Some("Service") => typed::<core::Service>(object),
        Some("EndpointSlice") => typed::<discovery::EndpointSlice>(object),
        Some("Node") => typed::<core::Node>(object),
        Some("ServiceCIDR") => typed::<networking::ServiceCIDR>(object),
        other => bail!("{other:?} is none of the model's kinds"),
    }
}

fn typed<T: DeserializeOwned>(object: &Value) -> Result<Object>
where
    Object: TryFrom<T, Error = Invalid>,
{
    let typed = T::deserialize(object).with_context(|| format!("read {object}"))?;
    Object::try_from(typed).map_err(|invalid| anyhow::anyhow!("{} {invalid:?}", name(object)))
}
