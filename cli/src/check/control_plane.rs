//! The control plane: its namespace, its Deployments, its Services, its leaders, what it may do, its version.

use std::sync::Arc;

use mesh_policy::well_known::{
    CONTROL_NAMESPACE, INJECT_LABEL, ISSUER_SECRET, MESH_DESTINATION, MESH_IDENTITY, MESH_INJECTOR, PAGES_PORT,
    TRUST_BUNDLE,
};
use mesh_resources::kinds::{KINDS, Kind};
use serde_json::{Value, json};

use super::{
    Check, Context, Finding, Outcome, When,
    kubernetes::{attributes, refused},
    names, page,
};
use crate::{
    chart::installed::PARTS,
    clock,
    kube::{ClusterError, core, value},
};

const AREA: &str = "Control plane";
const INSTALLED: &[When] = &[When::Installed];
/// A leader renews its Lease every few seconds; if one is a minute late, its leader is gone.
const LEASE_GRACE: i64 = 60;
/// The Leases that leaders hold.
const LEASES: [&str; 2] = [MESH_IDENTITY, MESH_DESTINATION];

pub(super) static CHECKS: &[Check] = &[
    Check {
        id: "control-plane-namespace",
        area: AREA,
        what: "the namespace mesh-system is as it was made",
        why: "its labels keep the injector away from the control plane, and its pods within Pod Security \"restricted\"",
        fix: "kubectl label --overwrite namespace mesh-system meshctl.dev/inject=disabled pod-security.kubernetes.io/enforce=restricted",
        page: page!("control-plane-namespace"),
        when: &[When::Installed, When::Proxy],
        after: &["kubernetes-api"],
        run: |context| Box::pin(namespace(context)),
    },
    Check {
        id: "control-plane-pods",
        area: AREA,
        what: "every part of the control plane is ready",
        why: "without identity no pod gets a certificate, without destination none learns of changes, without the injector none gets a sidecar",
        fix: "kubectl -n mesh-system get deployments,pods",
        page: page!("control-plane-pods"),
        when: INSTALLED,
        after: &["control-plane-namespace"],
        run: |context| Box::pin(pods(context)),
    },
    Check {
        id: "control-plane-services",
        area: AREA,
        what: "every Service of the control plane has endpoints",
        why: "sidecars and the API server reach the control plane by these Services",
        fix: "kubectl -n mesh-system get services,endpointslices",
        page: page!("control-plane-services"),
        when: INSTALLED,
        after: &["control-plane-pods"],
        run: |context| Box::pin(services(context)),
    },
    Check {
        id: "control-plane-leader",
        area: AREA,
        what: "identity and destination have one leader each",
        why: "the leader of identity hands the trust bundle to namespaces and to the webhook, that of destination writes the status of routes",
        fix: "kubectl -n mesh-system get leases",
        page: page!("control-plane-leader"),
        when: INSTALLED,
        after: &["control-plane-pods"],
        run: |context| Box::pin(leader(context)),
    },
    Check {
        id: "control-plane-permissions",
        area: AREA,
        what: "the control plane may do what it does",
        why: "a control plane without its ClusterRoles runs, and knows of no Service and no token",
        fix: "meshctl upgrade | kubectl apply -f -",
        page: page!("control-plane-permissions"),
        when: INSTALLED,
        after: &["control-plane-namespace"],
        run: |context| Box::pin(permissions(context)),
    },
    Check {
        id: "control-plane-version",
        area: AREA,
        what: "meshctl and the control plane are of one version",
        why: "what one version writes, another may not understand",
        fix: "meshctl upgrade | kubectl apply -f -",
        page: page!("control-plane-version"),
        when: &[When::Installed, When::Proxy],
        after: &["control-plane-namespace"],
        run: |context| Box::pin(version(context)),
    },
];

