//! Policies, pods and namespaces, and what may be wrong in them.

use super::*;
use crate::model::Direction;

#[test]
fn namespaces_pods_and_policies_are_read() {
    let parsed = parse(
        "shop.yaml",
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {name: cart-1, namespace: shop}\n---\n\
         apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {name: deny, namespace: shop}\nspec: {podSelector: {}}\n",
    );
    assert_eq!(problems(&parsed), [""; 0]);
    assert_eq!(parsed.unknown_kinds, BTreeSet::new());
    assert_eq!(
        names(&parsed),
        [
            "1 Namespace shop",
            "5 Pod shop/cart-1",
            "9 NetworkPolicy shop/deny"
        ]
    );
}

#[test]
fn a_policy_that_cannot_be_read_is_reported_and_kept() {
    const POLICY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  \
        name: cart\nspec:\n  podSelector:\n    matchLabels: {app: cart}\n  ingress:\n  \
        - ports:\n    - port: 80\n      endPort: 90\n";
    let rest = "until this is mended the policy isolates the pods that it selects and allows \
                nothing (NetworkPolicy default/cart)";
    for (from, to, expected) in [
        (
            "90",
            "79",
            format!(
                "a.yaml:11: spec.ingress[0].ports[0].endPort: 79 is below the port, 80; {rest}"
            ),
        ),
        (
            "90",
            "ninety",
            format!(
                "a.yaml:11: spec.ingress[0].ports[0].endPort: invalid type: string \"ninety\", \
                 expected i32; {rest}"
            ),
        ),
    ] {
        let parsed = parse("a.yaml", &POLICY.replace(from, to));
        assert_eq!(problems(&parsed), [expected]);
        assert_eq!(names(&parsed), ["1 NetworkPolicy default/cart"]);
        assert!(!parsed.has_unreadable);
    }
    let parsed = parse("a.yaml", &POLICY.replace("name: cart", "name: The_Cart"));
    assert_eq!(names(&parsed), ["1 NetworkPolicy default/The_Cart"]);
    assert_eq!(parsed.problems.len(), 1);
    let parsed = parse("a.yaml", &POLICY.replace("  name: cart", "  labels: {}"));
    assert_eq!(names(&parsed), [""; 0]);
    assert!(parsed.has_unreadable);
}

#[test]
fn a_policy_with_an_unknown_field_isolates_and_allows_nothing() {
    const POLICY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  \
        name: cart\nspec:\n  podSelector:\n    matchLabels: {app: cart}\n  ingress:\n  \
        - from:\n    - podSelector: {}\n    ports:\n    - port: 80\nstatus: {conditions: []}\n";
    let parsed = parse("a.yaml", POLICY);
    assert_eq!(problems(&parsed), [""; 0]);
    for (from, to, place) in [
        // Everyone, if it were left out.
        ("- from:", "- form:", "9: spec.ingress[0].form"),
        ("    ports:", "    port:", "11: spec.ingress[0].port"),
        ("ingress:", "ingres:", "8: spec.ingres"),
        (
            "- port: 80",
            "- prot: 80",
            "12: spec.ingress[0].ports[0].prot",
        ),
        (
            "matchLabels",
            "matchLabel",
            "7: spec.podSelector.matchLabel",
        ),
        (
            "podSelector: {}",
            "podSelector: {a: b}",
            "10: spec.ingress[0].from[0].podSelector.a",
        ),
    ] {
        let parsed = parse("a.yaml", &POLICY.replacen(from, to, 1));
        let problems = problems(&parsed);
        let [problem] = problems.as_slice() else {
            panic!("{problems:?}")
        };
        let expected = format!("a.yaml:{place}: is not a field that Weir knows; until this is");
        assert!(problem.starts_with(&expected), "{problem}");
        let [(Object::NetworkPolicy(policy), _)] = parsed.objects.as_slice() else {
            panic!("{parsed:?}")
        };
        assert!(policy.isolates(Direction::Ingress));
        assert_eq!(policy.rules(Direction::Ingress), []);
    }
    // What servers and tools add is nobody's rule.
    let noted = POLICY.replace("  name: cart", "  name: cart\n  seenBy: {tool: x}");
    assert_eq!(problems(&parse("a.yaml", &noted)), [""; 0]);
}

