//! The pods that a command is about: by name, by label, or all of them.

use anyhow::{bail, ensure};
use clap::Args;
use mesh_policy::well_known::{PROXY_CONTAINER, VERSION_LABEL};
use serde_json::Value;

use super::{Cluster, core, core_object, encode, value};

/// Pods of one command; a person who names more wants a script.
const MAX_PODS: usize = 200;

/// What narrows a list to pods that say that they were injected, on the side of the API server.
pub(crate) fn injected() -> String {
    format!("labelSelector={}", encode(VERSION_LABEL))
}

/// Which pods.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Which {
    /// Pods: POD (in the namespace of --namespace) or NAMESPACE/POD
    #[arg(value_name = "POD", conflicts_with_all = ["selector", "all_namespaces"])]
    pub pods: Vec<String>,
    /// Pods with these labels, as in app=web
    #[arg(long, short = 'l', value_name = "LABELS")]
    pub selector: Option<String>,
    /// Of all namespaces
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
}

impl Cluster {
    /// The pods that are meant; at least one.
    pub(crate) async fn pods(&self, which: &Which) -> anyhow::Result<Vec<Value>> {
        if which.pods.is_empty() && which.selector.is_none() && !which.all_namespaces {
            bail!("no pod was named: give POD or NAMESPACE/POD, -l LABELS, or -A for all");
        }
        if !which.pods.is_empty() {
            let mut found = Vec::new();
            for name in which.pods.iter().take(MAX_PODS) {
                let (namespace, pod) = self.pod_name(name);
                found.push(self.get(&core_object(namespace, "pods", pod)).await?);
            }
            return Ok(found);
        }
        let path = if which.all_namespaces { "/api/v1/pods".to_owned() } else { core(self.namespace(), "pods") };
        let selector = which.selector.as_ref().map(|labels| format!("labelSelector={}", encode(labels)));
        let mut found = self.list(&path, selector.as_deref().unwrap_or_default()).await?;
        found.retain(|pod| value::container(pod, PROXY_CONTAINER).is_some() && is_alive(pod));
        let place =
            if which.all_namespaces { "the cluster".to_owned() } else { format!("namespace {}", self.namespace()) };
        let labels = which.selector.as_ref().map(|labels| format!(" and the labels {labels}")).unwrap_or_default();
        ensure!(!found.is_empty(), "no running pod of {place} has a sidecar{labels}; see: meshctl check --proxy");
        ensure!(
            found.len() <= MAX_PODS,
            "{} pods are meant, more than {MAX_PODS}; narrow it with -l or -n",
            found.len()
        );
        Ok(found)
    }

    /// The namespace and the name in `NAMESPACE/POD` or `POD`; `pod/POD` is taken as kubectl takes it.
    pub(crate) fn pod_name<'n>(&'n self, name: &'n str) -> (&'n str, &'n str) {
        match name.split_once('/') {
            Some(("pod" | "pods" | "po", pod)) => (self.namespace(), pod),
            Some((namespace, pod)) => (namespace, pod),
            None => (self.namespace(), name),
        }
    }
}

/// Whether a pod has not ended and is not being deleted.
pub(crate) fn is_alive(pod: &Value) -> bool {
    !matches!(value::text(pod, "/status/phase"), "Succeeded" | "Failed")
        && value::text(pod, "/metadata/deletionTimestamp").is_empty()
}

/// The `LabelSelector` of a workload as lists of the API server take it; `None`: it selects nothing, or in a way that is not known.
pub(crate) fn selector_query(selector: &Value) -> Option<String> {
    let equal = selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten();
    let equal = equal.map(|(key, value)| Some(format!("{key}={}", value.as_str()?)));
    let expressions = value::items(selector, "/matchExpressions").iter().map(|expression| {
        let key = value::text(expression, "/key");
        let values: Vec<&str> = value::items(expression, "/values").iter().filter_map(Value::as_str).collect();
        Some(match value::text(expression, "/operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return None,
        })
    });
    let all: Vec<String> = equal.chain(expressions).collect::<Option<_>>()?;
    (!all.is_empty()).then(|| all.join(","))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_selector_is_written_as_a_query_has_it() {
        let expression =
            |operator: &str, values: &[&str]| json!({ "key": "k", "operator": operator, "values": values });
        let all = json!({ "matchLabels": { "app": "web" }, "matchExpressions": [
            expression("In", &["a", "b"]), expression("NotIn", &["c"]), expression("Exists", &[]), expression("DoesNotExist", &[])] });
        assert_eq!(selector_query(&all).as_deref(), Some("app=web,k in (a,b),k notin (c),k,!k"));
        for unknown in [json!({}), json!({ "matchExpressions": [expression("Gt", &["1"])] })] {
            assert_eq!(selector_query(&unknown), None, "{unknown}");
        }
    }
}
