//! Records as libcni writes them: in one line, keys in the order of its struct, those of the
//! result in alphabetical order, because it is a map.

use proptest::prelude::*;

use super::*;

/// `bridge` and `host-local` of CNI 1.0.0, called by containerd.
const BRIDGE: &str = r#"{"kind":"cniCacheV1","containerId":"5b8b4d8f4c9b7f2d","config":"ewogICJjbmlWZXJzaW9uIjogIjEuMC4wIiwKICAibmFtZSI6ICJwb2RzIgp9Cg==","ifName":"eth0","networkName":"pods","netns":"/var/run/netns/cni-7d9c2b1e-0d7a-4c55-b1d6-3a3c5b1f7a01","cniArgs":[["IgnoreUnknown","1"],["K8S_POD_NAMESPACE","shop"],["K8S_POD_NAME","cart-5d4f8c7b9-x2x7q"],["K8S_POD_INFRA_CONTAINER_ID","5b8b4d8f4c9b7f2d"],["K8S_POD_UID","0f2a7c1e-6f0b-4f6e-9a51-6b9d0a5d1c11"]],"capabilityArgs":{"dns":{"Servers":["10.32.0.10"]},"io.kubernetes.cri.pod-annotations":{"a":"b"}},"result":{"cniVersion":"1.0.0","dns":{},"interfaces":[{"mac":"52:e5:a5:4f:2c:60","name":"cni0"},{"mac":"5e:1c:5f:0a:8e:63","name":"veth2f1d6a3b"},{"mac":"7a:10:94:a4:ac:0b","name":"eth0","sandbox":"/var/run/netns/cni-7d9c2b1e-0d7a-4c55-b1d6-3a3c5b1f7a01"}],"ips":[{"address":"10.200.0.7/24","gateway":"10.200.0.1","interface":2},{"address":"fd00:10:200::7/64","gateway":"fd00:10:200::1","interface":2}],"routes":[{"dst":"0.0.0.0/0"}]}}"#;

/// The record of the loopback beside it.
const LO: &str = r#"{"kind":"cniCacheV1","containerId":"5b8b4d8f4c9b7f2d","config":"e30=","ifName":"lo","networkName":"cni-loopback","netns":"/var/run/netns/cni-7d9c2b1e-0d7a-4c55-b1d6-3a3c5b1f7a01","cniArgs":[["K8S_POD_NAMESPACE","shop"],["K8S_POD_NAME","cart"]],"result":{"cniVersion":"1.0.0","dns":{},"interfaces":[{"mac":"00:00:00:00:00:00","name":"lo","sandbox":"/var/run/netns/cni-7d9c2b1e-0d7a-4c55-b1d6-3a3c5b1f7a01"}],"ips":[{"address":"127.0.0.1/8","interface":0},{"address":"::1/128","interface":0}]}}"#;

/// A record of a pod whose plugins answered so.
fn record(netns: &str, result: &str) -> Record {
    let text = format!(
        r#"{{"kind":"cniCacheV1","containerId":"c","config":"e30=","ifName":"eth0","networkName":"n",{netns}"cniArgs":[["K8S_POD_NAMESPACE","shop"],["K8S_POD_NAME","cart"]],"result":{result}}}"#
    );
    parse(&text).unwrap().unwrap()
}

fn set(addrs: &[&str]) -> BTreeSet<IpAddr> {
    addrs.iter().map(|addr| addr.parse().unwrap()).collect()
}

#[test]
fn a_record_names_the_pod_its_namespace_its_addresses_and_what_is_outside() {
    let expected = Record {
        pod: PodRef {
            namespace: "shop".to_owned(),
            name: "cart-5d4f8c7b9-x2x7q".to_owned(),
        },
        uid: "0f2a7c1e-6f0b-4f6e-9a51-6b9d0a5d1c11".to_owned(),
        sandbox: Some("/var/run/netns/cni-7d9c2b1e-0d7a-4c55-b1d6-3a3c5b1f7a01".to_owned()),
        outside: ["cni0", "veth2f1d6a3b"].map(ToOwned::to_owned).into(),
        addrs: set(&["10.200.0.7", "fd00:10:200::7"]),
    };
    assert_eq!(parse(BRIDGE), Ok(Some(expected)));
}

