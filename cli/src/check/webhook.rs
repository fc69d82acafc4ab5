//! The webhook: its configuration, its certificate, and whether the API server really calls it.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use mesh_policy::well_known::{
    CONTROL_NAMESPACE, INIT_CONTAINER, INJECT_LABEL, MESH_INJECTOR, PROXY_CONTAINER, WEBHOOK, WEBHOOK_PORT,
};
use serde_json::{Value, json};

use super::{Check, Context, Finding, Outcome, When, count, identity, names, page};
use crate::{
    certificate::{self, Certificate},
    kube::{ClusterError, core, value},
};

const AREA: &str = "Injection";
/// Namespaces in which the webhook is tried; the configuration is the same for all of them.
const TRIED: usize = 20;
const TRIED_AT_ONCE: usize = 4;
/// Where a pod with a label of its own is tried while no namespace is labelled: every cluster has it.
const UNLABELLED: &str = "default";
/// A webhook that takes longer than this holds up every pod of a labelled namespace.
const LONGEST_TIMEOUT: i64 = 10;

pub(super) static CHECKS: &[Check] = &[
    Check {
        id: "webhook-configuration",
        area: AREA,
        what: "the webhook is configured, and only for what is labelled",
        why: "without it no pod gets a sidecar; with too wide a reach an injector that is away holds up the whole cluster",
        fix: "meshctl upgrade | kubectl apply -f -",
        page: page!("webhook-configuration"),
        when: &[When::Installed],
        after: &["control-plane-namespace"],
        run: |context| Box::pin(configuration(context)),
    },
    Check {
        id: "webhook-serves",
        area: AREA,
        what: "the injector serves a certificate that the API server accepts",
        why: "an API server that does not trust the injector refuses pods of labelled namespaces, or lets them in without a sidecar",
        fix: "kubectl -n mesh-system rollout restart deployment mesh-injector",
        page: page!("webhook-serves"),
        when: &[When::Installed],
        after: &["webhook-configuration", "control-plane-pods"],
        run: |context| Box::pin(serves(context)),
    },
    Check {
        id: "webhook-namespaces",
        area: AREA,
        what: "no namespace of the system is labelled for injection",
        why: "such a label has no effect: pods of kube-system and mesh-system never get a sidecar, for the mesh needs them to start",
        fix: "kubectl label namespace kube-system meshctl.dev/inject-",
        page: page!("webhook-namespaces"),
        when: &[When::Installed],
        after: &["kubernetes-api"],
        run: |context| Box::pin(namespaces(context)),
    },
    Check {
        id: "webhook-called",
        area: AREA,
        what: "a new pod that is to have a sidecar gets one",
        why: "a webhook that is not called leaves pods without encryption, in silence",
        fix: "kubectl -n mesh-system logs deployment/mesh-injector",
        page: page!("webhook-called"),
        when: &[When::Installed],
        after: &["webhook-serves"],
        run: |context| Box::pin(called(context)),
    },
];

async fn read(context: &Context) -> Result<Option<Value>, ClusterError> {
    let path = format!("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{MESH_INJECTOR}");
    context.cluster.find(&path).await
}

async fn configuration(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let Some(found) = read(&context).await? else {
        return Ok(Outcome::fail(format!("there is no MutatingWebhookConfiguration {MESH_INJECTOR}")));
    };
    let webhooks = value::items(&found, "/webhooks");
    if webhooks.is_empty() {
        return Ok(Outcome::fail(format!("the MutatingWebhookConfiguration {MESH_INJECTOR} has no webhook")));
    }
    let mut wrong = Vec::new();
    for webhook in webhooks {
        let name = value::text(webhook, "/name");
        let timeout = value::number(webhook, "/timeoutSeconds");
        if value::text(webhook, "/clientConfig/service/name") != MESH_INJECTOR {
            wrong.push(format!("{name} does not lead to the Service {CONTROL_NAMESPACE}/{MESH_INJECTOR}"));
        }
        if timeout > LONGEST_TIMEOUT {
            wrong.push(format!("{name} may take {timeout} s"));
        }
        let selectors = ["/namespaceSelector", "/objectSelector"].map(|at| webhook.pointer(at).is_some_and(is_narrow));
        if !selectors.contains(&true) {
            wrong.push(format!("{name} is for every pod of the cluster"));
        }
    }
    if !wrong.is_empty() {
        return Ok(Outcome::fail(names(&wrong)));
    }
    if let Err(why) = authority(webhooks) {
        return Ok(Outcome::not_yet(why));
    }
    let policy = value::text(&webhooks[0], "/failurePolicy");
    let means = match policy {
        "Ignore" => "pods start without a sidecar while the injector is away",
        _ => "pods of labelled namespaces wait while the injector is away",
    };
    Ok(Outcome::pass(format!("{}; failure policy {policy}: {means}", count(webhooks.len(), "webhook"))))
}

