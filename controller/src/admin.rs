//! Read-only pages over plain HTTP: `/live`, `/ready`, `/metrics` and `/problems`.

use std::sync::Arc;

use http::{Method, StatusCode};
use hyper::body::Incoming;
use mesh_credentials::parts::Parts;
use mesh_listen::{
    Page, Shared,
    pages::{common, json, text},
    serve_pages,
};
use mesh_resources::Severity;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{metrics::Metrics, source::index::Published};

/// What the pages show.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    /// The state of the cluster; version 0 is before the first reading.
    pub index: watch::Receiver<Arc<Published>>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Set when every listener stands, cleared when the controller goes down.
    pub ready: watch::Receiver<bool>,
    /// Which part of the role ended before it went down, if one did.
    pub(crate) parts: Parts,
}

/// Serves the pages until cancelled.
pub(crate) async fn serve(listener: TcpListener, admin: Admin, cancel: CancellationToken) {
    let texts = Arc::new(Texts::default());
    let answer = move |request: http::Request<Incoming>| {
        let answer = admin.answer(request.method(), request.uri().path(), &texts);
        async move { answer }
    };
    serve_pages(listener, cancel, answer).await;
}

impl Admin {
    /// The state now; the watch is held no longer than that takes, or the next state would have to wait for a page.
    fn published(&self) -> Arc<Published> {
        self.index.borrow().clone()
    }

    /// What is waited for before anybody is to be sent here.
    fn waits(&self) -> Option<String> {
        if *self.ready.borrow() {
            return None;
        }
        let published = self.published();
        // What is wrong with somebody's route keeps nobody from being ready.
        let error = published.problems.iter().find(|entry| entry.severity == Severity::Error && entry.is_our_own());
        Some(error.map_or("starting or stopping".to_owned(), ToString::to_string))
    }

    fn answer(&self, method: &Method, path: &str, texts: &Texts) -> Page {
        if method != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n");
        }
        let metrics = || texts.metrics.get(|| self.metrics.render());
        common(path, self.parts.ended(), || self.waits(), metrics).unwrap_or_else(|| match path {
            "/problems" => json(texts.problems.get(|| problems(&self.published()))),
            _ => text(StatusCode::NOT_FOUND, "here are /live, /ready, /metrics and /problems\n"),
        })
    }
}

/// The large texts, as those who do not read get them.
#[derive(Default)]
struct Texts {
    metrics: Shared,
    problems: Shared,
}

fn problems(published: &Published) -> String {
    serde_json::to_string_pretty(&published.problems[..]).unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}"))
        + "\n"
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use http_body_util::BodyExt;

    use std::time::Duration;

    use super::*;
    use crate::{app::Servers, status::problems::ProblemEntry};

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
        let tenants = ProblemEntry {
            object: Some("HTTPRoute tenant/r".to_owned()),
            ..ProblemEntry::source(Severity::Error, "TooLarge", "a".to_owned(), "b".to_owned())
        };
        index.send_replace(Arc::new(Published { problems: vec![tenants.clone()].into(), ..Published::default() }));
        assert_eq!(page(&admin, "/ready").await, (503, "not ready: starting or stopping\n".to_owned()));
        let waits = ProblemEntry::source(Severity::Error, "Away", "no API server".to_owned(), "start it".to_owned());
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
        let (status, said) = page(&admin, "/live").await;
        assert!(status == 503 && said.starts_with("not live: the watch of the cluster ended"), "{said}");
        // Going down ends every part, and none is at fault.
        let leaving = Servers::default();
        leaving.until_the_end("what goes on", std::future::pending());
        let parts = leaving.parts();
        leaving.stop().await;
        assert_eq!(parts.ended(), None);
    }
}
