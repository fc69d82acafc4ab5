//! The nouns: the one model of routes, rules, backends and policies. Every other form (manifests, wire, JSON) is a
//! conversion at an edge.
//!
//! Values are immutable once built and shared behind an `Arc`; a change makes a new value.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use crate::{
    filter::Filter,
    identity::Identity,
    retry::Retry,
    route::{HostMatch, RequestMatch, RouteTable},
    session::SessionPersistence,
};

/// A port of a Kubernetes Service: what a client calls and what a backend reference names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceRef {
    /// Namespace of the Service.
    pub namespace: Arc<str>,
    /// Name of the Service.
    pub name: Arc<str>,
    /// The Service's port (not the target port of its pods).
    pub port: u16,
}

impl fmt::Display for ServiceRef {
    /// `namespace/name:port`, the form of logs, metrics and messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.name, self.port)
    }
}

/// What a port speaks: from `appProtocol`, an annotation, or to be found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Found out from the first bytes.
    #[default]
    Detect,
    /// HTTP/1.x.
    Http1,
    /// HTTP/2 with prior knowledge, gRPC included (`kubernetes.io/h2c`, `grpc`).
    Http2,
    /// Bytes; no detection and no waiting for the client.
    Opaque,
}

/// Everything a client's proxy must know to send traffic to one target.
#[derive(Clone, Debug, PartialEq)]
pub struct OutboundPolicy {
    /// What was called.
    pub target: Target,
    /// What the called port speaks.
    pub protocol: Protocol,
    /// Routes attached to the Service, in precedence order, all for requests or all for connections of one kind (see
    /// [`RouteKind`]). Empty: the Service itself is the one backend.
    pub routes: RouteTable,
}

/// What an outbound address or authority stands for.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// A Service: opaque traffic and requests without routes go to its endpoints.
    Service(ServiceRef),
    /// One pod, called by its own address: never balanced, never routed elsewhere.
    Endpoint(Endpoint),
    /// An address that nobody of the cluster has: what goes there passes as it is.
    Outside(SocketAddr),
    /// An address of the cluster of which it is not known who has it. Nothing goes there until it is: a plain connection may
    /// reach a meshed pod.
    Unknown(SocketAddr),
}

/// One place that serves a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where to dial.
    pub address: SocketAddr,
    /// The identity its proxy must prove. `None`: not meshed, so it is called in plain text.
    pub identity: Option<Identity>,
    /// Topology zone of its node, if known.
    pub zone: Option<Arc<str>>,
    /// `namespace/pod`, for metrics and people; empty if unknown.
    pub workload: Arc<str>,
}

/// Which Gateway API kind a route came from; names it in metrics and messages.
///
/// The order is that of GEP-1426: of kinds attached to one port the first alone is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// `GRPCRoute`.
    Grpc,
    /// `HTTPRoute`.
    Http,
    /// `TLSRoute`: connections of the applications' own TLS, by the name they ask for (SNI).
    Tls,
    /// `TCPRoute`: every connection.
    Tcp,
}

impl RouteKind {
    /// The kind as Kubernetes spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
        }
    }

    /// Whether its rules are about requests; those of the others are about connections.
    pub fn is_of_requests(self) -> bool {
        matches!(self, Self::Grpc | Self::Http)
    }

    /// Every kind, the first in force first.
    pub const ALL: [Self; 4] = [Self::Grpc, Self::Http, Self::Tls, Self::Tcp];
}

/// Which object a route came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteMeta {
    /// The Gateway API kind.
    pub kind: RouteKind,
    /// Namespace of the route object.
    pub namespace: Arc<str>,
    /// Name of the route object.
    pub name: Arc<str>,
    /// `metadata.creationTimestamp` in seconds since 1970; the older route wins a tie. 0 where unknown.
    pub created: i64,
}

/// One route object.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Where it came from.
    pub meta: RouteMeta,
    /// Hostnames it serves (of a TLSRoute: names asked for by SNI); empty means every host.
    pub hostnames: Vec<HostMatch>,
    /// Its rules in the order of the object.
    pub rules: Vec<Rule>,
}

/// One rule of a route.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// The rule's own name (GEP-995), if it has one.
    pub name: Option<Arc<str>>,
    /// Alternatives, any of which selects the rule; empty means every request (path prefix `/`).
    pub matches: Vec<RequestMatch>,
    /// Applied to every request of the rule, and to its response.
    pub filters: Vec<Filter>,
    /// Where the requests go, by weight. Empty: 500, as the Gateway API says of a rule without backends.
    pub backends: Vec<Backend>,
    /// Time limits.
    pub timeouts: Timeouts,
    /// What is tried again; `None`: only what was never delivered, and safe methods whose connection broke.
    pub retry: Option<Retry>,
    /// Whether requests of one session stay with one endpoint.
    pub session: Option<SessionPersistence>,
}

/// `timeouts` of an HTTPRoute rule (GEP-1742). `None` means no limit of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the last byte of the request head to the end of the response, attempts included.
    pub request: Option<Duration>,
    /// Each attempt at a backend, until its response has ended. Never longer than `request`.
    pub backend_request: Option<Duration>,
}

/// Largest weight of a backend (Gateway API, `weight`).
pub const MAX_WEIGHT: u32 = 1_000_000;

/// One weighted backend of a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Share of the requests: weight / sum of weights; 0 sends none. At most [`MAX_WEIGHT`].
    pub weight: u32,
    /// Where to.
    pub target: BackendTarget,
    /// Applied after the rule's own filters, only to requests for this backend.
    pub filters: Vec<Filter>,
}

/// What a backend reference stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendTarget {
    /// A Service's port whose endpoints the proxy follows.
    Service(ServiceRef),
    /// A reference that cannot be served: its share of the requests is answered 500 (Gateway API, `backendRefs`).
    Invalid {
        /// The reference as written and why it is invalid, for the response body and `explain`.
        reason: Arc<str>,
    },
}

/// Who may call a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Anyone, also without TLS. The default until a policy says otherwise, so that meshing changes nothing.
    #[default]
    All,
    /// Any verified identity of the mesh.
    Authenticated,
    /// The identities listed, compared exactly.
    Only(Vec<Identity>),
    /// No one.
    None,
}

/// Everything a server's proxy must know about one of its ports.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InboundPolicy {
    /// What the port speaks.
    pub protocol: Protocol,
    /// Who may call it.
    pub access: Access,
    /// Name of the object that `access` came from, for 403s and logs; `default` when there is none.
    pub access_name: Option<Arc<str>>,
    /// Whether requests must be seen one by one: an opaque connection is then refused.
    pub requires_http: bool,
    /// Whether HTTPRoutes or GRPCRoutes are attached to a Service that leads to the port: what a server may take for a
    /// request is then served or refused as one, never passed as bytes.
    pub has_request_routes: bool,
}
