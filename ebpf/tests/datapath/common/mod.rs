//! What the host tests of the packet logic share: a node in memory, and frames.

pub mod frame;
pub mod pods;
pub mod policy;
pub mod strategy;
pub mod world;

use std::net::IpAddr;

use weir_ebpf::{
    addr::{Addr, Port, Protocol},
    tables::{Backend, Cover, Tuple},
};

/// An address from its text.
pub fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().expect("an address").into()
}

/// Where cluster IPs lie: 10.32.0.0/24.
pub fn cluster_ips() -> Cover {
    let last = u32::from_ne_bytes([255, 255, 255, 0]);
    Cover {
        prefix: addr("10.32.0.0"),
        mask: Addr([u32::MAX, u32::MAX, u32::MAX, last]),
    }
}

/// A backend from its text and number.
pub fn backend(text: &str, port: u16) -> Backend {
    Backend::new(addr(text), Port::new(port))
}

/// A tuple from texts and numbers.
pub fn tuple(protocol: Protocol, src: (&str, u16), dst: (&str, u16)) -> Tuple {
    Tuple {
        src: addr(src.0),
        dst: addr(dst.0),
        src_port: Port::new(src.1),
        dst_port: Port::new(dst.1),
        protocol,
        is_beside: 0,
        reserved: [0; 2],
    }
}
