//! The trust bundle: the ConfigMap with the trust anchors that mesh-identity writes, as commands read it.
//!
//! Its name and its key are those of the controller, which writes it. Whether an anchor is still valid, and whether a
//! chain leads to one, is for the callers.

use serde_json::Value;

pub use mesh_controller::{issuer::BUNDLE as KEY, kube::trust_writer::NAME};

use super::{CONTROL_NAMESPACE, Cluster, ClusterError, core_object, value};
use crate::certificate::Certificate;

/// Where the trust bundle of a namespace is.
pub fn path(namespace: &str) -> String {
    core_object(namespace, "configmaps", NAME)
}

/// The trust anchors, as installed; the inner error says why there are none.
pub async fn anchors(cluster: &Cluster) -> Result<Result<Vec<Certificate>, String>, ClusterError> {
    let found = cluster.find(&path(CONTROL_NAMESPACE)).await?;
    Ok(match found {
        None => Err(format!("there is no ConfigMap {CONTROL_NAMESPACE}/{NAME}")),
        Some(found) => Certificate::decode_pem(text(&found).as_bytes())
            .map_err(|why| format!("the ConfigMap {CONTROL_NAMESPACE}/{NAME}, key {KEY}: {why}")),
    })
}

/// The anchors in a trust bundle as they are written (PEM); empty when it has none.
pub fn text(bundle: &Value) -> &str {
    bundle.get("data").and_then(|data| data.get(KEY)).and_then(Value::as_str).unwrap_or_default()
}

/// What keeps a bundle from being deleted and written anew.
pub struct Held {
    /// By whom, for people.
    pub said: String,
    /// A command that ends it.
    pub mend: String,
}

/// Whether somebody holds a bundle by a finalizer: the API server deletes no object that has one, so that
/// `kubectl delete` waits for it, and nobody can write the name anew once it is being deleted.
pub fn held(bundle: &Value) -> Option<Held> {
    let finalizers: Vec<_> = value::items(bundle, "/metadata/finalizers").iter().filter_map(Value::as_str).collect();
    if finalizers.is_empty() {
        return None;
    }
    let namespace = value::namespace(bundle);
    let is_deleted = !value::text(bundle, "/metadata/deletionTimestamp").is_empty();
    Some(Held {
        said: format!(
            "the ConfigMap {namespace}/{NAME} {} by the finalizer {}",
            if is_deleted { "is being deleted and is held" } else { "is held" },
            finalizers.join(", ")
        ),
        mend: format!(
            "kubectl -n {namespace} patch configmap {NAME} --type=merge -p '{{\"metadata\":{{\"finalizers\":null}}}}'"
        ),
    })
}
