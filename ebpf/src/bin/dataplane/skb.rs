//! The kernel's socket buffer as a packet.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM, bpf_adj_room_mode,
        bpf_hdr_start_off,
    },
    helpers::{
        bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_change_tail,
        bpf_skb_load_bytes, bpf_skb_load_bytes_relative, bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use weir_ebpf::{
    addr::Protocol,
    checksum::ChecksumKind,
    crc32c,
    packet::{Cover, Opener, Packet, PacketMut},
    tables::ConnectionKey,
};

use crate::{kernel_skb, sockets};

/// Bytes of an Ethernet header.
pub const ETHERNET: u32 = 14;
/// Devices that carry IP packets and nothing around them: tun, `WireGuard`, IP in IP.
pub const NO_LINK_HEADER: u32 = 0;

/// A packet at a TC hook, of a device whose link-layer header has `LINK` bytes.
pub struct Skb<'a, const LINK: u32>(pub &'a TcContext);

impl<const LINK: u32> Packet for Skb<'_, LINK> {
    #[inline(always)]
    fn load<T: bytemuck::Pod>(&self, offset: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // The helper reads fragments of a packet that is not linear, too.
        // SAFETY: the pointer is to `size_of::<T>()` writable bytes on the stack.
        let status = unsafe {
            bpf_skb_load_bytes(
                self.0.as_ptr(),
                offset,
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            )
        };
        // SAFETY: on success the helper has written every byte, and any bytes are a `T: Pod`.
        (status == 0).then(|| unsafe { value.assume_init() })
    }

    #[inline(always)]
    fn load_near<T: bytemuck::Pod>(&self, offset: u32) -> Option<T> {
        match self.at_hand(offset) {
            Some(value) => Some(value),
            None => self.load(offset),
        }
    }

    #[inline(always)]
    fn peek<T: bytemuck::Pod>(&self, offset: u32) -> Option<T> {
        self.at_hand(offset)
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.0.len()
    }

    #[inline(always)]
    fn ether_type(&self) -> u16 {
        // SAFETY: the context is valid as long as the program runs. The field is the EtherType in
        // network byte order in the lower half of a word.
        let protocol = unsafe { (*self.0.skb.skb).protocol };
        u16::from_be(protocol as u16)
    }

    #[inline(always)]
    fn network_offset(&self) -> u32 {
        LINK
    }

    #[inline(always)]
    fn segment_payload(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0.skb.skb).gso_size }
    }

    #[inline(always)]
    fn is_for_ip_layer(&self) -> bool {
        // SAFETY: as above.
        let (kind, is_tagged) =
            unsafe { ((*self.0.skb.skb).pkt_type, (*self.0.skb.skb).vlan_present) };
        kind == PACKET_HOST && is_tagged == 0
    }

    #[inline(never)]
    fn opener(&self, netns: i32, connection: &ConnectionKey) -> Opener {
        match sockets::has_connection(self.0, netns, connection) {
            false => Opener::Unknown,
            true if sockets::is_listening(self.0, netns, connection) => Opener::Peer,
            true => Opener::Pod,
        }
    }
}

/// Does the packet begin with its IP header?
///
/// Some tunnels leave before it what they took it out of: those of IPsec (xfrm, vti), and IPIP, SIT
/// and GRE before Linux 5.14.
#[inline(always)]
pub fn begins_with_ip_header(ctx: &TcContext) -> bool {
    let mut there = [0_u32; 5];
    // SAFETY: the context is valid; the pointer is to as many writable bytes as are named.
    let status = unsafe {
        bpf_skb_load_bytes_relative(
            ctx.as_ptr(),
            0,
            there.as_mut_ptr().cast(),
            size_of_val(&there) as u32,
            bpf_hdr_start_off::BPF_HDR_START_NET,
        )
    };
    let here: Option<[u32; 5]> = Skb::<NO_LINK_HEADER>(ctx).load(0);
    // The words, because comparing the arrays would call a function.
    status == 0
        && here.is_some_and(|here| {
            (here[0] ^ there[0])
                | (here[1] ^ there[1])
                | (here[2] ^ there[2])
                | (here[3] ^ there[3])
                | (here[4] ^ there[4])
                == 0
        })
}

/// `PACKET_HOST` (`linux/if_packet.h`): addressed to this machine.
const PACKET_HOST: u32 = 0;

/// Offsets that [`Skb::at_hand`] looks at: an Ethernet header and the longest IPv4 one, or that of
/// IPv6 and some options. The verifier wants a bound.
const NEAR: u32 = 127;

