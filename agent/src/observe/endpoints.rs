//! Which endpoints of a service are not chosen, and why, for `weir service get`.
//!
//! The pinned tables say who is chosen; of the others only the agent knows. It leaves one file
//! for each service that has such endpoints, `<run-dir>/endpoints/<namespace>.<name>.json`, and
//! writes it when what it says changes, so that the work follows the change. The files outlive
//! the agent, as the tables do, and the next agent brings them up to date. Neither a namespace
//! nor a service's name has a dot in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::{
    compile::{self, Part},
    model::{ServiceRef, TrafficPolicy},
};

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotChosen {
    /// Endpoints of a port of the service.
    pub endpoints: Vec<Endpoint>,
    /// How many more there are, which are not named.
    pub more: usize,
    /// Endpoints that belong to no port of the service.
    pub unused: Vec<Unused>,
}

/// An endpoint that is not chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// The service port's name.
    pub port_name: String,
    /// Its number.
    pub port: u16,
    /// Its protocol.
    pub protocol: String,
    /// `IPv4` or `IPv6`
    pub family: String,
    /// The traffic policy under which it is not chosen; `None`: whichever.
    pub traffic_policy: Option<String>,
    /// The endpoint.
    pub address: SocketAddr,
    /// Its node, if that is known.
    pub node: Option<String>,
    /// Its zone, likewise.
    pub zone: Option<String>,
    /// Why.
    pub reason: String,
}

/// Endpoints that belong to no port of the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unused {
    /// `IPv4` or `IPv6`
    pub family: String,
    /// The name of their port.
    pub port_name: String,
    /// Their port.
    pub port: u16,
    /// Its protocol.
    pub protocol: String,
    /// How many there are.
    pub endpoints: usize,
    /// Why.
    pub reason: String,
}

/// Keeps the files true.
#[derive(Debug)]
pub struct Files {
    directory: PathBuf,
    /// What the files say. `None`: an earlier agent's, so anything.
    written: Option<BTreeMap<ServiceRef, compile::Account>>,
}

impl Files {
    /// The files of the agent with this run directory.
    #[must_use]
    pub fn new(run_dir: &Path) -> Self {
        Self {
            directory: directory(run_dir),
            written: None,
        }
    }

    /// Makes the files say this.
    ///
    /// # Errors
    /// A file cannot be written or removed; the next call tries all of them again.
    pub fn update(&mut self, accounts: &BTreeMap<ServiceRef, compile::Account>) -> Result<()> {
        let written = self.written.take();
        match &written {
            Some(written) => {
                for service in written.keys().filter(|it| !accounts.contains_key(*it)) {
                    remove(&self.directory.join(file_name(service)))?;
                }
            }
            None => self.remove_others(accounts)?,
        }
        for (service, account) in accounts {
            let known = written.as_ref().and_then(|written| written.get(service));
            if known != Some(account) {
                write(
                    &self.directory.join(file_name(service)),
                    &not_chosen(account),
                )?;
            }
        }
        self.written = Some(accounts.clone());
        Ok(())
    }

    /// Makes the files of these services say this; those of all others are as they were.
    ///
    /// # Errors
    /// As for [`Files::update`].
    pub fn update_of(
        &mut self,
        services: &BTreeSet<ServiceRef>,
        accounts: &BTreeMap<ServiceRef, compile::Account>,
    ) -> Result<()> {
        let Some(mut written) = self.written.take() else {
            return self.update(accounts);
        };
        for service in services {
            let account = accounts.get(service);
            if account == written.get(service) {
                continue;
            }
            let path = self.directory.join(file_name(service));
            match account {
                Some(account) => {
                    write(&path, &not_chosen(account))?;
                    written.insert(service.clone(), account.clone());
                }
                None => {
                    remove(&path)?;
                    written.remove(service);
                }
            }
        }
        self.written = Some(written);
        Ok(())
    }

