use std::{net::SocketAddr, num::NonZeroU16};

use tokio::time::timeout;
use weir_ebpf::addr::Addr;
use weir_ebpf::tables::Pod;

use super::*;
use crate::compile::{PolicyOptions, Reason, Skipped, Table};
use crate::kube_proxy::CleanUp;
use crate::model::Kind;
use crate::{
    compile::testing::service_ref,
    config::TcAttach,
    observe::testing::{PATIENCE, Page, get},
};

fn config() -> Config {
    Config {
        manifests: Some("/nowhere".into()),
        api_server: None,
        node_name: "worker-0".to_owned(),
        cgroup_root: "/nowhere".into(),
        netns_dir: "/nowhere".into(),
        cni_results_dir: "/nowhere".into(),
        policy: PolicyOptions::default(),
        bpffs: "/nowhere".into(),
        run_dir: "/nowhere".into(),
        nodeport_addresses: NodePortAddresses::Primary,
        service_node_ports: 30_000..=32_767,
        service_cidrs: Vec::new(),
        tc: TcAttach::Auto,
        max_frontends: 1,
        max_backends: 1,
        max_flows: 128,
        resync: Duration::from_secs(60),
        healthz_bind_address: Some((Ipv4Addr::LOCALHOST, 0).into()),
        metrics_bind_address: Some((Ipv4Addr::LOCALHOST, 0).into()),
        cleanup_kube_proxy: CleanUp::Off,
        fast_path: crate::fast_path::Choice::Auto,
        flags: BTreeMap::from([("node-name".to_owned(), "worker-0".to_owned())]),
    }
}

/// A surface, and where it answers.
struct World {
    surface: Surface,
    at: BTreeMap<Purpose, SocketAddr>,
}

impl World {
    async fn open() -> Self {
        let mut world = Self {
            surface: Surface::open(&config()),
            at: BTreeMap::new(),
        };
        world.wait(|at| at.len() == 2).await;
        world
    }

    async fn wait(&mut self, condition: impl Fn(&BTreeMap<Purpose, SocketAddr>) -> bool) {
        timeout(PATIENCE, async {
            while !condition(&self.at) {
                let listening = self.surface.listeners_changed().await;
                self.at = listening
                    .into_iter()
                    .filter_map(|(listener, outcome)| Some((listener.purpose, outcome.ok()?)))
                    .collect();
            }
        })
        .await
        .unwrap();
    }

    async fn get(&self, purpose: Purpose, path: &str) -> Page {
        get(self.at[&purpose], path).await
    }

    async fn check(&self) -> Page {
        self.get(Purpose::HealthCheck(service_ref("web")), "/any")
            .await
    }

    fn synchronise(&mut self, checks: &[(&str, usize)]) {
        let checks = checks
            .iter()
            .map(|&(name, local_endpoints)| {
                let check = HealthCheck {
                    // Any that is free would be 0, which a service cannot have.
                    port: free_port(),
                    local_endpoints,
                };
                (service_ref(name), check)
            })
            .collect();
        self.synchronise_with(&checks, &Compiled::Everything);
    }

    fn synchronise_with(&mut self, checks: &Checks, extent: &Compiled) {
        let contents = Contents {
            node_port_addrs: BTreeSet::from([Addr::from(Ipv4Addr::LOCALHOST)]),
            pods: BTreeMap::from([(5, Pod::default()), (6, Pod::default())]),
            ..Contents::default()
        };
        let desired = Desired {
            contents,
            health_checks: checks.clone(),
            skipped: vec![Skipped {
                object: ObjectRef::new(Kind::Service, "shop", "web"),
                part: None,
                reason: Reason::NoRoom {
                    table: Table::Frontends,
                    capacity: 1,
                },
            }],
            ..Desired::default()
        };
        self.surface.synchronised(Synchronised {
            desired: &desired,
            extent,
            writes: 3,
            interfaces: [2, 1],
        });
    }
}

fn free_port() -> NonZeroU16 {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    NonZeroU16::new(listener.local_addr().unwrap().port()).unwrap()
}

