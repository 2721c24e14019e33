//! Random addresses, ports and tuples.

use proptest::prelude::*;
use weir_ebpf::{
    addr::{Addr, Port, Protocol},
    tables::Tuple,
};

/// An address of a family, as packets have it.
fn any_addr(is_v4: bool) -> BoxedStrategy<Addr> {
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
fn any_port() -> impl Strategy<Value = Port> {
    prop_oneof![
        any::<u16>().prop_map(Port::new),
        Just(Port(0)),
        Just(Port(0xffff))
    ]
}

/// The tuple of a packet, another one of its family and protocol, and a router.
pub fn any_tuples() -> impl Strategy<Value = (Tuple, Tuple, Addr)> {
    let protocol = prop::sample::select(vec![Protocol::TCP, Protocol::UDP, Protocol::SCTP]);
    (any::<bool>(), protocol).prop_flat_map(|(is_v4, protocol)| {
        let ends = || (any_addr(is_v4), any_addr(is_v4), any_port(), any_port());
        (ends(), ends(), any_addr(is_v4)).prop_map(move |(from, to, router)| {
            let tuple = |(src, dst, src_port, dst_port)| Tuple {
                src,
                dst,
                src_port,
                dst_port,
                protocol,
                is_beside: 0,
                reserved: [0; 2],
            };
            (tuple(from), tuple(to), router)
        })
    })
}
