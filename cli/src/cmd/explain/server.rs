//! What the sidecars behind the backends decide about the caller.

use std::collections::BTreeSet;

use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_policy::{RequestFacts, Target};
use serde::Serialize;
use serde_json::Value;

use super::{
    Client,
    explained::{Explained, Sent},
    question::{Asked, Question},
};
use crate::authorization::{self, Caller, Group, Objects, Verdict, Who, behind};

/// Said where it is not known who calls.
const UNNAMED: &str = "name a workload with --from to see what the server decides about it";

/// The servers' part of an answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Server {
    /// Who calls.
    pub caller: Caller,
    /// What the pods of each backend decide, those of equal decisions together.
    pub decided: Vec<Group>,
}

impl Server {
    /// Whether some pods would turn the caller away.
    pub(super) fn is_refused(&self) -> bool {
        self.decided.iter().any(|group| group.decided.verdict.is_refused())
    }

    /// Whether no backend has pods.
    pub(super) fn has_no_pods(&self) -> bool {
        self.decided.iter().all(|group| group.decided.verdict == Verdict::NoPods)
    }

    /// Whether nothing restricts who calls the pods.
    pub(super) fn has_no_policy(&self) -> bool {
        let is_open = |group: &Group| group.decided.policies.is_empty() && !group.decided.verdict.is_refused();
        self.decided.iter().all(is_open)
    }
}

/// The targets of backends that get a part.
fn targets(explained: &Explained) -> impl Iterator<Item = (&str, &Target)> {
    let is_sent = explained.answer.is_none();
    let shares = explained.backends.iter().filter(move |share| is_sent && share.weight > 0);
    shares.filter_map(|share| Some((share.service.as_deref()?, share.target.as_ref()?)))
}

/// The namespaces of the pods that are called; none where nobody is.
pub(super) fn namespaces(explained: &Explained) -> BTreeSet<String> {
    let of = |target: &Target| match target {
        Target::Service(service) => Some(service.namespace.to_string()),
        Target::Endpoint(endpoint) => endpoint.workload.split_once('/').map(|(namespace, _)| namespace.to_owned()),
        Target::Outside(_) | Target::Unknown(_) => None,
    };
    targets(explained).filter_map(|(_, target)| of(target)).collect()
}

/// Adds it to an answer.
pub(super) fn decide(explained: &mut Explained, objects: &Objects, question: &Question, client: Client<'_>) {
    let unknown = || Caller::new(client.namespace, Who::Unknown);
    let caller = client.named.map_or(Ok(unknown()), |named| authorization::caller(objects, named, client.namespace));
    let mut notes = Vec::new();
    let mut caller = caller.unwrap_or_else(|why| {
        notes.push(why);
        unknown()
    });
    let sent = explained.sent.as_ref().map(|sent| (sent, headers(sent)));
    let facts = match &question.asked {
        Asked::Request(request) if explained.is_request => {
            let (path, query) = sent.as_ref().map_or((request.path.as_str(), request.query.as_deref()), |(sent, _)| {
                sent.path.split_once('?').map_or((sent.path.as_str(), None), |(path, query)| (path, Some(query)))
            });
            Some(RequestFacts {
                method: &request.method,
                // Without the port, as a server compares it.
                host: sent.as_ref().map_or(request.host.as_str(), |(sent, _)| sent.host.as_str()),
                path,
                query,
                headers: sent.as_ref().map_or(&request.headers, |(_, headers)| headers),
            })
        }
        _ => None,
    };
    let mut decided = Vec::new();
    for (service, target) in targets(explained) {
        let behind = behind(&objects.snapshot, target);
        notes.extend(authorization::notes(objects, &behind, &caller));
        let service = matches!(target, Target::Service(_)).then_some(service);
        decided.extend(authorization::groups(service, &behind, &caller, facts.as_ref()));
    }
    if decided.is_empty() {
        return;
    }
    notes.append(&mut caller.notes);
    let server = Server { caller, decided };
    // What was taken for granted matters only where something depends on it.
    if !server.has_no_policy() {
        if server.decided.iter().any(|group| group.decided.verdict == Verdict::Unknown) {
            notes.push(UNNAMED.to_owned());
        }
        notes.dedup();
        explained.notes.extend(notes);
    }
    explained.server = Some(server);
}

/// The headers that a backend sees.
fn headers(sent: &Sent) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in sent.headers.as_object().into_iter().flatten() {
        let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        for value in values.iter().filter_map(Value::as_str) {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
                headers.append(name, value);
            }
        }
    }
    headers
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
