//! Why the proxy answers itself: a name, a status, whose fault it is and what to look at, a row each.

use http::StatusCode;
use mesh_policy::Class;

/// Why the proxy answered itself. A bounded set: it labels metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    /// The request is malformed or ambiguous.
    BadRequest,
    /// The header section is over the limits.
    HeadersTooLarge,
    /// The request's body brought nothing for too long.
    RequestTimeout,
    /// The request's authority names nothing that the controller knows.
    UnknownTarget,
    /// The address is one of the cluster's, and nobody is known to have it.
    UnknownAddress,
    /// The controller did not answer in time about a target not seen before.
    DiscoveryUnavailable,
    /// Routes are attached to the Service and none matches.
    NoRoute,
    /// The rule has no backend that can be served.
    InvalidBackend,
    /// The backend has no ready endpoint.
    NoEndpoints,
    /// No endpoint could be reached; the request was never delivered.
    ConnectFailed,
    /// The endpoint's certificate does not prove the identity that discovery gave.
    IdentityMismatch,
    /// The endpoint refused the request before handling it.
    Refused,
    /// The connection ended before the response head.
    UpstreamReset,
    /// What the endpoint or the application answered is no valid response.
    BadResponse,
    /// The time limit of the route or of the caller passed.
    Timeout,
    /// Policy denies the caller.
    Denied,
    /// A limit of this proxy is reached.
    Overloaded,
    /// The proxy has no certificate yet.
    NoIdentity,
    /// The proxy would call itself.
    Loop,
    /// The peer sends HTTP/2 frames that carry nothing, or resets what it asked for, without end.
    Flood,
}

/// Who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The caller sent something that cannot be served.
    Client,
    /// The server or its proxy.
    Upstream,
    /// Configuration: routes, policies, Services.
    Config,
    /// The mesh itself.
    Mesh,
}

impl Fault {
    /// Its name, in the access log.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Config => "config",
            Self::Mesh => "mesh",
        }
    }
}

impl Reason {
    /// Every reason, for the metrics catalogue and the documentation test.
    pub(crate) const ALL: [Self; 20] = [
        Self::BadRequest,
        Self::HeadersTooLarge,
        Self::RequestTimeout,
        Self::UnknownTarget,
        Self::UnknownAddress,
        Self::DiscoveryUnavailable,
        Self::NoRoute,
        Self::InvalidBackend,
        Self::NoEndpoints,
        Self::ConnectFailed,
        Self::IdentityMismatch,
        Self::Refused,
        Self::UpstreamReset,
        Self::BadResponse,
        Self::Timeout,
        Self::Denied,
        Self::Overloaded,
        Self::NoIdentity,
        Self::Loop,
        Self::Flood,
    ];

    /// The stable name, in headers and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        self.described().1
    }

    /// The status of the response.
    pub(crate) fn status(self) -> StatusCode {
        self.described().2
    }

    /// Who has to act.
    pub(crate) fn fault(self) -> Fault {
        self.described().3
    }

    /// What to look at, for the text body.
    pub(crate) fn hint(self) -> &'static str {
        self.described().4
    }

    /// The canonical gRPC status code (grpc/doc/statuscodes.md) for gRPC callers.
    pub(crate) fn grpc_status(self) -> u8 {
        // Gateway API, `GRPCRouteRule.backendRefs`: UNAVAILABLE.
        if self == Self::InvalidBackend {
            return 14;
        }
        match self.status() {
            StatusCode::NOT_FOUND => 12,
            StatusCode::FORBIDDEN => 7,
            StatusCode::GATEWAY_TIMEOUT => 4,
            StatusCode::BAD_REQUEST | StatusCode::INTERNAL_SERVER_ERROR => 13,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => 8,
            _ => 14,
        }
    }

    /// What it counts as.
    pub(crate) fn class(self) -> Class {
        match self {
            Self::BadRequest | Self::HeadersTooLarge | Self::Denied => Class::Denied,
            Self::Overloaded | Self::Flood => Class::Limited,
            Self::NoRoute => Class::NotFound,
            _ => Class::Failure,
        }
    }

    fn described(self) -> &'static Described {
        &DESCRIBED[self as usize]
    }
}

/// A reason's name, status, whose fault it is, and what to look at.
type Described = (Reason, &'static str, StatusCode, Fault, &'static str);

