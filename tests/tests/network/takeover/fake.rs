//! What answers as kube-proxy does, at its ports.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use weir_tests::bed::Node;

const PORTS: [&str; 2] = ["127.0.0.1:10249", "0.0.0.0:10256"];
const HEALTH: &str =
    r#"{"lastUpdated":"2026-01-01T00:00:00Z","currentTime":"2026-01-01T00:00:00Z"}"#;

/// Answers until it is dropped; then its ports are free.
pub struct FakeKubeProxy {
    node: Node,
    is_ending: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl FakeKubeProxy {
    /// Listens on a node.
    pub fn start(node: &Node) -> Result<Self> {
        let is_ending = Arc::new(AtomicBool::new(false));
        let listeners = node.namespace().enter(|| {
            PORTS
                .into_iter()
                .map(|port| TcpListener::bind(port).with_context(|| format!("listen at {port}")))
                .collect::<Result<Vec<_>>>()
        })?;
        let threads = listeners
            .into_iter()
            .map(|listener| {
                let is_ending = Arc::clone(&is_ending);
                std::thread::spawn(move || answer_all(&listener, &is_ending))
            })
            .collect();
        Ok(Self {
            node: node.clone(),
            is_ending,
            threads,
        })
    }

    /// Frees its ports.
    pub fn end(mut self) -> Result<()> {
        self.is_ending.store(true, Ordering::SeqCst);
        self.node.namespace().enter(|| {
            for port in PORTS {
                // Wakes the thread; it may have ended by itself.
                drop(TcpStream::connect(port.replace("0.0.0.0", "127.0.0.1")));
            }
            Ok(())
        })?;
        for thread in self.threads.drain(..) {
            thread.join().ok().context("a thread panicked")?;
        }
        Ok(())
    }
}

fn answer_all(listener: &TcpListener, is_ending: &AtomicBool) {
    for stream in listener.incoming() {
        if is_ending.load(Ordering::SeqCst) {
            return;
        }
        if let Ok(stream) = stream {
            // Whoever asked may have gone.
            let _ = answer(stream);
        }
    }
}

fn answer(stream: TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(&stream);
    let mut asked = String::new();
    lines.read_line(&mut asked)?;
    let mut header = String::new();
    while lines.read_line(&mut header)? > 2 {
        header.clear();
    }
    let body = match asked.split(' ').nth(1) {
        Some("/proxyMode") => "nftables",
        Some("/healthz") => HEALTH,
        _ => "",
    };
    write!(
        &stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
