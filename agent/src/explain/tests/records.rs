//! Events in names, by example: what the programs tell in memory is put into a line.

use std::sync::Arc;

use weir_ebpf::event::{Direction as Told, Event};
use weir_ebpf::tables::NOBODY;
use weir_ebpf::verdict::{DropReason, RejectReason, Verdict};

use super::super::record::Outcome;
use super::super::tables::Judge;
use super::*;
use crate::compile::Desired;

const CART: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: cart, namespace: shop}
spec:
  podSelector: {matchLabels: {app: cart}}
  policyTypes: [Egress]
  egress:
  - to: [{ipBlock: {cidr: 192.0.2.0/24}}]
    ports: [{port: 80}]
  - to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: db}}}]
    ports: [{port: 5433}]
---
{apiVersion: v1, kind: Node, metadata: {name: here}, status: {addresses: [{type: InternalIP, address: 10.240.0.11}]}}
---
apiVersion: v1
kind: Service
metadata: {name: postgres, namespace: db}
spec: {clusterIP: 10.32.0.77, clusterIPs: [10.32.0.77], ports: [{port: 5432}]}
";

/// A node that knows all of the shop.
struct World {
    now: Snapshot,
    judge: Judge,
}

impl World {
    fn new(policies: &str) -> Self {
        let scene = scene(policies);
        let judge = Judge::of_all(&scene, &mut crate::compile::Ids::default());
        let desired = Desired {
            contents: judge.contents().clone(),
            ..judge.desired().clone()
        };
        let now = Snapshot {
            scene: Arc::new(scene),
            desired: Arc::new(desired),
            node: "here".to_owned(),
        };
        Self { now, judge }
    }

    /// What is told of a packet at the cart's interface.
    fn event(&mut self, direction: Direction, from: &str, to: &str, traffic: Traffic) -> Event {
        let cart = self.now.scene.owner(ip("10.200.0.2")).unwrap().id.clone();
        let interface = self.judge.interface(&cart).unwrap();
        let judged = self
            .judge
            .judge(interface, direction, false, ip(from), ip(to), traffic);
        judged
            .event
            .unwrap_or_else(|| panic!("nothing is told: {judged:?}"))
    }

    fn record(&self, event: &Event) -> FlowRecord {
        record(event, "now".to_owned(), &self.now, None).unwrap()
    }

    fn line(&mut self, direction: Direction, from: &str, to: &str, traffic: Traffic) -> String {
        let event = self.event(direction, from, to, traffic);
        self.record(&event).to_string()
    }
}

const fn tcp(port: u16) -> Traffic {
    Traffic::Ports {
        protocol: Protocol::Tcp,
        port,
    }
}

const PING: Traffic = Traffic::Other { protocol: 1 };

#[test]
fn what_is_refused_names_the_policies_and_the_nearest_rule() {
    let mut world = World::new(CART);
    for (direction, from, to, traffic, expected) in [
        (
            Direction::Egress,
            "10.200.0.2",
            "10.200.3.7",
            tcp(5432),
            "dropped egress shop/cart-1 → 10.200.3.7:5432 TCP (db/pg-0): isolated by shop/cart, \
             shop/default-deny; nearest: shop/cart egress[1] allows db pods on 5433",
        ),
        (
            Direction::Egress,
            "fd00:10:200::2",
            "fd00:10:200::307",
            tcp(5432),
            "dropped egress shop/cart-1 → [fd00:10:200::307]:5432 TCP (db/pg-0): isolated by \
             shop/cart, shop/default-deny; nearest: shop/cart egress[1] allows db pods on 5433",
        ),
        (
            Direction::Egress,
            "10.200.0.2",
            "10.240.0.11",
            tcp(80),
            "dropped egress shop/cart-1 → 10.240.0.11:80 TCP (node here): isolated by shop/cart, \
             shop/default-deny; nearest: shop/cart egress[0] allows 192.0.2.0/24 on 80",
        ),
        (
            Direction::Egress,
            "10.200.0.2",
            "198.51.100.7",
            PING,
            "dropped egress shop/cart-1 → 198.51.100.7 ICMP: isolated by shop/cart, \
             shop/default-deny; no rule comes near",
        ),
        (
            Direction::Ingress,
            "198.51.100.7",
            "10.200.0.2",
            tcp(80),
            "dropped ingress 198.51.100.7 → 10.200.0.2:80 TCP (shop/cart-1): isolated by \
             shop/default-deny; no rule comes near",
        ),
        (
            Direction::Egress,
            "10.200.0.2",
            "10.200.3.7",
            tcp(5433),
            "forwarded egress shop/cart-1 → 10.200.3.7:5433 TCP (db/pg-0): allowed by shop/cart \
             egress[1]",
        ),
        (
            Direction::Egress,
            "10.200.3.7",
            "10.200.0.2",
            tcp(5433),
            "dropped egress shop/cart-1 → 10.200.0.2:5433 TCP (shop/cart-1): the pod sent it from \
             10.200.3.7, which is not its own",
        ),
    ] {
        assert_eq!(world.line(direction, from, to, traffic), expected);
    }
}

