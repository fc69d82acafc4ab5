//! Which pods a bundle is about: those that are named, those of a workload, or the meshed ones of a namespace.

use mesh_policy::well_known::{CONTROL_NAMESPACE, PROXY_CONTAINER};
use serde_json::Value;

use crate::kube::{
    Cluster, ClusterError, core, core_object, encode, path,
    pods::{injected, is_alive, selector_query},
    value,
};

/// Meshed pods of the namespace if none is named: what is wrong with all of them is seen in some.
pub(super) const MAX_PROXIES: usize = 20;
/// Pods that are named, or that named workloads have: whoever wants more makes several bundles.
pub(super) const MAX_NAMED: usize = 100;

/// What a bundle is about.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// The pods.
    pub pods: Vec<Value>,
    /// What was named and is not there, or is too much, with the reason.
    pub missing: Vec<(String, String)>,
}

/// The pods of the control plane.
pub(super) async fn control_plane(cluster: &Cluster) -> Result<Vec<Value>, ClusterError> {
    let selector = format!("labelSelector={}", encode("app.kubernetes.io/part-of=mesh"));
    cluster.list(&core(CONTROL_NAMESPACE, "pods"), &selector).await
}

/// The pods that are meant.
pub(super) async fn pods(cluster: &Cluster, names: &[String]) -> Chosen {
    let mut chosen = Chosen::default();
    if names.is_empty() {
        let namespace = cluster.namespace();
        match cluster.list(&core(namespace, "pods"), &injected()).await {
            Ok(mut found) => {
                found.retain(|pod| value::container(pod, PROXY_CONTAINER).is_some() && is_alive(pod));
                chosen.take(found, MAX_PROXIES, &format!("meshed pods of namespace {namespace}"));
            }
            Err(error) => chosen.missing.push((format!("the pods of namespace {namespace}"), error.to_string())),
        }
        return chosen;
    }
    for name in names {
        match named(cluster, name).await {
            Ok(found) if found.is_empty() => {
                chosen.missing.push((name.clone(), "no pod has the labels of its selector".to_owned()));
            }
            Ok(found) => chosen.take(found, MAX_NAMED, &format!("pods of {name}")),
            Err(error) => chosen.missing.push((name.clone(), error.to_string())),
        }
    }
    chosen
}

impl Chosen {
    /// Adds pods, each once, until there are `most`.
    fn take(&mut self, mut found: Vec<Value>, most: usize, what: &str) {
        let full_name = |pod: &Value| (value::namespace(pod).to_owned(), value::name(pod).to_owned());
        found.retain(|pod| self.pods.iter().all(|known| full_name(known) != full_name(pod)));
        let room = most.saturating_sub(self.pods.len());
        if found.len() > room {
            let why =
                format!("there are {}, and a bundle has {most} pods at most; name the ones that matter", found.len());
            self.missing.push((format!("{} of the {what}", found.len() - room), why));
            found.truncate(room);
        }
        self.pods.extend(found);
    }
}

/// The pods of a name: a pod, or `deploy/NAME` and its like.
async fn named(cluster: &Cluster, name: &str) -> Result<Vec<Value>, ClusterError> {
    let workload = name.split_once('/').and_then(|(kind, name)| Some((resource(kind)?, name)));
    let Some((resource, name)) = workload else {
        let (namespace, pod) = cluster.pod_name(name);
        return Ok(vec![cluster.get(&core_object(namespace, "pods", pod)).await?]);
    };
    let namespace = cluster.namespace();
    let found = cluster.get(&path(&["apis", "apps", "v1", "namespaces", namespace, resource, name])).await?;
    // Without one all pods of the namespace would be meant.
    let Some(selector) = selector_query(found.pointer("/spec/selector").unwrap_or(&Value::Null)) else {
        return Ok(Vec::new());
    };
    let mut pods = cluster.list(&core(namespace, "pods"), &format!("labelSelector={}", encode(&selector))).await?;
    pods.retain(is_alive);
    Ok(pods)
}

/// The resource that kubectl has this word for, of those that make pods.
fn resource(kind: &str) -> Option<&'static str> {
    match kind {
        "deploy" | "deployment" | "deployments" | "deployment.apps" => Some("deployments"),
        "sts" | "statefulset" | "statefulsets" | "statefulset.apps" => Some("statefulsets"),
        "ds" | "daemonset" | "daemonsets" | "daemonset.apps" => Some("daemonsets"),
        _ => None,
    }
}
