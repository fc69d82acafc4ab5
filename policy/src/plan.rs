//! What happens to one request, or to one connection of bytes, of a client: all of it, as a value.
//!
//! The proxy carries a plan out and `meshctl explain` prints it, so both always agree. It does not choose the endpoint of a
//! backend, the time limits or the number of attempts; [`crate::model::Rule`] has their limits.

use std::fmt;

use http::{HeaderMap, HeaderValue, StatusCode, Uri, header, uri::Authority};

use crate::{
    decide::{OutboundDecision, OutboundVerdict},
    facts::RequestFacts,
    filter::{Filter, Mirror, Rewrite},
    model::{Backend, BackendTarget, Endpoint, ServiceRef, Target},
    route::RequestMatch,
};

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Plan<'p> {
    /// It is forwarded.
    Forward(Forward<'p>),
    /// It is answered here: a redirect, or a CORS preflight.
    Reply(LocalReply),
    /// Nobody serves it.
    Refuse(Refusal<'p>),
}

/// A request that is forwarded.
#[derive(Clone, Copy, Debug)]
pub struct Forward<'p> {
    /// The destination.
    pub to: ForwardTo<'p>,
    /// The changes to the request and the response.
    pub edits: Edits<'p>,
}

/// Where a request or a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardTo<'p> {
    /// To an endpoint of a Service.
    Service(&'p ServiceRef),
    /// To one pod.
    Endpoint(&'p Endpoint),
}

/// An answer without a body, as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalReply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, after the filters for responses.
    pub headers: HeaderMap,
}

/// Why nobody serves a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal<'p> {
    /// Routes are attached and none matches (Gateway API, `matches`).
    NoRoute,
    /// The rule has no backend with a weight (Gateway API, `backendRefs`).
    NoBackend,
    /// The backend refers to nothing that can be served; this is the reason.
    InvalidBackend(&'p str),
    /// The address has no known owner in the mesh.
    Unowned(&'p Target),
    /// The redirect makes no valid `Location` for this request.
    BadLocation,
}

impl Refusal<'_> {
    /// The status of the answer to a request. A connection of bytes is closed instead.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NoBackend | Self::InvalidBackend(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unowned(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::BadLocation => StatusCode::BAD_REQUEST,
        }
    }
}

impl<'p> OutboundDecision<'p> {
    /// The plan for the request, given the backend that was picked for it, if any ([`Self::pick`], or the backend of its
    /// session). `scheme` is that of the request.
    pub fn plan(&self, backend: Option<&'p Backend>, request: &RequestFacts<'_>, scheme: &str) -> Plan<'p> {
        let edits = self.edits(backend);
        let origin = request.headers.get(header::ORIGIN);
        match backend.and_then(|backend| backend.answer(request)).unwrap_or(self.verdict) {
            OutboundVerdict::Redirect(redirect) => {
                let location = redirect.location(request, scheme, self.target.port(), self.matched);
                let (Ok(location), Ok(status)) =
                    (HeaderValue::try_from(location), StatusCode::from_u16(redirect.status))
                else {
                    return Plan::Refuse(Refusal::BadLocation);
                };
                let mut headers = HeaderMap::from_iter([(header::LOCATION, location)]);
                edits.response(&mut headers, origin);
                Plan::Reply(LocalReply { status, headers })
            }
            OutboundVerdict::Preflight(cors) => {
                let mut headers = cors.preflight(request.headers);
                // The preflight already has the CORS headers.
                edits.response_of(&mut headers, origin, |filter| !matches!(filter, Filter::Cors(_)));
                Plan::Reply(LocalReply { status: StatusCode::NO_CONTENT, headers })
            }
            _ => match self.forward_to(backend) {
                Ok(to) => Plan::Forward(Forward { to, edits }),
                Err(refusal) => Plan::Refuse(refusal),
            },
        }
    }

    /// The destination, if the request is not answered here. For a connection of bytes, this is the whole plan.
    pub fn forward_to(&self, backend: Option<&'p Backend>) -> Result<ForwardTo<'p>, Refusal<'p>> {
        match (self.verdict, backend.map(|backend| &backend.target)) {
            (OutboundVerdict::Default(Target::Service(service)), _)
            | (OutboundVerdict::Forward(_), Some(BackendTarget::Service(service))) => Ok(ForwardTo::Service(service)),
            (OutboundVerdict::Default(Target::Endpoint(endpoint)), _) => Ok(ForwardTo::Endpoint(endpoint)),
            (OutboundVerdict::Default(target @ (Target::Outside(_) | Target::Unknown(_))), _) => {
                Err(Refusal::Unowned(target))
            }
            (OutboundVerdict::Forward(_), Some(BackendTarget::Invalid { reason })) => {
                Err(Refusal::InvalidBackend(reason))
            }
            (OutboundVerdict::NotFound, _) => Err(Refusal::NoRoute),
            (
                OutboundVerdict::Forward(_)
                | OutboundVerdict::NoBackends
                | OutboundVerdict::Redirect(_)
                | OutboundVerdict::Preflight(_),
                _,
            ) => Err(Refusal::NoBackend),
        }
    }

    /// The edits of the rule and the backend.
    pub fn edits(&self, backend: Option<&'p Backend>) -> Edits<'p> {
        Edits {
            rule: self.rule.map_or(&[], |rule| &rule.filters),
            backend: backend.map_or(&[], |backend| &backend.filters),
            matched: self.matched,
        }
    }
}