#[test]
fn what_is_wrong_in_pods_and_namespaces_is_named_and_the_rest_is_in_force() {
    let parsed = parse(
        "shop.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: cart\n  labels: {app: \"\", \"\": x}\n\
         status:\n  podIPs:\n  - ip: 10.200.0.7\n  - ip: 10.200.0.300\n---\n\
         apiVersion: v1\nkind: Namespace\nmetadata: {name: Shop}\n",
    );
    let problems = problems(&parsed);
    let expected = [
        "shop.yaml:5: metadata.labels: ",
        "shop.yaml:9: status.podIPs[1].ip: \"10.200.0.300\" is not an IP address",
        "shop.yaml:13: metadata.name: ",
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(problem.starts_with(expected), "{problem}");
    }
    assert_eq!(names(&parsed), ["1 Pod default/cart"]);
}

#[test]
fn ten_thousand_labels_are_read() {
    let labels: String = (0..10_000)
        .map(|n| format!("    key-{n}: v{n}\n"))
        .collect();
    let parsed = parse(
        "a.yaml",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: cart\n  labels:\n{labels}---\n\
             apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: all}}\n\
             spec:\n  podSelector:\n    matchLabels:\n{}",
            labels.replace("    key", "      key")
        ),
    );
    assert_eq!(problems(&parsed), [""; 0]);
    let [(Object::Pod(pod), _), (Object::NetworkPolicy(policy), _)] = parsed.objects.as_slice()
    else {
        panic!("a pod and a policy")
    };
    assert_eq!(pod.labels.iter().count(), 10_000);
    assert!(policy.pod_selector.selects(&pod.labels));
}

#[test]
fn bad_input_is_named_by_object_field_and_line() {
    const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: cart, namespace: shop}
spec:
  podSelector:
    matchExpressions:
    - {key: app, operator: In, values: [cart]}
  ingress:
  - from:
    - ipBlock:
        cidr: 10.200.0.0/16
        except: [10.200.7.0/24]
    ports:
    - {protocol: TCP, port: 80, endPort: 90}
";
    assert_eq!(problems(&parse("a.yaml", POLICY)), [""; 0]);
    let rule = "spec.ingress[0]";
    for (from, to, line, field, message) in [
        (
            "cidr: 10.200.0.0/16",
            "cidr: 10.200.0.0/33",
            11,
            format!("{rule}.from[0].ipBlock.cidr"),
            "\"10.200.0.0/33\" is not ADDRESS/LENGTH",
        ),
        (
            "cidr: 10.200.0.0/16",
            "cidr: ''",
            11,
            format!("{rule}.from[0].ipBlock.cidr"),
            "\"\" is not ADDRESS/LENGTH",
        ),
        (
            "10.200.7.0/24",
            "10.201.7.0/24",
            12,
            format!("{rule}.from[0].ipBlock.except[0]"),
            "10.201.7.0/24 is not a smaller block inside 10.200.0.0/16",
        ),
        (
            "endPort: 90",
            "endPort: 79",
            14,
            format!("{rule}.ports[0].endPort"),
            "79 is below the port, 80",
        ),
        (
            "port: 80, endPort: 90",
            "port: ''",
            14,
            format!("{rule}.ports[0].port"),
            "\"\" is neither a port nor the name of one",
        ),
        (
            "protocol: TCP",
            "protocol: ''",
            14,
            format!("{rule}.ports[0].protocol"),
            "\"\" is not TCP, UDP or SCTP",
        ),
        (
            "operator: In",
            "operator: Is",
            7,
            "spec.podSelector.matchExpressions[0].operator".to_owned(),
            "\"Is\" is not In, NotIn, Exists or DoesNotExist",
        ),
        (
            "key: app",
            "key: ''",
            7,
            "spec.podSelector.matchExpressions[0].key".to_owned(),
            "\"\" is not a label's key",
        ),
    ] {
        assert!(POLICY.contains(from), "{from}");
        let problems = problems(&parse("a.yaml", &POLICY.replace(from, to)));
        let [problem] = problems.as_slice() else {
            panic!("{problems:?}")
        };
        let expected = format!("a.yaml:{line}: {field}: {message}; until this is mended");
        assert!(problem.starts_with(&expected), "{problem}");
        assert!(problem.ends_with(" (NetworkPolicy shop/cart)"), "{problem}");
    }
}