/// One row for each reason, in their order.
static DESCRIBED: [Described; Reason::ALL.len()] = [
    (
        Reason::BadRequest,
        "bad-request",
        StatusCode::BAD_REQUEST,
        Fault::Client,
        "Mend the request; it was not forwarded, or not as a whole.",
    ),
    (
        Reason::HeadersTooLarge,
        "headers-too-large",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Fault::Client,
        "Send fewer or shorter headers, or raise MESH_MAX_HEADERS and MESH_MAX_HEADER_BYTES.",
    ),
    (
        Reason::RequestTimeout,
        "request-timeout",
        StatusCode::REQUEST_TIMEOUT,
        Fault::Client,
        "Send the body without such pauses, or raise MESH_UPLOAD_TIMEOUT; the server has a part of it.",
    ),
    (
        Reason::UnknownTarget,
        "unknown-target",
        StatusCode::SERVICE_UNAVAILABLE,
        Fault::Config,
        "Check the name and the port: they must be those of a Service (meshctl diagnostics endpoints).",
    ),
    (
        Reason::UnknownAddress,
        "unknown-address",
        StatusCode::SERVICE_UNAVAILABLE,
        Fault::Config,
        "No pod and no Service is known to have this address of the cluster; look at who should (meshctl diagnostics endpoints).",
    ),
    (
        Reason::DiscoveryUnavailable,
        "discovery-unavailable",
        StatusCode::SERVICE_UNAVAILABLE,
        Fault::Mesh,
        "The controller cannot be reached; run: meshctl check",
    ),
    (
        Reason::NoRoute,
        "no-route",
        StatusCode::NOT_FOUND,
        Fault::Config,
        "The Service has routes and none matches this request; compare it with their rules.",
    ),
    (
        Reason::InvalidBackend,
        "invalid-backend",
        StatusCode::INTERNAL_SERVER_ERROR,
        Fault::Config,
        "Look at the route's status: a backendRef names nothing that can be served.",
    ),
    (
        Reason::NoEndpoints,
        "no-endpoints",
        StatusCode::SERVICE_UNAVAILABLE,
        Fault::Upstream,
        "The backend has no ready pod; look at its pods and its EndpointSlices.",
    ),
    (
        Reason::ConnectFailed,
        "connect-failed",
        StatusCode::SERVICE_UNAVAILABLE,
        Fault::Upstream,
        "No endpoint accepted a connection; look at the server's pods. The request was not delivered.",
    ),
    (
        Reason::IdentityMismatch,
        "identity-mismatch",
        StatusCode::SERVICE_UNAVAILABLE,
        Fault::Mesh,
        "The endpoint's certificate names another service account than discovery; look at its pod.",
    ),
    (
        Reason::Refused,
        "refused",
        StatusCode::SERVICE_UNAVAILABLE,
        Fault::Upstream,
        "The server's application accepts no connections; look at its pod. The request was not delivered.",
    ),
    (
        Reason::UpstreamReset,
        "upstream-reset",
        StatusCode::BAD_GATEWAY,
        Fault::Upstream,
        "The server closed the connection before it answered; the request may have been handled.",
    ),
    (
        Reason::BadResponse,
        "bad-response",
        StatusCode::BAD_GATEWAY,
        Fault::Upstream,
        "The server's answer is not valid HTTP or over a limit.",
    ),
    (
        Reason::Timeout,
        "timeout",
        StatusCode::GATEWAY_TIMEOUT,
        Fault::Upstream,
        "The time limit of the route, or the caller's own (grpc-timeout), passed; see the route's timeouts.",
    ),
    (
        Reason::Denied,
        "denied",
        StatusCode::FORBIDDEN,
        Fault::Config,
        "A policy of the server does not allow this caller; the log of the server's proxy names both.",
    ),
    (
        Reason::Overloaded,
        "overloaded",
        StatusCode::SERVICE_UNAVAILABLE,
        Fault::Mesh,
        "A limit of the proxy is reached; see its metrics for which.",
    ),
    (
        Reason::NoIdentity,
        "no-identity",
        StatusCode::SERVICE_UNAVAILABLE,
        Fault::Mesh,
        "The proxy has no certificate yet; look at its log and at mesh-identity.",
    ),
    (
        Reason::Loop,
        "loop",
        StatusCode::SERVICE_UNAVAILABLE,
        Fault::Config,
        "The destination is this proxy itself; correct the address.",
    ),
    (
        Reason::Flood,
        "flood",
        StatusCode::TOO_MANY_REQUESTS,
        Fault::Client,
        "The connection was ended with ENHANCE_YOUR_CALM; look at what its client sends, and why.",
    ),
];

#[cfg(test)]
mod tests {
    use mesh_policy::Refusal;

    use super::*;

    /// What is refused by plan has the status that the plan says.
    #[test]
    fn refusals_have_the_status_of_their_plan() {
        let target = mesh_policy::Target::Outside(([192, 0, 2, 1], 80).into());
        for (refusal, reasons) in [
            (Refusal::NoRoute, &[Reason::NoRoute][..]),
            (Refusal::NoBackend, &[Reason::InvalidBackend]),
            (Refusal::InvalidBackend(""), &[Reason::InvalidBackend]),
            (Refusal::BadLocation, &[Reason::BadRequest]),
            (Refusal::Unowned(&target), &[Reason::UnknownTarget, Reason::UnknownAddress]),
        ] {
            assert!(reasons.iter().all(|reason| reason.status() == refusal.status()), "{refusal:?}");
        }
    }

    #[test]
    fn names_are_unique_and_statuses_are_errors() {
        let names: std::collections::HashSet<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        assert!(Reason::ALL.iter().zip(&DESCRIBED).all(|(reason, row)| *reason == row.0), "a row each, in order");
        assert!(Reason::ALL.iter().all(|r| r.status().as_u16() >= 400 && !r.hint().is_empty()));
    }
}