/// The edits by the filters of a rule and of a backend. For a request the rule's filters come first, for a response the
/// backend's; each in the order written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Edits<'p> {
    rule: &'p [Filter],
    backend: &'p [Filter],
    matched: Option<&'p RequestMatch>,
}

/// The parts of a request that may be changed.
#[derive(Debug)]
pub struct RequestHead<'r> {
    /// Its target.
    pub uri: &'r mut Uri,
    /// The host that is sent, with a port if it has one.
    pub authority: &'r mut Authority,
    /// Its header section.
    pub headers: &'r mut HeaderMap,
}

/// An edit that makes the request invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidEdit(String);

impl fmt::Display for InvalidEdit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a rewrite makes no valid request: {}", self.0)
    }
}

impl std::error::Error for InvalidEdit {}

impl<'p> Edits<'p> {
    /// Changes a request.
    pub fn request(&self, head: &mut RequestHead<'_>) -> Result<(), InvalidEdit> {
        for filter in self.outward() {
            match filter {
                Filter::Rewrite(rewrite) => apply_rewrite(rewrite, head, self.matched)?,
                filter => filter.apply_request(head.headers),
            }
        }
        Ok(())
    }

    /// Changes the headers of a response. `origin` is the request's `Origin`, see [`Self::wants_origin`].
    pub fn response(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
        self.response_of(headers, origin, |_| true);
    }

    fn response_of(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>, counts: fn(&Filter) -> bool) {
        for filter in self.backend.iter().chain(self.rule).filter(|filter| counts(filter)) {
            filter.apply_response(headers, origin);
        }
    }

    /// Whether the response depends on the request's `Origin`.
    pub fn wants_origin(&self) -> bool {
        self.outward().any(|filter| matches!(filter, Filter::Cors(_)))
    }

    /// The mirrors; each gets its own share of copies.
    pub fn mirrors(&self) -> impl Iterator<Item = &'p Mirror> {
        self.outward().filter_map(|filter| match filter {
            Filter::Mirror(mirror) => Some(mirror),
            _ => None,
        })
    }

    fn outward(&self) -> impl Iterator<Item = &'p Filter> + use<'p> {
        self.rule.iter().chain(self.backend)
    }
}

