//! What pods belong to: the controller that made them, and the labels by which it knows them.

use serde_json::{Value, json};

use crate::{
    authorization::path_of,
    kube::{Cluster, value},
};

/// The label with which a Deployment tells its ReplicaSets apart.
const HASH: &str = "pod-template-hash";
/// Labels that name an application, where nothing better is known.
const NAMES: [&str; 2] = ["app.kubernetes.io/name", "app"];

/// A controller of pods; of a pod without one, the pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    pub namespace: String,
    pub kind: String,
    pub name: String,
}

impl Owner {
    /// The owner of a pod: of a ReplicaSet's, the Deployment that the labels tell of.
    pub(super) fn of(pod: &Value) -> Self {
        let namespace = value::namespace(pod).to_owned();
        let owners = value::items(pod, "/metadata/ownerReferences");
        let Some(owner) = owners.iter().find(|owner| value::flag(owner, "/controller")) else {
            return Self { namespace, kind: "Pod".to_owned(), name: value::name(pod).to_owned() };
        };
        let (kind, name) = (value::text(owner, "/kind"), value::text(owner, "/name"));
        let hash = format!("-{}", value::label(pod, HASH));
        let (kind, name) = match name.strip_suffix(&hash) {
            Some(name) if kind == "ReplicaSet" && hash.len() > 1 => ("Deployment", name),
            _ => (kind, name),
        };
        Self { namespace, kind: kind.to_owned(), name: name.to_owned() }
    }

    /// The selector of its pods: its own, else by the name of the application; `None`: nothing tells its pods from others.
    pub(super) async fn selector(&self, cluster: &Cluster, pod: &Value) -> Option<Value> {
        // A Job's selector is of one run; the next one has another.
        let path =
            path_of(&self.kind, &self.namespace, &self.name).filter(|_| !["Job", "CronJob"].contains(&&*self.kind));
        // What may not be read is done without.
        let own = match path {
            Some(path) => cluster.find(&path).await.ok().flatten(),
            None => None,
        };
        let own = own.and_then(|owner| owner.pointer("/spec/selector").cloned()).filter(Value::is_object);
        own.or_else(|| by_name(pod))
    }
}

fn by_name(pod: &Value) -> Option<Value> {
    let label = NAMES.into_iter().find(|label| !value::label(pod, label).is_empty())?;
    Some(json!({ "matchLabels": { label: value::label(pod, label) } }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(labels: Value, owner: Value) -> Value {
        json!({ "metadata": { "name": "x", "namespace": "shop", "labels": labels, "ownerReferences": [owner] } })
    }

    #[test]
    fn a_pod_belongs_to_its_controller() {
        let owner = |kind, name| json!({ "kind": kind, "name": name, "controller": true });
        for (pod, kind, name) in [
            (pod(json!({ HASH: "5d4f" }), owner("ReplicaSet", "web-5d4f")), "Deployment", "web"),
            (pod(json!({}), owner("ReplicaSet", "web-5d4f")), "ReplicaSet", "web-5d4f"),
            (pod(json!({}), owner("StatefulSet", "db")), "StatefulSet", "db"),
            (pod(json!({}), json!({ "kind": "Other", "name": "o" })), "Pod", "x"),
        ] {
            let found = Owner::of(&pod);
            assert_eq!((found.kind.as_str(), found.name.as_str()), (kind, name));
        }
        assert_eq!(
            by_name(&pod(json!({ "app": "web" }), Value::Null)),
            Some(json!({ "matchLabels": { "app": "web" } }))
        );
        assert_eq!(by_name(&pod(json!({}), Value::Null)), None);
    }
}
