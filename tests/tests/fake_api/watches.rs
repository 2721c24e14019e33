//! Watches, as a client sees them whom nobody helps.

use std::io;

use anyhow::{Context, Result};
use kube::api::{ListParams, WatchParams};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use weir_tests::fake_api::{Cut, Expiry};

use super::client::{LIMIT, code, next, next_bookmark, next_change, pod, pods, server, watch};

#[tokio::test]
async fn a_watch_goes_on_where_a_list_ended() -> Result<()> {
    let api = server()?;
    api.apply([pod("a", "web")])?;
    let pods = pods(&api)?;
    let list = pods.list(&ListParams::default()).await?;
    let version = list.metadata.resource_version.context("a version")?;
    api.apply([pod("b", "web")])?;
    let mut stream = watch(&pods, &WatchParams::default(), &version).await?;
    assert_eq!(next_change(&mut stream).await?, "ADDED b");
    api.apply([pod("a", "db")])?;
    api.delete(&pod("b", "web"))?;
    assert_eq!(next_change(&mut stream).await?, "MODIFIED a");
    assert_eq!(next_change(&mut stream).await?, "DELETED b");
    Ok(())
}

#[tokio::test]
async fn an_object_that_stops_being_selected_is_deleted_for_a_watch() -> Result<()> {
    let api = server()?;
    let version = api.version().to_string();
    let params = WatchParams::default().labels("app=web");
    let mut stream = watch(&pods(&api)?, &params, &version).await?;
    api.apply([pod("a", "web")])?;
    api.apply([pod("b", "db")])?;
    api.apply([pod("a", "db")])?;
    api.apply([pod("b", "web")])?;
    assert_eq!(next_change(&mut stream).await?, "ADDED a");
    assert_eq!(next_change(&mut stream).await?, "DELETED a");
    assert_eq!(next_change(&mut stream).await?, "ADDED b");
    Ok(())
}

#[tokio::test]
async fn bookmarks_tell_of_versions_that_other_kinds_have_reached() -> Result<()> {
    let api = server()?;
    let version = api.version().to_string();
    let mut stream = watch(&pods(&api)?, &WatchParams::default(), &version).await?;
    api.apply([serde_json::json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"},
    })])?;
    let reached = api.version();
    while next_bookmark(&mut stream).await?.0 < reached {}
    Ok(())
}

#[tokio::test]
async fn events_that_are_held_are_not_in_a_bookmarks_version() -> Result<()> {
    let api = server()?;
    let before = api.version();
    let mut stream = watch(&pods(&api)?, &WatchParams::default(), &before.to_string()).await?;
    next_bookmark(&mut stream).await?;
    api.set_faults(|faults| faults.holds_events = true);
    api.apply([pod("a", "web")])?;
    // One that was on its way, and one that was not.
    for _ in 0..2 {
        assert_eq!(next_bookmark(&mut stream).await?.0, before);
    }
    api.set_no_faults();
    assert_eq!(next_change(&mut stream).await?, "ADDED a");
    Ok(())
}

#[tokio::test]
async fn a_streamed_list_ends_with_a_bookmark_that_says_so() -> Result<()> {
    let api = server()?;
    api.apply([pod("a", "web"), pod("b", "web"), pod("c", "db")])?;
    let params = WatchParams::default().labels("app=web").initial_events();
    let mut stream = watch(&pods(&api)?, &params, "").await?;
    assert_eq!(next_change(&mut stream).await?, "ADDED a");
    assert_eq!(next_change(&mut stream).await?, "ADDED b");
    let (version, annotations) = next_bookmark(&mut stream).await?;
    assert_eq!(annotations["k8s.io/initial-events-end"], "true");
    assert_eq!(version, api.version());
    api.apply([pod("d", "web")])?;
    assert_eq!(next_change(&mut stream).await?, "ADDED d");
    api.set_faults(|faults| faults.has_no_streams = true);
    let refused = pods(&api)?.watch(&params, "").await;
    assert_eq!(code(refused.map(drop))?, 422);
    Ok(())
}

