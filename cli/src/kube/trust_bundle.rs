//! The trust bundle: the ConfigMap with the trust anchors that mesh-identity writes, as commands read it.
//!
//! Whether an anchor is still valid, and whether a
//! chain leads to one, is for the callers.

use mesh_policy::well_known::{CONTROL_NAMESPACE, TRUST_BUNDLE, TRUST_BUNDLE_KEY};
use serde_json::Value;

use super::{Cluster, ClusterError, core_object, value};
use crate::certificate::Certificate;

/// Where the trust bundle of a namespace is.
pub(crate) fn path(namespace: &str) -> String {
    core_object(namespace, "configmaps", TRUST_BUNDLE)
}

/// The trust anchors, as installed; the inner error says why there are none.
pub(crate) async fn anchors(cluster: &Cluster) -> Result<Result<Vec<Certificate>, String>, ClusterError> {
    let found = cluster.find(&path(CONTROL_NAMESPACE)).await?;
    Ok(match found {
        None => Err(format!("there is no ConfigMap {CONTROL_NAMESPACE}/{TRUST_BUNDLE}")),
        Some(found) => Certificate::decode_pem(text(&found).as_bytes())
            .map_err(|why| format!("the ConfigMap {CONTROL_NAMESPACE}/{TRUST_BUNDLE}, key {TRUST_BUNDLE_KEY}: {why}")),
    })
}

/// The anchors in a trust bundle as they are written (PEM); empty when it has none.
pub(crate) fn text(bundle: &Value) -> &str {
    bundle.get("data").and_then(|data| data.get(TRUST_BUNDLE_KEY)).and_then(Value::as_str).unwrap_or_default()
}

/// What keeps a bundle from being deleted and written anew.
pub(crate) struct FinalizerHold {
    /// By whom, for people.
    pub message: String,
    /// A command that ends it.
    pub fix: String,
}

/// Whether somebody holds a bundle by a finalizer: the API server deletes no object that has one, so that
/// `kubectl delete` waits for it, and nobody can write the name anew once it is being deleted.
pub(crate) fn held(bundle: &Value) -> Option<FinalizerHold> {
    let finalizers: Vec<_> = value::items(bundle, "/metadata/finalizers").iter().filter_map(Value::as_str).collect();
    if finalizers.is_empty() {
        return None;
    }
    let namespace = value::namespace(bundle);
    let is_deleted = !value::text(bundle, "/metadata/deletionTimestamp").is_empty();
    Some(FinalizerHold {
        message: format!(
            "the ConfigMap {namespace}/{TRUST_BUNDLE} {} by the finalizer {}",
            if is_deleted { "is being deleted and is held" } else { "is held" },
            finalizers.join(", ")
        ),
        fix: format!(
            "kubectl -n {namespace} patch configmap {TRUST_BUNDLE} --type=merge -p '{{\"metadata\":{{\"finalizers\":null}}}}'"
        ),
    })
}
