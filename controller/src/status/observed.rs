//! What objects say of us in their status, as the watches of an API server showed it last: one number an object.
//!
//! The objects themselves are decoded and not kept, so whoever writes status reads the object before. What is kept here
//! only says whether that is worth it. Snapshots share what did not change.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use mesh_policy::well_known::CONTROLLER_NAME;
use mesh_resources::{
    Key, Object, ObjectStatus, SharedMap, StatusEntry, StatusId,
    kinds::{StatusForm, kind},
};
use serde_json::{Value, json};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ObservedStatus {
    /// [`fingerprint`] of our entries. An object without any is not in it.
    ours: SharedMap<StatusId, u64>,
    /// The API version in which each kind is read, as in `gateway.networking.k8s.io/v1`.
    api_versions: BTreeMap<&'static str, Arc<str>>,
}

impl ObservedStatus {
    /// Takes in an object. Says whether anything changed.
    pub(crate) fn see(&mut self, object: &Object) -> bool {
        let Some((kind, form)) = written(&object.kind) else { return false };
        let mut is_news = false;
        if self.api_versions.get(&kind).is_none_or(|known| **known != *object.api_version) {
            self.api_versions.insert(kind, object.api_version.as_str().into());
            is_news = true;
        }
        let id = StatusId::new(kind, Key::new(object.namespace.as_str(), object.name.as_str()));
        let print = fingerprint(form, entries(form, &object.value).filter(|entry| is_ours(entry)));
        match print {
            print if self.get(&id) == print => return is_news,
            Some(print) => self.ours.insert(id, print),
            None => drop(self.ours.remove(&id)),
        }
        true
    }

    /// Forgets an object. Says whether anything changed.
    pub(crate) fn forget(&mut self, kind: &str, key: &Key) -> bool {
        written(kind).is_some_and(|(kind, _)| self.ours.remove(&StatusId::new(kind, key.clone())).is_some())
    }

    /// The fingerprint of our entries of an object.
    pub(crate) fn get(&self, id: &StatusId) -> Option<u64> {
        self.ours.get(id).copied()
    }

    /// Objects that say something of us.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&StatusId, u64)> {
        self.ours.iter().map(|(id, print)| (id, *print))
    }

    /// The API version in which a kind is read.
    pub(crate) fn api_version(&self, kind: &str) -> Option<&str> {
        self.api_versions.get(kind).map(|version| &**version)
    }
}

/// A kind whose status we write, and the form of that.
fn written(name: &str) -> Option<(&'static str, StatusForm)> {
    let kind = kind(name)?;
    Some((kind.kind, kind.status?))
}

/// The entries of the list in the status of an object.
pub(crate) fn entries(form: StatusForm, object: &Value) -> impl Iterator<Item = &Value> {
    let list = object.get("status").and_then(|status| status.get(form.list()));
    list.and_then(Value::as_array).into_iter().flatten()
}

/// Whether an entry is ours.
pub(crate) fn is_ours(entry: &Value) -> bool {
    entry.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER_NAME)
}

/// What an object should say of us: entries without times.
pub(crate) fn wanted(form: StatusForm, status: &ObjectStatus) -> Vec<Value> {
    let entry = |entry: &StatusEntry| {
        let conditions = entry.conditions.iter().map(|condition| {
            json!({
                "type": condition.kind, "status": if condition.status { "True" } else { "False" },
                "reason": condition.reason, "message": condition.message, "observedGeneration": status.generation,
            })
        });
        let conditions: Vec<Value> = conditions.collect();
        json!({form.reference(): entry.reference, "controllerName": CONTROLLER_NAME, "conditions": conditions})
    };
    status.entries.iter().map(entry).collect()
}

/// The conditions of an entry that are ours; others may be somebody else's, who says something of the same object.
const CONDITIONS: [&str; 3] = ["Accepted", "ResolvedRefs", "PartiallyInvalid"];

/// Whether a condition is one that we write.
pub(crate) fn is_our_condition(condition: &Value) -> bool {
    condition.get("type").and_then(Value::as_str).is_some_and(|kind| CONDITIONS.contains(&kind))
}

/// What entries say of us, without the times: `None` of none. Neither the order of entries nor that of conditions matters.
/// It is the same within a process only.
pub(crate) fn fingerprint<'e>(form: StatusForm, entries: impl IntoIterator<Item = &'e Value>) -> Option<u64> {
    let mut all = None;
    for entry in entries {
        let mut hasher = DefaultHasher::new();
        entry.get(form.reference()).map(Value::to_string).hash(&mut hasher);
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

    fn id() -> StatusId {
        StatusId::new("HTTPRoute", Key::new("shop", "r"))
    }

    #[test]
    fn only_what_is_said_of_us_counts() {
        let mut seen = ObservedStatus::default();
        let (a, b) = (condition("Accepted", "True", "1"), condition("ResolvedRefs", "True", "1"));
        assert!(seen.see(&route(json!([entry("other", "web", &[])]))), "its API version is news");
        assert_eq!((seen.get(&id()), seen.api_version("HTTPRoute")), (None, Some("gateway.networking.k8s.io/v1")));
        assert!(seen.see(&route(json!([entry(CONTROLLER_NAME, "web", &[a.clone(), b.clone()])]))));
        let first = seen.get(&id()).unwrap();
        // Another order, other times, another controller.
        let later = condition("Accepted", "True", "2");
        let same = json!([entry("other", "web", &[]), entry(CONTROLLER_NAME, "web", &[b.clone(), later])]);
        assert!(!seen.see(&route(same)));
        for other in [
            json!([entry(CONTROLLER_NAME, "db", &[a.clone(), b.clone()])]),
            json!([entry(CONTROLLER_NAME, "web", &[a.clone(), condition("ResolvedRefs", "False", "1")])]),
            json!([entry(CONTROLLER_NAME, "web", &[a.clone(), b.clone(), b.clone()])]),
            json!([entry(CONTROLLER_NAME, "web", &[])]),
        ] {
            assert!(seen.see(&route(other)));
            assert_ne!(seen.get(&id()), Some(first));
        }
        let policy = json!({"apiVersion": "policy.meshctl.dev/v1alpha1", "kind": "RetryPolicy",
            "metadata": {"name": "r", "namespace": "shop"},
            "status": {"ancestors": [{"controllerName": CONTROLLER_NAME, "ancestorRef": {"name": "r"}, "conditions": [a]}]}});
        assert!(seen.see(&Object::from_value(policy, None).unwrap()));
        assert!(seen.get(&StatusId::new("RetryPolicy", id().key)).is_some_and(|print| seen.get(&id()) != Some(print)));
        assert!(seen.forget("RetryPolicy", &id().key));
        assert!(seen.forget("HTTPRoute", &id().key) && !seen.forget("HTTPRoute", &id().key));
        assert_eq!(seen.iter().count(), 0);
    }

    #[test]
    fn what_is_no_status_is_none() {
        let mut seen = ObservedStatus::default();
        seen.see(&route(json!([1, null, {"controllerName": 7}])));
        seen.see(&route(json!({"a": 1})));
        assert_eq!(seen.iter().count(), 0);
        let no_route = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}});
        assert!(!seen.see(&Object::from_value(no_route, None).unwrap()));
    }
}
