//! The answer as one value, whose keys stay: what `-o json` prints, what `meshctl test` compares, what text is made of.

use serde::Serialize;
use serde_json::Value;

use super::tried::Lost;

/// What applies to a request or a connection. Every key is always there; docs/explain.md documents each.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explained {
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
    pub filters: Vec<Value>,
    /// The rule's time limits.
    pub timeouts: TimeLimits,
    /// What is tried again.
    pub retry: Option<Value>,
    /// How sessions stay.
    pub session: Option<Value>,
    /// Where it goes.
    pub backends: Vec<Share>,
    /// What a backend sees, as far as it does not depend on which.
    pub sent: Option<Sent>,
    /// What is answered instead of a backend's answer.
    pub answer: Option<Answer>,
    /// Rules that were tried before and lost, in the order of precedence.
    pub tried: Vec<Lost>,
    /// What is wrong with the objects that take part.
    pub problems: Vec<String>,
    /// What else should be known.
    pub notes: Vec<String>,
    /// The same filters, retries and sessions in words.
    #[serde(skip)]
    pub words: Words,
}

/// Parts of a rule in words.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Words {
    /// One for each filter.
    pub filters: Vec<String>,
    /// Of `retry`.
    pub retry: Option<String>,
    /// Of `session`.
    pub session: Option<String>,
}

/// A route object.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouteName {
    /// As in `HTTPRoute`.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A rule of a route.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RuleName {
    /// Its place in the route, from 0.
    pub index: usize,
    /// Its own name.
    pub name: Option<String>,
}

/// Time limits; `null` is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TimeLimits {
    /// Of the whole exchange.
    pub request: Option<String>,
    /// Of each attempt.
    #[serde(rename = "backendRequest")]
    pub backend_request: Option<String>,
}

/// One backend and its share.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share {
    /// `namespace/name:port`; `null` if it cannot be served.
    pub service: Option<String>,
    /// As written.
    pub weight: u32,
    /// Percent of the requests.
    pub share: f64,
    /// Why its share is answered 500.
    pub invalid: Option<String>,
    /// Its own filters.
    pub filters: Vec<Value>,
    /// They, in words.
    #[serde(skip)]
    pub words: Vec<String>,
}

/// A request as a backend sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sent {
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
pub struct Answer {
    /// The HTTP status; `null` for a connection, which is closed.
    pub status: Option<u16>,
    /// Where a redirect leads.
    pub location: Option<String>,
    /// The answer's headers, as far as routes say them.
    pub headers: Value,
}

impl Explained {
    /// Every verdict.
    pub const VERDICTS: [&'static str; 9] = [
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
    pub fn is_refused(&self) -> bool {
        matches!(self.verdict, "not-found" | "no-backends" | "invalid-backends" | "unknown-target" | "unknown-address")
    }

    /// An answer of which nothing more is known yet.
    pub fn new(target: String, from: &str, verdict: &'static str) -> Self {
        Self {
            target,
            from: from.to_owned(),
            verdict,
            route: None,
            rule: None,
            matched: None,
            filters: Vec::new(),
            timeouts: TimeLimits::default(),
            retry: None,
            session: None,
            backends: Vec::new(),
            sent: None,
            answer: None,
            tried: Vec::new(),
            problems: Vec::new(),
            notes: Vec::new(),
            words: Words::default(),
        }
    }
}
