//! Connections to servers on loopback that say next to nothing.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{Mutex, mpsc},
};

use super::*;
use crate::observe::metrics::Metrics;

/// Answers every request with this status, and tells what was asked.
fn serve(status: &'static str) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.ends_with(b"\r\n\r\n") {
                match connection.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(read) => request.extend_from_slice(&buffer[..read]),
                }
            }
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            connection.write_all(answer.as_bytes()).ok();
            // Nobody may be interested any more.
            sender.send(String::from_utf8(request).unwrap()).ok();
        }
    });
    (address, requests)
}

/// An address at which nobody listens: a port that is free now may be another test's soon.
fn nobody() -> SocketAddr {
    ([127, 0, 0, 1], 1).into()
}

/// A kubelet's kubeconfig that names this server.
fn kubelet(directory: &Path, name: &str, address: SocketAddr) -> PathBuf {
    let file = directory.join(name);
    let text = format!("clusters:\n- name: c\n  cluster: {{server: 'http://{address}'}}\n");
    fs::write(&file, text).unwrap();
    file
}

fn access(directory: &Path, kubelet_kubeconfigs: Vec<PathBuf>) -> Access {
    fs::write(directory.join("token"), "first").unwrap();
    Access {
        kubeconfig: None,
        api_server: None,
        service_account_dir: directory.to_owned(),
        kubelet_kubeconfigs,
        environment: (None, None),
        watch_seconds: 240,
    }
}

fn server(access: Access) -> Arc<Server> {
    Server::new(access, Metrics::new().rest_client.clone())
}

#[tokio::test]
async fn the_first_who_answers_is_used_whatever_the_answer() {
    let directory = tempfile::tempdir().unwrap();
    let (refusing, requests) = serve("403 Forbidden");
    let (other, _) = serve("200 OK");
    let kubelets = vec![
        directory.path().join("missing"),
        kubelet(directory.path(), "nobody", nobody()),
        kubelet(directory.path(), "refusing", refusing),
        kubelet(directory.path(), "other", other),
    ];
    let server = server(access(directory.path(), kubelets));
    server.connection().await.unwrap();
    let used = server.used().borrow().clone().unwrap();
    assert_eq!(used.url, format!("http://{refusing}"));
    let request = requests.recv().unwrap();
    assert!(request.starts_with("GET /version "), "{request}");
    assert!(request.contains("user-agent: weir/"), "{request}");
}

#[tokio::test]
async fn who_does_not_answer_is_named_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let address = nobody();
    let file = kubelet(directory.path(), "nobody", address);
    let server = server(access(directory.path(), vec![file.clone()]));
    let Err(error) = server.connection().await else {
        panic!("nobody answers")
    };
    let text = error.to_string();
    let named = format!("http://{address} (from {})", file.display());
    assert!(text.contains(&named) && text.contains("refused"), "{text}");
    assert!(server.used().borrow().is_none());
}

#[tokio::test]
async fn a_connection_that_is_renounced_is_made_anew_with_the_token_of_then() {
    let directory = tempfile::tempdir().unwrap();
    let (address, requests) = serve("401 Unauthorized");
    let file = kubelet(directory.path(), "kubelet.conf", address);
    let server = server(access(directory.path(), vec![file]));
    let token = || {
        let request: String = requests.recv().unwrap();
        let lines = request.lines();
        let mut lines = lines.filter_map(|line| line.strip_prefix("authorization: Bearer "));
        lines.next().map(str::to_owned)
    };
    let first = server.connection().await.unwrap();
    assert_eq!(token().as_deref(), Some("first"));
    fs::write(directory.path().join("token"), "second").unwrap();
    server.connection().await.unwrap();
    assert!(requests.try_recv().is_err(), "it is still good");

    server.renounce(&first).await;
    let second = server.connection().await.unwrap();
    assert_eq!(token().as_deref(), Some("second"));
    server.renounce(&first).await;
    let same = server.connection().await.unwrap();
    assert_eq!(same.generation, second.generation, "news of a former one");
}

#[tokio::test]
async fn a_kubeconfig_names_server_and_credentials_and_a_flag_another_address() {
    let directory = tempfile::tempdir().unwrap();
    let (address, requests) = serve("200 OK");
    let kubeconfig = directory.path().join("kubeconfig");
    let text = "current-context: x\ncontexts:\n- name: x\n  context: {cluster: c, user: u}\n\
                clusters:\n- name: c\n  cluster: {server: 'http://127.0.0.1:1'}\n\
                users:\n- name: u\n  user: {token: mine}\n";
    fs::write(&kubeconfig, text).unwrap();
    let server = server(Access {
        kubeconfig: Some(kubeconfig),
        api_server: Some(format!("http://{address}")),
        ..access(directory.path(), Vec::new())
    });
    server.connection().await.unwrap();
    let request = requests.recv().unwrap();
    assert!(request.contains("authorization: Bearer mine"), "{request}");
    let used = server.used().borrow().clone().unwrap();
    assert_eq!(used.origin, Origin::Flag);
}

#[tokio::test]
async fn those_who_wait_for_the_same_failure_ask_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = kubelet(directory.path(), "nobody", nobody());
    let metrics = Metrics::new();
    let access = access(directory.path(), vec![file]);
    let server = Server::new(access, metrics.rest_client.clone());
    let failures = Mutex::new(0);
    let ask = async || {
        if server.connection().await.is_err() {
            *failures.lock().unwrap() += 1;
        }
    };
    tokio::join!(ask(), ask(), ask());
    assert_eq!(*failures.lock().unwrap(), 3);
    let text = metrics.text().unwrap();
    let asked = text
        .lines()
        .find(|line| line.starts_with("rest_client_requests_total{code=\"<error>\""))
        .unwrap();
    assert!(asked.ends_with(" 1"), "{asked}");
}

#[test]
fn an_address_is_a_url() {
    for url in ["10.240.0.10:6443", "ftp://api", "https://", ""] {
        assert!(parse_url(url).is_err(), "{url}");
    }
    for url in ["https://10.240.0.10:6443", "http://[::1]:80"] {
        parse_url(url).unwrap();
    }
}
