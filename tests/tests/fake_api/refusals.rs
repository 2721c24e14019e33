//! Tokens, rights, errors, and a server that is not there.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::{NetworkPolicy, ServiceCIDR};
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use weir_tests::fake_api::{FakeApi, Options, Refusal, Resource};

use super::client::{LIMIT, client, code, pod, pods, server};

/// A client that has read the files just now.
async fn authorized(config: &std::path::Path) -> Result<Api<Pod>> {
    let config = Kubeconfig::read_from(config)?;
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(Api::all(Client::try_from(config)?))
}

#[tokio::test]
async fn a_token_is_needed_until_it_expires() -> Result<()> {
    let directory = directory("token")?;
    let api = FakeApi::start(&Options {
        is_secure: true,
        ..Options::default()
    })?;
    api.apply([pod("a", "web")])?;
    let account = api.service_account(&directory.0)?;
    let config = account.kubeconfig(&api.url())?;
    let old = authorized(&config).await?;
    assert_eq!(old.list(&ListParams::default()).await?.items.len(), 1);
    let token = api.renew_token();
    assert_eq!(code(old.list(&ListParams::default()).await)?, 401);
    let still = authorized(&config).await?;
    assert_eq!(code(still.list(&ListParams::default()).await)?, 401);
    account.set_token(&token)?;
    let new = authorized(&config).await?;
    assert_eq!(new.list(&ListParams::default()).await?.items.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_client_that_does_not_know_the_authority_does_not_talk() -> Result<()> {
    let api = FakeApi::start(&Options {
        is_secure: true,
        ..Options::default()
    })?;
    let answer = pods(&api)?.list(&ListParams::default()).await;
    assert!(matches!(answer, Err(kube::Error::Service(_))), "{answer:?}");
    assert!(api.requests().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_kind_is_forbidden_or_unknown_and_others_are_not() -> Result<()> {
    let api = server()?;
    let client = client(&api)?;
    api.set_faults(|faults| {
        faults.refused = [
            (Resource::NetworkPolicies, Refusal::Forbidden),
            (Resource::ServiceCidrs, Refusal::Unknown),
        ]
        .into();
    });
    let params = ListParams::default();
    let policies: Api<NetworkPolicy> = Api::all(client.clone());
    match policies.list(&params).await {
        Err(kube::Error::Api(status)) => {
            assert_eq!((status.code, status.reason.as_str()), (403, "Forbidden"));
            assert!(
                status.message.contains("cannot list resource"),
                "{status:?}"
            );
        }
        other => panic!("{other:?}"),
    }
    let cidrs: Api<ServiceCIDR> = Api::all(client.clone());
    assert_eq!(code(cidrs.list(&params).await)?, 404);
    let kinds = client
        .list_api_group_resources("networking.k8s.io/v1")
        .await?;
    let kinds: Vec<_> = kinds.resources.iter().map(|it| it.kind.as_str()).collect();
    assert_eq!(kinds, ["NetworkPolicy"]);
    pods(&api)?.list(&params).await?;
    Ok(())
}

#[tokio::test]
async fn errors_are_as_many_as_was_said() -> Result<()> {
    let api = server()?;
    let pods = pods(&api)?;
    let params = ListParams::default();
    api.set_faults(|faults| faults.errors = 1.0);
    assert_eq!(code(pods.list(&params).await)?, 500);
    api.set_faults(|faults| {
        faults.errors = 0.0;
        faults.slowness = Some(Duration::from_millis(20)..Duration::from_millis(21));
    });
    let start = Instant::now();
    pods.list(&params).await?;
    assert!(start.elapsed() >= Duration::from_millis(20));
    assert_eq!(api.count("list", Resource::Pods), 2);
    Ok(())
}

#[tokio::test]
async fn too_many_requests_say_when_to_come_back() -> Result<()> {
    let api = server()?;
    api.set_faults(|faults| {
        faults.too_many = 1;
        faults.retry_after = 7;
    });
    let request = http_get(&api, "/api/v1/pods").await?;
    ensure!(request.starts_with("HTTP/1.1 429 "), "{request}");
    ensure!(request.contains("retry-after: 7"), "{request}");
    ensure!(request.contains(r#""retryAfterSeconds":7"#), "{request}");
    let request = http_get(&api, "/api/v1/pods").await?;
    ensure!(request.starts_with("HTTP/1.1 200 "), "{request}");
    Ok(())
}

/// As a client asks that has no opinion of its own about errors.
async fn http_get(api: &FakeApi, path: &str) -> Result<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(api.address()).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: fake\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    let read = stream.read_to_string(&mut text);
    tokio::time::timeout(LIMIT, read)
        .await
        .context("an answer")??;
    Ok(text)
}

#[tokio::test]
async fn a_server_that_left_refuses_and_comes_back_to_the_same_address() -> Result<()> {
    let api = server()?;
    let pods = pods(&api)?;
    let params = ListParams::default();
    pods.list(&params).await?;
    for name in ["a", "b"] {
        api.leave()?;
        let refused = tokio::net::TcpStream::connect(api.address()).await;
        let kind = refused.map_err(|error| error.kind()).map(drop);
        assert_eq!(kind, Err(std::io::ErrorKind::ConnectionRefused));
        assert!(pods.list(&params).await.is_err());
        api.apply([pod(name, "web")])?;
        api.come_back()?;
        let list = pods.list(&params).await?;
        assert!(
            list.items
                .iter()
                .any(|it| it.metadata.name.as_deref() == Some(name))
        );
    }
    Ok(())
}

/// A directory that goes when it is dropped.
struct Directory(std::path::PathBuf);

fn directory(name: &str) -> Result<Directory> {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = path.join(format!("fake-api-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path)?;
    Ok(Directory(path))
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What remains is in the build's own directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
