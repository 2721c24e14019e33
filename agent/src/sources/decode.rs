//! An object of the API as JSON, and the object of the model that it is.
//!
//! What is wrong is said with the field. A policy that cannot be read is an object all the same,
//! one that isolates and allows nothing; see [`NetworkPolicy::unreadable`].

mod brief;

use k8s_openapi::api::{
    core::v1 as core, discovery::v1 as discovery, networking::v1 as networking,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use brief::Brief;

use crate::model::{FieldPath, Invalid, Kind, NetworkPolicy, Object, Step};

/// The object of this kind that has this manifest. Its `apiVersion` and `kind` may be missing, as
/// they are in lists.
///
/// # Errors
/// The field at fault.
pub fn object(kind: Kind, manifest: &Value) -> Result<Object, Invalid> {
    match kind {
        Kind::Service => read::<core::Service>(manifest),
        Kind::EndpointSlice => read::<discovery::EndpointSlice>(manifest),
        Kind::Endpoints => read::<core::Endpoints>(manifest),
        Kind::Node => read::<core::Node>(manifest),
        Kind::ServiceCidr => read::<networking::ServiceCIDR>(manifest),
        Kind::Namespace => read::<core::Namespace>(manifest),
        Kind::Pod => read::<core::Pod>(manifest),
        Kind::NetworkPolicy => {
            let read = read_strictly::<networking::NetworkPolicy>(manifest);
            read.or_else(|invalid| NetworkPolicy::unreadable(manifest, invalid))
        }
    }
}

/// The same, of text: fast where nothing is wrong, which is nearly always.
///
/// # Errors
/// The field at fault.
pub fn object_of_text(kind: Kind, manifest: &str) -> Result<Object, Invalid> {
    let object = match kind {
        Kind::Service => try_brief::<brief::Service<'_>>(manifest),
        Kind::EndpointSlice => try_brief::<brief::EndpointSlice<'_>>(manifest),
        Kind::Endpoints => try_text::<core::Endpoints>(manifest),
        Kind::Node => try_text::<core::Node>(manifest),
        Kind::ServiceCidr => try_text::<networking::ServiceCIDR>(manifest),
        Kind::Namespace => try_text::<core::Namespace>(manifest),
        Kind::Pod => try_brief::<brief::Pod<'_>>(manifest),
        // No field of a policy may be overlooked.
        Kind::NetworkPolicy => None,
    };
    match object {
        Some(object) => Ok(object),
        None => {
            let manifest = serde_json::from_str(manifest)
                .map_err(|error| Invalid::new("", error.to_string()))?;
            self::object(kind, &manifest)
        }
    }
}

/// The object of this kind that was added or modified, and its version, of a whole line of a watch:
/// read once, where it is of a kind of which there are many and nothing is wrong with it. `None`:
/// this line is to be looked at in detail.
#[must_use]
pub fn change_of_text(kind: Kind, event: &str) -> Option<(Object, Option<String>)> {
    match kind {
        Kind::Service => try_change::<brief::Service<'_>>(event),
        Kind::EndpointSlice => try_change::<brief::EndpointSlice<'_>>(event),
        Kind::Pod => try_change::<brief::Pod<'_>>(event),
        Kind::Endpoints
        | Kind::Node
        | Kind::ServiceCidr
        | Kind::Namespace
        | Kind::NetworkPolicy => None,
    }
}

fn try_change<'a, B: Brief<'a>>(event: &'a str) -> Option<(Object, Option<String>)> {
    let event: brief::Event<'a, B> = serde_json::from_str(event).ok()?;
    if !["ADDED", "MODIFIED"].contains(&&*event.happened) {
        return None;
    }
    let version = event.object.version().map(str::to_owned);
    Some((event.object.into_object()?, version))
}

fn try_brief<'a, B: Brief<'a>>(manifest: &'a str) -> Option<Object> {
    let brief: B = serde_json::from_str(manifest).ok()?;
    brief.into_object()
}

fn try_text<T>(manifest: &str) -> Option<Object>
where
    T: DeserializeOwned,
    Object: TryFrom<T, Error = Invalid>,
{
    let api: T = serde_json::from_str(manifest).ok()?;
    Object::try_from(api).ok()
}

/// The object that this is a manifest of.
fn read<T>(manifest: &Value) -> Result<Object, Invalid>
where
    T: DeserializeOwned,
    Object: TryFrom<T, Error = Invalid>,
{
    let api: T = serde_path_to_error::deserialize(manifest).map_err(not_of_this_form)?;
    Object::try_from(api)
}

/// The same, and every field must be one that we know. A rule whose `from` is misspelt would
/// allow everyone; clients of the API refuse it before it gets there.
fn read_strictly<T>(manifest: &Value) -> Result<Object, Invalid>
where
    T: DeserializeOwned,
    Object: TryFrom<T, Error = Invalid>,
{
    let mut unknown = None;
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(manifest, &mut track);
    let api = serde_ignored::deserialize(tracked, |path| {
        let field = unknown_field(&path);
        if is_meant(&field) {
            unknown.get_or_insert(field);
        }
    });
    let api: T = api.map_err(|error| {
        let path = track.path();
        not_of_this_form(serde_path_to_error::Error::new(path, error))
    })?;
    match unknown {
        Some(field) => Err(Invalid {
            field,
            message: "is not a field that Weir knows".to_owned(),
        }),
        None => Object::try_from(api),
    }
}

fn not_of_this_form<E: std::fmt::Display>(error: serde_path_to_error::Error<E>) -> Invalid {
    Invalid {
        field: field_path(error.path()),
        message: error.inner().to_string(),
    }
}

/// Does a field say what the author wants? Whatever else stands beside it was put there by
/// servers and tools.
fn is_meant(field: &FieldPath) -> bool {
    let first = field.0.first();
    ![Some("metadata"), Some("status")].contains(&first.and_then(|step| match step {
        Step::Key(key) => Some(key.as_str()),
        Step::Index(_) => None,
    }))
}

fn unknown_field(path: &serde_ignored::Path<'_>) -> FieldPath {
    use serde_ignored::Path;
    let (parent, step) = match path {
        Path::Root => return FieldPath::default(),
        Path::Seq { parent, index } => (parent, Some(Step::Index(*index))),
        Path::Map { parent, key } => (parent, Some(Step::Key(key.clone()))),
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => (parent, None),
    };
    let mut field = unknown_field(parent);
    field.0.extend(step);
    field
}

fn field_path(path: &serde_path_to_error::Path) -> FieldPath {
    use serde_path_to_error::Segment;
    let steps = path.iter().filter_map(|segment| match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } | Segment::Enum { variant: key } => Some(Step::Key(key.clone())),
        Segment::Unknown => None,
    });
    FieldPath(steps.collect())
}
