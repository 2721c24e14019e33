//! A client that keeps a copy of what the server holds, whatever the server does.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, ResourceExt as _};
use serde_json::Value;
use tokio::time::timeout;
use weir_tests::fake_api::{Chance, Cut, Expiry, FakeApi, Resource};

use super::client::{LIMIT, pod, pods, server};

/// Changes that are made, with a fault now and then.
const CHANGES: usize = 400;
const SEED: u64 = 20_260_101;

#[tokio::test]
async fn a_watcher_that_lists_has_at_last_what_the_server_has() -> Result<()> {
    let config = Config::default().page_size(4).timeout(10);
    follow(config).await
}

#[tokio::test]
async fn a_watcher_that_streams_has_at_last_what_the_server_has() -> Result<()> {
    follow(Config::default().streaming_lists().timeout(10)).await
}

async fn follow(config: Config) -> Result<()> {
    let api = server()?;
    api.apply((0..10).map(|index| pod(&format!("pod-{index}"), "first")))?;
    let pods = pods(&api)?;
    let changes = async {
        let mut chance = Chance::new(SEED);
        for _ in 0..CHANGES {
            change(&api, &mut chance)?;
            // Others have their turn.
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        api.set_no_faults();
        anyhow::Ok(())
    };
    let copy = copy(&api, pods, &config);
    let (changed, copied) = tokio::join!(changes, timeout(LIMIT, copy));
    changed?;
    copied.context("the same as the server, in time")?
}

/// One object changes; sometimes something goes wrong.
fn change(api: &FakeApi, chance: &mut Chance) -> Result<()> {
    let name = format!("pod-{}", chance.below(20));
    let object = pod(&name, &format!("app-{}", chance.below(4)));
    if chance.is(0.3) {
        api.delete(&object)?;
    } else {
        api.apply([object])?;
    }
    match chance.below(60) {
        0 => api.cut_watches(Cut::End),
        1 => api.cut_watches(Cut::Close),
        2 => api.cut_watches(Cut::Reset),
        3 => api.forget_history(),
        4 => api.set_faults(|faults| faults.expired_watches = 1),
        5 => api.set_faults(|faults| faults.expired_pages = 1),
        6 => api.set_faults(|faults| faults.truncated = 1),
        7 => api.set_faults(|faults| faults.duplicates = 0.5),
        8 => api.set_faults(|faults| faults.splits_lines = !faults.splits_lines),
        9 => api.set_faults(|faults| faults.errors = 0.3),
        10 => api.set_faults(|faults| faults.errors = 0.0),
        11 => api.set_faults(|faults| {
            faults.expiry = match faults.expiry {
                Expiry::Event => Expiry::Status,
                Expiry::Status => Expiry::Event,
            };
        }),
        12 => {
            api.leave()?;
            api.come_back()?;
        }
        _ => {}
    }
    Ok(())
}

/// Ends when the copy is what a server holds that behaves and has a last object.
async fn copy(api: &FakeApi, pods: Api<Pod>, config: &Config) -> Result<()> {
    let mut copy = BTreeMap::new();
    let mut fresh = BTreeMap::new();
    let mut events = pin!(watcher(pods, config.clone()));
    loop {
        // The server may have been still while the watcher was told.
        let event = timeout(Duration::from_millis(50), events.next()).await;
        match event {
            Ok(Some(Ok(Event::Init))) => fresh.clear(),
            Ok(Some(Ok(Event::InitApply(pod)))) => drop(fresh.insert(pod.name_any(), pod)),
            Ok(Some(Ok(Event::InitDone))) => copy = std::mem::take(&mut fresh),
            Ok(Some(Ok(Event::Apply(pod)))) => drop(copy.insert(pod.name_any(), pod)),
            Ok(Some(Ok(Event::Delete(pod)))) => drop(copy.remove(&pod.name_any())),
            // It goes on; this client does not wait between tries.
            Ok(Some(Err(_))) => tokio::task::yield_now().await,
            Ok(None) => anyhow::bail!("a watcher never ends"),
            Err(_) if api.faults() != weir_tests::fake_api::Faults::default() => {}
            Err(_) if same(&copy, &api.objects_of(Resource::Pods)) => return Ok(()),
            Err(_) => {}
        }
    }
}

fn same(copy: &BTreeMap<String, Pod>, objects: &[Value]) -> bool {
    let held = objects.iter().filter_map(|object| {
        let metadata = &object["metadata"];
        Some((
            metadata["name"].as_str()?,
            metadata["resourceVersion"].as_str(),
        ))
    });
    let copied = copy
        .iter()
        .map(|(name, pod)| (name.as_str(), pod.metadata.resource_version.as_deref()));
    held.eq(copied)
}