/// Whether a selector leaves anything out.
fn is_narrow(selector: &Value) -> bool {
    !value::items(selector, "/matchExpressions").is_empty()
        || selector.get("matchLabels").and_then(Value::as_object).is_some_and(|labels| !labels.is_empty())
}

/// The anchors that the API server has for the webhooks.
fn authority(webhooks: &[Value]) -> Result<Vec<Certificate>, String> {
    let mut all = Vec::new();
    for webhook in webhooks {
        let name = value::text(webhook, "/name");
        let encoded = webhook.pointer("/clientConfig/caBundle").cloned().unwrap_or_default();
        let bytes = serde_json::from_value::<k8s_openapi::ByteString>(encoded);
        let bytes = bytes.map_err(|_| format!("{name} has no caBundle that can be read"))?;
        let found = Certificate::decode_pem(&bytes.0).map_err(|why| format!("the caBundle of {name}: {why}"))?;
        if all.is_empty() {
            all = found;
        }
    }
    Ok(all)
}

async fn serves(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let Some(pod) = identity::ready_pod(&context, MESH_INJECTOR).await? else {
        return Ok(Outcome::not_yet(format!("no pod of {MESH_INJECTOR} is ready")));
    };
    let found = read(&context).await?.unwrap_or_default();
    let anchors = match authority(value::items(&found, "/webhooks")) {
        Ok(anchors) => anchors,
        Err(why) => return Ok(Outcome::not_yet(why)),
    };
    let host = format!("{MESH_INJECTOR}.{CONTROL_NAMESPACE}.svc");
    let named = host.clone();
    let handshake = |stream| certificate::served(stream, named, Vec::new());
    let chain = context.cluster.forward(CONTROL_NAMESPACE, value::name(&pod), WEBHOOK_PORT, handshake).await?;
    Ok(match certificate::verify(&chain, &anchors, Some(&host)) {
        Ok(()) => Outcome::pass(format!("the injector serves {host} with a certificate that the API server accepts")),
        Err(why) => Outcome::not_yet(format!("the certificate of {}: {why}", value::name(&pod))),
    })
}

async fn namespaces(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let namespaces = context.namespaces().await?;
    let system = |namespace: &&Value| {
        matches!(value::name(namespace), "kube-system" | CONTROL_NAMESPACE)
            && value::label(namespace, INJECT_LABEL) == "enabled"
    };
    let labelled: Vec<_> = namespaces.iter().filter(system).map(value::name).collect();
    Ok(match labelled.first() {
        None => Outcome::pass(format!("neither kube-system nor {CONTROL_NAMESPACE} is labelled for injection")),
        Some(first) => Outcome::Warn(Finding::with_fix(
            format!("the label of {} has no effect", labelled.join(" and ")),
            format!("kubectl label namespace {first} {INJECT_LABEL}-"),
        )),
    })
}

