//! What of Mesh is in a cluster already: nothing, all of it, or a part, and of which version.
//!
//! It reads objects by name and judges nothing about how they work: that is `meshctl check`'s.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use mesh_policy::well_known::{
    CONTROL_NAMESPACE, ISSUER_SECRET, MESH_DESTINATION, MESH_IDENTITY, MESH_INJECTOR, PROXY_CONTAINER, TRUST_BUNDLE,
    VALUES_CONFIG_MAP,
};
use serde_json::Value;

use super::{ChartError, identity::Material, values};
use crate::{
    clock,
    kube::{
        Cluster, ClusterError, core_object, path,
        pods::{injected, is_alive},
        value,
    },
};

/// The parts of the control plane: Deployments.
pub(crate) const PARTS: [&str; 3] = [MESH_IDENTITY, MESH_DESTINATION, MESH_INJECTOR];

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Installed {
    /// The namespace mesh-system.
    pub namespace: Option<Value>,
    /// The Deployments that are there.
    pub deployments: Vec<Value>,
    /// ConfigMap mesh-values.
    pub values: Option<Value>,
    /// ConfigMap mesh-trust-bundle.
    pub bundle: Option<Value>,
    /// The webhook's configuration.
    pub webhook: Option<Value>,
}

/// How much of an install there is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Nothing.
    None,
    /// All of it.
    Whole,
    /// Some objects; the others are missing.
    Half {
        /// Those that are there.
        there: Vec<String>,
        /// Those that are not.
        missing: Vec<String>,
    },
    /// The namespace is being deleted.
    Ending,
}

impl Installed {
    /// Looks at a cluster.
    pub(crate) async fn look(cluster: &Cluster) -> Result<Self, ClusterError> {
        let config_map = |name| core_object(CONTROL_NAMESPACE, "configmaps", name);
        let mut deployments = Vec::new();
        for part in PARTS {
            let part = path(&["apis", "apps", "v1", "namespaces", CONTROL_NAMESPACE, "deployments", part]);
            deployments.extend(cluster.find(&part).await?);
        }
        Ok(Self {
            namespace: cluster.find(&path(&["api", "v1", "namespaces", CONTROL_NAMESPACE])).await?,
            deployments,
            values: cluster.find(&config_map(VALUES_CONFIG_MAP)).await?,
            bundle: cluster.find(&config_map(TRUST_BUNDLE)).await?,
            webhook: cluster.find(&webhook_path()).await?,
        })
    }

    /// How much there is.
    pub(crate) fn extent(&self) -> Extent {
        let ending = self.namespace.as_ref().is_some_and(|found| !found["metadata"]["deletionTimestamp"].is_null());
        if ending {
            return Extent::Ending;
        }
        let deployed = |part: &str| self.deployments.iter().any(|found| value::name(found) == part);
        let mut objects: Vec<(String, bool)> =
            PARTS.iter().map(|part| (format!("Deployment {part}"), deployed(part))).collect();
        objects.push((format!("ConfigMap {VALUES_CONFIG_MAP}"), self.values.is_some()));
        objects.push((format!("ConfigMap {TRUST_BUNDLE}"), self.bundle.is_some()));
        objects.push((format!("MutatingWebhookConfiguration {MESH_INJECTOR}"), self.webhook.is_some()));
        let (there, missing): (Vec<_>, Vec<_>) = objects.into_iter().partition(|(_, there)| *there);
        let names = |objects: Vec<(String, bool)>| objects.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        match (names(there), names(missing)) {
            (there, _) if there.is_empty() => Extent::None,
            (_, missing) if missing.is_empty() => Extent::Whole,
            (there, missing) => Extent::Half { there, missing },
        }
    }

    /// The version, by the labels of what is there.
    pub(crate) fn version(&self) -> Option<&str> {
        let objects = self.deployments.iter().chain(&self.values).chain(&self.webhook);
        objects.map(|found| value::label(found, "app.kubernetes.io/version")).find(|version| !version.is_empty())
    }

    /// Whether Helm installed it: then Helm alone knows its values.
    pub(crate) fn is_helms(&self) -> bool {
        let objects = self.deployments.iter().chain(&self.values).chain(&self.webhook);
        objects.into_iter().any(|found| value::label(found, "app.kubernetes.io/managed-by") == "Helm")
    }

    /// The values that it was installed with, as stored; `None` where they are lost. An installation stores every value,
    /// defaults too, so that none at all says nothing about what they were.
    pub(crate) fn stored_values(&self) -> Result<Option<Value>, ChartError> {
        let text = self.values.as_ref().and_then(|found| found["data"]["values.yaml"].as_str());
        let Some(text) = text else { return Ok(None) };
        let values =
            values::read_yaml(&format!("ConfigMap {CONTROL_NAMESPACE}/{VALUES_CONFIG_MAP}, key values.yaml"), text)?;
        Ok(Some(values).filter(|values| values.as_object().is_some_and(|values| !values.is_empty())))
    }

