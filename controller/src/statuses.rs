//! What routes say of us in `status.parents`, as the watches of an API server showed it last: one number a route.
//!
//! The objects themselves are decoded and not kept, so whoever writes status reads the object before. What is kept here
//! only says whether that is worth it. Snapshots share what did not change.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use mesh_policy::RouteKind;
use mesh_resources::{
    Key, Object, SharedMap,
    status::{ParentStatus, RouteStatus},
};
use serde_json::{Value, json};

/// Our name in the status of routes.
pub const CONTROLLER: &str = "meshctl.dev/controller";

/// A route: its kind, and its namespace and name.
pub type RouteId = (RouteKind, Key);

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statuses {
    /// [`fingerprint`] of our entries. A route without any is not in it.
    ours: SharedMap<RouteId, u64>,
    /// The API version in which each kind is read, as in `gateway.networking.k8s.io/v1`.
    api_versions: BTreeMap<RouteKind, Arc<str>>,
}

impl Statuses {
    /// Takes in an object. Says whether anything changed.
    pub fn see(&mut self, object: &Object) -> bool {
        let Some(kind) = kind_of(&object.kind) else { return false };
        let mut is_news = false;
        if self.api_versions.get(&kind).is_none_or(|known| **known != *object.api_version) {
            self.api_versions.insert(kind, object.api_version.as_str().into());
            is_news = true;
        }
        let id = (kind, Key::new(object.namespace.as_str(), object.name.as_str()));
        let print = fingerprint(entries(&object.value).filter(|entry| is_ours(entry)));
        match print {
            print if self.get(&id) == print => return is_news,
            Some(print) => self.ours.insert(id, print),
            None => drop(self.ours.remove(&id)),
        }
        true
    }

    /// Forgets a route. Says whether anything changed.
    pub fn forget(&mut self, kind: &str, key: &Key) -> bool {
        kind_of(kind).is_some_and(|kind| self.ours.remove(&(kind, key.clone())).is_some())
    }

    /// The fingerprint of our entries of a route.
    pub fn get(&self, id: &RouteId) -> Option<u64> {
        self.ours.get(id).copied()
    }

    /// Routes that say something of us.
    pub fn iter(&self) -> impl Iterator<Item = (&RouteId, u64)> {
        self.ours.iter().map(|(id, print)| (id, *print))
    }

    /// The API version in which a kind is read.
    pub fn api_version(&self, kind: RouteKind) -> Option<&str> {
        self.api_versions.get(&kind).map(|version| &**version)
    }
}

fn kind_of(kind: &str) -> Option<RouteKind> {
    RouteKind::ALL.into_iter().find(|known| known.as_str() == kind)
}

/// The entries of `status.parents` of an object.
pub fn entries(object: &Value) -> impl Iterator<Item = &Value> {
    object.pointer("/status/parents").and_then(Value::as_array).into_iter().flatten()
}

/// Whether an entry is ours.
pub fn is_ours(entry: &Value) -> bool {
    entry.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER)
}

/// What a route should say of us: entries without times.
pub fn wanted(status: &RouteStatus, generation: i64) -> Vec<Value> {
    let entry = |parent: &ParentStatus| {
        let conditions = parent.conditions.iter().map(|condition| {
            json!({
                "type": condition.kind, "status": if condition.status { "True" } else { "False" },
                "reason": condition.reason, "message": condition.message, "observedGeneration": generation,
            })
        });
        json!({"parentRef": parent.parent_ref, "controllerName": CONTROLLER, "conditions": conditions.collect::<Vec<_>>()})
    };
    status.parents.iter().map(entry).collect()
}

/// The conditions of an entry that are ours; others may be somebody else's, who says something of the same route.
const CONDITIONS: [&str; 3] = ["Accepted", "ResolvedRefs", "PartiallyInvalid"];

