//! The data plane: sidecars of pods, as the API server and their own pages show them.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::{StreamExt, stream};
use mesh_policy::well_known::{
    CONTROL_NAMESPACE, INIT_CONTAINER, INJECT_LABEL, METRICS_PORT, PROXY_CONTAINER, VERSION_LABEL,
};
use serde_json::Value;

use super::{
    Check, Context, Finding, Outcome, When,
    context::{full_name, is_alive},
    control_plane::trouble_of,
    count, names, page,
};
use crate::{
    chart::installed::PARTS,
    clock,
    kube::{ClusterError, value},
    metrics::{Sample, parse, total},
};

const AREA: &str = "Data plane";
const PROXY_ONLY: &[When] = &[When::Proxy];
/// Sidecars whose pages are read; the rest of a larger cluster would hardly say more.
const READ: usize = 500;
const READ_AT_ONCE: usize = 8;
/// A certificate is renewed at 70 % of its life at the latest. One with less than this left is reported before it ends if its
/// sidecar tried to get another and could not. Very short certificates are always below it.
const RENEWAL_LATE: i64 = 3600;
/// A control stream that is away for longer than this is not explained by a restart of the control plane.
const STALE: i64 = 60;

pub(super) static CHECKS: &[Check] = &[
    Check {
        id: "proxy-redirection",
        area: AREA,
        what: "the traffic of every pod is redirected to its sidecar",
        why: "a pod whose redirection failed does not start, so that nothing leaves it unencrypted",
        fix: "kubectl -n NAMESPACE logs POD -c mesh-init",
        page: page!("proxy-redirection"),
        when: PROXY_ONLY,
        after: &["kubernetes-api"],
        run: |context| Box::pin(redirection(context)),
    },
    Check {
        id: "proxy-ready",
        area: AREA,
        what: "every sidecar is ready",
        why: "a sidecar that is not ready has no certificate: its pod gets and sends no traffic",
        fix: "kubectl -n NAMESPACE logs POD -c mesh-proxy",
        page: page!("proxy-ready"),
        when: PROXY_ONLY,
        after: &["proxy-redirection"],
        run: |context| Box::pin(ready(context)),
    },
    Check {
        id: "proxy-certificates",
        area: AREA,
        what: "every sidecar has a current certificate",
        why: "with a certificate that has ended a pod is refused by every other",
        fix: "meshctl identity POD -n NAMESPACE",
        page: page!("proxy-certificates"),
        when: PROXY_ONLY,
        after: &["proxy-ready"],
        run: |context| Box::pin(certificates(context)),
    },
    Check {
        id: "proxy-policy",
        area: AREA,
        what: "every sidecar hears from the control plane",
        why: "a sidecar that does not goes on with what it knew, and learns of no new pod and no new route",
        fix: "kubectl -n mesh-system logs deployment/mesh-destination",
        page: page!("proxy-policy"),
        when: PROXY_ONLY,
        after: &["proxy-ready"],
        run: |context| Box::pin(policy(context)),
    },
    Check {
        id: "proxy-version",
        area: AREA,
        what: "sidecars and the control plane are of one version",
        why: "a pod keeps its sidecar until it is made anew, and with it what an upgrade was to mend",
        fix: "kubectl rollout restart deployment -n NAMESPACE",
        page: page!("proxy-version"),
        when: PROXY_ONLY,
        after: &["kubernetes-api"],
        run: |context| Box::pin(version(context)),
    },
    Check {
        id: "proxy-missing",
        area: AREA,
        what: "every pod of a labelled namespace has a sidecar",
        why: "the label counts for new pods only: one that was there before is not in the mesh until it is made anew",
        fix: "kubectl rollout restart deployment -n NAMESPACE",
        page: page!("proxy-missing"),
        when: &[When::Installed, When::Proxy],
        after: &["kubernetes-api"],
        run: |context| Box::pin(missing(context)),
    },
];

fn none(context: &Context) -> Outcome {
    let place = context.scope.as_ref().map_or("here".to_owned(), |namespace| format!("in the namespace {namespace}"));
    Outcome::skip(format!("no pod {place} has a sidecar yet"))
}