#[test]
fn a_value_for_programs_has_all_that_the_line_says() {
    let mut world = World::new(CART);
    let event = world.event(Direction::Egress, "10.200.0.2", "10.200.3.7", tcp(5432));
    let mut value = serde_json::to_value(world.record(&event)).unwrap();
    value.as_object_mut().unwrap().remove("interface");
    assert_eq!(
        value,
        serde_json::json!({
            "time": "now",
            "verdict": "dropped",
            "direction": "egress",
            "reason": "egress_policy",
            "from": {"pod": "shop/cart-1", "address": "10.200.0.2", "port": 40_000},
            "to": {"pod": "db/pg-0", "address": "10.200.3.7", "port": 5432},
            "protocol": "TCP",
            "isolatedBy": ["shop/cart", "shop/default-deny"],
            "nearest": {
                "rule": "shop/cart egress[1]",
                "missed": "ports",
                "allows": "db pods on 5433",
            },
            "why": "isolated by shop/cart, shop/default-deny; nearest: shop/cart egress[1] allows \
                    db pods on 5433",
        })
    );
}

#[test]
fn a_connection_that_is_judged_again_by_an_answer_is_told_as_it_was_opened() {
    let mut world = World::new(CART);
    let asked = world.event(Direction::Egress, "10.200.0.2", "10.200.3.7", tcp(5432));
    let by_the_answer = Event {
        tuple: asked.tuple.reversed(),
        hook: 1,
        ..asked
    };
    assert_eq!(by_the_answer.direction, Told::EGRESS);
    let (one, other) = (world.record(&asked), world.record(&by_the_answer));
    assert_eq!(one.to_string(), other.to_string());
}

#[test]
fn numbers_that_are_not_in_force_any_more_are_found_in_the_state_before() {
    let mut before = World::new(CART);
    let refused = before.event(Direction::Egress, "10.200.0.2", "10.200.3.7", tcp(5432));
    let allowed = before.event(Direction::Egress, "10.200.0.2", "10.200.3.7", tcp(5433));
    let mut now = World::new(CART);
    let mut desired = Desired::clone(&now.now.desired);
    desired.policies = crate::compile::PolicyNames::default();
    now.now.desired = Arc::new(desired);
    let why = |event: &Event, before: Option<&Snapshot>| {
        let record = record(event, String::new(), &now.now, before).unwrap();
        record.why
    };
    let known = Some(&before.now);
    assert!(why(&refused, known).starts_with("isolated by shop/cart, shop/default-deny;"));
    assert_eq!(why(&allowed, known), "allowed by shop/cart egress[1]");
    assert!(why(&refused, None).starts_with("isolated by policies that have changed since;"));
    assert_eq!(
        why(&allowed, None),
        "allowed by a rule that has changed since"
    );
    let nobody = Event {
        subject: NOBODY,
        ..refused
    };
    assert_eq!(
        why(&nobody, None),
        "isolated: nothing is known of the pod yet but its name"
    );
}

#[test]
fn a_verdict_without_policies_has_its_own_sentence() {
    let mut world = World::new(CART);
    let told = world.event(Direction::Egress, "10.200.0.2", "10.200.3.7", tcp(5432));
    let with = |verdict: Verdict| {
        let event = Event {
            verdict: u8::try_from(verdict.number()).unwrap(),
            direction: Told::NONE,
            service_addr: ip("10.32.0.77").into(),
            service_port: weir_ebpf::addr::Port::new(5432),
            ..told
        };
        world.record(&event)
    };
    let rejected = with(Verdict::Reject(RejectReason::NoBackend));
    assert_eq!(rejected.verdict, Outcome::Rejected);
    assert_eq!(
        rejected.to_string(),
        "rejected egress shop/cart-1 → 10.200.3.7:5432 TCP (db/pg-0 by db/postgres \
         10.32.0.77:5432): the service has no endpoint to send this to"
    );
    let unknown = with(Verdict::Drop(DropReason::UnknownPod));
    assert_eq!(unknown.reason, "unknown_pod");
    assert_eq!(unknown.why, DropReason::UnknownPod.sentence());
}

#[test]
fn an_event_of_other_programs_means_nothing() {
    let mut world = World::new(CART);
    let told = world.event(Direction::Egress, "10.200.0.2", "10.200.3.7", tcp(5432));
    let strange = Event {
        verdict: u8::MAX,
        ..told
    };
    assert_eq!(record(&strange, String::new(), &world.now, None), None);
}
