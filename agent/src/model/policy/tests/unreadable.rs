//! Policies that cannot be read isolate, allow nothing and name what is wrong.

use proptest::prelude::*;

use super::*;

/// The one problem of a policy that selects `app: cart` in a known direction, without what every
/// such problem says.
fn fault(policy: &NetworkPolicy) -> &str {
    let [problem] = policy.problems() else {
        panic!("{policy:?}")
    };
    assert_eq!(policy.rules(Direction::Ingress), []);
    assert_eq!(policy.rules(Direction::Egress), []);
    let message = problem.message.as_str();
    let (message, _) = message
        .split_once("; until this is mended the policy isolates the pods that it selects and allows nothing")
        .unwrap_or_else(|| panic!("{message}"));
    message
}

#[test]
fn a_rule_that_cannot_be_read_allows_nothing_and_the_pods_stay_isolated() {
    let peer = |peer: Value| json!({"from": [{"podSelector": {}}, peer]});
    let block =
        |cidr: &str, except: &[&str]| peer(json!({"ipBlock": {"cidr": cidr, "except": except}}));
    let ports = |entry: Value| json!({"ports": [{"port": 80}, entry]});
    for (rule, field, message) in [
        (
            block("10.200.0.0", &[]),
            "from[1].ipBlock.cidr",
            "\"10.200.0.0\" is not ADDRESS/LENGTH",
        ),
        (
            block("", &[]),
            "from[1].ipBlock.cidr",
            "\"\" is not ADDRESS/LENGTH",
        ),
        (
            block("10.200.0.0/16", &["10.200.1.0/24", "10.201.0.0/24"]),
            "from[1].ipBlock.except[1]",
            "10.201.0.0/24 is not a smaller block inside 10.200.0.0/16",
        ),
        (
            block("10.200.0.0/16", &["10.200.0.0/16"]),
            "from[1].ipBlock.except[0]",
            "10.200.0.0/16 is not a smaller block inside 10.200.0.0/16",
        ),
        (
            block("10.200.0.0/16", &["10.0.0.0/8"]),
            "from[1].ipBlock.except[0]",
            "10.0.0.0/8 is not a smaller block inside 10.200.0.0/16",
        ),
        (
            block("0.0.0.0/0", &["fd00::/64"]),
            "from[1].ipBlock.except[0]",
            "fd00::/64 is not a smaller block inside 0.0.0.0/0",
        ),
        (
            block("10.200.0.0/16", &[""]),
            "from[1].ipBlock.except[0]",
            "\"\" is not ADDRESS/LENGTH",
        ),
        (
            peer(json!({})),
            "from[1]",
            "names nobody; it needs podSelector, namespaceSelector or ipBlock",
        ),
        (
            peer(json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}})),
            "from[1].ipBlock",
            "stands beside a selector; make them two peers",
        ),
        (
            peer(json!({"namespaceSelector": {"matchLabels": {"": ""}}})),
            "from[1].namespaceSelector.matchLabels",
            "\"\" is not a label's key",
        ),
        (
            peer(json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}})),
            "from[1].podSelector.matchExpressions[0].operator",
            "\"Is\" is not In, NotIn, Exists or DoesNotExist",
        ),
        (
            ports(json!({"port": 0})),
            "ports[1].port",
            "0 is not a port (1-65535)",
        ),
        (
            ports(json!({"port": 80, "endPort": 79})),
            "ports[1].endPort",
            "79 is below the port, 80",
        ),
        (
            ports(json!({"port": 80, "endPort": 65536})),
            "ports[1].endPort",
            "65536 is not a port (1-65535)",
        ),
        (
            ports(json!({"port": "http", "endPort": 90})),
            "ports[1].endPort",
            "needs a port that is a number",
        ),
        (
            ports(json!({"endPort": 90})),
            "ports[1].endPort",
            "needs a port that is a number",
        ),
        (
            ports(json!({"port": 80, "protocol": "ICMP"})),
            "ports[1].protocol",
            "\"ICMP\" is not TCP, UDP or SCTP",
        ),
        (
            ports(json!({"port": 80, "protocol": ""})),
            "ports[1].protocol",
            "\"\" is not TCP, UDP or SCTP",
        ),
        (
            ports(json!({"port": ""})),
            "ports[1].port",
            "\"\" is neither a port nor the name of one",
        ),
        (
            ports(json!({"port": "80"})),
            "ports[1].port",
            "\"80\" is neither a port nor the name of one",
        ),
        (
            ports(json!({"port": "a--b"})),
            "ports[1].port",
            "\"a--b\" is neither a port nor the name of one",
        ),
    ] {
        let policy = read(&json!({
            "podSelector": {"matchLabels": {"app": "cart"}},
            "policyTypes": ["Ingress"],
            "ingress": [{}, rule],
        }));
        assert_eq!(fault(&policy), message);
        let path = policy.problems()[0].field.to_string();
        assert_eq!(path, format!("spec.ingress[1].{field}"));
        assert_eq!(policy.pod_selector, app("cart"));
        assert_eq!(policy.directions, Directions::Ingress);
    }
}

