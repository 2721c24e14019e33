use weir_ebpf::addr::Port;

use super::*;
use crate::listing::testing::{World, socket};

fn world() -> World {
    World::default()
        .service(
            3,
            "default/web:http",
            "10.32.0.140:80",
            &["10.200.0.2:8080", "10.200.1.2:8080"],
        )
        .service(9, "default/web:http", "[fd00::8c]:80", &["[fd01::2]:8080"])
        .service(4, "default/web:metrics", "10.32.0.140:9090", &[])
}

#[test]
fn both_families_of_a_service_port_are_one_row() {
    let ports = service_ports(&world().contents);
    let texts: Vec<_> = ports.iter().map(ServicePort::port_text).collect();
    assert_eq!(texts, ["http 80/TCP", "metrics 9090/TCP"]);
    let families: Vec<_> = ports[0]
        .families
        .iter()
        .map(|part| (part.family, part.number, part.backends.len(), part.refuses))
        .collect();
    assert_eq!(families, [("IPv4", 3, 2, false), ("IPv6", 9, 1, false)]);
    assert_eq!(ports[0].families[0].addresses, [socket("10.32.0.140:80")]);
    assert_eq!(
        ports[0].families[0].backends[1],
        Slot {
            slot: 1,
            address: socket("10.200.1.2:8080"),
            local: false,
        }
    );
    assert!(ports[1].families[0].refuses);
}

#[test]
fn a_slot_behind_the_count_is_no_backend() {
    let mut contents = world().contents;
    contents.services.get_mut(&3).unwrap().backend_count = 1;
    let ports = service_ports(&contents);
    assert_eq!(ports[0].families[0].backends.len(), 1);
}

#[test]
fn a_change_that_was_begun_is_shown_and_is_no_part_of_the_revision() {
    let mut contents = world().contents;
    contents.services.get_mut(&3).unwrap().revision = 7 | UNSETTLED;
    let part = &service_ports(&contents)[0].families[0];
    assert_eq!((part.revision, part.changing), (7, true));
}

#[test]
fn a_frontend_whose_number_has_no_name_is_shown() {
    let mut contents = world().contents;
    contents.service_names.remove(&3);
    let ports = service_ports(&contents);
    assert_eq!(
        (&*ports[0].namespace, &*ports[0].name, ports[0].port),
        ("", "", 80)
    );
    assert_eq!(ports[0].families[0].number, 3);
    assert_eq!(ports[0].families[0].backends.len(), 2);
}

#[test]
fn several_addresses_of_a_number_stand_in_order_and_keep_their_ports() {
    let world = world()
        .frontend("10.240.0.1:30080", 3)
        .frontend("9.0.0.1:80", 3);
    let addresses = service_ports(&world.contents)[0].families[0]
        .addresses
        .clone();
    let texts: Vec<_> = addresses.iter().map(|at| short_address(*at, 80)).collect();
    assert_eq!(texts, ["9.0.0.1", "10.32.0.140", "10.240.0.1:30080"]);
}

#[test]
fn a_number_that_stands_at_another_address_now_has_no_name_there() {
    let contents = world().contents;
    let key = |text| {
        let at = socket(text);
        FrontendKey::new(at.ip().into(), Port::new(at.port()), Protocol::TCP)
    };
    let name = name_at(&contents, &key("10.32.0.140:80"), 3);
    assert_eq!(name.map(|name| name.family), Some(4));
    assert_eq!(name_at(&contents, &key("10.32.0.140:80"), 4), None);
    assert_eq!(name_at(&contents, &key("10.32.0.99:80"), 3), None);
}

