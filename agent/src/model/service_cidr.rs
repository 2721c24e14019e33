//! Ranges that cluster IPs are taken from.

use ipnetwork::IpNetwork;
use k8s_openapi::api::networking::v1 as api;

use super::metadata::Metadata;
use super::{Invalid, Kind, Object, address};

/// A `networking.k8s.io/v1` ServiceCIDR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCidr {
    /// Its name.
    pub name: String,
    /// `spec.cidrs`
    pub cidrs: Vec<IpNetwork>,
}

impl TryFrom<api::ServiceCIDR> for Object {
    type Error = Invalid;

    fn try_from(service_cidr: api::ServiceCIDR) -> Result<Self, Invalid> {
        let metadata = Metadata::read(Kind::ServiceCidr, service_cidr.metadata)?;
        let cidrs = service_cidr.spec.and_then(|spec| spec.cidrs);
        let cidrs = cidrs.iter().flatten().enumerate().map(|(index, text)| {
            address::parse_network(text)
                .map_err(|message| Invalid::new("", message).at(index).within("spec.cidrs"))
        });
        Ok(Self::ServiceCidr(ServiceCidr {
            name: metadata.reference.name,
            cidrs: cidrs.collect::<Result<_, _>>()?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(cidrs: serde_json::Value) -> Result<Object, Invalid> {
        let service_cidr: api::ServiceCIDR = serde_json::from_value(json!({
            "metadata": {"name": "kubernetes"}, "spec": {"cidrs": cidrs},
        }))
        .unwrap();
        service_cidr.try_into()
    }

    #[test]
    fn both_families_are_read() {
        let object = read(json!(["10.32.0.0/24", "fd00:10:32::/112"])).unwrap();
        assert_eq!(object.reference().to_string(), "ServiceCIDR kubernetes");
        let Object::ServiceCidr(service_cidr) = object else {
            panic!("{object:?}")
        };
        let texts: Vec<String> = service_cidr.cidrs.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.32.0.0/24", "fd00:10:32::/112"]);
    }

    #[test]
    fn what_is_wrong_names_its_field() {
        let invalid = read(json!(["10.32.0.0/24", "10.32.0.0"])).unwrap_err();
        assert_eq!(
            invalid.to_string(),
            "spec.cidrs[1]: \"10.32.0.0\" is not ADDRESS/LENGTH"
        );
    }
}
