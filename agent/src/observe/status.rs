//! The agent's own account of what it did, for `weir status`.
//!
//! The agent writes it to a file whenever it changes, so that it can be read while the agent is
//! busy, and after it has died. The tables themselves are in the kernel and are read from there.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{fast_path, kube_proxy, model::SourceId};

/// What an agent says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The node's name.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// The agent's process.
    pub pid: u32,
    /// When it started.
    pub started: Timestamp,
    /// When it ended, if it did so in order: one that is killed says nothing any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// Are the tables complete and the programs attached? Only ever becomes true.
    pub ready: bool,
    /// Successful synchronisations since the start.
    pub generation: u64,
    /// The last successful one.
    pub last_sync: Option<Sync>,
    /// Why the last one failed, if it did.
    pub error: Option<String>,
    /// What went wrong last, the newest first, whether or not it has been overcome since. An agent
    /// before this one did not tell.
    #[serde(default)]
    pub recent_errors: Vec<RecentError>,
    /// The API server that is asked, and who named it, if one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_server: Option<String>,
    /// Where objects come from, each kind for itself. An agent before this one did not tell.
    #[serde(default)]
    pub sources: Vec<Source>,
    /// Service ports that are served, each family for itself.
    pub service_ports: usize,
    /// The tables that the agent writes.
    pub tables: Vec<Table>,
    /// The pods' interfaces that carry programs.
    pub interfaces: Vec<PodInterface>,
    /// The interfaces to the network that carry programs.
    #[serde(default)]
    pub network_interfaces: Vec<Interface>,
    /// The cgroup whose processes' sockets are served. An agent before this one did not tell.
    #[serde(default)]
    pub cgroup_root: Option<PathBuf>,
    /// The version of the tables' layout, which names their directory. An agent before this one
    /// did not tell.
    #[serde(default)]
    pub layout_version: Option<u32>,
    /// The programs, as the kernel verified them.
    pub programs: Vec<Program>,
    /// The ports at which the agent answers. An agent before this one may not have told.
    #[serde(default)]
    pub listeners: Vec<Listener>,
    /// What a source cannot use.
    pub problems: Vec<Problem>,
    /// What is no fault, but may not be meant. An agent before this one did not tell.
    #[serde(default)]
    pub remarks: Vec<Remark>,
    /// Network policies in force. An agent before this one did not tell.
    #[serde(default)]
    pub policies: usize,
    /// What was left out of the tables.
    pub skipped: Vec<Skipped>,
    /// Kinds that were given and are not read.
    pub unknown_kinds: Vec<String>,
    /// Taking over from kube-proxy. An agent before this one did not tell.
    #[serde(default)]
    pub kube_proxy: kube_proxy::State,
    /// Whether packets are handed over to pods past the node's IP layer. An agent before this one
    /// did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fast_path: Option<fast_path::State>,
}

/// What comes of asking a source for one kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SourceState {
    /// What it holds is known, and its changes are told.
    Synced,
    /// Its first complete list has not come yet.
    Listing,
    /// It cannot be read now; what was last known stays in force, and it is tried again.
    Failing,
    /// The agent has not the right to read this kind.
    Forbidden,
    /// It has no such kind.
    Absent,
}

/// One kind of object of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Which source: `api`, `manifests`, `cni`, `netlink`.
    pub source: String,
    /// The kind, as in `Service`; of `cni` a `Record`, of `netlink` an `Interface`.
    pub kind: String,
    /// How it is.
    pub state: SourceState,
    /// The objects of it that are known.
    pub objects: usize,
    /// Since when it is in this state.
    pub since: Timestamp,
    /// When it last told of a change, or that there is none (a bookmark).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_news: Option<Timestamp>,
    /// What is wrong, and what to do: where something is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Up to where it is known, where the source numbers its changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

impl Source {
    /// One that has told nothing yet.
    #[must_use]
    pub fn new(source: SourceId, kind: String) -> Self {
        Self {
            source: source.to_string(),
            kind,
            state: SourceState::Listing,
            objects: 0,
            since: Timestamp::now(),
            last_news: None,
            error: None,
            resource_version: None,
        }
    }
}

/// A synchronisation of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sync {
    /// When it ended.
    pub at: Timestamp,
    /// How long it took, from the first look at the model to the last write.
    pub microseconds: u64,
    /// Entries written or removed.
    pub writes: usize,
}

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecentError {
    /// When, the last time.
    pub at: Timestamp,
    /// How often in a row.
    pub times: u32,
    /// What.
    pub message: String,
}

/// How full a table is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Entries it holds.
    pub entries: usize,
    /// Entries it can hold.
    pub capacity: u32,
}

/// An interface with programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
}

/// An interface of a pod. An agent before this one told only its index and name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodInterface {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The pod, as `namespace/name`, where it is known.
    #[serde(default)]
    pub pod: Option<String>,
    /// What is known of it: `unknown`, `isolated`, `programmed`.
    #[serde(default)]
    pub state: String,
    /// The policies that isolate it as a receiver, as `namespace/name`.
    #[serde(default)]
    pub ingress: Vec<String>,
    /// The policies that isolate it as a sender.
    #[serde(default)]
    pub egress: Vec<String>,
}

/// A loaded program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Program {
    /// Its name.
    pub name: String,
    /// Instructions the verifier walked through; not told before Linux 5.16.
    pub verified_instructions: Option<u32>,
}

/// A port at which the agent answers, or means to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// What for.
    pub purpose: String,
    /// Address and port.
    pub address: String,
    /// Why it does not, if it does not. It is tried again and again.
    pub error: Option<String>,
}

/// Something that a source cannot use. The last good version stays in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Which source.
    pub source: String,
    /// The object, as `Kind namespace/name`.
    pub object: Option<String>,
    /// The file.
    pub file: Option<String>,
    /// The line in it, from 1.
    pub line: Option<u64>,
    /// The field, as in `spec.ports[0].port`.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
}

/// Something about an object that is no fault, but may not be meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remark {
    /// The object, as `Kind namespace/name`.
    pub object: Option<String>,
    /// The field, as in `spec.podSelector`.
    pub field: Option<String>,
    /// What there is to say.
    pub message: String,
}

/// Something that was left out of the tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Skipped {
    /// What.
    pub object: String,
    /// Why.
    pub reason: String,
}

/// Where the status of the agent with this run directory is.
#[must_use]
pub fn file(run_dir: &Path) -> PathBuf {
    run_dir.join("status.json")
}

impl Status {
    /// Writes the status so that a reader sees the old or the new one, never half of either.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn write(&self, run_dir: &Path) -> Result<()> {
        let target = file(run_dir);
        let fresh = target.with_extension("json.new");
        let text = serde_json::to_vec_pretty(self).context("encode the status")?;
        fs::write(&fresh, text).with_context(|| format!("write {}", fresh.display()))?;
        fs::rename(&fresh, &target).with_context(|| format!("rename to {}", target.display()))
    }

    /// Reads the status of the agent with this run directory; `None` if none was ever written.
    ///
    /// # Errors
    /// The file is there and cannot be read or understood.
    pub fn read(run_dir: &Path) -> Result<Option<Self>> {
        let path = file(run_dir);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let status = serde_json::from_slice(&text).with_context(|| {
            format!("{} is not a status that this version wrote", path.display())
        })?;
        Ok(Some(status))
    }
}
