//! The cluster itself: does it answer, is it new enough, may this user do what is needed, are clocks and nodes right.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use http::Method;
use mesh_policy::well_known::{CONTROL_NAMESPACE, MESH_INJECTOR};
use serde_json::{Value, json};

use super::{Check, Context, Finding, Outcome, When, count, names, page};
use crate::{
    chart::installed::{Extent, Installed},
    clock,
    kube::{ClusterError, value},
};

const AREA: &str = "Kubernetes";
const ALWAYS: &[When] = &[When::Pre, When::Installed, When::Proxy];
/// The oldest Kubernetes that the manifests of an installation are meant for.
const OLDEST: (u64, u64) = (1, 27);
/// From this kubelet on, init containers with `restartPolicy: Always` work without a feature gate.
const NATIVE_SIDECARS: (u64, u64) = (1, 29);
/// From this API server on, `preStop: sleep` works without a feature gate.
const PRE_STOP_SLEEP: (u64, u64) = (1, 30);
/// nf_tables redirects IPv4 and IPv6 in one table from this kernel on.
const KERNEL: (u64, u64) = (5, 2);
/// Certificates are dated back by this: a clock that is further behind refuses fresh ones.
const SKEW_LIMIT: i64 = 300;
/// What a clock may be off without a warning; the header `Date` has whole seconds, and requests take time.
const SKEW_UNSEEN: i64 = 5;
/// Nodes renew their Lease every 10 s; one that is a minute old is of a node that is gone, or behind.
const LEASE_LATE: i64 = 60;
/// Reviews of permissions asked for at a time.
const REVIEWS_AT_ONCE: usize = 8;

pub(super) static CHECKS: &[Check] = &[
    Check {
        id: "kubernetes-api",
        area: AREA,
        what: "the API server answers and is new enough",
        why: "everything else is asked of it, and the manifests of Mesh need Kubernetes 1.27 or later",
        fix: "kubectl cluster-info",
        page: page!("kubernetes-api"),
        when: ALWAYS,
        after: &[],
        run: |context| Box::pin(api(context)),
    },
    Check {
        id: "kubernetes-permissions",
        area: AREA,
        what: "this user may install",
        why: "an installation that stops half-way leaves a cluster with a part of Mesh",
        fix: "kubectl auth can-i --list",
        page: page!("kubernetes-permissions"),
        when: &[When::Pre],
        after: &["kubernetes-api"],
        run: |context| Box::pin(install_permissions(context)),
    },
    Check {
        id: "kubernetes-check-permissions",
        area: AREA,
        what: "this user may look at what is checked",
        why: "checks that may not look are skipped, and say nothing",
        fix: "kubectl auth can-i --list",
        page: page!("kubernetes-check-permissions"),
        when: &[When::Installed, When::Proxy],
        after: &["kubernetes-api"],
        run: |context| Box::pin(check_permissions(context)),
    },
    Check {
        id: "kubernetes-clock",
        area: AREA,
        what: "the clocks agree",
        why: "a certificate is valid between two times; a machine whose clock is off refuses good ones, or serves bad ones",
        fix: "timedatectl status",
        page: page!("kubernetes-clock"),
        when: ALWAYS,
        after: &["kubernetes-api"],
        run: |context| Box::pin(clocks(context)),
    },
    Check {
        id: "kubernetes-sidecars",
        area: AREA,
        what: "every node runs native sidecars",
        why: "a native sidecar starts before the application and ends after it; without it Jobs do not end by themselves",
        fix: "meshctl install --set proxy.nativeSidecar=false | kubectl apply -f -",
        page: page!("kubernetes-sidecars"),
        when: &[When::Pre, When::Installed],
        after: &["kubernetes-api"],
        run: |context| Box::pin(sidecars(context)),
    },
    Check {
        id: "kubernetes-pre-stop",
        area: AREA,
        what: "the API server knows `preStop: sleep`",
        why: "pods get one, so that they serve until everyone knows that they leave; where it is not known, it is refused or lost",
        fix: "meshctl install --set preStopSleep=false | kubectl apply -f -",
        page: page!("kubernetes-pre-stop"),
        when: &[When::Pre],
        after: &["kubernetes-api"],
        run: |context| Box::pin(pre_stop(context)),
    },
    Check {
        id: "kubernetes-kernel",
        area: AREA,
        what: "every node's kernel can redirect traffic",
        why: "the sidecar gets a pod's traffic by nf_tables rules, which the node's kernel must know",
        fix: "kubectl get nodes -o wide",
        page: page!("kubernetes-kernel"),
        when: &[When::Pre, When::Installed],
        after: &["kubernetes-api"],
        run: |context| Box::pin(kernel(context)),
    },
    Check {
        id: "kubernetes-no-mesh",
        area: AREA,
        what: "there is no Mesh yet",
        why: "an installation over another one replaces its trust anchor, and its workloads no longer trust each other",
        fix: "meshctl upgrade | kubectl apply -f -",
        page: page!("kubernetes-no-mesh"),
        when: &[When::Pre],
        after: &["kubernetes-api"],
        run: |context| Box::pin(no_mesh(context)),
    },
];

