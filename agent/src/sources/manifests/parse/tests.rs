use proptest::prelude::*;

use super::*;

mod policies;

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