async fn namespace(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let Some(found) = context.cluster.find(&format!("/api/v1/namespaces/{CONTROL_NAMESPACE}")).await? else {
        return Ok(Outcome::Fail(Finding::with_fix(
            format!("there is no namespace {CONTROL_NAMESPACE}: Mesh is not installed here"),
            "meshctl install | kubectl apply -f -",
        )));
    };
    if value::text(&found, "/status/phase") == "Terminating" {
        return Ok(Outcome::fail(format!("the namespace {CONTROL_NAMESPACE} is being deleted")));
    }
    let mut wrong = Vec::new();
    for (label, wanted) in [(INJECT_LABEL, "disabled"), ("pod-security.kubernetes.io/enforce", "restricted")] {
        let has = value::label(&found, label);
        if has != wanted {
            wrong.push(format!("the label {label} is {has:?} instead of {wanted:?}"));
        }
    }
    Ok(match wrong.as_slice() {
        [] => Outcome::pass(format!("the namespace {CONTROL_NAMESPACE} has its labels")),
        wrong => Outcome::warn(names(wrong)),
    })
}

async fn pods(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let mut ready = Vec::new();
    let mut waiting = Vec::new();
    for part in PARTS {
        let Some(found) = context.object("apps", "v1", CONTROL_NAMESPACE, "deployments", part).await? else {
            return Ok(Outcome::Fail(Finding::with_fix(
                format!("there is no Deployment {CONTROL_NAMESPACE}/{part}: the installation is not whole"),
                "meshctl upgrade | kubectl apply -f -",
            )));
        };
        let wanted = found.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
        let available = value::number(&found, "/status/availableReplicas");
        let updated = value::number(&found, "/status/updatedReplicas");
        let is_current =
            value::number(&found, "/status/observedGeneration") >= value::number(&found, "/metadata/generation");
        if wanted == 0 {
            return Ok(Outcome::Fail(Finding::with_fix(
                format!("the Deployment {CONTROL_NAMESPACE}/{part} is scaled to 0"),
                format!("kubectl -n {CONTROL_NAMESPACE} scale deployment {part} --replicas=1"),
            )));
        }
        if available < wanted || updated < wanted || !is_current {
            waiting.push(format!("{part} has {available} of {wanted} pods ready"));
        } else {
            ready.push(format!("{part} ({wanted})"));
        }
    }
    if waiting.is_empty() {
        return Ok(Outcome::pass(format!("ready: {}", ready.join(", "))));
    }
    let pods = context.cluster.list(&core(CONTROL_NAMESPACE, "pods"), "").await?;
    let mut trouble: Vec<_> = Vec::new();
    for pod in &pods {
        let Some(why) = trouble_of(pod) else { continue };
        trouble.push(match not_ready(&context, pod).await {
            Some(message) => format!("{}: {message}", value::name(pod)),
            None => why,
        });
    }
    let mut message = names(&waiting);
    if !trouble.is_empty() {
        message.push_str(&format!(": {}", names(&trouble)));
    }
    Ok(Outcome::NotYet(message.into()))
}

/// What a running pod that is not ready says of itself (`/ready`); `None` where it says nothing.
async fn not_ready(context: &Context, pod: &Value) -> Option<String> {
    if value::text(pod, "/status/phase") != "Running" {
        return None;
    }
    let page = context.cluster.page(CONTROL_NAMESPACE, value::name(pod), PAGES_PORT, "/ready").await.ok()?;
    let message = String::from_utf8_lossy(&page.body).trim().to_owned();
    (page.status == http::StatusCode::SERVICE_UNAVAILABLE && !message.is_empty()).then_some(message)
}

/// What keeps a pod from being ready, in the words of the kubelet or the scheduler.
pub(super) fn trouble_of(pod: &Value) -> Option<String> {
    if !super::context::is_alive(pod) || value::condition(pod, "Ready") == "True" {
        return None;
    }
    let name = value::name(pod);
    let lists = ["/status/initContainerStatuses", "/status/containerStatuses"];
    for status in lists.iter().flat_map(|list| value::items(pod, list)) {
        let container = value::text(status, "/name");
        let (reason, message) =
            (value::text(status, "/state/waiting/reason"), value::text(status, "/state/waiting/message"));
        let exit = value::number(status, "/lastState/terminated/exitCode");
        match reason {
            "" | "PodInitializing" | "ContainerCreating" => {}
            "CrashLoopBackOff" => {
                let why = value::text(status, "/lastState/terminated/message").trim();
                let why = if why.is_empty() {
                    format!("see kubectl -n {} logs {name} -c {container} --previous", value::namespace(pod))
                } else {
                    why.to_owned()
                };
                return Some(format!("{name}: {container} ends with code {exit} again and again ({why})"));
            }
            reason => return Some(format!("{name}: {container}: {reason} {message}").trim_end().to_owned()),
        }
        let code = value::number(status, "/state/terminated/exitCode");
        if code != 0 {
            let why = value::text(status, "/state/terminated/message").trim().to_owned();
            return Some(format!("{name}: {container} ended with code {code} {why}").trim_end().to_owned());
        }
    }
    let conditions = value::items(pod, "/status/conditions");
    let unscheduled = conditions.iter().find(|condition| {
        value::text(condition, "/type") == "PodScheduled" && value::text(condition, "/status") == "False"
    });
    match unscheduled {
        Some(condition) => Some(format!("{name} has no node: {}", value::text(condition, "/message"))),
        None => Some(format!("{name} is not ready yet")),
    }
}

