//! Names of sets of endpoints, as short as they are.
//!
//! The tables hold a name in a form of fixed length, most of which is padding. Whoever keeps as
//! many names as there are service ports, only to look something up by them, keeps them like this,
//! and looks for one without keeping it.

use std::borrow::Borrow;

use weir_ebpf::tables::ServiceName;

/// Bytes of each of the three texts that a name begins with.
const TEXT: usize = 64;
/// The texts, of which the padding is left out.
const TEXTS: usize = 3 * TEXT;

/// A [`ServiceName`] without the padding of its texts: before each stands how long it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PackedName(Box<[u8]>);

/// The same of a name that is only looked for: it takes no memory of its own.
pub(super) struct Sought {
    bytes: [u8; 3 + size_of::<ServiceName>()],
    length: usize,
}

impl From<&ServiceName> for Sought {
    fn from(name: &ServiceName) -> Self {
        let (texts, rest) = bytemuck::bytes_of(name).split_at(TEXTS);
        let mut sought = Self {
            bytes: [0; 3 + size_of::<ServiceName>()],
            length: 0,
        };
        for text in texts.chunks(TEXT) {
            let end = text.iter().rposition(|byte| *byte != 0);
            let text = &text[..end.map_or(0, |last| last + 1)];
            sought.push(&[u8::try_from(text.len()).expect("a text has 64 bytes at most")]);
            sought.push(text);
        }
        sought.push(rest);
        sought
    }
}

impl Sought {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.length..][..bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// What a [`PackedName`] of it is found by.
    pub(super) fn key(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Borrow<[u8]> for PackedName {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl From<&ServiceName> for PackedName {
    fn from(name: &ServiceName) -> Self {
        Self(Sought::from(name).key().into())
    }
}

impl From<&PackedName> for ServiceName {
    fn from(PackedName(packed): &PackedName) -> Self {
        let mut bytes = [0; size_of::<Self>()];
        let (texts, rest) = bytes.split_at_mut(TEXTS);
        let mut packed = &packed[..];
        for text in texts.chunks_mut(TEXT) {
            let Some((length, behind)) = packed.split_first() else {
                break;
            };
            let (own, behind) = behind.split_at(usize::from(*length));
            text[..own.len()].copy_from_slice(own);
            packed = behind;
        }
        rest.copy_from_slice(packed);
        bytemuck::pod_read_unaligned(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = [u8; TEXT]> {
        // Of tables that somebody else has written, any byte may come.
        let bytes = proptest::collection::vec(any::<u8>(), 0..=TEXT);
        bytes.prop_map(|bytes| {
            let mut text = [0; TEXT];
            text[..bytes.len()].copy_from_slice(&bytes);
            text
        })
    }

    fn name() -> impl Strategy<Value = ServiceName> {
        let rest = proptest::collection::vec(any::<u8>(), size_of::<ServiceName>() - TEXTS);
        ((text(), text(), text()), rest).prop_map(|((namespace, name, port_name), rest)| {
            let bytes = [&namespace[..], &name, &port_name, &rest].concat();
            bytemuck::pod_read_unaligned(&bytes)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn what_was_packed_is_unpacked_as_it_was(name in name()) {
            prop_assert_eq!(ServiceName::from(&PackedName::from(&name)), name);
        }

        #[test]
        fn two_names_are_packed_alike_only_if_they_are_the_same(
            name in name(),
            place in 0..size_of::<ServiceName>(),
            byte in any::<u8>(),
        ) {
            let mut other = name;
            bytemuck::bytes_of_mut(&mut other)[place] = byte;
            prop_assert_eq!(PackedName::from(&name) == PackedName::from(&other), name == other);
        }
    }

    #[test]
    fn padding_takes_no_room() {
        let mut name: ServiceName = bytemuck::Zeroable::zeroed();
        name.namespace[..4].copy_from_slice(b"shop");
        name.name[..3].copy_from_slice(b"web");
        let rest = size_of::<ServiceName>() - TEXTS;
        assert_eq!(PackedName::from(&name).0.len(), 3 + 4 + 3 + rest);
    }
}
