//! The node: its addresses, ports and interfaces.

use bytemuck::{Pod, Zeroable};

use crate::addr::Addr;

/// What programs know of the node they run on. Written by the agent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct Node {
    /// The node's IPv4 address, source of what it masquerades; `::` if it has none.
    pub addr_v4: Addr,
    /// The node's IPv6 address, likewise.
    pub addr_v6: Addr,
    /// Every IPv4 cluster IP and IPv4 service CIDR lies in this: other addresses need not be
    /// looked up.
    pub cover_v4: Cover,
    /// The IPv6 likewise.
    pub cover_v6: Cover,
    /// Source ports for translated sources. They lie outside the kernel's own range
    /// (`net.ipv4.ip_local_port_range`), so that a masqueraded flow never meets a connection of
    /// the node.
    pub snat_ports: [PortRange; 2],
    /// Every node port in use lies in this: others need not be looked up.
    pub node_ports: PortRange,
}

impl Node {
    /// A node without addresses and ports.
    pub const NONE: Self = Self {
        addr_v4: Addr::UNSPECIFIED,
        addr_v6: Addr::UNSPECIFIED,
        cover_v4: Cover::NOTHING,
        cover_v6: Cover::NOTHING,
        snat_ports: [PortRange::NONE; 2],
        node_ports: PortRange::NONE,
    };

    /// The node's address of a family; `::` where it has none.
    #[inline(always)]
    #[must_use]
    pub const fn addr(&self, is_v4: bool) -> Addr {
        if is_v4 { self.addr_v4 } else { self.addr_v6 }
    }

    /// Where the cluster IPs and service CIDRs of this address's family lie: does it, too?
    #[inline(always)]
    #[must_use]
    pub const fn covers(&self, addr: Addr) -> bool {
        if addr.is_v4() {
            self.cover_v4.contains(addr)
        } else {
            self.cover_v6.contains(addr)
        }
    }
}

/// A prefix that covers a set of addresses. As the kernel makes it, all zero, it covers everything.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct Cover {
    /// The first address.
    pub prefix: Addr,
    /// The bits that count.
    pub mask: Addr,
}

impl Cover {
    /// Covers nothing: no address has a bit that its mask lacks.
    pub const NOTHING: Self = Self {
        prefix: Addr([u32::MAX; 4]),
        mask: Addr::UNSPECIFIED,
    };

    /// Does it cover this address?
    #[inline(always)]
    #[must_use]
    pub const fn contains(&self, addr: Addr) -> bool {
        let (prefix, mask, addr) = (&self.prefix.0, &self.mask.0, &addr.0);
        (addr[0] & mask[0] == prefix[0])
            & (addr[1] & mask[1] == prefix[1])
            & (addr[2] & mask[2] == prefix[2])
            & (addr[3] & mask[3] == prefix[3])
    }
}

/// Ports, in host byte order. Empty where `min` is more than `max`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct PortRange {
    /// The first.
    pub min: u16,
    /// The last.
    pub max: u16,
}

impl PortRange {
    /// No port.
    pub const NONE: Self = Self { min: 1, max: 0 };

    /// These ports, both included.
    #[must_use]
    pub const fn new(min: u16, max: u16) -> Self {
        Self { min, max }
    }

    /// How many ports there are.
    #[inline(always)]
    #[must_use]
    pub const fn count(self) -> u32 {
        (self.max as u32 + 1).saturating_sub(self.min as u32)
    }

    /// Is this port in it?
    #[inline(always)]
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.min <= port && port <= self.max
    }
}

/// A range of addresses: the key of `SERVICE_CIDRS`, which holds the addresses that are for
/// services. Written by the agent, read where a packet leaves the node: what is addressed to
/// them and was not translated goes nowhere.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct Cidr {
    /// Bits of the mapped address that count (`96 + 8` for `10.0.0.0/8`).
    pub prefix_len: u32,
    /// The range's first address.
    pub addr: Addr,
}

impl Cidr {
    /// Is this address in it?
    #[must_use]
    pub fn contains(&self, addr: Addr) -> bool {
        addr.has_prefix(self.addr, self.prefix_len)
    }
}

impl core::fmt::Display for Cidr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.addr.fmt_prefix(self.prefix_len, f)
    }
}

/// An interface by which masqueraded flows leave. Written by the agent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct Interface {
    /// The interface's first IPv4 address; `::` where it has none: then the node's is taken.
    pub addr_v4: Addr,
    /// The IPv6 likewise.
    pub addr_v6: Addr,
}

impl Interface {
    /// The interface's address of a family; `::` where it has none.
    #[inline(always)]
    #[must_use]
    pub const fn addr(&self, is_v4: bool) -> Addr {
        if is_v4 { self.addr_v4 } else { self.addr_v6 }
    }
}