async fn redirection(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let pods = context.meshed().await?;
    let with: Vec<_> = pods.iter().filter(|pod| value::container(pod, INIT_CONTAINER).is_some()).collect();
    match (with.is_empty(), pods.len()) {
        (true, 0) => return Ok(none(&context)),
        (true, some) => {
            return Ok(Outcome::pass(format!("the traffic of {} is redirected by the node", count(some, "pod"))));
        }
        (false, _) => {}
    }
    let (mut done, mut wrong) = (0, Vec::new());
    for pod in &with {
        let Some(status) = value::container_status(pod, INIT_CONTAINER) else { continue };
        let (now, last) = (status.pointer("/state/terminated"), status.pointer("/lastState/terminated"));
        match now.or(last).map(|ended| (value::number(ended, "/exitCode"), value::text(ended, "/message").trim())) {
            Some((0, _)) => done += 1,
            Some((code, why)) => {
                wrong.push((*pod, format!("{INIT_CONTAINER} of {} ended with code {code} {why}", full_name(pod))))
            }
            None => {}
        }
    }
    if let Some((pod, _)) = wrong.first() {
        let fix = format!("kubectl -n {} logs {} -c {INIT_CONTAINER}", value::namespace(pod), value::name(pod));
        let told: Vec<_> = wrong.iter().map(|(_, message)| message.trim_end().to_owned()).collect();
        return Ok(Outcome::some_not_yet(&context, Finding::with_fix(names(&told), fix), wrong.len(), with.len()));
    }
    Ok(match done == with.len() {
        true => Outcome::pass(format!("the traffic of {} is redirected", count(done, "pod"))),
        false => {
            let message = format!("{} of {} are redirected", done, count(with.len(), "pod"));
            Outcome::some_not_yet(&context, message.into(), with.len() - done, with.len())
        }
    })
}

async fn ready(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let pods = context.meshed().await?;
    if pods.is_empty() {
        return Ok(none(&context));
    }
    let is_ready = |pod: &&Value| {
        value::container_status(pod, PROXY_CONTAINER).is_some_and(|status| value::flag(status, "/ready"))
    };
    let waiting: Vec<_> = pods.iter().filter(|pod| !is_ready(pod)).collect();
    let Some(first) = waiting.first() else {
        return Ok(Outcome::pass(format!("{} ready", are(pods.len()))));
    };
    let told: Vec<_> = waiting
        .iter()
        .map(|pod| trouble_of(pod).map_or_else(|| full_name(pod), |why| format!("{}/{why}", value::namespace(pod))))
        .collect();
    let fix = format!("kubectl -n {} logs {} -c {PROXY_CONTAINER}", value::namespace(first), value::name(first));
    let message = format!("{} of {} not ready: {}", waiting.len(), count(pods.len(), "sidecar"), names(&told));
    Ok(Outcome::some_not_yet(&context, Finding::with_fix(message, fix), waiting.len(), pods.len()))
}

fn are(number: usize) -> String {
    format!("{} {}", count(number, "sidecar"), if number == 1 { "is" } else { "are" })
}

/// The metrics of every sidecar that is ready, with the pod they are of.
async fn metrics(context: &Arc<Context>) -> Result<Vec<(Value, Result<Vec<Sample>, String>)>, ClusterError> {
    let pods = context.meshed().await?;
    let is_ready =
        |pod: &Value| value::container_status(pod, PROXY_CONTAINER).is_some_and(|status| value::flag(status, "/ready"));
    let read = pods.into_iter().filter(is_ready).take(READ).map(|pod| {
        let context = context.clone();
        async move {
            let page = context.cluster.page(value::namespace(&pod), value::name(&pod), METRICS_PORT, "/metrics").await;
            let samples = page.map(|page| parse(&page.text())).map_err(|error| error.to_string());
            (pod, samples)
        }
    });
    Ok(stream::iter(read).buffer_unordered(READ_AT_ONCE).collect().await)
}

async fn certificates(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let read = metrics(&context).await?;
    if read.is_empty() {
        return Ok(none(&context));
    }
    let now = clock::now();
    let (mut wrong, mut unread, mut soonest) = (Vec::new(), Vec::new(), i64::MAX);
    for (pod, samples) in &read {
        match samples.as_ref().map(|samples| total(samples, "mesh_certificate_expiry_seconds")) {
            Err(why) => unread.push(why.clone()),
            Ok(None) => wrong.push((pod, format!("{} has none", full_name(pod)))),
            Ok(Some(ends)) => match ends as i64 - now {
                left if left <= 0 => {
                    wrong.push((pod, format!("that of {} ended {} ago", full_name(pod), clock::span(left))));
                }
                left => {
                    soonest = soonest.min(left);
                    let failures = samples.as_ref().ok().and_then(|all| total(all, "mesh_certificate_failures_total"));
                    if left < RENEWAL_LATE && failures.unwrap_or_default() > 0.0 {
                        unread.push(format!(
                            "that of {} has {} left and could not be renewed",
                            full_name(pod),
                            clock::span(left)
                        ));
                    }
                }
            },
        }
    }
    if let Some((pod, _)) = wrong.first() {
        let fix = format!("kubectl -n {} logs {} -c {PROXY_CONTAINER}", value::namespace(pod), value::name(pod));
        let told: Vec<_> = wrong.iter().map(|(_, message)| message.clone()).collect();
        return Ok(Outcome::some_not_yet(&context, Finding::with_fix(names(&told), fix), wrong.len(), read.len()));
    }
    Ok(match unread.as_slice() {
        [] => Outcome::pass(format!(
            "{} valid, the first to end has {} left",
            certificates_are(read.len()),
            clock::span(soonest)
        )),
        unread => Outcome::warn(names(unread)),
    })
}