async fn called(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let labelled: Vec<_> = context
        .labelled()
        .await?
        .into_iter()
        .filter(|n| !matches!(n.as_str(), "kube-system" | CONTROL_NAMESPACE))
        .collect();
    if labelled.is_empty() {
        return asks_itself(&context).await;
    }
    let tries = labelled.iter().take(TRIED).map(|namespace| {
        let context = context.clone();
        async move { (namespace, dry_run(&context, namespace, &json!({})).await) }
    });
    let tried: Vec<(&String, Result<Tried, ClusterError>)> =
        stream::iter(tries).buffered(TRIED_AT_ONCE).collect().await;
    let mut injected = 0;
    let (mut skipped, mut refused, mut coming) = (Vec::new(), Vec::new(), Vec::new());
    for (namespace, outcome) in tried {
        match outcome? {
            Tried::Injected => injected += 1,
            Tried::Skipped(why) => skipped.push(format!("{namespace}: {why}")),
            Tried::Refused => refused.push(namespace.as_str()),
            Tried::NotYet(why) => coming.push(why),
        }
    }
    if !coming.is_empty() {
        let all = injected + coming.len();
        return Ok(Outcome::some_not_yet(&context, names(&coming).into(), coming.len(), all));
    }
    if !refused.is_empty() {
        return Ok(Outcome::Fail(Finding::with_fix(
            format!(
                "Pod Security of {} refuses NET_ADMIN, which {INIT_CONTAINER} needs: no pod can start there with a sidecar",
                names(&refused)
            ),
            format!(
                "kubectl label namespace {} --overwrite pod-security.kubernetes.io/enforce=privileged",
                refused.join(" ")
            ),
        )));
    }
    Ok(match (injected, skipped.as_slice()) {
        (0, skipped) => Outcome::skip(names(skipped)),
        (some, []) => Outcome::pass(format!("a new pod gets a sidecar in {}", count(some, "labelled namespace"))),
        (some, skipped) => Outcome::pass(format!(
            "a new pod gets a sidecar in {}; not tried in {}",
            count(some, "labelled namespace"),
            names(skipped)
        )),
    })
}

/// Tries a pod with a label of its own, where no namespace is labelled yet.
async fn asks_itself(context: &Context) -> Result<Outcome, ClusterError> {
    Ok(match dry_run(context, UNLABELLED, &json!({ INJECT_LABEL: "enabled" })).await? {
        Tried::Injected => Outcome::pass(format!("a new pod with the label {INJECT_LABEL}=enabled gets a sidecar")),
        Tried::NotYet(why) => Outcome::not_yet(why),
        // Whatever keeps such a pod out of there says nothing of the namespaces that will be labelled.
        _ => Outcome::skip(format!(
            "no namespace is labelled {INJECT_LABEL}=enabled yet; kubectl label namespace NAME {INJECT_LABEL}=enabled"
        )),
    })
}

/// What became of a pod that was tried.
enum Tried {
    /// It would get a sidecar.
    Injected,
    /// Pod Security would refuse it for what is injected.
    Refused,
    /// The webhook was not called, or did not do its work.
    NotYet(String),
    /// It says nothing of the webhook.
    Skipped(String),
}

/// Whether a pod is refused for what is injected, and not for what it is itself.
fn refuses_init(message: &str) -> bool {
    message.contains("violates PodSecurity") && message.contains(INIT_CONTAINER)
}

/// Creates a pod without storing it, and looks at what came back. It is one that Pod Security "restricted" accepts.
async fn dry_run(context: &Context, namespace: &str, labels: &Value) -> Result<Tried, ClusterError> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "generateName": "mesh-check-", "labels": labels },
        "spec": {
            "securityContext": { "runAsNonRoot": true, "runAsUser": 65534, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "check", "image": "mesh-check",
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
                "resources": { "requests": { "cpu": "1m", "memory": "1Mi" }, "limits": { "cpu": "1m", "memory": "1Mi" } },
            }],
        },
    });
    let answer = context.cluster.post(&format!("{}?dryRun=All", core(namespace, "pods")), &pod).await;
    Ok(match answer {
        Ok(pod) if value::container(&pod, PROXY_CONTAINER).is_some() => Tried::Injected,
        Ok(_) => Tried::NotYet(format!("a new pod of the namespace {namespace} came back without a sidecar")),
        Err(ClusterError::Forbidden { message }) if message.contains("cannot create") => {
            Tried::Skipped("this user may not create pods".to_owned())
        }
        Err(error) if refuses_init(&error.to_string()) => Tried::Refused,
        // A webhook of ours that cannot be reached, or that refuses; the API server names it.
        Err(error) if error.to_string().contains(WEBHOOK) => {
            Tried::NotYet(format!("the API server could not have a pod of {namespace} injected: {error}"))
        }
        Err(error) => Tried::Skipped(format!("a new pod is refused for another reason: {error}")),
    })
}