impl<const LINK: u32> Skb<'_, LINK> {
    /// Reads from the packet's linear part without a helper. `None`: it does not lie there.
    #[inline(always)]
    fn at_hand<T: bytemuck::Pod>(&self, offset: u32) -> Option<T> {
        let place = self.place::<T>(offset)?;
        // SAFETY: the bytes lie in the packet, and any bytes are a `T: Pod`. BPF reads at any
        // alignment, as packets have it.
        Some(unsafe { *place })
    }

    /// Where in the packet's linear part these bytes lie.
    #[inline(always)]
    fn place<T: bytemuck::Pod>(&self, offset: u32) -> Option<*mut T> {
        if offset > NEAR {
            return None;
        }
        let skb = self.0.skb.skb;
        // SAFETY: the context is valid as long as the program runs. Volatile, so that the fields
        // are read where the verifier sees that the context is.
        let (data, end) = unsafe {
            (
                (&raw const (*skb).data).read_volatile(),
                (&raw const (*skb).data_end).read_volatile(),
            )
        };
        let start = data as usize + offset as usize;
        if start + size_of::<T>() > end as usize {
            return None;
        }
        Some(start as *mut T)
    }

    #[inline(always)]
    fn write<T: bytemuck::Pod>(&self, offset: u32, value: &T, flags: u64) -> Option<()> {
        // SAFETY: the pointer is to `size_of::<T>()` initialised bytes on the stack.
        let status = unsafe {
            bpf_skb_store_bytes(
                self.0.as_ptr().cast(),
                offset,
                (&raw const *value).cast(),
                size_of::<T>() as u32,
                flags,
            )
        };
        (status == 0).then_some(())
    }
}

impl<const LINK: u32> PacketMut for Skb<'_, LINK> {
    #[inline(always)]
    fn store<T: bytemuck::Pod>(&mut self, offset: u32, value: &T) -> Option<()> {
        self.write(offset, value, 0)
    }

    #[inline(always)]
    fn poke<T: bytemuck::Pod>(&mut self, offset: u32, value: &T) -> Option<()> {
        let place = self.place::<T>(offset)?;
        // SAFETY: the bytes lie in the packet, as was just checked and the verifier checks again.
        // They are this packet's alone: the kernel sees to that before a program that writes (its
        // `bpf_unclone_prologue`). BPF writes at any alignment.
        unsafe { *place = *value };
        Some(())
    }

    #[inline(always)]
    fn edit<T: bytemuck::Pod, R>(
        &mut self,
        offset: u32,
        change: impl FnOnce(&Self, &mut T) -> R,
    ) -> Option<R> {
        let place = self.place::<T>(offset)?;
        // SAFETY: as above.
        Some(change(self, unsafe { &mut *place }))
    }

    #[inline(always)]
    fn store_v6<T: bytemuck::Pod>(&mut self, offset: u32, value: &T) -> Option<()> {
        // A device's sum over the whole packet must follow an address, since
        // bpf_l4_csum_replace takes the pseudo-header's change out of it as is right for IPv4.
        self.write(offset, value, u64::from(BPF_F_RECOMPUTE_CSUM))
    }

    #[inline(always)]
    fn adjust_header_checksum(&mut self, offset: u32, difference: u32) -> Option<()> {
        // SAFETY: the context is this program's own. Size 0 takes a difference.
        let status =
            unsafe { bpf_l3_csum_replace(self.0.as_ptr().cast(), offset, 0, difference.into(), 0) };
        (status == 0).then_some(())
    }

    #[inline(always)]
    fn checksum_kind(&self) -> Option<ChecksumKind> {
        kernel_skb::checksum_kind(self.0)
    }

    #[inline(always)]
    fn adjust_transport_checksum(
        &mut self,
        offset: u32,
        difference: u32,
        cover: Cover,
        protocol: Protocol,
    ) -> Option<()> {
        let mut flags = match cover {
            Cover::PseudoHeader => BPF_F_PSEUDO_HDR,
            Cover::Transport => 0,
        };
        if protocol == Protocol::UDP {
            flags |= BPF_F_MARK_MANGLED_0;
        }
        // SAFETY: as above.
        let status = unsafe {
            bpf_l4_csum_replace(
                self.0.as_ptr().cast(),
                offset,
                0,
                difference.into(),
                u64::from(flags),
            )
        };
        (status == 0).then_some(())
    }

    #[inline(always)]
    fn sctp_difference(ports: u32, length: u32) -> u32 {
        sctp_difference(ports, length)
    }

    #[inline(always)]
    fn reshape(&mut self, keep: u32, room: u32) -> Option<()> {
        // SAFETY: the context is this program's own; no pointer into the packet is held.
        let status = unsafe { bpf_skb_change_tail(self.0.as_ptr().cast(), LINK + keep, 0) };
        if status != 0 {
            return None;
        }
        if room == 0 {
            return Some(());
        }
        // SAFETY: as above.
        let status = unsafe {
            bpf_skb_adjust_room(
                self.0.as_ptr().cast(),
                room as i32,
                bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
                0,
            )
        };
        (status == 0).then_some(())
    }

    #[inline(always)]
    fn swap_link_addresses(&mut self) -> Option<()> {
        if LINK != ETHERNET {
            return Some(());
        }
        let both: [[u16; 3]; 2] = self.load(0)?;
        self.write(0, &[both[1], both[0]], 0)
    }
}

/// [`crc32c::difference`] as a function that the verifier looks at once, not for each call: a
/// global one, whose arguments it takes for any numbers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sctp_difference(ports: u32, length: u32) -> u32 {
    crc32c::difference(ports, length)
}
