//! Pod Security: which namespaces refuse what is injected, before a pod of theirs is refused.
//!
//! It reads the labels of namespaces. What the API server's own configuration enforces where a namespace has no label is seen
//! by `webhook-called` alone, which tries a pod.

use std::sync::Arc;

use mesh_injector::config::Config;
use mesh_policy::well_known::{CONTROL_NAMESPACE, INIT_CONTAINER, MESH_INJECTOR};
use serde_json::Value;

use super::{Check, Context, Finding, Outcome, When, context::asks_for_injection, count, names, page};
use crate::kube::{ClusterError, core_object, value};

/// The label by which a namespace says what its pods may be.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

pub(super) static CHECKS: &[Check] = &[Check {
    id: "kubernetes-pod-security",
    area: "Kubernetes",
    what: "no namespace labelled for injection refuses what is injected",
    why: "mesh-init needs NET_ADMIN, which Pod Security \"baseline\" and \"restricted\" refuse: no new pod starts there",
    fix: "kubectl get namespaces -L meshctl.dev/inject,pod-security.kubernetes.io/enforce",
    page: page!("kubernetes-pod-security"),
    when: &[When::Pre, When::Installed, When::Proxy],
    after: &["kubernetes-api"],
    run: |context| Box::pin(pod_security(context)),
}];

async fn pod_security(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    if !injects_init(&context).await? {
        return Ok(Outcome::pass(format!(
            "no pod gets {INIT_CONTAINER} (init.enabled is false), so that Pod Security refuses nothing"
        )));
    }
    let namespaces = context.namespaces().await?;
    let in_scope = |namespace: &&Value| {
        let name = value::name(namespace);
        context.scope.as_deref().is_none_or(|scope| scope == name)
            && !name.starts_with("kube-")
            && name != CONTROL_NAMESPACE
            && refuses(namespace)
    };
    let (labelled, others): (Vec<&Value>, Vec<&Value>) =
        namespaces.iter().filter(in_scope).partition(|namespace| asks_for_injection(namespace));
    let told = |namespaces: &[&Value]| {
        let each = |namespace: &&Value| format!("{} ({})", value::name(namespace), value::label(namespace, ENFORCE));
        names(&namespaces.iter().map(each).collect::<Vec<_>>())
    };
    if !labelled.is_empty() {
        let all: Vec<_> = labelled.iter().map(|namespace| value::name(namespace)).collect();
        return Ok(Outcome::Warn(Finding::with_fix(
            format!("Pod Security of {} refuses NET_ADMIN, which {INIT_CONTAINER} needs", told(&labelled)),
            format!("kubectl label namespace {} --overwrite {ENFORCE}=privileged", all.join(" ")),
        )));
    }
    Ok(Outcome::pass(match others.as_slice() {
        [] => "no namespace enforces Pod Security that refuses what is injected".to_owned(),
        others => format!(
            "no namespace labelled for injection refuses what is injected; {} would, if labelled: {}",
            count(others.len(), "other"),
            told(others)
        ),
    }))
}

/// Whether a namespace enforces a level that allows no NET_ADMIN. What it only warns of or audits refuses nothing.
fn refuses(namespace: &Value) -> bool {
    matches!(value::label(namespace, ENFORCE), "baseline" | "restricted")
}

/// Whether pods get mesh-init: so unless the installation says that something else redirects their traffic.
async fn injects_init(context: &Context) -> Result<bool, ClusterError> {
    let found = match context.cluster.find(&core_object(CONTROL_NAMESPACE, "configmaps", MESH_INJECTOR)).await {
        Err(error) if !error.is_forbidden() => return Err(error),
        found => found.ok().flatten(),
    };
    let text = found.as_ref().and_then(|found| found.pointer("/data/config.yaml")).and_then(Value::as_str);
    Ok(text.and_then(|text| Config::from_yaml(text).ok()).is_none_or(|config| config.init.enabled))
}
