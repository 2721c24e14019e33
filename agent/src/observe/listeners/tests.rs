use std::net::Ipv4Addr;

use hyper::StatusCode;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::*;
use crate::{
    compile::testing::service_ref,
    observe::{
        http,
        testing::{PATIENCE, get},
    },
};

const RETRY_SOON: Duration = Duration::from_millis(10);

fn says(text: &'static str) -> Handler {
    http::at_once(move |path| {
        http::response(
            StatusCode::OK,
            http::PLAIN_TEXT,
            format!("{text} at {path}"),
        )
    })
}

fn check(service: &str, port: u16) -> Listener {
    Listener {
        purpose: Purpose::HealthCheck(service_ref(service)),
        address: (Ipv4Addr::LOCALHOST, port).into(),
    }
}

/// Waits until what listens is as `condition` says.
async fn listening(listeners: &mut Listeners, condition: impl Fn(&Listening) -> bool) -> Listening {
    timeout(PATIENCE, async {
        loop {
            let listening = listeners.changed().await;
            if condition(&listening) {
                return listening;
            }
        }
    })
    .await
    .unwrap()
}

fn all_open(listening: &Listening) -> bool {
    !listening.is_empty() && listening.values().all(Result::is_ok)
}

/// A port of the loopback that is free when this returns.
async fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test]
async fn what_is_wanted_is_served_and_what_is_not_any_more_is_refused() {
    let mut listeners = Listeners::start_with(RETRY_SOON);
    let (web, shop) = (check("web", 0), check("shop", 0));
    listeners.want(Wanted::from([
        (web.clone(), says("web")),
        (shop.clone(), says("shop")),
    ]));
    let open = listening(&mut listeners, all_open).await;
    let at = |listener: &Listener| *open[listener].as_ref().unwrap();
    let page = get(at(&web), "/any/path?x=1").await;
    assert_eq!((page.status, page.body.as_str()), (200, "web at /any/path"));
    assert_eq!(page.header("X-Content-Type-Options"), Some("nosniff"));
    assert_eq!(get(at(&shop), "/").await.body, "shop at /");

    // A client that stays is sent away, too.
    let mut idle = TcpStream::connect(at(&shop)).await.unwrap();
    listeners.want(Wanted::from([(web.clone(), says("web"))]));
    listening(&mut listeners, |open| open.len() == 1).await;
    assert!(TcpStream::connect(at(&shop)).await.is_err());
    // Closed or reset, whichever the kernel chooses.
    let end = timeout(PATIENCE, idle.read(&mut [0])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    assert_eq!(get(at(&web), "/").await.body, "web at /");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_and_tried_again() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let listener = check("web", taken.local_addr().unwrap().port());
    let mut listeners = Listeners::start_with(RETRY_SOON);
    listeners.want(Wanted::from([(listener.clone(), says("web"))]));
    let told = listening(&mut listeners, |_| true).await;
    let error = told[&listener].as_ref().unwrap_err();
    assert!(error.contains("taken"), "{error}");
    drop(taken);
    let told = listening(&mut listeners, all_open).await;
    assert_eq!(told[&listener], Ok(listener.address));
    assert_eq!(get(listener.address, "/").await.body, "web at /");
}

#[tokio::test]
async fn two_services_may_swap_their_ports() {
    let (one, other) = (free_port().await, free_port().await);
    let mut listeners = Listeners::start_with(RETRY_SOON);
    for (web, shop) in [(one, other), (other, one)] {
        let (web, shop) = (check("web", web), check("shop", shop));
        listeners.want(Wanted::from([
            (web.clone(), says("web")),
            (shop.clone(), says("shop")),
        ]));
        listening(&mut listeners, |open| {
            all_open(open) && open.contains_key(&web)
        })
        .await;
        assert_eq!(get(web.address, "/").await.body, "web at /");
        assert_eq!(get(shop.address, "/").await.body, "shop at /");
    }
}

#[tokio::test]
async fn every_address_means_those_of_both_families() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let mut listeners = Listeners::start_with(RETRY_SOON);
        let listener = Listener {
            purpose: Purpose::Health,
            address: address.parse().unwrap(),
        };
        listeners.want(Wanted::from([(listener.clone(), says("ok"))]));
        let told = listening(&mut listeners, all_open).await;
        let port = told[&listener].as_ref().unwrap().port();
        for client in ["127.0.0.1", "::1"] {
            let at = SocketAddr::new(client.parse().unwrap(), port);
            assert_eq!(get(at, "/").await.body, "ok at /", "{address} by {client}");
        }
    }
}

#[tokio::test]
async fn an_address_of_one_family_is_of_one_family() {
    // Somebody else may listen at the same port of the other family, but not at each of these.
    let mut found = 0;
    for _ in 0..16 {
        let mut listeners = Listeners::start_with(RETRY_SOON);
        let listener = Listener {
            purpose: Purpose::Metrics,
            address: "[::1]:0".parse().unwrap(),
        };
        listeners.want(Wanted::from([(listener.clone(), says("ok"))]));
        let told = listening(&mut listeners, all_open).await;
        let at = told[&listener].clone().unwrap();
        assert_eq!(get(at, "/").await.body, "ok at /");
        let twin = SocketAddr::from((Ipv4Addr::LOCALHOST, at.port()));
        if TcpStream::connect(twin).await.is_err() {
            return;
        }
        found += 1;
    }
    panic!("somebody answered at the port's twin {found} times");
}
