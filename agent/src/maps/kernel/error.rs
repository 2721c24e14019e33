//! What a write that the kernel refused is called.

use std::fmt;
use std::io;

use weir_ebpf::tables::name;

use crate::maps::Write;
use crate::maps::text::{endpoint, unpadded};

/// The kernel refused a write. Those before it in the plan took effect, it and those after it
/// did not.
#[derive(Debug)]
pub struct ApplyError {
    /// The refused write.
    pub write: Box<Write>,
    /// Its place in the plan: as many writes took effect.
    pub applied: usize,
    /// The table.
    pub table: &'static str,
    /// Entries the table holds at most.
    pub capacity: u32,
    /// The kernel's answer.
    pub error: io::Error,
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            write,
            applied: _,
            table,
            capacity,
            error,
        } = self;
        write!(f, "{} in {table}: ", Described(write))?;
        // Hash tables say the one, longest-prefix tables the other.
        if matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) {
            write!(
                f,
                "the table is full (it holds {capacity} entries at most; a larger one is \
                 created after `weir cleanup`)"
            )
        } else {
            error.fmt(f)
        }
    }
}

impl std::error::Error for ApplyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// The name of the table that a write goes to.
pub(super) fn table(write: &Write) -> &'static str {
    match write {
        Write::PutFrontend(..) | Write::RemoveFrontend(_) => name::FRONTENDS,
        Write::PutService(..) => name::SERVICES,
        Write::PutBackend(..) | Write::RemoveBackend(_) => name::BACKENDS,
        Write::PutServing(_) | Write::RemoveServing(_) => name::SERVING,
        Write::PutServiceName(..) | Write::RemoveServiceName(_) => name::SERVICE_NAMES,
        Write::PutNodePortAddr(_) | Write::RemoveNodePortAddr(_) => name::NODE_PORT_ADDRS,
        Write::PutSourceRange(_) | Write::RemoveSourceRange(_) => name::SOURCE_RANGES,
        Write::PutServiceCidr(_) | Write::RemoveServiceCidr(_) => name::SERVICE_CIDRS,
        Write::PutInterface(..) | Write::RemoveInterface(_) => name::INTERFACES,
        Write::PutNode(_) => name::NODE,
        Write::PutPod(..) | Write::RemovePod(_) => name::PODS,
        Write::PutPodAddr(_) | Write::RemovePodAddr(_) => name::POD_ADDRS,
        Write::PutReceiver(..) | Write::RemoveReceiver(_) => name::RECEIVERS,
        Write::PutPeer(..) | Write::RemovePeer(_) => name::PEERS,
        Write::PutPeerRange(..) | Write::RemovePeerRange(_) => name::PEER_RANGES,
        Write::PutRule(..) | Write::RemoveRule(_) => name::RULES,
        Write::PutPolicy(_) => name::POLICY,
    }
}

