//! Layout 3: before network policy.
//!
//! Layout 4 added the tables of policy and of pods. Those of services are the same in both, but
//! for what depends on the node alone, which each agent writes anew.

use anyhow::Result;
use weir_ebpf::tables::{Backend, BackendKey, Present, Service, ServiceName, ServingKey, name};

use super::Predecessor;
use crate::maps::Contents;
use crate::maps::kernel::read_alone;
use crate::maps::pins::Pins;

pub(super) const PREDECESSOR: Predecessor = Predecessor {
    handed_over: &[name::FLOWS, name::SOCKETS, name::AFFINITY, name::FRAGMENTS],
    contents,
};

/// What numbers, slots and revisions are in.
pub(super) fn contents(pins: &Pins) -> Result<Contents> {
    let services: Vec<(u32, Service)> = read_alone(pins, name::SERVICES)?;
    let serving: Vec<(ServingKey, Present)> = read_alone(pins, name::SERVING)?;
    let services = services.into_iter();
    Ok(Contents {
        services: services
            .filter(|(_, service)| *service != Service::default())
            .collect(),
        serving: serving.into_iter().map(|(key, _)| key).collect(),
        backends: read_alone::<BackendKey, Backend, _>(pins, name::BACKENDS)?,
        service_names: read_alone::<u32, ServiceName, _>(pins, name::SERVICE_NAMES)?,
        ..Contents::default()
    })
}
