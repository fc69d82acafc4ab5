//! What belongs in the status of each object whose status is ours to write ([`crate::kinds`] says of which kinds, and in which
//! form): pure; writing it is the controller's.
//!
//! One function judges a kind: `route_status` of routes, `policy_status` of RetryPolicies, [`crate::authorization`] of its kinds. The messages are the words of the
//! [`Problem`]s, so that a status, `/problems` and `meshctl lint` say the same.

use serde_json::Value;

use crate::{attach::Found, object::StatusId, problem::Problem, snapshot::Snapshot};

/// Longest message, in bytes. An API server takes 32 KiB; what is longer nobody reads.
pub(crate) const MAX_MESSAGE: usize = 1024;

/// The status of one object, as far as it is ours.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectStatus {
    /// Which version of the object it is about (`metadata.generation`).
    pub generation: i64,
    /// Entries of its list. Empty: we have nothing to say of the object, and entries that we once wrote must go.
    pub entries: Vec<StatusEntry>,
}

/// What is said of an object at one parent of a route, or for one ancestor of a policy.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusEntry {
    /// The `parentRef` or `ancestorRef`. A parent's has `group`, `kind`, `namespace`, `name`, `sectionName` and `port`, those
    /// that are written in `spec`, as written.
    pub reference: Value,
    /// `Accepted`; of routes `ResolvedRefs` and perhaps `PartiallyInvalid`, too; of authorization policies `Enforced`.
    pub conditions: Vec<Condition>,
}

/// One condition; time and generation are the writer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `Accepted`, `ResolvedRefs`, `PartiallyInvalid` or `Enforced`.
    pub kind: &'static str,
    /// Whether it holds.
    pub status: bool,
    /// One word for programs.
    pub reason: &'static str,
    /// For people; at most 1024 bytes.
    pub message: String,
}

/// What is to be said of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// Its status.
    pub status: ObjectStatus,
    /// What is wrong with its parents and with what it refers to. What is wrong with the object by itself is known since it
    /// was decoded.
    pub problems: Vec<Problem>,
}

impl Snapshot {
    /// What belongs in the status of an object; `None` when it is not there. `found` is of this snapshot and of no other.
    pub fn object_status(&self, id: &StatusId, found: &mut Found) -> Option<ObjectStatus> {
        let StatusId { kind, key } = id;
        if *kind == "RetryPolicy" {
            return self.retry_policy_status(key);
        }
        if let Some(judged) = self.judge_policy(id) {
            return Some(judged.status);
        }
        let route = self.route(kind, key)?;
        Some(ObjectStatus { generation: route.generation, entries: self.status_of(route, found).parents })
    }

    /// The same, and what is wrong with what the object refers to; `None` also of a route that is none of the mesh's.
    pub fn judge(&self, id: &StatusId, found: &mut Found) -> Option<Judged> {
        if let Some(judged) = self.judge_policy(id) {
            return Some(judged);
        }
        let route = self.route(id.kind, &id.key);
        if route.is_some_and(|route| !route.is_of_mesh()) {
            return None;
        }
        let status = self.object_status(id, found)?;
        let problems = route.map(|route| self.problems_of_references(route, found));
        Some(Judged { status, problems: problems.unwrap_or_default() })
    }
}

/// A title and as many problems as a message has room for.
pub(crate) fn words<'p>(title: &str, problems: impl Iterator<Item = &'p Problem>) -> String {
    /// Room for the number of those that are left out.
    const RESERVE: usize = 24;
    let mut message = title.to_owned();
    let mut left_out = 0;
    for (count, problem) in problems.enumerate() {
        let separator = if count == 0 { ": " } else { " | " };
        let text = problem.in_status();
        if left_out == 0 && message.len() + separator.len() + text.len() + RESERVE <= MAX_MESSAGE {
            message.push_str(separator);
            message.push_str(&text);
        } else {
            left_out += 1;
        }
    }
    if left_out > 0 {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE - RESERVE));
        message.push_str(&format!(" (and {left_out} more)"));
    }
    message
}