#[tokio::test]
async fn a_watch_without_a_version_begins_with_what_is_there() -> Result<()> {
    let api = server()?;
    api.apply([pod("a", "web")])?;
    for version in ["", "0"] {
        let mut stream = watch(&pods(&api)?, &WatchParams::default(), version).await?;
        assert_eq!(next_change(&mut stream).await?, "ADDED a");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_forgotten_cannot_be_watched() -> Result<()> {
    let api = server()?;
    let pods = pods(&api)?;
    let old = api.version().to_string();
    let mut running = watch(&pods, &WatchParams::default(), &old).await?;
    api.set_history(1);
    api.apply([pod("a", "web"), pod("b", "web")])?;
    let mut stream = watch(&pods, &WatchParams::default(), &old).await?;
    assert_eq!(next_change(&mut stream).await?, "ERROR 410");
    assert!(next(&mut stream).await?.is_none());
    api.set_faults(|faults| faults.expiry = Expiry::Status);
    let refused = pods.watch(&WatchParams::default(), &old).await;
    assert_eq!(code(refused.map(drop))?, 410);
    // The version just before is still known, and a watch that ran then misses nothing.
    let recent = (api.version() - 1).to_string();
    let mut stream = watch(&pods, &WatchParams::default(), &recent).await?;
    assert_eq!(next_change(&mut stream).await?, "ADDED b");
    assert_eq!(next_change(&mut running).await?, "ADDED a");
    assert_eq!(next_change(&mut running).await?, "ADDED b");
    // And on command.
    api.set_faults(|faults| faults.expired_watches = 1);
    let now = api.version().to_string();
    let refused = pods.watch(&WatchParams::default(), &now).await;
    assert_eq!(code(refused.map(drop))?, 410);
    drop(watch(&pods, &WatchParams::default(), &now).await?);
    Ok(())
}

#[tokio::test]
async fn a_watch_ends_when_its_time_is_over() -> Result<()> {
    let api = server()?;
    let now = api.version().to_string();
    let params = WatchParams::default().timeout(1);
    let mut stream = watch(&pods(&api)?, &params, &now).await?;
    while next(&mut stream).await?.is_some() {}
    Ok(())
}

#[tokio::test]
async fn watches_are_cut_in_every_way() -> Result<()> {
    let api = server()?;
    for how in [Cut::End, Cut::Close, Cut::Reset] {
        let mut stream = TcpStream::connect(api.address()).await?;
        let request = "GET /api/v1/pods?watch=true HTTP/1.1\r\nHost: fake\r\n\r\n";
        stream.write_all(request.as_bytes()).await?;
        // The answer has begun when its first byte is here.
        let mut text = vec![0];
        timeout(LIMIT, stream.read_exact(&mut text)).await??;
        api.cut_watches(how);
        let mut rest = Vec::new();
        let end = if how == Cut::End {
            // The connection stays, for other requests.
            loop {
                if rest.ends_with(b"\r\n0\r\n\r\n") {
                    break Ok(0);
                }
                let read = timeout(LIMIT, stream.read_buf(&mut rest)).await??;
                assert_ne!(read, 0, "{how:?}: the connection was closed");
            }
        } else {
            timeout(LIMIT, stream.read_to_end(&mut rest)).await?
        };
        let text = String::from_utf8_lossy(&rest);
        let is_whole = text.ends_with("\r\n0\r\n\r\n");
        let kind = end.as_ref().err().map(io::Error::kind);
        let expected = match how {
            Cut::End => (true, None),
            Cut::Close => (false, None),
            Cut::Reset | Cut::Silence => (false, Some(io::ErrorKind::ConnectionReset)),
        };
        assert_eq!((is_whole, kind), expected, "{how:?}: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_silenced_watch_says_nothing_while_others_do() -> Result<()> {
    let api = server()?;
    let pods = pods(&api)?;
    let now = api.version().to_string();
    let mut silent = watch(&pods, &WatchParams::default(), &now).await?;
    next_bookmark(&mut silent).await?;
    api.cut_watches(Cut::Silence);
    let mut other = watch(&pods, &WatchParams::default(), &now).await?;
    api.apply([pod("a", "web")])?;
    assert_eq!(next_change(&mut other).await?, "ADDED a");
    // The silent one was told in time of nothing but bookmarks that were on their way.
    for _ in 0..20 {
        next_bookmark(&mut other).await?;
    }
    while let Ok(event) = timeout(std::time::Duration::ZERO, next(&mut silent)).await {
        let event = event?.context("it does not end")?;
        assert!(
            matches!(event, kube::api::WatchEvent::Bookmark(_)),
            "{event:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_line_that_is_cut_off_is_an_error_and_the_event_comes_again() -> Result<()> {
    let api = server()?;
    let pods = pods(&api)?;
    let now = api.version().to_string();
    let mut stream = watch(&pods, &WatchParams::default(), &now).await?;
    api.set_faults(|faults| faults.truncated = 1);
    api.apply([pod("a", "web")])?;
    // Each event is waited for as long as it may take.
    let end = next_change(&mut stream).await;
    assert!(end.is_err(), "half an event was taken for one: {end:?}");
    let mut stream = watch(&pods, &WatchParams::default(), &now).await?;
    assert_eq!(next_change(&mut stream).await?, "ADDED a");
    Ok(())
}

#[tokio::test]
async fn events_come_twice_in_pieces_and_late_when_told_so() -> Result<()> {
    let api = server()?;
    let now = api.version().to_string();
    let mut stream = watch(&pods(&api)?, &WatchParams::default(), &now).await?;
    api.set_faults(|faults| {
        faults.duplicates = 1.0;
        faults.splits_lines = true;
        let millisecond = std::time::Duration::from_millis(1);
        faults.delay = Some(millisecond..20 * millisecond);
    });
    api.apply([pod("a", "web"), pod("b", "web")])?;
    for expected in ["ADDED a", "ADDED a", "ADDED b", "ADDED b"] {
        assert_eq!(next_change(&mut stream).await?, expected);
    }
    Ok(())
}
