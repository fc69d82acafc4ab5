//! From a question to its answer: the decision of `mesh-policy`, with everything that applies, as one value.

use http::{HeaderMap, header};
use mesh_policy::{
    Backend, Filter, OutboundDecision, OutboundPolicy, OutboundVerdict, Protocol, RequestFacts, RequestMatch,
    RouteKind, Rule, Target, decide_connection, decide_outbound,
};
use mesh_resources::{FilterObject, Key, ObjectId, Problem, Snapshot};
use serde_json::Value;

use super::{
    explained::{Answer, Explained, RouteName, RuleName, Sent, Share, TimeLimits, Words},
    question::{Asked, Question, Request},
    shown,
    tried::Tried,
};

/// The status of an answer to a preflight, which has no body.
const PREFLIGHT: u16 = 204;

/// Decides with the objects of a snapshot, for a client in a namespace.
pub fn by_objects(snapshot: &Snapshot, question: &Question, from: &str) -> Explained {
    let resolved = snapshot.resolve(&question.authority, from);
    let Some(target @ (Target::Service(_) | Target::Endpoint(_))) = resolved else {
        let is_unknown = matches!(resolved, Some(Target::Unknown(_)));
        let verdict = if is_unknown { "unknown-address" } else { "unknown-target" };
        let mut explained = Explained::new(question.authority.clone(), from, verdict);
        explained.notes.push(if is_unknown {
            format!("{} is an address of the cluster of which it is not known who has it", question.authority)
        } else {
            let what = "is no port of a Service and no pod, as far as can be seen";
            format!("{} {what}; if it is outside of the mesh, bytes pass as they are", question.authority)
        });
        explained.notes.extend(ports_of(snapshot, question.host(), from));
        explained.answer = Some(refusal(question, 503));
        return explained;
    };
    let (policy, problems) = snapshot.compile_outbound(&target, from);
    let mut explained = by_policy(&policy, question, from);
    explained.problems = problems_of(snapshot, &policy, problems).iter().map(ToString::to_string).collect();
    explained
}

/// The ports of a Service that is there, for a port that it does not have.
fn ports_of(snapshot: &Snapshot, host: &str, from: &str) -> Option<String> {
    let mut labels = host.split('.');
    let (name, namespace) = (labels.next()?, labels.next().unwrap_or(from));
    let service = snapshot.services.get(&Key::new(namespace, name))?;
    let ports: Vec<String> = service.ports.iter().map(|port| port.port.to_string()).collect();
    Some(format!("Service {namespace}/{name} has the ports: {}", ports.join(", ")))
}

/// Decides with a policy.
pub fn by_policy(policy: &OutboundPolicy, question: &Question, from: &str) -> Explained {
    let mut tried = Tried::default();
    let mut notes = Vec::new();
    let decision = decide(policy, question, &mut tried, &mut notes);
    let target = match &policy.target {
        Target::Service(service) => service.to_string(),
        Target::Endpoint(endpoint) => endpoint.address.to_string(),
        Target::Outside(address) | Target::Unknown(address) => address.to_string(),
    };
    let mut explained = Explained::new(target, from, decision.verdict.as_str());
    explained.route = decision.route.map(|meta| RouteName {
        kind: meta.kind.as_str(),
        namespace: meta.namespace.to_string(),
        name: meta.name.to_string(),
    });
    if let Some(rule) = decision.rule {
        explained.rule = Some(RuleName { index: decision.rule_index, name: rule.name.as_deref().map(str::to_owned) });
        describe(&mut explained, rule);
    }
    match decision.verdict {
        OutboundVerdict::Default(target) => explained.backends.push(Share::of_target(target)),
        OutboundVerdict::Forward(rule) => {
            explained.backends = shares(rule);
            if rule.backends.iter().all(|backend| backend.weight == 0 || is_invalid(backend)) {
                explained.verdict = "invalid-backends";
                explained.answer = Some(refusal(question, 500));
            }
        }
        OutboundVerdict::Redirect(_) | OutboundVerdict::Preflight(_) => {}
        OutboundVerdict::NotFound => explained.answer = Some(refusal(question, 404)),
        OutboundVerdict::NoBackends => {
            explained.backends = shares_without_weight(&decision);
            explained.answer = Some(refusal(question, 500));
        }
    }
    if let Asked::Request(request) = &question.asked {
        if explained.answer.is_none() {
            explained.answer = answer(&decision, request);
        }
        if matches!(explained.verdict, "default" | "forward") {
            explained.sent = Some(sent(request, &decision));
        }
    }
    if tried.left_out > 0 {
        notes.push(format!("{} more matches lost and are not shown", tried.left_out));
    }
    (explained.matched, explained.tried, explained.notes) = (tried.matched, tried.lost, notes);
    explained
}