#[test]
fn a_fault_in_rules_of_the_other_direction_counts_too() {
    let policy = read(
        &json!({"policyTypes": ["Ingress"], "ingress": [{}], "egress": [
            {"to": [{"ipBlock": {"cidr": "x"}}]},
        ]}),
    );
    assert_eq!(fault(&policy), "\"x\" is not ADDRESS/LENGTH");
    assert_eq!(policy.directions, Directions::Ingress);
}

#[test]
fn what_cannot_be_read_is_taken_to_isolate_as_much_as_it_can() {
    let policy = read(&json!({
        "podSelector": {"matchExpressions": [{"key": "app", "operator": "In"}]},
        "policyTypes": ["ingress"],
        "egress": [{"ports": [{"port": -1}]}],
    }));
    assert!(policy.pod_selector.is_everything());
    assert_eq!(policy.directions, Directions::Both);
    let rest = "until this is mended the policy isolates all pods of its namespace in both \
                directions and allows nothing";
    let problems: Vec<_> = policy.problems().iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            format!(
                "spec.podSelector.matchExpressions[0].values: is empty; In needs a value; {rest}"
            ),
            format!("spec.policyTypes[0]: \"ingress\" is neither Ingress nor Egress; {rest}"),
            format!("spec.egress[0].ports[0].port: -1 is not a port (1-65535); {rest}"),
        ]
    );
}

/// What is left of a policy that has not the form of one.
fn salvaged(policy: &Value) -> Result<NetworkPolicy, Invalid> {
    NetworkPolicy::unreadable(policy, Invalid::new("spec", "is odd")).map(policy_of)
}

#[test]
fn a_policy_without_the_form_of_one_isolates_what_it_selects_as_far_as_that_can_be_told() {
    let cart = json!({"matchLabels": {"app": "cart"}});
    let everything = LabelSelector::everything;
    for (spec, selector, directions) in [
        (
            json!({"podSelector": cart, "ingress": 7}),
            app("cart"),
            Directions::Ingress,
        ),
        (
            json!({"podSelector": cart, "policyTypes": ["Egress"], "egress": {}}),
            app("cart"),
            Directions::Egress,
        ),
        (
            json!({"podSelector": cart, "egress": "any"}),
            app("cart"),
            Directions::Both,
        ),
        (
            json!({"podSelector": cart, "egress": [], "ingress": 7}),
            app("cart"),
            Directions::Ingress,
        ),
        (
            json!({"podSelector": cart, "egress": [7]}),
            app("cart"),
            Directions::Both,
        ),
        (
            json!({"podSelector": cart, "policyTypes": "Ingress"}),
            app("cart"),
            Directions::Both,
        ),
        (
            json!({"podSelector": cart, "policyTypes": ["All"]}),
            app("cart"),
            Directions::Both,
        ),
        (
            json!({"podSelector": {"matchLabels": {"app": 5}}}),
            everything(),
            Directions::Ingress,
        ),
        (
            json!({"podSelector": "cart"}),
            everything(),
            Directions::Ingress,
        ),
        (json!("allow"), everything(), Directions::Both),
        (json!([cart]), everything(), Directions::Both),
    ] {
        let policy = salvaged(&manifest(&spec)).unwrap();
        assert_eq!(policy.id.to_string(), "shop/cart");
        assert_eq!(policy.pod_selector, selector, "{spec}");
        assert_eq!(policy.directions, directions, "{spec}");
        assert_eq!(policy.problems().len(), 1);
        assert_eq!(policy.rules(Direction::Ingress), []);
    }
}

