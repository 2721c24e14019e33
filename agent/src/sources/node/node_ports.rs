//! At which addresses node ports are served: `--nodeport-addresses`, as kube-proxy reads it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::NodeState;

/// The value of `--nodeport-addresses`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// Unset: every local address.
    #[default]
    All,
    /// `primary`: the first address of each family that the Node object names.
    Primary,
    /// The local addresses within these blocks. A family of which no block is given is not
    /// restricted, as with kube-proxy.
    Within(Vec<IpNetwork>),
}

impl NodePortAddresses {
    /// From the flag's values, one a comma.
    ///
    /// # Errors
    /// Says which value is none, without the flag's name.
    pub fn parse(values: &[String]) -> Result<Self, String> {
        let values: Vec<&str> = values
            .iter()
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
            .collect();
        match values.as_slice() {
            [] => Ok(Self::All),
            ["primary"] => Ok(Self::Primary),
            values if values.contains(&"primary") => {
                Err("`primary` stands alone; give it or blocks, not both".to_owned())
            }
            values => values
                .iter()
                .map(|value| block(value))
                .collect::<Result<_, _>>()
                .map(Self::Within),
        }
    }

    fn allows(&self, addr: IpAddr) -> bool {
        let Self::Within(blocks) = self else {
            return true;
        };
        let mut of_family = blocks
            .iter()
            .filter(|block| block.is_ipv4() == addr.is_ipv4())
            .peekable();
        of_family.peek().is_none() || of_family.any(|block| block.contains(addr))
    }
}

fn block(value: &str) -> Result<IpNetwork, String> {
    // An address alone would do for the parser, and be a mistake.
    match (value.contains('/'), value.parse()) {
        (true, Ok(block)) => Ok(block),
        (false, Ok(address)) => Err(format!(
            "{value:?} is an address, not a block; say {address}"
        )),
        (_, Err(_)) => Err(format!(
            "{value:?} is no block of addresses; say `primary`, or blocks such as 10.240.0.0/24,fd00:10:240::/64"
        )),
    }
}

/// The addresses at which node ports are served: local ones, never loopback ones.
///
/// `node_object`: the addresses of the Node object; `None` where there is no such object, for
/// which the node's own view then stands in.
#[must_use]
pub fn node_port_addresses(
    node: &NodeState,
    node_object: Option<&[IpAddr]>,
    setting: &NodePortAddresses,
) -> BTreeSet<IpAddr> {
    let local = node.local_addresses.iter().copied();
    let served = local.filter(|addr| !addr.is_loopback() && setting.allows(*addr));
    if *setting != NodePortAddresses::Primary {
        return served.collect();
    }
    let named = node_object.unwrap_or(&node.addresses);
    let primary = [
        named.iter().find(|addr| addr.is_ipv4()),
        named.iter().find(|addr| addr.is_ipv6()),
    ];
    served
        .filter(|addr| primary.contains(&Some(addr)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addrs(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn parse(text: &str) -> Result<NodePortAddresses, String> {
        let values: Vec<String> = text.split(',').map(ToOwned::to_owned).collect();
        NodePortAddresses::parse(&values)
    }

    /// What is served of a node that has nearly everything.
    fn served(setting: &str, node_object: Option<&[&str]>) -> Vec<String> {
        let node = NodeState {
            addresses: addrs(&["10.240.0.11", "10.241.0.11", "fd00:10:240::11"]),
            local_addresses: addrs(&[
                "127.0.0.1",
                "127.0.0.53",
                "::1",
                // A pods' bridge, a dummy, the loopback's second.
                "10.200.0.1",
                "169.254.20.10",
                "203.0.113.9",
                "10.240.0.11",
                "10.241.0.11",
                "fd00:10:240::11",
                "fe80::11",
            ])
            .into_iter()
            .collect(),
            ..NodeState::default()
        };
        let object = node_object.map(addrs);
        node_port_addresses(&node, object.as_deref(), &parse(setting).unwrap())
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn unset_every_local_address_but_loopback_ones_serves() {
        assert_eq!(
            served("", Some(&["10.240.0.11"])),
            [
                "10.200.0.1",
                "10.240.0.11",
                "10.241.0.11",
                "169.254.20.10",
                "203.0.113.9",
                "fd00:10:240::11",
                "fe80::11"
            ]
        );
    }

    #[test]
    fn primary_is_the_node_objects_first_address_of_each_family() {
        let object = ["10.241.0.11", "10.240.0.11", "fd00:10:240::11"];
        assert_eq!(
            served("primary", Some(&object)),
            ["10.241.0.11", "fd00:10:240::11"]
        );
        assert_eq!(served("primary", Some(&["10.241.0.11"])), ["10.241.0.11"]);
    }

    #[test]
    fn primary_is_the_nodes_own_first_where_there_is_no_node_object() {
        assert_eq!(served("primary", None), ["10.240.0.11", "fd00:10:240::11"]);
    }

    #[test]
    fn an_address_that_the_node_does_not_have_serves_nothing() {
        assert!(served("primary", Some(&["192.0.2.1", "fd00::1"])).is_empty());
        assert!(served("192.0.2.0/24,2001:db8::/64", None).is_empty());
    }

    #[test]
    fn blocks_restrict_their_own_family() {
        assert_eq!(
            served("10.240.0.0/15,169.254.20.10/32,fd00::/16", None),
            [
                "10.240.0.11",
                "10.241.0.11",
                "169.254.20.10",
                "fd00:10:240::11"
            ]
        );
        assert_eq!(
            served("10.240.0.0/24", None),
            ["10.240.0.11", "fd00:10:240::11", "fe80::11"]
        );
    }

    #[test]
    fn loopback_addresses_never_serve() {
        assert!(!served("127.0.0.0/8,::1/128", None).contains(&"127.0.0.1".to_owned()));
        assert!(!served("0.0.0.0/0,::/0", None).contains(&"::1".to_owned()));
        assert_eq!(served("0.0.0.0/0,::/0", None), served("", None));
    }

    #[test]
    fn what_is_no_block_is_named() {
        assert_eq!(parse(" , ").unwrap(), NodePortAddresses::All);
        for (text, named) in [
            ("10.240.0.0/24,eth0", "\"eth0\" is no block"),
            ("10.240.0.0/33", "\"10.240.0.0/33\" is no block"),
            ("10.240.0.11", "say 10.240.0.11/32"),
            ("fd00:10:240::11", "say fd00:10:240::11/128"),
            ("primary,10.240.0.0/24", "stands alone"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
