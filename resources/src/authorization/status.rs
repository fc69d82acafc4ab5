//! What belongs in `status.ancestors` of both kinds of policies.

use mesh_policy::well_known::POLICY_GROUP;
use serde_json::json;

use super::{CLUSTER_KIND, target::TargetPods};
use crate::{
    object::StatusId,
    policy_status::accepted,
    problem::Problem,
    snapshot::Snapshot,
    status::{Judged, ObjectStatus, StatusEntry},
};

impl Snapshot {
    /// The status of a policy, and what is wrong with it because of other objects.
    pub(crate) fn judge_policy(&self, id: &StatusId) -> Option<Judged> {
        let policy = self.policy(id)?;
        let problems = self.doubts_of_policy(id, policy);
        let own = self.problems_of(&id.key.id(id.kind));
        let all: Vec<Problem> = own.iter().chain(&problems).cloned().collect();
        let accepted = accepted(&all);
        let namespace = &*id.key.namespace;
        let references = match &policy.target {
            TargetPods::OfServices(names) => names
                .iter()
                .map(|name| {
                    let reference = json!({"group": "", "kind": "Service", "namespace": namespace, "name": &**name});
                    (reference, Some(name))
                })
                .collect(),
            TargetPods::Selected(_) => vec![(json!({"group": "", "kind": "Namespace", "name": namespace}), None)],
            TargetPods::OfNamespaces { .. } => {
                vec![(json!({"group": POLICY_GROUP, "kind": CLUSTER_KIND, "name": &*id.key.name}), None)]
            }
        };
        let entry = |(reference, service)| {
            let enforced = self.enforced(id, policy, service);
            StatusEntry { reference, conditions: vec![accepted.clone(), enforced] }
        };
        let entries = references.into_iter().map(entry).collect();
        Some(Judged { status: ObjectStatus { generation: policy.generation, entries }, problems })
    }
}
