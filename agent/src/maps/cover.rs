//! The prefixes that guard a lookup: every address of a set lies in one, and few others.
//!
//! Promise: what two covers cover each, their [`join`] covers.
#![forbid(unsafe_code)]

use weir_ebpf::addr::Addr;
use weir_ebpf::tables::Cover;

/// Exactly the addresses that agree with this one in its first bits, of 128.
#[must_use]
pub fn of_prefix(addr: Addr, length: u32) -> Cover {
    let mask = leading_ones(length);
    masked(bits(addr), mask)
}

/// The smallest prefix in which both lie.
#[must_use]
pub fn join(one: Cover, other: Cover) -> Cover {
    if is_empty(one) {
        return other;
    }
    if is_empty(other) {
        return one;
    }
    let common = (bits(one.prefix) ^ bits(other.prefix)).leading_zeros();
    let mask = bits(one.mask) & bits(other.mask) & leading_ones(common);
    masked(bits(one.prefix), mask)
}

/// A prefix with bits beyond its mask is nobody's.
fn is_empty(cover: Cover) -> bool {
    bits(cover.prefix) & !bits(cover.mask) != 0
}

fn masked(prefix: u128, mask: u128) -> Cover {
    Cover {
        prefix: addr(prefix & mask),
        mask: addr(mask),
    }
}

const fn leading_ones(count: u32) -> u128 {
    match u128::MAX.checked_shr(count) {
        Some(rest) => !rest,
        None => u128::MAX,
    }
}

fn bits(addr: Addr) -> u128 {
    u128::from_be_bytes(bytemuck::cast(addr.0))
}

fn addr(bits: u128) -> Addr {
    Addr(bytemuck::cast(bits.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn host(text: &str) -> Cover {
        of_prefix(text.parse::<IpAddr>().unwrap().into(), 128)
    }

    #[test]
    fn the_cover_of_several_addresses_is_their_common_prefix() {
        let cover = join(host("10.32.0.1"), host("10.32.0.140"));
        let covers = |text: &str| cover.contains(text.parse::<IpAddr>().unwrap().into());
        assert!(covers("10.32.0.1") && covers("10.32.0.140") && covers("10.32.0.255"));
        assert!(!covers("10.32.1.0") && !covers("fd00::1"));
        assert_eq!(
            cover,
            of_prefix("10.32.0.0".parse::<IpAddr>().unwrap().into(), 96 + 24)
        );
    }

    #[test]
    fn nothing_adds_nothing_and_everything_stays_everything() {
        let one = host("fd00:10:32::8c");
        assert_eq!(join(Cover::NOTHING, one), one);
        assert_eq!(join(one, Cover::NOTHING), one);
        assert_eq!(join(Cover::default(), one), Cover::default());
        assert_eq!(join(Cover::NOTHING, Cover::NOTHING), Cover::NOTHING);
    }

    proptest! {
        /// Whatever the tables hold: an interrupted agent may have left any bytes.
        #[test]
        fn a_join_covers_what_each_covers(words in any::<[[u32; 4]; 4]>(), seen in any::<[u32; 4]>()) {
            let [one_prefix, one_mask, other_prefix, other_mask] = words;
            let cover = |prefix: [u32; 4], mask: [u32; 4]| Cover { prefix: Addr(prefix), mask: Addr(mask) };
            let (one, other) = (cover(one_prefix, one_mask), cover(other_prefix, other_mask));
            let joined = join(one, other);
            for cover in [one, other] {
                // An address in the cover, whatever its other bits.
                let bits = (bits(Addr(seen)) & !bits(cover.mask)) | bits(cover.prefix);
                let member = addr(bits);
                prop_assert!(!cover.contains(member) || joined.contains(member));
            }
        }

        #[test]
        fn a_join_of_prefixes_is_a_prefix(one in any::<(u128, u8)>(), other in any::<(u128, u8)>()) {
            let cover = |(value, length): (u128, u8)| of_prefix(addr(value), u32::from(length % 129));
            let joined = join(cover(one), cover(other));
            let mask = bits(joined.mask);
            prop_assert_eq!(mask.leading_ones() + mask.trailing_zeros().min(128), 128);
        }
    }
}
