//! The chart `charts/mesh`, rendered here as Helm renders it: one source for `meshctl install` and `helm install`.
//!
//! `files` is the chart, [`values`], [`values_args`] and `strvals` say what it is rendered with, [`identity`] makes and judges what
//! signs, `engine` is the template language, [`installed`] and [`diff`] look at what a cluster has, [`mod@print`]
//! writes. A test renders many sets of values with both and compares. It writes nothing into a cluster.

pub(crate) mod diff;
mod engine;
mod files;
pub(crate) mod identity;
pub(crate) mod installed;
pub(crate) mod print;
mod strvals;
pub(crate) mod values;
pub(crate) mod values_args;

#[cfg(test)]
mod documents;
#[cfg(test)]
mod helm;
#[cfg(test)]
mod names;

use mesh_policy::well_known::CONTROL_NAMESPACE;
use mesh_resources::yaml;
use serde_json::{Value, json};

use crate::kube::path;
use engine::EngineError;
pub(crate) use files::DEFINITIONS;
use values::Values;

/// Why there are no manifests.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChartError {
    /// A value is not allowed. The fault is with whoever gave it.
    #[error("{name}: {why}")]
    Values {
        /// Where it stands.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// The chart refused the values, or has an error itself.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// What was rendered is no manifest; the fault is the chart's.
    #[error("the chart renders {file} to what is no manifest: {why}")]
    Manifest {
        /// The template.
        file: String,
        /// What is wrong.
        why: String,
    },
}

/// One object of an install.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    /// As the template wrote it, with its comments.
    pub text: String,
    /// The object.
    pub object: Value,
}

/// Renders the chart with the values that were given; defaults are added. In the order in which Helm installs.
pub(crate) fn render(given: Value) -> Result<Vec<Manifest>, ChartError> {
    let values = values::with_defaults(given)?;
    // Everything is refused here that the schema would refuse in Helm.
    Values::read(&values)?;
    let chart: Value = values::read_yaml("Chart.yaml of the chart", files::CHART)?;
    let data = json!({
        "Values": values,
        "Release": {"Name": "mesh", "Namespace": CONTROL_NAMESPACE},
        "Chart": {"Name": chart["name"], "Version": chart["version"], "AppVersion": chart["appVersion"]},
    });
    let texts = engine::render(files::HELPERS, files::TEMPLATES, &data)?;
    let mut manifests = Vec::new();
    for ((file, _), text) in files::TEMPLATES.iter().zip(&texts) {
        for text in documents(text) {
            let wrong = |why: String| ChartError::Manifest { file: (*file).to_owned(), why };
            let object: Value = yaml::value(text).map_err(|error| wrong(error.to_string()))?;
            match object {
                Value::Null => {}
                Value::Object(_) => manifests.push(Manifest { text: text.trim().to_owned(), object }),
                _ => return Err(wrong("it is no map".to_owned())),
            }
        }
    }
    check_injection(&manifests)?;
    // Stable: objects of one kind stay in the order of the templates, as in Helm.
    manifests.sort_by_key(|manifest| rank(&manifest.object));
    Ok(manifests)
}

/// The CustomResourceDefinitions of Mesh: what Helm takes from the chart's folder `crds`. They come before all else,
/// no value changes them, and they outlive an installation, because deleting them deletes the policies of users.
pub(crate) fn definitions() -> Result<Vec<Manifest>, ChartError> {
    let mut manifests = Vec::new();
    for (file, text) in files::DEFINITIONS {
        for text in documents(text) {
            let object = yaml::value(text)
                .map_err(|error| ChartError::Manifest { file: (*file).to_owned(), why: error.to_string() })?;
            manifests.push(Manifest { text: text.trim().to_owned(), object });
        }
    }
    Ok(manifests)
}

/// Checks the injector's configuration as the injector will.
fn check_injection(manifests: &[Manifest]) -> Result<(), ChartError> {
    for manifest in manifests {
        if let Some(text) = manifest.object["data"]["config.yaml"].as_str() {
            mesh_injector::config::Config::from_yaml(text)
                .map_err(|error| ChartError::Values { name: "the values".to_owned(), why: error.to_string() })?;
        }
    }
    Ok(())
}

/// The objects of a text of YAML documents.
pub(crate) fn read_documents(text: &str) -> Result<Vec<Value>, ChartError> {
    let read = yaml::documents(text);
    let read = read.map_err(|error| ChartError::Values { name: "YAML".to_owned(), why: error.to_string() })?;
    Ok(read.into_iter().filter_map(|document| document.value).collect())
}

/// Values with which the chart has every object that it can have; certificates and keys are not real ones.
pub(crate) fn largest() -> Value {
    let issuer = json!({"crt": "-", "key": "-"});
    json!({
        "ha": true, "namespace": {"create": true}, "networkPolicy": {"enabled": true},
        "identity": {"trustAnchors": "-", "issuer": issuer},
    })
}

/// The path of an object in the API; `None` for a kind that is not in our chart.
pub(crate) fn object_path(object: &Value) -> Option<String> {
    let kind = object["kind"].as_str()?;
    let (_, resource) = RESOURCES.iter().find(|(known, _)| *known == kind)?;
    let version = object["apiVersion"].as_str()?;
    let mut parts: Vec<&str> = match version.split_once('/') {
        None => vec!["api", version],
        Some((group, version)) => vec!["apis", group, version],
    };
    if let Some(namespace) = object.pointer("/metadata/namespace").and_then(Value::as_str) {
        parts.extend(["namespaces", namespace]);
    }
    parts.extend([*resource, object.pointer("/metadata/name")?.as_str()?]);
    Some(path(&parts))
}

/// Kinds and the names of their resources.
const RESOURCES: [(&str, &str); 18] = [
    ("ClusterRole", "clusterroles"),
    ("ClusterRoleBinding", "clusterrolebindings"),
    ("ConfigMap", "configmaps"),
    ("CustomResourceDefinition", "customresourcedefinitions"),
    ("Deployment", "deployments"),
    ("Lease", "leases"),
    ("MutatingWebhookConfiguration", "mutatingwebhookconfigurations"),
    ("Namespace", "namespaces"),
    ("NetworkPolicy", "networkpolicies"),
    ("PodDisruptionBudget", "poddisruptionbudgets"),
    ("PodMonitor", "podmonitors"),
    ("Role", "roles"),
    ("RoleBinding", "rolebindings"),
    ("Secret", "secrets"),
    ("Service", "services"),
    ("ServiceAccount", "serviceaccounts"),
    ("ValidatingAdmissionPolicy", "validatingadmissionpolicies"),
    ("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings"),
];

/// The parts of a text between lines of three dashes.
fn documents(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        if line.trim_end() == "---" {
            parts.push(&text[start..end]);
            start = end + line.len();
        }
        end += line.len();
    }
    parts.push(&text[start..]);
    parts.retain(|part| !part.trim().is_empty());
    parts
}

/// The kinds in our chart, in the order in which Helm installs them.
const ORDER: [&str; 16] = [
    "Namespace",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "ServiceAccount",
    "Secret",
    "ConfigMap",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "Service",
    "Deployment",
    "MutatingWebhookConfiguration",
    // Not in Helm's list: such come last, by name.
    "PodMonitor",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];

fn rank(object: &Value) -> usize {
    let kind = object["kind"].as_str().unwrap_or_default();
    ORDER.iter().position(|known| *known == kind).unwrap_or(ORDER.len())
}
