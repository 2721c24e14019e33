//! Addresses, ports and protocols as tables and packets hold them.
//!
//! An IPv4 address is held as its IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2), so that
//! every step of the datapath exists once.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytemuck::{Pod, Zeroable};

/// A 128-bit address, four words in network byte order.
///
/// Words, because an array of bytes has alignment 1 and makes the compiler emit `memset`, which
/// the BPF target refuses.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Pod, Zeroable)]
pub struct Addr(pub [u32; 4]);

/// The third word of an IPv4-mapped address, in network byte order.
const MAPPED: u32 = 0xffff_u32.to_be();

impl Addr {
    /// `::`, which is no host's address and stands for "none" in tables.
    pub const UNSPECIFIED: Self = Self([0; 4]);
    /// `0.0.0.0`, likewise.
    pub const UNSPECIFIED_V4: Self = Self([0, 0, MAPPED, 0]);

    /// From the four bytes of an IPv4 address, read as one word in network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn from_v4_word(word: u32) -> Self {
        Self([0, 0, MAPPED, word])
    }

    /// The IPv4 address as one word in network byte order, if this is one.
    #[inline(always)]
    #[must_use]
    pub const fn v4_word(self) -> Option<u32> {
        if self.is_v4() { Some(self.0[3]) } else { None }
    }

    /// Is this an IPv4 address?
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(self) -> bool {
        // One comparison, not three: each branch is a path that the verifier walks.
        (self.0[0] | self.0[1] | (self.0[2] ^ MAPPED)) == 0
    }

    /// `==` with one comparison: each branch is a path that the verifier walks.
    #[inline(always)]
    #[must_use]
    pub const fn is(self, other: Self) -> bool {
        self.difference(other) == 0
    }

    /// Zero where it is the same.
    #[inline(always)]
    pub(crate) const fn difference(self, other: Self) -> u32 {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h)
    }

    /// Is this `::`, that is, no address?
    #[inline(always)]
    #[must_use]
    pub const fn is_unspecified(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == 0
    }

    /// Is this an IPv6 address that counts on its link alone, `fe80::/10` (RFC 4291 section
    /// 2.5.6)?
    #[inline(always)]
    #[must_use]
    pub const fn is_link_local(self) -> bool {
        u32::from_be(self.0[0]) >> 22 == 0xfe80 >> 6
    }
}

impl Addr {
    /// Do the first `length` bits agree with those of `prefix`?
    #[must_use]
    pub fn has_prefix(self, prefix: Self, length: u32) -> bool {
        let bits = |addr: Self| u128::from_be_bytes(bytemuck::cast(addr.0));
        let differing = bits(self) ^ bits(prefix);
        differing.leading_zeros() >= length.min(u128::BITS)
    }

    /// Writes a prefix of this address as people write it, an IPv4 one with its own length.
    pub(crate) fn fmt_prefix(
        self,
        length: u32,
        f: &mut core::fmt::Formatter<'_>,
    ) -> core::fmt::Result {
        let before = if self.is_v4() { 96 } else { 0 };
        write!(f, "{self}/{}", length.saturating_sub(before))
    }
}

impl From<IpAddr> for Addr {
    fn from(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(addr: Ipv4Addr) -> Self {
        Self::from_v4_word(u32::from_ne_bytes(addr.octets()))
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(addr: Ipv6Addr) -> Self {
        Self(bytemuck::pod_read_unaligned(&addr.octets()))
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> Self {
        let octets: [u8; 16] = bytemuck::cast(addr.0);
        Ipv6Addr::from(octets).to_canonical()
    }
}

impl core::fmt::Display for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl core::fmt::Debug for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

/// A port number, two bytes in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Pod, Zeroable)]
pub struct Port(pub u16);

impl Port {
    /// From a number in host byte order.
    #[inline(always)]
    #[must_use]
    pub const fn new(number: u16) -> Self {
        Self(number.to_be())
    }

    /// The number in host byte order.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u16 {
        u16::from_be(self.0)
    }
}

impl core::fmt::Display for Port {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.number().fmt(f)
    }
}

impl core::fmt::Debug for Port {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

/// An Internet protocol number, as in the header that announces the payload.
///
/// A newtype and not an enum: a packet may carry any number, and only three have ports.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Pod, Zeroable)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP (RFC 792).
    pub const ICMP: Self = Self(1);
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);
    /// `ICMPv6` (RFC 4443).
    pub const ICMPV6: Self = Self(58);
    /// SCTP (RFC 9260).
    pub const SCTP: Self = Self(132);

    /// Does the header of this protocol begin with a source and a destination port?
    #[inline(always)]
    #[must_use]
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP)
    }
}

impl Protocol {
    /// The name of a protocol that is handled here.
    #[inline(always)]
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::ICMP => Some("ICMP"),
            Self::TCP => Some("TCP"),
            Self::UDP => Some("UDP"),
            Self::ICMPV6 => Some("ICMPv6"),
            Self::SCTP => Some("SCTP"),
            _ => None,
        }
    }
}

impl core::fmt::Display for Protocol {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "protocol {}", self.0),
        }
    }
}

impl core::fmt::Debug for Protocol {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_survive_the_round_trip() {
        for text in [
            "10.32.0.140",
            "0.0.0.0",
            "255.255.255.255",
            "fd00:10:32::8c",
            "::",
            "::1",
        ] {
            let addr: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Addr::from(addr)), addr);
            assert_eq!(Addr::from(addr).is_v4(), addr.is_ipv4());
        }
    }

    #[test]
    fn an_ipv4_mapped_address_is_the_ipv4_address() {
        let mapped: Ipv6Addr = "::ffff:10.32.0.140".parse().unwrap();
        assert_eq!(
            Addr::from(mapped),
            Addr::from(Ipv4Addr::new(10, 32, 0, 140))
        );
        assert_eq!(Addr::from(mapped).to_string(), "10.32.0.140");
    }

    #[test]
    fn bytes_stand_in_network_order() {
        let addr = Addr::from(Ipv4Addr::new(10, 32, 0, 140));
        assert_eq!(
            bytemuck::bytes_of(&addr)[10..],
            [0xff, 0xff, 10, 32, 0, 140]
        );
        assert_eq!(bytemuck::bytes_of(&Port::new(80)), [0, 80]);
    }
}