#[test]
fn the_loopback_and_what_is_no_pods_are_nothing() {
    assert_eq!(parse(LO), Ok(None));
    let nobodys = BRIDGE.replace("K8S_POD_NAME\"", "OTHER\"");
    assert_eq!(parse(&nobodys), Ok(None));
    let without =
        r#"{"kind":"cniCacheV1","containerId":"c","config":"","ifName":"eth0","networkName":"n"}"#;
    assert_eq!(parse(without), Ok(None));
}

#[test]
fn each_version_of_the_specification_tells_addresses_in_its_own_way() {
    let ptp = r#"{"cniVersion":"1.1.0","interfaces":[{"name":"veth7","mac":"a","mtu":1500},{"name":"eth0","mac":"b","mtu":1500,"sandbox":"/run/netns/a"}],"ips":[{"interface":1,"address":"10.200.0.7/24","gateway":"10.200.0.1"}],"routes":null}"#;
    let older = r#"{"cniVersion":"0.3.1","interfaces":[{"name":"veth7"},{"name":"eth0","sandbox":"/run/netns/a"}],"ips":[{"version":"4","interface":1,"address":"10.200.0.7/24"}],"dns":{}}"#;
    let oldest = r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.200.0.7/24","gateway":"10.200.0.1","routes":[{"dst":"0.0.0.0/0"}]},"dns":{}}"#;
    let newer_v6 = r#"{"cniVersion":"0.2.0","ip6":{"ip":"fd00:10:200::7/64"}}"#;
    for (result, sandbox, outside, addrs) in [
        (ptp, Some("/run/netns/a"), vec!["veth7"], "10.200.0.7"),
        (older, Some("/run/netns/a"), vec!["veth7"], "10.200.0.7"),
        (oldest, None, vec![], "10.200.0.7"),
        (newer_v6, None, vec![], "fd00:10:200::7"),
    ] {
        let record = record("", result);
        assert_eq!(record.sandbox.as_deref(), sandbox, "{result}");
        assert_eq!(record.outside, outside, "{result}");
        assert_eq!(record.addrs, set(&[addrs]), "{result}");
        assert_eq!(record.uid, "");
    }
    // The record's own word for the namespace comes first.
    let record = record(r#""netns":"/run/netns/b","#, ptp);
    assert_eq!(record.sandbox.as_deref(), Some("/run/netns/b"));
}

#[test]
fn an_address_without_an_interface_is_the_pods_and_one_outside_is_not() {
    let result = r#"{"interfaces":[{"name":"cni0","sandbox":""},{"name":"eth0","sandbox":"/run/netns/a"}],"ips":[{"address":"10.200.0.7/32"},{"interface":0,"address":"10.200.0.1/24"},{"interface":9,"address":"10.200.0.8/32"}]}"#;
    let record = record("", result);
    assert_eq!(record.addrs, set(&["10.200.0.7", "10.200.0.8"]));
    assert_eq!(record.outside, ["cni0"]);
}

#[test]
fn what_is_wrong_is_named_by_its_field() {
    for (from, to, expected) in [
        (
            "cniCacheV1",
            "cniCacheV2",
            "kind: \"cniCacheV2\" is not cniCacheV1",
        ),
        (
            "10.200.0.7/24",
            "10.200.0.7/24/1",
            "result.ips[0].address: \"10.200.0.7/24/1\" is not ADDRESS/LENGTH",
        ),
        ("\"shop\"", "\"Shop\"", "cniArgs[1][1]: "),
        ("\"cart-5d4f8c7b9-x2x7q\"", "\"\"", "cniArgs[2][1]: "),
        (
            "\"ips\":[",
            "\"ips\":7,\"x\":[",
            "result.ips: invalid type: integer `7`",
        ),
        (
            "\"ifName\":\"eth0\"",
            "\"ifName\":{}",
            "ifName: invalid type: map",
        ),
    ] {
        assert!(BRIDGE.contains(from), "{from}");
        let error = parse(&BRIDGE.replacen(from, to, 1))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    assert!(parse("").is_err());
    assert!(parse(&format!("{BRIDGE}}}")).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_record_cut_short_is_never_read(length in 0..BRIDGE.len()) {
        prop_assert!(parse(&BRIDGE[..length]).is_err());
    }

    #[test]
    fn no_text_panics(text in "(\\PC|\\{|\\}|\\[|\"kind\":|\"cniCacheV1\"|\"ifName\":|,){0,40}") {
        parse(&text).ok();
    }
}
