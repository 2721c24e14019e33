//! How values in the tables read to people.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use weir_ebpf::addr::{Addr, Port};

/// An address with its port.
#[must_use]
pub fn endpoint(addr: Addr, port: Port) -> SocketAddr {
    SocketAddr::new(IpAddr::from(addr), port.number())
}

/// Text that a table pads with zeros.
#[must_use]
pub fn unpadded(padded: &[u8]) -> Cow<'_, str> {
    let end = padded
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(padded.len());
    String::from_utf8_lossy(&padded[..end])
}