#[test]
fn a_policy_is_kept_by_any_name_but_not_in_a_namespace_that_no_pod_is_in() {
    let named = |metadata: Value| salvaged(&json!({"metadata": metadata}));
    for (metadata, expected) in [
        (json!({"name": "Default Deny"}), "default/Default Deny"),
        (json!({"name": "a", "namespace": ""}), "default/a"),
        (json!({"name": "a", "namespace": null}), "default/a"),
        (
            json!({"name": "a", "namespace": "shop", "labels": 7}),
            "shop/a",
        ),
    ] {
        assert_eq!(named(metadata).unwrap().id.to_string(), expected);
    }
    for metadata in [
        json!(null),
        json!({"name": ""}),
        json!({"name": 7}),
        json!({"name": "a", "namespace": "Shop"}),
        json!({"name": "a", "namespace": 7}),
    ] {
        let invalid = named(metadata).unwrap_err();
        assert_eq!(invalid.to_string(), "spec: is odd");
    }
}

/// JSON of few values, under the names that these kinds have.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        (0..100).prop_map(Value::from),
        "Ingress|Egress|In|Exists|TCP|10\\.0\\.0\\.0/8|::/0|http|a||\\PC{0,6}"
            .prop_map(Value::from),
    ];
    let key = "metadata|name|namespace|labels|spec|podSelector|policyTypes|ingress|egress|from|to|\
        ports|port|endPort|protocol|ipBlock|cidr|except|namespaceSelector|matchLabels|\
        matchExpressions|key|operator|values|status|podIPs|ip|containers|containerPort|a|";
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key, inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Read as one kind, if it has the form of one.
fn read_any<T>(json: &Value) -> Option<Result<Object, Invalid>>
where
    T: serde::de::DeserializeOwned,
    Object: TryFrom<T, Error = Invalid>,
{
    let api: T = serde_json::from_value(json.clone()).ok()?;
    Some(api.try_into())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_json_panics(json in any_json(), spec in any_json(), status in any_json()) {
        use k8s_openapi::api::core::v1 as core;
        let named = json!({"metadata": {"name": "cart"}, "spec": spec, "status": status});
        for json in [&json, &named] {
            read_any::<core::Namespace>(json);
            read_any::<core::Pod>(json);
            read_any::<api::NetworkPolicy>(json);
            // A reason is there whether it could be kept or not.
            match salvaged(json) {
                Ok(policy) => prop_assert_eq!(policy.problems().len(), 1),
                Err(invalid) => prop_assert_eq!(invalid.to_string(), "spec: is odd"),
            }
        }
        prop_assert!(salvaged(&named).is_ok());
    }

    #[test]
    fn a_named_policy_is_never_lost_and_allows_nothing_that_cannot_be_read(
        rules in proptest::collection::vec(any_json(), 0..3),
    ) {
        let json = manifest(&json!({"podSelector": {"matchLabels": {"app": "cart"}},
                                    "policyTypes": ["Ingress"], "ingress": rules}));
        let policy = match read_any::<api::NetworkPolicy>(&json) {
            Some(object) => policy_of(object.unwrap()),
            None => salvaged(&json).unwrap(),
        };
        prop_assert_eq!(&policy.pod_selector, &app("cart"));
        prop_assert_eq!(policy.directions, Directions::Ingress);
        match &policy.rules {
            Rules::Readable { ingress, egress } => {
                prop_assert_eq!(ingress.len(), rules.len());
                prop_assert!(egress.is_empty());
            }
            Rules::Unreadable(problems) => prop_assert!(!problems.is_empty()),
        }
    }
}
