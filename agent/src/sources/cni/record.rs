//! One record, as libcni writes it: pure.
//!
//! `cacheAdd` of libcni marshals its `cachedInfo` (`libcni/api.go`). What a plugin answered is in
//! it in the form of the plugin's own version of the specification: addresses under `ip4` and
//! `ip6` up to 0.2.0, under `ips` from 0.3.0 on.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::Deserialize;

use crate::model::{FieldPath, Invalid, PodRef, Step, validate_label, validate_subdomain};

/// The only kind of record that names the pod.
const KIND: &str = "cniCacheV1";
/// The loopback's interface in a pod: nothing of it is on the node.
const LOOPBACK: &str = "lo";

/// An interface of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The pod.
    pub pod: PodRef,
    /// Its UID; empty where the runtime does not tell plugins.
    pub uid: String,
    /// The path of the pod's network namespace, if the record says so.
    pub sandbox: Option<String>,
    /// Interfaces outside the pod that belong to it: the other end of its pair, and what that
    /// end is plugged into.
    pub outside: Vec<String>,
    /// The addresses that the pod was given.
    pub addrs: BTreeSet<IpAddr>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cached {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    if_name: String,
    #[serde(default)]
    netns: String,
    #[serde(default)]
    cni_args: Option<Vec<(String, String)>>,
    #[serde(default)]
    result: Option<Answer>,
}

/// What the plugins answered.
#[derive(Default, Deserialize)]
struct Answer {
    #[serde(default)]
    interfaces: Option<Vec<Interface>>,
    #[serde(default)]
    ips: Option<Vec<Address>>,
    #[serde(default)]
    ip4: Option<OldAddress>,
    #[serde(default)]
    ip6: Option<OldAddress>,
}

#[derive(Deserialize)]
struct Interface {
    #[serde(default)]
    name: String,
    #[serde(default)]
    sandbox: Option<String>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(default)]
    interface: Option<i64>,
    address: String,
}

#[derive(Deserialize)]
struct OldAddress {
    ip: String,
}

impl Interface {
    /// The path of the namespace that it stands in; `None`: the node's.
    fn sandbox(&self) -> Option<&str> {
        self.sandbox.as_deref().filter(|path| !path.is_empty())
    }
}

/// Reads the text of a file; `None`: it is of no pod's interface that the node has to do with.
///
/// # Errors
/// Names the field at fault.
pub fn parse(text: &str) -> Result<Option<Record>, Invalid> {
    let mut json = serde_json::Deserializer::from_str(text);
    let cached: Cached = serde_path_to_error::deserialize(&mut json).map_err(|error| Invalid {
        field: field(error.path()),
        message: error.inner().to_string(),
    })?;
    json.end()
        .map_err(|error| Invalid::new("", error.to_string()))?;
    if cached.kind != KIND {
        let message = format!("{:?} is not {KIND}", cached.kind);
        return Err(Invalid::new("kind", message));
    }
    if cached.if_name == LOOPBACK {
        return Ok(None);
    }
    let args = cached.cni_args.unwrap_or_default();
    let Some(pod) = pod(&args)? else {
        return Ok(None);
    };
    let answer = cached.result.unwrap_or_default();
    let interfaces = answer.interfaces.as_deref().unwrap_or_default();
    let sandbox = Some(cached.netns.as_str())
        .filter(|path| !path.is_empty())
        .or_else(|| interfaces.iter().find_map(Interface::sandbox));
    Ok(Some(Record {
        pod,
        uid: arg(&args, "K8S_POD_UID").map_or(String::new(), |(_, uid)| uid.to_owned()),
        sandbox: sandbox.map(ToOwned::to_owned),
        outside: interfaces
            .iter()
            .filter(|interface| interface.sandbox().is_none() && !interface.name.is_empty())
            .map(|interface| interface.name.clone())
            .collect(),
        addrs: addrs(&answer)?,
    }))
}

/// The last of several is the one that plugins go by.
fn arg<'a>(args: &'a [(String, String)], name: &str) -> Option<(usize, &'a str)> {
    let mut args = args.iter().enumerate().rev();
    args.find_map(|(index, (key, value))| (key == name).then_some((index, value.as_str())))
}

/// `None`: whoever ran the plugins did so for something that is no pod.
fn pod(args: &[(String, String)]) -> Result<Option<PodRef>, Invalid> {
    let (namespace, name) = (arg(args, "K8S_POD_NAMESPACE"), arg(args, "K8S_POD_NAME"));
    let (Some((namespace_at, namespace)), Some((name_at, name))) = (namespace, name) else {
        return Ok(None);
    };
    let at = |index| move |message| Invalid::new("", message).at(1).at(index).within("cniArgs");
    validate_label(namespace).map_err(at(namespace_at))?;
    validate_subdomain(name).map_err(at(name_at))?;
    Ok(Some(PodRef {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }))
}

fn addrs(answer: &Answer) -> Result<BTreeSet<IpAddr>, Invalid> {
    let interfaces = answer.interfaces.as_deref().unwrap_or_default();
    let mut addrs = BTreeSet::new();
    for (index, ip) in answer.ips.iter().flatten().enumerate() {
        let interface = ip
            .interface
            .and_then(|interface| interfaces.get(usize::try_from(interface).ok()?));
        // An address outside the pod is the node's.
        if interface.is_some_and(|interface| interface.sandbox().is_none()) {
            continue;
        }
        addrs.insert(
            addr(&ip.address)
                .map_err(|invalid| invalid.within("address").at(index).within("result.ips"))?,
        );
    }
    for (name, ip) in [("ip4", &answer.ip4), ("ip6", &answer.ip6)] {
        if let Some(ip) = ip {
            let read = addr(&ip.ip);
            addrs.insert(read.map_err(|it| it.within("ip").within(name).within("result"))?);
        }
    }
    Ok(addrs)
}

fn addr(text: &str) -> Result<IpAddr, Invalid> {
    text.parse()
        .map(|network: IpNetwork| network.ip())
        .map_err(|_| Invalid::new("", format!("{text:?} is not ADDRESS/LENGTH")))
}

fn field(path: &serde_path_to_error::Path) -> FieldPath {
    use serde_path_to_error::Segment;
    let steps = path.iter().filter_map(|segment| match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } | Segment::Enum { variant: key } => Some(Step::Key(key.clone())),
        Segment::Unknown => None,
    });
    FieldPath(steps.collect())
}

#[cfg(test)]
mod tests;
