//! How a connection is served, decided before any byte is read.

use crate::model::{OutboundPolicy, PortPolicy, Protocol, RouteKind};

/// How a connection is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// As bytes, not looked at: the port is declared to speak something other than HTTP, or TCPRoutes are attached.
    Opaque,
    /// As bytes, routed by the SNI of the ClientHello: TLSRoutes are attached.
    ServerName,
    /// As requests only: HTTP is declared. Everything else is refused, also TLS, because `http` declares that it is not
    /// encrypted.
    Http,
    /// As requests, or as the applications' own TLS: nothing is declared, but HTTPRoutes or GRPCRoutes are attached. A route
    /// without a port is attached to the Service's TLS port too, and no server takes a ClientHello for a request.
    HttpRoutes,
    /// As whatever is detected: nothing is declared or attached.
    Detect,
}

impl Mode {
    /// Whether only requests are served. Then the proxy waits for a silent client, and connects to no server for it.
    pub fn is_requests(self) -> bool {
        matches!(self, Self::Http | Self::HttpRoutes)
    }

    fn of(protocol: Protocol, has_request_routes: bool) -> Self {
        match protocol {
            Protocol::Opaque => Self::Opaque,
            Protocol::Http1 | Protocol::Http2 => Self::Http,
            Protocol::Detect if has_request_routes => Self::HttpRoutes,
            Protocol::Detect => Self::Detect,
        }
    }
}

impl OutboundPolicy {
    /// How a client's proxy serves a connection to the target. TLSRoutes and TCPRoutes apply to bytes, whatever protocol the
    /// port declares.
    pub fn mode(&self) -> Mode {
        match self.routes.kind() {
            Some(RouteKind::Tls) => Mode::ServerName,
            Some(RouteKind::Tcp) => Mode::Opaque,
            kind => Mode::of(self.protocol, kind.is_some_and(RouteKind::is_of_requests)),
        }
    }
}

impl PortPolicy {
    /// How a server's proxy serves a connection to the port.
    pub fn mode(&self) -> Mode {
        Mode::of(self.protocol, self.has_request_routes)
    }
}
