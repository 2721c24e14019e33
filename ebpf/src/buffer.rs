//! A packet in memory: the datapath's second world, for tests and traces on any host.

use bytemuck::Pod;

use crate::{
    addr::Protocol,
    checksum::{self, ChecksumKind},
    packet::{Cover, Opener, Packet, PacketMut},
    tables::ConnectionKey,
};

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// An Ethernet frame of at most `N` bytes, with complete checksums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer<const N: usize = 2048> {
    bytes: [u8; N],
    length: usize,
    opener: Opener,
    checksum_kind: Option<ChecksumKind>,
}

impl<const N: usize> Buffer<N> {
    /// A copy of a frame. `None` if it is longer than `N`.
    #[must_use]
    pub fn new(frame: &[u8]) -> Option<Self> {
        let mut bytes = [0; N];
        bytes.get_mut(..frame.len())?.copy_from_slice(frame);
        Some(Self {
            bytes,
            length: frame.len(),
            opener: Opener::Unknown,
            checksum_kind: None,
        })
    }

    /// The same frame, of a connection of which the pod's sockets say this.
    #[must_use]
    pub fn with_opener(self, opener: Opener) -> Self {
        Self { opener, ..self }
    }

    /// The same frame, of which the kernel says that its checksums are complete.
    #[must_use]
    pub fn with_known_checksum(self) -> Self {
        Self {
            checksum_kind: Some(ChecksumKind::Whole),
            ..self
        }
    }

    /// The frame as it now is.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn slice(&self, offset: u32, length: usize) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        self.bytes().get(start..start.checked_add(length)?)
    }

    fn slice_mut(&mut self, offset: u32, length: usize) -> Option<&mut [u8]> {
        let start = usize::try_from(offset).ok()?;
        self.bytes[..self.length].get_mut(start..start.checked_add(length)?)
    }
}

impl<const N: usize> Packet for Buffer<N> {
    fn load<T: Pod>(&self, offset: u32) -> Option<T> {
        self.slice(offset, size_of::<T>())
            .map(bytemuck::pod_read_unaligned)
    }

    fn len(&self) -> u32 {
        u32::try_from(self.length).unwrap_or(u32::MAX)
    }

    fn ether_type(&self) -> u16 {
        self.load::<u16>(12).map_or(0, u16::from_be)
    }

    fn network_offset(&self) -> u32 {
        14
    }

    fn opener(&self, _netns: i32, _connection: &ConnectionKey) -> Opener {
        self.opener
    }
}

impl<const N: usize> PacketMut for Buffer<N> {
    fn store<T: Pod>(&mut self, offset: u32, value: &T) -> Option<()> {
        self.slice_mut(offset, size_of::<T>())?
            .copy_from_slice(bytemuck::bytes_of(value));
        Some(())
    }

    fn store_v6<T: Pod>(&mut self, offset: u32, value: &T) -> Option<()> {
        self.store(offset, value)
    }

    fn adjust_header_checksum(&mut self, offset: u32, difference: u32) -> Option<()> {
        let old: u16 = self.load(offset)?;
        self.store(offset, &checksum::replace(old, difference))
    }

    fn checksum_kind(&self) -> Option<ChecksumKind> {
        self.checksum_kind
    }

    fn adjust_transport_checksum(
        &mut self,
        offset: u32,
        difference: u32,
        _cover: Cover,
        protocol: Protocol,
    ) -> Option<()> {
        let old: u16 = self.load(offset)?;
        // RFC 768: zero means that the sender took no checksum, and a checksum that comes out as
        // zero is sent as its other form.
        if protocol == Protocol::UDP && old == 0 {
            return Some(());
        }
        let new = checksum::replace(old, difference);
        let new = if protocol == Protocol::UDP && new == 0 {
            0xffff
        } else {
            new
        };
        self.store(offset, &new)
    }

    fn reshape(&mut self, keep: u32, room: u32) -> Option<()> {
        let keep = usize::try_from(keep).ok()?;
        let room = usize::try_from(room).ok()?;
        if ETHERNET + keep > self.length || ETHERNET + keep + room > N {
            return None;
        }
        self.bytes
            .copy_within(ETHERNET..ETHERNET + keep, ETHERNET + room);
        self.bytes[ETHERNET..ETHERNET + room].fill(0);
        self.length = ETHERNET + keep + room;
        Some(())
    }

    fn swap_link_addresses(&mut self) -> Option<()> {
        let (destination, rest) = self.bytes.split_at_mut(6);
        destination.swap_with_slice(&mut rest[..6]);
        Some(())
    }
}
