//! Reasons in names and sentences, by example.

mod changes;
mod records;

use std::net::IpAddr;

use super::*;
use crate::model::{Cluster, Direction, PodRef};
use crate::sources::manifests::parse::parse;

/// A shop whose pods may reach pods of `db`, on another port than they try.
const SHOP: &str = r#"
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {kubernetes.io/metadata.name: shop}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: db, labels: {kubernetes.io/metadata.name: db, team: blue}}}
---
apiVersion: v1
kind: Pod
metadata: {name: cart-1, namespace: shop, labels: {app: cart}}
spec: {nodeName: here, containers: [{name: main}]}
status: {phase: Running, podIPs: [{ip: 10.200.0.2}, {ip: "fd00:10:200::2"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: pg-0, namespace: db, labels: {app: pg}}
spec:
  nodeName: there
  containers: [{name: main, ports: [{name: postgres, containerPort: 5432}]}]
status: {phase: Running, podIPs: [{ip: 10.200.3.7}, {ip: "fd00:10:200::307"}]}
"#;

pub(super) fn scene(policies: &str) -> Scene {
    let parsed = parse("shop.yaml", &format!("{SHOP}\n---\n{policies}"));
    let objects = parsed.objects.into_iter().map(|(object, _)| object);
    Scene::new(Cluster::from_objects(objects))
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, \
         metadata: {{name: {name}, namespace: shop}}, spec: {spec}}}\n---\n"
    )
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What the shop's cart is told when it connects to the database.
fn egress(policies: &str) -> Reasons {
    let scene = scene(policies);
    let cart = PodRef {
        namespace: "shop".to_owned(),
        name: "cart-1".to_owned(),
    };
    let to = ip("10.200.3.7");
    reasons(
        &scene,
        End {
            subject: scene.pod(&cart).unwrap(),
            direction: Direction::Egress,
            peer: to,
            to,
            traffic: Traffic::Ports {
                protocol: Protocol::Tcp,
                port: 5432,
            },
        },
    )
}

fn nearest(rules: &str) -> String {
    let spec = format!("{{podSelector: {{}}, policyTypes: [Egress], egress: [{rules}]}}");
    let near = egress(&policy("cart", &spec)).nearest;
    near.map(|near| near.to_string()).unwrap_or_default()
}

#[test]
fn the_nearest_miss_is_told_as_a_sentence() {
    for (rules, expected) in [
        (
            "{to: [{ipBlock: {cidr: 192.0.2.0/24}}], ports: [{port: 80}]}, \
             {to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: db}}}], ports: [{port: 5433}]}",
            "shop/cart egress[1] allows db pods on 5433",
        ),
        (
            "{to: [{podSelector: {matchLabels: {app: pg}}, namespaceSelector: {}}], ports: [{port: 53, protocol: UDP}, {port: 80, endPort: 90}]}",
            "shop/cart egress[0] allows all pods with app=pg on 53/UDP and 80-90",
        ),
        (
            "{to: [{namespaceSelector: {matchExpressions: [{key: team, operator: Exists}]}, podSelector: {matchExpressions: [{key: old, operator: DoesNotExist}]}}], ports: [{protocol: SCTP}]}",
            "shop/cart egress[0] allows pods with !old in namespaces with team on every SCTP port",
        ),
        (
            "{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.200.0.0/16]}}]}",
            "shop/cart egress[0] allows 10.0.0.0/8 except 10.200.0.0/16 on every port",
        ),
        (
            "{to: [{podSelector: {}}], ports: [{port: 80}, {port: postgres}]}",
            "shop/cart egress[0] allows shop pods on postgres",
        ),
        (
            "{ports: [{port: 1}, {port: 2}, {port: 3}, {port: 4}, {port: 5}]}",
            "shop/cart egress[0] allows every peer on 1, 2, 3 and 2 more",
        ),
        ("{to: [{podSelector: {}}], ports: [{port: 80}]}", ""),
        ("", ""),
    ] {
        assert_eq!(nearest(rules), expected, "{rules}");
    }
}

#[test]
fn another_port_is_nearer_than_another_peer() {
    let near = nearest(
        "{to: [{podSelector: {}}], ports: [{port: 5432}]}, \
         {to: [{namespaceSelector: {}}], ports: [{port: 1}]}",
    );
    assert_eq!(near, "shop/cart egress[1] allows all pods on 1");
}

#[test]
fn all_policies_that_isolate_are_named_and_all_rules_that_allow() {
    let deny = policy("default-deny", "{podSelector: {}, policyTypes: [Egress]}");
    let other = policy(
        "other",
        "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}",
    );
    let unreadable = policy(
        "cart",
        "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 0}]}]}",
    );
    let names = |reasons: &Reasons| {
        let names = reasons.isolated_by.iter().map(ToString::to_string);
        names.collect::<Vec<_>>()
    };
    let denied = egress(&format!("{deny}{other}{unreadable}"));
    assert_eq!(names(&denied), ["shop/cart", "shop/default-deny"]);
    assert_eq!(denied.nearest, None);

    let allow = policy(
        "a",
        "{podSelector: {}, egress: [{}, {ports: [{port: 5432}]}]}",
    );
    let allowed = egress(&format!("{deny}{allow}"));
    let rules: Vec<_> = allowed.allowing.iter().map(ToString::to_string).collect();
    assert_eq!(rules, ["shop/a egress[0]", "shop/a egress[1]"]);
    assert_eq!(egress(&other), Reasons::default());
}

/// Two objects may have an address for a while. The younger pod's is what its traffic meets, also
/// where the older one's other address is still its own.
#[test]
fn an_address_is_the_youngest_pods_at_both_ends() {
    let old = r#"
apiVersion: v1
kind: Pod
metadata: {name: old, namespace: db, labels: {app: old}, creationTimestamp: "2026-01-01T00:00:00Z"}
spec: {nodeName: here, containers: [{name: main}]}
status: {phase: Running, podIPs: [{ip: 10.200.0.130}, {ip: "fd00:10:200::82"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: young, namespace: db, labels: {app: young}, creationTimestamp: "2026-01-01T00:00:01Z"}
spec: {containers: [{name: main}]}
status: {phase: Running, podIPs: [{ip: 10.200.0.130}]}
---
"#;
    let allows_old = "{podSelector: {}, policyTypes: [Egress], egress: \
         [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: old}}}]}]}";
    let scene = scene(&format!("{old}{}", policy("p", allows_old)));
    let mut explainer = Explainer::new(&scene);
    let mut is_allowed = |from: &str, to: &str| {
        let owner = scene.owner(ip(from)).expect("a pod");
        let explanation = explainer.explain(&Connection {
            from: Sender::Pod(owner.id.clone(), ip(from)),
            to: ip(to),
            traffic: Traffic::of(Number::TCP, 80),
        });
        assert_eq!(explanation.doubt, None, "{to}");
        matches!(explanation.egress, Judgement::ByRules { .. })
    };
    assert!(is_allowed("fd00:10:200::2", "fd00:10:200::82"));
    assert!(!is_allowed("10.200.0.2", "10.200.0.130"));
}
