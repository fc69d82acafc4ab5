//! Read-only pages over plain HTTP: `/live`, `/ready`, `/metrics` and `/problems`.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_credentials::parts::Parts;
use mesh_resources::Severity;
use tokio::{net::TcpListener, sync::watch, task::AbortHandle};
use tokio_util::sync::CancellationToken;

use crate::{index::Published, metrics::Metrics};

/// Most connections at a time; scrapers and probes need few. Who comes beyond takes the place of the oldest: each has one
/// request, so that is one that asks for nothing, and nobody can keep kubelet out by holding connections.
const MAX_CONNECTIONS: usize = 128;
/// Longest wait for a request's head.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// Longest life of a connection.
const CONNECTION_LIMIT: Duration = Duration::from_secs(60);
/// Pause when the system gives no more sockets.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the pages show.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The state of the world; version 0 is before the first reading.
    pub index: watch::Receiver<Arc<Published>>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Set when every listener stands, cleared when the controller goes down.
    pub ready: watch::Receiver<bool>,
    /// Which part of the role ended before it went down, if one did.
    pub parts: Parts,
}

/// Serves the pages until cancelled.
pub async fn serve(listener: TcpListener, admin: Admin, cancel: CancellationToken) {
    let accepting = async {
        let mut open: VecDeque<AbortHandle> = VecDeque::new();
        loop {
            let tcp = match listener.accept().await {
                Ok((tcp, _)) => tcp,
                Err(error) => {
                    tracing::warn!("no connection could be accepted: {error}; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            open.retain(|connection| !connection.is_finished());
            if open.len() >= MAX_CONNECTIONS
                && let Some(oldest) = open.pop_front()
            {
                oldest.abort();
            }
            let (admin, cancel) = (admin.clone(), cancel.clone());
            let serving = tokio::spawn(async move {
                let service = service_fn(move |request: http::Request<Incoming>| {
                    let answer = admin.answer(request.method(), request.uri().path());
                    async move { Ok::<_, Infallible>(answer) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_LIMIT)
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(tcp), service);
                let connection = tokio::time::timeout(CONNECTION_LIMIT, connection);
                if let Some(Ok(Err(error))) = cancel.run_until_cancelled(connection).await {
                    tracing::debug!("admin connection: {error}");
                }
            });
            open.push_back(serving.abort_handle());
        }
    };
    cancel.run_until_cancelled(accepting).await;
}

impl Admin {
    /// The state now; the watch is held no longer than that takes, or the next state would have to wait for a page.
    fn world(&self) -> Arc<Published> {
        self.index.borrow().clone()
    }

    /// Why nobody is to be sent here: a part that ended, or what is waited for.
    fn not_ready(&self) -> Option<String> {
        if let Some(part) = self.parts.ended() {
            return Some(format!("{part} ended; the log says why, and kubelet restarts this pod"));
        }
        if *self.ready.borrow() {
            return None;
        }
        let world = self.world();
        let error = world.problems.iter().find(|entry| entry.severity == Severity::Error);
        Some(error.map_or("starting or stopping".to_owned(), ToString::to_string))
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method != Method::GET {
            return page(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET is served here\n");
        }
        match path {
            "/live" => match self.parts.ended() {
                None => page(StatusCode::OK, "text/plain", "live\n"),
                Some(part) => page(StatusCode::SERVICE_UNAVAILABLE, "text/plain", format!("not live: {part} ended\n")),
            },
            "/ready" => match self.not_ready() {
                None => page(StatusCode::OK, "text/plain", "ready\n"),
                Some(why) => page(StatusCode::SERVICE_UNAVAILABLE, "text/plain", format!("not ready: {why}\n")),
            },
            "/metrics" => page(StatusCode::OK, "text/plain; version=0.0.4", self.metrics.render()),
            "/problems" => match serde_json::to_string_pretty(&self.world().problems) {
                Ok(json) => page(StatusCode::OK, "application/json", json + "\n"),
                Err(error) => page(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n")),
            },
            _ => page(StatusCode::NOT_FOUND, "text/plain", "here are /live, /ready, /metrics and /problems\n"),
        }
    }
}

fn page(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use http_body_util::BodyExt;

    use super::*;
    use crate::{app::Servers, problems::Entry};

    async fn page(admin: &Admin, path: &str) -> (u16, String) {
        let answer = admin.answer(&Method::GET, path);
        let status = answer.status().as_u16();
        (status, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn ready_says_what_is_waited_for_and_which_part_ended() {
        let (servers, index) = (Servers::default(), watch::Sender::new(Arc::<Published>::default()));
        let (ready, parts) = (servers.ready(), servers.parts());
        let admin = Admin { index: index.subscribe(), metrics: Metrics::new(), ready, parts };
        assert_eq!(page(&admin, "/ready").await, (503, "not ready: starting or stopping\n".to_owned()));
        let waits = Entry::source(Severity::Error, "Away", "no API server".to_owned(), "start it".to_owned());
        index.send_replace(Arc::new(Published { problems: vec![waits], ..Published::default() }));
        assert_eq!(page(&admin, "/ready").await, (503, "not ready: no API server; fix: start it\n".to_owned()));
        servers.set_ready();
        assert_eq!(page(&admin, "/ready").await, (200, "ready\n".to_owned()));
        // What goes on until the end, and what ends before it.
        servers.until_the_end("what goes on", std::future::pending());
        servers.spawn("the watch of the cluster", async {});
        let ended = async {
            while servers.parts().ended().is_none() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), ended).await.unwrap();
        let (status, said) = page(&admin, "/ready").await;
        assert!(status == 503 && said.starts_with("not ready: the watch of the cluster ended"), "{said}");
        assert_eq!(page(&admin, "/live").await, (503, "not live: the watch of the cluster ended\n".to_owned()));
        // Going down ends every part, and none is at fault.
        let leaving = Servers::default();
        leaving.until_the_end("what goes on", std::future::pending());
        let parts = leaving.parts();
        leaving.stop().await;
        assert_eq!(parts.ended(), None);
    }
}
