//! The kernel's messages about interfaces, addresses and network namespaces.
//!
//! One socket hears of all that happens in the node's own network namespace and in every one
//! that it has a number for, which are those that interfaces lead to: the pods'
//! (`NETLINK_LISTEN_ALL_NSID`). So nobody needs to enter a pod's namespace, or to keep a socket
//! in it, which would keep the namespace itself from going.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd as _, AsRawFd};

use anyhow::{Context as _, Result};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::nsid::NsidAttribute;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, NetlinkAddr, recvmsg};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use super::stale::{Stale, Told};

/// Links, addresses and network namespaces (`enum rtnetlink_groups`).
const GROUPS: [u32; 4] = [1, 5, 9, 28];
/// Of a link only the kind of message matters, and one about a namespace's number is short.
const BEGINNING: usize = 128;
/// Where the kind of message stands in it.
const KIND: std::ops::Range<usize> = 4..6;
/// Messages taken at a time, so that others get their turn.
const AT_A_TIME: usize = 4096;

/// Messages that somebody may wait for.
///
/// The runtime waits for a descriptor of any kind in unsafe code only, and for a socket of its
/// own in safe code. To it every socket of messages is the same.
pub(super) struct Events(UnixDatagram);

impl Events {
    /// Listens from now on. The calling thread's network namespace is the node's.
    pub(super) fn listen() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        socket.set_listen_all_namespaces(true).context(
            "hear of the addresses of pods (NETLINK_LISTEN_ALL_NSID): the agent needs \
             CAP_NET_BROADCAST",
        )?;
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        let descriptor = socket.as_fd().try_clone_to_owned()?;
        Ok(Self(UnixDatagram::from_std(descriptor.into())?))
    }

    /// Waits for messages and notes what those that are there make doubtful. What was noted stays
    /// noted where the wait is given up.
    pub(super) async fn next(&self, stale: &mut Stale) -> io::Result<()> {
        loop {
            self.0.readable().await?;
            let taken = self.0.try_io(Interest::READABLE, || take(&self.0, stale));
            match taken {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Takes what is there; that nothing is there is an error, as the runtime expects it.
fn take(socket: &impl AsRawFd, stale: &mut Stale) -> io::Result<()> {
    for taken in 0..AT_A_TIME {
        match receive(socket) {
            Ok(told) => stale.note(told),
            Err(Errno::EINTR) => {}
            Err(Errno::ENOBUFS) => {
                tracing::debug!("netlink messages were lost; everything is listed afresh");
                stale.everything = true;
            }
            Err(Errno::EAGAIN) if taken > 0 => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn receive(socket: &impl AsRawFd) -> Result<Told, Errno> {
    let mut bytes = [0; BEGINNING];
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let mut control = nix::cmsg_space!(i32);
    let received = recvmsg::<NetlinkAddr>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut control),
        MsgFlags::empty(),
    )?;
    let mut namespace = None;
    for control in received.cmsgs()? {
        if let ControlMessageOwned::Unknown(control) = control
            && control.cmsg_header.cmsg_level == libc::SOL_NETLINK
            && control.cmsg_header.cmsg_type == libc::NETLINK_LISTEN_ALL_NSID
        {
            let number = control.data_bytes.as_slice().try_into();
            namespace = number.ok().map(i32::from_ne_bytes);
        }
    }
    let length = received.bytes;
    Ok(told(bytes.get(..length).unwrap_or(&bytes), namespace))
}

/// What a message is about. `namespace`: where it comes from, if not from the node's own.
fn told(message: &[u8], namespace: Option<i32>) -> Told {
    let kind = message
        .get(KIND)
        .and_then(|kind| kind.try_into().ok())
        .map(u16::from_ne_bytes);
    match kind {
        Some(libc::RTM_NEWNSID | libc::RTM_DELNSID) => {
            number(message).map_or(Told::Unclear, Told::Number)
        }
        Some(_) => Told::Configuration(namespace),
        None => Told::Unclear,
    }
}

fn number(message: &[u8]) -> Option<i32> {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message).ok()?;
    let (NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(message))
    | NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNsId(message))) = message.payload
    else {
        return None;
    };
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NsidAttribute::Id(number) => Some(*number),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::link::LinkMessage;
    use netlink_packet_route::nsid::NsidMessage;

    fn bytes(message: RouteNetlinkMessage) -> Vec<u8> {
        let mut message = NetlinkMessage::from(message);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    #[test]
    fn a_message_says_where_something_happened_or_which_number_was_given() {
        let link = bytes(RouteNetlinkMessage::NewLink(LinkMessage::default()));
        assert_eq!(told(&link, None), Told::Configuration(None));
        assert_eq!(told(&link, Some(4)), Told::Configuration(Some(4)));

        let mut message = NsidMessage::default();
        message.attributes = vec![NsidAttribute::Id(9)];
        let given = bytes(RouteNetlinkMessage::NewNsId(message.clone()));
        assert_eq!(told(&given, None), Told::Number(9));
        let taken = bytes(RouteNetlinkMessage::DelNsId(message));
        assert_eq!(told(&taken, None), Told::Number(9));
    }

    #[test]
    fn a_message_cut_short_is_unclear() {
        let mut message = NsidMessage::default();
        message.attributes = vec![NsidAttribute::Id(9)];
        let whole = bytes(RouteNetlinkMessage::NewNsId(message));
        for length in 0..whole.len() {
            assert_eq!(told(&whole[..length], None), Told::Unclear, "{length}");
        }
    }
}
