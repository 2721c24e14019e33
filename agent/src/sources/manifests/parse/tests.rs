use proptest::prelude::*;

use super::*;
use crate::model::Direction;

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  clusterIP: 10.32.0.140
  ports:
  - name: http
    port: 80
  - name: admin
    port: 81
";

fn service(name: &str) -> String {
    SERVICE.replace("web", name)
}

fn names(parsed: &Parsed) -> Vec<String> {
    let objects = parsed.objects.iter();
    objects
        .map(|(object, line)| format!("{line} {}", object.reference()))
        .collect()
}

fn problems(parsed: &Parsed) -> Vec<String> {
    parsed.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn documents_of_a_file_are_objects_with_lines() {
    let text = format!(
        "%YAML 1.2\n---\n{}---\n# only a comment\n--- # a comment\n{}...\n---\n",
        service("a"),
        service("b")
    );
    let parsed = parse("services.yaml", &text);
    assert_eq!(problems(&parsed), [""; 0]);
    assert_eq!(
        names(&parsed),
        ["3 Service default/a", "17 Service default/b"]
    );
}

#[test]
fn lists_of_any_form_are_flattened() {
    let text = r#"
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Node
  metadata: {name: worker-0}
- apiVersion: v1
  kind: ServiceList
  items:
  - metadata: {name: a, namespace: n}
    spec: {clusterIP: 10.32.0.1}
- {apiVersion: v1, kind: Secret}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSliceList
items:
- metadata: {name: a-1, labels: {kubernetes.io/service-name: a}}
  addressType: IPv4
  endpoints: []
---
apiVersion: v1
kind: ServiceList
items:
"#;
    let parsed = parse("all.yml", text);
    assert_eq!(problems(&parsed), [""; 0]);
    assert_eq!(
        names(&parsed),
        [
            "5 Node worker-0",
            "11 Service n/a",
            "18 EndpointSlice default/a-1"
        ]
    );
    assert_eq!(
        parsed.unknown_kinds,
        BTreeSet::from(["v1/Secret".to_owned()])
    );
    assert!(!parsed.has_unreadable);
}

#[test]
fn json_is_read_with_tabs_too() {
    let text = "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Service\",\n\
        \t\"metadata\": {\"name\": \"web\", \"annotations\": {\"a\": \"x\\ty // #\"}},\n\
        \t\"spec\": {\"clusterIP\": \"10.32.0.140\",\n\t\t\"ports\": [{\"port\": 70000}]}\n}\n";
    let parsed = parse("service.json", text);
    assert_eq!(
        problems(&parsed),
        ["service.json:6: spec.ports[0].port: 70000 is not a port (1-65535) (Service default/web)"]
    );
    let parsed = parse("service.json", &text.replace("70000", "80"));
    assert_eq!(names(&parsed), ["1 Service default/web"]);
}

#[test]
fn a_field_of_the_wrong_type_is_named_with_file_and_line() {
    let text = format!(
        "---\n{}---\n{}",
        service("a"),
        service("b").replace("81", "http")
    );
    let parsed = parse("services.yaml", &text);
    assert_eq!(names(&parsed), ["2 Service default/a"]);
    assert_eq!(
        problems(&parsed),
        [
            "services.yaml:24: spec.ports[1].port: invalid type: string \"http\", expected i32 \
          (Service default/b)"
        ]
    );
    assert!(!parsed.has_unreadable);
}

#[test]
fn a_field_of_a_wrong_value_is_named_with_file_and_line() {
    let parsed = parse("services.yaml", &SERVICE.replace("81", "70000"));
    assert_eq!(
        problems(&parsed),
        [
            "services.yaml:11: spec.ports[1].port: 70000 is not a port (1-65535) \
          (Service default/web)"
        ]
    );
    let parsed = parse(
        "services.yaml",
        &SERVICE.replace("  clusterIP: 10.32.0.140\n", ""),
    );
    assert_eq!(
        problems(&parsed),
        [
            "services.yaml:5: spec.clusterIP: is missing; only an API server gives addresses to \
          services, so write one (Service default/web)"
        ]
    );
}

#[test]
fn an_item_of_a_list_is_named_from_the_document() {
    let text = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Node, metadata: {name: worker-0}}
- apiVersion: v1
  kind: Service
  metadata: {name: web}
  spec:
    clusterIP: 10.32.0
";
    let parsed = parse("all.yaml", text);
    assert_eq!(names(&parsed), ["5 Node worker-0"]);
    assert_eq!(
        problems(&parsed),
        [
            "all.yaml:10: items[1].spec.clusterIP: \"10.32.0\" is not an IP address \
          (Service default/web)"
        ]
    );
}