#[test]
fn a_service_reached_from_outside_shows_who_answers_whom() {
    use weir_ebpf::tables::SourceRange;

    let mut contents = world()
        .frontend("0.0.0.0:30080", 3)
        .frontend("203.0.113.8:80", 3)
        .contents;
    let mut local = contents.service_names[&3];
    local.set = EndpointSet::LOCAL;
    contents.service_names.insert(5, local);
    contents.services.insert(
        5,
        weir_ebpf::tables::Service {
            revision: 1,
            flags: ServiceFlags::DROPS_WITHOUT_BACKEND,
            affinity_timeout: 600,
            ..Default::default()
        },
    );
    for (key, frontend) in &mut contents.frontends {
        match endpoint(key.addr, key.port).to_string().as_str() {
            "10.32.0.140:80" => frontend.flags = FrontendFlags::MASQUERADE_OUTSIDE,
            "0.0.0.0:30080" => frontend.from_outside = 5,
            "203.0.113.8:80" => {
                frontend.from_outside = 5;
                frontend.flags = FrontendFlags::SOURCE_RANGES;
            }
            _ => {}
        }
    }
    contents.source_ranges.insert(SourceRange {
        prefix_len: 32 + 96 + 24,
        service: 3,
        addr: socket("203.0.113.0:0").ip().into(),
    });
    for addr in ["10.240.0.11:0", "[fd00::11]:0"] {
        contents.node_port_addrs.insert(socket(addr).ip().into());
    }

    let port = &service_ports(&contents)[0];
    assert_eq!(port.internal_traffic_policy, Some("Cluster"));
    assert_eq!(port.external_traffic_policy, Some("Local"));
    assert_eq!(port.affinity_seconds, Some(600));
    assert_eq!(
        serde_json::to_value(&port.addresses[..3]).unwrap(),
        serde_json::json!([
            {"kind": "clusterIP", "address": "10.32.0.140:80", "number": 3, "outsideNumber": 3,
             "masquerade": "outside", "sourceRanges": null},
            {"kind": "nodePort", "address": "0.0.0.0:30080", "number": 3, "outsideNumber": 5,
             "nodeAddresses": ["10.240.0.11"], "masquerade": "nobody", "sourceRanges": null},
            {"kind": "external", "address": "203.0.113.8:80", "number": 3, "outsideNumber": 5,
             "masquerade": "nobody", "sourceRanges": ["203.0.113.0/24"]},
        ])
    );
    let parts: Vec<_> = port
        .families
        .iter()
        .map(|part| (part.number, part.traffic_policy, part.refuses, part.drops))
        .collect();
    assert_eq!(
        parts,
        [
            (3, "Cluster", false, false),
            (5, "Local", false, true),
            (9, "Cluster", false, false)
        ]
    );
    assert_eq!(
        port.families[1].addresses,
        [socket("0.0.0.0:30080"), socket("203.0.113.8:80")]
    );
}

#[test]
fn the_names_of_the_fields_are_stable() {
    let json = serde_json::to_value(&service_ports(&world().contents)[0]).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "namespace": "default", "name": "web", "portName": "http", "port": 80, "protocol": "TCP",
            "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": null,
            "affinitySeconds": null,
            "addresses": [
                {"kind": "clusterIP", "address": "10.32.0.140:80", "number": 3,
                 "outsideNumber": 3, "masquerade": "outside", "sourceRanges": null},
                {"kind": "clusterIP", "address": "[fd00::8c]:80", "number": 9,
                 "outsideNumber": 9, "masquerade": "outside", "sourceRanges": null},
            ],
            "families": [
                {"family": "IPv4", "trafficPolicy": "Cluster", "number": 3, "revision": 1,
                 "changing": false, "refuses": false, "drops": false,
                 "addresses": ["10.32.0.140:80"],
                 "backends": [{"slot": 0, "address": "10.200.0.2:8080", "local": false},
                              {"slot": 1, "address": "10.200.1.2:8080", "local": false}]},
                {"family": "IPv6", "trafficPolicy": "Cluster", "number": 9, "revision": 1,
                 "changing": false, "refuses": false, "drops": false,
                 "addresses": ["[fd00::8c]:80"],
                 "backends": [{"slot": 0, "address": "[fd01::2]:8080", "local": false}]},
            ],
        })
    );
}