async fn api(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let version = context.cluster.get("/version").await?;
    let found = value::text(&version, "/gitVersion");
    let server = context.cluster.server();
    Ok(match numbers(found) {
        None => Outcome::fail(format!("{server} says its version is {found:?}, which is none of Kubernetes")),
        Some(version) if version < OLDEST => Outcome::Fail(Finding::with_fix(
            format!("{server} is Kubernetes {found}, older than {}.{}", OLDEST.0, OLDEST.1),
            "upgrade the cluster, or choose another with --context",
        )),
        Some(_) => Outcome::pass(format!("Kubernetes {found} answers at {server}")),
    })
}

/// Verb, group, resource, whether in the namespace of the control plane.
type Permission = (&'static str, &'static str, &'static str, bool);

const INSTALL: &[Permission] = &[
    ("create", "", "namespaces", false),
    ("create", "apiextensions.k8s.io", "customresourcedefinitions", false),
    ("create", "rbac.authorization.k8s.io", "clusterroles", false),
    ("create", "rbac.authorization.k8s.io", "clusterrolebindings", false),
    ("create", "admissionregistration.k8s.io", "mutatingwebhookconfigurations", false),
    ("create", "admissionregistration.k8s.io", "validatingadmissionpolicies", false),
    ("create", "admissionregistration.k8s.io", "validatingadmissionpolicybindings", false),
    ("create", "rbac.authorization.k8s.io", "roles", true),
    ("create", "rbac.authorization.k8s.io", "rolebindings", true),
    ("create", "", "serviceaccounts", true),
    ("create", "", "services", true),
    ("create", "", "configmaps", true),
    ("create", "", "secrets", true),
    ("create", "apps", "deployments", true),
    ("create", "policy", "poddisruptionbudgets", true),
];

const CHECK: &[Permission] = &[
    ("list", "", "nodes", false),
    ("list", "", "namespaces", false),
    ("list", "", "pods", false),
    ("get", "apiextensions.k8s.io", "customresourcedefinitions", false),
    ("get", "admissionregistration.k8s.io", "mutatingwebhookconfigurations", false),
    ("get", "admissionregistration.k8s.io", "validatingadmissionpolicies", false),
    ("get", "apps", "deployments", true),
    ("get", "", "configmaps", true),
    ("get", "coordination.k8s.io", "leases", true),
    ("create", "", "pods/portforward", true),
];

async fn install_permissions(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let lacking = lacking(&context, INSTALL).await?;
    Ok(match lacking.as_slice() {
        [] => Outcome::pass(format!("this user may make what an installation consists of ({} kinds)", INSTALL.len())),
        lacking => Outcome::fail(format!("this user may not {}", names(lacking))),
    })
}

async fn check_permissions(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let lacking = lacking(&context, CHECK).await?;
    Ok(match lacking.as_slice() {
        [] => Outcome::pass("this user may look at everything that is checked"),
        lacking => Outcome::warn(format!("this user may not {}", names(lacking))),
    })
}

/// The permissions that this user lacks, as `create secrets in mesh-system`.
async fn lacking(context: &Context, wanted: &[Permission]) -> Result<Vec<String>, ClusterError> {
    const PATH: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let review = |(verb, group, resource, inside): Permission| async move {
        let asked = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": { "resourceAttributes": attributes(verb, group, resource, "", inside) },
        });
        let answer = context.cluster.post(PATH, &asked).await?;
        let place = if inside { format!(" in {CONTROL_NAMESPACE}") } else { String::new() };
        Ok((!value::flag(&answer, "/status/allowed")).then(|| format!("{verb} {resource}{place}")))
    };
    refused(wanted.iter().copied().map(review)).await
}

/// What a review asks about, everywhere or in the namespace of the control plane; a subresource stands behind a `/`.
pub(super) fn attributes(verb: &str, group: &str, resource: &str, name: &str, inside: bool) -> Value {
    let namespace = if inside { CONTROL_NAMESPACE } else { "" };
    let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
    json!({
        "verb": verb, "group": group, "resource": resource, "subresource": sub, "name": name, "namespace": namespace,
    })
}

/// Sends several reviews at a time; the texts of those that were refused.
pub(super) async fn refused<R>(reviews: impl Iterator<Item = R>) -> Result<Vec<String>, ClusterError>
where
    R: Future<Output = Result<Option<String>, ClusterError>>,
{
    let all: Vec<_> = stream::iter(reviews).buffered(REVIEWS_AT_ONCE).collect().await;
    all.into_iter().filter_map(Result::transpose).collect()
}