#[test]
fn a_document_that_is_no_yaml_leaves_the_others() {
    let text = format!(
        "{}---\nkind: Service\nspec: [1, 2\n---\n{}",
        service("a"),
        service("b")
    );
    let parsed = parse("services.yaml", &text);
    assert_eq!(
        names(&parsed),
        ["1 Service default/a", "16 Service default/b"]
    );
    assert!(parsed.has_unreadable);
    assert_eq!(parsed.problems.len(), 1);
    let problem = &parsed.problems[0];
    assert_eq!(problem.object, None);
    assert!((13..=15).contains(&problem.line.unwrap()), "{problem:?}");
}

#[test]
fn a_marker_ends_a_document_in_a_block_scalar_too() {
    let text = format!(
        "apiVersion: v1\nkind: ConfigMap\ndata:\n  text: |\n    --- not a marker\n---\n{SERVICE}"
    );
    let parsed = parse("all.yaml", &text);
    assert_eq!(problems(&parsed), [""; 0]);
    assert_eq!(names(&parsed), ["7 Service default/web"]);
    assert_eq!(
        parsed.unknown_kinds,
        BTreeSet::from(["v1/ConfigMap".to_owned()])
    );
}

#[test]
fn what_cannot_be_named_is_unreadable() {
    for (text, expected) in [
        ("just text\n", "a.yaml:1: is not an object"),
        ("\n- 1\n- 2\n", "a.yaml:2: is not an object"),
        ("apiVersion: v1\n", "a.yaml:1: kind: is missing"),
        ("\nkind: Service\n", "a.yaml:2: apiVersion: is missing"),
        (
            "apiVersion: v1\nkind: List\nitems: 7\n",
            "a.yaml:3: items: is not a list",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {}\n",
            "a.yaml:3: metadata.name: is missing",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: 7}\n",
            "a.yaml:3: metadata.name: invalid type: integer `7`, expected a string",
        ),
    ] {
        let parsed = parse("a.yaml", text);
        assert_eq!(problems(&parsed), [expected]);
        assert!(parsed.has_unreadable, "{text}");
    }
}

#[test]
fn a_version_that_is_not_read_is_an_unknown_kind() {
    let parsed = parse(
        "a.yaml",
        "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\n---\n\
         apiVersion: example.com/v1\nkind: AccessList\n",
    );
    assert_eq!(problems(&parsed), [""; 0]);
    assert_eq!(
        parsed.unknown_kinds.into_iter().collect::<Vec<_>>(),
        [
            "discovery.k8s.io/v1beta1/EndpointSlice",
            "example.com/v1/AccessList"
        ]
    );
}

#[test]
fn line_ends_and_byte_order_marks_of_other_systems_are_read() {
    let text = format!("\u{feff}---\n{}---\n{}", service("a"), service("b"));
    let parsed = parse("a.yaml", &text.replace('\n', "\r\n"));
    assert_eq!(problems(&parsed), [""; 0]);
    assert_eq!(
        names(&parsed),
        ["2 Service default/a", "14 Service default/b"]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_text_panics(text in "(\\PC|\n|---\n|kind: |apiVersion: v1\n|- |  |\\[|\\{|&a|\\*a){0,60}") {
        parse("a.yaml", &text);
        parse("a.json", &text);
    }

    #[test]
    fn a_manifest_cut_anywhere_never_yields_an_object_of_another_name(
        cut in 0..2 * SERVICE.len() + 4,
    ) {
        let text = format!("{}---\n{}", service("one"), service("two"));
        let parsed = parse("a.yaml", &text[..cut.min(text.len())]);
        for name in names(&parsed) {
            prop_assert!(
                name == "1 Service default/one" || name == "13 Service default/two",
                "{}", name
            );
        }
    }
}

#[test]
fn a_field_that_is_not_in_force_is_named_with_its_line_and_the_object_is_read() {
    let parsed = parse(
        "web.yaml",
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\nspec:\n  clusterIP: 10.32.0.140\n  externalIPs:\n  - 203.0.113.7\n  - nowhere\n---\napiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata:\n  name: kubernetes\nspec:\n  cidrs: [10.32.0.0/24]\n",
    );
    let lines: Vec<u64> = parsed.objects.iter().map(|(_, line)| *line).collect();
    assert_eq!(lines, [1, 11]);
    let problems: Vec<String> = parsed.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "web.yaml:9: spec.externalIPs[1]: \"nowhere\" is not an IP address; it is left out, the \
          rest of the service is served (Service default/web)"
        ]
    );
    assert!(!parsed.has_unreadable);
}

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
    assert_eq!(pod.labels.len(), 10_000);
    assert!(policy.pod_selector.selects(&pod.labels));
}
