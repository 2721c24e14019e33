//! Asking the kernel for links, addresses and the numbers of network namespaces.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _};
use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use rtnetlink::Handle;
use tokio::task::JoinHandle;

use super::NodeState;
use super::addresses::Address;
use super::links::{Link, LinkHeader};

/// A connection to the kernel.
pub(super) struct Lister {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Lister {
    /// Opens it in the calling thread's network namespace.
    pub(super) fn open() -> Result<Self> {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("open a netlink socket")?;
        Ok(Self {
            handle,
            connection: tokio::spawn(connection),
        })
    }

    pub(super) async fn list(&mut self, netns_dir: &Path) -> Result<NodeState> {
        // The kernel numbers a peer's namespace when it lists the link, so links come first.
        let links: Vec<Link> = self
            .handle
            .link()
            .get()
            .execute()
            .map_ok(link)
            .try_collect()
            .await
            .context("list interfaces")?;
        let addresses: Vec<Address> = self
            .handle
            .address()
            .get()
            .execute()
            .try_filter_map(|message| std::future::ready(Ok(address(&message))))
            .try_collect()
            .await
            .context("list addresses")?;
        let namespaces = self.namespaces(netns_dir).await?;
        Ok(NodeState::new(&links, &addresses, &namespaces))
    }

    /// The numbers by which links name the network namespaces in a directory. Files that are no
    /// namespaces (yet) are left out, and so are namespaces that no link leads to.
    async fn namespaces(&mut self, netns_dir: &Path) -> Result<BTreeMap<i32, String>> {
        let mut found = BTreeMap::new();
        for (name, file) in namespace_files(netns_dir)? {
            if let Some(number) = self.number(&file).await? {
                found.entry(number).or_insert(name);
            }
        }
        Ok(found)
    }

    async fn number(&mut self, namespace: &File) -> Result<Option<i32>> {
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

/// The open network namespaces of a directory, by file name; none where there is no directory.
fn namespace_files(directory: &Path) -> Result<BTreeMap<String, File>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries.with_context(|| format!("list {}", directory.display()))?,
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", directory.display()))?;
        // It may go at any moment, and what cannot be opened or is something else (a namespace
        // is a file, bound to one later) is no pod's.
        let Ok(file) = File::open(entry.path()) else {
            continue;
        };
        if fstatfs(&file).is_ok_and(|status| status.filesystem_type() == NSFS_MAGIC) {
            files.insert(entry.file_name().to_string_lossy().into_owned(), file);
        }
    }
    Ok(files)
}

fn link(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: String::new(),
        header: LinkHeader::from_link_type(message.header.link_layer_type.into()),
        is_loopback: message.header.flags.contains(LinkFlags::Loopback),
        master: None,
        peer_namespace: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Controller(master) => link.master = Some(master),
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
    let mut addr = None;
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        match attribute {
            // Of a point-to-point link this is the node's, the other the peer's.
            AddressAttribute::Local(local) => addr = Some(*local),
            AddressAttribute::Address(address) => addr = addr.or(Some(*address)),
            // The header has room for some of them only.
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
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
