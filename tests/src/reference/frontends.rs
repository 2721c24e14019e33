//! Which service port an address, port and protocol lead to, and in what role the address does.

use std::net::{IpAddr, SocketAddr};

use super::world::{IpMode, Service, ServiceKind, ServicePort, ServiceType, World};

/// What an address is to the service port that it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Its cluster IP.
    ClusterIp,
    /// Its load balancer's address, and perhaps an external IP as well.
    LoadBalancer,
    /// An external IP.
    ExternalIp,
    /// An address of the node, at the node port.
    NodePort,
}

impl Role {
    /// Is the external traffic policy the one that counts?
    #[must_use]
    pub const fn is_external(self) -> bool {
        !matches!(self, Self::ClusterIp)
    }
}

/// What is found at an address, port and protocol.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// A service port.
    Frontend {
        /// The service.
        service: &'a Service,
        /// Its port.
        port: &'a ServicePort,
        /// The address's role.
        role: Role,
    },
    /// The address is a cluster IP, but no service has this port there.
    UnknownPort,
    /// Nothing, but only services may have such an address.
    UnusedServiceAddress,
    /// Nothing.
    Nothing,
}

/// What is found there. Of services that claim the same, the oldest has it; an address that
/// belongs to a service comes before a node port, which is served at many addresses.
#[must_use]
pub fn find<'a>(world: &'a World, to: SocketAddr, protocol: &str) -> Found<'a> {
    let of_services = world
        .services
        .iter()
        .filter(|service| is_served(service, to.is_ipv6()))
        .find_map(|service| {
            let role = role_of_address(service, to)?;
            let mut ports = service.ports.iter();
            let port = ports.find(|port| port.port == to.port() && port.protocol == protocol)?;
            Some(Found::Frontend {
                service,
                port,
                role,
            })
        });
    of_services
        .or_else(|| node_port(world, to, protocol))
        .unwrap_or_else(|| without_frontend(world, to))
}

/// Is the service a proxy's business in this family? One that has no cluster IP of the family has
/// no other address of it either.
#[must_use]
pub fn is_served(service: &Service, is_v6: bool) -> bool {
    match service.kind {
        ServiceKind::Ordinary => service
            .cluster_ips
            .iter()
            .any(|addr| addr.is_ipv6() == is_v6),
        ServiceKind::OfOtherProxy | ServiceKind::Headless | ServiceKind::ExternalName => false,
    }
}

fn role_of_address(service: &Service, to: SocketAddr) -> Option<Role> {
    let is_ingress = load_balancer_addresses(service).any(|addr| addr == to.ip());
    if service.cluster_ips.contains(&to.ip()) {
        Some(Role::ClusterIp)
    } else if is_ingress {
        Some(Role::LoadBalancer)
    } else if service.external_ips.contains(&to.ip()) {
        Some(Role::ExternalIp)
    } else {
        None
    }
}

/// The addresses of a service's load balancer with which packets reach the node.
pub fn load_balancer_addresses(service: &Service) -> impl Iterator<Item = IpAddr> {
    let ingress = match service.service_type {
        ServiceType::LoadBalancer => service.ingress.as_slice(),
        ServiceType::ClusterIp | ServiceType::NodePort => &[],
    };
    let by_packets = ingress
        .iter()
        .filter(|ingress| ingress.mode != Some(IpMode::Proxy));
    by_packets.map(|ingress| ingress.ip)
}

fn node_port<'a>(world: &'a World, to: SocketAddr, protocol: &str) -> Option<Found<'a>> {
    if !world.node.node_port_addresses.contains(&to.ip()) {
        return None;
    }
    world
        .services
        .iter()
        .filter(|service| is_served(service, to.is_ipv6()))
        .filter(|service| service.service_type != ServiceType::ClusterIp)
        .find_map(|service| {
            let mut ports = service.ports.iter();
            let port = ports
                .find(|port| port.node_port == Some(to.port()) && port.protocol == protocol)?;
            Some(Found::Frontend {
                service,
                port,
                role: Role::NodePort,
            })
        })
}

fn without_frontend<'a>(world: &World, to: SocketAddr) -> Found<'a> {
    let is_cluster_ip = world.services.iter().any(|service| {
        is_served(service, to.is_ipv6())
            && service.cluster_ips.contains(&to.ip())
            && !service.ports.is_empty()
    });
    if is_cluster_ip {
        Found::UnknownPort
    } else if world
        .service_cidrs
        .iter()
        .any(|cidr| cidr.contains(to.ip()))
    {
        Found::UnusedServiceAddress
    } else {
        Found::Nothing
    }
}