/// The decision, as the proxy makes it.
fn decide<'p>(
    policy: &'p OutboundPolicy,
    question: &Question,
    tried: &mut Tried,
    notes: &mut Vec<String>,
) -> OutboundDecision<'p> {
    let request = match &question.asked {
        Asked::Connection { sni } => return decide_connection(policy, sni.as_deref(), tried),
        Asked::Request(request) => request,
    };
    let is_tls = request.scheme == "https";
    match (policy.routes.kind(), policy.protocol) {
        (Some(RouteKind::Tls), _) => {
            notes.push("the routes of this port are for connections, by the name that TLS asks for".to_owned());
            return decide_connection(policy, is_tls.then_some(request.host.as_str()), tried);
        }
        (Some(RouteKind::Tcp), _) | (_, Protocol::Opaque) => {
            notes.push("bytes pass here as they are: the proxy does not look at requests of this port".to_owned());
            return decide_connection(policy, None, tried);
        }
        (Some(RouteKind::Grpc | RouteKind::Http) | None, _) => {}
    }
    if is_tls {
        let what =
            "this is for a request that the proxy sees; TLS that an application speaks itself is passed on unread";
        notes.push(what.to_owned());
    }
    decide_outbound(policy, &facts(request), tried)
}

fn facts(request: &Request) -> RequestFacts<'_> {
    RequestFacts {
        method: &request.method,
        host: &request.host,
        path: &request.path,
        query: request.query.as_deref(),
        headers: &request.headers,
    }
}

fn describe(explained: &mut Explained, rule: &Rule) {
    explained.filters = rule.filters.iter().map(shown::filter).collect();
    explained.timeouts = TimeLimits {
        request: rule.timeouts.request.map(shown::duration),
        backend_request: rule.timeouts.backend_request.map(shown::duration),
    };
    explained.retry = rule.retry.as_ref().map(shown::retry);
    explained.session = rule.session.as_ref().map(shown::session);
    explained.words = Words {
        filters: rule.filters.iter().map(shown::filter_words).collect(),
        retry: rule.retry.as_ref().map(shown::retry_words),
        session: rule.session.as_ref().map(shown::session_words),
    };
}

fn is_invalid(backend: &Backend) -> bool {
    shown::target(&backend.target).1.is_some()
}

fn shares(rule: &Rule) -> Vec<Share> {
    let total = rule.total_weight().max(1);
    let share = |backend: &Backend| {
        let (service, invalid) = shown::target(&backend.target);
        Share {
            service,
            weight: backend.weight,
            share: shown::rounded(f64::from(backend.weight) * 100.0 / total as f64),
            invalid,
            filters: backend.filters.iter().map(shown::filter).collect(),
            words: backend.filters.iter().map(shown::filter_words).collect(),
        }
    };
    rule.backends.iter().map(share).collect()
}

fn shares_without_weight(decision: &OutboundDecision<'_>) -> Vec<Share> {
    decision.rule.map(shares).unwrap_or_default()
}

impl Share {
    /// The target itself, where no route says anything.
    fn of_target(target: &Target) -> Self {
        let service = match target {
            Target::Service(service) => service.to_string(),
            Target::Endpoint(endpoint) => endpoint.address.to_string(),
            Target::Outside(address) | Target::Unknown(address) => address.to_string(),
        };
        Self { service: Some(service), weight: 1, share: 100.0, invalid: None, filters: Vec::new(), words: Vec::new() }
    }
}

/// What nobody serves: a status for a request, the end of a connection.
fn refusal(question: &Question, status: u16) -> Answer {
    let status = matches!(question.asked, Asked::Request(_)).then_some(status);
    Answer { status, location: None, headers: Value::Object(serde_json::Map::new()) }
}

