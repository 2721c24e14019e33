//! The Internet checksum, changed in place instead of recomputed.
//!
//! The checksum of RFC 1071 is the complement of a ones' complement sum of 16-bit words. Such a
//! sum does not depend on the order of its words, nor on their byte order as long as it is the
//! same everywhere; 2^16 ≡ 1 (mod 2^16 - 1), so a 32-bit word counts as the sum of its halves.
//! Everything here works on words just as they lie in memory.
//!
//! When a field changes from `m` to `m'`, RFC 1624 (equation 3) gives the new checksum:
//! `HC' = ~(~HC + ~m + m')`. [`difference`] computes `~m + m'` for addresses, which is also what
//! the kernel's helpers take (`bpf_l3_csum_replace` and `bpf_l4_csum_replace` with size 0).

use crate::addr::{Addr, Port};

/// The number that a program puts where the loader may put a call of `bpf_cast_to_kern_ctx` (`r0 =`
/// this number): by it the loader finds the places.
pub const TO_KERNEL_CONTEXT: u32 = 0x5745_4952;

/// What stands in a packet's transport checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumKind {
    /// The checksum (`CHECKSUM_NONE`, `CHECKSUM_UNNECESSARY`).
    Whole,
    /// The sum of the pseudo-header alone: a device takes the rest when the packet leaves
    /// (`CHECKSUM_PARTIAL`).
    LeftToDevice,
}

/// `~old + new` over both addresses, not yet folded to 16 bits.
///
/// IPv4-mapped addresses share their first twelve bytes, which cancel: the difference of two
/// mapped addresses is that of their IPv4 words.
#[inline(always)]
#[must_use]
pub const fn difference(old: Addr, new: Addr) -> u32 {
    let mut sum = 0_u64;
    sum += (!old.0[0]) as u64 + new.0[0] as u64;
    sum += (!old.0[1]) as u64 + new.0[1] as u64;
    sum += (!old.0[2]) as u64 + new.0[2] as u64;
    sum += (!old.0[3]) as u64 + new.0[3] as u64;
    fold_to_32(sum)
}

/// [`difference`] of two IPv4-mapped addresses.
#[inline(always)]
#[must_use]
pub const fn v4_difference(old: Addr, new: Addr) -> u32 {
    fold_to_32((!old.0[3]) as u64 + new.0[3] as u64)
}

/// `~old + new` for a port.
#[inline(always)]
#[must_use]
pub const fn port_difference(old: Port, new: Port) -> u32 {
    (!old.0) as u32 + new.0 as u32
}

/// The ones' complement sum of two partial sums.
#[inline(always)]
#[must_use]
pub const fn add(a: u32, b: u32) -> u32 {
    fold_to_32(a as u64 + b as u64)
}

/// The checksum that a header carries for the sum of its words.
#[inline(always)]
#[must_use]
pub const fn finish(sum: u32) -> u16 {
    !fold_to_16(sum)
}

/// A checksum after a change of the data by [`difference`].
#[inline(always)]
#[must_use]
pub const fn replace(checksum: u16, difference: u32) -> u16 {
    finish(add((!checksum) as u32, difference))
}

/// The transport checksum's field after ports have changed by `ports`, where it was `before`, and the
/// kernel has made it `after` because of addresses that changed by `addrs`, which is not
/// [zero](is_zero): then that cannot be told.
///
/// Where the checksum is left to a device (`CHECKSUM_PARTIAL`), the field holds the sum of the
/// pseudo-header alone: the kernel has added what addresses changed by, and ports are nothing to it.
/// Else the field is the whole sum's complement. No program is told which of both it is, but what has
/// become of the field tells. A datagram without checksum keeps none (RFC 768).
#[inline(always)]
#[must_use]
pub const fn after_ports((before, after): (u16, u16), addrs: u32, ports: u32, is_udp: bool) -> u16 {
    let is_left_to_device = is_zero(add(add(after as u32, (!before) as u32), !addrs));
    if is_left_to_device || (is_udp && before == 0) {
        return after;
    }
    match replace(after, ports) {
        // Zero would say that there is none.
        0 if is_udp => 0xffff,
        checksum => checksum,
    }
}

/// The transport checksum's field, which was `before`, after addresses have changed by `addrs`, and
/// addresses and ports together by `all`: what [`after_ports`] finds out is known.
#[inline(always)]
#[must_use]
pub const fn changed(before: u16, kind: ChecksumKind, addrs: u32, all: u32, is_udp: bool) -> u16 {
    if is_udp && before == 0 {
        return 0;
    }
    let after = match kind {
        ChecksumKind::Whole => replace(before, all),
        ChecksumKind::LeftToDevice => fold_to_16(add(before as u32, addrs)),
    };
    if is_udp && after == 0 { 0xffff } else { after }
}

/// Is this one of the two zeros of ones' complement?
#[inline(always)]
#[must_use]
pub const fn is_zero(sum: u32) -> bool {
    matches!(fold_to_16(sum), 0 | 0xffff)
}

#[inline(always)]
const fn fold_to_32(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    #[allow(
        clippy::cast_possible_truncation,
        reason = "folded: the upper half is zero"
    )]
    {
        sum as u32
    }
}

#[inline(always)]
const fn fold_to_16(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    #[allow(
        clippy::cast_possible_truncation,
        reason = "folded: the upper half is zero"
    )]
    {
        sum as u16
    }
}

