//! Asks the agent of this node, at its Unix socket.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use crate::observe::socket;

/// Asks for a value.
pub fn get<A: DeserializeOwned>(run_dir: &Path, path: &str) -> Result<A> {
    ask(run_dir, Method::GET, path, Bytes::new())
}

/// Asks for a value, and waits for no longer than this.
pub fn get_within<A: DeserializeOwned>(run_dir: &Path, path: &str, limit: Duration) -> Result<A> {
    runtime()?.block_on(async {
        let answer = exchange(run_dir, Method::GET, path, Bytes::new());
        tokio::time::timeout(limit, answer)
            .await
            .with_context(|| format!("the agent has not answered within {limit:?}"))?
    })
}

/// Asks for a value, with a question.
pub fn post<A: DeserializeOwned>(
    run_dir: &Path,
    path: &str,
    question: &impl Serialize,
) -> Result<A> {
    let question = serde_json::to_vec(question).context("encode the question")?;
    ask(run_dir, Method::POST, path, question.into())
}

fn ask<A: DeserializeOwned>(run_dir: &Path, method: Method, path: &str, body: Bytes) -> Result<A> {
    runtime()?.block_on(exchange(run_dir, method, path, body))
}

async fn exchange<A: DeserializeOwned>(
    run_dir: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<A> {
    let answer = send(run_dir, method, path, body).await?;
    let body = answer.collect().await.context("read the agent's answer")?;
    serde_json::from_slice(&body.to_bytes())
        .context("understand the agent's answer; are agent and command of one version?")
}

/// Follows an answer of lines until it ends, or the function says that it is enough.
pub fn follow(
    run_dir: &Path,
    path: &str,
    mut line: impl FnMut(&str) -> Result<bool>,
) -> Result<()> {
    runtime()?.block_on(async {
        let mut answer = send(run_dir, Method::GET, path, Bytes::new()).await?;
        let mut begun = Vec::new();
        while let Some(frame) = answer.frame().await {
            let frame = frame.context("the agent has ended")?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            begun.extend_from_slice(&data);
            while let Some(end) = begun.iter().position(|byte| *byte == b'\n') {
                let rest = begun.split_off(end + 1);
                let whole = std::mem::replace(&mut begun, rest);
                if !line(String::from_utf8_lossy(&whole).trim_end())? {
                    return Ok(());
                }
            }
        }
        bail!("the agent has ended")
    })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the asynchronous runtime")
}

async fn send(run_dir: &Path, method: Method, path: &str, body: Bytes) -> Result<Incoming> {
    let socket = socket::path(run_dir);
    let stream = UnixStream::connect(&socket).await.with_context(|| {
        format!(
            "no agent answers at {}; is one running, and is this --run-dir its own?",
            socket.display()
        )
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .context("talk to the agent")?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "weir")
        .body(Full::<Bytes>::new(body))
        .context("put the question together")?;
    let answer = sender
        .send_request(request)
        .await
        .context("ask the agent")?;
    if answer.status() == StatusCode::OK {
        return Ok(answer.into_body());
    }
    let status = answer.status();
    let text = answer
        .into_body()
        .collect()
        .await
        .context("read the agent's answer")?;
    let text = String::from_utf8_lossy(&text.to_bytes())
        .trim_end()
        .to_owned();
    if text.is_empty() {
        return Err(anyhow!("the agent answers {status}"));
    }
    Err(anyhow!(text))
}
