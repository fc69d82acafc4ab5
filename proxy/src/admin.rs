//! The two small servers beside the data plane: `/config`, `/policy`, `/authorization`, `/certificate`, `/tap` and
//! `/log-level` on loopback; `/live`, `/ready`, `/metrics` and kubelet's probes of the application on the pod's address, read-only.
//!
//! They run on the control thread: a scrape costs no request its turn.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use mesh_listen::{
    Page, Shared,
    pages::{Life, common, json, page, text},
    serve_pages,
};
use mesh_policy::OutboundPolicy;
use mesh_proto::v1;
use prost::Message;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::{
    authorization::Callers,
    config::Config,
    config_dump,
    control::{ConfigDump, Control},
    metrics::Metrics,
    probe::Probes,
    tap::Taps,
    target::canonical,
    tls::Tls,
};

/// A log filter; longer ones are no filter.
const MAX_BODY: usize = 4 * 1024;
/// What the pages show.
pub(crate) struct Admin {
    /// The configuration.
    pub config: Arc<Config>,
    /// Snapshots.
    pub control: Arc<Control>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The certificate.
    pub tls: Arc<Tls>,
    /// Who called this pod.
    pub callers: Arc<Callers>,
    /// Who looks at what passes.
    pub taps: Arc<Taps>,
    /// What scrapers have not read yet.
    pub texts: Shared,
    /// Kubelet's probes of the application.
    pub probes: Probes,
    /// The log filter in force; `None` when somebody else set up logging.
    pub log: Option<reload::Handle<EnvFilter, Registry>>,
}

/// Which of the two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    /// Loopback: may change things.
    Local,
    /// The pod's address: reads only.
    ReadOnly,
}

impl Admin {
    /// Serves one of the ports until the process ends.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener, pages: Pages) {
        let answer = move |request| {
            let admin = self.clone();
            async move { admin.probe_or_page(request, pages).await }
        };
        serve_pages(listener, CancellationToken::new(), answer).await;
    }

    async fn probe_or_page(&self, request: Request<Incoming>, pages: Pages) -> Option<Page> {
        if (pages, request.method()) == (Pages::ReadOnly, &Method::GET)
            && let Some(number) = self.probes.number(request.uri().path())
        {
            let life = request.extensions().get::<Life>().cloned();
            return self.probes.answer(number, life).await;
        }
        Some(self.answer(request, pages).await)
    }

    async fn answer(&self, request: Request<Incoming>, pages: Pages) -> Page {
        let path = request.uri().path();
        let read_only = match (pages, request.method()) {
            (Pages::ReadOnly, &Method::GET) => {
                common(path, None, || self.waits(), || self.texts.get(|| self.metrics.render()))
            }
            _ => None,
        };
        if let Some(page) = read_only {
            return page;
        }
        match (pages, request.method(), path) {
            (Pages::Local, &Method::GET, "/config") => {
                shown(config_dump::config(&self.config, &self.config_dump(), &self.tls))
            }
            (Pages::Local, &Method::GET, "/policy") => policy(request.uri().query(), &self.config_dump().outbound),
            (Pages::Local, &Method::GET, "/authorization") => {
                let held = self.control.inbound().get();
                shown(config_dump::authorization(held.as_deref(), &self.metrics, &self.callers))
            }
            (Pages::Local, &Method::GET, "/certificate") => self.certificate(),
            (Pages::Local, &Method::GET, "/tap") => self.taps.page(request.uri().query()),
            (Pages::Local, &Method::GET, "/log-level") => self.log_level(),
            (Pages::Local, &Method::PUT, "/log-level") => self.set_log_level(request.into_body()).await,
            (_, _, path) => text(StatusCode::NOT_FOUND, format!("no such page: {path}\n")),
        }
    }

    /// What is waited for before the application is to be sent requests.
    fn waits(&self) -> Option<String> {
        if !self.tls.held.is_ready() {
            Some("no certificate yet; see the log and mesh-identity".to_owned())
        } else if !self.control.is_known() {
            Some("what may be called of this pod was not heard yet; see the log and mesh-destination".to_owned())
        } else {
            None
        }
    }

    fn config_dump(&self) -> ConfigDump {
        self.control.config_dump()
    }

    /// What is proved to peers: the leaf and what leads from it to a root, each as DER, one after the other.
    fn certificate(&self) -> Page {
        let chain = self.tls.held.chain();
        if chain.is_empty() {
            return text(StatusCode::SERVICE_UNAVAILABLE, "no certificate yet; see the log and mesh-identity\n");
        }
        page(
            StatusCode::OK,
            "application/octet-stream",
            chain.iter().flat_map(|c| c.iter().copied()).collect::<Bytes>(),
        )
    }

    fn log_level(&self) -> Page {
        let filter = self.log.as_ref().and_then(|log| log.with_current(ToString::to_string).ok());
        text(StatusCode::OK, filter.unwrap_or_else(|| self.config.log.clone()) + "\n")
    }

    async fn set_log_level(&self, body: Incoming) -> Page {
        let wanted = match filter(body).await {
            Ok(wanted) => wanted,
            Err(refused) => return refused,
        };
        match (EnvFilter::try_new(&wanted), &self.log) {
            (Err(error), _) => text(StatusCode::BAD_REQUEST, format!("{wanted:?} is no log filter: {error}\n")),
            (Ok(_), None) => text(StatusCode::CONFLICT, "logging was set up by the program around the proxy\n"),
            (Ok(filter), Some(log)) => match log.reload(filter) {
                Ok(()) => text(StatusCode::OK, format!("{wanted}\n")),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
        }
    }
}

