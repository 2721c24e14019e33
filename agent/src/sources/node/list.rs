//! Asking the kernel for links, addresses and the numbers of network namespaces.
//!
//! What was listed is kept, and only what is [`Stale`] is asked again: what happens in one pod
//! costs one short question, however many there are. Pods' addresses are asked for by the number
//! of the network namespace (`IFA_TARGET_NETNSID`), so that it need not be entered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};
use futures_util::{StreamExt as _, TryStreamExt as _};
use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use rtnetlink::Handle;
use tokio::task::JoinHandle;

use super::addresses::{Address, PodAddress};
use super::files::{self, NamespaceFile};
use super::links::{Link, LinkHeader, Namespaces};
use super::stale::Stale;

/// A connection to the kernel, and what was last heard by it.
pub(super) struct Lister {
    handle: Handle,
    connection: JoinHandle<()>,
    netns_dir: PathBuf,
    listed: Listed,
}

/// The kernel's lists.
#[derive(Default)]
pub(super) struct Listed {
    /// The node's interfaces.
    pub(super) links: Vec<Link>,
    /// The node's addresses.
    pub(super) addresses: Vec<Address>,
    /// The files of network namespaces, by name.
    files: BTreeMap<String, NamespaceFile>,
    /// The addresses in those that interfaces lead to, by number.
    pub(super) within: BTreeMap<i32, Vec<PodAddress>>,
}

impl Listed {
    /// The network namespaces that have a number here.
    pub(super) fn namespaces(&self) -> Namespaces {
        let mut found = Namespaces::new();
        for (name, file) in &self.files {
            if let Some(number) = file.number {
                found.entry(number).or_default().insert(name.clone());
            }
        }
        found
    }

    /// The numbers of the namespaces that the links lead to.
    fn peer_namespaces(&self) -> BTreeSet<i32> {
        self.links
            .iter()
            .filter_map(|link| link.peer_namespace)
            .collect()
    }
}

impl Lister {
    /// Opens it in the calling thread's network namespace.
    pub(super) fn open(netns_dir: PathBuf) -> Result<Self> {
        // Only a strict check lets the kernel look at which namespace's addresses are wanted.
        let (connection, handle, _) =
            rtnetlink::new_connection_with_strict_check().context("open a netlink socket")?;
        Ok(Self {
            handle,
            connection: tokio::spawn(connection),
            netns_dir,
            listed: Listed::default(),
        })
    }

    /// Lists what is stale. Where this fails, that is as stale as before.
    pub(super) async fn refresh(&mut self, stale: &Stale) -> Result<&Listed> {
        let known = self.listed.namespaces();
        let is_own = |number: &i32| !known.contains_key(number);
        // The kernel numbers a peer's namespace when it lists the link, so links come first.
        if stale.everything || stale.node || stale.within.iter().any(is_own) {
            self.listed.links = self.links().await?;
            self.listed.addresses = self.addresses().await?;
        }
        let peers = self.listed.peer_namespaces();
        if stale.everything || stale.files || peers.iter().any(is_own) {
            self.list_files(stale).await?;
        }
        self.list_within(stale, &known, &peers).await?;
        Ok(&self.listed)
    }

    async fn links(&mut self) -> Result<Vec<Link>> {
        self.handle
            .link()
            .get()
            .execute()
            .map_ok(link)
            .try_collect()
            .await
            .context("list interfaces")
    }

    async fn addresses(&mut self) -> Result<Vec<Address>> {
        self.handle
            .address()
            .get()
            .execute()
            .try_filter_map(|message| std::future::ready(Ok(address(&message))))
            .try_collect()
            .await
            .context("list addresses")
    }

    /// Files that are no namespaces (yet) are left out; a namespace that no link leads to has no
    /// number (yet).
    async fn list_files(&mut self, stale: &Stale) -> Result<()> {
        let mut found = BTreeMap::new();
        for (name, mut file) in files::list(&self.netns_dir)? {
            let known = self.listed.files.get(&name);
            file.number = known
                .filter(|known| !stale.everything && known.identity == file.identity)
                .and_then(|known| known.number)
                .filter(|number| !stale.numbers.contains(number));
            if file.number.is_none() {
                let Some(open) = file.open(&self.netns_dir, &name) else {
                    continue;
                };
                file.number = self.number(&open).await?;
            }
            found.insert(name, file);
        }
        self.listed.files = found;
        Ok(())
    }