async fn clocks(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    // Asked for before the time is read: what is in it can then only be older, unless a clock is ahead.
    let leases = match context.cluster.list(path, "").await {
        Ok(leases) => leases,
        Err(ClusterError::Forbidden { .. } | ClusterError::NotFound { .. }) => Vec::new(),
        Err(error) => return Err(error),
    };
    let answer = context.cluster.exchange(Method::GET, "/version", None).await?;
    let here = clock::now();
    let Some(there) = answer.date.as_deref().and_then(clock::parse_http) else {
        return Ok(Outcome::skip("the API server does not say what time it is"));
    };
    let off = here - there;
    let message = format!(
        "this machine's clock is {} s {} the API server's",
        off.abs(),
        if off > 0 { "ahead of" } else { "behind" }
    );
    if off.abs() >= SKEW_LIMIT {
        return Ok(Outcome::fail(message));
    }
    let mut wrong = Vec::new();
    for lease in &leases {
        let Some(renewed) = clock::parse(value::text(lease, "/spec/renewTime")) else { continue };
        let node = value::name(lease);
        match renewed - there {
            ahead if ahead > SKEW_UNSEEN => wrong.push(format!("node {node} is {ahead} s ahead of the API server")),
            behind if behind < -LEASE_LATE => {
                wrong.push(format!("node {node} was last heard of {} s ago by its own clock", -behind));
            }
            _ => {}
        }
    }
    if !wrong.is_empty() {
        return Ok(Outcome::warn(names(&wrong)));
    }
    Ok(match off.abs() {
        0..=SKEW_UNSEEN => Outcome::pass(format!(
            "the clocks of the API server, of {} and of this machine agree",
            count(leases.len(), "node")
        )),
        _ => Outcome::warn(message),
    })
}

async fn sidecars(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let nodes = context.nodes().await?;
    let kubelet = |node| value::text(node, "/status/nodeInfo/kubeletVersion");
    let old: Vec<_> =
        nodes.iter().filter(|node| numbers(kubelet(node)).is_none_or(|found| found < NATIVE_SIDECARS)).collect();
    let told: Vec<_> = old.iter().map(|node| format!("{} has kubelet {}", value::name(node), kubelet(node))).collect();
    Ok(match told.as_slice() {
        [] => Outcome::pass(format!("{} can run native sidecars", count(nodes.len(), "node"))),
        told => Outcome::warn(format!(
            "kubelets before {}.{} cannot: {}",
            NATIVE_SIDECARS.0,
            NATIVE_SIDECARS.1,
            names(told)
        )),
    })
}

async fn kernel(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let nodes = context.nodes().await?;
    let mut wrong = Vec::new();
    for node in nodes.iter() {
        let info = |field: &str| value::text(node, &format!("/status/nodeInfo/{field}"));
        let (system, machine, kernel) = (info("operatingSystem"), info("architecture"), info("kernelVersion"));
        if system != "linux" {
            wrong.push(format!("{} runs {system}", value::name(node)));
        } else if !matches!(machine, "amd64" | "arm64") {
            wrong.push(format!("{} is {machine}, for which there is no image", value::name(node)));
        } else if numbers(kernel).is_none_or(|found| found < KERNEL) {
            wrong.push(format!("{} has kernel {kernel}, before {}.{}", value::name(node), KERNEL.0, KERNEL.1));
        }
    }
    Ok(match wrong.as_slice() {
        [] => Outcome::pass(format!("{} with a kernel that has nf_tables redirection", count(nodes.len(), "node"))),
        wrong => Outcome::warn(format!("pods on these nodes cannot be in the mesh: {}", names(wrong))),
    })
}

async fn no_mesh(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    const UNINSTALL: &str = "meshctl uninstall | kubectl delete --ignore-not-found -f -";
    let found = Installed::look(&context.cluster).await?;
    let version = found.version().unwrap_or("of an unknown version");
    Ok(match found.extent() {
        Extent::None => Outcome::pass("there is no Mesh here yet"),
        Extent::Ending => Outcome::not_yet(format!("the namespace {CONTROL_NAMESPACE} is being deleted")),
        Extent::Whole => Outcome::warn(format!("Mesh {version} is installed in {CONTROL_NAMESPACE}")),
        Extent::Half { .. } if found.deployments.is_empty() && found.webhook.is_some() => {
            Outcome::Fail(Finding::with_fix(
                format!(
                    "the webhook configuration {MESH_INJECTOR} is there without a control plane: pods of labelled namespaces are refused"
                ),
                UNINSTALL,
            ))
        }
        Extent::Half { there, missing } => Outcome::Fail(Finding::with_fix(
            format!("Mesh {version} is half installed: there is {}; missing is {}", names(&there), names(&missing)),
            UNINSTALL,
        )),
    })
}

async fn pre_stop(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let version = context.cluster.get("/version").await?;
    let found = value::text(&version, "/gitVersion");
    Ok(match numbers(found) {
        Some(version) if version < PRE_STOP_SLEEP => Outcome::warn(format!(
            "Kubernetes {found} does not know `preStop: sleep`, which came with {}.{}",
            PRE_STOP_SLEEP.0, PRE_STOP_SLEEP.1
        )),
        _ => Outcome::pass("`preStop: sleep` is known"),
    })
}

/// Major and minor of `v1.34.4-eks-1`, `6.18.0-generic`.
pub(super) fn numbers(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.trim_start_matches('v').split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
