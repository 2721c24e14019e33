//! What is asked of a random cluster.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use weir_tests::reference::policy::world::Protocol;
use weir_tests::reference::policy::{Connection, Sender, Traffic};

use super::plan::{NODE_ADDRESSES, NODES, OTHER_PROTOCOLS, OUTSIDE, POD_ADDRESSES, PORTS, addr};

/// Connections between any two of the plan.
pub fn connections() -> impl Strategy<Value = Vec<Connection>> {
    vec(connection(), 24)
}

/// A connection of one family between any two of the plan.
pub fn connection() -> impl Strategy<Value = Connection> {
    let family = 0_usize..2;
    (family, sender(), destination(), traffic()).prop_map(|(family, sender, to, traffic)| {
        Connection {
            from: sender.in_family(family),
            to: addr(to[family]),
            traffic,
        }
    })
}

/// A sender, before its family is known.
#[derive(Clone, Copy, Debug)]
enum SenderOf {
    Pod([&'static str; 2]),
    Node(usize),
    Outside([&'static str; 2]),
}

impl SenderOf {
    fn in_family(self, family: usize) -> Sender {
        match self {
            Self::Pod(addresses) => Sender::Pod(addr(addresses[family])),
            Self::Node(index) => Sender::Node {
                name: NODES[index].to_owned(),
                addr: addr(NODE_ADDRESSES[index][family]),
            },
            Self::Outside(addresses) => Sender::Outside(addr(addresses[family])),
        }
    }
}

/// Mostly a pod. Somebody outside may have any address, one's own by mistake or malice.
fn sender() -> impl Strategy<Value = SenderOf> {
    prop_oneof![
        4 => select(&POD_ADDRESSES).prop_map(SenderOf::Pod),
        1 => (0..NODES.len()).prop_map(SenderOf::Node),
        2 => destination().prop_map(SenderOf::Outside),
    ]
}

fn destination() -> impl Strategy<Value = [&'static str; 2]> {
    prop_oneof![
        5 => select(&POD_ADDRESSES),
        1 => select(&NODE_ADDRESSES),
        1 => select(&OUTSIDE),
    ]
}

fn traffic() -> impl Strategy<Value = Traffic> {
    let ports = (select(&Protocol::ALL), select(&PORTS))
        .prop_map(|(protocol, port)| Traffic::Ports { protocol, port });
    let other = select(&OTHER_PROTOCOLS).prop_map(|protocol| Traffic::Other { protocol });
    prop_oneof![6 => ports, 1 => other]
}