    /// The addresses in the namespaces of pods.
    async fn list_within(
        &mut self,
        stale: &Stale,
        known: &Namespaces,
        peers: &BTreeSet<i32>,
    ) -> Result<()> {
        let namespaces = self.listed.namespaces();
        let mut within = BTreeMap::new();
        for (number, names) in &namespaces {
            if !peers.contains(number) {
                continue;
            }
            let is_stale = stale.everything
                || stale.within.contains(number)
                || known.get(number) != Some(names);
            let addresses = match self.listed.within.get(number) {
                Some(addresses) if !is_stale => addresses.clone(),
                Some(_) | None => self.addresses_within(*number).await.with_context(|| {
                    format!("list the addresses in network namespace {names:?}")
                })?,
            };
            within.insert(*number, addresses);
        }
        self.listed.within = within;
        Ok(())
    }

    /// The addresses in a namespace; none where it has just gone.
    async fn addresses_within(&mut self, namespace: i32) -> Result<Vec<PodAddress>> {
        let mut question = self.handle.address().get();
        let target = AddressAttribute::TargetNetNsId(namespace);
        question.message_mut().attributes.push(target.clone());
        let answers = question
            .execute()
            .try_filter_map(|message| {
                let answer = if message.attributes.contains(&target) {
                    Ok(pod_address(&message))
                } else {
                    Err(rtnetlink::Error::RequestFailed)
                };
                std::future::ready(answer)
            })
            .try_collect()
            .await;
        match answers {
            Ok(addresses) => Ok(addresses),
            Err(rtnetlink::Error::NetlinkError(error))
                if error.raw_code() == -libc::EINVAL || error.raw_code() == -libc::ENOENT =>
            {
                Ok(Vec::new())
            }
            Err(rtnetlink::Error::RequestFailed) => {
                Err(anyhow!("the kernel answered for another namespace"))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn number(&mut self, namespace: &std::fs::File) -> Result<Option<i32>> {
        let mut question = NsidMessage::default();
        question.attributes = vec![NsidAttribute::Fd(u32::try_from(namespace.as_raw_fd())?)];
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(question));
        message.header.flags = NLM_F_REQUEST;
        let mut answers = self.handle.request(message)?;
        let mut number = None;
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(answer)) => {
                    number = answer
                        .attributes
                        .iter()
                        .find_map(|attribute| match attribute {
                            // -1: no link here leads there.
                            NsidAttribute::Id(number) => {
                                Some(*number).filter(|number| *number >= 0)
                            }
                            _ => None,
                        });
                }
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(error.to_io()).context("ask for a network namespace's number");
                }
                _ => {}
            }
        }
        Ok(number)
    }
}

impl Drop for Lister {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// What stands for none, which an interface that needs none has unless somebody gives it one.
const NO_QUEUE: &str = "noqueue";

fn link(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: String::new(),
        header: LinkHeader::from_link_type(message.header.link_layer_type.into()),
        is_loopback: message.header.flags.contains(LinkFlags::Loopback),
        master: None,
        has_queue: true,
        peer: None,
        peer_namespace: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::Qdisc(name) => link.has_queue = name != NO_QUEUE,
            LinkAttribute::Link(index) => link.peer = Some(index),
            LinkAttribute::LinkNetNsId(number) => link.peer_namespace = Some(number),
            LinkAttribute::LinkInfo(info) => {
                let kind = info.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
                link.kind = kind.unwrap_or_default();
            }
            _ => {}
        }
    }
    link
}

/// `None`: it is not the node's, or not yet.
fn address(message: &AddressMessage) -> Option<Address> {
    let (addr, flags) = read_address(message);
    // Duplicate address detection goes on, or has found another machine with this address.
    let is_pending =
        flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic);
    if is_pending || flags.contains(AddressFlags::Dadfailed) {
        return None;
    }
    Some(Address {
        interface: message.header.index,
        addr: addr?,
        is_global: message.header.scope == AddressScope::Universe,
        is_secondary: flags.contains(AddressFlags::Secondary),
        is_deprecated: flags.contains(AddressFlags::Deprecated),
    })
}

/// `None`: another machine has it. One that is being asked for may be the pod's at any moment,
/// earlier than anybody would have told.
fn pod_address(message: &AddressMessage) -> Option<PodAddress> {
    let (addr, flags) = read_address(message);
    if flags.contains(AddressFlags::Dadfailed) {
        return None;
    }
    Some(PodAddress {
        interface: message.header.index,
        addr: addr?,
    })
}

fn read_address(message: &AddressMessage) -> (Option<IpAddr>, AddressFlags) {
    let mut addr = None;
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        match attribute {
            // Of a point-to-point link this is this end's, the other the peer's.
            AddressAttribute::Local(local) => addr = Some(*local),
            AddressAttribute::Address(address) => addr = addr.or(Some(*address)),
            // The header has room for some of them only.
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    (addr, flags)
}
