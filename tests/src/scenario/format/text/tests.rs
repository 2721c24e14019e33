//! What is impossible in a step is named, with its line.

use super::super::Scenario;

fn complaint(step: &str) -> String {
    let text = format!("name: a step\nsteps:\n  - {step}\n");
    match serde_saphyr::from_str::<Scenario>(&text) {
        Ok(scenario) => panic!("{step} was read as {scenario:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_is_impossible_is_named_with_its_line() {
    let packet = "\"udp 10.200.0.9:1 > 10.32.0.10:53\"";
    let ask = "\"10.200.0.9 > 10.32.0.10:53\"";
    let two = "[\"10.200.0.2:1\", \"10.200.0.3:1\"]";
    for (step, expected) in [
        ("{}".to_owned(), "a step is exactly one of send"),
        ("{advance: 1s, delete: [Node a]}".to_owned(), "exactly one"),
        (
            "{advance: 1s, expect: {verdict: pass}}".to_owned(),
            "belong to a packet",
        ),
        (
            "{advance: soon}".to_owned(),
            "\"soon\" is not a number of seconds",
        ),
        (
            "{send: {hook: to_pod, packet: arp}}".to_owned(),
            "needs `expect`",
        ),
        (
            "{send: {packet: arp}, expect: {verdict: pass}}".to_owned(),
            "to a `hook` or comes `from`",
        ),
        (
            "{send: {from: nowhere, packet: arp}, expect: {verdict: pass}}".to_owned(),
            "\"nowhere\" is not `NAMESPACE/NAME`",
        ),
        (
            "{send: {hook: to_network, pod: shop/cart, packet: arp}, expect: {verdict: pass}}"
                .to_owned(),
            "`pod` belongs to",
        ),
        (
            "{send: {hook: uplink, packet: arp}, expect: {verdict: pass}}".to_owned(),
            "uplink",
        ),
        (
            "{send: {hook: to_pod, packet: arp, speed: 1}, expect: {verdict: pass}}".to_owned(),
            "speed",
        ),
        (
            format!("{{send: {{hook: to_pod, packet: {packet}}}, expect: {{verdict: drop}}}}"),
            "`reason` is one of malformed",
        ),
        (
            format!("{{send: {{hook: to_pod, packet: {packet}}}, expect: {{verdict: translate}}}}"),
            "`translate` needs one of",
        ),
        (
            "{advance: 1s, expect: refused}".to_owned(),
            "belong to a packet",
        ),
        (
            "{send: {hook: to_pod, packet: arp}, expect: silence}".to_owned(),
            "has a verdict",
        ),
        (
            "{send: {hook: to_pod, packet: arp}, expect: bliss}".to_owned(),
            "bliss",
        ),
        (
            "{send: {hook: to_pod, packet: arp}, expect: {served_by: [\"1.2.3.4:5\"]}}".to_owned(),
            "belong to a talk",
        ),
        (
            "{talk: {}, expect: refused}".to_owned(),
            "exactly one of tcp, udp",
        ),
        (
            format!("{{talk: {{tcp: {ask}}}, expect: {{verdict: pass}}}}"),
            "no verdict",
        ),
        (
            format!("{{talk: {{tcp: {ask}}}, expect: {{client_seen_as: node}}}}"),
            "or who answers",
        ),
        (
            format!("{{talk: {{tcp: {ask}}}, expect: {{reaches: {two}}}}}"),
            "2 servers cannot be reached with 1 questions",
        ),
        (
            format!("{{talk: {{tcp: {ask}, by: node, via: packet}}, expect: refused}}"),
            "only its calls",
        ),
        (
            format!("{{talk: {{udp: {ask}, socket: unconnected}}, expect: refused}}"),
            "not told of an ICMP error",
        ),
        (
            "{talk: {udp: \"10.200.0.9 > [::ffff:10.32.0.10]:53\"}, expect: silence}".to_owned(),
            "of two families",
        ),
        (
            "{send: {hook: to_pod, packet: reply to a}, expect: {verdict: pass}}".to_owned(),
            "expected `reply of NAME`",
        ),
    ] {
        let error = complaint(&step);
        assert!(error.contains(expected), "{step}: {error}");
        assert!(error.contains("line 3"), "{step}: {error}");
    }
}
