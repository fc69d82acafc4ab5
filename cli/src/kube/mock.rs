//! A cluster of tests: an API server and ports of pods that say what the test wrote down.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use ::kube::{Client, client::Body};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

use super::{Cluster, ClusterError, forward::Forwarding, forward::Stream};

type Handler = Box<dyn Fn(&str, Value) -> (u16, Value) + Send + Sync>;

/// What a port of a pod serves.
enum Port {
    Pages(BTreeMap<String, (u16, Bytes)>),
    Tls(Arc<ServerConfig>),
    /// Port-forwards are refused with 403 and this message.
    Refused(String),
}

/// Ports of pods by `namespace/pod:port`.
#[derive(Default)]
pub(crate) struct Ports(BTreeMap<String, Port>);

/// Builds a [`Cluster`].
#[derive(Default)]
pub(crate) struct Mock {
    objects: BTreeMap<String, (u16, Value)>,
    /// Lists by path and a word of the query.
    lists: BTreeMap<(String, String), Value>,
    /// What is answered first, and how often.
    first: Mutex<BTreeMap<String, (usize, Value)>>,
    posts: Vec<(String, Handler)>,
    ports: Ports,
    date: Option<String>,
}

impl Mock {
    /// An API server that answers with an object.
    pub(crate) fn object(mut self, path: &str, value: Value) -> Self {
        self.objects.insert(path.to_owned(), (200, value));
        self
    }

    /// An API server that answers with a list.
    pub(crate) fn list(self, path: &str, items: Vec<Value>) -> Self {
        self.object(path, json!({ "kind": "List", "metadata": {}, "items": items }))
    }

    /// A list for queries that have a word in them; [`Mock::list`] is for all others.
    pub(crate) fn list_of(mut self, path: &str, word: &str, items: Vec<Value>) -> Self {
        self.lists.insert((path.to_owned(), word.to_owned()), json!({ "metadata": {}, "items": items }));
        self
    }

    /// An object that is another one the first few times.
    pub(crate) fn after(self, path: &str, times: usize, first: Value) -> Self {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), (times, first));
        self
    }

    /// An API server that answers with an error.
    pub(crate) fn refuses(mut self, path: &str, status: u16, message: &str) -> Self {
        self.objects.insert(path.to_owned(), (status, json!({ "kind": "Status", "message": message })));
        self
    }

    /// An API server that takes posts.
    pub(crate) fn post(
        mut self,
        path: &str,
        handler: impl Fn(&str, Value) -> (u16, Value) + Send + Sync + 'static,
    ) -> Self {
        self.posts.insert(0, (path.to_owned(), Box::new(handler)));
        self
    }

    /// The time it says it is.
    pub(crate) fn date(mut self, date: &str) -> Self {
        self.date = Some(date.to_owned());
        self
    }

    /// A page of a pod.
    pub(crate) fn page(mut self, pod: &str, port: u16, path: &str, text: &str) -> Self {
        let port = self.ports.0.entry(format!("{pod}:{port}")).or_insert_with(|| Port::Pages(BTreeMap::new()));
        if let Port::Pages(pages) = port {
            pages.insert(path.to_owned(), (200, Bytes::from(text.to_owned())));
        }
        self
    }

    /// A page that says, with 503, that something is not well.
    #[cfg(test)]
    pub(crate) fn failing_page(mut self, pod: &str, port: u16, path: &str, text: &str) -> Self {
        let pages = BTreeMap::from([(path.to_owned(), (503, Bytes::from(text.to_owned())))]);
        self.ports.0.insert(format!("{pod}:{port}"), Port::Pages(pages));
        self
    }

    /// A page of a pod that is no text.
    pub(crate) fn bytes(mut self, pod: &str, port: u16, path: &str, body: Vec<u8>) -> Self {
        let pages = BTreeMap::from([(path.to_owned(), (200, Bytes::from(body)))]);
        self.ports.0.insert(format!("{pod}:{port}"), Port::Pages(pages));
        self
    }

    /// A pod whose ports this user may not forward.
    pub(crate) fn forbidden_port(mut self, pod: &str, port: u16, message: &str) -> Self {
        self.ports.0.insert(format!("{pod}:{port}"), Port::Refused(message.to_owned()));
        self
    }

    /// A port of a pod that speaks TLS.
    pub(crate) fn tls(mut self, pod: &str, port: u16, config: Arc<ServerConfig>) -> Self {
        self.ports.0.insert(format!("{pod}:{port}"), Port::Tls(config));
        self
    }

    /// The cluster, in the namespace `shop`.
    pub(crate) fn cluster(mut self) -> Cluster {
        let ports = Arc::new(std::mem::take(&mut self.ports));
        let mock = Arc::new(self);
        let service = tower::service_fn(move |request: Request<Body>| {
            let mock = mock.clone();
            async move { Ok::<_, Infallible>(mock.answer(request).await) }
        });
        Cluster {
            client: Client::new(service, "shop"),
            server: "https://mock:6443".to_owned(),
            namespace: "shop".to_owned(),
            verbose: false,
            forwarding: Forwarding::Mock(ports),
        }
    }

    fn object_at(&self, path: &str, query: &str) -> Option<(u16, Value)> {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((left, value)) = first.get_mut(path).filter(|(left, _)| *left > 0) {
            *left -= 1;
            return Some((200, value.clone()));
        }
        let narrowed = self.lists.iter().find(|((known, word), _)| known == path && query.contains(word.as_str()));
        narrowed.map(|(_, list)| (200, list.clone())).or_else(|| self.objects.get(path).cloned())
    }

    async fn answer(&self, request: Request<Body>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let asked = format!("{} {}", head.method, head.uri);
        let path = head.uri.path();
        let (status, value) = if head.method == Method::GET {
            self.object_at(path, head.uri.query().unwrap_or_default())
        } else {
            let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let sent = serde_json::from_slice(&bytes).unwrap_or_default();
            let handler = self.posts.iter().find(|(known, _)| known == path);
            handler.map(|(_, handler)| handler(head.uri.query().unwrap_or_default(), sent))
        }
        .unwrap_or_else(|| (404, json!({ "kind": "Status", "message": format!("{asked} is not in the mock") })));
        // Text stands for what is no object: a log.
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if let Some(date) = self.date.as_ref().and_then(|date| date.parse().ok()) {
            response.headers_mut().insert(header::DATE, date);
        }
        response
    }
}

impl Ports {
    /// Opens a port, as a port-forward does.
    pub(super) fn open(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
        failed: impl Fn(String) -> ClusterError,
    ) -> Result<Box<dyn Stream>, ClusterError> {
        let (here, there) = tokio::io::duplex(64 * 1024);
        match self.0.get(&format!("{namespace}/{pod}:{port}")) {
            None => return Err(failed("connection refused".to_owned())),
            Some(Port::Refused(message)) => {
                let (namespace, message) = (namespace.to_owned(), message.clone());
                return Err(ClusterError::MayNotForward { namespace, message });
            }
            Some(Port::Pages(pages)) => {
                let pages = pages.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                        let found = pages.get(request.uri().path()).cloned();
                        let (status, body) = found.unwrap_or((404, Bytes::from_static(b"no such page")));
                        let mut response = Response::new(Full::new(body));
                        *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
                        async move { Ok::<_, Infallible>(response) }
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(there), service).await;
                });
            }
            Some(Port::Tls(config)) => {
                let acceptor = TlsAcceptor::from(config.clone());
                tokio::spawn(async move {
                    if let Ok(mut stream) = acceptor.accept(there).await {
                        let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 64]).await;
                    }
                });
            }
        }
        Ok(Box::new(here))
    }
}
