//! Random addresses and ports.

use proptest::prelude::*;
use weir_ebpf::addr::{Addr, Port};

/// An address of a family, as packets have it.
pub fn any_addr(is_v4: bool) -> BoxedStrategy<Addr> {
    if is_v4 {
        any::<u32>().prop_map(Addr::from_v4_word).boxed()
    } else {
        any::<[u32; 4]>()
            .prop_map(Addr)
            .prop_filter("no mapped address on the wire", |addr| !addr.is_v4())
            .boxed()
    }
}

/// Words that make a checksum's two zeros likely.
pub fn any_port() -> impl Strategy<Value = Port> {
    prop_oneof![
        any::<u16>().prop_map(Port::new),
        Just(Port(0)),
        Just(Port(0xffff))
    ]
}