async fn services(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let slices = context
        .cluster
        .list(&format!("/apis/discovery.k8s.io/v1/namespaces/{CONTROL_NAMESPACE}/endpointslices"), "")
        .await?;
    let is_ready = |endpoint: &Value| endpoint.pointer("/conditions/ready").and_then(Value::as_bool) != Some(false);
    let mut wrong = Vec::new();
    for part in PARTS {
        if context.object("", "v1", CONTROL_NAMESPACE, "services", part).await?.is_none() {
            return Ok(Outcome::Fail(Finding::with_fix(
                format!("there is no Service {CONTROL_NAMESPACE}/{part}: the installation is not whole"),
                "meshctl upgrade | kubectl apply -f -",
            )));
        }
        let own = slices.iter().filter(|slice| value::label(slice, "kubernetes.io/service-name") == part);
        if !own.flat_map(|slice| value::items(slice, "/endpoints")).any(is_ready) {
            wrong.push(format!("the Service {part} has no ready endpoint"));
        }
    }
    Ok(match wrong.as_slice() {
        [] => Outcome::pass("every Service of the control plane has ready endpoints"),
        wrong => Outcome::not_yet(names(wrong)),
    })
}

async fn leader(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let (mut leaders, mut wrong) = (Vec::new(), Vec::new());
    for name in LEASES {
        let lease = context.object(LEASES_GROUP, "v1", CONTROL_NAMESPACE, "leases", name).await?;
        match lease.map(|lease| holder(name, &lease)) {
            None => wrong.push(format!("there is no Lease {CONTROL_NAMESPACE}/{name}: nobody leads")),
            Some(Err(why)) => wrong.push(why),
            Some(Ok(holder)) => leaders.push(holder),
        }
    }
    Ok(match wrong.as_slice() {
        [] => Outcome::pass(format!("{} lead", leaders.join(" and "))),
        wrong => Outcome::not_yet(names(wrong)),
    })
}

/// Who leads by this Lease; or why nobody does.
fn holder(name: &str, lease: &Value) -> Result<String, String> {
    let holder = value::text(lease, "/spec/holderIdentity");
    if holder.is_empty() {
        return Err(format!("nobody holds the Lease {name}"));
    }
    let lasts = value::number(lease, "/spec/leaseDurationSeconds");
    let renewed = clock::parse(value::text(lease, "/spec/renewTime")).unwrap_or_default();
    let over = clock::now() - renewed - lasts;
    if over > LEASE_GRACE {
        return Err(format!("{holder} led until {} ago, and nobody has taken over", clock::span(over)));
    }
    Ok(holder.to_owned())
}

/// What an account must be allowed.
#[derive(Clone, Copy)]
pub(super) struct Needed {
    pub(super) account: &'static str,
    pub(super) verb: &'static str,
    pub(super) group: &'static str,
    pub(super) resource: &'static str,
    /// `status`, or nothing.
    pub(super) subresource: &'static str,
    /// An object by name.
    pub(super) name: &'static str,
    /// Whether it is in the namespace of the control plane only.
    pub(super) inside: bool,
}

const fn needed(account: &'static str, verb: &'static str, group: &'static str, resource: &'static str) -> Needed {
    Needed { account, verb, group, resource, subresource: "", name: "", inside: false }
}

const fn of_one(name: &'static str, inside: bool, needed: Needed) -> Needed {
    Needed { name, inside, ..needed }
}

const fn inside(needed: Needed) -> Needed {
    Needed { inside: true, ..needed }
}

