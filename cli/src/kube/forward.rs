//! Ports of pods, through the API server and the kubelet: for pages of proxies and the TLS of the control plane.
//!
//! A port-forward needs only the permissions `create` and `get` of `pods/portforward` (which of them, versions of Kubernetes differ
//! in), and works on every network: the connection
//! begins inside the pod.

use std::{future::Future, pin::Pin, time::Duration};

use ::kube::Api;
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use k8s_openapi::api::core::v1::Pod;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Cluster, ClusterError, causes, lines::exchange};

/// Opening a forwarded port and one exchange over it.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(10);
/// The kubelet's reason comes on a channel of its own, about when the port's stream ends.
const REASON_TIMEOUT: Duration = Duration::from_secs(1);
/// A page of a proxy: 10,000 series of metrics are about 10 MiB.
const MAX_PAGE: usize = 32 * 1024 * 1024;

/// What a forwarded port is read and written through.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Who opens ports.
#[derive(Clone)]
pub(super) enum Forwarding {
    /// The API server.
    Api,
    /// A test.
    #[cfg(test)]
    Mock(std::sync::Arc<super::mock::Ports>),
}

/// A page of a pod.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    /// The HTTP status.
    pub status: StatusCode,
    /// What came.
    pub body: Bytes,
}

impl Page {
    /// The page as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The page, if it is one: an error says what the pod answered instead.
    pub(crate) fn ok(self) -> Result<Self, String> {
        if self.status.is_success() {
            return Ok(self);
        }
        Err(format!("the sidecar answers {}: {}", self.status, self.text().trim()))
    }
}

type Reason = Pin<Box<dyn Future<Output = Option<String>> + Send>>;

impl Cluster {
    /// Opens a port of a pod and has one exchange over it.
    pub(crate) async fn forward<T, F>(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
        exchange: impl FnOnce(Box<dyn Stream>) -> F,
    ) -> Result<T, ClusterError>
    where
        F: Future<Output = Result<T, String>>,
    {
        let failed = |why| ClusterError::Forward { pod: format!("{namespace}/{pod}"), port, why };
        let silent = |_| failed(format!("no answer within {} s", FORWARD_TIMEOUT.as_secs()));
        let opening = tokio::time::timeout(FORWARD_TIMEOUT, self.open(namespace, pod, port));
        let (stream, reason) = opening.await.map_err(silent)??;
        if self.verbose {
            crate::output::note(&format!("port-forward to {namespace}/{pod}:{port}"));
        }
        match tokio::time::timeout(FORWARD_TIMEOUT, exchange(stream)).await.map_err(silent)? {
            Ok(done) => Ok(done),
            Err(why) => {
                let reason = tokio::time::timeout(REASON_TIMEOUT, reason).await.ok().flatten();
                Err(failed(reason.unwrap_or(why)))
            }
        }
    }

    /// `GET` of a page of a pod, such as `/metrics` of its proxy.
    pub(crate) async fn page(&self, namespace: &str, pod: &str, port: u16, path: &str) -> Result<Page, ClusterError> {
        self.forward(namespace, pod, port, |stream| get(stream, path.to_owned())).await
    }

    async fn open(&self, namespace: &str, pod: &str, port: u16) -> Result<(Box<dyn Stream>, Reason), ClusterError> {
        let failed = |why: String| ClusterError::Forward { pod: format!("{namespace}/{pod}"), port, why };
        match &self.forwarding {
            Forwarding::Api => {
                let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
                let mut forwarder = pods.portforward(pod, &[port]).await.map_err(|error| match error {
                    ::kube::Error::Api(status) if status.code == 403 => {
                        let (namespace, message) = (namespace.to_owned(), status.message.clone());
                        ClusterError::MayNotForward { namespace, message }
                    }
                    ::kube::Error::Api(status) => failed(status.message.clone()),
                    other => failed(causes(&other)),
                })?;
                let (stream, reason) = (forwarder.take_stream(port), forwarder.take_error(port));
                let stream = stream.ok_or_else(|| failed("the API server opened no stream".to_owned()))?;
                let reason = async move { reason?.await };
                Ok((Box::new(stream), Box::pin(reason)))
            }
            #[cfg(test)]
            Forwarding::Mock(ports) => {
                let stream = ports.open(namespace, pod, port, failed)?;
                Ok((stream, Box::pin(std::future::ready(None))))
            }
        }
    }
}

async fn get(stream: Box<dyn Stream>, path: String) -> Result<Page, String> {
    let (_connection, response) = exchange(stream, path).await?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_PAGE).collect().await.map_err(|error| error.to_string())?.to_bytes();
    Ok(Page { status: head.status, body })
}
