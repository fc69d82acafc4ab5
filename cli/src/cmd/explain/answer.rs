//! From a question to its answer: the decision of `mesh-policy`, with everything that applies, as one value.

use http::{HeaderMap, Uri, header, uri::Authority};
use mesh_policy::{
    Backend, BackendTarget, Edits, Forward, LocalReply, Mode, OutboundDecision, OutboundPolicy, OutboundVerdict, Plan,
    Refusal, RequestHead, Rule, Target, decide_connection, decide_outbound, shown::percent,
};
use mesh_resources::{FilterObject, Key, ObjectId, Problem, Snapshot};
use serde_json::Value;

use super::{
    explained::{Answer, Explained, RouteName, RuleName, Sent, Share},
    question::{Asked, Question, Request},
    tried::Tried,
    words,
};

/// Decides with the objects of a snapshot, for a client in a namespace.
pub(crate) fn by_objects(snapshot: &Snapshot, question: &Question, from: &str) -> Explained {
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
        explained.answer = Some(answered(question, 503));
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
pub(super) fn by_policy(policy: &OutboundPolicy, question: &Question, from: &str) -> Explained {
    let mut tried = Tried::default();
    let mut notes = Vec::new();
    let decision = decide(policy, question, &mut tried, &mut notes);
    let mut explained = Explained::new(policy.target.to_string(), from, decision.verdict.as_str());
    let is_seen = matches!(policy.mode(), Mode::Http | Mode::HttpRoutes | Mode::Detect);
    explained.is_request = is_seen && matches!(question.asked, Asked::Request(_));
    explained.route = decision.route.map(|meta| RouteName {
        kind: meta.kind.as_str(),
        namespace: meta.namespace.to_string(),
        name: meta.name.to_string(),
    });
    if let Some(rule) = decision.rule {
        explained.rule = Some(RuleName { index: decision.rule_index, name: rule.name.as_deref().map(str::to_owned) });
        describe(&mut explained, rule);
    }
    match (decision.verdict, decision.rule) {
        (OutboundVerdict::Default(target), _) => explained.backends.push(Share::of_target(target)),
        (OutboundVerdict::Forward(_) | OutboundVerdict::NoBackends, Some(rule)) => explained.backends = shares(rule),
        _ => {}
    }
    match &question.asked {
        Asked::Connection { .. } => {
            let served = only_served(&decision);
            if let Err(refusal) = served.and_then(|only| decision.forward_to(only.or(decision.pick(0)))) {
                refuse(&mut explained, question, &refusal);
            }
        }
        Asked::Request(request) => carry_out(&mut explained, question, request, &decision),
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
    match policy.mode() {
        Mode::ServerName => {
            notes.push("the routes of this port are for connections, by the name that TLS asks for".to_owned());
            return decide_connection(policy, is_tls.then_some(request.host.as_str()), tried);
        }
        Mode::Opaque => {
            notes.push("bytes pass here as they are: the proxy does not look at requests of this port".to_owned());
            return decide_connection(policy, None, tried);
        }
        Mode::Http | Mode::HttpRoutes | Mode::Detect => {}
    }
    if is_tls {
        let what =
            "this is for a request that the proxy sees; TLS that an application speaks itself is passed on unread";
        notes.push(what.to_owned());
    }
    decide_outbound(policy, &request.facts(), tried)
}

fn describe(explained: &mut Explained, rule: &Rule) {
    explained.filters = rule.filters.clone();
    explained.timeouts = rule.timeouts;
    explained.retry = rule.retry.clone();
    explained.session = rule.session.clone();
}

/// The backend that serves every request of the rule, if there is but one that serves any; an error if there is none.
fn only_served<'p>(decision: &OutboundDecision<'p>) -> Result<Option<&'p Backend>, Refusal<'p>> {
    let OutboundVerdict::Forward(rule) = decision.verdict else { return Ok(None) };
    let mut served = rule.backends.iter().filter(|b| b.weight > 0 && b.target.invalid().is_none());
    match (served.next(), served.next()) {
        (None, _) => Err(Refusal::InvalidBackend("none of the rule's backends can be served")),
        (only, None) => Ok(only),
        (Some(_), Some(_)) => Ok(None),
    }
}

/// The plan, as the proxy carries it out, as far as it does not depend on which backend is picked.
fn carry_out(explained: &mut Explained, question: &Question, request: &Request, decision: &OutboundDecision<'_>) {
    let only = match only_served(decision) {
        Ok(only) => only,
        Err(refusal) => return refuse(explained, question, &refusal),
    };
    if matches!(decision.verdict, OutboundVerdict::Forward(_)) && only.is_none() {
        explained.sent = sent(request, decision.edits(None), &mut explained.notes);
        return;
    }
    match decision.plan(only, &request.facts(), &request.scheme) {
        Plan::Forward(Forward { edits, .. }) => explained.sent = sent(request, edits, &mut explained.notes),
        Plan::Refuse(refusal) => refuse(explained, question, &refusal),
        Plan::Reply(LocalReply { status, mut headers }) => {
            let location = headers.remove(header::LOCATION);
            explained.verdict = if location.is_some() { "redirect" } else { "preflight" };
            let location = location.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
            explained.answer =
                Some(Answer { status: Some(status.as_u16()), location, headers: words::headers(&headers) });
        }
    }
}

fn refuse(explained: &mut Explained, question: &Question, refusal: &Refusal<'_>) {
    if let Refusal::InvalidBackend(_) = refusal {
        explained.verdict = "invalid-backends";
    }
    explained.answer = Some(answered(question, refusal.status().as_u16()));
}

fn shares(rule: &Rule) -> Vec<Share> {
    let share = |backend: &Backend| Share {
        service: backend.target.service(),
        weight: backend.weight,
        share: percent(backend.weight.into(), rule.total_weight()),
        invalid: backend.target.invalid().map(str::to_owned),
        filters: backend.filters.clone(),
        target: match &backend.target {
            BackendTarget::Service(service) => Some(Target::Service(service.clone())),
            BackendTarget::Invalid { .. } => None,
        },
    };
    rule.backends.iter().map(share).collect()
}

impl Share {
    /// The target itself, where no route says anything.
    fn of_target(target: &Target) -> Self {
        let service = Some(target.to_string());
        let target = Some(target.clone());
        Self { service, weight: 1, share: 100.0, invalid: None, filters: Vec::new(), target }
    }
}

/// What nobody serves: a status for a request, the end of a connection.
fn answered(question: &Question, status: u16) -> Answer {
    let status = matches!(question.asked, Asked::Request(_)).then_some(status);
    Answer { status, location: None, headers: Value::Object(serde_json::Map::new()) }
}

/// What a backend sees, after these edits.
fn sent(request: &Request, edits: Edits<'_>, notes: &mut Vec<String>) -> Option<Sent> {
    let query = request.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    let edited = || -> anyhow::Result<(Uri, Authority, HeaderMap)> {
        let mut uri = Uri::try_from(format!("{}{query}", request.path))?;
        let mut authority = Authority::try_from(request.host.as_str())?;
        let mut headers = request.headers.clone();
        edits.request(&mut RequestHead { uri: &mut uri, authority: &mut authority, headers: &mut headers })?;
        Ok((uri, authority, headers))
    };
    let (uri, authority, headers) = match edited() {
        Ok(edited) => edited,
        Err(error) => {
            notes.push(format!("it is answered 400: {error}"));
            return None;
        }
    };
    let mut response = HeaderMap::new();
    edits.response(&mut response, request.headers.get(header::ORIGIN));
    Some(Sent {
        host: authority.to_string(),
        path: uri.to_string(),
        headers: words::headers(&headers),
        response_headers: words::headers(&response),
    })
}

/// What is wrong with the objects that take part: the Service, and every route that is attached for this client with its
/// RetryPolicies.
fn problems_of(snapshot: &Snapshot, policy: &OutboundPolicy, compiled: Vec<Problem>) -> Vec<Problem> {
    let Target::Service(service) = &policy.target else { return compiled };
    let id = ObjectId::used;
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
