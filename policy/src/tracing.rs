//! Which spans a sidecar makes of its pod's requests, and which collector gets them. XTelemetryPolicy of the Gateway API
//! (GEP-4768) and a value of the chart say it; the sidecar does it.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use crate::{access_log::WHOLE, model::ServiceRef};

/// What is made of the requests of a pod. A pod of which nothing is said makes no spans, and passes `traceparent` as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracing {
    /// Who gets the spans.
    pub collector: Collector,
    /// Which requests have spans.
    pub sampling: Sampling,
    /// `service.name` of the resource; `None`: the workload's own name.
    pub service_name: Option<Arc<str>>,
    /// The name of every span; `None`: as OpenTelemetry's conventions say.
    pub span_name: Option<Arc<str>>,
    /// Attributes that every span has beside the usual.
    pub attributes: Vec<SpanAttribute>,
}

/// Where OTLP goes. It is a Service of the cluster, so it is called as any: encrypted where it is meshed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// The collector's Service and port.
    pub service: ServiceRef,
    /// What it speaks there.
    pub protocol: OtlpProtocol,
    /// Headers of every export, as for a key.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// The two forms of OTLP that are in use (OTLP 1.9; JSON is not sent).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// Unary calls over HTTP/2; port 4317 by convention.
    #[default]
    Grpc,
    /// Protobuf in POSTs to `/v1/traces` and `/v1/logs`; port 4318 by convention.
    Http,
}

/// Which requests have spans, in parts of a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Of requests that come without a parent.
    pub root: u32,
    /// Of requests whose parent is sampled; those whose parent is not are never. `None`: the parent is not asked, and `root` counts
    /// for all.
    pub parent: Option<u32>,
}

impl Default for Sampling {
    /// One of a hundred, and all whose parent is sampled.
    fn default() -> Self {
        Self { root: WHOLE / 100, parent: Some(WHOLE) }
    }
}

impl Sampling {
    /// Whether a request has spans. `parent`: whether its parent is sampled, if it has one. `of_million`: a number below a
    /// million that is the same wherever the same trace is asked about, so that a trace is whole or absent.
    pub fn picks(&self, parent: Option<bool>, of_million: u32) -> bool {
        match (parent, self.parent) {
            (Some(false), Some(_)) => false,
            (Some(true), Some(part)) => of_million < part,
            (_, None) | (None, _) => of_million < self.root,
        }
    }
}

/// An attribute of every span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanAttribute {
    /// Its key.
    pub name: Arc<str>,
    /// Where its value comes from.
    pub value: SpanValue,
}

/// The value of a span's attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpanValue {
    /// A header of the request; credentials are never told ([`SECRET`](crate::access_log::SECRET)).
    Header(HeaderName),
    /// A text.
    Literal(Arc<str>),
    /// Another attribute, under this name.
    Attribute(Arc<str>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_decides_where_it_is_asked() {
        let of = |root, parent| Sampling { root, parent };
        for (sampling, parent, number, expected) in [
            (of(10, Some(WHOLE)), None, 9, true),
            (of(10, Some(WHOLE)), None, 10, false),
            (of(10, Some(WHOLE)), Some(true), WHOLE - 1, true),
            (of(WHOLE, Some(WHOLE)), Some(false), 0, false),
            (of(WHOLE, Some(5)), Some(true), 5, false),
            (of(10, None), Some(false), 9, true),
            (of(10, None), Some(true), 10, false),
            (of(0, Some(0)), Some(true), 0, false),
        ] {
            assert_eq!(sampling.picks(parent, number), expected, "{sampling:?} {parent:?} {number}");
        }
    }
}
