//! Sessions that stay with an endpoint (Gateway API, `SessionPersistence`, GEP-1619).

use std::time::Duration;

/// How requests of one session find the endpoint that served its first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPersistence {
    /// Name of the cookie or of the header, which a client sends back as it got it.
    pub name: Box<str>,
    /// What carries the session.
    pub carrier: SessionCarrier,
    /// Path of the cookie (RFC 6265 section 4.1.2.4); `None`: that of the match. A header has none.
    pub path: Option<Box<str>>,
    /// Whether a session stays with its backend, whatever the weights say, as up to v1.6 of the Gateway API. Since v1.7 the
    /// backend is chosen by weight each time, and a session is one with each backend (GEP-1619, "Traffic Splitting").
    pub keeps_backend: bool,
    /// When a session ends, counted from its start; `None`: never by age.
    pub absolute_timeout: Option<Duration>,
}

/// What carries a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionCarrier {
    /// A cookie that the browser forgets when it is closed (`lifetimeType: Session`).
    SessionCookie,
    /// A cookie that lives as long as `absolute_timeout` (`lifetimeType: Permanent`, which needs that).
    PermanentCookie,
    /// A header of the response that the client repeats.
    Header,
}