/// The ones' complement sum of words that lie in memory as in the packet.
#[inline(always)]
#[must_use]
pub fn sum_words<const N: usize>(words: [u32; N]) -> u32 {
    let mut sum = 0_u64;
    for word in words {
        sum += u64::from(word);
    }
    fold_to_32(sum)
}

/// The ones' complement sum of bytes, an odd last one padded with zero (RFC 1071 section 4.1).
/// The plain definition, which everything else is tested against.
#[must_use]
pub fn sum_bytes(bytes: &[u8]) -> u32 {
    let mut sum = 0;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum = add(sum, u32::from(u16::from_ne_bytes([pair[0], low])));
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn replacing_addresses_equals_recomputing(
            old in any::<[u32; 4]>(), new in any::<[u32; 4]>(), rest in any::<[u32; 4]>(),
        ) {
            let whole = |addr: [u32; 4]| finish(add(sum_words(addr), sum_words(rest)));
            let replaced = replace(whole(old), difference(Addr(old), Addr(new)));
            prop_assert!(same(replaced, whole(new)), "{replaced:04x} {:04x}", whole(new));
        }

        #[test]
        fn replacing_ports_equals_recomputing(old: u16, new: u16, rest in any::<[u32; 4]>()) {
            let whole = |port: u16| finish(add(u32::from(port), sum_words(rest)));
            let replaced = replace(whole(old), port_difference(Port(old), Port(new)));
            prop_assert!(same(replaced, whole(new)));
        }

        #[test]
        fn words_and_bytes_have_one_sum(words in any::<[u32; 5]>()) {
            let bytes: [u8; 20] = bytemuck::cast(words);
            prop_assert_eq!(finish(sum_words(words)), finish(sum_bytes(&bytes)));
        }

        #[test]
        fn mapped_addresses_differ_as_their_words_do(old: u32, new: u32) {
            let both = difference(Addr::from_v4_word(old), Addr::from_v4_word(new));
            let words = add(!old, new);
            prop_assert!(same(finish(both), finish(words)));
            let v4 = v4_difference(Addr::from_v4_word(old), Addr::from_v4_word(new));
            prop_assert!(same(finish(v4), finish(words)));
        }
    }

    /// What `inet_proto_csum_replace_by_diff` and `inet_proto_csum_replace4` make of a checksum's
    /// field that covers a changed pseudo-header (`net/core/utils.c`).
    fn by_kernel(field: u16, difference: u32, is_left_to_device: bool, is_udp: bool) -> u16 {
        if is_udp && field == 0 {
            return 0;
        }
        let field = match is_left_to_device {
            true => fold_to_16(add(u32::from(field), difference)),
            false => replace(field, difference),
        };
        if is_udp && field == 0 { 0xffff } else { field }
    }

    #[test]
    fn both_zeros_are_zero() {
        let all = [0, 0xffff, 0x1_fffe, u32::MAX, 1, 0xfffe, 0x1_0000];
        assert_eq!(all.map(is_zero), all.map(|sum| sum % 0xffff == 0));
    }

    proptest! {
        #[test]
        fn ports_change_a_whole_checksum_and_not_what_a_device_completes(
            // Differences near zero are as likely as others.
            addrs in prop_oneof![any::<u32>(), Just(1), Just(0xfffe), Just(0x7fff), Just(0x8000)],
            ports in prop_oneof![0..0x2_0000_u32, Just(0), Just(0xffff)],
            before in prop_oneof![any::<u16>(), Just(0), Just(0xffff)],
            is_left_to_device: bool,
            is_udp: bool,
        ) {
            prop_assume!(!is_zero(addrs));
            let after = by_kernel(before, addrs, is_left_to_device, is_udp);
            let field = after_ports((before, after), addrs, ports, is_udp);
            if is_udp && before == 0 {
                prop_assert_eq!(field, 0);
            } else if is_left_to_device {
                prop_assert_eq!(field, after);
            } else {
                prop_assert!(same(field, replace(after, ports)));
                prop_assert!(!is_udp || field != 0);
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_known_of_a_checksum_spares_the_question(
            addrs: u32,
            ports in prop_oneof![0..0x2_0000_u32, Just(0), Just(0xffff)],
            before in prop_oneof![any::<u16>(), Just(0), Just(0xffff)],
            is_left_to_device: bool,
            is_udp: bool,
        ) {
            prop_assume!(!is_zero(addrs));
            let kind = match is_left_to_device {
                true => ChecksumKind::LeftToDevice,
                false => ChecksumKind::Whole,
            };
            let by_helper = by_kernel(before, addrs, is_left_to_device, is_udp);
            let by_helper = after_ports((before, by_helper), addrs, ports, is_udp);
            let field = changed(before, kind, addrs, add(addrs, ports), is_udp);
            prop_assert!(same(field, by_helper), "{field:04x} {by_helper:04x}");
            // To a datagram's receiver zero is no checksum.
            prop_assert_eq!(is_udp && field == 0, is_udp && before == 0);
        }
    }

    /// Ones' complement has two zeros, and they are equal (RFC 1624 section 3).
    fn same(a: u16, b: u16) -> bool {
        a % 0xffff == b % 0xffff
    }

    #[test]
    fn a_known_ipv4_header_sums_to_its_checksum() {
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8,
            0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7,
        ];
        assert_eq!(finish(sum_bytes(&header)), 0);
    }
}
