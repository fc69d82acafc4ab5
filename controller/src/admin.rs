//! Read-only pages over plain HTTP: `/live`, `/ready`, `/metrics` and `/problems`.

use std::sync::Arc;

use http::{Method, StatusCode};
use hyper::body::Incoming;
use mesh_credentials::parts::Parts;
use mesh_listen::{Page, Shared, pages::page, serve_pages};
use mesh_resources::Severity;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{index::Published, metrics::Metrics};

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
    let texts = Arc::new(Texts::default());
    let answer = move |request: http::Request<Incoming>| {
        let answer = admin.answer(request.method(), request.uri().path(), &texts);
        async move { answer }
    };
    serve_pages(listener, cancel, answer).await;
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
        // What is wrong with somebody's route keeps nobody from being ready.
        let error = world.problems.iter().find(|entry| entry.severity == Severity::Error && entry.is_our_own());
        Some(error.map_or("starting or stopping".to_owned(), ToString::to_string))
    }

    fn answer(&self, method: &Method, path: &str, texts: &Texts) -> Page {
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
            "/metrics" => {
                page(StatusCode::OK, "text/plain; version=0.0.4", texts.metrics.get(|| self.metrics.render()))
            }
            "/problems" => page(StatusCode::OK, "application/json", texts.problems.get(|| problems(&self.world()))),
            _ => page(StatusCode::NOT_FOUND, "text/plain", "here are /live, /ready, /metrics and /problems\n"),
        }
    }
}

/// The large texts, as those who do not read get them.
#[derive(Default)]
struct Texts {
    metrics: Shared,
    problems: Shared,
}

fn problems(world: &Published) -> String {
    serde_json::to_string_pretty(&world.problems[..]).unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}"))
        + "\n"
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use http_body_util::BodyExt;

    use std::time::Duration;

    use super::*;
    use crate::{app::Servers, problems::Entry};

    async fn page(admin: &Admin, path: &str) -> (u16, String) {
        let answer = admin.answer(&Method::GET, path, &Texts::default());
        let status = answer.status().as_u16();
        (status, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn ready_says_what_is_waited_for_and_which_part_ended() {
        let (servers, index) = (Servers::default(), watch::Sender::new(Arc::<Published>::default()));
        let (ready, parts) = (servers.ready(), servers.parts());
        let admin = Admin { index: index.subscribe(), metrics: Metrics::new(), ready, parts };
        assert_eq!(page(&admin, "/ready").await, (503, "not ready: starting or stopping\n".to_owned()));
        let tenants = Entry {
            object: Some("HTTPRoute tenant/r".to_owned()),
            ..Entry::source(Severity::Error, "TooLarge", "a".to_owned(), "b".to_owned())
        };
        index.send_replace(Arc::new(Published { problems: vec![tenants.clone()].into(), ..Published::default() }));
        assert_eq!(page(&admin, "/ready").await, (503, "not ready: starting or stopping\n".to_owned()));
        let waits = Entry::source(Severity::Error, "Away", "no API server".to_owned(), "start it".to_owned());
        index.send_replace(Arc::new(Published { problems: vec![tenants, waits].into(), ..Published::default() }));
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