/// Rewrites the URL that the backend sees; the query stays.
fn apply_rewrite(
    rewrite: &Rewrite,
    head: &mut RequestHead<'_>,
    matched: Option<&RequestMatch>,
) -> Result<(), InvalidEdit> {
    let invalid = |error: &dyn fmt::Display| InvalidEdit(error.to_string());
    if let Some(hostname) = &rewrite.hostname {
        *head.authority = Authority::try_from(&**hostname).map_err(|error| invalid(&error))?;
    }
    let Some(modifier) = &rewrite.path else { return Ok(()) };
    let mut path = modifier.apply(head.uri.path(), matched);
    if let Some(query) = head.uri.query() {
        path.push('?');
        path.push_str(query);
    }
    let mut parts = std::mem::take(head.uri).into_parts();
    parts.path_and_query = Some(path.try_into().map_err(|error| invalid(&error))?);
    *head.uri = Uri::from_parts(parts).map_err(|error| invalid(&error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use http::Method;

    use super::*;
    use crate::{
        Cors, HeaderModifier, OutboundPolicy, PathMatch, PathModifier, Protocol, Redirect, Route, RouteKind, RouteMeta,
        RouteTable, Rule, decide_outbound,
    };

    fn policy(rule: Rule) -> OutboundPolicy {
        let meta = RouteMeta { kind: RouteKind::Http, namespace: "shop".into(), name: "r".into(), created: 0 };
        OutboundPolicy {
            target: Target::Service(service("web")),
            protocol: Protocol::Detect,
            routes: RouteTable::new(vec![Route { meta, hostnames: Vec::new(), rules: vec![rule] }]),
        }
    }

    fn service(name: &str) -> ServiceRef {
        ServiceRef::new("shop", name, 8080)
    }

    fn backend(filters: Vec<Filter>) -> Backend {
        Backend { weight: 1, target: BackendTarget::Service(service("v2")), filters }
    }

    fn header(modify: fn(HeaderModifier) -> Filter, value: &'static str) -> Filter {
        modify(HeaderModifier {
            set: vec![(http::HeaderName::from_static("x-by"), HeaderValue::from_static(value))],
            ..HeaderModifier::default()
        })
    }

    /// What happens to a request for `/old/a?b`.
    fn planned(rule: Rule, method: Method, headers: &HeaderMap, then: impl FnOnce(Plan<'_>)) {
        let policy = policy(rule);
        let facts = RequestFacts { method: &method, host: "web", path: "/old/a", query: Some("b"), headers };
        let decision = decide_outbound(&policy, &facts, &mut ());
        then(decision.plan(decision.pick(0), &facts, "http"));
    }

    #[test]
    fn the_rule_edits_first_on_the_way_there_and_last_on_the_way_back() {
        let both = |by| vec![header(Filter::RequestHeaders, by), header(Filter::ResponseHeaders, by)];
        let rule = Rule { filters: both("rule"), backends: vec![backend(both("backend"))], ..Rule::default() };
        planned(rule, Method::GET, &HeaderMap::new(), |plan| {
            let Plan::Forward(Forward { to, edits }) = plan else { panic!("{plan:?}") };
            assert_eq!(to, ForwardTo::Service(&service("v2")));
            let (mut uri, mut authority) = (Uri::from_static("/"), Authority::from_static("web"));
            let (mut there, mut back) = (HeaderMap::new(), HeaderMap::new());
            edits.request(&mut RequestHead { uri: &mut uri, authority: &mut authority, headers: &mut there }).unwrap();
            edits.response(&mut back, None);
            assert_eq!((there["x-by"].to_str().unwrap(), back["x-by"].to_str().unwrap()), ("backend", "rule"));
        });
    }

    #[test]
    fn a_redirect_is_answered_with_a_place_and_the_filters_for_responses() {
        for status in [301, 302, 303, 307, 308] {
            let filters = vec![
                header(Filter::ResponseHeaders, "rule"),
                Filter::Redirect(Redirect { status, ..Redirect::default() }),
            ];
            planned(Rule { filters, ..Rule::default() }, Method::GET, &HeaderMap::new(), |plan| {
                let Plan::Reply(reply) = plan else { panic!("{plan:?}") };
                assert_eq!(reply.status, status);
                assert_eq!(reply.headers["location"], "http://web:8080/old/a?b");
                assert_eq!(reply.headers["x-by"], "rule");
            });
        }
    }

    #[test]
    fn a_filter_of_the_chosen_backend_answers_too() {
        let cors = Cors { allow_origins: vec![crate::filter::OriginMatch::parse("*").unwrap()], ..Cors::default() };
        let rule = Rule { backends: vec![backend(vec![Filter::Cors(cors)])], ..Rule::default() };
        let headers = [("origin", "https://a.example"), ("access-control-request-method", "PUT")]
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
        planned(rule, Method::OPTIONS, &headers.into_iter().collect(), |plan| {
            let Plan::Reply(reply) = plan else { panic!("{plan:?}") };
            assert_eq!(reply.status, StatusCode::NO_CONTENT);
            assert_eq!(reply.headers.get_all("access-control-allow-origin").iter().count(), 1);
        });
    }

    #[test]
    fn what_nobody_serves_has_a_status() {
        let refused = |rule: Rule, status: StatusCode| {
            planned(rule, Method::GET, &HeaderMap::new(), |plan| {
                let Plan::Refuse(refusal) = plan else { panic!("{plan:?}") };
                assert_eq!(refusal.status(), status);
            });
        };
        let never =
            Rule { matches: vec![RequestMatch::never()], backends: vec![backend(Vec::new())], ..Rule::default() };
        refused(never, StatusCode::NOT_FOUND);
        refused(Rule::default(), StatusCode::INTERNAL_SERVER_ERROR);
        let target = BackendTarget::Invalid { reason: "no such Service".into() };
        let invalid = Rule { backends: vec![Backend { weight: 1, target, filters: Vec::new() }], ..Rule::default() };
        refused(invalid, StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn a_rewrite_keeps_the_query_and_takes_the_port() {
        let matched = RequestMatch { path: PathMatch::Prefix("/old".into()), ..RequestMatch::default() };
        for (uri, path, hostname, expected, host) in [
            ("/old/a?x=/old", PathModifier::Prefix("/new".into()), None, "/new/a?x=/old", "web:8080"),
            ("/old", PathModifier::Prefix("/".into()), Some("other.example"), "/", "other.example"),
            ("http://web:8080/old?x", PathModifier::Full("/all".into()), None, "http://web:8080/all?x", "web:8080"),
        ] {
            let filters = [Filter::Rewrite(Rewrite { hostname: hostname.map(Into::into), path: Some(path) })];
            let edits = Edits { rule: &filters, backend: &[], matched: Some(&matched) };
            let (mut uri, mut authority) = (Uri::from_static(uri), Authority::from_static("web:8080"));
            let mut headers = HeaderMap::new();
            edits
                .request(&mut RequestHead { uri: &mut uri, authority: &mut authority, headers: &mut headers })
                .unwrap();
            assert_eq!((uri.to_string().as_str(), authority.as_str()), (expected, host));
        }
    }
}
