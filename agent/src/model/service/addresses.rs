//! The addresses of a service, and who may reach them.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1 as api;

use super::ignore;
use crate::model::{Family, Invalid, address};

pub(super) fn read_cluster_ips(spec: &api::ServiceSpec) -> Result<Vec<IpAddr>, Invalid> {
    let single = spec.cluster_ip.as_deref().filter(|text| !text.is_empty());
    let several = spec.cluster_ips.as_deref().unwrap_or_default();
    if let (Some(single), Some(first)) = (single, several.first())
        && single != first
    {
        return Err(Invalid::new(
            "",
            format!("{first} is not spec.clusterIP, which is {single}"),
        )
        .at(0)
        .within("clusterIPs"));
    }
    let mut addrs = Vec::new();
    for (index, text) in several.iter().enumerate() {
        let addr = address::parse_unicast(text)
            .map_err(|message| Invalid::new("", message).at(index).within("clusterIPs"))?;
        if !addrs.contains(&addr) {
            addrs.push(addr);
        }
    }
    if addrs.is_empty() {
        let Some(text) = single else {
            return Err(Invalid::new(
                "clusterIP",
                "is missing; only an API server gives addresses to services, so write one",
            ));
        };
        addrs.push(
            address::parse_unicast(text).map_err(|message| Invalid::new("clusterIP", message))?,
        );
    }
    addrs.shrink_to_fit();
    Ok(addrs)
}

pub(super) fn read_families(
    spec: &api::ServiceSpec,
    cluster_ips: &[IpAddr],
) -> Result<Vec<Family>, Invalid> {
    match spec.ip_families.as_deref() {
        None | Some([]) => Ok(cluster_ips.iter().map(Family::of).collect()),
        Some(families) => families
            .iter()
            .enumerate()
            .map(|(index, text)| {
                Family::parse(text)
                    .map_err(|message| Invalid::new("", message).at(index).within("ipFamilies"))
            })
            .collect(),
    }
}

pub(super) fn read_external_ips(
    spec: &api::ServiceSpec,
    ignored: &mut Vec<Invalid>,
) -> Vec<IpAddr> {
    let mut addrs = Vec::new();
    for (index, text) in spec.external_ips.iter().flatten().enumerate() {
        match address::parse_unicast(text) {
            Ok(addr) if addrs.contains(&addr) => {}
            Ok(addr) => addrs.push(addr),
            Err(message) => ignore(
                ignored,
                Invalid::new("", message)
                    .at(index)
                    .within("spec.externalIPs"),
            ),
        }
    }
    addrs
}

/// Those with the mode `Proxy` are the load balancer's own, which sends its traffic to node ports;
/// those with a host name alone cannot be known here.
pub(super) fn read_load_balancer_ips(
    status: &api::ServiceStatus,
    ignored: &mut Vec<Invalid>,
) -> Vec<IpAddr> {
    let ingress = status
        .load_balancer
        .as_ref()
        .and_then(|load_balancer| load_balancer.ingress.as_deref())
        .unwrap_or_default();
    let mut addrs = Vec::new();
    for (index, point) in ingress.iter().enumerate() {
        match read_ingress(point) {
            Ok(Some(addr)) if !addrs.contains(&addr) => addrs.push(addr),
            Ok(_) => {}
            Err(invalid) => ignore(
                ignored,
                invalid.at(index).within("status.loadBalancer.ingress"),
            ),
        }
    }
    addrs
}

fn read_ingress(point: &api::LoadBalancerIngress) -> Result<Option<IpAddr>, Invalid> {
    let Some(text) = point.ip.as_deref().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match point.ip_mode.as_deref() {
        None | Some("" | "VIP") => address::parse_unicast(text)
            .map(Some)
            .map_err(|message| Invalid::new("ip", message)),
        Some("Proxy") => Ok(None),
        Some(other) => Err(Invalid::new(
            "ipMode",
            format!("{other:?} is neither VIP nor Proxy"),
        )),
    }
}

/// `spec.loadBalancerSourceRanges`: who may reach a service's load balancer IPs, each family for
/// itself.
///
/// As in kube-proxy, ranges of one family leave the other open, and one range of everybody is no
/// restriction. Unlike there, a range that cannot be read admits nobody: it restricts the family
/// that it seems to be of, or both, rather than opening the service to all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceRanges {
    v4: Option<Vec<IpNetwork>>,
    v6: Option<Vec<IpNetwork>>,
}

impl SourceRanges {
    /// The ranges of this family, one of which a client must be in; `None`: anyone may.
    #[must_use]
    pub fn of(&self, family: Family) -> Option<&[IpNetwork]> {
        match family {
            Family::V4 => self.v4.as_deref(),
            Family::V6 => self.v6.as_deref(),
        }
    }

    pub(super) fn read(spec: &api::ServiceSpec, ignored: &mut Vec<Invalid>) -> Self {
        let texts = spec.load_balancer_source_ranges.iter().flatten();
        Self::read_texts(texts.map(String::as_str), ignored)
    }

    /// Those of these texts: for tests.
    #[cfg(test)]
    pub(crate) fn from_texts(texts: &[&str]) -> Self {
        Self::read_texts(texts.iter().copied(), &mut Vec::new())
    }

    fn read_texts<'a>(texts: impl Iterator<Item = &'a str>, ignored: &mut Vec<Invalid>) -> Self {
        let mut read = Self::default();
        for (index, text) in texts.enumerate() {
            // The API server lets blanks around a range pass.
            let text = text.trim();
            match address::parse_network(text) {
                Ok(range) => {
                    let ranges = read.restrict(Family::of(&range.ip()));
                    if !ranges.contains(&range) {
                        ranges.push(range);
                    }
                }
                Err(message) => {
                    for family in families_of_unreadable(text) {
                        read.restrict(family);
                    }
                    ignored.push(
                        Invalid::new("", format!("{message}; it admits nobody"))
                            .at(index)
                            .within("spec.loadBalancerSourceRanges"),
                    );
                }
            }
        }
        for ranges in [&mut read.v4, &mut read.v6] {
            if ranges.iter().flatten().any(|range| range.prefix() == 0) {
                *ranges = None;
            }
        }
        read
    }

    /// The ranges of this family, from now on restricted to them.
    fn restrict(&mut self, family: Family) -> &mut Vec<IpNetwork> {
        let ranges = match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        };
        ranges.get_or_insert_default()
    }
}

fn families_of_unreadable(text: &str) -> Vec<Family> {
    match (text.contains('.'), text.contains(':')) {
        (true, false) => vec![Family::V4],
        (false, true) => vec![Family::V6],
        (true, true) | (false, false) => vec![Family::V4, Family::V6],
    }
}
