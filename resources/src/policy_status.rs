//! What belongs in `status.ancestors` of policies (GEP-713): whether they are accepted, for each object that they are about.

use mesh_policy::{RouteKind, well_known::GATEWAY_GROUP};
use serde_json::json;

use crate::{
    kinds::MAX_ANCESTORS,
    object::Key,
    problem::{Problem, Severity},
    route::RouteObject,
    snapshot::Snapshot,
    status::{Condition, ObjectStatus, StatusEntry, words},
};

impl Snapshot {
    /// Of a RetryPolicy: an entry for each route of the mesh that refers to it, the first ones by kind and name.
    pub(crate) fn retry_policy_status(&self, key: &Key) -> Option<ObjectStatus> {
        let policy = self.retry_policies.get(key)?;
        let accepted = accepted(self.problems_of(&key.id("RetryPolicy")));
        let is_ours =
            |(kind, route): &(RouteKind, Key)| self.route(kind.as_str(), route).is_some_and(RouteObject::is_of_mesh);
        let routes = self.links.routes.of_retry_policy(key).filter(is_ours).take(MAX_ANCESTORS);
        let entry = |(kind, route): (RouteKind, Key)| StatusEntry {
            reference: json!({"group": GATEWAY_GROUP, "kind": kind.as_str(), "namespace": &*route.namespace, "name": &*route.name}),
            conditions: vec![accepted.clone()],
        };
        Some(ObjectStatus { generation: policy.generation, entries: routes.map(entry).collect() })
    }
}

/// Whether a policy is in force as it is written, with what is wrong with the object itself.
pub(crate) fn accepted(problems: &[Problem]) -> Condition {
    let status = problems.iter().all(|problem| problem.severity != Severity::Error);
    // `PolicyConditionReason`.
    let (reason, title) = if status { ("Accepted", "In force") } else { ("Invalid", "Not in force as written") };
    Condition { kind: "Accepted", status, reason, message: words(title, problems.iter()) }
}
