//! SCTP's checksum (RFC 9260 appendix A: CRC32c), changed in place instead of recomputed.
//!
//! A CRC is linear: the checksums of two packets of one length differ by what depends on the
//! difference of the packets alone, here that of the ports, which are the first four bytes. What
//! four bytes contribute at the beginning of `length` bytes is their polynomial times
//! x^(8·length), modulo the generator. Polynomials are held reflected, as the wire has them: the
//! highest bit is the coefficient of x^0.

/// CRC32c's generator without x^32 (RFC 9260 appendix A, reflected).
const GENERATOR: u32 = 0x82f6_3b78;

/// Lengths up to 128 KiB: a packet before segmentation has at most 64 KiB and a header.
const LENGTH_BITS: usize = 17;

/// What four bits of a polynomial become times x^(8·2^n), for each bit `n` of a length in bytes and
/// each four bits: looked up, because bit by bit the verifier walks twenty times as far.
static MOVED: [[[u32; 16]; 8]; LENGTH_BITS] = moved();

/// What a packet's checksum changes by, as a word just as it lies in the packet, where its ports
/// (again as they lie there) change by `ports`: both are differences in the sense of exclusive or.
/// `length` counts the bytes from the ports to the packet's end.
#[inline]
#[must_use]
pub fn difference(ports: u32, length: u32) -> u32 {
    let mut value = u32::from_le(ports);
    for (bit, by_fours) in MOVED.iter().enumerate() {
        let mut moved = 0;
        for (place, of_four) in by_fours.iter().enumerate() {
            moved ^= of_four[(value >> (4 * place)) as usize & 0xf];
        }
        // Not a branch: each would double the paths that the verifier walks.
        let mask = 0_u32.wrapping_sub((length >> bit) & 1);
        value = (moved & mask) | (value & !mask);
    }
    value.to_le()
}

/// The product of two polynomials modulo the generator.
#[inline(always)]
const fn multiply(a: u32, b: u32) -> u32 {
    let (mut product, mut shifted, mut bit) = (0, b, 0);
    while bit < u32::BITS {
        product ^= shifted & mask(a >> (u32::BITS - 1 - bit));
        shifted = times_x(shifted);
        bit += 1;
    }
    product
}

#[inline(always)]
const fn times_x(a: u32) -> u32 {
    (a >> 1) ^ (GENERATOR & mask(a))
}

/// All ones where the lowest bit is one.
#[inline(always)]
const fn mask(a: u32) -> u32 {
    0_u32.wrapping_sub(a & 1)
}

const fn moved() -> [[[u32; 16]; 8]; LENGTH_BITS] {
    let mut moved = [[[0; 16]; 8]; LENGTH_BITS];
    // x^8.
    let mut power = 1 << (u32::BITS - 1 - 8);
    let mut index = 0;
    while index < LENGTH_BITS {
        let mut place = 0;
        while place < 8 {
            let mut four = 0;
            while four < 16 {
                moved[index][place][four] = multiply(power, (four as u32) << (4 * place));
                four += 1;
            }
            place += 1;
        }
        power = multiply(power, power);
        index += 1;
    }
    moved
}

#[cfg(test)]
mod tests {
    use crc32c::crc32c;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_changed_checksum_is_that_of_the_changed_packet(
            bytes in prop::collection::vec(any::<u8>(), 12..3_000), ports: [u8; 4],
        ) {
            let mut changed = bytes.clone();
            changed[..4].copy_from_slice(&ports);
            let of = |bytes: &[u8]| crc32c(bytes).to_le();
            let word = |bytes: &[u8]| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            let length = u32::try_from(bytes.len()).unwrap();
            let difference = difference(word(&bytes) ^ word(&changed), length);
            prop_assert_eq!(of(&bytes) ^ difference, of(&changed));
        }
    }

    #[test]
    fn the_longest_packets_count_whole() {
        let mut bytes = vec![0x5a; (1 << LENGTH_BITS) - 1];
        let before = crc32c(&bytes).to_le();
        let ports = u32::from_ne_bytes([1, 2, 3, 4]);
        for (byte, change) in bytes.iter_mut().zip([1, 2, 3, 4]) {
            *byte ^= change;
        }
        let length = u32::try_from(bytes.len()).unwrap();
        assert_eq!(before ^ difference(ports, length), crc32c(&bytes).to_le());
    }
}