/// The log filter that a request asks for; an answer if it is too long for one.
async fn filter(
    body: impl Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
) -> Result<String, Page> {
    let body = Limited::new(body, MAX_BODY).collect().await;
    let too_long = |_| text(StatusCode::PAYLOAD_TOO_LARGE, "a log filter is shorter\n");
    Ok(String::from_utf8_lossy(&body.map_err(too_long)?.to_bytes()).trim().to_owned())
}

/// What is held of outbound targets: their names, or with `target=HOST:PORT` that one's policy as the message
/// `mesh.v1.OutboundPolicy`, so that whoever asks can decide with it as this proxy does.
fn policy(query: Option<&str>, held: &[(String, Option<Arc<OutboundPolicy>>)]) -> Page {
    let asked = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("target="));
    let Some(asked) = asked else {
        let names = held.iter().filter(|(_, policy)| policy.is_some()).map(|(target, _)| target.as_str());
        return shown(serde_json::json!({ "targets": names.collect::<Vec<_>>() }));
    };
    let target = canonical(&decoded(asked));
    match held.iter().find(|(name, _)| *name == target) {
        Some((_, Some(policy))) => {
            let message = v1::OutboundPolicy::from(&**policy).encode_to_vec();
            page(StatusCode::OK, "application/x-protobuf", message)
        }
        _ => text(
            StatusCode::NOT_FOUND,
            format!(
                "nothing is held of {target}: the application has not called it lately; /policy lists what is held\n"
            ),
        ),
    }
}

/// A value of a query as it was meant; what is no UTF-8 names nothing.
pub(crate) fn decoded(value: &str) -> String {
    let mut parts = value.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let hex = part.get(..2).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => bytes.extend(["%", part].concat().as_bytes()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn shown(value: serde_json::Value) -> Page {
    json(format!("{value:#}\n"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::header;
    use http_body_util::Full;
    use mesh_policy::{Protocol, RouteTable, ServiceRef, Target};

    use super::*;

    #[tokio::test]
    async fn a_policy_is_given_as_it_is_held() {
        let web = OutboundPolicy {
            target: Target::Service(ServiceRef::new("shop", "web", 80)),
            protocol: Protocol::Http2,
            routes: RouteTable::default(),
        };
        let held = [("[::1]:80".to_owned(), None), ("web:80".to_owned(), Some(Arc::new(web.clone())))];
        let ask = async |query: Option<&str>| {
            let answer = policy(query, &held);
            let (head, body) = answer.into_parts();
            let kind = head.headers[header::CONTENT_TYPE].to_str().unwrap().to_owned();
            (head.status, kind, body.collect().await.unwrap().to_bytes())
        };
        for query in ["target=web:80", "x=1&target=Web.%3A80", "target=web"] {
            let (status, kind, body) = ask(Some(query)).await;
            assert_eq!((status, kind.as_str()), (StatusCode::OK, "application/x-protobuf"), "{query}");
            let decoded = OutboundPolicy::try_from(v1::OutboundPolicy::decode(body).unwrap()).unwrap();
            assert_eq!(decoded, web);
        }
        for query in ["target=", "target=web:81", "target=[::1]:80", "target=%", "target=%ff%zz"] {
            assert_eq!(ask(Some(query)).await.0, StatusCode::NOT_FOUND, "{query}");
        }
        let (status, kind, body) = ask(None).await;
        assert_eq!((status, kind.as_str()), (StatusCode::OK, "application/json"));
        let list: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(list, serde_json::json!({ "targets": ["web:80"] }));
    }

    #[tokio::test]
    async fn a_log_filter_has_an_end() {
        let asked =
            async |length: usize| filter(Full::from("x".repeat(length))).await.map_err(|answer| answer.status());
        assert_eq!(asked(MAX_BODY).await.map(|filter| filter.len()), Ok(MAX_BODY));
        assert_eq!(asked(MAX_BODY + 1).await, Err(StatusCode::PAYLOAD_TOO_LARGE));
    }
}