/// A write in an operator's words.
struct Described<'write>(&'write Write);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Write::PutFrontend(key, value) => write!(
                f,
                "put frontend {}/{} of service {}",
                endpoint(key.addr, key.port),
                key.protocol,
                value.service
            ),
            Write::RemoveFrontend(key) => write!(
                f,
                "remove frontend {}/{}",
                endpoint(key.addr, key.port),
                key.protocol
            ),
            Write::PutService(service, value) => write!(
                f,
                "put service {service} with {} backends, revision {}",
                value.backend_count, value.revision
            ),
            Write::PutBackend(key, value) => write!(
                f,
                "put backend {} in slot {} of service {}",
                endpoint(value.addr, value.port),
                key.slot,
                key.service
            ),
            Write::RemoveBackend(key) => {
                write!(f, "remove slot {} of service {}", key.slot, key.service)
            }
            Write::PutServing(key) => write!(
                f,
                "put serving backend {} of service {}",
                endpoint(key.backend.addr, key.backend.port),
                key.service
            ),
            Write::RemoveServing(key) => write!(
                f,
                "remove serving backend {} of service {}",
                endpoint(key.backend.addr, key.backend.port),
                key.service
            ),
            Write::PutServiceName(service, value) => write!(
                f,
                "put name {}/{}:{} of service {service}",
                unpadded(&value.namespace),
                unpadded(&value.name),
                value.port
            ),
            Write::RemoveServiceName(service) => write!(f, "remove name of service {service}"),
            Write::PutNodePortAddr(addr) => write!(f, "put node port address {addr}"),
            Write::RemoveNodePortAddr(addr) => write!(f, "remove node port address {addr}"),
            Write::PutSourceRange(range) => {
                write!(f, "put source range {range} of service {}", range.service)
            }
            Write::RemoveSourceRange(range) => write!(
                f,
                "remove source range {range} of service {}",
                range.service
            ),
            Write::PutServiceCidr(cidr) => write!(f, "put service CIDR {cidr}"),
            Write::RemoveServiceCidr(cidr) => write!(f, "remove service CIDR {cidr}"),
            Write::PutInterface(index, _) => write!(f, "put interface {index}"),
            Write::RemoveInterface(index) => write!(f, "remove interface {index}"),
            Write::PutNode(_) => f.write_str("put the node's entry"),
            Write::PutPod(interface, _) => write!(f, "put the pod at interface {interface}"),
            Write::RemovePod(interface) => write!(f, "remove the pod at interface {interface}"),
            Write::PutPodAddr(addr) => write!(
                f,
                "put address {} of the pod at interface {}",
                addr.addr, addr.interface
            ),
            Write::RemovePodAddr(addr) => write!(
                f,
                "remove address {} of the pod at interface {}",
                addr.addr, addr.interface
            ),
            Write::PutReceiver(addr, value) => {
                write!(f, "put receiver {addr} at interface {}", value.interface)
            }
            Write::RemoveReceiver(addr) => write!(f, "remove receiver {addr}"),
            Write::PutPeer(addr, _) => write!(f, "put peer {addr}"),
            Write::RemovePeer(addr) => write!(f, "remove peer {addr}"),
            Write::PutPeerRange(cidr, _) => write!(f, "put peer range {cidr}"),
            Write::RemovePeerRange(cidr) => write!(f, "remove peer range {cidr}"),
            Write::PutRule(key, rule) => write!(
                f,
                "put rule {rule} for class {} of subject set {}",
                key.class, key.subject
            ),
            Write::RemoveRule(key) => write!(
                f,
                "remove the rule for class {} of subject set {}",
                key.class, key.subject
            ),
            Write::PutPolicy(policy) => {
                write!(f, "put revision {} of the policies", policy.revision)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    use weir_ebpf::addr::{Port, Protocol};
    use weir_ebpf::tables::{Frontend, FrontendFlags, FrontendKey};

    fn refused(errno: i32) -> String {
        let addr: IpAddr = "fd00:10:32::8c".parse().unwrap();
        ApplyError {
            write: Box::new(Write::PutFrontend(
                FrontendKey::new(addr.into(), Port::new(80), Protocol::TCP),
                Frontend::to(7, FrontendFlags::NONE),
            )),
            applied: 3,
            table: name::FRONTENDS,
            capacity: 2,
            error: io::Error::from_raw_os_error(errno),
        }
        .to_string()
    }

    #[test]
    fn a_full_table_is_named_with_its_capacity() {
        assert_eq!(
            refused(libc::E2BIG),
            "put frontend [fd00:10:32::8c]:80/TCP of service 7 in FRONTENDS: the table is full \
             (it holds 2 entries at most; a larger one is created after `weir cleanup`)"
        );
    }

    #[test]
    fn any_other_refusal_is_given_in_the_kernels_words() {
        let text = refused(libc::EPERM);
        assert!(
            text.contains("in FRONTENDS: Operation not permitted"),
            "{text}"
        );
    }
}
