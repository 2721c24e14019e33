//! A server that goes, falls silent or forgets, and objects that cannot be read.

use anyhow::{Result, ensure};
use serde_json::json;
use weir_agent::model::Kind;
use weir_agent::observe::status::SourceState;
use weir_tests::fake_api::{Cut, FakeApi, Options, Resource};

use super::listener::Listener;
use super::rights::{namespace, service};

#[tokio::test]
async fn a_server_that_was_away_is_believed_when_it_is_back() -> Result<()> {
    let api = FakeApi::start(&Options::default())?;
    let always = [namespace("shop")];
    api.apply(always.clone())?;
    api.apply([service("old", 1)])?;
    let mut listener = Listener::start(&api, "away", &always, 5)?;
    listener.wait_same(&api).await?;
    api.leave()?;
    listener
        .wait_kind(Kind::Service, |source| {
            source.state == SourceState::Failing && source.objects == 1
        })
        .await?;
    // Back with other objects, and without memory of what happened between.
    api.delete(&service("old", 1))?;
    api.apply([service("new", 2)])?;
    api.forget_history();
    api.come_back()?;
    listener.wait_same(&api).await?;
    listener
        .wait_state(Kind::Service, SourceState::Synced)
        .await?;
    let line = r#"weir_source_relists_total{kind="Service"} 1"#;
    listener.wait_page(&[line]).await?;
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_not_there_yet_is_waited_for() -> Result<()> {
    let api = FakeApi::start(&Options::default())?;
    api.leave()?;
    let mut listener = Listener::start(&api, "later", &[], 5)?;
    listener.wait_state(Kind::Pod, SourceState::Failing).await?;
    ensure!(!listener.is_ready());
    api.apply([service("web", 1)])?;
    api.come_back()?;
    listener.wait_same(&api).await
}

#[tokio::test]
async fn a_watch_that_says_nothing_and_does_not_end_is_given_up() -> Result<()> {
    let api = FakeApi::start(&Options::default())?;
    api.apply([service("web", 1)])?;
    let mut listener = Listener::start(&api, "silent", &[], 1)?;
    listener.wait_same(&api).await?;
    listener
        .wait_state(Kind::Service, SourceState::Synced)
        .await?;
    api.cut_watches(Cut::Silence);
    api.apply([service("later", 2)])?;
    listener.wait_same(&api).await
}

#[tokio::test]
async fn thousands_of_objects_come_in_pages_that_expire() -> Result<()> {
    let api = FakeApi::start(&Options::default())?;
    api.set_faults(|faults| {
        faults.has_no_streams = true;
        faults.expired_pages = 1;
    });
    let always: Vec<_> = (0..2_000)
        .map(|number| service(&format!("service-{number}"), number))
        .collect();
    api.apply(always.clone())?;
    let mut listener = Listener::start(&api, "pages", &always, 5)?;
    listener.wait_same(&api).await?;
    ensure!(api.faults().expired_pages == 0, "no page was asked for");
    ensure!(api.count("list", Resource::Services) > 2);
    Ok(())
}

#[tokio::test]
async fn an_object_that_cannot_be_read_hides_no_other() -> Result<()> {
    let api = FakeApi::start(&Options::default())?;
    let mut broken = service("broken", 2);
    broken["spec"]["ports"] = json!([{"port": "http"}]);
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "typo", "namespace": "shop"},
        "spec": {"podSelector": {}, "ingress": "everything"},
    });
    api.apply([service("web", 1), broken.clone(), policy])?;
    let mut listener = Listener::start(&api, "broken", &[], 5)?;
    listener.wait_same(&api).await?;
    listener
        .wait("the policy that isolates", |cluster| {
            cluster.network_policies().count() == 1
        })
        .await?;
    let problems = listener.problems();
    for (field, object) in [
        ("spec.ports[0].port", "Service shop/broken"),
        ("spec.ingress", "NetworkPolicy shop/typo"),
    ] {
        ensure!(
            problems
                .iter()
                .any(|it| it.starts_with(field) && it.contains(object)),
            "{field} of {object}: {problems:#?}"
        );
    }
    // One that was good and is broken stays as it was.
    let mut web = service("web", 1);
    web["spec"]["ports"] = json!("none");
    api.apply([web, service("last", 3)])?;
    listener
        .wait("the last service", |cluster| {
            cluster.services().count() == 2
        })
        .await?;
    ensure!(listener.problems().len() == 3, "{:#?}", listener.problems());
    api.apply([service("web", 1), service("broken", 2)])?;
    listener.wait_same(&api).await?;
    ensure!(listener.problems().len() == 1, "{:#?}", listener.problems());
    Ok(())
}
