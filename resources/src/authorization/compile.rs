//! A pod to the policies that its proxy is told.

use mesh_policy::AuthorizationPolicy;

use super::fold::{Candidate, fold, rank};
use crate::{object::StatusId, pod::Pod, snapshot::Snapshot};

impl Snapshot {
    /// Every policy that is about a pod, within the bounds of a proxy.
    pub(crate) fn authorization_of(&self, pod: &Pod) -> Vec<AuthorizationPolicy> {
        let (candidates, kept) = self.ranked(pod);
        fold(candidates, kept)
    }

    /// Whether there is no room for a policy among those of a pod that it is about.
    pub(crate) fn is_folded(&self, id: &StatusId, pod: &Pod) -> bool {
        let (candidates, kept) = self.ranked(pod);
        candidates.iter().skip(kept).any(|candidate| candidate.id == *id)
    }

    fn ranked(&self, pod: &Pod) -> (Vec<Candidate<'_, StatusId>>, usize) {
        let candidate = |(id, object)| {
            let applied = self.applied(object, pod)?;
            Some(Candidate { id, policy: applied.policy, pattern_bytes: object.pattern_bytes })
        };
        let mut candidates: Vec<_> = self.policies_for(&pod.namespace).filter_map(candidate).collect();
        let kept = rank(&mut candidates);
        (candidates, kept)
    }
}