fn certificates_are(number: usize) -> String {
    format!("{} {}", count(number, "certificate"), if number == 1 { "is" } else { "are" })
}

async fn policy(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let read = metrics(&context).await?;
    if read.is_empty() {
        return Ok(none(&context));
    }
    let now = clock::now();
    let (mut away, mut rejected, mut unread) = (Vec::new(), Vec::new(), Vec::new());
    for (pod, samples) in &read {
        let samples = match samples {
            Ok(samples) => samples,
            Err(why) => {
                unread.push(why.clone());
                continue;
            }
        };
        // When a stream broke that has not come back; 0 while all stand.
        let since = total(samples, "mesh_control_disconnected_since_seconds").unwrap_or_default() as i64;
        if since > 0 && now - since > STALE {
            away.push(format!("{} has not heard from it for {}", full_name(pod), clock::span(now - since)));
        }
        let refused = total(samples, "mesh_control_rejected_total").unwrap_or_default();
        if refused > 0.0 {
            rejected.push(format!("{} refused {refused} updates", full_name(pod)));
        }
    }
    Ok(match (away.as_slice(), rejected.as_slice(), unread.as_slice()) {
        ([], [], []) => Outcome::pass(format!("{} hearing from the control plane", are(read.len()))),
        ([], rejected, unread) => Outcome::warn(names(&[rejected, unread].concat())),
        (away, _, _) => Outcome::some_not_yet(&context, names(away).into(), away.len(), read.len()),
    })
}

async fn version(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let pods = context.meshed().await?;
    if pods.is_empty() {
        return Ok(none(&context));
    }
    let mut control = context.version.clone();
    let part = PARTS[0];
    if let Some(found) = context.object("apps", "v1", CONTROL_NAMESPACE, "deployments", part).await? {
        let label = value::label(&found, "app.kubernetes.io/version");
        if !label.is_empty() {
            control = label.to_owned();
        }
    }
    let version = |pod: &Value| value::label(pod, VERSION_LABEL).to_owned();
    let other: Vec<_> = pods.iter().filter(|pod| version(pod) != control).collect();
    let Some(first) = other.first() else {
        return Ok(Outcome::pass(format!("{} {control}, as the control plane is", are(pods.len()))));
    };
    let told: Vec<_> = other.iter().map(|pod| format!("{} has {}", full_name(pod), version(pod))).collect();
    let message = format!("the control plane is {control}, {}", names(&told));
    Ok(Outcome::Warn(Finding::with_fix(message, restart(first))))
}

async fn missing(context: Arc<Context>) -> Result<Outcome, ClusterError> {
    let labelled: BTreeSet<String> = context
        .labelled()
        .await?
        .into_iter()
        .filter(|n| !matches!(n.as_str(), "kube-system" | CONTROL_NAMESPACE))
        .collect();
    if labelled.is_empty() {
        return Ok(Outcome::skip(format!("no namespace is labelled {INJECT_LABEL}=enabled yet")));
    }
    let pods = context.pods().await?;
    let wanted = |pod: &&Value| {
        labelled.contains(value::namespace(pod))
            && is_alive(pod)
            && value::label(pod, INJECT_LABEL) != "disabled"
            && !value::flag(pod, "/spec/hostNetwork")
    };
    let (mut meshed, mut without) = (0, Vec::new());
    for pod in pods.iter().filter(wanted) {
        match value::container(pod, PROXY_CONTAINER) {
            Some(_) => meshed += 1,
            None => without.push(pod),
        }
    }
    let Some(first) = without.first() else {
        return Ok(Outcome::pass(format!(
            "every pod of {} has a sidecar ({meshed})",
            count(labelled.len(), "labelled namespace")
        )));
    };
    let told: Vec<_> = without.iter().map(|pod| full_name(pod)).collect();
    let message = format!("{} without a sidecar: {}", count(without.len(), "pod"), names(&told));
    Ok(Outcome::Warn(Finding::with_fix(message, restart(first))))
}

/// The command that replaces the pods of a pod's owner.
fn restart(pod: &Value) -> String {
    let (namespace, owners) = (value::namespace(pod), value::items(pod, "/metadata/ownerReferences"));
    let owner = owners.first();
    let (kind, name) = owner.map_or(("", ""), |owner| (value::text(owner, "/kind"), value::text(owner, "/name")));
    match kind {
        // A Deployment's ReplicaSet has its name and a hash.
        "ReplicaSet" => {
            let deployment = name.rsplit_once('-').map_or(name, |(deployment, _)| deployment);
            format!("kubectl -n {namespace} rollout restart deployment {deployment}")
        }
        "StatefulSet" | "DaemonSet" => format!("kubectl -n {namespace} rollout restart {} {name}", kind.to_lowercase()),
        "" => format!("kubectl -n {namespace} get pod {} -o yaml | kubectl replace --force -f -", value::name(pod)),
        _ => format!("kubectl -n {namespace} delete pod {}", value::name(pod)),
    }
}
