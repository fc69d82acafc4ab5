//! The answer as one value, whose keys stay: what `-o json` prints, what `meshctl test` compares, what text is made of.

use mesh_policy::{Filter, Retry, SessionPersistence, Target, Timeouts};
use serde::Serialize;
use serde_json::Value;

use super::{server::Server, tried::Lost};

/// What applies to a request or a connection. Every key is always there; docs/explain.md documents each.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Explained {
    /// What was called: `namespace/name:port` of a Service, or the address of an endpoint.
    pub target: String,
    /// The namespace that the client is in.
    pub from: String,
    /// A stable word, see [`Explained::VERDICTS`].
    pub verdict: &'static str,
    /// The route that applies.
    pub route: Option<RouteName>,
    /// Its rule.
    pub rule: Option<RuleName>,
    /// What held of the rule.
    pub matched: Option<String>,
    /// The rule's filters, in order.
    pub filters: Vec<Filter>,
    /// The rule's time limits.
    pub timeouts: Timeouts,
    /// What is tried again.
    pub retry: Option<Retry>,
    /// How sessions stay.
    pub session: Option<SessionPersistence>,
    /// Where it goes.
    pub backends: Vec<Share>,
    /// What a backend sees, as far as it does not depend on which.
    pub sent: Option<Sent>,
    /// What is answered instead of a backend's answer.
    pub answer: Option<Answer>,
    /// Rules that were tried before and lost, in the order of precedence.
    pub tried: Vec<Lost>,
    /// What the servers' sidecars decide about the caller; `null`: nothing goes to them, or it is not known.
    pub server: Option<Server>,
    /// What is wrong with the objects that take part.
    pub problems: Vec<String>,
    /// What else should be known.
    pub notes: Vec<String>,
    /// Whether it goes as a request that proxies see.
    #[serde(skip)]
    pub is_request: bool,
}

/// A route object.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct RouteName {
    /// As in `HTTPRoute`.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A rule of a route.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct RuleName {
    /// Its place in the route, from 0.
    pub index: usize,
    /// Its own name.
    pub name: Option<String>,
}

/// One backend and its share.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Share {
    /// `namespace/name:port`; `null` if it cannot be served.
    pub service: Option<String>,
    /// As written.
    pub weight: u32,
    /// Percent of the requests.
    pub share: f64,
    /// Why its share is answered 500.
    pub invalid: Option<String>,
    /// Its own filters.
    pub filters: Vec<Filter>,
    /// Where it leads; `None` if it cannot be served.
    #[serde(skip)]
    pub target: Option<Target>,
}

/// A request as a backend sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Sent {
    /// Its host.
    pub host: String,
    /// Its path and query.
    pub path: String,
    /// Its headers: those that were given, and what filters make of them.
    pub headers: Value,
    /// Headers that filters put into every response.
    #[serde(rename = "responseHeaders")]
    pub response_headers: Value,
}

/// An answer of the proxy itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Answer {
    /// The HTTP status; `null` for a connection, which is closed.
    pub status: Option<u16>,
    /// Where a redirect leads.
    pub location: Option<String>,
    /// The answer's headers, as far as routes say them.
    pub headers: Value,
}

impl Explained {
    /// Every verdict.
    pub(crate) const VERDICTS: [&'static str; 9] = [
        "default",
        "forward",
        "redirect",
        "preflight",
        "not-found",
        "no-backends",
        "invalid-backends",
        "unknown-target",
        "unknown-address",
    ];

    /// Whether nobody would serve it.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self.verdict, "not-found" | "no-backends" | "invalid-backends" | "unknown-target" | "unknown-address")
    }

    /// An answer of which nothing more is known yet.
    pub(crate) fn new(target: String, from: &str, verdict: &'static str) -> Self {
        Self {
            target,
            from: from.to_owned(),
            verdict,
            route: None,
            rule: None,
            matched: None,
            filters: Vec::new(),
            timeouts: Timeouts::default(),
            retry: None,
            session: None,
            backends: Vec::new(),
            sent: None,
            answer: None,
            tried: Vec::new(),
            server: None,
            problems: Vec::new(),
            notes: Vec::new(),
            is_request: false,
        }
    }
}
