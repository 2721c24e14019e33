//! Kinds that are forbidden or not known, tokens that expire, and what the agent asks for at all.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weir_agent::model::Kind;
use weir_agent::observe::status::SourceState;
use weir_tests::fake_api::{Cut, FakeApi, Options, Refusal, Resource};

use super::listener::{Listener, NODE};

pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

pub fn service(name: &str, number: usize) -> Value {
    let ip = format!("10.32.{}.{}", number / 250, 1 + number % 250);
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80}]},
    })
}

#[tokio::test]
async fn nothing_is_ready_while_services_cannot_be_listed() -> Result<()> {
    let api = FakeApi::start(&Options::default())?;
    api.apply([service("web", 1), namespace("shop")])?;
    api.set_faults(|faults| {
        faults.refused = [(Resource::Services, Refusal::Forbidden)].into();
    });
    let mut listener = Listener::start(&api, "services", &[], 5)?;
    for kind in Kind::ALL {
        if ![Kind::Service, Kind::Endpoints].contains(&kind) {
            listener.wait_state(kind, SourceState::Synced).await?;
        }
    }
    // Refused often enough to be meant.
    listener
        .wait_kind(Kind::Service, |it| it.state == SourceState::Forbidden)
        .await?;
    while api.count("watch", Resource::Services) + api.count("list", Resource::Services) < 4 {
        ensure!(!listener.is_ready());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    ensure!(!listener.is_ready());
    api.set_no_faults();
    listener.wait_same(&api).await
}

#[tokio::test]
async fn a_kind_that_is_forbidden_or_unknown_is_named_and_the_rest_works() -> Result<()> {
    let api = FakeApi::start(&Options::default())?;
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "deny", "namespace": "shop"}, "spec": {"podSelector": {}},
    });
    api.apply([service("web", 1), namespace("shop")])?;
    api.set_faults(|faults| {
        faults.refused = [
            (Resource::NetworkPolicies, Refusal::Forbidden),
            (Resource::ServiceCidrs, Refusal::Unknown),
        ]
        .into();
    });
    let mut listener = Listener::start(&api, "forbidden", &[], 5)?;
    listener.wait_same(&api).await?;
    listener
        .wait_kind(Kind::NetworkPolicy, |source| {
            let error = source.error.as_deref().unwrap_or_default();
            source.state == SourceState::Forbidden
                && error.contains("networkpolicies.networking.k8s.io")
                && error.contains("ClusterRole")
        })
        .await?;
    listener
        .wait_state(Kind::ServiceCidr, SourceState::Absent)
        .await?;
    // Allowed at last, and forbidden again: what was known stays.
    api.set_no_faults();
    api.apply([policy])?;
    listener.wait_same(&api).await?;
    api.set_faults(|faults| {
        faults.refused = [(Resource::NetworkPolicies, Refusal::Forbidden)].into();
    });
    api.cut_watches(Cut::Reset);
    listener
        .wait_state(Kind::NetworkPolicy, SourceState::Forbidden)
        .await?;
    listener.wait_same(&api).await
}

#[tokio::test]
async fn where_slices_are_unknown_endpoints_take_their_place() -> Result<()> {
    let api = FakeApi::start(&Options::default())?;
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "web", "namespace": "shop"},
        "subsets": [{"addresses": [{"ip": "10.200.0.2"}], "ports": [{"port": 8080}]}],
    });
    api.apply([service("web", 1), endpoints])?;
    api.set_faults(|faults| {
        faults.refused = [(Resource::EndpointSlices, Refusal::Unknown)].into();
    });
    let mut listener = Listener::start(&api, "endpoints", &[], 5)?;
    listener
        .wait("the endpoints", |cluster| cluster.endpoints().count() == 1)
        .await?;
    listener.wait_ready().await
}

#[tokio::test]
async fn a_token_that_expired_is_read_again() -> Result<()> {
    let api = FakeApi::start(&Options {
        is_secure: true,
        ..Options::default()
    })?;
    let always = [service("web", 1)];
    api.apply(always.clone())?;
    let mut listener = Listener::start(&api, "token", &always, 5)?;
    listener.wait_same(&api).await?;
    let token = api.renew_token();
    api.apply([namespace("shop")])?;
    api.cut_watches(Cut::Close);
    listener
        .wait_kind(Kind::Service, |source| {
            let error = source.error.as_deref().unwrap_or_default();
            source.state == SourceState::Failing && error.contains("credentials")
        })
        .await?;
    listener.account.set_token(&token)?;
    listener.wait_same(&api).await?;
    listener
        .wait_state(Kind::Service, SourceState::Synced)
        .await
}

#[tokio::test]
async fn it_asks_for_no_more_than_it_needs() -> Result<()> {
    let api = FakeApi::start(&Options::default())?;
    let mut other = service("other", 2);
    other["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
    let node = |name: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    api.apply([service("web", 1), other, node(NODE), node("another")])?;
    let mut listener = Listener::start(&api, "asks", &[], 5)?;
    listener.wait_same(&api).await?;
    let requests = api.requests();
    let verbs: BTreeSet<_> = requests.iter().map(|it| it.verb).collect();
    ensure!(
        verbs.iter().all(|verb| ["list", "watch"].contains(verb)),
        "{verbs:?}"
    );
    for (resource, selector) in [
        (
            Resource::Services,
            "labelSelector=%21service.kubernetes.io%2Fservice-proxy-name",
        ),
        (
            Resource::EndpointSlices,
            "labelSelector=%21service.kubernetes.io%2Fheadless",
        ),
        (Resource::Nodes, "fieldSelector=metadata.name%3Dworker-0"),
    ] {
        let mut asked = requests.iter().filter(|it| it.resource == Some(resource));
        ensure!(
            asked.all(|it| it.uri.contains(selector)),
            "{resource:?}: {requests:#?}"
        );
    }
    ensure!(api.count("watch", Resource::Endpoints) == 0);
    let lines = [
        r#"weir_source_connected{kind="Service"} 1"#,
        r#"weir_source_objects{kind="Service"} 1"#,
    ];
    let page = listener.wait_page(&lines).await?;
    ensure!(page.contains("rest_client_requests_total{"), "{page}");
    Ok(())
}