#[tokio::test]
async fn health_is_told_as_json_that_nobody_guesses_at() {
    let world = World::open().await;
    for path in ["/healthz", "/livez"] {
        let page = world.get(Purpose::Health, path).await;
        assert_eq!(page.status, 200);
        assert_eq!(page.header("Content-Type"), Some("application/json"));
        assert_eq!(page.header("X-Content-Type-Options"), Some("nosniff"));
        let body: serde_json::Value = serde_json::from_str(&page.body).unwrap();
        assert_eq!(body["healthy"], true);
        assert_eq!(body["nodeEligible"] == true, path == "/healthz");
        assert_eq!(body["lastUpdated"], body["currentTime"]);
    }
    assert_eq!(world.get(Purpose::Health, "/metrics").await.status, 404);

    world.surface.see_node(Some(&Node {
        is_being_deleted: true,
        ..Node::default()
    }));
    assert_eq!(world.get(Purpose::Health, "/healthz").await.status, 503);
    assert_eq!(world.get(Purpose::Health, "/livez").await.status, 200);
    let metrics = world.get(Purpose::Metrics, "/metrics").await.body;
    for sample in [
        "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
        "kubeproxy_proxy_healthz_total{code=\"503\"} 1",
        "kubeproxy_proxy_livez_total{code=\"200\"} 2",
    ] {
        assert!(metrics.contains(sample), "{sample}\n{metrics}");
    }
}

#[tokio::test]
async fn the_port_of_metrics_has_kube_proxys_paths() {
    let mut world = World::open().await;
    world.synchronise(&[]);
    for (path, content_type, body) in [
        ("/proxyMode", PLAIN_TEXT, "ebpf"),
        ("/healthz", PLAIN_TEXT, "ok"),
        ("/configz", JSON, "{\"weir\":{\"node-name\":\"worker-0\"}}"),
    ] {
        let page = world.get(Purpose::Metrics, path).await;
        assert_eq!((page.status, page.body.as_str()), (200, body), "{path}");
        assert_eq!(page.header("Content-Type"), Some(content_type), "{path}");
    }
    let page = world.get(Purpose::Metrics, "/metrics").await;
    assert_eq!(page.header("Content-Type"), Some(metrics::CONTENT_TYPE));
    for sample in [
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"}",
        "weir_table_entries{table=\"FRONTENDS\"} 0",
        "weir_table_writes_total 3",
        "weir_attached_interfaces{role=\"network\"} 1",
        "weir_attached_interfaces{role=\"pod\"} 2",
        "weir_pod_interfaces{state=\"unknown\"} 2",
        "weir_pod_interfaces{state=\"programmed\"} 0",
        "weir_skipped_entries 1",
    ] {
        assert!(page.body.contains(sample), "{sample}\n{}", page.body);
    }
    assert_eq!(world.get(Purpose::Metrics, "/").await.status, 404);
}

#[tokio::test]
async fn a_load_balancer_learns_how_many_endpoints_the_node_has() {
    let mut world = World::open().await;
    world.synchronise(&[("web", 2)]);
    world.wait(|at| at.len() == 3).await;
    let page = world.check().await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("X-Load-Balancing-Endpoint-Weight"), Some("2"));
    assert_eq!(page.header("X-Content-Type-Options"), Some("nosniff"));
    assert_eq!(page.header("Content-Type"), Some("application/json"));
    assert_eq!(
        page.body,
        "{\n\t\"service\": {\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"web\"\n\t},\n\
         \t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}"
    );

    // The count changes and the port stays.
    let port = world.at[&Purpose::HealthCheck(service_ref("web"))].port();
    let check = |local_endpoints| {
        let check = HealthCheck {
            port: NonZeroU16::new(port).unwrap(),
            local_endpoints,
        };
        BTreeMap::from([(service_ref("web"), check)])
    };
    world.synchronise_with(&check(0), &Compiled::Everything);
    let page = world.check().await;
    assert_eq!(page.status, 503);
    assert_eq!(page.header("X-Load-Balancing-Endpoint-Weight"), Some("0"));

    // A node that is about to go still says what it has: that is /healthz' business.
    let endpoints = Compiled::Parts {
        services: BTreeSet::from([service_ref("web"), service_ref("other")]),
        numbers: BTreeSet::from([1]),
        frontends: None,
        policies: false,
    };
    world.synchronise_with(&check(1), &endpoints);
    world.surface.see_node(Some(&Node {
        is_being_deleted: true,
        ..Node::default()
    }));
    assert_eq!(world.check().await.status, 200);

    world.synchronise(&[]);
    world.wait(|at| at.len() == 2).await;
}

#[test]
fn load_balancers_ask_where_node_ports_are_served() {
    let addrs =
        ["10.240.0.11", "fd00:10:240::11", "fe80::1"].map(|addr| addr.parse::<IpAddr>().unwrap());
    let contents = Contents {
        node_port_addrs: addrs.into_iter().map(Addr::from).collect(),
        ..Contents::default()
    };
    assert_eq!(
        check_addresses(&contents),
        BTreeSet::from([addrs[0], addrs[1]])
    );
}

#[test]
fn an_unhealthy_proxy_has_endpoints_and_no_health() {
    let response = answer_check(&service_ref("web"), 3, false);
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["x-load-balancing-endpoint-weight"], "3");
}