    fn remove_others(&self, accounts: &BTreeMap<ServiceRef, compile::Account>) -> Result<()> {
        let directory = &self.directory;
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        let wanted: Vec<String> = accounts.keys().map(file_name).collect();
        let list = || format!("list {}", directory.display());
        for entry in fs::read_dir(directory).with_context(list)? {
            let entry = entry.with_context(list)?;
            let name = entry.file_name();
            if !wanted.iter().any(|wanted| name == wanted.as_str()) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// What the last agent said of the endpoints of this service that are not chosen.
///
/// # Errors
/// The file is there and cannot be read or understood.
pub fn read(run_dir: &Path, namespace: &str, name: &str) -> Result<NotChosen> {
    let service = ServiceRef {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    let path = directory(run_dir).join(file_name(&service));
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .with_context(|| format!("{} is not what this version wrote", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(NotChosen::default()),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Where the files of the agent with this run directory are.
#[must_use]
pub fn directory(run_dir: &Path) -> PathBuf {
    run_dir.join("endpoints")
}

fn file_name(service: &ServiceRef) -> String {
    format!("{}.{}.json", service.namespace, service.name)
}

fn write(target: &Path, content: &NotChosen) -> Result<()> {
    let fresh = target.with_extension("json.new");
    let text = serde_json::to_vec(content).context("encode")?;
    fs::write(&fresh, text).with_context(|| format!("write {}", fresh.display()))?;
    fs::rename(&fresh, target).with_context(|| format!("rename to {}", target.display()))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn not_chosen(account: &compile::Account) -> NotChosen {
    NotChosen {
        endpoints: account.unchosen.iter().map(endpoint).collect(),
        more: account.more,
        unused: account.unused.iter().map(unused).collect(),
    }
}

fn endpoint(unchosen: &compile::Unchosen) -> Endpoint {
    let Part {
        port_name,
        port,
        protocol,
        family,
    } = &unchosen.part;
    Endpoint {
        port_name: port_name.clone(),
        port: port.get(),
        protocol: protocol.to_string(),
        family: family.to_string(),
        traffic_policy: unchosen.policy.map(|policy| match policy {
            TrafficPolicy::Cluster => "Cluster".to_owned(),
            TrafficPolicy::Local => "Local".to_owned(),
        }),
        address: SocketAddr::new(unchosen.addr, unchosen.port.get()),
        node: unchosen.node.clone(),
        zone: unchosen.zone.clone(),
        reason: unchosen.why.to_string(),
    }
}

fn unused(unused: &compile::Unused) -> Unused {
    Unused {
        family: unused.family.to_string(),
        port_name: unused.port_name.clone(),
        port: unused.port.get(),
        protocol: unused.protocol.to_string(),
        endpoints: unused.endpoints,
        reason: unused.why.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use crate::{
        compile::{Account, Why, WhyUnused},
        model::{Family, Protocol},
    };

    fn service(name: &str) -> ServiceRef {
        ServiceRef {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        }
    }

    fn account(why: Why) -> Account {
        let port = NonZeroU16::new(80).unwrap();
        Account {
            unchosen: vec![compile::Unchosen {
                part: Part {
                    port_name: "http".to_owned(),
                    port,
                    protocol: Protocol::Tcp,
                    family: Family::V4,
                },
                policy: Some(TrafficPolicy::Local),
                addr: [10, 200, 1, 2].into(),
                port: NonZeroU16::new(8080).unwrap(),
                node: Some("worker-1".to_owned()),
                zone: None,
                why,
            }],
            more: 3,
            unused: vec![compile::Unused {
                family: Family::V6,
                port_name: String::new(),
                protocol: Protocol::Udp,
                port,
                endpoints: 2,
                why: WhyUnused::OtherFamily,
            }],
        }
    }

    #[test]
    fn files_say_what_was_compiled_last() {
        let run_dir = tempfile::tempdir().unwrap();
        let found = |name| read(run_dir.path(), "shop", name).unwrap();
        let mut files = Files::new(run_dir.path());
        assert_eq!(found("cart"), NotChosen::default());

        files
            .update(&[(service("cart"), account(Why::OtherNode))].into())
            .unwrap();
        let text = serde_json::to_value(found("cart")).unwrap();
        assert_eq!(
            text,
            serde_json::json!({
                "endpoints": [{
                    "portName": "http", "port": 80, "protocol": "TCP", "family": "IPv4",
                    "trafficPolicy": "Local", "address": "10.200.1.2:8080", "node": "worker-1",
                    "zone": null, "reason": "the traffic policy is Local, and it is not on this node",
                }],
                "more": 3,
                "unused": [{
                    "family": "IPv6", "portName": "", "port": 80, "protocol": "UDP", "endpoints": 2,
                    "reason": "the service has no cluster IP of this family",
                }],
            })
        );
        // The next agent knows nothing of these.
        let mut files = Files::new(run_dir.path());
        files
            .update(&[(service("pay"), account(Why::NotReady))].into())
            .unwrap();
        assert_eq!(found("cart"), NotChosen::default());
        assert_eq!(found("pay").endpoints[0].reason, "it is not ready");
        files.update(&BTreeMap::new()).unwrap();
        assert_eq!(found("pay"), NotChosen::default());
    }

    #[test]
    fn only_what_changes_is_written() {
        let run_dir = tempfile::tempdir().unwrap();
        let mut files = Files::new(run_dir.path());
        let both = |why| {
            BTreeMap::from([
                (service("cart"), account(Why::OtherNode)),
                (service("pay"), account(why)),
            ])
        };
        files.update(&both(Why::NotReady)).unwrap();
        // Whoever is not written does not come back.
        let cart = directory(run_dir.path()).join(file_name(&service("cart")));
        fs::remove_file(&cart).unwrap();
        files.update(&both(Why::Terminating)).unwrap();
        assert!(!cart.exists());
        let pay = read(run_dir.path(), "shop", "pay").unwrap();
        assert_eq!(pay.endpoints[0].reason, Why::Terminating.to_string());
    }

    #[test]
    fn files_of_some_services_say_what_all_files_would() {
        let run_dir = tempfile::tempdir().unwrap();
        let found = |name| read(run_dir.path(), "shop", name).unwrap();
        let mut files = Files::new(run_dir.path());
        let of = |name: &str, why| (service(name), account(why));
        // Before the first time an earlier agent's files may be there.
        files
            .update_of(&BTreeSet::new(), &[of("cart", Why::OtherNode)].into())
            .unwrap();
        assert_eq!(found("cart").endpoints.len(), 1);
        let now = [of("cart", Why::OtherNode), of("pay", Why::NotReady)].into();
        files.update_of(&[service("pay")].into(), &now).unwrap();
        assert_eq!(found("pay").endpoints[0].reason, "it is not ready");
        let now = [of("pay", Why::NotReady)].into();
        files.update_of(&[service("cart")].into(), &now).unwrap();
        assert_eq!(found("cart"), NotChosen::default());
        // What was written is remembered, whoever asked for it.
        files.update(&BTreeMap::new()).unwrap();
        assert_eq!(found("pay"), NotChosen::default());
    }
}
