//! The two things that are served: `/inject` to the API server, and the pages to kubelet and Prometheus.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{Method, Request, StatusCode, body::Incoming};
use mesh_credentials::parts::Parts;
use mesh_listen::{Bounds, Page, Quota, Source, Taken, pages};
use tokio::sync::{Notify, watch};

use crate::{
    admission::{self, Verdict},
    config::Config,
    events::Events,
    metrics::{Metrics, count},
    secret::Secret,
};

/// Where the webhook is.
pub const PATH: &str = "/inject";
/// Largest request; the API server's own limit for objects is 3 MiB.
const MAX_BODY: usize = 3 * 1024 * 1024;
/// From the head of a request to its answer: less than the webhook's timeout of 3 s, so that the answer is ours.
const DEADLINE: Duration = Duration::from_millis(2500);
/// So much of a body is read at once whoever sends it; few pods are larger as JSON. What it takes of all connections
/// together is half of what large bodies take.
const SMALL_BODY: usize = 48 * 1024;
/// Larger bodies that are read at once: 48 MiB if all were as large as they may be. Others wait, within the deadline, and
/// nobody waits for one address alone.
pub const LARGE_BODIES: Bounds = Bounds { each: 2, shared: 8, total: 16 };

/// What `/inject` needs.
#[derive(Debug)]
pub struct Webhook {
    config: Arc<ArcSwap<Config>>,
    events: Events,
    metrics: Arc<Metrics>,
    bodies: Arc<Quota<Option<Source>>>,
    /// Told when a large body was read.
    read: Notify,
}

impl Webhook {
    /// Answers with the configuration in force at each request.
    pub fn new(config: Arc<ArcSwap<Config>>, events: Events, metrics: Arc<Metrics>) -> Self {
        Self { config, events, metrics, bodies: Quota::new(LARGE_BODIES), read: Notify::new() }
    }

    /// Answers one request.
    pub async fn answer(&self, request: Request<Incoming>) -> Page {
        let began = Instant::now();
        let refused = |status, text: &str| {
            count(&self.metrics.errors);
            tracing::warn!("a request could not be answered: {}", text.trim_end());
            pages::text(status, text.to_owned())
        };
        if request.uri().path() != PATH {
            return pages::text(StatusCode::NOT_FOUND, "here is only POST /inject, for the API server\n");
        }
        if request.method() != Method::POST {
            return pages::text(StatusCode::METHOD_NOT_ALLOWED, "only POST is served here\n");
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
        let review = match admission::review(&body, &self.config.load(), &Secret::random) {
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
        pages::json(review.body)
    }

    async fn body(&self, request: Request<Incoming>) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
        let source = request.extensions().get::<Source>().copied();
        let mut body = Limited::new(request.into_body(), MAX_BODY);
        let mut read = BytesMut::new();
        let mut place = None;
        while let Some(frame) = body.frame().await.transpose()? {
            if let Some(data) = frame.data_ref() {
                read.extend_from_slice(data);
            }
            if read.len() > SMALL_BODY && place.is_none() {
                place = Some(self.place(source).await);
            }
        }
        Ok(read.freeze())
    }

    /// A place for a large body.
    async fn place(&self, source: Option<Source>) -> LargeBody<'_> {
        loop {
            let read = self.read.notified();
            match self.bodies.take(source) {
                Some(place) => return LargeBody { place: Some(place), read: &self.read },
                None => read.await,
            }
        }
    }
}

/// A large body that is being read.
struct LargeBody<'a> {
    place: Option<Taken<Option<Source>>>,
    read: &'a Notify,
}

impl Drop for LargeBody<'_> {
    fn drop(&mut self) {
        self.place = None;
        self.read.notify_waiters();
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
    pub fn answer(&self, request: &Request<Incoming>) -> Page {
        if request.method() != Method::GET {
            return pages::text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n");
        }
        let waits = || {
            let why = "no certificate from mesh-identity yet, or stopping";
            (!*self.ready.borrow()).then(|| why.to_owned())
        };
        pages::common(request.uri().path(), self.parts.ended(), waits, || self.metrics.render().into())
            .unwrap_or_else(|| pages::text(StatusCode::NOT_FOUND, "here are /live, /ready and /metrics\n"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{
        net::IpAddr,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use super::*;

    #[test]
    fn large_bodies_are_read_a_few_at_a_time_and_nobody_waits_for_one_address_alone() {
        let metrics = Arc::new(Metrics::default());
        let webhook = Webhook::new(Arc::default(), Events::none(metrics.clone()), metrics);
        let from = |host| Some(Source::from(IpAddr::from([10, 0, 0, host])));
        let mut cx = Context::from_waker(Waker::noop());
        let mut place = |source| match pin!(webhook.place(source)).poll(&mut cx) {
            Poll::Ready(place) => Some(place),
            Poll::Pending => None,
        };
        let mut held: Vec<_> = (0..LARGE_BODIES.each + LARGE_BODIES.shared).map_while(|_| place(from(1))).collect();
        assert_eq!(held.len(), LARGE_BODIES.each + LARGE_BODIES.shared);
        assert!(place(from(1)).is_none(), "the next of this address waits");
        held.extend((0..LARGE_BODIES.each).map_while(|_| place(from(2))));
        assert_eq!(held.len(), 2 * LARGE_BODIES.each + LARGE_BODIES.shared, "another has its own");
        let mut waiting = pin!(webhook.place(from(1)));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        held.remove(0);
        assert!(waiting.poll(&mut cx).is_ready(), "who waits has the place of a body that was read");
    }
}
