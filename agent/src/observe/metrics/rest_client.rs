//! Requests to the API server, with the names, labels and buckets of Kubernetes' own clients.
//!
//! A layer of the client, beneath whatever completes the request: it sees the server's address,
//! and each attempt for itself. A watch is over, to it, when its answer begins.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use hyper::{Request, Response};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};
use tower::{BoxError, Layer, Service};

use super::add;

/// As in `k8s.io/component-base/metrics/prometheus/restclient`.
const BUCKETS: [f64; 12] = [
    0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0,
];

/// Metrics of requests.
#[derive(Clone, Debug)]
pub struct RestClient {
    requests: IntCounterVec,
    duration: HistogramVec,
}

impl RestClient {
    pub(super) fn new(registry: &Registry) -> Self {
        let requests = Opts::new(
            "rest_client_requests_total",
            "[ALPHA] Number of HTTP requests, partitioned by status code, method, and host.",
        );
        let duration = HistogramOpts::new(
            "rest_client_request_duration_seconds",
            "[ALPHA] Request latency in seconds. Broken down by verb, and host.",
        );
        Self {
            requests: add(
                registry,
                IntCounterVec::new(requests, &["code", "method", "host"]),
            ),
            duration: add(
                registry,
                HistogramVec::new(duration.buckets(BUCKETS.to_vec()), &["verb", "host"]),
            ),
        }
    }
}

impl<S> Layer<S> for RestClient {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Measured<S> {
        Measured {
            inner,
            metrics: self.clone(),
        }
    }
}

/// A client whose requests are measured.
#[derive(Clone, Debug)]
pub struct Measured<S> {
    inner: S,
    metrics: RestClient,
}

impl<S, B, R> Service<Request<B>> for Measured<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let method = request.method().to_string();
        let host = request.uri().authority().map(ToString::to_string);
        let host = host.unwrap_or_default();
        let start = Instant::now();
        let metrics = self.metrics.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code = match &answer {
                Ok(response) => response.status().as_str().to_owned(),
                // As client-go says it.
                Err(_) => "<error>".to_owned(),
            };
            metrics
                .requests
                .with_label_values(&[&code, &method, &host])
                .inc();
            metrics
                .duration
                .with_label_values(&[&method, &host])
                .observe(start.elapsed().as_secs_f64());
            answer.map_err(Into::into)
        })
    }
}
