//! The cluster as commands see it: objects as JSON values, by path; ports of pods through the API server.
//!
//! Nothing here is made before a command asks for it, so that commands without a cluster start at once. Objects are not
//! typed: a check must be able to read what a newer or a broken API server says. It keeps no state and watches nothing.

mod config;
mod error;
mod forward;
mod lines;
#[cfg(test)]
pub(crate) mod mock;
pub(crate) mod pods;
pub(crate) mod trust_bundle;
pub(crate) mod value;

use std::time::{Duration, Instant};

use ::kube::{Client, client::Body};
use bytes::Bytes;
use http::{Method, Request, header, response::Parts};
use http_body_util::{BodyExt, Limited};
use serde_json::Value;

pub(crate) use error::{ClusterError, causes};
pub(crate) use forward::Stream;
pub(crate) use lines::Lines;

use crate::{globals::Globals, output};

/// One answer of the API server; a list of pods comes in parts of [`PAGE`].
const MAX_BODY: usize = 64 * 1024 * 1024;
/// One exchange with the API server. Its own limit is 60 s; a person gives up earlier.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(15);
/// Objects of one part of a list, as kubectl asks for.
const PAGE: usize = 500;
/// Objects of one list: more than the largest supported cluster has pods (150,000).
const MAX_OBJECTS: usize = 200_000;

/// A cluster and the user that speaks to it.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
    /// Its address, for messages.
    server: String,
    /// The namespace of `-n`, or of the context.
    namespace: String,
    verbose: bool,
    forwarding: forward::Forwarding,
}

/// A successful response of the API server.
#[derive(Clone, Debug)]
pub(crate) struct ApiResponse {
    /// The object; `null` when there is none.
    pub value: Value,
    /// The header `Date`.
    pub date: Option<String>,
}

impl Cluster {
    /// Reads the configuration and prepares the client; nothing is sent yet.
    pub(crate) async fn connect(globals: &Globals) -> Result<Self, ClusterError> {
        let config = config::load(globals).await?;
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let namespace = globals.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| ClusterError::of_transport(&server, &error))?;
        Ok(Self { client, server, namespace, verbose: globals.verbose, forwarding: forward::Forwarding::Api })
    }

    /// The API server's address.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// The namespace of `-n`, or of the context.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Reads an object or a page.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, ClusterError> {
        Ok(self.exchange(Method::GET, path, None).await?.value)
    }

    /// Reads an object that may not be there.
    pub(crate) async fn find(&self, path: &str) -> Result<Option<Value>, ClusterError> {
        match self.get(path).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends an object (a review, a dry run).
    pub(crate) async fn post(&self, path: &str, object: &Value) -> Result<Value, ClusterError> {
        Ok(self.exchange(Method::POST, path, Some(object)).await?.value)
    }

    /// Every object of a list, in parts. `query` is what narrows it, as in `labelSelector=app%3Dweb`, or empty.
    pub(crate) async fn list(&self, path: &str, query: &str) -> Result<Vec<Value>, ClusterError> {
        let mut items = Vec::new();
        let mut next = String::new();
        loop {
            let and = if query.is_empty() { "" } else { "&" };
            let mut answer = self.get(&format!("{path}?limit={PAGE}{and}{query}{next}")).await?;
            let Some(Value::Array(found)) = answer.get_mut("items").map(Value::take) else {
                return Err(self.malformed(path, "a list has no items"));
            };
            items.extend(found);
            match answer.pointer("/metadata/continue").and_then(Value::as_str) {
                Some(token) if !token.is_empty() && items.len() < MAX_OBJECTS => {
                    next = format!("&continue={}", encode(token));
                }
                _ => return Ok(items),
            }
        }
    }

    /// Reads text that is no object, such as a log: the first `most` bytes, and whether there were more.
    pub(crate) async fn text(&self, path: &str, most: usize) -> Result<(String, bool), ClusterError> {
        let (_, body) = self.bytes(Method::GET, path, None).await?;
        let kept = body.get(..most).unwrap_or(&body);
        Ok((String::from_utf8_lossy(kept).into_owned(), kept.len() < body.len()))
    }

    /// One exchange, with its answer's date.
    pub(crate) async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<ApiResponse, ClusterError> {
        let request_text = format!("{method} {path}");
        let (head, body) = self.bytes(method, path, body).await?;
        let date = head.headers.get(header::DATE).and_then(|date| date.to_str().ok()).map(str::to_owned);
        let value = serde_json::from_slice::<Value>(&body);
        let value = value.map_err(|error| self.malformed(&request_text, &error.to_string()))?;
        Ok(ApiResponse { value, date })
    }

    /// One exchange that succeeded, as it came.
    async fn bytes(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(Parts, Bytes), ClusterError> {
        let request_text = format!("{method} {path}");
        let begun = Instant::now();
        let bytes = body.map(Value::to_string).unwrap_or_default().into_bytes();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(bytes))
            .map_err(|error| self.malformed(&request_text, &error.to_string()))?;
        let exchange = async {
            let sent = self.client.send(request).await;
            let response = sent.map_err(|error| ClusterError::of_transport(&self.server, &error))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_BODY).collect().await;
            let body = body.map_err(|error| self.malformed(&request_text, &error.to_string()))?.to_bytes();
            Ok((head, body))
        };
        let silent = |_| ClusterError::Unreachable {
            server: self.server.clone(),
            why: format!("no answer to {request_text} within {} s", EXCHANGE_TIMEOUT.as_secs()),
        };
        let answered = tokio::time::timeout(EXCHANGE_TIMEOUT, exchange).await.map_err(silent).and_then(|done| done);
        if self.verbose {
            let status = answered.as_ref().map_or("no answer".to_owned(), |(head, _)| head.status.as_u16().to_string());
            output::note(&format!("{request_text}: {status} in {} ms", begun.elapsed().as_millis()));
        }
        let (head, body) = answered?;
        if !head.status.is_success() {
            let parsed = serde_json::from_slice::<Value>(&body).ok();
            let message = parsed.and_then(|value| Some(value.get("message")?.as_str()?.to_owned()));
            let message = message.unwrap_or_else(|| request_text.clone());
            return Err(ClusterError::of_status(&self.server, head.status.as_u16(), message));
        }
        Ok((head, body))
    }

    fn malformed(&self, request: &str, why: &str) -> ClusterError {
        ClusterError::Malformed { request: request.to_owned(), why: why.to_owned(), server: self.server.clone() }
    }
}

/// A path of the API: its parts, each made safe. Names come from people.
pub(crate) fn path(parts: &[&str]) -> String {
    parts.iter().map(|part| format!("/{}", encode(part))).collect()
}

/// Path of a resource of the core group, in a namespace.
pub(crate) fn core(namespace: &str, resource: &str) -> String {
    path(&["api", "v1", "namespaces", namespace, resource])
}

/// Path of one object of the core group, in a namespace.
pub(crate) fn core_object(namespace: &str, resource: &str, name: &str) -> String {
    path(&["api", "v1", "namespaces", namespace, resource, name])
}

/// Percent-encodes what is not unreserved (RFC 3986).
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