const LEASES_GROUP: &str = "coordination.k8s.io";

/// One verb of each resource of the chart's roles, but for what a value takes away (`patch` of the webhook).
static NEEDED: [Needed; 12] = [
    needed(MESH_IDENTITY, "create", "authentication.k8s.io", "tokenreviews"),
    needed(MESH_IDENTITY, "list", "", "pods"),
    needed(MESH_IDENTITY, "list", "", "namespaces"),
    needed(MESH_IDENTITY, "create", "", "configmaps"),
    of_one(TRUST_BUNDLE, false, needed(MESH_IDENTITY, "patch", "", "configmaps")),
    of_one(
        MESH_INJECTOR,
        false,
        needed(MESH_IDENTITY, "get", "admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ),
    of_one(ISSUER_SECRET, true, needed(MESH_IDENTITY, "get", "", "secrets")),
    inside(needed(MESH_IDENTITY, "create", LEASES_GROUP, "leases")),
    of_one(MESH_IDENTITY, true, needed(MESH_IDENTITY, "update", LEASES_GROUP, "leases")),
    inside(needed(MESH_DESTINATION, "create", LEASES_GROUP, "leases")),
    of_one(MESH_DESTINATION, true, needed(MESH_DESTINATION, "update", LEASES_GROUP, "leases")),
    needed(MESH_INJECTOR, "create", "", "events"),
];

/// The same, and what destination must be allowed of the kinds that the mesh reads.
pub(super) fn all_needed() -> Vec<Needed> {
    let of = |verb, kind: &'static Kind| needed(MESH_DESTINATION, verb, kind.group, kind.plural);
    let watched = KINDS.iter().map(|kind| of("watch", kind));
    let written = KINDS.iter().filter(|kind| kind.status.is_some());
    let written = written.map(|kind| Needed { subresource: "status", ..of("patch", kind) });
    NEEDED.iter().copied().chain(watched).chain(written).collect()
}

impl Needed {
    /// As in a role.
    pub(super) fn resource(&self) -> String {
        let Self { resource, subresource, .. } = self;
        if subresource.is_empty() { (*resource).to_owned() } else { format!("{resource}/{subresource}") }
    }
}

/// Whether an account of the control plane is allowed something.
pub(super) async fn may(context: &Context, account: &str, attributes: &Value) -> Result<bool, ClusterError> {
    const PATH: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let asked = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {
            "user": format!("system:serviceaccount:{CONTROL_NAMESPACE}:{account}"),
            "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{CONTROL_NAMESPACE}"), "system:authenticated"],
            "resourceAttributes": attributes,
        },
    });
    Ok(value::flag(&context.cluster.post(PATH, &asked).await?, "/status/allowed"))
}

async fn permissions(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let context = &*context;
    let review = |needed: Needed| async move {
        let (Needed { account, verb, group, name, inside, .. }, resource) = (needed, needed.resource());
        let is_allowed = may(context, account, &attributes(verb, group, &resource, name, inside)).await?;
        Ok((!is_allowed).then(|| format!("the ServiceAccount {account} may not {verb} {resource}")))
    };
    let lacking = refused(all_needed().into_iter().map(review)).await?;
    Ok(match lacking.as_slice() {
        [] => Outcome::pass("the ServiceAccounts of the control plane have their permissions"),
        lacking => Outcome::fail(names(lacking)),
    })
}

async fn version(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let mut found = Vec::new();
    for part in PARTS {
        if let Some(deployment) = context.object("apps", "v1", CONTROL_NAMESPACE, "deployments", part).await? {
            found.push((part, value::label(&deployment, "app.kubernetes.io/version").to_owned()));
        }
    }
    let other: Vec<_> = found
        .iter()
        .filter(|(_, version)| *version != context.version)
        .map(|(part, version)| {
            format!("{part} is {}", if version.is_empty() { "of an unknown version" } else { version })
        })
        .collect();
    Ok(match (found.is_empty(), other.as_slice()) {
        (true, _) => Outcome::skip("there is no control plane"),
        (false, []) => Outcome::pass(format!("meshctl and the control plane are {}", context.version)),
        (false, other) => Outcome::warn(format!("meshctl is {}, {}", context.version, names(other))),
    })
}