/// What a filter of the rule answers.
fn answer(decision: &OutboundDecision<'_>, request: &Request) -> Option<Answer> {
    match decision.verdict {
        OutboundVerdict::Redirect(redirect) => {
            let location = redirect.location(&facts(request), &request.scheme, request.port, decision.matched);
            let headers = response_headers(HeaderMap::new(), decision, request);
            Some(Answer { status: Some(redirect.status), location: Some(location), headers })
        }
        OutboundVerdict::Preflight(cors) => {
            let headers = response_headers(cors.preflight(&request.headers), decision, request);
            Some(Answer { status: Some(PREFLIGHT), location: None, headers })
        }
        OutboundVerdict::Default(_)
        | OutboundVerdict::Forward(_)
        | OutboundVerdict::NotFound
        | OutboundVerdict::NoBackends => None,
    }
}

/// The headers of an answer, after the rule's response filters. A preflight has been told of origins already.
fn response_headers(mut headers: HeaderMap, decision: &OutboundDecision<'_>, request: &Request) -> Value {
    let is_preflight = matches!(decision.verdict, OutboundVerdict::Preflight(_));
    let origin = request.headers.get(header::ORIGIN);
    for filter in decision.rule.into_iter().flat_map(|rule| &rule.filters) {
        match filter {
            Filter::Cors(_) if is_preflight => {}
            filter => filter.apply_response(&mut headers, origin),
        }
    }
    shown::headers(&headers)
}

/// What a backend sees: after the filters of the rule, and of the backend where there is only one.
fn sent(request: &Request, decision: &OutboundDecision<'_>) -> Sent {
    let served: Vec<&Backend> =
        decision.rule.into_iter().flat_map(|rule| &rule.backends).filter(|b| b.weight > 0 && !is_invalid(b)).collect();
    let of_backend = match served.as_slice() {
        [only] => only.filters.as_slice(),
        _ => &[],
    };
    let of_rule = decision.rule.map_or(&[][..], |rule| &rule.filters);
    let mut response = HeaderMap::new();
    let origin = request.headers.get(header::ORIGIN);
    // The way back is the other way round.
    of_backend.iter().chain(of_rule).for_each(|filter| filter.apply_response(&mut response, origin));
    let mut headers = request.headers.clone();
    let (mut host, mut path) = (request.host.clone(), request.path.clone());
    for filter in of_rule.iter().chain(of_backend) {
        filter.apply_request(&mut headers);
        if let Filter::Rewrite(rewrite) = filter {
            host = rewrite.hostname.as_deref().map_or(host, str::to_owned);
            path = rewritten(rewrite.path.as_ref(), path, decision.matched);
        }
    }
    let query = request.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    Sent {
        host,
        path: format!("{path}{query}"),
        headers: shown::headers(&headers),
        response_headers: shown::headers(&response),
    }
}

fn rewritten(modifier: Option<&mesh_policy::PathModifier>, path: String, matched: Option<&RequestMatch>) -> String {
    modifier.map_or(path.clone(), |modifier| modifier.apply(&path, matched))
}

/// What is wrong with the objects that take part: the Service, and every route that is attached for this client with its
/// RetryPolicies.
fn problems_of(snapshot: &Snapshot, policy: &OutboundPolicy, compiled: Vec<Problem>) -> Vec<Problem> {
    let Target::Service(service) = &policy.target else { return compiled };
    let id = |kind: &str, namespace: &str, name: &str| ObjectId {
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    let mut involved = Vec::new();
    for meta in policy.routes.routes().iter().map(|route| &route.meta) {
        involved.push(id(meta.kind.as_str(), &meta.namespace, &meta.name));
        let key = Key { namespace: meta.namespace.clone(), name: meta.name.clone() };
        let rules = snapshot.routes(meta.kind).get(&key).into_iter().flat_map(|route| &route.rules);
        for filter in rules.flat_map(|rule| rule.filters.iter().flatten()) {
            if let FilterObject::RetryPolicy(policy) = filter {
                involved.push(id("RetryPolicy", &meta.namespace, &policy.name));
            }
        }
    }
    involved.extend(compiled.iter().map(|problem| problem.object.clone()));
    involved.push(id("Service", &service.namespace, &service.name));
    let mut all = snapshot.problems();
    all.retain(|problem| involved.contains(&problem.object));
    all.extend(compiled);
    all.sort_by(|a, b| (&a.object, &a.field, a).cmp(&(&b.object, &b.field, b)));
    all.dedup();
    all
}
