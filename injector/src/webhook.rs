//! The two things that are served: `/inject` to the API server, and the pages to kubelet and Prometheus.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header};
use mesh_credentials::parts::Parts;
use tokio::sync::{Semaphore, watch};

use crate::{
    admission::{self, Verdict},
    config::Config,
    events::Events,
    metrics::{Metrics, count},
    server::Answer,
};

/// Where the webhook is.
pub const PATH: &str = "/inject";
/// Largest request; the API server's own limit for objects is 3 MiB.
const MAX_BODY: usize = 3 * 1024 * 1024;
/// From the head of a request to its answer: less than the webhook's timeout of 3 s, so that the answer is ours.
const DEADLINE: Duration = Duration::from_millis(2500);
/// Bodies read at once: 48 MiB if all were as large as they may be. Others wait, within the deadline.
const BODIES: usize = 16;

/// What `/inject` needs.
#[derive(Debug)]
pub struct Webhook {
    config: Arc<ArcSwap<Config>>,
    events: Events,
    metrics: Arc<Metrics>,
    bodies: Semaphore,
}

impl Webhook {
    /// Answers with the configuration in force at each request.
    pub fn new(config: Arc<ArcSwap<Config>>, events: Events, metrics: Arc<Metrics>) -> Self {
        Self { config, events, metrics, bodies: Semaphore::new(BODIES) }
    }

    /// Answers one request.
    pub async fn answer(&self, request: Request<Incoming>) -> Answer {
        let began = Instant::now();
        let refused = |status, text: &str| {
            count(&self.metrics.errors);
            tracing::warn!("a request could not be answered: {}", text.trim_end());
            page(status, "text/plain", text.to_owned())
        };
        if request.uri().path() != PATH {
            return page(StatusCode::NOT_FOUND, "text/plain", "here is only POST /inject, for the API server\n");
        }
        if request.method() != Method::POST {
            return page(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only POST is served here\n");
        }
        let body = match tokio::time::timeout(DEADLINE, self.body(request)).await {
            Err(_) => {
                return refused(StatusCode::SERVICE_UNAVAILABLE, "the request did not come in 2.5 s; try again\n");
            }
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                return refused(StatusCode::PAYLOAD_TOO_LARGE, "the request is larger than 3 MiB\n");
            }
            Ok(Err(error)) => return refused(StatusCode::BAD_REQUEST, &format!("the request broke off: {error}\n")),
            Ok(Ok(body)) => body,
        };
        let review = match admission::review(&body, &self.config.load()) {
            Ok(review) => review,
            Err(error) => return refused(StatusCode::BAD_REQUEST, &format!("{error}\n")),
        };
        match &review.verdict {
            Verdict::Refused(refusal) => tracing::info!("refused a pod: {refusal}"),
            verdict => tracing::debug!("{verdict:?}"),
        }
        if let Some(note) = review.note {
            self.events.tell(note);
        }
        self.metrics.answered(&review.verdict, began.elapsed());
        page(StatusCode::OK, "application/json", review.body)
    }

    async fn body(&self, request: Request<Incoming>) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
        let _place = self.bodies.acquire().await?;
        Ok(Limited::new(request.into_body(), MAX_BODY).collect().await?.to_bytes())
    }
}

/// What the pages need.
#[derive(Clone, Debug)]
pub struct Pages {
    /// Whether pods may be sent here.
    pub ready: watch::Receiver<bool>,
    /// Which part of the injector ended before it went down, if one did.
    pub parts: Parts,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Pages {
    /// Answers one request.
    pub fn answer(&self, request: &Request<Incoming>) -> Answer {
        if request.method() != Method::GET {
            return page(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET is served here\n");
        }
        let path = request.uri().path();
        if let Some(part) = self.parts.ended().filter(|_| matches!(path, "/live" | "/ready")) {
            let text = format!("not ready: {part} ended; the log says why, and kubelet restarts this pod\n");
            return page(StatusCode::SERVICE_UNAVAILABLE, "text/plain", text);
        }
        match path {
            "/live" => page(StatusCode::OK, "text/plain", "live\n"),
            "/ready" if *self.ready.borrow() => page(StatusCode::OK, "text/plain", "ready\n"),
            "/ready" => {
                let text = "not ready: no certificate from mesh-identity yet, or stopping\n";
                page(StatusCode::SERVICE_UNAVAILABLE, "text/plain", text)
            }
            "/metrics" => page(StatusCode::OK, "text/plain; version=0.0.4", self.metrics.render()),
            _ => page(StatusCode::NOT_FOUND, "text/plain", "here are /live, /ready and /metrics\n"),
        }
    }
}

fn page(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
