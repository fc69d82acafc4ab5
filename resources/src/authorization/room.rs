//! How much ClusterAuthorizationPolicies may take. They are of no namespace, so they have a bound of their own.
//!
//! Beyond it, what is left of a policy closes what it is about (see [`PolicyObject::closing`]). When there is room again, it is
//! told which ones to read again.

use std::sync::Arc;

use super::{CLUSTER_KIND, PolicyObject};
use crate::{
    object::{Key, ObjectId},
    problem::{Reason, Report},
    room::{Bounded, of_problems},
    shared_map::SharedMap,
};

/// Most policies of the cluster that are in force as written: as many as a pod's proxy takes.
pub(crate) const MAX_CLUSTER_POLICIES: usize = 1_000;
/// Most bytes that they take, as they are decoded.
pub(crate) const MAX_CLUSTER_POLICY_BYTES: usize = 8 * 1024 * 1024;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ClusterRoom {
    /// What each takes that is in force as written.
    in_force: SharedMap<Arc<str>, usize>,
    bytes: usize,
    /// What each of the others would take.
    left_out: SharedMap<Arc<str>, usize>,
    /// Whether some of these may have room by now.
    has_shrunk: bool,
}

impl ClusterRoom {
    /// A new or changed policy, or what is left of it where there is no room.
    pub(crate) fn fit(&mut self, name: &Arc<str>, policy: PolicyObject, report: &mut Report<'_>) -> PolicyObject {
        let bytes = policy.bytes() + of_problems(report.mark());
        self.free(name);
        if self.has_room(bytes) {
            self.bytes += bytes;
            self.in_force.insert(name.clone(), bytes);
            return policy;
        }
        report.forget();
        let what = format!(
            "{MAX_CLUSTER_POLICIES} such policies are there, or all of them take more than {} MiB",
            MAX_CLUSTER_POLICY_BYTES / 1024 / 1024
        );
        let mark = report.mark();
        report.error("metadata.name", Reason::TooLarge, what, "remove policies or merge their rules");
        report.effect(mark, "an ALLOW lets nobody in, and a DENY refuses everyone");
        self.left_out.insert(name.clone(), bytes);
        policy.closing()
    }

    /// A policy goes.
    pub(crate) fn free(&mut self, name: &Arc<str>) {
        self.left_out.remove(name);
        if let Some(bytes) = self.in_force.remove(name) {
            self.bytes = self.bytes.saturating_sub(*bytes);
            self.has_shrunk = true;
        }
    }

    /// Those to be read again, since there is room for them by now.
    pub(crate) fn take_readable(&mut self) -> Vec<ObjectId> {
        if !std::mem::take(&mut self.has_shrunk) {
            return Vec::new();
        }
        let (mut count, mut room) = (self.in_force.len(), MAX_CLUSTER_POLICY_BYTES.saturating_sub(self.bytes));
        let mut readable = Vec::new();
        for (name, bytes) in self.left_out.iter() {
            if count < MAX_CLUSTER_POLICIES && *bytes <= room {
                (count, room) = (count + 1, room - bytes);
                readable.push(Key::new("default", name.clone()).id(CLUSTER_KIND));
            }
        }
        readable
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.in_force.len() < MAX_CLUSTER_POLICIES && self.bytes + bytes <= MAX_CLUSTER_POLICY_BYTES
    }
}
