//! Contents of tables for tests, written shortly.

use std::net::SocketAddr;

use weir_ebpf::{
    addr::{Addr, Port, Protocol},
    tables::{
        Backend, BackendKey, EndpointSet, Frontend, FrontendFlags, FrontendKey, Service,
        ServiceName, Tuple,
    },
};

use crate::maps::Contents;

/// Tables that hold TCP services.
#[derive(Default)]
pub struct World {
    pub contents: Contents,
}

/// `10.0.0.1:80`
pub fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub fn addr(at: SocketAddr) -> (Addr, Port) {
    (at.ip().into(), Port::new(at.port()))
}

pub fn tuple(protocol: Protocol, src: &str, dst: &str) -> Tuple {
    let ((src, src_port), (dst, dst_port)) = (addr(socket(src)), addr(socket(dst)));
    Tuple {
        src,
        dst,
        src_port,
        dst_port,
        protocol,
        is_beside: 0,
        reserved: [0; 2],
    }
}

impl World {
    /// A service port, `namespace/name:port`.
    pub fn service(mut self, number: u32, name: &str, frontend: &str, backends: &[&str]) -> Self {
        let (object, port_name) = name.split_once(':').unwrap();
        let (namespace, name) = object.split_once('/').unwrap();
        let at = socket(frontend);
        self.contents.service_names.insert(
            number,
            ServiceName {
                namespace: padded(namespace),
                name: padded(name),
                port_name: padded(port_name),
                port: Port::new(at.port()),
                protocol: Protocol::TCP,
                family: if at.is_ipv4() { 4 } else { 6 },
                set: EndpointSet::CLUSTER,
                reserved: 0,
            },
        );
        self.contents.services.insert(
            number,
            Service {
                backend_count: u32::try_from(backends.len()).unwrap(),
                revision: 1,
                ..Service::default()
            },
        );
        for (slot, backend) in (0..).zip(backends) {
            let (addr, port) = addr(socket(backend));
            let key = BackendKey {
                service: number,
                slot,
            };
            self.contents.backends.insert(key, Backend::new(addr, port));
        }
        let mut world = self.frontend(frontend, number);
        let (addr, port) = addr(at);
        let key = FrontendKey::new(addr, port, Protocol::TCP);
        world
            .contents
            .frontends
            .insert(key, Frontend::to(number, FrontendFlags::MASQUERADE_OUTSIDE));
        world
    }

    /// A further address of a service port, without flags.
    pub fn frontend(mut self, at: &str, service: u32) -> Self {
        let (addr, port) = addr(socket(at));
        let key = FrontendKey::new(addr, port, Protocol::TCP);
        self.contents
            .frontends
            .insert(key, Frontend::to(service, FrontendFlags::NONE));
        self
    }
}

fn padded(text: &str) -> [u8; 64] {
    let mut padded = [0; 64];
    padded[..text.len()].copy_from_slice(text.as_bytes());
    padded
}
