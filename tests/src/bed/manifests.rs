//! The directory of manifests that agents of a bed watch, and the objects tests put there.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::plan::{Family, NodePlan};

/// A directory of manifests. Files are replaced as a whole, by renaming over them.
#[derive(Clone, Debug)]
pub struct Manifests {
    directory: PathBuf,
}

impl Manifests {
    /// Makes the directory.
    pub fn create(directory: PathBuf) -> Result<Self> {
        fs::create_dir_all(&directory)
            .with_context(|| format!("create {}", directory.display()))?;
        Ok(Self { directory })
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where a file is.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes or replaces a file of objects (YAML contains JSON); tells whether it changed.
    pub fn put(&self, name: &str, objects: &[Value]) -> Result<bool> {
        let documents: Vec<String> = objects.iter().map(|object| format!("{object:#}")).collect();
        self.put_text(name, &documents.join("\n---\n"))
    }

    /// Writes or replaces a file; tells whether it changed.
    pub fn put_text(&self, name: &str, text: &str) -> Result<bool> {
        let target = self.file(name);
        if fs::read(&target).is_ok_and(|old| old == text.as_bytes()) {
            return Ok(false);
        }
        let fresh = self.directory.join(format!(".{name}.new"));
        fs::write(&fresh, text).with_context(|| format!("write {}", fresh.display()))?;
        fs::rename(&fresh, &target).with_context(|| format!("replace {}", target.display()))?;
        Ok(true)
    }

    /// Removes a file.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.file(name);
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }
}

/// A port of a service: name, number, protocol.
#[derive(Clone, Copy, Debug)]
pub struct ServicePort<'a> {
    /// `name`
    pub name: &'a str,
    /// `port`
    pub port: u16,
    /// `protocol`
    pub protocol: &'a str,
}

/// An endpoint: address and node.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `addresses[0]`
    pub addr: IpAddr,
    /// `nodeName`
    pub node: String,
}

/// A Node object.
#[must_use]
pub fn node(plan: &NodePlan) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": plan.name },
        "status": { "addresses": [
            { "type": "InternalIP", "address": plan.v4 },
            { "type": "InternalIP", "address": plan.v6 },
            { "type": "Hostname", "address": plan.name },
        ] },
    })
}

/// A Service with a cluster IP of each family.
#[must_use]
pub fn service(name: &str, cluster_ips: &[IpAddr], ports: &[ServicePort<'_>]) -> Value {
    let families: Vec<&str> = cluster_ips
        .iter()
        .map(|addr| if addr.is_ipv4() { "IPv4" } else { "IPv6" })
        .collect();
    let ports: Vec<Value> = ports
        .iter()
        .map(|port| json!({ "name": port.name, "port": port.port, "protocol": port.protocol }))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "namespace": "default" },
        "spec": {
            "clusterIP": cluster_ips.first(),
            "clusterIPs": cluster_ips,
            "ipFamilies": families,
            "ipFamilyPolicy": "PreferDualStack",
            "ports": ports,
        },
    })
}

/// An `EndpointSlice` of a service, of one family.
#[must_use]
pub fn slice(
    service: &str,
    family: Family,
    ports: &[ServicePort<'_>],
    endpoints: &[Endpoint],
) -> Value {
    let (suffix, kind) = match family {
        Family::V4 => ("v4", "IPv4"),
        Family::V6 => ("v6", "IPv6"),
    };
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|endpoint| {
            json!({
                "addresses": [endpoint.addr],
                "nodeName": endpoint.node,
                "conditions": { "ready": true, "serving": true, "terminating": false },
            })
        })
        .collect();
    let ports: Vec<Value> = ports
        .iter()
        .map(|port| json!({ "name": port.name, "port": port.port, "protocol": port.protocol }))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{suffix}"),
            "namespace": "default",
            "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": kind,
        "ports": ports,
        "endpoints": endpoints,
    })
}
