//! What each table is as a map, and which version of that this binary has.
//!
//! The version is asked of a place in the binary, not of the constant that it was compiled from,
//! so that a test can give a copy of the binary another one: what it takes to try an upgrade to
//! another layout without a second build.

use std::collections::BTreeMap;
use std::fmt;
use std::hint::black_box;

use aya::maps::{MapInfo, MapType};
use weir_ebpf::addr::Addr;
use weir_ebpf::tables::{
    Affinity, AffinityKey, Backend, BackendKey, Cidr, Class, Connection, ConnectionKey, Flow,
    Fragment, FragmentKey, Frontend, FrontendKey, Interface, LAYOUT_VERSION, Node, Pod, PodAddr,
    Policy, Present, Receiver, RuleKey, Service, ServiceName, ServingKey, SocketFlow, SocketKey,
    SourceRange, Tuple, name,
};

/// `BPF_F_NO_PREALLOC`: entries take memory when they are added.
const NO_PREALLOC: u32 = 1;

/// What a map must be for its bytes to mean what `weir_ebpf::tables` says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layout {
    /// The map's type.
    pub map_type: MapType,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Flags at creation.
    pub flags: u32,
}

impl Layout {
    const fn of<K, V>(map_type: MapType, flags: u32) -> Self {
        // Sizes of keys and values are far below `u32::MAX`.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "sizes of table layouts are small constants"
        )]
        Self {
            map_type,
            key_size: size_of::<K>() as u32,
            value_size: size_of::<V>() as u32,
            flags,
        }
    }

    /// What a map is.
    pub(super) fn found(info: &MapInfo) -> Self {
        Self {
            map_type: info.map_type().unwrap_or(MapType::Unspecified),
            key_size: info.key_size(),
            value_size: info.value_size(),
            flags: info.map_flags(),
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            map_type,
            key_size,
            value_size,
            flags,
        } = self;
        write!(
            f,
            "{map_type:?}, keys of {key_size} bytes, values of {value_size} bytes, flags {flags:#x}"
        )
    }
}

/// Every table's layout.
#[must_use]
pub fn layouts() -> BTreeMap<&'static str, Layout> {
    BTreeMap::from([
        (
            name::FRONTENDS,
            Layout::of::<FrontendKey, Frontend>(MapType::Hash, NO_PREALLOC),
        ),
        (
            name::BACKENDS,
            Layout::of::<BackendKey, Backend>(MapType::Hash, NO_PREALLOC),
        ),
        (
            name::SERVING,
            Layout::of::<ServingKey, Present>(MapType::Hash, NO_PREALLOC),
        ),
        (
            name::SERVICE_NAMES,
            Layout::of::<u32, ServiceName>(MapType::Hash, NO_PREALLOC),
        ),
        (
            name::SERVICES,
            Layout::of::<u32, Service>(MapType::Array, 0),
        ),
        (
            name::NODE_PORT_ADDRS,
            Layout::of::<Addr, Present>(MapType::Hash, NO_PREALLOC),
        ),
        (
            name::SOURCE_RANGES,
            Layout::of::<SourceRange, Present>(MapType::LpmTrie, NO_PREALLOC),
        ),
        (
            name::SERVICE_CIDRS,
            Layout::of::<Cidr, Present>(MapType::LpmTrie, NO_PREALLOC),
        ),
        (
            name::INTERFACES,
            Layout::of::<u32, Interface>(MapType::Hash, NO_PREALLOC),
        ),
        (name::NODE, Layout::of::<u32, Node>(MapType::Array, 0)),
        (
            name::PODS,
            Layout::of::<u32, Pod>(MapType::Hash, NO_PREALLOC),
        ),
        (
            name::POD_ADDRS,
            Layout::of::<PodAddr, Present>(MapType::Hash, NO_PREALLOC),
        ),
        (
            name::RECEIVERS,
            Layout::of::<Addr, Receiver>(MapType::Hash, NO_PREALLOC),
        ),
        (
            name::NEXT_PROGRAMS,
            Layout::of::<u32, u32>(MapType::ProgramArray, 0),
        ),
        (
            name::PEERS,
            Layout::of::<Addr, Class>(MapType::Hash, NO_PREALLOC),
        ),
        (
            name::PEER_RANGES,
            Layout::of::<Cidr, Class>(MapType::LpmTrie, NO_PREALLOC),
        ),
        (
            name::RULES,
            Layout::of::<RuleKey, u32>(MapType::LpmTrie, NO_PREALLOC),
        ),
        (name::POLICY, Layout::of::<u32, Policy>(MapType::Array, 0)),
        (
            name::CONNECTIONS,
            Layout::of::<ConnectionKey, Connection>(MapType::LruHash, 0),
        ),
        (
            name::EVENTS,
            Layout {
                map_type: MapType::RingBuf,
                key_size: 0,
                value_size: 0,
                flags: 0,
            },
        ),
        (
            name::FRAGMENTS,
            Layout::of::<FragmentKey, Fragment>(MapType::LruHash, 0),
        ),
        (
            name::AFFINITY,
            Layout::of::<AffinityKey, Affinity>(MapType::LruHash, 0),
        ),
        (name::FLOWS, Layout::of::<Tuple, Flow>(MapType::LruHash, 0)),
        (
            name::FLOW_CHANGES,
            Layout::of::<u32, u64>(MapType::Array, 0),
        ),
        (
            name::SOCKETS,
            Layout::of::<SocketKey, SocketFlow>(MapType::LruHash, 0),
        ),
        (
            name::COUNTERS,
            Layout::of::<u32, u64>(MapType::PerCpuArray, 0),
        ),
    ])
}

/// How many digits the number has there.
const DIGITS: usize = 5;

/// `weir tables have the layout 00005`
#[repr(C)]
struct Mark {
    label: [u8; 28],
    digits: [u8; DIGITS],
}

static MARK: Mark = Mark {
    label: *b"weir tables have the layout ",
    digits: digits(LAYOUT_VERSION),
};

/// The version of this binary's tables: [`LAYOUT_VERSION`], but in a copy that a test has altered.
#[must_use]
pub fn layout_version() -> u32 {
    // What the compiler cannot see through it reads.
    let mark = black_box(&MARK);
    debug_assert!(mark.label.is_ascii(), "the label stands before the digits");
    mark.digits
        .iter()
        .fold(0, |number, digit| number * 10 + u32::from(digit - b'0'))
}

const fn digits(mut number: u32) -> [u8; DIGITS] {
    let mut digits = [b'0'; DIGITS];
    let mut place = DIGITS;
    while place > 0 {
        place -= 1;
        digits[place] += (number % 10) as u8;
        number /= 10;
    }
    assert!(number == 0, "the number has more digits");
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_tells_the_version_it_was_compiled_from() {
        assert_eq!(layout_version(), LAYOUT_VERSION);
    }

    #[test]
    fn a_number_has_its_digits() {
        assert_eq!(&digits(0), b"00000");
        assert_eq!(&digits(40_321), b"40321");
    }
}
