//! Lists, whole, selected and in pages, and single objects.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use weir_tests::fake_api::Resource;

use super::client::{client, code, pod, pods, server};

#[tokio::test]
async fn all_pages_together_are_the_list_of_one_moment() -> Result<()> {
    let api = server()?;
    api.apply((0..7).map(|index| pod(&format!("pod-{index}"), "web")))?;
    let pods = pods(&api)?;
    let mut params = ListParams::default().limit(3);
    let mut names = Vec::new();
    let mut versions = Vec::new();
    loop {
        let page = pods.list(&params).await?;
        versions.push(page.metadata.resource_version.context("a version")?);
        names.extend(page.items.iter().map(Pod::name_any));
        // Whatever happens meanwhile.
        api.apply([pod("between", "web")])?;
        api.delete(&pod("pod-6", "web"))?;
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    let expected: Vec<_> = (0..7).map(|index| format!("pod-{index}")).collect();
    assert_eq!(names, expected);
    assert_eq!(versions.len(), 3);
    assert!(versions.iter().all(|version| *version == versions[0]));
    Ok(())
}

#[tokio::test]
async fn a_page_of_a_forgotten_list_is_gone() -> Result<()> {
    let api = server()?;
    api.apply((0..4).map(|index| pod(&format!("pod-{index}"), "web")))?;
    let pods = pods(&api)?;
    let page = pods.list(&ListParams::default().limit(1)).await?;
    let token = page.metadata.continue_.context("a further page")?;
    let params = ListParams::default().limit(1).continue_token(&token);
    api.set_faults(|faults| faults.expired_pages = 1);
    assert_eq!(code(pods.list(&params).await)?, 410);
    // That was once; the list is still there.
    assert_eq!(pods.list(&params).await?.items.len(), 1);
    api.forget_history();
    assert_eq!(code(pods.list(&params).await)?, 410);
    Ok(())
}

#[tokio::test]
async fn what_is_selected_is_listed() -> Result<()> {
    let api = server()?;
    api.apply([
        pod("a", "web"),
        pod("b", "db"),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "c"}}),
    ])?;
    let pods = pods(&api)?;
    for (params, expected) in [
        (ListParams::default().labels("app=web"), &["a"][..]),
        (ListParams::default().labels("app"), &["a", "b"]),
        (ListParams::default().labels("!app"), &["c"]),
        (ListParams::default().labels("app in (db, cache)"), &["b"]),
        (ListParams::default().labels("app notin (db)"), &["a", "c"]),
        (ListParams::default().fields("metadata.name=c"), &["c"]),
        (
            ListParams::default().fields("spec.nodeName=worker-0"),
            &["a", "b"],
        ),
    ] {
        let list = pods.list(&params).await?;
        let mut names: Vec<_> = list.items.iter().map(Pod::name_any).collect();
        names.sort();
        assert_eq!(names, expected, "{params:?}");
    }
    let of_namespace: Api<Pod> = Api::namespaced(client(&api)?, "default");
    let list = of_namespace.list(&ListParams::default()).await?;
    assert_eq!(list.items.len(), 1);
    Ok(())
}

#[tokio::test]
async fn objects_are_written_over_http_too() -> Result<()> {
    let api = server()?;
    let services: Api<Service> = Api::namespaced(client(&api)?, "shop");
    let service = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {"clusterIP": "10.32.0.10", "ports": [{"port": 80}]},
    }))?;
    let params = PostParams::default();
    let made = services.create(&params, &service).await?;
    assert!(made.metadata.uid.is_some() && made.metadata.creation_timestamp.is_some());
    assert_eq!(code(services.create(&params, &service).await)?, 409);
    let patch = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    let patched = services
        .patch("web", &PatchParams::default(), &patch)
        .await?;
    assert_eq!(patched.labels()["a"], "b");
    assert_eq!(code(services.replace("web", &params, &made).await)?, 409);
    assert_eq!(api.objects_of(Resource::Services).len(), 1);
    services.delete("web", &DeleteParams::default()).await?;
    assert_eq!(code(services.get("web").await)?, 404);
    Ok(())
}

#[tokio::test]
async fn the_server_says_which_kinds_it_has() -> Result<()> {
    let api = server()?;
    let client = client(&api)?;
    assert_eq!(client.apiserver_version().await?.minor, "34");
    let groups = client.list_api_groups().await?;
    let names: Vec<_> = groups.groups.iter().map(|it| it.name.as_str()).collect();
    assert!(names.contains(&"discovery.k8s.io"), "{names:?}");
    let kinds = client
        .list_api_group_resources("networking.k8s.io/v1")
        .await?;
    assert!(kinds.resources.iter().any(|it| it.kind == "ServiceCIDR"));
    assert!(client.list_core_api_resources("v1").await?.resources.len() >= 5);
    let slices: Api<EndpointSlice> = Api::all(client);
    assert!(slices.list(&ListParams::default()).await?.items.is_empty());
    Ok(())
}