    /// Whether there is a namespace that no installation made: it is neither changed nor deleted.
    pub(crate) fn is_in_anothers_namespace(&self) -> bool {
        self.namespace.as_ref().is_some_and(|found| !is_ours(found))
    }

    /// How long ago its youngest object was made, for messages.
    pub(crate) fn age(&self) -> Option<i64> {
        let objects = self.deployments.iter().chain(&self.values).chain(&self.bundle).chain(&self.webhook);
        let made = objects.filter_map(|found| clock::parse(value::text(found, "/metadata/creationTimestamp")));
        made.max().map(|made| clock::now() - made)
    }
}

/// Where the webhook's configuration is.
pub(crate) fn webhook_path() -> String {
    format!("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{MESH_INJECTOR}")
}

/// The Secret mesh-issuer as it was found.
pub(crate) struct FoundIssuer {
    /// What signs; a key that is not there is empty.
    pub material: Material,
    /// Whether an installation made it; else something else keeps it, such as cert-manager, or somebody wrote it anew.
    pub is_ours: bool,
}

/// Reads the Secret mesh-issuer; `None` when there is none.
pub(crate) async fn issuer(cluster: &Cluster) -> Result<Option<FoundIssuer>, ClusterError> {
    let Some(secret) = cluster.find(&core_object(CONTROL_NAMESPACE, "secrets", ISSUER_SECRET)).await? else {
        return Ok(None);
    };
    let part = |key: &str| {
        let encoded = secret["data"][key].as_str().unwrap_or_default();
        let bytes = STANDARD.decode(encoded).unwrap_or_default();
        // What is no text is no PEM either, and is refused as such where it is judged.
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let material = Material { anchors: part("ca.crt"), certificate: part("tls.crt"), key: part("tls.key") };
    Ok(Some(FoundIssuer { material, is_ours: is_ours(&secret) }))
}

/// Whether an object carries the label of an installation.
pub(crate) fn is_ours(object: &Value) -> bool {
    value::label(object, "app.kubernetes.io/part-of") == "mesh"
}

/// Pods with a sidecar that have not ended and are not ending. A label alone does not count, and a pod that is held by a
/// finalizer holds up nobody.
pub(crate) async fn injected_pods(cluster: &Cluster) -> Result<Vec<Value>, ClusterError> {
    let mut pods = cluster.list("/api/v1/pods", &injected()).await?;
    pods.retain(|pod| value::container(pod, PROXY_CONTAINER).is_some() && is_alive(pod));
    Ok(pods)
}

/// Names of pods for a message: the first few and how many more.
pub(crate) fn named(pods: &[Value]) -> String {
    const SHOWN: usize = 5;
    let name = |pod: &Value| format!("{}/{}", value::namespace(pod), value::name(pod));
    let mut text = pods.iter().take(SHOWN).map(name).collect::<Vec<_>>().join(", ");
    if pods.len() > SHOWN {
        text.push_str(&format!(" and {} more", pods.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::json;

    use super::*;

    fn object(name: &str) -> Value {
        json!({"metadata": {"name": name, "labels": {"app.kubernetes.io/version": "0.1.0"}}})
    }

    #[test]
    fn the_extent_of_an_install() {
        let mut found = Installed::default();
        assert_eq!(found.extent(), Extent::None);
        found.namespace = Some(json!({"metadata": {}}));
        assert_eq!(found.extent(), Extent::None, "the namespace alone is none");
        found.values = Some(object("mesh-values"));
        let Extent::Half { there, missing } = found.extent() else { panic!("half of it is there") };
        assert_eq!(there, ["ConfigMap mesh-values"]);
        assert_eq!(missing.len(), 5);
        found.deployments = PARTS.map(object).into();
        found.bundle = Some(object("mesh-trust-bundle"));
        found.webhook = Some(object("mesh-injector"));
        assert_eq!((found.extent(), found.version(), found.is_helms()), (Extent::Whole, Some("0.1.0"), false));
        found.namespace = Some(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
        assert_eq!(found.extent(), Extent::Ending);
    }

    #[test]
    fn values_that_are_lost_are_not_taken_for_none() {
        let of = |values: Option<Value>| Installed { values, ..Installed::default() }.stored_values();
        for lost in [None, Some(json!({})), Some(json!({"data": null})), Some(json!({"data": {"values.yaml": " "}}))] {
            assert_eq!(of(lost.clone()).unwrap(), None, "{lost:?}");
        }
        let stored = of(Some(json!({"data": {"values.yaml": "ha: true"}}))).unwrap();
        assert_eq!(stored, Some(json!({"ha": true})));
        assert!(of(Some(json!({"data": {"values.yaml": "- 1"}}))).unwrap_err().to_string().contains("mesh-values"));
    }

    #[test]
    fn a_long_list_of_pods_is_cut() {
        let pods: Vec<_> =
            (0..7).map(|n| json!({"metadata": {"namespace": "shop", "name": format!("p{n}")}})).collect();
        assert_eq!(named(&pods[..1]), "shop/p0");
        assert!(named(&pods).ends_with("shop/p4 and 2 more"), "{}", named(&pods));
    }
}