/// Whether a condition is one that we write.
pub fn is_our_condition(condition: &Value) -> bool {
    condition.get("type").and_then(Value::as_str).is_some_and(|kind| CONDITIONS.contains(&kind))
}

/// What entries say of us, without the times: `None` of none. Neither the order of entries nor that of conditions matters.
/// It is the same within a process only.
pub fn fingerprint<'e>(entries: impl IntoIterator<Item = &'e Value>) -> Option<u64> {
    let mut all = None;
    for entry in entries {
        let mut hasher = DefaultHasher::new();
        entry.get("parentRef").map(Value::to_string).hash(&mut hasher);
        // A sum, so that the order does not matter and two of a kind are not one.
        let conditions = entry.get("conditions").and_then(Value::as_array).into_iter().flatten();
        conditions
            .filter(|condition| is_our_condition(condition))
            .map(said)
            .fold(0u64, u64::wrapping_add)
            .hash(&mut hasher);
        all = Some(all.unwrap_or(0u64).wrapping_add(hasher.finish()));
    }
    all
}

/// What a condition says.
fn said(condition: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    for field in ["type", "status", "reason", "message"] {
        condition.get(field).and_then(Value::as_str).hash(&mut hasher);
    }
    condition.get("observedGeneration").and_then(Value::as_i64).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use serde_json::json;

    fn condition(kind: &str, status: &str, time: &str) -> Value {
        json!({"type": kind, "status": status, "reason": "R", "message": "", "observedGeneration": 1,
            "lastTransitionTime": time})
    }

    fn entry(controller: &str, parent: &str, conditions: &[Value]) -> Value {
        json!({"controllerName": controller, "parentRef": {"name": parent}, "conditions": conditions})
    }

    fn route(parents: Value) -> Object {
        let value = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "r", "namespace": "shop"}, "status": {"parents": parents}});
        Object::from_value(value, None).unwrap()
    }

    fn id() -> RouteId {
        (RouteKind::Http, Key::new("shop", "r"))
    }

    #[test]
    fn only_what_is_said_of_us_counts() {
        let mut seen = Statuses::default();
        let (a, b) = (condition("Accepted", "True", "1"), condition("ResolvedRefs", "True", "1"));
        assert!(seen.see(&route(json!([entry("other", "web", &[])]))), "its API version is news");
        assert_eq!((seen.get(&id()), seen.api_version(RouteKind::Http)), (None, Some("gateway.networking.k8s.io/v1")));
        assert!(seen.see(&route(json!([entry(CONTROLLER, "web", &[a.clone(), b.clone()])]))));
        let first = seen.get(&id()).unwrap();
        // Another order, other times, another controller.
        let later = condition("Accepted", "True", "2");
        let same = json!([entry("other", "web", &[]), entry(CONTROLLER, "web", &[b.clone(), later])]);
        assert!(!seen.see(&route(same)));
        for other in [
            json!([entry(CONTROLLER, "db", &[a.clone(), b.clone()])]),
            json!([entry(CONTROLLER, "web", &[a.clone(), condition("ResolvedRefs", "False", "1")])]),
            json!([entry(CONTROLLER, "web", &[a.clone(), b.clone(), b.clone()])]),
            json!([entry(CONTROLLER, "web", &[])]),
        ] {
            assert!(seen.see(&route(other)));
            assert_ne!(seen.get(&id()), Some(first));
        }
        assert!(seen.forget("HTTPRoute", &id().1) && !seen.forget("HTTPRoute", &id().1));
        assert_eq!(seen.iter().count(), 0);
    }

    #[test]
    fn what_is_no_status_is_none() {
        let mut seen = Statuses::default();
        seen.see(&route(json!([1, null, {"controllerName": 7}])));
        seen.see(&route(json!({"a": 1})));
        assert_eq!(seen.iter().count(), 0);
        let no_route = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}});
        assert!(!seen.see(&Object::from_value(no_route, None).unwrap()));
    }
}
